"""The progress of a running sweep: its snapshot for other processes, and its view on the screen.

The driver reports every event to `Progress`. `View` prints lines, draws the live view on a terminal, and
writes the snapshot to ``status.json`` in the sweep's folder, where another shell reads it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import FiniteFloat
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from asdray import provenance, store
from asdray.config.trial import unit_title
from asdray.fitted_table import NumberColumn, TextColumn, fitted
from asdray.sweep.estimate import Estimator, UpcomingSystems
from asdray.sweep.events import Event
from asdray.sweep.jobs import TrialRun, names_of
from asdray.terminal import console

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.cluster import Metrics

STATES = ("done", "running", "failed", "waiting", "stopped")
"""States of trials, in the order on the screen; `asdray.sweep.jobs.TrialRun.status` defines them."""

TOP_ROWS = 5
"""Rows of the leaderboard in a snapshot."""

INTERVALS = {"write": 2.0, "line": 60.0, "draw": 0.25}
"""Seconds between two writings of ``status.json``, between two lines about the progress in output to a file
or pipe, and between two drawings of the live view."""


# ------------------------------------------------------------------------------------------ the snapshot


class Progress:
    """Counts, running trainings, remaining time and the top of the leaderboard, as of now.

    Args:
        name: name of the sweep.
        runs: runs of all trials; the driver appends to the list.

    Attributes:
        open_tasks: Ray tasks that wait or run.
        dashboard, metrics: addresses, or None.
        data: the folder of the datasets, which `asdray status` and `asdray report` then know; or None.
    """

    def __init__(self, name: str, runs: Sequence[TrialRun], estimator: Estimator) -> None:
        self.dashboard: str | None = None
        self.metrics: str | None = None
        self.data: Path | None = None
        self.open_tasks = 0
        self.estimator = estimator
        self._name = name
        self._runs = runs
        self._started = provenance.now()
        self._slots = (1.0, 1.0, 1.0)
        self._leaderboard: list[dict[str, Any]] = []
        self._failures = 0

    def set_slots(self, trainings: float, tasks: float, cpus: float) -> None:
        """Sets the numbers of trainings at once, tasks beside trainings, and tasks after all trainings."""
        self._slots = max(1.0, trainings), max(1.0, tasks), max(1.0, cpus)

    def stage_ended(self, run: TrialRun, event: Event) -> None:
        """Counts the end of a stage, complete or failed."""
        self._failures += event["status"] == "failed"
        self.estimator.stage_ended(run.index, event)

    def set_leaderboard(self, board: Leaderboard) -> None:
        """Keeps the top of the newest leaderboard."""
        column = board.rank_by if board.rank_by in board.frame else f"{board.rank_by}_mean"
        ours = board.frame[(board.frame["origin"] == "ours") & board.frame[column].notna()]
        ours = ours.sort_values(column, ascending=False, kind="stable")  # incomplete rows have no rank
        found, expected = (
            ours[[f"{name}_{of}" for name in board.names]].fillna(0).to_numpy() for of in ("n", "n_expected")
        )
        complete = (found == expected).all(axis=1).tolist()
        self._leaderboard = [
            {
                "system": row["system"],
                "backend": row["backend"],
                "checkpoint": row["checkpoint"],
                "column": board.rank_by,
                "score": float(row[column]),
                "dataset": row["dataset"],
                "complete": has_all_trials,
            }
            for has_all_trials, (_, row) in zip(complete, ours.head(TOP_ROWS).iterrows(), strict=False)
        ]

    @property
    def names(self) -> dict[str, str]:
        """System -> its name for people."""
        return names_of(run.job for run in self._runs)

    def snapshot(self, state: str = "running") -> dict[str, Any]:
        """The content of ``status.json``.

        ``seconds_left`` is null without an estimate; ``score`` is a fraction. ``to_come`` counts the systems
        that a search has yet to suggest or confirm; ``without`` counts the part left out of ``seconds_left``.
        """
        counts = Counter(run.status for run in self._runs)
        newest = [(run, epoch) for run in self._runs for epoch in run.progress.values()]
        training = [_training(run, epoch) for run, epoch in newest]
        estimate = self.estimator.estimate()
        done = sum(epoch["epoch"] * epoch["seconds"] for _, epoch in newest)
        longest = max((t["seconds_left"] for t in training), default=0.0)
        rest = replace(estimate, train_seconds=max(estimate.train_seconds - done, 0.0))
        seconds: float | None = max(longest, rest.wall_seconds(*self._slots))
        unknown = estimate.unknown_stages or estimate.unknown_systems
        if estimate.unknown_trainings or (unknown and not seconds):
            seconds = None
        return {
            "sweep": self._name,
            "state": state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started,
            "updated": provenance.now(),
            "dashboard": self.dashboard,
            "metrics": self.metrics,
            "data": None if self.data is None else str(self.data),
            "trials": {name: counts[name] for name in STATES},
            "running": [run.trial.name for run in self._runs if run.status == "running"],
            "failures": self._failures,
            "tasks": self.open_tasks,
            "training": training,
            "clips_per_second": sum(t["clips_per_second"] for t in training),
            "seconds_left": seconds,
            "to_come": count_upcoming(self.estimator.upcoming),
            "without": estimate.unknown_systems,
            "leaderboard": [{**row, "name": self.names.get(row["system"], "")} for row in self._leaderboard],
        }


def _training(run: TrialRun, progress: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of one running training."""
    unit = next(u for u in run.trial.units if u.name == progress["unit"])
    clips = sum(run.job.dataset.machines[m].count(split="train") for m in unit.machines)
    return {
        "trial": run.trial.name,
        "title": run.trial.title,
        "unit": unit.name,
        "epoch": progress["epoch"],
        "epochs": progress["epochs"],
        "loss": progress["loss"],
        "clips_per_second": clips / max(progress["seconds"], 1e-9),
        "seconds_left": (progress["epochs"] - progress["epoch"]) * progress["seconds"],
    }


