"""How a search walks its space: kinds of axis, algorithm and objective, schedulers, confirmation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from asdray.config.backend import Backend
from asdray.config.base import Config, Positive, Seed, refuse_repeats
from asdray.dcase.years import get_year, nearest

Checkpoint = Annotated[str, Field(pattern=r"^(last|best|epoch_[1-9][0-9]*)$")]

# ------------------------------------------------------------------------------------------------- axes

DIGITS = 5
"""Of drawn numbers: more would tell nothing, and make names of systems unreadable."""

AXIS_KINDS = ("choice", "uniform", "loguniform", "randint", "quniform")
"""An axis is a list, which is a choice, or an object of one of these keys:

* ``{choice: [a, b]}``: one of the values;
* ``{uniform: [low, high]}``, ``{loguniform: [low, high]}``: a number between them;
* ``{randint: [low, high]}``: a whole number, both ends included;
* ``{quniform: [low, high, step]}``: ``low``, ``low + step``, ..., at most ``high``.

Numbers are rounded to `DIGITS` digits.

An object among the values of a choice replaces a union member whole, and what stands in it may be an axis
object again: it is asked only where that member is chosen. A list in there is a list, not a choice.
"""


class Asked(Protocol):
    """What draws the parameters of one sample: `optuna.trial.Trial`, or a test's own."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


def axis_kind(value: Any) -> str | None:
    """The kind of an axis object; None of anything else."""
    if isinstance(value, Mapping) and len(value) == 1:
        (key,) = value
        return key if key in AXIS_KINDS else None
    return None


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
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where} is {values!r}: a choice is a list of at least one value")
    refuse_repeats(values, where)
    for i, value in enumerate(values):
        for path, nested in _nested(value):
            check_axis(nested, f"{where}[{i}]{path}")


