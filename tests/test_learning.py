"""The script `benchmarks/learning.py`: its judgement, its table, its commands. Nothing here trains."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from asdray import store
from asdray.dcase.manifest import load_manifest, synthetic_path

RECIPES = ("raw_spec", "dis_baseline", "ae_baseline")
WINNERS = {
    ("raw_spec", "knn"): [0.49],
    ("raw_spec", "mahalanobis"): [0.52],
    ("dis_baseline", "knn"): [0.62, 0.64, 0.66],
    ("dis_baseline", "mahalanobis"): [0.62, 0.64, 0.66],
    ("ae_baseline", "recon"): [0.63, 0.63, 0.63],
}


@pytest.fixture
def learning(monkeypatch):
    """The module, which belongs to no package, with few short clips."""
    path = Path(__file__).parent.parent / "benchmarks" / "learning.py"
    spec = importlib.util.spec_from_file_location("learning", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CLIPS", ("--train", "12", "--test", "8", "--seconds", "1"))
    return module


def scores(changes=None, subset="eval"):
    """Rows like those of `Results.scores`: `WINNERS` in dev and eval, other scores or none in one subset."""
    rows = []
    for name in ("dev", "eval"):
        for (recipe, backend), values in {**WINNERS, **((changes or {}) if name == subset else {})}.items():
            rows += [(recipe, backend, name, seed, value) for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["recipe", "backend", "subset", "seed", "score"])


def test_winners_are_above_the_best_backend_by_points_and_deviations(learning):
    assert learning.losers(learning.over_seeds(scores()), RECIPES) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # 64 - 2 x 2 is 60: not 5 points above 56.
        ({("raw_spec", "mahalanobis"): [0.56]}, ["dis_baseline with knn has 64.0 ± 2.0", "mahalanobis"]),
        # The mean is as high as before, the seeds differ more.
        ({("dis_baseline", "knn"): [0.60, 0.64, 0.68]}, ["dis_baseline with knn has 64.0 ± 4.0"]),
        # Seeds that agree are no margin.
        ({("ae_baseline", "recon"): [0.56] * 3}, ["ae_baseline with recon has 56.0 ± 0.0"]),
        ({("ae_baseline", "recon"): [0.9]}, ["ae_baseline with recon has fewer than two seeds"]),
        ({("ae_baseline", "recon"): [0.9, None, None]}, ["ae_baseline with recon has fewer than two seeds"]),
        ({("ae_baseline", "recon"): []}, ["ae_baseline has no score"]),
    ],
)
@pytest.mark.parametrize("subset", ["dev", "eval"])
def test_each_system_that_has_not_won_is_named(learning, changes, said, subset):
    lines = learning.losers(learning.over_seeds(scores(changes, subset)), RECIPES)
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(f"{subset}: ")
        assert words in line


def test_nothing_to_compare_is_no_win(learning):
    none = {("raw_spec", backend): [] for backend in ("knn", "mahalanobis")}
    lines = learning.losers(learning.over_seeds(scores(none)), RECIPES)
    assert "eval: raw_spec has no score" in lines
    alone = scores()[lambda frame: frame["recipe"] == "raw_spec"]
    assert learning.losers(learning.over_seeds(alone), ["raw_spec"]) == ["the sweep trains nothing"]


def test_the_table_has_both_subsets_and_the_spread_of_several_seeds(learning):
    frame = learning.over_seeds(scores({("dis_baseline", "knn"): [0.70, 0.72, 0.74]}))
    lines = learning.table({"plain": frame, "`--hard`": frame}).splitlines()
    assert lines[0] == "| recipe | backend | plain | `--hard` |"
    cell = "64.0 ± 2.0 / 72.0 ± 2.0"
    assert f"| `dis_baseline` | knn | {cell} | {cell} |" in lines
    assert "| `raw_spec` | knn | 49.0 / 49.0 | 49.0 / 49.0 |" in lines
    assert len(lines) == 2 + len(WINNERS)


@pytest.mark.parametrize(("value", "code"), [(0.63, None), (0.56, 1)])
def test_the_exit_code_is_1_where_a_system_loses_and_the_folder_goes(learning, monkeypatch, value, code):
    """In place of training for minutes, scores are given."""
    folders = []

    def given(into, spec, hard, seed):
        assert (hard, seed) == (True, 0)
        folders.append(into)
        return scores({("ae_baseline", "recon"): [value] * 3})

    monkeypatch.setattr(learning, "scores_of", given)
    monkeypatch.setattr("sys.argv", ["learning.py", "hard"])
    if code is None:
        learning.main()
    else:
        with pytest.raises(SystemExit) as ended:
            learning.main()
        assert isinstance(ended.value.code, str)  # Python prints a text and ends with 1
        assert "ae_baseline" in ended.value.code
    assert len(folders) == 1
    assert not folders[0].exists()


def test_data_are_made_by_commands_whose_failure_ends_the_script(learning, tmp_path):
    learning.make_data(tmp_path, ["fan"], hard=True, seed=3)
    made = store.read_json(synthetic_path(tmp_path, learning.DCASE))
    assert (made["hard"], made["seed"]) == (True, 3)
    assert len(load_manifest(tmp_path, learning.DCASE)) == 20
    with pytest.raises(SystemExit, match="asdray synth ended with 2"):
        learning.make_data(tmp_path, ["fan"], hard=False, seed=3)


def test_scores_are_those_of_the_sweep_of_the_command(learning, asdray, tmp_path):
    """The trial is run by hand before, which takes no Ray; the sweep finds its stages and makes the tables."""
    spec = tmp_path / "one.yaml"
    spec.write_text(
        "name: one\nseeds: [0]\nrecipes: {raw_spec: {set: {audio.duration: 1}}}\ndcase: [dcase2023]\n"
        "machines: {dcase2023: [fan, bandsaw]}\nbackends: [knn, mahalanobis]\numap: false\nreport: false\n"
    )
    learning.make_data(tmp_path / "hard", ["fan", "bandsaw"], hard=True)
    code, _, error = asdray(
        "run", "raw_spec", learning.DCASE, "--machines", "fan,bandsaw", "--set", "audio.duration=1",
        "--backend", "knn", "--backend", "mahalanobis", "--no-umap", "--device", "cpu",
        "--data", tmp_path / "hard", "--results", tmp_path / "results-hard",
    )  # fmt: skip
    assert not code, error
    frame = learning.over_seeds(learning.scores_of(tmp_path, spec, hard=True))
    assert set(frame.index) == {
        ("raw_spec", backend, subset) for backend in ("knn", "mahalanobis") for subset in ("dev", "eval")
    }
    board = (tmp_path / "results-hard" / "sweeps" / "one" / "leaderboard.md").read_text()
    for (_, backend, _), mean in frame["mean"].items():
        assert any(backend in line and f"{mean:.2f}" in line for line in board.splitlines()), board
