"""MemMixup: a target bank enlarged by mixtures with source clips, and distances scaled per domain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import DOMAINS, Array, checked, unit
from asdray.backends.neighbours import References, smallest
from asdray.config.backend import MemMixup

LEAST = 4
"""Training clips of a domain that give a mean and a standard deviation, also after one is left out."""


def mem_mixup(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], options: MemMixup
) -> tuple[Array, Array]:
    """Scores references and queries by the smaller one of their scaled distances to two banks.

    The source bank holds the source references. The target bank holds every target reference t, and for each
    of the ``n_sources`` source references s nearest to t the mixture ``weight`` t + (1 - ``weight``) s. d is
    the Euclidean distance to the nearest element of a bank; the score is the minimum over both banks of
    (d - m) / v, with mean m and standard deviation v (ddof 0) of:

    * ``train``: distances of the bank's training clips to their nearest other one, without mixtures;
    * ``train_bank``: as ``train``, but of each target reference to the bank without it and its mixtures;
    * ``test``: the distances d of all queries, which is transductive; references are scaled by it, too;
    * ``none``: m = 0, v = 1.

    A domain of fewer than four training clips is scaled like the other one; a domain without any does not
    count. v is at least a millionth of m.

    Returns:
        (N,) float64, the references' scores, each as if it were new: not in a bank, in no mixture, and not in
        a statistic of training clips; and (M,) of the queries.

    Raises:
        ValueError: fewer than two references; under ``train`` and ``train_bank`` fewer than four in each
            domain; no queries under ``test``; a value that is not finite, or an unknown domain.

    Source: GenRep, Saengthong and Shinozaki, arXiv 2409.05035, with ``test``. The statistics of training
    clips are asdray's own.
    """
    r, q = checked(references, domain, queries, least=2)
    if options.normalize:
        r, q = unit(r), unit(q)
    at = {name: np.flatnonzero(domain == name) for name in DOMAINS}
    if options.z.startswith("train") and max(map(len, at.values())) < LEAST:
        raise ValueError(
            f"{len(at['source'])} source and {len(at['target'])} target training clips are too few: "
            f"mem_mixup with z {options.z} needs {LEAST} of one domain (z none needs no statistic)"
        )
    if options.z == "test" and not len(q):
        raise ValueError("mem_mixup: z test needs test clips")
    among = References(r, "euclidean")
    bank = TargetBank(among, at, options)
    own, new = np.full((2, len(r)), np.inf), np.full((2, len(q)), np.inf)
    for rows, d in among.among():
        own[0, rows] = d[:, at["source"]].min(axis=1, initial=np.inf)
        own[1, rows] = bank.distances(d, np.arange(rows.start, rows.stop)).min(axis=1, initial=np.inf)
    for rows, d in among.to(q):
        new[0, rows] = d[:, at["source"]].min(axis=1, initial=np.inf)
        new[1, rows] = bank.distances(d).min(axis=1, initial=np.inf)
    of_own, of_new = _statistics(among, bank, at, options.z, new)
    return _scaled(own, of_own), _scaled(new, of_new)


def _scaled(d: Array, by: Array) -> Array:
    """(n,) the smaller one of the scaled distances (2, n); ``by``: mean and deviation, (2, 2, n or 1)."""
    mean, deviation = by
    deviation = np.maximum(deviation, np.abs(mean) * 1e-6)
    return ((d - mean) / np.where(deviation > 0, deviation, 1.0)).min(axis=0)


def _statistics(
    among: References, bank: TargetBank, at: dict[str, NDArray[np.intp]], z: str, new: Array
) -> tuple[Array, Array]:
    """Means and standard deviations of both domains, by which each reference and all queries are scaled.

    Returns:
        (2, 2, N or 1) and (2, 2, 1).
    """
    if z == "none":
        same = np.stack([np.zeros((2, 1)), np.ones((2, 1))])
        return same, same
    if z == "test":
        found = np.where(np.isfinite(new), new, 0.0)  # of a domain without references all are inf
        same = np.stack([found.mean(axis=1, keepdims=True), found.std(axis=1, keepdims=True)])
        return same, same
    usable = [name for name in DOMAINS if len(at[name]) >= LEAST]
    by_domain: dict[str, Array] = {}
    for name in usable:
        mixed = name == "target" and z == "train_bank"
        whole, without = _leave_one_out(*(bank.nearest_two() if mixed else _nearest_two(among, at[name])))
        by_domain[name] = np.repeat(whole[:, None], len(among) + 1, axis=1)
        by_domain[name][:, at[name]] = without
        if mixed:
            by_domain[name][:, at["source"]] = bank.without_sources()
    both = np.stack([by_domain.get(name, by_domain[usable[0]]) for name in DOMAINS], axis=1)
    return both[..., :-1], both[..., -1:]


def _nearest_two(among: References, at: NDArray[np.intp]) -> tuple[NDArray[np.intp], Array]:
    """The two nearest others of each reference of one domain: (n, 2) places in ``at``, and distances."""
    near, near_distance = np.empty((len(at), 2), dtype=np.intp), np.empty((len(at), 2))
    done = 0
    for rows, d in among.among():
        mine = d[np.isin(np.arange(rows.start, rows.stop), at)][:, at]
        if len(mine):
            part = slice(done, done + len(mine))
            near[part], near_distance[part] = smallest(mine, 2)
            done = part.stop
    return near, near_distance


def _leave_one_out(near: NDArray[np.intp], distance: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the distances to the nearest other one: of all n, and without each one.

    Without one, those to whom it is the nearest have their second nearest.

    Args:
        near, distance: (n, 2), the two nearest others of each; n >= 4.

    Returns:
        (2,) and (2, n).
    """
    n = len(distance)
    mean = distance[:, 0].mean()
    u = distance - mean

    def mean_without(values: Array) -> Array:
        moved = np.bincount(near[:, 0], values[:, 1] - values[:, 0], n)
        return (values[:, 0].sum() - values[:, 0] + moved) / (n - 1)

    shift = mean_without(u)
    variance = np.maximum(mean_without(u**2) - shift**2, 0)
    return np.array([mean, distance[:, 0].std()]), np.stack([mean + shift, np.sqrt(variance)])


