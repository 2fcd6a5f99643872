"""A running sweep: its trials, its log of events, its tables, and the disk space of its ended trials.

The module holds the parts of a run that need no Ray. `asdray.sweep.driver` trains and runs tasks on Ray, and
reports each event to `SweepRun`, in the driver's main thread and under the lease of the sweep's folder.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TYPE_CHECKING

from asdray import allocator, notes, store
from asdray.config.stand_in import count_seen
from asdray.config.sweep import Sweep
from asdray.stages.made_by import Made
from asdray.stages.steps import Snapshot, refuse_old_results
from asdray.stages.trial_json import write_trial
from asdray.store import Places
from asdray.sweep import outputs
from asdray.sweep.estimate import Estimator
from asdray.sweep.events import Event, EventLog, attempt, event_of
from asdray.sweep.jobs import (
    Job,
    TrialRun,
    event_key,
    is_complete,
    log_found,
    names_of,
    remaining,
    with_signature,
)
from asdray.sweep.keep import Pruner, kept_shares
from asdray.sweep.progress import Progress, View, failure_line
from asdray.sweep.summaries import made_of
from asdray.sweep.trackers import PATIENCE, SHORT_PATIENCE, Trackers

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.search import SearchRun

REFRESH_SECONDS = 5.0
"""Shortest time between two writings of the sweep's tables while it runs."""


