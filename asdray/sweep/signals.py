"""Ctrl-C, SIGTERM and the end of a given time as a clean stop; a second signal as an immediate one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked for the end.

    Args:
        at: by ``time.monotonic``: when the end is asked for anyway; None: never.
    """

    def __init__(self, at: float | None = None) -> None:
        self._at = at
        self._signalled = False

    @property
    def timed_out(self) -> bool:
        """Whether the time is over."""
        return self._at is not None and time.monotonic() >= self._at

    @property
    def asked(self) -> bool:
        return self._signalled or self.timed_out

    def arm(self) -> None:
        """Listens for signals."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        if self._signalled:
            _end_at_once(number)
        self._signalled = True


@contextlib.contextmanager
def stop_on_signals(at: float | None = None) -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a clean stop; the second ends the process at once.

    Args:
        at: as of `Stop`.
    """
    stop = Stop(at)
    old: dict[signal.Signals, Any] = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    stop.arm()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in old.items():
                signal.signal(signum, handler)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends what runs inside by KeyboardInterrupt; a second one does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, old)
        raise KeyboardInterrupt

    old: Any = signal.signal(signal.SIGTERM, interrupt) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _end_at_once(number: int) -> None:
    """Ends this process and the Ray that it started; what was finished is kept, as after a kill."""
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    os.write(2, f"{show_cursor}\nstopped at once: run the same command again to go on\n".encode())
    for child in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    os._exit(128 + number)


def _children() -> list[int]:
    """The processes that the main thread started; none where the system does not tell."""
    with contextlib.suppress(OSError):
        pid = os.getpid()
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
