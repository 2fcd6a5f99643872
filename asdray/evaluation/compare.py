"""The difference of two systems' official scores, with its confidence interval and p value.

Compared are means over seeds of the official score, as in the leaderboard. A paired bootstrap draws the
difference A - B 2,000 times:

* **Clips** are drawn with replacement within machine x section x domain x label. Both systems and all seeds
  share each draw, so that clips that are hard for both systems cancel out. Years are drawn independently.
* **Seeds**: n - 1 of a year's n seeds are drawn with replacement, the same seeds for dev and eval. If both
  systems have the same seeds (*paired*), they also share the drawn seeds. n - 1, since the mean of n draws
  from n values has only (n - 1) / n of the right variance: half of it for two seeds.

Clips and seeds are crossed (the model of each seed scores the same clips), hence drawn independently. The
interval is the percentile interval; p is twice the share of draws on the other side of 0.

Limits: with one seed the interval covers the choice of test clips alone. Few seeds tell little about the
spread over seeds: with two seeds the draws of a system take two values. The interaction of clips and seeds is
drawn three times (by clips, by seeds, by both), so that intervals over several seeds are too wide, by a
factor of at most sqrt(3). Machines and sections are fixed: the result does not extend to other machines.

Scores are fractions; clips without labels cannot be compared.

>>> normal, anomalous = np.arange(4.0), np.arange(4.0) + 10
>>> def clips(scores):
...     labels = np.repeat([False, True], 4)
...     return [SectionScores("fan", 0, np.array(scores), labels, np.tile([False, True], 4))]
>>> good, bad = clips([*normal, *anomalous]), clips([*anomalous, *normal])
>>> row, = compare([Column("dcase2023", "dev", {0: good}, {0: bad}, paired=True)], draws=100)
>>> row.a, row.share
(1.0, 1.0)

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 (percentile interval), 15 and
16 (tests); drawing n - 1 of n: Rao and Wu 1988, JASA 83(401); independent draws of crossed factors, and their
error on the safe side: Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), and Owen and
Eckles 2012, Annals of Applied Statistics 6(3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from asdray.dcase.years import SUBSETS, ScoreRule, Subset, get_year
from asdray.evaluation import metrics
from asdray.evaluation.bootstrap import CONFIDENCE, DRAWS, SectionScores, official_draws, term_draws
from asdray.evaluation.tables import NO_VALUE, percent

if TYPE_CHECKING:
    from rich.table import Table

ALL_YEARS = "all"
"""The ``dcase`` of a mean over years."""


@dataclass(frozen=True)
class Column:
    """The scores of two systems in one year and subset.

    Attributes:
        a, b: seed -> the test clips of every section with the trial's scores. All trials have the same
            sections and clips in the same order.
        paired: True if both systems have the same seeds, and seed k of A is compared with seed k of B.
    """

    dcase: str
    subset: Subset
    a: Mapping[int, Sequence[SectionScores]]
    b: Mapping[int, Sequence[SectionScores]]
    paired: bool

    @property
    def clips(self) -> int:
        return sum(section.scores.size for section in next(iter(self.a.values())))

    @property
    def machines(self) -> int:
        return len({section.machine for section in next(iter(self.a.values()))})


@dataclass(frozen=True)
class Difference:
    """One row of a comparison: a year and subset, or all years of a subset. None where a score is missing.

    Attributes:
        a, b: mean official score over seeds (and years).
        low, high: 95 % interval of ``difference`` = a - b.
        p: two-sided p value, at least 2 / (draws + 1).
        share: share of draws with A above B; equal scores count 1/2.
        seeds_a, seeds_b: number of seeds; of several years the smallest.
    """

    dcase: str
    subset: Subset
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    share: float | None
    seeds_a: int
    seeds_b: int
    paired: bool
    machines: int
    clips: int


@dataclass(frozen=True)
class _ColumnDraws:
    """The mean official scores of both systems in one column, and in each of its draws, (draws,)."""

    a: float
    b: float
    draws_a: NDArray[np.float64]
    draws_b: NDArray[np.float64]


def compare(columns: Sequence[Column], draws: int = DRAWS, seed: int = 0) -> list[Difference]:
    """The difference A - B of every column, then of the means over years of subsets with several years.

    Args:
        seed: seed of the draws; the same seed and columns give the same digits.
    """
    drawn = [_draw(column, draws, seed) for column in columns]
    rows = [_difference(c.dcase, c.subset, [c], [d]) for c, d in zip(columns, drawn, strict=True)]
    for subset in SUBSETS:
        at = [i for i, column in enumerate(columns) if column.subset == subset]
        if len(at) > 1:
            rows.append(_difference(ALL_YEARS, subset, [columns[i] for i in at], [drawn[i] for i in at]))
    return rows


def seed_picks(n: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the seeds in each draw, in [0, n): (draws, n - 1), or (draws, 1) for a single seed."""
    return rng.integers(n, size=(draws, max(1, n - 1)))


