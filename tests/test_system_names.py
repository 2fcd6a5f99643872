"""People's names of systems: the recipe, and what differs between the systems of a sweep."""

import doctest
from dataclasses import replace
from pathlib import Path

import pytest

from asdray.config import system_names as module
from asdray.config.expand import expand, load_sweep
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system_names import sampled_name, short_paths, short_values, system_names

ROOT = Path(__file__).parent.parent
ADACOS, ARCFACE = {"name": "adacos"}, {"name": "arcface", "margin": 0.5}


def names_of(space, recipes=("dis_baseline",), **changes):
    """The names of a grid's systems, through the sweep file's own way."""
    asked = {"name": "names", "dcase": ["dcase2023"], "seeds": [0, 1], "machines": "all", "backends": ["knn"]}
    asked |= {"recipes": {name: {"space": space} for name in recipes}, **changes}
    trials = [trial for trial, _ in expand(validate(Sweep, asked, "sweep"), "sweep")]
    assert all(trial.title == f"{trial.label} {trial.dcase} seed{trial.seed}" for trial in trials)
    return list(dict.fromkeys(trial.label for trial in trials))


def test_the_examples_of_the_module_hold():
    assert doctest.testmod(module).failed == 0


def test_a_name_has_the_options_in_which_systems_of_a_sweep_differ():
    space = {"frontend.loss": [ADACOS, {"name": "arcface"}], "train.learning_rate": [1e-3, 3e-4]}
    assert names_of({**space, "train.epochs": [4]}) == [
        "dis_baseline loss=adacos lr=1e-3",
        "dis_baseline loss=adacos lr=3e-4",
        "dis_baseline loss=arcface lr=1e-3",
        "dis_baseline loss=arcface lr=3e-4",
    ]
    assert names_of({}, ["dis_baseline", "ae_baseline"]) == ["dis_baseline", "ae_baseline"]


def test_an_object_shows_the_options_in_which_objects_of_its_name_differ():
    two = {"name": "arcface", "margin": 0.3}
    assert names_of({"frontend.loss": [ADACOS, ARCFACE]})[1] == "dis_baseline loss=arcface"
    assert names_of({"frontend.loss": [ADACOS, ARCFACE, two]})[1:] == [
        "dis_baseline loss=arcface(margin=0.5)",
        "dis_baseline loss=arcface(margin=0.3)",
    ]
    default = {"name": "arcface"}  # an option at its default is an option, too
    assert names_of({"frontend.loss": [default, two]}) == [
        "dis_baseline margin=0.5",
        "dis_baseline margin=0.3",
    ]


def test_lists_of_objects_show_their_names():
    fft, stft = {"name": "fft"}, {"name": "stft", "n_fft": 1024}
    assert names_of({"frontend.branches": [[fft], [fft, stft], [stft]]}) == [
        "dis_baseline branches=fft",
        "dis_baseline branches=fft+stft",
        "dis_baseline branches=stft",
    ]
    other = {"name": "stft", "n_fft": 512, "hop_length": 256}
    assert names_of({"frontend.branches": [[stft], [other]]}) == [
        "dis_baseline n_fft=1024 hop_length=512",
        "dis_baseline n_fft=512 hop_length=256",
    ]


def test_short_options_are_told_apart():
    assert short_paths(["a.x", "b.x", "c.y"]) == {"a.x": "a.x", "b.x": "b.x", "c.y": "y"}
    assert short_paths(["a.learning_rate", "c.lr"]) == {"a.learning_rate": "a.learning_rate", "c.lr": "c.lr"}
    assert short_paths(["a.0", "b.0"]) == {"a.0": "a.0", "b.0": "b.0"}


def test_numbers_are_as_short_as_tells_them_apart():
    assert short_values([0.12345, 0.12346, 0.2]) == ["0.12345", "0.12346", "0.2"]
    assert short_values([1.0, 1 + 2**-52]) == ["1", "1.0000000000000002"]
    assert short_values([1, 16000, 5_000_000, 0.5, 1e-5, -3e-4]) == [
        "1",
        "16000",
        "5e6",
        "0.5",
        "1e-5",
        "-3e-4",
    ]
    assert short_values([True, None, "all", [], [1, 2]]) == ["true", "null", "all", "[]", "1+2"]


def test_systems_without_a_difference_in_words_keep_their_own_names():
    same = {"x-1": ("x", {"a.b": 1}), "x-2": ("x", {"a.b": 1}), "y-3": ("y", {"a.b": 2})}
    assert system_names(same) == {"x-1": "x-1", "x-2": "x-2", "y-3": "y"}


def test_a_sampled_system_has_its_name_whatever_else_is_sampled():
    axes = {
        "train.learning_rate": [],
        "frontend.loss": [ADACOS, {"name": "arcface", "margin": {"uniform": [0, 1]}}],
    }
    spaces = {"d": {**axes, "train.epochs": [2]}, "e": {}}
    drawn = {"train.learning_rate": 0.00031416, "train.epochs": 2}
    assert sampled_name("d", {**drawn, "frontend.loss": ADACOS}, spaces) == "d lr=3.14e-4 loss=adacos"
    arcface = {"name": "arcface", "margin": 0.25}
    assert (
        sampled_name("d", {**drawn, "frontend.loss": arcface}, spaces)
        == "d lr=3.14e-4 loss=arcface(margin=0.25)"
    )
    assert sampled_name("e", {}, spaces) == "e"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_ours_names_every_system_once(path):
    trials = [trial for trial, _ in expand(load_sweep(path), str(path))]
    labels = {trial.system_name: trial.label for trial in trials}
    assert len(set(labels.values())) == len(labels)
    assert all(label == trial.recipe or label.startswith(f"{trial.recipe} ") for trial in trials
               for label in [labels[trial.system_name]])  # fmt: skip


def test_a_label_is_no_part_of_a_trial():
    trial = expand(load_sweep(ROOT / "sweeps/dis_grid.yaml"), "x")[0][0]
    assert replace(trial, label="other") == trial
    assert hash(replace(trial, label="other")) == hash(trial)
    assert replace(trial, label="").title == trial.name
