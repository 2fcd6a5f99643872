"""Two systems side by side: how far their official scores lie apart, and how sure that is.

What is compared is the mean over seeds of the official score, as the leaderboard shows it. Its difference
is drawn again 2,000 times by a paired bootstrap:

* **clips**: within machine x section x domain x label, with replacement; both systems and all seeds are
  scored on the same draw, so that what is hard for both cancels. Years are drawn independently.
* **seeds**: n - 1 of a year's n with replacement, for dev and eval the same; of both systems the same where
  they are paired, that is, where both have the same seeds. n - 1, because n draws from n give a mean whose
  variance is (n - 1) / n of what it should be: half of it for two seeds.

Clips and seeds are crossed (each seed's model scores the same clips), hence drawn independently of each
other. The interval is the percentile interval, p twice the share of draws on the other side of 0.

Limits: with one seed the interval covers the choice of test clips alone. A handful of seeds says little of
the spread of seeds: with two of them the draws take two values per system, and no way of drawing adds to
what two numbers know. What is neither the clip's nor the seed's but of their meeting is drawn thrice (by
clips, by seeds, by both): with several seeds intervals are somewhat too wide, at most sqrt(3) times.
Machines and sections are taken as given: nothing here speaks of other machines.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 (percentile interval), 15
and 16 (tests); drawing n - 1 of n: Rao and Wu 1988, JASA 83(401); drawing crossed factors independently:
Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), and, that this errs on the
safe side, Owen and Eckles 2012, Annals of Applied Statistics 6(3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asdray.dcase.years import SUBSETS, ScoreRule, Subset, get_year
from asdray.evaluation import metrics
from asdray.evaluation.bootstrap import CONFIDENCE, DRAWS, SectionScores, official_draws, term_draws

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

ALL_YEARS = "all"
"""In ``dcase``: the mean over the years."""


@dataclass(frozen=True)
class Column:
    """What two systems did in one year and subset.

    Attributes:
        a, b: seed -> the test clips of every section with the scores of that trial. Sections, and the
            clips of a section, are the same and in the same order in all of them.
        paired: both have the same seeds, and seed k of one stands beside seed k of the other.
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
    """One row: a year and subset, or all years of a subset. Fractions; None where a score has no value.

    Attributes:
        a, b: mean over seeds (and years).
        low, high: 95 % interval of ``difference`` = a - b.
        p: two-sided; at least 2 / (draws + 1).
        share: of the draws in which A is above B, draws with equal scores counted 1/2.
        seeds_a, seeds_b: how many; of all years the fewest.
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
class _Drawn:
    """Of one column: (scores of A, scores of B) as they are, and in every draw, both (draws,)."""

    a: float
    b: float
    draws_a: NDArray[np.float64]
    draws_b: NDArray[np.float64]


def compare(columns: Sequence[Column], draws: int = DRAWS, seed: int = 0) -> list[Difference]:
    """The difference A - B per column, then per subset the mean over years where there are several.

    Args:
        seed: of the draws. The same seed and columns give the same digits.
    """
    drawn = [_draw(column, draws, seed) for column in columns]
    rows = [_difference(c.dcase, c.subset, [c], [d]) for c, d in zip(columns, drawn, strict=True)]
    for subset in SUBSETS:
        at = [i for i, column in enumerate(columns) if column.subset == subset]
        if len(at) > 1:
            rows.append(_difference(ALL_YEARS, subset, [columns[i] for i in at], [drawn[i] for i in at]))
    return rows


def seed_picks(n: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of n seeds each draw takes: (draws, n - 1) of [0, n), or (draws, 1) for a single seed."""
    return rng.integers(n, size=(draws, max(1, n - 1)))


def _draw(column: Column, draws: int, seed: int) -> _Drawn:
    """The bootstrap of one column; see the module."""
    year = get_year(column.dcase)
    rng = np.random.default_rng([seed, year.year])
    picks_a = seed_picks(len(column.a), draws, rng)
    picks_b = picks_a if column.paired else seed_picks(len(column.b), draws, rng)
    # `official_draws` makes the draws of a section from its name and this number: equal for all trials of a
    # year, which pairs them, and different from year to year.
    of_year = 10_000 * seed + year.year
    means = []
    for trials, picks in ((column.a, picks_a), (column.b, picks_b)):
        scores = [official_draws(year.score_rule, sections, draws, of_year) for sections in trials.values()]
        means.append(np.take_along_axis(np.stack(scores), picks.T, axis=0).mean(axis=0))
    points = [
        np.mean([_official(year.score_rule, sections) for sections in trials.values()])
        for trials in (column.a, column.b)
    ]
    return _Drawn(float(points[0]), float(points[1]), means[0], means[1])


