"""One trial while its sweep runs: its phase, open tasks, failures, and row of ``trials.parquet``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from asdray.config.trial import Trial
from asdray.stages.steps import Step
from asdray.store import Places
from asdray.sweep import outputs
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job, Remaining, count_complete, is_complete

Phase = Literal["idle", "suggested", "queued", "training", "tasks", "ended"]
"""``idle``: the run does nothing for the trial. ``suggested``: the search has suggested its system and has
yet to ask for its training. ``queued``: its training waits in Ray Tune. ``training``: its Tune trial runs.
``tasks``: no training is left, and its Ray tasks wait or run. ``ended``: the run can do nothing more for the
trial."""


class TrialRun:
    """A trial of a running sweep.

    Args:
        index: position of the trial in the sweep.
        asked: True if this run is to complete the trial.
        left: remaining work of the trial at the start of the run.

    Attributes:
        failures: failures of earlier runs that would happen again, then the failures of this run.
        complete: True if every step of the trial is complete.
        steps, complete_steps: stage -> number of steps, and of complete steps.
    """

    def __init__(self, index: int, job: Job, left: Remaining, asked: bool) -> None:
        self.index = index
        self.job = job
        self.left = left
        self.asked = asked
        self.failures = list(left.failed)
        self.phase: Phase = "idle"
        self.stopped_early = False
        """True if a scheduler has stopped the trial's system."""
        self.progress: Mapping[str, Any] | None = None
        """Newest epoch of the running training: unit, epoch, epochs, loss, seconds."""
        self.tasks: Counter[str] = Counter()
        """Kind of task, ``extract`` or ``umap`` -> number of waiting and running tasks."""
        self.table_made = False
        self.judged = False
        """True while the search waits for the objective of this trial."""
        self.verdict: Mapping[str, Any] | None = None
        """The objective's values, or the reason for none; see `asdray.sweep.tune.Judge.verdict`."""
        self.trained_machines: set[str] = set()
        """Machines with a trained model whose tasks wait until the trial is judged."""
        self.complete = False
        self.steps: Counter[str] = Counter()
        self.complete_steps: Counter[str] = Counter()
        self._row: dict[str, Any] = {}

    @property
    def trial(self) -> Trial:
        return self.job.trial

    @property
    def in_training(self) -> bool:
        """True while the Tune trial of this trial waits or runs."""
        return self.phase in ("queued", "training")

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``running``, ``stopped`` or ``waiting``, as ``trials.parquet`` has it."""
        if self._row["status"] != "waiting":
            return self._row["status"]
        if self.stopped_early:
            return "stopped"
        return "running" if self.phase in ("training", "tasks") else "waiting"

    @property
    def row(self) -> dict[str, Any]:
        """The trial's row of ``trials.parquet``."""
        return {**self._row, "status": self.status}

    def refresh(self, steps: Sequence[Step], places: Places) -> None:
        """Updates the row and the counts from the trial's steps on disk and its failures."""
        self.complete = is_complete(steps)
        self.steps = Counter(step.stage for step in steps)
        self.complete_steps = count_complete(steps)
        self._row = outputs.trial_row(self.job, steps, places, self.failures)

    def trainable(self) -> Trial:
        """The trial without machines whose own model failed to train; the whole trial if none is left."""
        failed_units = {event["unit"] for event in self.failures if event["stage"] == "train"}
        machines = tuple(m for m in self.trial.machines if self.trial.unit_of(m).name not in failed_units)
        return replace(self.trial, machines=machines) if failed_units and machines else self.trial

    def stage_ended(self, event: Event) -> None:
        """Notes the end of a stage, complete or failed."""
        if event["stage"] == "train":
            self.progress = None
        if event["status"] == "failed":
            self.failures.append(event)

    def task_queued(self, kind: str) -> None:
        """Notes a waiting Ray task."""
        self.tasks[kind] += 1
        if not self.in_training:
            self.phase = "tasks"

    def training_ended(self) -> None:
        """Notes the end of the Tune trial, for whatever reason."""
        self.phase, self.progress = "tasks", None

    def ended(self) -> None:
        """Notes that the run can do nothing more for the trial."""
        self.phase, self.progress = "ended", None
