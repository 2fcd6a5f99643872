"""How a search drives Ray Tune: its trials are fed in one by one, and a scheduler may stop them."""

from __future__ import annotations

import math
import queue
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from asdray.config.search import Asha, HyperBand, Median, Scheduler
from asdray.config.trial import Trial

TIME = "epochs_done"
"""Epochs of a trial so far, over all its units: what schedulers count by."""

LOSS = "train_loss"
"""Of the newest epoch: what schedulers compare."""


@dataclass(frozen=True)
class Work:
    """A trial to train, as it travels to a worker.

    Attributes:
        sample: name of the sample that it belongs to; None: it is not judged, and nothing may stop it.
        bracket: the number that deals samples to HyperBand's brackets.
    """

    trial: Trial
    sample: str | None = None
    bracket: int = 0

    def __repr__(self) -> str:
        return self.trial.name  # Tune makes a tag of it


class Feed(Searcher):
    """Hands Tune what the driver's loop put in, in that order; Tune asks whenever it has room."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def put(self, config: dict[str, Any] | None) -> None:
        """One more trial; None: there will be no more."""
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
        pass  # what a search goes on from is its study

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its arguments once; the copy is never used.


class PerYear(FIFOScheduler):
    """Schedulers of Tune's, one per recipe, year and seed.

    Losses of two years say nothing of each other, and two seeds of one system shall not compete.

    As soon as one trial of a sample is stopped, the others of it are too: the sample is out.

    What it compares with is kept nowhere: each run of the driver begins with none, and hears only of epochs
    that are trained in it. After an interruption a training may go on that an undisturbed search would have
    stopped; what was stopped stays so.
    """

    def __init__(self, options: Scheduler) -> None:
        super().__init__()
        self._options = options
        self._schedulers: dict[tuple, TrialScheduler] = {}
        self._stopped: set[str] = set()

    def __getstate__(self) -> dict:
        return {}

    def _scheduler(self, work: Work) -> TrialScheduler:
        brackets = self._options.brackets if isinstance(self._options, HyperBand) else 1
        bracket = work.bracket % brackets
        key = (work.trial.recipe, work.trial.dcase, work.trial.seed, bracket)
        if key not in self._schedulers:
            epochs = work.trial.system.train.epochs * len(work.trial.units)
            self._schedulers[key] = _make(self._options, epochs, bracket)
        return self._schedulers[key]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if trial.config["work"].sample is not None:
            self._scheduler(trial.config["work"]).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        work = trial.config["work"]
        if work.sample is None or TIME not in result:
            return TrialScheduler.CONTINUE
        if work.sample not in self._stopped:
            decision = self._scheduler(work).on_trial_result(tune_controller, trial, result)
            last = work.trial.system.train.epochs * len(work.trial.units)
            if decision != TrialScheduler.STOP or result[TIME] >= last:
                return TrialScheduler.CONTINUE
            self._stopped.add(work.sample)
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        work = trial.config["work"]
        if work.sample is not None and TIME in result:
            self._scheduler(work).on_trial_complete(tune_controller, trial, result)


def _make(options: Scheduler, epochs: int, bracket: int) -> TrialScheduler:
    """The scheduler of one group of trials that may be compared.

    Args:
        epochs: of a whole trial.
    """
    common: dict[str, Any] = {"time_attr": TIME, "metric": LOSS, "mode": "min"}
    match options:
        case Asha() | HyperBand():
            first = options.grace_period * options.reduction_factor**bracket
            return ASHAScheduler(
                **common,
                max_t=max(epochs, 1),
                grace_period=min(max(1, round(first)), max(epochs, 1)),
                reduction_factor=options.reduction_factor,
                stop_last_trials=False,  # who comes to the end has come to the end
            )
        case Median():
            return MedianStoppingRule(
                **common,
                grace_period=options.grace_period,
                min_samples_required=options.min_samples,
                min_time_slice=math.inf,  # type: ignore[arg-type]  # never pause a training for want of others to compare it with
            )
    raise AssertionError(options)
