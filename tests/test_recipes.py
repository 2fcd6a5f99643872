"""Every shipped recipe, with small networks on short clips, through training, extraction and scoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import DCASE, MACHINES
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn, backend_id
from asdray.config.load import load_recipe, recipe_names, with_overrides
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.train import train
from asdray.store import Places

SMALL_FFT = {"channels": 4, "kernels": [32, 16, 4], "strides": [16, 8, 2], "hidden": 1, "embedding_dim": 5}
SMALL_STFT = {"hop_length": 128, "channels": [4, 8], "embedding_dim": 6}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    root: Path = tmp_path_factory.mktemp("recipes")
    tree = build_tree(root / "data", DCASE, list(MACHINES), {"source": 4, "target": 2}, n_samples=8000)
    write_list(tree)
    format_dataset(root / "data", DCASE)
    return Places.of(root / "data", root / "results")


def small(name: str):
    """The recipe with the options that make it what it is, and with little work."""
    system = load_recipe(name).system
    changes: dict = {"audio.duration": 0.4, "train.epochs": 1, "train.batch_size": 8}
    if system.frontend.name == "discriminative":
        changes["frontend.branches"] = [
            {"name": "fft", **SMALL_FFT}
            if b.name == "fft"
            else {"name": "stft", "n_fft": 256 << i, **SMALL_STFT}
            for i, b in enumerate(system.frontend.branches)
        ]
    else:
        changes |= {"frontend.n_mels": 8, "frontend.n_fft": 256, "frontend.hop_length": 128}
    if system.frontend.name == "autoencoder":
        changes |= {"frontend.hidden": [8], "train.batch_size": 32}
    return with_overrides(system, changes, name)


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
