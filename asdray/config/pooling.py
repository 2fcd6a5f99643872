"""Poolings: statistics over an encoder's tokens, T times in each of F frequency bands, D numbers per token.

A pooling is a name, or an object with options; a list of values stands for one pooling per value::

    poolings: [mean, cls, {name: gwrp, r: [0.4, 0.9]}, {name: rdp, gamma: [4, 8], tokens: bands}]

The best options of four frozen encoders in arXiv 2603.04605 are r 0.4 to 0.9 of ``gwrp``, p 3 to 10 of
``gem`` and gamma 1 to 20 of ``rdp``. Formulas are in `asdray.frontends.pooling`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from asdray.config.base import Config, Probability, refuse_repeats

RdpForm = Literal["band", "joint", "minmax", "power"]


class PoolingConfig(Config):
    """Base class of the poolings: a statistic over time of each dimension."""

    name: str

    @property
    def per_band(self) -> bool:
        """True if the result has one vector per band, False if one per clip."""
        return getattr(self, "tokens", "all") == "bands"

    @property
    def numbers(self) -> tuple[str | float, ...]:
        """The parts of the label behind the name."""
        return ()

    @property
    def label(self) -> str:
        """The pooling in the name of an embedding: ``mean``, ``bands_rdp_8``, ``rdp_gem_10_3``.

        Different poolings have different labels.
        """
        return "_".join([*(("bands",) if self.per_band else ()), self.name, *map(_short, self.numbers)])


def _short(part: str | float) -> str:
    """A part of a label; a number with all its digits, ``8`` for 8.0."""
    return part if isinstance(part, str) else repr(float(part)).removesuffix(".0")


class _OfTokens(PoolingConfig):
    """A pooling with a choice of tokens."""

    tokens: Literal["all", "bands"] = "all"
    """``all``: one statistic over the tokens of all times and bands. ``bands``: one per band, kept apart."""


class Mean(_OfTokens):
    """Mean."""

    name: Literal["mean"] = "mean"


class Max(_OfTokens):
    """Largest value of each dimension."""

    name: Literal["max"] = "max"


class MeanStd(_OfTokens):
    """Mean and standard deviation side by side, twice as many dimensions."""

    name: Literal["mean_std"] = "mean_std"


class Gwrp(_OfTokens):
    """Global weighted ranking pooling: each dimension's values in falling order, with weights r^rank.

    Source: Kolesnikov and Lampert, ECCV 2016. Example: ``{name: gwrp, r: [0.4, 0.9]}``
    """

    name: Literal["gwrp"] = "gwrp"
    r: Probability = 0.9
    """0 gives the maximum, 1 the mean."""

    @property
    def numbers(self) -> tuple[str | float, ...]:
        return (self.r,)


Exponent = Annotated[float, Field(gt=0, le=1000)]
Floor = Annotated[float, Field(ge=0, lt=1)]


class Gem(_OfTokens):
    """Generalised mean (mean of x^p)^(1/p) of the positive parts x of the values.

    Source: Radenovic et al., IEEE TPAMI 2019. Example: ``{name: gem, p: [3, 10]}``
    """

    name: Literal["gem"] = "gem"
    p: Exponent = 3.0
    """1 gives the mean of the positive parts; a large p comes near the maximum."""
    floor: Floor = 0.0
    """Smallest mean of x^p, before the root; some code has 1e-12."""

    @property
    def numbers(self) -> tuple[str | float, ...]:
        return (self.p, *(("floor", self.floor) if self.floor else ()))


class _Rdp(_OfTokens):
    gamma: Annotated[float, Field(ge=0, le=1000)] = 8.0
    """Exponent of the weights; 0 gives equal weights."""
    form: RdpForm = "band"
    """The weight of a token with the distance d from the mean token of the clip. ``band``: (1 + d / max d)^
    gamma, each band by itself. ``joint``: the same weight for all bands of one time, d being that of the
    joined bands. ``minmax``: as ``joint``, with (d - min d) / (max d - min d). ``power``: (d / max d)^gamma,
    each band by itself."""

    @model_validator(mode="after")
    def _joint_bands(self) -> _Rdp:
        if self.form == "joint" and self.tokens == "all":
            raise ValueError("form joint weighs bands together: choose tokens bands, or form band")
        return self

    @property
    def numbers(self) -> tuple[str | float, ...]:
        return (*(() if self.form == "band" else (self.form,)), self.gamma)


class Rdp(_Rdp):
    """Relative deviation pooling: a mean in which tokens far from the mean token weigh more.

    Source: arXiv 2603.04605. Published code divides by the maximum (``band``, ``joint``) or takes ``minmax``;
    ``power`` is the relative deviation itself. Example: ``{name: rdp, gamma: [4, 8], tokens: bands}``
    """

    name: Literal["rdp"] = "rdp"


class RdpGem(_Rdp):
    """Generalised mean of the positive parts with the weights of `Rdp`.

    Source: arXiv 2603.04605. Example: ``{name: rdp_gem, gamma: 10, p: 3}``
    """

    name: Literal["rdp_gem"] = "rdp_gem"
    p: Exponent = 3.0
    """Exponent of the values."""
    floor: Floor = 0.0
    """As in `Gem`."""

    @property
    def numbers(self) -> tuple[str | float, ...]:
        return (*super().numbers, self.p, *(("floor", self.floor) if self.floor else ()))


class Cls(PoolingConfig):
    """The encoder's own summary, its class token; an encoder without one has no such pooling."""

    name: Literal["cls"] = "cls"


Pooling = Annotated[
    Mean | Max | MeanStd | Gwrp | Gem | Rdp | RdpGem | Cls,
    Field(discriminator="name"),
]


def expanded(items: Any) -> Any:
    """Objects in place of names, and an object per combination in place of lists of values.

    >>> expanded(["mean", {"name": "gwrp", "r": [0.4, 0.9]}])
    [{'name': 'mean'}, {'name': 'gwrp', 'r': 0.4}, {'name': 'gwrp', 'r': 0.9}]
    """
    if not isinstance(items, list | tuple):
        items = [items]
    found: list[Any] = []
    for item in items:
        if isinstance(item, str):
            found.append({"name": item})
        elif isinstance(item, Mapping):
            axes = {key: value if isinstance(value, list) else [value] for key, value in item.items()}
            found += [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
        else:
            found.append(item)
    return found


def _each_once(poolings: tuple[PoolingConfig, ...]) -> tuple[PoolingConfig, ...]:
    refuse_repeats([pooling.label for pooling in poolings], "the list")
    return poolings


NoneOrMorePoolings = Annotated[tuple[Pooling, ...], BeforeValidator(expanded), AfterValidator(_each_once)]
"""The type of an option ``poolings`` that may be empty: names, objects and lists of values."""
Poolings = Annotated[NoneOrMorePoolings, Field(min_length=1)]
"""The type of an option ``poolings``: names, objects and lists of values; no pooling twice."""
