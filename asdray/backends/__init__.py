"""Backends: what extraction offers -> anomaly scores. One `match` case per configuration class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asdray.backends.knn import knn
from asdray.backends.recon import recon
from asdray.config.backend import Knn, Recon

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """What extraction offers of N clips of one machine.

    Attributes:
        embedding: (N, D) float32 or float64, or None where the frontend has none.
        own: the frontend's own anomaly scores by name, each (N,).
    """

    embedding: NDArray[np.floating] | None
    own: Mapping[str, NDArray[np.floating]]


def score_machine(
    backend: Knn | Recon, train: Features, train_domain: Sequence[str], test: Features
) -> tuple[Scores, Scores]:
    """Anomaly scores of a machine's training and test clips, higher = more anomalous.

    Knows nothing of labels. Training clips are scored as if each were new: a clip is never its own
    reference.

    Args:
        train: the normal training clips of all sections.
        train_domain: ``source`` or ``target`` of each.

    Returns:
        (N_train,) and (N_test,) float64, finite.

    Raises:
        ValueError: the frontend does not offer what the backend needs; too few clips; values that are
            not finite.
    """
    match backend:
        case Knn():
            references = _embedding(backend.name, train)
            domain, k, metric = np.asarray(train_domain), backend.n_neighbors, backend.metric
            return (
                knn(references, domain, references, k, metric, leave_one_out=True),
                knn(references, domain, _embedding(backend.name, test), k, metric),
            )
        case Recon():
            return recon(train.own), recon(test.own)


def _embedding(name: str, features: Features) -> NDArray[np.floating]:
    if features.embedding is None:
        raise ValueError(f"backend {name!r} scores embeddings, but this frontend offers none")
    return features.embedding
