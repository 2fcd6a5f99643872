"""Backends: embeddings, or a frontend's own scores -> anomaly scores, higher = more anomalous.

A backend is a configuration class in `asdray.config.backend`, a function, and a case in `_function`. `_score`
says how training clips are scored: by five-fold cross-fitting, unless the function leaves one out itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from asdray.backends.density import local_density
from asdray.backends.detectors import pyod
from asdray.backends.embeddings import checked, held_out
from asdray.backends.gaussian import gmm, mahalanobis
from asdray.backends.kmeans import kmeans
from asdray.backends.knn import knn
from asdray.backends.own import own_score
from asdray.config.backend import (
    Backend,
    EmbeddingBackend,
    Gmm,
    KMeans,
    Knn,
    KnnRescale,
    Ldn,
    Mahalanobis,
    Own,
    Pyod,
    Recon,
)
from asdray.config.base import implementation

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """The output of extraction for N clips of one machine.

    Attributes:
        embedding: (N, D) float32 or float64, or None if the frontend has no embeddings.
        own: the frontend's own anomaly scores by name, each (N,).
        section: (N,), read by backends with ``sep_section``.
    """

    embedding: NDArray[np.floating] | None
    own: Mapping[str, NDArray[np.floating]]
    section: Sequence[int]


def score_machine(
    backend: Backend, train: Features, train_domain: Sequence[str], test: Features
) -> tuple[Scores, Scores]:
    """Anomaly scores of a machine's training and test clips, higher = more anomalous.

    No labels are read. Training clips are scored as if each were new: a clip is never its own reference, and
    no fit that scores a clip includes the clip.

    Args:
        train: the normal training clips of all sections.
        train_domain: (N_train,), ``source`` or ``target``.

    Returns:
        (N_train,) and (N_test,) float64, finite.

    Raises:
        ValueError: the frontend lacks the embeddings or score that the backend needs, there are too few
            clips, or a value is not finite.
    """
    match backend:
        case Recon():
            return own_score(train.own, "recon"), own_score(test.own, "recon")
        case Own():
            return own_score(train.own, backend.score), own_score(test.own, backend.score)
    if train.embedding is None or test.embedding is None:
        raise ValueError(f"backend {backend.name!r} scores embeddings, but this frontend offers none")
    domain = np.asarray(train_domain)
    if not backend.sep_section:
        return _score(backend, train.embedding, domain, test.embedding)
    scores = np.empty(len(train.embedding)), np.empty(len(test.embedding))
    train_section, test_section = np.asarray(train.section), np.asarray(test.section)
    for section in np.unique(np.concatenate([train_section, test_section])):
        old, new = train_section == section, test_section == section
        try:
            parts = _score(backend, train.embedding[old], domain[old], test.embedding[new])
        except ValueError as error:
            raise ValueError(f"section {section}: {error}") from None
        scores[0][old], scores[1][new] = parts
    return scores


def _score(
    backend: EmbeddingBackend,
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
) -> tuple[Scores, Scores]:
    """Scores of the references, each as if it were new, and of the queries."""
    score = _function(backend)
    if isinstance(backend, Knn | KnnRescale | Ldn):
        own = score(references, domain, references, leave_one_out=True)
    else:
        own = held_out(score, references, domain)
    return own, score(references, domain, queries)


def _function(backend: EmbeddingBackend) -> Callable[..., Scores]:
    """The function of (references, domain, queries) that implements a backend, with the backend's options."""
    if from_plugin := implementation(backend):
        return partial(_from_plugin, partial(from_plugin, backend), backend.name)
    # The options of most backends are arguments of their functions, under the same names.
    options = backend.model_dump(exclude={"name", "sep_section"})
    match backend:
        case Knn():
            return partial(knn, options=backend)
        case KnnRescale():
            chord = {"metric": "chord"} if backend.metric == "cosine" else {}
            return partial(local_density, **{**options, **chord})
        case Ldn():
            return partial(local_density, **options)
        case KMeans():
            return partial(kmeans, **options)
        case Mahalanobis():
            return partial(mahalanobis, **options)
        case Gmm():
            return partial(gmm, options=backend)
        case Pyod():
            return partial(pyod, **options)


def _from_plugin(
    score: Callable[..., Scores],
    name: str,
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
) -> Scores:
    """The scores of a plugin's backend, after checks of its inputs and outputs."""
    references, queries = checked(references, domain, queries)
    scores = np.asarray(score(references, domain, queries), dtype=np.float64)
    if scores.shape != (len(queries),):
        raise ValueError(f"backend {name!r} gives scores of shape {scores.shape} for {len(queries)} clips")
    return scores
