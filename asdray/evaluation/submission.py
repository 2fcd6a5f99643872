"""The files of a challenge submission: their names, writing them, and reading anyone's by clip name.

A system is a folder of CSV files without header, two columns: file name and a number.

====== ======================================================= =============================================
year   anomaly scores                                          decisions, 1 = anomaly
====== ======================================================= =============================================
2020   ``anomaly_score_<machine>_id_<ID>.csv``                 none
2021   ``anomaly_score_<machine>_section_<SS>_<d>_test.csv``   ``decision_result_...`` alike; d = the domain
2022-  ``anomaly_score_<machine>_section_<SS>_test.csv``       ``decision_result_...`` alike
====== ======================================================= =============================================

The organisers' baseline puts ``DCASE<YYYY>T2`` before the machine and something like
``_seed13711_id(0)_Eval`` behind ``_test``; both are accepted, and so are labelled clip names where the
ground truth tells which anonymous clip they stand for.

Source: the challenges' submission rules 2020-2026. Difference: the official evaluators sort both files and
pair their rows by position, so that a missing or renamed row shifts all that follow. Here rows are joined
by name, and whatever does not join is an error that counts it.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from asdray import store
from asdray.dcase.names import build_name, parse_name
from asdray.dcase.years import get_year

SCORE, DECISION = "anomaly_score", "decision_result"

RECORD = "submission.json"
"""What asdray writes beside the files of a submission of its own."""

Key = tuple[str, str]
"""(machine, file name)"""


class Part(NamedTuple):
    """What one file is about: a section of a machine, in 2021 one domain of it (else None)."""

    machine: str
    section: int
    domain: str | None


@dataclass(frozen=True)
class Submission:
    """One system's files, joined by name.

    Attributes:
        scores: one finite score per clip.
        decisions: True = anomaly; one per clip, none at all in 2020.
        ignored: names of CSV files in the folder that are none of the evaluation.
    """

    scores: Mapping[Key, float]
    decisions: Mapping[Key, bool]
    ignored: tuple[str, ...]


def kinds(dcase: str) -> tuple[str, ...]:
    """The kinds of files that a submission of the year has."""
    return (SCORE, DECISION) if get_year(dcase).has_decisions else (SCORE,)


def part_of(dcase: str, subset: str, machine: str, name: str) -> Part:
    """The part that a test clip belongs to.

    Raises:
        ValueError: not a name of such a clip.
    """
    clip = parse_name(dcase, subset, "test", name)
    return Part(machine, clip.section, clip.domain if get_year(dcase).split_test_folders else None)


def parts_of(dcase: str, subset: str, clips: Iterable[Key]) -> dict[Part, tuple[str, ...]]:
    """The clip names of every part, sorted, as are the parts."""
    found: dict[Part, list[str]] = {}
    for machine, name in clips:
        found.setdefault(part_of(dcase, subset, machine, name), []).append(name)
    return {part: tuple(sorted(found[part])) for part in sorted(found)}


def file_name(dcase: str, kind: str, part: Part) -> str:
    """The name that the submission rules give to a file."""
    if get_year(dcase).year == 2020:
        return f"{kind}_{part.machine}_id_{part.section:02d}.csv"
    domain = f"_{part.domain}" if part.domain else ""
    return f"{kind}_{part.machine}_section_{part.section:02d}{domain}_test.csv"


@functools.cache
def _pattern(dcase: str) -> re.Pattern[str]:
    """Both forms of file names; ``rest`` only behind the baseline's prefix."""
    year = get_year(dcase)
    machines = "|".join(map(re.escape, year.all_machines))
    head = rf"(?P<kind>{'|'.join(kinds(dcase))})_(?P<baseline>DCASE{year.year}T2)?(?P<machine>{machines})"
    if year.year == 2020:
        tail = r"_id_(?P<section>[0-9]{2})(?P<domain>)"
    elif year.split_test_folders:
        tail = r"_section_(?P<section>[0-9]{2})_(?P<domain>source|target)_test"
    else:
        tail = r"_section_(?P<section>[0-9]{2})(?P<domain>)_test"
    return re.compile(rf"{head}{tail}(?(baseline)(?:_.*)?)\.csv")


