"""Decisions: thresholds from the scores of normal clips, and how often they are wrong.

The false-alarm rate is the share of normal clips that are decided to be anomalous. A quantile of 0.9 asks for
10 %. The scores of clips that a network was trained on are lower than those of new clips, so that the rate
comes out higher; those of held-out clips (``train.hold_out``) are not.

>>> rng = np.random.default_rng(0)
>>> scores, domain = np.r_[rng.normal(size=19), rng.normal(5, 1, size=9)], ["source"] * 19 + ["target"] * 9
>>> normals = Normals(scores, domain, held_out=True)
>>> limits = limits_of(normals, quantile=0.9, per_domain=True)
>>> {domain: round(rate, 2) for domain, rate in expected_rates(limits, normals).items()}
{'source': 0.1, 'target': 0.1}
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdray.evaluation.metrics import arithmetic_mean, decision_metrics


@dataclass(frozen=True)
class Threshold:
    """A decision threshold: clips with a score above ``value`` are decided to be anomalous.

    Attributes:
        method: ``gamma``, ``empirical`` if the fit failed, or ``held-out``: a score of a held-out clip.
        why: the reason for ``empirical``, else ``""``.
    """

    value: float
    method: Literal["gamma", "empirical", "held-out"]
    why: str = ""


def decision_threshold(train_scores: ArrayLike, quantile: float = 0.9) -> Threshold:
    """The quantile of a gamma distribution fitted to training scores.

    The fit is by maximum likelihood over shape, location and scale. It is rejected if it fails or misses
    its data: if the share of training scores below the threshold is further from ``quantile`` than 0.05 and
    two standard errors. The fallback is the quantile of the training scores.

    >>> decision_threshold(np.linspace(0, 1, 200) ** 2, 0.9).method
    'gamma'

    Args:
        train_scores: (N,) float, finite, N >= 2, of normal clips.
        quantile: in (0, 1).

    Raises:
        ValueError: fewer than two scores, non-finite scores, a quantile out of range.

    Source: the organisers' baselines of 2021-2026 (gamma fit, free location, quantile 0.9). Differences:
    since 2023 the baseline fits mean losses of batches with frames of many clips, which vary far less than
    scores of clips; here scores of clips are fitted, as in 2021 and 2022. Scores are standardised before
    the fit, since the optimiser has absolute tolerances; the gamma family is closed under shift and scale.
    """
    s = np.asarray(train_scores, dtype=np.float64)
    _check_quantile(quantile)
    if s.ndim != 1 or s.size < 2 or not np.isfinite(s).all():
        raise ValueError("a decision threshold needs at least two training scores, all finite")
    spread = float(s.std())
    if spread <= 1e-12 * float(np.abs(s).max()):  # differences are rounding errors
        return Threshold(float(np.quantile(s, quantile)), "empirical", "all training scores are equal")
    value = s.mean() + spread * _gamma_quantile((s - s.mean()) / spread, quantile)
    why = "no fit"
    if math.isfinite(value):
        below = float((s <= value).mean())
        if abs(below - quantile) <= max(0.05, 2 * math.sqrt(quantile * (1 - quantile) / s.size)):
            return Threshold(float(value), "gamma")
        why = f"{below:.3f} of the training scores lie below the fit's quantile"
    return Threshold(float(np.quantile(s, quantile)), "empirical", why)


def _check_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile of the decision threshold must be in (0, 1), not {quantile}")


def _gamma_quantile(z: np.ndarray, quantile: float) -> float:
    """The quantile of the gamma distribution fitted to ``z``, NaN if the fit fails."""
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # for trial points outside the support
        try:
            return float(stats.gamma.ppf(quantile, *stats.gamma.fit(z)))
        except stats.FitError:
            return math.nan


# ------------------------------------------------------------------------------------------ held-out clips


class Normals(NamedTuple):
    """Scores of N normal clips of a machine.

    Attributes:
        scores: (N,) float.
        domain: N of ``source`` or ``target``.
        held_out: False if the scores may be of clips that the network was trained on.
    """

    scores: NDArray[np.float64]
    domain: Sequence[str]
    held_out: bool

    def by_domain(self) -> dict[str, NDArray[np.float64]]:
        """Domain -> the scores of its clips; without domains that have none."""
        names = np.array(self.domain, dtype=object)
        return {name: self.scores[names == name] for name in ("source", "target") if (names == name).any()}


Limits = Mapping[str, Threshold]
"""Domain -> threshold of a machine's clips; ``""``: of clips of whatever domain."""


