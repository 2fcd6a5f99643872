"""What trainings and tasks reserve on the nodes of a cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from asdray.config.base import Config


class Need(Config):
    """What one training, or one post-training Ray task, reserves on its node.

    Attributes:
        per_node: of trainings: at most so many at once on any node. They reserve more CPUs for it, and what
            is left out of ``cpu`` and ``gpu`` is chosen. None: as many as fit.
    """

    cpu: Annotated[float, Field(ge=0)] = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0
    per_node: Annotated[int, Field(ge=1)] | None = None


class Resources(Config):
    """Reservations per kind of work; what is left out is chosen automatically."""

    train: Need | None = None
    extract: Need | None = None
    score: Need | None = None
    """One task takes a machine through extract, score and evaluate: it reserves the larger of both."""
    umap: Need | None = None

    @model_validator(mode="after")
    def _per_node_of_trainings(self) -> Resources:
        for kind in ("extract", "score", "umap"):
            if (need := getattr(self, kind)) and need.per_node:
                raise ValueError(
                    f"{kind}.per_node is {need.per_node}, but only trainings are limited per node "
                    f"(train: {{per_node: ...}}): have each reserve more instead ({kind}: {{cpu: ...}})"
                )
        return self
