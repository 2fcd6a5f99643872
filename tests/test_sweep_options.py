"""Options of ``asdray sweep`` without Ray: chosen trials, earlier failures, dry runs, signals."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from board_rows import board, make_rows, pick
from finished import finish, record
from rich.console import Console
from terminal import in_terminal, read_until
from tiny import AE, DCASE, DIS, MACHINES, build_year

from asdray import store
from asdray.config.backend import backend_id
from asdray.evaluation.tables import write_trials
from asdray.stages.steps import Snapshot
from asdray.store import Places
from asdray.sweep.estimate import Estimate, Estimator
from asdray.sweep.events import EventLog, attempt, event_of
from asdray.sweep.jobs import (
    Remaining,
    TrialRun,
    count_complete,
    is_complete,
    log_found,
    trial_row,
    with_signature,
)
from asdray.sweep.keep import delete, results_of
from asdray.sweep.outputs import changes, write_spec
from asdray.sweep.plan import chooser, load
from asdray.sweep.progress import Progress, duration, render, write_snapshot
from asdray.sweep.status import plan_lines, status


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture
def world(data, tmp_path):
    return World(data, tmp_path)


class World:
    """A sweep file over tiny recipes, and its results."""

    def __init__(self, data, folder):
        self.places = Places.of(data, folder / "results")
        self.path = folder / "s.yaml"
        self.folder = store.sweep_dir(self.places.results, "s")
        for name, system in (("dis", DIS), ("ae", AE)):
            (folder / f"{name}.yaml").write_text(
                yaml.safe_dump({"about": name, **system.model_dump(mode="json")})
            )

    def load(self, **changes):
        value = {
            "name": "s", "recipes": {"dis.yaml": {"space": {"train.learning_rate": [1e-3, 1e-4]}}, "ae.yaml": {}},
            "dcase": DCASE, "seeds": [0, 1], "machines": {DCASE: list(MACHINES)}, "umap": {}, "report": False,
            **changes,
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(value, sort_keys=False))
        return load(self.path, {}, self.places)

    def command(self, *args):
        where = ["--data", self.places.data, "--results", self.places.results]
        return [sys.executable, "-m", "asdray", *map(str, (*args, *where))]

    def rows(self):
        """``trials.parquet``."""
        return pq.read_table(self.folder / "trials.parquet").to_pylist()

    def asdray(self, *args, check=0):
        run = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=300)
        assert run.returncode == check, run.stdout + run.stderr
        return run


# ------------------------------------------------------------------------------------------ what is done


def test_planning_finds_the_steps_that_the_stages_themselves_find(world):
    backends = ["knn", {"name": "knn", "n_neighbors": 2}]
    sweep, (job,) = world.load(recipes=["dis.yaml"], seeds=[0], backends=backends)
    trial = job.trial
    finish(job, sweep, world.places)
    # Another sweep's backend and checkpoint on the same trial.
    fourth = {"name": "knn", "n_neighbors": 4}
    more, (other,) = world.load(recipes=["dis.yaml"], seeds=[0], backends=[fourth], umap=False)
    finish(other, more, world.places)

    def own(step):
        """The step as the stage itself asks for it."""
        now = Snapshot(job.files(world.places))
        at = (step.machine, step.checkpoint)
        backend = next((b for b in job.backends if backend_id(b) == step.backend), None)
        unit = next((u for u in trial.units if u.name == step.unit), None)
        return {
            "train": lambda: now.train(unit, sweep.checkpoints),
            "extract": lambda: now.extract(*at),
            "score": lambda: now.score(*at, backend),
            "evaluate": lambda: now.evaluate(*at, job.backends),
            "umap": lambda: now.umap(*at, sweep.umap),
            "table": lambda: now.table(sweep.checkpoints),
        }[step.stage]()

    def compare():
        found = job.steps(sweep, world.places)
        assert found == [own(step) for step in found]
        return sum(step.complete for step in found)

    everything = compare()
    records = [
        (path.parent, name) for path in sorted(world.places.results.rglob("done.json"))
        for name in store.read_records(path.parent)
    ]  # fmt: skip
    counts = set()
    for folder, name in records:
        content = (folder / "done.json").read_bytes()
        store.write_record(folder, name, None)
        counts.add(compare())
        (folder / "done.json").write_bytes(content)
    assert compare() == everything
    assert len(counts) > 3
    # A backend more is asked for: evaluations and tables are over those that are scored.
    sweep, (job,) = world.load(
        recipes=["dis.yaml"], seeds=[0], backends=[*backends, {"name": "knn", "n_neighbors": 3}]
    )
    assert compare() == everything - len(MACHINES)
    store.write_record(job.files(world.places).folder.root, "table", None)
    assert compare() == everything - len(MACHINES) - 1


def test_a_complete_trial_has_one_record_file_per_folder(world):
    backends = ["knn", "gmm", "kmeans", "mahalanobis"]
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0], backends=backends)
    finish(job, sweep, world.places)
    assert is_complete(job.steps(sweep, world.places))
    assert len(list(world.places.results.rglob("done.json"))) == 3 * len(MACHINES) + 1


def test_planning_reads_each_record_file_once(world, monkeypatch):
    sweep, (job, *_) = world.load(seeds=[0])
    finish(job, sweep, world.places)
    read = []
    original = store.read_records
    monkeypatch.setattr(store, "read_records", lambda folder: read.append(folder) or original(folder))
    assert is_complete(job.steps(sweep, world.places))
    assert len(read) == len(set(read)) == 1 + 2 * len(MACHINES) + 1
    read.clear()
    more, (job, *_) = world.load(seeds=[0], backends=["knn", "kmeans"])
    assert count_complete(job.steps(more, world.places))["score"] == len(MACHINES)
    assert len(read) == len(set(read)) == 1 + 2 * len(MACHINES) + 1


# ------------------------------------------------------------------------------------------------- --only


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=0", 3),
        ("seed=0,1 recipe=dis", 4),
        ("train.learning_rate=1e-3", 2),
        ("train.learning_rate=0.001,0.0001 seed=1", 2),
        ("recipe=ae  seed=1", 1),
        ("dcase=dcase2023", 6),
        ("audio.channel=x", "unknown filter 'audio.channel'"),
        ("sead=0", "unknown filter 'sead'; did you mean 'seed'? (known: dcase, recipe, system, seed, train.learning_rate)"),
        ("recipe=diss", "no trial has recipe=diss; did you mean 'dis'? (there are: dis, ae)"),
        ("seed=2", "no trial has seed=2 (there are: 0, 1)"),
        ("recipe=ae train.learning_rate=1e-3", "no trial has all of recipe=ae train.learning_rate=1e-3"),
        ("seed", "'seed' must have the form name=value"),
        (" ", "names no condition"),
        ("seed=true", "no trial has seed=true"),
    ],
)  # fmt: skip
def test_only_chooses_trials(world, text, expected):
    _, jobs = world.load()
    if isinstance(expected, int):
        assert sum(map(chooser([text], jobs), jobs)) == expected
        return
    with pytest.raises(ValueError) as error:
        chooser([text], jobs)
    assert expected in str(error.value)


def test_only_given_twice_asks_for_both(world):
    _, jobs = world.load()
    assert sum(map(chooser(["recipe=dis", "seed=0"], jobs), jobs)) == 2


def test_only_by_system_and_by_objects(world):
    losses = [
        {"name": "adacos", "trainable": True},
        {"name": "adacos"},
        {"name": "subcluster_adacos", "n_subclusters": 2},
    ]
    _, jobs = world.load(recipes={"dis.yaml": {"space": {"frontend.loss": losses}}}, seeds=[0])
    system = jobs[2].trial
    for text, n in [
        (f"system={system.system_name}", 1),
        (f"system={system.system.id}", 1),
        ("frontend.loss=adacos", 2),
        ("frontend.loss={name: adacos, trainable: true},subcluster_adacos", 2),
    ]:
        assert sum(map(chooser([text], jobs), jobs)) == n, text


# --------------------------------------------------------------------------------------------- --retry-failed


def raising(error):
    def work():
        raise error

    return work


def fail(world, sweep, job, stage, error=None, **at):
    """Logs a failure as the driver does."""
    error = error or ValueError("wrong")
    log = EventLog(world.folder / "events.jsonl")
    event = attempt(event_of(job.trial, stage, **at), raising(error))
    log.add(with_signature(job.trial, job.steps(sweep, world.places), event))
    return EventLog(world.folder / "events.jsonl").lasting


def test_only_failures_that_would_happen_again_are_remembered(world):
    sweep, jobs = world.load()
    dis = jobs[0]
    unit = dis.trial.units[0].name
    for error in (OSError("full"), MemoryError(), RuntimeError("CUDA out of memory")):
        assert fail(world, sweep, dis, "train", error, unit=unit) == {}
    chained = ValueError("cannot write")
    chained.__cause__ = OSError("no space left")
    assert fail(world, sweep, dis, "train", chained, unit=unit) == {}
    assert len(fail(world, sweep, dis, "train", ValueError("diverged"), unit=unit)) == 1
    # Done after all, by another sweep or after a retry: nothing is left to be remembered.
    finish(dis, sweep, world.places, until="train")
    log = EventLog(world.folder / "events.jsonl")
    log_found(dis.trial, dis.steps(sweep, world.places), log)
    assert log.lasting == {}
    assert EventLog(world.folder / "events.jsonl").lasting == {}


def test_a_failure_whose_causes_lead_in_a_circle_is_recorded(world):
    sweep, jobs = world.load(recipes=["dis.yaml"])
    own = ValueError("its own cause")
    own.__cause__ = own
    first, second = ValueError("first"), OSError("second")
    first.__cause__, second.__cause__ = second, first
    for error, lasting in ((own, 1), (first, 1)):  # the second was caused by the disk
        assert len(fail(world, sweep, jobs[0], "table", error)) == lasting
    assert [json.loads(line)["lasting"] for line in (world.folder / "events.jsonl").open()] == [True, False]


def test_what_follows_a_failure_is_not_tried_and_the_rest_is(world):
    sweep, jobs = world.load(seeds=[0], backends=["knn", {"name": "knn", "n_neighbors": 2}])
    dis, ae = jobs[0], jobs[2]
    lasting = fail(world, sweep, dis, "train", unit=dis.trial.units[0].name)
    left = dis.remaining(sweep, world.places, lasting)
    assert not left.runs
    assert [e["error"] for e in left.failed] == ["wrong"]
    assert dis.remaining(sweep, world.places).units, "unless it is to be retried"

    lasting = fail(world, sweep, ae, "train", unit="fan")
    left = ae.remaining(sweep, world.places, lasting)
    assert [u.name for u in left.units] == ["ToyCar", "bandsaw"]
    assert {m for _, m in left.machines} == {"ToyCar", "bandsaw"} == {m for _, m in left.umaps}

    finish(dis, sweep, world.places, until="train")
    lasting = fail(world, sweep, dis, "extract", machine="fan", checkpoint="last")
    left = dis.remaining(sweep, world.places, lasting)
    assert {m for _, m in left.machines} == {"ToyCar", "bandsaw"} == {m for _, m in left.umaps}


def test_a_failed_backend_leaves_the_others_to_be_evaluated(world):
    sweep, jobs = world.load(seeds=[0], backends=["knn", {"name": "knn", "n_neighbors": 2}], umap=False)
    job = jobs[0]
    finish(job, sweep, world.places, until="extract")
    at = {"machine": "fan", "checkpoint": "last"}
    bad, good = job.backends
    lasting = fail(world, sweep, job, "score", **at, backend=backend_id(bad))
    fan = ("last", "fan")

    def left():
        return job.remaining(sweep, world.places, lasting).machines

    assert fan in left(), "the other backend is not scored"
    files = job.files(world.places)
    path = files.folder.scores("last", "fan", backend_id(good))
    record(Snapshot(files).score("fan", "last", good), [path])
    assert fan in left(), "it is not evaluated"
    step = Snapshot(files).evaluate("fan", "last", [good])
    record(step, [files.folder.evaluate("last", "fan")])
    assert fan not in left()
    lasting = {}
    assert fan in left(), "--retry-failed"
    store.write_record(step.folder, store.record_name("score", backend_id(good)), None)
    lasting = EventLog(world.folder / "events.jsonl").lasting
    assert fan in left()


def test_a_run_with_nothing_but_old_failures_says_so_and_starts_no_ray(world):
    sweep, jobs = world.load(recipes=["ae.yaml"], umap=False, seeds=[0])
    (job,) = jobs
    finish(job, sweep, world.places)
    store.write_record(job.files(world.places).folder.model("fan"), "train", None)
    fail(world, sweep, job, "train", ValueError("training diverged"), unit="fan")
    run = world.asdray("sweep", world.path, check=1)
    assert "failed before; --retry-failed tries again:" in run.stderr
    assert "train fan: training diverged" in run.stderr
    (row,) = world.rows()
    assert (row["status"], row["error"]) == ("failed", "train fan: training diverged")
    assert len(EventLog(world.folder / "events.jsonl").failures) == 0


def test_a_failure_of_another_unit_leaves_a_trial_with_work(world):
    """After `--retry-failed` all units are trained again, before all but the failed unit."""
    sweep, jobs = world.load(recipes=["ae.yaml"], seeds=[0], umap=False)
    lasting = fail(world, sweep, jobs[0], "train", unit="fan")
    text = "\n".join(plan_lines(sweep, jobs, world.places))
    assert "failed: train ToyCar, train bandsaw, score 2 machines, table, failed before: train fan" in text
    assert "1 failed before; left: 2 trainings, 2 machines" in text
    again = "\n".join(plan_lines(sweep, jobs, world.places, retry_failed=True))
    assert "waiting: train fan, train ToyCar, train bandsaw" in again
    assert len(lasting) == 1


# -------------------------------------------------------------------------------------------- changed files


def test_changes_of_the_file_are_reported(world):
    assert changes(*world.load(), world.folder) == []
    sweep, jobs = world.load()
    rows = [trial_row(job, job.steps(sweep, world.places), world.places, []) for job in jobs]
    write_spec(sweep, world.folder)
    write_trials(rows, world.folder)
    assert changes(sweep, jobs, world.folder) == []
    sweep, jobs = world.load(seeds=[1, 2], backends=["knn", {"name": "knn", "n_neighbors": 2}])
    lines = changes(sweep, jobs, world.folder)
    assert lines == [
        "changed since the last run: seeds, backends",
        "trials: 3 new, 3 as before, 3 no longer asked for (their results stay)",
    ]
    assert plan_lines(sweep, jobs, world.places)[:2] == lines, "a dry run says it before all else"


def test_a_search_with_another_question_says_that_it_starts_over(world):
    sweep, jobs = world.load()
    write_trials(
        [trial_row(job, job.steps(sweep, world.places), world.places, []) for job in jobs],
        world.folder,
    )
    search = {"algorithm": "random", "num_samples": 2, "objective": {"metric": "train_loss"}}
    assert changes(*world.load(search=search), world.folder) == [
        "the search starts over, since its question has changed: 6 trials no longer count (their results stay, and "
        "are reused for systems that it samples again)"
    ]


def test_changed_options_are_named_by_their_paths(world):
    write_spec(world.load(recipes=["ae.yaml"], keep={"checkpoints": "all"})[0], world.folder)
    now = world.load(recipes={"ae.yaml": {"set": {"train.epochs": 2}}}, keep={"checkpoints": "last"})
    (line,) = changes(*now, world.folder)
    recipe = world.path.parent / "ae.yaml"
    assert line == f"changed since the last run: recipes.{recipe}.set, keep.checkpoints"


# -------------------------------------------------------------------------------------------------- --fresh


def test_fresh_deletes_the_trials_that_are_meant_and_no_others(world):
    other, others = world.load(name="other", seeds=[1, 2], umap=False)
    for job in others:
        finish(job, other, world.places, until="train")
    folder = store.sweep_dir(world.places.results, "other")
    rows = [trial_row(job, job.steps(other, world.places), world.places, []) for job in others]
    write_spec(other, folder)
    write_trials(rows, folder)
    sweep, jobs = world.load(umap=False)
    for job in jobs:
        finish(job, sweep, world.places)
        fail(world, sweep, job, "table")
    events = world.folder / "events.jsonl"
    everything = sorted(world.places.results.glob("trials/*/*/*"))

    run = world.asdray("sweep", world.path, "--fresh", check=2)
    assert "--fresh deletes all results of 6 trials (" in run.stdout
    assert "3 of them belong to the sweep 'other' too" in run.stdout
    assert "say --yes as well" in run.stderr
    world.asdray("sweep", world.path, "--fresh", "--dry-run")
    assert sorted(world.places.results.glob("trials/*/*/*")) == everything

    with store.lease(folder), pytest.raises(ValueError, match="'other' runs and has some of these trials"):
        delete(results_of(sweep, jobs, world.places), sweep, world.places)
    with store.lease(world.folder), pytest.raises(ValueError, match="'s' runs: stop it first"):
        delete(results_of(sweep, jobs, world.places), sweep, world.places)
    assert sorted(world.places.results.glob("trials/*/*/*")) == everything

    assert len(events.read_text().splitlines()) == 6
    chosen = [job for job in jobs if job.trial.seed == 0]
    delete(results_of(sweep, chosen, world.places), sweep, world.places)
    left = sorted(world.places.results.glob("trials/*/*/*"))
    assert left == [path for path in everything if path.name != "seed0"]
    assert {json.loads(line)["seed"] for line in events.read_text().splitlines()} == {1}
    assert not any(count_complete(job.steps(sweep, world.places)) for job in chosen)
    assert all(is_complete(job.steps(sweep, world.places)) for job in jobs if job.trial.seed == 1)


def test_results_of_release_0_1_are_refused_untouched_until_they_are_deleted(world, asdray):
    sweep, (job,) = world.load(recipes=["dis.yaml"], seeds=[0])
    folder = job.files(world.places).folder
    old = folder.model(job.trial.units[0].name) / ".done" / "train.json"
    store.write_json(folder.trial_json, {"dcase": DCASE})
    store.write_json(old, {"format": 1, "stage": "train"})
    write_spec(sweep, world.folder)
    before = {path: path.read_bytes() for path in world.places.results.rglob("*") if path.is_file()}
    data = ["--data", world.places.data]
    where = [*data, "--results", world.places.results]
    commands = (
        ["sweep", world.path, *where],
        ["sweep", world.path, "--dry-run", *where],
        ["status", "s", *where],
        ["report", "s", *where],
        ["run", world.path.with_name("dis.yaml"), DCASE, "--machines", ",".join(MACHINES), *where],
        *(
            [stage, folder.root, *data]
            for stage in ("train", "extract", "score", "evaluate", "umap", "table")
        ),
    )
    for command in commands:
        code, out, err = asdray(*command)
        assert (code, out) == (2, ""), command
        (line,) = err.splitlines()
        assert f"{folder.root} was written by asdray 0.1" in line
        assert "--fresh" in line
        assert "--results" in line
    assert {p: p.read_bytes() for p in world.places.results.rglob("*") if p.is_file()} == before
    code, out, err = asdray("sweep", world.path, "--fresh", "--dry-run", *where)
    assert (code, err) == (0, "")
    assert str(folder.root) in out
    sweep, jobs = load(world.path, {}, world.places, fresh=True)
    delete(results_of(sweep, jobs, world.places), sweep, world.places)
    assert not folder.root.exists()
    assert asdray("sweep", world.path, "--dry-run", *where)[0] == 0


# ------------------------------------------------------------------------------- --dry-run and the estimates


def estimator_of(sweep, jobs, places):
    """An estimator of trials in their state on disk."""
    estimator = Estimator()
    for index, job in enumerate(jobs):
        estimator.add_trial(index, job.trial, job.dataset, job.steps(sweep, places))
    return estimator


def test_a_dry_run_estimates_by_what_is_finished(world):
    sweep, jobs = world.load(umap=False)
    lines = plan_lines(sweep, jobs, world.places)
    assert lines[-1] == "no estimate of time and disk yet: nothing like it is finished"
    assert lines[0].endswith("waiting: train all, score 3 machines, table")
    # One of four dis trials, whose training took 1000 s and each of its ten other stages 10 s.
    finish(jobs[0], sweep, world.places, until="train", seconds=1000, size=4096)
    finish(jobs[0], sweep, world.places, seconds=10, size=100)
    unit = jobs[0].files(world.places).folder.model(jobs[0].trial.units[0].name)
    trained = store.read_record(unit, "train")
    store.write_record(unit, "train", dataclasses.replace(trained, seconds=1000.0))
    left = estimator_of(sweep, jobs[:4], world.places).estimate()
    assert left.train_seconds == pytest.approx(3000)
    assert left.task_seconds == pytest.approx(3 * 100, rel=0.01)
    assert left.unknown_stages == 0
    assert left.bytes == pytest.approx(3 * (100 + 3 * 4 * 100 + 100))
    assert left.wall_seconds(3, 1, 2) == pytest.approx(1000, rel=0.01)
    # With the autoencoder, of which no training is finished and no extraction; scores go by the other recipe's.
    lines = plan_lines(sweep, jobs, world.places)
    assert lines[0].endswith(": done")
    assert "and 12 stages of which nothing like it is finished" in lines[-1]
    assert lines[-1].startswith("about 50 min of training and ")
    assert len(plan_lines(sweep, jobs, world.places, chooser(["seed=0"], jobs))) == 3 + 2


def test_the_amount_left_follows_the_events(world):
    sweep, jobs = world.load(umap=False, seeds=[0])
    dis, ae = jobs[0], jobs[2]
    finish(jobs[1], sweep, world.places, seconds=100.0)
    estimator = estimator_of(sweep, jobs, world.places)
    before = estimator.estimate()
    assert before.train_seconds == pytest.approx(100, rel=0.01)
    unit = dis.trial.units[0].name
    reused = {"seconds": 900.0, "status": "done", "found": True}
    estimator.stage_ended(1, {**event_of(jobs[1].trial, "train", unit=unit), **reused})
    assert estimator.estimate() == before, "it was counted at the start"
    epochs = DIS.train.epochs
    estimator.epoch_ended(0, unit, 50.0, epochs)  # as much as the other trial took for all but one
    assert estimator.estimate().train_seconds == pytest.approx(epochs * 150 / (epochs + 1))
    done = {"seconds": 3.0, "status": "done", "found": False}
    estimator.stage_ended(0, {**event_of(dis.trial, "train", unit=unit), **done})
    estimator.stage_ended(0, {**event_of(dis.trial, "train", unit=unit), **done})
    assert estimator.estimate().train_seconds == 0
    tasks = estimator.estimate().task_seconds
    lost = {"status": "failed"}
    estimator.stage_ended(0, {**event_of(dis.trial, "extract", machine="fan", checkpoint="last"), **lost})
    left = estimator.estimate()
    assert left.task_seconds == pytest.approx(tasks - 300, rel=0.01), (
        "extract, score and evaluate of a machine"
    )
    unknown = left.unknown_stages
    estimator.stage_ended(2, {**event_of(ae.trial, "train", unit="fan"), **lost})
    assert estimator.estimate().unknown_stages == unknown - 2, "its training and extraction"
    for index in range(len(jobs)):
        estimator.trial_ended(index)
    assert estimator.estimate() == Estimate()


def loaded(command):
    """The output of a command, and the heavy modules imported."""
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'ray', 'pandas', 'lightning', 'optuna', 'umap', 'sklearn', 'numpy')\n"
        "atexit.register(lambda: print('loaded:', [m for m in heavy if m in sys.modules]))\n"
        "from asdray.cli import main; main(sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *command[3:]], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def processor_seconds(command):
    """Output of a command, and the seconds of the processor that the command used."""
    before = os.times()
    out = loaded(command)
    after = os.times()
    return out, sum(after[2:4]) - sum(before[2:4])


def test_a_thousand_trials_are_planned_in_no_time(world):
    rates = [1e-5 * i for i in range(1, 51)]
    recipes = {
        "dis.yaml": {"space": {"train.learning_rate": rates}},
        "ae.yaml": {"space": {"train.learning_rate": rates}},
    }
    few = world.path.with_name("few.yaml")
    world.load()
    few.write_text(world.path.read_text())
    sweep, jobs = world.load(recipes=recipes, seeds=list(range(10)))
    assert len(jobs) == 1000
    for job in jobs[:1000:50]:
        finish(job, sweep, world.places)
    for name, *options in (("sweep", "--dry-run"), ("status",)):
        # Seconds of the processor, against the same command over six trials: a busy or slow machine
        # lengthens both. A quiet machine needs about twice as long for the thousand.
        runs = [processor_seconds(world.command(name, few, *options)) for _ in range(2)]
        thousand = [processor_seconds(world.command(name, world.path, *options)) for _ in range(2)]
        assert all("loaded: []" in out for out, _ in runs + thousand)
        start, planned = (min(seconds for _, seconds in of) for of in (runs, thousand))
        assert planned < 4 * start, (name, start, planned)
    assert "20 done, 980 waiting of 1000 trials" in thousand[0][0]


# ------------------------------------------------------------------------------------------------- status


def test_status_before_during_and_after_a_run(world):
    def status_text():
        with console.capture() as captured:
            console.print(status(*load(world.path, {}, world.places), world.places))
        return captured.get()

    console = Console(width=150)

    sweep, jobs = world.load(umap=False, seeds=[0])
    assert "sweep s: has not been run" in status_text()
    write_spec(sweep, world.folder)
    finish(jobs[0], sweep, world.places)
    fail(world, sweep, jobs[2], "train", OSError("disk full"), unit="fan")
    runs = [TrialRun(i, job, Remaining(), asked=True) for i, job in enumerate(jobs)]
    for run in runs:
        run.refresh(run.job.steps(sweep, world.places), world.places)
    live = Progress("s", runs, estimator_of(sweep, jobs, world.places))
    runs[1].progress[jobs[1].trial.units[0].name] = {
        "unit": jobs[1].trial.units[0].name, "epoch": 1, "epochs": 4, "loss": 0.25, "seconds": 60.0
    }  # fmt: skip
    live.estimator.epoch_ended(1, jobs[1].trial.units[0].name, 60.0, 4)
    runs[1].phase = "training"
    write_snapshot(live.snapshot(), world.folder)
    with store.lease(world.folder):
        text = status_text()
    assert "sweep s: running since" in text
    assert "1 done, 1 running, 1 failed of 3 trials" in text
    assert re.search(rf"{jobs[1].trial.title}.* 1/4 +0\.2500 +0 +3 min", text)
    assert "OSError: disk full" in text
    text = status_text()
    assert f"not running; it was killed, and last heard of at {live.snapshot()['updated'][:10]}" in text
    assert "1 done, 1 failed, 1 waiting of 3 trials" in text
    assert re.search(r"train +1 done, 1 failed, 3 left", text)
    for how, words in (("ended", "it ended at"), ("stopped", "it was stopped at")):
        write_snapshot(live.snapshot(how), world.folder)
        assert words in status_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (6000, "1 h 40 min"), (36000, "10 h"), (200000, "2 d 8 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


# ------------------------------------------------------------------------------- the terminal and its signals


STOPPING = """
import subprocess, sys, time
from asdray.sweep.stop import stop_on_signals
with stop_on_signals() as stop:
    child = subprocess.Popen(["sleep", "100"], start_new_session=True)
    print("child", child.pid, "ready", flush=True)
    while not stop.asked:
        time.sleep(0.01)
    print("clean stop begins", flush=True)
    time.sleep(100 if sys.argv[1] == "slow" else 0)
