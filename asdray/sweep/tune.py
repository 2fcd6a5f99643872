"""Training with Ray Tune: one Tune trial trains all units of one asdray trial.

The driver runs Tune in a thread (`TuneThread`) and receives every event through a queue. In a training worker
`train_job` calls the same stage functions as the commands by hand, so complete stages are skipped and an
interrupted training resumes. The trials of a grid are known at the start; the trials of a search are
fed one by one, and a scheduler (`GroupScheduler`) may stop them early.
"""

from __future__ import annotations

import itertools
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from asdray.config.backend import Backend, Umap
from asdray.config.search import Asha, HyperBand, Median, Objective, Scheduler
from asdray.config.sweep import Need, Sweep
from asdray.config.trial import Trial, Unit
from asdray.stages.steps import Outcome, Request, TrialFiles, steps
from asdray.store import Places
from asdray.sweep import objective
from asdray.sweep.cluster import larger
from asdray.sweep.events import Event, attempt, event_of, finished, largest_batch
from asdray.sweep.study import Sample

if TYPE_CHECKING:
    from asdray.stages.clustered import Made

NICER = 5
"""Steps by which a training on the CPU lowers its own priority below that of tasks, which have niceness 10 in
a Ray that the sweep started; see `asdray.sweep.cluster`."""

REPORT_SECONDS = 0.5
"""Shortest time between two reports; epochs in between are reported together."""

EPOCHS_DONE = "epochs_done"
"""Tune metric: epochs of a trial so far, summed over its units. Schedulers count time by it."""

TRAIN_LOSS = "train_loss"
"""Tune metric: loss of the newest epoch. Schedulers compare trials by it."""

News = tuple[str, int, Any]
"""Kind, index of the trial in the sweep, value: ``start``, ``waiting`` (unit name), ``epoch`` (progress),
``source`` (progress of the training of the system that is clustered, and its name), ``event``, ``judged``
(verdict), ``complete``, ``stopped`` (by a scheduler), ``error`` (reason), and at last
``("end", -1, exception or None)``."""


# ------------------------------------------------------------------------------------ in the training worker


@dataclass(frozen=True)
class Assignment:
    """A trial for a training worker, with its place in the search.

    Attributes:
        sample: name of the trial's sample in the search; None for a trial without judge and scheduler.
        bracket: number of the sample, whose remainder chooses the bracket of HyperBand.
    """

    trial: Trial
    sample: str | None = None
    bracket: int = 0

    def __repr__(self) -> str:
        return self.trial.name  # Tune makes a tag of the configuration's text


@dataclass(frozen=True)
class WorkerOptions:
    """Options that all training workers of a sweep share.

    Attributes:
        backends, umap: stages after the training; a pruned checkpoint is rebuilt if one of these stages must
            read the checkpoint.
        device: ``cpu`` or ``cuda``.
        judge: judge of the search; None for a grid.
        extracts: True if the worker also extracts, on the device where the model is.
        failed_extractions: (trial index, checkpoint, machine) of extractions that failed in an earlier run
            and would fail again.
        log: ``events.jsonl`` of the sweep, which tells of trainings that ran out of memory; None if the user
            chose the resources of a training.
    """

    places: Places
    checkpoints: tuple[str, ...]
    backends: tuple[Backend, ...] = ()
    umap: Umap | Literal[False] = False
    device: str = "cpu"
    judge: Judge | None = None
    extracts: bool = False
    failed_extractions: frozenset[tuple[int, str, str]] = frozenset()
    log: Path | None = None

    def largest_batch(self, trial: Trial) -> int | None:
        """The largest batch that had memory on this device, if another training had too little."""
        from asdray.frontends.compute import choose_device, device_label

        if self.log is None:
            return None
        return largest_batch(self.log, trial.recipe, device_label(choose_device(self.device)))

    def request(self, trial: Trial) -> Request:
        """The results that the sweep wants of a trial."""
        return Request(self.checkpoints, trial.backends(self.backends), self.umap)


