"""Files of ground truth as their authors release them: labels, domains, and hidden attributes.

The organisers publish the labels of the eval test clips after a challenge, in several forms. Files are found
by name anywhere below a folder (a clone of an upstream repository, or its files alone):

* the list ``eval_data_list_<year>.csv``: a row with one field opens a machine, and the rows below are
  ``anonymous name,labelled name`` (2020: also the label, 0 or 1);
* the official evaluator's folders ``ground_truth_data`` (``name,label``), ``ground_truth_domain``
  (``name,domain``) and ``ground_truth_attributes`` (``name,labelled name``, in 2024 also the name with
  the hidden attributes), one file per machine and section;
* ``<machine>/attributes_<SS>_<train|test>_correspondence.csv``: ``source_file_name,target_file_name``, the
  name with the hidden attributes and the published name (in the 2025 eval test the anonymous name).

Conventions: label 1 = anomaly, domain 1 = target. The order of files, machines and rows means nothing; each
row is checked against its own names and the year. A wrong row is reported as ``<file>, line <n>: ...`` and
reading goes on. Files of other years are ignored. `asdray.dcase.truth` compares the sources.

>>> import pathlib, tempfile
>>> from asdray.dcase.truth_files import read_sources
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder, "eval_data_list_2021.csv")
...     text = "fan\\nsection_03_source_test_0000.wav,section_03_source_test_anomaly_0007.wav\\n"
...     _ = path.write_text(text)
...     [source] = read_sources(path.parent, "dcase2021")
>>> source.clips["fan", "section_03_source_test_0000.wav"].is_anomaly
True

Source: nttcslab/dcase2023_task2_baseline_ae (lists, correspondences); y-kawagu/dcase2021_task2_evaluator,
Kota-Dohi/dcase2022_evaluator, nttcslab/dcase2023_task2_evaluator and its successors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asdray.dcase.manifest import unreadable
from asdray.dcase.names import ClipName, build_name, is_clutter, is_hidden, parse_name
from asdray.dcase.years import SUBSETS, Year, check_machines, get_year
from asdray.regular import read_rows

EVALUATOR = "evaluator"
CORRESPONDENCE = "correspondence"
"""`Source.kind` of the evaluator's folders and of correspondences; the kind of a list is its file name."""

KINDS = ("ground_truth_data", "ground_truth_domain", "ground_truth_attributes")

_FILE = re.compile(
    r"ground_truth_(?P<machine>.+)_section_(?P<section>[0-9]{2})(_(?P<domain>source|target))?_test\.csv"
)
_ATTRIBUTE_FILE = re.compile(r"attributes_(?P<section>[0-9]{2})\.csv")
_CORRESPONDENCE_FILE = re.compile(
    r"attributes_((?P<machine>[A-Za-z0-9]+)_)?(section_)?(?P<section>[0-9]{2})_(?P<split>train|test)"
    r"_correspondence\.csv"
)
_FOLDER_OF_A_YEAR = re.compile(r"(dcase)?(?P<year>20[0-9]{2})(t2|.*evaluator.*)?", re.IGNORECASE)

_REPORTED = 10
"""Wrong rows of one file that are reported in full; further rows are only counted."""

Key = tuple[str, str]
"""(machine, anonymous name)"""

Published = tuple[str, str, str, str]
"""(subset, machine, split, file name as published)"""


@dataclass(frozen=True)
class Claim:
    """One source's facts about one anonymous clip; None = not in this source."""

    is_anomaly: bool | None = None
    domain: str | None = None
    labelled: ClipName | None = None


