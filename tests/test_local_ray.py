"""The folder of a local Ray: whose it is, who may remove it, where it lies; reasons of a dashboard's failure."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
from sweeping import World, in_process, make_data

from asdray.limits import LimitError
from asdray.sweep import local_ray
from asdray.sweep.local_ray import dashboard_fault, private_folder

HOLD = """
import time
from asdray.sweep.local_ray import private_folder
with private_folder() as folder:
    (folder / "r").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(monkeypatch):
    """A place of its own; pytest's are too long for sockets below them."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield Path(folder)
    shutil.rmtree(folder)


def hold(*prefix):
    """A process with a folder, and the folder."""
    process = subprocess.Popen([*prefix, sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def unshared():
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("processes cannot have numbers of their own here")
    return command


@pytest.mark.parametrize("apart", [False, True], ids=["beside", "in another container"])
def test_a_folder_lasts_as_long_as_its_driver(place, apart):
    process, folder = hold(*(unshared() if apart else ()))
    try:
        assert folder.parent == place
        if apart:
            number = int((folder / "ray.lock").read_text())
            assert number < 100, "a number that means another process here, or none"
        with private_folder() as mine:
            assert mine != folder
            assert mine.stat().st_mode & 0o777 == 0o700
            assert folder.exists(), "it lives"
        assert not mine.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        assert not process.stdout.read(), "closed by the last process that holds it"
        process.wait()
    assert folder.exists()
    with private_folder():
        assert not folder.exists(), "it is dead"


def test_with_the_folder_end_the_processes_of_its_ray_that_still_start(place):
    wait = [sys.executable, "-c", "import time; time.sleep(600)"]
    with private_folder() as folder:
        worker = subprocess.Popen([*wait, "/opt/ray/_private/default_worker.py", f"--temp-dir={folder}/r"])
        reader = subprocess.Popen([*wait, f"{folder}/r/session_latest/logs/raylet.out"])
    try:
        assert worker.wait(10) == -signal.SIGKILL
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


def test_a_run_that_starts_no_ray_removes_dead_folders_too(place, tmp_path):
    world = World(make_data(tmp_path / "d"), tmp_path / "results")
    where = ["--data", world.data, "--results", world.results, "--device", "cpu", "--no-umap"]
    short = {"audio.duration": 1.2}
    in_process("run", "raw_spec", "dcase2023", "--machines", "fan", "--set", "audio.duration=1.2", *where)
    dead = place / "asdray-0123"
    dead.mkdir()
    (dead / "ray.lock").touch()
    in_process(*world.command(recipes={"raw_spec": {"set": short}}, machines={"dcase2023": ["fan"]}))
    assert not dead.exists()


def test_folders_of_drivers_killed_before_their_name_are_removed_after_an_hour(place):
    for name in (".asdray-empty", ".asdray-locked", ".asdray-young"):
        (place / name).mkdir()
    (place / ".asdray-locked" / "ray.lock").touch()
    (place / "asdray-89ab").mkdir()  # killed between the removal of the lock and of the folder
    for name in (".asdray-empty", ".asdray-locked"):
        os.utime(place / name, (0, time.time() - 3700))
    with private_folder():
        pass
    assert os.listdir(place) == [".asdray-young"]


def test_a_folder_in_which_dying_processes_write_is_found_by_a_later_run(place, monkeypatch):
    removed = shutil.rmtree

    def busy(path, **options):
        if Path(path).name == "r":
            return  # a process writes faster than files are removed
        removed(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(local_ray, "_remove", partial(local_ray._remove, seconds=0.0))
        patch.setattr(shutil, "rmtree", busy)
        with private_folder() as folder:
            (folder / "r").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == ["r", "ray.lock"]
    with private_folder():
        assert not folder.exists()


def test_folders_of_others_are_left_alone(place):
    for name in ("asdray-bug1", "asdray-0123"):
        (place / name).mkdir()
    (place / "asdray-0123" / "note").touch()
    (place / "target").mkdir()
    (place / "target" / "ray.lock").touch()
    (place / "asdray-4567").symlink_to(place / "target")
    if os.geteuid() == 0:
        (place / "asdray-89ab").mkdir()
        (place / "asdray-89ab" / "ray.lock").touch()
        os.chown(place / "asdray-89ab", 65534, 65534)
        os.lchown(place / "asdray-4567", 65534, 65534)
    before = set(place.rglob("*"))
    with private_folder():
        pass
    assert set(place.rglob("*")) == before


def test_a_place_that_is_of_no_use_is_passed_over_or_named(place, monkeypatch, tmp_path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with private_folder() as folder:
        assert folder.parent == Path("/tmp")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with (
        pytest.raises(
            LimitError, match=rf"can not lie in {long} or /tmp: .* by RAY_TMPDIR .* at most 29 characters"
        ),
        private_folder(),
    ):
        pass


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            ["Failed to start the dashboard , return code -9", "see the log", "\n2026 INFO a\nb"],
            "return code -9",
        ),
        (
            [
                "Failed to start the dashboard , return code 1",
                "\nTraceback (most recent call last):\n  File x\nOSError: AF_UNIX path too long",
            ],
            "OSError: AF_UNIX path too long",
        ),
        ([], "no answer in time"),
    ],
)
def test_the_reason_for_which_a_dashboard_does_not_start_is_a_line(told, reason):
    assert dashboard_fault(told) == reason
