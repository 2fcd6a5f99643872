"""What commands that only tell remember of complete trials: the markers stay the only truth."""

import dataclasses
import json
import os

import pytest
import yaml
from finished import finish
from rich.console import Console
from tiny import AE, DCASE, DIS, MACHINES, build_year

from asdray import store
from asdray.stages import state
from asdray.store import Places
from asdray.sweep import seen
from asdray.sweep.dry_run import plan_lines
from asdray.sweep.plan import load
from asdray.sweep.status import status

KNN4 = {"name": "knn", "n_neighbors": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture
def world(data, tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "FEW", 1)  # else a few trials are read each time
    monkeypatch.setattr(seen, "SETTLED_SECONDS", 0)  # and such as were finished just now
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: {0}
    )  # this process has threads: it must not fork
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
        self.file = store.sweep_dir(self.places.results, "s") / "seen.jsonl"
        self.file.parent.mkdir(parents=True)
        self.read = []
        """The trials whose markers were read."""
        found_of = seen.found_of
        monkeypatch.setattr(
            seen, "found_of", lambda job, *args: self.read.append(job.trial.name) or found_of(job, *args)
        )

    def load(self, **changes):
        value = {
            "name": "s", "recipes": {"dis.yaml": {}}, "dcase": DCASE, "seeds": [0, 1, 2, 3],
            "machines": {DCASE: list(MACHINES)}, "umap": {}, "backends": ["knn", "kmeans"], **changes,
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(value))
        return load(self.path, {}, self.places)

    def tell(self, jobs=None, sweep=None):
        """What ``--dry-run`` and ``status`` say, and how many trials they read for it."""
        jobs, sweep = jobs or self.jobs, sweep or self.sweep
        self.read.clear()
        lines = plan_lines(sweep, jobs, self.places)
        n = len(self.read)
        console = Console(width=200)
        with console.capture() as capture:
            console.print(status(sweep, jobs, self.places))
        return [*lines, *capture.get().splitlines()], n

    def without_memory(self, jobs=None, sweep=None):
        self.file.unlink()
        return self.tell(jobs, sweep)[0]

    @property
    def folder(self):
        """The first trial's."""
        return store.trial_dir(self.places.results, self.jobs[0].trial)

    def machine(self):
        return self.folder.machine("last", "fan")

    def score_marker(self):
        return store.marker_path(self.machine(), "score", store.marked_backends(self.machine(), "score")[0])


def test_what_is_remembered_is_told_as_what_is_read(world):
    told, n = world.tell()
    assert n == 4
    assert sum(line.endswith(": done") for line in told) == 2
    again, n = world.tell()
    assert n == 2, "only what is not complete is read again"
    assert again == told == world.without_memory()


def test_a_dry_run_of_a_sweep_that_was_never_run_writes_nothing(world):
    world.file.parent.rmdir()
    world.tell()
    assert not world.file.parent.exists()


def test_where_nothing_can_be_written_everything_is_told_all_the_same(world):
    told, _ = world.tell()
    world.file.unlink()
    world.file.mkdir()  # permissions do not bind the superuser
    assert world.tell() == (told, 4)
    assert list(world.file.parent.glob(".tmp*")) == []


def in_place(path, content):
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(content)


def marker_gone(world):
    world.score_marker().unlink()


def marker_damaged(world):
    """In place, and as long as before."""
    in_place(world.score_marker(), b"x" * world.score_marker().stat().st_size)


def output_gone(world):
    world.folder.scores("last", "fan", store.marked_backends(world.machine(), "score")[0]).unlink()


def output_cut_off(world):
    in_place(world.folder.evaluate("last", "fan"), b"x")


def checkpoint_gone(world):
    world.folder.checkpoint("all-" + world.jobs[0].trial.units[0].name[4:], "last").unlink()


def extracted_anew(world):
    """With other bytes: what was made of the old ones is stale."""
    marker = store.read_marker(world.machine(), "extract")
    for entry in marker.outputs.values():
        entry["sha256"] = "0" * 64
    store.write_marker(world.machine(), marker)


def scored_by_another_sweep(world):
    """The machine's evaluation is to be over its backend too."""
    _, (job, *_) = world.load(backends=["knn", "kmeans", KNN4])
    at = (job.trial, "fan", "last")
    step = state.score_step(*at, job.backends[-1], world.places, job.dataset)
    path = world.folder.scores("last", "fan", step.backend)
    path.write_bytes(b"x")
    store.mark_done(
        step.folder, "score", step.signature, outputs=[path], started=0, inputs=step.inputs,
        backend=step.backend,
    )  # fmt: skip


