"""What a search wants to be run next, and what the driver tells it; lives in the driver's main thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.store import Places
from asdray.sweep.estimate import UpcomingSystems
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job, Part
from asdray.sweep.objective import ANY
from asdray.sweep.study import Sample, Studies


def known_jobs(studies: Studies, datasets: Mapping[str, Dataset]) -> tuple[Job, ...]:
    """The trials of all systems that were suggested so far, and of those that are to be confirmed.

    A frontend of which all seeds give the same has one trial a year, which is both.
    """
    asked = studies.sweep.backends
    found: dict[tuple[str, str], Job] = {}
    parts: tuple[tuple[Part, list[Sample], Callable[[Sample], list[Trial]]], ...] = (
        ("search", studies.systems(), studies.trials),
        ("confirm", studies.chosen(), studies.confirming),
    )
    for part, samples, trials in parts:
        for sample in samples:
            for trial in trials(sample):
                backends = trial.backends(asked)
                job = Job(trial, sample.swept, datasets[trial.dcase], backends, part, sample.number)
                found.setdefault((trial.recipe, trial.name), job)
    return tuple(found.values())


def to_come(studies: Studies) -> list[UpcomingSystems]:
    """The systems that a search is still to come to, those that it will confirm among them."""
    sweep = studies.sweep
    found = []
    for base in studies.bases:
        one_seed = base.system.frontend.has_one_seed
        if (n := studies.left(base)) > 0:
            seeds = 1 if one_seed else len(sweep.seeds)
            found.append(UpcomingSystems("search", base.recipe, n, seeds * len(sweep.dcase)))
        if sweep.confirm is not None and not studies.over:
            # A trial that all seeds share is the search's own already.
            years = [y for y in sweep.board_years if not (one_seed and y in sweep.dcase)]
            trials = len(years) * (1 if one_seed else len(sweep.confirm.seeds))
            best = min(sweep.confirm.top_k, sweep.search.num_samples or 1 if base.axes else 1)
            if trials:
                found.append(UpcomingSystems("confirm", base.recipe, best, trials))
    return found


def outlook(studies: Studies) -> list[str]:
    """What a dry run says of a search besides the trials that are known."""
    sweep = studies.sweep
    states = [s.state for s in studies.samples]
    told = ", ".join(f"{states.count(s)} {s}" for s in ("done", "stopped", "failed", "open") if s in states)
    replicates = len(sweep.dcase) * len(sweep.seeds)
    objective = sweep.search.objective
    assert objective is not None
    lines = [
        f"search by {objective.metric}: {len(states)} systems suggested{f' ({told})' if told else ''}, "
        f"{studies.to_ask} to come, each with {replicates} trials"
    ]
    if sweep.scheduler is not None:
        lines.append(f"{sweep.scheduler.name} stops trainings early, by their training loss")
    if sweep.confirm is not None:
        top = sweep.confirm.top_k * len(sweep.recipes)
        each = len(sweep.confirm.seeds) * len(sweep.board_years)
        when = "chosen" if studies.over else "to be chosen when the search is over"
        lines.append(f"confirmation: the best {top} systems ({when}), each with {each} trials of fresh seeds")
    return lines


@dataclass
class _Open:
    """A sample whose trials run: which of them have not ended, and what the others gave."""

    sample: Sample
    waiting: set[int]
    values: list[Mapping[str, float | None]] = field(default_factory=list)
    stopped: bool = False
    reason: str | None = None


class Searching:
    """One run's view of a search.

    Args:
        datasets: of all years.
    """

    def __init__(self, studies: Studies, datasets: Mapping[str, Dataset]) -> None:
        self.studies = studies
        self._sweep = studies.sweep
        self._datasets = datasets
        self._resumed = deque(s for s in studies.samples if s.state == "open")
        self._open: dict[str, _Open] = {}
        self._confirmed = bool(studies.chosen())
        self._samples = {(s.recipe, s.number): s for s in studies.samples}

    def sample_of(self, job: Job) -> Sample | None:
        """The sample that a job belongs to; None of one that confirms."""
        if job.part != "search" or job.sample is None:
            return None
        return self._samples[job.trial.recipe, job.sample]

    def state_of(self, job: Job) -> str | None:
        """How a job's sample stands."""
        sample = self.sample_of(job)
        return sample.state if sample else None

    @property
    def over(self) -> bool:
        """Whether there is nothing more to ask for: all samples told, confirmation under way."""
        return self.studies.over and (self._confirmed or not self.studies.chosen())

    @property
    def to_come(self) -> list[UpcomingSystems]:
        """The systems that it is still to come to."""
        return to_come(self.studies)

    def rests(self, job: Job) -> bool:
        """Whether a job is not gone on with: its sample was stopped, or failed."""
        return self.state_of(job) in ("stopped", "failed")

    def held(self, jobs: Sequence[Job]) -> set[int]:
        """The jobs that `next` will come to, since their sample is open."""
        return {i for i, job in enumerate(jobs) if self.state_of(job) == "open"}

    def next(
        self, busy: int, slots: int, jobs: Sequence[Job], add: Callable[[Job], int]
    ) -> list[tuple[int, Sample | None]]:
        """What to train now: indices of jobs, with the sample by which each is judged.

        Args:
            busy: trainings that wait or run.
            slots: how many can run at once.
            jobs: the driver's; ``add`` appends one and gives its index.
        """
        found: list[tuple[int, Sample | None]] = []
        while self._has_room(busy + len(found), slots):
            sample = self._pop()
            if sample is None:
                break
            # One that is the same system is told with it, however its options are spelled.
            twin = any(o.sample.is_same_system(sample) for o in self._open.values())
            if sample.state == "open" and sample.system is not None and not twin:
                found += self._begin(sample, jobs, add)
        if self.studies.over and not self._confirmed:
            self._confirmed = True
            known = {job.trial.name for job in jobs}
            for sample in self.studies.chosen():
                for trial in self.studies.confirming(sample):
                    if trial.name in known:  # all seeds give the same
                        continue
                    found.append((add(self._job(trial, sample, "confirm")), None))
        return found

    def _has_room(self, busy: int, slots: int) -> bool:
        limit = self._sweep.search.max_concurrent
        return len(self._open) < limit if limit else busy < slots

    def _pop(self) -> Sample | None:
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
        indices = {
            job.trial.name: i
            for i, job in enumerate(jobs)
            if (job.part, job.trial.recipe) == ("search", sample.recipe)
        }
        found: list[tuple[int, Sample | None]] = []
        for trial in self.studies.trials(sample):
            index = indices.get(trial.name)
            if index is None:
                index = add(self._job(trial, sample, "search"))
            found.append((index, sample))
        self._open[sample.name] = _Open(sample, {index for index, _ in found})
        return found

    def _job(self, trial: Trial, sample: Sample, part: Part) -> Job:
        backends = trial.backends(self._sweep.backends)
        return Job(trial, sample.swept, self._datasets[trial.dcase], backends, part, sample.number)

    def ended(self, index: int, verdict: Mapping[str, Any] | None, stopped: bool) -> Sample | None:
        """A trial under judgement has ended; returns its sample once all of its trials have.

        Args:
            verdict: `asdray.sweep.training.Judge.verdict`; None where training failed.
            stopped: by a scheduler.
        """
        one = next(o for o in self._open.values() if index in o.waiting)
        one.waiting.discard(index)
        if stopped:
            one.stopped = True
        elif verdict is None:
            one.reason = one.reason or "a training failed"
        else:
            one.reason = one.reason or verdict["reason"]
            one.values.append(verdict["values"])
        if one.waiting:
            return None
        del self._open[one.sample.name]
        if one.reason:
            self.studies.tell(one.sample, "failed", reason=one.reason)
        elif one.stopped:
            self.studies.tell(one.sample, "stopped")
        else:
            objective = self._sweep.search.objective
            assert objective is not None
            best = best_mean(one.values, objective.maximize)
            if best is None:
                self.studies.tell(one.sample, "failed", reason=f"{objective.metric} has no value")
            else:
                self.studies.tell(one.sample, "done", best[1], best[0])
        return one.sample

    def told(self, sample: Sample) -> str:
        """One line for the screen on what came of a sample."""
        objective = self._sweep.search.objective
        assert objective is not None
        what = {
            "done": f"{objective.metric} {sample.value}",
            "stopped": "stopped by the scheduler",
            "failed": f"failed: {sample.reason}",
        }[sample.state]
        by = f" ({sample.backend})" if sample.backend not in (None, ANY) else ""
        options = ", ".join(f"{path} {value}" for path, value in sample.swept.items())
        n = sum(s.state != "open" for s in self.studies.samples)
        of = len(self.studies.samples) + self.studies.to_ask
        return f"{sample.name} ({options}): {what}{by}; {n} of {of} systems"


