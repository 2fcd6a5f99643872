"""Local density normalisation: distance to the nearest training clips, relative to their own distances."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, checked, distances, unit

_CHUNK = 256  # queries at a time; bounds the memory to a few CHUNK x N doubles


def local_density(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    metric: Literal["chord", "cosine", "euclidean"],
    form: Literal["ratio", "difference"] = "ratio",
    n_neighbors: int = 1,
    n_reference_neighbors: int = 1,
    leave_one_out: bool = False,
) -> Array:
    """Scores queries by their distance to references, each normalised by the reference's own distances.

    d is |u - v| for ``chord``, |u - v|^2 / 4 = (1 - cos) / 2 for ``cosine``, both with u = x / max(|x|,
    1e-12), and |x - y| for ``euclidean``. c_j is the mean d of reference j to its K nearest other references.
    The score is the mean over the k smallest of d(q, r_j) / c_j for ``ratio``, of d(q, r_j) - c_j for
    ``difference``. References of both domains count together: an isolated target reference has a large c_j,
    which compensates for the larger distances around it.

    Under ``ratio``, c_j is at least a millionth of the mean c, since several identical recordings have
    c_j = 0. If all references are identical, the score is d itself. With at most K other references, all
    others count.

    Args:
        references: (N, D), N >= 2.
        domain: (N,), ``source`` or ``target``; checked, but not used.
        queries: (M, D).
        n_neighbors: k.
        n_reference_neighbors: K.
        leave_one_out: the queries are the references themselves, in the same order. Each is scored as if it
            were new: it is not its own reference and does not count in any c_j.

    Returns:
        (M,) float64.

    Raises:
        ValueError: too few references, a value that is not finite, or an unknown domain.

    Source: ``chord`` and ``ratio``: ASDKit's ``KnnRescale-1-4-cosine``, arXiv 2507.10264, which has no guard
    against c_j = 0. ``cosine``: Wilkinghoff et al., Keeping the Balance, ICASSP 2025 (ratio), and arXiv
    2509.10951 (both forms), with k = 1.
    """
    r, q = checked(references, domain, queries, least=3 if leave_one_out else 2)
    if metric != "euclidean":
        r, q = unit(r), unit(q)

    def measure(a: Array, b: Array) -> Array:
        d = distances(a, b)
        return d**2 / 4 if metric == "cosine" else d

    def spans(x: Array) -> range:
        return range(0, len(x), _CHUNK)

    wide = min(n_reference_neighbors + 1, len(r) - 1)
    near = np.empty((len(r), wide), dtype=np.intp)
    near_distance = np.empty((len(r), wide))
    for start in spans(r):
        d = measure(r[start : start + _CHUNK], r)
        d[np.arange(len(d)), np.arange(start, start + len(d))] = np.inf
        at = np.argpartition(d, wide - 1, axis=1)[:, :wide]
        values = np.take_along_axis(d, at, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        near[start : start + len(d)] = np.take_along_axis(at, order, axis=1)
        near_distance[start : start + len(d)] = np.take_along_axis(values, order, axis=1)
    own = near_distance[:, :n_reference_neighbors].mean(axis=1)
    floor = own.mean() * 1e-6 or 1.0

    k = min(n_neighbors, len(r) - 1 if leave_one_out else len(r))
    out = np.empty(len(q))
    for start in spans(q):
        d = measure(q[start : start + _CHUNK], r)
        c = np.broadcast_to(own, d.shape).copy()
        if leave_one_out:
            d[np.arange(len(d)), np.arange(start, start + len(d))] = np.inf
            _without_query(c, near, near_distance, start, n_reference_neighbors)
        normalised = d / np.maximum(c, floor) if form == "ratio" else d - c
        out[start : start + len(d)] = np.partition(normalised, k - 1, axis=1)[:, :k].mean(axis=1)
    return out


def _without_query(c: Array, near: NDArray[np.intp], near_distance: Array, start: int, k: int) -> None:
    """Replaces the entries of ``c`` (m, N) in which the query itself, reference ``start`` + row, counts."""
    for rank in range(min(k, near.shape[1])):
        query = near[:, rank]
        j = np.flatnonzero((query >= start) & (query < start + len(c)))
        rest = np.delete(near_distance[j], rank, axis=1)
        c[query[j] - start, j] = rest[:, :k].mean(axis=1)