def train_job(config: dict[str, Any], trials: Mapping[int, Trial], options: WorkerOptions) -> None:
    """Trains every unit of one trial in a Tune worker; reports each stage as soon as it ends.

    The machines of a unit can be scored while other units still train. A trial of a search is judged at the
    end, in the same process, which has the model; later tasks find the stages of the judge complete.
    """
    assignment = config.get("assignment") or Assignment(trials[config["job"]])
    if options.device == "cpu" and sys.platform == "linux":
        # Lowers this thread alone. At equal priority most UMAPs would be left to the end of the sweep.
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICER
        os.setpriority(os.PRIO_PROCESS, 0, min(19, niceness))
    TrainingWorker(config["job"], assignment, options).run()


class TrainingWorker:
    """Trains, extracts and judges one trial, and reports to Tune."""

    def __init__(self, index: int, assignment: Assignment, options: WorkerOptions) -> None:
        self._index = index
        self._trial = assignment.trial
        self._options = options
        self._judge = options.judge if assignment.sample is not None else None
        self._units_ended = 0
        self._last_report = 0.0

    def run(self) -> None:
        """Trains all units; a unit that fails does not stop the others."""
        _set_process_title(self._trial)
        rebuild = self._units_to_rebuild()
        failed = 0
        for unit in self._trial.units:
            event = self._train(unit, rebuild=unit.name in rebuild)
            self._units_ended += 1
            failed += event["status"] == "failed"
            self._report({"events": [event]})
            if self._options.extracts and event["status"] == "done":
                self._extract(unit)
        if self._judge is not None and not failed:
            events = self._judge.events(self._trial, self._options.places, self._options.device)
            self._report({"events": events})
            self._report({"judged": self._judge.verdict(self._trial, events, self._options.places)})
        self._report({"ended": True})

    def _report(self, news: dict[str, Any]) -> None:
        tune.report(news)
        _set_process_title(self._trial)  # a call of Tune's sets Ray's own title again

    def _units_to_rebuild(self) -> set[str | None]:
        """Units whose pruned checkpoint must be rebuilt for the stages that follow."""
        reads_embeddings = self._judge is not None and self._judge.reads_embeddings
        return units_to_rebuild(self._trial, self._options, self._trial.machines if reads_embeddings else ())

    def _train(self, unit: Unit, rebuild: bool) -> Event:
        from asdray.stages.clustered import complete_clusters
        from asdray.stages.train import Device, train

        options = self._options

        def trained() -> Outcome:
            files = TrialFiles.load(self._trial, options.places, unit.machines)
            for made in complete_clusters(
                files,
                unit,
                options.checkpoints,
                device=options.device,
                again=rebuild,
                on_epoch=self._on_epoch_of_source,
            ):
                self._report({"events": [source_event(made)]})
            return train(
                files,
                unit,
                checkpoints=options.checkpoints,
                on_epoch=partial(self._on_epoch, unit.name),
                on_wait=lambda: self._report({"waiting": unit.name}),
                device=Device(options.device, options.largest_batch(self._trial)),
                rebuild=rebuild,
            )

        return attempt(event_of(self._trial, "train", unit=unit.name), trained)

    def _on_epoch(self, unit: str, progress: dict[str, Any]) -> None:
        compared = self._judge is not None and self._judge.scheduled  # then no epoch may be left out
        if compared or time.monotonic() - self._last_report >= REPORT_SECONDS:
            self._last_report = time.monotonic()
            done = self._units_ended * progress["epochs"] + progress["epoch"]
            self._report(
                {"epoch": {**progress, "unit": unit}, EPOCHS_DONE: done, TRAIN_LOSS: progress["loss"]}
            )

    def _on_epoch_of_source(self, source: Trial, progress: Mapping[str, Any]) -> None:
        if time.monotonic() - self._last_report >= REPORT_SECONDS:
            self._last_report = time.monotonic()
            self._report({"source": {**progress, "trial": source.name}})

    def _extract(self, unit: Unit) -> None:
        from asdray.sweep.tasks import extract_machine

        options, trial = self._options, self._trial
        for checkpoint, machine in itertools.product(options.checkpoints, unit.machines):
            if (self._index, checkpoint, machine) not in options.failed_extractions:
                request = options.request(trial)
                event = extract_machine(trial, request, checkpoint, machine, options.places, options.device)
                self._report({"events": [event]})


