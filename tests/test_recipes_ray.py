"""Every shipped recipe, and methods from a plugin, through the whole pipeline in one sweep on a local Ray.

Without UMAP, which `test_sweep` has. One machine that both subsets have, and one training worker: what takes time
are tasks and imports.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from no_plugins import forget_plugins
from pretrained import aisfx_data
from small_recipes import changes as small
from small_recipes import runnable_recipes
from sweeping import ONE_BY_ONE

from asdray import load_results
from asdray.config.expand import load_sweep
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise
from asdray.store import Places
from asdray.sweep.outputs import changes
from asdray.sweep.plan import plan

pytestmark = pytest.mark.ray

DCASE, MACHINES = "dcase2022", ["bearing"]
DEFAULTS = ["knn", "kmeans", {"name": "knn", "smote_ratio": 0.2}, "knn_rescale"]
"""The backends of a benchmark."""
PLUGIN = Path(__file__).parent / "plugin_example.py"
SAME_AS = {"dis_baseline": "dis_spec_adacos_fixed"}
"""Recipes of one system under two names."""


def spec() -> dict:
    recipes = {name: {"set": small(name)} for name in runnable_recipes()}
    recipes["bands.yaml"] = {}
    recipes["softmax.yaml"] = {"set": {**small("dis_baseline"), "frontend.loss": {"name": "softmax"}}}
    return {
        "name": "everything",
        "recipes": recipes,
        "dcase": [DCASE],
        "seeds": [0],
        "machines": {DCASE: MACHINES},
        "backends": [*DEFAULTS, "centroid"],
        "resources": ONE_BY_ONE,
        "umap": False,
        "report": False,
        "plugins": ["methods.py"],
    }


@pytest.fixture(autouse=True)
def _no_plugins_left():
    yield
    forget_plugins()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("everything")
    synthesise(root / "data", DCASE, machines=MACHINES, train=6, test=4, seconds=0.5)
    format_dataset(root / "data", DCASE)
    shutil.copytree(aisfx_data(tmp_path_factory) / "encoders", root / "data" / "encoders")
    (root / "methods.py").write_text(PLUGIN.read_text())
    own = {"frontend": {"name": "bands"}, "train": {"epochs": 1}, "audio": {"duration": 0.4}}
    (root / "bands.yaml").write_text(yaml.safe_dump({"about": "a frontend of one's own", **own}))
    (root / "softmax.yaml").write_text(
        yaml.safe_dump({"about": "a loss of one's own", "frontend": {"name": "discriminative"}})
    )
    (root / "sweep.yaml").write_text(yaml.safe_dump(spec()))
    run = subprocess.run(
        [
            sys.executable, "-m", "asdray", "sweep", root / "sweep.yaml", "--data", root / "data",
            "--results", root / "results", "--no-dashboard",
        ],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return root / "results"


def test_every_recipe_ends_with_its_scores_in_the_leaderboard(results):
    board = pd.read_csv(results / "sweeps" / "everything" / "leaderboard.csv")
    ours = board[board["origin"] == "ours"]
    expected = {*runnable_recipes(), "bands", "softmax"}
    assert set(ours["recipe"]) == expected
    assert set(ours["dataset"]) == {"synthetic"}
    columns = [f"{DCASE}-dev_mean", f"{DCASE}-eval_mean"]
    assert ours[columns].notna().all(axis=None)
    assert ((ours[columns] >= 0) & (ours[columns] <= 1)).all(axis=None)
    trials = pd.read_parquet(results / "sweeps" / "everything" / "trials.parquet")
    assert set(trials["status"]) == {"done"}
    assert len(trials) == len(expected)
    events = (results / "sweeps" / "everything" / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["status"] for line in events} == {"done"}


def test_the_sweep_keeps_its_plugin(results, asdray):
    folder = results / "sweeps" / "everything"
    spec = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert [(folder / path).read_text() for path in spec["plugins"]] == [PLUGIN.read_text()]
    before = (folder / "leaderboard.csv").read_text()
    sweep = load_sweep(results.parent / "sweep.yaml")
    assert changes(sweep, plan(sweep, Places.of(results.parent / "data", results), "x"), folder) == []
    changed = results.parent / "methods.py"
    changed.write_text(changed.read_text() + "# changed\n")
    code, _, err = asdray("report", "everything", "--data", results.parent / "data", "--results", results)
    assert code == 0, err
    assert (folder / "leaderboard.csv").read_text() == before
    frame = load_results(folder)
    assert {"bands", "softmax"} < set(frame["recipe"])


def test_what_a_recipe_is_scored_by(results):
    board = pd.read_csv(results / "sweeps" / "everything" / "leaderboard.csv")
    of = (
        board[board["origin"] == "ours"]
        .groupby("recipe")["backend_id"]
        .agg(lambda ids: sorted(i.split("-")[0] for i in ids))
    )
    embeddings = ["centroid", "kmeans", "knn", "knn", "knn_rescale"]
    for recipe in of.index:
        if recipe.startswith("ae_"):
            assert of[recipe] == (["own"] if recipe == "ae_official_mahalanobis" else ["recon"])
        else:
            assert of[recipe] == (sorted([*embeddings, "recon"]) if recipe == "bands" else embeddings)


def test_one_system_of_two_names_gives_the_same_numbers(results):
    board = pd.read_csv(results / "sweeps" / "everything" / "leaderboard.csv")
    scores = board.set_index(["recipe", "backend_id"])[f"{DCASE}-eval_mean"]
    for one, other in SAME_AS.items():
        assert scores[one].to_dict() == scores[other].to_dict()
