"""Trainings share a GPU by the memory that was measured; a GPU that Ray only believes in takes its place."""

import json
import subprocess
import sys

import pytest
import yaml
from tiny import AE, DCASE, DIS, MACHINES, build_year, trial_of

from asdray.config.system import with_overrides
from asdray.sweep.events import GPU_MEMORY, OUT_OF_MEMORY
from asdray.sweep.shares import CONTEXT, Shares
from asdray.sweep.training_worker import Assignment
from asdray.sweep.tune import Feed

GIB = 2**30


def event(trial, used, of=141 * GIB, **more):
    memory = {"used": used, "of": of, "batch_size": trial.system.train.batch_size}
    return {"recipe": trial.recipe, "system": trial.system_name, GPU_MEMORY: memory, **more}


def test_small_trainings_share_a_gpu_and_large_ones_get_one():
    trial = trial_of(AE)
    assert Shares([], 1).of(trial) == 1, "nobody knows its memory"
    assert Shares([event(trial, GIB)], 1).of(trial) == 0.25, "four at most, although a hundred would fit"
    assert Shares([event(trial, 40 * GIB)], 1).of(trial) == 0.5
    assert Shares([event(trial, 30 * GIB)], 1).of(trial) == 0.3333, "in Ray's steps"
    assert Shares([event(trial, 100 * GIB)], 1).of(trial) == 1
    assert Shares([event(trial, GIB), event(trial, 40 * GIB)], 1).of(trial) == 0.5, "the larger one counts"
    full = int((24 * GIB / 2 - CONTEXT) / 1.25)
    assert Shares([event(trial, full, 24 * GIB)], 1).of(trial) == 0.5
    assert Shares([event(trial, full + 2**20, 24 * GIB)], 1).of(trial) == 1


def test_other_systems_of_a_recipe_may_need_more():
    trial = trial_of(AE)
    shares = Shares([event(trial, 20 * GIB)], 1)
    assert shares.of(trial) == 0.25
    other = trial_of(with_overrides(AE, {"train.learning_rate": 0.1}, "x"))
    assert shares.of(other) == 0.3333
    larger = trial_of(with_overrides(AE, {"train.batch_size": 4 * AE.train.batch_size}, "x"))
    assert shares.of(larger) == 1
    shares.learn(event(larger, 20 * GIB))
    assert shares.of(larger) == 0.25, "now its own memory is known"
    assert shares.of(trial_of(DIS)) == 1, "another recipe"


def test_a_recipe_that_ran_out_of_memory_shares_no_gpu():
    trial = trial_of(AE)
    sizes = {"asked": {"batch_size": 16, "accumulate": 1}, "used": {"batch_size": 8, "accumulate": 2}}
    shares = Shares([event(trial, GIB), {**event(trial, GIB), OUT_OF_MEMORY: sizes}], 1)
    assert shares.of(trial) == 1
    Shares([{"recipe": "ae", "system": "x", "stage": "train"}], 1)  # an event of a CPU


def test_trials_of_unknown_memory_wait_for_those_on_all_gpus():
    shares = Shares([], 2)
    feed = Feed(shares)
    trials = [trial_of(AE, seed) for seed in range(5)]
    for index, trial in enumerate(trials):
        feed.put({"work": index, "assignment": Assignment(trial)})
    feed.put(None)
    first, second = feed.suggest("a"), feed.suggest("b")
    assert [(one["work"], one["gpu"]) for one in (first, second)] == [(0, 1), (1, 1)]
    assert feed.suggest("c") is None
    feed.on_trial_complete("a", error=True)
    assert (feed.suggest("c")["work"], feed.suggest("d")) == (2, None)
    shares.learn(event(trials[0], GIB))
    assert [(one["work"], one["gpu"]) for one in (feed.suggest("d"), feed.suggest("e"))] == [
        (3, 0.25),
        (4, 0.25),
    ]
    assert feed.suggest("f") == Feed.FINISHED


SWEEP = """
import contextlib, json, os, sys
from asdray.sweep.cluster import RAY_ENV
os.environ.update(RAY_ENV)
import ray
import asdray.sweep.driver as driver
import asdray.sweep.tune as tune
from asdray.cli.main import main

log, *arguments = sys.argv[1:]
original, options = ray.init, driver.WorkerOptions
real = tune.train_job
ray.init = lambda *args, **more: original(*args, **{**more, "num_cpus": 4, "num_gpus": 1})
driver.WorkerOptions = lambda *args, **more: options(*args, **{**more, "device": "cpu"})

def on_the_cpu(config, trials, options):
    # A real training, whose memory is made up; it says what Ray has reserved for it.
    from asdray.frontends import compute

    @contextlib.contextmanager
    def measured(device):
        yield {"used": 10 * 2**30, "of": 141 * 2**30}

    compute.measured_memory = measured
    with open(log, "a") as file:
        print(json.dumps([config["work"], ray.get_runtime_context().get_assigned_resources()]), file=file)
    real(config, trials, options)

tune.train_job = on_the_cpu
main(arguments)
"""


@pytest.mark.ray
def test_a_sweep_measures_its_first_training_and_then_shares(tmp_path):
    build_year(tmp_path / "data")
    recipe = {"about": "tiny", **AE.model_dump(mode="json")}
    (tmp_path / "ae.yaml").write_text(yaml.safe_dump(recipe))
    sweep = {
        "name": "shared", "recipes": [str(tmp_path / "ae.yaml")], "dcase": [DCASE], "seeds": [0, 1, 2, 3],
        "machines": {DCASE: list(MACHINES)}, "backends": ["recon"], "umap": False, "report": False,
    }  # fmt: skip
    path, log = tmp_path / "shared.yaml", tmp_path / "log"
    path.write_text(yaml.safe_dump(sweep))
    command = [sys.executable, "-c", SWEEP, log, "sweep", path, "--data", tmp_path / "data"]
    command += ["--results", tmp_path / "results", "--no-dashboard", "--quiet"]
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    reserved = [json.loads(line) for line in log.read_text().splitlines()]
    parts = 4 * 2  # two of every trial: enough for two in each quarter
    assert sorted(work for work, _ in reserved) == [*range(parts)]
    assert [resources["GPU"] for _, resources in reserved] == [1, *[0.25] * (parts - 1)]
    events = (tmp_path / "results" / "sweeps" / "shared" / "events.jsonl").read_text()
    assert events.count(f'"{GPU_MEMORY}"') == 4 * len(MACHINES)
