"""Pseudo-labels: classes of clips whose attributes are unknown, from a clustering of embeddings.

The embeddings are those of another system, the source. A source that learns is trained once, with the seed
`SOURCE_SEED`, for all seeds of the trainings that use its clusters. The clustering is one of the ``classes``
of a discriminative frontend::

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
from asdray.config.base import Config, Member, Positive, Seed, digest, in_order
from asdray.config.frontend_base import FrontendConfig
from asdray.config.recipe_files import read_recipe, result_name
from asdray.config.train import Train
from asdray.dcase.years import nearest

GroupPart = Literal["machine", "section", "domain"]
GROUP_PARTS: tuple[GroupPart, ...] = typing.get_args(GroupPart)
DEFAULT_N = 8

SOURCE_SEED = 0
"""Seed of the training of a source that learns, whatever the seed of the training that has its clusters."""

_NESTED = "has pseudo-labels itself: a clustering needs a source without a clustering among its classes"


class Source(Config):
    """The system whose embeddings are clustered; its trial has a folder of its own.

    Example: ``{recipe: raw_spec, frontend: {name: raw_spec}, audio: {duration: 10}}``
    """

    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name in paths of results; no part of the hash."""
    frontend: Annotated[FrontendConfig, Member("FRONTENDS")]
    """The part that turns clips into embeddings."""
    train: Train = Train()
    """Training, if the frontend learns."""
    audio: Audio = Audio()
    """Length and channel of clips."""

    hashed_as: ClassVar = {"recipe": lambda name: ""}

    @model_validator(mode="after")
    def _knows_training_clips_alone(self) -> Source:
        if self.frontend.clustering is not None:
            raise ValueError(f"the source {self.recipe} {_NESTED}")
        if self.frontend.test_classes:
            raise ValueError(
                f"the source {self.recipe} reads the classes of the test clips (labels: asdkit), but "
                "clusters come from training clips alone: choose a source with labels: train_only"
            )
        return self


class Clustering(Config):
    """A class per cluster of another system's embeddings: k-means on the training clips of each group.

    Source: pseudo-labels of ASDKit (Fujimura et al., ICASSP 2025): 8 clusters, or 0.8 % of the clips.

    Example: ``{from: raw_beats, per: [machine, domain], ratio: 0.008, only: all}``
    """

    source: Source
    """Written ``from``: a recipe, by name or path, or the options of a frontend."""
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
            raise ValueError("from is missing: a recipe, or the options of a frontend")
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
        ValueError: an unknown recipe, or a recipe with a clustering, which could name itself without end.
    """
    if isinstance(value, str):
        tree, _ = read_recipe(value)
        if not isinstance(tree, Mapping):
            raise ValueError(f"from: {value} is no recipe")
        frontend = tree.get("frontend")
        classes = frontend.get("classes") if isinstance(frontend, Mapping) else None
        if isinstance(classes, list) and any(isinstance(part, Mapping) for part in classes):
            raise ValueError(f"from: the recipe {value} {_NESTED}")
        return {"recipe": result_name(value)} | {
            k: tree[k] for k in ("frontend", "train", "audio") if k in tree
        }
    if isinstance(value, Mapping):
        return {"recipe": str(value["name"]), "frontend": dict(value)} if "name" in value else value
    raise ValueError(f"from: {value!r} is neither the name of a recipe nor the options of a frontend")
