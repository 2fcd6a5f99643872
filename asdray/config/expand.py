"""From a sweep file to systems, and from systems to trials.

A grid is expanded to the full product of its axes, per recipe (`asdray.config.grid`); example with 2 x 2
systems on 2 years with 4 seeds, hence 32 trials::

    recipes: [dis_baseline, ae_baseline]
    space: {train.learning_rate: [1.0e-3, 3.0e-4]}
    dcase: [dcase2022, dcase2023]
    seeds: [0, 1, 2, 3]

The systems of a search are unknown before its run; here the space is checked at its corners. Example::

    sweep = load_sweep(Path("sweeps/dis_grid.yaml"), {"seeds": [0, 1]})
    trials = expand(sweep, "sweeps/dis_grid.yaml")
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asdray.config.backend import OwnBackend, backend_id
from asdray.config.base import load_plugins, refuse_repeats
from asdray.config.files import read_yaml, validate
from asdray.config.grid import Axes, check_grid_axis, check_pairs, rows, spread
from asdray.config.plugin import Plugin
from asdray.config.recipe_files import result_name
from asdray.config.recipe_use import RecipeUse, groups_of
from asdray.config.search import check_axis, corners
from asdray.config.sweep import Sweep, spelled_out
from asdray.config.system import System, with_overrides
from asdray.config.system_names import system_names, value_at
from asdray.config.trial import Trial, check_embeddings
from asdray.dcase.years import get_year
from asdray.home import expanded

GridTrials = tuple[tuple[Trial, dict[str, Any]], ...]
"""Trials, each with the values of its axes: option path -> value."""


@dataclass(frozen=True)
class Base:
    """A recipe in a sweep: fixed options, and the axes of the space.

    Attributes:
        recipe: name of the recipe, or of the recipe's file without suffix.
        system: the recipe with the sweep's fixed values.
        axes: option path -> values.
        pairs: groups of axes that vary together.
        where: place of the axes in the sweep file, for error messages.
    """

    recipe: str
    system: System
    axes: Axes
    pairs: tuple[Axes, ...]
    where: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The points of a grid: option path -> value."""
        return rows(self.axes, self.pairs)

    def varied(self, swept: Mapping[str, Any]) -> System:
        """The system at a point of the space, a value per axis; ValueError if an option does not fit."""
        return with_overrides(self.system, swept, self.where)


def bases(sweep: Sweep, where: str) -> tuple[Base, ...]:
    """Every recipe of a sweep with its fixed options and axes.

    Raises:
        ValueError: a fault of a recipe, a fixed option or an axis, with its place in the sweep file.
    """
    found = []
    for name, use in sweep.recipes.items():
        at = f"{where}: recipes.{name}"
        try:
            recipe = use.content(name).system
        except ValueError as error:
            raise ValueError(f"{where}: recipes: {error}") from None
        system = with_overrides(recipe, use.set, f"{at}.set")
        axes, pairs = _axes(sweep, use, where, at)
        _refuse_fixed(use.set, [*axes, *itertools.chain(*pairs)], at)
        if not sweep.search.samples:
            axes = {path: spread(system, path, values) for path, values in axes.items()}
        place = f"{at}.space" if use.space else f"{at}.zip" if use.zip else f"{where}: space"
        found.append(Base(result_name(name), system, axes, pairs, place))
    refuse_repeats([base.recipe for base in found], f"{where}: recipes")
    return tuple(found)


def _axes(sweep: Sweep, use: RecipeUse, where: str, at: str) -> tuple[Axes, tuple[Axes, ...]]:
    """The axes and the groups of paired axes of a recipe.

    Raises:
        ValueError: an axis of another form, or an option that varies in two places.
    """
    check = check_axis if sweep.search.samples else check_grid_axis
    for space, place in ((sweep.space, f"{where}: space"), (use.space, f"{at}.space")):
        for path, axis in space.items():
            check(axis, f"{place}.{path}")
    for groups, place in ((sweep.pairs, f"{where}: zip"), (groups_of(use.zip), f"{at}.zip")):
        for group in groups:
            check_pairs(group, place)
    axes, pairs = {**sweep.space, **use.space}, (*sweep.pairs, *groups_of(use.zip))
    refuse_repeats([*axes, *itertools.chain(*pairs)], f"{at}: space and zip together")
    return axes, pairs


