"""What is there against what should be there: clips per machine, section, domain and label.

`audit` is a pure function of the manifest's rows and of what is `Expected`: the year's published counts, or
those that ``asdray synth`` wrote down. A count that nobody published is shown and not judged.

Something is *missing* where a section has no clips, or fewer than it should; and where a test clip has no
label although there is ground truth, or a label and no domain. In the eval test split, whose labels and
domains come from the ground truth, no cell can be missing beside that: labels that fall otherwise are a
difference, as are more clips than expected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.dcase.manifest import UNKNOWN, label_of, synthetic_path
from asdray.dcase.names import SPLITS, may_be_supplemental
from asdray.dcase.years import SUBSETS, get_year

if TYPE_CHECKING:
    from rich.table import Table

Section = tuple[str, str, int]
"""(subset, machine, section)"""

Cell = tuple[str, str, str]
"""(split, domain, label), with ``unknown`` for null; supplemental clips are all one cell."""

_SUPPLEMENTAL: Cell = ("supplemental", UNKNOWN, UNKNOWN)


@dataclass(frozen=True)
class Expected:
    """What should be there; where nothing is named at all, nothing is judged.

    Attributes:
        splits: clips per section and split; None = some, nobody said how many.
        cells: the same per domain and label, where that is known.
        optional: splits of which nobody said whether there are any, nor how many.
    """

    splits: Mapping[Section, Mapping[str, int | None]]
    cells: Mapping[Section, Mapping[Cell, int]]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Difference:
    """One thing that is not as expected.

    Attributes:
        what: ``train source normal``, ``test`` (all of the split), ``test label`` or ``test domain``.
        found: clips that are there; of a label or domain, those that have one.
        expected: clips that should be; None = some.
        missing: whether something is missing; else it is only different.
    """

    section: Section
    what: str
    found: int
    expected: int | None
    missing: bool

    def __str__(self) -> str:
        """``train source normal 62 of 65``, without the verdict."""
        wanted = "" if self.expected is None else f" of {self.expected}"
        return f"{self.what}{'s' * self.of_truth} {self.found}{wanted}"

    @property
    def of_truth(self) -> bool:
        """Whether it is the ground truth that says too little, not clips that are too few or too many."""
        return self.what.endswith((" label", " domain"))


@dataclass(frozen=True)
class Audit:
    """The comparison.

    Attributes:
        found: clips per cell of every section that has any, in the year's order.
        label_sources: where the labels of those sections' test clips came from.
        differences: in the same order; sections without a clip included.
        unchecked: ``dev train`` and so on, where some section's number of clips is not known.
    """

    dcase: str
    found: Mapping[Section, Mapping[Cell, int]]
    label_sources: Mapping[Section, tuple[str, ...]]
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def n_clips(self) -> int:
        return sum(sum(cells.values()) for cells in self.found.values())

    @property
    def missing(self) -> tuple[Difference, ...]:
        """The differences for which a complete dataset has something more."""
        return tuple(d for d in self.differences if d.missing)

    def missing_machines(self) -> dict[str, list[str]]:
        """Per subset, the machines without a single clip where some should be, and those without some
        sections: ``fan (sections 01, 02)``."""
        machines: dict[str, dict[str, list[str]]] = {}
        for subset, machine, section in dict.fromkeys(d.section for d in self.missing):
            if (subset, machine, section) not in self.found:
                machines.setdefault(subset, {}).setdefault(machine, []).append(f"{section:02d}")
        there = {(subset, machine) for subset, machine, _ in self.found}
        return {
            subset: [
                f"{machine} (sections {', '.join(sections)})" if (subset, machine) in there else machine
                for machine, sections in those.items()
            ]
            for subset, those in sorted(machines.items())
        }


def expected_counts(data: Path, dcase: str, kind: str) -> Expected:
    """What the year's dataset of that kind in ``data`` should hold."""
    if kind == "official":
        return official_counts(dcase)
    raw = store.read_json(synthetic_path(data, dcase))
    return synthetic_counts(raw.get("counts", {}))


