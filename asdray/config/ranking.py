"""What a leaderboard can be ranked by: one of its columns, or one of their means."""

from __future__ import annotations

from collections.abc import Sequence

from asdray.dcase.years import nearest

MEANS = ("dev_amean", "dev_hmean", "eval_amean", "eval_hmean", "amean", "hmean")
"""Arithmetic and harmonic means over a leaderboard's ``<dcase>-dev`` columns, its ``<dcase>-eval`` columns,
and all of them."""


def averaged(mean: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns ``<dcase>-<subset>`` of ``names`` that one of `MEANS` is over."""
    subset = mean.rpartition("_")[0]
    return tuple(n for n in names if n.endswith(f"-{subset}" if subset else ""))


def check_rank_by(rank_by: str | None, names: Sequence[str]) -> str:
    """What to rank by: ``rank_by``, or where it is None the mean over the eval columns, or over the dev
    columns where there are no others.

    Args:
        names: the leaderboard's columns, ``<dcase>-<subset>``.

    Raises:
        ValueError: neither a column nor a mean over any.
    """
    known = (*names, *(mean for mean in MEANS if averaged(mean, names)))
    if rank_by is None:
        return "eval_amean" if "eval_amean" in known else "dev_amean"
    if rank_by not in known:
        raise ValueError(f"cannot rank by {rank_by!r}{nearest(rank_by, known)} (one of: {', '.join(known)})")
    return rank_by
