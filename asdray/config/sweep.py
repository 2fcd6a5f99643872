"""The sweep file: what varies, on which years, with which seeds; and the trials that follow from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from asdray.config.backend import Backend, Knn, Umap, backend_id
from asdray.config.base import Config, Seed, refuse_repeats
from asdray.config.files import validate
from asdray.config.search import Checkpoint, Confirm, Scheduler, Search, axis_kind
from asdray.dcase.years import SUBSETS, check_machines, get_year, nearest


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
        names: the leaderboard's columns, ``<dcase>-<subset>``.

    Raises:
        ValueError: neither a column nor a mean over any.
    """
    known = (*names, *(mean for mean in MEANS if averaged(mean, names)))
    if rank_by is None:
        return "eval_amean" if "eval_amean" in known else "dev_amean"
    if rank_by not in known:
        raise ValueError(f"cannot rank by {rank_by!r}{nearest(rank_by, known)} (one of: {', '.join(known)})")
    return rank_by


Combine = Literal["zscore", "rank"]


class Ensemble(Config):
    """A leaderboard row beside those of the trials; ``of: seeds`` is a row per system and backend."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=50)]
    of: Literal["seeds", "top"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """``seeds``: of every row, all its seeds; ``top``: the ``k`` best rows; or rows by name: a recipe or a
    system, with ``/<backend>`` behind it if not all of them are meant: ``dis_baseline/knn``."""
    combine: Combine = "zscore"
    """See `asdray.evaluation.ensemble`. ``zscore`` needs training scores alone; ``rank`` is transductive."""
    seeds: Literal["each", "all"] | None = None
    """``each``: an ensemble per seed, of the rows' trials of that seed, and a mean over them; ``all``: one of
    all trials. Null is ``each``; of ``seeds``, ``all``."""
    k: Annotated[int, Field(ge=2)] | None = None
    rank_by: str | None = None
    """What makes the best ones: a ``<dcase>-dev`` column, ``dev_amean`` (null) or ``dev_hmean``."""

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> Ensemble:
        if self.of == "top" and self.k is None:
            raise ValueError("'of: top' needs 'k', how many of the best rows to take")
        for option in ("k", "rank_by"):
            if self.of != "top" and getattr(self, option) is not None:
                raise ValueError(f"{option!r} is for 'of: top' alone")
        if self.of == "seeds" and self.seeds == "each":
            raise ValueError("'of: seeds' is over all seeds: leave 'seeds' out")
        return self

    @property
    def per_seed(self) -> bool:
        """Whether there is an ensemble for every seed."""
        return self.of != "seeds" and self.seeds != "all"

    @property
    def chosen_by(self) -> str | None:
        """The column or mean that chooses the members; None where they are named."""
        return (self.rank_by or "dev_amean") if self.of == "top" else None

    def check(self, columns: Sequence[str], n_seeds: int) -> None:
        """Checks it against the sweep that it stands in.

        Args:
            columns: the leaderboard's, ``<dcase>-<subset>``.

        Raises:
            ValueError: it chooses by what is not there, or by eval columns; seeds of which there is one.
        """
        if self.of == "seeds" and n_seeds < 2:
            raise ValueError("'of: seeds' needs two seeds at least")
        if self.chosen_by is None:
            return
        known = [*(c for c in columns if c.endswith("-dev")), *(m for m in MEANS if m.startswith("dev_"))]
        known = [name for name in known if name in columns or averaged(name, columns)]
        if self.chosen_by in known:
            return
        if self.chosen_by in columns or self.chosen_by in MEANS:
            raise ValueError(
                f"rank_by {self.chosen_by!r}: the eval subset must not choose what is reported on it; choose "
                f"by dev columns (one of: {', '.join(known) or 'none in this sweep'})"
            )
        near = nearest(self.chosen_by, known)
        raise ValueError(f"cannot choose by {self.chosen_by!r}{near} (one of: {', '.join(known)})")


RAY_STEP = 0.0001
"""The smallest part of a CPU that Ray counts: less is none."""


class Need(Config):
    """What one training, or one post-training Ray task, reserves on its node.

    What is left out of a training's ``cpu`` and ``gpu`` is chosen, see `asdray.sweep.cluster`; of a task's
    it is nothing.

    Attributes:
        per_node: of trainings: at most so many at once on any node; they reserve more CPUs for it. None: as
            many as fit.
    """

    cpu: Annotated[float, Field(ge=0)] = 0.0
    gpu: Annotated[float, Field(ge=0)] = 0.0
    per_node: Annotated[int, Field(ge=1)] | None = None

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
        """Without what was left out: a default in ``sweep.yaml`` would be taken for the user's choice."""
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class Resources(Config):
    """Reservations per kind of work; what is left out is chosen automatically."""

    train: Need | None = None
    extract: Need | None = None
    score: Need | None = None
    """One task takes a machine through extract, score and evaluate: it reserves the larger of both."""
    umap: Need | None = None

    @field_validator("train")
    @classmethod
    def _something(cls, train: Need | None) -> Need | None:
        # Ray places nothing that reserves nothing, and says so only once it runs. Not every cluster has a GPU
        # that could be chosen.
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
    """A leaderboard column such as ``dcase2023-eval``, or a mean of `MEANS`."""
    plugins: tuple[str, ...] = ()
    """Python files that add losses, frontends or backends, see `asdray.config.plugin`."""
    ensembles: tuple[Ensemble, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"a sweep file is a mapping of options, not {type(value).__name__}")
        value = spelled_out(value)
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
        refuse_repeats(names, "dcase")
        return names

    @field_validator("seeds", "checkpoints")
    @classmethod
    def _each_once(cls, values: tuple) -> tuple:
        refuse_repeats(values, "the list")
        return values

    @field_validator("backends")
    @classmethod
    def _backends_once(cls, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
        refuse_repeats([backend_id(b) for b in backends], "backends")
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
        refuse_repeats([e.name for e in self.ensembles], "ensembles")
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


def spelled_out(value: Mapping) -> dict:
    """A sweep file's options with the short forms of its mappings written out."""
    value = dict(value)
    recipes = value.get("recipes")
    if isinstance(recipes, list) and all(isinstance(r, str) for r in recipes):
        refuse_repeats(recipes, "recipes")
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
