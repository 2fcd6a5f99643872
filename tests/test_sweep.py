"""The main job on a real local Ray, with real wavs, through the real command line."""

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from marked import marks
from sweeping import World, make_data, stages, start, wait_for

from asdray import load_results

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


@pytest.fixture(scope="module")
def world(data, tmp_path_factory):
    return World(data, tmp_path_factory.mktemp("w") / "results")


@pytest.fixture(scope="module")
def first(world):
    """Two of the three machines, both recipes."""
    run, events = world.sweep(machines={"dcase2023": ["fan", "bandsaw"]})
    return run, events, world.tables()


def test_a_sweep_ends_with_a_leaderboard(first, world):
    run, events, _ = first
    assert stages(events) == {"train": 3, "extract": 4, "score": 4, "evaluate": 4, "table": 2}
    assert all(e["status"] == "done" for e in events)
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert list(board["recipe"].sort_values()) == ["ae_baseline", "dis_baseline"]
    assert set(board["backend"]) == {"knn", "recon"}
    assert set(board["dataset"]) == {"synthetic"}
    for subset in ("dev", "eval"):
        assert board[f"dcase2023-{subset}_mean"].between(0, 1).all()
        assert (board[f"dcase2023-{subset}_n"] == board[f"dcase2023-{subset}_n_expected"]).all()
        assert board[f"dcase2023-{subset}_std"].isna().all(), "one seed has no deviation"
    assert "synthetic" in (world.folder() / "leaderboard.md").read_text()
    assert "dis_baseline" in run.stdout
    assert "extract  4 done now" in run.stdout

    trials = pd.read_parquet(world.folder() / "trials.parquet")
    assert list(trials["status"]) == ["done", "done"]
    assert trials[["train_seconds", "extract_seconds", "score_seconds"]].notna().all(axis=None)
    for directory in trials["directory"]:
        folder = world.results / directory
        description = json.loads((folder / "trial.json").read_text())
        assert description["provenance"]["versions"]["torch"]
        assert description["dataset"]["kind"] == "synthetic"
        assert (folder / "metrics.parquet").exists()
        assert (folder / "output" / "last" / "official23-dev.csv").exists()
        assert list(folder.glob("model/*/events.out.tfevents.*"))


def test_again_does_nothing_and_starts_no_ray(first, world):
    code = (
        "import sys, atexit; atexit.register(lambda: print('ray started:', 'ray' in sys.modules));"
        "from asdray.cli import main; main(sys.argv[1:])"
    )
    command = world.command(machines={"dcase2023": ["fan", "bandsaw"]})
    before = world.events()
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True
    )
    assert "ray started: False" in run.stdout
    assert world.events() == before
    for stage, n in {"train": 3, "extract": 4, "score": 4, "evaluate": 4, "table": 2}.items():
        assert f"{stage:<9}{n} already done\n" in run.stdout


def test_all_that_is_written_of_synthetic_data_says_so(first, world, asdray):
    """Of the sweep, its trials, an ensemble, other metrics, a comparison, a submission and its evaluation."""
    where = ("--data", world.data, "--results", world.results)
    mix = {"name": "mix", "of": ["dis_baseline/knn", "ae_baseline/recon"], "seeds": "each"}
    sweep = world.command(machines={"dcase2023": ["fan", "bandsaw"]}, ensembles=[mix])
    dis, ae = sorted(world.results.glob("trials/*/*/seed0"), reverse=True)
    truth = world.data / "original" / "dcase2023" / "ground_truth"
    for command in (
        sweep,
        ("report", "tiny", "--metric", "mix_auc", *where),
        ("table", dis, "--metric", "s_auc", "--data", world.data),
        ("compare", dis, ae, "--draws", 100, "--out", world.results / "compared.csv", *where),
        ("submit", dis, "--backend", "knn", "--out", world.results / "mine", "--data", world.data),
        ("official", world.results / "mine", "--dcase", "dcase2023", "--ground-truth", truth, "--partial"),
    ):
        code, out, err = asdray(*command)
        assert (code, err) == (0, ""), command
        assert "synthetic" in out, command
    found = marks(world.results)
    assert [name for name, marked in found.items() if not marked] == []
    names = {name.rpartition("/")[2] for name in found}
    assert names == {
        *(f"leaderboard{m}.{s}" for m in ("", "-mix_auc") for s in ("csv", "parquet", "md", "tex")),
        *(f"{m}23-{s}{std}.csv" for m in ("official", "mix_auc") for s in ("dev", "eval") for std in ("", "-std")),
        "s_auc23-dev.csv", "s_auc23-eval.csv", "test_evaluate.csv", "metrics.parquet", "trials.parquet",
        "train_score.csv", "test_score.csv",
        "compared.csv", "teams_official_score_ci95.csv",
    }  # fmt: skip
    assert sum(name.startswith("/sweeps/tiny/ensembles/") for name in found) == 1
    assert set(load_results(world.folder())["dataset"]) == {"synthetic"}
    assert (
        json.loads((world.results / "mine" / "submission.json").read_text())["dataset"]["kind"] == "synthetic"
    )
    # The mark of the submission stays where the ground truth lost its own.
    shutil.copytree(truth, world.results / "truth")
    code, _, err = asdray(
        "official", world.results / "mine", "--dcase", "dcase2023", "--ground-truth", world.results / "truth"
    )
    assert (code, "a submission of synthetic data" in err) == (2, True)


