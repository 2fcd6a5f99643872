"""A search from the driver's side: the systems to run next, and the outcomes of trials.

The driver asks for trials as soon as a training can start, and reports the end of each. A sample (a
suggested system) has an outcome after the end of all of its trials. Nothing is kept here: the studies
remember everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.store import Places
from asdray.sweep.estimate import UpcomingSystems
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job, Part
from asdray.sweep.objective import ANY
from asdray.sweep.study import Sample, Studies


def read_studies(sweep: Sweep, places: Places, write: bool = False) -> Studies:
    """The studies of a sweep; with ``write`` missing ones are created, under the sweep's lease."""
    datasets = {dcase: load_dataset(places.data, dcase) for dcase in sweep.years}
    return Studies(sweep, places, datasets, f"sweep {sweep.name}", write=write)


def known_jobs(studies: Studies) -> tuple[Job, ...]:
    """The trials of all systems suggested so far, then the confirming trials of the chosen systems.

    A frontend without randomness has a single trial per year, for the search and the confirmation.
    """
    jobs = [
        _job(studies, trial, sample, "search")
        for sample in studies.systems()
        for trial in studies.trials(sample)
    ] + [
        _job(studies, trial, sample, "confirm")
        for sample in studies.chosen()
        for trial in studies.confirming(sample)
    ]
    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        first.setdefault((job.trial.recipe, job.trial.name), job)
    return tuple(first.values())


def _job(studies: Studies, trial: Trial, sample: Sample, part: Part) -> Job:
    backends = trial.backends(studies.sweep.backends)
    return Job(trial, sample.swept, studies.datasets[trial.dcase], backends, part, sample.number)


def stopped_trials(studies: Studies, jobs: Sequence[Job]) -> set[str]:
    """The names of the trials of systems stopped by a scheduler."""
    stopped = {(s.recipe, s.number) for s in studies.samples if s.state == "stopped"}
    return {j.trial.name for j in jobs if j.part == "search" and (j.trial.recipe, j.sample) in stopped}


def upcoming_systems(studies: Studies) -> list[UpcomingSystems]:
    """The systems still to be suggested, and the systems still to be confirmed."""
    sweep = studies.sweep
    upcoming = []
    for base in studies.bases:
        one_seed = base.system.frontend.has_one_seed
        if (systems := studies.left(base)) > 0:
            trials = len(sweep.dcase) * (1 if one_seed else len(sweep.seeds))
            upcoming.append(UpcomingSystems("search", base.recipe, systems, trials))
        if sweep.confirm is not None and not studies.complete:
            # With one trial per year for all seeds, only years that the search does not have are new.
            years = [y for y in sweep.board_years if not (one_seed and y in sweep.dcase)]
            trials = len(years) * (1 if one_seed else len(sweep.confirm.seeds))
            systems = min(sweep.confirm.top_k, sweep.search.num_samples or 1 if base.axes else 1)
            if trials:
                upcoming.append(UpcomingSystems("confirm", base.recipe, systems, trials))
    return upcoming


def outlook(studies: Studies) -> list[str]:
    """Lines of a dry run on the search as a whole: known and upcoming systems, scheduler, confirmation."""
    sweep = studies.sweep
    states = [s.state for s in studies.samples]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("done", "stopped", "failed", "open") if s in states)
    replicates = len(sweep.dcase) * len(sweep.seeds)
    lines = [
        f"search by {studies.objective.metric}: {len(states)} systems suggested"
        f"{f' ({counts})' if counts else ''}, {studies.to_ask} to come, each with {replicates} trials"
    ]
    if sweep.scheduler is not None:
        lines.append(f"{sweep.scheduler.name} stops trainings early, by their training loss")
    if sweep.confirm is not None:
        top = sweep.confirm.top_k * len(sweep.recipes)
        each = len(sweep.confirm.seeds) * len(sweep.board_years)
        when = "chosen" if studies.complete else "to be chosen when the search is over"
        lines.append(f"confirmation: the best {top} systems ({when}), each with {each} trials of fresh seeds")
    return lines


