"""Experiment trackers beside a sweep: what TensorBoard, CSV files, MLflow and W&B are told; and `fail_fast`."""

import csv
import importlib.util
import shutil
import struct
import warnings

import pytest
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from sweeping import ONE_BY_ONE, SMALL_AE, SMALL_DIS, World, by_hand, make_data

from asdray.store import Places
from asdray.sweep import trackers
from asdray.sweep.plan import load
from asdray.sweep.trackers import Trackers

MACHINES = ["fan", "bandsaw"]
needs_mlflow, needs_wandb = (
    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"the extra {name} is not installed")
    for name in ("mlflow", "wandb")
)
ONE = {
    "recipes": {"ae_baseline": {"set": {**SMALL_AE, "train.epochs": 3}}},
    "machines": {"dcase2023": MACHINES},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("trackers")
    return World(make_data(root / "data"), root / "results")


@pytest.fixture
def trained(world, asdray):
    """The sweep, its trial, and the folder of the trial's files; made once."""
    if not world.folder().exists():
        by_hand(asdray, world, **ONE)
        (table,) = world.results.glob("trials/*/*/*/metrics.parquet")
        table.unlink()  # a run makes it again, and ends the trial
        rank_zero_only.rank = 1  # as in a launcher's second process (RANK, SLURM_PROCID)
        assert asdray(*world.command(**ONE, loggers=["csv", "tensorboard"]))[0] == 0
    sweep, (job,) = load(world.folder() / "sweep.yaml", {}, Places.of(world.data, world.results))
    return sweep, job


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def total(world, job, subset="eval"):
    """The trial's score, from the table of the trial."""
    folder = world.results / "trials" / "dcase2023" / job.trial.system_name / "seed0"
    (row,) = rows(folder / "output" / "last" / f"official23-{subset}.csv")
    return float(row["total"])


def losses(world, job, machine):
    """The loss of every epoch, from the log of the training."""
    folder = world.results / "trials" / "dcase2023" / job.trial.system_name / "seed0"
    return [float(row["loss"]) for row in rows(folder / "model" / machine / "metrics.csv")]


def test_files_of_a_trial_have_its_epochs_its_scores_and_its_configuration(trained, world):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, job = trained
    name = f"{job.trial.system_name}-dcase2023-seed0"
    told = rows(world.folder() / "csv" / name / "metrics.csv")
    for machine in MACHINES:
        key = f"train/{machine}/loss"
        assert [(int(r["step"]), float(r[key])) for r in told if r[key]] == [
            *enumerate(losses(world, job, machine), start=1)
        ]
    assert float(told[-1]["eval/recon/total"]) == total(world, job)
    assert float(told[-1]["dev/recon/fan"]) == total(world, job, "dev"), "the only machine of dev"
    options = yaml.safe_load((world.folder() / "csv" / name / "hparams.yaml").read_text())
    assert (options["train.epochs"], options["frontend.bottleneck"], options["seed"]) == (3, 4, 0)

    events = EventAccumulator(str(world.folder() / "tensorboard" / name))
    events.Reload()
    assert [e.value for e in events.Scalars("train/fan/loss")] == pytest.approx(losses(world, job, "fan"))
    assert events.Scalars("eval/recon/total")[-1].value == pytest.approx(total(world, job))
    assert "_hparams_/session_start_info" in events.summary_metadata, "for the page HParams"


def test_trackers_enter_no_signature_and_what_is_complete_is_not_told_again(trained, world, asdray):
    sweep, job = trained
    before = (world.folder() / "csv").stat().st_mtime_ns
    code, _, _ = asdray(*world.command(**ONE, loggers=["csv"]))
    assert code == 0
    assert (world.folder() / "csv").stat().st_mtime_ns == before
    _, (again,) = load(world.folder() / "sweep.yaml", {}, Places.of(world.data, world.results))
    assert again.trial.system.id == job.trial.system.id
    assert sweep.loggers == ("csv", "tensorboard")


def told(names, trained, world, folder):
    """What the trackers do with a trial: an epoch first, as while it trains, then its end."""
    sweep, job = trained
    made = Trackers(names, sweep.name, folder, Places.of(world.data, world.results))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.epoch(job)
        made.ended(job, "success")
        made.epoch(job)  # of a trial that never ends: its run is closed with the sweep
        made.close(600)  # imports of a busy machine take minutes
    return [*made.faults()]


def test_a_tracker_that_fails_is_told_once_and_stops_no_other(trained, world, tmp_path):
    (tmp_path / "csv").write_text("a file where a folder must be")
    (fault,) = told(["csv", "tensorboard"], trained, world, tmp_path)
    assert fault.startswith("loggers: csv is left out for the rest of this run, no result is affected: ")
    assert len([*(tmp_path / "tensorboard").rglob("events.*")]) == 1


def test_a_damaged_file_leaves_out_its_trial_and_no_tracker(trained, world, tmp_path):
    shutil.copytree(world.results, tmp_path / "results", symlinks=True)
    (path,) = tmp_path.glob("results/trials/*/*/seed0/model/fan/metrics.csv")
    path.write_text(path.read_text() + "4,?")
    (fault,) = told(["csv"], trained, World(world.data, tmp_path / "results"), tmp_path / "told")
    _, job = trained
    assert fault.startswith(
        f"loggers: {job.trial.title} is left out, no result is affected: {path} is damaged ("
    )


def test_no_tracker_starts_no_thread(trained, world, tmp_path):
    assert told([], trained, world, tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_a_tracker_that_is_not_installed_is_named_before_anything_runs(monkeypatch, world, asdray):
    monkeypatch.setattr(trackers, "_PACKAGES", {"csv": "a_package_of_nobody"})
    code, _, error = asdray(*world.command(file="b.yaml", **ONE, name="b", loggers="csv"))
    assert code == 2
    assert error == (
        "error: loggers: csv needs a package that is not installed: pip install 'asdray[csv]', or leave csv out\n"
    )
    assert not world.folder("b").exists()


@needs_mlflow
def test_mlflow_has_it_all(trained, world, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert told(["mlflow"], trained, world, tmp_path) == []
    client, (_, job) = MlflowClient((tmp_path / "mlruns").as_uri()), trained
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.status: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["FAILED", "FINISHED"]
    run = runs["FINISHED"]
    assert run.data.metrics["eval/recon/total"] == total(world, job)
    history = client.get_metric_history(run.info.run_id, "train/bandsaw/loss")
    assert [(one.step, one.value) for one in history] == [*enumerate(losses(world, job, "bandsaw"), start=1)]
    assert run.data.params["frontend.bottleneck"] == "4"
    assert run.data.tags["mlflow.runName"] == job.trial.title


def logged(data):
    """The records of a file of W&B, in the format of LevelDB's logs: blocks of 32 KiB, a record in parts."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, part = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, last
            yield record
            record = b""


@needs_wandb
def test_wandb_has_it_all_without_a_network(trained, world, tmp_path, monkeypatch):
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "asd")
    assert told(["wandb"], trained, world, tmp_path) == []
    wandb.teardown()
    found, (_, job) = [], trained
    for path in (tmp_path / "wandb").glob("offline-run-*/run-*.wandb"):
        values, run = {}, None
        for data in logged(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            run = record.run if record.HasField("run") else run
            for item in record.history.item:
                values.setdefault("/".join(item.nested_key) or item.key, []).append(
                    yaml.safe_load(item.value_json)
                )
        found.append((run.project, run.run_group, run.display_name))
        assert values["train/fan/loss"] == losses(world, job, "fan")
        assert values["eval/recon/total"] == [total(world, job)]
    assert found == [("asd", "tiny", job.trial.title)] * 2


@needs_wandb
def test_wandb_without_a_key_asks_for_none(trained, world, tmp_path, monkeypatch):
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (fault,) = told(["wandb"], trained, world, tmp_path)
    wandb.teardown()
    assert "no API key: run `wandb login`, or set WANDB_MODE=offline" in fault


# -------------------------------------------------------------------------------------------- fail_fast


@pytest.mark.ray
@pytest.mark.chaos
def test_fail_fast_ends_with_the_first_failure_and_the_next_run_has_the_rest(world, asdray):
    changes = {
        "name": "fast",
        "recipes": {
            "bad": {"recipe": "dis_baseline", "set": {**SMALL_DIS, "train.learning_rate": 1e30}},
            "good": {"recipe": "dis_baseline", "set": {**SMALL_DIS, "train.epochs": 3000}},
        },
        "resources": ONE_BY_ONE,
        "fail_fast": True,
    }
    run, _ = world.sweep(check=1, file="fast.yaml", **changes)
    assert [(e["stage"], e["recipe"]) for e in world.events("fast") if e["status"] == "failed"] == [
        ("train", "bad")
    ]
    assert "fail_fast: train all" in run.stdout + run.stderr
    assert "1 stages failed" in run.stderr
    assert "ended by its first failure; to go on with the rest: asdray sweep" in run.stderr
    code, plan, _ = asdray(*world.command(file="fast.yaml", **changes), "--dry-run")
    assert code == 0
    assert "failed before" in plan
