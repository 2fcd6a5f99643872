"""Faults of the storage, such as a full disk, told with the file that could not be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left on the disk, in the user's quota, and beyond the limit for one file (``ulimit -f``)."""

STORAGE = (*FULL, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO)
"""A full disk, one that is broken, read-only or gone, a lost network file system: no fault of the input."""

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""A place that this user may not write."""

_FREE = 2**20
"""Bytes; less is full."""


@contextlib.contextmanager
def storage_fault_named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Context that writes the file at ``path``: a fault of the storage becomes an OSError with this path.

    Python's own error has no file name, that of a copy may have the wrong one.

    Args:
        temporary: the name that the file has until it is whole.
    """
    try:
        yield
    except OSError as error:
        is_copy, name = error.filename2 is not None, error.filename
        if is_copy or name is None or Path(name) in (path, temporary):
            raise_storage_fault(error, path)
        raise


@contextlib.contextmanager
def refusal_with(hint: str) -> Iterator[None]:
    """Context that writes where an option says: the error of a place that may not be written has a hint."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}: {hint}", error.filename) from error


def raise_storage_fault(error: Exception, path: Path) -> None:
    """Raises a fault of the storage or a refusal once more, with ``path``; leaves others to the caller."""
    if isinstance(error, OSError) and error.errno in (*STORAGE, *_REFUSALS):
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def is_full(path: Path) -> bool:
    """True if less than a MiB is left where the existing folder of ``path`` lies."""
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free < _FREE
