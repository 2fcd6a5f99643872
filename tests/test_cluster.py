"""Sweeps on a real Ray cluster of three nodes: the check at the start, lost nodes, jobs, local caches.

By default one small sweep of three nodes, compared with a run by hand; `make chaos` runs the others.
"""

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray_nodes import RAY, RayCluster, own_mounts, processes
from sweeping import SMALL_AE, World, asdray, by_hand, make_data, spec, wait_for

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.ray
needs_mounts = pytest.mark.skipif(own_mounts() is None, reason="nodes need mounts of their own")

MACHINES = ["fan"]
SEEDS = [0, 1]
"""As few as train on two nodes: what a worker imports is most of what this file costs."""
AE = {
    "recipes": {"ae_baseline": {"set": {**SMALL_AE, "train.epochs": 8}}},
    "machines": {"dcase2023": MACHINES},
}
RAW = {"recipes": {"raw_spec": {"set": {"audio.duration": 1.2}}}, "machines": {"dcase2023": MACHINES}}


def start(args, env):
    command = [sys.executable, "-m", "asdray", *args]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Site:
    """A cluster of two nodes with a disk of their own for the audio cache, and a world to sweep in.

    Its head has no CPUs, as one that is kept free for the driver.
    """

    def __init__(self, folder):
        self.world = World(make_data(folder / "d"), folder / "results")
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.cluster = RayCluster()

    def command(self, **changes):
        command = [
            *self.world.command(**changes),
            "--cache-dir",
            self.cache,
            "--address",
            self.cluster.address,
        ]
        return [str(part) for part in command]

    def unknown(self, **changes):
        """A command that has something to do; its sweep is called ``never``."""
        command = self.command()
        Path(command[1]).write_text(yaml.safe_dump(spec(name="never", seeds=[9], **changes)))
        return command

    def packs(self, ip):
        """Pack -> time of its making, as the node sees them."""
        folder = self.cluster.files(ip, self.cache)
        return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("pack.json")}

    def mounts(self):
        return {self.cache: "size=100m"} if own_mounts() else None


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("c"))
    try:
        site.cluster.begin(cpus=0)
        for ip in ("127.0.0.2", "127.0.0.3"):
            site.cluster.add(ip, mounts=site.mounts())
        yield site
    finally:
        site.cluster.end()


@pytest.fixture(scope="module")
def swept(site):
    """A sweep of the three nodes: what it printed, and every pack that it made, per node."""
    process = start(site.command(seeds=SEEDS, **AE), site.cluster.env)
    made = {ip: set() for ip in site.cluster.nodes}
    output = None
    while output is None:
        for ip in made:
            made[ip].update(site.packs(ip).items())
        with contextlib.suppress(subprocess.TimeoutExpired):
            output = process.communicate(timeout=0.2)[0]
    assert process.returncode == 0, output
    return output, made


@pytest.fixture
def undisturbed(site, tmp_path, asdray):
    """The tables of the same trials by hand."""
    return lambda seeds: by_hand(asdray, World(site.world.data, tmp_path / "results"), seeds=seeds, **AE)


def test_a_sweep_of_several_nodes_ends_as_by_hand(site, swept, undisturbed):
    world, (output, _) = site.world, swept
    assert "everything is in" in output
    assert not list(world.folder().glob(".nodes-*"))
    assert world.tables() == undisturbed(SEEDS)


@needs_mounts
def test_several_nodes_work_and_each_decodes_its_audio_once(swept):
    _, made = swept
    assert len(made) == 3
    assert not made.pop("127.0.0.1"), "without CPUs it is to do nothing"
    assert all(made.values())
    for packs in made.values():
        assert len(packs) == len(dict(packs)), "built again"


@pytest.mark.chaos
def test_a_submitted_job_joins_its_cluster_and_keeps_its_results_out_of_its_copy(site, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec(name="job", **RAW)))
    cluster = RayCluster(dashboard=True)

    def submit(*args):
        command = [RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", tmp_path, "--",
                   sys.executable, "-m", "asdray.sweep", "s.yaml", "--data", site.world.data, *args]  # fmt: skip
        return subprocess.run(
            [str(part) for part in command], env=cluster.env, capture_output=True, text=True, check=False
        )

    try:
        cluster.begin()
        done = submit("--results", site.world.results)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "everything is in" in done.stdout
        assert site.world.tables("job")
        lost = submit("--results", "results")
        assert lost.returncode != 0
        assert "lies in Ray's copy of the job's --working-dir" in lost.stdout
    finally:
        cluster.end()


