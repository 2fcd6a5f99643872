"""How a trial stands on disk: which of its stages are done, and what of the rest can be done."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

from asdray.config.trial import Trial, Unit
from asdray.stages.walk import Found
from asdray.store import Marker
from asdray.sweep.events import Event, event_of, key_of


class Done(NamedTuple):
    """What is kept of a marker: a large sweep has a hundred thousand of them."""

    signature: str
    finished: str
    seconds: float
    device: str
    bytes: int
    """Of all outputs, dropped ones included."""
    dropped: tuple[str, ...] = ()


class Stage(NamedTuple):
    """One stage of a trial: what it is about, the signature asked for, and whether it is done."""

    stage: str
    unit: str | None
    machine: str | None
    checkpoint: str | None
    backend: str | None
    signature: str
    done: Done | None
    partial: bool
    """Of an evaluation that is not done: whether it is over those of the backends that are scored."""
    again: bool
    """Of a training or extraction that is not done: whether it was, and what it made was dropped."""


@dataclass(frozen=True)
class Missing:
    """What is left to do of a trial. Empty tuples and False = nothing."""

    units: tuple[Unit, ...] = ()
    machines: tuple[tuple[str, str], ...] = ()
    """(checkpoint, machine) pairs of which extract, score or evaluate is not done."""
    umaps: tuple[tuple[str, str], ...] = ()
    table: bool = False
    again: Counter[str] = field(default_factory=Counter)
    """How many of these trainings and extractions were done, and what they made was dropped."""
    failed: tuple[Event, ...] = ()
    """Why the rest is not done either: it failed before, and would again."""

    @property
    def runs(self) -> bool:
        """Whether anything but the tables is left that can be done."""
        return bool(self.units or self.machines or self.umaps)


@dataclass(frozen=True)
class Standing:
    """Every stage of a trial as it was found on disk; read once, asked many times."""

    trial: Trial
    all: tuple[Stage, ...]

    @classmethod
    def of(cls, trial: Trial, found: Iterable[Found]) -> Standing:
        """From a walk over the trial's stages."""
        return cls(
            trial,
            tuple(
                [
                    Stage(stage, unit, machine, ckpt, backend, signature, _kept(marker), partial, again)
                    for stage, unit, machine, ckpt, backend, signature, marker, partial, again in found
                ]
            ),
        )

    @property
    def stages(self) -> Iterator[tuple[Event, Done | None]]:
        """Every stage: what an event says of it, and its record where it is done."""
        return ((self.event(stage), stage.done) for stage in self.all)

    def event(self, stage: Stage) -> Event:
        """What an event says of a stage of this trial."""
        return event_of(
            self.trial,
            stage.stage,
            unit=stage.unit,
            machine=stage.machine,
            checkpoint=stage.checkpoint,
            backend=stage.backend,
        )

    def key(self, stage: Stage) -> tuple:
        """What `EventLog` knows a stage of this trial by."""
        return key_of({**self.event(stage), "signature": stage.signature})

    def signed(self, event: Event) -> Event:
        """``event`` of one of these stages with the signature that is asked for of it."""
        for stage in self.all:
            if self.event(stage).items() <= event.items():
                return {**event, "signature": stage.signature}
        return event

    @property
    def open(self) -> list[Stage]:
        """The stages that are not done."""
        return [stage for stage in self.all if stage.done is None]

    @property
    def complete(self) -> bool:
        return all(stage.done is not None for stage in self.all)

    @property
    def done(self) -> Counter[str]:
        """How many of each stage are done."""
        return Counter(stage.stage for stage in self.all if stage.done is not None)

    def missing(self, failures: Mapping[tuple, Event] = MappingProxyType({})) -> Missing:
        """What is left to do of it, without what failed before and would fail again.

        Args:
            failures: `asdray.sweep.events.EventLog.lasting`; empty: all is tried again.
        """
        reasons = {
            stage: failures[key]
            for stage in self.all
            if failures and stage.done is None and (key := self.key(stage)) in failures
        }
        units, machines, umaps = [], [], []
        lost: set[str] = set()
        """Machines whose training failed."""
        for unit in self.trial.units:
            stage = next(s for s in self.all if s.stage == "train" and s.unit == unit.name)
            if stage in reasons:
                lost |= set(unit.machines)
            elif stage.done is None:
                units.append(unit)
        of_machines = (stage for stage in self.all if stage.machine)
        for (ckpt, machine), parts in groupby(of_machines, lambda s: (s.checkpoint, s.machine)):
            extract, *rest = parts
            if extract in reasons or machine in lost:
                continue
            if extract.again or _evaluates(rest, reasons):
                machines.append((ckpt, machine))
            umaps += [(ckpt, machine) for s in rest if s.stage == "umap" and not (s.done or s in reasons)]
        table = self.all[-1]
        return Missing(
            tuple(units),
            tuple(machines),
            tuple(umaps),
            table.done is None and table not in reasons,
            Counter(stage.stage for stage in self.all if stage.again and stage not in reasons),
            tuple(reasons.values()),
        )


def _evaluates(stages: Sequence[Stage], failed: Container[Stage]) -> bool:
    """Whether a score or the evaluation of a machine is left that can be done."""
    scores = [s for s in stages if s.stage == "score"]
    (evaluate,) = [s for s in stages if s.stage == "evaluate"]
    if any(s.done is None and s not in failed for s in scores):
        return True
    if evaluate.done or evaluate in failed:
        return False
    some = any(s.done for s in scores)
    return all(s.done for s in scores) or (some and not evaluate.partial)


def _kept(marker: Marker | None) -> Done | None:
    if marker is None:
        return None
    size = sum([entry["size"] for entry in marker.outputs.values()])
    device = sys.intern(marker.device)
    return Done(marker.signature, marker.finished, marker.seconds, device, size, marker.dropped)
