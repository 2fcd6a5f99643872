"""The driver of a sweep: computes what is missing, trains, lets tasks follow, writes the tables.

Resume has one source of truth, the records of finished stages: every run computes the missing work anew and
gives Ray only that. Nothing missing: Ray is not started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asdray import allocator, store
from asdray.config.sweep import Sweep
from asdray.stages.steps import Step
from asdray.stages.trial_json import write_trial
from asdray.store import Places
from asdray.sweep import outputs
from asdray.sweep.changes import changes
from asdray.sweep.driver import Driver
from asdray.sweep.dry_run import size
from asdray.sweep.events import Event, EventLog, key_of
from asdray.sweep.jobs import Job, count_complete, is_complete, remaining
from asdray.sweep.plan import log_found, with_datasets_of_now
from asdray.sweep.progress import View
from asdray.sweep.summary import write_summaries

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.search import Searching


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    board: Leaderboard
    folder: Path
    trials: int
    """How many the sweep has; of a search those that it came to."""
    expected: Mapping[str, int]
    """Per stage: how many are asked for, how many were done before, by this run, and are now."""
    before: Mapping[str, int]
    new: Mapping[str, int]
    done: Mapping[str, int]
    given_up: Mapping[str, int]
    """Likewise, of those not done: how many belong to trials that a scheduler stopped."""
    unfinished: Sequence[str]
    """Trials that were asked for of which something is not done."""
    failures: Sequence[Event]
    """Of this run."""
    failed_before: Sequence[Event]
    """Of earlier runs, not tried again: they would fail again."""
    stopped: bool


def run_sweep(
    sweep: Sweep,
    jobs: tuple[Job, ...],
    places: Places,
    *,
    address: str | None = None,
    dashboard: bool = True,
    quiet: bool = False,
    only: Callable[[Job], bool] = lambda job: True,
    retry_failed: bool = False,
    stop_at: float | None = None,
) -> Result:
    """Does all that is missing of a sweep.

    Args:
        only: the trials that are asked for; the tables are over all.
        retry_failed: whether to try again what failed before and would fail again.
        stop_at: by ``time.monotonic``: when to stop as by a signal.

    Raises:
        ValueError: data that changed since they were formatted, a sweep of this name that already runs,
            a request that the cluster can never satisfy.
    """
    allocator.share_heap()  # before Arrow, Ray and Tune start threads by the dozen
    from asdray.audio.cache import check_unchanged

    for dcase in sweep.years:
        check_unchanged(places.data, dcase, sweep.machines_of(dcase))
    folder = store.sweep_dir(places.results, sweep.name)

    def already() -> None:
        raise ValueError(f"the sweep {sweep.name!r} already runs in {folder}: wait for it or stop it")

    with store.lease(folder, on_wait=already):
        log = EventLog(store.SweepDir(folder).events)
        view = View(folder, quiet)
        for line in changes(sweep, jobs, folder):
            view.line(line)
        outputs.write_spec(sweep, folder)
        if retry_failed:
            log.lasting.clear()
        search, jobs = _search(sweep, jobs, places, log, retry_failed)
        chosen = [i for i, job in enumerate(jobs) if only(job)]
        stands = [job.steps(sweep, places) for job in jobs]
        before = _total(stands, chosen)
        while True:
            for i in chosen:
                job = jobs[i]
                write_trial(job.trial, sweep.checkpoints, job.backends, sweep.umap, places, job.dataset)
                log_found(job.trial, stands[i], log)
            missing = [remaining(job.trial, s, log.lasting) for job, s in zip(jobs, stands, strict=True)]
            left = {
                i: missing[i]
                for i in chosen
                if not is_complete(stands[i]) and not (search and search.rests(jobs[i]))
            }
            driver = Driver(sweep, jobs, stands, places, log, missing, left, view, search)
            driver.retention.look_at_all(jobs, stands, search)
            if left:
                stands, missing = [], []  # of before: nothing to hold for as long as a sweep takes
            if any(m.runs for m in left.values()) or (search and not search.over):
                driver.run_on_ray(address, dashboard, stop_at)
            else:
                driver.finish_trials_without_work()
            board = driver.write_outputs()
            added = range(len(jobs), len(driver.jobs))
            chosen += added
            jobs = tuple(driver.jobs)
            fresh = with_datasets_of_now(jobs, places)
            changed = fresh != jobs
            jobs = fresh
            if left or changed or added:
                stands = [job.steps(sweep, places) for job in jobs]
                for job, stand in zip(jobs, stands, strict=True):
                    # What another process finished meanwhile: another sweep, or a worker that outlived
                    # the killed driver of an earlier run.
                    log_found(job.trial, stand, log)
            if not driver.stopped:
                driver.retention.look_at_all(jobs, stands, search, best=True)
                write_summaries(jobs, sweep, places)
            if driver.retention.freed:
                view.line(f"keep: {size(driver.retention.freed)} of checkpoints and embeddings dropped")
            if driver.stopped or not changed:
                break
            # Formatted anew while we ran: what that made stale is done again.
            search, jobs = _search(sweep, jobs, places, log)
            chosen = [i for i, job in enumerate(jobs) if only(job)]
            stands = [job.steps(sweep, places) for job in jobs]
        view.end("stopped" if driver.stopped else "ended")
        tried = {key_of(event) for event in log.failures}
        given_up = [i for i in chosen if search and search.state_of(jobs[i]) == "stopped"]
        before_failed = [remaining(jobs[i].trial, stands[i], log.lasting).failed for i in chosen]
        old = [e for events in before_failed for e in events if key_of(e) not in tried]
        return Result(
            board=board,
            folder=folder,
            trials=len(jobs),
            expected=_expected(sweep, [jobs[i] for i in chosen]),
            before=before,
            new=log.counts,
            done=_total(stands, chosen),
            given_up=Counter(s.stage for i in given_up for s in stands[i] if not s.complete),
            unfinished=[
                jobs[i].trial.name for i in chosen if not is_complete(stands[i]) and i not in given_up
            ],
            failures=log.failures,
            failed_before=old,
            stopped=driver.stopped,
        )


def _search(
    sweep: Sweep, jobs: tuple[Job, ...], places: Places, log: EventLog, retry_failed: bool = False
) -> tuple[Searching | None, tuple[Job, ...]]:
    """A search as its studies stand now, and its jobs; a grid's jobs as they are."""
    if not sweep.search.samples:
        return None, jobs
    from asdray.sweep.search import open_search

    return open_search(sweep, places, log.lasting, retry_failed)


def _total(stands: Sequence[Sequence[Step]], chosen: Iterable[int]) -> Counter[str]:
    """How many of each stage are done over the trials asked for."""
    return sum((count_complete(stands[i]) for i in chosen), Counter())


def _expected(sweep: Sweep, jobs: Sequence[Job]) -> dict[str, int]:
    """How many of each stage the sweep has in all."""
    places = [(job, len(sweep.checkpoints) * len(job.trial.machines)) for job in jobs]
    return {
        "train": sum(len(job.trial.units) for job in jobs),
        "extract": sum(n for _, n in places),
        "score": sum(n * len(job.backends) for job, n in places),
        "evaluate": sum(n for _, n in places),
        **({"umap": sum(n for _, n in places)} if sweep.umap else {}),
        "table": len(jobs),
    }