def official_counts(dcase: str) -> Expected:
    """The counts of the released datasets."""
    year = get_year(dcase)
    splits: dict[Section, Mapping[str, int | None]] = {}
    all_cells: dict[Section, Mapping[Cell, int]] = {}
    for subset in SUBSETS:
        for machine in year.machines[subset]:
            for section in year.sections[subset][machine]:
                cells: dict[Cell, int] = {}
                totals: dict[str, int | None] = {"train": None, "test": None}
                if (subset, "train") in year.exact_counts:
                    cells |= {("train", d, "normal"): n for d, n in year.train_per_section.items()}
                    totals["train"] = sum(year.train_per_section.values())
                if (subset, "test") in year.exact_counts:
                    test: dict[Cell, int] = {}
                    for domain in year.domains:
                        nominal = (year.test_per_cell or 0, year.test_per_cell or 0)
                        counts = year.test_counts.get((subset, machine, section, domain), nominal)
                        test |= {
                            ("test", domain, label): n
                            for label, n in zip(("normal", "anomaly"), counts, strict=True)
                        }
                    totals["test"] = sum(test.values())
                    if subset not in year.test_totals_only:
                        cells |= test
                if year.supplemental_per_section is not None:
                    totals["supplemental"] = year.supplemental_per_section
                splits[subset, machine, section] = totals
                all_cells[subset, machine, section] = cells
    optional = {"supplemental"} if may_be_supplemental(dcase) and not year.has_supplemental else set()
    return Expected(splits, all_cells, frozenset(optional))


def synthetic_counts(counts: Mapping[str, int]) -> Expected:
    """What ``synthetic.json`` counts per ``<subset>/<machine>/<section>/<split>/<domain>/<label>``."""
    splits: dict[Section, dict[str, int | None]] = {}
    cells: dict[Section, dict[Cell, int]] = {}
    for key, n in counts.items():
        subset, machine, section, split, domain, label = key.split("/")
        place = (subset, machine, int(section))
        totals = splits.setdefault(place, {})
        totals[split] = (totals.get(split) or 0) + n
        if split != "supplemental":
            cells.setdefault(place, {})[split, domain, label] = n
    return Expected(splits, cells)


def audit(
    dcase: str, clips: Iterable[Mapping[str, Any]], expected: Expected, *, has_truth: bool = False
) -> Audit:
    """Compares the manifest's rows with what should be there.

    Args:
        clips: rows with at least subset, machine, section, split, domain, is_anomaly and label_source.
        has_truth: whether ground truth was given: then an eval test clip without a label misses it.
    """
    found: dict[Section, Counter[Cell]] = {}
    sources: dict[Section, set[str]] = {}
    for clip in clips:
        place = (clip["subset"], clip["machine"], clip["section"])
        found.setdefault(place, Counter())[_cell(clip)] += 1
        if clip["split"] == "test" and clip["label_source"]:
            sources.setdefault(place, set()).add(clip["label_source"])
    order = {m: i for i, m in enumerate(get_year(dcase).all_machines)}
    places = sorted({*found, *expected.splits}, key=lambda p: (order[p[1]], p[0], p[2]))
    differences = []
    unchecked = set()
    for place in places:
        cells = found.get(place, Counter())
        for split in SPLITS:
            if split in expected.splits.get(place, {}):
                differences += _compare(place, split, cells, expected)
                if expected.splits[place][split] is None:
                    unchecked.add(f"{place[0]} {split}")
            elif n := sum(count for cell, count in cells.items() if cell[0] == split):
                if expected.splits and split not in expected.optional:
                    differences.append(Difference(place, split, n, 0, False))
                else:
                    unchecked.add(f"{place[0]} {split}")
        test = {cell: n for cell, n in cells.items() if cell[0] == "test"}
        unlabelled = sum(n for (_, _, label), n in test.items() if label == UNKNOWN)
        if has_truth and place[0] == "eval" and unlabelled:
            total = sum(test.values())
            differences.append(Difference(place, "test label", total - unlabelled, total, True))
        labelled = sum(n for (_, _, label), n in test.items() if label != UNKNOWN)
        nowhere = sum(n for (_, domain, label), n in test.items() if domain == UNKNOWN != label)
        if nowhere:
            differences.append(Difference(place, "test domain", labelled - nowhere, labelled, True))
    return Audit(
        dcase,
        {p: dict(found[p]) for p in places if p in found},
        {p: tuple(sorted(those)) for p, those in sources.items()},
        tuple(differences),
        tuple(sorted(unchecked)),
    )


def _cell(clip: Mapping[str, Any]) -> Cell:
    if clip["split"] == "supplemental":
        return _SUPPLEMENTAL
    return clip["split"], clip["domain"] or UNKNOWN, label_of(clip["is_anomaly"])


