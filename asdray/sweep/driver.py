"""The loop of a sweep on Ray: trains the missing trials, and runs the tasks that follow each training.

Ray Tune trains in a thread and sends news through a queue; tasks run in a pool. The loop, in the driver's
main thread, handles both, asks the search for more trials, and keeps the sweep's tables up to date.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from asdray.config.sweep import Resources
from asdray.config.trial import unit_title
from asdray.sweep import nodes
from asdray.sweep.cluster import Cluster, Metrics
from asdray.sweep.events import Event, event_of, failed, key_of, read
from asdray.sweep.jobs import Job, TrialRun
from asdray.sweep.outputs import preload_report
from asdray.sweep.ray_loss import RayWatch
from asdray.sweep.search import SearchRun
from asdray.sweep.shares import Shares
from asdray.sweep.stop import Stop
from asdray.sweep.sweep_run import SweepRun
from asdray.sweep.tasks import Task, TaskPool
from asdray.sweep.training_worker import Judge, WorkerOptions
from asdray.sweep.tune import News, TuneThread
from asdray.sweep.watch import Watch

TUNE_ENDS_WITHIN = 20.0
"""Seconds in which Tune ends; without an answer from its workers, of a lost Ray, it takes five."""


def in_training_order(runs: Iterable[TrialRun]) -> list[TrialRun]:
    """The trials in the order in which a grid trains them.

    What others wait for comes first: a system that is clustered for pseudo-labels or, where the sweep does
    not train it, one trial whose training completes it. All others with these clusters come last, and find
    them. Trials with one model per machine come after trials of one model, which have all their tasks at the
    end, so that a sweep does not end with many tasks and no training beside them.
    """
    runs = list(runs)
    of = {run.index: run.trial.clustered(run.trial.machines) for run in runs}
    sources = {source.name for source in of.values() if source is not None}
    begun = {run.trial.name for run in runs} & sources
    ranks: dict[int, int] = {}
    for run in runs:
        source = of[run.index]
        if source is None:
            ranks[run.index] = 0 if run.trial.name in begun else 1
        else:
            ranks[run.index] = 2 if source.name in begun else 0
            begun.add(source.name)
    return sorted(runs, key=lambda run: (ranks[run.index], run.trial.system.frontend.scope == "machine"))


class Driver:
    """Drives one run of a sweep on a running Ray.

    Args:
        sweep_run: the state of the run; every event is reported to it.
        stop: the request to stop, by the user or the time limit.

    Raises:
        ValueError: reservations that no node of the cluster can give.
    """

    def __init__(self, sweep_run: SweepRun, cluster: Cluster, stop: Stop) -> None:
        self._sweep_run = sweep_run
        self._sweep = sweep_run.sweep
        self._search = sweep_run.search
        self._runs = sweep_run.runs
        self._view = sweep_run.view
        self._cluster = cluster
        self._stop = stop
        self._needs = cluster.needs(self._sweep.resources, self._most_threads())
        self._worker_extracts = self._needs["train"].gpu > 0 and self._needs["extract"].gpu == 0
        """True if the worker of a training also extracts, even for a trial that is already trained."""
        self._shares = self._make_shares()
        running = sweep_run.folder.running
        self._pool = TaskPool(
            self._needs,
            sweep_run.places,
            self._sweep.umap,
            running,
            cluster.worker_seconds,
            self._task_lost,
        )
        self._watch = Watch(
            sweep_run.folder,
            self._sweep.stall_after,
            self._warn,
            cluster.node,
            names=lambda: sweep_run.progress.names,
        )
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._tune: TuneThread | None = None
        self._warm = False
        """True once workers for tasks are warmed up."""
        self._ray = RayWatch()

    def _make_shares(self) -> Shares | None:
        """With ``resources: auto``, GPUs and a grid: how trainings share a GPU; else None."""
        if self._sweep.resources != Resources() or self._search or self._needs["train"].gpu != 1:
            return None
        return Shares(read(self._sweep_run.folder.events), sum(gpus for _, gpus in self._cluster.nodes))

    def _most_threads(self) -> int:
        """Threads of the training that uses most, systems that a search has yet to suggest included."""
        systems = [run.trial.system for run in self._runs]
        threads = [s.train.threads for of in systems for s in (of, of.clustered) if s is not None]
        return max([1, *threads, *([self._search.studies.threads] if self._search else [])])

    # ------------------------------------------------------------------------------------------- start

    def run(self, joined: bool) -> None:
        """Works until no work is left or the user asks for a stop.

        Args:
            joined: True on a Ray that this sweep did not start; then all nodes are checked first.
        """
        try:
            self._announce(joined)
            self._choose_phases()
            self._tune = self._make_tune()
            self._set_slots()
            self._begin()
            self._loop()
        except BaseException:
            self._stop_training()  # before Ray ends, which the thread goes on to ask
            raise
        finally:
            self._watch.end()

    def _begin(self) -> None:
        """Starts the trainings, and the tasks of trials that need none."""
        if self._tune:
            self._tune.start()
            if self._search:
                for run in self._in_phase("queued"):
                    self._tune.feed(run.index, run.trainable())
        for run in self._in_phase("idle"):
            if run.asked:
                self._start_tasks(run, run.trial.machines)
                self._sweep_run.end_if_finished(run)

    def _announce(self, joined: bool) -> None:
        """Prints the dashboard's address and, for a joined Ray, warnings about the nodes."""
        progress = self._sweep_run.progress
        self._view.export(Metrics(self._sweep.name))
        progress.dashboard, progress.metrics = self._cluster.dashboard, self._cluster.metrics
        if progress.dashboard:
            self._view.line(f"Ray dashboard: {progress.dashboard}; metrics: {progress.metrics}")
        if fault := self._cluster.dashboard_fault:
            text = f"Ray's dashboard did not start ({fault}): the sweep goes on without it"
            self._view.line(text, "yellow")
        if joined:
            space = self._sweep_run.estimator.estimate().bytes
            warnings = nodes.check(self._sweep, self._sweep_run.places, space)
            for text in (*self._cluster.notes(self._needs["train"]), *warnings):
                self._view.line(text, "yellow")

    def _choose_phases(self) -> None:
        """Decides which trials are trained, and which wait for the search to ask for them."""
        suggested = self._search.open_trials([run.job for run in self._runs]) if self._search else set()
        for run in self._runs:
            if run.index in suggested:
                run.phase = "suggested"
            elif run.asked and self._needs_worker(run):
                run.phase = "queued"

    def _needs_worker(self, run: TrialRun) -> bool:
        """True if a trial needs a training's worker: to train, or to extract if such workers extract."""
        if run.left.units or not self._worker_extracts:
            return bool(run.left.units)
        steps = run.job.steps(self._sweep, self._sweep_run.places)
        missing = {(s.checkpoint, s.machine) for s in steps if s.stage == "extract" and not s.complete}
        return not missing.isdisjoint(run.left.machines)

    def _make_tune(self) -> TuneThread | None:
        """The thread in which Ray Tune trains; None if no training is left."""
        queued = self._in_phase("queued")
        searching = self._search is not None and not self._search.exhausted
        if not queued and not searching:
            return None
        sweep, folder = self._sweep, self._sweep_run.folder
        folder.tune_logs.mkdir(parents=True, exist_ok=True)
        extractions = (
            (run.trial.name, event["checkpoint"], event["machine"])
            for run in self._runs
            for event in run.failures
            if event["stage"] == "extract"
        )
        options = WorkerOptions(
            self._sweep_run.places,
            sweep.checkpoints,
            sweep.backends,
            sweep.umap,
            device="cuda" if self._needs["train"].gpu else "cpu",
            judge=Judge.of(sweep) if self._search else None,
            extracts=self._worker_extracts,
            failed_extractions=frozenset(extractions),
            log=None if sweep.resources.train else folder.events,
            signs=folder.running,
        )
        trials = {} if self._search else {run.index: run.trainable() for run in in_training_order(queued)}
        tune = TuneThread(
            trials, options, self._needs, folder.tune_logs, self._news, sweep.scheduler, self._shares
        )
        for index, parts in tune.parts.items():
            self._runs[index].parts = parts
        return tune

    def _set_slots(self) -> None:
        """Sets the numbers of trainings and tasks that run at once."""
        cpus, slots = self._cluster.cpus, self._tune.slots if self._tune else 1
        self._sweep_run.progress.set_slots(slots, cpus // 2, cpus)

    def _warm_up(self) -> None:
        """Warms up workers for tasks, once as many trainings as fit have workers of their own."""
        unstarted = sum(run.parts - run.parts_begun for run in self._runs if run.in_training)
        at_work = sum(run.parts_begun - run.parts_ended for run in self._runs if run.in_training)
        if self._warm or not self._tune or (unstarted > 0 and at_work < self._tune.slots):
            return
        self._warm = True
        searching = self._search is not None and not self._search.exhausted
        asked = [run.left for run in self._runs if run.asked]
        tasks = None if searching else sum(len(left.machines) + len(left.umaps) for left in asked)
        modules = sorted({name for run in self._runs for name in run.trial.system.frontend.modules})
        self._pool.warm_up(*self._cluster.workers(tasks, searching or unstarted > 0), modules)
        if self._sweep.report:  # while nothing else is to be done here
            threading.Thread(target=preload_report, daemon=True).start()

    def _in_phase(self, phase: str) -> list[TrialRun]:
        return [run for run in self._runs if run.phase == phase]

    # -------------------------------------------------------------------------------------------- loop

    def _loop(self) -> None:
        cpus = max(1, int(self._cluster.cpus))
        while self._tune or len(self._pool):
            if self._stop.asked:
                self._sweep_run.stop(self._stop.why, self._stop_training)
                return
            if why := self._ray.loss() or self._sweep_run.failed_fast:
                self._sweep_run.stop(why, self._stop_training)
                return
            self._sweep_run.tell_of_trackers()
            if news := self._ray.news():
                self._view.line(news, "yellow")
            if self._search and self._tune:
                self._ask_search(self._search, self._tune)
            self._receive_news()
            self._watch.look()
            slots = max(1, cpus // 2) if self._tune else cpus
            for task, events in self._pool.step(slots, timeout=0.1):
                self._task_ended(task, events)
            if not len(self._pool):
                time.sleep(0.05)  # the pool waits only while tasks run
            self._sweep_run.progress.open_tasks = len(self._pool)
            self._view.tick()
            self._sweep_run.write_tables_if_due()

    def _stop_training(self) -> None:
        """Ends Tune: while its thread waits within Ray, a shutdown of Ray would crash the process."""
        if self._tune and self._tune.is_alive():
            self._tune.stop()
            self._tune.join(TUNE_ENDS_WITHIN)

    def _receive_news(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                kind, index, value = self._news.get_nowait()
                if kind == "end":
                    self._tune_ended(value)
                else:
                    self._handle(kind, self._runs[index], value)

    def _handle(self, kind: str, run: TrialRun, value: Any) -> None:
        """Handles one piece of news about a trial."""
        match kind:
            case "start":
                run.phase, run.parts_begun = "training", run.parts_begun + 1
                self._warm_up()
            case "waiting":
                self._view.line(
                    f"waiting for another process that trains {run.trial.title} {unit_title(value)}"
                )
            case "source":
                self._view.source_epoch(value)
                self._watch.took("train", value["seconds"])
            case "epoch":
                run.progress[value["unit"]] = value
                self._sweep_run.trackers.epoch(run.job)
                unit, seconds, epochs = value["unit"], value["seconds"], value["epochs"]
                self._sweep_run.estimator.epoch_ended(run.index, unit, seconds, epochs)
                self._watch.took("train", seconds)
            case "event":
                self._stage_ended(run, value)
            case "judged":
                run.verdict = value
            case "stopped" if self._search:
                self._stopped_early(run)
            case "lost":
                run.parts_begun -= 1  # until its other worker begins
                why = f"{value}{self._watch.last_words(run.trial)}"
                self._warn(f"lost the worker of {run.trial.title} ({why}): the training goes on in another")
            case "error":
                reason = f"{value}{self._watch.last_words(run.trial)}"
                self._sweep_run.record(run, failed(event_of(run.trial, "train"), reason))
                self._part_ended(run)
            case _:  # complete, or stopped with the whole sweep
                self._part_ended(run)

    def _tune_ended(self, error: BaseException | None) -> None:
        """Handles the end of Tune; trials without a result failed, since Tune reported nothing about them."""
        self._tune = None
        if error is not None:
            self._view.line(f"training ended: {error}", "red")
        for run in self._runs:
            if run.in_training or run.phase == "suggested":
                run.parts_ended = run.parts - 1
                self._handle("error", run, f"training ended without a result: {error}")

    def _stage_ended(self, run: TrialRun, event: Event) -> None:
        """Handles the end of a stage in a training's worker, and starts the tasks of the stage's machines.

        The machines of a trial that the search judges wait until the worker has computed the objective.
        """
        if self._shares:
            self._shares.learn(event)
        if (event["system"], event["seed"]) != (run.trial.system_name, run.trial.seed):
            self._sweep_run.record_of_source(event)
            return
        self._record(run, event)
        if event["stage"] != ("extract" if self._worker_extracts else "train") or event["status"] != "done":
            return
        if self._worker_extracts:
            machines: tuple[str, ...] = (event["machine"],)
        else:
            machines = next(unit.machines for unit in run.trial.units if unit.name == event["unit"])
        if run.judged:
            run.trained_machines.update(machines)
        else:
            self._start_tasks(run, machines, event["checkpoint"])

    def _record(self, run: TrialRun, event: Event) -> None:
        """Records a stage, except a failure that a training reports again after the loss of its worker."""
        if event["status"] == "failed" and any(
            key_of(event) == key_of(before) and event["error"] == before["error"]
            for before in self._sweep_run.log.failures
        ):
            return
        self._sweep_run.record(run, event)
        if event["status"] == "done" and not event["found"] and event["stage"] != "train":
            self._watch.took(event["stage"], event["seconds"])

    def _part_ended(self, run: TrialRun) -> None:
        """Handles the end of a Tune trial, which trained a trial or a part of it."""
        run.parts_ended += 1
        if run.parts_ended >= run.parts:
            self._training_ended(run)

    def _training_ended(self, run: TrialRun) -> None:
        """Handles the end of a trial's training."""
        run.training_ended()
        if run.judged:
            self._tell_search(run, stopped=False)
        self._start_tasks(run, run.trained_machines)
        run.trained_machines = set()
        self._sweep_run.end_if_finished(run)

    def _stopped_early(self, run: TrialRun) -> None:
        """Handles a scheduler's stop of a trial's Tune trial."""
        run.ended()
        if run.judged:
            self._tell_search(run, stopped=True)
        self._sweep_run.end(run, "stopped early")

    def _warn(self, text: str) -> None:
        self._view.line(text, "yellow")

    # ------------------------------------------------------------------------------------------- tasks

    def _start_tasks(self, run: TrialRun, machines: Iterable[str], checkpoint: str | None = None) -> None:
        """Queues the incomplete tasks of some trained machines.

        Args:
            checkpoint: queues only the tasks of this checkpoint; None: the tasks of all checkpoints.
        """
        machines = set(machines)
        left = run.job.remaining(self._sweep, self._sweep_run.places, self._sweep_run.log.lasting)
        # A machine that is still to be extracted has its UMAP queued when that task ends.
        plots = [at for at in left.umaps if at not in left.machines]
        for kind, pairs in (("extract", left.machines), ("umap", plots)):
            for ckpt, machine in pairs:
                if machine in machines and checkpoint in (None, ckpt):
                    self._queue(Task(kind, run, ckpt, machine))  # type: ignore[arg-type]

    def _queue(self, task: Task) -> None:
        task.run.task_queued(task.kind)
        self._pool.put(task)

    def _task_lost(self, task: Task, reason: str) -> None:
        """Tells of a task that runs once more."""
        why = f"{reason}{self._watch.last_words(task.run.trial)}"
        text = f"lost the worker of {task.kind} {task.machine} of {task.run.trial.title} ({why})"
        self._warn(f"{text}: the task runs in another")

    def _task_ended(self, task: Task, events: list[Event]) -> None:
        """Handles the events of a task; a machine that is extracted now has its UMAP queued."""
        run = task.run
        for event in events:
            self._record(run, event)
        extracted = any(e["stage"] == "extract" and e["status"] == "done" for e in events)
        if extracted and self._sweep_run.needs_umap(run, task.checkpoint, task.machine):
            self._queue(Task("umap", run, task.checkpoint, task.machine))
        run.tasks[task.kind] -= 1
        self._sweep_run.end_if_finished(run)

    # ------------------------------------------------------------------------------------------ search

    def _ask_search(self, search: SearchRun, tune: TuneThread) -> None:
        """Trains the trials that the search wants next; lets Tune end once the search wants no more."""
        busy = sum(run.in_training for run in self._runs)
        jobs = [run.job for run in self._runs]
        for index, sample in search.next(busy, tune.slots, jobs, self._admit):
            run = self._runs[index]
            run.phase = "idle"
            run.judged = sample is not None
            if run.judged or self._needs_worker(run):
                run.phase = "queued"
                tune.feed(index, run.trial, sample)
            else:
                self._start_tasks(run, run.trial.machines)
                self._sweep_run.end_if_finished(run)
        self._sweep_run.estimator.upcoming = search.upcoming
        if search.exhausted and not any(run.in_training or run.phase == "suggested" for run in self._runs):
            tune.finish()

    def _admit(self, job: Job) -> int:
        """Adds a trial of the search; returns the index."""
        run = self._sweep_run.admit(job)
        self._view.trial_added()
        return run.index

    def _tell_search(self, run: TrialRun, stopped: bool) -> None:
        """Reports the end of a trial to the search."""
        assert self._search is not None
        verdict: Mapping[str, Any] | None = run.verdict
        run.judged, run.verdict = False, None
        sample = self._search.ended(run.index, verdict, stopped)
        if sample is not None:
            self._view.line(self._search.outcome_line(sample))
            self._sweep_run.sample_ended(run)
