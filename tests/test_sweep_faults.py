"""A sweep that is stopped, watched, given wrong input, or whose data change: on a real local Ray."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from other_user import LOOPBACK, abstract_sockets, as_nobody, listening, port_of
from ray_nodes import processes
from sweeping import (
    ONE_BY_ONE,
    SMALL_AE,
    SMALL_DIS,
    World,
    asdray,
    by_hand,
    make_data,
    ray_folders,
    stages,
    start,
    wait_for,
)
from terminal import in_terminal, read_until

from asdray.store import Places, lease, trial_dir
from asdray.sweep.plan import load

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


def test_labels_published_while_a_sweep_runs_are_in_its_tables_and_repeat_evaluation_alone(
    data, tmp_path, asdray
):
    copy = tmp_path / "data"
    shutil.copytree(data / "original", copy / "original", copy_function=shutil.copy2)
    truth = copy / "original" / "dcase2023" / "ground_truth"
    truth.rename(tmp_path / "later")
    assert "without a label" in asdray("format", "dcase2023", "--data", copy)[1]
    world = World(copy, tmp_path / "results")
    recipes = {"ae_baseline": {"set": {**SMALL_AE, "train.epochs": 1}}}
    by_hand(asdray, world, recipes=recipes)
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert board["dcase2023-eval_mean"].isna().all()
    assert board["dcase2023-dev_mean"].notna().all()

    before = len(world.events())
    more = {"recipes": recipes, "seeds": [0, 1]}
    jobs = load(world.command(**more)[1], {}, Places.of(copy, world.results))[1]
    with lease(trial_dir(world.results, jobs[1].trial).model("bandsaw")):  # it cannot end without the labels
        process = start(world, **more)
        wait_for(lambda: len(world.events()) > before, process)
        code, _, error = asdray("format", "dcase2023", "--data", copy, "--ground-truth", tmp_path / "later")
        assert not code, error
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    events = world.events()[before:]
    assert all(e["status"] == "done" for e in events)
    # Only bandsaw is an eval machine: the labels of the others did not change.
    assert stages(events, seed=0) == {"evaluate": 1, "table": 1}
    assert stages(events, seed=1)["extract"] == stages(events, seed=1)["score"] == 3
    (row,) = pd.read_csv(world.folder() / "leaderboard.csv").to_dict("records")
    assert 0 <= row["dcase2023-eval_mean"] <= 1
    assert row["dcase2023-eval_n"] == row["dcase2023-eval_n_expected"] == 2


def test_a_running_sweep_reports_its_progress_and_ctrl_c_stops_it(data, tmp_path):
    world = World(data, tmp_path / "results")
    changes = {
        "recipes": {
            "dis_baseline": {"set": {**SMALL_DIS, "train.epochs": 1}},
            "dis_spec_scac_fixed": {"set": {**SMALL_DIS, "train.epochs": 5000}},
        },
        "machines": {"dcase2023": ["fan"]},
        "resources": ONE_BY_ONE,
    }
    command = [arg for arg in world.command(**changes) if arg != "--no-dashboard"]
    first, second = load(command[1], {}, Places.of(data, world.results))[1]
    folder = trial_dir(world.results, first.trial).model(first.trial.units[0].name)
    with lease(folder):  # the first training waits for it
        too_long = tmp_path / ("x" * 80)  # for Unix sockets below it
        too_long.mkdir()
        process, terminal = in_terminal(
            "-m", "asdray", *command, RAY_metrics_report_interval_ms="500", RAY_AUTH_TOKEN=TOKEN,
            HOME="/nowhere", TMPDIR=str(too_long),
        )  # fmt: skip
        shown = read_until(terminal, "waiting for another process", seconds=400)
        url = re.search(r"Ray dashboard: (http://127\.0\.0\.1:\d+); metrics: http://", shown)[1]
        titles = [f"ray::train {job.trial.title}" for job in (first, second)]
        wait_for(lambda: titles[0] in workers(url), process, 200)
        worker = workers(url)[titles[0]]
    read_until(terminal, "clips/s")
    assert re.search(r"[12] running", read_until(terminal, " left"))
    snapshot = world.folder() / "status.json"  # written less often than the screen is drawn
    wait_for(
        lambda: json.loads(snapshot.read_text())["training"],
        process,
        200,
        lambda: read_until(terminal, "clips/s"),
    )

    wait_for(
        lambda: workers(url).get(titles[1]) == worker, process, 200, lambda: read_until(terminal, "clips/s")
    )

    from asdray.sweep.training_worker import NICER

    threads = os.listdir(f"/proc/{worker}/task")
    niceness = max(os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads)
    assert niceness == os.getpriority(os.PRIO_PROCESS, worker) + NICER, "trainings give way to tasks"

    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "sweep tiny: running since" in status
    assert "Ray dashboard http://127.0.0.1:" in status
    assert re.search(r"dis_spec_scac_fixed dcase2023 seed0 .*/5000", status)
    url = json.loads((world.folder() / "status.json").read_text())["metrics"]
    speed = r'ray_asdray_clips_per_second\{.*sweep="tiny".*\} (?!0\.0)'
    running = r'ray_asdray_trials\{.*state="running",sweep="tiny".*\} [12]\.0'
    for gauge in (speed, running):  # Ray exports each gauge in its own time
        found = functools.partial(metric, url, gauge)
        wait_for(found, process, 200, lambda: read_until(terminal, "clips/s"))

    assert_nobody_gets_in(process.pid, TOKEN, url)
    for path in world.results.rglob("*"):
        assert not path.lstat().st_mode & stat.S_IWOTH or path.is_symlink(), path

    os.write(terminal, b"\x03")
    rest = read_until(terminal, None, seconds=200)
    os.close(terminal)
    assert process.wait(200) == 75
    assert "stopping: what is finished is kept" in rest
    assert "to go on: asdray sweep" in rest
    assert "Traceback" not in rest
    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "not running; it was stopped at" in status


def test_sigterm_while_ray_starts_is_a_clean_stop(data, tmp_path):
    world = World(data, tmp_path / "results")
    command = [sys.executable, "-m", "asdray", *map(str, world.command())]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    # Ray's first act, seconds before it has started.
    wait_for(
        lambda: [folder for folder in ray_folders(process.pid) if list(folder.glob("r/session_2*"))], process
    )
    os.killpg(process.pid, signal.SIGTERM)  # also to processes of Ray, as far as they are in the group
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 75, output
    assert "to go on: asdray sweep" in output
    assert "Traceback" not in output
    assert not ray_folders(process.pid)
    gone_by = time.monotonic() + 60  # Ray starts workers before they are asked for; those end by themselves
    while left := processes(process.pid):
        assert time.monotonic() < gone_by, left
        time.sleep(0.1)
    assert not [e for e in world.events() if e["status"] == "failed"]
    status = asdray("status", "tiny", "--data", world.data, "--results", world.results).stdout
    assert "not running; it was stopped at" in status


def running_trials(world):
    """Trials that a running sweep reports as begun."""
    path = world.folder() / "status.json"
    return json.loads(path.read_text())["trials"].get("running") if path.exists() else 0


@pytest.mark.chaos
def test_a_killed_raylet_stops_the_sweep_cleanly(data, tmp_path):
    world = World(data, tmp_path / "results")
    process = start(world, own_group=True, resources=ONE_BY_ONE)
    wait_for(lambda: running_trials(world), process)
    (raylet,) = [
        pid for pid in processes(process.pid)
        if Path(f"/proc/{pid}/exe").resolve().name == "raylet"
    ]  # fmt: skip
    os.kill(raylet, signal.SIGKILL)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 75, output
    assert "Ray's process raylet has ended" in output
    assert "to go on: asdray sweep" in output
    assert "Traceback" not in output
    assert not ray_folders(process.pid)


@pytest.mark.chaos
def test_a_dashboard_that_does_not_start_and_a_lost_worker_cost_a_line_each(data, tmp_path):
    world = World(data, tmp_path / "results")
    recipes = {"ae_baseline": {"set": {**SMALL_AE, "train.epochs": 400}}}
    command = [arg for arg in world.command(recipes=recipes) if arg != "--no-dashboard"]
    deleted = tmp_path / "deleted"
    deleted.mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); from asdray.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, command)], cwd=deleted, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip

    def having(words):
        found = []
        for pid in processes(process.pid):
            with contextlib.suppress(OSError):
                if words in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                    found.append(pid)
        return found

    def kill_dashboards():  # one for every attempt to start Ray on a busy machine
        for pid in having("dashboard/dashboard.py"):
            os.kill(pid, signal.SIGKILL)

    def in_training():
        return [log for log in world.results.rglob("train.log") if "epoch 5 of" in log.read_text()]

    wait_for(in_training, process, meanwhile=kill_dashboards)
    os.kill(having("ray::train")[0], signal.SIGKILL)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert "Ray's dashboard did not start (return code -9): the sweep goes on without it" in output
    told = r"lost the worker of ae_baseline dcase2023 seed0 \(its worker process has died[^)]*\): the training goes on"
    assert re.search(told, " ".join(output.split()))
    assert "Traceback" not in output
    assert "(raylet)" not in output


TOKEN = "0123456789abcdef" * 2

METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/GetTraceback",
)
"""A gRPC method of every kind of process of Ray's."""


