"""A training in a worker of Ray Tune: one Tune trial trains all units of one asdray trial.

`train_job` calls the same stage functions as the commands by hand, so complete stages are skipped and an
interrupted training resumes.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray import tune

from asdray import damage
from asdray.config.backend import Backend, Umap
from asdray.config.search import Objective
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial, Unit
from asdray.stages.steps import Outcome, Request, TrialFiles, steps
from asdray.store import Places
from asdray.sweep import objective, signs
from asdray.sweep.events import Event, attempt, event_of, finished, largest_batch

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
        failed_extractions: (name of a trial, checkpoint, machine) of extractions that failed in an earlier
            run and would fail again.
        log: ``events.jsonl`` of the sweep, which tells of trainings that ran out of memory; None if the user
            chose the resources of a training.
        signs: folder for signs of life, see `asdray.sweep.signs`.
    """

    places: Places
    checkpoints: tuple[str, ...]
    backends: tuple[Backend, ...] = ()
    umap: Umap | Literal[False] = False
    device: str = "cpu"
    judge: Judge | None = None
    extracts: bool = False
    failed_extractions: frozenset[tuple[str, str, str]] = frozenset()
    log: Path | None = None
    signs: Path | None = None

    def largest_batch(self, trial: Trial) -> int | None:
        """The largest batch that had memory on this device, if another training had too little."""
        if self.log is None or not trial.system.frontend.learns:
            return None
        from asdray.frontends.compute import choose_device, device_label

        return largest_batch(self.log, trial.recipe, device_label(choose_device(self.device)))

    def request(self, trial: Trial) -> Request:
        """The results that the sweep wants of a trial."""
        return Request(self.checkpoints, trial.backends(self.backends), self.umap)


def train_job(config: dict[str, Any], trials: Mapping[int, Trial], options: WorkerOptions) -> None:
    """Trains the units of one trial, or of a part of it, in a Tune worker; reports each stage at its end.

    The machines of a unit can be scored while other units still train. A trial of a search is judged at the
    end, in the same process, which has the model; later tasks find the stages of the judge complete.
    """
    assignment = config.get("assignment") or Assignment(trials[config["work"]])
    if options.device == "cpu" and sys.platform == "linux":
        # Lowers this thread alone. At equal priority most UMAPs would be left to the end of the sweep.
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICER
        os.setpriority(os.PRIO_PROCESS, 0, min(19, niceness))
    with signs.given_in(options.signs):
        TrainingWorker(assignment, options).run()


class TrainingWorker:
    """Trains, extracts and judges one trial, and reports to Tune."""

    def __init__(self, assignment: Assignment, options: WorkerOptions) -> None:
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
            self._report({"source": {**progress, "trial": source.title}})

    def _extract(self, unit: Unit) -> None:
        from asdray.sweep.tasks import extract_machine

        options, trial = self._options, self._trial
        for checkpoint, machine in itertools.product(options.checkpoints, unit.machines):
            if (trial.name, checkpoint, machine) not in options.failed_extractions:
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
        set_title(f"ray::train {trial.title}")


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
            with damage.forgotten():
                found = objective.values(self.objective, trial, trial.backends(self.backends), places)
        except ValueError as error:
            return {"values": {}, "reason": str(error)}
        return {"values": found, "reason": None}