child.kill()
print("clean stop ends", flush=True)
sys.exit(75)
"""


def test_ctrl_c_once_stops_cleanly():
    process, master = in_terminal("-c", STOPPING, "fast")
    read_until(master, "ready")
    os.write(master, b"\x03")
    read_until(master, "clean stop ends")
    assert process.wait(100) == 75
    os.close(master)


def test_sigterm_of_a_scheduler_and_of_its_script_together_stop_cleanly():
    process, master = in_terminal("-c", STOPPING.replace("0)\nchild", "1)\nchild"), "fast")
    read_until(master, "ready")
    process.terminate()
    read_until(master, "clean stop begins")
    process.terminate()
    read_until(master, "clean stop ends")
    assert process.wait(100) == 75
    os.close(master)


def test_ctrl_c_twice_stops_at_once_with_all_that_was_started():
    process, master = in_terminal("-c", STOPPING, "slow")
    child = int(read_until(master, "ready").split()[1])
    os.write(master, b"\x03")
    read_until(master, "clean stop begins")
    os.write(master, b"\x03")
    shown = read_until(master, None)
    assert process.wait(100) == 130
    assert "\x1b[?25h" in shown, "the cursor is there again"
    assert "stopped at once" in shown
    assert "Traceback" not in shown
    with pytest.raises(ProcessLookupError):
        for _ in range(10000):  # a zombie until init takes it
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
                raise ProcessLookupError
            time.sleep(0.01)
    os.close(master)


def test_the_best_so_far_says_whether_it_is_of_synthetic_data():
    row = {"system": "a", "backend": "knn", "column": "dcase2023-eval", "score": 0.5, "complete": True}
    for dataset, words in (("synthetic", "best so far (synthetic data)"), ("official", "best so far  ")):
        snapshot = Progress("s", [], Estimator()).snapshot() | {"leaderboard": [{**row, "dataset": dataset}]}
        with (console := Console(width=150)).capture() as shown:
            console.print(render(snapshot))
        assert words in shown.get()
        assert "50.00" in shown.get()


def test_of_the_best_so_far_those_are_marked_of_which_trials_are_missing_and_a_search_s_own_are_not():
    rows = make_rows()
    rows.loc[pick(rows, system="dis-22222222"), "value"] = 0.9
    less = rows[~pick(rows, system="dis-22222222", seed=1, dcase="dcase2022")]
    live = Progress("s", [], Estimator())
    live.set_leaderboard(board(less, rank_by="dcase2023-eval"))
    complete = {row["system"]: row["complete"] for row in live.snapshot()["leaderboard"]}
    assert complete == {"dis-11111111": True, "dis-22222222": False, "ae-33333333": True}
    own = board(rows).frame.to_dict("records")  # of a search: shown behind all others, and never ranked
    everything = board(rows.iloc[:0], rank_by="dcase2023-eval", unranked=own)
    live.set_leaderboard(everything)
    assert everything.frame["rank"].isna().all()
    assert all(row["complete"] for row in live.snapshot()["leaderboard"])


VIEW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from asdray.store import Places
from asdray.sweep.estimate import Estimator
from asdray.sweep.events import event_of, failed
from asdray.sweep.plan import load
from asdray.sweep.jobs import Remaining, TrialRun
from asdray.sweep.progress import Progress, View
places = Places.of(sys.argv[1], sys.argv[2])
sweep, jobs = load(Path(sys.argv[3]), {}, places)
runs = [TrialRun(i, job, Remaining(), asked=True) for i, job in enumerate(jobs)]
for run, phase in zip(runs, sys.argv[5].split(",")):
    run.phase = phase
    run.refresh(run.job.steps(sweep, places), places)
estimator = Estimator()
for i, job in enumerate(jobs):
    estimator.add_trial(i, job.trial, job.dataset, job.steps(sweep, places))
shown = Progress("s", runs, estimator)
view = View(places.results, quiet="quiet" in sys.argv)
view.begin(3, shown)
with view:
    unit = jobs[0].trial.units[0].name
    runs[0].progress[unit] = {"unit": unit, "epoch": 1, "epochs": 4, "loss": 0.5, "seconds": 30.0}
    estimator.epoch_ended(0, unit, 30.0, 4)
    shown.open_tasks = 2
    time.sleep(0.3)
    view.tick()
    view.stage_ended(failed(event_of(jobs[0].trial, "train", unit=unit), "diverged"))
    view.trial_ended(runs[0], ok=False)
print("over")
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_the_live_view_is_below_the_lines(world, quiet):
    world.load(umap=False, seeds=[0])
    args = [
        world.places.data,
        world.places.results,
        world.path,
        Path(__file__).parent,
        "training,idle,idle",
        *(["quiet"] if quiet else []),
    ]
    process, master = in_terminal("-c", VIEW, *args)
    shown = read_until(master, "over")
    assert process.wait(100) == 0
    os.close(master)
    assert "FAILED train" in shown
    assert ("clips/s" in shown) == (not quiet)
    if not quiet:
        assert re.search(r"1/4 +0\.5000 +0\.? +90 s|1/4 +0\.5000 +1 +90 s", shown)
        assert "0 of 3 trials done, 1 running, 2 waiting; 2 tasks waiting or running" in shown
        assert "no estimate of the time left yet" in shown
        assert shown.rindex("FAILED train") < shown.rindex("clips/s"), "it is drawn again below"
    plain = subprocess.run(
        [sys.executable, "-c", VIEW, *map(str, args)], capture_output=True, text=True, check=True
    ).stdout
    assert "\x1b" not in plain
    assert "clips/s" not in plain
    assert plain.count("\n") == 3