def read_studies(sweep: Sweep, places: Places) -> tuple[Studies, dict[str, Dataset]]:
    """The studies of a sweep as they are, and the datasets of its years; writes nothing."""
    datasets = {dcase: load_dataset(places.data, dcase) for dcase in sweep.years}
    return Studies(sweep, places, datasets, f"sweep {sweep.name}", write=False), datasets


def stopped_trials(studies: Studies, jobs: Sequence[Job]) -> set[str]:
    """The names of those trials of a search whose sample a scheduler stopped."""
    stopped = {(s.recipe, s.number) for s in studies.samples if s.state == "stopped"}
    return {j.trial.name for j in jobs if j.part == "search" and (j.trial.recipe, j.sample) in stopped}


def open_search(
    sweep: Sweep,
    places: Places,
    failures: Mapping[tuple, Event] = MappingProxyType({}),
    retry_failed: bool = False,
) -> tuple[Searching, tuple[Job, ...]]:
    """A search to go on with, under the sweep's lease, and the jobs that are known of it.

    A failed sample is tried again where something of its trials is left and none of it would fail again: a
    worker was lost, a disk was full.

    Args:
        failures: what would fail again, `asdray.sweep.events.EventLog.lasting`.
        retry_failed: whether all that failed and make a system are tried again.
    """
    datasets = {dcase: load_dataset(places.data, dcase) for dcase in sweep.years}
    studies = Studies(sweep, places, datasets, f"sweep {sweep.name}", write=True)
    jobs = known_jobs(studies, datasets)
    for sample in studies.systems():
        if sample.state == "failed":
            key = ("search", sample.recipe, sample.number)
            own = [job for job in jobs if (job.part, job.trial.recipe, job.sample) == key]
            missing = [job.missing(sweep, places, failures) for job in own]
            would_help = any(m.runs for m in missing) and not any(m.failed for m in missing)
            if retry_failed or would_help:
                studies.reopen(sample)
    return Searching(studies, datasets), known_jobs(studies, datasets)


def best_mean(replicates: Sequence[Mapping[str, float | None]], maximize: bool) -> tuple[str, float] | None:
    """The backend with the best mean over all replicates, and that mean; null if none has all its values."""
    means: dict[str, float] = {}
    for backend in replicates[0]:
        known = [v for values in replicates if (v := values.get(backend)) is not None]
        if len(known) == len(replicates):
            means[backend] = sum(known) / len(known)
    if not means:
        return None
    choose = max if maximize else min
    backend = choose(means, key=lambda name: means[name])
    return backend, means[backend]