def _refuse_fixed(fixed: Iterable[str], axes: Iterable[str], where: str) -> None:
    """Raises ValueError if an axis would overwrite a fixed option in every trial."""
    for path, axis in itertools.product(fixed, axes):
        if path == axis or path.startswith(f"{axis}."):
            raise ValueError(
                f"{where}.set.{path} is fixed, but {axis} varies in a space, which would overwrite it: take "
                "it out of 'set', or name the axis only in the 'space' of those recipes that are to vary it"
            )


# ---------------------------------------------------------------------------------------------------- trials


def expand(sweep: Sweep, where: str) -> GridTrials:
    """Every trial of a grid with the values of its axes; of a search, after a check of the space, none.

    A system whose result does not depend on the seed has one trial, with seed 0.

    Raises:
        ValueError: an option that does not exist, a value that does not fit, or clips too short for a
            frontend, with the place in the sweep file.
    """
    found = bases(sweep, where)
    _check_embeddings(sweep, found, where)
    if sweep.search.samples:
        for base in found:
            _check_search(sweep, base, where)
        return ()
    pairs: list[tuple[Trial, dict[str, Any]]] = []
    for base in found:
        seen: dict[str, dict] = {}
        for swept in base.rows:
            system = base.varied(swept)
            if system.id in seen:
                raise ValueError(f"{base.where}: {seen[system.id]} and {swept} are the same system")
            seen[system.id] = swept
            trials = trials_of(sweep, base.recipe, system, sweep.dcase, sweep.seeds, where)
            pairs += [(trial, swept) for trial in trials]
    labels = _labels(pairs)
    return tuple((replace(trial, label=labels[trial.system_name]), swept) for trial, swept in pairs)


def _labels(pairs: Iterable[tuple[Trial, Mapping[str, Any]]]) -> dict[str, str]:
    """System -> its name for people among the systems of the sweep."""
    systems = {trial.system_name: (trial, swept) for trial, swept in pairs}
    return system_names(
        {
            name: (trial.recipe, {path: value_at(trial.system, path) for path in swept})
            for name, (trial, swept) in systems.items()
        }
    )


