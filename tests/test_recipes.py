"""Every shipped recipe, with small networks on short clips, through training, extraction and scoring."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_recipes import changes
from tiny import DCASE, MACHINES
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn, backend_id
from asdray.config.load import load_recipe, recipe_names, with_overrides
from asdray.config.sweep import load_sweep
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.train import train
from asdray.store import Places


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    root: Path = tmp_path_factory.mktemp("recipes")
    tree = build_tree(root / "data", DCASE, list(MACHINES), {"source": 4, "target": 2}, n_samples=8000)
    write_list(tree)
    format_dataset(root / "data", DCASE)
    return Places.of(root / "data", root / "results")


def small(name: str):
    return with_overrides(load_recipe(name).system, changes(name), name)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_goes_through_all_stages(name, places):
    trial = Trial(DCASE, name, small(name), 0, MACHINES)
    unit = trial.unit_of("bandsaw")
    marker = train(trial, unit, places).marker
    frontend = trial.system.frontend
    if frontend.name == "discriminative":
        # Each machine and domain: two attributes in training, another one in the test clips.
        assert marker.extra["n_classes"] == 3 * 2 * (3 if name.endswith("_asdkit") else 2)
    extract(trial, "bandsaw", "last", places)
    directory = store.trial_dir(places.results, trial)
    backends = trial.backends((Knn(),))
    assert backends
    for backend in backends:
        score(trial, "bandsaw", "last", backend, places)
        scores = pq.read_table(directory.scores("last", "bandsaw", backend_id(backend)))["score"].to_numpy()
        assert len(scores) == 6 + 4
        assert np.isfinite(scores).all()
        assert len(set(scores[-4:])) == 4, "clips differ"


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.parent.glob("sweeps/*.yaml")), ids=lambda p: p.stem
)
def test_a_shipped_sweep_opens_with_its_question(path):
    assert re.fullmatch(r"# [A-Z].*\?.*", path.read_text().splitlines()[0])
    assert load_sweep(path).name == path.stem