def source_event(made: Made) -> Event:
    """The event of a stage for the clusters of a training; the trial is the one that is clustered."""
    if made.stage == "train":
        event = event_of(made.trial, "train", unit=made.of)
    else:
        at = {"machine": made.of, "checkpoint": "last", "backend": made.clustering}
        event = event_of(made.trial, made.stage, **at)
    return finished(event, made.outcome.record, made.outcome.reused)


def units_to_rebuild(
    trial: Trial, options: WorkerOptions, read_machines: Sequence[str] = ()
) -> set[str | None]:
    """Units whose checkpoints were pruned and are needed again.

    Args:
        read_machines: machines whose embeddings an objective reads in any case.
    """
    try:
        files = TrialFiles.load(trial, options.places)
        found = steps(files, options.request(trial), read_machines)
    except ValueError:
        return set()  # the data have changed: the training itself names the fault
    return {step.unit for step in found if step.stage == "train" and step.rebuild}


def _set_process_title(trial: Trial) -> None:
    """Names this process after its training, for the dashboard's page of nodes and for ``ps``.

    A reused actor would keep the name of its first trial.
    """
    set_title = getattr(ray._raylet, "setproctitle", None)  # not public: without it Ray's title stays
    if set_title and ray.is_initialized():
        set_title(f"ray::train {trial.name}")


@dataclass(frozen=True)
class Judge:
    """Computes the objective of a search's trials.

    Attributes:
        scheduled: True if a scheduler compares the trials epoch by epoch.
    """

    objective: Objective
    backends: tuple[Backend, ...]
    scheduled: bool

    @classmethod
    def of(cls, sweep: Sweep) -> Judge:
        """The judge of a search."""
        assert sweep.search.objective is not None
        return cls(sweep.search.objective, sweep.backends, sweep.scheduler is not None)

    @property
    def reads_embeddings(self) -> bool:
        """True if the objective is computed from training embeddings."""
        return self.objective.metric == "compactness"

    def events(self, trial: Trial, places: Places, device: str) -> list[Event]:
        """Runs the stages that the objective reads: extraction and, for a score, scoring and evaluation."""
        from asdray.sweep.tasks import process_machine

        checkpoint = self.objective.checkpoint
        backends = trial.backends(self.backends) if self.objective.metric == "official_dev" else ()
        request = Request((checkpoint,), backends)
        return [
            event
            for machine in objective.machines_needed(self.objective, trial)
            for event in process_machine(
                trial, request, checkpoint, machine, places, device, read_embeddings=self.reads_embeddings
            )
        ]

    def verdict(self, trial: Trial, events: Sequence[Event], places: Places) -> dict[str, Any]:
        """``values`` of the objective (see `asdray.sweep.objective.values`), and the ``reason`` for none."""
        if failures := [e for e in events if e["status"] == "failed"]:
            first = failures[0]
            return {"values": {}, "reason": f"{first['stage']} {first['machine']}: {first['error']}"}
        try:
            found = objective.values(self.objective, trial, trial.backends(self.backends), places)
        except ValueError as error:
            return {"values": {}, "reason": str(error)}
        return {"values": found, "reason": None}


# --------------------------------------------------------------------------------------- in the driver


