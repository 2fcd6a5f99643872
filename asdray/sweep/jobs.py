"""The trials of a sweep, each with its dataset and backends. Imports neither ray nor torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from asdray.config.backend import Backend
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.stages.walk import Found, walk
from asdray.store import Places
from asdray.sweep.events import Event
from asdray.sweep.standing import Missing, Standing

Part = Literal["grid", "search", "confirm"]


@dataclass(frozen=True)
class Job:
    """One trial of a sweep, with the options that were swept to make it."""

    trial: Trial
    swept: Mapping[str, Any]
    dataset: Dataset
    backends: tuple[Backend, ...]
    part: Part = "grid"
    sample: int | None = None
    """Of a search: the number of the sample that it belongs to, in its recipe's study."""

    def missing(
        self, sweep: Sweep, places: Places, failures: Mapping[tuple, Event] = MappingProxyType({})
    ) -> Missing:
        """What is left to do of it, but for what `asdray.sweep.events.EventLog.lasting` says failed."""
        return standing(self, sweep, places).missing(failures)


def found_of(job: Job, sweep: Sweep, places: Places) -> Iterator[Found]:
    """Every stage of a trial as its markers are now."""
    return walk(job.trial, sweep.checkpoints, job.backends, sweep.umap, places, job.dataset)


def standing(job: Job, sweep: Sweep, places: Places) -> Standing:
    """How a trial stands on disk now."""
    return Standing.of(job.trial, found_of(job, sweep, places))