# ---------------------------------------------------------------------------------------------- writing


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """CSV as the organisers' scripts write it: LF, null empty, a float with all its digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write(
    folder: Path,
    dcase: str,
    parts: Mapping[Part, Sequence[str]],
    scores: Mapping[Key, float],
    decisions: Mapping[Key, bool],
) -> list[Path]:
    """Writes a system's files, each atomically, rows sorted by clip name.

    Args:
        decisions: ignored in 2020, whose submissions have none.

    Raises:
        ValueError: the folder holds other submission files, which would become part of this submission.
    """
    names = {file_name(dcase, kind, part): (kind, part) for kind in kinds(dcase) for part in parts}
    others = sorted({p.name for k in (SCORE, DECISION) for p in folder.glob(f"{k}_*.csv")} - set(names))
    if others:
        raise ValueError(
            f"{folder} holds {len(others)} files of another submission, for example {others[0]}: choose an "
            "empty folder, or remove them"
        )
    for name, (kind, part) in names.items():
        keys = [(part.machine, clip) for clip in parts[part]]
        values = [int(decisions[k]) if kind == DECISION else float(scores[k]) for k in keys]
        store.write_text(folder / name, csv_text((k[1], v) for k, v in zip(keys, values, strict=True)))
    return [folder / name for name in names]


# ---------------------------------------------------------------------------------------------- reading


def read(
    folder: Path,
    dcase: str,
    parts: Mapping[Part, Sequence[str]],
    labelled: Mapping[Key, str] | None = None,
) -> Submission:
    """Reads the files of one system, which must hold every clip of ``parts`` once, and no other.

    Args:
        labelled: (machine, labelled name) -> anonymous name, for files that the organisers' baseline wrote.

    Raises:
        ValueError: anything missing, extra, duplicated or not a number: one line per file and kind of
            fault, with its count and an example, all of them in one message.
    """
    reader = _Reader(dcase, labelled or {})
    files, ignored = _files(folder, dcase, parts)
    scores: dict[Key, float] = {}
    decisions: dict[Key, bool] = {}
    absent = []
    for (kind, part), paths in files.items():
        if not paths:
            absent.append(file_name(dcase, kind, part))
        elif len(paths) > 1:
            reader.faults.append(
                f"{' and '.join(p.name for p in paths)} are two files of the same {kind}s: keep one"
            )
        elif kind == SCORE:
            scores |= reader.read(paths[0], kind, part, parts[part])
        else:
            found = reader.read(paths[0], kind, part, parts[part])
            decisions |= {key: value == 1 for key, value in found.items()}
    faults = reader.faults
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        faults = [f"{len(absent)} of {len(files)} files are missing: {shown}", *faults]
    if faults:
        raise ValueError("\n".join([f"{folder}: not a submission to {dcase}", *(f"  {f}" for f in faults)]))
    return Submission(scores, decisions, ignored)


def _files(
    folder: Path, dcase: str, parts: Iterable[Part]
) -> tuple[dict[tuple[str, Part], list[Path]], tuple[str, ...]]:
    """The paths of every file asked for, and the names of CSV files that are none of them."""
    found: dict[tuple[str, Part], list[Path]] = {(k, p): [] for p in parts for k in kinds(dcase)}
    ignored = []
    for path in sorted(folder.glob("*.csv")):
        match = _pattern(dcase).fullmatch(path.name)
        key = match and (
            match["kind"],
            Part(match["machine"], int(match["section"]), match["domain"] or None),
        )
        if key in found:
            found[key].append(path)
        else:
            ignored.append(path.name)
    return found, tuple(ignored)


@dataclass
class _Reader:
    """Reads rows and collects what is wrong with them."""

    dcase: str
    labelled: Mapping[Key, str]
    faults: list[str] = field(default_factory=list)

    def read(self, path: Path, kind: str, part: Part, names: Sequence[str]) -> dict[Key, float]:
        """The numbers of a file by clip. What is wrong with it is a line in ``faults``."""
        expected = set(names)
        seen: set[str] = set()
        values: dict[Key, float] = {}
        wrong: dict[str, list[str]] = {}

        def note(what: str, example: str) -> None:
            wrong.setdefault(what, []).append(example)

        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            self.faults.append(f"{path.name} is not a text file")
            return {}
        for number, row in enumerate(csv.reader(lines), 1):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != 2:
                note("rows that are not two columns", f"line {number}")
                continue
            name = self._anonymous(part.machine, row[0].strip(), expected)
            if name not in expected:
                note("rows of no clip of this file", repr(row[0]))
                continue
            if name in seen:
                note("duplicated rows", name)
                continue
            seen.add(name)
            value = _number(row[1])
            if value is None:
                note("rows that are not a number", f"{name} with {row[1]!r}")
            elif not math.isfinite(value):
                note("rows that are NaN or infinite", f"{name} with {row[1].strip()}")
            elif kind == DECISION and value not in (0, 1):
                note("decisions that are neither 0 nor 1", f"{name} with {row[1].strip()}")
            else:
                values[part.machine, name] = value
        if missing := [name for name in names if name not in seen]:
            wrong["missing clips"] = missing
        self.faults += [
            f"{path.name} ({len(names)} clips expected): {len(found)} {what}, for example {found[0]}"
            for what, found in wrong.items()
        ]
        return values

    def _anonymous(self, machine: str, name: str, expected: set[str]) -> str:
        """The clip's anonymous name, where it is a labelled one that the ground truth knows."""
        if name in expected:
            return name
        if (machine, name) in self.labelled:
            return self.labelled[machine, name]
        try:  # an irregular spelling of a labelled name, such as 2024's RoboticArm without `_test_`
            regular = build_name(self.dcase, "eval", parse_name(self.dcase, "eval", "test", name))
        except ValueError:
            return name
        return self.labelled.get((machine, regular), name)


def _number(text: str) -> float | None:
    if "_" in text:  # a number to Python, not to anyone who writes CSV files
        return None
    try:
        return float(text)
    except ValueError:
        return None
