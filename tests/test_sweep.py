"""The main job on a real local Ray, with real wavs, through the real command line.

What is interrupted and run to its end is done once; each test goes on with a copy of its results.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
from marked import marks
from sweeping import (
    ONE_BY_ONE,
    SMALL_AE,
    SMALL_DIS,
    World,
    by_hand,
    make_data,
    ray_folders,
    stages,
    start,
    wait_for,
)

from asdray import load_results
from asdray.store import Places, lease, trial_dir
from asdray.sweep.plan import load

pytestmark = pytest.mark.ray

DIS = {**SMALL_DIS, "train.epochs": 60}
"""Long enough to be stopped between its first epoch and its last."""
TWO = {
    "recipes": {"dis_baseline": {"set": DIS}, "ae_baseline": {"set": SMALL_AE}},
    "machines": {"dcase2023": ["fan", "bandsaw"]},
    "resources": ONE_BY_ONE,
}
"""Both recipes, two of the three machines."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """A sweep that was stopped and run to its end: its results, and what was seen of each run."""
    world = World(data, tmp_path_factory.mktemp("w") / "results")
    jobs = load(world.command(**TWO)[1], {}, Places.of(data, world.results))[1]
    (ae,) = [job.trial for job in jobs if job.trial.recipe == "ae_baseline"]
    with lease(trial_dir(world.results, ae).machine("last", "bandsaw")):  # waited for: no run ends by itself
        process = start(world, own_group=True, **TWO)
        wait_for(lambda: in_training(world), process)
        (folder,) = ray_folders(process.pid)
        os.killpg(process.pid, signal.SIGTERM)  # as Slurm and `timeout` do
        output = process.communicate(timeout=300)[0]
    stopped = SimpleNamespace(output=output, code=process.returncode, folder=folder, events=world.events())
    run, _ = world.sweep(**TWO)
    return SimpleNamespace(world=world, stopped=stopped, output=run.stdout)


def in_training(world):
    """True once the training of all machines has its first epoch behind it."""
    return list(world.results.glob("trials/*/dis*/*/model/*/checkpoints/last.ckpt"))


@pytest.fixture
def world(first, data, tmp_path):
    """The finished sweep, for this test alone."""
    shutil.copytree(first.world.results, tmp_path / "results")
    return World(data, tmp_path / "results")


def keys(events):
    """Recipe, stage, unit, machine and backend of each event."""
    return [(e["recipe"], e["stage"], e["unit"], e["machine"], e["backend"]) for e in events]


def test_sigterm_stops_cleanly(first):
    stopped = first.stopped
    assert stopped.code == 75, stopped.output
    assert "to go on: asdray sweep" in stopped.output
    assert "Traceback" not in stopped.output
    assert "SIGTERM received" not in stopped.output, "Ray's handler aborts a stop of over 3 s"
    assert not stopped.folder.exists(), "its Ray's folder is gone"
    assert ("ae_baseline", "extract", None, "bandsaw", None) not in keys(stopped.events)


def test_stopped_it_goes_on_and_gives_the_tables_of_a_run_by_hand(first, world, tmp_path, asdray):
    assert not [e for e in first.stopped.events if e["recipe"] == "dis_baseline"], "stopped in training"
    assert_as_by_hand(world, World(world.data, tmp_path / "calm"), asdray)


@pytest.mark.chaos
def test_killed_it_goes_on_and_gives_the_tables_of_a_run_by_hand(data, tmp_path, asdray):
    world = World(data, tmp_path / "results")
    process = start(world, **TWO)
    wait_for(lambda: in_training(world), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = ray_folders(process.pid)
    assert not [e for e in world.events() if e["recipe"] == "dis_baseline"], "killed in training"
    world.sweep(**TWO)
    assert not folder.exists(), "the next Ray removes what the killed one left"
    assert_as_by_hand(world, World(data, tmp_path / "calm"), asdray)


def assert_as_by_hand(world, calm, asdray):
    assert world.tables() == by_hand(asdray, calm, **TWO)
    done = Counter(keys(world.events()))
    assert max(done.values()) == 1, "a finished stage was repeated"
    assert set(done) == set(keys(calm.events()))


def test_a_sweep_ends_with_a_leaderboard(first, world):
    assert all(e["status"] == "done" for e in world.events())
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert list(board["recipe"].sort_values()) == ["ae_baseline", "dis_baseline"]
    assert set(board["backend"]) == {"knn", "recon"}
    assert set(board["dataset"]) == {"synthetic"}
    for subset in ("dev", "eval"):
        assert board[f"dcase2023-{subset}_mean"].between(0, 1).all()
        assert (board[f"dcase2023-{subset}_n"] == board[f"dcase2023-{subset}_n_expected"]).all()
        assert board[f"dcase2023-{subset}_std"].isna().all(), "one seed has no deviation"
    assert "synthetic" in (world.folder() / "leaderboard.md").read_text()
    assert "dis_baseline" in first.output
    (extracts,) = re.findall(r"extract +((?:\d already done|\d done now|, )+)\n", first.output)
    assert sum(map(int, re.findall(r"\d", extracts))) == 4, "before it was stopped, or after"

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


def test_again_does_nothing_and_starts_no_ray(world):
    code = (
        "import sys, atexit; atexit.register(lambda: print('ray started:', 'ray' in sys.modules));"
        "from asdray.cli import main; main(sys.argv[1:])"
    )
    command = world.command(**TWO)
    before = world.events()
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True
    )
    assert "ray started: False" in run.stdout
    assert world.events() == before
    for stage, n in {"train": 3, "extract": 4, "score": 4, "evaluate": 4, "table": 2}.items():
        assert f"{stage:<9}{n} already done\n" in run.stdout


def test_all_that_is_written_of_synthetic_data_says_so(world, asdray):
    """Of the sweep, its trials, an ensemble, other metrics, a comparison, a submission and its evaluation."""
    where = ("--data", world.data, "--results", world.results)
    mix = {"name": "mix", "of": ["dis_baseline/knn", "ae_baseline/recon"], "seeds": "each"}
    sweep = world.command(**TWO, ensembles=[mix])
    dis, ae = sorted(world.results.glob("trials/*/*/seed0"), reverse=True)
    truth = world.data / "original" / "dcase2023" / "ground_truth"
    for command in (
        sweep,
        ("report", "tiny", "--metric", "mix_auc", *where),
        ("table", dis, "--metric", "s_auc", "--data", world.data),
        ("compare", dis, ae, "--out", world.results / "compared.csv", *where),
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


def test_one_deleted_file_costs_only_its_stage_a_backend_only_scores_and_plots_can_come_later(world, asdray):
    (victim,) = world.results.glob("trials/dcase2023/dis_baseline-*/seed0/output/last/fan/scores/*.parquet")
    content = victim.read_bytes()
    victim.unlink()
    one_by_one = {**ONE_BY_ONE, "umap": ONE_BY_ONE["train"]}  # each worker with a UMAP compiles for a minute
    backends = ["knn", {"name": "knn", "metric": "euclidean"}]
    more = {**TWO, "backends": backends, "umap": {}, "resources": one_by_one}
    _, events = world.sweep(**more)
    assert victim.read_bytes() == content
    pictures = list(world.results.glob("trials/*/*/*/output/last/*/umap/umap.png"))
    assert len(pictures) == 4, "asked for only now"
    assert all(b"(synthetic data)" in picture.read_bytes() for picture in pictures), "in the title"
    assert stages(events, recipe="ae_baseline") == {"umap": 2}
    assert stages(events, recipe="dis_baseline") == {"score": 3, "evaluate": 2, "table": 1, "umap": 2}
    assert [e["machine"] for e in events if e["backend"] == victim.stem and not e["found"]] == ["fan"]
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert set(board["backend"]) == {"knn(metric=cosine)", "knn(metric=euclidean)", "recon"}
    # The smaller sweep on the same trials still has nothing to do.
    before = world.events()
    assert asdray(*world.command(**TWO))[0] == 0
    assert world.events() == before


def in_python(world, **changes):
    """Runs a sweep as a notebook does; prints the numbers of failures and incomplete trials to standard error."""
    code = (
        "import sys, asdray\n"
        "found = asdray.sweep(sys.argv[1], data=sys.argv[2], results=sys.argv[3])\n"
        "print(f'{len(found.failures)} failures, {len(found.unfinished)} unfinished', file=sys.stderr)"
    )
    file = world.command(**changes)[1]
    command = [sys.executable, "-c", code, *map(str, (file, world.data, world.results))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def test_what_is_added_is_trained_alone_and_what_fails_stops_nothing_else(world, asdray):
    """A third machine, for which the shared network is trained again; a second seed; a rate that diverges.

    Trials train side by side.
    """
    more = {
        "recipes": {**TWO["recipes"], "dis_baseline": {"set": DIS, "space": {"train.learning_rate": [1e-3, 1e30]}}},
        "seeds": [0, 1],
    }  # fmt: skip
    before = len(world.events())
    run = in_python(world, **more)
    events = world.events()[before:]
    lost = [e for e in events if e["status"] == "failed"]
    assert [(e["stage"], e["recipe"]) for e in lost] == [("train", "dis_baseline")] * 2
    assert {e["seed"] for e in lost} == {0, 1}
    assert [line.count("FAILED train") for line in run.stdout.splitlines()[-2:]] == [1, 1]
    assert run.stderr.splitlines()[-1] == "2 failures, 2 unfinished"
    done = [e for e in events if e["status"] == "done" and not e["found"]]
    of_a_machine = {"train": 1, "extract": 1, "score": 1, "evaluate": 1, "table": 1}
    assert stages(done, seed=0, recipe="ae_baseline") == of_a_machine
    assert {e["unit"] or e["machine"] for e in done if (e["seed"], e["recipe"]) == (0, "ae_baseline")} == {
        "valve",
        None,
    }
    assert stages(done, seed=1, recipe="ae_baseline") == {s: 1 if s == "table" else 3 for s in of_a_machine}
    for seed in (0, 1):
        assert stages(done, seed=seed, recipe="dis_baseline") == {
            "train": 1, "extract": 3, "score": 3, "evaluate": 3, "table": 1,
        }  # fmt: skip

    trials = pd.read_parquet(world.folder() / "trials.parquet")
    trials = trials[trials["recipe"] == "dis_baseline"].set_index("train.learning_rate")
    assert list(trials.loc[1e-3, "status"]) == ["done"] * 2
    assert list(trials.loc[1e30, "status"]) == ["failed"] * 2
    assert all("epoch" in e["error"] for e in lost)
    assert all(e["error"] in " ".join(trials.loc[1e30, "error"]) for e in lost)
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    ranked = board[board["rank"].notna()]
    assert set(ranked["recipe"]) == {"ae_baseline", "dis_baseline"}
    assert ranked["dcase2023-eval_std"].notna().all()
    assert board[board["rank"].isna()]["dcase2023-eval_n"].tolist() == [0]
    # Once more: it would fail again, so it is not tried, and Ray is not started.
    before = world.events()
    code, _, err = asdray(*world.command(**more))
    assert (code, "failed before; --retry-failed tries again:" in err) == (1, True)
    assert world.events() == before
