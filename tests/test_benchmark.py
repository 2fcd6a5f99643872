"""``make benchmark``: its files, its data, its run, and ours beside what is published."""

import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from trees import build_tree, write_list

from asdray.cli import main
from asdray.cli.benchmark import (
    FOLDER,
    _benchmark_sweep,
    _networks,
    _synthetic_sweep,
    _with_weights_that_are_here,
)
from asdray.config.backend import KMeans, Knn, KnnRescale
from asdray.config.expand import expand, load_sweep
from asdray.config.recipe_files import recipe_names
from asdray.config.system import load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.config.weights import MADE_UP
from asdray.dcase.format import format_dataset
from asdray.dcase.years import YEARS
from asdray.evaluation import published
from asdray.frontends.encoders import made_up, weights
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.cluster import WORKER_ENV
from asdray.sweep.progress import size

DCASE = "dcase2023"
SMOTE = "{name: knn, smote_ratio: 0.2}"


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    """The commands set these for the whole process, which here is that of other tests too."""
    for name, value in WORKER_ENV.items():
        monkeypatch.setenv(name, value)


# ------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("dcase", YEARS)
def test_the_file_of_a_year(dcase):
    sweep = load_sweep(FOLDER / f"{dcase}.yaml")
    assert sweep.dcase == (dcase,)
    assert sweep.seeds == (0, 1, 2, 3)
    assert sweep.machines == "all"
    assert sweep.backends == (Knn(), KMeans(), Knn(smote_ratio=0.2), KnnRescale())
    known = {link.recipe for link in published.links() if link.value.dcase == dcase}
    assert known <= set(sweep.recipes), "what is published can be compared"
    asdkit = {name for name in sweep.recipes if name.endswith("_asdkit")}
    assert len(asdkit) == (9 if dcase <= "dcase2024" else 0), "their classes only where their rows are"
    counts = {"dcase2020": 19, "dcase2021": 17, "dcase2023": 19, "dcase2025": 13, "dcase2026": 15}
    assert len(sweep.recipes) == counts.get(dcase, 18)


def test_make_passes_everything_on():
    def made(*args):
        command = ["make", "-n", "-o", ".venv/.installed", "benchmark", *args]
        # Without what a make that runs the tests leaves here: it would print folders too.
        own = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        run = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent, env=own)
        return run.returncode, " ".join(run.stdout.replace("\\\n", " ").split()), run.stderr

    code, out, _ = made("DCASE=dcase2022", "DATA=synthetic", "SET=seeds=[0] train.epochs=1")
    assert code == 0
    assert out.endswith("asdray benchmark dcase2022 --synthetic --set 'seeds=[0]' --set 'train.epochs=1'")
    code, out, _ = made("DCASE=dcase2022", "DATA=/some/data")
    assert out.endswith("asdray benchmark dcase2022 --data '/some/data'")
    code, _, err = made()
    assert code != 0
    assert "make benchmark DCASE=dcase2022 [DATA=synthetic]" in err


# -------------------------------------------------------------------------------------------- the data


