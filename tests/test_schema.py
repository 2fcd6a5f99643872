"""The JSON schema and the option reference: up to date, complete, and as strict as editors need."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from asdray.config.described import classes_of, described
from asdray.config.files import read_yaml, validate
from asdray.config.recipe_files import read_recipe, recipe_names
from asdray.config.reference import reference
from asdray.config.schema import json_text, schema_of
from asdray.config.sweep import Sweep
from asdray.config.system import Recipe

ROOT = Path(__file__).parent.parent
FILE = ROOT / "asdray" / "asdray.schema.json"
SWEEPS = sorted([*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("benchmarks/*.yaml")])


@pytest.fixture(scope="module")
def of_sweeps():
    return jsonschema.Draft7Validator(json.loads(FILE.read_text()))


@pytest.fixture(scope="module")
def of_recipes():
    return jsonschema.Draft7Validator(schema_of(Recipe))


@pytest.fixture(scope="module")
def text():
    return reference()


def test_the_committed_files_are_up_to_date(text):
    message = "the configuration classes have changed: run `make options`"
    assert FILE.read_text() == json_text(Sweep), message
    assert (ROOT / "docs" / "options.md").read_text() == text, message


def test_every_shipped_file_validates(of_sweeps, of_recipes):
    for schema in (of_sweeps, of_recipes):
        schema.check_schema(schema.schema)
    for path in SWEEPS:
        of_sweeps.validate(read_yaml(path))
    for name in recipe_names():
        of_recipes.validate(read_recipe(name)[0])


def test_sweep_files_name_the_schema():
    for path in ROOT.glob("sweeps/*.yaml"):
        (line,) = [one for one in path.read_text().splitlines() if one.startswith("# yaml-language-server: ")]
        assert (path.parent / line.partition("$schema=")[2]).resolve() == FILE


HEAD = "name: s\nrecipes: [dis_baseline]\ndcase: dcase2023\nseeds: 0\n"


@pytest.mark.parametrize(
    "more",
    [
        "machines: [fan]",
        "machines: {dcase2023: [fan]}",
        "backends: knn",
        "backends: [knn, {name: knn, n_neighbors: [1, 4], metric: cosine}, {name: mine, whatever: 3}, recon]",
        "resources: auto",
        "resources: {train: {cpu: 2}}",
        "stall_after: 3h50m",
        "umap: false",
        "search: {algorithm: random, num_samples: 2, objective: official_dev}\nscheduler: asha",
        "search: {algorithm: optuna, num_samples: 2, sampler: GP, objective: {metric: official_dev, backend: knn}}",
        "space: {train.learning_rate: [1.0e-3], frontend.loss: [arcface, {name: arcface, margin: [0.1, 0.2]}]}",
        "space:",
        "zip: {train.learning_rate: [1.0e-3, 3.0e-4], train.batch_size: [8, 16]}",
        "zip: [{train.epochs: [1, 2]}, {audio.duration: [1, 2]}]",
        "recipes: {dis_baseline: null, a: {recipe: dis_baseline, set: {frontend.branches.0.channels: 3}}}",
        "recipes: {a: {recipe: {frontend: raw_spec}, space: {frontend.n_mels: [64, 128]}}}",
        "recipes: {a: {recipe: {frontend: {name: discriminative, classes: [machine, {from: raw_beats, n: 3}], loss: mine}}}}",
        "recipes: {a: {recipe: {frontend: {name: encoder, network: eat, weights: a.pt, layers: 4, poolings: cls}}}}",
        "recipes: {a: {recipe: {frontend: {name: discriminative, branches: [fft, {name: encoder, network: eat, weights: a.pt, "
        "tune: {last: 2}, poolings: [mean, {name: gem, p: [3, 10]}]}]}}}}",
        "recipes: {dis_baseline: {set: {train.optimizer: sgd, train.schedule: {name: cosine, warmup: 0.1}, frontend.heads: [featex]}}}",
    ],
)  # fmt: skip
def test_short_forms_validate(more, of_sweeps):
    of_sweeps.validate({**yaml.safe_load(HEAD), **yaml.safe_load(more)})


@pytest.mark.parametrize(
    "more",
    [
        "seed: 0",
        "seeds: [-1]",
        "dcase: dcase2032",
        "backends: [{name: knn, n_neighbours: 3}]",
        "umap: true",
        "keep: {checkpoints: some}",
        "space: {train.learning_rate: 0.1}",
        "space: {train.learning_rate: {loguniforn: [0.1, 0.2]}}",
        "recipes: {dis_baseline: {set: {train.epochs: many}}}",
        "recipes: {dis_baseline: {sett: {}}}",
        "recipes: {a: {recipe: {frontend: {name: raw_spec, n_mel: 3}}}}",
        "zip: {train.epochs: 3}",
        "resources: {train: {gpus: 1}}",
    ],
)
def test_faults_are_seen_by_an_editor(more, of_sweeps):
    tree = {**yaml.safe_load(HEAD), **yaml.safe_load(more)}
    assert list(of_sweeps.iter_errors(tree))
    with pytest.raises(ValueError):
        _load(tree)


def _load(tree):
    from asdray.config.expand import expand

    expand(validate(Sweep, tree, "w"), "w")


def test_every_option_is_described_and_in_the_reference(text):
    for cls in [*classes_of(Sweep), *classes_of(Recipe)]:
        undescribed = set(cls.model_fields) - set(described(cls)) - {"name"}
        assert not undescribed, f"{cls.__name__}: a docstring below the option is missing"
        section = (
            text.partition(f"\n### {cls.__name__.removeprefix('Own') or 'Own'}\n")[2]
            .partition("\n## ")[0]
            .partition("\n### ")[0]
        )
        assert section, cls
        for name in set(cls.model_fields) - {"name"}:
            assert f"\n| `{name}` | " in section
    links = {part.partition(")")[0] for part in text.split("](#")[1:]}
    headings = {
        line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")
    }
    assert links <= headings


def test_the_reference_says_what_a_reader_needs(text):
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| `margin` ")}
    assert rows["| `margin`"] == (
        "| `margin` | number, from 0, below 3.141592654 | `0.5` | Added to the angle, in radians. | full_beats_arcface, lora_eat_arcface |"
    )


def test_the_command_prints_all_three(asdray, text):
    code, out, _ = asdray("schema")
    assert not code
    assert out == FILE.read_text()
    assert json.loads(asdray("schema", "recipe")[1])["required"] == ["frontend", "about"]
    assert asdray("schema", "options")[1] == text
