"""Ray Tune trains: one Tune trial is one asdray trial with all its units."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from asdray.config.sweep import Need
from asdray.config.trial import Trial
from asdray.store import Places
from asdray.sweep.events import attempt, event_of

REPORT_SECONDS = 0.5
"""Epochs that follow each other faster are reported together."""


def train_job(
    config: dict[str, Any],
    trials: Sequence[Trial],
    checkpoints: Sequence[str],
    places: Places,
    device: str,
) -> None:
    """Trains every unit of one trial in a Tune worker and reports each as soon as it is done.

    Every report carries the events that finished since the last one, so that a machine's tasks start
    while the trial's other units still train.
    """
    from asdray.stages.train import train

    trial = trials[config["job"]]
    last = 0.0

    def on_epoch(unit: str, progress: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            tune.report({"epoch": {**progress, "unit": unit}})

    def on_wait(unit: str) -> None:
        tune.report({"waiting": unit})

    for unit in trial.units:
        event = attempt(
            event_of(trial, "train", unit=unit.name),
            partial(
                train,
                trial,
                unit,
                places,
                checkpoints=checkpoints,
                on_epoch=partial(on_epoch, unit.name),
                on_wait=partial(on_wait, unit.name),
                device=device,
            ),
        )
        tune.report({"events": [event]})


class _Listener(tune.Callback):
    """Hands Tune's news to the driver's loop. Must not raise: Tune would mark the trial as failed."""

    def __init__(self, news: queue.SimpleQueue) -> None:
        self._news = news

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its arguments once; the copy is never used.

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        job = trial.config["job"]
        for event in result.get("events") or ():
            self._news.put(("event", job, event))
        if result.get("waiting"):
            self._news.put(("waiting", job, result["waiting"]))
        if result.get("epoch"):
            self._news.put(("epoch", job, result["epoch"]))

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("start", trial.config["job"], None))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("complete", trial.config["job"], None))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("error", trial.config["job"], _reason(trial)))


def _reason(trial: Any) -> str:
    error = trial.get_error() if hasattr(trial, "get_error") else None
    text = " ".join(str(error or "its worker was lost").split())
    return f"training stopped after its retries: {text[:400]}"


class _StopWhen(tune.Stopper):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __getstate__(self) -> dict:
        return {}

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.is_set()


class Training(threading.Thread):
    """Runs a Tuner beside the driver's loop, which must stay free to submit tasks and hear signals.

    News come as ``(kind, job index, value)``: ``start``, ``waiting``, ``epoch``, ``event``, ``complete``,
    ``error``; at last ``("end", -1, None or the exception)``.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        indices: Sequence[int],
        checkpoints: Sequence[str],
        need: Need,
        places: Places,
        logs: Path,
        news: queue.SimpleQueue[tuple[str, int, Any]],
    ) -> None:
        super().__init__(name="training", daemon=True)
        self._news = news
        self._stop_event = threading.Event()
        names = {i: trials[i].name for i in indices}
        self._tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(
                    train_job,
                    trials=list(trials),
                    checkpoints=checkpoints,
                    places=places,
                    device="cuda" if need.gpu else "cpu",
                ),
                {"cpu": need.cpu, "gpu": need.gpu},
            ),
            param_space={"job": tune.grid_search(list(indices))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # lightning's import takes ten seconds; once per worker is enough
                trial_name_creator=lambda trial: f"train {names[trial.config['job']]}",
                trial_dirname_creator=lambda trial: names[trial.config["job"]].replace(" ", "-"),
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(logs),
                verbose=0,
                callbacks=[_Listener(news)],
                stop=_StopWhen(self._stop_event),
                failure_config=tune.FailureConfig(max_failures=2),  # lost workers only: stages do not raise
            ),
        )

    def stop(self) -> None:
        """Asks Tune to end; running epochs are abandoned, their unit goes on from its last checkpoint."""
        self._stop_event.set()

    def run(self) -> None:
        try:
            self._tuner.fit()
        except BaseException as error:  # handed to the driver's loop, which raises it there
            self._news.put(("end", -1, error))
        else:
            self._news.put(("end", -1, None))
