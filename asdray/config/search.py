"""The search of a sweep file: axes of the space, algorithm, objective, schedulers and confirmation.

Example::

    space:
      train.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
      frontend.loss: [{name: adacos}, {name: arcface}]
    search: {algorithm: optuna, num_samples: 20, objective: official_dev}
    scheduler: {name: asha, grace_period: 4}
    confirm: {top_k: 3, seeds: [10, 11]}

A space has an axis per option path. An axis is a list, which is a choice, or an object with one key:

* ``{choice: [a, b]}``: one of the values;
* ``{uniform: [low, high]}``, ``{loguniform: [low, high]}``: a number from low to high;
* ``{randint: [low, high]}``: a whole number, both ends included;
* ``{quniform: [low, high, step]}``: ``low``, ``low + step``, ..., at most ``high``.

Drawn numbers are rounded to `DIGITS` digits. An object among the values of a choice replaces a union member
as a whole, and may have axis objects inside, which are drawn only with this member. A list inside an object
is a plain list, not a choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from asdray.config.backend import Backend
from asdray.config.base import Config, Positive, Seed, Seeds, Years, by_name, refuse_repeats
from asdray.dcase.years import nearest

CHECKPOINT = r"^(last|best|epoch_[1-9][0-9]*)$"
"""Names of checkpoints, and of the folders of their outputs."""

Checkpoint = Annotated[str, Field(pattern=CHECKPOINT)]

# ------------------------------------------------------------------------------------------------------ axes

DIGITS = 5
"""Significant digits of drawn numbers; more would only lengthen the names of systems."""

AXIS_KINDS = ("choice", "uniform", "loguniform", "randint", "quniform")


class Suggester(Protocol):
    """Draws the parameters of one sample: `optuna.trial.Trial` has these methods."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


def axis_kind(value: Any) -> str | None:
    """The kind of an axis object; None for any other value."""
    if isinstance(value, Mapping) and len(value) == 1:
        (key,) = value
        return key if key in AXIS_KINDS else None
    return None


def listed(axis: Any) -> list[Any]:
    """The values of a choice, which may have axis objects inside; none for a range of numbers."""
    if isinstance(axis, list):
        return axis
    return list(axis["choice"]) if axis_kind(axis) == "choice" else []


def check_axis(value: Any, where: str) -> None:
    """Raises ValueError if ``value`` is not an axis of a search, or contains no value to choose."""
    if isinstance(value, list):
        value = {"choice": value}
    kind = axis_kind(value)
    if kind == "choice":
        _check_choice(value[kind], where)
    elif kind is not None:
        _check_range(kind, value[kind], where)
    elif isinstance(value, Mapping) and len(value) == 1:
        (key,) = value
        raise ValueError(
            f"{where}: unknown kind of axis {key!r}{nearest(str(key), AXIS_KINDS)} "
            f"(known: {', '.join(AXIS_KINDS)})"
        )
    else:
        raise ValueError(
            f"{where} is {value!r}: an axis is a list of values, or an object such as "
            "{loguniform: [1.0e-4, 1.0e-2]} (a fixed value goes to 'set')"
        )


