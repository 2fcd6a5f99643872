"""k-means: distance to the nearest of the source domain's cluster centres and all target clips."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, checked, unit


def kmeans(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    n_clusters: int = 16,
    metric: Literal["cosine", "euclidean"] = "cosine",
    seed: int = 0,
) -> Array:
    """Scores queries by their distance to the nearest point of P.

    P holds the centres of ``n_clusters`` clusters of the source references, found by k-means (k-means++
    start), and every target reference. ``euclidean``: min |q - p|. ``cosine``: references, centres and
    queries are scaled to length 1 and the score is min |q - p|^2 / 2 = min(1 - cos), in [0, 2]. With at most
    ``n_clusters`` source references, the references themselves are the centres.

    Args:
        references: (N, D).
        domain: (N,), ``source`` or ``target``.
        queries: (M, D).

    Returns:
        (M,) float64.

    Raises:
        ValueError: no references, a value that is not finite, or an unknown domain.

    Source: ASDKit's ``Kmeans-16-cosine``, arXiv 2507.10264.
    """
    from scipy.spatial.distance import cdist

    r, q = checked(references, domain, queries)
    if metric == "cosine":
        r, q = unit(r), unit(q)
    centres = _centres(r[domain == "source"], n_clusters, seed)
    if metric == "cosine":
        centres = unit(centres)
    distance = cdist(q, np.concatenate([centres, r[domain == "target"]])).min(axis=1)
    return distance**2 / 2 if metric == "cosine" else distance


def _centres(x: Array, n: int, seed: int) -> Array:
    """The centres of n clusters of the rows of x, (n, D); x itself if it has at most n rows."""
    if len(x) <= n:
        return x
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # With fewer distinct points than clusters, some centres are equal, which does no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n, n_init=1, random_state=seed).fit(x).cluster_centers_