def assert_nobody_gets_in(session, token, metrics):
    """Looks at every socket, process and folder of a running sweep, and tries all of them as another user.

    ``metrics``: the only address that answers without the token, with numbers.
    """
    pids = processes(session)
    sockets = listening(pids)
    assert {"gcs_server", "raylet", "ray::DashboardA", "ray::RuntimeEnv"} <= set(sockets.values())
    assert {address.partition(":")[0] for address in sockets} <= set(LOOPBACK), sockets
    assert not abstract_sockets(pids)
    assert not [pid for pid in pids if "monitor" in Path(f"/proc/{pid}/cmdline").read_text()], (
        "read by nobody"
    )

    (folder,) = ray_folders(session)
    inside = list(folder.rglob("*"))
    assert len(inside) > 50
    assert not [p for p in inside if p.is_file() and token.encode() in p.read_bytes()]
    if os.geteuid():
        return  # only root can become another user
    ports = sorted({port_of(address) for address in sockets} - {urlsplit(metrics).port})
    jobs = [(port, path, "{}") for port in ports for path in ("/api/jobs/", "/api/job_agent/jobs/")]
    calls = [(port, method, wrong) for port in ports for method in METHODS for wrong in (None, "0" * 64)]
    found = as_nobody(
        folders=[str(folder), *map(str, inside)],
        pids=pids,
        secret=token,
        http=[*jobs, *((port, "/api/version", None, token) for port in ports)],
        grpc=[*calls, *((port, METHODS[0], token) for port in ports)],
    )
    assert found["ways_in"] == []
    answers = set(found["http"][: len(jobs)])
    assert {401} <= answers <= {None, 401, 405}, "405: an address that takes no POST, such as metrics"
    assert 200 in found["http"][len(jobs) :], "with the token it is answered"
    refused = list(zip(calls, found["grpc"], strict=False))
    assert {status for _, status in refused} <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}
    assert {method for (_, method, _), status in refused if status == "UNAUTHENTICATED"} == set(METHODS)
    assert "OK" in found["grpc"][len(calls) :], "with the token it is answered"


