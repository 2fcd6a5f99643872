"""Confidence intervals of official scores: a stratified bootstrap over clips, and the evaluators' jackknife.

Scores are fractions; resamples keep the number of clips per machine, section, domain and label. The same seed
and data give the same digits. All clips have labels and domains.

>>> scores, labels = np.arange(40.0), np.arange(40) % 3 == 0
>>> section = SectionScores("fan", 0, scores, labels, np.arange(40) % 2 == 0)
>>> interval = official_interval("both_domains", [section], draws=100, seed=1)
>>> 0 <= interval.low < interval.high <= 1
True
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdray.dcase.years import ScoreRule
from asdray.evaluation import metrics

DRAWS = 2000
CONFIDENCE = 0.95
FEWEST, MOST = 100, 100_000
"""Limits of the number of draws: fewer leave no draws beyond the ends, more only add meaningless digits."""

BLOCK = 250
"""Resamples per block, which fit into the processor's cache. Another value changes the draws."""


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of an official score, in fractions, with the number and seed of its draws."""

    low: float
    high: float
    draws: int
    seed: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class SectionScores:
    """The test clips of one (machine, section) in the order of their names; all arrays (N,)."""

    machine: str
    section: int
    scores: NDArray[np.float64]
    is_anomaly: NDArray[np.bool_]
    is_target: NDArray[np.bool_]


def check_draws(draws: int, seed: int) -> tuple[int, int]:
    """Returns both arguments; raises ValueError for too few or too many draws, or a negative seed."""
    if not FEWEST <= draws <= MOST:
        raise ValueError(f"--draws {draws}: an interval takes {FEWEST} to {MOST:,} draws")
    if seed < 0:
        raise ValueError(f"--seed {seed}: a seed is not negative")
    return draws, seed


def section_generator(seed: int, machine: str, section: int) -> np.random.Generator:
    """The generator of a section's draws.

    Draws only depend on seed, machine and section, so that all systems of a year share their resamples.
    """
    return np.random.default_rng([seed, zlib.crc32(machine.encode()), section])


def draw_weights(strata: ArrayLike, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The number of times each clip is in each resample, with replacement within strata.

    Args:
        strata: (N,), equal for clips of one stratum.

    Returns:
        (N, draws) whole numbers as float64; the sum over a stratum is the size of the stratum.
    """
    s = np.asarray(strata)
    weights = np.empty((s.size, draws))
    for value in np.unique(s):
        at = np.flatnonzero(s == value)
        picks = draws * rng.integers(at.size, size=(draws, at.size)) + np.arange(draws)[:, None]
        weights[at] = np.bincount(picks.ravel(), minlength=draws * at.size).reshape(at.size, draws)
    return weights


def term_draws(
    score_rule: ScoreRule, section: SectionScores, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The terms of the official score from one section in every resample: (terms of the rule, draws).

    Args:
        weights: (N, draws).
    """
    y, target = section.is_anomaly, section.is_target
    clips = {  # clips of each term, see `metrics`
        "s": ~target, "t": target, "smix": ~target | y, "tmix": target | y, "mix": np.full(y.shape, True),
    }  # fmt: skip
    areas = {}
    for name in metrics.OFFICIAL_TERMS[score_rule]:
        which = name.split("_")[0]
        if which not in areas:
            at = clips[which]
            areas[which] = metrics.resampled_areas(section.scores[at], y[at], weights[at])
    return np.stack([areas[n.split("_")[0]][n.endswith("_pauc")] for n in metrics.OFFICIAL_TERMS[score_rule]])


def official_draws(
    score_rule: ScoreRule, sections: Sequence[SectionScores], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """The official scores of ``draws`` resamples of the test clips, (draws,); NaN if a term has no value.

    Strata are machine x section x domain x label, whose sizes the organisers fixed.
    """
    machines: dict[str, list[NDArray[np.float64]]] = {}
    for section in sections:
        rng = section_generator(seed, section.machine, section.section)
        strata = 2 * section.is_target + section.is_anomaly
        blocks = [
            term_draws(score_rule, section, draw_weights(strata, min(BLOCK, draws - start), rng))
            for start in range(0, draws, BLOCK)
        ]
        machines.setdefault(section.machine, []).append(np.concatenate(blocks, axis=1))
    return metrics.official_of_draws(score_rule, [np.concatenate(terms) for terms in machines.values()])


def official_interval(
    score_rule: ScoreRule, sections: Sequence[SectionScores], draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """The percentile interval of `official_draws`; None if the score has no value.

    The interval covers the choice of test clips, not of the training seed.

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    values = official_draws(score_rule, sections, draws, seed)
    if not np.isfinite(values).all():
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), draws, seed)


def evaluators_ci95(sections: Sequence[SectionScores], chunk: int = 32) -> float | None:
    """The ``official score ci95`` of the evaluators of 2022-2024, which is not an interval of that score.

    It is the mean of the jackknife half-widths of AUC and pAUC over one pool of all N clips of all machines:
    ``t(0.975, N - 1) sqrt(sum (theta_i - mean)^2 / (N (N - 1)))`` over leave-one-out values theta_i. It has
    two faults: AUC and pAUC of the pool are not the official score, and a jackknife has ``(N - 1) / N``
    before the sum of squares, so that the result is N - 1 times too small.

    Args:
        chunk: number of leave-one-out samples per step.

    Returns:
        None if an AUC has no value.

    Source: the official evaluators of 2022-2024.
    """
    from scipy.stats import t

    scores = np.concatenate([s.scores for s in sections])
    y = np.concatenate([s.is_anomaly for s in sections])
    n = scores.size
    parts = []
    for start in range(0, n, chunk):
        left_out = np.arange(start, min(start + chunk, n))
        weights = np.ones((n, left_out.size))
        weights[left_out, np.arange(left_out.size)] = 0
        parts.append(np.stack(metrics.resampled_areas(scores, y, weights)))
    theta = np.concatenate(parts, axis=1)
    if n < 2 or not np.isfinite(theta).all():
        return None
    squares = ((theta - theta.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    half = abs(t.ppf((1 - CONFIDENCE) / 2, n - 1)) * np.sqrt(squares / (n * (n - 1)))
    return math.fsum(half) / len(half)
