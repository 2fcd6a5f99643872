"""The same trials twice: by hand and on Ray, one and two at a time, with one thread and with two: equal bytes."""

from __future__ import annotations

import itertools
import json

import pytest
from outcomes import Outcome, note
from sweeping import MACHINES, ONE_BY_ONE, SMALL_AE, SMALL_DIS, World, asdray, in_process, make_data

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

RECIPES = {
    f"{recipe} with {threads} threads": (recipe, {**options, "train.epochs": 3, "train.threads": threads})
    for (recipe, options), threads in itertools.product(
        (("dis_baseline", SMALL_DIS), ("ae_baseline", SMALL_AE)), (1, 2)
    )
}
SWEEP = {
    "recipes": {
        recipe: {"set": {**options, "train.epochs": 3}, "space": {"train.threads": [1, 2]}}
        for recipe, options in (("dis_baseline", SMALL_DIS), ("ae_baseline", SMALL_AE))
    },
    "backends": ["knn", "gmm"],
    "umap": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


def by_hand(data, results, run):
    """Every trial of the sweep without Ray; ``run`` takes the words of a command."""
    for recipe, options in RECIPES.values():
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        backends = ["--backend", "knn", "--backend", "gmm"] if recipe == "dis_baseline" else []
        run(
            "run", recipe, "dcase2023", "--machines", ",".join(MACHINES), "--seed", 0, *sets, "--no-umap",
            "--device", "cpu", *backends, "--data", data, "--results", results,
        )  # fmt: skip
    return contents(results)


def on_ray(data, root, cpus):
    world = World(data, root / "results")
    root.mkdir()
    world.sweep(**SWEEP, resources={"train": {"cpu": cpus}})
    assert {e["stage"] for e in world.events() if not e["found"]} >= {"train", "extract", "score", "evaluate"}
    return contents(world.results), world


def contents(results):
    """Trial -> path -> bytes of everything with numbers, but for the times of epochs."""
    found = {}
    for pattern in ("output/**/*.parquet", "output/**/*.csv", "metrics.parquet"):
        for path in results.glob(f"trials/dcase2023/*/seed0/{pattern}"):
            name, _, file = path.relative_to(results / "trials" / "dcase2023").as_posix().split("/", 2)
            found.setdefault(name, {})[file] = path.read_bytes()
    assert len(found) == len(RECIPES)
    assert all(len(files) > 15 for files in found.values())
    return found


def compare(fault, one, other):
    """Notes an outcome per trial; the trials that differ, with the files."""
    different = {}
    for name in one:
        files = [path for path in one[name] | other[name] if one[name].get(path) != other[name].get(path)]
        note(Outcome(fault, name, survived=True, repeated=0, identical=not files))
        different |= {name: files} if files else {}
    return different


def test_the_same_trials_have_the_same_bytes_however_they_are_run(data, tmp_path):
    first = by_hand(data, tmp_path / "first", in_process)
    different = {}

    def compared(fault, one, other):
        different.update({fault: found} if (found := compare(fault, one, other)) else {})

    compared("run twice", first, by_hand(data, tmp_path / "second", asdray))
    single, alone = on_ray(data, tmp_path / "single", ONE_BY_ONE["train"]["cpu"])
    compared("by hand and on Ray", first, single)
    double, beside = on_ray(data, tmp_path / "double", 1)
    compared("one and two trials at a time", single, double)
    assert not different
    assert alone.tables() == beside.tables()
