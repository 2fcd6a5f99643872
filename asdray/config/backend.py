"""Backends: embeddings (or a frontend's own scores) -> anomaly scores; and the UMAP options."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from asdray.config.base import Config, Extensible, Metric, Positive, Seed, digest


class Knn(Config):
    """Distance to the nearest normal training clips, the smaller one of both domains.

    With ``smote_ratio`` the target clips are joined by synthetic ones between them (SMOTE). Source:
    ASDKit ``Knn-1-1-0.0-0`` and, with ``smote_ratio: 0.2``, ``Knn-1-1-0.2-2-cosine``; facts in
    `asdray.backends.knn`.
    """

    name: Literal["knn"] = "knn"
    n_neighbors: Positive = 1
    metric: Metric = "cosine"
    smote_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Target clips are made up until there are this many per source clip; 0 makes up none."""
    smote_neighbors: Positive = 2
    """A made-up clip lies between a target clip and one of this many target clips nearest to it."""
    seed: Seed = 0
    sep_section: bool = False
    """Whether the clips of a section are compared with the training clips of that section alone."""

    later: ClassVar = {"smote_ratio": 0.0, "smote_neighbors": 2, "seed": 0, "sep_section": False}


class KMeans(Config):
    """Distance to the nearest of the source domain's cluster centres and all target clips.

    Source: ASDKit ``Kmeans-16-cosine``; facts in `asdray.backends.kmeans`.
    """

    name: Literal["kmeans"] = "kmeans"
    n_clusters: Positive = 16
    metric: Metric = "cosine"
    seed: Seed = 0
    sep_section: bool = False


class KnnRescale(Config):
    """Distance to the nearest training clips of both domains, in units of how close together these lie.

    Source: ASDKit ``KnnRescale-1-4-cosine``; facts in `asdray.backends.density`.
    """

    name: Literal["knn_rescale"] = "knn_rescale"
    n_neighbors: Positive = 1
    n_reference_neighbors: Positive = 4
    """How many other training clips say how close together they lie around one of them."""
    metric: Metric = "cosine"
    sep_section: bool = False


class Ldn(Config):
    """Local density normalisation: the distance to the nearest training clips, divided by the mean distance
    of these to their own neighbours (``ratio``), or less that distance (``difference``).

    As `KnnRescale`, but with the cosine distance itself instead of its root, and with both forms. Source:
    Wilkinghoff et al., arXiv 2509.10951; facts in `asdray.backends.density`.
    """

    name: Literal["ldn"] = "ldn"
    form: Literal["ratio", "difference"] = "ratio"
    n_neighbors: Positive = 1
    n_reference_neighbors: Positive = 1
    """K of the paper, where it is tried from 1 to 16; with 16, ``difference`` fell to chance in a grid that
    others published, while 1 helped on every year."""
    metric: Metric = "cosine"
    sep_section: bool = False


class Mahalanobis(Config):
    """Mahalanobis distance to the mean of the training clips, the smaller one of both domains.

    Facts in `asdray.backends.gaussian`.
    """

    name: Literal["mahalanobis"] = "mahalanobis"
    covariance: Literal["pooled", "domain"] = "pooled"
    """One covariance for both domains, around the mean of each, or one per domain. Pooled, because ten
    target clips say nothing of a covariance in hundreds of dimensions."""
    shrinkage: Annotated[float, Field(ge=0, le=1)] | Literal["ledoit_wolf"] = "ledoit_wolf"
    """Share of a multiple of the identity in the covariance; a thousand clips in hundreds of dimensions
    leave it nearly singular without."""
    normalize: bool = True
    """Whether embeddings are scaled to length 1 first: losses of the cosine do not see the length."""
    sep_section: bool = False


class Gmm(Config):
    """Negative log-likelihood under a Gaussian mixture fitted to the training clips of both domains.

    Facts in `asdray.backends.gaussian`.
    """

    name: Literal["gmm"] = "gmm"
    n_components: Positive = 4
    covariance_type: Literal["full", "tied", "diag", "spherical"] = "full"
    pca: Positive | None = 32
    """Principal components that are kept, null = all dimensions. Four full covariances in 32 dimensions
    have about two thousand parameters, which a thousand clips determine; in 512 they have half a million.
    What differs from the training clips only across the directions left out is not seen."""
    reg_covar: Annotated[float, Field(gt=0)] = 1e-3
    """Added to every variance, in units of the mean variance of the dimensions."""
    normalize: bool = True
    """Whether embeddings are scaled to length 1 first: losses of the cosine do not see the length."""
    seed: Seed = 0
    sep_section: bool = False


class Pyod(Config):
    """A detector of PyOD by name; needs the extra ``pyod``: ``pip install 'asdray[pyod]'``."""

    name: Literal["pyod"] = "pyod"
    detector: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """Name of the class, such as ``ECOD``, ``IForest`` or ``LOF``: any that scores vectors. COF, SOD and SOS
    compare test clips with each other, not with the training clips."""
    options: dict[str, Any] = Field(default={})
    """Arguments of the class; its ``random_state``, where it has one, is ``seed`` if it is not given."""
    normalize: bool = True
    """Whether embeddings are scaled to length 1 first: losses of the cosine do not see the length."""
    seed: Seed = 0
    sep_section: bool = False


class Recon(Config):
    """The frontend's own reconstruction score, passed through."""

    name: Literal["recon"] = "recon"


class Own(Config):
    """Another of the frontend's own scores, passed through."""

    name: Literal["own"] = "own"
    score: Annotated[str, Field(min_length=1)]


class BackendConfig(Config):
    """The base of a plugin's backends, which score embeddings."""

    name: str
    sep_section: bool = False
    """Whether the clips of a section are compared with the training clips of that section alone."""


EmbeddingBackend = Knn | KMeans | KnnRescale | Ldn | Mahalanobis | Gmm | Pyod
OwnBackend = Recon | Own
_BuiltIn = EmbeddingBackend | OwnBackend
Backend = Annotated[_BuiltIn, Extensible("BACKENDS", "backend", BackendConfig, _BuiltIn)]


def own_backend(score: str) -> OwnBackend:
    """The backend that passes the frontend's own score of this name through."""
    return Recon() if score == "recon" else Own(score=score)


def backend_id(backend: Backend) -> str:
    """``knn-1a2b3c4d``: stable, names files and table rows."""
    return f"{backend.name}-{digest(backend)[:8]}"


class Umap(Config):
    """UMAP of a machine's embeddings, for the eye only."""

    metric: Literal["cosine", "euclidean"] = "cosine"
    n_neighbors: Annotated[int, Field(ge=2)] = 15
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
