"""AUC, partial AUC, means and the official score of every year, as pure functions.

Anomaly scores are higher for more anomalous clips; labels are booleans, True for an anomaly. Metrics are
fractions in [0, 1]. A metric without a value (no clips of a class, an unknown label) is None, and so is every
mean over it. All means of asdray are computed here.

>>> auc([0.1, 0.4, 0.4, 0.9], [False, False, True, True])
0.875
>>> pauc([0.1, 0.4, 0.4, 0.9], [False, False, True, True]) > 0.5
True
>>> harmonic_mean([0.5, 1.0])
0.6666666666666666

``N_d`` are the normal clips of domain d, ``A_d`` the anomalous clips, ``A = A_source + A_target``:

=========== ============= ============= ==================================
name        negatives     positives     used by
=========== ============= ============= ==================================
s_auc       N_source      A_source      2020 (all clips are source), 2021
t_auc       N_target      A_target      2021
s_pauc      N_source      A_source      2020, 2021
t_pauc      N_target      A_target      2021
smix_auc    N_source      A             2022 and later, "AUC (source)"
tmix_auc    N_target      A             2022 and later, "AUC (target)"
mix_auc     N             A             reported only, "AUC (all)"
mix_pauc    N             A             2022 and later, "pAUC"
=========== ============= ============= ==================================

Source: the organisers' task descriptions and evaluators of 2020-2024. Difference: a class without clips is an
error of the evaluators; here the metric is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdray.dcase.years import ScoreRule, Subset, Year
from asdray.evaluation import METRICS as METRICS

EPS = 2.220446049250313e-16
"""Floor of the terms of a harmonic mean, as in the official evaluators, for an AUC of 0."""

MAX_FPR = 0.1
"""The false positive rate p up to which the partial AUC reaches, in all years."""

ALL_SECTIONS = -1
"""The ``section`` of a value over all sections of a subset."""

OFFICIAL_TERMS: Mapping[ScoreRule, tuple[str, ...]] = {
    "machine_mean": ("s_auc", "s_pauc"),
    "own_domain": ("s_auc", "t_auc", "s_pauc", "t_pauc"),
    "both_domains": ("smix_auc", "tmix_auc", "mix_pauc"),
}
"""The metrics of a section that enter the official score."""


def _checked(scores: ArrayLike, is_anomaly: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(is_anomaly)
    if y.dtype != np.bool_ and y.size:
        raise ValueError(f"labels must be booleans, not {y.dtype}")
    if s.ndim != 1 or s.shape != y.shape:
        raise ValueError(f"scores and labels must be two vectors of one length, not {s.shape} and {y.shape}")
    bad = np.flatnonzero(~np.isfinite(s))
    if bad.size:
        raise ValueError(
            f"anomaly scores must be finite: {bad.size} of {s.size} are not, the first is {s[bad[0]]} at "
            f"position {bad[0]}; look at the backend and at the training that made them"
        )
    return s, y.astype(np.bool_)


def _cumulative(s: NDArray[np.float64], y: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """False and true positives at every distinct threshold, highest first, from (0, 0): the ROC in counts."""
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    last = np.append(s[1:] != s[:-1], True)
    true = np.cumsum(y, dtype=np.int64)[last]
    false = np.cumsum(~y, dtype=np.int64)[last]
    return np.concatenate(([0], false)), np.concatenate(([0], true))


def auc(scores: ArrayLike, is_anomaly: ArrayLike) -> float | None:
    """Area under the ROC: probability that an anomaly scores higher than a normal clip, ties counted 1/2.

    The computation uses integers: exact up to one division, and independent of the order of clips.

    Args:
        scores: (N,) float, finite.
        is_anomaly: (N,) bool.

    Returns:
        In [0, 1]; None without anomalies or without normal clips.

    Raises:
        ValueError: non-finite scores, different shapes, or labels other than booleans.

    Source: Mann and Whitney 1947, U / (n1 n2).
    """
    s, y = _checked(scores, is_anomaly)
    n_anomaly = int(y.sum())
    n_normal = y.size - n_anomaly
    if not n_anomaly or not n_normal:
        return None
    false, true = _cumulative(s, y)
    twice_u = np.sum((true[1:] + true[:-1]) * np.diff(false))
    return int(twice_u) / (2 * n_anomaly * n_normal)


def pauc(scores: ArrayLike, is_anomaly: ArrayLike, max_fpr: float = MAX_FPR) -> float | None:
    """Area under the ROC for false positive rates in [0, p], rescaled so that chance is 0.5 and perfect 1.

    ``0.5 (1 + (A_p - p^2/2) / (p - p^2/2))`` with A_p the area up to p, the ROC interpolated linearly at p.
    The worst value for p = 0.1 is 9/19.

    Args:
        scores: (N,) float, finite.
        is_anomaly: (N,) bool.
        max_fpr: p, in (0, 1]; with p = 1 the result is the AUC.

    Returns:
        None without anomalies or without normal clips.

    Raises:
        ValueError: see `auc`; ``max_fpr`` out of range.

    Source: McClish 1989; equal to scikit-learn's ``roc_auc_score(max_fpr=p)``.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], not {max_fpr}")
    s, y = _checked(scores, is_anomaly)
    n_anomaly = int(y.sum())
    n_normal = y.size - n_anomaly
    if not n_anomaly or not n_normal:
        return None
    false, true = _cumulative(s, y)
    fpr, tpr = false / n_normal, true / n_anomaly
    at_p = np.interp(max_fpr, fpr, tpr)
    inside = fpr <= max_fpr
    x, height = np.append(fpr[inside], max_fpr), np.append(tpr[inside], at_p)
    area = float(np.trapezoid(height, x))
    lowest = max_fpr**2 / 2
    return 0.5 * (1 + (area - lowest) / (max_fpr - lowest))


