"""From a sweep file to what is left to do. Starts no Ray, imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asdray.config.backend import Backend, backend_id
from asdray.config.sweep import Sweep, expand, load_sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.stages import state
from asdray.store import Marker, Places
from asdray.sweep import ensembles
from asdray.sweep.events import Event, EventLog, event_of, finished


@dataclass(frozen=True)
class Job:
    """One trial of a sweep, with the options that were swept to make it."""

    trial: Trial
    swept: Mapping[str, Any]
    dataset: Dataset
    backends: tuple[Backend, ...]

    def missing(self, sweep: Sweep, places: Places) -> state.Missing:
        """What is left to do of it."""
        return state.missing(self.trial, sweep.checkpoints, sweep.backends, sweep.umap, places, self.dataset)


def plan(sweep: Sweep, places: Places, where: str) -> tuple[Job, ...]:
    """Every trial of the sweep with its dataset.

    Raises:
        ValueError: a year that is not formatted, or a machine that its dataset does not hold; an ensemble
            that names what the sweep does not have.
    """
    datasets: dict[str, Dataset] = {}
    for dcase in sweep.dcase:
        datasets[dcase] = load_dataset(places.data, dcase)
        _require_clips(datasets[dcase], sweep.machines_of(dcase), where)
    kinds = {d.kind for d in datasets.values()}
    if len(kinds) > 1:
        parts = ", ".join(f"{name} is {d.kind}" for name, d in datasets.items())
        raise ValueError(
            f"{where}: a sweep is either over official or over synthetic data, never both ({parts})"
        )
    trials = expand(sweep, where)
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


def _steps(job: Job, sweep: Sweep, places: Places) -> Iterator[tuple[dict[str, Any], state.Step]]:
    """Every stage of a trial: what an event says of it, and its step."""
    trial, dataset = job.trial, job.dataset
    for unit in trial.units:
        yield event_of(trial, "train", unit=unit.name), state.train_step(trial, unit, places, dataset)
    for ckpt in sweep.checkpoints:
        for machine in trial.machines:
            at: dict[str, Any] = {"machine": machine, "checkpoint": ckpt}
            yield (
                event_of(trial, "extract", **at),
                state.extract_step(trial, machine, ckpt, places, dataset),
            )
            for backend in job.backends:
                yield (
                    event_of(trial, "score", **at, backend=backend_id(backend)),
                    state.score_step(trial, machine, ckpt, backend, places, dataset),
                )
            yield (
                event_of(trial, "evaluate", **at),
                state.evaluate_step(trial, machine, ckpt, job.backends, places, dataset),
            )
            if sweep.umap:
                yield (
                    event_of(trial, "umap", **at),
                    state.umap_step(trial, machine, ckpt, sweep.umap, places, dataset),
                )
    yield (
        event_of(trial, "table"),
        state.table_step(trial, sweep.checkpoints, places, dataset),
    )


@dataclass(frozen=True)
class Standing:
    """Every stage of a trial with its marker, None where it is not done; read once, asked many times."""

    stages: tuple[tuple[Event, Marker | None], ...]

    @property
    def complete(self) -> bool:
        return all(marker is not None for _, marker in self.stages)

    @property
    def done(self) -> Counter[str]:
        """How many of each stage are done."""
        return Counter(event["stage"] for event, marker in self.stages if marker is not None)


def standing(job: Job, sweep: Sweep, places: Places) -> Standing:
    """How a trial stands on disk now."""
    return Standing(tuple((event, step.marker) for event, step in _steps(job, sweep, places)))


def log_found(stands: Standing, log: EventLog) -> None:
    """Logs every stage of a trial that is done and has no line yet."""
    for event, marker in stands.stages:
        if marker is not None:
            log.add(finished(event, marker, found=True))


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
