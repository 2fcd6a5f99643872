"""What a person sees of a sweep from the shell: names, the watched status, the first line, TensorBoard."""

import os
import re
import time

import pytest
import yaml
from finished import finish
from terminal import in_terminal, read_until
from tiny import AE, DCASE, DIS, MACHINES, build_year

from asdray import store
from asdray.cli import screen
from asdray.store import Places, SweepDir
from asdray.sweep.estimate import Estimator
from asdray.sweep.events import EventLog, event_of, failed
from asdray.sweep.jobs import Remaining, TrialRun
from asdray.sweep.outputs import link_for_tensorboard, write_spec
from asdray.sweep.plan import load
from asdray.sweep.progress import Progress, failure_line, minute_line, write_snapshot

HASH = re.compile(r"-[0-9a-f]{8}\b")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A sweep of three systems, of which the first is finished and the second has failed; its jobs."""
    root = tmp_path_factory.mktemp("world")
    build_year(root / "elsewhere")
    places = Places.of(root / "elsewhere", root / "results")
    for name, system in (("dis", DIS), ("ae", AE)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"about": name, **system.model_dump(mode="json")}))
    rates = {"space": {"train.learning_rate": [1e-3, 3e-4]}}
    value = {
        "name": "s", "recipes": {"dis.yaml": rates, "ae.yaml": {}}, "dcase": DCASE, "seeds": [0],
        "machines": {DCASE: list(MACHINES)}, "umap": False, "report": False,
    }  # fmt: skip
    (root / "s.yaml").write_text(yaml.safe_dump(value, sort_keys=False))
    sweep, jobs = load(root / "s.yaml", {}, places)
    folder = store.sweep_dir(places.results, "s")
    finish(jobs[0], sweep, places)
    write_spec(sweep, folder)
    EventLog(SweepDir(folder).events).add(
        failed(event_of(jobs[1].trial, "train", unit=jobs[1].trial.units[0].name), "diverged")
    )
    runs = [TrialRun(i, job, Remaining(), asked=True) for i, job in enumerate(jobs)]
    for run in runs:
        run.refresh(run.job.steps(sweep, places), places)
    progress = Progress("s", runs, Estimator())
    progress.data = places.data
    write_snapshot(progress.snapshot("ended"), folder)
    return root, places, jobs


def test_status_knows_the_data_and_calls_systems_by_their_options(asdray, world, monkeypatch):
    root, _, jobs = world
    monkeypatch.chdir(root)
    monkeypatch.delenv("ASDRAY_DATA", raising=False)
    code, shown, err = asdray("status", "s")
    assert (code, err) == (0, "")
    assert "1 done, 1 failed, 1 waiting of 3 trials" in shown
    assert f"train all: diverged (dis lr=3e-4 {DCASE} seed0, in {jobs[1].trial.system_name})" in shown
    assert len(HASH.findall(shown)) == 1, "that of the folder with the logs"
    code, _, err = asdray("status", "s", "--data", root / "nowhere")
    assert code == 2
    code, _, err = asdray("report", "s")
    assert "metrics.parquet is damaged" in err, "the data are found; the table of this trial is invented"


def test_a_dry_run_calls_trials_by_their_options(asdray, world):
    root, places, _ = world
    where = ["--data", places.data, "--results", places.results]
    code, shown, _ = asdray(
        "sweep", root / "s.yaml", "--dry-run", "--only", f"dis lr=3e-4 {DCASE} seed0", *where
    )
    assert code == 0
    assert f"dis lr=3e-4 {DCASE} seed0: waiting: train" in shown
    assert not HASH.search(shown)


def test_status_is_watched_until_ctrl_c(world):
    _, places, _ = world
    command = ["-m", "asdray", "status", "s", "--watch", "--interval", "0.2", "--results", places.results]
    process, terminal = in_terminal(*command, COLUMNS="80", LINES="24")
    shown = read_until(terminal, "1 waiting of 3 trials")
    again = read_until(terminal, "1 waiting of 3 trials")
    assert "\x1b[?1049h" in shown, "on a screen of its own"
    assert "sweep s: not running; it ended at" in again
    os.write(terminal, b"\x03")
    rest = read_until(terminal, None)
    assert process.wait(60) == 0
    os.close(terminal)
    assert "1 waiting of 3 trials" in rest.partition("\x1b[?1049l")[2], "the last one stays"
    assert "stopped" not in rest
    assert "Traceback" not in rest


def test_a_terminal_that_cannot_draw_gets_lines(tmp_path):
    path = tmp_path / "views.py"
    path.write_text("""
from asdray.cli.screen import progress, watched

with progress("work", plain=True) as step:
    step(5, 10)
states = iter(["first", "second"])

def look():
    if state := next(states, None):
        return state
    raise KeyboardInterrupt

watched(look, 0.1)
""")
    process, terminal = in_terminal(path, TERM="dumb")
    assert read_until(terminal, None).split("\r\n") == ["work: 5 of 10", "first", "second", ""]
    assert process.wait(60) == 0
    os.close(terminal)


def test_a_silent_command_says_what_it_does(monkeypatch, capsys):
    monkeypatch.setattr(screen, "SLOW_SECONDS", 0.05)
    with screen.told_if_slow("reading"):
        time.sleep(0.5)
        assert capsys.readouterr().out == "reading\n"
    monkeypatch.setattr(screen, "SLOW_SECONDS", 60)
    with screen.told_if_slow("reading"):
        pass
    assert capsys.readouterr().out == ""


def test_tensorboard_has_a_run_per_trial_by_name(world):
    _, places, jobs = world
    folder = store.sweep_dir(places.results, "s")
    for _ in range(2):  # the second finds the first's
        for job in jobs:
            link_for_tensorboard(job.trial, places, folder)
    links = {path.name: path.resolve() for path in (folder / "tensorboard").iterdir()}
    folders = [store.trial_dir(places.results, job.trial) for job in jobs]
    unit = jobs[0].trial.units[0].name
    expected = {
        f"dis lr=1e-3 {DCASE} seed0": folders[0].model(unit),
        f"dis lr=3e-4 {DCASE} seed0": folders[1].model(unit),
    }
    expected |= {
        f"ae {DCASE} seed0 {machine}": folders[2].model(machine) for machine in jobs[2].trial.machines
    }
    assert links == expected


def test_a_failure_outside_of_a_sweep_has_its_own_name(world):
    event = failed(event_of(world[2][0].trial, "train", unit="fan"), "diverged")
    name = world[2][0].trial.system_name
    assert failure_line(event, {}) == f"train fan: diverged ({name} {DCASE} seed0)"


@pytest.mark.parametrize(
    ("training", "expected"),
    [([], "no epoch has ended yet"), ([(12, 30), (3, 30)], "epochs 3/30, 12/30"), ([(n, 9) for n in range(6)], "epochs 0/9 to 5/9")],
)  # fmt: skip
def test_without_a_live_view_a_minutes_line_says_how_far_trainings_are(training, expected):
    snapshot = Progress("s", [], Estimator()).snapshot()
    snapshot["trials"] = {"done": 1, "running": 2}
    snapshot["training"] = [{"epoch": epoch, "epochs": epochs} for epoch, epochs in training]
    assert minute_line(snapshot).startswith("1 of 3 trials done, 2 running")
    assert minute_line(snapshot).endswith(f"; {expected}")
    snapshot["trials"] = {"done": 3, "running": 0}
    assert "epoch" not in minute_line(snapshot)