CHANGES = [marker_gone, marker_damaged, output_gone, output_cut_off, checkpoint_gone, extracted_anew]


@pytest.mark.parametrize("change", [*CHANGES, scored_by_another_sweep])
def test_a_trial_that_changed_is_read_again(world, change):
    before, _ = world.tell()
    change(world)
    after, n = world.tell()
    assert n == 3
    assert sum(line.endswith(": done") for line in after) == 1
    assert after == world.without_memory() != before


def test_what_another_sweep_shares_with_a_trial_is_watched_too(world):
    """Both cover the first trial, with other backends, checkpoints and plots; its tables are over all."""
    other, jobs = world.load(backends=[KNN4], checkpoints=["last", "best"], seeds=[0], umap=False)
    for _ in range(2):  # each makes the evaluations and tables over what the other has scored, too
        finish(world.jobs[0], world.sweep, world.places)
        finish(jobs[0], other, world.places)
    told, n = world.tell()
    assert (n, sum(line.endswith(": done") for line in told)) == (4, 2)
    assert world.tell() == (told, 2)
    (mine,) = {*store.marked_backends(world.folder.machine("best", "fan"), "score")}
    for path in (world.folder.scores("last", "fan", mine), world.folder.scores("best", "fan", mine)):
        assert path.is_file()
        content = path.read_bytes()
        in_place(path, b"")
        after, n = world.tell()
        assert n == 3
        assert sum(line.endswith(": done") for line in after) == 1
        in_place(path, content)
        assert world.tell()[0] == told


def test_machines_of_another_sweep_that_share_no_model_are_left_to_the_markers(world):
    """A trial's tables are over them too: they go by data that this sweep does not name."""
    ae = {"recipes": {"ae.yaml": {}}, "seeds": [0], "umap": False}
    sweep, (job,) = world.load(**ae, machines={DCASE: ["ToyCar"]})
    finish(job, sweep, world.places)
    assert [world.tell([job], sweep)[1] for _ in range(2)] == [1, 0], "the models of its own machines only"
    other, (theirs,) = world.load(**ae, machines={DCASE: ["fan"]})
    finish(theirs, other, world.places)
    finish(job, sweep, world.places)
    told, n = world.tell([job], sweep)
    assert n == 1
    assert world.tell([job], sweep) == (told, 1)
    changed, _ = world.tell([with_other(job, "labels")], sweep)
    assert any("begun: table" in line for line in changed)
    assert changed == world.without_memory([with_other(job, "labels")], sweep)


def test_what_another_sweep_lost_may_come_back(world):
    """Of two sizes, without a trace in any folder or marker: then the evaluation is to be over it again."""
    scored_by_another_sweep(world)
    (path,) = [p for p in world.folder.scores("last", "fan", "x").parent.iterdir() if p.stat().st_size == 1]
    in_place(path, b"")
    told, _ = world.tell()
    assert sum(line.endswith(": done") for line in told) == 2
    assert world.tell() == (told, 3), "left to the markers"
    in_place(path, b"x")
    assert sum(line.endswith(": done") for line in world.tell()[0]) == 1


def test_what_is_behind_a_link_is_left_to_the_markers(world, tmp_path):
    (world.folder.root / "output").rename(tmp_path / "elsewhere")
    (world.folder.root / "output").symlink_to(tmp_path / "elsewhere")
    told, _ = world.tell()
    assert sum(line.endswith(": done") for line in told) == 2
    assert world.tell() == (told, 3)
    marker_gone(world)
    assert sum(line.endswith(": done") for line in world.tell()[0]) == 1


@pytest.mark.parametrize("content", ["null", "{", "not readable"])
def test_a_marker_that_nobody_asks_for_stops_no_one(world, content):
    """Of an older sweep, say. Whatever is wrong with it, the trial is complete."""
    marker = store.marker_path(world.machine(), "old")
    if content == "not readable":
        marker.mkdir()  # permissions do not bind the superuser
    else:
        found = json.loads(world.score_marker().read_text())
        marker.write_text(json.dumps({**found, "outputs": None}) if content == "null" else content)
    told, _ = world.tell()
    assert sum(line.endswith(": done") for line in told) == 2
    assert world.tell()[0] == told