def count_upcoming(upcoming: Iterable[UpcomingSystems]) -> dict[str, int]:
    """``search`` and ``confirm`` -> number of upcoming systems."""
    counts: Counter[str] = Counter()
    for systems in upcoming:
        counts[systems.part] += systems.systems
    return dict(counts)


def upcoming_texts(counts: Mapping[str, int]) -> list[str]:
    """Texts such as ``9 systems to come`` and ``3 to confirm``."""
    words = {"search": "systems to come", "confirm": "to confirm"}
    return [f"{counts[part]} {text}" for part, text in words.items() if counts.get(part)]


def write_snapshot(snapshot: Mapping[str, Any], folder: Path) -> None:
    """Replaces ``status.json``."""
    store.write_json(store.SweepDir(folder).status, snapshot)


@dataclass(frozen=True)
class _Running:
    """The entry of a training in a snapshot."""

    trial: str
    unit: str
    epoch: int
    epochs: int
    loss: float
    clips_per_second: float
    seconds_left: FiniteFloat
    title: str = ""


@dataclass(frozen=True)
class _Best:
    """The entry of a leaderboard's row in a snapshot."""

    system: str
    backend: str
    column: str
    score: float
    dataset: str
    complete: bool
    name: str = ""


@dataclass(frozen=True)
class _Snapshot:
    """The part of a snapshot that is read; see `Progress.snapshot`."""

    state: str
    pid: int
    host: str
    started: str
    updated: datetime
    dashboard: str | None
    trials: dict[str, int]
    running: list[str]
    tasks: int
    training: list[_Running]
    seconds_left: FiniteFloat | None
    leaderboard: list[_Best]
    to_come: dict[str, int] = field(default_factory=dict)
    without: int = 0
    data: str | None = None


def read_snapshot(folder: Path) -> dict[str, Any] | None:
    """The newest snapshot; None without a readable file."""
    path = store.SweepDir(folder).status
    try:
        store.read_json(path, _Snapshot)
        found: dict[str, Any] = store.read_json(path)
    except ValueError:
        return None
    return found


