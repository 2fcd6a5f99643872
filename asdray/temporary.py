"""The folder for temporary files: for Ray's sockets and logs, and for caches where there is no home."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from asdray.full_disk import is_full
from asdray.limits import LimitError

LONGEST = 107 - len("/asdray-0123/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Longest path of the folder: the path of a Unix socket has at most 107 characters."""


def place() -> Path:
    """The folder for temporary files that has space: RAY_TMPDIR, else /tmp, else TMPDIR.

    TMPDIR comes after /tmp, since it is often long, or on a network file system without Unix sockets.

    Raises:
        LimitError: no folder can be written, or all are full or too long.
    """
    import tempfile  # most processes need none

    asked = [os.environ.get("RAY_TMPDIR"), "/tmp"]
    with contextlib.suppress(FileNotFoundError):  # none can be written
        asked.append(tempfile.gettempdir())
    places = list(dict.fromkeys(Path(path).absolute() for path in asked if path))
    for path in places:
        if os.access(path, os.W_OK | os.X_OK) and len(str(path)) <= LONGEST and not is_full(path / "file"):
            return path
    raise LimitError(
        f"Ray's sockets and logs can not lie in {' or '.join(map(str, places))}: name a folder by RAY_TMPDIR "
        f"that can be written, has space, and a path of at most {LONGEST} characters"
    )
