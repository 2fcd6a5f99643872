"""The driver of a sweep: computes what is missing, trains, lets tasks follow, writes the tables.

Resume has one source of truth, the markers in the store: every run computes the missing work anew and
gives Ray only that. Nothing missing: Ray is not started.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.backend import Umap
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.stages import state
from asdray.stages.describe import write_trial
from asdray.store import Places
from asdray.sweep import outputs
from asdray.sweep.events import Event, EventLog, attempt, event_of, failed, key_of
from asdray.sweep.plan import Job, log_found, standing, with_datasets_of_now
from asdray.sweep.progress import View
from asdray.sweep.signals import Stop, stop_on_signals
from asdray.sweep.standing import Missing, Standing

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard

REFRESH_SECONDS = 5.0
"""Shortest time between two writings of the sweep's tables while it runs."""


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    board: Leaderboard
    folder: Path
    expected: Mapping[str, int]
    """Per stage: how many are asked for, how many were done before, by this run, and are now."""
    before: Mapping[str, int]
    new: Mapping[str, int]
    done: Mapping[str, int]
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
) -> Result:
    """Does all that is missing of a sweep.

    Args:
        only: the trials that are asked for; the tables are over all.
        retry_failed: whether to try again what failed before and would fail again.

    Raises:
        ValueError: data that changed since they were formatted, a sweep of this name that already runs,
            a request that the cluster can never satisfy.
    """
    from asdray.audio.cache import check_unchanged

    for dcase in sweep.dcase:
        check_unchanged(places.data, dcase, sweep.machines_of(dcase))
    folder = store.sweep_dir(places.results, sweep.name)

    def already() -> None:
        raise ValueError(f"the sweep {sweep.name!r} already runs in {folder}: wait for it or stop it")

    with store.lease(folder, on_wait=already):
        outputs.write_spec(sweep, folder)
        log = EventLog(folder / "events.jsonl")
        chosen = [i for i, job in enumerate(jobs) if only(job)]
        stands = [standing(job, sweep, places) for job in jobs]
        before = _total(stands, chosen)
        if retry_failed:
            log.lasting.clear()
        while True:
            for i in chosen:
                job = jobs[i]
                write_trial(job.trial, sweep.checkpoints, job.backends, sweep.umap, places, job.dataset)
                log_found(stands[i], log)
            missing = [stand.missing(log.lasting) for stand in stands]
            left = {i: missing[i] for i in chosen if not stands[i].complete}
            driver = _Driver(sweep, jobs, stands, places, log, missing, left, quiet)
            if any(m.runs for m in left.values()):
                driver.run_on_ray(address, dashboard)
            else:
                driver.finish_trials_without_work()
            board = driver.write_outputs()
            fresh = with_datasets_of_now(jobs, places)
            changed = fresh != jobs
            jobs = fresh
            if left or changed:
                stands = [standing(job, sweep, places) for job in jobs]
                for stand in stands:
                    # What another process finished meanwhile: another sweep, or a worker that outlived
                    # the killed driver of an earlier run.
                    log_found(stand, log)
            if driver.stopped or not changed:
                break
            # Formatted anew while we ran: what that made stale is done again.
        tried = {key_of(event) for event in log.failures}
        old = [e for i in chosen for e in stands[i].missing(log.lasting).failed if key_of(e) not in tried]
        return Result(
            board=board,
            folder=folder,
            expected=_expected(sweep, [jobs[i] for i in chosen]),
            before=before,
            new=log.counts,
            done=_total(stands, chosen),
            unfinished=[jobs[i].trial.name for i in chosen if not stands[i].complete],
            failures=log.failures,
            failed_before=old,
            stopped=driver.stopped,
        )


def _total(stands: Sequence[Standing], chosen: Iterable[int]) -> Counter[str]:
    """How many of each stage are done over the trials asked for."""
    return sum((stands[i].done for i in chosen), Counter())


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


