"""Folders that stand in the place of a file: they are moved aside, never deleted.

>>> import tempfile
>>> from pathlib import Path
>>> with tempfile.TemporaryDirectory() as name:
...     path = Path(name) / "train.log"
...     path.mkdir()
...     remove(path)
...     path.exists(), len(list(Path(name).glob("train.log.folder-*")))
(False, 1)
"""

from __future__ import annotations

import time
from pathlib import Path

from asdray.notes import tell


def move_aside(folder: Path) -> None:
    """Renames a folder that stands in the place of a file."""
    aside = folder.with_name(f"{folder.name}.folder-{time.time_ns()}")
    folder.rename(aside)
    tell(f"{folder} was a folder, which is now {aside}")


def remove(path: Path) -> None:
    """Deletes a file, if there is one; a folder in its place is moved aside."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        move_aside(path)
