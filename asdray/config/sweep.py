"""The schema of a sweep file: what varies, on which years and with which seeds, and how results are ranked.

Example::

    name: dis_grid
    recipes: [dis_baseline, ae_baseline]
    space: {train.learning_rate: [1.0e-3, 3.0e-4]}
    dcase: [dcase2022, dcase2023]
    seeds: [0, 1, 2, 3]
    backends: [knn, {name: knn, n_neighbors: [2, 4]}]

`docs/sweeps.md` has an example with every key; `asdray.config.expand.load_sweep` reads a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from asdray.config.backend import Backend, Knn, Umap, backend_id
from asdray.config.base import Config, Positive, Seeds, Years, refuse_repeats
from asdray.config.files import seconds_of, validate
from asdray.config.recipe_use import Pairs, RecipeUse, groups_of
from asdray.config.search import Checkpoint, Confirm, Scheduler, Search, axis_kind
from asdray.dcase.years import SUBSETS, YEARS, check_machines, get_year, nearest

# --------------------------------------------------------------------------------------------------- ranking


class Mean(NamedTuple):
    """A mean over the columns ``<dcase>-<subset>`` of one subset, or of both subsets (None)."""

    subset: Literal["dev", "eval"] | None
    kind: Literal["arithmetic", "harmonic"]


MEANS: Mapping[str, Mean] = {
    "dev_amean": Mean("dev", "arithmetic"),
    "dev_hmean": Mean("dev", "harmonic"),
    "eval_amean": Mean("eval", "arithmetic"),
    "eval_hmean": Mean("eval", "harmonic"),
    "amean": Mean(None, "arithmetic"),
    "hmean": Mean(None, "harmonic"),
}
"""Means of a leaderboard, in the order of its columns."""


def averaged(rank_by: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns ``<dcase>-<subset>`` of ``names`` that a mean covers; of a single column the column itself.

    >>> averaged("eval_amean", ["dcase2022-dev", "dcase2022-eval", "dcase2023-eval"])
    ('dcase2022-eval', 'dcase2023-eval')
    """
    if rank_by not in MEANS:
        return (rank_by,)
    subset = MEANS[rank_by].subset
    return tuple(n for n in names if subset is None or n.endswith(f"-{subset}"))


def check_rank_by(rank_by: str | None, names: Sequence[str]) -> str:
    """``rank_by``, by default the mean over the eval columns, or over the dev columns without eval columns.

    Args:
        names: columns of the leaderboard, ``<dcase>-<subset>``.

    Raises:
        ValueError: neither a column nor a mean of any column.
    """
    known = (*names, *(mean for mean in MEANS if averaged(mean, names)))
    if rank_by is None:
        return "eval_amean" if "eval_amean" in known else "dev_amean"
    if rank_by not in known:
        raise ValueError(f"cannot rank by {rank_by!r}{nearest(rank_by, known)} (one of: {', '.join(known)})")
    return rank_by


def check_chosen_by(name: str, columns: Sequence[str], option: str) -> None:
    """Checks that ``name`` is a dev column or a mean of dev columns, by which rows may be chosen.

    Args:
        columns: columns of the sweep's leaderboard, ``<dcase>-<subset>``.
        option: the option that holds the name, for the message.

    Raises:
        ValueError: an eval column, or an unknown one.
    """
    dev = tuple(c for c in columns if c.endswith("-dev"))
    known = [*dev, *(m for m in MEANS if m.startswith("dev_") and dev)]
    if name in known:
        return
    if name in columns or name in MEANS:
        raise ValueError(
            f"{option} {name!r}: the eval subset must not choose what is reported on it; choose by dev "
            f"columns (one of: {', '.join(known) or 'none in this sweep'})"
        )
    raise ValueError(f"cannot choose by {name!r}{nearest(name, known)} (one of: {', '.join(known)})")


Combine = Literal["zscore", "rank"]


