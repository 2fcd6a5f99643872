"""Pruning by `keep`, and what of the pruned is rebuilt: real stages, here without Ray."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import sweeping
import yaml
from finished import finish, snapshot
from test_without_training import RAW
from tiny import AE, DCASE, MACHINES
from trees import build_tree, write_list

from asdray import load_results, store
from asdray.config.files import seconds_of
from asdray.config.search import Objective
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset
from asdray.evaluation.tables import write_trials
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import TrialFiles
from asdray.stages.table import table
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep import outputs, run, stop
from asdray.sweep.jobs import count_complete, is_complete, trial_row
from asdray.sweep.keep import Pruner, Ranking
from asdray.sweep.plan import load
from asdray.sweep.run import RunOptions, run_sweep
from asdray.sweep.search import open_search
from asdray.sweep.status import plan_lines
from asdray.sweep.study import Studies
from asdray.sweep.summaries import read_summary
from asdray.sweep.tasks import process_machine
from asdray.sweep.training_worker import Judge, WorkerOptions, units_to_rebuild

NONE = {"checkpoints": "none", "embeddings": "none"}
KNN2 = ["knn", {"name": "knn", "n_neighbors": 2}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_list(build_tree(root, DCASE, list(MACHINES), {"source": 4, "target": 2}, n_samples=8000))
    format_dataset(root, DCASE)
    return root


@pytest.fixture
def world(data, tmp_path):
    return World(data, tmp_path)


class World:
    """Sweeps over spectra, whose trainings are short, in one results folder."""

    def __init__(self, data, folder):
        self.places = Places.of(data, folder / "results")
        self.folder = folder
        recipe = {"about": "raw", **RAW.model_dump(mode="json")}
        (folder / "raw.yaml").write_text(yaml.safe_dump(recipe))

    def load(self, name="s", mels=(8,), **changes):
        value = {
            "name": name, "recipes": {"raw.yaml": {"space": {"frontend.n_mels": list(mels)}}},
            "dcase": DCASE, "seeds": [0], "machines": {DCASE: list(MACHINES)}, "umap": False, "report": False, **changes,
        }  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(value))
        return load(path, {}, self.places)

    def work(self, **changes):
        """What is missing of a sweep, as its driver has it done, and a run that finds nothing left."""
        sweep, jobs = self.load(**changes)
        events = []
        for job in jobs:
            options = WorkerOptions(self.places, sweep.checkpoints, sweep.backends, sweep.umap)
            rebuild = units_to_rebuild(job.trial, options)
            for unit in job.trial.units:
                found = train(
                    TrialFiles.load(job.trial, self.places),
                    unit,
                    checkpoints=sweep.checkpoints,
                    rebuild=unit.name in rebuild,
                )
                events += [] if found.reused else ["train"]
            for ckpt, machine in job.remaining(sweep, self.places).machines:
                done = process_machine(job.trial, job.request(sweep), ckpt, machine, self.places, "cpu")
                assert all(e["status"] == "done" for e in done), done
                events += [e["stage"] for e in done if not e["found"]]
            events += (
                []
                if table(TrialFiles.load(job.trial, self.places), sweep.checkpoints, job.backends).reused
                else ["table"]
            )
        self.run(**changes)
        return {stage: events.count(stage) for stage in dict.fromkeys(events)}

    def run(self, **changes):
        """The sweep with nothing left to train or extract: it starts no Ray."""
        sweep, jobs = self.load(**changes)
        result = run_sweep(sweep, jobs, self.places, RunOptions(quiet=True))
        assert "ray._private.worker" not in sys.modules or not sys.modules["ray"].is_initialized()
        assert not result.failures
        assert not result.unfinished
        return result

    def kept(self, pattern="*_extract.parquet"):
        return sorted(p for p in self.places.results.glob(f"trials/**/{pattern}"))

    def trees(self):
        """Every file that is no lease -> its time of change."""
        return {
            p: p.stat().st_mtime_ns
            for p in self.places.results.glob("trials/**/*")
            if p.is_file() and p.name != ".lease"
        }


def checkpoints(world):
    return world.kept("*.ckpt")


def test_by_default_everything_stays(world):
    world.work()
    assert len(world.kept()) == 2 * len(MACHINES)
    assert len(checkpoints(world)) == 3


def test_what_is_pruned_is_complete_until_something_new_reads_it(world, asdray):
    assert world.work(keep=NONE) == {"train": 3, "extract": 3, "score": 3, "evaluate": 3, "table": 1}
    assert world.kept() == checkpoints(world) == []
    before = world.trees()
    counts = world.run(keep=NONE).counts
    assert not any(count.new for count in counts.values())
    assert world.trees() == before
    sweep, jobs = world.load(keep=NONE)
    assert "1 trials, 1 done" in "\n".join(plan_lines(sweep, jobs, world.places))
    where = ["--data", world.places.data, "--results", world.places.results]
    code, out, _ = asdray("status", "s", *where)
    assert (code, "1 done of 1 trials" in out) == (0, True)
    assert asdray("report", "s", *where)[0] == 0
    assert load_results(store.sweep_dir(world.places.results, "s"))["value"].notna().any()

    sweep, jobs = world.load(keep=NONE, backends=KNN2)
    changed, line, *rest = plan_lines(sweep, jobs, world.places)
    assert changed.startswith("changed since the last run: backends")
    assert "train " in line
    assert (
        "3 of these rebuilt (checkpoint pruned), extract 3 machines again (pruned), score 3 machines" in line
    )
    assert "6 of the trainings and extractions are rebuilt" in "\n".join(rest)

    def scored():
        """Every score's record, by its folder and backend."""
        folders = [path.parent for path in world.kept("done.json")]
        return {(f, name): r for f in folders for name, r in store.read_records(f).items() if "score" in name}

    records = scored()
    rows = {p: p.read_bytes() for p in world.kept("scores/*.parquet")}
    # Made again with the same bytes: what the first backend made of them stays as it was.
    assert world.work(keep=NONE, backends=KNN2) == {
        "train": 3, "extract": 3, "score": 3, "evaluate": 3, "table": 1,
    }  # fmt: skip
    assert records.items() <= scored().items()
    assert {p: p.read_bytes() for p in rows} == rows
    assert world.kept() == checkpoints(world) == []
    assert len(world.kept("scores/*.parquet")) == 6
    # The smaller sweep is done as before.
    assert world.work(keep=NONE) == {}


