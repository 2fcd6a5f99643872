"""How often do intervals and p values err? Simulated scores with a known truth, as Markdown tables.

    python benchmarks/intervals.py            # a few minutes on one core
    python benchmarks/intervals.py --tiny     # a smoke test, in seconds

* `seeds_alone`: two systems of equal expected score, whose seeds scatter; no clips. Rate of p <= 0.05.
* `whole`: the same with scores of clips, by `asdray.evaluation.compare.compare`.
* `power`: systems that differ by two points, one seed each.
* `coverage`: how often the interval of `asdray official` has the score of endless test clips inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from asdray.evaluation import compare, metrics
from asdray.evaluation.compare import Column
from asdray.evaluation.interval import SectionScores, half_width, joined, official_interval

SEEDS = (2, 3, 4, 5, 8)
SEEDS_OF_WHOLE = (2, 3, 4, 8)
MACHINES = tuple("abcdefg")
SPREAD = 0.022
"""The standard deviation of the official score over seeds in `whole`: the spread of published systems."""

HARD, OWN, CHANCE = 1.0, 0.5, 0.7
"""Standard deviations of a clip's score: shared by all trainings, by those of a system, of one training."""


# -------------------------------------------------------------------------------------------- seeds alone


@dataclass(frozen=True)
class Design:
    """The seeds of A and B in some years: standard deviations per year, and numbers of seeds."""

    name: str
    a: tuple[float, ...]
    b: tuple[float, ...] = ()
    seeds_b: int | None = None


DESIGNS = (
    Design("paired", (1,)),
    Design("unpaired", (1,), (1,)),
    Design("unpaired, A without spread", (0,), (1,)),
    Design("unpaired, A three times the spread of B", (3,), (1,)),
    Design("unpaired, B with 8 seeds", (1,), (1,), 8),
    Design("unpaired, A three times the spread, B with 8 seeds", (3,), (1,), 8),
    Design("five years together, paired", (1,) * 5),
    Design("five years together, paired, one with three times the spread", (3, 1, 1, 1, 1)),
    Design("five years together, unpaired", (1,) * 5, (1,) * 5),
)


def seeds_alone(design: Design, n: int, repetitions: int, rng: np.random.Generator) -> float:
    """The share of intervals, of seeds alone, without the true difference 0."""
    sides = [(sd, n) for sd in design.a] + [(sd, design.seeds_b or n) for sd in design.b]
    values = [sd * rng.normal(size=(repetitions, count)) for sd, count in sides]
    difference = np.sum([v.mean(axis=1) for v in values], axis=0)
    variances = np.stack([v.var(axis=1, ddof=1) / v.shape[1] for v in values], axis=1)
    freedom = [count - 1 for _, count in sides]
    halves = [half_width(joined(list(zip(freedom, own, strict=True)))) for own in variances.tolist()]
    return float(np.mean(np.abs(difference) > halves))


# -------------------------------------------------------------------------------------------------- clips


