"""The decision threshold of a machine from the anomaly scores of its training clips."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Threshold:
    """A clip is called anomalous if its score is above ``value``.

    Attributes:
        method: ``gamma``, or ``empirical`` where the fit was of no use.
        why: why it was of none; ``""`` for ``gamma``.
    """

    value: float
    method: Literal["gamma", "empirical"]
    why: str = ""


def threshold(train_scores: ArrayLike, quantile: float = 0.9) -> Threshold:
    """The quantile of a gamma distribution fitted to training scores.

    Maximum likelihood over shape, location and scale. The fit is of no use where it fails, or where it
    misses its own data: the part of the training scores below the threshold is further from ``quantile``
    than 0.05 and two standard errors. Then the quantile of the training scores themselves stands in.

    Args:
        train_scores: (N,) float, finite, N >= 2, of normal clips, as if each were new.
        quantile: in (0, 1).

    Raises:
        ValueError: fewer than two scores, one that is not finite, a quantile out of range.

    Source: the organisers' baselines of 2021-2026 (gamma fit, free location, quantile 0.9). Differences:
    theirs since 2023 fits the mean losses of batches that mix frames of many clips, which vary far less
    than the clips' scores that it is applied to; here the scores of clips are fitted, as in 2021 and 2022.
    Scores are standardised before the fit, since the optimiser's tolerances are absolute; the family is
    closed under shift and scale, so that this changes nothing else.
    """
    s = np.asarray(train_scores, dtype=np.float64)
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile of the decision threshold must be in (0, 1), not {quantile}")
    if s.ndim != 1 or s.size < 2 or not np.isfinite(s).all():
        raise ValueError("a decision threshold needs at least two training scores, all finite")
    spread = float(s.std())
    if spread <= 1e-12 * float(np.abs(s).max()):  # nothing but rounding is left to fit
        return Threshold(float(np.quantile(s, quantile)), "empirical", "all training scores are equal")
    value = s.mean() + spread * _gamma_quantile((s - s.mean()) / spread, quantile)
    below = float((s <= value).mean())
    tolerance = max(0.05, 2 * math.sqrt(quantile * (1 - quantile) / s.size))
    if math.isfinite(value) and abs(below - quantile) <= tolerance:
        return Threshold(float(value), "gamma")
    why = (
        f"{below:.3f} of the training scores lie below the fit's quantile"
        if math.isfinite(value)
        else "no fit"
    )
    return Threshold(float(np.quantile(s, quantile)), "empirical", why)


def _gamma_quantile(z: np.ndarray, quantile: float) -> float:
    """NaN where the fit fails."""
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of trial points outside the support
        try:
            return float(stats.gamma.ppf(quantile, *stats.gamma.fit(z)))
        except stats.FitError:
            return math.nan
