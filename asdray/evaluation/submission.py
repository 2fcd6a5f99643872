"""The files of a challenge submission: names, writing, and reading by clip name.

A system is a folder of CSV files without header and with two columns, clip name and number. Scores are finite
and higher for more anomalous clips, in any unit. Other CSV files in the folder are ignored.

>>> file_name("dcase2023", SCORE, Part("bandsaw", 0, None))
'anomaly_score_bandsaw_section_00_test.csv'

====== ======================================================= =============================================
year   anomaly scores                                          decisions, 1 = anomaly
====== ======================================================= =============================================
2020   ``anomaly_score_<machine>_id_<ID>.csv``                 none
2021   ``anomaly_score_<machine>_section_<SS>_<d>_test.csv``   ``decision_result_...`` alike; d = the domain
2022-  ``anomaly_score_<machine>_section_<SS>_test.csv``       ``decision_result_...`` alike
====== ======================================================= =============================================

Names without ``_test`` are accepted, with a note.

Files of the organisers' baseline are accepted, too: their names have ``DCASE<YYYY>T2`` before the machine and
a text like ``_seed13711_id(0)_Eval`` after ``_test``, and their rows may have labelled clip names, which the
ground truth maps to anonymous names.

Source: the challenges' submission rules 2020-2026. Difference: the official evaluators sort both files and
pair rows by position, so that a missing row shifts all following rows. Here rows are joined by name, and
every row that cannot be joined is an error.
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
from asdray.notes import tell
from asdray.printable import cell, printable, quoted
from asdray.regular import read_rows

SCORE, DECISION = "anomaly_score", "decision_result"

RECORD = "submission.json"
"""The description beside the files of a submission that asdray wrote."""

Key = tuple[str, str]
"""(machine, file name)"""


class Part(NamedTuple):
    """The content of one file: a section of a machine, in 2021 one domain of the section (else None)."""

    machine: str
    section: int
    domain: str | None


@dataclass(frozen=True)
class Submission:
    """The files of one system, joined by name.

    Attributes:
        scores: clip -> finite score.
        decisions: clip -> True for an anomaly; empty in 2020.
        ignored: names of other CSV files in the folder.
    """

    scores: Mapping[Key, float]
    decisions: Mapping[Key, bool]
    ignored: tuple[str, ...]


def kinds(dcase: str) -> tuple[str, ...]:
    """The kinds of files in a submission of the year."""
    return (SCORE, DECISION) if get_year(dcase).has_decisions else (SCORE,)


def part_of(dcase: str, subset: str, machine: str, name: str) -> Part:
    """The part of a test clip; raises ValueError for a name of no test clip of the year and subset."""
    clip = parse_name(dcase, subset, "test", name)
    return Part(machine, clip.section, clip.domain if get_year(dcase).split_test_folders else None)


def parts_of(dcase: str, subset: str, clips: Iterable[Key]) -> dict[Part, tuple[str, ...]]:
    """Part -> its clip names; parts and names sorted."""
    found: dict[Part, list[str]] = {}
    for machine, name in clips:
        found.setdefault(part_of(dcase, subset, machine, name), []).append(name)
    return {part: tuple(sorted(found[part])) for part in sorted(found)}


def file_name(dcase: str, kind: str, part: Part) -> str:
    """The file name of the submission rules."""
    if get_year(dcase).year == 2020:
        return f"{kind}_{part.machine}_id_{part.section:02d}.csv"
    domain = f"_{part.domain}" if part.domain else ""
    return f"{kind}_{part.machine}_section_{part.section:02d}{domain}_test.csv"


@functools.cache
def _pattern(dcase: str) -> re.Pattern[str]:
    """File names of the rules and of the baseline, whose names may have a suffix."""
    year = get_year(dcase)
    machines = "|".join(map(re.escape, year.all_machines))
    head = rf"(?P<kind>{'|'.join(kinds(dcase))})_(?P<baseline>DCASE{year.year}T2)?(?P<machine>{machines})"
    section, test = ("id", "") if year.year == 2020 else ("section", "(?P<test>_test)?")
    domain = "_(?P<domain>source|target)" if year.split_test_folders else "(?P<domain>)"
    tail = rf"_{section}_(?P<section>[0-9]{{2}}){domain}{test}"
    return re.compile(rf"{head}{tail}(?(baseline)(?:_.*)?)\.csv")


# ---------------------------------------------------------------------------------------------- writing


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """CSV in the form of the organisers' scripts: LF, empty nulls, floats with all digits; see `cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def write(
    folder: Path,
    dcase: str,
    parts: Mapping[Part, Sequence[str]],
    scores: Mapping[Key, float],
    decisions: Mapping[Key, bool],
) -> list[Path]:
    """Writes the files of a system, each atomically, with rows sorted by clip name.

    Args:
        parts: clip names of every file.
        decisions: ignored in 2020.

    Returns:
        The paths of the files.

    Raises:
        ValueError: the folder holds files of another submission.
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
    """Reads the files of one system.

    Args:
        parts: clip names of every file; each clip must occur exactly once.
        labelled: (machine, labelled name) -> anonymous name, for files of the organisers' baseline.

    Raises:
        ValueError: missing, unknown or repeated clips, or values that are no numbers. The message has one
            line per file and kind of fault, with count and example.
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
        raise ValueError(
            "\n".join([f"{printable(str(folder))}: not a submission to {dcase}", *(f"  {f}" for f in faults)])
        )
    return Submission(scores, decisions, ignored)