@needs_mounts
@pytest.mark.chaos
def test_all_nodes_work_and_a_lost_one_changes_nothing_and_packs_stay_where_they_are(site, undisturbed):
    cluster, world = site.cluster, site.world
    cluster.add("127.0.0.7", mounts=site.mounts())
    seeds = [3, 4, 5, 6]
    process = start(site.command(seeds=seeds, **AE), cluster.env)
    working = [ip for ip in cluster.nodes if ip != "127.0.0.1"]
    wait_for(lambda: all(site.packs(ip) for ip in working), process, 600)
    cluster.kill("127.0.0.7")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert not [e for e in world.events() if e["status"] == "failed"], output
    assert world.tables() == undisturbed(seeds)

    before = {ip: site.packs(ip) for ip in cluster.nodes}
    assert any(before.values())
    asdray(*site.command(seeds=[*seeds, 8], **AE), env=cluster.env)
    for ip, packs in before.items():
        assert packs.items() <= site.packs(ip).items(), "built again"


@needs_mounts
@pytest.mark.chaos
def test_nodes_that_cannot_do_the_work_are_named_before_it_begins(site, tmp_path):
    cluster, world = site.cluster, site.world
    other = tmp_path / "other"
    shutil.copytree(ROOT / "asdray", other / "asdray", ignore=shutil.ignore_patterns("__pycache__"))
    package = other / "asdray" / "__init__.py"
    package.write_text(re.sub('__version__ = ".*"', '__version__ = "0.0.9"', package.read_text()))
    cluster.add("127.0.0.4", mounts={site.cache: "size=64k"}, PYTHONPATH=str(other))
    world.results.mkdir(exist_ok=True)
    cluster.add("127.0.0.5", mounts={world.results: "size=100m", world.data: "size=100m"})
    run = asdray(*site.unknown(**AE), check=2, env=cluster.env, cwd=tmp_path)
    shown = run.stderr.splitlines()
    assert re.match(r"error: some of the \d nodes of this Ray cannot do the sweep's work:", shown[0])
    lines = {ip: [line for line in shown[1:] if ip in line] for ip in ("127.0.0.4", "127.0.0.5", "127.0.0.2")}
    assert not lines["127.0.0.2"]
    version, disk = lines["127.0.0.4"]
    assert re.search(r"has asdray 0\.0\.9 \(source \w{8}\), here is asdray ", version)
    assert re.search(rf"has 0\.00 GB free in {site.cache}, 0\.00 GB are needed", disk)
    blind, dark, _ = lines["127.0.0.5"]
    assert f"does not see --results {world.results}" in blind
    assert f"does not see --data {world.data}" in dark
    assert "Traceback" not in run.stderr
    for ip in ("127.0.0.4", "127.0.0.5"):
        cluster.kill(ip)


def test_more_than_any_node_has_is_said_at_once(site):
    command = site.unknown(**AE, resources={"train": {"cpu": 1000}})
    run = asdray(*command, check=2, env=site.cluster.env)
    assert "resources.train.cpu asks for 1000, but the largest node of this Ray has 1:" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_missing_token_is_reported(site):
    env = {**site.cluster.env, "RAY_AUTH_TOKEN_PATH": "/nowhere/token"}
    run = asdray(*site.unknown(**AE), check=2, env=env)
    assert f"the Ray at '{site.cluster.address}' does not let us in" in run.stderr
    assert "the token in /nowhere/token must be the one that the cluster was started with" in run.stderr


