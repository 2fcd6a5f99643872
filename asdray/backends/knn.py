"""k nearest neighbours: distance to the nearest training clips of source or target, optionally with SMOTE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, checked, distances, unit
from asdray.config.backend import Knn

_CHUNK = 256  # queries at a time; bounds the memory of the exact distances to CHUNK x k x D doubles
DEFAULTS = Knn()


def knn(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    options: Knn = DEFAULTS,
    leave_one_out: bool = False,
) -> Array:
    """Scores queries by their distance to the normal clips of one machine.

    With u = x / max(|x|, 1e-12) for ``cosine`` and u = x for ``euclidean``, d_S is the mean Euclidean
    distance of u to its k nearest source references and d_T that to its k nearest target references.
    The score is min(d_S, d_T), halved for ``cosine``: half the chord, sqrt((1 - cos) / 2) for k = 1, in
    [0, 1]. A domain without references is left out; of a domain with fewer than k, all are used.

    With ``smote_ratio`` p > 0, synthetic target references (see `smote`) are added until int(p S) target
    references stand beside S source references, and scaled to length 1 for ``cosine``. A single target
    reference gives no synthetic ones.

    Example:
        >>> knn(np.array([[0.0], [4.0]]), np.array(["source", "target"]), np.array([[1.0]]),
        ...     Knn(metric="euclidean"))
        array([1.])

    Args:
        references: (N, D).
        domain: (N,), ``source`` or ``target``.
        queries: (M, D).
        leave_one_out: the queries are the references themselves, in the same order; no query is compared
            with itself or with a synthetic reference made from it.

    Returns:
        (M,) float64.

    Raises:
        ValueError: a query has no reference to compare with, a value is not finite, or a domain is unknown.

    Source: ASDKit's ``Knn-1-1-0.0-0`` and ``Knn-1-1-0.2-2-cosine``, arXiv 2507.10264. Difference: ASDKit
    fails with fewer references than k, and with fewer target references than SMOTE needs.
    """
    k, cosine = options.n_neighbors, options.metric == "cosine"
    r, q = checked(references, domain, queries, least=2 if leave_one_out else 1)
    if cosine:
        r, q = unit(r), unit(q)
    source, target = np.flatnonzero(domain == "source"), np.flatnonzero(domain == "target")
    # The position of each query among the references of a domain, -1 for none.
    at = {name: np.full(len(q), -1) for name in ("source", "target")}
    if leave_one_out:
        at["source"][source], at["target"][target] = np.arange(len(source)), np.arange(len(target))
    near_source = mean_distance(r[source], q, k, at["source"])
    total = int(options.smote_ratio * len(source))
    # If both numbers are equal, leaving out a target clip calls for a synthetic one.
    if options.smote_ratio > 0 and total >= len(target):
        near_target = _to_enlarged(
            r[target], q, k, at["target"], total, options.smote_neighbors, options.seed, to_unit=cosine
        )
    else:
        near_target = mean_distance(r[target], q, k, at["target"])
    nearest = np.minimum(near_source, near_target)
    return nearest / 2 if cosine else nearest


def mean_distance(r: Array, q: Array, k: int, skip: NDArray[np.intp]) -> Array:
    """(M,) mean Euclidean distance of each query to its k nearest references; inf without references.

    Args:
        r: (N, D).
        q: (M, D).
        skip: (M,), the position of the reference that a query is not compared with, -1 for none.
    """
    if not len(r):
        return np.full(len(q), np.inf)
    size = min(k, len(r))
    out = np.empty(len(q))
    for start in range(0, len(q), _CHUNK):
        part, skipped = q[start : start + _CHUNK], skip[start : start + _CHUNK]
        near = distances(part, r)
        rows = np.flatnonzero(skipped >= 0)
        near[rows, skipped[rows]] = np.inf
        at = np.argpartition(near, size - 1, axis=1)[:, :size]
        difference = r[at] - part[:, None, :]  # exact distances to the nearest
        distance = np.sqrt(np.einsum("mkd,mkd->mk", difference, difference))
        # A skipped reference is among the nearest only if fewer than k others exist.
        others = np.isfinite(np.take_along_axis(near, at, axis=1))
        count = others.sum(axis=1)
        total = np.where(others, distance, 0.0).sum(axis=1)
        out[start : start + len(part)] = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    return out


def _to_enlarged(
    target: Array,
    q: Array,
    k: int,
    at: NDArray[np.intp],
    total: int,
    neighbors: int,
    seed: int,
    to_unit: bool,
) -> Array:
    """(M,) mean distance to the k nearest of ``total`` references: ``target`` and synthetic ones.

    A query that is itself a target reference (``at`` >= 0) is scored as if it were new: by the other
    references and synthetic ones made from the others.
    """
    nearest = _neighbors(target, neighbors + 1)

    def enlarged(rest: Array, near: NDArray[np.intp]) -> Array:
        new = smote(rest, near, total - len(rest), seed)
        return np.concatenate([rest, unit(new) if to_unit else new])

    out = np.empty(len(q))
    new = at < 0
    none = np.full(len(q), -1)
    out[new] = mean_distance(enlarged(target, nearest[:, :neighbors]), q[new], k, none[new])
    for i in np.flatnonzero(~new):
        others = np.delete(np.arange(len(target)), at[i])
        near = nearest[others]
        # The first entries of each row without the left-out reference, renumbered accordingly.
        kept = np.argsort(near == at[i], axis=1, kind="stable")[:, : min(neighbors, max(len(others) - 1, 0))]
        near = np.take_along_axis(near, kept, axis=1)
        rest = enlarged(target[others], near - (near > at[i]))
        out[i] = mean_distance(rest, q[i : i + 1], k, none[:1])[0]
    return out


def _neighbors(x: Array, k: int) -> NDArray[np.intp]:
    """(N, min(k, N - 1)) positions of the nearest other rows of each of the N rows of x, nearest first."""
    if not len(x):
        return np.empty((0, 0), dtype=np.intp)
    near = distances(x, x)
    np.fill_diagonal(near, np.inf)
    return np.argsort(near, axis=1, kind="stable")[:, : min(k, len(x) - 1)]


def smote(x: Array, nearest: NDArray[np.intp], n: int, seed: int) -> Array:
    """n synthetic points, each at a random position between a random row of x and one of its neighbours.

    Args:
        x: (N, D).
        nearest: (N, k), the neighbours of each row.

    Returns:
        (n, D); (0, D) if no row has a neighbour.

    Source: Chawla et al., SMOTE, 2002. The random draws are those of imbalanced-learn's
    ``SMOTE(random_state=seed)``, so that the points equal ASDKit's.
    """
    if nearest.size == 0 or n <= 0:
        return x[:0]
    random = np.random.RandomState(seed)
    row, column = np.divmod(random.randint(0, nearest.size, size=n), nearest.shape[1])
    step = random.uniform(size=n)[:, None]
    return x[row] + step * (x[nearest[row, column]] - x[row])