def workers(url):
    """Title -> process of every worker, as the dashboard's page of nodes shows them."""
    found = {}
    for node in json.loads(text_at(f"{url}/nodes?view=summary"))["data"]["summary"]:
        if "nodeId" in node.get("raylet", ()):  # what a node is and has comes in bit by bit
            detail = json.loads(text_at(f"{url}/nodes/{node['raylet']['nodeId']}"))["data"]["detail"]
            found |= {w["cmdline"][0]: w["pid"] for w in detail.get("workers") or () if w.get("cmdline")}
    return found


def metric(url, pattern):
    return re.search(pattern, text_at(url))


def text_at(url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
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
def test_wrong_input_is_one_message_and_nothing_runs(data, tmp_path, asdray, changes, message):
    world = World(data, tmp_path / "results")
    code, _, err = asdray(*world.command(**changes))
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert not world.results.exists()


def test_an_address_where_nobody_listens_is_said_at_once(data, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    world = World(data, tmp_path / "results")
    run = asdray(*world.command(), "--address", address, check=2)
    assert f"no Ray answers at '{address}'" in run.stderr


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_that_no_driver_can_join_is_refused_with_the_one_that_it_can(
    data, tmp_path, asdray, address
):
    code, _, err = asdray(*World(data, tmp_path / "results").command(), "--address", address)
    assert code == 2
    assert f"--address '{address}'" in err
    assert "--address HOST:PORT" in err


def test_data_changed_after_format_are_noticed(data, tmp_path, asdray):
    copy = tmp_path / "data"
    shutil.copytree(data, copy, symlinks=True, copy_function=shutil.copy2)
    victim = next((copy / "original").glob("dcase2023/dev_data/raw/fan/train/*.wav"))
    os.utime(victim, (1, 1))
    code, _, err = asdray(*World(copy, tmp_path / "results").command())
    assert code == 2
    assert victim.name in err
    assert "asdray format dcase2023" in err


def test_a_running_sweep_refuses_a_second_one_of_its_name(data, tmp_path):
    world = World(data, tmp_path / "results")
    with lease(world.folder()):
        run = asdray(*world.command(), check=2)
    assert "already runs" in run.stderr
