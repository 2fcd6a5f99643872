"""File systems without file locks, such as Lustre that is mounted without ``-o flock``.

The package filelock then takes the presence of a file for a lock, and waits for ever for a file that an
earlier run, or a copy of the results, has left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
from pathlib import Path

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of `fcntl.flock` on a file system without locks."""

_with_locks: set[int] = set()
"""Numbers of the devices that have locks."""


def check_locks(path: Path) -> None:
    """Raises OSError if the file system of ``path`` has no file locks; makes the file if it is missing."""
    device = path.parent.stat().st_dev
    if device not in _with_locks:
        with open(path, "ab") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _with_locks.add(device)
