"""Clean stops of a run: by Ctrl-C, by SIGTERM, or at the end of ``--wall-time``.

The first signal asks the driver to stop; the second ends the process at once. A scheduler that ends a job
signals all of its processes, and the job's script passes the signal on: both together are one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESERVE = 60.0
"""Seconds a clean stop may take: trainings leave their epoch, tables are written, Ray ends."""

TOGETHER = 3.0
"""SIGTERMs within so many seconds of the first signal are the same one."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# ----------------------------------------------------------------------------------------- signals


class Stop:
    """The request to stop, made by a signal or by the clock.

    Args:
        at: time of the stop by ``time.monotonic``; None: only signals stop the run.
        ends_process: True if the second signal ends the process; else it changes nothing. An exception from
            there would leave half a Ray in a process that goes on.
    """

    def __init__(self, at: float | None = None, ends_process: bool = True) -> None:
        self._at = at
        self._ends_process = ends_process
        self._signalled: float | None = None

    @property
    def timed_out(self) -> bool:
        """True once the wall time is used up."""
        return self._at is not None and time.monotonic() >= self._at

    @property
    def asked(self) -> bool:
        """True once a signal was received or the wall time is used up."""
        return self._signalled is not None or self.timed_out

    @property
    def why(self) -> str | None:
        """The reason of a stop that no signal asked for."""
        return "--wall-time is nearly over" if self.timed_out else None

    def signalled(self, number: int, frame: object) -> None:
        """Handler of SIGINT and SIGTERM."""
        now = time.monotonic()
        if self._signalled is None:
            self._signalled = now
        elif self._ends_process and (number != signal.SIGTERM or now > self._signalled + TOGETHER):
            _end_at_once(number)


@contextlib.contextmanager
def stop_on_signals(at: float | None = None, ends_process: bool = True) -> Iterator[Stop]:
    """Context in which the first SIGINT or SIGTERM asks for a clean stop and the second ends the process.

    Signals are left alone outside the main thread. The arguments are those of `Stop`.

    >>> with stop_on_signals() as stop:
    ...     while not stop.asked:
    ...         break  # one step of the work
    """
    stop = Stop(at, ends_process)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: list[Any] = [signal.signal(number, stop.signalled) for number in _SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(_SIGNALS, previous, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Context in which the first SIGTERM raises KeyboardInterrupt; a second acts as before the context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, previous)
        raise KeyboardInterrupt

    previous: Any = signal.signal(signal.SIGTERM, interrupt) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_at_once(number: int) -> None:
    """Ends this process and the Ray processes it started; finished stages are kept, as after a kill."""
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    os.write(2, f"{show_cursor}\nstopped at once: run the same command again to go on\n".encode())
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):  # macOS has no /proc
        for child in children.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)
    os._exit(128 + number)


# --------------------------------------------------------------------------------------- wall time


def stop_at(seconds: float) -> float:
    """Time by ``time.monotonic`` to stop at, so that the process ends within ``seconds`` of its start."""
    return time.monotonic() - process_age() + seconds - min(RESERVE, seconds / 4)


def process_age() -> float:
    """Seconds since the start of this process; 0 where the system has no ``/proc``."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0


def slurm_hint(environment: Mapping[str, str]) -> str | None:
    """A hint to ``--wall-time`` for a run without the option in a Slurm job with a known end.

    The end of the job does not set the wall time by itself: the job may ask for a signal before its end, and
    in an interactive job every command sees the same end.
    """
    try:
        minutes = int(int(environment.get("SLURM_JOB_END_TIME", "")) - time.time()) // 60
    except ValueError:
        return None
    if minutes < 1:
        return None
    return (
        f"Slurm ends this job in {minutes // 60} h {minutes % 60} min: without a signal before its end "
        f"(sbatch --signal) nothing stops this run cleanly but --wall-time {minutes}m"
    )