class Ensemble(Config):
    """A leaderboard row of combined scores; with ``of: seeds`` a row per system and backend.

    Example: ``ensembles: [{name: top3, of: top, k: 3, rank_by: dcase2023-dev}]``
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=50)]
    """Name of the row."""
    of: Literal["seeds", "top"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """Members. ``seeds``: all seeds of a row, for every row. ``top``: the ``k`` best rows. A list of rows by
    name: a recipe or a system, followed by ``/<backend>`` to select one backend, as in
    ``dis_baseline/knn``."""
    combine: Combine = "zscore"
    """Scale of the scores before the mean. ``zscore``: standardised by the training scores. ``rank``: ranks
    among the test clips, which is transductive. See `asdray.evaluation.ensemble`."""
    seeds: Literal["each", "all"] | None = None
    """``each``: an ensemble per seed, of the trials with this seed, and the mean over seeds. ``all``: one
    ensemble of all trials. Null means ``each``, with ``of: seeds`` always ``all``."""
    k: Annotated[int, Field(ge=2)] | None = None
    """Number of rows for ``of: top``."""
    rank_by: str | None = None
    """Order of the rows for ``of: top``: a ``<dcase>-dev`` column, ``dev_amean`` (null) or ``dev_hmean``."""

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> Ensemble:
        if self.of == "top" and self.k is None:
            raise ValueError("'of: top' needs 'k', the number of best rows to combine")
        for option in ("k", "rank_by"):
            if self.of != "top" and getattr(self, option) is not None:
                raise ValueError(f"{option!r} is for 'of: top' alone")
        if self.of == "seeds" and self.seeds == "each":
            raise ValueError("'of: seeds' is over all seeds: leave 'seeds' out")
        return self

    @property
    def per_seed(self) -> bool:
        """True if each seed has its own ensemble."""
        return self.of != "seeds" and self.seeds != "all"

    @property
    def chosen_by(self) -> str | None:
        """The column or mean that selects the members; None for members by name."""
        return (self.rank_by or "dev_amean") if self.of == "top" else None

    def check(self, columns: Sequence[str], n_seeds: int) -> None:
        """Raises ValueError if an eval or unknown column selects members, or if ``of: seeds`` has one seed.

        Args:
            columns: columns of the sweep's leaderboard, ``<dcase>-<subset>``.
            n_seeds: number of seeds of the sweep.
        """
        if self.of == "seeds" and n_seeds < 2:
            raise ValueError("'of: seeds' needs two seeds at least")
        if self.chosen_by is not None:
            check_chosen_by(self.chosen_by, columns, "rank_by")


LoggerName = Literal["tensorboard", "wandb", "mlflow", "csv"]

# --------------------------------------------------------------------------------------- resources and disk

RAY_STEP = 0.0001
"""Ray's unit of CPUs; Ray counts less than one unit as nothing."""


class Need(Config):
    """Reservation of one training, or of one Ray task after training, on a node.

    Example: ``train: {cpu: 2, gpu: 0.5}``
    """

    cpu: Annotated[float, Field(ge=0)] = 0.0
    """CPUs; chosen automatically if left out of ``train``, else none."""
    gpu: Annotated[float, Field(ge=0)] = 0.0
    """GPUs, a fraction below 1 or a whole number; chosen automatically if left out of ``train``, else
    none."""
    per_node: Annotated[int, Field(ge=1)] | None = None
    """Largest number of trainings at once on any node; each then reserves a larger part of the node. Null: as
    many as fit. For ``train`` only."""

    @field_validator("gpu")
    @classmethod
    def _whole_above_one(cls, gpu: float) -> float:
        if gpu > 1 and gpu % 1:
            raise ValueError(
                f"{gpu:g} GPUs cannot be had, above 1 they are whole numbers: ask for {math.floor(gpu)} or "
                f"{math.ceil(gpu)}, or for a part of one (0.5)"
            )
        return gpu

    @model_serializer(mode="wrap")
    def _as_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only the given options: a default in ``sweep.yaml`` would later look like the user's choice."""
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class Resources(Config):
    """Reservations per kind of work; null for an automatic choice, see `asdray.sweep.cluster`.

    Example: ``resources: {train: {cpu: 2, gpu: 0.5}, umap: {cpu: 1}}``
    """

    train: Need | None = None
    """One training."""
    extract: Need | None = None
    """Extraction of a machine. One task runs extract, score and evaluate, and reserves the larger need of
    both."""
    score: Need | None = None
    """Scoring of a machine."""
    umap: Need | None = None
    """UMAP of a machine."""

    @field_validator("train")
    @classmethod
    def _not_nothing(cls, train: Need | None) -> Need | None:
        # Ray never starts a training that reserves nothing, and reports no error. A default GPU cannot be
        # assumed: the cluster may have none.
        if train is None or "cpu" not in train.model_fields_set or train.cpu >= RAY_STEP:
            return train
        if not train.gpu and not train.per_node:
            raise ValueError(
                f"cpu is {train.cpu:g} and no gpu is asked for, but a training must reserve something: set "
                f"resources.train.cpu to 1 or more (Ray counts in steps of {RAY_STEP:g}), leave it out, so "
                "that it is chosen, or ask for a gpu too"
            )
        return train

    @model_validator(mode="after")
    def _per_node_of_trainings(self) -> Resources:
        for kind in ("extract", "score", "umap"):
            if (need := getattr(self, kind)) and need.per_node:
                raise ValueError(
                    f"{kind}.per_node is {need.per_node}, but only trainings are limited per node "
                    f"(train: {{per_node: ...}}): have each reserve more instead ({kind}: {{cpu: ...}})"
                )
        return self


