"""Reads one file of ground truth row by row; what the files are is told in `asdray.dcase.truth_files`.

Every row is checked against itself and the year, and entered by its clip's name: the order of rows means
nothing. A row that is wrong is told with its file and line, and the rows after it are read all the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asdray.dcase.names import ClipName, build_name, is_hidden, parse_name
from asdray.dcase.years import SUBSETS, Year, check_machines

Key = tuple[str, str]
"""(machine, anonymous name)"""

Published = tuple[str, str, str, str]
"""(subset, machine, split, file name as published)"""


@dataclass(frozen=True)
class Claim:
    """What one source says of one anonymous clip; None where it is silent."""

    is_anomaly: bool | None = None
    domain: str | None = None
    labelled: ClipName | None = None


@dataclass
class Source:
    """What one list, one of the evaluator's folders, or one correspondence says.

    Attributes:
        kind: a list's file name, `EVALUATOR` or `CORRESPONDENCE`.
        path: the file or folder.
        clips: per anonymous clip of the eval test.
        revealed: the hidden attributes of published names.
        faults: what is wrong with its rows.
    """

    kind: str
    path: Path
    clips: dict[Key, Claim] = field(default_factory=dict)
    revealed: dict[Published, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def row(self) -> Iterator[None]:
        """Notes what the block says is wrong, and lets the next row be read."""
        try:
            yield
        except ValueError as error:
            self.faults.append(str(error))


# ----------------------------------------------------------------------------------------------- a file


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(``file, line n``, fields) of every row that is not blank."""
    empty = True
    try:
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        for fields in reader:
            if any(f.strip() for f in fields):
                empty = False
                yield f"{path}, line {reader.line_num}", [f.strip() for f in fields]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is not a text file in UTF-8: fetch it again") from None
    except OSError as error:
        raise ValueError(unreadable(error)) from None
    if empty:
        raise ValueError(f"{path} is empty: fetch it again")


def read_list(source: Source, year: Year, path: Path) -> None:
    """The one-file list."""
    machine, is_known = None, False
    for where, row in _rows(path):
        with source.row():
            if len(row) == 1:
                machine, is_known = row[0], False
                _check_eval_machine(machine, year, where)
                is_known = True
            elif machine is None or len(row) not in (2, 3):
                raise ValueError(
                    f"{where}: expected a machine, or 'anonymous name,labelled name' under one; got {row}"
                )
            elif is_known:  # else the machine's own row told what is wrong with all of these
                label = _bit(row[2], where) if len(row) == 3 else None
                _add(source, year, machine, row[0], where, is_anomaly=label, labelled_name=row[1])


def read_evaluator_file(
    source: Source, year: Year, path: Path, machine: str, section: int, domain: str | None
) -> None:
    """One file of the evaluator's folders; 2021 has one per domain."""
    _check_eval_machine(machine, year, str(path))
    for where, row in _rows(path):
        with source.row():
            if len(row) < 2:
                raise ValueError(f"{where}: expected 'name,value', got {row}")
            if source.path.name == "ground_truth_data":
                label = _bit(row[1], where)
                _add(source, year, machine, row[0], where, section, is_anomaly=label, domain=domain)
            elif source.path.name == "ground_truth_domain":
                told = "target" if _bit(row[1], where) else "source"
                _add(source, year, machine, row[0], where, section, domain=told)
            else:
                _add(source, year, machine, row[0], where, section, domain=domain, labelled_name=row[1])
                if len(row) > 2 and row[2]:
                    published = _parse(year, "eval", "test", _wav(row[1]), where)
                    _reveal(source, year, ("eval", machine, "test", _wav(row[0])), published, row[2], where)


def read_attribute_table(source: Source, year: Year, path: Path, machine: str, section: int) -> None:
    """2022: a header, the anonymous name in the first column, the labelled one in the last, with folders."""
    _check_eval_machine(machine, year, str(path))
    rows = _rows(path)
    where, header = next(rows)
    if header[0] != "file_name" or not header[-1].startswith("file_name_with"):
        raise ValueError(f"{where}: expected the header 'file_name,...,file_name_with_full_attributes'")
    for where, row in rows:
        with source.row():
            _add(source, year, machine, row[0], where, section, labelled_name=row[-1])


