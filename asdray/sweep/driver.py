"""The loop of a running sweep: trains, lets tasks follow, and keeps the sweep's files as of now."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.backend import Umap
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.stages.steps import Snapshot, Step
from asdray.stages.trial_json import write_trial
from asdray.store import Places
from asdray.sweep.estimate import Estimator
from asdray.sweep.events import Event, EventLog, attempt, event_of, failed
from asdray.sweep.jobs import Job, Remaining, with_signature
from asdray.sweep.live import Live
from asdray.sweep.pieces import kept_shares
from asdray.sweep.plan import in_order, log_found
from asdray.sweep.progress import View
from asdray.sweep.report import Report
from asdray.sweep.retention import Retention
from asdray.sweep.stop import Stop, stop_on_signals

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.search import Searching


class Driver:
    """The state of one running sweep, all in the driver's main thread."""

    def __init__(
        self,
        sweep: Sweep,
        jobs: Sequence[Job],
        stands: Sequence[Sequence[Step]],
        places: Places,
        log: EventLog,
        missing: Sequence[Remaining],
        left: dict[int, Remaining],
        view: View,
        search: Searching | None = None,
    ) -> None:
        self.sweep = sweep
        self.jobs = list(jobs)
        """Grows where a search comes to more of them."""
        self.search = search
        self.places = places
        self.log = log
        self.left = left
        self.retention = Retention(sweep, places)
        self.stopped = False
        self._view = view
        self._failures = {i: list(m.failed) for i, m in enumerate(missing) if m.failed}
        self._report = Report(sweep, self.jobs, places, self._failures, search)
        estimator = Estimator(kept_shares(sweep, jobs))
        for i, (job, stand) in enumerate(zip(jobs, stands, strict=True)):
            self._report.add(stand)
            estimator.add_trial(i, job.trial, job.dataset, stand, asked=i in left)
        estimator.upcoming = search.to_come if search else ()
        self._live = Live(sweep.name, self._report.rows, estimator)
        view.begin(len(left), self._live)
        self._training = set[int]()
        """Trials whose job has not ended."""
        self._extracts = False
        """Whether a training's worker also extracts; then a trial that lacks only that goes there too."""
        self._judged: dict[int, Any] = {}
        """Those of them that a search judges, and what came of it."""
        self._ready: dict[int, set[str]] = {}
        """Machines of those whose model is trained."""
        self._held = search.held(self.jobs) if search else set[int]()
        """Trials of samples that an earlier run left open: their job is still to come."""
        self._open: Counter[tuple[int, str]] = Counter()
        """(trial, kind of task) -> how many wait or run."""
        self._tabled: set[int] = set()
        self._finished: set[int] = set()

    # ------------------------------------------------------------------------------------- with Ray

    def run_on_ray(self, address: str | None, dashboard: bool, stop_at: float | None = None) -> None:
        """Trains what is missing and runs the tasks that follow, until nothing is left or a signal comes.

        Args:
            stop_at: by ``time.monotonic``: when to stop in any case.
        """
        from asdray.sweep.cluster import Metrics, larger, ray_session

        with stop_on_signals(stop_at) as stop, ray_session(address, dashboard) as cluster, self._view:
            if stop.asked:  # while Ray started
                self._stop(stop)
                return
            # Only now: they import ray, which a sweep with nothing to do never needs.
            from asdray.sweep.tasks import TaskPool
            from asdray.sweep.training import Judge, Training

            self._view.export(Metrics(self.sweep.name))
            self._live.dashboard, self._live.metrics = cluster.dashboard, cluster.metrics
            if cluster.dashboard:
                self._view.line(f"Ray dashboard: {cluster.dashboard}; metrics: {self._live.metrics}")
            threads = max(
                (job.trial.system.train.threads for job in self.jobs),
                default=self.search.studies.threads if self.search else 1,
            )
            needs = cluster.needs(self.sweep.resources, threads)
            if address:
                from asdray.sweep import nodes

                told = nodes.check(self.sweep, self.places, self._live.estimator.estimate().bytes)
                for note in (*cluster.notes(needs["train"]), *told):
                    self._view.line(note, "yellow")
            self._extracts = needs["train"].gpu > 0 and needs["extract"].gpu == 0
            self._training = {i for i in self.left if self._works_with_model(i)}
            pool = TaskPool(self.jobs, needs, self.places, self.sweep.umap)
            searching = self.search is not None and not self.search.over
            news: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
            training = None
            if self._training or searching:
                logs = store.sweep_dir(self.places.results, self.sweep.name) / "tune"
                logs.mkdir(parents=True, exist_ok=True)
                trials = [self._without_failed(i) for i in range(len(self.jobs))]
                training = Training(
                    trials,
                    in_order(self._training, self.jobs),
                    self.sweep.checkpoints,
                    needs["train"],
                    self.places,
                    logs,
                    news,
                    Judge.of(self.sweep) if self.search else None,
                    self.sweep.scheduler,
                    self.sweep.backends,
                    self.sweep.umap,
                    self._lost_extractions() if self._extracts else None,
                    larger(needs["extract"], needs["umap"]),
                )
            self._live.room(training.slots if training else 1, cluster.cpus // 2, cluster.cpus)
            if training:
                known = sum(len(m.machines) + len(m.umaps) for m in self.left.values())
                queued = searching or len(self._training) > training.slots
                pool.warm_up(*cluster.workers(None if searching else known, queued))
                training.start()
                if self.search:
                    for index in sorted(self._training - self._held):
                        training.feed(index, self._without_failed(index))
            for index in sorted(set(self.left) - self._training - self._held):
                self._start_tasks(index, set(self.jobs[index].trial.machines), pool)
            self._loop(pool, training, news, stop, max(1, int(cluster.cpus)))

    def _loop(self, pool: Any, training: Any, news: queue.SimpleQueue, stop: Stop, cpus: int) -> None:
        trains = training is not None
        for index in set(self.left) - self._held:
            self._finish_if_complete(index)
        while trains or len(pool):
            if stop.asked:
                self._stop(stop, training)
                return
            if self.search and trains:
                self._steer(self.search, training, pool)
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
            if self._report.due():
                self.write_outputs()

    def _hear(self, kind: str, index: int, value: Any, pool: Any) -> None:
        """Takes one piece of news from Tune."""
        trial = self.jobs[index].trial
        if kind == "epoch":
            self._view.epoch(index, self.jobs[index], value)
        elif kind == "waiting":
            self._view.line(f"waiting for another process that trains {trial.name} {value}")
        elif kind == "start":
            self._report.row(index, running=True)
        elif kind == "event":
            self._record(index, value)
            if value["stage"] == ("extract" if self._extracts else "train") and value["status"] == "done":
                units = (u for u in trial.units if u.name == value["unit"])
                machines = {value["machine"]} if self._extracts else set(next(units).machines)
                if index in self._judged:  # its job goes on to what it is judged by, and needs these machines
                    self._ready.setdefault(index, set()).update(machines)
                else:
                    self._start_tasks(index, machines, pool, value["checkpoint"])
        elif kind == "judged":
            self._judged[index] = value
        elif kind in ("complete", "stopped", "error"):
            if kind == "error":
                self._record(index, failed(event_of(trial, "train"), value))
            self._training.discard(index)
            if kind == "stopped" and self.search:
                self._finished.add(index)
            if index in self._judged:
                self._tell(index, stopped=kind == "stopped")
            if kind == "stopped" and self.search:
                self._view.finished(index, self.jobs[index], True, "stopped early")
                self._report.row(index, running=False)
                return
            self._start_tasks(index, self._ready.pop(index, set()), pool)
            self._finish_if_complete(index)

    # --------------------------------------------------------------------------------------- a search

    def _steer(self, search: Searching, training: Any, pool: Any) -> None:
        """Trains what a search wants next; once it wants no more, lets Tune end."""
        busy = len(self._training - self._held)
        for index, judged in search.next(busy, training.slots, self.jobs, self._add):
            self._held.discard(index)
            if judged or self._works_with_model(index):
                if judged:
                    self._judged[index] = None
                self._training.add(index)
                training.feed(index, self.jobs[index].trial, judged)
            else:
                self._start_tasks(index, set(self.jobs[index].trial.machines), pool)
                self._finish_if_complete(index)
        self._live.estimator.upcoming = search.to_come
        if search.over and not self._training:
            training.finish()

    def _add(self, job: Job) -> int:
        """Takes one more trial into the sweep."""
        stand = job.steps(self.sweep, self.places)
        write_trial(
            job.trial, self.sweep.checkpoints, job.backends, self.sweep.umap, self.places, job.dataset
        )
        log_found(job.trial, stand, self.log)
        self._live.estimator.add_trial(len(self.jobs), job.trial, job.dataset, stand)
        self.jobs.append(job)
        self._report.add(stand)
        index = len(self.jobs) - 1
        self.left[index] = job.remaining(self.sweep, self.places)
        self._view.expect(1)
        return index

    def _tell(self, index: int, stopped: bool) -> None:
        """Tells the search how a trial of it ended."""
        assert self.search is not None
        ended = self.search.ended(index, self._judged.pop(index), stopped)
        if ended is not None:
            self._view.line(self.search.told(ended))
            for i, job in enumerate(self.jobs):
                if self.search.sample_of(job) is ended:
                    self._report.row(i, running=False)
                    self._drop(i)
            self._report.changed()

    def _start_tasks(self, index: int, machines: set[str], pool: Any, only: str | None = None) -> None:
        """Queues what follows the training of some machines of a job, as far as it is not done.

        Args:
            only: of this checkpoint.
        """
        from asdray.sweep.tasks import Item

        missing = self.jobs[index].remaining(self.sweep, self.places, self.log.lasting)
        processed = set(missing.machines)
        for ckpt, machine in missing.machines:
            if machine in machines and only in (None, ckpt):
                self._put(Item("extract", index, ckpt, machine), pool)
        for ckpt, machine in missing.umaps:
            # Where extraction is still to be done, its task queues the UMAP when it ends.
            if machine in machines and only in (None, ckpt) and (ckpt, machine) not in processed:
                self._put(Item("umap", index, ckpt, machine), pool)

    def _works_with_model(self, index: int) -> bool:
        """Whether a trial needs a training's worker."""
        if self.left[index].units or not self._extracts:
            return bool(self.left[index].units)
        steps = self.jobs[index].steps(self.sweep, self.places)
        left = {(s.checkpoint, s.machine) for s in steps if s.stage == "extract" and not s.complete}
        return not left.isdisjoint(self.left[index].machines)

    def _lost_extractions(self) -> frozenset[tuple[int, str, str]]:
        """(trial, checkpoint, machine) of those that failed before and would again."""
        failed = ((i, e) for i, events in self._failures.items() for e in events)
        return frozenset((i, e["checkpoint"], e["machine"]) for i, e in failed if e["stage"] == "extract")

    def _without_failed(self, index: int) -> Trial:
        """A job's trial without the machines whose training failed before, where each has its own."""
        trial = self.jobs[index].trial
        lost = {e["unit"] for e in self._failures.get(index, ()) if e["stage"] == "train"}
        machines = tuple(m for m in trial.machines if trial.unit_of(m).name not in lost)
        return replace(trial, machines=machines) if lost and machines else trial

    def _put(self, item: Any, pool: Any) -> None:
        self._open[item.job, item.kind] += 1
        if self._report.rows[item.job]["status"] == "waiting":
            self._report.row(item.job, running=True)
        pool.put(item)

    def _take(self, item: Any, events: list[Event], pool: Any) -> None:
        """Takes the events of a task that ended."""
        from asdray.sweep.tasks import Item

        for event in events:
            self._record(item.job, event)
        extracted = any(e["stage"] == "extract" and e["status"] == "done" for e in events)
        if item.kind == "extract" and extracted and isinstance(self.sweep.umap, Umap):
            job = self.jobs[item.job]
            snapshot = Snapshot(job.files(self.places))
            if not snapshot.umap(item.machine, item.checkpoint, self.sweep.umap).complete:
                self._put(Item("umap", item.job, item.checkpoint, item.machine), pool)
        self._open[item.job, item.kind] -= 1
        self._finish_if_complete(item.job)

    def _record(self, index: int, event: Event) -> None:
        if event["status"] == "failed" and event["lasting"]:
            # Remembered by what was asked for: changed data or options are another thing to try.
            job = self.jobs[index]
            event = with_signature(job.trial, job.steps(self.sweep, self.places), event)
        self.log.add(event)
        if event["status"] == "failed":
            self._failures.setdefault(index, []).append(event)
        self._view.take(index, self.jobs[index], event)

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
            self._report.row(index, running=False)
            self._drop(index)
            self._view.finished(index, self.jobs[index], not self._failures.get(index))
            self._report.changed()

    def _drop(self, index: int) -> None:
        """Drops what need not be kept of a trial that ended."""
        state_of = self.search.state_of(self.jobs[index]) if self.search else None
        if state_of == "open" or index not in self._finished:  # open: its objective may be asked for again
            return
        if state_of == "stopped":
            self.retention.forget_stopped(self.jobs[index])
        else:
            self.retention.look(self.jobs[index])

    def _make_table(self, index: int) -> None:
        from asdray.stages.table import table

        job = self.jobs[index]
        step = Snapshot(job.files(self.places)).table(self.sweep.checkpoints)
        if step.inputs:  # else no machine came as far as a score, and that is recorded already
            event = attempt(
                event_of(job.trial, "table"),
                lambda: table(job.trial, self.sweep.checkpoints, job.backends, self.places),
            )
            self._record(index, event)
            self._report.changed()

    def write_outputs(self) -> Leaderboard:
        """``trials.parquet``, tables and leaderboard as of now."""
        if self.stopped:  # there is no time to lose
            board = self._report.write()
        else:
            board = self._report.write(lambda: self.retention.look_beyond_the_best(self.jobs))
        self._view.board(board)
        return board

    def _stop(self, stop: Stop, training: Any = None) -> None:
        self.stopped = True
        if stop.timed_out:
            self._view.line("--wall-time is nearly over", "yellow")
        self._view.line("stopping: what is finished is kept, trainings go on from their last epoch", "yellow")
        if training:
            training.stop()
            training.join(timeout=20)
        for index, row in enumerate(self._report.rows):
            if row["status"] == "running":
                self._report.row(index, running=False)