@dataclass
class _RunningSample:
    """A sample whose trials run.

    Attributes:
        waiting: indices of the unfinished trials.
        values: backend -> value of the objective, a mapping per ended trial.
        stopped: True if a scheduler stopped a trial.
        reason: of the first failure.
    """

    sample: Sample
    waiting: set[int]
    values: list[Mapping[str, float | None]] = field(default_factory=list)
    stopped: bool = False
    reason: str | None = None


class SearchRun:
    """A running search."""

    def __init__(self, studies: Studies) -> None:
        self.studies = studies
        self._resumed = deque(s for s in studies.samples if s.state == "open")
        self._running: dict[str, _RunningSample] = {}
        self._confirmed = bool(studies.chosen())
        self._samples = {(s.recipe, s.number): s for s in studies.samples}

    def sample_of(self, job: Job) -> Sample | None:
        """The sample of a trial; None for a confirming trial."""
        if job.part != "search" or job.sample is None:
            return None
        return self._samples[job.trial.recipe, job.sample]

    def sample_state(self, job: Job) -> str | None:
        """The state of a trial's sample; None for a confirming trial."""
        sample = self.sample_of(job)
        return sample.state if sample else None

    @property
    def exhausted(self) -> bool:
        """True once the search adds no further trials: samples have outcomes, the confirmation has trials."""
        return self.studies.complete and (self._confirmed or not self.studies.chosen())

    @property
    def upcoming(self) -> list[UpcomingSystems]:
        """The systems still to be suggested, and the systems still to be confirmed."""
        return upcoming_systems(self.studies)

    def is_given_up(self, job: Job) -> bool:
        """True for a trial of a stopped or failed sample: such a trial is not continued."""
        return self.sample_state(job) in ("stopped", "failed")

    def open_trials(self, jobs: Sequence[Job]) -> set[int]:
        """Indices of the trials of open samples, to be returned by `next` later."""
        return {i for i, job in enumerate(jobs) if self.sample_state(job) == "open"}

    def next(
        self, busy: int, slots: int, jobs: Sequence[Job], add: Callable[[Job], int]
    ) -> list[tuple[int, Sample | None]]:
        """The trials to train now: index, and the sample to judge; None for a confirming trial.

        Args:
            busy: number of waiting and running trainings.
            slots: largest number of simultaneous trainings.
            jobs: the trials of the driver; ``add`` appends a trial and returns the index.

        Raises:
            ValueError: the sampler cannot suggest values for an axis of the space.
        """
        chosen: list[tuple[int, Sample | None]] = []
        while self._has_room(busy + len(chosen), slots):
            sample = self._next_sample()
            if sample is None:
                break
            # A sample of the same system gets its outcome without trials of its own.
            twin = any(running.sample.is_same_system(sample) for running in self._running.values())
            if sample.state == "open" and sample.system is not None and not twin:
                chosen += self._begin(sample, jobs, add)
        if self.studies.complete and not self._confirmed:
            self._confirmed = True
            known = {job.trial.name for job in jobs}  # with one trial for all seeds
            for sample in self.studies.chosen():
                trials = (trial for trial in self.studies.confirming(sample) if trial.name not in known)
                chosen += [(add(_job(self.studies, trial, sample, "confirm")), None) for trial in trials]
        return chosen

    def _has_room(self, busy: int, slots: int) -> bool:
        limit = self.studies.sweep.search.max_concurrent
        return len(self._running) < limit if limit else busy < slots

    def _next_sample(self) -> Sample | None:
        if self._resumed:
            return self._resumed.popleft()
        if not self.studies.to_ask:
            return None
        sample = self.studies.ask()
        self._samples[sample.recipe, sample.number] = sample
        return sample

    def _begin(
        self, sample: Sample, jobs: Sequence[Job], add: Callable[[Job], int]
    ) -> list[tuple[int, Sample | None]]:
        known = {
            job.trial.name: i
            for i, job in enumerate(jobs)
            if (job.part, job.trial.recipe) == ("search", sample.recipe)
        }
        chosen: list[tuple[int, Sample | None]] = []
        for trial in self.studies.trials(sample):
            if (index := known.get(trial.name)) is None:
                index = add(_job(self.studies, trial, sample, "search"))
            chosen.append((index, sample))
        self._running[sample.name] = _RunningSample(sample, {index for index, _ in chosen})
        return chosen

    def ended(self, index: int, verdict: Mapping[str, Any] | None, stopped: bool) -> Sample | None:
        """Records the end of a judged trial; returns the sample after the end of the last trial.

        Args:
            verdict: `asdray.sweep.training_worker.Judge.verdict`; None for a failed training.
            stopped: True if a scheduler stopped the training.
        """
        running = next(one for one in self._running.values() if index in one.waiting)
        running.waiting.discard(index)
        if stopped:
            running.stopped = True
        elif verdict is None:
            running.reason = running.reason or "a training failed"
        else:
            running.reason = running.reason or verdict["reason"]
            running.values.append(verdict["values"])
        if running.waiting:
            return None
        sample = running.sample
        del self._running[sample.name]
        objective = self.studies.objective
        if running.reason:
            self.studies.tell(sample, "failed", reason=running.reason)
        elif running.stopped:
            self.studies.tell(sample, "stopped")
        elif (best := best_mean(running.values, objective.maximize)) is None:
            self.studies.tell(sample, "failed", reason=f"{objective.metric} has no value")
        else:
            self.studies.tell(sample, "done", best[1], best[0])
        return sample

    def outcome_line(self, sample: Sample) -> str:
        """A line for the screen on the outcome of a sample."""
        outcome = {
            "done": f"{self.studies.objective.metric} {sample.value}",
            "stopped": "stopped by the scheduler",
            "failed": f"failed: {sample.reason}",
        }[sample.state]
        by = f" ({sample.backend})" if sample.backend not in (None, ANY) else ""
        options = ", ".join(f"{path} {value}" for path, value in sample.swept.items())
        n = sum(s.state != "open" for s in self.studies.samples)
        total = len(self.studies.samples) + self.studies.to_ask
        return f"{sample.name} ({options}): {outcome}{by}; {n} of {total} systems"