class _Driver:
    """The state of one running sweep, all in the driver's main thread."""

    def __init__(
        self,
        sweep: Sweep,
        jobs: Sequence[Job],
        stands: Sequence[Standing],
        places: Places,
        log: EventLog,
        missing: Sequence[Missing],
        left: dict[int, Missing],
        quiet: bool,
    ) -> None:
        self.sweep = sweep
        self.jobs = jobs
        self.places = places
        self.log = log
        self.left = left
        self.stopped = False
        self._view = View(len(left), quiet)
        self._failures = {i: list(m.failed) for i, m in enumerate(missing) if m.failed}
        self._rows = [
            outputs.trial_row(job, stand, places, self._failures.get(i, []), False)
            for i, (job, stand) in enumerate(zip(jobs, stands, strict=True))
        ]
        self._training: set[int] = {i for i, m in left.items() if m.units}
        self._open: Counter[tuple[int, str]] = Counter()
        """(trial, kind of task) -> how many wait or run."""
        self._tabled: set[int] = set()
        self._finished: set[int] = set()
        self._refreshed = time.monotonic()
        self._refresh_cost = 0.0
        self._dirty = False

    # ------------------------------------------------------------------------------------- with Ray

    def run_on_ray(self, address: str | None, dashboard: bool) -> None:
        """Trains what is missing and runs the tasks that follow, until nothing is left or a signal comes."""
        from asdray.sweep.cluster import ray_session

        with ray_session(address, dashboard) as cluster, self._view:
            if cluster.dashboard:
                self._view.line(f"Ray dashboard: {cluster.dashboard}")
            threads = max(job.trial.system.train.threads for job in self.jobs)
            needs = cluster.needs(self.sweep.resources, threads)
            # Only now: both modules import ray, which a sweep with nothing to do never needs.
            from asdray.sweep.tasks import TaskPool
            from asdray.sweep.training import Training

            pool = TaskPool(self.jobs, needs, self.places, self.sweep.umap)
            news: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
            training = None
            if self._training:
                logs = store.sweep_dir(self.places.results, self.sweep.name) / "tune"
                logs.mkdir(parents=True, exist_ok=True)
                trials = [self._without_failed(i) for i in range(len(self.jobs))]
                training = Training(
                    trials,
                    sorted(self._training),
                    self.sweep.checkpoints,
                    needs["train"],
                    self.places,
                    logs,
                    news,
                )
            with stop_on_signals() as stop:
                if training:
                    training.start()
                for index in sorted(set(self.left) - self._training):
                    self._start_tasks(index, set(self.jobs[index].trial.machines), pool)
                self._loop(pool, training, news, stop, max(1, int(cluster.cpus)))

    def _loop(self, pool: Any, training: Any, news: queue.SimpleQueue, stop: Stop, cpus: int) -> None:
        trains = training is not None
        for index in list(self.left):
            self._finish_if_complete(index)
        while trains or len(pool):
            if stop.asked:
                self._stop(training)
                return
            with contextlib.suppress(queue.Empty):
                while True:
                    kind, index, value = news.get_nowait()
                    if kind == "end":
                        trains = False
                        for lost in sorted(self._training):
                            # Tune ended without a word on these, or of an error of its own.
                            self._hear("error", lost, f"training ended without a result: {value}", pool)
                    else:
                        self._hear(kind, index, value, pool)
            slots = max(1, cpus // 2) if trains else cpus
            for item, events in pool.step(slots, timeout=0.1):
                self._take(item, events, pool)
            if not len(pool):
                time.sleep(0.05)  # pool.step waits only where tasks run
            self._view.tick(len(pool))
            self._refresh()

    def _hear(self, kind: str, index: int, value: Any, pool: Any) -> None:
        """Takes one piece of news from Tune."""
        trial = self.jobs[index].trial
        if kind == "epoch":
            self._view.epoch(index, trial, value)
        elif kind == "waiting":
            self._view.line(f"waiting for another process that trains {trial.name} {value}")
        elif kind == "start":
            self._row(index, running=True)
        elif kind == "event":
            self._record(index, value)
            if value["status"] == "done":
                self._view.trained(index, value)
                unit = next(u for u in trial.units if u.name == value["unit"])
                self._start_tasks(index, set(unit.machines), pool)
        elif kind in ("complete", "error"):
            if kind == "error":
                self._record(index, failed(event_of(trial, "train"), value))
            self._training.discard(index)
            self._finish_if_complete(index)

    def _start_tasks(self, index: int, machines: set[str], pool: Any) -> None:
        """Queues what follows the training of some machines of a job, as far as it is not done."""
        from asdray.sweep.tasks import Item

        missing = self.jobs[index].missing(self.sweep, self.places, self.log.lasting)
        processed = set(missing.machines)
        for ckpt, machine in missing.machines:
            if machine in machines:
                self._put(Item("extract", index, ckpt, machine), pool)
        for ckpt, machine in missing.umaps:
            # Where extraction is still to be done, its task queues the UMAP when it ends.
            if machine in machines and (ckpt, machine) not in processed:
                self._put(Item("umap", index, ckpt, machine), pool)

    def _without_failed(self, index: int) -> Trial:
        """A job's trial without the machines whose training failed before, where each has its own."""
        trial = self.jobs[index].trial
        lost = {e["unit"] for e in self._failures.get(index, ()) if e["stage"] == "train"}
        machines = tuple(m for m in trial.machines if trial.unit_of(m).name not in lost)
        return replace(trial, machines=machines) if lost and machines else trial

    def _put(self, item: Any, pool: Any) -> None:
        self._open[item.job, item.kind] += 1
        pool.put(item)

    def _take(self, item: Any, events: list[Event], pool: Any) -> None:
        """Takes the events of a task that ended."""
        from asdray.sweep.tasks import Item

        for event in events:
            self._record(item.job, event)
        extracted = any(e["stage"] == "extract" and e["status"] == "done" for e in events)
        if item.kind == "extract" and extracted and isinstance(self.sweep.umap, Umap):
            job = self.jobs[item.job]
            step = state.umap_step(
                job.trial, item.machine, item.checkpoint, self.sweep.umap, self.places, job.dataset
            )
            if step.marker is None:
                self._put(Item("umap", item.job, item.checkpoint, item.machine), pool)
        self._open[item.job, item.kind] -= 1
        self._finish_if_complete(item.job)

    def _record(self, index: int, event: Event) -> None:
        if event["status"] == "failed" and event["lasting"]:
            # Remembered by what was asked for: changed data or options are another thing to try.
            event = standing(self.jobs[index], self.sweep, self.places).signed(event)
        self.log.add(event)
        if event["status"] == "failed":
            self._failures.setdefault(index, []).append(event)
            self._view.failed(event)

    # --------------------------------------------------------------------------------- with and without

    def finish_trials_without_work(self) -> None:
        """Writes the tables of trials that lack nothing else."""
        for index in list(self.left):
            self._finish_if_complete(index)

    def _finish_if_complete(self, index: int) -> None:
        """Makes a trial's own tables once all its machines are evaluated; ends it once its plots are too."""
        if index in self._training or index in self._finished:
            return
        if not self._open[index, "extract"] and index not in self._tabled:
            self._tabled.add(index)
            self._make_table(index)
        if not self._open[index, "extract"] and not self._open[index, "umap"]:
            self._finished.add(index)
            self._row(index, running=False)
            self._view.finished(self.jobs[index].trial, not self._failures.get(index))
            self._dirty = True

    def _make_table(self, index: int) -> None:
        from asdray.stages.table import table

        job = self.jobs[index]
        step = state.table_step(job.trial, self.sweep.checkpoints, self.places, job.dataset)
        if step.inputs:  # else no machine came as far as a score, and that is recorded already
            event = attempt(
                event_of(job.trial, "table"),
                lambda: table(job.trial, self.sweep.checkpoints, job.backends, self.places),
            )
            self._record(index, event)
            self._dirty = True

    def _row(self, index: int, running: bool) -> None:
        job = self.jobs[index]
        stands = standing(job, self.sweep, self.places)
        self._rows[index] = outputs.trial_row(
            job, stands, self.places, self._failures.get(index, []), running
        )

    def _refresh(self) -> None:
        """Rewrites the tables when trials finished, but spends no more than a tenth of the time on it."""
        now = time.monotonic()
        if self._dirty and now - self._refreshed > max(REFRESH_SECONDS, 10 * self._refresh_cost):
            self.write_outputs()
            self._refreshed = time.monotonic()
            self._refresh_cost = self._refreshed - now

    def write_outputs(self) -> Leaderboard:
        """``trials.parquet``, tables and leaderboard as of now."""
        folder = store.sweep_dir(self.places.results, self.sweep.name)
        outputs.write_trials(self._rows, folder)
        self._dirty = False
        return outputs.write_results(self.sweep, self.jobs, self.places)

    def _stop(self, training: Any) -> None:
        self.stopped = True
        self._view.line("stopping: what is finished is kept, trainings go on from their last epoch", "yellow")
        if training:
            training.stop()
            training.join(timeout=20)
        for index, row in enumerate(self._rows):
            if row["status"] == "running":
                self._row(index, running=False)
