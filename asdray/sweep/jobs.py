"""The trials of a sweep: dataset and backends, remaining work, and the state of each while the sweep runs.

Imports neither ray nor torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from asdray import store
from asdray.config.backend import Backend
from asdray.config.sweep import Sweep
from asdray.config.system_names import value_at
from asdray.config.trial import Trial, Unit
from asdray.dcase.manifest import Dataset
from asdray.stages.steps import Request, Step, TrialFiles, steps
from asdray.store import Places
from asdray.sweep.events import Event, EventLog, event_of, finished, key_of

Part = Literal["grid", "search", "confirm"]


@dataclass(frozen=True)
class Job:
    """One trial of a sweep.

    Attributes:
        swept: option path -> value, of the options that the sweep varies.
        backends: the backends of the sweep that apply to the trial.
        part: ``search`` and ``confirm`` for the trials of a search.
        sample: number of the trial's sample in the study of its recipe; None outside of a search.
    """

    trial: Trial
    swept: Mapping[str, Any]
    dataset: Dataset
    backends: tuple[Backend, ...]
    part: Part = "grid"
    sample: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that the sweep varies, objects with all their options: option path -> value."""
        return {path: value_at(self.trial.system, path) for path in self.swept}

    def files(self, places: Places) -> TrialFiles:
        return TrialFiles(self.trial, places, self.dataset)

    def request(self, sweep: Sweep) -> Request:
        """The results that a sweep wants of this trial."""
        return Request(sweep.checkpoints, self.backends, sweep.umap)

    def steps(self, sweep: Sweep, places: Places) -> list[Step]:
        """Every step of the trial, as its files are now."""
        return steps(self.files(places), self.request(sweep))

    def remaining(
        self, sweep: Sweep, places: Places, failures: Mapping[tuple, Event] = MappingProxyType({})
    ) -> Remaining:
        """The remaining work of the trial, see the function `remaining`."""
        return remaining(self.trial, self.steps(sweep, places), failures)


def names_of(jobs: Iterable[Job]) -> dict[str, str]:
    """System -> its name for people, of the systems of a sweep."""
    return {job.trial.system_name: job.trial.label or job.trial.system_name for job in jobs}


def is_complete(steps: Iterable[Step]) -> bool:
    return all(step.complete for step in steps)


def count_complete(steps: Iterable[Step]) -> Counter[str]:
    """Stage -> number of complete steps."""
    return Counter(step.stage for step in steps if step.complete)


def event_at(trial: Trial, step: Step) -> Event:
    """The fields that identify a step in an event."""
    return event_of(
        trial,
        step.stage,
        unit=step.unit,
        machine=step.machine,
        checkpoint=step.checkpoint,
        backend=step.backend,
    )


def event_key(trial: Trial, step: Step) -> tuple:
    """The key of a step in an `asdray.sweep.events.EventLog`."""
    return key_of({**event_at(trial, step), "signature": step.signature})


def with_signature(trial: Trial, steps: Iterable[Step], event: Event) -> Event:
    """``event`` with the signature of its step; unchanged if ``steps`` lack the step."""
    for step in steps:
        if event_at(trial, step).items() <= event.items():
            return {**event, "signature": step.signature}
    return event


def log_found(trial: Trial, steps: Iterable[Step], log: EventLog) -> None:
    """Logs every complete step of a trial that has no line yet."""
    for step in steps:
        if step.complete:
            log.add(finished(event_at(trial, step), step, found=True))


@dataclass(frozen=True)
class Remaining:
    """The remaining work of a trial.

    Attributes:
        units: units to train.
        machines: (checkpoint, machine) pairs to extract, score or evaluate.
        umaps: (checkpoint, machine) pairs to plot.
        table: True if the trial's tables are to be written.
        rebuilt: stage -> number of trainings and extractions to rebuild after pruning.
        failed: failures of earlier runs that would happen again; the failed steps and all later steps are no
            remaining work.
    """

    units: tuple[Unit, ...] = ()
    machines: tuple[tuple[str, str], ...] = ()
    umaps: tuple[tuple[str, str], ...] = ()
    table: bool = False
    rebuilt: Counter[str] = field(default_factory=Counter)
    failed: tuple[Event, ...] = ()

    @property
    def runs(self) -> bool:
        """True if any stage other than the table can run."""
        return bool(self.units or self.machines or self.umaps)


def remaining(
    trial: Trial, steps: Sequence[Step], failures: Mapping[tuple, Event] = MappingProxyType({})
) -> Remaining:
    """The remaining work of a trial.

    Args:
        failures: `asdray.sweep.events.EventLog.lasting`, the failures that would happen again.
    """
    failed = {
        step.key: failures[event]
        for step in steps
        if failures and not step.complete and (event := event_key(trial, step)) in failures
    }
    to_do = [step for step in steps if not step.complete and step.key not in failed]
    units = {step.unit for step in to_do if step.stage == "train"}
    untrained = {step.unit for step in steps if step.stage == "train" and step.key in failed}
    machines, umaps = _machines_left(trial, steps, failed, untrained)
    return Remaining(
        tuple(unit for unit in trial.units if unit.name in units),
        machines,
        umaps,
        any(step.stage == "table" for step in to_do),
        Counter(step.stage for step in to_do if step.rebuild),
        tuple(failed.values()),
    )