def _draw(column: Column, draws: int, seed: int) -> _ColumnDraws:
    """The bootstrap of one column."""
    year = get_year(column.dcase)
    rng = np.random.default_rng([seed, year.year])
    picks_a = seed_picks(len(column.a), draws, rng)
    picks_b = picks_a if column.paired else seed_picks(len(column.b), draws, rng)
    # `official_draws` derives the draws of a section from its name and this seed: the same draws for all
    # trials of a year, which pairs the trials, and other draws for other years.
    of_year = 10_000 * seed + year.year
    points, means = [], []
    for trials, picks in ((column.a, picks_a), (column.b, picks_b)):
        scores = [official_draws(year.score_rule, sections, draws, of_year) for sections in trials.values()]
        means.append(np.take_along_axis(np.stack(scores), picks.T, axis=0).mean(axis=0))
        points.append(float(np.mean([_official(year.score_rule, s) for s in trials.values()])))
    return _ColumnDraws(points[0], points[1], means[0], means[1])


def _official(score_rule: ScoreRule, sections: Sequence[SectionScores]) -> float:
    """The official score of a trial, NaN if missing."""
    machines: dict[str, list[NDArray[np.float64]]] = {}
    for section in sections:
        ones = np.ones((section.scores.size, 1))
        machines.setdefault(section.machine, []).append(term_draws(score_rule, section, ones))
    return float(metrics.official_of_draws(score_rule, [np.concatenate(m) for m in machines.values()])[0])


def _difference(
    dcase: str, subset: Subset, columns: Sequence[Column], drawn: Sequence[_ColumnDraws]
) -> Difference:
    a, b = (float(np.mean([getattr(d, side) for d in drawn])) for side in "ab")
    d = np.mean([one.draws_a - one.draws_b for one in drawn], axis=0)
    known = bool(np.isfinite([a, b]).all() and np.isfinite(d).all())
    tail = (1 - CONFIDENCE) / 2
    low, high = map(float, np.quantile(d, [tail, 1 - tail])) if known else (None, None)
    other_side = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return Difference(
        dcase=dcase,
        subset=subset,
        a=a if np.isfinite(a) else None,
        b=b if np.isfinite(b) else None,
        difference=a - b if np.isfinite(a - b) else None,
        low=low,
        high=high,
        p=min(1.0, 2 * (other_side + 1) / (d.size + 1)) if known else None,
        share=float(np.mean((d > 0) + (d == 0) / 2)) if known else None,
        seeds_a=min(len(c.a) for c in columns),
        seeds_b=min(len(c.b) for c in columns),
        paired=all(c.paired for c in columns),
        machines=min(c.machines for c in columns),
        clips=sum(c.clips for c in columns),
    )


# --------------------------------------------------------------------------------------------- output


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: the rows of `compare` with everything to print beside.

    Attributes:
        systems, backends: names of A and B.
        titles: the systems for people.
        dataset: ``official`` or ``synthetic``.
        notes: sentences on left-out trials and machines, and on limits of the comparison.
    """

    systems: tuple[str, str]
    titles: tuple[str, str]
    backends: tuple[str, str]
    checkpoint: str
    dataset: str
    label_source: str
    rows: tuple[Difference, ...]
    draws: int
    seed: int
    notes: tuple[str, ...] = ()


def frame(comparison: Comparison) -> pd.DataFrame:
    """One row per `Difference`, in fractions, with systems, backends, draws and data of the comparison."""
    head: dict[str, str] = {}
    for side, system, backend in zip("ab", comparison.systems, comparison.backends, strict=True):
        head |= {f"system_{side}": system, f"backend_{side}": backend}
    head["checkpoint"] = comparison.checkpoint
    tail = {name: getattr(comparison, name) for name in ("draws", "seed", "dataset", "label_source")}
    columns = [*head, *(f.name for f in fields(Difference)), *tail]
    return pd.DataFrame([head | asdict(row) | tail for row in comparison.rows], columns=columns)


def rich_table(comparison: Comparison) -> Table:
    """The comparison for a terminal, in percent; print ``notes`` below the table."""
    from rich.table import Table

    named = zip("AB", comparison.titles, comparison.backends, strict=True)
    title = [f"{side}: {system} {backend}" for side, system, backend in named]
    title.append(f"official scores in percent, {comparison.dataset} data")
    table = Table(title="\n".join(title), title_justify="left")
    for name in ("year", "subset"):
        table.add_column(name)
    for name in ("A", "B", "A - B", f"{100 * CONFIDENCE:.0f} % interval", "p", "A > B", "seeds", "clips"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        interval = NO_VALUE if row.low is None else f"{_signed(row.low)} … {_signed(row.high)}"
        table.add_row(
            "all years" if row.dcase == ALL_YEARS else row.dcase,
            row.subset,
            percent(row.a),
            percent(row.b),
            _signed(row.difference),
            interval,
            NO_VALUE if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else f"{row.p:.1g}",
            NO_VALUE if row.share is None else f"{100 * row.share:.1f} %",
            f"{row.seeds_a} paired" if row.paired else f"{row.seeds_a} and {row.seeds_b}",
            f"{row.clips:,}",
        )
    return table


def _signed(value: float | None) -> str:
    return NO_VALUE if value is None else f"{100 * value:+.2f}"
