"""VarMin and BEAM: distance to the nearest training clip of both domains, less a part of local density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, checked
from asdray.backends.neighbours import Density, Measure, References


def nearest(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], metric: Measure
) -> tuple[Array, Array]:
    """(N,) distance of each reference to the nearest other one, and (M,) of each query to the nearest."""
    r, q = checked(references, domain, queries, least=2)
    among = References(r, metric)
    new = np.empty(len(q))
    for rows, d in among.to(q):
        new[rows] = d.min(axis=1)
    return among.nearest(1)[1][:, 0], new


def varmin(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    metric: Measure = "cosine",
    form: Literal["difference", "log"] = "difference",
    n_neighbors: int = 4,
) -> tuple[Array, Array]:
    """Scores references and queries by their distance to references, less alpha times the local density.

    b_j is the mean d of reference j to its K nearest other references, of both domains alike. For each
    reference z, u_z is the d to the nearest other reference, and v_z the b of that one; alpha = Cov(u, v) /
    Var(v) over all z, so that u - alpha v has the smallest variance. The score is min_j (d(q, r_j) - alpha
    b_j), which may be negative. ``log``: all of d, b, u and v are logarithms. `References` defines d; for
    ``log`` d and b are at least a millionth of the mean b. alpha is 0 if all v_z are equal.

    Args:
        references: (N, D), N >= 3.
        domain: (N,), ``source`` or ``target``; checked, but not used.
        queries: (M, D).
        n_neighbors: K.

    Returns:
        (N,) float64, the references' scores, each as if it were new: neither b_j nor alpha know of it; and
        (M,) of the queries.

    Raises:
        ValueError: too few references, a value that is not finite, or an unknown domain.

    Source: Matsumoto et al., DCASE 2025 Challenge (``difference``, cosine, K = 4); ``log`` with K = 1 and
    Euclidean distances is a reading of arXiv 2603.04605.
    """
    r, q = checked(references, domain, queries, least=3)
    among = References(r, metric)
    density = Density(among, n_neighbors)

    def scale(x: Array) -> Array:
        return np.log(np.maximum(x, density.floor)) if form == "log" else x

    # The nearest other reference; without it, the second nearest.
    first, second = density.near[:, 0], density.near[:, 1]
    u = scale(density.near_distance)
    own, new = np.empty(len(r)), np.empty(len(q))
    b, alpha = scale(density.own), alpha_of(density, scale)
    for rows, d in among.among():
        without = scale(density.without(rows))
        i = np.arange(rows.start, rows.stop)[:, None]
        gone = first == i
        v = np.take_along_axis(without, np.where(gone, second, first), axis=1)
        alphas = _alpha(np.where(gone, u[:, 1], u[:, 0]), v, np.arange(len(r)) != i)
        own[rows] = (scale(d) - alphas[:, None] * without).min(axis=1)
    for rows, d in among.to(q):
        new[rows] = (scale(d) - alpha * b).min(axis=1)
    return own, new


def alpha_of(density: Density, scale: Callable[[Array], Array] = np.asarray) -> float:
    """alpha over all references, see `varmin`; ``scale``: the logarithm, or nothing."""
    u, v = scale(density.near_distance[:, 0]), scale(density.own)[density.near[:, 0]]
    return float(_alpha(u[None], v[None], np.ones((1, len(u)), dtype=bool))[0])


def _alpha(u: Array, v: Array, counted: NDArray[np.bool_]) -> Array:
    """Cov(u, v) / Var(v) of each row, over the entries that are counted."""
    n = counted.sum(axis=1, keepdims=True)
    # Rounding leaves a trace of equal v.
    trace = (1e-12 * np.abs(np.where(counted, v, 0)).max(axis=1)) ** 2 * n[:, 0]
    u = np.where(counted, u - np.where(counted, u, 0).sum(axis=1, keepdims=True) / n, 0)
    v = np.where(counted, v - np.where(counted, v, 0).sum(axis=1, keepdims=True) / n, 0)
    spread = (v * v).sum(axis=1)
    varied = spread > trace
    return np.where(varied, (u * v).sum(axis=1) / np.where(varied, spread, 1.0), 0.0)
