"""The evaluation rows of one machine: every metric per section, and the machine's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from asdray.dcase.years import Year
from asdray.evaluation import metrics

ALL_SECTIONS = -1
"""In column ``section``: the value of all sections of the subset together."""


class Row(NamedTuple):
    """One line of ``test_evaluate.csv``, which adds the kind of data. ``value``: in [0, 1] or None."""

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
) -> list[Row]:
    """Evaluates the test clips of one machine.

    Per (subset, section, backend) all of `metrics.METRICS`. Then per (subset, backend), as section -1:
    ``official``, and each metric's mean over sections (arithmetic in 2020, harmonic since). These are
    None unless every section that the year has for this machine and subset is there: a mean over fewer
    would stand beside others as if it were the same number.

    Args:
        scores: backend id -> (N,) float, finite.
        subset, section, domain, is_anomaly: of the same N clips; None where unknown.

    Returns:
        Rows in the order subset, backend, section, metric. A subset without clips has no rows.

    Raises:
        ValueError: scores that are not finite, or a section that the year does not have.
    """
    rows: list[Row] = []
    subsets, numbers = np.asarray(subset), np.asarray(section)
    for sub in year.subsets_of(machine):
        here = sorted({int(n) for n in numbers[subsets == sub]})
        expected = list(year.sections[sub][machine])
        if foreign := set(here) - set(expected):
            raise ValueError(
                f"{year.name} {sub} {machine} has no section {foreign.pop()} (it has: {expected})"
            )
        if not here:
            continue
        complete = here == sorted(expected)
        for backend, values in scores.items():
            v = np.asarray(values, dtype=np.float64)
            assert v.shape == numbers.shape, "one score per clip"
            sections = []
            for number in here:
                at = np.flatnonzero((subsets == sub) & (numbers == number))
                found = metrics.section_metrics(
                    v[at], [is_anomaly[int(i)] for i in at], [domain[int(i)] for i in at]
                )
                rows += [Row(sub, number, backend, name, found[name]) for name in metrics.METRICS]
                sections.append(found)
            means = {
                name: metrics.section_mean(year.score_rule, [s[name] for s in sections]) if complete else None
                for name in metrics.METRICS
            }
            means["official"] = metrics.official(year.score_rule, sections) if complete else None
            rows += [Row(sub, ALL_SECTIONS, backend, name, value) for name, value in means.items()]
    return rows