@pytest.mark.chaos
def test_a_wrong_token_is_reported(site):
    env = {**site.cluster.env, "RAY_AUTH_TOKEN": "0123", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    run = asdray(*site.unknown(**AE), check=2, env=env)
    assert "the token in RAY_AUTH_TOKEN must be" in run.stderr


SILENT = """
import os, signal, sys
from pathlib import Path
from asdray import store
from asdray.store import Places
from asdray.sweep.cluster import ray_session
from asdray.sweep.nodes import check
from asdray.sweep.plan import load
spec, data, results, cache, address, raylet = sys.argv[1:]
places = Places.of(data, results, cache)
sweep, _ = load(Path(spec), {}, places)
with ray_session(address, dashboard=False), store.lease(store.sweep_dir(places.results, sweep.name)):
    print(check(sweep, places, 0))
    for size, wait in ((1e18, 60), (0, 3)):
        if wait == 3:
            os.kill(int(raylet), signal.SIGSTOP)
        try:
            check(sweep, places, size, wait)
        except ValueError as error:
            print(error)
os.kill(int(raylet), signal.SIGCONT)
"""


@pytest.mark.chaos
def test_a_node_that_does_not_answer_and_a_disk_that_is_too_small_are_named(site):
    world, cluster = site.world, site.cluster
    command = site.unknown(**AE)
    (raylet,) = [
        pid for pid in processes(cluster.nodes["127.0.0.2"].pid)
        if Path(f"/proc/{pid}/exe").resolve().name == "raylet"
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", SILENT, command[1], world.data, world.results, site.cache, cluster.address,
         str(raylet)],
        env=cluster.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Nodes whose free space differs, since other programs write meanwhile, have a line each.
    fine, few, *full, few_too, silent = run.stdout.splitlines()
    assert fine == "[]", "nothing to say of sound nodes"
    assert few == few_too == f"some of the {len(cluster.nodes)} nodes of this Ray cannot do the sweep's work:"
    needed = rf"GB free in {world.results}, 1000000000\.00 GB are needed: free some"
    assert full
    assert all(re.search(needed, line) for line in full)
    assert re.search(r"127\.0\.0\.2 \(.*\): no answer in 3 s", silent)


PLACEMENT = """
import os, queue, sys, time
from pathlib import Path
from asdray.config.sweep import Resources
from asdray.store import Places
from asdray.sweep.cluster import ray_session
from asdray.sweep.plan import load
spec, data, results, address, out = sys.argv[1:]
out = Path(out)

def note(config, trials, options):
    # Stands for the training, which would want a real GPU: says where and when it was placed.
    import ray
    from ray import tune
    def say(what):
        line = f"{what} {config['job']} {ray.util.get_node_ip_address()} {os.environ['CUDA_VISIBLE_DEVICES']}"
        with open(out / "log", "a") as file:
            file.write(f"{line} {options.device}\\n")
    say("begin")
    while (out / "log").read_text().count("begin") < 2:
        time.sleep(0.05)
    say("end")
    tune.report({"ended": True})

with ray_session(address, dashboard=False) as cluster:
    from asdray.sweep import tune as trainings
    trainings.train_job = note
    places = Places.of(data, results)
    sweep, jobs = load(Path(spec), {}, places)
    needs = cluster.needs(sweep.resources, threads=1)
    news = queue.SimpleQueue()
    trials = {index: job.trial for index, job in enumerate(jobs)}
    options = trainings.WorkerOptions(places, ("last",), device="cuda" if needs["train"].gpu else "cpu")
    run = trainings.TuneThread(trials, options, needs, out, news)
    run.start()
    run.join()
"""


@pytest.mark.chaos
def test_trials_share_a_gpu_and_no_more_of_them_than_fit_on_a_node(site, tmp_path):
    """A GPU that Ray only believes in: what is tested is where trainings are placed."""
    cluster, world = site.cluster, site.world
    cluster.add("127.0.0.6", 4, "--num-gpus=1")
    path = tmp_path / "s.yaml"
    path.write_text(
        yaml.safe_dump(spec(seeds=[0, 1, 2, 3, 4], resources={"train": {"gpu": 0.25, "per_node": 2}}, **AE))
    )
    run = subprocess.run(
        [sys.executable, "-c", PLACEMENT, path, world.data, world.results, cluster.address, tmp_path],
        env=cluster.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 10
    assert {tuple(rest) for _, _, *rest in lines} == {("127.0.0.6", "0", "cuda")}
    running = [0]
    for what, *_ in lines:
        running.append(running[-1] + (1 if what == "begin" else -1))
    assert max(running) == 2, "two at once, though the node has CPUs and parts of its GPU for four"
    cluster.kill("127.0.0.6")
