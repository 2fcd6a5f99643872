"""The watch over running steps: which are silent, the stacks of a real process that hangs, and its end."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest

from asdray import alive
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.store import SweepDir
from asdray.sweep import signs, watch
from asdray.sweep.events import attempt
from asdray.sweep.watch import LEAST, MOST_BETWEEN, UNKNOWN, Watch

STEP = {
    "dcase": "dcase2023", "recipe": "mine", "system": "mine-12345678", "seed": 0, "stage": "train", "unit": "fan",
    "machine": None, "checkpoint": None, "backend": None,
}  # fmt: skip
SIGN = signs.Sign(STEP, "", "here", os.getpid(), "0", "")


@pytest.fixture
def folder(tmp_path):
    return SweepDir(tmp_path / "sweep")


def test_a_step_counts_as_hung_after_twenty_times_its_kind_and_half_an_hour(folder):
    said = []
    seen = Watch(folder, None, said.append)
    assert seen.limit("train") == UNKNOWN > LEAST == 1800
    for seconds in (1.0, 2.0, 300.0):
        seen.took("train", seconds)
    assert seen.limit("train") == LEAST
    for seconds in (300.0, 299.0):
        seen.took("train", seconds)
    assert seen.limit("train") == 20 * 299
    assert seen.limit("score") == UNKNOWN
    assert Watch(folder, 7.0, said.append).limit("train") == 7.0


def test_only_a_step_without_signs_is_silent_and_sleep_of_the_machine_does_not_count(folder):
    seen = Watch(folder, 100.0, print)
    hung, alive_, late = (folder.running / f"{name}.1.json" for name in "abc")
    for second in range(0, 120, 20):
        found = {hung: SIGN, alive_: replace(SIGN, signs=second)} | ({late: SIGN} if second > 60 else {})
        silent = seen.silent(found, 20.0)
        assert not silent, second
    assert seen.silent(found | {alive_: replace(SIGN, signs=999)}, 20.0) == {hung: 120.0}
    assert seen.silent({late: SIGN}, 20.0) == {}
    assert seen.silent({late: SIGN}, 24 * 3600.0) == {}, "a night is one look"
    assert seen.silent({late: SIGN}, 24 * 3600.0) == {late: 60 + 2 * MOST_BETWEEN}
    late.with_suffix(".hung").write_text('"ended"')
    assert seen.silent({late: SIGN}, 20.0) == {}, "its end is noted"


@pytest.mark.parametrize(
    ("value", "seconds"), [(90, 90.0), ("1h30m", 5400.0), ("00:00:30", 30.0), (None, None)]
)
def test_stall_after_is_seconds_or_a_time(value, seconds):
    asked = {"name": "x", "recipes": ["ae_baseline"], "dcase": "dcase2023", "seeds": 0, "stall_after": value}
    assert validate(Sweep, asked, "x.yaml").stall_after == seconds


@pytest.mark.parametrize("value", ["3:50", "soon", 0, -1, []])
def test_another_stall_after_is_refused(value):
    asked = {"name": "x", "recipes": ["ae_baseline"], "dcase": "dcase2023", "seeds": 0, "stall_after": value}
    with pytest.raises(ValueError, match=r"x\.yaml: stall_after.*") as raised:
        validate(Sweep, asked, "x.yaml")
    assert len(str(raised.value).splitlines()) == 1


# ------------------------------------------------------------------------------------ a real process


def sleeps_for_ever():
    time.sleep(1e6)


def waits_for_itself():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def holds_the_lock_of_python():
    while True:  # a signal ends each call
        ctypes.PyDLL(None).sleep(1_000_000)


def is_stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def works():
    while True:
        alive.sign()
        time.sleep(0.01)


@contextlib.contextmanager
def running(folder, work):
    """A child that is at a step; its file, and its sign once the file says no more than before."""

    def child():
        with signs.given_in(folder.running), signs.during(STEP):
            work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    end = time.monotonic() + 30
    while not (found := signs.read(list(folder.running.glob("*.json")))) and time.monotonic() < end:
        time.sleep(0.05)
    try:
        yield process, *next(iter(found.items()))
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("spy", [True, False])
@pytest.mark.parametrize("work", [sleeps_for_ever, waits_for_itself, holds_the_lock_of_python])
def test_a_hung_process_is_ended_and_its_stacks_say_where(folder, monkeypatch, work, spy):
    if not spy:
        monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    folder.running.mkdir(parents=True)
    with running(folder, work) as (process, file, sign):
        assert watch.end_hung(file, sign, folder.hangs / "fan.txt", "no sign of life for 9 s")
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    text = (folder.hangs / "fan.txt").read_text()
    assert work.__name__ in text
    assert "signs of life" in text or "signs.py" in text, "all threads"
    assert text.startswith("train fan of mine-12345678 dcase2023 seed0\nno sign of life for 9 s\n")
    assert not watch.end_hung(file, sign, folder.hangs / "again.txt", "again"), "there is no such process"


def test_a_stopped_process_is_ended(folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    folder.running.mkdir(parents=True)
    with running(folder, is_stopped) as (process, file, sign):
        assert watch.end_hung(file, sign, folder.hangs / "fan.txt", "no sign of life for 9 s")
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    assert "state T (stopped)" in (folder.hangs / "fan.txt").read_text()


def test_a_process_that_works_is_left_alone(folder):
    folder.running.mkdir(parents=True)
    with running(folder, works) as (process, file, sign):
        seen = signs.read([file])[file]
        time.sleep(2 * signs.SAMPLE_SECONDS)
        assert signs.read([file])[file].signs > seen.signs
        assert not watch.end_hung(file, seen, folder.hangs / "fan.txt", "no sign of life for 9 s")
        assert not watch.end_hung(
            file, replace(sign, started="1"), folder.hangs / "fan.txt", "another process"
        )
        assert process.is_alive()
    assert not folder.hangs.exists()


def test_the_watch_has_a_hung_worker_ended_twice_and_the_step_given_up(folder, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    said = []
    seen = Watch(folder, 1.0, said.append)
    for attempts in (1, 2):
        with running(folder, sleeps_for_ever) as (process, *_):
            while process.is_alive():
                seen.look()
                time.sleep(0.1)
        while len(said) < attempts:
            seen.look()
        assert len(list(folder.running.glob("*.json"))) == attempts
    assert all(
        text.startswith("train fan of mine-12345678 dcase2023 seed0: no sign of life") for text in said
    )
    with signs.given_in(folder.running):
        event = attempt(STEP, lambda: pytest.fail("a third attempt"))
    assert event["status"] == "failed"
    assert "no sign of life for" in event["error"]
    assert "see stall_after" in event["error"]
    assert not event["lasting"], "the next run tries again"
    stacks = sorted(folder.hangs.iterdir())
    assert str(stacks[-1]) in event["error"]
    seen.end()
    assert not folder.running.exists()


# ---------------------------------------------------------------------------------------- lost workers


@pytest.mark.parametrize(
    ("full", "words"),
    [
        (
            True,
            "3 times, out of memory: its worker had 5.0 GB, and 7.9 of the 8.0 GB of here were in use; let fewer",
        ),
        (False, "3 times; its worker had 5.0 GB, and 7.9 of the 8.0 GB of here were in use"),
    ],
)
def test_a_step_that_lost_three_workers_fails_with_the_largest_memory(folder, full, words):
    Watch(folder, None, print)
    facts = {"own": 5_000_000_000, "used": 7_900_000_000, "memory": 8_000_000_000}
    for number, own in enumerate((1, 5, 2)):
        with signs.given_in(folder.running):
            if number == 2:
                assert signs.given_up(STEP) is None
            path = folder.running / f"{signs._key(STEP)}.{number + 1}.json"
            writer = signs._Writer(path, STEP)
            writer._write(replace(writer._sign, host="here", full=full, **facts | {"own": own * 10**9}))
    with signs.given_in(folder.running):
        event = attempt(STEP, lambda: pytest.fail("a fourth attempt"))
    assert words in event["error"]
    assert ("train.batch_size" in event["error"]) == full


def test_a_step_that_ends_leaves_no_file(folder):
    Watch(folder, None, print)
    with signs.given_in(folder.running):
        with signs.during(STEP):
            assert len(list(folder.running.glob("*.json"))) == 1
        with pytest.raises(KeyboardInterrupt), signs.during(STEP):
            raise KeyboardInterrupt
    assert not list(folder.running.glob("*.json"))
