"""Nodes of a cluster of three are lost, or cut off the network, in the middle of a training.

The results are on a disk that a node still reaches while Ray's network is cut: as with a file server on another
network. Every file that is put into its place is noted with its process.
"""

import contextlib
import os
import time
from pathlib import Path

import pytest
from networks import NetCluster, Networks, own_networks
from ray_nodes import processes
from struck import QUICK, SWEEP, Struck, is_alive, victims
from sweeping import World

from asdray.sweep.ray_loss import NO_CPUS

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.skipif(not own_networks(), reason="nodes need networks of their own: root, and `ip`"),
]

ROUNDS = max(1, int(os.environ.get("ASDRAY_CHAOS_ROUNDS", "16")) // 8)

FEW = {**SWEEP, "resources": {}}

RENAMES = """
import os, time

def noting(rename):
    def replace(source, target, **options):
        rename(source, target, **options)
        with open(os.environ["RENAMES"], "a") as file:
            file.write(f"{os.getpid()} {target}\\n")
    return replace

os.replace = noting(os.replace)
"""
"""Runs at the start of every Python process (``sitecustomize``), and notes each file that it puts into its place."""


@pytest.fixture(scope="module")
def networks():
    networks = Networks(3)
    yield networks
    networks.end()


@pytest.fixture(scope="module")
def cluster(networks, tmp_path_factory):
    """A head without CPUs, and two nodes that train."""
    folder = tmp_path_factory.mktemp("renames")
    (folder / "sitecustomize.py").write_text(RENAMES)
    path = os.pathsep.join([str(folder), str(Path(__file__).parent.parent.parent)])
    cluster = NetCluster(
        networks, {**QUICK, "RENAMES": str(folder / "renames"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )
    try:
        cluster.begin(cpus=0)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def struck(cluster, networks, data, reference, tmp_path):
    """A sweep on two new nodes, which end with the test as every program that a test has started."""
    for ip in networks.ips[1:]:
        cluster.add(ip)
    renames = Path(cluster.env["RENAMES"])
    renames.write_text("")
    more = ("--no-dashboard", "--address", cluster.address)
    prefix = tuple(cluster.inside(cluster.head))
    struck = Struck(World(data, tmp_path / "results"), reference, more, prefix, FEW, cluster.env)
    yield struck
    struck.end()
    for ip in networks.ips[1:]:
        if ip in cluster.nodes:
            cluster.kill(ip)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_lost_node_costs_no_result(struck, cluster, number):
    struck.start()
    ip = training_node(struck, cluster)
    struck.strikes("loss of a node", ip)
    cluster.kill(ip)
    struck.wait()
    again(struck, cluster)


def test_a_sweep_whose_nodes_are_all_lost_says_so_and_goes_on_when_one_joins(struck, cluster, networks):
    struck.start()
    training_node(struck, cluster)
    struck.strikes("loss of all nodes", "in a training")
    for ip in networks.ips[1:]:
        cluster.kill(ip)
    end = time.monotonic() + 120
    while NO_CPUS not in "".join(struck.output) and time.monotonic() < end:
        time.sleep(0.2)
    assert NO_CPUS in "".join(struck.output), struck.history()
    cluster.add(networks.ips[1])
    struck.wait()
    again(struck, cluster)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("seconds", [12, 30])
def test_a_node_that_is_cut_off_costs_no_result(struck, cluster, networks, seconds, number):
    """12 s: it comes back, and learns that Ray has given it up. 30 s: it has given up Ray before."""
    struck.start()
    ip = training_node(struck, cluster)
    node = cluster.nodes[ip]
    struck.strikes("cut of a node's network", f"{ip} for {seconds} s")
    networks.cut(ip)
    try:
        time.sleep(seconds)
    finally:
        networks.join(ip)
    struck.wait()
    end = time.monotonic() + 60
    while (left := [pid for pid in processes(node.pid) if is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, "a node that Ray has given up ends"
    cluster.nodes.pop(ip)
    again(struck, cluster)


def training_node(struck, cluster):
    """Waits until a node has trained at least an epoch of a training that goes on; returns its address."""
    end = time.monotonic() + 300
    while time.monotonic() < end and struck.process.poll() is None:
        for ip, node in cluster.nodes.items():
            for pid in victims(node.pid, "training worker"):
                with contextlib.suppress(OSError):
                    recipe = Path(f"/proc/{pid}/cmdline").read_text().split()[1]
                    models = list(
                        struck.world.results.glob(f"trials/*/{recipe}-*/seed0/model/*/checkpoints/last.ckpt")
                    )
                    if any(not (path.parent.parent / "done.json").exists() for path in models):
                        return ip
        time.sleep(0.02)
    raise AssertionError(struck.history())


def again(struck, cluster):
    """Gives the command until it ends with 0, and judges."""
    while struck.ends[-1] != 0:
        assert len(struck.runs) < 4, struck.history()
        struck.start()
        struck.wait()
    assert two_writers(Path(cluster.env["RENAMES"])) == []
    struck.judge()


def two_writers(renames):
    """Folders of models and outputs into which a process wrote after another had begun to."""
    writers = {}
    wrong = []
    for line in renames.read_text().splitlines():
        pid, path = line.split(" ", 1)
        folder = str(Path(path).parent).removesuffix("/checkpoints").removesuffix("/scores")
        if "/trials/" not in folder or "/seed0/" not in folder:
            continue
        order = writers.setdefault(folder, [])
        if not order or order[-1] != pid:
            if pid in order:
                wrong.append(f"{folder}: {pid} after {order[-1]}")
            order.append(pid)
    return wrong