def resampled_areas(
    scores: ArrayLike, is_anomaly: ArrayLike, weights: ArrayLike, max_fpr: float = MAX_FPR
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`auc` and `pauc` of D resamples from one sort; resample d contains clip n ``weights[n, d]`` times.

    Args:
        scores: (N,) float, finite.
        is_anomaly: (N,) bool.
        weights: (N, D) whole numbers >= 0.

    Returns:
        AUC and pAUC, each (D,) float64, NaN for resamples without anomalies or without normal clips.

    Raises:
        ValueError: see `auc`.
    """
    s, y = _checked(scores, is_anomaly)
    w = np.asarray(weights, dtype=np.float64)
    assert w.shape == (s.size, w.shape[-1]), "one weight per clip and sample"
    if not s.size:
        return np.full(w.shape[1], np.nan), np.full(w.shape[1], np.nan)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], y[order], w[order]
    first = np.flatnonzero(np.append(True, s[1:] != s[:-1]))  # start of each group of equal scores
    d_true = np.add.reduceat(w * y[:, None], first)
    d_false = np.add.reduceat(w * ~y[:, None], first)
    n_anomaly, n_normal = d_true.sum(axis=0), d_false.sum(axis=0)
    true = np.cumsum(d_true, axis=0) - d_true  # counts before each group
    false = np.cumsum(d_false, axis=0) - d_false
    pairs = n_anomaly * n_normal
    pairs[pairs == 0] = np.nan
    area = ((true + d_true / 2) * d_false).sum(axis=0) / pairs
    # The ROC is a straight line within a group: the part below p counts, in normal clips.
    inside = np.clip(max_fpr * n_normal - false, 0, d_false)
    rise = d_true * inside / (2 * np.maximum(d_false, 1))
    partial = ((true + rise) * inside).sum(axis=0) / pairs
    lowest = max_fpr**2 / 2
    return area, 0.5 * (1 + (partial - lowest) / (max_fpr - lowest))


def area_effects(
    scores: ArrayLike, is_anomaly: ArrayLike, max_fpr: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`pauc` (`auc` with p = 1) of K systems and the effects of clips: its derivatives by the clips' weights.

    The weights of all anomalies, and of all normal clips, have fixed sums: effects count up to a constant per
    label. An anomaly with the share u of normal clips above it has the area ``max(p - u, 0)``, whose mean is
    the area below the ROC; a normal clip lowers the area of the anomalies below it.

    Args:
        scores: (K, N) float, finite.
        is_anomaly: (N,) bool, of the same clips.

    Returns:
        The areas, (K,), and the effects, (K, N); NaN without anomalies or without normal clips.

    Source: DeLong et al. 1988, Biometrics 44(3), whose placement values these are for p = 1.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(is_anomaly)
    for row in s:
        _checked(row, y)
    n_anomaly, n_normal = np.sum(y), np.sum(~y)
    if not n_anomaly or not n_normal:
        return np.full(len(s), np.nan), np.full(s.shape, np.nan)
    order = np.argsort(-s, axis=1, kind="stable")
    rows = np.arange(len(s))[:, None]
    s, y = s[rows, order], y[order]
    first, end = _ties(s)
    normal, anomalous = _sums(~y), _sums(y)
    above = normal[rows, first] / n_normal
    width = (normal[rows, end] - normal[rows, first]) / n_normal
    # The share of a group's normal clips that lies below p; within a group the ROC is a straight line.
    inside = np.where(width > 0, np.clip((max_fpr - above) / np.maximum(width, EPS), 0, 1), above < max_fpr)
    areas = inside * (max_fpr - above) - inside**2 * width / 2
    below = _sums(y * inside)
    losses = below[:, -1:] - below[rows, end]
    losses += (anomalous[rows, end] - anomalous[rows, first]) * inside**2 / 2
    lowest = max_fpr**2 / 2
    scale = 0.5 / (max_fpr - lowest)
    effects = np.empty(s.shape)
    effects[rows, order] = scale * np.where(y, areas / n_anomaly, -losses / (n_anomaly * n_normal))
    return 0.5 + scale * ((y * areas).sum(axis=1) / n_anomaly - lowest), effects


def _sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """The sums of the values before every place of (K, N) rows, and of all, (K, N + 1)."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _ties(s: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first place of the group of equal values of every place in sorted rows, and the place after it."""
    places, new = np.arange(s.shape[1]), np.ones((s.shape[0], s.shape[1] + 1), dtype=bool)
    np.not_equal(s[:, 1:], s[:, :-1], out=new[:, 1:-1])
    first = np.maximum.accumulate(np.where(new[:, :-1], places, 0), axis=1)
    ends = np.where(new[:, 1:], places + 1, s.shape[1])
    return first, np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]


