"""A sweep with pseudo-labels of a trained source, killed with SIGKILL at a write of every stage."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from sweeping import SMALL_DIS, World, by_hand

from asdray.config.system import load_recipe, with_overrides
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

DCASE, MACHINES = "dcase2025", ["bearing", "fan"]

KILLER = """
import json, os, re, signal

folder = os.environ["KILLS"]
points = json.load(open(f"{folder}/points.json"))
rename = os.replace

def first(name):
    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def replace(source, target, **options):
    for name, pattern, nth, victim in points:
        if re.search(pattern, str(target)) and not os.path.exists(f"{folder}/{name}.{nth}"):
            if victim == "driver" and not os.path.exists(f"{folder}/driver"):
                continue
            n = next((n for n in range(1, nth + 1) if first(f"{name}.{n}")), 0)
            if n == nth:
                os.kill(os.getpid() if victim == "itself" else int(open(f"{folder}/driver").read()), signal.SIGKILL)
    rename(source, target, **options)

os.replace = replace
"""
"""Runs at the start of every Python process (``sitecustomize``), and kills just before a file is in its place."""

POINTS = {  # stage -> path that is written, the number of the write, and who dies: its writer, or the driver
    "pack": (r"cache/.*/train[^/]*/pack\.json$", 1, "itself"),
    "epoch of the source": (r"/taught-\w+/.*/last\.ckpt$", 2, "driver"),
    "training of the source": (r"/taught-\w+/seed0/model/[\w-]+/done\.json$", 1, "itself"),
    "extraction of the source": (r"/taught-\w+/.*/train_extract\.parquet$", 1, "driver"),
    "first clusters": (r"/clusters/\w+\.parquet$", 1, "driver"),
    "second clusters": (r"/clusters/\w+\.parquet$", 2, "itself"),
    "epoch": (r"/dis_baseline-\w+/.*/last\.ckpt$", 2, "itself"),
    "training": (r"/dis_baseline-\w+/seed0/model/[\w-]+/done\.json$", 1, "driver"),
    "extraction": (r"/dis_baseline-\w+/.*/test_extract\.parquet$", 1, "itself"),
    "score": (r"/dis_baseline-\w+/.*/scores/[\w-]+\.parquet$", 1, "driver"),
    "evaluation": (r"/dis_baseline-\w+/.*/test_evaluate\.csv$", 1, "itself"),
    "umap": (r"/dis_baseline-\w+/.*/umap/\w+\.\w+$", 1, "itself"),
    "tables of a trial": (r"/dis_baseline-\w+/seed\d/metrics\.parquet$", 1, "itself"),
    "leaderboard": (r"/leaderboard\.csv$", 2, "driver"),
}


def asked():
    source = with_overrides(load_recipe("dis_baseline").system, {**SMALL_DIS, "train.epochs": 3}, "test")
    clustering = {"from": {"recipe": "taught", **source.model_dump(mode="json")}, "n": 2, "only": "all"}
    options = {**SMALL_DIS, "train.epochs": 3, "frontend.classes": ["machine", "domain", clustering]}
    recipes = {"dis_baseline": {"set": options}}
    machines = {DCASE: MACHINES}
    return {"name": "tiny", "recipes": recipes, "dcase": [DCASE], "machines": machines, "seeds": [0, 1]}


def scores(world):
    paths = world.results.glob("trials/*/dis_baseline-*/*/output/last/*/scores/*.parquet")
    return {str(path.relative_to(world.results)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    synthesise(root, DCASE, machines=MACHINES, train=10, test=4, seconds=1.2, workers=1)
    format_dataset(root, DCASE)
    return root


def test_kills_at_every_stage_change_nothing(data, tmp_path, asdray):
    whole, world = World(data, tmp_path / "whole"), World(data, tmp_path / "killed")
    kills, cache = tmp_path / "kills", tmp_path / "cache"
    kills.mkdir()
    (kills / "sitecustomize.py").write_text(KILLER)
    (kills / "points.json").write_text(json.dumps([(name, *where) for name, where in POINTS.items()]))
    env = {**os.environ, "KILLS": str(kills), "PYTHONPATH": os.pathsep.join([str(kills), *sys.path])}
    command = [sys.executable, "-m", "asdray", *world.command(**asked(), umap={}), "--cache-dir", cache]
    ends = []
    while not ends or ends[-1] != 0:
        assert len(ends) <= 2 * len(POINTS), "no end"
        process = subprocess.Popen(
            [*map(str, command)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        (kills / "driver").write_text(str(process.pid))
        output = process.communicate(timeout=900)[0]
        (kills / "driver").unlink(missing_ok=True)
        ends.append(process.returncode)
        assert process.returncode in (0, 1, -9) or "Ray did not start" in output, output
    print(Counter(ends))
    assert [name for name, (_, nth, _) in POINTS.items() if not (kills / f"{name}.{nth}").exists()] == []
    found = [e for e in world.events() if e["stage"] == "cluster"]
    assert {e["machine"] for e in found} == {*MACHINES}
    assert max(Counter(e["machine"] for e in found if not e["found"]).values()) == 1, "once for both seeds"
    assert {(e["recipe"], e["seed"]) for e in found} == {("taught", 0)}

    assert world.tables() == by_hand(asdray, whole, **asked())
    assert scores(world) == scores(whole)
    assert len(scores(whole)) == 4
