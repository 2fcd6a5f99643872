"""Ray Tune trains: one Tune trial is one asdray trial with all its units."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune

from asdray.config.backend import Backend, Umap
from asdray.config.search import Objective, Scheduler
from asdray.config.sweep import Need, Sweep
from asdray.config.trial import Trial
from asdray.stages.steps import Request, TrialFiles, steps
from asdray.store import Places
from asdray.sweep import objective
from asdray.sweep.events import Event, attempt, event_of
from asdray.sweep.steering import LOSS, TIME, Feed, PerYear, Work
from asdray.sweep.study import Sample

NOTHING = Need(cpu=0)

NICER = 5
"""How much a training on the CPU gives way to tasks: they have 10 where Ray is ours, see `sweep.cluster`."""

REPORT_SECONDS = 0.5
"""Epochs that follow each other faster are reported together."""


def train_job(
    config: dict[str, Any],
    trials: Sequence[Trial],
    checkpoints: Sequence[str],
    places: Places,
    device: str,
    judge: Judge | None = None,
    backends: Sequence[Backend] = (),
    umap: Umap | Literal[False] = False,
    extracts_but: Container[tuple[int, str, str]] | None = None,
) -> None:
    """Trains every unit of one trial in a Tune worker and reports each as soon as it is done.

    Every report carries the events that finished since the last one, so that a machine's tasks start
    while the trial's other units still train. A trial of a search is judged by its objective at the end,
    here, where the model is: the tasks that follow find those files done.

    Args:
        backends, umap: what follows; a checkpoint that was dropped is made again where it is needed for them.
        extracts_but: to extract here too, on the device where the model is, all but these (job index,
            checkpoint, machine); None: nothing.
    """
    from asdray.stages.train import train
    from asdray.sweep.tasks import extract_machine

    work: Work = config.get("work") or Work(trials[config["job"]])
    trial = work.trial
    judged = judge if work.sample is not None else None
    rebuild = _units_to_rebuild(trial, checkpoints, backends, umap, places, judged)
    compared = judge is not None and judge.scheduled and work.sample is not None
    last = 0.0
    units_done = 0
    failed_units = 0

    def report(news: dict[str, Any]) -> None:
        tune.report(news)
        _show(trial)  # Ray's own title is set again by the call that asks for what comes next

    _show(trial)
    if device == "cpu" and sys.platform == "linux":
        # This thread alone. Else most UMAPs are left to the end, where others would have to start for them.
        os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICER))

    def on_epoch(unit: str, progress: dict[str, Any]) -> None:
        nonlocal last
        if compared or time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            done = units_done * progress["epochs"] + progress["epoch"]
            report({"epoch": {**progress, "unit": unit}, TIME: done, LOSS: progress["loss"]})

    def on_wait(unit: str) -> None:
        report({"waiting": unit})

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
                rebuild=unit.name in rebuild,
            ),
        )
        units_done += 1
        failed_units += event["status"] == "failed"
        report({"events": [event]})
        if extracts_but is not None and event["status"] == "done":
            scored = trial.backends(tuple(backends))
            for checkpoint, machine in itertools.product(checkpoints, unit.machines):
                if (config["job"], checkpoint, machine) in extracts_but:
                    continue
                event = extract_machine(trial, scored, checkpoint, machine, places, device, umap)
                report({"events": [event]})
    if judge is not None and work.sample is not None and not failed_units:
        report({"events": (events := judge.events(trial, places, device))})
        report({"judged": judge.verdict(trial, events, places)})
    report({"ended": True})


def _show(trial: Trial) -> None:
    """Names this process after the training that it does, on the dashboard's page of nodes and in ``ps``.

    A reused actor keeps the name of its first trial, and a call of Tune's names the process after itself.
    """
    entitle = getattr(ray._raylet, "setproctitle", None)  # not public: where it is missing, nothing is shown
    if entitle and ray.is_initialized():
        entitle(f"ray::train {trial.name}")


def _units_to_rebuild(
    trial: Trial,
    checkpoints: Sequence[str],
    backends: Sequence[Backend],
    umap: Umap | Literal[False],
    places: Places,
    judge: Judge | None,
) -> set[str | None]:
    """The units whose checkpoints were pruned, and are needed."""
    machines = trial.machines if judge and judge.reads_embeddings else ()
    request = Request(tuple(checkpoints), trial.backends(tuple(backends)), umap)
    try:
        found = steps(TrialFiles.load(trial, places), request, wanted=machines)
    except (ValueError, KeyError):
        return set()  # The data changed: the training itself reports the fault.
    return {step.unit for step in found if step.stage == "train" and step.rebuild}


@dataclass(frozen=True)
class Judge:
    """How the trials of a search are judged.

    Attributes:
        scheduled: whether a scheduler compares them epoch by epoch.
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
        """Whether the objective is computed from them."""
        return self.objective.metric == "compactness"

    def events(self, trial: Trial, places: Places, device: str) -> list[Event]:
        """Extracts, and where the objective is a score also scores and evaluates, what it needs."""
        from asdray.sweep.tasks import process_machine

        backends = trial.backends(self.backends) if self.objective.metric == "official_dev" else ()
        found = []
        for machine in objective.machines_needed(self.objective, trial):
            found += process_machine(
                trial,
                backends,
                self.objective.checkpoint,
                machine,
                places,
                device,
                embeddings=self.reads_embeddings,
            )
        return found

    def verdict(self, trial: Trial, events: Sequence[Event], places: Places) -> dict[str, Any]:
        """``values`` of the objective, see `asdray.sweep.objective.values`, or the ``reason`` for none."""
        if failures := [e for e in events if e["status"] == "failed"]:
            first = failures[0]
            return {"values": {}, "reason": f"{first['stage']} {first['machine']}: {first['error']}"}
        try:
            return {
                "values": objective.values(self.objective, trial, trial.backends(self.backends), places),
                "reason": None,
            }
        except ValueError as error:
            return {"values": {}, "reason": str(error)}


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
        if result.get("judged"):
            self._news.put(("judged", job, result["judged"]))
        if result.get("waiting"):
            self._news.put(("waiting", job, result["waiting"]))
        if result.get("epoch"):
            self._news.put(("epoch", job, result["epoch"]))

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("start", trial.config["job"], None))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        ended = (trial.last_result or {}).get("ended")
        # Statistics of every number ever reported, 12 kB, which Tune keeps for its own tables.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()
        self._news.put(("complete" if ended else "stopped", trial.config["job"], None))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._news.put(("error", trial.config["job"], _reason(trial)))


