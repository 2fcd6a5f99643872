"""From a sweep file to its trials, and the choice of ``--only``. Starts no Ray, imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asdray.addresses import has_option, is_short_for, nodes_of
from asdray.config.base import load_plugins
from asdray.config.expand import expand, load_sweep
from asdray.config.files import parse_yaml
from asdray.config.sweep import Sweep
from asdray.config.system_names import parts_of, short_values
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.dcase.years import nearest
from asdray.evaluation.published import links_of_others
from asdray.plugin_results import Use
from asdray.stages.steps import refuse_old_results
from asdray.store import Places
from asdray.sweep import ensembles
from asdray.sweep.jobs import Job


def plan(sweep: Sweep, places: Places, where: str, fresh: bool = False) -> tuple[Job, ...]:
    """Every trial of a sweep with its dataset; of a search, the trials known so far.

    Args:
        where: the source of the sweep, for error messages.
        fresh: True if the results of these trials are to be deleted: then results of release 0.1 are no
            error.

    Raises:
        ValueError: a year that is not formatted, or a machine without clips; official and synthetic data in
            one sweep; made-up weights for official data; an ensemble over systems that the sweep does not
            have; results of release 0.1.
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
    for trial, _ in trials:
        try:
            trial.system.check_data(datasets[trial.dcase].kind)
        except ValueError as error:
            raise ValueError(f"{where}: recipe {trial.recipe}: {error}") from None
    links_of_others(sweep.recipes)  # a wrong `reproduces` is no surprise at the end
    if sweep.search.samples:
        from asdray.sweep.search import known_jobs
        from asdray.sweep.study import Studies

        jobs = known_jobs(Studies(sweep, places, datasets, where, write=False))
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
    path: Path | Mapping[str, Any],
    overrides: Mapping[str, Any],
    places: Places,
    plugins: Iterable[Path] = (),
    fresh: bool = False,
    use: Use = load_plugins,
) -> tuple[Sweep, tuple[Job, ...]]:
    """The sweep in a file, and its jobs.

    Args:
        path: of the file, or its content, see `asdray.config.expand.load_sweep`.
        overrides: option path -> value, see ``--set``.
        plugins: files besides those that the sweep file names.
        fresh: see `plan`.
        use: makes the plugins known, see `asdray.config.expand.load_sweep`.

    Raises:
        ValueError: an error in the file, or see `plan`.
    """
    sweep = load_sweep(path, overrides, plugins, use)
    where = "the sweep" if isinstance(path, Mapping) else str(path)
    return sweep, plan(sweep, places, where, fresh)


# -------------------------------------------------------------------------------------------------- --only


TRIAL_KEYS: dict[str, Callable[[Job], list[str]]] = {
    "dcase": lambda job: [job.trial.dcase],
    "recipe": lambda job: [job.trial.recipe],
    "system": lambda job: [job.trial.label, job.trial.recipe, job.trial.system_name, job.trial.system.id],
    "seed": lambda job: [str(job.trial.seed)],
}
"""Key -> names of a trial; every swept option is a key as well."""

_NEXT = re.compile(r"\s+(?=[\w.]+=|dcase\d{4}(?:\s|$)|seed\d+(?:\s|$))")
"""Between two conditions."""


def chooser(texts: Sequence[str], jobs: Sequence[Job]) -> Callable[[Job], bool]:
    """A predicate, true for the trials of ``--only``.

    Args:
        texts: conditions, also several in a text: ``dcase=dcase2023 seed=0,1``. A trial must fulfil all
            conditions, each by any of the values. The ``name`` of an object stands for the object, the last
            part of an option's path for the path; the name of a trial as a screen shows it, ``dis_baseline
            lr=3e-4 dcase2023 seed0``, or a part of the name, is a text of conditions, too.
        jobs: the trials to choose from.

    Raises:
        ValueError: a condition without ``=``, an unknown key, a value of no trial, conditions fulfilled
            together by no trial.
    """
    conditions = conditions_of(texts)
    nodes = {id(job): list(nodes_of(job.options)) for job in jobs}
    predicates = [_predicate(condition, jobs, nodes) for condition in conditions]

    def chosen(job: Job) -> bool:
        return all(fulfils(job) for fulfils in predicates)

    if not any(map(chosen, jobs)):
        raise ValueError(f"--only: no trial has all of {' '.join(conditions)}")
    return chosen


def conditions_of(texts: Iterable[str]) -> list[str]:
    """The conditions in texts, each as name=value; see `chooser`.

    Raises:
        ValueError: there are none.
    """
    words = [one for text in texts for one in _NEXT.split(text.strip()) if one]
    if not words:
        raise ValueError("--only names no condition, such as dcase=dcase2023 or seed=0")
    return list(map(_spelled_out, words))


def _spelled_out(word: str) -> str:
    """A word of a trial's name as a condition: ``seed0`` is ``seed=0``, a recipe or folder ``system=...``."""
    if re.fullmatch(r"dcase\d{4}", word):
        return f"dcase={word}"
    if re.fullmatch(r"seed\d+", word):
        return f"seed={word.removeprefix('seed')}"
    return word if "=" in word or word in TRIAL_KEYS else f"system={word}"


def _predicate(
    condition: str, jobs: Sequence[Job], nodes: Mapping[int, Sequence[tuple[str, Any]]]
) -> Callable[[Job], bool]:
    """True for the trials of one condition; ``nodes``: id of a job -> all its options, path and value."""
    key, _, text = condition.partition("=")
    if not text:
        raise ValueError(f"--only: {condition!r} must have the form name=value or name=value,value")
    known = list(dict.fromkeys([*TRIAL_KEYS, *(path for job in jobs for path in job.swept)]))
    if key not in known and not any(is_short_for(key, path) for of in nodes.values() for path, _ in of):
        raise ValueError(f"--only: unknown filter {key!r}{nearest(key, known)} (known: {', '.join(known)})")

    def has(job: Job, value: str) -> bool:
        if key in TRIAL_KEYS:  # not YAML: the system 1234e567 is no number
            return value in TRIAL_KEYS[key](job)
        (given,) = parse_yaml(f"[{value}]", f"--only {condition}")
        return (key in job.swept and job.swept[key] == given) or has_option(nodes[id(job)], key, value)

    wanted = [value.strip() for value in parts_of(text, ",")]
    for value in wanted:
        if not any(has(job, value) for job in jobs):
            existing = list(
                dict.fromkeys(text for job in jobs for text in _existing(key, job, nodes[id(job)]))
            )
            more = ", ..." if len(existing) > 12 else ""
            raise ValueError(
                f"--only: no trial has {key}={value}{nearest(value, existing)} "
                f"(there are: {', '.join(existing[:12])}{more})"
            )
    return lambda job: any(has(job, value) for value in wanted)


def _existing(key: str, job: Job, nodes: Iterable[tuple[str, Any]]) -> list[str]:
    """The values of a trial under ``key`` as texts; none if the recipe does not sweep the option."""
    if key in TRIAL_KEYS:
        return TRIAL_KEYS[key](job)[:1]
    return short_values([value for path, value in nodes if is_short_for(key, path)])
