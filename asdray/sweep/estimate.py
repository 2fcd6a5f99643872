"""How long a sweep still takes, and how much disk: estimated from what is finished of it.

Each stage is taken to cost time in proportion to its amount: training to clips x epochs, extraction,
scoring, evaluation and UMAP to clips, tables to 1; and disk likewise, but that of a training, which does
not depend on clips; of what is made, that part counts which ``keep`` leaves in the end. The rate is that of
finished stages of the same system and year; where there are none, of the same system, else of the same
recipe and year, else of the same recipe. Scoring, evaluation, UMAP and tables may also go by any recipe's.
Where there is nothing to go by there is no estimate. What a search is still to come to is taken to be as the
systems of its recipe are on average, and never stopped early.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job, Part
from asdray.sweep.standing import Stage, Standing

Key = tuple[str, str | None, str, str, str]
"""stage, backend, recipe, system, dcase: what has a rate of its own."""


Alike = tuple[str, str | None]
"""stage, backend: the stages of a trial that are added up."""


class Sum(NamedTuple):
    """Over stages that are alike; seconds and bytes of those that are not done are 0."""

    stages: int
    seconds: float
    amount: float
    bytes: int
    amount_of_bytes: float


def add_up(job: Job, stages: Iterable[Stage]) -> dict[Alike, Sum]:
    """Stages of a trial added up."""
    found: dict[Alike, list] = {}
    amounts: dict[tuple, tuple[float, float]] = {}
    for stage in stages:
        total = found.setdefault((stage.stage, stage.backend), [0, 0.0, 0.0, 0, 0.0])
        what = stage[:3]  # several backends score the same clips
        if what not in amounts:
            amounts[what] = _amounts(job.trial, *what, job.dataset)
        amount, amount_of_bytes = amounts[what]
        total[0] += 1
        total[2] += amount
        total[4] += amount_of_bytes
        if stage.done is not None:
            total[1] += stage.done.seconds
            total[3] += stage.done.bytes
    return {what: Sum(*total) for what, total in found.items()}


class Coming(NamedTuple):
    """Systems of a recipe that a search is still to come to."""

    part: Part
    recipe: str
    systems: int
    trials: Mapping[str, int]
    """dcase -> how many of each system."""


@dataclass(frozen=True)
class Left:
    """What is estimated to be left.

    Attributes:
        train: seconds of training, one after the other.
        tasks: seconds of all other stages, one after the other.
        bytes: disk.
        unknown: stages without an estimate.
        unknown_trainings: those of them that are trainings.
        without: systems still to come that are in none of these, since nothing like them is finished.
    """

    train: float
    tasks: float
    bytes: float
    unknown: int
    unknown_trainings: int = 0
    without: int = 0

    def seconds(self, trainings: float, tasks: float, cpus: float) -> float:
        """Of the sweep: so many trainings at once, so many tasks beside them, and ``cpus`` behind them."""
        training = self.train / trainings
        return training + max(0.0, self.tasks - training * tasks) / cpus


class Work:
    """What is done of a sweep and what is left, as sums over equal pieces of work.

    Args:
        share: stage -> the part of its bytes that stays in the end, where that is not all of them.

    Attributes:
        come: what a search is still to come to; whoever drives it keeps it as of now.
    """

    def __init__(self, share: Mapping[str, float] = MappingProxyType({})) -> None:
        self.come: Sequence[Coming] = ()
        self._share = share
        self._rates: dict[tuple, array[float]] = {}
        """Level -> seconds, their amount; bytes, their amount."""
        self._left: dict[Key, list[float]] = {}
        """Number of stages, amount of seconds, amount of bytes."""
        self._open: dict[int, set[tuple]] = {}
        """Job -> its stages that are left, the first five fields of `Stage`."""
        self._trials: Counter[tuple[str, str]] = Counter()
        """Of a search: (recipe, dcase) -> how many trials are known, done or not."""
        self._shapes: dict[tuple[str, str], dict[tuple[str, str | None], list[float]]] = {}
        """Likewise -> (stage, backend) -> amount of seconds, amount of bytes, over all of them."""

    def add(self, index: int, job: Job, stands: Standing, asked: bool = True) -> None:
        """Takes in a trial: its finished stages for the rates and, where it is asked for, the others."""
        left = stands.open
        self.count(job, add_up(job, (s for s in stands.all if s.done)), add_up(job, left), asked)
        if asked and left:
            self._open[index] = {stage[:5] for stage in left}

    def count(
        self,
        job: Job,
        done: Mapping[Alike, Sum],
        left: Mapping[Alike, Sum],
        asked: bool = True,
        lost: Mapping[Alike, Sum] = MappingProxyType({}),
    ) -> None:
        """`add` of sums, for an estimate that is made once: no stage can be taken out again.

        Args:
            lost: what is not done either, since it failed before or follows what did.
        """
        of_recipe = job.trial.recipe, job.trial.dcase
        self._trials[of_recipe] += 1
        if job.part != "grid":
            shapes = self._shapes.setdefault(of_recipe, {})
            for what, total in (*done.items(), *left.items(), *lost.items()):
                shape = shapes.setdefault(what, [0.0, 0.0])
                shape[0] += total.amount
                shape[1] += total.amount_of_bytes
        for what, total in done.items():
            self._note(_key(job.trial, *what), total[1:])
        for what, total in left.items() if asked else ():
            sums = self._left.setdefault(_key(job.trial, *what), [0.0, 0.0, 0.0])
            more = total.stages, total.amount, total.amount_of_bytes
            sums[:] = [have + one for have, one in zip(sums, more, strict=True)]

    def take(self, index: int, job: Job, event: Event) -> None:
        """Takes in that a stage ended; of one that failed, what follows it is no longer left either."""
        if event["status"] == "done":
            amount, _ = _amounts(job.trial, event["stage"], event["unit"], event["machine"], job.dataset)
            self._note(_key(job.trial, event["stage"], event["backend"]), (event["seconds"], amount, 0, 0))
            self._close(index, job, tuple(event[name] for name in Stage._fields[:5]))
            return
        for one in list(self._open.get(index, ())):
            if follows(job.trial, event, *one):
                self._close(index, job, one)

    def drop(self, index: int, job: Job) -> None:
        """Nothing more is done of a trial."""
        for one in list(self._open.get(index, ())):
            self._close(index, job, one)

    def epoch(self, job: Job, unit: str, seconds: float) -> None:
        """Takes in how long an epoch of a training that still runs took."""
        amount, _ = _amounts(job.trial, "train", unit, None, job.dataset)
        values = (seconds, amount / job.trial.system.train.epochs, 0, 0)
        self._note(_key(job.trial, "train", None), values)

    def left(self) -> Left:
        """The estimate as of now."""
        train = tasks = size = 0.0
        unknown = trainings = 0
        for key, (n, amount, amount_of_bytes) in self._left.items():
            rate = self._rate(key)
            if rate is None:
                unknown += round(n)
                trainings += round(n) if key[0] == "train" else 0
                continue
            per_second, per_byte = rate
            if key[0] == "train":
                train += amount * per_second
            else:
                tasks += amount * per_second
            size += amount_of_bytes * per_byte * self._share.get(key[0], 1.0)
        without = 0
        for coming in self.come:
            if (costs := self._costs(coming)) is None:
                without += coming.systems
            else:
                train, tasks, size = train + costs[0], tasks + costs[1], size + costs[2]
        return Left(train, tasks, size, unknown, trainings, without)

    def _costs(self, coming: Coming) -> tuple[float, float, float] | None:
        """Seconds of training and of the rest, and bytes; None where nothing like it is finished."""
        train = tasks = size = 0.0
        for dcase, each in coming.trials.items():
            known = [year for recipe, year in self._shapes if recipe == coming.recipe]
            years = [dcase] if dcase in known else known
            trials = sum(self._trials[coming.recipe, year] for year in years)
            if not trials:
                return None
            n = coming.systems * each / trials
            for year in years:
                for (stage, backend), (amount, amount_of_bytes) in self._shapes[coming.recipe, year].items():
                    rate = self._rate((stage, backend, coming.recipe, "", dcase))
                    if rate is None and stage in ("train", "extract"):
                        return None
                    per_second, per_byte = rate or (0.0, 0.0)
                    if stage == "train":
                        train += n * amount * per_second
                    else:
                        tasks += n * amount * per_second
                    size += n * amount_of_bytes * per_byte * self._share.get(stage, 1.0)
        return train, tasks, size

    def _close(self, index: int, job: Job, one: tuple) -> None:
        """Takes a stage out of what is left, once."""
        there = self._open.get(index, set())
        if one not in there:
            return  # it ended before, or was never asked for
        there.discard(one)
        stage, unit, machine, _, backend = one
        key = _key(job.trial, stage, backend)
        for i, amount in enumerate((1.0, *_amounts(job.trial, stage, unit, machine, job.dataset))):
            self._left[key][i] -= amount
        if round(self._left[key][0]) == 0:
            del self._left[key]

    def _note(self, key: Key, values: Sequence[float]) -> None:
        for level in _levels(key):
            sums = self._rates.setdefault(level, array("d", (0.0, 0.0, 0.0, 0.0)))
            for i, value in enumerate(values):
                sums[i] += value

    def _rate(self, key: Key) -> tuple[float, float] | None:
        """Seconds per amount and bytes per amount, at the nearest level that has them."""
        seconds = size = None
        for level in _levels(key):
            sums = self._rates.get(level)
            if sums and seconds is None and sums[1]:
                seconds = sums[0] / sums[1]
            if sums and size is None and sums[3]:
                size = sums[2] / sums[3]
        return None if seconds is None else (seconds, size or 0.0)


def work_of(jobs: Iterable[tuple[Job, Standing]]) -> Work:
    """The work of all these trials."""
    work = Work()
    for index, (job, stands) in enumerate(jobs):
        work.add(index, job, stands)
    return work


def _key(trial: Trial, stage: str, backend: str | None) -> Key:
    return stage, backend, trial.recipe, trial.system_name, trial.dcase


def _levels(key: Key) -> Iterator[tuple]:
    """What a rate is looked up by, the nearest first."""
    stage, backend, recipe, system, dcase = key
    what = (stage, backend)
    yield from ((*what, system, dcase), (*what, system), (*what, "of", recipe, dcase), (*what, "of", recipe))
    if stage not in ("train", "extract"):
        yield what


def _amounts(
    trial: Trial, stage: str, unit: str | None, machine: str | None, dataset: Dataset
) -> tuple[float, float]:
    """What a stage's seconds, and its bytes, are in proportion to."""
    if stage == "table":
        return 1.0, 1.0
    if stage == "train":
        machines = next(u.machines for u in trial.units if u.name == unit)
        clips = sum(dataset.machines[m].count(split="train") for m in machines)
        return float(max(1, clips) * trial.system.train.epochs), 1.0
    assert machine
    data = dataset.machines[machine]
    clips = data.count(split="test") + (0 if stage == "evaluate" else data.count(split="train"))
    return float(max(1, clips)), float(max(1, clips))


def follows(
    trial: Trial,
    event: Event,
    stage: str,
    unit: str | None,
    machine: str | None,
    ckpt: str | None,
    backend: str | None,
) -> bool:
    """Whether a stage is the one of ``event``, or cannot be done without it."""
    if event["stage"] == "train":
        own = unit is not None and event["unit"] in (unit, None)
        return own or (machine is not None and event["unit"] in (trial.unit_of(machine).name, None))
    if (machine, ckpt) != (event["machine"], event["checkpoint"]):
        return False
    return event["stage"] == "extract" or (stage, backend) == (event["stage"], event["backend"])
