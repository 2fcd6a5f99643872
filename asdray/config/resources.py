"""What trainings and tasks reserve on the nodes of a cluster."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from asdray.config.base import Config

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
