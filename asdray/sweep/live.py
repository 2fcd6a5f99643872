"""What a running sweep tells of itself: one snapshot for the screen, ``asdray status`` and Ray's metrics."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import provenance, store
from asdray.sweep.estimate import Estimator, UpcomingSystems
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard

STATES = ("done", "running", "failed", "waiting", "stopped")
TOP = 5
"""Rows of the leaderboard in a snapshot."""


def live_path(folder: Path) -> Path:
    """``status.json`` in a sweep's folder: the newest snapshot."""
    return store.SweepDir(folder).status


class Live:
    """What the driver knows of a sweep while it runs.

    Args:
        rows: the driver's, of ``trials.parquet``: read anew for every snapshot.
    """

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], estimator: Estimator) -> None:
        self.dashboard: str | None = None
        self.metrics: str | None = None
        self.tasks = 0
        """Tasks that wait or run."""
        self.estimator = estimator
        self._name = name
        self._rows = rows
        self._started = provenance.now()
        self._training: dict[int, tuple[Job, Mapping[str, Any]]] = {}
        self._slots = (1.0, 1.0, 1.0)
        self._board: list[dict[str, Any]] = []
        self._failures = 0

    def room(self, trainings: float, tasks: float, cpus: float) -> None:
        """How many trainings run at once, how many tasks beside them, and how many tasks alone."""
        self._slots = max(1.0, trainings), max(1.0, tasks), max(1.0, cpus)

    def epoch(self, index: int, job: Job, progress: Mapping[str, Any]) -> None:
        """A training's newest epoch."""
        self._training[index] = (job, progress)
        self.estimator.epoch_ended(index, progress["unit"], progress["seconds"])

    def take(self, index: int, job: Job, event: Event) -> None:
        """A stage ended."""
        if event["stage"] == "train":
            self._training.pop(index, None)
        self._failures += event["status"] == "failed"
        self.estimator.stage_ended(index, event)

    def drop(self, index: int, job: Job) -> None:
        """Nothing more of a trial is done."""
        self._training.pop(index, None)
        self.estimator.trial_ended(index)

    def board(self, board: Leaderboard) -> None:
        """The leaderboard as it is now."""
        column = board.rank_by if board.rank_by in board.frame else f"{board.rank_by}_mean"
        ours = board.frame[(board.frame["origin"] == "ours") & board.frame[column].notna()]
        there, expected = (
            ours[[f"{name}_{of}" for name in board.names]].fillna(0).to_numpy() for of in ("n", "n_expected")
        )
        whole = (there == expected).all(axis=1).tolist()
        self._board = [
            {
                "system": row["system"],
                "backend": row["backend"],
                "checkpoint": row["checkpoint"],
                "column": board.rank_by,
                "score": float(row[column]),
                "dataset": row["dataset"],
                "complete": complete,  # else not all of its trials are there
            }
            for complete, (_, row) in zip(whole, ours.head(TOP).iterrows(), strict=False)
        ]

    def snapshot(self, state: str = "running") -> dict[str, Any]:
        """Everything that is to be shown, as JSON data.

        ``seconds_left`` are null where nothing is known; ``score`` is a fraction. ``to_come`` are the systems
        that a search has not come to yet; ``without``: those of them that ``seconds_left`` leaves out.
        """
        counts = Counter(row["status"] for row in self._rows)
        training = [_training(job, progress) for job, progress in self._training.values()]
        left = self.estimator.estimate()
        done = sum(p["epoch"] * p["seconds"] for _, p in self._training.values())
        longest = max((t["seconds_left"] for t in training), default=0.0)
        train = max(left.train_seconds - done, 0.0)
        seconds: float | None = max(longest, replace(left, train_seconds=train).wall_seconds(*self._slots))
        if left.unknown_trainings or ((left.unknown_stages or left.unknown_systems) and not seconds):
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
            "trials": {name: counts[name] for name in STATES},
            "running": [_name(row) for row in self._rows if row["status"] == "running"],
            "failures": self._failures,
            "tasks": self.tasks,
            "training": training,
            "clips_per_second": sum(t["clips_per_second"] for t in training),
            "seconds_left": seconds,
            "to_come": to_come_of(self.estimator.upcoming),
            "without": left.unknown_systems,
            "leaderboard": self._board,
        }


def to_come_of(upcoming: Iterable[UpcomingSystems]) -> dict[str, int]:
    """``search`` and ``confirm`` -> how many systems are still to come."""
    counts: Counter[str] = Counter()
    for one in upcoming:
        counts[one.part] += one.systems
    return dict(counts)


def systems_to_come(counts: Mapping[str, int]) -> list[str]:
    """What is said of these: ``9 systems to come``, ``3 to confirm``."""
    words = {"search": "systems to come", "confirm": "to confirm"}
    return [f"{counts[part]} {what}" for part, what in words.items() if counts.get(part)]


def _name(row: Mapping[str, Any]) -> str:
    """`asdray.config.trial.Trial.name` of a row of ``trials.parquet``."""
    return f"{row['system']} {row['dcase']} seed{row['seed']}"


def _training(job: Job, progress: Mapping[str, Any]) -> dict[str, Any]:
    unit = next(u for u in job.trial.units if u.name == progress["unit"])
    clips = sum(job.dataset.machines[m].count(split="train") for m in unit.machines)
    return {
        "trial": job.trial.name,
        "unit": unit.name,
        "epoch": progress["epoch"],
        "epochs": progress["epochs"],
        "loss": progress["loss"],
        "clips_per_second": clips / max(progress["seconds"], 1e-9),
        "seconds_left": (progress["epochs"] - progress["epoch"]) * progress["seconds"],
    }


def write(snapshot: Mapping[str, Any], folder: Path) -> None:
    """Replaces ``status.json``."""
    store.write_json(live_path(folder), snapshot)


def read(folder: Path) -> dict[str, Any] | None:
    """The newest snapshot, or None where there is none."""
    try:
        value = store.read_json(live_path(folder))
    except ValueError:
        return None
    return value if isinstance(value, dict) and "running" in value else None


def age(snapshot: Mapping[str, Any]) -> float:
    """Seconds since it was written."""
    written = datetime.fromisoformat(snapshot["updated"])
    return max(0.0, (datetime.now(written.tzinfo) - written).total_seconds())


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``: as precise as an estimate is."""
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


class Pace:
    """Says when something is due that is done now and then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