def open_search(
    sweep: Sweep,
    places: Places,
    failures: Mapping[tuple, Event] = MappingProxyType({}),
    retry_failed: bool = False,
) -> tuple[SearchRun, tuple[Job, ...]]:
    """A search to start or continue, under the sweep's lease, and the known trials.

    A failed sample is opened again if stages are missing and none would fail again, as after a lost worker
    or a full disk.

    Args:
        failures: `asdray.sweep.events.EventLog.lasting`.
        retry_failed: True to open all failed samples with a valid system again.
    """
    studies = read_studies(sweep, places, write=True)
    jobs = known_jobs(studies)
    for sample in studies.systems():
        if sample.state == "failed":
            key = ("search", sample.recipe, sample.number)
            own = [job for job in jobs if (job.part, job.trial.recipe, job.sample) == key]
            missing = [job.remaining(sweep, places, failures) for job in own]
            would_help = any(m.runs for m in missing) and not any(m.failed for m in missing)
            if retry_failed or would_help:
                studies.reopen(sample)
    return SearchRun(studies), known_jobs(studies)


def best_mean(replicates: Sequence[Mapping[str, float | None]], maximize: bool) -> tuple[str, float] | None:
    """The backend with the best mean over all trials of a system, and the mean; None without a complete
    backend.

    >>> best_mean([{"knn": 0.5, "gmm": 0.9}, {"knn": 0.75, "gmm": None}], maximize=True)
    ('knn', 0.625)

    Args:
        replicates: backend -> value, a mapping per trial.
    """
    means: dict[str, float] = {}
    for backend in replicates[0]:
        known = [v for values in replicates if (v := values.get(backend)) is not None]
        if len(known) == len(replicates):
            means[backend] = sum(known) / len(known)
    if not means:
        return None
    backend = (max if maximize else min)(means, key=lambda name: means[name])
    return backend, means[backend]