def _check_embeddings(sweep: Sweep, found: Iterable[Base], where: str) -> None:
    """Raises ValueError for a backend that names an embedding which no system of the sweep computes."""
    if any(not isinstance(b, OwnBackend) and b.embeddings for b in sweep.backends):
        points = [corners(base.axes) if sweep.search.samples else base.rows for base in found]
        frontends = [
            base.varied(swept).frontend
            for base, rows_of in zip(found, points, strict=True)
            for swept in rows_of
        ]
        try:
            check_embeddings(frontends, sweep.backends)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def trials_of(
    sweep: Sweep, recipe: str, system: System, dcase: Sequence[str], seeds: Sequence[int], where: str
) -> list[Trial]:
    """The trials of a system, year by year.

    Raises:
        ValueError: clips too short for the system, no backend that applies, or a checkpoint after the last
            epoch.
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
        epochs = system.train.known_epochs
        if ckpt.startswith("epoch_") and (epochs is None or int(ckpt[6:]) > epochs):
            why = (
                f"trains {epochs} epochs"
                if epochs
                else f"has last and best alone: {system.train.why_unknown}"
            )
            raise ValueError(f"{where}: checkpoints names {ckpt}, but recipes.{recipe} {why}")
    return trials


# --------------------------------------------------------------------------------------- checks of a search


def _check_search(sweep: Sweep, base: Base, where: str) -> None:
    """Raises ValueError if a corner of the space is no valid system, or has no value of the objective."""
    if sweep.scheduler is not None and "train.epochs" in base.axes:
        raise ValueError(
            f"{base.where}.train.epochs: a scheduler compares trainings epoch by epoch: leave train.epochs "
            "out of the space, or the scheduler"
        )
    for swept in corners(base.axes):
        system = base.varied(swept)
        _refuse_test_classes(base, swept, system, where)
        for trial in trials_of(sweep, base.recipe, system, sweep.years, sweep.seeds, where):
            _check_objective(sweep, trial, where)


def _refuse_test_classes(base: Base, swept: Mapping[str, Any], system: System, where: str) -> None:
    """Raises ValueError if training reads the classes of eval test clips: these would reach the choice."""
    if not system.frontend.test_classes:
        return
    axis = next((path for path in swept if path in ("frontend", "frontend.labels")), None)
    at = f"{base.where}.{axis}" if axis else f"{where}: recipes.{base.recipe}"
    raise ValueError(
        f"{at}: frontend.labels is 'asdkit', which reads the attributes and domains of eval test clips: they "
        "would reach the training that a search chooses by and that its confirmation repeats: use "
        "frontend.labels: train_only; a grid can run asdkit"
    )


def _check_objective(sweep: Sweep, trial: Trial, where: str) -> None:
    """Raises ValueError if a trial cannot have a value of the search's objective."""
    objective = sweep.search.objective
    assert objective is not None
    at = f"{where}: search.objective: {objective.metric}"
    frontend = trial.system.frontend
    if objective.metric == "train_loss" and not frontend.learns:
        raise ValueError(f"{at} has no value for {trial.recipe}: {frontend.name} learns nothing")
    if objective.metric != "official_dev":
        return
    dev_machines = set(get_year(trial.dcase).machines["dev"])
    if trial.dcase in sweep.dcase and not dev_machines & set(trial.machines):
        raise ValueError(f"{at} needs a dev machine of {trial.dcase}: machines asks for none")
    backends = {backend_id(b) for b in trial.backends(sweep.backends)}
    if objective.backend is not None and backend_id(objective.backend) not in backends:
        raise ValueError(
            f"{at}: the backend {objective.backend.name} with these options is none of the backends that "
            f"score {trial.recipe} in this sweep: add it to backends, or leave objective.backend out, so "
            "that the best backend judges each system"
        )


def check_scheduler(sweep: Sweep, where: str) -> None:
    """Raises ValueError if the scheduler could stop no training, or would compare different kinds of loss."""
    if (scheduler := sweep.scheduler) is None:
        return
    longest = 0
    for base in bases(sweep, where):
        systems = [s for swept in corners(base.axes) if (s := base.varied(swept)).frontend.learns]
        if len(losses := sorted({s.frontend.loss_kind for s in systems})) > 1:
            raise ValueError(
                f"{base.where}: {scheduler.name} stops by training losses, and those of {', '.join(losses)} "
                "cannot be compared: search each in a recipe file of its own, or leave the scheduler out"
            )
        for system in systems:
            trials = trials_of(sweep, base.recipe, system, sweep.dcase, sweep.seeds[:1], where)
            if (epochs := system.train.known_epochs) is None:
                raise ValueError(
                    f"{base.where}: {scheduler.name} compares trainings of a known number of epochs, but "
                    f"{system.train.why_unknown}: give train.epochs alone, or leave the scheduler out"
                )
            longest = max(longest, *(epochs * len(trial.units) for trial in trials))
    if (n := scheduler.grace_period) > longest:
        why = f"no trial has over {longest} epochs: choose fewer or" if longest else "nothing is trained:"
        raise ValueError(f"{where}: scheduler: with grace_period {n} it stops nothing, {why} leave it out")


# ---------------------------------------------------------------------------------- the file with overrides


