"""Steps that hang, and steps that take all memory, in real sweeps on Ray: plugins whose code does so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcomes import Outcome, note
from ray_nodes import RayCluster, processes
from sweeping import ONE_BY_ONE, SMALL_DIS, World, make_data, ray_folders, start

from asdray.config.trial import unit_title

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

TESTS = Path(__file__).parent.parent
STALL = 30

HELPERS = """
import ctypes, pathlib, sys, time

FOLDER = pathlib.Path({folder!r})

def once(name):  # in a worker of Ray, the first time; every time the node is noted
    if not sys.argv[0].endswith("default_worker.py"):
        return False
    import ray
    path = FOLDER / name
    first = not path.exists()
    with open(path, "a") as file:
        print(ray.get_runtime_context().get_node_id(), file=file)
    return first
"""
NETWORK = """
        self.calls = getattr(self, "calls", 0) + 1
        if self.rnn.hidden_size == 5 and sys.argv[0].endswith("default_worker.py") and not (FOLDER / "cured").exists():
            time.sleep(1e6)
        if self.rnn.hidden_size == 6 and self.calls == 21 and once("training"):
            while True:
                ctypes.PyDLL(None).sleep(1000)
        if self.rnn.hidden_size == 7:
            eaten = []
            while sys.argv[0].endswith("default_worker.py") and not (FOLDER / "cured").exists():
                eaten.append(np.ones(25_000_000, dtype=np.float32))
                time.sleep(0.05)
"""
BACKEND = """
    if once("score"):
        import threading
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


def write_plugins(tmp_path):
    """Two plugins, whose faults leave out a process that is no worker; and the folder of what has happened."""
    folder = tmp_path / "happened"
    folder.mkdir()
    helpers = HELPERS.format(folder=str(folder))

    def insert(name, before, code):
        text = (TESTS / name).read_text().replace('"""\n\n', f'"""\n{helpers}\nimport numpy as np\n', 1)
        assert text.count(before) == 1
        (tmp_path / name).write_text(text.replace(before, code.lstrip("\n") + before))

    insert("network_example.py", "        return self.out(last[0])", NETWORK)
    insert("plugin_example.py", "    means = [references", BACKEND)
    return folder


def asked(*hidden, epochs=6, **changes):
    branch = {"name": "band_rnn", "embedding_dim": 4, "n_fft": 256}
    options = {**SMALL_DIS, "train.epochs": epochs, "frontend.branches": [branch]}
    recipes = {"dis_baseline": {"set": options, "space": {"frontend.branches.0.hidden": list(hidden)}}}
    plugins = ["network_example.py", "plugin_example.py"]
    return {
        "recipes": recipes, "plugins": plugins, "backends": ["centroid"], "resources": ONE_BY_ONE, **changes,
    }  # fmt: skip


def by_hand(asdray, world, *hidden):
    """The tables and scores of the same sweep without Ray, where the faults do not happen."""
    changes = asked(*hidden)
    use = changes["recipes"]["dis_baseline"]
    plugins = [part for name in changes["plugins"] for part in ("--plugin", world.results.parent / name)]
    for n in hidden:
        branch = {**use["set"]["frontend.branches"][0], "hidden": n}
        options = {**use["set"], "frontend.branches": [branch]}
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        code, _, error = asdray(
            "run", "dis_baseline", "dcase2023", "--machines", "fan,valve,bandsaw", "--seed", 0, *sets, *plugins,
            "--data", world.data, "--results", world.results, "--no-umap", "--device", "cpu",
            "--backend", "centroid",
        )  # fmt: skip
        assert not code, error
    code, _, error = asdray(*world.command(**changes))
    assert not code, error
    assert all(e["found"] for e in world.events() if e["stage"] != "table")
    return world.tables(), scores(world)


def scores(world):
    paths = world.results.glob("trials/*/*/*/output/last/*/scores/*.parquet")
    return {str(path.relative_to(world.results)): path.read_bytes() for path in paths}


