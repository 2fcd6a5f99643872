"""Shared by backends of embeddings: checks, scaling to unit length, distances, and cross-fitting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DOMAINS = ("source", "target")
FOLDS = 5
_PAIRS = 4096  # pairs of rows whose difference is taken at a time; bounds the memory to PAIRS x D doubles

Array = NDArray[np.float64]
Score = Callable[[Array, NDArray, Array], Array]
"""(N, D) training embeddings, (N,) their domains, (M, D) embeddings -> (M,) anomaly scores."""


def checked(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], least: int = 1
) -> tuple[Array, Array]:
    """Training embeddings (N, D) and queries (M, D) as float64.

    Raises:
        ValueError: fewer than ``least`` training clips, a value that is not finite, or a domain other than
            source and target.
    """
    if unknown := set(np.unique(domain)) - set(DOMAINS):
        raise ValueError(f"a training clip's domain is {unknown.pop()!r}, not source or target")
    if len(references) < least:
        raise ValueError(f"{len(references)} training clips are too few: at least {least} are needed")
    return _finite(references, "training"), _finite(queries, "test")


def _finite(x: NDArray[np.floating], what: str) -> Array:
    """``x`` as float64; ValueError if a value is not finite."""
    if bad := int((~np.isfinite(x).all(axis=1)).sum()):
        raise ValueError(f"the embeddings of {bad} of {len(x)} {what} clips are not finite")
    return np.asarray(x, dtype=np.float64)


def unit(x: Array) -> Array:
    """The rows of x (N, D) scaled to length 1: x / max(|x|, 1e-12), so that a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def distances(a: Array, b: Array) -> Array:
    """(M, N) Euclidean distances between the rows of a (M, D) and b (N, D), mostly by a matrix product.

    Squared distances from a product have an error of about 1e-16 times the rows' squared distance from their
    mean. The error matters only for rows that lie close together, whose nearest neighbours would be chosen
    by chance. Distances of such pairs are computed from differences, so that all have ten digits at least.
    """
    centre = b.mean(axis=0)
    x, y = a - centre, b - centre
    sizes = np.einsum("md,md->m", x, x)[:, None] + np.einsum("nd,nd->n", y, y)
    squares = sizes - 2 * x @ y.T
    rows, columns = np.nonzero(squares <= 1e-4 * sizes)
    if len(rows) > squares.size // 8:
        from scipy.spatial.distance import cdist

        return cdist(a, b)
    for start in range(0, len(rows), _PAIRS):
        i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        difference = a[i] - b[j]
        squares[i, j] = np.einsum("pd,pd->p", difference, difference)
    return np.sqrt(squares)


def held_out(score: Score, references: NDArray[np.floating], domain: NDArray) -> Array:
    """(N,) scores of the training clips by five-fold cross-fitting: a clip's own fold is left out of the fit.

    A fit that includes a clip would make it look more normal than any new clip, and a fit without each single
    one of a thousand clips would take too long. Both domains are spread over all folds, always in the same
    way.

    Raises:
        ValueError: fewer than two clips, or an error of ``score``.
    """
    checked(references, domain, references[:0], least=2)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(domain == name)) for name in DOMAINS])
    fold = np.empty(len(order), dtype=int)
    fold[order] = np.arange(len(order)) % FOLDS
    scores = np.empty(len(order))
    for out in (fold == k for k in range(min(FOLDS, len(order)))):
        scores[out] = score(references[~out], domain[~out], references[out])
    return scores
