"""Backends: embeddings (or a frontend's own scores) -> anomaly scores; and the UMAP options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from asdray.config.base import Config, digest


class Knn(Config):
    """Distance to the nearest normal training clips, the smaller one of both domains.

    Source: ASDKit ``Knn-1-1-0.0-0``; facts in `asdray.backends.knn`.
    """

    name: Literal["knn"] = "knn"
    n_neighbors: Annotated[int, Field(ge=1)] = 1
    metric: Literal["cosine", "euclidean"] = "cosine"


class Recon(Config):
    """The frontend's own reconstruction score, passed through."""

    name: Literal["recon"] = "recon"


Backend = Annotated[Knn | Recon, Field(discriminator="name")]


def backend_id(backend: Knn | Recon) -> str:
    """``knn-1a2b3c4d``: stable, names files and table rows."""
    return f"{backend.name}-{digest(backend)[:8]}"


class Umap(Config):
    """UMAP of a machine's embeddings, for the eye only."""

    metric: Literal["cosine", "euclidean"] = "cosine"
    n_neighbors: Annotated[int, Field(ge=2)] = 15
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
