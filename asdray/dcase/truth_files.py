"""The files that tell the eval test clips' labels and the hidden attributes, as their authors release them.

Found by their names, anywhere below a folder (a clone of an upstream repository, or its files alone):

* the one-file list ``eval_data_list_<year>.csv``: a row with one field opens a machine, the rows after it
  are ``anonymous name,labelled name`` (2020: and the label, 0 or 1);
* the evaluator's folders ``ground_truth_data`` (``name,label``), ``ground_truth_domain``
  (``name,domain``) and ``ground_truth_attributes`` (``name,labelled name``, in 2024 also the name with
  the hidden attributes), one file per machine and section; 1 = anomaly, 1 = target;
* ``<machine>/attributes_<SS>_<train|test>_correspondence.csv``: ``source_file_name,target_file_name``, the
  name with the hidden attributes and the published one (in the 2025 eval test the anonymous one).

`asdray.dcase.truth_rows` reads each of them; the order of files and machines means nothing. Whether sources
agree with each other is for `asdray.dcase.ground_truth`.

Source: nttcslab/dcase2023_task2_baseline_ae (lists, correspondences); y-kawagu/dcase2021_task2_evaluator,
Kota-Dohi/dcase2022_evaluator, nttcslab/dcase2023_task2_evaluator and its successors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from asdray.dcase.names import is_clutter
from asdray.dcase.truth_rows import (
    Source,
    read_attribute_table,
    read_correspondence,
    read_evaluator_file,
    read_list,
    unreadable,
)
from asdray.dcase.years import Year, get_year

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
_FOLDER_OF_A_YEAR = re.compile(r"(dcase)?(?P<year>20[0-9]{2})(t2|.*evaluator.*)?", re.IGNORECASE)

_TOLD = 10
"""Bad rows of one file that are told; of the others only the number."""


class WrongGroundTruthError(ValueError):
    """What is wrong with the files of a folder: ``faults`` has a line for each fault, the place first."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def read_sources(folder: Path, dcase: str) -> list[Source]:
    """Every source of the year below ``folder``, the best first: evaluator, lists, correspondences.

    Files of other years and folders that are named after another year are left alone.

    Raises:
        WrongGroundTruthError: a file of the evaluator's folders with an unknown name; an empty file; what
            cannot be read; a row, name, machine or section that does not fit the year; a clip that occurs
            twice in one source. All of them are told, with file and line.
    """
    year = get_year(dcase)
    lists = {f"eval_data_list_{year.year}.csv"}
    if year.year == 2020:
        lists.add("eval_data_list.csv")  # the organisers' own name for it
    evaluator: dict[Path, Source] = {}
    others: list[Source] = []
    correspondences: list[Source] = []
    faults: list[str] = []

    def read(source: Source, reader: Callable[..., None], path: Path, *more: object) -> None:
        with source.row():
            reader(source, year, path, *more)
        faults.extend(source.faults[:_TOLD])
        if (n := len(source.faults) - _TOLD) > 0:
            faults.append(f"{path}: and {n} more row{'s' * (n > 1)}")
        source.faults.clear()

    for path in _files(folder, year, faults):
        kind_folder = next((p for p in path.parents if p.name in KINDS and p.is_relative_to(folder)), None)
        if path.name in lists:
            others.append(Source(path.name, path))
            read(others[-1], read_list, path)
        elif match := _CORRESPONDENCE_FILE.fullmatch(path.name):
            correspondences.append(Source(CORRESPONDENCE, path))
            place = match["machine"] or path.parent.name, int(match["section"]), match["split"]
            read(correspondences[-1], read_correspondence, path, *place)
        elif kind_folder is not None and path.suffix == ".csv":
            source = evaluator.setdefault(kind_folder, Source(EVALUATOR, kind_folder))
            if match := _FILE.fullmatch(path.name):
                place = match["machine"], int(match["section"]), match["domain"]
                read(source, read_evaluator_file, path, *place)
            elif match := _ATTRIBUTE_FILE.fullmatch(path.name):
                read(source, read_attribute_table, path, path.parent.name, int(match["section"]))
            else:
                faults.append(
                    f"{path} is no ground truth of {dcase}: expected "
                    "ground_truth_<machine>_section_<SS>_test.csv (move it, or restore its name)"
                )
    if faults:
        raise WrongGroundTruthError(faults)
    return [*(evaluator[p] for p in sorted(evaluator, key=_by_kind)), *others, *correspondences]


def _by_kind(folder: Path) -> tuple[int, Path]:
    return KINDS.index(folder.name), folder


def holds_files(folder: Path) -> bool:
    """Whether there is any file below that is not hidden; also where that cannot be told."""
    if not os.path.lexists(folder):
        return False
    faults: list[str] = []
    return next(_files(folder, None, faults), None) is not None or bool(faults)


def _files(folder: Path, year: Year | None, faults: list[str]) -> Iterator[Path]:
    """Every file below, sorted; hidden ones, and folders of another year, left out.

    A folder that cannot be read is told in ``faults``.
    """

    def unread(error: OSError) -> None:
        faults.append(unreadable(error))

    seen = set()
    for root, below, files in os.walk(folder, onerror=unread, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may lead in circles
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not is_clutter(name) and not _foreign(name, year))
        yield from (Path(root, name) for name in sorted(files) if not is_clutter(name))


def _foreign(folder: str, year: Year | None) -> bool:
    match = _FOLDER_OF_A_YEAR.fullmatch(folder)
    return match is not None and year is not None and int(match["year"]) != year.year
