"""Audit of a year: clips found against clips expected, per machine, section, domain and label.

`audit` is a pure function of the manifest's rows and the `Expected` counts: the year's published counts, or
the counts that ``asdray synth`` wrote down. Counts that nobody published are shown and not judged.

Conventions: a section's clips fall into *cells* (split, domain, label), with ``unknown`` for null. A
difference is *missing* if

* a section has no clips, or fewer than expected;
* a test clip has no label although there is ground truth, or a label and no domain.

All else is only *different*: more clips than expected, and in the eval test split, whose labels and domains
come from the ground truth, another distribution of a complete number of clips.

>>> from asdray.dcase.audit import audit, differences_of, synthetic_counts
>>> clip = {"subset": "dev", "machine": "fan", "section": 0, "split": "train", "domain": "source"}
>>> clip |= {"is_anomaly": False, "label_source": "name"}
>>> audited = audit("dcase2023", [clip] * 62, synthetic_counts({"dev/fan/00/train/source/normal": 65}))
>>> differences_of(audited, ("dev", "fan", 0))
'missing: train source normal 62 of 65'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from asdray import store
from asdray.dcase.manifest import UNKNOWN, label_of, synthetic_path
from asdray.dcase.names import SPLITS, may_be_supplemental
from asdray.dcase.years import SUBSETS, Subset, Year, get_year

if TYPE_CHECKING:
    from rich.table import Table

Section = tuple[str, str, int]
"""(subset, machine, section)"""

Cell = tuple[str, str, str]
"""(split, domain, label), with ``unknown`` for null; supplemental clips are all one cell."""

_SUPPLEMENTAL: Cell = ("supplemental", UNKNOWN, UNKNOWN)


@dataclass(frozen=True)
class Expected:
    """Expected counts; without any section, nothing is judged.

    Attributes:
        splits: clips per section and split; None = an unpublished number above zero.
        cells: clips per section, domain and label, as far as published.
        optional: splits that may be absent, with an unpublished number of clips.
    """

    splits: Mapping[Section, Mapping[str, int | None]]
    cells: Mapping[Section, Mapping[Cell, int]]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Difference:
    """One deviation from the expected counts.

    Attributes:
        what: a cell (``train source normal``), a split (``test``), ``test label`` or ``test domain``.
        found: clips found; for a label or domain, clips that have one.
        expected: clips expected; None = any number above zero.
        missing: a complete dataset would have more; else the counts are only different.
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
        """True if the ground truth lacks labels or domains; False if the number of clips deviates."""
        return self.what.endswith((" label", " domain"))


@dataclass(frozen=True)
class Audit:
    """The comparison.

    Attributes:
        found: clips per cell of every section with clips, in the year's order.
        label_sources: sources of the test labels, per section with labels.
        differences: in the same order; includes sections without a clip.
        unchecked: ``dev train`` and so on, for sections with an unpublished number of clips.
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
        """Differences that make the dataset incomplete."""
        return tuple(d for d in self.differences if d.missing)

    def missing_machines(self) -> dict[str, list[str]]:
        """Machines without a clip per subset; with missing sections only: ``fan (sections 01, 02)``."""
        machines: dict[str, dict[str, list[str]]] = {}
        for subset, machine, section in dict.fromkeys(d.section for d in self.missing):
            if (subset, machine, section) not in self.found:
                machines.setdefault(subset, {}).setdefault(machine, []).append(f"{section:02d}")
        found = {(subset, machine) for subset, machine, _ in self.found}
        return {
            subset: [
                f"{machine} (sections {', '.join(sections)})" if (subset, machine) in found else machine
                for machine, sections in of_machine.items()
            ]
            for subset, of_machine in sorted(machines.items())
        }


def expected_counts(data: Path, dcase: str, kind: str) -> Expected:
    """Expected counts of the year's dataset in ``data``, official or synthetic by ``kind``."""
    if kind == "official":
        return official_counts(dcase)
    return synthetic_counts(store.read_json(synthetic_path(data, dcase), _Made).counts)


_Place = Annotated[str, Field(pattern=r"^(dev|eval)/\w+/\d\d/\w+/\w+/\w+$")]


@dataclass(frozen=True)
class _Made:
    """The counts in ``synthetic.json``."""

    counts: dict[_Place, int] = field(default_factory=dict)


def official_counts(dcase: str) -> Expected:
    """The counts of the released datasets."""
    year = get_year(dcase)
    splits: dict[Section, Mapping[str, int | None]] = {}
    cells: dict[Section, Mapping[Cell, int]] = {}
    train = {("train", d, "normal"): n for d, n in year.train_per_section.items()}
    extra = year.supplemental_per_section
    for subset in SUBSETS:
        exact_train, exact_test = ((subset, split) in year.exact_counts for split in ("train", "test"))
        test_by_cell = exact_test and subset not in year.test_totals_only
        for machine in year.machines[subset]:
            for section in year.sections[subset][machine]:
                test = _official_test(year, subset, machine, section)
                splits[subset, machine, section] = {
                    "train": sum(train.values()) if exact_train else None,
                    "test": sum(test.values()) if exact_test else None,
                    **({} if extra is None else {"supplemental": extra}),
                }
                known = (train if exact_train else {}) | (test if test_by_cell else {})
                cells[subset, machine, section] = known
    optional = {"supplemental"} if may_be_supplemental(dcase) and not year.has_supplemental else set()
    return Expected(splits, cells, frozenset(optional))