class TargetBank:
    """Distances to the target references and their mixtures, from distances to references alone.

    |x - w t - (1 - w) s|^2 = w |x - t|^2 + (1 - w) |x - s|^2 - w (1 - w) |t - s|^2.
    """

    def __init__(self, among: References, at: dict[str, NDArray[np.intp]], options: MemMixup) -> None:
        self._w, self._source, self._target = options.weight, at["source"], at["target"]
        n_sources = len(self._source)
        self._n = n_sources if options.n_sources is None else min(options.n_sources, n_sources)
        self._rows = among.rows(self._target)  # distances of the targets to all references
        to_source = self._rows[:, self._source]
        # One more than are mixed: the next one takes the place of a source that is left out.
        self._near = np.argsort(to_source, axis=1, kind="stable")[:, : self._n + 1]
        self._offset = self._w * (1 - self._w) * np.take_along_axis(to_source, self._near, axis=1) ** 2

    def _to_sources(self, d: Array) -> Array:
        """(m, n_source), the part of the squared distances that all targets' mixtures with a source share."""
        return (1 - self._w) * d[:, self._source] ** 2

    def distances(self, d: Array, rows: NDArray[np.intp] | None = None) -> Array:
        """(m, n_target) distances to each target or its nearest mixture.

        Args:
            d: (m, N) distances to all references; those of a reference to itself are inf, which takes it, its
                mixtures and mixtures with it out of the bank.
            rows: (m,) the references that are the rows; then a left-out mixture is replaced by the next one.
        """
        out, to_sources = np.empty((len(d), len(self._target))), self._to_sources(d)
        for t, target in enumerate(self._target):
            near, offset = self._near[t], self._offset[t]
            mixed = to_sources[:, near[: self._n]] - offset[: self._n]
            nearest = mixed.min(axis=1, initial=np.inf)
            if rows is not None and len(near) > self._n:
                at = np.flatnonzero(np.isin(rows, self._source[near[: self._n]]))
                nearest[at] = np.minimum(nearest[at], to_sources[at, near[-1]] - offset[-1])
            to_target = d[:, target] ** 2
            out[:, t] = np.sqrt(np.minimum(to_target, np.maximum(self._w * to_target + nearest, 0)))
        return out

    def nearest_two(self) -> tuple[NDArray[np.intp], Array]:
        """For each target, the two nearest others by `distances`: (n_target, 2) places, and distances."""
        return smallest(self.distances(self._rows), 2)

    def without_sources(self) -> Array:
        """Mean and standard deviation of the targets' distances to the rest of the bank, without each source.

        Returns:
            (2, n_source).
        """
        d, to_sources = self._rows, self._to_sources(self._rows)
        each = np.repeat(self.distances(d)[None], len(self._source), axis=0)
        for t, target in enumerate(self._target if self._n else ()):
            near, to_target = self._near[t, : self._n], d[:, target, None] ** 2
            ends = ((0, 0), (0, self._n + 1 - self._near.shape[1]))
            mixed = np.pad(to_sources[:, self._near[t]] - self._offset[t], ends, constant_values=np.inf)
            two = np.partition(np.pad(mixed[:, :-1], ((0, 0), (0, 1)), constant_values=np.inf), 1, axis=1)
            gone = mixed[:, :-1].argmin(axis=1)[:, None] == np.arange(self._n)
            rest = np.minimum(np.where(gone, two[:, 1:2], two[:, :1]), mixed[:, -1:])
            squares = np.minimum(to_target, np.maximum(self._w * to_target + rest, 0))
            each[near, :, t] = np.sqrt(squares).T
        nearest = each.min(axis=2)
        return np.stack([nearest.mean(axis=1), nearest.std(axis=1)])
