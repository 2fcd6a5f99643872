"""The plugins that a user has named before: only these run from a results folder without a word of the user.

Whoever can write a results folder can write the plugins in it, and their hashes. So the user's own folder of
state (``XDG_STATE_HOME``) has an empty file per plugin that a command line or sweep file of the user has
named, under the hash of its content.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from asdray.config.plugin import Plugin
from asdray.home import expanded


def _mark(plugin: Plugin) -> Path:
    state = expanded(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    return state / "asdray" / "plugins" / plugin.sha256


def note(plugin: Plugin) -> None:
    """Remembers that the user has named the plugin; nothing without a folder that can be written."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no home
        mark = _mark(plugin)
        if not mark.is_file():
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch(mode=0o600)


def is_known(plugin: Plugin) -> bool:
    """True if the user has named a plugin of this content before."""
    try:
        return _mark(plugin).stat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False
