"""What a running sweep shows: plain lines, and on a terminal a live table of what runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.store import Places
from asdray.sweep.events import Event
from asdray.sweep.plan import Job


class View:
    """Prints a line per finished training and trial and per failure; nothing but failures when quiet."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._running: dict[int, tuple[Trial, Mapping[str, Any]]] = {}
        self._tasks = 0
        self._live: Live | None = None

    def __enter__(self) -> View:
        if self.console.is_terminal and not self._quiet:
            self._live = Live(self._table(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def line(self, text: str, style: str = "") -> None:
        """One line, with the time since the start."""
        if not self._quiet or style:
            seconds = int(time.monotonic() - self._started)
            stamp = f"{seconds // 60:3d}:{seconds % 60:02d}"
            self.console.print(f"{stamp}  {text}", style=style or None, markup=False)

    def expect(self, more: int) -> None:
        """There are more trials than was known."""
        self._total += more

    def epoch(self, job: int, trial: Trial, progress: Mapping[str, Any]) -> None:
        """A training's newest epoch."""
        self._running[job] = (trial, progress)

    def trained(self, job: int, event: Event) -> None:
        """A unit's training ended well."""
        self._running.pop(job, None)
        if not event["found"]:
            name = f"{event['system']} {event['dcase']} seed{event['seed']} {event['unit']}"
            self.line(f"trained {name} in {event['seconds']:.1f} s")

    def failed(self, event: Event) -> None:
        """Any stage failed."""
        self.line(f"FAILED {failure_line(event)}", style="red")

    def finished(self, trial: Trial, ok: bool) -> None:
        """Everything of a trial ended."""
        self._done += 1
        self.line(
            f"{'done' if ok else 'incomplete'}: {trial.name} ({self._done} of {self._total} trials)",
            style="" if ok else "red",
        )

    def tick(self, tasks: int) -> None:
        """Refreshes the live table."""
        self._tasks = tasks
        if self._live:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("training", "unit", "epoch", "loss", "per second", "left"):
            table.add_column(column)
        for trial, p in self._running.values():
            left = (p["epochs"] - p["epoch"]) * p["seconds"]
            table.add_row(
                trial.name,
                p["unit"],
                f"{p['epoch']}/{p['epochs']}",
                f"{p['loss']:.4f}",
                f"{p['per_second']:.0f}",
                f"{left:.0f} s",
            )
        table.caption = f"{self._done} of {self._total} trials done, {self._tasks} tasks waiting or running"
        return table


def failure_line(event: Event) -> str:
    """``extract fan: wrong rate (dis_baseline-1a2b3c4d dcase2023 seed0)``."""
    what = " ".join(str(event[k]) for k in ("stage", "backend", "machine", "unit") if event.get(k))
    trial = f"{event['system']} {event['dcase']} seed{event['seed']}"
    return f"{what}: {event['error']} ({trial})"


def plan_lines(sweep: Sweep, jobs: Sequence[Job], places: Places) -> list[str]:
    """What ``--dry-run`` prints: every trial with what is left of it, and the sum."""
    lines = []
    units = machines = 0
    for job in jobs:
        missing = job.missing(sweep, places)
        units += len(missing.units)
        machines += len(missing.machines)
        parts = [f"train {u.name}" for u in missing.units]
        parts += [f"score {len(missing.machines)} machines"] if missing.machines else []
        parts += [f"umap {len(missing.umaps)}"] if missing.umaps else []
        parts += ["table"] if missing.table else []
        lines.append(f"{job.trial.name}: {', '.join(parts) or 'done'}")
    lines.append(f"{len(jobs)} trials; left: {units} trainings, {machines} machines to extract and score")
    return lines


def summary_lines(
    expected: Mapping[str, int],
    before: Mapping[str, int],
    new: Mapping[str, int],
    done: Mapping[str, int],
    failures: Sequence[Event],
) -> list[str]:
    """One line per stage: how many were done before, by this run and by others meanwhile; and the rest.

    Args:
        done: as it is now; the only one of the counts that says how the sweep stands.
    """
    lines = []
    for stage, total in expected.items():
        # More than once done by this run: made stale while it ran.
        fresh = min(new.get(stage, 0), done.get(stage, 0))
        already = min(before.get(stage, 0), done.get(stage, 0) - fresh)
        failed = min(sum(event["stage"] == stage for event in failures), total - done.get(stage, 0))
        counts = {
            "already done": already,
            "done now": fresh,
            "done by another run": done.get(stage, 0) - already - fresh,
            "failed": failed,
            "left": total - done.get(stage, 0) - failed,
        }
        parts = [f"{n} {what}" for what, n in counts.items() if n]
        lines.append(f"  {stage:<9}{', '.join(parts) or 'nothing to do'}")
    return lines