def test_what_changed_just_now_is_not_remembered_yet(world, monkeypatch):
    """A clock of whole seconds would not tell the next change from this one."""
    monkeypatch.setattr(seen, "SETTLED_SECONDS", 60)
    for path in store.trial_dir(world.places.results, world.jobs[1].trial).root.rglob("*"):
        os.utime(path, (1, 1))
    os.utime(store.trial_dir(world.places.results, world.jobs[1].trial).root, (1, 1))
    told, _ = world.tell()
    assert world.tell() == (told, 3), "all but the second, which is old"


def test_what_is_asked_for_is_part_of_what_is_remembered(world):
    """Of a sweep that asks for less too: its sums are other sums."""
    world.tell()
    for asked in (
        {"backends": ["knn"]},
        {"backends": ["knn", "kmeans", KNN4]},
        {"umap": {"n_neighbors": 5}},
        {"umap": False},
        {"checkpoints": ["best"]},
        {"machines": {DCASE: list(MACHINES[:2])}},
    ):
        sweep, jobs = world.load(**asked)
        told, n = world.tell(jobs, sweep)
        assert n == 4, asked
        assert told == world.without_memory(jobs, sweep)
        world.file.unlink(missing_ok=True)
        world.tell()


def with_other(job, id_):
    """The job over data of which one id of a machine changed."""
    fan = dataclasses.replace(job.dataset.machines["fan"], **{id_: "other"})
    dataset = dataclasses.replace(job.dataset, machines={**job.dataset.machines, "fan": fan})
    return dataclasses.replace(job, dataset=dataset)


@pytest.mark.parametrize("id_", ["train", "test", "labels"])
def test_other_data_are_other_trials(world, id_):
    world.tell()
    told, n = world.tell([with_other(job, id_) for job in world.jobs])
    assert n == 4
    assert not any(line.endswith(": done") for line in told)


def test_whatever_a_training_reads_is_asked_for(world):
    """Here the classes of the test clips, which one rule of labels looks at."""
    recipes = {"dis.yaml": {"set": {"frontend.labels": "asdkit"}}}
    sweep, (job,) = world.load(recipes=recipes, seeds=[0])
    finish(job, sweep, world.places)
    assert [world.tell([job], sweep)[1] for _ in range(2)] == [1, 0]
    told, n = world.tell([with_other(job, "classes")], sweep)
    assert n == 1
    assert not any(line.endswith(": done") for line in told)


def test_other_code_believes_nothing(world, monkeypatch):
    world.tell()
    monkeypatch.setattr(seen, "_code", lambda: "other")
    assert world.tell()[1] == 4
    assert world.tell()[1] == 2


@pytest.mark.parametrize("how", ["cut off", "no JSON", "not its form", "empty", "no UTF-8"])
def test_a_damaged_memory_is_none(world, how):
    told, _ = world.tell()
    lines = world.file.read_bytes().splitlines(keepends=True)
    name = lines[0].partition(b"\t")[0]
    damaged = {
        "cut off": b"".join(lines)[:-100],
        "no JSON": name + b"\t{\n" + lines[1],
        "not its form": name + b"\t" + json.dumps({"asked": 1}).encode() + b"\n" + lines[1],
        "empty": b"",
        "no UTF-8": b"\xff\t\xff\n" + lines[1],
    }[how]
    world.file.write_bytes(damaged)
    assert world.tell() == (told, 4 if how == "empty" else 3)
    assert world.tell() == (told, 2)


def test_what_changes_while_it_is_read_is_read_again(world, monkeypatch):
    """A marker that goes away behind the reader's back is missed by this look, and by no other."""
    found_of = seen.found_of

    def read_and_lose(job, *args):
        yield from found_of(job, *args)
        if job is world.jobs[0] and world.score_marker().exists():
            marker_gone(world)

    monkeypatch.setattr(seen, "found_of", read_and_lose)
    lines = plan_lines(world.sweep, world.jobs, world.places)
    assert sum(line.endswith(": done") for line in lines) == 2
    monkeypatch.setattr(seen, "found_of", found_of)
    told, n = world.tell()
    assert sum(line.endswith(": done") for line in told) == 1
    assert n == 3
    assert told == world.without_memory()
