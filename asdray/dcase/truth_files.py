"""The files that tell the eval test clips' labels and the hidden attributes, as their authors release them.

Found by their names, anywhere below a folder (a clone of an upstream repository, or its files alone):

* the one-file list ``eval_data_list_<year>.csv``: a row with one field opens a machine, the rows after it
  are ``anonymous name,labelled name`` (2020: and the label, 0 or 1);
* the evaluator's folders ``ground_truth_data`` (``name,label``), ``ground_truth_domain``
  (``name,domain``) and ``ground_truth_attributes`` (``name,labelled name``, in 2024 also the name with
  the hidden attributes), one file per machine and section; 1 = anomaly, 1 = target;
* ``<machine>/attributes_<SS>_<train|test>_correspondence.csv``: ``source_file_name,target_file_name``, the
  name with the hidden attributes and the published one (in the 2025 eval test the anonymous one).

Every row is checked against itself and the year, and entered by its clip's name: the order of rows, files
and machines means nothing. Whether sources agree with each other is for `asdray.dcase.ground_truth`.

Source: nttcslab/dcase2023_task2_baseline_ae (lists, correspondences); y-kawagu/dcase2021_task2_evaluator,
Kota-Dohi/dcase2022_evaluator, nttcslab/dcase2023_task2_evaluator and its successors.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asdray.dcase.names import ClipName, build_name, is_hidden, parse_name
from asdray.dcase.years import SUBSETS, Year, check_machines, get_year

EVALUATOR = "evaluator"
CORRESPONDENCE = "correspondence"
"""`Source.kind` of the evaluator's folders and of correspondences; a list's kind is its file name."""

KINDS = ("ground_truth_data", "ground_truth_domain", "ground_truth_attributes")

_FILE = re.compile(
    r"ground_truth_(?P<machine>.+)_section_(?P<section>[0-9]{2})(_(?P<domain>source|target))?_test\.csv"
)
_ATTRIBUTE_FILE = re.compile(r"attributes_(?P<section>[0-9]{2})\.csv")
_CORRESPONDENCE_FILE = re.compile(
    r"attributes_((?P<machine>[A-Za-z0-9]+)_)?(section_)?(?P<section>[0-9]{2})_(?P<split>train|test)"
    r"_correspondence\.csv"
)
_FOLDER_OF_A_YEAR = re.compile(r"dcase(?P<year>20[0-9]{2})(t2|.*evaluator.*)?", re.IGNORECASE)

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
    """

    kind: str
    path: Path
    clips: dict[Key, Claim] = field(default_factory=dict)
    revealed: dict[Published, str] = field(default_factory=dict)


def read_sources(folder: Path, dcase: str) -> list[Source]:
    """Every source of the year below ``folder``, the best first: evaluator, lists, correspondences.

    Files of other years and folders that are named after another year are left alone.

    Raises:
        ValueError: a file of the evaluator's folders with an unknown name; an empty file; a row, name,
            machine or section that does not fit the year; a clip that occurs twice in one source. The
            message names the file and line.
    """
    year = get_year(dcase)
    lists = {f"eval_data_list_{year.year}.csv"}
    if year.year == 2020:
        lists.add("eval_data_list.csv")  # the organisers' own name for it
    evaluator: dict[Path, Source] = {}
    others: list[Source] = []
    correspondences: list[Source] = []
    for path in _files(folder, year):
        kind_folder = next((p for p in path.parents if p.name in KINDS and p.is_relative_to(folder)), None)
        if path.name in lists:
            others.append(Source(path.name, path))
            _read_list(others[-1], year)
        elif match := _CORRESPONDENCE_FILE.fullmatch(path.name):
            correspondences.append(Source(CORRESPONDENCE, path))
            machine = match["machine"] or path.parent.name
            _read_correspondence(correspondences[-1], year, machine, int(match["section"]), match["split"])
        elif kind_folder is not None and path.suffix == ".csv":
            source = evaluator.setdefault(kind_folder, Source(EVALUATOR, kind_folder))
            if match := _FILE.fullmatch(path.name):
                _read_evaluator_file(
                    source, year, path, match["machine"], int(match["section"]), match["domain"]
                )
            elif match := _ATTRIBUTE_FILE.fullmatch(path.name):
                _read_attribute_table(source, year, path, path.parent.name, int(match["section"]))
            else:
                raise ValueError(
                    f"{path} is no ground truth of {dcase}: expected "
                    "ground_truth_<machine>_section_<SS>_test.csv (move it, or restore its name)"
                )
    return [*(evaluator[p] for p in sorted(evaluator, key=_by_kind)), *others, *correspondences]


def _by_kind(folder: Path) -> tuple[int, Path]:
    return KINDS.index(folder.name), folder


def _files(folder: Path, year: Year) -> Iterator[Path]:
    """Every file below, sorted; hidden ones, and folders of another year, left out."""
    seen = set()
    for root, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may lead in circles
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith(".") and not _foreign(name, year))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _foreign(folder: str, year: Year) -> bool:
    match = _FOLDER_OF_A_YEAR.fullmatch(folder)
    return match is not None and int(match["year"]) != year.year


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
    if empty:
        raise ValueError(f"{path} is empty: fetch it again")


def _read_list(source: Source, year: Year) -> None:
    machine = None
    for where, row in _rows(source.path):
        if len(row) == 1:
            machine = row[0]
            _check_eval_machine(machine, year, where)
        elif machine is None or len(row) not in (2, 3):
            raise ValueError(
                f"{where}: expected a machine, or 'anonymous name,labelled name' under one; got {row}"
            )
        else:
            label = _bit(row[2], where) if len(row) == 3 else None
            _add(source, year, machine, row[0], where, is_anomaly=label, labelled_name=row[1])


def _read_evaluator_file(
    source: Source, year: Year, path: Path, machine: str, section: int, domain: str | None
) -> None:
    """One file of the evaluator's folders; 2021 has one per domain."""
    _check_eval_machine(machine, year, str(path))
    for where, row in _rows(path):
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


def _read_attribute_table(source: Source, year: Year, path: Path, machine: str, section: int) -> None:
    """2022: a header, the anonymous name in the first column, the labelled one in the last, with folders."""
    _check_eval_machine(machine, year, str(path))
    rows = _rows(path)
    where, header = next(rows)
    if header[0] != "file_name" or not header[-1].startswith("file_name_with"):
        raise ValueError(f"{where}: expected the header 'file_name,...,file_name_with_full_attributes'")
    for where, row in rows:
        _add(source, year, machine, row[0], where, section, labelled_name=row[-1])


def _read_correspondence(source: Source, year: Year, machine: str, section: int, split: str) -> None:
    try:
        check_machines(year.name, [machine])
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from None
    # Dev and eval never share both machine and section.
    subset = next((s for s in year.subsets_of(machine) if section in year.sections[s][machine]), None)
    if subset is None:
        known = {s: year.sections[s][machine] for s in SUBSETS if machine in year.sections[s]}
        raise ValueError(f"{source.path}: {machine} has no section {section:02d} in {year.name} ({known})")
    rows = _rows(source.path)
    where, header = next(rows)
    if header != ["source_file_name", "target_file_name"]:
        raise ValueError(f"{where}: expected the header 'source_file_name,target_file_name', got {header}")
    for where, row in rows:
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