def _check_range(kind: str, given: Any, where: str) -> None:
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
    """The axis objects inside a value, each with its place."""
    if axis_kind(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nested(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _nested(inner, f"{path}[{i}]")


def draw(space: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """One sample of a space: option path -> value.

    Each parameter's name is the path of its axis, ``frontend.loss``; one inside the second value of that
    choice is ``frontend.loss[1].n_subclusters``.

    Args:
        space: axes that `check_axis` accepts.
    """
    return {path: _drawn(axis, path, asked, top=True) for path, axis in space.items()}


def _drawn(value: Any, name: str, asked: Asked, top: bool = False) -> Any:
    if top and isinstance(value, list):
        value = {"choice": value}
    kind = axis_kind(value)
    if kind == "choice":
        return _chosen(value[kind], name, asked)
    if kind == "randint":
        return asked.suggest_int(name, *value[kind])
    if kind is not None:
        low, high, *step = value[kind]
        number = asked.suggest_float(
            name, float(low), float(high), step=float(step[0]) if step else None, log=kind == "loguniform"
        )
        return float(f"{number:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _drawn(inner, f"{name}.{key}", asked) for key, inner in value.items()}
    if isinstance(value, list):
        return [_drawn(inner, f"{name}[{i}]", asked) for i, inner in enumerate(value)]
    return value


def _chosen(values: list, name: str, asked: Asked) -> Any:
    # What a study can store of a choice is a plain value: of others, a label.
    labels = [v if v is None or isinstance(v, bool | int | float | str) else _label(v, i)
              for i, v in enumerate(values)]  # fmt: skip
    i = labels.index(asked.suggest_categorical(name, labels))
    return _drawn(values[i], f"{name}[{i}]", asked)


def _label(value: Any, i: int) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return f"{i}: {name or value}"


class _Corner:
    """Answers every question with the first value that is worth a look, or with the one asked for."""

    def __init__(self, answers: Mapping[str, int]) -> None:
        self._answers = answers
        self.options: dict[str, int] = {}
        """Parameter -> how many values are worth a look."""

    def _answer(self, name: str, values: list) -> Any:
        self.options[name] = len(values)
        return values[self._answers.get(name, 0)]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        # What only whole numbers fit must not pass because both ends are whole.
        between = low + step if step else math.sqrt(low * high) if log else low + 0.382 * (high - low)
        return self._answer(name, [low, low if step else high, between])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._answer(name, [low, high])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._answer(name, list(choices))


def corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples that together show every value of every choice and both ends of every range, one at a time."""
    found: list[dict[str, Any]] = []
    todo: list[dict[str, int]] = [{}]
    seen: set[str] = set()
    while todo:
        answers = todo.pop(0)
        corner = _Corner(answers)
        sample = draw(space, corner)
        if sample not in found:
            found.append(sample)
        for name, n in corner.options.items():
            if name not in seen:  # those inside a member appear where that member is chosen
                seen.add(name)
                todo += [{**answers, name: i} for i in range(1, n)]
    return found


# ----------------------------------------------------------------------------------------- the algorithm


class Objective(Config):
    """What a search tries to improve: the mean over the years and seeds of a sampled system."""

    metric: Literal["official_dev", "train_loss", "compactness"]
    """``official_dev``: the year's official score on its dev subset, the higher the better; it reads these
    test labels. ``train_loss``: of the last epoch, the lower the better. ``compactness``: of the training
    embeddings, the lower the better, see `asdray.sweep.objective`. The latter two read no label, and compare
    only systems that have the same loss, or whose embeddings mean the same."""
    backend: Backend | None = None
    """Of ``official_dev``; null: every system is judged by the one of the sweep's backends that suits it
    best."""
    checkpoint: Checkpoint = "last"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"metric": value}
        if isinstance(value, Mapping) and isinstance(value.get("backend"), str):
            value = {**value, "backend": {"name": value["backend"]}}
        return value

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
    def _parts_that_count(self) -> Objective:
        if self.metric != "official_dev" and self.backend is not None:
            raise ValueError(f"backend counts only for official_dev: {self.metric} scores no clip")
        if self.metric == "train_loss" and self.checkpoint != "last":
            raise ValueError("checkpoint: train_loss is that of the last epoch")
        return self

    @property
    def maximize(self) -> bool:
        return self.metric == "official_dev"


class Sampler(Config):
    """One of Optuna's samplers by name (``TPE``, ``GP``, ``CmaEs``, ...) with its options.

    In whatever spelling: ``cma-es`` and ``CmaEsSampler`` are one, ``nsga2`` and ``NSGAII``.
    """

    name: str = "TPE"
    options: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Search(Config):
    """How the space is walked.

    A grid is its full product. ``random`` and ``optuna`` sample ``num_samples`` systems of each recipe, and
    run each over all years and seeds of the sweep.
    """

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    num_samples: Positive | None = None
    """Of each recipe. More of them than before goes on with the same study."""
    objective: Objective | None = None
    sampler: Sampler | None = None
    seed: Seed = 0
    max_concurrent: Positive | None = None
    """How many sampled systems are run at once; null: as many as keep every place for a training busy. With
    1 the same seed gives the same suggestions; with more they depend on what finishes first."""

    @field_validator("algorithm", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value in ("tpe", "bayes", "bayesian", "TPE"):
            raise ValueError(f"{value!r}: write algorithm: optuna; its sampler is TPE if none is named")
        return value

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> Search:
        if self.algorithm == "grid":
            for name in ("num_samples", "objective", "sampler", "max_concurrent"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} has no meaning in a grid, which runs all of its systems: choose algorithm: "
                        "random or optuna"
                    )
            return self
        for name in ("num_samples", "objective"):
            if getattr(self, name) is None:
                raise ValueError(f"algorithm {self.algorithm} needs {name}")
        if self.algorithm == "random" and self.sampler is not None:
            raise ValueError("sampler: random has none; choose algorithm: optuna")
        return self

    @property
    def samples(self) -> bool:
        """Whether systems are drawn one after the other, not all known at the start."""
        return self.algorithm != "grid"


# -------------------------------------------------------------------------------------------- schedulers


class Asha(Config):
    """Asynchronous successive halving: at each rung a training goes on only if its training loss is among the
    best ``1 / reduction_factor`` of those that were there.

    Source: Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020; Ray Tune's
    ``ASHAScheduler``. Rungs lie at ``grace_period``, times ``reduction_factor``, ... epochs, counted over all
    units of a trial, years apart. Which trainings are stopped depends on which come first. As every
    scheduler, it is of use only where training losses can be compared: not where augmentation or options of a
    loss vary; where losses themselves do, it is refused.
    """

    name: Literal["asha"] = "asha"
    grace_period: Positive = 1
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0


class HyperBand(Config):
    """Several `Asha` with later and later first rungs, to which the samples are dealt in turn.

    The asynchronous form of HyperBand from the same paper: nothing is ever paused and waited for.
    """

    name: Literal["hyperband"] = "hyperband"
    grace_period: Positive = 1
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    brackets: Positive = 3


class Median(Config):
    """Stops a training whose best loss so far is worse than the median of the others' mean loss so far.

    Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2; Ray Tune's ``MedianStoppingRule``.
    """

    name: Literal["median"] = "median"
    grace_period: Positive = 1
    """Epochs that every training has."""
    min_samples: Positive = 3
    """How many others must have come as far."""


Scheduler = Annotated[Asha | HyperBand | Median, Field(discriminator="name")]


# ------------------------------------------------------------------------------------------ confirmation


class Confirm(Config):
    """After a search the best systems are trained again with other seeds; only these are ranked."""

    top_k: Positive = 3
    """Of each recipe."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    dcase: tuple[str, ...] | None = None
    """Null: the years of the search."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = {k: [v] if k in ("dcase", "seeds") and isinstance(v, str | int) else v
                     for k, v in value.items()}  # fmt: skip
        return value

    @field_validator("dcase")
    @classmethod
    def _known_years(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            get_year(name)
        return names

    @field_validator("seeds", "dcase")
    @classmethod
    def _each_once(cls, values: tuple | None) -> tuple | None:
        refuse_repeats(values or (), "the list")
        return values
