"""Backends: methods that turn embeddings into anomaly scores; and the options of UMAP plots.

Below ``backends:`` of a sweep file; a list of values stands for one backend per value::

    backends: [knn, {name: kmeans, n_clusters: [8, 16]}, mahalanobis]

A frontend with several embeddings is scored by its first one, or by those that a backend names; nothing is
extracted again::

    backends: [{name: varmin, embedding: [L12_mean, L12_bands_rdp_8, L4_mean+L12_mean]}]

References are a machine's normal training clips, about 990 of the source and 10 of the target domain. Higher
scores mean more anomalous clips.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from asdray.config.base import (
    Config,
    Extensible,
    Interface,
    Metric,
    Positive,
    Probability,
    Seed,
    digest,
    refuse_repeats,
)


def _joined(text: str) -> str:
    """``a + b`` as ``a+b``; ValueError for an empty or repeated name."""
    names = [name.strip() for name in text.split("+")]
    if not all(names):
        raise ValueError(f"{text!r} is no name of an embedding, nor names joined by +")
    refuse_repeats(names, "embedding")
    return "+".join(names)


class BackendConfig(Config):
    """Base class of the backends that score embeddings, also of a plugin's.

    An embedding has D numbers per clip, or D per band and clip. With several bands, or several embeddings,
    the backend scores each by itself, and ``combine`` makes one score of theirs.
    """

    name: str
    sep_section: bool = False
    """If true, clips are compared with the training clips of their own section only."""
    embedding: Annotated[str, AfterValidator(_joined)] | None = None
    """Name of the frontend's embedding, or several names joined by ``+``; null for the first one."""
    combine: Literal["mean", "min", "join"] = "mean"
    """``mean`` or ``min`` of the scores of all bands of all named embeddings; ``join``: one score of one long
    vector, in which they stand side by side."""

    later_of_all: ClassVar = {"embedding": None, "combine": "mean"}

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The names in ``embedding``; empty for the frontend's first one."""
        return tuple(self.embedding.split("+")) if self.embedding else ()

    @model_serializer(mode="wrap")
    def _without_later(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files that hold a backend's options are those of earlier releases, if the newer ones are unused."""
        later = BackendConfig.later_of_all
        return {k: v for k, v in serialize(self).items() if k not in later or v != later[k]}


class Knn(BackendConfig):
    """Distance to the nearest normal training clips, the smaller one of both domains.

    With ``smote_ratio`` synthetic target clips are added between the real ones (SMOTE). Source: ASDKit
    ``Knn-1-1-0.0-0`` and, with ``smote_ratio: 0.2``, ``Knn-1-1-0.2-2-cosine``; details in
    `asdray.backends.knn`.

    Example: ``{name: knn, n_neighbors: 4, metric: euclidean}``
    """

    name: Literal["knn"] = "knn"
    n_neighbors: Positive = 1
    """Number of nearest clips whose distances are averaged."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    smote_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Number of target clips, synthetic ones included, per source clip; 0 for no synthetic clips."""
    smote_neighbors: Positive = 2
    """A synthetic clip lies between a target clip and one of this many target clips nearest to it."""
    seed: Seed = 0
    """Seed of the synthetic clips."""

    later: ClassVar = {"smote_ratio": 0.0, "smote_neighbors": 2, "seed": 0, "sep_section": False}


class KMeans(BackendConfig):
    """Distance to the nearest of the source domain's cluster centres and all target clips.

    Source: ASDKit ``Kmeans-16-cosine``; details in `asdray.backends.kmeans`.

    Example: ``{name: kmeans, n_clusters: [8, 16]}``
    """

    name: Literal["kmeans"] = "kmeans"
    n_clusters: Positive = 16
    """Clusters of the source clips."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    seed: Seed = 0
    """Seed of the first centres."""


class KnnRescale(BackendConfig):
    """Distance to the nearest training clips of both domains, relative to the distances among these clips.

    Source: ASDKit ``KnnRescale-1-4-cosine``; details in `asdray.backends.density`.

    Example: ``{name: knn_rescale, n_reference_neighbors: 4}``
    """

    name: Literal["knn_rescale"] = "knn_rescale"
    n_neighbors: Positive = 1
    """Number of nearest clips whose rescaled distances are averaged."""
    n_reference_neighbors: Positive = 4
    """Number of neighbours whose distance to a training clip measures the density around the clip."""
    metric: Metric = "cosine"
    """Distance between embeddings."""


class Ldn(BackendConfig):
    """Local density normalisation: distance to the nearest training clips relative to their mutual distances.

    As `KnnRescale`, but with the cosine distance itself in place of the square root, and in two forms.
    Source: Wilkinghoff et al., arXiv 2509.10951; details in `asdray.backends.density`.

    Example: ``{name: ldn, form: difference}``
    """

    name: Literal["ldn"] = "ldn"
    form: Literal["ratio", "difference"] = "ratio"
    """The distance is divided by the mean distance of the nearest clips to their own neighbours (``ratio``),
    or reduced by the mean distance (``difference``)."""
    n_neighbors: Positive = 1
    """Number of nearest clips whose normalised distances are averaged."""
    n_reference_neighbors: Positive = 1
    """K of the paper, where 1 to 16 are tried. In a grid published by others, ``difference`` with 16 fell to
    chance, while 1 was better than no normalisation in every year."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    r: Probability | None = None
    """If given, the mean over all other clips, nearest first, with weights r^rank, takes the place of the
    mean over K of them; 1 gives equal weights."""

    later: ClassVar = {"r": None}

    @model_validator(mode="after")
    def _one_density(self) -> Ldn:
        if self.r is not None and self.n_reference_neighbors != 1:
            raise ValueError("r weighs all other clips: leave n_reference_neighbors out, or r")
        return self


class LdnDomain(BackendConfig):
    """Local density normalisation by domain: distances relative to the density around clips of one domain.

    The smaller one of the values for both domains. Differs from `Ldn` and `KnnRescale`, whose densities are
    of both domains together. Source: GenRep's entry to DCASE 2025; details in `asdray.backends.density`.

    Example: ``{name: ldn_domain, n_source: 16, n_target: 9, reduce: [sum, mean]}``
    """

    name: Literal["ldn_domain"] = "ldn_domain"
    n_source: Positive = 16
    """Number of source neighbours whose distance to a source clip measures the density around the clip."""
    n_target: Positive = 9
    """The same number for target clips."""
    reduce: Literal["sum", "mean"] = "sum"
    """Density from distances. Sums over 16 and 9 neighbours favour the source domain."""
    metric: Metric = "euclidean"
    """Distance between embeddings; ``euclidean`` takes their lengths as they are."""


class VarMin(BackendConfig):
    """Distance to the nearest training clip, less the part of the local density that explains its variance.

    The score may be negative. Source: Matsumoto et al., DCASE 2025 Challenge; with ``metric: euclidean, form:
    log, n_neighbors: 1`` a reading of arXiv 2603.04605; details in `asdray.backends.varmin`.

    Example: ``{name: varmin, n_neighbors: 4, embedding: [L12_mean, L12_bands_rdp_8]}``
    """

    name: Literal["varmin"] = "varmin"
    n_neighbors: Positive = 4
    """Number of neighbours whose mean distance to a training clip measures the density around the clip."""
    metric: Metric = "cosine"
    """Distance between embeddings."""
    form: Literal["difference", "log"] = "difference"
    """Distances and densities themselves, or their logarithms."""


class Beam(BackendConfig):
    """Distance to the nearest training clip of both domains, for each band by itself; the mean over bands.

    With ``combine: join`` one training clip is the nearest for all bands, by the mean distance. Source: BEAM,
    arXiv 2603.13749; details in `asdray.backends.varmin`.

    Example: ``{name: beam, embedding: L12_bands_rdp_4, varmin: [null, 4]}``
    """

    name: Literal["beam"] = "beam"
    varmin: Positive | None = None
    """If given, the scores of `VarMin` with so many neighbours take the place of distances."""


class MemMixup(BackendConfig):
    """Distance to source clips or to target clips that are mixed with source clips, scaled per domain.

    Source: GenRep, Saengthong and Shinozaki, arXiv 2409.05035, with joined bands of layer 4 of BEATs; details
    in `asdray.backends.mem_mixup`.

    Example: ``{name: mem_mixup, embedding: L4_bands_mean, combine: join}``
    """

    name: Literal["mem_mixup"] = "mem_mixup"
    n_sources: Annotated[int, Field(ge=0)] | None = None
    """Number of nearest source clips that each target clip is mixed with; null for all."""
    weight: Probability = 0.9
    """Weight of the target clip in a mixture."""
    z: Literal["train", "train_bank", "test", "none"] = "train"
    """Statistics by which distances to a domain are scaled: of training clips, without or with mixtures; of
    the test clips (as published), which is transductive: a clip's score depends on the other test clips, and
    tables mark the row; or none."""
    normalize: bool = False
    """If true, embeddings are first scaled to length 1."""


TRANSDUCTIVE = {"mem_mixup": ("z", "test")}
"""Name of a backend -> option and value with which the score of a test clip depends on other test clips."""


class Mahalanobis(BackendConfig):
    """Mahalanobis distance to the mean of the training clips, the smaller one of both domains.

    Details in `asdray.backends.gaussian`. Example: ``{name: mahalanobis, shrinkage: 0.1}``
    """

    name: Literal["mahalanobis"] = "mahalanobis"
    covariance: Literal["pooled", "domain"] = "pooled"
    """``pooled``: one covariance for both domains, around the mean of each. ``domain``: a covariance per
    domain; ten target clips determine no covariance in hundreds of dimensions."""
    shrinkage: Annotated[float, Field(ge=0, le=1)] | Literal["ledoit_wolf"] = "ledoit_wolf"
    """Share of a multiple of the identity in the covariance. The covariance of 1,000 clips in hundreds of
    dimensions is nearly singular without shrinkage. ``ledoit_wolf`` estimates the share."""
    normalize: bool = True
    """If true, embeddings are first scaled to length 1; losses of the cosine leave the length
    undetermined."""


class Gmm(BackendConfig):
    """Negative log-likelihood under a Gaussian mixture that is fitted to the training clips of both domains.

    Details in `asdray.backends.gaussian`. Example: ``{name: gmm, n_components: 4, pca: 32}``
    """

    name: Literal["gmm"] = "gmm"
    n_components: Positive = 4
    """Gaussians in the mixture."""
    covariance_type: Literal["full", "tied", "diag", "spherical"] = "full"
    """Form of the covariances, as in scikit-learn's ``GaussianMixture``."""
    pca: Positive | None = 32
    """Number of principal components that are kept; null for all dimensions. Four full covariances have about
    2,000 parameters in 32 dimensions, which 1,000 clips determine, and half a million in 512 dimensions. The
    score ignores deviations from the training clips along the other components."""
    reg_covar: Annotated[float, Field(gt=0)] = 1e-3
    """Added to every variance, in units of the mean variance of the dimensions."""
    normalize: bool = True
    """If true, embeddings are first scaled to length 1; losses of the cosine leave the length
    undetermined."""
    seed: Seed = 0
    """Seed of the first components."""


class Pyod(BackendConfig):
    """A detector of PyOD by name; needs the extra ``pyod``: ``pip install 'asdray[pyod]'``.

    Example: ``{name: pyod, detector: IForest, options: {n_estimators: 200}}``
    """

    name: Literal["pyod"] = "pyod"
    detector: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """Name of the class, such as ``ECOD``, ``IForest`` or ``LOF``; the class must score vectors. COF, SOD and
    SOS compare test clips with each other, not with the training clips."""
    options: dict[str, Any] = Field(default={})
    """Arguments of the class. If the class has a ``random_state`` which is not given, ``seed`` is used."""
    normalize: bool = True
    """If true, embeddings are first scaled to length 1; losses of the cosine leave the length
    undetermined."""
    seed: Seed = 0
    """Seed of the detector."""


class Recon(Config):
    """The frontend's own reconstruction error, unchanged. Every sweep uses it where a frontend offers one."""

    name: Literal["recon"] = "recon"


class Own(Config):
    """Another score that the frontend computes, unchanged. Example: ``{name: own, score: mahalanobis}``"""

    name: Literal["own"] = "own"
    score: Annotated[str, Field(min_length=1)]
    """Name of the score."""


EmbeddingBackend = (
    Knn | KMeans | KnnRescale | Ldn | LdnDomain | VarMin | Beam | MemMixup | Mahalanobis | Gmm | Pyod
)
OwnBackend = Recon | Own
_BuiltIn = EmbeddingBackend | OwnBackend
_FUNCTION = Interface(("config", "references", "domain", "queries"))
Backend = Annotated[_BuiltIn, Extensible("BACKENDS", "backend", BackendConfig, _BuiltIn, _FUNCTION)]


def own_backend(score: str) -> OwnBackend:
    """The backend that passes on the frontend's own score of this name."""
    return Recon() if score == "recon" else Own(score=score)


def backend_id(backend: Backend) -> str:
    """Name and hash, such as ``knn-5f37182d``: part of file names and of table rows."""
    return f"{backend.name}-{digest(backend)[:8]}"


class Umap(Config):
    """UMAP plots of a machine's embeddings, for the eye only. Example: ``umap: {metric: euclidean}``"""

    metric: Metric = "cosine"
    """Distance between embeddings."""
    n_neighbors: Annotated[int, Field(ge=2)] = 15
    """Number of neighbours; a larger number shows more of the global structure."""
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Smallest distance between points in the plot."""