def ended(process):
    """Output and exit code of a sweep, of which nothing is left."""
    output = process.communicate(timeout=900)[0]
    assert not ray_folders(process.pid)
    end = time.monotonic() + 60
    while (left := processes(process.pid)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left
    return " ".join(output.split()), process.returncode


def again(world, whole, **changes):
    """True if the command, given once more, completes the sweep with the tables and scores of ``whole``."""
    output, code = ended(start(world, own_group=True, **changes))
    assert code == 0, output
    return (world.tables(), scores(world)) == whole


def test_hangs_are_ended_tried_again_and_then_failed_and_the_others_go_on(data, tmp_path, asdray):
    happened = write_plugins(tmp_path)
    world = World(data, tmp_path / "results")
    changes = asked(4, 5, 6, stall_after=STALL)
    output, code = ended(start(world, own_group=True, **changes))
    print(output)
    assert code == 1, output
    assert {path.name for path in happened.iterdir()} == {"training", "score"}
    told = re.findall(
        r"(train|score centroid)[\w-]* [\w-]+ of dis_baseline hidden=\d dcase2023 seed0: no sign of life for 3\d s",
        output,
    )
    assert sorted(told) == ["score centroid", "train", "train", "train"]
    assert output.count("the training goes on in another") == 3
    assert output.count("the task runs in another") == 1
    (failure,) = [e for e in world.events() if e["status"] == "failed"]
    assert failure["stage"] == "train"
    assert re.match(
        r"no sign of life for 3\d s \(.*, see stall_after\).*; the attempt before it hung, too",
        failure["error"],
    )
    assert f"FAILED train {unit_title(failure['unit'])}: {failure['error'][:40]}" in output
    stacks = [path.read_text() for path in sorted((world.folder() / "hangs").iterdir())]
    assert len(stacks) == 4
    where = [
        re.search(r"(forward|centroid) \(\w+_example\.py|in (forward|centroid)\n", text) for text in stacks
    ]
    assert sorted(found[1] or found[2] for found in where if found) == ["centroid", *3 * ["forward"]]
    assert not (world.folder() / "running").exists()
    status = asdray("status", "tiny", "--data", world.data, "--results", world.results)[1]
    assert re.search("2 done.*1 failed", status), status
    assert "no sign of life" in status
    before = len(world.events())

    (happened / "cured").touch()
    whole = by_hand(asdray, World(data, tmp_path / "whole"), 4, 5, 6)
    identical = again(world, whole, **changes)
    repeated = sum(not e["found"] for e in world.events()[before:] if e["system"] != failure["system"])
    for fault in (
        "a training that hangs, always",
        "a training that hangs with Python's lock",
        "a score that hangs",
    ):
        note(Outcome(fault, "a plugin", survived=True, repeated=repeated, identical=identical))
    assert identical
    assert not repeated


def test_a_worker_that_hangs_on_another_node_is_ended_there_and_the_task_goes_elsewhere(
    data, tmp_path, asdray
):
    happened = write_plugins(tmp_path)
    world, cluster = World(data, tmp_path / "results"), RayCluster()
    changes = asked(6, epochs=30, stall_after=STALL, machines={"dcase2023": ["fan"]}, resources="auto")
    try:
        cluster.begin(cpus=0)
        for ip in ("127.0.0.2", "127.0.0.3"):
            cluster.add(ip)
        command = [*world.command(**changes), "--address", cluster.address]
        run = subprocess.run(
            [sys.executable, "-m", "asdray", *map(str, command)], env=cluster.env, text=True, timeout=500,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        print(run.stdout)
        assert run.returncode == 0, run.stdout
    finally:
        cluster.end()
    assert run.stdout.count("no sign of life for 3") == 2
    first, *others = (happened / "score").read_text().split()
    assert others
    assert first not in others
    assert len(list((world.folder() / "hangs").iterdir())) == 2


def test_a_training_that_takes_all_memory_fails_and_says_how_much_and_the_others_go_on(
    data, tmp_path, asdray, monkeypatch
):
    from ray._private.utils import get_system_memory, get_used_memory

    happened = write_plugins(tmp_path)
    (happened / "score").touch()
    world = World(data, tmp_path / "results")
    changes = asked(4, 7)
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(get_used_memory() + 6e9) / get_system_memory():.3f}")
    output, code = ended(start(world, own_group=True, **changes))
    print(output)
    assert code == 1, output
    (failure,) = [e for e in world.events() if e["status"] == "failed"]
    found = re.match(
        r"its worker was lost 3 times, out of memory: its worker had (\d+\.\d) GB, and ", failure["error"]
    )
    assert found, failure["error"]
    assert 1 < float(found[1]) < 8
    assert "resources: {train: {cpu: ...}}" in failure["error"]
    assert output.count("the training goes on in another") == 3
    monkeypatch.delenv("RAY_memory_usage_threshold")
    before = len(world.events())

    (happened / "cured").touch()
    identical = again(world, by_hand(asdray, World(data, tmp_path / "whole"), 4, 7), **changes)
    repeated = sum(not e["found"] for e in world.events()[before:] if e["system"] != failure["system"])
    note(Outcome("a training that takes all memory", "a plugin", True, repeated, identical))
    assert identical