class Top(Config):
    """The files of the best systems only. Example: ``{top: 3}``"""

    top: Positive
    """Number of systems."""


class Keep(Config):
    """Files of a trial that stay on disk after their last use; scores, tables and logs always stay.

    By default all stay: a checkpoint costs hours and embeddings minutes to make again, with other last digits
    on other hardware. A pruned file counts as done. If a new backend or another UMAP needs the file, the file
    is rebuilt.

    With ``{top: 3}`` the best systems are the best of the leaderboard's ranking; for the trials of a search,
    the best of each recipe by the objective. Systems without a rank, because a trial is missing, are kept;
    systems that a scheduler stopped are not among the best.

    Example: ``keep: {checkpoints: {top: 3}, embeddings: none}``
    """

    checkpoints: Literal["all", "last", "none"] | Top = "all"
    """``all``: the sweep's ``checkpoints`` and ``last``; ``last``; ``none``; or of the best systems. Without
    a checkpoint, pruned embeddings cost a training."""
    embeddings: Literal["all", "none"] | Top = "all"
    """``all``, ``none``, or of the best systems."""

    @property
    def everything(self) -> bool:
        """True if no file is ever pruned."""
        return self.checkpoints == self.embeddings == "all"


# ------------------------------------------------------------------------------------------------ sweep file


