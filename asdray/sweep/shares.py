"""The part of a GPU that a training gets with ``resources: auto``, from the memory that trainings have used.

A training whose memory nobody has measured gets a whole GPU. The first one of a recipe is measured, and the
trainings after it share a GPU, as many as have room, four at most: small networks leave most of a GPU idle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asdray.config.trial import Trial
from asdray.sweep.events import GPU_MEMORY, OUT_OF_MEMORY, Event

MOST = 4
"""Most trainings on a GPU."""

CONTEXT = 2**30
"""Bytes that a process needs on a GPU besides a training: CUDA's context and libraries, and extraction."""

SAME, OTHER = 1.25, 2.0
"""Factors of the memory that was measured: for the same system in another trial; for another system of the
recipe, whose options may need more."""


@dataclass(frozen=True)
class _Measured:
    """The memory of a training: bytes used, bytes of the GPU, and clips or vectors per batch."""

    system: str
    used: int
    of: int
    batch_size: int

    def fitting(self, trial: Trial) -> int:
        """How many trainings like ``trial`` have room on the GPU."""
        same = trial.system_name == self.system
        larger = max(1.0, trial.system.train.batch_size / self.batch_size)
        return int(self.of / (self.used * (SAME if same else OTHER * larger) + CONTEXT))


class Shares:
    """What is known of the memory of a sweep's trainings.

    Args:
        events: of earlier runs.
        gpus: number of GPUs.
    """

    def __init__(self, events: Iterable[Event], gpus: float) -> None:
        self.gpus = gpus
        self._measured: dict[str, list[_Measured]] = {}
        self._whole: set[str] = set()
        for event in events:
            self.learn(event)

    def learn(self, event: Event) -> None:
        """Takes the event of a training into account. A recipe that ran out of memory gets whole GPUs."""
        if event.get(OUT_OF_MEMORY):
            self._whole.add(event["recipe"])
        if memory := event.get(GPU_MEMORY):
            self._measured.setdefault(event["recipe"], []).append(_Measured(event["system"], **memory))

    def known(self, trial: Trial) -> bool:
        """True if a training of the trial's recipe was measured."""
        return trial.recipe in self._measured

    def of(self, trial: Trial) -> float:
        """The part of a GPU for a training: 1, or 1 / n for n trainings that share a GPU, in Ray's steps.

        A trial with clusters gets a whole GPU: it may have to train their source, too.
        """
        found = self._measured.get(trial.recipe, [])
        if not found or trial.recipe in self._whole or trial.system.clustered is not None:
            return 1.0
        own = [one for one in found if one.system == trial.system_name]
        n = min(MOST, *(one.fitting(trial) for one in own or found))
        return int(10_000 / n) / 10_000 if n > 1 else 1.0
