"""Systems and trials by the names that people read on screens."""

import doctest
import json

import pytest

from asdray import addresses, store
from asdray.addresses import find_trial, find_trials, fulfils
from asdray.config.expand import expand
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system import load_recipe
from asdray.config.system_names import short_values
from asdray.config.trial import Trial

SPACE = {
    "frontend.loss": [{"name": "adacos"}, {"name": "arcface", "margin": 0.5}, {"name": "arcface", "margin": 0.3}],
    "train.learning_rate": [1e-3, 0.00031416],
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Trials of a sweep with six systems and two seeds, and a plain trial of each of two other recipes."""
    asked = {
        "name": "s",
        "dcase": ["dcase2022", "dcase2023"],
        "seeds": [0, 1],
        "machines": "all",
        "backends": ["knn"],
    }
    sweep = validate(Sweep, {**asked, "recipes": {"dis_baseline": {"space": SPACE}}}, "s")
    trials = [trial for trial, _ in expand(sweep, "s")]
    trials += [
        Trial("dcase2023", name, load_recipe(name).system, 0, ("fan",))
        for name in ("ae_baseline", "raw_spec")
    ]
    root = tmp_path_factory.mktemp("results")
    for trial in trials:
        path = store.trial_dir(root, trial).trial_json
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"system": trial.system.model_dump(mode="json")}))
    return root, trials


def test_the_examples_of_the_module_hold():
    assert doctest.testmod(addresses).failed == 0


def test_every_name_on_a_screen_finds_its_trial(results):
    root, trials = results
    for trial in trials:
        folder = store.trial_dir(root, trial).root
        for text in (
            (trial.title, trial.name, str(folder)) if trial.label else (trial.name, f"{trial.recipe} seed0")
        ):
            assert find_trial(text, root) == folder, text
        assert folder in find_trials(trial.label or trial.recipe, root)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("dis_baseline loss=adacos lr=1e-3", 4),
        ("dis_baseline train.learning_rate=0.001 frontend.loss=adacos", 4),
        ("dis_baseline loss=arcface(margin=0.3) lr=3.14e-4", 4),
        ("dis_baseline margin=0.3 lr=0.00031416", 4),
        ("loss=adacos lr=1e-3 dcase2023", 2),
        ("ae_base", 1),
        ("dis_baseline loss=adacos lr=1e-3 seed=1", 2),
    ],
)
def test_what_is_left_out_may_be_anything(results, text, n):
    assert len(find_trials(text, results[0])) == n


def test_a_system_by_its_folder(results):
    root, trials = results
    for text in (trials[0].system_name, trials[0].system.id, trials[0].system_name[:-2]):
        assert len(find_trials(text, root)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dis_baseline loss=arcface lr=1e-3",
         "names several systems: choose one of dis_baseline margin=0.3 (dis_baseline-"),
        ("dis_baseline", "dis_baseline loss=adacos lr=1e-3 (dis_baseline-"),
        ("dis_baselin3", "no system is called 'dis_baselin3'; did you mean 'dis_baseline-"),
        ("dis_baseline lr=2", "no system is 'dis_baseline lr=2' (there are: dis_baseline loss=adacos lr=1e-3 ("),
        ("dis_baseline adacos", "'adacos' is neither an option with a value"),
    ],
)  # fmt: skip
def test_an_address_of_several_or_none_lists_what_there_is(results, text, message):
    with pytest.raises(ValueError) as error:
        find_trials(text, results[0])
    assert message in str(error.value)


def test_one_trial_of_several_needs_year_and_seed(results):
    with pytest.raises(
        ValueError, match=r"names 4 trials: add year and seed of one \(there are: dcase2022 seed0, "
    ):
        find_trial("dis_baseline loss=adacos lr=1e-3", results[0])
    with pytest.raises(ValueError, match=r"names no trial \(there are: dcase2023 seed0\)"):
        find_trial("ae_baseline dcase2024", results[0])


def test_a_trial_that_is_not_there_is_said_of_its_own_system(results):
    there = (
        r"names no trial \(there are: dcase2022 seed0, dcase2022 seed1, dcase2023 seed0, dcase2023 seed1\)"
    )
    with pytest.raises(ValueError, match=there):
        find_trial("dis_baseline loss=adacos lr=1e-3 seed7", results[0])


def test_an_address_may_be_longer_than_a_name_of_a_folder_and_hold_a_path(results, tmp_path):
    root, trials = results
    longer = f"{trials[0].title} {' '.join(['train.learning_rate=0.001'] * 20)}"
    assert find_trial(longer, root) == store.trial_dir(root, trials[0]).root
    with pytest.raises(ValueError, match="no system is called 'xxx"):
        find_trial("x" * 300, root)
    with pytest.raises(ValueError, match="no system is 'dis_baseline loss=a/b.py' "):
        find_trial("dis_baseline loss=a/b.py", root)


def test_an_option_of_a_system_is_not_one_of_its_parts(tmp_path):
    """`lr` of a system whose classes are clusters of another one; `trainable` of the loss, not of a head's."""
    asked = {"name": "s", "seeds": [0], "machines": "all", "backends": ["knn"]}
    heads = {"space": {"frontend.loss.trainable": [True, False]}}
    of_head = {"recipe": "dis_spec_featex", "space": {"frontend.heads.0.loss.trainable": [True, False]}}
    source = {"set": {"train.learning_rate": 1e-4}}
    trials = []
    for dcase, recipes in (
        ("dcase2023", {"dis_spec_subspaceloss": heads, "head": of_head}),
        ("dcase2026", {"lora_beats_cancel": source}),
    ):
        sweep = validate(Sweep, {**asked, "dcase": [dcase], "recipes": recipes}, "s")
        trials += [trial for trial, _ in expand(sweep, "s")]
    for trial in trials:
        path = store.trial_dir(tmp_path, trial).trial_json
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"system": trial.system.model_dump(mode="json")}))
    for trial in trials:
        assert find_trial(trial.title, tmp_path) == store.trial_dir(tmp_path, trial).root
    assert len(find_trials("lora_beats_cancel lr=1e-4", tmp_path)) == 1
    with pytest.raises(ValueError, match="no system is 'lora_beats_cancel lr=1e-3'"):
        find_trials("lora_beats_cancel lr=1e-3", tmp_path)  # the learning rate of its source


def test_a_value_is_what_its_name_shows():
    objects = [{"name": "a", "x": 1, "y": [1, 2]}, {"name": "a", "x": 2, "y": [1, 2]}, {"name": "b"}]
    for values in (
        objects,
        [objects[:2], objects[1:]],
        [0.1234567, 0.1234568, 3],
        [None, True, "all", [], 1e-7],
    ):
        texts = short_values(values)
        found = [[fulfils(value, text) for value in values] for text in texts]
        assert found == [[i == j for j in range(len(values))] for i in range(len(values))], texts
    assert fulfils("/data/x.npy", short_values(["/data/x.npy", "/data/y.npy"])[0])
    assert short_values(["/a/x.npy", "/b/x.npy"]) == ["/a/x.npy", "/b/x.npy"]
