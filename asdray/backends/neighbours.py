"""The training clips of one machine as references of each other: distances, neighbours, local densities.

Every distance among the references is computed once, and then serves densities, statistics of the training
clips, and their scores as if each were new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, distances, unit

CHUNK = 256
"""Rows of a matrix of distances that are worked on at a time."""

_KEPT = 4096  # up to so many references, the matrix of their distances is kept: 128 MiB

Measure = Literal["chord", "cosine", "euclidean"]


class References:
    """N references, and the distances d among them and to them.

    d is |u - v| for ``chord``, |u - v|^2 / 4 = (1 - cos) / 2 for ``cosine``, both with u = x / max(|x|,
    1e-12), and |x - y| for ``euclidean``.

    Args:
        r: (N, D) float64.
    """

    def __init__(self, r: Array, measure: Measure) -> None:
        self.measure = measure
        self._r = r if measure == "euclidean" else unit(r)
        self._kept: dict[int, Array] = {}

    def __len__(self) -> int:
        return len(self._r)

    def _distances(self, part: Array) -> Array:
        d = distances(part, self._r)
        return d**2 / 4 if self.measure == "cosine" else d

    def to(self, q: Array) -> Iterator[tuple[slice, Array]]:
        """Rows of (M, N), the distances of M queries (M, D) to all references, and which rows these are."""
        if self.measure != "euclidean":
            q = unit(q)
        for start in range(0, len(q), CHUNK):
            part = q[start : start + CHUNK]
            yield slice(start, start + len(part)), self._distances(part)

    def among(self) -> Iterator[tuple[slice, Array]]:
        """Rows of (N, N), the distances among the references, inf to themselves. Copies, to be changed."""
        for start in range(0, len(self), CHUNK):
            d = self._kept.get(start)
            if d is None:
                d = self._distances(self._r[start : start + CHUNK])
                d[np.arange(len(d)), np.arange(start, start + len(d))] = np.inf
                if len(self) <= _KEPT:
                    self._kept[start] = d
            yield slice(start, start + len(d)), d.copy()

    def rows(self, positions: NDArray[np.intp]) -> Array:
        """(m, N), the rows of `among` at some positions, in rising order."""
        if len(self) <= _KEPT:
            parts = (d[np.isin(np.arange(at.start, at.stop), positions)] for at, d in self.among())
            return np.concatenate([*parts])
        d = self._distances(self._r[positions])
        d[np.arange(len(d)), positions] = np.inf
        return d

    def nearest(self, k: int) -> tuple[NDArray[np.intp], Array]:
        """The k nearest other references of each, nearest first: (N, k) positions and distances.

        Args:
            k: at most N - 1.
        """
        near, near_distance = np.empty((len(self), k), dtype=np.intp), np.empty((len(self), k))
        for rows, d in self.among():
            near[rows], near_distance[rows] = smallest(d, k)
        return near, near_distance


def smallest(d: Array, k: int) -> tuple[NDArray[np.intp], Array]:
    """Columns and values of the k smallest entries of each row of d, the smallest first."""
    at = np.argpartition(d, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(d, at, axis=1)
    order = np.argsort(values, axis=1, kind="stable")
    return np.take_along_axis(at, order, axis=1), np.take_along_axis(values, order, axis=1)


class Density:
    """b_j of each reference: its mean distance to the K nearest other references.

    With at most K other references, all others count.

    Attributes:
        near, near_distance: at least the K + 1 nearest others of each reference, as far as there are so many.
        own: (N,) the b_j.
    """

    def __init__(self, references: References, k: int) -> None:
        n = len(references)
        self._k = k
        self.near, self.near_distance = references.nearest(min(k + 1, n - 1))
        self.own = self.near_distance[:, :k].mean(axis=1)

    @property
    def floor(self) -> float:
        """A millionth of the mean b_j: identical recordings have b_j = 0. 1 if all are identical."""
        return self.own.mean() * 1e-6 or 1.0

    def without(self, rows: slice) -> Array:
        """(m, N): the b_j if reference i of ``rows`` did not exist, one row per i."""
        c = np.broadcast_to(self.own, (rows.stop - rows.start, len(self.own))).copy()
        for rank in range(min(self._k, self.near.shape[1])):
            left_out = self.near[:, rank]
            j = np.flatnonzero((left_out >= rows.start) & (left_out < rows.stop))
            rest = np.delete(self.near_distance[j], rank, axis=1)
            c[left_out[j] - rows.start, j] = rest[:, : self._k].mean(axis=1)
        return c


class RankedDensity(Density):
    """b_j of each reference: the mean of its distances to all others, nearest first, with weights r^rank.

    Source: global weighted ranking pooling, as in Wilkinghoff et al., arXiv 2509.10951.
    """

    def __init__(self, references: References, r: float) -> None:
        n = len(references)
        self.near, self.near_distance = references.nearest(n - 1)
        weights = r ** np.arange(n - 1.0)
        self.own = self.near_distance @ (weights / weights.sum())
        # Without the one at some rank, nearer ones keep their weights, and farther ones have r^(rank - 1).
        weighted = self.near_distance * weights
        nearer = np.cumsum(weighted, axis=1) - weighted
        shifted = self.near_distance * np.concatenate([[0.0], weights[:-1]])
        farther = np.cumsum(shifted[:, ::-1], axis=1)[:, ::-1] - shifted
        self._without = (nearer + farther) / max(weights[:-1].sum(), 1e-300)

    def without(self, rows: slice) -> Array:
        """(m, N): the b_j if reference i of ``rows`` did not exist, one row per i; of i itself, any value."""
        c = np.broadcast_to(self.own, (rows.stop - rows.start, len(self.own))).copy()
        j, rank = np.nonzero((self.near >= rows.start) & (self.near < rows.stop))
        c[self.near[j, rank] - rows.start, j] = self._without[j, rank]
        return c