def _official_test(year: Year, subset: Subset, machine: str, section: int) -> dict[Cell, int]:
    nominal = (year.test_per_cell or 0, year.test_per_cell or 0)
    counts: dict[Cell, int] = {}
    for domain in year.domains:
        normal, anomaly = year.test_counts.get((subset, machine, section, domain), nominal)
        counts |= {("test", domain, "normal"): normal, ("test", domain, "anomaly"): anomaly}
    return counts


def synthetic_counts(counts: Mapping[str, int]) -> Expected:
    """Counts of ``synthetic.json``, per ``<subset>/<machine>/<section>/<split>/<domain>/<label>``."""
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
    """Compares the manifest's rows with the expected counts.

    Args:
        clips: rows with at least subset, machine, section, split, domain, is_anomaly and label_source.
        has_truth: ground truth was given: an eval test clip without a label is then missing a label.
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
    differences: list[Difference] = []
    unchecked = set()
    for place in places:
        cells, totals = found.get(place, Counter()), expected.splits.get(place, {})
        for split in SPLITS:
            of_split = {cell: n for cell, n in cells.items() if cell[0] == split}
            if split in totals or (expected.splits and split not in expected.optional):
                differences += _compare(place, split, of_split, expected)
                is_checked = totals.get(split, 0) is not None
            else:
                is_checked = not of_split
            if not is_checked:
                unchecked.add(f"{place[0]} {split}")
        differences += _without_truth(place, cells, has_truth)
    return Audit(
        dcase,
        {p: dict(found[p]) for p in places if p in found},
        {p: tuple(sorted(names)) for p, names in sources.items()},
        tuple(differences),
        tuple(sorted(unchecked)),
    )


def _cell(clip: Mapping[str, Any]) -> Cell:
    if clip["split"] == "supplemental":
        return _SUPPLEMENTAL
    return clip["split"], clip["domain"] or UNKNOWN, label_of(clip["is_anomaly"])


def _compare(place: Section, split: str, cells: Mapping[Cell, int], expected: Expected) -> list[Difference]:
    """Differences of a section's split, whose counts are ``cells``: per cell if known, else of the total."""
    total, wanted = sum(cells.values()), expected.splits.get(place, {}).get(split, 0)
    if wanted is None or total == 0:
        return [] if total or wanted == 0 else [Difference(place, split, 0, wanted, True)]
    known = {cell: n for cell, n in expected.cells.get(place, {}).items() if cell[0] == split}
    by_truth = place[0] == "eval" and split == "test"
    if not known or any(UNKNOWN in cell for cell in cells):
        return [Difference(place, split, total, wanted, total < wanted)] if total != wanted else []
    differences = []
    for cell in sorted({*cells, *known}, key=_cell_order):
        n, want = cells.get(cell, 0), known.get(cell, 0)
        if n != want:
            missing = n < want and (total < wanted or not by_truth)
            differences.append(Difference(place, " ".join(cell), n, want, missing))
    return differences


def _without_truth(place: Section, cells: Mapping[Cell, int], has_truth: bool) -> Iterator[Difference]:
    """Test clips that lack a label or domain."""
    test = {cell: n for cell, n in cells.items() if cell[0] == "test"}
    labelled = sum(n for (_, _, label), n in test.items() if label != UNKNOWN)
    total = sum(test.values())
    if has_truth and place[0] == "eval" and labelled < total:
        yield Difference(place, "test label", labelled, total, True)
    without_domain = sum(n for (_, domain, label), n in test.items() if domain == UNKNOWN != label)
    if without_domain:
        yield Difference(place, "test domain", labelled - without_domain, labelled, True)


def _cell_order(cell: Cell) -> tuple[int, bool, str, bool, bool]:
    split, domain, label = cell
    return SPLITS.index(split), domain == UNKNOWN, domain, label == UNKNOWN, label == "anomaly"


# -------------------------------------------------------------------------------------------- to be read


def table(audit: Audit) -> Table:
    """A row per section with clips; deviating counts are red, the last column tells the differences."""
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
        differences = [Text(differences_of(audit, place), "bold red")] if with_differences else []
        grid.add_row(machine, subset, f"{section:02d}", *counts, labels, *differences)
    return grid


def differences_of(audit: Audit, place: Section) -> str:
    """Differences of a section in one line: ``missing: train source normal 62 of 65``; ``""`` if none."""
    verdicts = []
    for verdict, is_missing in (("missing", True), ("different", False)):
        differences = [d for d in audit.differences if d.section == place and d.missing == is_missing]
        parts: list[str] = []
        for split in SPLITS:
            of_split = [d for d in differences if d.what.split()[0] == split]
            counts = [d for d in of_split if not d.of_truth]
            if is_missing and len(counts) > 2:
                parts.append(
                    f"{split} {sum(d.found for d in counts)} of {sum(d.expected or 0 for d in counts)}"
                )
            else:
                parts += map(str, counts)
            parts += [str(d) for d in of_split if d.of_truth]
        if parts:
            verdicts.append(f"{verdict}: {', '.join(parts)}")
    return "; ".join(verdicts)


def summary(audit: Audit) -> list[str]:
    """The verdict in one line, after one line per subset with missing machines or sections."""
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