def read_correspondence(
    source: Source, year: Year, path: Path, machine: str, section: int, split: str
) -> None:
    try:
        check_machines(year.name, [machine])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # Dev and eval never share both machine and section.
    subset = next((s for s in year.subsets_of(machine) if section in year.sections[s][machine]), None)
    if subset is None:
        known = {s: year.sections[s][machine] for s in SUBSETS if machine in year.sections[s]}
        raise ValueError(f"{path}: {machine} has no section {section:02d} in {year.name} ({known})")
    rows = _rows(path)
    where, header = next(rows)
    if header != ["source_file_name", "target_file_name"]:
        raise ValueError(f"{where}: expected the header 'source_file_name,target_file_name', got {header}")
    for where, row in rows:
        with source.row():
            if len(row) != 2:
                raise ValueError(f"{where}: expected 'full name,published name', got {row}")
            published = _parse(year, subset, split, _wav(row[1]), where)
            name = build_name(year.name, subset, published)
            if published.section != section:
                raise ValueError(f"{where}: {name} is not of section {section:02d}, whose file this is")
            real = _reveal(source, year, (subset, machine, split, name), published, row[0], where)
            if published.is_anomaly is None:
                source.clips[machine, name] = Claim(real.is_anomaly, real.domain)


# ------------------------------------------------------------------------------------------------ a row


def unreadable(error: OSError) -> str:
    """What to say of a file or folder that the system does not let us read."""
    return f"{error.filename}: cannot be read ({error.strerror})"


def _check_eval_machine(machine: str, year: Year, where: str) -> None:
    try:
        check_machines(year.name, [machine])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if machine not in year.machines["eval"]:
        raise ValueError(f"{where}: {machine} is not an eval machine of {year.name}")


def _bit(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{where}: expected 0 or 1, got {text!r}")
    return text == "1"


def _wav(text: str) -> str:
    """A clip's file name, which some files write with folders or without ``.wav``."""
    name = PurePosixPath(text).name
    return name if name.endswith(".wav") else name + ".wav"


def _parse(year: Year, subset: str, split: str, name: str, where: str) -> ClipName:
    try:
        return parse_name(year.name, subset, split, name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _add(
    source: Source,
    year: Year,
    machine: str,
    name: str,
    where: str,
    section: int | None = None,
    *,
    is_anomaly: bool | None = None,
    domain: str | None = None,
    labelled_name: str | None = None,
) -> None:
    """Enters one row after checking it against itself: names tell section, domain and label again."""
    name = _wav(name)
    if (machine, name) in source.clips:
        raise ValueError(f"{where}: {machine} {name} occurs twice")
    clip = _parse(year, "eval", "test", name, where)
    labelled = _parse(year, "eval", "test", _wav(labelled_name), where) if labelled_name else None
    if clip.is_anomaly is not None or (labelled and labelled.is_anomaly is None):
        raise ValueError(f"{where}: expected an anonymous name first and a labelled one second")
    sections = year.sections["eval"][machine]
    if clip.section not in sections or section not in (None, clip.section):
        raise ValueError(
            f"{where}: section {clip.section:02d} does not belong here ({machine} has {sections})"
        )
    if domain and clip.domain not in (None, domain):
        raise ValueError(f"{where}: {name} and the domain {domain} contradict each other")
    domain = domain or clip.domain
    if labelled and (
        labelled.section != clip.section
        or domain not in (None, labelled.domain)
        or is_anomaly not in (None, labelled.is_anomaly)
    ):
        raise ValueError(f"{where}: {name} and {labelled_name} contradict each other")
    if labelled:
        is_anomaly, domain = labelled.is_anomaly, labelled.domain
    source.clips[machine, name] = Claim(is_anomaly, domain, labelled)


def _reveal(
    source: Source, year: Year, clip: Published, published: ClipName, real_name: str, where: str
) -> ClipName:
    """Enters the real name of a clip, which may differ from the published one in attributes and index."""
    subset, machine, split, name = clip
    real = _parse(year, subset, split, _wav(real_name), where)
    if (
        real.is_anomaly is None
        or real.section != published.section
        or published.domain not in (None, real.domain)
        or published.is_anomaly not in (None, real.is_anomaly)
        or not agree(published.attributes, real.attributes)
    ):
        raise ValueError(f"{where}: {name} and {real_name} contradict each other")
    if clip in source.revealed:
        raise ValueError(f"{where}: {machine} {name} occurs twice")
    source.revealed[clip] = real.attributes
    return real


def agree(told: str, real: str) -> bool:
    """Whether the attributes of a published name are the real ones, or do not tell."""
    return told == real or not told or is_hidden(told)