class SweepRun:
    """One run of a sweep.

    Args:
        jobs: the trials known at the start; a search adds more by `admit`.
        chosen: indices of the trials that the run is asked for; the tables are over all trials.

    Attributes:
        runs: one `TrialRun` per trial.
        stopped: True once a signal or the end of the given time has stopped the run.
    """

    def __init__(
        self,
        sweep: Sweep,
        places: Places,
        log: EventLog,
        view: View,
        search: SearchRun | None,
        jobs: Sequence[Job],
        chosen: Container[int],
    ) -> None:
        self.sweep = sweep
        self.places = places
        self.log = log
        self.view = view
        self.search = search
        self.folder = store.SweepDir(store.sweep_dir(places.results, sweep.name))
        self.pruner = Pruner(sweep, places)
        self.runs: list[TrialRun] = []
        self.makers: list[frozenset[Made]] = []
        """What made the complete steps of each asked trial that was known at the start."""
        self._described = 0
        self.stopped = False
        self.trackers = Trackers(sweep.loggers, sweep.name, self.folder.root, places)
        self.estimator = Estimator(kept_shares(sweep, jobs))
        self.progress = Progress(sweep.name, self.runs, self.estimator)
        self.progress.data = places.data
        self._tables_changed = False
        self._tables_written = time.monotonic()
        self._tables_cost = 0.0
        for index, job in enumerate(jobs):
            self.admit(job, index in chosen)
        if search:
            self.estimator.upcoming = search.upcoming
        view.begin(sum(run.asked for run in self.runs), self.progress)

    def admit(self, job: Job, chosen: bool = True) -> TrialRun:
        """Adds a trial; writes ``trial.json`` and logs the complete stages of a chosen trial.

        Raises:
            ValueError: results of release 0.1 in the trial's folder. Planning has refused these for the other
                trials, but not for a trial that a search suggests during the run.
        """
        refuse_old_results([job.files(self.places).folder])
        steps = job.steps(self.sweep, self.places)
        given_up = self.search is not None and self.search.is_given_up(job)
        asked = chosen and not is_complete(steps) and not given_up
        run = TrialRun(len(self.runs), job, remaining(job.trial, steps, self.log.lasting), asked)
        if count_seen() != self._described:  # a search has suggested another system
            self._described = count_seen()
            outputs.describe_plugins(self.sweep, self.folder.root)
        if chosen:
            write_trial(job.files(self.places), job.request(self.sweep))
            log_found(job.trial, steps, self.log)
            outputs.link_for_tensorboard(job.trial, self.places, self.folder.root)
            self.makers.append(made_of(steps))
        run.refresh(steps, self.places)
        self.pruner.admit(job)
        self._update_stopped_early(run)
        self.estimator.add_trial(run.index, job.trial, job.dataset, steps, asked)
        self.runs.append(run)
        return run

    def _update_stopped_early(self, run: TrialRun) -> None:
        """Notes whether a scheduler has stopped the system of a trial."""
        run.stopped_early = self.search is not None and self.search.sample_state(run.job) == "stopped"

    # ------------------------------------------------------------------------------------------ events

    def record(self, run: TrialRun, event: Event) -> None:
        """Logs and shows the end of a stage, and what the stage has mended."""
        for text in event.get("notes", ()):
            notes.tell(text, say=self.view.line)
        if event["status"] == "failed" and event["lasting"]:
            # Remembered with the signature: after a change of data or options the stage is tried again.
            event = with_signature(run.trial, run.job.steps(self.sweep, self.places), event)
        self.log.add(event)
        run.stage_ended(event)
        self.progress.stage_ended(run, event)
        self.view.stage_ended(event)

    def record_of_source(self, event: Event) -> None:
        """Logs and shows the end of a stage of a system that is clustered for the trial that is trained."""
        self.log.add(event)
        self.view.stage_ended(event)

    def end_if_finished(self, run: TrialRun) -> None:
        """Makes a trial's own tables once all its machines are evaluated; ends it once its plots are made."""
        if run.in_training or run.phase == "ended" or run.tasks["extract"]:
            return
        if not run.table_made:
            run.table_made = True
            self._make_table(run)
        if not run.tasks["umap"]:
            self.end(run, ok=not run.failures)

    def end(self, run: TrialRun, word: str = "done", ok: bool = True) -> None:
        """Ends a trial and prunes its files; ``word`` says how the trial ended."""
        run.ended()
        self.refresh(run)
        self.prune(run)
        self.estimator.trial_ended(run.index)
        self.trackers.ended(run.job, "success" if ok else "failed")
        self.view.trial_ended(run, word, ok)
        self._tables_changed = True

    def end_without_work(self) -> None:
        """Ends the trials of a run in which no stage but tables can run."""
        for run in self.runs:
            if run.asked:
                self.end_if_finished(run)

    def sample_ended(self, run: TrialRun) -> None:
        """Updates all trials of a suggested system of the search (a sample), once the last one has ended."""
        assert self.search is not None
        sample = self.search.sample_of(run.job)
        for other in self.runs:
            if self.search.sample_of(other.job) is sample:
                self._update_stopped_early(other)
                self.refresh(other)
                self.prune(other)
        self._tables_changed = True

    @property
    def failed_fast(self) -> str | None:
        """The reason to end a run with ``fail_fast``: its first failure; None to go on."""
        failures = self.log.failures if self.sweep.fail_fast else []
        if not failures:
            return None
        return f"fail_fast: {failure_line(failures[0], names_of(run.job for run in self.runs))}"

    def tell_of_trackers(self) -> None:
        """Shows what the trackers could not do."""
        for text in self.trackers.faults():
            self.view.line(text, "yellow")

    def end_of_work(self) -> None:
        """Waits for the trackers, once all trials have ended or the run is stopped."""
        self.trackers.close(SHORT_PATIENCE if self.stopped else PATIENCE, self.view.line)
        self.tell_of_trackers()

    def stop(self, why: str | None, stop_training: Callable[[], None] = lambda: None) -> None:
        """Stops the run; finished stages are kept. ``why``: the reason, if it is not a signal."""
        self.stopped = True
        if why:
            self.view.line(why, "yellow")
        self.view.line("stopping: what is finished is kept, trainings go on from their last epoch", "yellow")
        stop_training()
        for run in self.runs:
            if run.status == "running":
                run.phase = "idle"
                self.refresh(run)

    def refresh(self, run: TrialRun) -> None:
        """Reads the state of a trial from its files."""
        run.refresh(run.job.steps(self.sweep, self.places), self.places)

    def prune(self, run: TrialRun) -> None:
        """Deletes the files of an ended trial that need not be kept."""
        state = self.search.sample_state(run.job) if self.search else None
        if state == "open" or run.phase != "ended":  # open: its objective may be asked for again
            return
        self.pruner.prune(run.job, stopped=state == "stopped")

    def needs_umap(self, run: TrialRun, checkpoint: str, machine: str) -> bool:
        """True if a machine's plot is asked for, is not complete, and has not failed for good."""
        if not self.sweep.umap:
            return False
        step = Snapshot(run.job.files(self.places)).umap(machine, checkpoint, self.sweep.umap)
        return not step.complete and event_key(run.trial, step) not in self.log.lasting

    # ------------------------------------------------------------------------------------------ tables

    def _make_table(self, run: TrialRun) -> None:
        from asdray.stages.table import table

        files, checkpoints = run.job.files(self.places), self.sweep.checkpoints
        if not Snapshot(files).table(checkpoints).inputs:
            return  # no machine was scored, and the log already has the reason
        work = partial(table, files, checkpoints, run.job.backends)
        self.record(run, attempt(event_of(run.trial, "table"), work))
        self._tables_changed = True

    def write_tables_if_due(self) -> None:
        """Writes the sweep's tables if a trial has ended; takes at most a twentieth of the run's time."""
        pause = max(REFRESH_SECONDS, 20 * self._tables_cost)
        if self._tables_changed and time.monotonic() - self._tables_written > pause:
            self.write_tables()

    def write_trials(self) -> None:
        """Writes ``trials.parquet``, by which other sweeps see that they share trials with this one."""
        from asdray.evaluation.tables import write_trials

        write_trials([run.row for run in self.runs], self.folder.root)

    def write_tables(self, report: bool = False) -> Leaderboard:
        """Writes ``trials.parquet``, tables and leaderboard as of now, and the report where asked for."""
        started = time.monotonic()
        _free_memory()  # the driver's memory is largest while it writes
        self.write_trials()
        jobs = [run.job for run in self.runs]
        board = outputs.write_results(self.sweep, jobs, self.places, report=report)
        _free_memory()
        self._tables_written = time.monotonic()
        self._tables_cost = self._tables_written - started
        self._tables_changed = False
        self.progress.set_leaderboard(board)
        return board


def _free_memory() -> None:
    gc.collect()  # fast: imported modules are frozen while Ray runs
    allocator.give_back()