def cells(per_cell: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels and domains, ``per_cell`` clips of each of the four cells."""
    return np.array([(a, t) for a in (0, 1) for t in (0, 1)] * per_cell, dtype=bool).T


@cache
def true_score(separation: float) -> float:
    """The official score of endless clips of normal scores, anomalies ``separation`` deviations above.

    Anomalies of the target domain have 0.7 times the separation.
    """
    y, target = cells(10_000)
    quantiles = np.empty(y.shape)
    for own in (y & target, y & ~target, ~y & target, ~y & ~target):
        quantiles[own] = ndtri((np.arange(own.sum()) + 0.5) / own.sum())
    scores = quantiles + separation * y * np.where(target, 0.7, 1.0)
    domains = np.where(target, "target", "source").tolist()
    found = metrics.official("both_domains", [metrics.section_metrics(scores, y.tolist(), domains)])
    assert found is not None, "all cells have clips"
    return found


def separations(score: float, spread: float) -> tuple[float, float]:
    """The separation of an official score, and the standard deviation over seeds that spreads the score."""
    grid = np.linspace(0.4, 3.4, 16)
    scores = [true_score(x) for x in grid.tolist()]
    here, above = np.interp([score, score + 0.01], scores, grid)
    return float(here), float(spread / 0.01 * (above - here))


def column(
    dcase: str,
    n: int,
    rng: np.random.Generator,
    *,
    paired: bool = True,
    spread: float = 0.0,
    scores: tuple[float, float] = (0.7, 0.7),
    per_cell: int = 50,
) -> Column:
    """Two systems with ``n`` seeds each; half of the variance over seeds is common to paired seeds."""
    y, target = cells(per_cell)
    up = y * np.where(target, 0.7, 1.0)
    shape = (len(MACHINES), y.size)
    noise = np.sqrt(HARD**2 + OWN**2 + CHANCE**2)
    hard, common = HARD * rng.normal(size=shape), rng.normal(size=n) if paired else None
    sides = []
    for score in scores:
        where, deviation = separations(score, spread)
        own = hard + OWN * rng.normal(size=shape)
        luck = rng.normal(size=n) if common is None else (common + rng.normal(size=n)) / np.sqrt(2)
        trials = [own + CHANCE * rng.normal(size=shape) + noise * (where + deviation * k) * up for k in luck]
        sides.append(
            {
                seed: [SectionScores(m, 0, s, y, target) for m, s in zip(MACHINES, trial, strict=True)]
                for seed, trial in enumerate(trials)
            }
        )
    return Column(dcase, "eval", sides[0], sides[1], paired)


def rate(
    years: Sequence[str], n: int, repetitions: int, rng: np.random.Generator, **of_column: object
) -> float:
    """The share of p <= 0.05; over all years if there are several."""
    found = 0
    for _ in range(repetitions):
        row = compare.compare([column(dcase, n, rng, **of_column) for dcase in years])[-1]  # type: ignore[arg-type]
        found += row.p is not None and row.p <= 0.05
    return found / repetitions


def coverage(
    machines: int, per_cell: int, score: float, repetitions: int, rng: np.random.Generator
) -> tuple[float, float]:
    """How often the interval has the true score inside, and its mean half width."""
    y, target = cells(per_cell)
    separation, _ = separations(score, 0.0)
    truth, inside, widths = true_score(separation), 0, []
    for _ in range(repetitions):
        drawn = rng.normal(size=(machines, y.size)) + separation * y * np.where(target, 0.7, 1.0)
        sections = [SectionScores(m, 0, s, y, target) for m, s in zip(MACHINES, drawn, strict=False)]
        interval = official_interval("both_domains", sections)
        assert interval is not None, "every cell has several clips"
        inside += interval.low <= truth <= interval.high
        widths.append(interval.half_width)
    return inside / repetitions, float(np.mean(widths))


# ------------------------------------------------------------------------------------------------- tables


def tables(
    seed_repetitions: int, repetitions: int, seeds: Sequence[int], few: Sequence[int], seed: int
) -> Iterator[str]:
    """The lines of all tables.

    Args:
        seeds, few: numbers of seeds without and with clips.
    """
    rng = np.random.default_rng(seed)

    def head(first: str, columns: Sequence[object]) -> str:
        return f"| {first} | {' | '.join(map(str, columns))} |\n|---|{'---:|' * len(columns)}"

    def line(name: str, shares: Sequence[float]) -> str:
        return f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |"

    yield f"Percent of p <= 0.05 between equal systems, seeds alone, {seed_repetitions:,} repetitions:\n"
    yield head("seeds", seeds)
    for design in DESIGNS:
        yield line(design.name, [seeds_alone(design, n, seed_repetitions, rng) for n in seeds])
    yield f"\nThe same with 7 machines and 50 clips a cell, {repetitions} repetitions:\n"
    yield head("seeds", (1, *few))
    for paired in (True, False):
        for spread in (0.0, SPREAD):
            name = f"{'paired' if paired else 'unpaired'}, spread over seeds {100 * spread:.1f} points"
            found = [
                rate(["dcase2023"], n, repetitions, rng, paired=paired, spread=spread)
                for n in (few if spread else (1, *few))
            ]
            cells_of_row = line(name, found)
            yield cells_of_row if not spread else cells_of_row.replace(" | ", " | | ", 1)
    years = ["dcase2023", "dcase2024"]
    found = [rate(years, n, repetitions, rng, spread=SPREAD) for n in few]
    yield line("two years together, paired, spread 2.2 points", found).replace(" | ", " | | ", 1)
    for per_cell in (10, 50):
        found = [
            rate(["dcase2023"], 1, repetitions, rng, scores=pair, per_cell=per_cell)
            for pair in ((0.7, 0.7), (0.72, 0.7), (0.74, 0.7))
        ]
        if per_cell == 10:
            yield f"\nOne seed, percent of p <= 0.05 by true difference, {repetitions} repetitions:\n"
            yield head("clips a cell", ("0 points", "2 points", "4 points"))
        yield line(str(per_cell), found)
    yield f"\nPercent of intervals of `official` with the true score inside, {repetitions} repetitions:\n"
    sizes = (5, 10, 20, 50)
    yield head("clips a cell", sizes)
    for machines in (1, 7):
        for score in (0.6, 0.7, 0.9):
            known = [coverage(machines, n, score, repetitions, rng) for n in sizes]
            each = " | ".join(f"{100 * share:.1f} (± {100 * half:.1f})" for share, half in known)
            yield f"| {machines} machine{'s' * (machines > 1)}, score {100 * score:.0f} | {each} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a smoke test with few repetitions")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    sizes = (50, 2, (2, 3), (2, 3)) if args.tiny else (10_000, 300, SEEDS, SEEDS_OF_WHOLE)
    for text in tables(*sizes, args.seed):
        print(text, flush=True)


if __name__ == "__main__":
    main()
