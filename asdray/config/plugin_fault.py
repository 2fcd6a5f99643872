"""Faults of plugins, told with file and line: exceptions from their code, and members of another form.

A fault of a member has one form: place, what was found, what is expected, and the fix::

    mine.py, line 12: Triplet.forward: found a tensor of shape (8,), expected one of shape (): return the mean
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator
from typing import Any

PREFIX = "asdray_plugin_"
"""The names of all modules of plugins begin with this."""


class PluginError(ValueError):
    """A fault of a plugin: file, line and reason; for an exception also a line per call inside the plugin."""


class MissingKey(LookupError):  # noqa: N818 - the text says what is missing
    """A plugin's code asks a mapping of asdray for a key that it does not have."""


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """``error``, its cause, the cause's cause and so on; ends at a cycle, which ``raise e from e`` makes.

    This is the only walk along causes: any other one needs the same memory.
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__


# ---------------------------------------------------------------------------- exceptions from a plugin's code


def plugin_error(error: BaseException) -> PluginError | None:
    """The first exception in the chain of causes of ``error`` that a plugin's code raised, with its lines.

    Returns:
        None if no frame of the chain's tracebacks lies in a plugin.
    """
    files = _files()
    for link in chain_of(error):
        if isinstance(link, PluginError):
            return None  # already in its final form
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename in files]
        if frames:
            last = frames[-1]
            where = f" in {last.name}" if isinstance(link, MissingKey | SystemExit) else ""
            first = f"{last.filename}, line {last.lineno}{where}: {_reason(link, error)}"
            return PluginError(
                "\n".join([first, *(f"  line {f.lineno}, in {f.name}: {f.line}" for f in frames)])
            )
    return None


def _reason(link: BaseException, outer: BaseException) -> str:
    """An exception in words; the outer one names the trial and machine."""
    if isinstance(link, SystemExit):
        return f"found sys.exit({link.code!r}), expected a return or an exception: raise one instead"
    if isinstance(link, MissingKey):
        return str(outer)
    return f"{type(link).__name__}: {' '.join(str(outer).split())}"


def ended_by_plugin(error: BaseException) -> PluginError | None:
    """`plugin_error` of an exception that ends a process, such as ``sys.exit(0)``; None for Ctrl-C."""
    return None if isinstance(error, KeyboardInterrupt) else plugin_error(error)


def _files() -> set[str]:
    """The files of all plugins that this process has run."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
    return {module.__file__ for module in modules if module.__file__ is not None}


# ------------------------------------------------------------------------------- members of another form


def wrong(member: Any, owner: Any, found: str, expected: str, fix: str) -> PluginError:
    """The fault of a member, such as a method.

    Args:
        member: class, function or method at fault.
        owner: configuration class whose place is named if the member's code lies outside of plugins.
        found, expected: the two in words.
        fix: the remedy, as a request.
    """
    place = place_of(member) or place_of(owner) or f"{getattr(owner, '__name__', owner)}"
    return PluginError(f"{place}: found {found}, expected {expected}: {fix}")


def place_of(member: Any) -> str | None:
    """``mine.py, line 12: Triplet.forward`` of a plugin's class, function or method; None for other code."""
    if isinstance(member, type):
        if not member.__module__.startswith(PREFIX):
            return None
        try:
            line = inspect.getsourcelines(member)[1]
        except (OSError, TypeError):  # a class that a function made
            line = 1
        return f"{sys.modules[member.__module__].__file__}, line {line}: {member.__qualname__}"
    function: Any = inspect.unwrap(getattr(member, "__func__", member))
    code = getattr(function, "__code__", None)
    if code is not None and code.co_filename in _files():
        return f"{code.co_filename}, line {code.co_firstlineno}: {function.__qualname__}"
    instance = getattr(member, "__self__", None)
    return None if instance is None or inspect.ismodule(instance) else place_of(type(instance))


def in_words(value: Any) -> str:
    """The type of a value; of an array or tensor its numbers and shape."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return f"{value!r}" if value is None else f"a {type(value).__name__}"
    noun = "an array" if type(value).__module__ == "numpy" else "a tensor"
    return f"{noun} of {str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"
