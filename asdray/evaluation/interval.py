"""Confidence intervals of official scores: the effect of every clip on a score, and t distributions.

The variance of a score is a sum of components: the choice of test clips in every cell (machine x section x
domain x label, whose sizes the organisers fixed), and the choice of seeds. A component is estimated from n
values, so that an interval of this component alone takes the t distribution with n - 1 degrees of freedom.
The interval of the sum has the half width ``sqrt(sum of t_i^2 V_i)``, which covers at least 95 % however the
components share the variance, since the distribution function of chi-squared with one degree of freedom is
concave. Nothing is drawn at random: equal scores give equal digits.

Scores are fractions; all clips have labels and domains. ``benchmarks/intervals.py`` simulates how often the
intervals cover.

>>> scores, labels = np.arange(40.0), np.arange(40) % 3 == 0
>>> section = SectionScores("fan", 0, scores, labels, np.arange(40) % 2 == 0)
>>> interval = official_interval("both_domains", [section])
>>> 0 < interval.low < interval.high < 1
True
>>> round(p_value(2.0, [(3, 1.0)]), 3)  # a t test with three degrees of freedom
0.139

Source: Banerjee 1960, Sankhya 22(3/4) (the sum of components); DeLong et al. 1988, Biometrics 44(3) (the
variance of an AUC).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdray.dcase.years import ScoreRule
from asdray.evaluation import metrics

CONFIDENCE = 0.95

LEAST_P = 1e-6
"""The smallest p value: the approximations do not reach further into the tails."""

FEW_CLIPS = 10
"""Intervals with cells of fewer clips are marked as rough, see the simulation in ``docs/submissions.md``."""

GAIN = 0.7
"""With 1, equal systems have p <= 0.05 in up to 6.8 % where two parts are very unequal, with 0.7 in 5.8 %."""

Component = tuple[float, float]
"""Degrees of freedom and variance; without degrees of freedom the variance cannot be estimated."""


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of an official score, in fractions."""

    low: float
    high: float

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

    @property
    def cells(self) -> NDArray[np.int64]:
        """A number in [0, 4) per clip, equal for clips of one domain and label."""
        return 2 * self.is_target + self.is_anomaly


def clips_of_cell(sections: Sequence[SectionScores]) -> NDArray[np.int64]:
    """The number of clips in the cell of every clip, (N,) over all sections."""
    return np.concatenate([np.bincount(section.cells)[section.cells] for section in sections])


def on_small_cells(fewest: int) -> list[str]:
    """Sentences on the smallest cell, if its ``fewest`` clips are few."""
    if fewest == 1:
        return [
            "No interval: a cell (machine, section, domain, label) has a single clip, which shows no scatter."
        ]
    if fewest < FEW_CLIPS:
        return [f"Cells (machine, section, domain, label) of {fewest} clips: the interval is rough."]
    return []


# ----------------------------------------------------------------------------------------------- components


def half_width(components: Sequence[Component], confidence: float = CONFIDENCE) -> float:
    """Half the width of an interval of a value with these components; infinite if one cannot be estimated."""
    from scipy.special import stdtrit

    parts = [
        stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(variance) if freedom > 0 else math.inf
        for freedom, variance in components
        if freedom > 0 < variance or freedom == 0
    ]
    return math.hypot(*parts)


def p_value(value: float, components: Sequence[Component]) -> float:
    """The two-sided p value of a value: an interval with confidence 1 - p ends at 0. At least `LEAST_P`."""
    from scipy.optimize import brentq

    def excess(log_p: float) -> float:
        return half_width(components, 1 - math.exp(log_p)) - abs(value)

    if value == 0:
        return 1.0
    if excess(math.log(LEAST_P)) <= 0:
        return LEAST_P
    return math.exp(brentq(excess, math.log(LEAST_P), 0.0)) if math.isfinite(excess(-1.0)) else 1.0


def joined(components: Sequence[Component]) -> list[Component]:
    """Components of one kind as one component; none without variance.

    The degrees of freedom are those of Welch and Satterthwaite on the safe side: the smallest number counts
    for all (with two seeds of A and eight of B, B must not speak for A), and `GAIN` of the gain by adding.

    Source: Satterthwaite 1946, Biometrics Bulletin 2(6); Welch 1947, Biometrika 34(1/2).
    """
    total = math.fsum(variance for _, variance in components)
    if total <= 0:
        return []
    fewest = min(freedom for freedom, _ in components)
    gain = 1 / math.fsum((variance / total) ** 2 for _, variance in components) - 1
    return [(fewest * (1 + GAIN * gain), total)]


# --------------------------------------------------------------------------------------------------- clips