def _files(
    folder: Path, dcase: str, parts: Iterable[Part]
) -> tuple[dict[tuple[str, Part], list[Path]], tuple[str, ...]]:
    """(kind, part) -> paths of the expected files, and the names of other CSV files."""
    found: dict[tuple[str, Part], list[Path]] = {(k, p): [] for p in parts for k in kinds(dcase)}
    ignored, short = [], 0
    for path in sorted(folder.glob("*.csv")):
        match = _pattern(dcase).fullmatch(path.name)
        part = match and Part(match["machine"], int(match["section"]), match["domain"] or None)
        if match and part and (match["kind"], part) in found:
            found[match["kind"], part].append(path)
            short += match.groupdict().get("test", "_test") is None
        else:
            ignored.append(printable(path.name))
    if short:
        tell(f"{printable(str(folder))}: the names of {short} files lack _test; they are read all the same")
    return found, tuple(ignored)


@dataclass
class _Reader:
    """Reads files and collects their faults as lines of text."""

    dcase: str
    labelled: Mapping[Key, str]
    faults: list[str] = field(default_factory=list)

    def read(self, path: Path, kind: str, part: Part, names: Sequence[str]) -> dict[Key, float]:
        """Clip -> number of one file; adds a line per kind of fault to ``faults``."""
        expected = set(names)
        seen: set[str] = set()
        values: dict[Key, float] = {}
        wrong: dict[str, list[str]] = {}
        try:
            rows = read_rows(path)
        except UnicodeDecodeError:
            self.faults.append(f"{path.name} is not a text file")
            return {}
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.faults.append(f"{path.name} cannot be read ({reason})")
            return {}
        for number, row in rows:
            name = self._anonymous(part.machine, row[0].strip(), expected)
            if len(row) != 2:
                wrong.setdefault("rows that are not two columns", []).append(f"line {number}")
            elif name not in expected:
                wrong.setdefault("rows of no clip of this file", []).append(quoted(row[0]))
            elif name in seen:
                wrong.setdefault("duplicated rows", []).append(name)
            else:
                seen.add(name)
                values[part.machine, name], fault = _number(row[1], kind)
                if fault:
                    text = quoted(row[1]) if fault == _NO_NUMBER else printable(row[1].strip())
                    wrong.setdefault(fault, []).append(f"{name} with {text}")
        if missing := [name for name in names if name not in seen]:
            wrong["missing clips"] = missing
        self.faults += [
            f"{path.name} ({len(names)} clips expected): {len(found)} {fault}, for example {found[0]}"
            for fault, found in wrong.items()
        ]
        return values

    def _anonymous(self, machine: str, name: str, expected: set[str]) -> str:
        """The anonymous name of a clip whose labelled name the ground truth knows, else ``name``."""
        if name in expected:
            return name
        if (machine, name) in self.labelled:
            return self.labelled[machine, name]
        try:  # an irregular spelling of a labelled name, such as 2024's RoboticArm without `_test_`
            regular = build_name(self.dcase, "eval", parse_name(self.dcase, "eval", "test", name))
        except ValueError:
            return name
        return self.labelled.get((machine, regular), name)


_NO_NUMBER = "rows that are not a number"


def _number(text: str, kind: str) -> tuple[float, str]:
    """A number of a file, and the kind of its fault, ``""`` for a valid number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan, _NO_NUMBER
    if "_" in text or not text.isascii():  # Python reads 1_0 and １ as numbers, other readers of CSV don't
        return math.nan, _NO_NUMBER
    if not math.isfinite(value):
        return value, "rows that are NaN or infinite"
    if kind == DECISION and value not in (0, 1):
        return value, "decisions that are neither 0 nor 1"
    return value, ""
