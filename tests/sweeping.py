"""Sweeps through the real command line, for the tests that run some: small recipes, a folder, and what was done."""

import json
import subprocess
import sys
import time
from collections import Counter

import yaml

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


def spec(**changes):
    return {
        "name": "tiny",
        "recipes": {"dis_baseline": {"set": SMALL_DIS}, "ae_baseline": {"set": SMALL_AE}},
        "dcase": ["dcase2023"],
        "seeds": [0],
        "machines": {"dcase2023": MACHINES},
        "backends": ["knn"],
        "umap": False,
        **changes,
    }


def asdray(*args, check=0, **kwargs):
    run = subprocess.run(
        [sys.executable, "-m", "asdray", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=400,
        **kwargs,
    )
    assert run.returncode == check, run.stdout + run.stderr
    return run


def make_data(root):
    """A small synthetic dcase2023 below ``root``, formatted."""
    asdray("synth", "dcase2023", "--machines", ",".join(MACHINES), "--train", 12, "--test", 8,
           "--seconds", 1.2, "--data", root)  # fmt: skip
    asdray("format", "dcase2023", "--data", root)
    return root


class World:
    """One results folder, and the sweeps run in it."""

    def __init__(self, data, results):
        self.data, self.results = data, results

    def command(self, name="sweep.yaml", **changes):
        path = self.results.parent / name
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
    """How often each stage stands in the events, without those found done."""
    return Counter(e["stage"] for e in events if not e["found"] and all(e[k] == v for k, v in where.items()))


def wait_for(condition, process, seconds=180, meanwhile=lambda: None):
    end = time.monotonic() + seconds
    while not condition():
        meanwhile()
        assert process.poll() is None, "ended before it could be killed:\n" + process.communicate()[0]
        assert time.monotonic() < end, "did not get there"
        time.sleep(0.05)


def start(world, **changes):
    command = [sys.executable, "-m", "asdray", *map(str, world.command(**changes))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
