"""The commands that messages name, as a person would have to type them here."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DEFAULT = "data"
"""Where the commands look without ``--data`` and ``ASDRAY_DATA``."""


def hint(command: str, dcase: str, data: Path) -> str:
    """``asdray <command> <dcase>``, with ``--data`` where another folder than the default is meant.

    The folder is named relative to the working directory if it lies below it.
    """
    here, there = Path.cwd(), data.expanduser().absolute()
    line = f"asdray {command} {dcase}"
    if there == here / Path(os.environ.get("ASDRAY_DATA") or DEFAULT).expanduser():
        return line
    named = there.relative_to(here) if there.is_relative_to(here) else there
    return f"{line} --data {shlex.quote(str(named))}"