def _check_choice(values: Any, where: str) -> None:
    """Raises ValueError unless ``values`` is a list of different values, with valid axes inside objects."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where} is {values!r}: a choice is a list of at least one value")
    refuse_repeats(values, where)
    for i, value in enumerate(values):
        for path, nested in _nested(value):
            check_axis(nested, f"{where}[{i}]{path}")


def _check_range(kind: str, given: Any, where: str) -> None:
    """Raises ValueError unless ``given`` is the range of an axis of this kind."""
    form = ("low", "high", "step") if kind == "quniform" else ("low", "high")
    numbers = isinstance(given, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in given
    )
    if not numbers or len(given) != len(form):
        raise ValueError(f"{where} is {given!r}: {kind} needs [{', '.join(form)}], all of them numbers")
    low, high = given[:2]
    if kind == "randint" and not all(isinstance(v, int) for v in given):
        raise ValueError(f"{where} is {given!r}: randint needs whole numbers")
    if not low < high:
        raise ValueError(f"{where} is {given!r}: {kind} needs a low end below its high end")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"{where} is {given!r}: loguniform needs ends above 0")
    if kind == "quniform" and not 0 < given[2] <= high - low:
        raise ValueError(f"{where} is {given!r}: the step must be above 0 and fit between the ends")


def _nested(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The axis objects inside a value, each with its path."""
    if axis_kind(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nested(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _nested(inner, f"{path}[{i}]")


def draw(space: Mapping[str, Any], trial: Suggester) -> dict[str, Any]:
    """One sample of a space, option path -> value: ``{"train.learning_rate": 0.00042}``.

    The name of a parameter is the path of its axis, such as ``frontend.loss``; an axis inside the second
    value of this choice is named ``frontend.loss[1].n_subclusters``.

    Args:
        space: axes that `check_axis` accepts.
    """
    return {
        path: _drawn({"choice": axis} if isinstance(axis, list) else axis, path, trial)
        for path, axis in space.items()
    }


def _drawn(value: Any, name: str, trial: Suggester) -> Any:
    kind = axis_kind(value)
    if kind == "choice":
        return _chosen(value[kind], name, trial)
    if kind == "randint":
        return trial.suggest_int(name, *value[kind])
    if kind is not None:
        low, high, *step = value[kind]
        number = trial.suggest_float(
            name, float(low), float(high), step=float(step[0]) if step else None, log=kind == "loguniform"
        )
        return float(f"{number:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _drawn(inner, f"{name}.{key}", trial) for key, inner in value.items()}
    if isinstance(value, list):
        return [_drawn(inner, f"{name}[{i}]", trial) for i, inner in enumerate(value)]
    return value


def _chosen(values: list, name: str, trial: Suggester) -> Any:
    # A study stores plain values as such, and a label of any other value.
    labels = [v if v is None or isinstance(v, bool | int | float | str) else _label(v, i)
              for i, v in enumerate(values)]  # fmt: skip
    i = labels.index(trial.suggest_categorical(name, labels))
    return _drawn(values[i], f"{name}[{i}]", trial)


def _label(value: Any, i: int) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return f"{i}: {name or value}"


class _Corner:
    """A `Suggester` of fixed values: the first value of every parameter, or the one at a given index.

    Attributes:
        counts: parameter -> number of values to check: all of a choice; both ends of a range, and a value
            between, since ends may be whole numbers by chance.
    """

    def __init__(self, indices: Mapping[str, int]) -> None:
        self._indices = indices
        self.counts: dict[str, int] = {}

    def _suggest(self, name: str, values: list) -> Any:
        self.counts[name] = len(values)
        return values[self._indices.get(name, 0)]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        between = low + step if step else math.sqrt(low * high) if log else low + 0.382 * (high - low)
        return self._suggest(name, [low, low if step else high, between])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._suggest(name, [low, high])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._suggest(name, list(choices))


def corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples that together contain every value of every choice and both ends of every range."""
    found: list[dict[str, Any]] = []
    pending: list[dict[str, int]] = [{}]
    seen: set[str] = set()
    while pending:
        indices = pending.pop(0)
        corner = _Corner(indices)
        sample = draw(space, corner)
        if sample not in found:
            found.append(sample)
        for name, n in corner.counts.items():
            if name not in seen:  # a parameter inside a member appears only with this member
                seen.add(name)
                pending += [{**indices, name: i} for i in range(1, n)]
    return found


# ---------------------------------------------------------------------------------- algorithm and objective


class Objective(Config):
    """The number by which a search compares systems: a mean over years and seeds.

    Example: ``objective: {metric: official_dev, backend: knn}``, or ``objective: official_dev``
    """

    metric: Literal["official_dev", "train_loss", "compactness"]
    """``official_dev``: the year's official score of the dev subset, higher is better; reads dev test labels.
    ``train_loss``: mean loss of the last epoch, lower is better. ``compactness``: spread of the training
    embeddings, lower is better, see `asdray.sweep.objective`. The latter two read no label; ``train_loss``
    compares only systems with the same loss, ``compactness`` only embeddings of the same kind."""
    backend: Backend | None = None
    """Backend of ``official_dev``; null: each system has the value of its best backend of the sweep."""
    checkpoint: Checkpoint = "last"
    """Checkpoint of the embeddings, one of the sweep's ``checkpoints``."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"metric": value} if isinstance(value, str) else value

    @field_validator("metric", mode="before")
    @classmethod
    def _never_eval(cls, metric: Any) -> Any:
        if isinstance(metric, str) and "eval" in metric:
            raise ValueError(
                f"{metric!r}: the eval subset can never be an objective; official_dev is the official score "
                "on the development set"
            )
        return metric

    @model_validator(mode="after")
    def _no_unused_option(self) -> Objective:
        if self.metric != "official_dev" and self.backend is not None:
            raise ValueError(f"backend counts only for official_dev: {self.metric} scores no clip")
        if self.metric == "train_loss" and self.checkpoint != "last":
            raise ValueError("checkpoint: train_loss is that of the last epoch: leave checkpoint out")
        return self

    @property
    def maximize(self) -> bool:
        """True if a higher value is better."""
        return self.metric == "official_dev"


class Sampler(Config):
    """One of Optuna's samplers by name: ``TPE``, ``GP``, ``CmaEs``, ..., in any spelling, such as ``cma-es``.

    Example: ``sampler: {name: TPE, options: {n_startup_trials: 20}}``, or ``sampler: GP``
    """

    name: str = "TPE"
    options: dict[str, Any] = Field(default={})
    """Arguments of Optuna's class."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return by_name(value)


class Search(Config):
    """The way systems are sampled from the space.

    ``grid`` runs the full product of all lists. ``random`` and ``optuna`` sample ``num_samples`` systems of
    each recipe, and run each on all years and seeds of the sweep.
    """

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """``random`` samples independently of earlier results, ``optuna`` with ``sampler``."""
    num_samples: Positive | None = None
    """Systems per recipe. With a larger number than before the same study continues."""
    objective: Objective | None = None
    """The number that the search improves."""
    sampler: Sampler | None = None
    """Sampler of ``optuna``; null for TPE."""
    seed: Seed = 0
    """Seed of the samples."""
    max_concurrent: Positive | None = None
    """Largest number of sampled systems in progress; null: enough to keep all training slots busy. With 1 the
    same seed suggests the same systems; otherwise suggestions depend on which trials finish first."""

    @field_validator("algorithm", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value in ("tpe", "bayes", "bayesian", "TPE"):
            raise ValueError(f"{value!r}: write algorithm: optuna, whose default sampler is TPE")
        return value

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> Search:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        if self.algorithm == "grid":
            for name in ("num_samples", "objective", "sampler", "max_concurrent"):
                if name in given:
                    raise ValueError(
                        f"{name} has no meaning in a grid, which runs all of its systems: choose algorithm: "
                        "random or optuna"
                    )
            return self
        for name in ("num_samples", "objective"):
            if name not in given:
                raise ValueError(f"algorithm {self.algorithm} needs {name}")
        if self.algorithm == "random" and self.sampler is not None:
            raise ValueError("sampler: random has none; choose algorithm: optuna")
        return self

    @property
    def samples(self) -> bool:
        """True if systems are sampled one by one; False for a grid, where all are known at the start."""
        return self.algorithm != "grid"


# ------------------------------------------------------------------------------------------------- schedulers


class Asha(Config):
    """Asynchronous successive halving: a training continues after a rung only if its training loss is among
    the best ``1 / reduction_factor`` of the losses recorded at this rung.

    Rungs are at ``grace_period``, ``grace_period * reduction_factor``, ... epochs, counted over all units of
    a trial; each year is compared separately. Which trainings stop depends on the order in which trainings
    arrive. Every scheduler needs comparable training losses: augmentation and options of the loss should not
    vary, and different losses are refused. Source: Li et al., A system for massively parallel hyperparameter
    tuning, MLSys 2020; Ray Tune's ``ASHAScheduler``.

    Example: ``scheduler: {name: asha, grace_period: 4, reduction_factor: 3}``
    """

    name: Literal["asha"] = "asha"
    grace_period: Positive = 1
    """Epochs before the first rung: no training stops earlier."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """Ratio of successive rungs; 1 of so many trainings continues."""


class HyperBand(Config):
    """Several `Asha` with later and later first rungs, which take the samples in turn.

    This is the asynchronous HyperBand of the same paper: no training is paused.

    Example: ``scheduler: {name: hyperband, brackets: 3}``
    """

    name: Literal["hyperband"] = "hyperband"
    grace_period: Positive = 1
    """Epochs before the first rung of the first `Asha`."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """Ratio of successive rungs."""
    brackets: Positive = 3
    """Number of `Asha`."""


class Median(Config):
    """Stops a training whose best loss so far is worse than the median of the others' mean losses so far.

    Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2; Ray Tune's ``MedianStoppingRule``.

    Example: ``scheduler: {name: median, grace_period: 4, min_samples: 5}``
    """

    name: Literal["median"] = "median"
    grace_period: Positive = 1
    """Epochs before a training may be stopped."""
    min_samples: Positive = 3
    """Number of other trainings that must have reached the same epoch."""


Scheduler = Annotated[Asha | HyperBand | Median, Field(discriminator="name")]


# ----------------------------------------------------------------------------------------------- confirmation


class Confirm(Config):
    """After a search the best systems are trained again with other seeds; only these trials are ranked.

    Example: ``confirm: {top_k: 3, seeds: [10, 11], dcase: [dcase2023]}``
    """

    top_k: Positive = 3
    """Number of systems per recipe."""
    seeds: Seeds
    """Seeds that the search did not use."""
    dcase: Years | None = None
    """Years; null: the years of the search."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = {k: [v] if k in ("dcase", "seeds") and isinstance(v, str | int) else v
                     for k, v in value.items()}  # fmt: skip
        return value