def decision_metrics(
    decisions: ArrayLike, is_anomaly: ArrayLike
) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 score of decisions; all None without anomalies.

    ``TP / max(TP + FP, eps)``, ``TP / max(TP + FN, eps)`` and ``2 P R / max(P + R, eps)``: all 0 if no clip
    is decided to be anomalous.

    Args:
        decisions: (N,) bool, True for the decision "anomaly".
        is_anomaly: (N,) bool.

    Source: the official evaluators of 2021-2024, and the totals in the READMEs of 2025's and 2026's.
    """
    decided, y = np.asarray(decisions, dtype=np.bool_), np.asarray(is_anomaly, dtype=np.bool_)
    assert decided.shape == y.shape, "one decision per clip"
    if not y.any():
        return None, None, None
    hit = int((decided & y).sum())
    precision = hit / max(int(decided.sum()), EPS)
    recall = hit / max(int(y.sum()), EPS)
    return precision, recall, 2 * precision * recall / max(precision + recall, EPS)


def _complete(values: Sequence[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None]
    return known if known and len(known) == len(values) else None


def arithmetic_mean(values: Sequence[float | None]) -> float | None:
    """The mean, None for no values or if any value is None; independent of the order of values."""
    known = _complete(values)
    return None if known is None else math.fsum(known) / len(known)


def harmonic_mean(values: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    """``sum w / sum (w / max(v, EPS))``, None for no values or if any value is None.

    Args:
        weights: positive, one per value; default 1.
    """
    known = _complete(values)
    if known is None:
        return None
    w = [1.0] * len(known) if weights is None else list(weights)
    assert len(w) == len(known), "one weight per value"
    return math.fsum(w) / math.fsum(a / max(v, EPS) for a, v in zip(w, known, strict=True))


MEAN_FUNCTIONS = {"arithmetic": arithmetic_mean, "harmonic": harmonic_mean}


def sample_std(values: Sequence[float | None]) -> float | None:
    """Standard deviation with ddof 1, None for fewer than two values or if any value is None."""
    known = _complete(values)
    if known is None or len(known) < 2:
        return None
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1))


def section_metrics(
    scores: ArrayLike, is_anomaly: Sequence[bool | None], domain: Sequence[str | None]
) -> dict[str, float | None]:
    """All `METRICS` of the test clips of one (machine, section).

    Args:
        scores: (N,) float, finite.
        is_anomaly: N labels, None if unknown. A single unknown label makes all metrics None, since an AUC
            over the labelled clips would be another number.
        domain: N of ``source``, ``target`` or None. A single unknown domain makes metrics per domain None.

    Raises:
        ValueError: see `auc`; another name of a domain.
    """
    s = np.asarray(scores, dtype=np.float64)
    if not len(s) == len(is_anomaly) == len(domain):
        raise ValueError(f"{len(s)} scores, {len(is_anomaly)} labels and {len(domain)} domains do not match")
    if unknown := set(domain) - {"source", "target", None}:
        raise ValueError(f"a domain is 'source', 'target' or None, not {unknown.pop()!r}")
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    if any(label is None for label in is_anomaly):
        return values
    y = np.array(is_anomaly, dtype=bool)
    values["mix_auc"] = auc(s, y)
    values["mix_pauc"] = pauc(s, y)
    if any(d is None for d in domain):
        return values
    for initial, name in (("s", "source"), ("t", "target")):
        own = np.array([d == name for d in domain], dtype=bool)
        mixed = own | y
        values[f"{initial}_auc"] = auc(s[own], y[own])
        values[f"{initial}_pauc"] = pauc(s[own], y[own])
        values[f"{initial}mix_auc"] = auc(s[mixed], y[mixed])
    return values


def official(score_rule: ScoreRule, sections: Sequence[Mapping[str, float | None]]) -> float | None:
    """The official score of one machine: the `section_mean` of the rule's terms over its sections.

    Args:
        sections: `section_metrics` of every section.
    """
    terms = [section[name] for section in sections for name in OFFICIAL_TERMS[score_rule]]
    return section_mean(score_rule, terms)


def section_mean(score_rule: ScoreRule, values: Sequence[float | None]) -> float | None:
    """The mean over sections: arithmetic in 2020, harmonic since 2021; None if any value is None."""
    return arithmetic_mean(values) if score_rule == "machine_mean" else harmonic_mean(values)


def official_total(
    score_rule: ScoreRule, machine_values: Sequence[float | None], n_sections: Sequence[int]
) -> float | None:
    """The official score of a year from the `official` scores of its machines; None if any score is None.

    2020: the arithmetic mean over machines. Since 2021: the harmonic mean of all terms of all machines. It
    equals the harmonic mean of the machines' harmonic means, weighted by their number of sections.

    Args:
        machine_values: one per machine.
        n_sections: number of sections per machine.
    """
    if score_rule == "machine_mean":
        return arithmetic_mean(machine_values)
    return harmonic_mean(machine_values, weights=list(n_sections))


# ------------------------------------------------------------------------------------------- one machine


class MetricRow(NamedTuple):
    """One row of ``test_evaluate.csv``, before ``dataset``; ``value`` in [0, 1] or None."""

    subset: str
    section: int
    backend: str
    metric: str
    value: float | None


def evaluate_machine(
    year: Year,
    machine: str,
    scores: Mapping[str, ArrayLike],
    *,
    subset: Sequence[str],
    section: Sequence[int],
    domain: Sequence[str | None],
    is_anomaly: Sequence[bool | None],
) -> list[MetricRow]:
    """The evaluation rows of one machine's test clips.

    Section `ALL_SECTIONS` has ``official`` and the `section_mean` of each metric: None unless the clips cover
    all sections that the year has for the machine and subset.

    Args:
        scores: backend id -> (N,) float, finite.
        subset, section, domain, is_anomaly: of the same N clips; domain and label None if unknown.

    Returns:
        Rows in the order subset, backend, section, metric. A subset without clips has no rows.

    Raises:
        ValueError: non-finite scores, or a section that the year does not have.
    """
    rows: list[MetricRow] = []
    subsets, numbers = np.asarray(subset), np.asarray(section)
    for sub in year.subsets_of(machine):
        clips = _clips_by_section(year, machine, sub, numbers, subsets == sub)
        complete = len(clips) == len(year.sections[sub][machine])
        for backend, values in scores.items() if clips else ():
            v = np.asarray(values, dtype=np.float64)
            assert v.shape == numbers.shape, "one score per clip"
            found = {
                n: section_metrics(v[at], [is_anomaly[i] for i in at], [domain[i] for i in at])
                for n, at in clips.items()
            }
            means: dict[str, float | None] = dict.fromkeys((*METRICS, "official"))
            if complete:
                means = _over_sections(year.score_rule, list(found.values()))
            for n, named in {**found, ALL_SECTIONS: means}.items():
                rows += [MetricRow(sub, n, backend, name, value) for name, value in named.items()]
    return rows


def _clips_by_section(
    year: Year, machine: str, subset: Subset, section: NDArray[np.int64], here: NDArray[np.bool_]
) -> dict[int, list[int]]:
    """Section -> the positions of its clips among those ``here``; ValueError for a section out of place."""
    clips = {int(n): np.flatnonzero(here & (section == n)).tolist() for n in np.unique(section[here])}
    expected = list(year.sections[subset][machine])
    if foreign := set(clips) - set(expected):
        raise ValueError(
            f"{year.name} {subset} {machine} has no section {foreign.pop()} (it has: {expected})"
        )
    return clips


def _over_sections(
    score_rule: ScoreRule, sections: Sequence[Mapping[str, float | None]]
) -> dict[str, float | None]:
    """The `section_mean` of each metric, and the ``official`` score."""
    means = {name: section_mean(score_rule, [s[name] for s in sections]) for name in METRICS}
    return {**means, "official": official(score_rule, sections)}