def load_sweep(
    path: Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    plugins: Iterable[Path] = (),
    use: Callable[[Iterable[Path]], Iterable[Plugin]] = load_plugins,
) -> Sweep:
    """The sweep in a YAML file.

    Relative paths of recipe files and plugins start at the folder of the sweep file; the result has absolute
    ones.

    Args:
        path: of the file; or the content of one, whose relative paths start at the working directory.
        overrides: key -> new value, as in ``--set``: ``{"recipes.ae_baseline.set.train.epochs": 3}``.
        plugins: plugins besides those of the sweep file.
        use: makes the plugins at some paths known; by default their code runs.

    Raises:
        ValueError: all faults of the file, a line each.
    """
    if isinstance(path, Mapping):
        where, value, folder = "the sweep", copy.deepcopy(dict(path)), Path.cwd()
    else:
        where, value, folder = str(path), read_yaml(path), expanded(path).absolute().parent
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: a sweep file is a mapping of options, not {type(value).__name__}")
    try:
        value = spelled_out(value)
        for key, new in (overrides or {}).items():
            value = _replaced(value, _split(key, value), new, key)
        value = spelled_out(value)
        if isinstance(value.get("recipes"), dict):
            value["recipes"] = _with_absolute_paths(value["recipes"], folder)
        paths = [*_plugin_paths(value.get("plugins", []), folder), *plugins]
        value["plugins"] = list(dict.fromkeys(plugin.path for plugin in use(paths)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    sweep = validate(Sweep, value, where)
    expand(sweep, where)
    check_scheduler(sweep, where)
    return sweep


def _split(key: str, value: Mapping) -> list[str]:
    """The parts of an override's key. Dots do not split a recipe's name, nor an option path after ``set`` or
    ``space``: ``recipes.my.yaml.set.train.epochs`` has the parts recipes, my.yaml, set, train.epochs."""
    parts = key.split(".")
    if parts[0] == "recipes" and isinstance(value.get("recipes"), dict):
        names = [name for name in value["recipes"] if f"{key}.".startswith(f"recipes.{name}.")]
        if len(names) > 1:
            raise ValueError(
                f"--set {key} may mean each of the recipes {' and '.join(names)}: rename the recipe file"
            )
        for name in names:
            rest = key.removeprefix(f"recipes.{name}").removeprefix(".")
            parts = ["recipes", name, *(rest.split(".") if rest else [])]
    for i, part in enumerate(parts):
        if i in (0, 2) and part in ("set", "space") and i + 1 < len(parts):
            return [*parts[: i + 1], ".".join(parts[i + 1 :])]
    return parts


def _replaced(value: Any, parts: list[str], new: Any, key: str) -> Any:
    """A copy of ``value`` with ``new`` at ``parts``; unchanged branches are shared with the original."""
    if not parts:
        return new
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        outer = key.removesuffix("." + ".".join(parts))
        raise ValueError(
            f"--set {key}: {outer} is {value!r}, which has no options of its own: set {outer} as a whole"
        )
    return {**value, parts[0]: _replaced(value.get(parts[0]), parts[1:], new, key)}


def _with_absolute_paths(recipes: Mapping[Any, Any], folder: Path) -> dict[Any, Any]:
    """The recipes of a sweep file, with absolute paths of recipe files."""
    found: dict[Any, Any] = {}
    for name, use in recipes.items():
        if isinstance(use, Mapping) and use.get("recipe") is not None:
            use = {**use, "recipe": _absolute(use["recipe"], folder)}
        else:
            name = _absolute(name, folder)
        refuse_repeats([*found, name], "recipes")
        found[name] = use
    return found


def _absolute(recipe: Any, folder: Path) -> Any:
    """A recipe file's absolute path, below ``folder`` or the working directory; a name unchanged."""
    if not (isinstance(recipe, str) and recipe.endswith((".yaml", ".yml"))):
        return recipe
    file = expanded(recipe)
    places = dict.fromkeys((folder / file, Path.cwd() / file))
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise ValueError(f"recipes: there is no file {' and no '.join(map(str, places))}")
    return str(found)


def _plugin_paths(named: Any, folder: Path) -> list[Path]:
    """The paths of a sweep file's ``plugins``, a string or a list of strings."""
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"plugins is {named!r}: must be a list of paths")
    return [folder / expanded(name) for name in named]