class TuneThread(threading.Thread):
    """Runs a Tuner beside the driver's loop, which must stay free to submit tasks and to notice signals.

    Args:
        trials: index -> trial, in the order in which a grid trains; empty for a search, see `feed`.
        needs: reservations of a training and of the tasks, see `asdray.sweep.cluster.Cluster.needs`.
        logs: folder of Tune's own logs.
        news: queue to the driver, see `News`.
        scheduler: may stop the trials of a search.
    """

    def __init__(
        self,
        trials: Mapping[int, Trial],
        options: WorkerOptions,
        needs: Mapping[str, Need],
        logs: Path,
        news: queue.SimpleQueue[News],
        scheduler: Scheduler | None = None,
    ) -> None:
        super().__init__(name="training", daemon=True)
        self._news = news
        self._stop_event = threading.Event()
        self._names = _Names({index: trial.name for index, trial in trials.items()})
        self._feed = Feed() if options.judge else None
        need, task_need = needs["train"], larger(needs["extract"], needs["umap"])
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.slots = concurrent_trainings(
            need, task_need, [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
        )
        # Placement groups that wait at once. By default Tune has Ray keep 200 of a grid, of 50 kB each.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if self._feed else str(max(16, self.slots))
        self._tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_job, trials=dict(trials), options=options),
                {"cpu": need.cpu, "gpu": need.gpu},
            ),
            param_space={} if self._feed else {"job": tune.grid_search(list(trials))},
            tune_config=self._tune_config(scheduler, limited=bool(task_need.cpu or task_need.gpu)),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(logs),
                verbose=0,
                callbacks=[_Listener(news)],
                stop=_StopWhenAsked(self._stop_event),
                failure_config=tune.FailureConfig(max_failures=2),  # lost workers only: stages do not raise
            ),
        )

    def _tune_config(self, scheduler: Scheduler | None, limited: bool) -> tune.TuneConfig:
        return tune.TuneConfig(
            search_alg=self._feed,
            # Without a limit as many train as fit, and more when nodes join.
            max_concurrent_trials=self.slots if limited and not self._feed else None,
            num_samples=-1 if self._feed else 1,
            scheduler=GroupScheduler(scheduler) if scheduler else None,
            reuse_actors=True,  # Lightning's import takes ten seconds: once per worker is enough
            trial_name_creator=self._names.shown,
            trial_dirname_creator=self._names.folder,
        )

    def feed(self, index: int, trial: Trial, sample: Sample | None = None) -> None:
        """Hands over one more trial of a search; ``sample`` if the trial is judged."""
        assert self._feed is not None
        self._names[index] = trial.name
        assignment = Assignment(trial, sample.name, sample.number) if sample else Assignment(trial)
        self._feed.put({"job": index, "assignment": assignment})

    def finish(self) -> None:
        """Lets Tune end after the trials that were fed."""
        assert self._feed is not None
        self._feed.put(None)

    def stop(self) -> None:
        """Asks Tune to end now; running epochs are lost, and trainings resume after the last whole epoch."""
        self._stop_event.set()

    def run(self) -> None:
        tuner = self._tuner
        del self._tuner  # frees Tune's record of every trial while the last tasks still run
        error: BaseException | None = None
        try:
            tuner.fit()
        except BaseException as raised:  # the driver's loop reports it
            error = raised
        self._news.put(("end", -1, error))


def concurrent_trainings(need: Need, task_need: Need, nodes: Sequence[tuple[float, float]]) -> int:
    """Number of trainings that run at once; the reservation of one task stays free, so that tasks can run.

    Args:
        need: reservation of a training, which runs on one node.
        task_need: reservation of the largest task.
        nodes: CPUs and GPUs of each node.

    >>> concurrent_trainings(Need(cpu=1), Need(cpu=1), [(2, 0)])
    1
    """
    cpus, gpus = (sum(kind) for kind in zip(*nodes, strict=True))
    at_most = sum(_fitting(need, *node) for node in nodes)
    return max(1, min(at_most, _fitting(need, cpus - task_need.cpu, gpus - task_need.gpu)))


def _fitting(need: Need, cpus: float, gpus: float) -> int:
    limits = [int(free / wanted) for wanted, free in ((need.cpu, cpus), (need.gpu, gpus)) if wanted]
    return min(limits, default=int(cpus))


class _Listener(tune.Callback):
    """Hands Tune's news to the driver's loop. No method may raise: Tune would mark the trial as failed."""

    def __init__(self, news: queue.SimpleQueue[News]) -> None:
        self._news = news

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its callbacks once and never uses the copy

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        index = trial.config["job"]
        for event in result.get("events") or ():
            self._news.put(("event", index, event))
        for kind in ("judged", "waiting", "source", "epoch"):
            if result.get(kind):
                self._news.put((kind, index, result[kind]))

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("start", trial.config["job"], None))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        ended = (trial.last_result or {}).get("ended")
        # Statistics of every number that was ever reported, 12 kB, which only Tune's own tables need.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()
        self._news.put(("complete" if ended else "stopped", trial.config["job"], None))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        error = trial.get_error() if hasattr(trial, "get_error") else None
        text = " ".join(str(error or "its worker was lost").split())
        reason = f"training stopped after its retries: {text[:400]}"
        self._news.put(("error", trial.config["job"], reason))


