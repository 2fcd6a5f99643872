"""Ray Tune in the driver of a sweep: a thread (`TuneThread`) that sends every event through a queue.

The trials of a grid are known at the start; the trials of a search are fed one by one, and a scheduler
(`GroupScheduler`) may stop them early. `asdray.sweep.training_worker` is the part in the workers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from asdray.config.search import Asha, HyperBand, Median, Scheduler
from asdray.config.sweep import Need
from asdray.config.trial import Trial
from asdray.sweep.cluster import larger
from asdray.sweep.shares import MOST, Shares
from asdray.sweep.signs import MOST_IN_ALL
from asdray.sweep.study import Sample
from asdray.sweep.tasks import why_lost
from asdray.sweep.training_worker import EPOCHS_DONE, TRAIN_LOSS, Assignment, WorkerOptions, train_job

News = tuple[str, int, Any]
"""Kind, index of the trial in the sweep, value: ``start``, ``waiting`` (unit name), ``epoch`` (progress),
``source`` (progress of the training of the system that is clustered, and its name), ``event``, ``judged``
(verdict), ``complete``, ``stopped`` (by a scheduler), ``lost`` (reason; the training goes on in another
worker), ``error`` (reason), and at last ``("end", -1, exception or None)``."""


class TuneThread(threading.Thread):
    """Runs a Tuner beside the driver's loop, which must stay free to submit tasks and to notice signals.

    Args:
        trials: index -> trial, in the order in which a grid trains; empty for a search, see `feed`.
        needs: reservations of a training and of the tasks, see `asdray.sweep.cluster.Cluster.needs`.
        logs: folder of Tune's own logs.
        news: queue to the driver, see `News`.
        scheduler: may stop the trials of a search.
        shares: decides about the part of a GPU for every training of a grid, when it begins; None: as in
            ``needs``.
    """

    def __init__(
        self,
        trials: Mapping[int, Trial],
        options: WorkerOptions,
        needs: Mapping[str, Need],
        logs: Path,
        news: queue.SimpleQueue[News],
        scheduler: Scheduler | None = None,
        shares: Shares | None = None,
    ) -> None:
        super().__init__(name="training", daemon=True)
        # Nothing reads Tune's snapshots: one that a full disk prevents is not worth a traceback.
        logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
        self._news = news
        self._stop_event = threading.Event()
        self._feed = Feed(shares) if options.judge or shares else None
        need, task_need = needs["train"], larger(needs["extract"], needs["umap"])
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.slots = concurrent_trainings(
            need, task_need, [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
        )
        self._work = _Work(enumerate(in_parts(trials, self.slots * MOST if shares else self.slots)))
        self.parts = Counter(part.index for part in self._work.values())
        """Index of a trial -> number of Tune's trials for it; empty for a search."""
        # Placement groups that wait at once. By default Tune has Ray keep 200 of a grid, of 50 kB each.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if self._feed else str(max(16, self.slots))
        of_number = {number: part.trial for number, part in self._work.items()}
        self._tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_job, trials={} if shares else of_number, options=options),
                partial(_part_of_gpu, need.cpu) if shares else {"cpu": need.cpu, "gpu": need.gpu},
            ),
            param_space={} if self._feed else {"work": tune.grid_search(list(of_number))},
            tune_config=self._tune_config(scheduler, limited=bool(task_need.cpu or task_need.gpu)),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(logs),
                verbose=0,
                callbacks=[_Listener(news, self._work)],
                stop=_StopWhenAsked(self._stop_event),
                failure_config=tune.FailureConfig(max_failures=MOST_IN_ALL),
            ),
        )
        if shares and self._feed:
            for number, part in self._work.items():
                self._feed.put({"work": number, "assignment": Assignment(part.trial)})
            self.finish()

    def _tune_config(self, scheduler: Scheduler | None, limited: bool) -> tune.TuneConfig:
        return tune.TuneConfig(
            search_alg=self._feed,
            # Without a limit as many train as fit, and more when nodes join.
            max_concurrent_trials=self.slots if limited and not self._feed else None,
            num_samples=-1 if self._feed else 1,
            scheduler=GroupScheduler(scheduler) if scheduler else None,
            reuse_actors=True,  # Lightning's import takes ten seconds: once per worker is enough
            trial_name_creator=self._work.shown,
            trial_dirname_creator=self._work.folder,
        )

    def feed(self, index: int, trial: Trial, sample: Sample | None = None) -> None:
        """Hands over one more trial of a search; ``sample`` if the trial is judged."""
        assert self._feed is not None
        number = len(self._work)
        self._work[number] = Part(index, trial)
        assignment = Assignment(trial, sample.name, sample.number) if sample else Assignment(trial)
        self._feed.put({"work": number, "assignment": assignment})

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
            with _every_loss_taken_for_one():
                tuner.fit()
        except BaseException as raised:  # the driver's loop reports it
            error = raised
        self._news.put(("end", -1, error))