def limit(limits: Limits, domain: str | None) -> float:
    """The threshold for a clip of a domain, or of an unknown one (None)."""
    return (limits.get(domain or "") or limits[""]).value


def limits_of(normals: Normals, quantile: float, per_domain: bool) -> Limits:
    """The thresholds of a machine.

    Clips that are not held out give `decision_threshold`. Held-out clips give the lowest of their scores at
    which `expected_rates` has a mean over the domains of at most 1 - quantile: test sets have as many clips
    of both domains, whatever the training data have. If there is none, it is the highest score.

    Args:
        normals: at least two clips, or one held-out clip.
        quantile: in (0, 1).
        per_domain: True if the domain of every test clip is known: each domain with a held-out clip has a
            threshold of its own.

    Raises:
        ValueError: see `decision_threshold`.
    """
    if not normals.held_out:
        return {"": decision_threshold(normals.scores, quantile)}
    _check_quantile(quantile)
    if not np.isfinite(normals.scores).all():
        raise ValueError("a decision threshold needs finite scores of held-out clips")
    parts = normals.by_domain()
    own = {name: _lowest({name: scores}, quantile) for name, scores in parts.items()} if per_domain else {}
    return {"": _lowest(parts, quantile), **own}


def _lowest(parts: Mapping[str, NDArray[np.float64]], quantile: float) -> Threshold:
    """The lowest score with at most the rate that is asked for, see `limits_of`."""
    every = np.unique(np.concatenate(list(parts.values())))
    rates = np.mean([_rates(every, scores) for scores in parts.values()], axis=0)
    enough = np.flatnonzero(rates <= 1 - quantile + 1e-9)
    return Threshold(float(every[enough[0] if enough.size else -1]), "held-out")


def _rates(values: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected share of new clips above each of ``values``: (above + 1) / (N + 1), for N known scores."""
    above = len(scores) - np.searchsorted(np.sort(scores), values, side="right")
    return (above + 1) / (len(scores) + 1)


def expected_rates(limits: Limits, normals: Normals) -> dict[str, float]:
    """Domain -> the false-alarm rate that the scores promise, for thresholds made of these scores.

    At the k-th lowest of N exchangeable scores, a new one is higher with probability (N + 1 - k) / (N + 1).
    With few clips the rate cannot be low: with one held-out clip it is at least 1/2.
    """
    return {
        name: float(_rates(np.array([limit(limits, name)]), scores)[0])
        for name, scores in normals.by_domain().items()
    }


# ---------------------------------------------------------------------------------------------- test clips


class Measured(NamedTuple):
    """Decisions on test clips of one domain; None without normal clips, or without anomalies.

    Attributes:
        false_alarms: share of the normal clips that are decided to be anomalous.
        f1: see `asdray.evaluation.metrics.decision_metrics`.
    """

    false_alarms: float | None
    f1: float | None


def measured(
    decisions: ArrayLike, is_anomaly: Sequence[bool | None], domain: Sequence[str | None]
) -> dict[str, Measured]:
    """Domain -> how good the decisions are; empty if a label or a domain is unknown.

    Args:
        decisions: (N,) bool.
        is_anomaly, domain: of the same clips.
    """
    if None in is_anomaly or None in domain:
        return {}
    decided, y = np.asarray(decisions, dtype=np.bool_), np.array(is_anomaly, dtype=np.bool_)
    found = {}
    for name in ("source", "target"):
        own = np.array([one == name for one in domain], dtype=np.bool_)
        if own.any():
            alarms = arithmetic_mean([float(one) for one in decided[own & ~y]])
            found[name] = Measured(alarms, decision_metrics(decided[own], y[own])[2])
    return found


def mean_of(machines: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """Domain -> the mean over machines, those without a value left out."""
    found = {}
    for name in ("source", "target"):
        of = [one[name] for one in machines if name in one]
        if of:
            found[name] = Measured(*(_mean_of_known(values) for values in zip(*of, strict=True)))
    return found


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    return arithmetic_mean([value for value in values if value is not None])
