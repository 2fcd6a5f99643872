"""Distance to the nearest normal training clips, the smaller one of both domains."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

DOMAINS = ("source", "target")
_CHUNK = 256  # queries at a time: bounds the memory of the exact distances to CHUNK x k x D doubles


def knn(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    n_neighbors: int = 1,
    metric: Literal["cosine", "euclidean"] = "cosine",
    leave_one_out: bool = False,
) -> NDArray[np.float64]:
    """Scores queries by their distance to the normal clips of one machine.

    With u = x / max(|x|, 1e-12) for ``cosine`` and u = x for ``euclidean``, d_S is the mean Euclidean
    distance of u to its k nearest source references and d_T that to its k nearest target references.
    The score is min(d_S, d_T), halved for ``cosine``: half the chord, sqrt((1 - cos) / 2) for k = 1, in
    [0, 1]. A domain without references is left out; one with fewer than k is taken whole.

    Args:
        references: (N, D).
        domain: (N,) of ``source`` and ``target``.
        queries: (M, D).
        leave_one_out: the queries are the references themselves, in the same order, and none is compared
            with itself.

    Returns:
        (M,) float64.

    Raises:
        ValueError: a query without any reference, values that are not finite, an unknown domain.

    Source: ASDKit's ``Knn-1-1-0.0-0``, arXiv 2507.10264. Difference: theirs fails with fewer references
    than k.
    """
    if unknown := set(np.unique(domain)) - set(DOMAINS):
        raise ValueError(f"kNN: a training clip's domain is {unknown.pop()!r}, not source or target")
    if len(references) < (2 if leave_one_out else 1):
        raise ValueError(f"kNN: {len(references)} training clips are too few to measure distances to")
    r = _prepared(references, metric, "training")
    q = r if leave_one_out else _prepared(queries, metric, "test")
    nearest = np.full(len(q), np.inf)
    for name in DOMAINS:
        members = np.flatnonzero(domain == name)
        if len(members):
            distance = _mean_distance(r, members, q, n_neighbors, leave_one_out)
            nearest = np.minimum(nearest, distance)
    return nearest / 2 if metric == "cosine" else nearest


def _prepared(x: NDArray[np.floating], metric: str, what: str) -> NDArray[np.float64]:
    u = np.asarray(x, dtype=np.float64)
    if not np.isfinite(u).all():
        bad = int((~np.isfinite(u).all(axis=1)).sum())
        raise ValueError(f"kNN: the embeddings of {bad} of {len(u)} {what} clips are not finite")
    if metric == "cosine":
        u = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
    return u


def _mean_distance(
    r: NDArray[np.float64],
    members: NDArray[np.intp],
    q: NDArray[np.float64],
    k: int,
    leave_one_out: bool,
) -> NDArray[np.float64]:
    """(M,) mean distance to the k nearest of ``r[members]``; inf where there is none but the query itself."""
    own = r[members]
    centre = own.mean(axis=0)
    around = own - centre
    squares = np.einsum("nd,nd->n", around, around)
    out = np.empty(len(q))
    for start in range(0, len(q), _CHUNK):
        part = q[start : start + _CHUNK]
        # A matrix product finds the neighbours (|q|^2 moves none of them and is left out). It has lost its
        # digits where clips lie close together: the distances themselves come from differences.
        rough = squares - 2 * (part - centre) @ around.T
        if leave_one_out:
            rough[np.arange(start, start + len(part))[:, None] == members] = np.inf
        size = min(k, len(members))
        at = np.argpartition(rough, size - 1, axis=1)[:, :size]
        difference = own[at] - part[:, None, :]
        distance = np.sqrt(np.einsum("mkd,mkd->mk", difference, difference))
        # The query itself is among the nearest only where there are no k others.
        others = np.isfinite(np.take_along_axis(rough, at, axis=1))
        count = others.sum(axis=1)
        total = np.where(others, distance, 0.0).sum(axis=1)
        out[start : start + len(part)] = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    return out
