"""What a running sweep shows: plain lines, and on a terminal a live view of what runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table

from asdray.sweep import live
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job
from asdray.sweep.live import Live, Pace, duration

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.cluster import Metrics

WRITE_SECONDS = 2.0
"""Between two writings of ``status.json``."""

LINE_SECONDS = 60.0
"""Between two lines on how far it is, where there is no terminal."""


class View:
    """Prints a line per finished training and trial and per failure; nothing but failures when quiet.

    On a terminal a live view stands below the lines. Either way ``status.json`` is kept up to date.
    """

    def __init__(self, folder: Path, quiet: bool) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._folder = folder
        self._quiet = quiet
        self._total = 0
        self._done = 0
        self._started = time.monotonic()
        self._live: Live | None = None
        self._metrics: Metrics | None = None
        self._screen: Screen | None = None
        self._paces = {"write": Pace(WRITE_SECONDS), "line": Pace(LINE_SECONDS), "draw": Pace(0.25)}

    def begin(self, total: int, shown: Live) -> None:
        """From now on ``shown`` is what is going on; ``total`` trials are to be finished."""
        self._total, self._done, self._live = total, 0, shown
        live.write(shown.snapshot(), self._folder)

    def end(self, state: str) -> None:
        """The last snapshot: ``ended`` or ``stopped``."""
        if self._live:
            live.write(self._live.snapshot(state), self._folder)

    def export(self, metrics: Metrics) -> None:
        """From now on Ray's metrics are kept up to date too."""
        self._metrics = metrics

    def __enter__(self) -> View:
        if self.console.is_terminal and not self._quiet:
            self._screen = Screen(console=self.console, auto_refresh=False, transient=True)
            self._screen.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._metrics = None
        if self._screen:
            self._screen.stop()
            self._screen = None

    def line(self, text: str, style: str = "") -> None:
        """One line, with the time since the start."""
        if not self._quiet or style:
            seconds = int(time.monotonic() - self._started)
            stamp = f"{seconds // 60:3d}:{seconds % 60:02d}"
            self.console.print(f"{stamp}  {text}", style=style or None, markup=False)

    def expect(self, more: int) -> None:
        """There are more trials than was known."""
        self._total += more

    def epoch(self, index: int, job: Job, progress: Mapping[str, Any]) -> None:
        """A training's newest epoch."""
        if self._live:
            self._live.epoch(index, job, progress)

    def take(self, index: int, job: Job, event: Event) -> None:
        """Any stage ended."""
        if self._live:
            self._live.take(index, job, event)
        if event["status"] == "failed":
            self.line(f"FAILED {failure_line(event)}", style="red")
        elif event["stage"] == "train" and not event["found"]:
            name = f"{event['system']} {event['dcase']} seed{event['seed']} {event['unit']}"
            self.line(f"trained {name} in {event['seconds']:.1f} s")

    def finished(self, index: int, job: Job, ok: bool, word: str = "done") -> None:
        """Everything of a trial ended; ``word``: how, where that is well."""
        if self._live:
            self._live.drop(index, job)
        self._done += 1
        self.line(
            f"{word if ok else 'incomplete'}: {job.trial.name} ({self._done} of {self._total} trials)",
            style="" if ok else "red",
        )

    def board(self, board: Leaderboard) -> None:
        """The leaderboard as it is now."""
        if self._live:
            self._live.board(board)

    def tick(self, tasks: int) -> None:
        """Brings everything up to date that is due."""
        if self._live is None:
            return
        self._live.tasks = tasks
        due = {name for name, pace in self._paces.items() if pace.due()}
        if not due:
            return
        snapshot = self._live.snapshot()
        if "write" in due:
            live.write(snapshot, self._folder)
            if self._metrics:
                self._metrics.set(snapshot)
        if self._screen and "draw" in due:
            self._screen.update(render(snapshot), refresh=True)
        elif not self._screen and "line" in due:
            self.line(trials_line(snapshot))


def render(snapshot: Mapping[str, Any]) -> RenderableType:
    """What runs, how far it is, and the top of the leaderboard."""
    parts: list[RenderableType] = []
    if snapshot["training"]:
        table = Table("training", "unit", "epoch", "loss", "clips/s", "left", box=None, padding=(0, 2, 0, 0))
        for t in snapshot["training"]:
            table.add_row(
                t["trial"],
                t["unit"],
                f"{t['epoch']}/{t['epochs']}",
                f"{t['loss']:.4f}",
                f"{t['clips_per_second']:.0f}",
                duration(t["seconds_left"]),
            )
        parts.append(table)
    if snapshot["leaderboard"]:
        best = snapshot["leaderboard"][0]
        what = "best so far" if best["dataset"] == "official" else f"best so far ({best['dataset']} data)"
        table = Table(what, "backend", best["column"], box=None, padding=(0, 2, 0, 0))
        for row in snapshot["leaderboard"]:
            complete = "" if row["complete"] else " (not all trials yet)"
            table.add_row(row["system"], row["backend"], f"{100 * row['score']:.2f}{complete}")
        parts.append(table)
    parts.append(trials_line(snapshot))
    return Group(*parts)


def trials_line(snapshot: Mapping[str, Any]) -> str:
    """``3 of 8 trials done, 2 running, 3 waiting; 4 tasks; about 12 min left``."""
    counts = snapshot["trials"]
    parts = [f"{counts['done']} of {sum(counts.values())} trials done"]
    parts += [f"{n} {state}" for state, n in counts.items() if n and state != "done"]
    parts += live.systems_to_come(snapshot.get("to_come", {}))
    text = ", ".join(parts)
    if snapshot["tasks"]:
        text += f"; {snapshot['tasks']} tasks waiting or running"
    if snapshot["seconds_left"] is None:
        return f"{text}; no estimate of the time left yet"
    text = f"{text}; about {duration(snapshot['seconds_left'])} left"
    return f"{text} without the {n} systems to come" if (n := snapshot.get("without")) else text


def failure_line(event: Event) -> str:
    """``extract fan: wrong rate (dis_baseline-1a2b3c4d dcase2023 seed0)``."""
    what = " ".join(str(event[k]) for k in ("stage", "backend", "machine", "unit") if event.get(k))
    trial = f"{event['system']} {event['dcase']} seed{event['seed']}"
    return f"{what}: {event['error']} ({trial})"


def summary_lines(
    expected: Mapping[str, int],
    before: Mapping[str, int],
    new: Mapping[str, int],
    done: Mapping[str, int],
    failures: Sequence[Event],
    given_up: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """One line per stage: how many were done before, by this run and meanwhile; and the rest.

    Meanwhile: by another run, or by tasks of this one that ended after it was stopped.

    Args:
        done: as it is now; the only one of the counts that says how the sweep stands.
        given_up: not done, and of trials that a scheduler stopped: nothing is left to do there.
    """
    lines = []
    for stage, total in expected.items():
        # More than once done by this run: made stale while it ran.
        fresh = min(new.get(stage, 0), done.get(stage, 0))
        already = min(before.get(stage, 0), done.get(stage, 0) - fresh)
        stopped = given_up.get(stage, 0)
        rest = total - done.get(stage, 0) - stopped
        failed = min(sum(event["stage"] == stage for event in failures), rest)
        counts = {
            "already done": already,
            "done now": fresh,
            "done meanwhile": done.get(stage, 0) - already - fresh,
            "stopped early": stopped,
            "failed": failed,
            "left": rest - failed,
        }
        parts = [f"{n} {what}" for what, n in counts.items() if n]
        lines.append(f"  {stage:<9}{', '.join(parts) or 'nothing to do'}")
    return lines
