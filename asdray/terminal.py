"""Standard output and standard error: a command's work goes on whatever becomes of them.

The reader of a pipe may leave (``| head -1``), a stream may be closed (``>&-``) or know only ASCII, and a
file behind a stream may lie on a full disk. Names of others may hold codes that a terminal obeys.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from asdray.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import Console

_ERRORS = "asdray.in_ascii"
_IN_ASCII = {"±": "+-", "–": "-", "…": "...", "×": "x", "µ": "u"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Stands for characters that an encoding lacks: a similar one, else its number, as in ``\\xe9``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or ascii(c)[1:-1] for c in lacking), error.end


codecs.register_error(_ERRORS, _in_ascii)


class _Sink(io.FileIO):
    """The descriptor of a stream. After the first fault everything is dropped, and ``fault`` is kept."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        if self.fault is None:
            try:
                while (n := super().write(data)) is None:  # a pipe that does not block, and is full
                    select.select([], [self], [])
                return n
            except OSError as error:
                self.fault = error
        return len(data)


def _outliving(stream: TextIO | None, descriptor: int) -> io.TextIOWrapper:
    """A stream for the descriptor that never raises, with the encoding and the buffering of ``stream``."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Sink(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=_ERRORS,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


@contextlib.contextmanager
def outliving_streams() -> Iterator[list[str]]:
    """Context in which the standard streams never raise, whatever becomes of them.

    Streams that are no longer those of the process (tests, notebooks) stay as they are.

    Yields:
        A list that holds, after the block, a line per stream that lost text: a pipe whose reader left or a
        closed stream loses nothing that anybody waits for.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would get the number, and all output
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    ours: list[tuple[str, TextIO | None, io.TextIOWrapper]] = []
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if old is None or old is getattr(sys, f"__{name}__"):
            if old is not None:
                with contextlib.suppress(OSError):
                    old.flush()
            ours.append((name, old, _outliving(old, descriptor)))
            setattr(sys, name, ours[-1][2])
    lost: list[str] = []
    try:
        yield lost
    finally:
        for name, old, stream in ours:
            stream.flush()
            fault = stream.buffer.raw.fault  # type: ignore[attr-defined]
            if fault is not None and not isinstance(fault, BrokenPipeError):
                noun = {"stdout": "standard output", "stderr": "standard error"}[name]
                lost.append(f"{noun} cannot be written ({fault.strerror})")
            setattr(sys, name, old)


def can_draw(stream: TextIO) -> bool:
    """True for a terminal that can move its cursor, as bars and live views need; ``TERM=dumb`` cannot."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def console(file: TextIO | None = None, **options: Any) -> Console:
    """A console for tables and coloured lines that shows every text as it is, and obeys none.

    200 columns wide where the output is no terminal: Rich would guess 80 columns for a pipe, and would then
    cut columns off a leaderboard. A terminal that cannot draw is no terminal to the console.

    Args:
        file: the output; default: standard output.
        options: see `rich.console.Console`.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class _Console(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable_lines(text), **options)  # before a table measures the text

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                yield part if part.control else part._replace(text=printable_lines(part.text))

    stream = file or sys.stdout
    wide = None if stream.isatty() else 200
    plain = {"force_terminal": False} if stream.isatty() and not can_draw(stream) else {}
    return _Console(
        file=file, **{"width": wide, "highlight": False, "markup": False, "emoji": False, **plain, **options}
    )
