"""The state of a sweep from its files alone: ``asdray status`` and ``--dry-run``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from asdray import limits, store
from asdray.config.clustering import Clustering
from asdray.config.sweep import Need, Sweep
from asdray.config.trial import Unit, unit_title
from asdray.stages.made_by import Made, present_lines
from asdray.stages.steps import Snapshot, Step, TrialFiles
from asdray.store import Places, SweepDir
from asdray.sweep import progress
from asdray.sweep.estimate import Estimate, Estimator, depends_on, sum_stages
from asdray.sweep.events import Event, History, key_of
from asdray.sweep.jobs import Job, Remaining, event_at, is_complete, names_of, remaining
from asdray.sweep.keep import kept_shares
from asdray.sweep.outputs import changes, name_in
from asdray.sweep.progress import duration, failure_line, render, size
from asdray.sweep.search import outlook, read_studies, stopped_trials, upcoming_systems
from asdray.sweep.summaries import CompleteTrial, made_of, read_summary
from asdray.trial_folders import is_in_place

STALE_SECONDS = 60.0
"""A driver writes more often than that, unless it is held up."""

STEP_STATES = ("done", "failed", "stopped", "left")
"""States of steps, in the order on the screen."""

# ------------------------------------------------------------------------------------------- asdray status


def status(sweep: Sweep, jobs: Sequence[Job], places: Places, width: int = 200) -> RenderableType:
    """The run's state, the numbers of trials and stages by state, and every failure.

    Records tell which stages are done, events tell failures, and the driver's last snapshot tells which
    trials run.

    Args:
        width: of the screen.
    """
    folder = store.sweep_dir(places.results, sweep.name)
    snapshot = progress.read_snapshot(folder)
    alive = store.is_leased(folder)
    history = History(SweepDir(folder).events)
    running = set(snapshot["running"]) if alive and snapshot else set()
    trials: Counter[str] = Counter()
    stages: dict[str, Counter[str]] = {}
    failures: list[Event] = []
    makers: list[frozenset[Made]] = []
    given_up: set[str] = set()
    upcoming: list[str] = []
    names = names_of(jobs)
    if sweep.search.samples:
        studies = read_studies(sweep, places)
        given_up = stopped_trials(studies, jobs)
        upcoming = progress.upcoming_texts(progress.count_upcoming(upcoming_systems(studies)))
    for job in jobs:
        is_stopped = job.trial.name in given_up
        counts, failed, made = _count(job, sweep, places, history, "stopped" if is_stopped else "left")
        makers.append(made)
        for (stage, state), n in counts.items():
            stages.setdefault(stage, Counter())[state] += n
        failures += failed
        complete = all(state == "done" for _, state in counts)
        left = "stopped" if is_stopped else "waiting"
        is_running = job.trial.name in running
        trials["done" if complete else "running" if is_running else "failed" if failed else left] += 1
    counted = f"{_counts(trials, progress.STATES)} of {len(jobs)} trials"
    lines = [_headline(sweep.name, snapshot, alive), ", ".join([counted, *upcoming])]
    lines += [f"  {name:<9}{_counts(counts, STEP_STATES)}" for name, counts in stages.items()]
    lines += present_lines(makers, places.results)
    parts: list[RenderableType] = [Text(line) for line in lines]
    if alive and snapshot:
        parts += [Text(""), render(snapshot, width)]
    if failures:
        parts += [Text(""), Text("failed (a run tries again what may help; --retry-failed everything):")]
        parts += [Text(f"  {failure_line(event, names)}") for event in failures]
    return Group(*parts)


def _count(
    job: Job, sweep: Sweep, places: Places, history: History, left: str
) -> tuple[Counter[tuple[str, str]], list[Event], frozenset[Made]]:
    """(stage, state) -> number of steps, the last failure of every failed step, and what made the others.

    Args:
        left: the state of steps that are neither done nor failed.
    """
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[Event] = []
    if (complete := read_summary(job, sweep, places)) is not None:
        states = Counter({(stage, "done"): total.stages for stage, total in complete.sums.items()})
        return states, failures, complete.made
    steps = job.steps(sweep, places)
    for step in steps:
        failure = None if step.complete else history.failed.get(key_of(event_at(job.trial, step))[:-1])
        failures += [failure] if failure else []
        counts[step.stage, "done" if step.complete else "failed" if failure else left] += 1
    return counts, failures, made_of(steps)


def _counts(counts: Counter[str], names: Sequence[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "none"


def sweeps(results: Path) -> list[str]:
    """A line per sweep below ``results``: its state, and the numbers of trials of its last run.

    A copy of a sweep's folder is left out with a note.
    """
    lines = []
    for folder in store.sweep_dirs(results):
        name = name_in(folder)
        if name is not None and not is_in_place(folder, (name,), SweepDir(folder).spec.name):
            continue
        snapshot = progress.read_snapshot(folder)
        state = _headline(folder.name, snapshot, store.is_leased(folder))
        counts = Counter(snapshot["trials"] if snapshot else {})
        found = f"; {_counts(counts, progress.STATES)} of {sum(counts.values())} trials" if counts else ""
        lines.append(state + found)
    return lines or [f"there is no sweep in {results}"]


def _headline(name: str, snapshot: dict[str, Any] | None, alive: bool) -> str:
    if snapshot is None:
        return f"sweep {name}: {'starting' if alive else 'has not been run'}"
    who = f"process {snapshot['pid']} on {snapshot['host']}"
    if alive:
        text = f"sweep {name}: running since {snapshot['started']} ({who})"
        if snapshot["dashboard"]:
            text += f"; Ray dashboard {snapshot['dashboard']}"
        age = progress.snapshot_age(snapshot)
        return text if age < STALE_SECONDS else f"{text}; has not been heard of for {progress.duration(age)}"
    ends = {"ended": "ended", "stopped": "was stopped", "failed": "failed"}
    end = ends.get(snapshot["state"], "was killed, and last heard of")
    return f"sweep {name}: not running; it {end} at {snapshot['updated']} ({who})"


# ----------------------------------------------------------------------------------------------- --dry-run


@dataclass(frozen=True)
class _Planned:
    """A trial as ``--dry-run`` finds it.

    Attributes:
        summary: the summary of a complete trial, which then has no ``steps`` here.
        given_up: True for an incomplete trial whose system a scheduler stopped.
    """

    job: Job
    summary: CompleteTrial | None
    steps: Sequence[Step]
    left: Remaining
    given_up: bool

    @classmethod
    def of(
        cls, job: Job, sweep: Sweep, places: Places, failures: Mapping[tuple, Event], stopped: bool
    ) -> _Planned:
        """Reads the files of a trial."""
        summary = read_summary(job, sweep, places)
        steps = [] if summary is not None else job.steps(sweep, places)
        left = remaining(job.trial, steps, failures)
        return cls(job, summary, steps, left, stopped and not is_complete(steps))

    def counts(self) -> Counter[str]:
        """Numbers for the totals of the plan."""
        left = self.left
        if self.given_up:
            return Counter(trials=1)
        return Counter(
            trials=1,
            done=is_complete(self.steps),
            with_work=left.runs,
            failed=bool(left.failed),
            trainings=len(left.units),
            machines=len(left.machines),
            umaps=len(left.umaps),
            rebuilt=left.rebuilt.total(),
        )

    @property
    def made(self) -> frozenset[Made]:
        """What made the complete steps."""
        return made_of(self.steps) if self.summary is None else self.summary.made

    def add_to(self, estimator: Estimator, asked: bool) -> None:
        """Adds the trial to the estimate: by its steps, or by the summary of a complete trial."""
        job = self.job
        if self.summary is not None:
            estimator.add_sums(job.trial.recipe, self.summary.sums, {}, asked)
            return
        missing = [step for step in self.steps if not step.complete]
        failed = [s for s in missing if any(depends_on(job.trial, s.key, e) for e in self.left.failed)]
        kinds = (
            [step for step in self.steps if step.complete],
            [step for step in missing if step not in failed],
            failed,
        )
        done, open_, blocked = (sum_stages(job.trial, job.dataset, kind) for kind in kinds)
        estimator.add_sums(job.trial.recipe, done, open_, asked and not self.given_up, blocked)

    def text(self) -> str:
        """The state, such as ``waiting: train fan, score 2 machines, umap 2, table``."""
        if self.given_up:
            return "stopped by the scheduler"
        if is_complete(self.steps):
            return "done"
        left, rebuilt = self.left, self.left.rebuilt
        parts = [f"train {unit_title(unit.name)}" for unit in left.units]
        parts += [f"{rebuilt['train']} of these rebuilt (checkpoint pruned)"] if rebuilt["train"] else []
        parts += [f"extract {rebuilt['extract']} machines again (pruned)"] if rebuilt["extract"] else []
        parts += [f"score {len(left.machines)} machines"] if left.machines else []
        parts += [f"umap {len(left.umaps)}"] if left.umaps else []
        parts += ["table"] if left.table and (left.runs or not left.failed) else []
        for event in left.failed:
            place = event["machine"] or unit_title(event["unit"] or "")
            parts.append(f"failed before: {event['stage']}{f' {place}' if place else ''}")
        begun = any(step.complete for step in self.steps)
        state = "failed" if left.failed else "begun" if begun else "waiting"
        return f"{state}: {', '.join(parts)}"


def plan_lines(
    sweep: Sweep,
    jobs: Sequence[Job],
    places: Places,
    only: Callable[[Job], bool] = lambda job: True,
    retry_failed: bool = False,
) -> list[str]:
    """Changes since the last run, every trial with its remaining work, the totals, and an estimate.

    Args:
        only: the trials that are asked for; the other trials serve the estimate alone.
        retry_failed: True if failed steps are tried again.
    """
    folder = store.sweep_dir(places.results, sweep.name)
    lines = changes(sweep, jobs, folder)
    failures = {} if retry_failed else History(SweepDir(folder).events).lasting
    estimator = Estimator(kept_shares(sweep, jobs))
    search_lines: list[str] = []
    stopped: set[str] = set()
    if sweep.search.samples:
        studies = read_studies(sweep, places)
        stopped = stopped_trials(studies, jobs)
        estimator.upcoming = upcoming_systems(studies)
        search_lines = outlook(studies)
    totals: Counter[str] = Counter()
    sources: dict[tuple[str, ...], _Source] = {}
    makers: list[frozenset[Made]] = []
    threads = 1
    for job in jobs:
        planned = _Planned.of(job, sweep, places, failures, job.trial.name in stopped)
        planned.add_to(estimator, only(job))
        if only(job):
            totals += planned.counts()
            makers.append(planned.made)
            lines.append(f"{job.trial.title}: {planned.text()}")
            if planned.left.units and not planned.given_up:
                sources |= _Source.each(job, planned.left.units, places)
                threads = max(threads, job.trial.system.train.threads)
    lines += [line for source in sources.values() for line in source.lines()]
    lines += [*_total_lines(totals), *search_lines, *present_lines(makers, places.results)]
    if totals["with_work"] or estimator.upcoming:
        lines.append(_estimate_line(estimator.estimate(), threads, sweep.resources.train))
    return lines


@dataclass(frozen=True)
class _Source:
    """A system whose embeddings of some machines are to be clustered before a training."""

    files: TrialFiles
    clustering: Clustering
    machines: tuple[str, ...]

    @classmethod
    def each(cls, job: Job, units: Iterable[Unit], places: Places) -> dict[tuple[str, ...], _Source]:
        """What is clustered before these trainings of a trial, by name of the source, clustering and unit."""
        clustering = job.trial.system.frontend.clustering
        found: dict[tuple[str, ...], _Source] = {}
        for unit in units if clustering else ():
            files = job.files(places).clustered(unit.machines)
            if files and clustering:
                key = files.trial.name, clustering.id, unit.name
                found[key] = cls(files, clustering, unit.machines)
        return found

    def lines(self) -> list[str]:
        """A line with the work that is missing; none without any."""
        snapshot, trial = Snapshot(self.files), self.files.trial
        left = [m for m in self.machines if not snapshot.cluster(m, self.clustering).complete]
        lacking = [m for m in left if snapshot.extract(m, "last").status != "done"]
        units = dict.fromkeys(map(trial.unit_of, lacking)) if trial.system.frontend.learns else ()
        parts = [f"train {unit_title(unit.name)}" for unit in units if not snapshot.train(unit).complete]
        parts += [f"extract {len(lacking)} machines"] if lacking else []
        parts += [f"cluster {len(left)} machines"]
        return [f"first, for pseudo-labels, {trial.title}: {', '.join(parts)}"] if left else []


def _total_lines(totals: Mapping[str, int]) -> list[str]:
    lines = [
        f"{totals['trials']} trials, {totals['done']} done, {totals['failed']} failed before; left: "
        f"{totals['trainings']} trainings, {totals['machines']} machines to extract and score, "
        f"{totals['umaps']} UMAPs"
    ]
    if totals["rebuilt"]:
        lines.append(
            f"{totals['rebuilt']} of the trainings and extractions are rebuilt: their outputs were pruned "
            "(keep: ...), and a new stage reads them"
        )
    return lines


def _estimate_line(left: Estimate, threads: int, asked: Need | None) -> str:
    if (left.unknown_stages or left.unknown_systems) and not (left.train_seconds or left.task_seconds):
        return "no estimate of time and disk yet: nothing like it is finished"
    cpus = limits.cpus()
    trainings = max(1, cpus // threads)
    if asked and asked.per_node:
        trainings = min(trainings, asked.per_node)
    wall = left.wall_seconds(trainings, max(1, cpus // 2), cpus)
    text = (
        f"about {duration(left.train_seconds)} of training and {duration(left.task_seconds)} of other work, "
        f"one after the other; {duration(wall)} on {cpus} cores like this machine's; "
        f"{size(left.bytes)} of disk"
    )
    if left.unknown_stages:
        text += f"; and {left.unknown_stages} stages of which nothing like it is finished"
    if left.unknown_systems:
        text += f"; without {left.unknown_systems} systems to come, of whose recipes no trial is finished"
    return text
