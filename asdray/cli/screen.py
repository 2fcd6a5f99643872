"""Output to the terminal: plain lines, tables, and the progress of a download or a check."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from asdray.printable import printable_lines
from asdray.terminal import can_draw, console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import TaskID

    from asdray.dcase.download import FileProgress
    from asdray.dcase.scan import Progress


SLOW_SECONDS = 1.0
"""Time after which a silent command says what it does."""


def print_line(text: str, to: TextIO | None = None, flush: bool = False) -> None:
    """Prints a plain line, as long as it is, to standard output or another stream; see `printable_lines`."""
    print(printable_lines(text), file=to, flush=flush)


def print_lines(lines: Iterable[str], to: TextIO | None = None) -> None:
    """Prints plain lines."""
    for line in lines:
        print_line(line, to)


@contextlib.contextmanager
def progress(task: str, plain: bool = False) -> Iterator[Progress | None]:
    """A bar on the terminal while the block runs.

    Args:
        task: the text beside the bar.
        plain: print a line for every tenth of the work if standard error is no terminal that can draw.

    Yields:
        A function of (steps done, all steps) to call after every step; None: nothing is shown.
    """
    if not can_draw(sys.stderr):
        yield _TenthPrinter(task) if plain else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console(sys.stderr, width=None), transient=True) as bar:
        row = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


@contextlib.contextmanager
def told_if_slow(text: str) -> Iterator[None]:
    """Context that prints a line if the block takes long: whoever reads a log sees that work has begun."""
    timer = threading.Timer(SLOW_SECONDS, print_line, (text,), {"flush": True})
    timer.daemon = True
    if text:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watched(look: Callable[[], RenderableType], interval: float) -> None:
    """Shows the newest of what ``look`` returns, every ``interval`` seconds, until Ctrl-C.

    On a terminal that can draw in the place of the older one, and the last one stays; elsewhere below the
    older one.
    """
    from rich.live import Live

    screen = console()
    shown: RenderableType = ""
    live = Live(console=screen, auto_refresh=False, screen=True) if screen.is_terminal else None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        while True:
            shown = look()
            if live:
                live.update(shown, refresh=True)
            else:
                screen.print(shown, soft_wrap=True)
                sys.stdout.flush()
            time.sleep(interval)
    if live:
        screen.print(shown)


class _TenthPrinter:
    """Prints a line to standard error for every tenth of the work."""

    def __init__(self, task: str) -> None:
        self._task, self._tenths = task, 0

    def __call__(self, done: int, total: int) -> None:
        if 10 * done // total > self._tenths:
            self._tenths = 10 * done // total
            print_line(f"{self._task}: {done} of {total}", sys.stderr, flush=True)


class DownloadView:
    """The progress of a download: a bar per running file on a terminal, plain lines elsewhere.

    The download reports its steps from several threads, within the context of ``bars``.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def note(self, text: str) -> None:
        """Prints a line for people, above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, file: FileProgress) -> None:
        """Shows the progress of one file."""
        with self._lock:
            is_new = file.name not in self._tasks
            if is_new:
                self._tasks[file.name] = self.bars.add_task(file.name, total=None, status="")
            task = self._tasks[file.name]
            if file.state in ("fetching", "unpacking"):
                self.bars.update(task, completed=file.done, total=file.total, status=_status(file))
                if is_new and not self._console.is_terminal:
                    self.note(f"{file.name}: {_status(file) if file.total else file.state}")
            elif file.state == "waiting" and self._console.is_terminal:
                self.bars.update(task, status=file.text)
            else:
                if file.state != "waiting":
                    # The file's line moves above the bars, so that the bars of the running files fit.
                    self.bars.remove_task(self._tasks.pop(file.name))
                self.note(f"{file.name}: {file.state}{': ' + file.text if file.text else ''}")


def _status(file: FileProgress) -> str:
    if file.state == "fetching" and file.name.endswith(".zip"):
        of = "" if file.total is None else f" of {file.total / 1e6:.1f}"
        return f"{file.state} {file.done / 1e6:.1f}{of} MB"
    return f"{file.state} {file.done} of {file.total} files"