def test_a_kept_checkpoint_saves_the_training(world):
    keep = {"embeddings": "none"}
    world.work(keep=keep)
    assert (len(world.kept()), len(checkpoints(world))) == (0, 3)
    assert world.work(keep=keep, backends=KNN2) == {"extract": 3, "score": 3, "evaluate": 3, "table": 1}
    assert world.kept() == []
    sweep, (job,) = world.load(keep=keep, backends=KNN2, umap={})
    missing = job.remaining(sweep, world.places)
    assert (missing.units, len(missing.machines), len(missing.umaps)) == ((), 3, 3)
    assert missing.rebuilt == {"extract": 3}, "a plot reads them too"


def test_an_objective_that_reads_embeddings_has_them_made_again(world):
    world.work(keep=NONE)
    sweep, (job,) = world.load(keep=NONE)
    options = WorkerOptions(world.places, ("last",), sweep.backends)
    assert units_to_rebuild(job.trial, options) == set()
    judge = Judge(Objective(metric="compactness"), sweep.backends, scheduled=False)
    assert judge.reads_embeddings
    assert units_to_rebuild(job.trial, options, job.trial.machines) == set(MACHINES)
    for unit in job.trial.units:
        train(TrialFiles.load(job.trial, world.places), unit, rebuild=True)
    events = judge.events(job.trial, world.places, "cpu")
    assert [e["stage"] for e in events if not e["found"]] == ["extract"] * 3
    assert judge.verdict(job.trial, events, world.places)["reason"] is None


def test_other_bytes_make_stale_what_was_made_of_the_old(world):
    sweep, (job,) = world.load(keep={"embeddings": "none"})
    world.work(keep={"embeddings": "none"})
    folder = store.trial_dir(world.places.results, job.trial).machine("last", "fan")
    extracted = store.read_record(folder, "extract")
    # As if extracted on other hardware, whose digits differ.
    extracted = dataclasses.replace(extracted, digest="0" * 64)
    store.write_record(folder, "extract", extracted)
    (name,) = [name for name in store.read_records(folder) if name.startswith("score-")]
    old = store.read_records(folder)[name]
    store.write_record(folder, name, dataclasses.replace(old, inputs={"extract": extracted.digest}))
    assert count_complete(job.steps(sweep, world.places))["score"] == 3
    done = world.work(keep={"embeddings": "none"}, backends=KNN2)
    assert done == {"extract": 3, "score": 4, "evaluate": 3, "table": 1}, "fan's first score too"


