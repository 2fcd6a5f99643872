"""Every shipped recipe, with small networks on short clips, through training, extraction and scoring."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pretrained import aisfx_data
from small_recipes import changes, runnable_recipes, tuned_recipes
from tiny import DCASE, MACHINES
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn, backend_id
from asdray.config.expand import load_sweep
from asdray.config.recipe_files import recipe_names
from asdray.config.system import load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import TrialFiles
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


FFT = ("fft", 128, (256, 64, 16), (64, 32, 4), 4, 128)
STFT = ("stft", 1024, 512, 200, 8000, (16, 32, 64, 128), 128, False, "mlp")
STFTS = [("stft", n_fft, n_fft // 2, *STFT[3:]) for n_fft in (256, 1024, 4096)]
ADACOS = {"name": "adacos", "trainable": False, "dynamic": False}
FIXED = {"name": "subcluster_adacos", "n_subclusters": 16, "trainable": False, "dynamic": False}
LEARNT = FIXED | {"trainable": True}
FEATEX = {"name": "featex", "weight": 1.0, "probability": 0.5, "loss": LEARNT}
SUBSPACE = {"name": "subspace", "weight": 1.0, "loss": LEARNT}


def chosen(config) -> dict:
    """The options of a configuration but those that later releases added, where they have no effect."""
    return {
        k: v
        for k, v in config.model_dump().items()
        if k not in config.later or getattr(config, k) != config.later[k]
    }


def _train(epochs: int, batch_size: int, weight_decay: float) -> dict:
    sizes = {"epochs": epochs, "batch_size": batch_size}
    return sizes | {"learning_rate": 1e-3, "weight_decay": weight_decay, "threads": 1}


DISCRIMINATIVE = {  # branches, loss, heads, mixup
    "dis_baseline": ([FFT, STFT], ADACOS, (), 0.5),
    "dis_spec_adacos_fixed": ([FFT, STFT], ADACOS, (), 0.5),
    "dis_spec_adacos_fixed_wo_mixup": ([FFT, STFT], ADACOS, (), 0),
    "dis_spec_scac_fixed": ([FFT, STFT], FIXED, (), 0.5),
    "dis_spec_scac_trainable": ([FFT, STFT], LEARNT, (), 0.5),
    "dis_multispec_scac_trainable": ([FFT, *STFTS], LEARNT, (), 0.5),
    "dis_spec_featex": ([FFT, STFT], FIXED, (FEATEX,), 0.5),
    "dis_spec_subspaceloss": ([FFT, STFT], FIXED, (SUBSPACE,), 0.5),
}


@pytest.mark.parametrize("name", DISCRIMINATIVE)
def test_a_discriminative_recipe_has_the_published_values(name):
    branches, loss, heads, mixup = DISCRIMINATIVE[name]
    system = load_recipe(name).system
    found = chosen(system.frontend)
    assert [tuple(branch.values()) for branch in found.pop("branches")] == branches
    assert found == {
        "name": "discriminative",
        "classes": ("machine", "section", "attributes", "domain"),
        "loss": loss,
        "mixup_probability": mixup,
        **({"heads": heads} if heads else {}),
    }
    assert chosen(system.train) == _train(16, 64, 0.01)
    assert system.audio.model_dump() == {"duration": "year_max", "channel": "near", "padding": "repeat"}


MEL = {"n_mels": 128, "n_fft": 1024, "hop_length": 512}
NETWORK = MEL | {"name": "autoencoder", "n_frames": 5, "hidden": (128,) * 4, "bottleneck": 8}
NETWORK |= {"centring": "domain"}
HTK = NETWORK | {"mel_scale": "htk", "power": 1, "window_norm": True, "validation": 0}
SLANEY = NETWORK | {"mel_scale": "slaney", "power": 2, "window_norm": False, "validation": 0.1}
OTHERS = {  # frontend, training, duration
    "ae_baseline": (HTK | {"scores": ("recon",)}, _train(50, 256, 0.01), "year_max"),
    "ae_official_mse": (SLANEY | {"scores": ("recon",)}, _train(100, 256, 0), "native"),
    "ae_official_mahalanobis": (
        SLANEY | {"scores": ("mahalanobis",), "centring": "batch"},
        _train(100, 256, 0),
        "native",
    ),
    "raw_spec": (MEL | {"name": "raw_spec"}, None, "year_max"),
}
BANDS = {"name": "rdp", "tokens": "bands", "gamma": 4, "form": "band"}
ENCODERS = {  # network, weights, layers, poolings, audio
    "raw_beats": ("beats", "BEATs_iter3", "last", [{"name": "mean", "tokens": "all"}], {}),
    "raw_eat": ("eat", "EAT_epoch10", "last", [{"name": "cls"}], {}),
    "raw_aisfx": ("aisfx", "aisfx", "last", [{"name": "mean", "tokens": "all"}], {}),
    "frozen_beats": (
        "beats",
        "BEATs_iter3",
        "last",
        [{"name": "rdp_gem", "tokens": "all", "gamma": 16, "form": "band", "p": 3, "floor": 0}],
        {"duration": "native"},
    ),
    "frozen_beats_bands": ("beats", "BEATs_iter3", "last", [BANDS], {"duration": "native"}),
    "frozen_beats_bands_cancel": (
        "beats",
        "BEATs_iter3",
        "last",
        [BANDS],
        {"duration": "native", "channel": "cancel"},
    ),
    "genrep": (
        "beats",
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1",
        (4,),
        [{"name": "mean", "tokens": "bands"}],
        {"duration": 10, "padding": "zero"},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_recipe_has_the_published_values(name):
    frontend, training, duration = OTHERS[name]
    system = load_recipe(name).system
    assert system.frontend.model_dump() == frontend
    assert training is None or chosen(system.train) == training
    assert system.audio.model_dump() == {"duration": duration, "channel": "near", "padding": "repeat"}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_recipe_of_an_encoder_has_the_published_values(name):
    network, weights, layers, poolings, audio = ENCODERS[name]
    system = load_recipe(name).system
    found = system.frontend.model_dump()
    assert [found[k] for k in ("network", "weights", "layers")] == [network, weights, layers]
    assert [*found["poolings"]] == poolings
    expected = {"duration": "year_max", "channel": "near", "padding": "repeat"} | audio
    assert system.audio.model_dump() == expected


def test_no_shipped_recipe_is_without_a_table_of_values():
    """Recipes with `_asdkit` differ from theirs in the labels alone, as tests/test_config.py checks."""
    names = {name.removesuffix("_asdkit") for name in recipe_names() if name not in tuned_recipes()}
    assert names == {*DISCRIMINATIVE, *OTHERS, *ENCODERS}


@pytest.mark.parametrize("name", runnable_recipes())
def test_a_recipe_goes_through_all_stages(name, places, tmp_path_factory):
    if name == "raw_aisfx":
        weights = aisfx_data(tmp_path_factory) / "encoders"
        shutil.copytree(weights, places.data / "encoders", dirs_exist_ok=True)
    trial = Trial(DCASE, name, small(name), 0, MACHINES)
    unit = trial.unit_of("bandsaw")
    record = train(TrialFiles.load(trial, places), unit).record
    frontend = trial.system.frontend
    if frontend.name == "discriminative":
        # Each machine and domain: two attributes in training, another one in the test clips.
        assert record.extra["n_classes"] == 3 * 2 * (3 if name.endswith("_asdkit") else 2)
    extract(TrialFiles.load(trial, places), "bandsaw", "last")
    directory = store.trial_dir(places.results, trial)
    backends = trial.backends((Knn(),))
    assert backends
    for backend in backends:
        score(TrialFiles.load(trial, places), "bandsaw", "last", backend)
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