def _official(score_rule: ScoreRule, sections: Sequence[SectionScores]) -> float:
    """The official score of a trial; NaN where it has none."""
    machines: dict[str, list[NDArray[np.float64]]] = {}
    for section in sections:
        ones = np.ones((section.scores.size, 1))
        machines.setdefault(section.machine, []).append(term_draws(score_rule, section, ones))
    return float(metrics.official_of_draws(score_rule, [np.concatenate(m) for m in machines.values()])[0])


def _difference(dcase: str, subset: Subset, columns: Sequence[Column], drawn: Sequence[_Drawn]) -> Difference:
    a, b = (float(np.mean([getattr(d, side) for d in drawn])) for side in "ab")
    d = np.mean([one.draws_a - one.draws_b for one in drawn], axis=0)
    known = bool(np.isfinite([a, b]).all() and np.isfinite(d).all())
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(d, [tail, 1 - tail]) if known else (None, None)
    other_side = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return Difference(
        dcase=dcase,
        subset=subset,
        a=a if np.isfinite(a) else None,
        b=b if np.isfinite(b) else None,
        difference=a - b if np.isfinite(a - b) else None,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        p=min(1.0, 2 * (other_side + 1) / (d.size + 1)) if known else None,
        share=float(np.mean((d > 0) + (d == 0) / 2)) if known else None,
        seeds_a=min(len(c.a) for c in columns),
        seeds_b=min(len(c.b) for c in columns),
        paired=all(c.paired for c in columns),
        machines=min(c.machines for c in columns),
        clips=sum(c.clips for c in columns),
    )


# ------------------------------------------------------------------------------------------- showing it


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: `compare`'s rows, and what must be said beside them.

    Attributes:
        systems, backends: of A and of B, readable.
        dataset: ``official`` or ``synthetic``.
        notes: one sentence each.
    """

    systems: tuple[str, str]
    backends: tuple[str, str]
    checkpoint: str
    dataset: str
    label_source: str
    rows: tuple[Difference, ...]
    draws: int
    seed: int
    notes: tuple[str, ...] = ()


def frame(comparison: Comparison) -> pd.DataFrame:
    """One row per `Difference`, fractions, with everything that says what was compared."""
    import pandas as pd

    head = {
        "system_a": comparison.systems[0],
        "backend_a": comparison.backends[0],
        "system_b": comparison.systems[1],
        "backend_b": comparison.backends[1],
        "checkpoint": comparison.checkpoint,
    }
    tail = {
        "draws": comparison.draws,
        "seed": comparison.seed,
        "dataset": comparison.dataset,
        "label_source": comparison.label_source,
    }
    columns = [*head, *(f.name for f in fields(Difference)), *tail]
    return pd.DataFrame([head | asdict(row) | tail for row in comparison.rows], columns=columns)


def rich_table(comparison: Comparison) -> Table:
    """For a terminal, scores in percent; print ``notes`` beside it."""
    from rich.table import Table

    named = zip("AB", comparison.systems, comparison.backends, strict=True)
    title = [f"{side}: {system} {backend}" for side, system, backend in named]
    title.append(f"official scores in percent, {comparison.dataset} data")
    table = Table(title="\n".join(title), title_justify="left")
    for name in ("year", "subset"):
        table.add_column(name)
    for name in ("A", "B", "A - B", f"{100 * CONFIDENCE:.0f} % interval", "p", "A > B", "seeds", "clips"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        interval = "–" if row.low is None or row.high is None else f"{_signed(row.low)} … {_signed(row.high)}"
        table.add_row(
            "all years" if row.dcase == ALL_YEARS else row.dcase,
            row.subset,
            _percent(row.a),
            _percent(row.b),
            _signed(row.difference),
            interval,
            "–" if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else f"{row.p:.1g}",
            "–" if row.share is None else f"{100 * row.share:.1f} %",
            f"{row.seeds_a} paired" if row.paired else f"{row.seeds_a} and {row.seeds_b}",
            f"{row.clips:,}",
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"