def test_keep_takes_effect_on_finished_trials_and_is_told(world, capsys):
    world.work()
    sweep, jobs = world.load(keep=NONE)
    run_sweep(sweep, jobs, world.places, RunOptions())
    out = capsys.readouterr().out
    assert "changed since the last run: keep.checkpoints, keep.embeddings" in out
    assert "of checkpoints and embeddings pruned" in out
    assert world.kept() == checkpoints(world) == []
    world.run()  # what is gone does not come back by itself
    assert world.kept() == []


def test_a_run_leaves_summaries_of_its_trials(world):
    """Of the trials as they are after pruning."""
    world.work(mels=(8, 16), keep=NONE)
    sweep, jobs = world.load(mels=(8, 16), keep=NONE)
    assert all(read_summary(job, sweep, world.places) for job in jobs)
    assert world.kept() == []


def test_last_keeps_the_last_checkpoint_alone(world):
    world.work(checkpoints=["last", "best"], keep={"checkpoints": "last"})
    assert [p.name for p in checkpoints(world)] == ["last.ckpt"] * 3
    assert len(world.kept()) == 4 * len(MACHINES)
    assert world.work(checkpoints=["last", "best"], keep={"checkpoints": "last"}) == {}


def test_top_keeps_those_of_the_best_systems_of_the_leaderboard(world):
    changes = {"mels": (4, 8, 12, 16), "keep": {"checkpoints": {"top": 2}, "embeddings": {"top": 1}}}
    world.work(**changes)
    import pandas as pd

    board = pd.read_csv(store.sweep_dir(world.places.results, "s") / "leaderboard.csv")
    best = list(board.sort_values("rank")["system"])
    assert board["rank"].notna().all()
    assert {p.parts[-6] for p in world.kept()} == {best[0]}
    assert {p.parts[-6] for p in checkpoints(world)} == set(best[:2])
    assert world.work(**changes) == {}


def test_what_is_in_no_ranking_yet_stays(world):
    sweep, jobs = world.load(mels=(8, 16), keep={"embeddings": {"top": 1}})
    finish(jobs[0], sweep, world.places)
    ranking = Ranking.read(sweep, jobs, world.places)
    assert not any(ranking.is_outside_top(job, 1) for job in jobs)
    pruner = Pruner(sweep, world.places)
    pruner.prune_all(jobs, None)
    assert pruner.freed == 0


def test_of_a_search_the_best_by_its_objective_stay_and_open_samples_wait(world):
    search = {"algorithm": "random", "num_samples": 4, "objective": {"metric": "compactness"}}
    asked = {"mels": range(4, 64), "search": search, "keep": {"embeddings": {"top": 1}}}
    sweep, jobs = world.load(**asked)
    assert jobs == ()
    datasets = {DCASE: load_dataset(world.places.data, DCASE)}
    store.sweep_dir(world.places.results, "s").mkdir(parents=True)
    studies = Studies(sweep, world.places, datasets, "s.yaml", write=True)
    samples = [studies.ask() for _ in range(4)]
    assert len(studies.systems()) == 4
    for value, sample in zip((0.5, 0.2, 0.9), samples, strict=False):
        studies.tell(sample, "done", value)
    sweep, jobs = world.load(**asked)
    for job in jobs:
        finish(job, sweep, world.places)
    searching, jobs = open_search(sweep, world.places)
    pruner = Pruner(sweep, world.places)
    pruner.prune_all(jobs, searching)
    kept = {sample.system.id for sample in (samples[1], samples[3])}  # the lower the better; the last is open
    assert {p.parts[-6].rpartition("-")[2] for p in world.kept()} == kept


