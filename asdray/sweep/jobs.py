"""The trials of a sweep with dataset and backends, and the remaining work of each trial.

Imports neither ray nor torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from asdray.config.backend import Backend
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial, Unit
from asdray.dcase.manifest import Dataset
from asdray.stages.steps import Request, Step, TrialFiles, steps
from asdray.store import Places
from asdray.sweep.events import Event, event_of, key_of

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
    untrained = {
        machine
        for unit in trial.units
        if ("train", unit.name, None, None, None) in failed
        for machine in unit.machines
    }
    machines, umaps = [], []
    of_machines = (step for step in steps if step.machine)
    for (ckpt, machine), parts in groupby(of_machines, lambda step: (step.checkpoint, step.machine)):
        extract, *readers = parts
        if extract.key in failed or machine in untrained:
            continue
        assert ckpt is not None
        assert machine is not None
        plots = any(s.stage == "umap" and not s.complete and s.key not in failed for s in readers)
        extracts = extract.rebuild or (plots and not extract.complete)
        if extracts or _scores_or_evaluates(readers, failed):
            machines.append((ckpt, machine))
        if plots:
            umaps.append((ckpt, machine))
    return Remaining(
        tuple(unit for unit in trial.units if unit.name in units),
        tuple(machines),
        tuple(umaps),
        any(step.stage == "table" for step in to_do),
        Counter(step.stage for step in to_do if step.rebuild),
        tuple(failed.values()),
    )


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
