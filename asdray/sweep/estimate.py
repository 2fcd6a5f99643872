"""Estimates of the remaining time and disk space of a sweep.

The seconds of a stage are taken to be proportional to the work: clips times epochs for a training, clips for
extraction, scoring, evaluation and UMAP, 1 for a table. The bytes are proportional to the space: clips, but
1 for trainings and tables. The rates (seconds per work, bytes per space) are means over the finished stages
of the same kind and recipe. Scoring, evaluation, UMAP and tables of a recipe without a finished stage take
the mean over all recipes; trainings and extractions have no estimate then. Disk space counts only outputs
left by ``keep`` in the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.stages.steps import Step
from asdray.sweep.events import Event

StepKey = tuple[str, str | None, str | None, str | None, str | None]
"""Stage, unit, machine, checkpoint and backend, see `Step.key`."""

RECIPES_DIFFER = ("train", "extract")
"""Stages whose rate says nothing about other recipes: their networks differ."""


@dataclass(slots=True)
class StageSum:
    """Sum over steps of one stage.

    Attributes:
        stages: number of steps.
        work: amount proportional to the seconds.
        space: amount proportional to the bytes.
        seconds: total duration, 0 for incomplete steps.
        bytes: total size of the outputs, 0 for incomplete steps.
    """

    stages: int = 0
    work: float = 0.0
    space: float = 0.0
    seconds: float = 0.0
    bytes: int = 0

    def add(self, other: StageSum, sign: int = 1) -> None:
        """Adds another sum, or subtracts with ``sign`` -1."""
        self.stages += sign * other.stages
        self.work += sign * other.work
        self.space += sign * other.space
        self.seconds += sign * other.seconds
        self.bytes += sign * other.bytes


def sum_stages(trial: Trial, dataset: Dataset, steps: Iterable[Step]) -> dict[str, StageSum]:
    """Stage -> sum over the given steps of a trial."""
    sums: dict[str, StageSum] = {}
    known: dict[tuple, tuple[float, float]] = {}  # several backends score the same clips
    for step in steps:
        place = step.stage, step.unit, step.machine
        if place not in known:
            known[place] = _work_and_space(trial, dataset, *place)
        seconds, size = (step.seconds, step.bytes) if step.complete else (0.0, 0)
        sums.setdefault(step.stage, StageSum()).add(StageSum(1, *known[place], seconds, size))
    return sums


class UpcomingSystems(NamedTuple):
    """Systems of a recipe still to be suggested or confirmed by a search."""

    part: Literal["search", "confirm"]
    recipe: str
    systems: int
    trials: int
    """Trials of each system."""


@dataclass
class Estimate:
    """Remaining time and disk space.

    Attributes:
        train_seconds: duration of all trainings, one after the other.
        task_seconds: duration of all other stages, one after the other.
        bytes: disk space.
        unknown_stages: steps without an estimate, trainings included; counted as 0 above.
        unknown_trainings: trainings without an estimate.
        unknown_systems: upcoming systems without an estimate; counted as 0 above.
    """

    train_seconds: float = 0.0
    task_seconds: float = 0.0
    bytes: float = 0.0
    unknown_stages: int = 0
    unknown_trainings: int = 0
    unknown_systems: int = 0

    def wall_seconds(self, trainings: float, tasks: float, cpus: float) -> float:
        """Duration with ``trainings`` at once beside ``tasks``, then ``cpus`` tasks at once.

        >>> Estimate(train_seconds=100, task_seconds=60).wall_seconds(trainings=2, tasks=1, cpus=2)
        55.0
        """
        training = self.train_seconds / trainings
        return training + max(0.0, self.task_seconds - training * tasks) / cpus


class Estimator:
    """Sums of finished and remaining work, updated as steps end.

    Args:
        kept: stage -> share of bytes left by ``keep`` in the end, 1 by default.

    Attributes:
        upcoming: systems that a search has not sampled yet, updated by the driver. A trial is expected
            to need the mean of the known trials of the recipe and not to be stopped early.
    """

    def __init__(self, kept: Mapping[str, float] = MappingProxyType({})) -> None:
        self.upcoming: Sequence[UpcomingSystems] = ()
        self._kept = kept
        self._done: defaultdict[tuple[str, str | None], StageSum] = defaultdict(StageSum)
        """(stage, recipe) and (stage, None for all recipes) -> finished steps, the source of the rates."""
        self._left: defaultdict[tuple[str, str], StageSum] = defaultdict(StageSum)
        self._all: defaultdict[tuple[str, str], StageSum] = defaultdict(StageSum)
        """(stage, recipe) -> all steps of the known trials, finished or not."""
        self._trials: Counter[str] = Counter()
        """Recipe -> number of known trials."""
        self._open: dict[int, tuple[Trial, Dataset, set[StepKey]]] = {}
        """Index of a trial -> trial, dataset, and keys of the remaining steps."""

    def add_trial(
        self, index: int, trial: Trial, dataset: Dataset, steps: Sequence[Step], asked: bool = True
    ) -> None:
        """Adds finished steps to the rates, and the others to the remaining work if ``asked``."""
        left = [step for step in steps if not step.complete]
        done = sum_stages(trial, dataset, (step for step in steps if step.complete))
        self.add_sums(trial.recipe, done, sum_stages(trial, dataset, left), asked)
        self._open[index] = (trial, dataset, {step.key for step in left} if asked else set())

    def add_sums(
        self,
        recipe: str,
        done: Mapping[str, StageSum],
        left: Mapping[str, StageSum],
        asked: bool = True,
        blocked: Mapping[str, StageSum] = MappingProxyType({}),
    ) -> None:
        """Adds a trial by sums over steps; no step can end afterwards.

        Args:
            blocked: sums over steps that failed before and over later steps, which are no remaining work.
        """
        self._trials[recipe] += 1
        for stage, total in (*done.items(), *left.items(), *blocked.items()):
            self._all[stage, recipe].add(total)
        for stage, total in done.items():
            self._add_rate(stage, recipe, total)
        for stage, total in left.items() if asked else ():
            self._left[stage, recipe].add(total)

    def epoch_ended(self, index: int, unit: str, seconds: float, epochs: int) -> None:
        """Adds an epoch of a running training of so many ``epochs`` to the rates."""
        trial, dataset, _ = self._open[index]
        work, _ = _work_and_space(trial, dataset, "train", unit, None)
        one_epoch = StageSum(1, work / epochs, 0.0, seconds)
        self._add_rate("train", trial.recipe, one_epoch)

    def stage_ended(self, index: int, event: Event) -> None:
        """Takes a step off the remaining work, after a failure also all later steps; updates the rates."""
        trial, dataset, steps = self._open[index]
        ended: StepKey = tuple(event[name] for name in Step._fields[:5])
        if event["status"] == "done":
            if ended in steps or not event["found"]:  # the rate of a reused stage is known from the start
                work, _ = _work_and_space(trial, dataset, *ended[:3])
                self._add_rate(ended[0], trial.recipe, StageSum(1, work, 0.0, event["seconds"]))
            self._close(index, {ended} & steps)
        else:
            self._close(index, {step for step in steps if depends_on(trial, step, event)})

    def trial_ended(self, index: int) -> None:
        """Takes all steps of a trial off the remaining work."""
        self._close(index, set(self._open[index][2]))

    def estimate(self) -> Estimate:
        """The estimate as of now."""
        found = Estimate()
        for (stage, recipe), total in self._left.items():
            if self._rates(stage, recipe) is None:
                found.unknown_stages += total.stages
                found.unknown_trainings += total.stages if stage == "train" else 0
            self._add_cost(found, stage, recipe, total)
        for upcoming in self.upcoming:
            recipe, trials = upcoming.recipe, self._trials[upcoming.recipe]
            known = {stage: total for (stage, of), total in self._all.items() if of == recipe}
            needed = [stage for stage in RECIPES_DIFFER if stage in known]
            if not trials or any(self._rates(stage, recipe) is None for stage in needed):
                found.unknown_systems += upcoming.systems
                continue
            for stage, total in known.items():
                self._add_cost(found, stage, recipe, total, upcoming.systems * upcoming.trials / trials)
        return found

    def _add_cost(
        self, found: Estimate, stage: str, recipe: str, total: StageSum, factor: float = 1.0
    ) -> None:
        seconds, size = self._rates(stage, recipe) or (0.0, 0.0)
        if stage == "train":
            found.train_seconds += factor * total.work * seconds
        else:
            found.task_seconds += factor * total.work * seconds
        found.bytes += factor * total.space * size * self._kept.get(stage, 1.0)

    def _close(self, index: int, ended: set[StepKey]) -> None:
        trial, dataset, steps = self._open[index]
        for step in ended:
            steps.discard(step)
            amount = StageSum(1, *_work_and_space(trial, dataset, *step[:3]))
            self._left[step[0], trial.recipe].add(amount, sign=-1)

    def _add_rate(self, stage: str, recipe: str, total: StageSum) -> None:
        self._done[stage, recipe].add(total)
        self._done[stage, None].add(total)

    def _rates(self, stage: str, recipe: str) -> tuple[float, float] | None:
        """Seconds per work and bytes per space; None without a finished step."""
        own = self._done.get((stage, recipe), StageSum())
        every = StageSum() if stage in RECIPES_DIFFER else self._done.get((stage, None), StageSum())
        timed, sized = own if own.work else every, own if own.space else every
        if not timed.work:
            return None
        return timed.seconds / timed.work, sized.bytes / sized.space if sized.space else 0.0


def _work_and_space(
    trial: Trial, dataset: Dataset, stage: str, unit: str | None, machine: str | None
) -> tuple[float, float]:
    """The amounts proportional to the seconds and to the bytes of a step."""
    if stage == "table":
        return 1.0, 1.0
    if stage == "train":
        machines = next(u.machines for u in trial.units if u.name == unit)
        clips = sum(dataset.machines[m].count(split="train") for m in machines)
        options = trial.system.train
        return float(options.steps or max(1, clips) * (options.epochs or 1)), 1.0
    assert machine
    data = dataset.machines[machine]
    clips = data.count(split="test") + (0 if stage == "evaluate" else data.count(split="train"))
    return float(max(1, clips)), float(max(1, clips))


def depends_on(trial: Trial, step: StepKey, event: Event) -> bool:
    """True if ``step`` is the step of ``event``, or needs the output of that step."""
    stage, unit, machine, checkpoint, backend = step
    if event["stage"] == "train":
        own_unit = unit or (trial.unit_of(machine).name if machine else None)
        return own_unit is not None and event["unit"] in (own_unit, None)
    if (machine, checkpoint) != (event["machine"], event["checkpoint"]):
        return False
    return event["stage"] == "extract" or (stage, backend) == (event["stage"], event["backend"])