class _StopWhenAsked(tune.Stopper):
    """Ends Tune once the driver asks for the end."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __getstate__(self) -> dict:
        return {}

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.is_set()


class _Names(dict[int, str]):
    """Index -> name of a trial. Pickled empty: Tune pickles the names once per trial and reads no copy."""

    def __reduce__(self) -> tuple:
        return _Names, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Names:
        return self

    # Not lambdas: Tune would write three kilobytes of a lambda's code with every trial.
    def shown(self, trial: Any) -> str:
        """The name of a Tune trial."""
        return f"train {self[trial.config['job']]}"

    def folder(self, trial: Any) -> str:
        """The name of a Tune trial's folder below its logs."""
        return self[trial.config["job"]].replace(" ", "-")


# ------------------------------------------------------------------------------------------- of a search


class Feed(Searcher):
    """A Tune searcher that hands out the configurations put in by the driver, in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def put(self, config: dict[str, Any] | None) -> None:
        """Adds the configuration of one more trial; None: no more will follow."""
        self._queue.put(config)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        try:
            config = self._queue.get(timeout=0.02)
        except queue.Empty:
            return None
        return Searcher.FINISHED if config is None else config

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass  # a search resumes from its study

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its searcher once and never uses the copy


class GroupScheduler(FIFOScheduler):
    """A Tune scheduler for each group of comparable trials: one recipe, year, seed, and HyperBand bracket.

    Losses of different years cannot be compared, and two seeds of one system must not compete. When a
    scheduler stops one trial of a sample, the sample's other trials are stopped too.

    The compared losses are not stored: each run of the driver begins without any. After an
    interruption a training may continue that an undisturbed search would have stopped; stopped samples stay
    stopped.
    """

    def __init__(self, options: Scheduler) -> None:
        super().__init__()
        self._options = options
        self._schedulers: dict[tuple, TrialScheduler] = {}
        self._stopped: set[str] = set()

    def __getstate__(self) -> dict:
        return {}

    def _scheduler(self, assignment: Assignment) -> TrialScheduler:
        brackets = self._options.brackets if isinstance(self._options, HyperBand) else 1
        bracket = assignment.bracket % brackets
        trial = assignment.trial
        key = (trial.recipe, trial.dcase, trial.seed, bracket)
        if key not in self._schedulers:
            self._schedulers[key] = _make_scheduler(self._options, _epochs(trial), bracket)
        return self._schedulers[key]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        assignment = trial.config["assignment"]
        if assignment.sample is not None:
            self._scheduler(assignment).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        assignment = trial.config["assignment"]
        if assignment.sample is None or EPOCHS_DONE not in result:
            return TrialScheduler.CONTINUE
        if assignment.sample not in self._stopped:
            decision = self._scheduler(assignment).on_trial_result(tune_controller, trial, result)
            if decision != TrialScheduler.STOP or result[EPOCHS_DONE] >= _epochs(assignment.trial):
                return TrialScheduler.CONTINUE
            self._stopped.add(assignment.sample)
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        assignment = trial.config["assignment"]
        if assignment.sample is not None and EPOCHS_DONE in result:
            self._scheduler(assignment).on_trial_complete(tune_controller, trial, result)


def _epochs(trial: Trial) -> int:
    """Epochs of all units of a trial; a scheduler's trainings have a known number."""
    return (trial.system.train.known_epochs or 0) * len(trial.units)


def _make_scheduler(options: Scheduler, epochs: int, bracket: int) -> TrialScheduler:
    """Tune's scheduler for one group of comparable trials of ``epochs`` epochs each."""
    common: dict[str, Any] = {"time_attr": EPOCHS_DONE, "metric": TRAIN_LOSS, "mode": "min"}
    match options:
        case Asha() | HyperBand():
            first = options.grace_period * options.reduction_factor**bracket
            return ASHAScheduler(
                **common,
                max_t=max(epochs, 1),
                grace_period=min(max(1, round(first)), max(epochs, 1)),
                reduction_factor=options.reduction_factor,
                stop_last_trials=False,  # a trial that has reached the last epoch is complete
            )
        case Median():
            return MedianStoppingRule(
                **common,
                grace_period=options.grace_period,
                min_samples_required=options.min_samples,
                min_time_slice=math.inf,  # type: ignore[arg-type]  # never pauses a training to wait for others
            )
    raise AssertionError(options)
