"""What a sweep is asked beside its file, without Ray: which trials, what failed before, what is left."""

import json
import shutil
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import yaml
from finished import finish
from tiny import AE, DCASE, DIS, MACHINES, build_year

from asdray import store
from asdray.config.backend import backend_id
from asdray.stages import state
from asdray.store import Places
from asdray.sweep.events import EventLog, attempt, event_of
from asdray.sweep.only import chooser
from asdray.sweep.plan import load, standing


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
            "dcase": DCASE, "seeds": [0, 1], "machines": {DCASE: list(MACHINES)}, "umap": {}, **changes,
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
        run = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=100)
        assert run.returncode == check, run.stdout + run.stderr
        return run


# ------------------------------------------------------------------------------------------ what is done


def test_one_walk_finds_what_the_stages_themselves_find(world):
    sweep, jobs = world.load(seeds=[0], backends=["knn", {"name": "knn", "n_neighbors": 2}])
    job = jobs[0]
    trial, dataset = job.trial, job.dataset
    finish(job, sweep, world.places)
    # Another sweep's backend and checkpoint on the same trial.
    more, other = world.load(seeds=[0], backends=[{"name": "knn", "n_neighbors": 4}], umap=False)
    finish(other[0], more, world.places)

    def asked(stage):
        """The signature and the marker of a stage, as the stage itself asks."""
        at = (trial, stage.machine, stage.checkpoint)
        backend = next((b for b in job.backends if backend_id(b) == stage.backend), None)
        unit = next((u for u in trial.units if u.name == stage.unit), None)
        step = {
            "train": lambda: state.train_step(trial, unit, world.places, dataset),
            "extract": lambda: state.extract_step(*at, world.places, dataset),
            "score": lambda: state.score_step(*at, backend, world.places, dataset),
            "evaluate": lambda: state.evaluate_step(*at, job.backends, world.places, dataset),
            "umap": lambda: state.umap_step(*at, sweep.umap, world.places, dataset),
            "table": lambda: state.table_step(trial, sweep.checkpoints, world.places, dataset),
        }[stage.stage]()
        return step.signature, step.marker is not None

    def compare():
        found = standing(job, sweep, world.places).all
        assert [(s.signature, s.done is not None) for s in found] == [asked(s) for s in found]
        return sum(s.done is not None for s in found)

    everything = compare()
    markers = sorted(world.places.results.rglob(".done/*.json"))
    counts = set()
    for marker in markers:
        content = marker.read_bytes()
        marker.unlink()
        counts.add(compare())
        marker.write_bytes(content)
    assert compare() == everything
    assert len(counts) > 3


def test_planning_reads_each_marker_once(world, monkeypatch):
    sweep, jobs = world.load(seeds=[0])
    finish(jobs[0], sweep, world.places)
    read = []
    original = store.read_marker
    monkeypatch.setattr(store, "read_marker", lambda *args: read.append(args) or original(*args))
    assert standing(jobs[0], sweep, world.places).complete
    assert len(read) == len(set(read)) == 1 + 4 * len(MACHINES) + 1


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
        assert sum(map(chooser(text, jobs), jobs)) == expected
        return
    with pytest.raises(ValueError) as error:
        chooser(text, jobs)
    assert expected in str(error.value)


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
        assert sum(map(chooser(text, jobs), jobs)) == n, text


# --------------------------------------------------------------------------------------------- --retry-failed


def raising(error):
    def work():
        raise error

    return work


def fail(world, sweep, job, stage, error=ValueError("wrong"), **at):
    """Logs a failure as the driver does."""
    log = EventLog(world.folder / "events.jsonl")
    event = attempt(event_of(job.trial, stage, **at), raising(error))
    log.add(standing(job, sweep, world.places).signed(event))
    return EventLog(world.folder / "events.jsonl").lasting


def wrapped():
    try:
        raise OSError(28, "no space left")
    except OSError as error:
        return ValueError(str(error))


def test_only_failures_that_would_come_again_are_remembered(world):
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
    from asdray.sweep.plan import log_found

    log_found(standing(dis, sweep, world.places), log)
    assert log.lasting == {}
    assert EventLog(world.folder / "events.jsonl").lasting == {}


def test_what_follows_a_failure_is_not_tried_and_the_rest_is(world):
    sweep, jobs = world.load(seeds=[0], backends=["knn", {"name": "knn", "n_neighbors": 2}])
    dis, ae = jobs[0], jobs[2]
    lasting = fail(world, sweep, dis, "train", unit=dis.trial.units[0].name)
    left = standing(dis, sweep, world.places).missing(lasting)
    assert not left.runs
    assert [e["error"] for e in left.failed] == ["wrong"]
    assert standing(dis, sweep, world.places).missing().units, "unless it is to be retried"

    lasting = fail(world, sweep, ae, "train", unit="fan")
    left = standing(ae, sweep, world.places).missing(lasting)
    assert [u.name for u in left.units] == ["ToyCar", "bandsaw"]
    assert {m for _, m in left.machines} == {"ToyCar", "bandsaw"} == {m for _, m in left.umaps}

    finish(dis, sweep, world.places, until="train")
    lasting = fail(world, sweep, dis, "extract", machine="fan", checkpoint="last")
    left = standing(dis, sweep, world.places).missing(lasting)
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
        return standing(job, sweep, world.places).missing(lasting).machines

    assert fan in left(), "the other backend is not scored"
    args = (job.trial, "fan", "last")
    step = state.score_step(*args, good, world.places, job.dataset)
    path = store.trial_dir(world.places.results, job.trial).scores("last", "fan", backend_id(good))
    path.parent.mkdir()
    path.write_bytes(b"x")
    store.mark_done(
        step.folder,
        "score",
        step.signature,
        outputs=[path],
        started=0,
        inputs=step.inputs,
        backend=step.backend,
    )
    assert fan in left(), "it is not evaluated"
    step = state.evaluate_step(*args, [good], world.places, job.dataset)
    store.mark_done(step.folder, "evaluate", step.signature, outputs=[path], started=0, inputs=step.inputs)
    assert fan not in left()
    lasting = {}
    assert fan in left(), "--retry-failed"
    store.marker_path(step.folder, "score", backend_id(good)).unlink()
    lasting = EventLog(world.folder / "events.jsonl").lasting
    assert fan in left()


def test_a_run_with_nothing_but_old_failures_says_so_and_starts_no_ray(world):
    sweep, jobs = world.load(recipes=["ae.yaml"], umap=False, seeds=[0])
    (job,) = jobs
    finish(job, sweep, world.places)
    unit = store.trial_dir(world.places.results, job.trial).model("fan")
    shutil.rmtree(unit / ".done")
    fail(world, sweep, job, "train", ValueError("training diverged"), unit="fan")
    run = world.asdray("sweep", world.path, check=1)
    assert "failed before; --retry-failed tries again:" in run.stderr
    assert "train fan: training diverged" in run.stderr
    (row,) = world.rows()
    assert (row["status"], row["error"]) == ("failed", "train fan: training diverged")
    assert len(EventLog(world.folder / "events.jsonl").failures) == 0
