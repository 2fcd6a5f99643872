"""Ctrl-C and SIGTERM as a clean stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stop:
    """Whether somebody asked for the end."""

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a clean stop; the second ends the process as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for signum, handler in old.items():
            signal.signal(signum, handler)

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        restore()

    for signum in (signal.SIGINT, signal.SIGTERM):
        old[signum] = signal.signal(signum, ask)
    try:
        yield stop
    finally:
        restore()
