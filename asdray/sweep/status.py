"""``asdray status``: progress and failures of a sweep, from its files alone, during a run and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from asdray import store
from asdray.config.sweep import Sweep
from asdray.store import Places, SweepDir
from asdray.sweep import progress
from asdray.sweep.events import Event, History, key_of
from asdray.sweep.jobs import Job, event_at
from asdray.sweep.progress import failure_line, render
from asdray.sweep.search import read_studies, stopped_trials, upcoming_systems
from asdray.sweep.summary import read_summary

STALE_SECONDS = 60.0
"""A driver writes more often than that, unless it is held up."""


def status(sweep: Sweep, jobs: Sequence[Job], places: Places) -> RenderableType:
    """The run's state, the numbers of trials and stages by state, and every failure.

    Records tell which stages are done, events tell failures, and the driver's last snapshot tells which
    trials run.
    """
    folder = store.sweep_dir(places.results, sweep.name)
    snapshot = progress.read_snapshot(folder)
    alive = store.is_leased(folder)
    history = History(SweepDir(folder).events)
    running = set(snapshot["running"]) if alive and snapshot else set()
    trials: Counter[str] = Counter()
    stages: dict[str, Counter[str]] = {}
    failures: list[Event] = []
    given_up: set[str] = set()
    upcoming: list[str] = []
    if sweep.search.samples:
        studies, _ = read_studies(sweep, places)
        given_up = stopped_trials(studies, jobs)
        upcoming = progress.upcoming_texts(progress.count_upcoming(upcoming_systems(studies)))

    for job in jobs:
        is_stopped = job.trial.name in given_up
        counts, failed = _count(job, sweep, places, history, "stopped" if is_stopped else "left")
        for (stage, state), n in counts.items():
            stages.setdefault(stage, Counter())[state] += n
        failures += failed
        complete = all(state == "done" for _, state in counts)
        state = _state(complete, job.trial.name in running, bool(failed))
        trials["stopped" if state == "waiting" and is_stopped else state] += 1
    counted = f"{_counts(trials, progress.STATES)} of {len(jobs)} trials"
    lines = [_headline(sweep.name, snapshot, alive), ", ".join([counted, *upcoming])]
    lines += [
        f"  {name:<9}{_counts(counts, ('done', 'failed', 'stopped', 'left'))}"
        for name, counts in stages.items()
    ]
    parts: list[RenderableType] = [Text(line) for line in lines]
    if alive and snapshot:
        parts += [Text(""), render(snapshot)]
    if failures:
        parts += [Text(""), Text("failed (a run tries again what may help; --retry-failed everything):")]
        parts += [Text(f"  {failure_line(event)}") for event in failures]
    return Group(*parts)


def _count(
    job: Job, sweep: Sweep, places: Places, history: History, left: str
) -> tuple[Counter[tuple[str, str]], list[Event]]:
    """(stage, state) -> number of steps, and the last failure of every failed step.

    Args:
        left: the state of steps that are neither done nor failed.
    """
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[Event] = []
    if (complete := read_summary(job, sweep, places)) is not None:
        return Counter({(stage, "done"): total.stages for stage, total in complete.items()}), failures
    for step in job.steps(sweep, places):
        failure = None if step.complete else history.failed.get(key_of(event_at(job.trial, step))[:-1])
        failures += [failure] if failure else []
        counts[step.stage, "done" if step.complete else "failed" if failure else left] += 1
    return counts, failures


def _state(complete: bool, running: bool, broken: bool) -> str:
    return "done" if complete else "running" if running else "failed" if broken else "waiting"


def _counts(counts: Counter[str], names: Sequence[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "none"


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
