"""A run of a sweep without Ray: its ends, failures that last, and results of unknown trials."""

import re
import shutil
from types import SimpleNamespace

import pytest
from finished import finish, record
from rich.console import Console
from test_search import studies_of
from test_sweep_options import World, fail
from tiny import build_year

from asdray import store
from asdray.cli.sweep import print_result
from asdray.config.backend import backend_id
from asdray.stages.steps import Snapshot
from asdray.sweep import keep, run
from asdray.sweep.events import EventLog, event_of, failed
from asdray.sweep.outputs import write_spec
from asdray.sweep.plan import load
from asdray.sweep.run import RunOptions, run_sweep
from asdray.sweep.status import status, sweeps
from asdray.sweep.sweep_run import SweepRun
from asdray.trial_folders import trial_dirs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture
def world(data, tmp_path):
    return World(data, tmp_path)


def test_a_run_that_ends_with_an_error_is_shown_as_failed(world, monkeypatch):
    sweep, jobs = world.load(recipes=["ae.yaml"], seeds=[0], umap=False)
    finish(jobs[0], sweep, world.places)

    def full_disk(self, report=False):
        raise OSError("disk full")

    monkeypatch.setattr(SweepRun, "write_tables", full_disk)
    with pytest.raises(OSError, match="disk full"):
        run_sweep(sweep, jobs, world.places, RunOptions(quiet=True))
    console = Console(width=150)
    with console.capture() as captured:
        console.print(status(*load(world.path, {}, world.places), world.places))
    assert "sweep s: not running; it failed at" in captured.get()
    (line,) = sweeps(world.places.results)
    assert re.fullmatch(r"sweep s: not running; it failed at .*; 1 done of 1 trials", line)
    assert sweeps(world.folder) == [f"there is no sweep in {world.folder}"]


def test_a_copy_of_a_sweep_is_no_other_sweep(world, capsys, asdray):
    write_spec(world.load(recipes=["ae.yaml"], seeds=[0])[0], world.folder)
    copy = world.folder.with_name("s copy")
    shutil.copytree(world.folder, copy)
    (line,) = sweeps(world.places.results)
    assert line.startswith("sweep s: ")
    assert f"{copy} is left out: its name is not s, as its sweep.yaml says" in capsys.readouterr().err
    where = ["--data", world.places.data, "--results", world.places.results]
    for command in ("status", "report"):
        code, _, err = asdray(command, copy.name, *where)
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"{copy} is a copy of the sweep 's'" in err


def running(world, sweep, jobs):
    """The state of a run, without Ray."""
    view = SimpleNamespace(begin=lambda total, progress: None, line=print)
    log = EventLog(world.folder / "events.jsonl")
    return SweepRun(sweep, world.places, log, view, None, jobs, range(len(jobs)))


def test_a_plot_that_failed_for_good_is_not_tried_again(world):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0])
    finish(job, sweep, world.places, until="evaluate")
    at = {"machine": "fan", "checkpoint": "last"}
    fail(world, sweep, job, "umap", **at)
    sweep_run = running(world, sweep, [job])
    assert not sweep_run.needs_umap(sweep_run.runs[0], "last", "fan")
    assert sweep_run.needs_umap(sweep_run.runs[0], "last", "bandsaw")


def test_a_plot_whose_extraction_is_lost_waits_for_it_though_all_scores_failed(world):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0])
    finish(job, sweep, world.places, until="train")
    for backend in job.backends:
        at = {"machine": "fan", "checkpoint": "last", "backend": backend_id(backend)}
        lasting = fail(world, sweep, job, "score", **at)
    left = job.remaining(sweep, world.places, lasting)
    assert set(left.umaps) <= set(left.machines)
    files = job.files(world.places)
    paths = [files.folder.extract("last", "fan", split) for split in ("train", "test")]
    record(Snapshot(files).extract("fan", "last"), paths)
    left = job.remaining(sweep, world.places, lasting)
    assert ("last", "fan") in set(left.umaps) - set(left.machines)


def test_a_trial_that_joins_late_does_not_repeat_failures_that_last(world):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0])
    fail(world, sweep, job, "train", unit="fan")
    sweep_run = running(world, sweep, [])
    late = sweep_run.admit(job)
    assert [unit.name for unit in late.left.units] == ["ToyCar", "bandsaw"]
    assert [event["unit"] for event in late.failures] == ["fan"]


def test_results_of_release_0_1_are_refused_when_a_search_meets_them(world):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0])
    sweep_run = running(world, sweep, [])
    old = job.files(world.places).folder.model("fan") / ".done" / "train.json"
    store.write_json(old, {"format": 1, "stage": "train"})
    with pytest.raises(ValueError, match="was written by asdray 0.1"):
        sweep_run.admit(job)
    assert not job.files(world.places).folder.trial_json.exists()


def test_a_search_whose_training_ended_too_soon_is_not_complete(world, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_run_on_ray", lambda sweep_run, options: None)
    sweep = studies_of(tmp_path, world.places, confirm={"top_k": 1, "seeds": [5]}).sweep
    result = run_sweep(sweep, (), world.places, RunOptions(quiet=True))
    assert result.unfinished == ["the search (4 systems to come, 1 to confirm)"]


@pytest.mark.parametrize("fail_fast", [True, False])
def test_the_first_failure_ends_a_run_only_where_fail_fast_asks(world, monkeypatch, capsys, fail_fast):
    def work(sweep_run, options):
        assert sweep_run.failed_fast is None
        first = sweep_run.runs[0]
        sweep_run.record(first, failed(event_of(first.trial, "train", unit="fan"), "boom"))
        if why := sweep_run.failed_fast:
            sweep_run.stop(why)

    monkeypatch.setattr(run, "_run_on_ray", work)
    sweep, jobs = world.load(recipes=["ae.yaml"], seeds=[0, 1], umap=False, fail_fast=fail_fast)
    result = run_sweep(sweep, jobs, world.places, RunOptions())
    assert ("fail_fast: train fan: boom (ae " in capsys.readouterr().out) == fail_fast
    assert (result.failed_fast, result.stopped, len(result.unfinished)) == (fail_fast, False, 2)
    with pytest.raises(SystemExit) as ended:
        print_result(result, sweep, ["sweep", "s.yaml"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "1 stages failed:" in said
    rest = "the run was ended by its first failure; to go on with the rest: asdray sweep s.yaml"
    assert (rest in said) == fail_fast


def test_the_next_run_removes_the_rest_of_deleted_trials(world, monkeypatch):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0], umap=False)
    finish(job, sweep, world.places)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            keep.delete(keep.results_of(sweep, [job], world.places), sweep, world.places)
    (rest,) = world.places.results.glob("trials/.deleted-*")
    assert trial_dirs(world.places.results) == []
    run_sweep(sweep, (job,), world.places, RunOptions(quiet=True, only=lambda job: False))
    assert not rest.exists()


def test_the_next_run_removes_temporary_files_of_a_killed_one(world):
    sweep, (job,) = world.load(recipes=["ae.yaml"], seeds=[0], umap=False)
    folder = store.sweep_dir(world.places.results, sweep.name)
    rests = [folder / ".tmp-1-2-status.json", folder / "tables" / ".tmp-1-2-official23-dev.csv"]
    for rest in rests:
        rest.parent.mkdir(parents=True, exist_ok=True)
        rest.touch()
    run_sweep(sweep, (job,), world.places, RunOptions(quiet=True, only=lambda job: False))
    assert not any(rest.exists() for rest in rests)
