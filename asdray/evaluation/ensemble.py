"""Several systems' anomaly scores of the same clips made one: the mean of their z-scores, or of their ranks.

Scores of different systems have different units, so they are brought to one scale first. No label is used.

* ``zscore``: ``(s - m) / d`` with mean m and standard deviation d (ddof 1) of the same system's scores of
  the machine's training clips. A clip's score does not depend on the other test clips.
* ``rank``: the share of clips below, ties counted 1/2, within the pool that the clip belongs to: the
  machine's test clips of one subset, or its training clips. Unmoved by any increasing transform of a
  system's scores and by outliers, but transductive: a test clip's score depends on which others are tested
  with it, which a detector that hears one clip at a time does not know. Such rows are marked so in tables.

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
    """``values`` (M,) in standard deviations of ``train`` (N,) from its mean.

    Raises:
        ValueError: fewer than two training scores, or all of them equal (up to rounding): their spread
            is no unit.
    """
    v, t = np.asarray(values, dtype=np.float64), np.asarray(train, dtype=np.float64)
    if t.size < 2:
        raise ValueError(f"{t.size} training scores have no standard deviation: combine by rank instead")
    spread = t.std(ddof=1)
    # The mean of N equal numbers is off by up to some N / 2 units of the last digit.
    if spread <= t.size * np.finfo(np.float64).eps * np.abs(t).max():
        raise ValueError(
            f"all {t.size} training scores are {t[0]:.6g}: they have no spread to scale by; combine by rank "
            "instead, or leave this member out"
        )
    return (v - t.mean()) / spread


def ranks(values: ArrayLike, pools: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Of every value (M,) the share of values of its pool that are below it, those equal to it counted 1/2.

    In (0, 1); the mean over a pool is 1/2.

    Args:
        pools: (M,) what each value is ranked with; None = all with all.
    """
    return _mean_ranks([np.asarray(values, dtype=np.float64)], pools)


def _mean_ranks(
    members: Sequence[NDArray[np.float64]], pools: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """The mean of the `ranks` of several members' values of the same clips.

    Ranks are added before they are scaled, in halves of one, which floats hold exactly: clips whose ranks
    have the same sum are exactly tied.
    """
    from scipy.stats import rankdata

    n = members[0].size
    labels = np.zeros(n, dtype=int) if pools is None else np.unique(np.asarray(pools), return_inverse=True)[1]
    out = np.empty(n)
    for label in np.unique(labels):
        at = labels == label
        total = np.sum([rankdata(values[at]) for values in members], axis=0)
        out[at] = (total / len(members) - 0.5) / at.sum()
    return out


def combine(
    how: Combine, members: Mapping[str, tuple[ArrayLike, ArrayLike]], pools: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One score per clip from those of several systems; higher = more anomalous.

    Args:
        members: name -> its scores of the machine's training clips (N,) and of its test clips (M,), finite;
            clips in the same order in all.
        pools: (M,) the subset of every test clip.

    Returns:
        Scores of the training clips (N,) and of the test clips (M,), float64. The order of the members
        changes no digit.

    Raises:
        ValueError: as `zscores`, with the member's name.
    """
    trains, tests = (
        [np.asarray(scores[side], dtype=np.float64) for scores in members.values()] for side in (0, 1)
    )
    if how == "rank":
        return _mean_ranks(trains), _mean_ranks(tests, pools)
    scaled: tuple[list[NDArray[np.float64]], ...] = ([], [])
    for name, train, test in zip(members, trains, tests, strict=True):
        try:
            for values, to in zip((train, test), scaled, strict=True):
                to.append(zscores(values, train))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    # Added in the order of size: whichever member a number is of.
    train, test = (np.sort(np.stack(rows), axis=0).mean(axis=0) for rows in scaled)
    return train, test