def data_of(folder: Path) -> Path | None:
    """The folder of the datasets that the last run of a sweep has read; None if unknown, or not there."""
    known = (read_snapshot(folder) or {}).get("data")
    return Path(known) if known and Path(known).is_dir() else None


def snapshot_age(snapshot: Mapping[str, Any]) -> float:
    """Seconds since the snapshot was written."""
    written = datetime.fromisoformat(snapshot["updated"])
    return max(0.0, (datetime.now(written.tzinfo) - written).total_seconds())


def duration(seconds: float) -> str:
    """A duration as precise as an estimate is: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``.

    >>> duration(12_000)
    '3 h 20 min'
    """
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours < 10 and minutes else f"{round(hours + minutes / 60)} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(n: float) -> str:
    """Bytes for people: ``12 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


# ------------------------------------------------------------------------------------------- the screen


class LiveView(Protocol):
    """What is drawn again and again while a sweep runs, such as `rich.live.Live`."""

    def start(self) -> None: ...

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None: ...

    def stop(self) -> None: ...


class View:
    """Prints a line per finished training and trial and per failure; when quiet, failures only.

    On a terminal a live view is drawn below the lines. ``status.json`` is kept up to date in any case.

    Args:
        folder: the sweep's folder.
        live: makes a live view for another place than a terminal.
    """

    def __init__(self, folder: Path, quiet: bool, live: Callable[[], LiveView] | None = None) -> None:
        self.console = console(sys.stdout, width=None, soft_wrap=True)
        self._folder = folder
        self._quiet = quiet
        self._total = 0
        self._ended = 0
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._metrics: Metrics | None = None
        self._live: LiveView | None = None
        self._make_live = live
        self._last = dict.fromkeys(INTERVALS, self._started)
        self._last_of_source = -INTERVALS["line"]

    def begin(self, total: int, progress: Progress) -> None:
        """Shows ``progress`` from now on; ``total`` trials are asked for."""
        self._total, self._ended, self._progress = total, 0, progress
        write_snapshot(progress.snapshot(), self._folder)

    def end(self, state: str) -> None:
        """Writes the last snapshot; ``state`` is ``ended``, ``stopped`` or ``failed``."""
        if self._progress:
            write_snapshot(self._progress.snapshot(state), self._folder)

    def export(self, metrics: Metrics) -> None:
        """Updates Ray's metrics with each snapshot, until the view is closed."""
        self._metrics = metrics

    def __enter__(self) -> View:
        if not self._quiet and (self._make_live or self.console.is_terminal):
            on_terminal = partial(Live, console=self.console, auto_refresh=False, transient=True)
            self._live = (self._make_live or on_terminal)()
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._metrics = None
        if self._live:
            self._live.stop()
            self._live = None

    def line(self, text: str, style: str = "") -> None:
        """Prints one line with the time since the start; a line with a style is printed even when quiet."""
        if not self._quiet or style:
            seconds = int(time.monotonic() - self._started)
            stamp = f"{seconds // 60:3d}:{seconds % 60:02d}"
            self.console.print(f"{stamp}  {text}", style=style or None, markup=False)

    def trial_added(self) -> None:
        """Counts one trial more that is asked for."""
        self._total += 1

    def stage_ended(self, event: Event) -> None:
        """Prints a line for a failure or a finished training."""
        if event["status"] == "failed":
            names = self._progress.names if self._progress else {}
            self.line(f"FAILED {failure_line(event, names)}", style="red")
        elif event["stage"] == "train" and not event["found"]:
            names = self._progress.names if self._progress else {}
            unit = unit_title(event["unit"])
            what = title_of(event, names) + ("" if unit == "all" else f" {unit}")
            self.line(f"trained {what} in {event['seconds']:.1f} s")

    def source_epoch(self, progress: Mapping[str, Any]) -> None:
        """Prints a line a minute about the training of a system that is clustered for another one."""
        if time.monotonic() - self._last_of_source >= INTERVALS["line"]:
            self._last_of_source = time.monotonic()
            epoch = f"epoch {progress['epoch']} of {progress['epochs']}"
            self.line(f"training {progress['trial']}, whose embeddings are clustered: {epoch}")

    def trial_ended(self, run: TrialRun, word: str = "done", ok: bool = True) -> None:
        """Prints a line for a trial that ended; ``word`` is for a good end (``ok``)."""
        self._ended += 1
        self.line(
            f"{word if ok else 'incomplete'}: {run.trial.title} ({self._ended} of {self._total} trials)",
            style="" if ok else "red",
        )

    def tick(self) -> None:
        """Updates file, metrics and screen, each at its own interval."""
        now = time.monotonic()
        due = {name for name, seconds in INTERVALS.items() if now - self._last[name] >= seconds}
        if self._progress is None or not due:
            return
        self._last |= dict.fromkeys(due, now)
        snapshot = self._progress.snapshot()
        if "write" in due:
            write_snapshot(snapshot, self._folder)
            if self._metrics:
                self._metrics.set(snapshot)
        if self._live and "draw" in due:
            size = self.console.size
            self._live.update(render(snapshot, size.width, size.height), refresh=True)
        elif not self._live and "line" in due:
            self.line(minute_line(snapshot))


