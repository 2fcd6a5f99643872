"""Summaries of complete trials: ``--dry-run`` and ``status`` say the same with and without them."""

import dataclasses
import json
import os

import pytest
import yaml
from finished import finish, record
from rich.console import Console
from tiny import AE, DCASE, DIS, MACHINES, build_year

from asdray import store
from asdray.stages.steps import Snapshot
from asdray.store import Places
from asdray.sweep.jobs import Job
from asdray.sweep.plan import load
from asdray.sweep.status import plan_lines, status
from asdray.sweep.summaries import read_summary, write_summaries

KNN4 = {"name": "knn", "n_neighbors": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture
def world(data, tmp_path, monkeypatch):
    return World(data, tmp_path, monkeypatch)


class World:
    """Four trials: the first two are complete, the third lacks its plots, the fourth everything."""

    def __init__(self, data, folder, monkeypatch):
        self.places = Places.of(data, folder / "results")
        self.path = folder / "s.yaml"
        for name, system in (("dis", DIS), ("ae", AE)):
            recipe = {"about": name, **system.model_dump(mode="json")}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        self.sweep, self.jobs = self.load()
        for job, until in zip(self.jobs, ("table", "table", "evaluate"), strict=False):
            finish(job, self.sweep, self.places, until=until)
        self.read = []
        """The trials whose records were read."""
        steps = Job.steps
        monkeypatch.setattr(
            Job, "steps", lambda job, *args: self.read.append(job.trial.name) or steps(job, *args)
        )

    def load(self, **changes):
        value = {
            "name": "s", "recipes": {"dis.yaml": {}}, "dcase": DCASE, "seeds": [0, 1, 2, 3],
            "machines": {DCASE: list(MACHINES)}, "umap": {}, "backends": ["knn", "kmeans"], **changes,
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(value))
        return load(self.path, {}, self.places)

    def summarize(self, jobs=None, sweep=None):
        """Writes summaries, as a run does at the end."""
        write_summaries(jobs or self.jobs, sweep or self.sweep, self.places)

    def tell(self, jobs=None, sweep=None):
        """The lines of ``--dry-run`` and ``status``, and the number of trials whose records were read."""
        jobs, sweep = jobs or self.jobs, sweep or self.sweep
        self.read.clear()
        lines = plan_lines(sweep, jobs, self.places)
        n = len(self.read)
        console = Console(width=200)
        with console.capture() as capture:
            console.print(status(sweep, jobs, self.places))
        return [*lines, *capture.get().splitlines()], n

    def tell_without_summaries(self):
        for path in self.places.results.glob("trials/*/*/*/done.json"):
            content = json.loads(path.read_text())
            content.pop("summary", None)
            path.write_text(json.dumps(content))
        return self.tell()[0]

    @property
    def folder(self):
        """The first trial's."""
        return store.trial_dir(self.places.results, self.jobs[0].trial)

    def machine(self):
        return self.folder.machine("last", "fan")

    def score(self):
        """The name of a score's record."""
        return next(name for name in store.read_records(self.machine()) if name.startswith("score-"))


def done(lines):
    return sum(line.endswith(": done") for line in lines)


def test_a_summary_says_the_same_as_all_records(world):
    before, n = world.tell()
    assert n == 4
    assert done(before) == 2
    world.summarize()
    after, n = world.tell()
    assert n == 2, "only trials that are not complete are read"
    assert after == before == world.tell_without_summaries()


def test_a_valid_summary_is_not_written_again(world):
    world.summarize()
    path = world.folder.root / "done.json"
    before = path.stat().st_mtime_ns
    world.summarize()
    assert path.stat().st_mtime_ns == before


def test_dry_run_and_status_write_nothing(world):
    world.tell()
    assert not (store.sweep_dir(world.places.results, "s")).exists()
    assert all(read_summary(job, world.sweep, world.places) is None for job in world.jobs)


def record_missing(world):
    store.write_record(world.machine(), world.score(), None)


def record_damaged(world):
    """Damages a file in place, without a change of the size."""
    path = world.machine() / "done.json"
    with open(path, "r+b") as file:
        file.write(b"x" * path.stat().st_size)


def records_missing(world):
    (world.machine() / "umap" / "done.json").unlink()


def extracted_again(world):
    """Extracts other bytes: the scores of the old embeddings are stale."""
    old = store.read_record(world.machine(), "extract")
    store.write_record(world.machine(), "extract", dataclasses.replace(old, digest="0" * 64))


def scored_by_another_sweep(world):
    """The machine's evaluation is to be over its backend too."""
    _, (job, *_) = world.load(backends=["knn", "kmeans", KNN4])
    step = Snapshot(job.files(world.places)).score("fan", "last", job.backends[-1])
    record(step, [world.folder.scores("last", "fan", step.backend)])


def evaluated_with_another_checkpoint(world):
    """The trial's table is to be over its evaluations too."""
    other, (job, *_) = world.load(checkpoints=["best"])
    finish(job, other, world.places, until="evaluate")
    # The training of both, with the checkpoints of both.
    both, (job, *_) = world.load(checkpoints=["last", "best"])
    finish(job, both, world.places, until="evaluate")


def table_written_again(world):
    table = store.read_record(world.folder.root, "table")
    store.write_record(world.folder.root, "table", dataclasses.replace(table, signature="other"))


CHANGES = [
    record_missing, record_damaged, records_missing, extracted_again, scored_by_another_sweep,
    evaluated_with_another_checkpoint, table_written_again,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_trial_that_changed_is_read_again(world, change):
    world.summarize()
    before, _ = world.tell()
    change(world)
    after, n = world.tell()
    assert n == 3
    assert done(after) == 1
    assert after == world.tell_without_summaries() != before


def test_what_another_sweep_shares_with_a_trial_is_watched_too(world):
    """Both cover the first trial, with other backends, checkpoints and plots; its tables are over all."""
    other, jobs = world.load(backends=[KNN4], checkpoints=["last", "best"], seeds=[0], umap=False)
    for _ in range(2):  # each makes the evaluations and tables over what the other has scored, too
        finish(world.jobs[0], world.sweep, world.places)
        finish(jobs[0], other, world.places)
    world.summarize()
    lines, n = world.tell()
    assert (n, done(lines)) == (2, 2)
    folder = world.folder.machine("best", "fan")
    (name,) = [name for name in store.read_records(folder) if name.startswith("score-")]
    store.write_record(folder, name, None)
    after, n = world.tell()
    assert (n, done(after)) == (3, 1)


def test_data_of_machines_of_other_sweeps_are_part_of_the_request(world):
    """A trial's tables are over them too: they go by data that this sweep does not name."""
    ae = {"recipes": {"ae.yaml": {}}, "seeds": [0], "umap": False}
    other, (theirs,) = world.load(**ae, machines={DCASE: ["fan"]})
    finish(theirs, other, world.places)
    sweep, (job,) = world.load(**ae, machines={DCASE: ["ToyCar"]})
    finish(job, sweep, world.places)
    world.summarize([job], sweep)
    assert world.tell([job], sweep)[1] == 0
    changed, n = world.tell([with_other(job, "labels")], sweep)
    assert n == 1
    assert any("begun: table" in line for line in changed)


def test_the_request_is_part_of_a_summary(world):
    """Of a sweep that asks for less too: its sums are other sums."""
    world.summarize()
    for asked in (
        {"backends": ["knn"]},
        {"backends": ["knn", "kmeans", KNN4]},
        {"umap": {"n_neighbors": 5}},
        {"umap": False},
        {"checkpoints": ["best"]},
        {"machines": {DCASE: list(MACHINES[:2])}},
    ):
        sweep, jobs = world.load(**asked)
        assert world.tell(jobs, sweep)[1] == 4, asked


def with_other(job, id_):
    """The job over data of which one id of a machine changed."""
    fan = dataclasses.replace(job.dataset.machines["fan"], **{id_: "other"})
    dataset = dataclasses.replace(job.dataset, machines={**job.dataset.machines, "fan": fan})
    return dataclasses.replace(job, dataset=dataset)


@pytest.mark.parametrize("id_", ["train", "test", "labels"])
def test_other_data_are_other_trials(world, id_):
    world.summarize()
    lines, n = world.tell([with_other(job, id_) for job in world.jobs])
    assert (n, done(lines)) == (4, 0)


def test_everything_that_a_training_reads_is_part_of_the_request(world):
    """Here the classes of the test clips, which one rule of labels looks at."""
    recipes = {"dis.yaml": {"set": {"frontend.labels": "asdkit"}}}
    sweep, (job,) = world.load(recipes=recipes, seeds=[0])
    finish(job, sweep, world.places)
    world.summarize([job], sweep)
    assert world.tell([job], sweep)[1] == 0
    lines, n = world.tell([with_other(job, "classes")], sweep)
    assert (n, done(lines)) == (1, 0)


def test_other_numerics_believe_nothing(world, monkeypatch):
    world.summarize()
    monkeypatch.setattr("asdray.sweep.summaries.NUMERICS", {"train": -1})
    assert world.tell()[1] == 4


@pytest.mark.parametrize("damaged", [1, {}, {"files": 1}, {"files": [[1]], "request": "", "sums": []}])
def test_a_damaged_summary_is_none(world, damaged):
    world.summarize()
    lines, _ = world.tell()
    path = world.folder.root / store.RECORDS
    path.write_text(json.dumps({**json.loads(path.read_text()), "summary": damaged}))
    assert world.tell() == (lines, 3)
    world.summarize()
    assert world.tell() == (lines, 2)


def test_a_record_that_changes_while_it_is_read_is_read_again(world, monkeypatch):
    steps = Job.steps

    def read_and_lose(job, *args):
        found = steps(job, *args)
        if job is world.jobs[0]:
            record_missing(world)
        return found

    monkeypatch.setattr(Job, "steps", read_and_lose)
    world.summarize()
    monkeypatch.setattr(Job, "steps", steps)
    lines, n = world.tell()
    assert (n, done(lines)) == (3, 1)


def test_where_nothing_can_be_written_a_run_goes_on(world, monkeypatch):
    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    world.summarize()
    monkeypatch.undo()
    assert read_summary(world.jobs[0], world.sweep, world.places) is None
    assert list(world.folder.root.glob(".tmp*")) == []
