"""From the axes of a sweep file to systems, and from systems to trials."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asdray.config.backend import backend_id
from asdray.config.base import refuse_repeats
from asdray.config.search import Objective, axis_kind, check_axis, corners
from asdray.config.sweep import Sweep
from asdray.config.system import System, load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.dcase.years import get_year

Pairs = tuple[tuple[Trial, dict[str, Any]], ...]
"""Trials, each with the swept values that made it: option path -> value."""


@dataclass(frozen=True)
class Base:
    """A recipe as a sweep uses it: what is fixed in it, and what varies."""

    recipe: str
    """Its name, or the stem of its file."""
    system: System
    axes: Mapping[str, Any]
    where: str

    def varied(self, swept: Mapping[str, Any]) -> System:
        """The system of one point of the space.

        Raises:
            ValueError: an option that does not exist, or a value that does not fit.
        """
        return with_overrides(self.system, swept, self.where)


def bases(sweep: Sweep, where: str) -> tuple[Base, ...]:
    """Every recipe of a sweep with its fixed overrides.

    Raises:
        ValueError: a fault of a recipe or of its overrides, or what is no axis.
    """
    check = _check_grid_axis if not sweep.search.samples else check_axis
    found = []
    for name, use in sweep.recipes.items():
        at = f"{where}: recipes.{name}"
        try:
            recipe = load_recipe(name).system
        except ValueError as error:
            raise ValueError(f"{where}: recipes: {error}") from None
        system = with_overrides(recipe, use.set, f"{at}.set")
        for space, place in ((sweep.space, f"{where}: space"), (use.space, f"{at}.space")):
            for path, axis in space.items():
                check(axis, f"{place}.{path}")
        axes = {**sweep.space, **use.space}
        _refuse_fixed(use.set, axes, at)
        found.append(Base(_stem(name), system, axes, f"{at}.space" if use.space else f"{where}: space"))
    refuse_repeats([base.recipe for base in found], f"{where}: recipes")
    return tuple(found)


def _refuse_fixed(fixed: Iterable[str], axes: Iterable[str], where: str) -> None:
    """Raises ValueError where an axis would overwrite, in every trial, what is said to be fixed."""
    for path, axis in itertools.product(fixed, axes):
        if path == axis or path.startswith(f"{axis}."):
            raise ValueError(
                f"{where}.set.{path} is fixed, but {axis} varies in a space, which would overwrite it: take "
                "it out of 'set', or name the axis only in the 'space' of those recipes that are to vary it"
            )


def _check_grid_axis(values: Any, where: str) -> None:
    if kind := axis_kind(values):
        raise ValueError(
            f"{where} is {values!r}: {kind} is sampled; a grid knows only lists of values: choose search: "
            "{algorithm: random} or {algorithm: optuna}, or write a list"
        )
    if not isinstance(values, list):
        raise ValueError(
            f"{where} is {values!r}: an axis of a grid is a list of values (a fixed value goes to 'set')"
        )
    if not values:
        raise ValueError(f"{where} is an empty list: an axis needs at least one value")


def expand(sweep: Sweep, where: str) -> Pairs:
    """Every trial of a grid, and the swept values that made it. A search knows none before it runs.

    What gives the same for all seeds is one trial, of seed 0.

    Raises:
        ValueError: an option that does not exist, a value that does not fit, clips too short for a
            frontend; with the place in the sweep file.
    """
    found = bases(sweep, where)
    if sweep.search.samples:
        for base in found:
            _check_sampled(sweep, base, where)
        return ()
    pairs: list[tuple[Trial, dict[str, Any]]] = []
    for base in found:
        seen: dict[str, dict] = {}
        for row in itertools.product(*base.axes.values()):
            swept = dict(zip(base.axes, row, strict=True))
            system = base.varied(swept)
            if system.id in seen:
                raise ValueError(f"{base.where}: {seen[system.id]} and {swept} are the same system")
            seen[system.id] = swept
            trials = trials_of(sweep, base.recipe, system, sweep.dcase, sweep.seeds, where)
            pairs += [(trial, swept) for trial in trials]
    return tuple(pairs)


def trials_of(
    sweep: Sweep, recipe: str, system: System, dcase: Sequence[str], seeds: Sequence[int], where: str
) -> list[Trial]:
    """The trials of a system, year by year.

    Raises:
        ValueError: clips too short for it, no backend that applies, a checkpoint that it does not reach.
    """
    trials = []
    for name in dcase:
        try:
            system.check(name)
        except ValueError as error:
            raise ValueError(f"{where}: recipes.{recipe}: {error}") from None
        for seed in (0,) if system.frontend.has_one_seed else seeds:
            trial = Trial(name, recipe, system, seed, sweep.machines_of(name))
            if not trial.backends(sweep.backends):
                names = ", ".join(b.name for b in sweep.backends)
                raise ValueError(f"{where}: none of the backends ({names}) applies to {recipe}")
            trials.append(trial)
    for ckpt in sweep.checkpoints:
        if ckpt.startswith("epoch_") and int(ckpt[6:]) > system.train.epochs:
            raise ValueError(
                f"{where}: checkpoints names {ckpt}, but recipes.{recipe} trains {system.train.epochs} epochs"
            )
    return trials


def _check_sampled(sweep: Sweep, base: Base, where: str) -> None:
    """Raises ValueError where a point of the space is no system, or one that the objective cannot judge."""
    objective = sweep.search.objective
    assert objective is not None
    if sweep.scheduler is not None and "train.epochs" in base.axes:
        raise ValueError(
            f"{base.where}.train.epochs: a scheduler compares trainings epoch by epoch: leave train.epochs "
            "out of the space, or the scheduler"
        )
    for swept in corners(base.axes):
        system = base.varied(swept)
        _refuse_test_classes(base, swept, system, where)
        trials = trials_of(sweep, base.recipe, system, sweep.years, sweep.seeds, where)
        for trial in trials:
            check_objective(sweep, objective, trial, where)


def _refuse_test_classes(base: Base, swept: Mapping[str, Any], system: System, where: str) -> None:
    """Raises ValueError where a search would see the classes of eval test clips: the loss depends on them."""
    if not system.frontend.test_classes:
        return
    axis = next((path for path in swept if path in ("frontend", "frontend.labels")), None)
    at = f"{base.where}.{axis}" if axis else f"{where}: recipes.{base.recipe}"
    raise ValueError(
        f"{at}: frontend.labels is 'asdkit', which reads the attributes and domains of eval test clips: they "
        "would reach the training that a search chooses by and that its confirmation repeats: use "
        "frontend.labels: train_only; a grid can run asdkit"
    )


def check_objective(sweep: Sweep, objective: Objective, trial: Trial, where: str) -> None:
    """Raises ValueError where the objective can have no value for a trial."""
    at = f"{where}: search.objective: {objective.metric}"
    frontend = trial.system.frontend
    if objective.metric == "train_loss" and not frontend.learns:
        raise ValueError(f"{at} is not there for {trial.recipe}: {frontend.name} learns nothing")
    if objective.metric == "official_dev":
        if trial.dcase in sweep.dcase and not set(get_year(trial.dcase).machines["dev"]) & set(
            trial.machines
        ):
            raise ValueError(f"{at} needs a dev machine of {trial.dcase}: machines asks for none")
        backends = {backend_id(b) for b in trial.backends(sweep.backends)}
        if objective.backend is not None and backend_id(objective.backend) not in backends:
            raise ValueError(
                f"{at}: the backend {objective.backend.name} with these options is none of those that score "
                f"{trial.recipe} in this sweep: add it to backends, or leave it out, and each recipe is "
                "judged by the backend that suits it best"
            )


def _stem(recipe: str) -> str:
    """A recipe file's name without folder and suffix: part of the trial's path."""
    stem = re.sub(r"\.ya?ml$", "", recipe).rsplit("/", 1)[-1]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", stem):
        raise ValueError(f"recipe {recipe!r}: use letters, digits, '.', '_' and '-' in its file name")
    return stem
