"""The difference of two systems' official scores, with its confidence interval and p value.

Compared are means over seeds of the official score, as in the leaderboard. The variance of the difference
A - B is a sum of two parts, see `asdray.evaluation.interval`:

* **Clips**: the mean covariance between trainings with different seeds, over the choice of test clips within
  machine x section x domain x label. Both systems score the same clips, so that clips that are hard for both
  cancel out. With one seed, the variance of this training.
* **Seeds**: ``S^2 / n`` of n seeds, with n - 1 degrees of freedom; what is chance of one training on one clip
  is in S. If both systems have the same seeds (*paired*), S is the standard deviation of the differences,
  else the parts of A and B are added with the degrees of freedom of Welch and Satterthwaite.

Over all years, the parts of the years are added. The p value agrees with the interval: p <= 0.05 if and only
if 0 is outside. ``benchmarks/intervals.py`` simulates how often equal systems have p <= 0.05.

Limits: with one seed the interval covers the choice of test clips alone. Few seeds tell little: with two
paired seeds the interval takes 12.7 standard errors of the seeds' part. Machines and sections are fixed: the
result does not extend to other machines.

Scores are fractions; clips without labels cannot be compared.

>>> labels, target = np.repeat([False, True], 4), np.tile([False, True], 4)
>>> def clips(scores):
...     return [SectionScores("fan", 0, np.array(scores), labels, target)]
>>> good, bad = clips([0, 1, 4, 2, 3, 5, 6, 7]), clips([7, 1, 4, 2, 3, 0, 6, 5])
>>> row, = compare([Column("dcase2023", "dev", {0: good}, {0: bad}, paired=True)])
>>> row.low < row.difference < row.high
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation.interval import (
    CONFIDENCE,
    SectionScores,
    clip_components,
    clips_of_cell,
    half_width,
    joined,
    p_value,
    score_effects,
)
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
        low, high: 95 % interval of ``difference`` = a - b; None also if a cell has a single clip.
        p: two-sided p value, at least `interval.LEAST_P`; None without an interval.
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
    seeds_a: int
    seeds_b: int
    paired: bool
    machines: int
    clips: int


@dataclass(frozen=True)
class _Parts:
    """The mean official scores of both systems in one column, and the parts of their difference's variance.

    Attributes:
        clips: (N,) the part of every clip.
        counts: (N,) the number of clips in each clip's cell.
        seeds: (degrees of freedom, variance) of every system with several seeds, of pairs together.
    """

    a: float
    b: float
    clips: NDArray[np.float64]
    counts: NDArray[np.int64]
    seeds: tuple[tuple[float, float], ...]


def compare(columns: Sequence[Column]) -> list[Difference]:
    """The difference A - B of every column, then of the means over years of subsets with several years."""
    parts = [_parts(column) for column in columns]
    rows = [_difference(c.dcase, c.subset, [c], [own]) for c, own in zip(columns, parts, strict=True)]
    for subset in SUBSETS:
        at = [i for i, column in enumerate(columns) if column.subset == subset]
        if len(at) > 1:
            rows.append(_difference(ALL_YEARS, subset, [columns[i] for i in at], [parts[i] for i in at]))
    return rows


def _parts(column: Column) -> _Parts:
    rule = get_year(column.dcase).score_rule
    scores, effects = (
        np.split(found, [len(column.a)])
        for found in score_effects(rule, [*column.a.values(), *column.b.values()])
    )
    if column.paired:
        clips = _between_seeds(effects[0] - effects[1])
        seeds = _seeds(scores[0] - scores[1])
    else:
        shared = effects[0].mean(axis=0) * effects[1].mean(axis=0)
        clips = _between_seeds(effects[0]) + _between_seeds(effects[1]) - 2 * shared
        seeds = (*_seeds(scores[0]), *_seeds(scores[1]))
    counts = clips_of_cell(next(iter(column.a.values())))
    return _Parts(float(scores[0].mean()), float(scores[1].mean()), clips, counts, seeds)


def _between_seeds(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of every clip in the mean covariance of two seeds, (N,); of one seed in its variance.

    Args:
        effects: (seeds, N).
    """
    n = len(effects)
    own = (effects**2).sum(axis=0)
    return own if n == 1 else (effects.sum(axis=0) ** 2 - own) / (n * (n - 1))


def _seeds(scores: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """The degrees of freedom and the variance of the mean of scores, unless there is one score only."""
    n = len(scores)
    return ((n - 1, float(scores.var(ddof=1)) / n),) if n > 1 else ()


def _difference(dcase: str, subset: Subset, columns: Sequence[Column], parts: Sequence[_Parts]) -> Difference:
    a, b = (float(np.mean([getattr(own, side) for own in parts])) for side in "ab")
    low = high = p = None
    if np.isfinite(a - b):
        clips = np.concatenate([own.clips for own in parts]) / len(parts) ** 2
        seeds = [(freedom, v / len(parts) ** 2) for own in parts for freedom, v in own.seeds]
        components = [
            *clip_components(clips, np.concatenate([own.counts for own in parts])),
            *joined(seeds),
        ]
        half = half_width(components)
        if np.isfinite(half):
            low, high, p = a - b - half, a - b + half, p_value(a - b, components)
    return Difference(
        dcase=dcase,
        subset=subset,
        a=a if np.isfinite(a) else None,
        b=b if np.isfinite(b) else None,
        difference=a - b if np.isfinite(a - b) else None,
        low=low,
        high=high,
        p=p,
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
    notes: tuple[str, ...] = ()


def frame(comparison: Comparison) -> pd.DataFrame:
    """One row per `Difference`, in fractions, with systems, backends and data of the comparison."""
    head: dict[str, str] = {}
    for side, system, backend in zip("ab", comparison.systems, comparison.backends, strict=True):
        head |= {f"system_{side}": system, f"backend_{side}": backend}
    head["checkpoint"] = comparison.checkpoint
    tail = {name: getattr(comparison, name) for name in ("dataset", "label_source")}
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
    for name in ("A", "B", "A - B", f"{100 * CONFIDENCE:.0f} % interval", "p", "seeds", "clips"):
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
            f"{row.seeds_a} paired" if row.paired else f"{row.seeds_a} and {row.seeds_b}",
            f"{row.clips:,}",
        )
    return table


def _signed(value: float | None) -> str:
    return NO_VALUE if value is None else f"{100 * value:+.2f}"
