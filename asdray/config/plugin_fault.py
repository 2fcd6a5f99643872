"""What a plugin's code raises, told with its file and line. Imports nothing of asdray."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

MODULE_PREFIX = "asdray_plugin_"
"""How the names of the modules that plugins make begin."""


class PluginFailed(ValueError):  # noqa: N818 - it names what happened
    """A plugin's code raised something: its file, line and what; then the way there through its code.

    Where the file does not even load, that one line is all.
    """


def fault_of(error: BaseException) -> PluginFailed | None:
    """What to tell of ``error`` if it, or what led to it, was raised in or below a plugin's code."""
    plugins = [m for name, m in list(sys.modules.items()) if name.startswith(MODULE_PREFIX)]
    files = {m.__file__ for m in plugins}
    link: BaseException | None = error
    while link is not None and not isinstance(link, PluginFailed):
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename in files]
        if frames:
            reason = " ".join(str(error).split())
            last = frames[-1]
            lines = [f"{last.filename}, line {last.lineno}: {type(link).__name__}: {reason}"]
            lines += [f"  line {f.lineno}, in {f.name}: {f.line}" for f in frames]
            return PluginFailed("\n".join(lines))
        link = link.__cause__ or link.__context__
    return None


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a plugin's code raises inside comes out as `PluginFailed`, all else as it is."""
    try:
        yield
    except Exception as error:  # a stranger's code may raise anything, and each is told in the same way
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error