@dataclass
class Source:
    """Content of one list, one folder of the evaluator, or one correspondence.

    Attributes:
        kind: a list's file name, `EVALUATOR` or `CORRESPONDENCE`.
        path: the file or folder.
        clips: facts per anonymous clip of the eval test split.
        revealed: real attributes per published name that hides them.
        faults: wrong rows, each with file and line.
    """

    kind: str
    path: Path
    year: Year
    clips: dict[Key, Claim] = field(default_factory=dict)
    revealed: dict[Published, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def read(self, reader: Callable[..., None], path: Path, *place: object) -> list[str]:
        """Reads a file with a method of this class; returns its faults, the first ones in full."""
        self.faults.clear()
        try:
            reader(self, path, *place)
        except ValueError as error:
            self.faults.append(str(error))
        n = len(self.faults) - _REPORTED
        more = [f"{path}: and {n} more row{'s' * (n > 1)}"] if n > 0 else []
        return [*self.faults[:_REPORTED], *more]

    def read_list(self, path: Path) -> None:
        """Reads the one-file list."""
        machine, is_known = None, False
        for where, row in _rows(path):
            with self._row(where):
                if len(row) == 1:
                    machine, is_known = row[0], False
                    self._check_eval_machine(machine)
                    is_known = True
                elif machine is None or len(row) not in (2, 3):
                    raise ValueError(
                        f"expected a machine, or 'anonymous name,labelled name' under one; got {row}"
                    )
                elif is_known:  # else the fault of the machine's own row covers all its clips
                    label = _bit(row[2]) if len(row) == 3 else None
                    self._add(machine, row[0], is_anomaly=label, labelled_name=row[1])

    def read_evaluator_file(self, path: Path, machine: str, section: int, domain: str | None) -> None:
        """Reads one file of the evaluator's folders; 2021 has one per domain."""
        with _at(path):
            self._check_eval_machine(machine)
        for where, row in _rows(path):
            with self._row(where):
                if len(row) < 2:
                    raise ValueError(f"expected 'name,value', got {row}")
                if self.path.name == "ground_truth_data":
                    self._add(machine, row[0], section, is_anomaly=_bit(row[1]), domain=domain)
                elif self.path.name == "ground_truth_domain":
                    self._add(machine, row[0], section, domain="target" if _bit(row[1]) else "source")
                else:
                    self._add(machine, row[0], section, domain=domain, labelled_name=row[1])
                    if len(row) > 2 and row[2]:
                        published = self._parse("eval", "test", row[1])
                        self._reveal(("eval", machine, "test", _wav(row[0])), published, row[2])

    def read_attribute_table(self, path: Path, machine: str, section: int) -> None:
        """Reads a table of 2022: a header; anonymous name first, labelled name last, both with folders."""
        with _at(path):
            self._check_eval_machine(machine)
        rows = _rows(path)
        where, header = next(rows)
        if header[0] != "file_name" or not header[-1].startswith("file_name_with"):
            raise ValueError(f"{where}: expected the header 'file_name,...,file_name_with_full_attributes'")
        for where, row in rows:
            with self._row(where):
                self._add(machine, row[0], section, labelled_name=row[-1])

    def read_correspondence(self, path: Path, machine: str, section: int, split: str) -> None:
        """Reads full and published names of one machine, section and split."""
        year = self.year
        with _at(path):
            check_machines(year.name, [machine])
            known = {s: year.sections[s][machine] for s in SUBSETS if machine in year.sections[s]}
            # Dev and eval never share both machine and section.
            subset = next((s for s, sections in known.items() if section in sections), None)
            if subset is None:
                raise ValueError(f"{machine} has no section {section:02d} in {year.name} ({known})")
        rows = _rows(path)
        where, header = next(rows)
        if header != ["source_file_name", "target_file_name"]:
            raise ValueError(
                f"{where}: expected the header 'source_file_name,target_file_name', got {header}"
            )
        for where, row in rows:
            with self._row(where):
                if len(row) != 2:
                    raise ValueError(f"expected 'full name,published name', got {row}")
                published = self._parse(subset, split, row[1])
                name = build_name(year.name, subset, published)
                if published.section != section:
                    raise ValueError(f"{name} is not of section {section:02d}, whose file this is")
                real = self._reveal((subset, machine, split, name), published, row[0])
                if published.is_anomaly is None:
                    self.clips[machine, name] = Claim(real.is_anomaly, real.domain)

    @contextmanager
    def _row(self, where: str) -> Iterator[None]:
        """Adds the block's ValueError to the faults and goes on."""
        try:
            yield
        except ValueError as error:
            self.faults.append(f"{where}: {error}")

    def _check_eval_machine(self, machine: str) -> None:
        check_machines(self.year.name, [machine])
        if machine not in self.year.machines["eval"]:
            raise ValueError(f"{machine} is not an eval machine of {self.year.name}")

    def _parse(self, subset: str, split: str, name: str) -> ClipName:
        return parse_name(self.year.name, subset, split, _wav(name))

    def _add(
        self,
        machine: str,
        name: str,
        section: int | None = None,
        *,
        is_anomaly: bool | None = None,
        domain: str | None = None,
        labelled_name: str | None = None,
    ) -> None:
        """Enters one row, after a check against its names, which repeat section, domain and label."""
        name = _wav(name)
        if (machine, name) in self.clips:
            raise ValueError(f"{machine} {name} occurs twice")
        clip = self._parse("eval", "test", name)
        if labelled_name == "":
            raise ValueError(f"expected the labelled name of {name}, got an empty field")
        labelled = self._parse("eval", "test", labelled_name) if labelled_name else None
        if clip.is_anomaly is not None or (labelled and labelled.is_anomaly is None):
            raise ValueError("expected an anonymous name first and a labelled one second")
        sections = self.year.sections["eval"][machine]
        if clip.section not in sections or section not in (None, clip.section):
            raise ValueError(f"section {clip.section:02d} does not belong here ({machine} has {sections})")
        if domain and clip.domain not in (None, domain):
            raise ValueError(f"{name} and the domain {domain} contradict each other")
        domain = domain or clip.domain
        if labelled and (
            labelled.section != clip.section
            or domain not in (None, labelled.domain)
            or is_anomaly not in (None, labelled.is_anomaly)
        ):
            raise ValueError(f"{name} and {labelled_name} contradict each other")
        if labelled:
            is_anomaly, domain = labelled.is_anomaly, labelled.domain
        self.clips[machine, name] = Claim(is_anomaly, domain, labelled)

    def _reveal(self, clip: Published, published: ClipName, real_name: str) -> ClipName:
        """Enters a clip's real name, which may differ from the published name in attributes and index."""
        subset, machine, split, name = clip
        real = self._parse(subset, split, real_name)
        if (
            real.is_anomaly is None
            or real.section != published.section
            or published.domain not in (None, real.domain)
            or published.is_anomaly not in (None, real.is_anomaly)
            or not agree(published.attributes, real.attributes)
        ):
            raise ValueError(f"{name} and {real_name} contradict each other")
        if clip in self.revealed:
            raise ValueError(f"{machine} {name} occurs twice")
        self.revealed[clip] = real.attributes
        return real


def agree(published: str, real: str) -> bool:
    """True if published attributes are the real ones, or are hidden or absent."""
    return published == real or not published or is_hidden(published)


def _bit(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"expected 0 or 1, got {text!r}")
    return text == "1"


def _wav(text: str) -> str:
    """A clip's file name; some files write names with folders or without ``.wav``."""
    name = PurePosixPath(text).name
    return name if name.endswith(".wav") else name + ".wav"


@contextmanager
def _at(path: Path) -> Iterator[None]:
    """Puts the path before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(``<file>, line <n>``, fields) of every row that is not blank."""
    try:
        rows = read_rows(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8: fetch it again") from None
    except OSError as error:
        raise ValueError(unreadable(error)) from None
    except ValueError as error:
        raise ValueError(f"{path}, {error}: fetch it again") from None
    if not rows:
        raise ValueError(f"{path} is empty: fetch it again")
    if all(len(row) == 1 for _, row in rows):  # Excel in countries with a decimal comma, or a pasted table
        rows = [(number, re.split("[;\t]", row[0])) for number, row in rows]
    yield from ((f"{path}, line {number}", _unpadded([f.strip() for f in row])) for number, row in rows)


def _unpadded(row: list[str]) -> list[str]:
    """A row without the empty fields with which a spreadsheet pads all rows to one width.

    A clip in front of an empty field stays two fields: its other name is missing.
    """
    while len(row) > 2 and not row[-1]:
        row.pop()
    return row[:1] if row[1:] == [""] and not row[0].endswith(".wav") else row


# ------------------------------------------------------------------------------------------------ folders


class WrongGroundTruthError(ValueError):
    """Faults of the files below a folder: ``faults`` has one line per fault, the place first."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def read_sources(folder: Path, dcase: str) -> list[Source]:
    """Every source of the year below ``folder``: evaluator, lists, correspondences (the best source first).

    Files of other years and folders named after another year are ignored.

    Raises:
        WrongGroundTruthError: a file of the evaluator's folders with an unknown name; an empty or unreadable
            file; a row, name, machine or section that does not fit the year; a clip that occurs twice in one
            source. All faults are listed, with file and line.
    """
    year = get_year(dcase)
    sources: dict[Path, Source] = {}
    faults: list[str] = []
    for path in _files(folder, year, faults):
        kind_folder = next((p for p in path.parents if p.name in KINDS and p.is_relative_to(folder)), None)
        if found := _reader(path, kind_folder, year):
            kind, place, reader = found
            at = kind_folder if kind == EVALUATOR and kind_folder else path
            source = sources.setdefault(at, Source(kind, at, year))
            faults += source.read(reader, path, *place)
        elif kind_folder is not None and path.suffix == ".csv":
            faults.append(
                f"{path} is no ground truth of {dcase}: expected "
                "ground_truth_<machine>_section_<SS>_test.csv (move it, or restore its name)"
            )
    if faults:
        raise WrongGroundTruthError(faults)

    def rank(source: Source) -> tuple[int, int, Path]:
        if source.kind == EVALUATOR:
            return 0, KINDS.index(source.path.name), source.path
        return 1 + (source.kind == CORRESPONDENCE), 0, Path()

    return sorted(sources.values(), key=rank)


def _reader(
    path: Path, kind_folder: Path | None, year: Year
) -> tuple[str, tuple[object, ...], Callable[..., None]] | None:
    """(kind, further arguments, method of `Source`) to read a file with; None for an unknown name."""
    if path.name in _lists(year):
        return path.name, (), Source.read_list
    if match := _CORRESPONDENCE_FILE.fullmatch(path.name):
        place = match["machine"] or path.parent.name, int(match["section"]), match["split"]
        return CORRESPONDENCE, place, Source.read_correspondence
    if kind_folder is None:
        return None
    if match := _FILE.fullmatch(path.name):
        place = match["machine"], int(match["section"]), match["domain"]
        return EVALUATOR, place, Source.read_evaluator_file
    if match := _ATTRIBUTE_FILE.fullmatch(path.name):
        return EVALUATOR, (path.parent.name, int(match["section"])), Source.read_attribute_table
    return None


def holds_files(folder: Path) -> bool:
    """True if a visible file lies anywhere below ``folder``, or if a folder below cannot be read."""
    if not os.path.lexists(folder):
        return False
    faults: list[str] = []
    return next(_files(folder, None, faults), None) is not None or bool(faults)


def folder_with_truth(folders: Iterable[Path], dcase: str) -> Path | None:
    """The first of some folders in which a list of the year, or a folder of the evaluator, lies itself."""
    year = get_year(dcase)
    for folder in folders:
        if any(os.path.isfile(folder / name) for name in _lists(year)) or any(
            os.path.isdir(folder / name) for name in KINDS
        ):
            return folder
    return None


def _lists(year: Year) -> list[str]:
    """The names of the year's list."""
    # The second is the organisers' own name of 2020.
    return [f"eval_data_list_{year.year}.csv", *(["eval_data_list.csv"] if year.year == 2020 else [])]


def _files(folder: Path, year: Year | None, faults: list[str]) -> Iterator[Path]:
    """Every visible file below, sorted, without folders of another year; unreadable folders are faults."""
    seen = set()
    for root, below, files in os.walk(
        folder, onerror=lambda e: faults.append(unreadable(e)), followlinks=True
    ):
        real = os.path.realpath(root)
        if real in seen:  # a circular link
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not is_clutter(name) and not _is_foreign(name, year))
        yield from (Path(root, name) for name in sorted(files) if not is_clutter(name))


def _is_foreign(folder: str, year: Year | None) -> bool:
    match = _FOLDER_OF_A_YEAR.fullmatch(folder)
    return match is not None and year is not None and int(match["year"]) != year.year