def test_without_data_it_says_how_to_get_them(asdray, tmp_path):
    code, out, err = asdray("benchmark", DCASE, "--data", tmp_path)
    assert (code, out) == (2, "")
    assert f"  asdray download {DCASE} --data {tmp_path}\n  asdray format {DCASE} --data {tmp_path}\n" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["dcase2032"], "unknown DCASE year 'dcase2032'"),
        ([DCASE, "--set", "train.epoch=1"], "unknown option 'train.epoch'; did you mean 'train.epochs'?"),
        ([DCASE, "--set", "seads=[0]"], "unknown option 'seads'; did you mean 'seeds'?"),
        (
            [DCASE, "--set", "rank_by=dcase2022-eval"],
            "cannot rank by 'dcase2022-eval'; did you mean 'dcase2023-eval'?",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_data(asdray, tmp_path, args, message):
    code, _, err = asdray("benchmark", *args, "--data", tmp_path)
    assert code == 2
    assert message in err


# ------------------------------------------------------------------------------------------- synthetic


@pytest.mark.parametrize(("dcase", "stereo"), [("dcase2025", False), ("dcase2026", True)])
def test_synthetic_runs_every_recipe_that_reproduces_a_score_without_published_weights(dcase, stereo, capsys):
    sweep = _synthetic_sweep(FOLDER / f"{dcase}.yaml", dcase, {})
    recipes = [load_recipe(name) for name in recipe_names()]
    reproducing = {name for name, r in zip(recipe_names(), recipes, strict=True) if r.reproduces}
    of_two_microphones = {"lora_beats_cancel", "frozen_beats_bands_cancel"}
    assert reproducing - set(sweep.recipes) == (set() if stereo else of_two_microphones)
    told = [line.split(":")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert set(told) == (set() if stereo else of_two_microphones)
    asked = {t.backend for n in sweep.recipes for t in load_recipe(n).reproduces}
    for trial, _ in expand(sweep, "test"):
        frontend = trial.system.frontend
        assert all("made_up" in network for _, network in _networks(trial.system)), trial.recipe
        assert frontend.has_made_up_weights == bool(frontend.input_files(dcase, "fan", 0))
        own = set(trial.backends(sweep.backends))
        assert (
            own & {t.backend for t in load_recipe(trial.recipe).reproduces} or trial.recipe not in reproducing
        )
    assert {b for b in asked if b.name not in ("own", "recon")} <= set(sweep.backends)


@pytest.mark.parametrize("synthetic", [True, False])
def test_recipes_by_another_name_keep_all_that_is_said_of_them(synthetic):
    recipes = {"mine": {"recipe": "raw_beats", "zip": {"audio.duration": [5, 6]}}}
    asked = {"recipes": recipes, "audio.padding": "zero"}
    sweep = _benchmark_sweep(FOLDER / f"{DCASE}.yaml", DCASE, asked, [], synthetic)
    systems = {trial.system.audio.duration: trial for trial, _ in expand(sweep, "x")}
    assert {t.recipe for t in systems.values()} == {"mine"}
    assert {*systems} == {5, 6}
    assert systems[5].system.audio.padding == "zero"
    assert systems[5].system.frontend.network == ("beats_made_up" if synthetic else "beats")


def test_made_up_weights_are_the_same_every_time_and_of_their_network_alone(tmp_path):
    for network in MADE_UP.values():
        one, other = tmp_path / "1" / f"{network}.pt", tmp_path / "2" / f"{network}.pt"
        made_up.write(network, one)
        made_up.write(network, other)
        assert one.read_bytes() == other.read_bytes()
        weights.check(network, one)
    with pytest.raises(
        ValueError, match="holds weights of the network 'beats_made_up', not of 'eat_made_up'"
    ):
        weights.check("eat_made_up", tmp_path / "1" / "beats_made_up.pt")


def test_synthetic_has_a_folder_of_its_own_and_says_so_everywhere(asdray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASDRAY_DATA", str(tmp_path / "official"))
    args = ["benchmark", DCASE, "--synthetic", "--no-dashboard"]
    for option in ("recipes=[raw_spec]", f"machines={{{DCASE}: [fan, bandsaw]}}", "audio.duration=2.4"):
        args += ["--set", option]
    code, out, err = asdray(*args, "--set", "backends=[knn]", "--dry-run")
    assert (code, err) == (0, "")
    assert "2 trainings, 2 machines to extract and score" in out
    assert [p.name for p in tmp_path.iterdir()] == ["benchmark-synthetic"]
    assert not (tmp_path / "benchmark-synthetic" / "results").exists()

    # The same trial without Ray, which the tests of the sweep are about: nothing is left to do for it.
    root = tmp_path / "benchmark-synthetic"
    same = [
        "--set",
        "train.epochs=2",
        "--set",
        "audio.duration=2.4",
        "--machines",
        "fan,bandsaw",
        "--no-umap",
    ]
    code, _, _ = asdray(
        "run", "raw_spec", DCASE, *same, "--data", root / "data", "--results", root / "results"
    )
    assert code == 0
    code, out, err = asdray(*args, "--set", "backends=[knn]")
    assert (code, err) == (0, "")
    assert "train    2 already done" in out
    assert "(synthetic data)" in out
    assert "Dataset: synthetic." in out
    assert [p.name for p in tmp_path.iterdir()] == ["benchmark-synthetic"]
    folder = root / "results" / "sweeps" / DCASE
    (ours,) = pd.read_csv(folder / "leaderboard.csv").to_dict("records")
    assert (ours["dataset"], ours["origin"], ours["rank"]) == ("synthetic", "ours", 1)
    assert not list(folder.glob("beside_published.*"))
    assert "published" not in (folder / "leaderboard.md").read_text()

    code, _, err = asdray("benchmark", DCASE, "--data", "benchmark-synthetic/data")
    assert code == 2
    assert "--synthetic" in err


# ------------------------------------------------------------------------------------- missing weights


def test_recipes_without_weights_are_left_out_and_told(asdray, official, tmp_path):
    places = Places.of(official[1], tmp_path)
    file = places.data / "encoders" / "BEATs_iter3.pt"
    code, out, err = asdray("benchmark", DCASE, "--dry-run", "--data", official[1], "--results", tmp_path)
    assert (code, err) == (0, "")
    told = [line for line in out.splitlines() if line.startswith("left out: ")]
    assert len(told) == 8
    assert (
        f"left out: raw_beats: there are no weights {file}; get it with `asdray encoders fetch BEATs_iter3`"
        in told
    )
    assert "raw_spec " in out
    assert "raw_beats-" not in out
    code, out, err = asdray(
        "benchmark",
        DCASE,
        "--dry-run",
        "--data",
        official[1],
        "--results",
        tmp_path,
        "--set",
        "recipes=[raw_beats]",
    )
    assert (code, "left out" in out) == (2, False), "the user asked for it"
    assert f"recipe raw_beats: frontend.weights: cannot read {file}" in err

    path = FOLDER / f"{DCASE}.yaml"
    sweep = _with_weights_that_are_here(load_sweep(path), path, DCASE, {}, places)
    (note,) = sweep.notes
    assert note.startswith("Left out, since their weights are missing: raw_beats, raw_eat, ")
    assert sweep.backends == load_sweep(path).backends, "nothing is scored as a recipe that is left out"


def test_official_data_refuse_made_up_weights(asdray, official, tmp_path):
    options = ["frontend.network=beats_made_up", "frontend.weights=encoders/beats_made_up.pt"]
    sets = [part for option in options for part in ("--set", option)]
    places = ["--data", official[1], "--results", tmp_path]
    code, _, err = asdray("run", "raw_beats", DCASE, *sets, "--no-umap", "--machines", "fan", *places)
    assert code == 2
    assert "recipe raw_beats: the weights of beats_made_up and eat_made_up are drawn at random" in err
    system = with_overrides(load_recipe("raw_beats").system, dict(o.split("=") for o in options), "test")
    trial = Trial(DCASE, "raw_beats", system, 0, ("fan",))
    with pytest.raises(ValueError, match="drawn at random, for synthetic data only"):
        train(TrialFiles.load(trial, Places.of(official[1], tmp_path)), trial.units[0])


# -------------------------------------------------------------------------------- beside published rows


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """All machines of a year, as if from the organisers, with few and short clips; raw_spec is done."""
    root = tmp_path_factory.mktemp("official")
    machines = [*YEARS[DCASE].all_machines]
    write_list(build_tree(root / "data", DCASE, machines, {"source": 5, "target": 1}, n_samples=8000))
    format_dataset(root / "data", DCASE)
    places = ["--data", root / "data", "--results", root / "results"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        for name, value in WORKER_ENV.items():
            patch.setenv(name, value)
        main(["run", "raw_spec", DCASE, "--backend", SMOTE, "--no-umap", *map(str, places)])
    assert ended.value.code == 0
    return places


SETS = ["--set", "recipes=[raw_spec]", "--set", f"backends=[{SMOTE}]"]


def test_ours_stand_beside_published_rows(asdray, official):
    note = ["--set", "notes=[A sentence of ours.]"]
    code, out, err = asdray("benchmark", DCASE, *SETS, *note, "--no-dashboard", *official)
    assert (code, err) == (0, "")
    assert "A sentence of ours." in (Path(official[3]) / "sweeps" / DCASE / "leaderboard.md").read_text()
    folder = Path(official[3]) / "sweeps" / DCASE
    board = pd.read_csv(folder / "leaderboard.csv").set_index("system")
    (ours,) = board[board["origin"] == "ours"].to_dict("records")
    assert ours["rank"] == 1
    assert ours["dataset"] == "official"
    assert ours["label_source"] == "eval_data_list_2023.csv+name"
    assert board.loc["ASDKit raw_spec", f"{DCASE}-eval_mean"] == 0.5999
    assert board["rank"].notna().sum() == 1
    beside = pd.read_csv(folder / "beside_published.csv").set_index("column")
    assert list(beside.index) == [f"{DCASE}-dev", f"{DCASE}-eval"]
    for column, theirs in ((f"{DCASE}-dev", 0.5475), (f"{DCASE}-eval", 0.5999)):
        row = beside.loc[column]
        assert row["published_mean"] == theirs
        assert row["difference"] == pytest.approx(ours[f"{column}_mean"] - theirs)
        assert pd.isna(row["within_spread"]), "one run of each: nobody knows the spread"
        assert row["tolerance"] == 0.005
        assert row["within_tolerance"] == (abs(row["difference"]) <= 0.005)
    assert "published results that they follow" in out
    assert f"{100 * beside.loc[f'{DCASE}-eval', 'difference']:+.2f}" in out
    assert re.search(r"\[\d\] Fujimura et al\. 2025, ASDKit, arXiv 2507\.10264, Fig\. 2", out)
    assert (folder / "leaderboard.tex").read_text().count("published") > 10
    # It ends with a file that whoever gets it can check.
    path = folder / f"{DCASE}.zip"
    assert out.splitlines()[-2].endswith(
        f"in one file ({size(path.stat().st_size)}, no audio, no models): {path}"
    )
    code, theirs, err = asdray("report", path)
    assert (code, err) == (0, "")
    shown = [line for line in out.splitlines() if "ASDKit raw_spec" in line and f"{DCASE}-" in line]
    assert len(shown) == 2
    assert all(line in theirs for line in shown)
    assert "recomputed from the scores" in theirs


def test_other_options_than_the_published_ones_are_reported_before_the_run(asdray, official):
    alone = "no result published for dcase2023 will stand beside ours"
    for more, shown in (
        ([], False),
        (["--set", "audio.duration=2.4"], True),
        (["--set", "backends=[kmeans]"], True),
    ):
        code, out, err = asdray("benchmark", DCASE, *SETS, *more, "--dry-run", *official)
        assert (code, err, alone in out) == (0, "", shown), more


def test_report_by_another_column_and_metric(asdray, official):
    folder = Path(official[3]) / "sweeps" / DCASE
    code, _, _ = asdray("benchmark", DCASE, *SETS, "--no-dashboard", "--quiet", *official)
    assert code == 0
    code, out, err = asdray("report", DCASE, "--rank-by", f"{DCASE}-dev", *official)
    assert (code, err) == (0, "")
    assert f"Ranked by {DCASE}-dev." in out
    board = pd.read_csv(folder / "leaderboard.csv")
    values = board[f"{DCASE}-dev_mean"].dropna()
    assert list(values) == sorted(values, reverse=True)
    code, out, _ = asdray("report", DCASE, "--metric", "mix_auc", "--metric", "s_auc", *official)
    assert code == 0
    assert "mix_auc in percent" in out
    table = pd.read_csv(folder / "tables" / "mix_auc23-eval.csv")
    metrics = pd.read_parquet(next(Path(official[3]).glob("trials/*/*/*/metrics.parquet")))
    is_it = (metrics["metric"] == "mix_auc") & (metrics["section"] == -1) & (metrics["machine"] == "bandsaw")
    assert table["bandsaw"].tolist() == metrics["value"][is_it].tolist()
    of_auc = pd.read_csv(folder / "leaderboard-mix_auc.csv")
    assert set(of_auc["origin"]) == {"ours"}, "published rows are of another metric"
    code, _, _ = asdray("report", DCASE, *official)
    assert code == 0
    assert not list(folder.glob("leaderboard-*"))
    assert sorted(p.name for p in (folder / "tables").iterdir()) == [
        "official23-dev-std.csv",
        "official23-dev.csv",
        "official23-eval-std.csv",
        "official23-eval.csv",
    ]
    code, _, err = asdray("report", DCASE, "--metric", "s_aucc", *official)
    assert code == 2
    assert "did you mean 's_auc'" in err


def test_a_trials_table_of_another_metric(asdray, official):
    trial = next(Path(official[3]).glob("trials/*/*/*"))
    records = (trial / "done.json").read_bytes()
    code, out, err = asdray("table", trial, "--metric", "s_auc", "--data", official[1])
    assert (code, err) == (0, "")
    assert "s_auc23-eval.csv" in out
    table = pd.read_csv(trial / "output" / "last" / "s_auc23-dev.csv")
    assert list(table.columns) == ["backend", *YEARS[DCASE].machines["dev"], "total", "machines", "dataset"]
    metrics = pd.read_parquet(trial / "metrics.parquet")
    is_it = (metrics["metric"] == "s_auc") & (metrics["section"] == -1) & (metrics["machine"] == "fan")
    assert table["fan"].tolist() == metrics["value"][is_it].tolist()
    assert (trial / "done.json").read_bytes() == records, "a view on request, no result"
    code, _, _ = asdray("table", trial, "--overwrite", "--data", official[1])
    assert code == 0
    assert not list(trial.glob("output/*/s_auc*")), "it would no longer belong to metrics.parquet"
    code, _, err = asdray("table", trial, "--metric", "f1", "--data", official[1])
    assert code == 2
    assert "unknown metric 'f1'" in err


def test_a_part_of_the_machines_has_no_published_rows_beside_it(asdray, official):
    dev = ",".join(YEARS[DCASE].machines["dev"])
    code, _, err = asdray(
        "benchmark",
        DCASE,
        *SETS,
        "--set",
        f"machines={{{DCASE}: [{dev}, bandsaw]}}",
        "--no-dashboard",
        *official,
    )
    assert (code, err) == (0, "")
    board = pd.read_csv(Path(official[3]) / "sweeps" / DCASE / "leaderboard.csv")
    theirs = board[board["origin"] == "published"]
    assert theirs[f"{DCASE}-dev_mean"].notna().all(), "all dev machines are there"
    assert theirs[f"{DCASE}-eval_mean"].isna().all(), "one eval machine makes another number"
    assert "Challenge top" not in set(theirs["system"])
    assert load_recipe("raw_spec").system.id in "".join(board["system"])
