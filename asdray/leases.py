"""Leases: a folder is written by one process at a time, on this machine or another."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def lease(folder: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds ``folder`` for this process; waits where another process (of any sweep) holds it.

    A kernel file lock: a killed owner frees it at once, nothing goes stale. Works on local disks and on
    network file systems with POSIX locks.

    Args:
        on_wait: called once if the lease is held by somebody else at first.

    Raises:
        ValueError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lease")
    try:
        try:
            # A moment of patience: `is_leased` holds the lock for as long as its question takes.
            lock.acquire(timeout=0.1, poll_interval=0.02)
        except Timeout:
            if on_wait:
                on_wait()
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        raise ValueError(
            f"cannot lock {folder} ({error}): the file system must support POSIX file locks"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_leased(folder: Path) -> bool:
    """Whether a process holds the lease of ``folder`` now; creates and changes nothing."""
    try:
        with open(folder / ".lease", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