def stopped_search(world, keep):
    """A search whose one system, of two seeds, was stopped: seed 0 had ended, seed 1 was only trained."""
    search = {"algorithm": "random", "num_samples": 1, "objective": {"metric": "compactness"}}
    recipe = {"about": "ae", **AE.model_dump(mode="json")}
    (world.folder / "ae.yaml").write_text(yaml.safe_dump(recipe))
    asked = {"recipes": ["ae.yaml"], "seeds": [0, 1], "search": search, "scheduler": "asha", "keep": keep}
    sweep, _ = world.load(**asked)
    store.sweep_dir(world.places.results, "s").mkdir(parents=True, exist_ok=True)
    datasets = {DCASE: load_dataset(world.places.data, DCASE)}
    studies = Studies(sweep, world.places, datasets, "s.yaml", write=True)
    studies.tell(studies.ask(), "stopped")
    searching, jobs = open_search(sweep, world.places)
    finish(jobs[0], sweep, world.places)
    finish(jobs[1], sweep, world.places, until="extract")
    return sweep, jobs, searching


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (NONE, (0, 0)),
        ({"checkpoints": "last"}, (12, 6)),
        ({"embeddings": {"top": 5}}, (0, 6)),
        ({"checkpoints": {"top": 5}}, (12, 0)),
    ],
)
def test_of_what_a_scheduler_stopped_nothing_is_one_of_the_best_or_still_read(world, keep, left):
    sweep, jobs, searching = stopped_search(world, keep)
    assert (len(world.kept()), len(checkpoints(world))) == (12, 6)
    pruner = Pruner(sweep, world.places)
    with store.lease(store.trial_dir(world.places.results, jobs[1].trial).model("fan")):
        pruner.prune_all(jobs, searching)
        assert len(checkpoints(world)) == (left[1] or 1), "fan's process may be reading it"
    pruner.prune_all(jobs, searching)
    assert (len(world.kept()), len(checkpoints(world))) == left
    assert pruner.freed == 100 * (18 - sum(left))


def name_in_another_sweep(world, **changes):
    """Writes what a run of another sweep leaves in the results."""
    other, jobs = world.load(name="other", **changes)
    folder = store.sweep_dir(world.places.results, "other")
    outputs.write_spec(other, folder)
    rows = [trial_row(job, job.steps(other, world.places), world.places, []) for job in jobs]
    write_trials(rows, folder)
    return store.SweepDir(folder)


def test_what_a_scheduler_stopped_stays_where_another_sweep_names_it(world):
    sweep, jobs, searching = stopped_search(world, NONE)
    name_in_another_sweep(world, recipes=["ae.yaml"], seeds=[1], keep=NONE)
    Pruner(sweep, world.places).prune_all(jobs, searching)
    assert {p.parts[-5] for p in world.kept()} == {p.parts[-5] for p in checkpoints(world)} == {"seed1"}


def test_a_trial_that_another_sweep_has_not_finished_is_not_pruned(world):
    sweep, jobs = world.load(mels=(8, 16), keep=NONE)
    for job in jobs:
        finish(job, sweep, world.places)
    other = name_in_another_sweep(world, mels=(16,), keep=NONE, backends=["knn", "gmm"])

    def pruned():
        return [Pruner(sweep, world.places).prune(job) for job in jobs]

    assert pruned() == [True, False]
    assert len(world.kept()) == 6
    other.trials.unlink()
    with store.lease(other.root):
        assert pruned() == [False, False], "it runs for the first time, and may name any trial"
    assert pruned() == [True, True], "it was killed before it began"
    assert world.kept() == checkpoints(world) == []


def test_sweeps_over_the_same_trials_do_not_block_each_other_for_ever(world):
    sweep, (job,) = world.load(keep=NONE)
    finish(job, sweep, world.places)
    name_in_another_sweep(world, keep={"checkpoints": "last", "embeddings": "none"})
    assert Pruner(sweep, world.places).prune(job)
    assert world.kept() == []
    assert len(checkpoints(world)) == len(MACHINES), "the other sweep keeps them"
    for rule, left in (({"top": 1}, len(MACHINES)), ("none", 0)):
        name_in_another_sweep(world, keep={**NONE, "checkpoints": rule})
        Pruner(sweep, world.places).prune(job)
        assert len(checkpoints(world)) == left