def render(snapshot: Mapping[str, Any], width: int = 200, height: int | None = None) -> RenderableType:
    """The live view: running trainings, top of the leaderboard, and `trials_line`.

    Args:
        width: of the screen; a training and a row of the leaderboard take at most two lines.
        height: of the screen, on which all has a place but for the last trainings; None: without a limit.
    """
    parts: list[RenderableType] = []
    best, training = snapshot["leaderboard"], snapshot["training"]
    if height is not None:
        training = training[: max(1, (height - 2 * len(best) - 7) // 2)]
    if training:
        parts.append(_training_table(training, width))
        if more := len(snapshot["training"]) - len(training):
            parts.append(_folded(f"and {more} more trainings"))
    if best:
        parts.append(_best_table(best, width))
    parts.append(_folded(trials_line(snapshot)))
    return Group(*parts)


def _folded(text: str) -> Text:
    """A text that wraps, whatever the console does."""
    return Text(text, no_wrap=False, overflow="fold")


_IMPORTANCE = {"clips/s": 0, "loss": 1, "left": 2}
"""Columns of the running trainings: on a narrow screen the least important give place to the names."""


def _training_table(training: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    # The unit of all machines is the whole trial.
    units = ["" if unit_title(t["unit"]) == "all" else t["unit"] for t in training]
    titles = [f"{t.get('title') or t['trial']} {unit}" for t, unit in zip(training, units, strict=True)]
    numbers = {
        "epoch": [f"{t['epoch']}/{t['epochs']}" for t in training],
        "loss": [f"{t['loss']:.4f}" for t in training],
        "clips/s": [f"{t['clips_per_second']:.0f}" for t in training],
        "left": [duration(t["seconds_left"]) for t in training],
    }
    columns = [
        NumberColumn(name, [(cell, "") for cell in cells], _IMPORTANCE.get(name))
        for name, cells in numbers.items()
    ]
    return fitted("", [TextColumn("training", titles)], columns, width)[0]


def _best_table(best: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    kind = best[0]["dataset"]
    names = [row.get("name") or row["system"] for row in best]
    texts = [
        TextColumn("best so far" if kind == "official" else f"best so far ({kind} data)", names),
        TextColumn("backend", [row["backend"] for row in best]),
    ]
    scores = [
        (f"{100 * row['score']:.2f}", "" if row["complete"] else "(not all trials yet)") for row in best
    ]
    return fitted("", texts, [NumberColumn(best[0]["column"], scores)], width)[0]


def trials_line(snapshot: Mapping[str, Any]) -> str:
    """``3 of 8 trials done, 2 running, 3 waiting; 4 tasks; about 12 min left``."""
    counts = snapshot["trials"]
    parts = [f"{counts.get('done', 0)} of {sum(counts.values())} trials done"]
    parts += [f"{n} {state}" for state, n in counts.items() if n and state != "done"]
    parts += upcoming_texts(snapshot.get("to_come", {}))
    text = ", ".join(parts)
    if snapshot["tasks"]:
        text += f"; {snapshot['tasks']} tasks waiting or running"
    if snapshot["seconds_left"] is None:
        return f"{text}; no estimate of the time left yet"
    text = f"{text}; about {duration(snapshot['seconds_left'])} left"
    return f"{text} without the {n} systems to come" if (n := snapshot.get("without")) else text


def minute_line(snapshot: Mapping[str, Any]) -> str:
    """`trials_line`, and the epochs of the running trainings, of many those of the first and the last.

    >>> training = [{"epoch": 12, "epochs": 30}, {"epoch": 3, "epochs": 30}]
    >>> minute_line({"trials": {"running": 2}, "training": training, "tasks": 0, "seconds_left": 60.0})
    '0 of 2 trials done, 2 running; about 60 s left; epochs 3/30, 12/30'
    """
    text = trials_line(snapshot)
    if not snapshot["trials"].get("running"):
        return text
    epochs = sorted(
        (one["epoch"] / one["epochs"], one["epoch"], one["epochs"]) for one in snapshot["training"]
    )
    texts = [f"{epoch}/{of}" for _, epoch, of in epochs]
    if not texts:
        return f"{text}; no epoch has ended yet"
    return f"{text}; epochs {', '.join(texts) if len(texts) <= 4 else f'{texts[0]} to {texts[-1]}'}"


def title_of(event: Event, names: Mapping[str, str]) -> str:
    """The trial of an event, ``dis_baseline loss=arcface dcase2023 seed0``; ``names``: system -> name."""
    return f"{names.get(event['system'], event['system'])} {event['dcase']} seed{event['seed']}"


def failure_line(event: Event, names: Mapping[str, str]) -> str:
    """``extract fan: wrong rate (dis_baseline lr=3e-4 dcase2023 seed0, in dis_baseline-1a2b3c4d)``.

    Args:
        names: system -> its name for people. The system's own name is that of the folder with the logs.
    """
    words = [event[k] for k in ("stage", "backend", "machine") if event.get(k)]
    stage = " ".join([*words, *([unit_title(event["unit"])] if event.get("unit") else [])])
    system = event["system"]
    folder = f", in {system}" if names.get(system, system) != system else ""
    return f"{stage}: {event['error']} ({title_of(event, names)}{folder})"


@dataclass(frozen=True)
class StageCounts:
    """Numbers of steps of one stage, over the trials that a run was asked for.

    Attributes:
        expected: all steps.
        before: complete when the run began.
        new: completed by this run, counted again if data changed meanwhile.
        complete: complete now.
        given_up: incomplete, and never to be run, since a scheduler stopped the trial.
    """

    expected: int
    before: int = 0
    new: int = 0
    complete: int = 0
    given_up: int = 0

    def text(self, failures: int) -> str:
        """A text such as ``3 already done, 1 done now, 2 left``.

        ``done meanwhile`` counts steps of another run, or of tasks of this run that ended after its stop.

        >>> StageCounts(expected=4, before=1, new=2, complete=3).text(failures=1)
        '1 already done, 2 done now, 1 failed'
        """
        new = min(self.new, self.complete)
        before = min(self.before, self.complete - new)
        rest = self.expected - self.complete - self.given_up
        failed = min(failures, rest)
        counts = {
            "already done": before,
            "done now": new,
            "done meanwhile": self.complete - before - new,
            "stopped early": self.given_up,
            "failed": failed,
            "left": rest - failed,
        }
        return ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "nothing to do"


def summary_lines(counts: Mapping[str, StageCounts], failures: Sequence[Event]) -> list[str]:
    """One line per stage: steps that were complete before, by this run or meanwhile, and the rest."""
    failed = Counter(event["stage"] for event in failures)
    return [f"  {stage:<9}{of_stage.text(failed[stage])}" for stage, of_stage in counts.items()]