def _compare(place: Section, split: str, cells: Mapping[Cell, int], expected: Expected) -> list[Difference]:
    """What differs in a section's split: cell by cell where that says more than the whole."""
    mine = {cell: n for cell, n in cells.items() if cell[0] == split}
    total, wanted = sum(mine.values()), expected.splits[place][split]
    if wanted is None or total == 0:
        return [] if total else [Difference(place, split, 0, wanted, True)]
    known = {cell: n for cell, n in expected.cells.get(place, {}).items() if cell[0] == split}
    by_truth = place[0] == "eval" and split == "test"
    if known and not any(UNKNOWN in cell for cell in mine):
        differences = []
        for cell in sorted({*mine, *known}, key=_cell_order):
            n, want = mine.get(cell, 0), known.get(cell, 0)
            if n != want:
                missing = n < want and (total < wanted or not by_truth)
                differences.append(Difference(place, " ".join(cell), n, want, missing))
        return differences
    return [Difference(place, split, total, wanted, total < wanted)] if total != wanted else []


def _cell_order(cell: Cell) -> tuple[int, bool, str, bool, bool]:
    split, domain, label = cell
    return SPLITS.index(split), domain == UNKNOWN, domain, label == UNKNOWN, label == "anomaly"


# -------------------------------------------------------------------------------------------- to be read


def table(audit: Audit) -> Table:
    """A row for every section that has clips; differences are red, and told in the last column."""
    from rich.table import Table
    from rich.text import Text

    cells = sorted({c for row in audit.found.values() for c in row}, key=_cell_order)
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("machine", "subset", "section"):
        grid.add_column(f"\n\n{name}")
    for cell in cells:
        header = ("", "", "supplemental") if cell == _SUPPLEMENTAL else cell
        grid.add_column("\n".join(header), justify="right")
    grid.add_column("\n\ntest labels from")
    with_differences = any(d.section in audit.found for d in audit.differences)
    if with_differences:
        grid.add_column("\n\nnot as expected", overflow="fold")
    for place, row in audit.found.items():
        subset, machine, section = place
        red = {d.what for d in audit.differences if d.section == place}
        counts = [
            Text(
                str(row.get(c, 0)),
                "bold red" if red & {" ".join(c), c[0], f"{c[0]} label", f"{c[0]} domain"} else "",
            )
            for c in cells
        ]
        labels = " + ".join(audit.label_sources.get(place, ()))
        told = [Text(differences_of(audit, place), "bold red")] if with_differences else []
        grid.add_row(machine, subset, f"{section:02d}", *counts, labels, *told)
    return grid


def differences_of(audit: Audit, place: Section) -> str:
    """What is not as expected in a section: ``missing train source normal 62 of 65``; ``""`` if nothing."""
    told = []
    for verdict, is_missing in (("missing", True), ("different", False)):
        those = [d for d in audit.differences if d.section == place and d.missing == is_missing]
        parts = []
        for split in SPLITS:
            some = [d for d in those if d.what.split()[0] == split and not d.of_truth]
            if is_missing and len(some) > 2:
                found, wanted = sum(d.found for d in some), sum(d.expected or 0 for d in some)
                parts.append(f"{split} {found} of {wanted}")
            else:
                parts += map(str, some)
            parts += [str(d) for d in those if d.what.split()[0] == split and d.of_truth]
        if parts:
            told.append(f"{verdict}: {', '.join(parts)}")
    return "; ".join(told)


def summary(audit: Audit) -> list[str]:
    """What the table says, in one line; before it, a line per subset of which whole sections are missing."""
    lines = [f"missing {s} machines: {', '.join(names)}" for s, names in audit.missing_machines().items()]
    if audit.missing:
        n = len({d.section for d in audit.missing})
        verdict = f"something is missing in {n} section{'s' * (n > 1)}"
    elif audit.differences:
        n = len({d.section for d in audit.differences})
        verdict = (
            f"nothing is missing, {n} section{'s differ' if n > 1 else ' differs'} from what was expected"
        )
    else:
        verdict = "all as expected"
    if audit.unchecked:
        verdict += f" (no number to compare with for: {', '.join(audit.unchecked)})"
    return [*lines, f"{audit.dcase}: {audit.n_clips} clips, {verdict}"]