@contextlib.contextmanager
def _every_loss_taken_for_one() -> Iterator[None]:
    """Context in which Tune starts a training again that Ray's memory monitor has killed.

    By itself Tune knows no error of a worker but RayActorError: any other ends Tune, and all trainings.
    """
    known = ray.exceptions.RayActorError, ray.exceptions.RayTaskError
    manager: Any = RayActorManager  # not public: Tune has no option
    original = manager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, known):
            exception = ray.exceptions.RayActorError(error_msg=str(exception))
        original(self, tracked_actor_task, exception)

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original


def _part_of_gpu(cpus: float, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Tune's reservation of a training whose part of a GPU `Feed` has decided about."""
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": config["gpu"]}])


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

    def __init__(self, news: queue.SimpleQueue[News], work: _Work) -> None:
        self._news = news
        self._work = work

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its callbacks once and never uses the copy

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        index = self._work.of(trial).index
        for event in result.get("events") or ():
            self._news.put(("event", index, event))
        for kind in ("judged", "waiting", "source", "epoch"):
            if result.get(kind):
                self._news.put((kind, index, result[kind]))

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("start", self._work.of(trial).index, None))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        ended = (trial.last_result or {}).get("ended")
        # Statistics of every number that was ever reported, 12 kB, which only Tune's own tables need.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()
        self._news.put(("complete" if ended else "stopped", self._work.of(trial).index, None))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("lost", self._work.of(trial).index, why_lost(_error_of(trial))))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        reason = f"training stopped after its retries: {why_lost(_error_of(trial))}"
        self._news.put(("error", self._work.of(trial).index, reason))


def _error_of(trial: Any) -> str:
    """The errors of a Tune trial, from the file that Tune has just written in the driver's folder."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "its worker was lost"


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


@dataclass(frozen=True)
class Part:
    """The work of one of Tune's trials: a trial, or its units of some machines.

    Attributes:
        index: index of the trial in the sweep.
        trial: the trial, with the machines of the part alone.
        number: 0 for the first part of a trial.
    """

    index: int
    trial: Trial
    number: int = 0


def in_parts(trials: Mapping[int, Trial], slots: int) -> list[Part]:
    """The work of Tune's trials, in the order in which they begin.

    Trials with one model per machine are cut into parts where else a training's place would be empty for
    long: until there are two parts for each place, or each part has one model.

    Args:
        slots: number of trainings at once.
    """
    wanted = math.ceil(2 * slots / len(trials)) if trials and slots > 1 else 1
    found = []
    for index, trial in trials.items():
        units = [unit.machines for unit in trial.units]
        if len(units) == 1 or not trial.system.frontend.learns:
            found.append(Part(index, trial))
            continue
        n = min(wanted, len(units))
        for number in range(n):
            first, end = (
                math.ceil(k * len(units) / n) for k in (number, number + 1)
            )  # the longer ones first
            machines = tuple(itertools.chain(*units[first:end]))
            found.append(Part(index, replace(trial, machines=machines) if n > 1 else trial, number))
    return found


class _Work(dict[int, Part]):
    """Number of a Tune trial -> its work.

    Pickled empty, and short as a text: Tune pickles and writes the names once per trial, and reads no copy.
    """

    def __reduce__(self) -> tuple:
        return _Work, ()

    def __repr__(self) -> str:
        return "work of trials"

    def __deepcopy__(self, memo: dict[int, Any]) -> _Work:
        return self

    def of(self, trial: Any) -> Part:
        """The work of a Tune trial."""
        return self[trial.config["work"]]

    # Not lambdas: Tune would write three kilobytes of a lambda's code with every trial.
    def shown(self, trial: Any) -> str:
        """The name of a Tune trial."""
        part = self.of(trial)
        return f"train {part.trial.title}" + (f", part {part.number + 1}" if part.number else "")

    def folder(self, trial: Any) -> str:
        """The name of a Tune trial's folder below its logs."""
        part = self.of(trial)
        return part.trial.name.replace(" ", "-") + (f"-{part.number + 1}" if part.number else "")


# ------------------------------------------------------------------------------------------- of a search


class Feed(Searcher):
    """A Tune searcher that hands out the configurations put in by the driver, in the same order.

    Args:
        shares: adds the part of a GPU, ``gpu``, to every configuration. A trial of unknown memory waits while
            there is a training on every GPU: one of these may tell the memory.
    """

    def __init__(self, shares: Shares | None = None) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._shares = shares
        self._next: dict[str, Any] | None = None
        """The configuration that waits."""
        self._training: set[str] = set()

    def put(self, config: dict[str, Any] | None) -> None:
        """Adds the configuration of one more trial; None: no more will follow."""
        self._queue.put(config)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        try:
            config = self._next or self._queue.get(timeout=0.02)
        except queue.Empty:
            return None
        if config is None:
            return Searcher.FINISHED
        if (shares := self._shares) is None:
            return config
        trial = config["assignment"].trial
        waits = not shares.known(trial) and len(self._training) >= shares.gpus
        self._next = config if waits else None
        if waits:
            time.sleep(0.02)
            return None
        self._training.add(trial_id)
        return {**config, "gpu": shares.of(trial)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._training.discard(trial_id)

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
