"""The main job on a real local Ray, with real wavs, through the real command line."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from terminal import in_terminal, read_until

pytestmark = pytest.mark.ray

MACHINES = ["fan", "valve", "bandsaw"]
SMALL_DIS = {
    "audio.duration": 1.2,
    "frontend.branches": [
        {
            "name": "fft",
            "channels": 8,
            "kernels": [32, 16, 4],
            "strides": [16, 8, 2],
            "hidden": 0,
            "embedding_dim": 8,
        },
        {"name": "stft", "n_fft": 256, "hop_length": 256, "channels": [4, 8], "embedding_dim": 8},
    ],
    "train.epochs": 30,
    "train.batch_size": 8,
}
SMALL_AE = {
    "audio.duration": 1.2,
    "frontend.n_mels": 16,
    "frontend.hidden": [16],
    "frontend.bottleneck": 4,
    "train.epochs": 30,
}


def spec(**changes):
    return {
        "name": "tiny",
        "recipes": {"dis_baseline": {"set": SMALL_DIS}, "ae_baseline": {"set": SMALL_AE}},
        "dcase": ["dcase2023"],
        "seeds": [0],
        "machines": {"dcase2023": MACHINES},
        "backends": ["knn"],
        "umap": False,
        **changes,
    }


def asdray(*args, check=0, **kwargs):
    run = subprocess.run(
        [sys.executable, "-m", "asdray", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=400,
        **kwargs,
    )
    assert run.returncode == check, run.stdout + run.stderr
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("d")
    asdray("synth", "dcase2023", "--machines", ",".join(MACHINES), "--train", 12, "--test", 8,
           "--seconds", 1.2, "--data", root)  # fmt: skip
    asdray("format", "dcase2023", "--data", root)
    return root


class World:
    """One results folder, and the sweeps run in it."""

    def __init__(self, data, results):
        self.data, self.results = data, results

    def command(self, name="sweep.yaml", **changes):
        path = self.results.parent / name
        path.write_text(yaml.safe_dump(spec(**changes)))
        return ["sweep", path, "--data", self.data, "--results", self.results, "--no-dashboard"]

    def sweep(self, check=0, **changes):
        """Runs a sweep; returns what it printed and the events it added."""
        before = len(self.events())
        run = asdray(*self.command(**changes), check=check)
        return run, self.events()[before:]

    def folder(self, name="tiny"):
        return self.results / "sweeps" / name

    def events(self, name="tiny"):
        path = self.folder(name) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def tables(self, name="tiny"):
        """Content of every table of the sweep."""
        folder = self.folder(name)
        paths = [*sorted((folder / "tables").glob("*.csv")), folder / "leaderboard.csv"]
        return {p.name: p.read_text() for p in paths}


def stages(events, **where):
    """How often each stage stands in the events, without those found done."""
    return Counter(e["stage"] for e in events if not e["found"] and all(e[k] == v for k, v in where.items()))


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


def test_one_deleted_file_costs_only_its_stage_and_plots_can_come_later(first, world):
    (victim,) = world.results.glob("trials/dcase2023/dis_baseline-*/seed0/output/last/fan/scores/*.parquet")
    content = victim.read_bytes()
    victim.unlink()
    _, events = world.sweep(machines={"dcase2023": ["fan", "bandsaw"]}, umap={})
    assert victim.read_bytes() == content
    plots = [e for e in events if e["stage"] == "umap"]
    assert len(plots) == 4, "asked for only now"
    assert len(list(world.results.glob("trials/*/*/*/output/last/*/umap/umap.png"))) == 4
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


def test_ground_truth_that_comes_later_repeats_evaluation_alone(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "original", copy / "original", copy_function=shutil.copy2)
    truth = copy / "original" / "dcase2023" / "ground_truth"
    truth.rename(tmp_path / "later")
    assert "without a label" in asdray("format", "dcase2023", "--data", copy).stdout
    world = World(copy, tmp_path / "results")
    recipes = {"ae_baseline": {"set": {**SMALL_AE, "train.epochs": 1}}}
    _, events = world.sweep(recipes=recipes)
    assert all(e["status"] == "done" for e in events)
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert board["dcase2023-eval_mean"].isna().all()
    assert board["dcase2023-dev_mean"].notna().all()

    asdray("format", "dcase2023", "--data", copy, "--ground-truth", tmp_path / "later")
    _, events = world.sweep(recipes=recipes)
    # Only bandsaw is an eval machine: the labels of the others did not change.
    assert stages(events) == {"evaluate": 1, "table": 1}
    assert pd.read_csv(world.folder() / "leaderboard.csv")["dcase2023-eval_mean"].notna().all()


def wait_for(condition, process, seconds=180, meanwhile=lambda: None):
    end = time.monotonic() + seconds
    while not condition():
        meanwhile()
        assert process.poll() is None, "ended before it could be killed:\n" + process.communicate()[0]
        assert time.monotonic() < end, "did not get there"
        time.sleep(0.05)


def start(world, **changes):
    command = [sys.executable, "-m", "asdray", *map(str, world.command(**changes))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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


def test_a_failing_trial_is_recorded_and_stops_nothing_else(data, tmp_path):
    world = World(data, tmp_path / "results")
    recipes = {
        "dis_baseline": {"set": SMALL_DIS, "space": {"train.learning_rate": [1.0e-3, 1.0e30]}},
    }
    run, events = world.sweep(check=1, recipes=recipes)
    assert "1 stages failed" in run.stderr
    # Once more: it would fail again, so it is not tried, and Ray is not started.
    again, more = world.sweep(check=1, recipes=recipes)
    assert "failed before; --retry-failed tries again:" in again.stderr
    assert more == []
    (failure,) = [e for e in events if e["status"] == "failed" and e["stage"] == "train"]
    assert "epoch" in failure["error"]
    trials = pd.read_parquet(world.folder() / "trials.parquet").set_index("train.learning_rate")
    assert trials.loc[1e-3, "status"] == "done"
    assert trials.loc[1e30, "status"] == "failed"
    assert failure["error"] in trials.loc[1e30, "error"]
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert board["rank"].isna().sum() == 1
    assert board[board["rank"].isna()]["dcase2023-eval_n"].tolist() == [0]


def test_sigterm_stops_cleanly_and_the_same_command_goes_on(data, tmp_path):
    world = World(data, tmp_path / "results")
    recipes = {"dis_baseline": {"set": {**SMALL_DIS, "train.epochs": 400}}}
    process = start(world, recipes=recipes)
    wait_for(lambda: list(world.results.glob("trials/*/*/*/model/*/checkpoints/last.ckpt")), process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 75, output
    assert "to go on: asdray sweep" in output
    assert "Traceback" not in output
    assert not list(Path("/tmp").glob(f"asdray-{process.pid}-*")), "its Ray's folder is gone"


def test_a_running_sweep_tells_how_it_goes_and_ctrl_c_stops_it(data, tmp_path):
    world = World(data, tmp_path / "results")
    recipes = {"dis_baseline": {"set": {**SMALL_DIS, "train.epochs": 5000}}}
    command = [arg for arg in world.command(recipes=recipes) if arg != "--no-dashboard"]
    process, terminal = in_terminal("-m", "asdray", *command, RAY_metrics_report_interval_ms="500")
    shown = read_until(terminal, "clips/s", seconds=180)
    assert re.search(r"Ray dashboard: http://127\.0\.0\.1:\d+; metrics: http://", shown)
    assert "1 running" in read_until(terminal, " left", seconds=30)

    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "sweep tiny: running since" in status
    assert "Ray dashboard http://127.0.0.1:" in status
    assert re.search(r"dis_baseline-\w+ dcase2023 seed0 .*/5000", status)
    url = json.loads((world.folder() / "status.json").read_text())["metrics"]
    speed = r'ray_asdray_clips_per_second\{.*sweep="tiny".*\} (?!0\.0)'
    wait_for(lambda: re.search(speed, text_at(url)), process, 60, lambda: read_until(terminal, "clips/s"))
    assert re.search(r'ray_asdray_trials\{.*state="running",sweep="tiny".*\} 1\.0', text_at(url))

    os.write(terminal, b"\x03")
    rest = read_until(terminal, None, seconds=90)
    os.close(terminal)
    assert process.wait(60) == 75
    assert "stopping: what is finished is kept" in rest
    assert "to go on: asdray sweep" in rest
    assert "Traceback" not in rest
    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "not running; it was stopped at" in status


def text_at(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": [0]}, "unknown option 'sead'; did you mean 'seeds'?"),
        ({"dcase": ["dcase2032"]}, "unknown DCASE year 'dcase2032'"),
        ({"dcase": ["dcase2022"], "machines": "all"}, "asdray format dcase2022"),
        ({"machines": {"dcase2023": ["fan", "ToyCar"]}}, "ToyCar"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_runs(data, tmp_path, changes, message):
    world = World(data, tmp_path / "results")
    run = asdray(*world.command(**changes), check=2)
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not world.results.exists()


def test_an_address_where_nobody_listens_is_said_at_once(data, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    world = World(data, tmp_path / "results")
    run = asdray(*world.command(), "--address", address, check=2)
    assert f"no Ray answers at '{address}'" in run.stderr


def test_more_than_any_node_has_is_said_at_once(data, tmp_path):
    world = World(data, tmp_path / "results")
    run = asdray(*world.command(resources={"train": {"cpu": 1000}}), check=2)
    assert "resources.train.cpu asks for 1000, but the largest node of this Ray has" in run.stderr


def test_labels_that_come_while_a_sweep_runs_are_in_its_tables(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "original", copy / "original", copy_function=shutil.copy2)
    (copy / "original" / "dcase2023" / "ground_truth").rename(tmp_path / "later")
    asdray("format", "dcase2023", "--data", copy)
    world = World(copy, tmp_path / "results")
    recipes = {"ae_baseline": {"set": SMALL_AE}}
    process = start(world, recipes=recipes)
    wait_for(lambda: list(world.results.glob("trials/*/*/*/model/*/checkpoints/last.ckpt")), process)
    asdray("format", "dcase2023", "--data", copy, "--ground-truth", tmp_path / "later")
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    assert pd.read_csv(world.folder() / "leaderboard.csv")["dcase2023-eval_mean"].notna().all()


def test_data_changed_after_format_are_noticed(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy, symlinks=True, copy_function=shutil.copy2)
    victim = next((copy / "original").glob("dcase2023/dev_data/raw/fan/train/*.wav"))
    os.utime(victim, (1, 1))
    run = asdray(*World(copy, tmp_path / "results").command(), check=2)
    assert victim.name in run.stderr
    assert "asdray format dcase2023" in run.stderr


def test_a_running_sweep_refuses_a_second_one_of_its_name(data, tmp_path):
    world = World(data, tmp_path / "results")
    from asdray import store

    with store.lease(world.folder()):
        run = asdray(*world.command(), check=2)
    assert "already runs" in run.stderr
