"""Pseudo-labels: classes of clips whose attributes are unknown, from a clustering of embeddings.

The embeddings are those of another system that learns nothing, the source. The clustering is one of the
``classes`` of a discriminative frontend::

    frontend:
      name: discriminative
      classes: [machine, section, attributes, domain, {from: raw_beats, per: [machine, domain], n: 8}]

Recipes that the clustering names are read once, with the file that names these: the options of the source
are part of the system, and its hash has their content, not the recipe's name.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from asdray.config.audio import Audio
from asdray.config.base import Config, Positive, Seed, digest, in_order
from asdray.config.encoder import Encoder
from asdray.config.recipe_files import read_recipe, result_name
from asdray.config.train import Train
from asdray.config.untrained import Precomputed, RawSpec
from asdray.dcase.years import nearest

GroupPart = Literal["machine", "section", "domain"]
GROUP_PARTS: tuple[GroupPart, ...] = typing.get_args(GroupPart)
DEFAULT_N = 8

_Untrained = Encoder | RawSpec | Precomputed
_NAMES = tuple(cls.model_fields["name"].default for cls in typing.get_args(_Untrained))


class Source(Config):
    """The system whose embeddings are clustered; its trial has a folder of its own.

    Example: ``{recipe: raw_spec, frontend: {name: raw_spec}, audio: {duration: 10}}``
    """

    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name in paths of results; no part of the hash."""
    frontend: Annotated[_Untrained, Field(discriminator="name")]
    train: Train = Train()
    audio: Audio = Audio()

    hashed_as: ClassVar = {"recipe": lambda name: ""}


class Clustering(Config):
    """A class per cluster of another system's embeddings: k-means on the training clips of each group.

    Source: pseudo-labels of ASDKit (Fujimura et al., ICASSP 2025): 8 clusters, or 0.8 % of the clips.

    Example: ``{from: raw_beats, per: [machine, domain], ratio: 0.008, only: all}``
    """

    source: Source
    """Written ``from``: a recipe, by name or path, or the options of a frontend. The frontend must be one
    that learns nothing: ``encoder``, ``raw_spec``, ``precomputed``."""
    embedding: str | None = None
    """Name of the embedding; null for the first. An embedding with bands is clustered as one vector."""
    per: tuple[GroupPart, ...] = ("machine",)
    """Properties whose values make the groups that are clustered apart; ``machine`` is always among them."""
    n: Positive | None = None
    """Clusters per group, 8 if ``ratio`` is null too. A group of fewer clips has a cluster for each clip."""
    n_target: Positive | None = None
    """Clusters of a group of the target domain; null for ``n``. Needs ``domain`` in ``per``."""
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """In place of ``n``: clusters per clip of a group, rounded down, at least one cluster."""
    only: Literal["unlabelled", "all"] = "unlabelled"
    """``unlabelled``: clips whose attributes the organisers hid are clustered, and other clips get no
    cluster. ``all``: every training clip is clustered."""
    seed: Seed = 42
    """Seed of k-means, the same for all seeds of the training."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        options = {("source" if key == "from" else key): of for key, of in value.items()}
        if "source" not in options:
            raise ValueError("from is missing: a recipe, or the options of a frontend that learns nothing")
        options["source"] = _source_of(options["source"])
        if options.get("n") is None and options.get("ratio") is None:
            options["n"] = DEFAULT_N
        return options

    @field_validator("per")
    @classmethod
    def _in_one_order(cls, per: tuple[GroupPart, ...]) -> tuple[GroupPart, ...]:
        if "machine" not in per:
            raise ValueError(f"{list(per)} lacks machine: every machine is clustered for itself")
        return in_order(per, GROUP_PARTS)

    @model_validator(mode="after")
    def _fits(self) -> Clustering:
        if self.n is not None and self.ratio is not None:
            raise ValueError("n and ratio exclude each other: leave one out, or set one to null")
        if self.n_target is not None and (self.n is None or "domain" not in self.per):
            raise ValueError("n_target needs n, and per: [machine, domain]")
        known = self.source.frontend.embeddings
        if self.embedding is not None and self.embedding not in known:
            raise ValueError(
                f"embedding: {self.source.frontend.label} has no {self.embedding!r}"
                f"{nearest(self.embedding, known)} (known: {', '.join(known)})"
            )
        return self

    @functools.cached_property
    def id(self) -> str:
        """Hash of all options and of the source's content, eight hex digits."""
        return digest(self)[:8]

    def count(self, n_clips: int, domain: str) -> int:
        """Number of clusters of a group of ``n_clips`` clips."""
        if self.ratio is not None:
            wanted = int(self.ratio * n_clips)
        else:
            wanted = self.n_target if self.n_target is not None and domain == "target" else self.n or 0
        return min(max(1, wanted), n_clips)


def _source_of(value: Any) -> Any:
    """The options of a `Source`: of a recipe's name, of a frontend's options, or as they are.

    Raises:
        ValueError: an unknown recipe, or a recipe or frontend that is trained.
    """
    if isinstance(value, str):
        tree, _ = read_recipe(value)
        if not isinstance(tree, Mapping):
            raise ValueError(f"from: {value} is no recipe")
        parts = {name: tree[name] for name in ("frontend", "train", "audio") if name in tree}
        value, what = {"recipe": result_name(value), **parts}, f"the recipe {value}"
    elif isinstance(value, Mapping) and "name" in value:
        value, what = {"recipe": str(value["name"]), "frontend": dict(value)}, "its source"
    elif isinstance(value, Mapping):
        return value
    else:
        raise ValueError(f"from: {value!r} is neither the name of a recipe nor the options of a frontend")
    frontend = value.get("frontend")
    name = frontend.get("name") if isinstance(frontend, Mapping) else None
    if name not in _NAMES:
        raise ValueError(
            f"from: {what} has the frontend {name!r}{nearest(str(name), _NAMES)}, but embeddings to cluster "
            f"come from a frontend that learns nothing: {', '.join(_NAMES)}"
        )
    return value
