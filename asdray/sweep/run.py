"""One run of a sweep, from the first look at its files to its leaderboard.

The records of finished stages are the only source of truth for resuming: every run computes the remaining
work from them. Ray is started only if a stage other than tables can run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asdray import allocator, store
from asdray.config.sweep import Sweep
from asdray.stages.made_by import present_lines
from asdray.store import Places
from asdray.sweep import inputs, outputs
from asdray.sweep.events import Event, EventLog, key_of
from asdray.sweep.jobs import Job, TrialRun, log_found, names_of
from asdray.sweep.keep import remove_deleted
from asdray.sweep.local_ray import remove_dead_folders
from asdray.sweep.outputs import changes
from asdray.sweep.plan import with_datasets_of_now
from asdray.sweep.progress import LiveView, StageCounts, View, count_upcoming, upcoming_texts
from asdray.sweep.search import SearchRun, open_search
from asdray.sweep.status import size
from asdray.sweep.summaries import write_summaries
from asdray.sweep.sweep_run import SweepRun
from asdray.sweep.trackers import check_installed

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, none of which changes a result.

    Attributes:
        address: address of a running Ray; None: the run starts Ray on this machine.
        dashboard: True to start Ray's dashboard.
        quiet: True to print only failures and the result.
        only: True for the trials that the run is asked for; tables are over all trials.
        retry_failed: True to try stages again that failed before and would fail again.
        stop_at: time by ``time.monotonic`` at which the run stops as if by a signal.
        ends_process: True if a second signal ends the process, False if it changes nothing.
        live: makes the live view; None: one is drawn on a terminal.
    """

    address: str | None = None
    dashboard: bool = True
    quiet: bool = False
    only: Callable[[Job], bool] = lambda job: True
    retry_failed: bool = False
    stop_at: float | None = None
    ends_process: bool = True
    live: Callable[[], LiveView] | None = None


@dataclass(frozen=True)
class Result:
    """The end of a run.

    Attributes:
        folder: the sweep's folder.
        trials: number of trials of the sweep; of a search, those of the suggested systems.
        counts: stage -> numbers of steps, over the trials that the run was asked for.
        names: system -> its name for people.
        unfinished: titles of incomplete trials that the run was asked for; the last item is a text such as
            ``the search (3 systems to come)`` if a search has not suggested all its systems.
        failures: failures of this run.
        failed_before: failures of earlier runs that would happen again; the run did not repeat their stages.
        stopped: True if a signal or the end of the given time stopped the run.
        failed_fast: True if the first failure ended the run, as ``fail_fast`` asks.
    """

    board: Leaderboard
    folder: Path
    trials: int
    counts: Mapping[str, StageCounts]
    names: Mapping[str, str]
    unfinished: Sequence[str]
    failures: Sequence[Event]
    failed_before: Sequence[Event]
    stopped: bool
    failed_fast: bool = False


