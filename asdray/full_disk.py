"""A full disk or a used-up quota, told with the file that could not be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left on the disk, in the user's quota, and beyond the limit for one file (``ulimit -f``)."""

_FREE = 2**20
"""Bytes; less is full."""


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Context that writes the file at ``path``: whatever a library raises for a full disk becomes an OSError.

    Python's own error has no file name, that of a copy may have the wrong one, and torch's is a RuntimeError
    (``iostream error``).
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _error(error.errno, path) from error
    except RuntimeError as error:
        if not is_full(path):
            raise
        raise _error(errno.ENOSPC, path) from error


def is_full(path: Path) -> bool:
    """True if less than a MiB is left where the existing folder of ``path`` lies."""
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free < _FREE


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