def _reason(trial: Any) -> str:
    error = trial.get_error() if hasattr(trial, "get_error") else None
    text = " ".join(str(error or "its worker was lost").split())
    return f"training stopped after its retries: {text[:400]}"


class _Names(dict[int, str]):
    """Job index -> its trial's name. Tune pickles it with every trial, and never uses these copies: empty,
    else they would be all names as often as there are trials."""

    def __reduce__(self) -> tuple:
        return _Names, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Names:
        return self

    # Methods, not lambdas: those Tune would write out with every trial, three kilobytes of code.
    def shown(self, trial: Any) -> str:
        """The name of Tune's trial."""
        return f"train {self[trial.config['job']]}"

    def folder(self, trial: Any) -> str:
        """The name of its folder in Tune's logs."""
        return self[trial.config["job"]].replace(" ", "-")


class _StopWhen(tune.Stopper):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __getstate__(self) -> dict:
        return {}

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.is_set()


def _slots(need: Need, beside: Need, nodes: Sequence[tuple[float, float]]) -> int:
    """How many trainings run at once: what a task reserves stays free beside them, or none would ever run.

    Args:
        nodes: CPUs and GPUs of each; a training runs on one.
    """
    cpus, gpus = (sum(kind) for kind in zip(*nodes, strict=True))
    at_most = sum(_fit(need, *node) for node in nodes)
    return max(1, min(at_most, _fit(need, cpus - beside.cpu, gpus - beside.gpu)))


def _fit(need: Need, cpus: float, gpus: float) -> int:
    limits = [int(there / wanted) for wanted, there in ((need.cpu, cpus), (need.gpu, gpus)) if wanted]
    return min(limits, default=int(cpus))


class Training(threading.Thread):
    """Runs a Tuner beside the driver's loop, which must stay free to submit tasks and hear signals.

    News come as ``(kind, job index, value)``: ``start``, ``waiting``, ``epoch``, ``event``, ``judged``,
    ``complete``, ``stopped`` (by a scheduler), ``error``; at last ``("end", -1, None or the exception)``.

    Args:
        judge: of a search, whose trials come by `feed` until `finish`; None: all ``indices`` are trained.
        scheduler: what may stop the search's trials.
        backends, umap, extracts_but: as for `train_job`.
        beside: what the largest task reserves.
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
        judge: Judge | None = None,
        scheduler: Scheduler | None = None,
        backends: Sequence[Backend] = (),
        umap: Umap | Literal[False] = False,
        extracts_but: Container[tuple[int, str, str]] | None = None,
        beside: Need = NOTHING,
    ) -> None:
        super().__init__(name="training", daemon=True)
        self._news = news
        self._stop_event = threading.Event()
        names = _Names({i: trials[i].name for i in indices})
        self._names = names
        self._feed = Feed() if judge else None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.slots = _slots(need, beside, [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes])
        # How many wait for a place at once: unasked, Tune has Ray keep 200, of 50 kB each, of a grid.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if judge else str(max(16, self.slots))
        self._tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(
                    train_job,
                    trials=list(trials),
                    checkpoints=checkpoints,
                    places=places,
                    device="cuda" if need.gpu else "cpu",
                    judge=judge,
                    backends=backends,
                    umap=umap,
                    extracts_but=extracts_but,
                ),
                {"cpu": need.cpu, "gpu": need.gpu},
            ),
            param_space={} if judge else {"job": tune.grid_search(list(indices))},
            tune_config=tune.TuneConfig(
                search_alg=self._feed,
                # Else as many as fit: more where nodes join.
                max_concurrent_trials=self.slots if not judge and (beside.cpu or beside.gpu) else None,
                num_samples=-1 if judge else 1,
                scheduler=PerYear(scheduler) if scheduler else None,
                reuse_actors=True,  # lightning's import takes ten seconds; once per worker is enough
                trial_name_creator=names.shown,
                trial_dirname_creator=names.folder,
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

    def feed(self, index: int, trial: Trial, sample: Sample | None = None) -> None:
        """One more trial of a search; ``sample``: that by which it is judged."""
        assert self._feed is not None
        work = Work(trial, sample.name, sample.number) if sample else Work(trial)
        self._names[index] = trial.name
        self._feed.put({"job": index, "work": work})

    def finish(self) -> None:
        """There will be no more trials."""
        assert self._feed is not None
        self._feed.put(None)

    def stop(self) -> None:
        """Asks Tune to end; running epochs are abandoned, their unit goes on from its last checkpoint."""
        self._stop_event.set()

    def run(self) -> None:
        tuner = self._tuner
        del self._tuner  # else what it keeps of every trial stays while the last tasks run
        try:
            tuner.fit()
        except BaseException as error:  # handed to the driver's loop, which raises it there
            self._news.put(("end", -1, error))
        else:
            self._news.put(("end", -1, None))
