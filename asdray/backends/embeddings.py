"""What the backends of embeddings share: checks, unit length, and scores of clips that were held out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DOMAINS = ("source", "target")
FOLDS = 5
_PAIRS = 4096  # of rows at a time whose difference is taken: bounds the memory to that many times D doubles

Array = NDArray[np.float64]
Score = Callable[[Array, NDArray, Array], Array]
"""(N, D) training embeddings, (N,) their domains, (M, D) embeddings -> (M,) anomaly scores."""


def checked(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], least: int = 1
) -> tuple[Array, Array]:
    """Training embeddings (N, D) and queries (M, D) as float64.

    Raises:
        ValueError: fewer than ``least`` training clips, values that are not finite, a domain that is
            neither source nor target.
    """
    if unknown := set(np.unique(domain)) - set(DOMAINS):
        raise ValueError(f"a training clip's domain is {unknown.pop()!r}, not source or target")
    if len(references) < least:
        raise ValueError(f"{len(references)} training clips are too few: at least {least} are needed")
    return _finite(references, "training"), _finite(queries, "test")


def _finite(x: NDArray[np.floating], what: str) -> Array:
    if bad := int((~np.isfinite(x).all(axis=1)).sum()):
        raise ValueError(f"the embeddings of {bad} of {len(x)} {what} clips are not finite")
    return np.asarray(x, dtype=np.float64)


def unit(x: Array) -> Array:
    """(N, D) rows scaled to length 1: x / max(|x|, 1e-12), so that a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def distances(a: Array, b: Array) -> Array:
    """(M, N) Euclidean distances between the rows of (M, D) and (N, D), by a matrix product where it can.

    A product's squares are wrong by about the square of how far rows lie from their mean times 1e-16. That
    is nothing unless two rows lie close together: then neighbours would be chosen by chance among them. Such
    distances come from differences, so that all have ten digits at least.
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
    """(N,) scores of the training clips, each by what was fitted without it: five-fold cross-fitting.

    For backends that fit something: scored by their own fit, training clips would look more normal than any
    new clip, and fitting anew without each of a thousand clips takes too long. Both domains are spread over
    all folds, always in the same way.

    Raises:
        ValueError: fewer than two clips, or what ``score`` raises.
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
