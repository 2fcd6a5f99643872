"""The shipped recipes of tuned encoders: published values, and a run with two narrow blocks of made-up weights."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from encoders_made_up import beats_names, small_networks
from small_recipes import tuned_recipes
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.system import load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.config.weights import known_weights
from asdray.dcase.format import format_dataset
from asdray.stages.clustered import complete_clusters
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

LORA = {"name": "lora", "rank": 64, "alpha": 8.0, "dropout": 0.0}
SCAC = {"name": "subcluster_adacos", "n_subclusters": 16, "trainable": True, "dynamic": False}
ARCFACE = {"name": "arcface", "scale": 30.0, "margin": 0.5}
ENCODERS = {  # network, weights, layer, tuning, head, dimensions of the projection
    "dis_beats_scac_trainable": (
        "beats", "BEATs_iter3", "last", LORA | {"targets": ("q", "v")}, "attentive_statistics", 256,
    ),
    "dis_eat_scac_trainable": ("eat", "EAT_epoch30", "last", LORA | {"targets": ("qkv",)}, "cls", 256),
    "full_beats_arcface": (
        "beats", "BEATs_iter3_plus_AS2M", 10, {"name": "full", "layer_decay": 1.0}, "mean", None,
    ),
    "lora_eat_arcface": ("eat", "EAT_epoch30", "last", LORA | {"targets": ("qkv",)}, "mean", None),
    "lora_beats_cancel": (
        "beats", "BEATs_iter3", "last", LORA | {"targets": ("q", "k", "v")}, "attentive_statistics", 256,
    ),
}  # fmt: skip
TRAININGS = {  # epochs, batch, learning rate, weight decay, mixup, loss
    "dis_beats_scac_trainable": (25, 8, 1e-4, 0.01, 0.5, SCAC),
    "dis_eat_scac_trainable": (25, 8, 1e-4, 0.01, 0.5, SCAC),
    "full_beats_arcface": (10, 16, 1e-4, 5e-3, 0.35, ARCFACE),
    "lora_eat_arcface": (25, 8, 1e-4, 0.01, 0.5, ARCFACE),
    "lora_beats_cancel": (25, 8, 1e-4, 0.01, 0.5, SCAC),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_recipe_has_the_published_values(name):
    system = load_recipe(name).system
    (branch,) = system.frontend.branches
    found = (branch.network, branch.weights, branch.layer, branch.tune.model_dump())
    assert (*found, branch.head, branch.embedding_dim) == ENCODERS[name]
    epochs, batch, rate, decay, mixup, loss = TRAININGS[name]
    options = system.train
    assert (options.epochs, options.batch_size) == (epochs, batch)
    assert (options.learning_rate, options.weight_decay) == (rate, decay)
    assert system.frontend.mixup_probability == mixup
    assert system.frontend.loss.model_dump().items() >= loss.items()


def test_every_recipe_of_a_tuned_encoder_has_a_table_of_values_and_a_published_score():
    assert {name.removesuffix("_asdkit") for name in tuned_recipes()} == {*ENCODERS}
    assert all(load_recipe(name).reproduces for name in tuned_recipes())


def test_what_asdkit_does_otherwise():
    beats, eat = (load_recipe(f"dis_{n}_scac_trainable_asdkit").system.frontend for n in ("beats", "eat"))
    assert beats.labels == eat.labels == "asdkit"
    assert beats.branches[0].norm_stats == "initial"
    assert eat.branches[0].weights == "EAT_epoch10"


# ------------------------------------------------------------------------------------------------ small runs

MACHINES = {"dcase2023": ("ToyCar", "fan", "bandsaw"), "dcase2026": ("ToyCar", "fan", "ToyDrone")}
"""Machines with attributes and, in 2026, without."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Tiny years, and made-up weights of two narrow blocks."""
    root = tmp_path_factory.mktemp("tuned")
    with small_networks(root / "data" / "encoders"):
        for dcase, machines in MACHINES.items():
            write_list(
                build_tree(root / "data", dcase, list(machines), {"source": 4, "target": 2}, n_samples=8000)
            )
            format_dataset(root / "data", dcase)
        yield Places.of(root / "data", root / "results")


