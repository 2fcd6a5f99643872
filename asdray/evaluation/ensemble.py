"""Ensembles: one anomaly score per clip from the scores of several systems, as mean z-score or mean rank.

Higher scores are more anomalous. Scores of different systems have different units, hence the common scale.
No labels are used.

* ``zscore``: ``(s - m) / d`` with mean m and standard deviation d (ddof 1) of the system's scores of the
  machine's training clips. A clip's score does not depend on other test clips.
* ``rank``: the share of clips of the pool with lower scores, ties counted 1/2; pools are the machine's test
  clips of one subset, and its training clips. Ranks do not change under increasing transforms of the scores
  and resist outliers, but are transductive: a test clip's score depends on the other test clips, unknown to
  a detector that hears one clip at a time. Tables mark such rows.

>>> train, test = [1.0, 2.0, 3.0], [2.0, 5.0]
>>> members = {"a": (train, test), "b": ([10.0, 20.0, 30.0], [20.0, 40.0])}
>>> combine("zscore", members, ["eval", "eval"])[1].tolist()
[0.0, 2.5]
>>> combine("rank", members, ["eval", "eval"])[1].tolist()
[0.25, 0.75]

Source: Kittler et al. 1998, On combining classifiers, IEEE TPAMI 20(3) (sum rule); Jain, Nandakumar and Ross
2005, Score normalization in multimodal biometric systems, Pattern Recognition 38(12) (z-score); ranks:
Borda's count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdray.config.sweep import Combine


def zscores(values: ArrayLike, train: ArrayLike) -> NDArray[np.float64]:
    """``values`` (M,) minus the mean of ``train`` (N,), in standard deviations of ``train``.

    Raises:
        ValueError: fewer than two training scores, or equal training scores (up to rounding).
    """
    v, t = np.asarray(values, dtype=np.float64), np.asarray(train, dtype=np.float64)
    if t.size < 2:
        raise ValueError(f"{t.size} training scores have no standard deviation: combine by rank instead")
    spread = t.std(ddof=1)
    # Rounding shifts the mean of N equal numbers by up to about N / 2 units of the last digit.
    if spread <= t.size * np.finfo(np.float64).eps * np.abs(t).max():
        raise ValueError(
            f"all {t.size} training scores are {t[0]:.6g}: they have no spread to scale by; combine by rank "
            "instead, or leave this member out"
        )
    return (v - t.mean()) / spread


def mean_ranks(members: Sequence[ArrayLike], pools: Sequence[str] | None = None) -> NDArray[np.float64]:
    """The share of lower values in each value's pool, equal values counted 1/2; the mean over members.

    Ranks are summed before scaling, in exact multiples of 1/2, so that equal sums of ranks are exact ties.

    Args:
        members: values (M,) of the same clips, one array per member.
        pools: (M,) pool of each clip; default: a single pool.

    Returns:
        (M,) in (0, 1); the mean over a pool is 1/2.
    """
    from scipy.stats import rankdata

    n = len(np.asarray(members[0]))
    labels = np.zeros(n, dtype=int) if pools is None else np.unique(np.asarray(pools), return_inverse=True)[1]
    out = np.empty(n)
    for label in np.unique(labels):
        at = labels == label
        total = np.sum([rankdata(np.asarray(values)[at]) for values in members], axis=0)
        out[at] = (total / len(members) - 0.5) / at.sum()
    return out


def combine(
    how: Combine, members: Mapping[str, tuple[ArrayLike, ArrayLike]], pools: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One score per clip from the scores of several systems.

    Args:
        members: name -> finite scores of the machine's training clips (N,) and test clips (M,), with the
            clips in the same order.
        pools: (M,) subset of every test clip.

    Returns:
        Scores of the training clips (N,) and of the test clips (M,), float64; the same digits for every
        order of the members.

    Raises:
        ValueError: see `zscores`, with the member's name.
    """
    trains, tests = (
        [np.asarray(scores[side], dtype=np.float64) for scores in members.values()] for side in (0, 1)
    )
    if how == "rank":
        return mean_ranks(trains), mean_ranks(tests, pools)
    scaled: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for name, train, test in zip(members, trains, tests, strict=True):
        try:
            scaled.append((zscores(train, train), zscores(test, train)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    # The sum in order of size has the same digits for every order of the members.
    train, test = (np.sort(np.stack(rows), axis=0).mean(axis=0) for rows in zip(*scaled, strict=True))
    return train, test
