"""The sweep file: what varies, on which years, with which seeds; and the trials that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from asdray.config.backend import Backend, Knn, Seed, Umap, backend_id
from asdray.config.base import Config
from asdray.config.ensemble import Ensemble
from asdray.config.expand import bases, expand, trials_of
from asdray.config.frontend import Discriminative, FrontendConfig
from asdray.config.load import read_yaml, validate
from asdray.config.plugin import load_plugins
from asdray.config.ranking import check_rank_by
from asdray.config.resources import Resources
from asdray.config.search import Checkpoint, Confirm, Scheduler, Search, axis_kind, corners
from asdray.dcase.years import SUBSETS, check_machines, get_year, nearest


class RecipeUse(Config):
    """How a sweep uses a recipe: fixed overrides, and the axes that vary in it; dotted option paths."""

    set: dict[str, Any] = Field(default={})
    space: dict[str, Any] = Field(default={})


class Top(Config):
    """Only of the so many best systems."""

    top: Annotated[int, Field(ge=1)]


class Keep(Config):
    """What stays on disk of trials once nothing of the sweep is to read it any more.

    By default everything: a checkpoint costs hours and embeddings minutes to make again, and neither
    comes back byte for byte on other hardware. What is dropped counts as done, and is made again where
    something new (a backend, another UMAP) is to read it. Scores, tables and logs always stay.

    Attributes:
        checkpoints: ``all`` of those that the sweep names and the last; ``last`` alone; ``none``; or those of
            the K best systems. Without a checkpoint, dropped embeddings cost a training.
        embeddings: ``all``, ``none``, or those of the K best systems.

    The best are those of the leaderboard that the sweep ranks by, of a search's own trials the best of each
    recipe by its objective. What is in no ranking yet, since a trial of it is missing, stays; what a
    scheduler stopped is none of the best.
    """

    checkpoints: Literal["all", "last", "none"] | Top = "all"
    embeddings: Literal["all", "none"] | Top = "all"

    @property
    def everything(self) -> bool:
        """Whether nothing is ever dropped."""
        return self.checkpoints == self.embeddings == "all"


class Sweep(Config):
    """One sweep file, resolved. See the README for the meaning of each key."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    recipes: dict[str, RecipeUse] = Field(min_length=1)
    space: dict[str, Any] = Field(default={})
    dcase: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    machines: Literal["all"] | dict[str, tuple[str, ...]] = "all"
    backends: tuple[Backend, ...] = Field(default=(Knn(),), min_length=1)
    checkpoints: tuple[Checkpoint, ...] = Field(default=("last",), min_length=1)
    umap: Umap | Literal[False] = Umap()
    search: Search = Search()
    scheduler: Scheduler | None = None
    """Stops trainings of a search early, by their training loss."""
    confirm: Confirm | None = None
    keep: Keep = Keep()
    resources: Resources = Resources()
    rank_by: str | None = None
    """A leaderboard column such as ``dcase2023-eval``, or a mean of `asdray.config.ranking.MEANS`."""
    plugins: tuple[str, ...] = ()
    """Python files that add losses, frontends or backends, see `asdray.config.plugin`."""
    ensembles: tuple[Ensemble, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"a sweep file is a mapping of options, not {type(value).__name__}")
        value = _mappings(value)
        if isinstance(value.get("backends"), list):
            value["backends"] = _expand_backends(value["backends"])
        for key in ("dcase", "seeds", "checkpoints", "plugins"):
            if key in value and not isinstance(value[key], list | tuple):
                value[key] = [value[key]]
        return value

    @field_validator("dcase")
    @classmethod
    def _known_years(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            get_year(name)
        _refuse_twice(names, "dcase")
        return names

    @field_validator("seeds", "checkpoints")
    @classmethod
    def _each_once(cls, values: tuple) -> tuple:
        _refuse_twice(values, "the list")
        return values

    @field_validator("backends")
    @classmethod
    def _backends_once(cls, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
        _refuse_twice([backend_id(b) for b in backends], "backends")
        return backends

    @field_validator("machines")
    @classmethod
    def _known_machines(cls, machines: Any) -> Any:
        if machines == "all":
            return machines
        return {year: check_machines(year, names) for year, names in machines.items()}

    @model_validator(mode="after")
    def _machines_of_asked_years(self) -> Sweep:
        if self.machines != "all":
            for year in self.machines:
                if year not in self.years:
                    raise ValueError(
                        f"machines.{year}: the sweep's dcase list has no {year!r}{nearest(year, self.years)}"
                    )
        return self

    @model_validator(mode="after")
    def _search_parts_fit(self) -> Sweep:
        for name in ("scheduler", "confirm"):
            if getattr(self, name) is not None and not self.search.samples:
                raise ValueError(
                    f"{name} belongs to a search; this sweep is a grid, whose trials are fixed and all "
                    "run to their end: choose search: {algorithm: random} or {algorithm: optuna}, or leave "
                    "it out"
                )
        if self.search.samples and self.ensembles:
            raise ValueError(
                "ensembles are made of systems that are known beforehand, and a search's are not; to choose "
                "among these again by the same scores would flatter twice: list what it chose in the space "
                "of a grid, with fresh seeds, and the ensembles there"
            )
        if self.confirm is not None and (shared := sorted(set(self.confirm.seeds) & set(self.seeds))):
            raise ValueError(
                f"confirm.seeds: the search used {', '.join(map(str, shared))} too, and chose by what they "
                "gave: confirm with others"
            )
        objective = self.search.objective
        if objective is not None and objective.checkpoint not in self.checkpoints:
            raise ValueError(
                f"search.objective.checkpoint is {objective.checkpoint!r}, which checkpoints "
                f"({', '.join(self.checkpoints)}) does not name"
            )
        return self

    @model_validator(mode="after")
    def _rank_by_a_column(self) -> Sweep:
        try:
            check_rank_by(self.rank_by, self.columns)
        except ValueError as error:
            raise ValueError(f"rank_by: {error}") from None
        return self

    @model_validator(mode="after")
    def _ensembles_of_this_sweep(self) -> Sweep:
        _refuse_twice([e.name for e in self.ensembles], "ensembles")
        for ensemble in self.ensembles:
            try:
                ensemble.check(self.columns, len(self.seeds))
            except ValueError as error:
                raise ValueError(f"ensembles: {ensemble.name}: {error}") from None
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """``<dcase>-<subset>`` of the leaderboard's years and subsets in which a machine is asked for."""
        return tuple(
            f"{dcase}-{subset}"
            for dcase in self.board_years
            for subset in SUBSETS
            if set(get_year(dcase).machines[subset]) & set(self.machines_of(dcase))
        )

    @property
    def years(self) -> tuple[str, ...]:
        """All years that anything is trained on."""
        return tuple(dict.fromkeys((*self.dcase, *self.board_years)))

    @property
    def board_years(self) -> tuple[str, ...]:
        """The years that systems are ranked over: after a search those of its confirmation."""
        return (self.confirm.dcase if self.confirm else None) or self.dcase

    def machines_of(self, dcase: str) -> tuple[str, ...]:
        """The machines asked for in a year, in the year's order."""
        everything = get_year(dcase).all_machines
        return everything if self.machines == "all" else self.machines.get(dcase, everything)


class _CheckpointName(Config):
    checkpoint: Checkpoint


def check_checkpoint(name: str) -> str:
    """``name`` if it can name a checkpoint.

    Raises:
        ValueError: anything but ``last``, ``best`` or ``epoch_<k>``.
    """
    return validate(_CheckpointName, {"checkpoint": name}, "--ckpt").checkpoint


class _BackendList(Config):
    backends: tuple[Backend, ...] = Field(min_length=1)


def check_backends(items: list, where: str) -> tuple[Backend, ...]:
    """Backends from names and objects, lists expanded.

    Raises:
        ValueError: an unknown name or option.
    """
    return validate(_BackendList, {"backends": _expand_backends(items)}, where).backends


def _refuse_twice(values: Any, where: str) -> None:
    seen: set = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{where} names {value!r} twice")
        seen.add(value)


def _expand_backends(items: list) -> list:
    """Names become objects; list values become one backend per combination.

    Raises:
        ValueError: an option that is written as an axis of a search.
    """
    expanded: list = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            expanded.append({"name": item})
        elif isinstance(item, Mapping):
            for option, value in item.items():
                if kind := axis_kind(value):
                    raise ValueError(
                        f"backends.{i}.{option} is {value!r}: {kind} is sampled, and backends are not: give "
                        "a list of values; every system is scored by each of them, which trains nothing, and "
                        "a search judges it by the best"
                    )
            axes = {k: v if isinstance(v, list) else [v] for k, v in item.items()}
            expanded += [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
        else:
            expanded.append(item)
    return expanded


def _mappings(value: Mapping) -> dict:
    """A sweep file's options with the short forms of its mappings written out."""
    value = dict(value)
    recipes = value.get("recipes")
    if isinstance(recipes, list) and all(isinstance(r, str) for r in recipes):
        _refuse_twice(recipes, "recipes")
        value["recipes"] = {name: {} for name in recipes}
    elif isinstance(recipes, Mapping):
        value["recipes"] = {name: {} if use is None else use for name, use in recipes.items()}
    if value.get("space", {}) is None:
        value["space"] = {}
    if isinstance(value.get("scheduler"), str):
        value["scheduler"] = {"name": value["scheduler"]}
    if isinstance(value.get("search"), str):
        value["search"] = {"algorithm": value["search"]}
    if value.get("resources") == "auto":
        value["resources"] = {}
    return value


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None, plugins: Iterable[Path] = ()) -> Sweep:
    """The sweep in a YAML file, with options replaced (``seeds``, ``recipes.ae_baseline.set.train.epochs``).

    Recipe files and plugins are named relative to the sweep file; the sweep holds their absolute paths.

    Args:
        plugins: more of them than the sweep file names.

    Raises:
        ValueError: every fault of the file, one line each.
    """
    value = read_yaml(path)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: a sweep file is a mapping of options, not {type(value).__name__}")
    try:
        value = _mappings(value)
        for key, new in (overrides or {}).items():
            value = _replaced(value, _split(key, value), new, key)
        value = _mappings(value)
        if isinstance(value.get("recipes"), dict):
            value["recipes"] = _located(value["recipes"], path.expanduser().absolute().parent)
        value["plugins"] = _with_plugins(
            value.get("plugins", []), path.expanduser().absolute().parent, plugins
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    sweep = validate(Sweep, value, str(path))
    expand(sweep, str(path))
    if sweep.scheduler is not None:
        _check_scheduler(sweep, sweep.scheduler, str(path))
    return sweep


def _check_scheduler(sweep: Sweep, scheduler: Scheduler, where: str) -> None:
    """Raises ValueError where a scheduler could stop nothing, or would compare losses of different kinds."""
    longest = 0
    for base in bases(sweep, where):
        systems = [s for swept in corners(base.axes) if (s := base.varied(swept)).frontend.learns]
        if len(losses := sorted({_loss(s.frontend) for s in systems})) > 1:
            raise ValueError(
                f"{base.where}: {scheduler.name} stops by training losses, and those of {', '.join(losses)} "
                "cannot be compared: search each in a recipe file of its own, or leave the scheduler out"
            )
        for system in systems:
            trials = trials_of(sweep, base.recipe, system, sweep.dcase, sweep.seeds[:1], where)
            longest = max(longest, *(system.train.epochs * len(trial.units) for trial in trials))
    if (n := scheduler.grace_period) > longest:
        why = f"no trial has over {longest} epochs: choose fewer or" if longest else "nothing is trained:"
        raise ValueError(f"{where}: scheduler: with grace_period {n} it stops nothing, {why} leave it out")


def _loss(frontend: FrontendConfig) -> str:
    """What a frontend's training loss is made of, without options."""
    if not isinstance(frontend, Discriminative):
        return frontend.name
    return " + ".join((frontend.loss.name, *sorted(f"{h.name} ({h.loss.name})" for h in frontend.heads)))


def _split(key: str, value: Mapping) -> list[str]:
    """Splits an override's key; a recipe's name is one part, and what follows ``set`` and ``space``."""
    parts = key.split(".")
    if parts[0] == "recipes" and isinstance(value.get("recipes"), dict):
        for name in value["recipes"]:
            if f"{key}.".startswith(f"recipes.{name}."):
                rest = key.removeprefix(f"recipes.{name}").removeprefix(".")
                parts = ["recipes", name, *(rest.split(".") if rest else [])]
    for i, part in enumerate(parts):
        if i in (0, 2) and part in ("set", "space") and i + 1 < len(parts):
            return [*parts[: i + 1], ".".join(parts[i + 1 :])]
    return parts


def _replaced(value: Any, parts: list[str], new: Any, key: str) -> Any:
    """``value`` with what stands at ``parts`` replaced; the mappings on the way are copied."""
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


def _located(recipes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``recipes`` with absolute paths of recipe files, looked for in ``folder``, then where we are."""
    located: dict[str, Any] = {}
    for name, use in recipes.items():
        place = name
        if isinstance(name, str) and name.endswith((".yaml", ".yml")):
            file = Path(name).expanduser()
            places = dict.fromkeys((folder / file, Path.cwd() / file))
            found = next((p for p in places if p.is_file()), None)
            if found is None:
                raise ValueError(f"recipes: there is no file {' and no '.join(map(str, places))}")
            place = str(found)
        if place in located:
            raise ValueError(f"recipes names {place!r} twice")
        located[place] = use
    return located


def _with_plugins(named: Any, folder: Path, more: Iterable[Path]) -> list[str]:
    """Loads the plugins that a sweep file in ``folder`` names, and ``more``; returns their absolute paths."""
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise ValueError(f"plugins is {named!r}: must be a list of paths")
    paths = [folder / Path(one).expanduser() for one in named]
    return list(dict.fromkeys(plugin.path for plugin in load_plugins([*paths, *more])))