def small(name: str):
    """The recipe with one epoch on short clips, and the second block in place of the last one."""
    system = load_recipe(name).system
    (branch,) = system.frontend.branches
    changes = {
        "audio.duration": 0.4,
        "train.epochs": 1,
        "frontend.branches.0.weights": f"encoders/{branch.network}.pt",
        "frontend.branches.0.layer": 2,
    }
    if len(system.frontend.classes) > 4:  # the network of the pseudo-labels is small as well
        source = system.frontend.classes[4].source.frontend
        changes["frontend.classes.4.source.frontend.weights"] = f"encoders/{source.network}.pt"
        changes["frontend.classes.4.source.frontend.layers"] = [2]
    return with_overrides(system, changes, name)


@pytest.mark.chaos  # a network of 90 million weights
def test_a_checkpoint_of_lora_of_rank_64_has_less_than_20_mb(tmp_path):
    write_list(
        build_tree(tmp_path, "dcase2023", ["fan", "bandsaw"], {"source": 2, "target": 1}, n_samples=8000)
    )
    format_dataset(tmp_path, "dcase2023")
    path = tmp_path / "encoders" / "beats.pt"
    path.parent.mkdir()
    torch.manual_seed(0)
    rows = {
        name: torch.randn(shape[0], *(1 for _ in shape[1:])) / 20 for name, shape in beats_names().items()
    }
    torch.save({name: rows[name].expand(shape) for name, shape in beats_names().items()}, path)
    recipe = load_recipe("dis_beats_scac_trainable").system
    assert recipe.frontend.branches[0].tune.rank == 64
    changes = {"audio.duration": 0.4, "train.epochs": 1, "frontend.branches.0.weights": str(path)}
    trial = Trial("dcase2023", "beats", with_overrides(recipe, changes, "test"), 0, ("fan", "bandsaw"))
    files = TrialFiles.load(trial, Places.of(tmp_path, tmp_path / "results"))
    (unit,) = trial.units
    record = train(files, unit, device="cpu").record
    size = files.folder.checkpoint(unit.name, "last").stat().st_size
    parameters = 2_359_296 + 1_530_256 + record.extra["n_classes"] * 16 * 256
    assert 4 * parameters < size < 4 * parameters + 200_000, "what learns, and little besides"
    assert size + (150 - record.extra["n_classes"]) * 16 * 256 * 4 < 20e6, "also with the classes of a year"


@pytest.mark.parametrize("name", tuned_recipes())
def test_a_recipe_goes_through_all_stages(name, places):
    assert known_weights(load_recipe(name).system.frontend.branches[0].weights)
    system = small(name)
    dcase = "dcase2026" if system.audio.channel == "cancel" else "dcase2023"
    machine = MACHINES[dcase][-1]
    trial = Trial(dcase, name, system, 0, MACHINES[dcase])
    files = TrialFiles.load(trial, places)
    unit = trial.unit_of(machine)
    clustered = [made.of for made in complete_clusters(files, unit) if made.stage == "cluster"]
    assert clustered == (list(unit.machines) if system.frontend.clustering else [])
    record = train(files, unit).record
    folder = store.trial_dir(places.results, trial)
    extract(files, machine, "last")
    (target,) = load_recipe(name).reproduces
    backend = target.backend
    if backend.embedding is not None:
        backend = backend.model_copy(update={"embedding": backend.embedding.replace("L12", "L2")})
    score(files, machine, "last", backend)
    scores = pq.read_table(folder.scores("last", machine, backend_id(backend)))["score"].to_numpy()
    assert record.extra["n_classes"] > 2
    assert len(scores) == 6 + 4
    assert np.isfinite(scores).all()
    assert len(set(scores[-4:])) == 4, "clips differ"