def test_nothing_goes_while_a_process_is_at_work_beside_it(world):
    sweep, (job,) = world.load(keep=NONE)
    finish(job, sweep, world.places)
    pruner = Pruner(sweep, world.places)
    where = store.trial_dir(world.places.results, job.trial)
    with store.lease(where.machine("last", "fan")):
        assert not pruner.prune(job)
    assert {p.parent.name for p in world.kept()} == {"fan"}
    assert {p.parts[-3] for p in checkpoints(world)} == {"fan"}, "fan's process may be reading it"
    assert pruner.prune(job)
    assert world.kept() == checkpoints(world) == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from asdray.store import Places
from asdray.sweep.keep import Pruner
from asdray.sweep.plan import load
places = Places.of(sys.argv[2], sys.argv[3])
sweep, (job,) = load(Path(sys.argv[4]), {}, places)
count = 0
unlink = Path.unlink
def kill(path, **options):
    global count
    if path.suffix in (".parquet", ".ckpt"):
        count += 1
        if count == int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)
    unlink(path, **options)
Path.unlink = kill
Pruner(sweep, places).prune(job)
"""


def test_killed_between_record_and_deletion_the_next_run_deletes(world):
    sweep, (job,) = world.load(keep=NONE)
    finish(job, sweep, world.places)
    args = [os.path.dirname(__file__), world.places.data, world.places.results, world.folder / "s.yaml", 4]
    run = subprocess.run([sys.executable, "-c", KILLED, *map(str, args)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(world.kept()) == 3, (
        "three of six were deleted, the fourth alone is listed as pruned and still there"
    )
    steps = job.steps(sweep, world.places)
    assert is_complete(steps)
    assert len([s for s in steps if s.stage == "extract" and s.status == "pruned"]) == 2
    assert Pruner(sweep, world.places).prune(job)
    assert world.kept() == checkpoints(world) == []
    assert is_complete(job.steps(sweep, world.places))


def test_an_interrupted_rebuild_is_still_only_pruned(world, monkeypatch):
    """Killed while it is extracted again: its scores stay valid, and nobody reads the half of it."""
    world.work(keep={"embeddings": "none"})
    sweep, (job,) = world.load(keep={"embeddings": "none"})
    import asdray.stages.extract as stage

    write = stage._write

    def fail_at_test(path, *rest):
        if path.name.startswith("test"):
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(stage, "_write", fail_at_test)
    with pytest.raises(KeyboardInterrupt):
        extract(TrialFiles.load(job.trial, world.places), "fan", "last", rebuild=True)
    monkeypatch.undo()
    assert [p.name for p in world.kept()] == ["train_extract.parquet"]
    assert is_complete(job.steps(sweep, world.places))
    with pytest.raises(
        ValueError, match=r"embeddings of fan with checkpoint last were pruned.*asdray extract"
    ):
        score(TrialFiles.load(job.trial, world.places), "fan", "last", sweep.backends[0], overwrite=True)
    world.run(keep={"embeddings": "none"})
    assert world.kept() == []
    made = extract(TrialFiles.load(job.trial, world.places), "fan", "last", rebuild=True)
    assert not made.reused
    assert not made.record.pruned
    assert extract(TrialFiles.load(job.trial, world.places), "fan", "last", rebuild=True).reused


def test_by_hand_says_what_to_run_and_that_works(world, asdray):
    world.work(keep=NONE)
    _, (job,) = world.load()
    folder = store.trial_dir(world.places.results, job.trial).root
    data = ["--data", world.places.data]
    new = ["--backend", "{name: knn, n_neighbors: 3}"]
    code, out, err = asdray("score", folder, "--machine", "fan", *new, *data)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"asdray extract {folder} --machine fan --ckpt last" in err
    code, _, err = asdray("extract", folder, "--machine", "fan", "--ckpt", "last", *data)
    assert code == 2
    assert f"asdray train {folder} --ckpt last" in err
    for command in (["train"], ["extract", "--machine", "fan"], ["score", "--machine", "fan", *new]):
        code, out, err = asdray(command[0], folder, *command[1:], *data)
        assert (code, err, "already done" in out) == (0, "", False)
    assert snapshot(job.trial, world.places).extract("fan", "last").status == "done"


def test_the_disk_that_is_left_is_what_will_be_kept(world):
    sweep, jobs = world.load(mels=(4, 8, 12, 16))
    finish(jobs[0], sweep, world.places, size=1_000_000)

    def disk(**keep):
        sweep, jobs = world.load(mels=(4, 8, 12, 16), keep=keep)
        return plan_lines(sweep, jobs, world.places)[-1].split("; ")[-1]

    assert disk() == "46 MiB of disk"
    assert disk(embeddings="none") == "29 MiB of disk"
    assert disk(embeddings={"top": 2}) == "37 MiB of disk"


@pytest.mark.ray
def test_on_ray_what_is_needed_again_is_rebuilt_and_pruned_again(world):
    world.work(keep=NONE)
    rows = {p: p.read_bytes() for p in world.kept("scores/*.parquet")}
    world.load(keep=NONE, backends=KNN2)
    places = ["--data", world.places.data, "--results", world.places.results]
    command = ["sweep", world.folder / "s.yaml", *places, "--no-dashboard"]
    log = store.sweep_dir(world.places.results, "s") / "events.jsonl"
    before = len(log.read_text().splitlines())
    run = sweeping.asdray(*command, "--wall-time", "1h")  # it ends sooner
    events = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    assert all(e["status"] == "done" for e in events)
    assert sweeping.stages(events)["score"] == 3
    assert sweeping.stages(events)["evaluate"] == 3
    assert {p: p.read_bytes() for p in rows} == rows
    assert len(world.kept("scores/*.parquet")) == 6
    assert world.kept() == checkpoints(world) == []
    assert "of checkpoints and embeddings pruned" in run.stdout


# --------------------------------------------------------------------------------------------- the time given


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3h50m", 13800),
        ("230m", 13800),
        ("13800", 13800),
        ("03:50:00", 13800),
        ("36:00:00", 129600),
        ("4h", 14400),
    ],
)
def test_times(text, seconds):
    assert seconds_of(text, "--wall-time") == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "3:50", "4 hours", "1h90", "2d", "1-12:00:00", "-5", "1e3", "00:61:00", "1m1h"]
)
def test_no_times(asdray, text):
    code, out, err = asdray("sweep", "s.yaml", "--wall-time", text)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"--wall-time is {text!r}: must be a time such as 3h50m" in err


def test_the_time_counts_from_the_start_of_the_process():
    code = "from asdray.sweep.stop import process_age; print(process_age())"
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(run.stdout) < time.monotonic() - started + 0.02, "the system counts in 10 ms"
    left = stop.stop_at(5000) - time.monotonic()
    assert left + stop.process_age() == pytest.approx(5000 - stop.RESERVE, abs=20)
    assert stop.stop_at(20) - time.monotonic() + stop.process_age() == pytest.approx(15, abs=4)


def test_over_time_a_run_stops_as_by_a_signal(world, asdray, monkeypatch):
    world.work()
    world.load(backends=KNN2)

    def without_ray(sweep_run, options):
        with stop.stop_on_signals(options.stop_at) as asked:
            while not asked.asked:
                time.sleep(0.05)
            sweep_run.stop(asked.why)

    monkeypatch.setattr(run, "_run_on_ray", without_ray)
    where = ["--data", world.places.data, "--results", world.places.results]
    code, out, err = asdray("sweep", world.folder / "s.yaml", *where, "--wall-time", "1")
    assert code == 75
    assert "--wall-time is nearly over" in out
    assert "score    3 already done, 3 left" in out
    assert err.startswith(f"stopped; to go on: asdray sweep {world.folder / 's.yaml'} ")


def test_when_the_time_is_over_a_signal_still_counts_as_the_first():
    with stop.stop_on_signals(time.monotonic() + 1000) as running:
        assert not running.asked
    with stop.stop_on_signals(time.monotonic()) as ended:
        assert ended.asked
        signal.raise_signal(signal.SIGTERM)  # a second would end this process at once
        assert ended.asked


def test_a_slurm_job_that_tells_its_end_is_told_what_would_stop_before_it():
    assert stop.slurm_hint({}) is None
    assert stop.slurm_hint({"SLURM_JOB_END_TIME": "soon"}) is None
    assert stop.slurm_hint({"SLURM_JOB_END_TIME": str(int(time.time()))}) is None
    hint = stop.slurm_hint({"SLURM_JOB_END_TIME": str(int(time.time()) + 13830)})
    assert hint is not None
    assert "in 3 h 50 min" in hint
    assert hint.endswith("--wall-time 230m")
