"""A sweep that is stopped, watched, given wrong input, or whose data change: on a real local Ray."""

import json
import os
import re
import shutil
import signal
import socket
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from sweeping import SMALL_AE, SMALL_DIS, World, asdray, make_data, stages, start, wait_for
from terminal import in_terminal, read_until

from asdray.store import Places, lease, trial_dir
from asdray.sweep.plan import load

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


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
    changes = {
        "recipes": {
            "ae_baseline": {"set": {**SMALL_AE, "train.epochs": 1}},
            "dis_baseline": {"set": {**SMALL_DIS, "train.epochs": 5000}},
        },
        "machines": {"dcase2023": ["fan"]},
        "resources": {"train": {"cpu": len(os.sched_getaffinity(0))}},  # one after the other
    }
    command = [arg for arg in world.command(**changes) if arg != "--no-dashboard"]
    first, second = load(command[1], {}, Places.of(data, world.results))[1]
    folder = trial_dir(world.results, first.trial).model(first.trial.units[0].name)
    with lease(folder):  # the first training waits for it
        process, terminal = in_terminal(
            "-m", "asdray", *command, RAY_metrics_report_interval_ms="500", RAY_AUTH_TOKEN=TOKEN
        )
        shown = read_until(terminal, "waiting for another process", seconds=180)
        url = re.search(r"Ray dashboard: (http://127\.0\.0\.1:\d+); metrics: http://", shown)[1]
        titles = [f"ray::train {job.trial.name}" for job in (first, second)]
        wait_for(lambda: titles[0] in workers(url), process, 60)
        worker = workers(url)[titles[0]]
    read_until(terminal, "clips/s", seconds=60)
    assert re.search(r"[12] running", read_until(terminal, " left", seconds=30))
    snapshot = world.folder() / "status.json"  # written less often than the screen is drawn
    wait_for(
        lambda: json.loads(snapshot.read_text())["training"],
        process,
        60,
        lambda: read_until(terminal, "clips/s"),
    )

    wait_for(
        lambda: workers(url).get(titles[1]) == worker, process, 60, lambda: read_until(terminal, "clips/s")
    )

    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "sweep tiny: running since" in status
    assert "Ray dashboard http://127.0.0.1:" in status
    assert re.search(r"dis_baseline-\w+ dcase2023 seed0 .*/5000", status)
    url = json.loads((world.folder() / "status.json").read_text())["metrics"]
    speed = r'ray_asdray_clips_per_second\{.*sweep="tiny".*\} (?!0\.0)'
    wait_for(lambda: re.search(speed, text_at(url)), process, 60, lambda: read_until(terminal, "clips/s"))
    assert re.search(r'ray_asdray_trials\{.*state="running",sweep="tiny".*\} [12]\.0', text_at(url))

    os.write(terminal, b"\x03")
    rest = read_until(terminal, None, seconds=90)
    os.close(terminal)
    assert process.wait(60) == 75
    assert "stopping: what is finished is kept" in rest
    assert "to go on: asdray sweep" in rest
    assert "Traceback" not in rest
    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "not running; it was stopped at" in status


TOKEN = "0123456789abcdef" * 2


def workers(url):
    """Title -> process of every worker, as the dashboard's page of nodes shows them."""
    (node,) = json.loads(text_at(f"{url}/nodes?view=summary"))["data"]["summary"]
    detail = json.loads(text_at(f"{url}/nodes/{node['raylet']['nodeId']}"))["data"]["detail"]
    return {worker["cmdline"][0]: worker["pid"] for worker in detail["workers"] if worker["cmdline"]}


def text_at(url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
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
