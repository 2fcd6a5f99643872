"""From a sweep file to its trials. Starts no Ray, imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from asdray.config.expand import expand
from asdray.config.load import load_sweep
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.stages.steps import Step, refuse_old_results
from asdray.store import Places
from asdray.sweep import ensembles
from asdray.sweep.events import EventLog, finished
from asdray.sweep.jobs import Job, event_at


def plan(sweep: Sweep, places: Places, where: str, fresh: bool = False) -> tuple[Job, ...]:
    """Every trial of a sweep with its dataset; the trials of a search are those that its study knows.

    Args:
        where: the source of the sweep, for error messages.
        fresh: True if the results of these trials are to be deleted: then results of release 0.1 are no
            error.

    Raises:
        ValueError: a year that is not formatted, or a machine without clips; official and synthetic data in
            one sweep; an ensemble over systems that the sweep does not have; results of release 0.1.
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

        jobs = known_jobs(Studies(sweep, places, datasets, where, write=False), datasets)
    else:
        try:
            ensembles.plan(sweep, [trial for trial, _ in trials])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        backends = sweep.backends
        jobs = tuple(
            Job(trial, swept, datasets[trial.dcase], trial.backends(backends)) for trial, swept in trials
        )
    if not fresh:
        refuse_old_results(job.files(places).folder for job in jobs)
    return jobs


def _require_clips(dataset: Dataset, machines: tuple[str, ...], where: str) -> None:
    dataset.require(machines)
    for split in ("train", "test"):
        if empty := [m for m in machines if not dataset.machines[m].count(split=split)]:
            raise ValueError(
                f"{where}: {dataset.dcase} has no {split} clips of {', '.join(empty)}: get them and run "
                f"`asdray format {dataset.dcase}` again, or leave these machines out (machines: ...)"
            )


def log_found(trial: Trial, steps: Iterable[Step], log: EventLog) -> None:
    """Logs every complete step of a trial that has no line yet."""
    for step in steps:
        if step.complete:
            log.add(finished(event_at(trial, step), step, found=True))


def with_datasets_of_now(jobs: tuple[Job, ...], places: Places) -> tuple[Job, ...]:
    """The same jobs, with their datasets read again.

    Raises:
        ValueError: a machine that is no longer in the dataset.
    """
    now: dict[str, Dataset] = {}
    for job in jobs:
        if job.trial.dcase not in now:
            now[job.trial.dcase] = load_dataset(places.data, job.trial.dcase)
            now[job.trial.dcase].require(job.trial.machines)
    return tuple(replace(job, dataset=now[job.trial.dcase]) for job in jobs)


def load(
    path: Path,
    overrides: Mapping[str, Any],
    places: Places,
    plugins: Iterable[Path] = (),
    fresh: bool = False,
) -> tuple[Sweep, tuple[Job, ...]]:
    """The sweep in a file, and its jobs.

    Args:
        overrides: option path -> value, see ``--set``.
        plugins: files besides those that the sweep file names.
        fresh: see `plan`.

    Raises:
        ValueError: an error in the file, or see `plan`.
    """
    sweep = load_sweep(path, overrides, plugins)
    return sweep, plan(sweep, places, str(path), fresh)