class Sweep(Config):
    """A sweep file with all defaults filled in; the module has an example."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """Folder of the results: ``results/sweeps/<name>``."""
    recipes: dict[str, RecipeUse] = Field(min_length=1)
    """Recipes by name or path of a YAML file; a list of names for recipes without changes."""
    space: dict[str, Any] = Field(default={})
    """Axes of all recipes: dotted option path -> values; other kinds of axis in `asdray.config.search`."""
    zip: Pairs = Field(default={})
    """Paired axes of all recipes, whose lists of values have one length: the first values together, then the
    second ones; a list of mappings for several groups. For a grid only."""
    dcase: Years
    """Years, such as ``dcase2023``."""
    seeds: Seeds
    """A trial per system, year and seed."""
    machines: Literal["all"] | dict[str, tuple[str, ...]] = "all"
    """``all``; or year -> some machines; or a list, of machines that every year of the sweep has."""
    backends: tuple[Backend, ...] = Field(default=(Knn(),), min_length=1)
    """Backends by name or as objects; a list of values stands for a backend per value."""
    checkpoints: tuple[Checkpoint, ...] = Field(default=("last",), min_length=1)
    """``last``, ``best`` (lowest loss, see ``validation`` of the autoencoder) or ``epoch_<k>``; all are
    scored."""
    umap: Umap | Literal[False] = Umap()
    """UMAP plots, or false."""
    report: bool = True
    """``report.html`` at the end of the sweep."""
    search: Search = Search()
    """The full product of the space, or a search."""
    scheduler: Scheduler | None = None
    """Rule that stops trainings of a search early, by their training losses."""
    confirm: Confirm | None = None
    """Trials of the best systems of a search with fresh seeds."""
    keep: Keep = Keep()
    """Files that stay on disk."""
    resources: Resources = Resources()
    """CPUs and GPUs per training and task."""
    stall_after: Annotated[float, Field(gt=0)] | None = None
    """Seconds, or a time such as ``3h50m``, without a sign of life after which a step counts as hung; null:
    see `asdray.sweep.watch`."""
    rank_by: str | None = None
    """Order of the leaderboard: a column such as ``dcase2023-eval``, or a mean over columns: ``dev_amean``,
    ``dev_hmean``, ``eval_amean``, ``eval_hmean``, ``amean``, ``hmean``. Null: ``eval_amean``, or
    ``dev_amean`` where the sweep has no eval column."""
    choose_by: str | None = None
    """A grid's choice among its rows, by a ``<dcase>-dev`` column, ``dev_amean`` or ``dev_hmean``; null for
    none. ``selection.csv`` and a note of the leaderboard set the chosen row beside the row with the best eval
    score; the order of the leaderboard stays."""
    plugins: tuple[str, ...] = ()
    """Python files or folders that add losses, networks, frontends, backends, see `asdray.config.plugin`."""
    loggers: tuple[LoggerName, ...] = ()
    """Experiment trackers that are told of every trial that does work: ``tensorboard``, ``csv``; ``wandb``
    and ``mlflow`` need the extra of their name: ``pip install 'asdray[wandb]'``. No result depends on
    them."""
    fail_fast: bool = False
    """If true, the first step that fails for good ends the run; the next run goes on with the others."""
    ensembles: tuple[Ensemble, ...] = ()
    """Further rows of combined scores."""
    notes: tuple[str, ...] | None = None
    """Sentences below the leaderboard."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"a sweep file is a mapping of options, not {type(value).__name__}")
        value = spelled_out(value)
        for key in ("dcase", "seeds", "backends", "checkpoints", "plugins", "loggers"):
            if key in value and not isinstance(value[key], list | tuple):
                value[key] = [value[key]]
        if isinstance(value.get("backends"), list):
            value["backends"] = _expand_backends(value["backends"])
        if isinstance(value.get("machines"), list):
            value["machines"] = _of_every_year(value["machines"], value)
        return value

    @model_validator(mode="after")
    def _each_once(self) -> Sweep:
        refuse_repeats(self.checkpoints, "checkpoints")
        refuse_repeats(self.loggers, "loggers")
        refuse_repeats([backend_id(b) for b in self.backends], "backends")
        return self

    @field_validator("umap", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        # Text as YAML is read here, which pydantic takes for false where an option is true or false.
        return False if isinstance(value, str) and value.lower() in ("no", "off") else value

    @field_validator("stall_after", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        return seconds_of(value, "the time") if isinstance(value, str) else value

    @field_validator("machines")
    @classmethod
    def _known_machines(cls, machines: Any) -> Any:
        if machines == "all":
            return machines
        return {year: check_machines(year, names) for year, names in machines.items()}

    @model_validator(mode="after")
    def _machines_of_requested_years(self) -> Sweep:
        for year in self.machines if self.machines != "all" else ():
            if year not in self.years:
                raise ValueError(
                    f"machines.{year}: the sweep's dcase list has no {year!r}{nearest(year, self.years)}"
                )
        return self

    @model_validator(mode="after")
    def _pairs_are_of_a_grid(self) -> Sweep:
        if self.search.samples and (self.pairs or any(groups_of(use.zip) for use in self.recipes.values())):
            raise ValueError(
                "zip belongs to a grid; a search samples each option by itself: leave it out, or make one "
                "option of what belongs together, such as frontend.loss: [{name: arcface, scale: 32, margin: "
                "0.3}, ...]"
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
                "ensembles are made of systems that are known beforehand, and a search finds its systems "
                "only during the run; a second choice by the same scores would flatter, too: write a grid "
                "with the chosen systems in its space, with fresh seeds and with these ensembles"
            )
        if self.search.samples and self.choose_by is not None:
            raise ValueError(
                f"choose_by is {self.choose_by!r}, but a search chooses by search.objective: leave it out"
            )
        if self.confirm is not None and (shared := sorted(set(self.confirm.seeds) & set(self.seeds))):
            raise ValueError(
                f"confirm.seeds: the search used {', '.join(map(str, shared))} too, and chose by their "
                "results: confirm with other seeds"
            )
        objective = self.search.objective
        if objective is not None and objective.checkpoint not in self.checkpoints:
            raise ValueError(
                f"search.objective.checkpoint is {objective.checkpoint!r}, which checkpoints "
                f"({', '.join(self.checkpoints)}) does not name"
            )
        return self

    @model_validator(mode="after")
    def _ranked_by_columns(self) -> Sweep:
        refuse_repeats([e.name for e in self.ensembles], "ensembles")
        place = "rank_by"
        try:
            check_rank_by(self.rank_by, self.columns)
            if self.choose_by is not None:
                place = "choose_by"
                check_chosen_by(self.choose_by, self.columns, place)
            for ensemble in self.ensembles:
                place = f"ensembles: {ensemble.name}"
                ensemble.check(self.columns, len(self.seeds))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        return self

    @property
    def pairs(self) -> tuple[Mapping[str, Any], ...]:
        """The groups of paired axes of all recipes."""
        return groups_of(self.zip)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the leaderboard, ``<dcase>-<subset>``: years and subsets with a machine of the sweep."""
        return tuple(
            f"{dcase}-{subset}"
            for dcase in self.board_years
            for subset in SUBSETS
            if set(get_year(dcase).machines[subset]) & set(self.machines_of(dcase))
        )

    @property
    def years(self) -> tuple[str, ...]:
        """All years with a trial: ``dcase``, then further years of the confirmation."""
        return tuple(dict.fromkeys((*self.dcase, *self.board_years)))

    @property
    def board_years(self) -> tuple[str, ...]:
        """The years of the leaderboard; for a search the years of its confirmation."""
        return (self.confirm.dcase if self.confirm else None) or self.dcase

    def machines_of(self, dcase: str) -> tuple[str, ...]:
        """The sweep's machines of a year, in the year's order; all if ``machines`` does not have the year."""
        every = get_year(dcase).all_machines
        return every if self.machines == "all" else self.machines.get(dcase, every)


def spelled_out(value: Mapping) -> dict:
    """The options of a sweep file, with mappings in place of the short forms ``recipes: [a, b]``, ``search:
    random``, ``scheduler: asha``, ``resources: auto`` and of an empty ``space:``."""
    value = dict(value)
    recipes = value.get("recipes")
    if isinstance(recipes, list) and all(isinstance(r, str) for r in recipes):
        refuse_repeats(recipes, "recipes")
        value["recipes"] = {name: {} for name in recipes}
    elif isinstance(recipes, Mapping):
        value["recipes"] = {name: {} if use is None else use for name, use in recipes.items()}
    if value.get("space", {}) is None:
        value["space"] = {}
    for key, option in (("scheduler", "name"), ("search", "algorithm")):
        if isinstance(value.get(key), str):
            value[key] = {option: value[key]}
    if value.get("resources") == "auto":
        value["resources"] = {}
    return value


def _of_every_year(machines: list, value: Mapping[str, Any]) -> Any:
    """A list of machines for every year of a sweep file; unchanged where machines or years have another form.

    Raises:
        ValueError: a year without one of the machines, which another year has.
    """
    confirm = value.get("confirm")
    further = confirm.get("dcase") if isinstance(confirm, Mapping) else None
    named = [*value.get("dcase", []), *(further if isinstance(further, list) else [further])]
    years = [year for year in dict.fromkeys(y for y in named if isinstance(y, str)) if year in YEARS]
    if not all(isinstance(machine, str) for machine in machines) or not years:
        return machines if years else "all"  # a fault of the years alone is reported
    having = {year: [m for m in machines if m in get_year(year).all_machines] for year in years}
    lacking = [y for y in years if having[y] != machines]
    somewhere = {machine for found in having.values() for machine in found}
    if lacking and len(years) > 1 and set(machines) <= somewhere:
        names = ", ".join(m for m in machines if m not in having[lacking[0]])
        by_year = ", ".join(f"{year}: [{', '.join(found)}]" for year, found in having.items() if found)
        raise ValueError(
            f"machines is a list, which is for every year of the sweep, but {lacking[0]} has no {names}: "
            f"name the machines by year, machines: {{{by_year}}}"
        )
    return dict.fromkeys(years, machines)


# -------------------------------------------------------------------------------- options of other commands


class _CheckpointName(Config):
    checkpoint: Checkpoint


def check_checkpoint(name: str) -> str:
    """``name`` if valid.

    Raises:
        ValueError: neither ``last``, ``best`` nor ``epoch_<k>``.
    """
    return validate(_CheckpointName, {"checkpoint": name}, "--ckpt").checkpoint


class _BackendList(Config):
    backends: tuple[Backend, ...] = Field(min_length=1)


def check_backends(items: list, where: str) -> tuple[Backend, ...]:
    """Backends from names and objects: ``["knn", {"name": "knn", "n_neighbors": [2, 4]}]`` gives three.

    Raises:
        ValueError: an unknown name or option.
    """
    return validate(_BackendList, {"backends": _expand_backends(items)}, where).backends


def _expand_backends(items: list) -> list:
    """Objects in place of names, and an object per combination in place of lists of values.

    Raises:
        ValueError: an axis of a search as the value of an option.
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
            # An empty list would leave the backend out: its option refuses the list.
            axes = {k: v if isinstance(v, list) and v else [v] for k, v in item.items()}
            expanded += [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
        else:
            expanded.append(item)
    return expanded