def run_sweep(sweep: Sweep, jobs: tuple[Job, ...], places: Places, options: RunOptions) -> Result:
    """Completes the missing stages of a sweep.

    Raises:
        ValueError: data that changed since they were formatted, a sweep of this name that already runs,
            a reservation that no node of the cluster can give; a tracker that is not installed.
    """
    check_installed(sweep.loggers)
    allocator.share_heap()  # before Arrow, Ray and Tune start threads by the dozen
    from asdray.audio.cache import check_unchanged

    for dcase in sweep.years:
        check_unchanged(places.data, dcase, sweep.machines_of(dcase))
    folder = store.SweepDir(store.sweep_dir(places.results, sweep.name))

    def refuse() -> None:
        raise ValueError(f"the sweep {sweep.name!r} already runs in {folder.root}: wait for it or stop it")

    with store.lease(folder.root, on_wait=refuse):
        remove_deleted(places)
        shutil.rmtree(folder.running, ignore_errors=True)  # of a killed driver
        for place in (folder.root, *filter(Path.is_dir, folder.root.iterdir())):
            store.sweep_leftovers(place)
        view = View(folder.root, options.quiet, options.live)
        for line in changes(sweep, jobs, folder.root):
            view.line(line)
        outputs.write_spec(sweep, folder.root)
        log = EventLog(folder.events)
        if options.retry_failed:
            log.lasting.clear()
        try:
            return _run(sweep, jobs, places, log, view, options)
        except BaseException as error:
            view.end("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise


def _run(
    sweep: Sweep, jobs: tuple[Job, ...], places: Places, log: EventLog, view: View, options: RunOptions
) -> Result:
    """Completes the trials, and again if data change or files are found damaged meanwhile.

    The caller holds the folder's lease.
    """
    search: SearchRun | None = None
    before: Counter[str] | None = None
    retry_failed = options.retry_failed
    while True:
        if sweep.search.samples:
            search, jobs = open_search(sweep, places, log.lasting, retry_failed)
        chosen = {i for i, job in enumerate(jobs) if options.only(job)}
        sweep_run = SweepRun(sweep, places, log, view, search, jobs, chosen)
        n_known = len(sweep_run.runs)
        if before is None:
            before = _count_complete(run for run in sweep_run.runs if run.index in chosen)
            for line in present_lines(sweep_run.makers, places.results):
                view.line(line, "yellow")
        board = _complete(sweep_run, options)
        chosen |= set(range(n_known, len(sweep_run.runs)))  # the trials that a search added
        changed = _read_again(sweep_run)
        damaged = log.take_damaged()
        if sweep_run.stopped or not (changed or damaged):
            break
        # The data were formatted again during the run, so some stages are out of date and run again; or a
        # stage found the file of another one damaged, which counts as missing since.
        jobs, retry_failed = changed or tuple(run.job for run in sweep_run.runs), False
    view.end("stopped" if sweep_run.stopped else "ended")
    return _result(sweep_run, board, [sweep_run.runs[i] for i in sorted(chosen)], before)


def _complete(sweep_run: SweepRun, options: RunOptions) -> Leaderboard:
    """Completes the trials that the run is asked for, and writes the tables."""
    try:
        _work(sweep_run, options)
    finally:
        sweep_run.end_of_work()
    return sweep_run.write_tables(report=sweep_run.sweep.report and not sweep_run.stopped)


def _work(sweep_run: SweepRun, options: RunOptions) -> None:
    """Runs the missing stages; Ray starts if any stage but tables can run."""
    search = sweep_run.search
    trials = [run.trial for run in sweep_run.runs if run.asked and run.left.runs]
    if trials or (search and not search.exhausted):
        inputs.check_weights(sweep_run.sweep, trials, sweep_run.places)
        backends = dict.fromkeys(b for run in sweep_run.runs if run.asked for b in run.job.backends)
        if any(backend.plugin for backend in backends):
            from asdray.backends import rehearse

            rehearse(backends)
        _run_on_ray(sweep_run, options)
    else:
        sweep_run.end_without_work()
        remove_dead_folders()  # of a Ray that ended the last run with the last step


def _run_on_ray(sweep_run: SweepRun, options: RunOptions) -> None:
    """Starts or joins Ray, and completes the trials there until no work is left or a stop is asked for."""
    from asdray.sweep.cluster import ray_session, which_ray
    from asdray.sweep.fork_server import Imports
    from asdray.sweep.stop import stop_on_signals

    with stop_on_signals(options.stop_at, options.ends_process) as stop, contextlib.ExitStack() as stack:
        cluster = None
        address, line = which_ray(options.address, os.environ)
        sweep_run.view.line(line)
        systems = [run.trial.system for run in sweep_run.runs]
        imports = Imports.of(systems, umap=bool(sweep_run.sweep.umap))
        try:
            cluster = stack.enter_context(ray_session(address, options.dashboard, imports))
        except Exception:
            if not stop.asked:  # else the signal may have ended processes of the Ray that started
                raise
        stack.enter_context(sweep_run.view)
        if cluster is None or stop.asked:
            sweep_run.stop(stop.why)
            return
        sweep_run.write_trials()
        from asdray.sweep.driver import Driver  # imports Ray Tune, which was loaded while Ray started

        Driver(sweep_run, cluster, stop).run(joined=address is not None)


def _read_again(sweep_run: SweepRun) -> tuple[Job, ...]:
    """Reads the trials' files after a run; returns the trials with their new datasets if data changed."""
    sweep, places, log = sweep_run.sweep, sweep_run.places, sweep_run.log
    jobs = tuple(run.job for run in sweep_run.runs)
    fresh = with_datasets_of_now(jobs, places)
    for run, job in zip(sweep_run.runs, fresh, strict=True):
        run.job = job
    if fresh != jobs or any(run.asked for run in sweep_run.runs):
        for run in sweep_run.runs:
            steps = run.job.steps(sweep, places)
            # Logs stages that another process completed meanwhile: another sweep, or a worker that outlived
            # the killed driver of an earlier run.
            log_found(run.trial, steps, log)
            run.refresh(steps, places)
    if not sweep_run.stopped:
        sweep_run.pruner.prune_all(fresh, sweep_run.search)
        write_summaries(fresh, sweep, places)
    if sweep_run.pruner.freed:
        text = f"keep: {size(sweep_run.pruner.freed)} of checkpoints and embeddings pruned"
        sweep_run.view.line(text)
    return fresh if fresh != jobs else ()


def _result(
    sweep_run: SweepRun, board: Leaderboard, runs: Sequence[TrialRun], before: Mapping[str, int]
) -> Result:
    """The result of a run.

    Args:
        runs: the trials that the run was asked for.
        before: stage -> number of their steps that were complete when the run began.
    """
    from asdray.evaluation.tables import STAGES

    log = sweep_run.log
    tried = {key_of(event) for event in log.failures}
    failed_before = [
        event for run in runs if not run.complete for event in run.left.failed if key_of(event) not in tried
    ]
    expected = sum((run.steps for run in runs), Counter())
    given_up = sum((run.steps - run.complete_steps for run in runs if run.stopped_early), Counter())
    complete = _count_complete(runs)
    failed_fast = sweep_run.stopped and sweep_run.failed_fast is not None
    stages = [stage for stage in STAGES if stage != "umap" or sweep_run.sweep.umap]
    unfinished = [run.trial.title for run in runs if not run.complete and not run.stopped_early]
    if (search := sweep_run.search) and not search.exhausted:  # Ray Tune ended too soon, or was stopped
        unfinished += [f"the search ({', '.join(upcoming_texts(count_upcoming(search.upcoming)))})"]
    return Result(
        board=board,
        folder=sweep_run.folder.root,
        trials=len(sweep_run.runs),
        counts={
            stage: StageCounts(
                expected[stage],
                before.get(stage, 0),
                log.counts.get(stage, 0),
                complete[stage],
                given_up[stage],
            )
            for stage in stages
        },
        names=names_of(run.job for run in sweep_run.runs),
        unfinished=unfinished,
        failures=log.failures,
        failed_before=failed_before,
        stopped=sweep_run.stopped and not failed_fast,
        failed_fast=failed_fast,
    )


def _count_complete(runs: Iterable[TrialRun]) -> Counter[str]:
    """Stage -> number of complete steps of some trials."""
    return sum((run.complete_steps for run in runs), Counter())
