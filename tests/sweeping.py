"""Sweeps through the real command line, for the tests that run some: small recipes, a folder, and what was done."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from asdray.cli import main
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise
from asdray.sweep.cluster import WORKER_ENV

MACHINES = ["fan", "valve", "bandsaw"]
SMALL_DIS = {
    "audio.duration": 1.2,
    "frontend.branches": [
        {
            "name": "fft",
            "channels": 8,
            "kernels": [32, 16, 4],
            "strides": [16, 8, 2],
            "hidden": 0,
            "embedding_dim": 8,
        },
        {"name": "stft", "n_fft": 256, "hop_length": 256, "channels": [4, 8], "embedding_dim": 8},
    ],
    "train.epochs": 30,
    "train.batch_size": 8,
}
SMALL_AE = {
    "audio.duration": 1.2,
    "frontend.n_mels": 16,
    "frontend.hidden": [16],
    "frontend.bottleneck": 4,
    "train.epochs": 30,
}

ONE_BY_ONE = {"train": {"cpu": len(os.sched_getaffinity(0))}}
"""``resources`` for one training after another: imports of a second worker take more than such trainings."""


def spec(**changes):
    return {
        "name": "tiny",
        "recipes": {"dis_baseline": {"set": SMALL_DIS}, "ae_baseline": {"set": SMALL_AE}},
        "dcase": ["dcase2023"],
        "seeds": [0],
        "machines": {"dcase2023": MACHINES},
        "backends": ["knn"],
        "umap": False,
        "report": False,  # seconds of each sweep
        **changes,
    }


def asdray(*args, check=0, **kwargs):
    run = subprocess.run(
        [sys.executable, "-m", "asdray", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert run.returncode == check, run.stdout + run.stderr
    return run


def in_process(*args):
    """Runs a command in this process, for fixtures of a module; returns what it printed.

    The environment stays as it was: commands set variables for the whole process.
    """
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        for name, value in WORKER_ENV.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
    assert ended.value.code == 0, printed.getvalue()
    return printed.getvalue()


def make_data(root):
    """A small synthetic dcase2023 below ``root``, formatted."""
    synthesise(root, "dcase2023", machines=MACHINES, train=12, test=8, seconds=1.2, workers=1)
    format_dataset(root, "dcase2023")
    return root


class World:
    """One results folder, and the sweeps run in it."""

    def __init__(self, data, results):
        self.data, self.results = data, results

    def command(self, file="sweep.yaml", **changes):
        path = self.results.parent / file
        path.write_text(yaml.safe_dump(spec(**changes)))
        return ["sweep", path, "--data", self.data, "--results", self.results, "--no-dashboard"]

    def sweep(self, check=0, **changes):
        """Runs a sweep; returns what it printed and the events it added."""
        before = len(self.events())
        run = asdray(*self.command(**changes), check=check)
        return run, self.events()[before:]

    def folder(self, name="tiny"):
        return self.results / "sweeps" / name

    def events(self, name="tiny"):
        path = self.folder(name) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def tables(self, name="tiny"):
        """Content of every table of the sweep."""
        folder = self.folder(name)
        paths = [*sorted((folder / "tables").glob("*.csv")), folder / "leaderboard.csv"]
        return {p.name: p.read_text() for p in paths}


def stages(events, **where):
    """Stage -> number of events, without reused stages."""
    return Counter(e["stage"] for e in events if not e["found"] and all(e[k] == v for k, v in where.items()))


def by_hand(asdray, world, **changes):
    """A sweep's trials without Ray, in this process (``asdray``: the fixture); the tables that it makes of them."""
    asked = spec(**changes)
    (dcase,) = asked["dcase"]
    for recipe, of in asked["recipes"].items():
        options = [
            part for key, value in of["set"].items() for part in ("--set", f"{key}={json.dumps(value)}")
        ]
        for seed in asked["seeds"]:
            code, _, error = asdray(
                "run", recipe, dcase, "--machines", ",".join(asked["machines"][dcase]), "--seed", seed, *options,
                "--data", world.data, "--results", world.results, "--no-umap", "--device", "cpu",
            )  # fmt: skip
            assert not code, error
    code, _, error = asdray(*world.command(**changes))
    assert not code, error
    assert all(e["found"] for e in world.events(asked["name"]) if e["stage"] != "table")
    return world.tables(asked["name"])


def wait_for(condition, process, seconds=400, meanwhile=lambda: None):
    """Waits while ``process`` runs; ends it where it does not get there."""
    end = time.monotonic() + seconds
    while not condition():
        meanwhile()
        assert process.poll() is None, "ended too soon:\n" + (process.communicate()[0] or "")
        if time.monotonic() > end:
            process.terminate()
            raise AssertionError(f"not there after {seconds} s")
        time.sleep(0.1)


def start(world, own_group=False, **changes):
    """A sweep that runs beside the test; see `wait_for`."""
    command = [sys.executable, "-m", "asdray", *map(str, world.command(**changes))]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=own_group
    )


def ray_folders(pid):
    """The folders of the Rays that a driver has started."""
    found = []
    for lock in Path("/tmp").glob("asdray-*/ray.lock"):
        with contextlib.suppress(FileNotFoundError):  # of a sweep that ends beside the test
            found += [lock.parent] if lock.read_text() == f"{pid}\n" else []
    return found