def _term_effects(
    score_rule: ScoreRule, trials: Sequence[SectionScores]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The terms of the official score from one section of K trials, (K, terms), and the effects of its clips.

    Returns:
        The effects have the shape (K, terms, N).
    """
    section = trials[0]
    y, target, scores = section.is_anomaly, section.is_target, np.stack([one.scores for one in trials])
    clips = {  # clips of each term, see `metrics`
        "s": ~target, "t": target, "smix": ~target | y, "tmix": target | y, "mix": np.full(y.shape, True),
    }  # fmt: skip
    names = metrics.OFFICIAL_TERMS[score_rule]
    terms, effects = np.empty((len(trials), len(names))), np.zeros((len(trials), len(names), y.size))
    for i, name in enumerate(names):
        which, _, kind = name.partition("_")
        at, limit = clips[which], metrics.MAX_FPR if kind == "pauc" else 1.0
        terms[:, i], effects[:, i, at] = metrics.area_effects(scores[:, at], y[at], limit)
    cells, counts = section.cells, np.bincount(section.cells, minlength=4)
    member = np.eye(4)[cells]
    effects -= (effects @ member / np.maximum(counts, 1)) @ member.T
    return terms, effects * np.sqrt(counts / np.maximum(counts - 1, 1))[cells]


def score_effects(
    score_rule: ScoreRule, trials: Sequence[Sequence[SectionScores]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The official scores of K trials, (K,), and the effects of the clips of all sections, (K, N).

    An effect is the derivative of the score by the clip's weight within its cell, times
    ``sqrt(n / (n - 1))`` with the n clips of the cell: the sum of squares is the variance of the score over
    the choice of clips, and the sum of products of two trials' effects is their covariance.

    Args:
        trials: the same sections with the same clips in the same order.

    Returns:
        NaN for a missing score.
    """
    sections = trials[0]
    found = [_term_effects(score_rule, places) for places in zip(*trials, strict=True)]
    machines: dict[str, list[NDArray[np.float64]]] = {}
    for section, (terms, _) in zip(sections, found, strict=True):
        machines.setdefault(section.machine, []).append(terms)
    scores = np.array([_official(score_rule, list(machines.values()), k) for k in range(len(trials))])
    effects = []
    for section, (terms, own) in zip(sections, found, strict=True):
        if score_rule == "machine_mean":
            slopes = np.full(
                terms.shape, 1 / (len(machines) * len(machines[section.machine]) * terms.shape[1])
            )
        else:  # of T / sum(1 / max(v, EPS)) over the T terms of all sections
            v = np.maximum(terms, metrics.EPS)
            slopes = (scores[:, None] / v) ** 2 / (terms.shape[1] * len(sections)) * (v > metrics.EPS)
        effects.append(np.einsum("kt,ktn->kn", slopes, own))
    return scores, np.concatenate(effects, axis=1)


def _official(score_rule: ScoreRule, machines: Sequence[Sequence[NDArray[np.float64]]], k: int) -> float:
    """The official score of trial k, NaN if a term is; by machine the terms of each section, (K, terms)."""
    terms = [np.concatenate([section[k] for section in own]).tolist() for own in machines]
    if any(math.isnan(value) for own in terms for value in own):
        return math.nan
    means = [metrics.section_mean(score_rule, own) for own in terms]
    score = metrics.official_total(score_rule, means, [len(own) for own in machines])
    assert score is not None, "all terms are known"
    return score


def clip_components(variances: ArrayLike, counts: NDArray[np.int64]) -> list[Component]:
    """The components of the choice of clips.

    Args:
        variances: (N,) the part of every clip; negative sums of estimated covariances count as 0.
        counts: (N,) the number of clips in each clip's cell.
    """
    sums = np.bincount(counts, np.asarray(variances))
    return [(float(n - 1), max(float(sums[n]), 0.0)) for n in np.unique(counts)]


def official_interval(score_rule: ScoreRule, sections: Sequence[SectionScores]) -> Interval | None:
    """The interval of the official score; None if the score has no value or a cell has a single clip.

    The interval covers the choice of test clips, not of the training seed. Its ends are symmetrical in
    ``log(x / (1 - x))``, since scores near 1 scatter to the lower side.
    """
    from scipy.special import expit, logit

    (score,), (effects,) = score_effects(score_rule, [sections])
    half = half_width(clip_components(effects**2, clips_of_cell(sections)))
    if not math.isfinite(score + half):
        return None
    score = float(min(max(score, 0.0), 1.0))
    if half == 0 or score in (0, 1):
        return Interval(score, score)
    step = half / (score * (1 - score))
    return Interval(float(expit(logit(score) - step)), float(expit(logit(score) + step)))


# -------------------------------------------------------------------------------------------- the evaluators'


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