def _machines_left(
    trial: Trial, steps: Iterable[Step], failed: Container[tuple], untrained: Container[str | None]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """The (checkpoint, machine) pairs to extract, score or evaluate, and the pairs to plot.

    Args:
        steps: all steps of the trial; the extraction of a machine comes before the steps that read its files.
        failed: keys of the steps that would fail again.
        untrained: names of the units whose training would fail again.
    """
    machines: list[tuple[str, str]] = []
    umaps: list[tuple[str, str]] = []
    of_machines = (step for step in steps if step.machine)
    for (ckpt, machine), parts in groupby(of_machines, lambda step: (step.checkpoint, step.machine)):
        extract, *readers = parts
        assert ckpt is not None
        assert machine is not None
        if extract.key in failed or trial.unit_of(machine).name in untrained:
            continue
        plots = any(s.stage == "umap" and not s.complete and s.key not in failed for s in readers)
        extracts = extract.rebuild or (plots and not extract.complete)
        if extracts or _scores_or_evaluates(readers, failed):
            machines.append((ckpt, machine))
        if plots:
            umaps.append((ckpt, machine))
    return tuple(machines), tuple(umaps)


def _scores_or_evaluates(readers: Iterable[Step], failed: Container[tuple]) -> bool:
    """True if a score or the evaluation of a machine is missing and can be computed."""
    scores = [step for step in readers if step.stage == "score"]
    (evaluate,) = [step for step in readers if step.stage == "evaluate"]
    if any(not step.complete and step.key not in failed for step in scores):
        return True
    if evaluate.complete or evaluate.key in failed:
        return False
    some = any(step.complete for step in scores)
    return all(step.complete for step in scores) or (some and not evaluate.partial)


# ------------------------------------------------------------------------------------ while the sweep runs


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
        self.parts, self.parts_begun, self.parts_ended = 1, 0, 0
        """Number of Tune trials that train the trial, of those that have begun, and that have ended."""
        self.progress: dict[str, Mapping[str, Any]] = {}
        """Unit in training -> its newest epoch: unit, epoch, epochs, loss, seconds."""
        self.tasks: Counter[str] = Counter()
        """Kind of task, ``extract`` or ``umap`` -> number of waiting and running tasks."""
        self.table_made = False
        self.judged = False
        """True while the search waits for the objective of this trial."""
        self.verdict: Mapping[str, Any] | None = None
        """The objective's values, or the reason for none; see `Judge.verdict`."""
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
        self._row = trial_row(self.job, steps, places, self.failures)

    def trainable(self) -> Trial:
        """The trial without machines whose own model failed to train; the whole trial if none is left."""
        failed_units = {event["unit"] for event in self.failures if event["stage"] == "train"}
        machines = tuple(m for m in self.trial.machines if self.trial.unit_of(m).name not in failed_units)
        return replace(self.trial, machines=machines) if failed_units and machines else self.trial

    def stage_ended(self, event: Event) -> None:
        """Notes the end of a stage, complete or failed."""
        if event["stage"] == "train":
            self.progress.pop(event["unit"], None)
        if event["status"] == "failed":
            self.failures.append(event)

    def task_queued(self, kind: str) -> None:
        """Notes a waiting Ray task."""
        self.tasks[kind] += 1
        if not self.in_training:
            self.phase = "tasks"

    def training_ended(self) -> None:
        """Notes the end of the Tune trial, for whatever reason."""
        self.phase = "tasks"
        self._forget_training()

    def ended(self) -> None:
        """Notes that the run can do nothing more for the trial."""
        self.phase = "ended"
        self._forget_training()

    def _forget_training(self) -> None:
        self.progress = {}
        self.parts, self.parts_begun, self.parts_ended = 1, 0, 0


def trial_row(job: Job, steps: Sequence[Step], places: Places, failures: Sequence[Event]) -> dict[str, Any]:
    """One row of ``trials.parquet``, see `asdray.evaluation.tables.write_trials`."""
    seconds: dict[str, float] = {}
    devices: set[str] = set()
    for step in steps:
        if step.complete:
            seconds[step.stage] = seconds.get(step.stage, 0.0) + step.seconds
            if step.stage == "train":
                devices.add(step.device)
    complete = is_complete(steps)
    status = "done" if complete else "failed" if failures else "waiting"
    first = failures[0] if failures else None
    return {
        "dcase": job.trial.dcase,
        "recipe": job.trial.recipe,
        "system": job.trial.system_name,
        "seed": job.trial.seed,
        "part": job.part,
        "swept": dict(job.swept),
        "status": status,
        "seconds": seconds,
        "device": "+".join(sorted(devices)) or None,
        "error": f"{first['stage']} {first['machine'] or first['unit'] or ''}: {first['error']}"
        if first and not complete
        else None,
        "directory": store.trial_dir(places.results, job.trial).root.relative_to(places.results).as_posix(),
        "dataset": job.dataset.kind,
    }