def test_one_deleted_file_costs_only_its_stage_and_plots_can_come_later(first, world):
    (victim,) = world.results.glob("trials/dcase2023/dis_baseline-*/seed0/output/last/fan/scores/*.parquet")
    content = victim.read_bytes()
    victim.unlink()
    _, events = world.sweep(machines={"dcase2023": ["fan", "bandsaw"]}, umap={})
    assert victim.read_bytes() == content
    plots = [e for e in events if e["stage"] == "umap"]
    assert len(plots) == 4, "asked for only now"
    pictures = list(world.results.glob("trials/*/*/*/output/last/*/umap/umap.png"))
    assert len(pictures) == 4
    assert all(b"(synthetic data)" in picture.read_bytes() for picture in pictures), "in the title"
    rest = [e for e in events if e["stage"] != "umap"]
    assert set(stages(rest)) <= {"score", "evaluate", "table"}
    assert stages(rest)["score"] == 1
    assert {e["machine"] for e in rest} <= {"fan", None}


def test_more_machines_train_the_shared_network_anew_and_keep_finished_autoencoders(first, world):
    _, events = world.sweep()
    assert stages(events, recipe="dis_baseline") == {
        "train": 1, "extract": 3, "score": 3, "evaluate": 3, "table": 1,
    }  # fmt: skip
    assert stages(events, recipe="ae_baseline") == {
        "train": 1, "extract": 1, "score": 1, "evaluate": 1, "table": 1,
    }  # fmt: skip
    (train,) = [e for e in events if e["stage"] == "train" and e["recipe"] == "ae_baseline"]
    assert train["unit"] == "valve"


def test_one_more_seed_trains_only_that_seed_and_one_more_backend_only_scores(first, world):
    world.sweep()  # where this test runs alone; else nothing is left of it
    _, events = world.sweep(seeds=[0, 1])
    assert {e["seed"] for e in events} == {1}
    assert stages(events)["train"] == 4

    _, events = world.sweep(seeds=[0, 1], backends=["knn", {"name": "knn", "metric": "euclidean"}])
    assert stages(events) == {"score": 6, "evaluate": 6, "table": 2}
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert set(board["backend"]) == {"knn(metric=cosine)", "knn(metric=euclidean)", "recon"}
    assert board["dcase2023-eval_std"].notna().all()
    # The smaller sweep on the same trials still has nothing to do.
    _, events = world.sweep(seeds=[0, 1])
    assert events == []


def test_killed_twice_gives_the_tables_of_an_undisturbed_run(first, data, tmp_path):
    two = {"dcase2023": ["fan", "bandsaw"]}
    world = World(data, tmp_path / "results")
    process = start(world, machines=two)
    wait_for(lambda: list(world.results.glob("trials/*/dis*/*/model/*/checkpoints/last.ckpt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [e for e in world.events() if e["recipe"] == "dis_baseline"], "killed in training"

    process = start(world, machines=two)
    wait_for(lambda: any(e["stage"] == "extract" for e in world.events()), process)
    process.send_signal(signal.SIGKILL)
    process.wait()

    world.sweep(machines=two)
    _, calm_events, calm_tables = first
    assert world.tables() == calm_tables
    done = Counter((e["recipe"], e["stage"], e["unit"], e["machine"], e["backend"]) for e in world.events())
    assert max(done.values()) == 1, "a finished stage was repeated"
    assert set(done) == {
        (e["recipe"], e["stage"], e["unit"], e["machine"], e["backend"]) for e in calm_events
    }
