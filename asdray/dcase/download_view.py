"""What a running download shows: a bar per file on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from asdray.dcase.download import DownloadReport
from asdray.dcase.download_jobs import Step
from asdray.dcase.hints import hint
from asdray.dcase.placed import ground_truth_there, machines_there


class View:
    """Takes the steps of a download, from several threads; ``bars`` is what is live on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._started: set[str] = set()
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> View:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def note(self, text: str) -> None:
        """A line that a person should read."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: Step) -> None:
        """News of one file."""
        with self._lock:
            if self._console.is_terminal:
                self._draw(step)
            else:
                self._print(step)

    def _draw(self, step: Step) -> None:
        if step.name not in self._tasks:
            self._tasks[step.name] = self.bars.add_task(step.name, total=None, status="")
        task = self._tasks[step.name]
        if step.state in ("fetching", "unpacking"):
            self.bars.update(task, completed=step.done, total=step.total, status=_status(step))
        elif step.state == "waiting":
            self.bars.update(task, status=step.text)
        else:
            # Its line moves above the bars, so that those of the running files always fit on the screen.
            self.bars.remove_task(self._tasks.pop(step.name))
            self._print(step)

    def _print(self, step: Step) -> None:
        if step.state in ("fetching", "unpacking"):
            if step.name not in self._started:
                self._started.add(step.name)
                self.note(f"{step.name}: {_status(step) if step.total else step.state}")
        else:
            self.note(f"{step.name}: {step.state}{': ' + step.text if step.text else ''}")


def _status(step: Step) -> str:
    if step.state == "fetching" and step.name.endswith(".zip"):
        of = "" if step.total is None else f" of {step.total / 1e6:.1f}"
        return f"{step.state} {step.done / 1e6:.1f}{of} MB"
    return f"{step.state} {step.done} of {step.total} files"


def report_lines(report: DownloadReport, data: Path) -> list[str]:
    """What is there now, and what to do next."""
    dcase = report.folder.name
    lines = [f"{report.folder}: {len(report.brought)} brought, {len(report.found)} found there"]
    for subset, machines in machines_there(data, dcase).items():
        lines.append(f"  {subset}: {', '.join(machines) or 'nothing'}")
    lines.append(f"  ground truth: {'yes' if ground_truth_there(data, dcase) else 'none'}")
    again = "get what is missing with the same command, or go on without it" if report.failed else "next"
    return [*lines, f"{again}: {hint('format', dcase, data)}"]
