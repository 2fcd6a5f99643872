"""From a sweep file to what is left to do. Starts no Ray, imports no torch."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from asdray.config.backend import Backend
from asdray.config.sweep import Sweep, expand, load_sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.stages.walk import walk
from asdray.store import Places
from asdray.sweep import ensembles
from asdray.sweep.events import Event, EventLog, finished
from asdray.sweep.standing import Missing, Standing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Part = Literal["grid", "search", "confirm"]


@dataclass(frozen=True)
class Job:
    """One trial of a sweep, with the options that were swept to make it."""

    trial: Trial
    swept: Mapping[str, Any]
    dataset: Dataset
    backends: tuple[Backend, ...]
    part: Part = "grid"
    sample: int | None = None
    """Of a search: the number of the sample that it belongs to, in its recipe's study."""

    def missing(
        self, sweep: Sweep, places: Places, failures: Mapping[tuple, Event] = MappingProxyType({})
    ) -> Missing:
        """What is left to do of it, but for what `asdray.sweep.events.EventLog.lasting` says failed."""
        return standing(self, sweep, places).missing(failures)


def plan(sweep: Sweep, places: Places, where: str) -> tuple[Job, ...]:
    """Every trial of the sweep with its dataset; of a search those that it has come to so far.

    Raises:
        ValueError: a year that is not formatted, or a machine that its dataset does not hold; an ensemble
            that names what the sweep does not have.
    """
    datasets: dict[str, Dataset] = {}
    for dcase in sweep.years:
        datasets[dcase] = load_dataset(places.data, dcase)
        _require_clips(datasets[dcase], sweep.machines_of(dcase), where)
    kinds = {d.kind for d in datasets.values()}
    if len(kinds) > 1:
        parts = ", ".join(f"{name} is {d.kind}" for name, d in datasets.items())
        raise ValueError(
            f"{where}: a sweep is either over official or over synthetic data, never both ({parts})"
        )
    trials = expand(sweep, where)
    if sweep.search.samples:
        from asdray.sweep.search import known_jobs
        from asdray.sweep.study import Studies

        return known_jobs(Studies(sweep, places, datasets, where, write=False), datasets)
    try:
        ensembles.plan(sweep, [trial for trial, _ in trials])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return tuple(
        Job(trial, swept, datasets[trial.dcase], trial.backends(sweep.backends)) for trial, swept in trials
    )


def _require_clips(dataset: Dataset, machines: tuple[str, ...], where: str) -> None:
    dataset.require(machines)
    for split in ("train", "test"):
        if empty := [m for m in machines if not dataset.machines[m].count(split=split)]:
            raise ValueError(
                f"{where}: {dataset.dcase} has no {split} clips of {', '.join(empty)}: get them and run "
                f"`asdray format {dataset.dcase}` again, or leave these machines out (machines: ...)"
            )


def standing(job: Job, sweep: Sweep, places: Places) -> Standing:
    """How a trial stands on disk now."""
    found = walk(job.trial, sweep.checkpoints, job.backends, sweep.umap, places, job.dataset)
    return Standing.of(job.trial, found)


FEW = 100
"""Fewer trials are not worth sharing out, nor half as many a process of their own."""


def standings(jobs: Sequence[Job], sweep: Sweep, places: Places) -> Iterator[Standing]:
    """`standing` of every job, in their order; of many of them with all CPUs, where processes fork.

    For commands that only tell: a process that has threads must not fork.
    """
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    cpus = min(cpus, 2 * len(jobs) // FEW)
    if cpus < 2:
        yield from (standing(job, sweep, places) for job in jobs)
        return
    import multiprocessing

    fork = multiprocessing.get_context("fork")  # jobs are inherited: pickling them takes as long as the work
    parts = []
    for i in range(cpus):
        mine = jobs[len(jobs) * i // cpus : len(jobs) * (i + 1) // cpus]
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_stand, args=(mine, sweep, places, sender), daemon=True)
        process.start()
        sender.close()  # else the end of a child that was killed would never be heard of
        parts.append((mine, receiver))
    for mine, receiver in parts:
        try:
            found = receiver.recv()
        except EOFError:
            raise RuntimeError("a process that looked at trials was killed: run the command again") from None
        if isinstance(found, ValueError):
            raise found
        yield from (Standing(job.trial, all_) for job, all_ in zip(mine, found, strict=True))


def _stand(jobs: Sequence[Job], sweep: Sweep, places: Places, sender: Connection) -> None:
    """In a process of its own, which ends by a signal as any does, whatever its parent makes of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    gc.disable()  # it makes a hundred thousand small things that all stay
    try:
        sender.send([standing(job, sweep, places).all for job in jobs])
    except ValueError as error:
        sender.send(error)


def in_order(training: Iterable[int], jobs: Sequence[Job]) -> list[int]:
    """Trials to train in the order in which they begin: last those that give their machines to tasks one by
    one, so that a sweep does not end with all tasks of a whole trial left and no training beside them."""
    return sorted(training, key=lambda i: (jobs[i].trial.system.frontend.scope == "machine", i))


def log_found(stands: Standing, log: EventLog) -> None:
    """Logs every stage of a trial that is done and has no line yet."""
    for event, done in stands.stages:
        if done is not None:
            log.add(finished(event, done, found=True))


def with_datasets_of_now(jobs: tuple[Job, ...], places: Places) -> tuple[Job, ...]:
    """The same jobs with their datasets read again.

    Raises:
        ValueError: a machine that was formatted away meanwhile.
    """
    now: dict[str, Dataset] = {}
    for job in jobs:
        if job.trial.dcase not in now:
            now[job.trial.dcase] = load_dataset(places.data, job.trial.dcase)
            now[job.trial.dcase].require(job.trial.machines)
    return tuple(replace(job, dataset=now[job.trial.dcase]) for job in jobs)


def load(
    path: Path, overrides: Mapping[str, Any], places: Places, plugins: Iterable[Path] = ()
) -> tuple[Sweep, tuple[Job, ...]]:
    """The sweep in a file and its jobs; ``plugins`` besides those that the file names."""
    sweep = load_sweep(path, overrides, plugins)
    return sweep, plan(sweep, places, str(path))
