"""Labels and domains of the anonymous eval test clips, read from the files the organisers release.

Two official forms, either or both of which may lie in a folder (or one level below it, as clones of the
organisers' repositories do). Rows are joined by clip name, never by order; line ends may be LF or CRLF.

* the one-file list ``eval_data_list_<year>.csv``: a row with one field opens a machine, the rows after it
  are ``anonymous name,labelled name`` (2020: and the label, 0 or 1);
* the evaluator's folders ``ground_truth_data`` (``name,label``), ``ground_truth_domain``
  (``name,domain``) and ``ground_truth_attributes`` (``name,labelled name``), one file per machine and
  section; 1 = anomaly, 1 = target.

Nothing is guessed: sources that contradict each other are an error, what no source tells is None.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asdray.dcase.names import build_name, parse_name
from asdray.dcase.years import check_machines, get_year

EVALUATOR = "evaluator"
"""`Truth.source` of labels from the evaluator's folders."""

# The released labelled names of these machines belong to other clips: their label and domain are
# independent of those that the official ranking was computed with. Only the evaluator's label and domain
# files are right; the attributes of these clips were never published.
_WRONG_LABELLED_NAMES = {("dcase2022", "ToyCar"), ("dcase2022", "ToyTrain")}

_FILE = re.compile(r"ground_truth_(?P<machine>.+)_section_(?P<section>[0-9]{2})(_(source|target))?_test\.csv")
_ATTRIBUTE_FILE = re.compile(r"attributes_(?P<section>[0-9]{2})\.csv")

Key = tuple[str, str]
"""(machine, anonymous name)"""


@dataclass(frozen=True)
class Truth:
    """What is known of one anonymous clip; None = unknown.

    Attributes:
        is_anomaly: its label.
        domain: ``source`` or ``target``.
        labelled_name: its regular file name with domain, label and attributes.
        source: where the label came from: the list's file name, or ``evaluator``.
    """

    is_anomaly: bool | None
    domain: str | None
    labelled_name: str | None
    source: str | None


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth of a year's eval test clips."""

    dcase: str
    clips: Mapping[Key, Truth]

    def get(self, machine: str, name: str) -> Truth | None:
        """What is known of the clip, or None."""
        return self.clips.get((machine, name))


@dataclass
class _Source:
    """The claims of one list, or of one of the evaluator's folders."""

    label_source: str
    path: Path
    clips: dict[Key, Truth] = field(default_factory=dict)


def load_ground_truth(folder: Path, dcase: str) -> GroundTruth:
    """Reads every official file of the year in ``folder``.

    The labels and domains of 2022's ToyCar and ToyTrain come from ``ground_truth_data`` and
    ``ground_truth_domain`` alone, and their clips get no labelled name.

    Raises:
        ValueError: no such folder; no official file in it; a row, name, machine or section that does not
            fit the year (with file and line); a name that occurs twice; sources that contradict each
            other (with counts per machine).
    """
    year = get_year(dcase)
    if not folder.is_dir():
        raise ValueError(f"there is no ground-truth folder {folder}")
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    sources = []
    for base in (folder, *below):
        sources += _read_evaluator(base, dcase)
    for base in (folder, *below, *(p / "datasets" for p in below)):
        path = base / f"eval_data_list_{year.year}.csv"
        if path.is_file():
            sources.append(_read_list(path, dcase))
    if not sources:
        raise ValueError(
            f"{folder} holds no ground truth of {dcase}: expected eval_data_list_{year.year}.csv "
            "or the folders ground_truth_data, ground_truth_domain and ground_truth_attributes"
        )
    claims = _claims(sources, dcase)
    _refuse_contradictions(claims, folder)
    return GroundTruth(dcase, {key: _merge(said) for key, said in claims.items()})


# --------------------------------------------------------------------------------------------- reading


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(``file, line n``, fields) of every row that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file") from None
    for number, fields in enumerate(csv.reader(lines), 1):
        if any(fields):
            yield f"{path}, line {number}", [f.strip() for f in fields]


def _read_list(path: Path, dcase: str) -> _Source:
    """``eval_data_list_<year>.csv``."""
    source = _Source(path.name, path)
    machine = None
    for where, row in _rows(path):
        if len(row) == 1:
            machine = row[0]
            _check_eval_machine(machine, dcase, where)
        elif machine is None or len(row) not in (2, 3):
            raise ValueError(
                f"{where}: expected a machine, or 'anonymous name,labelled name' under one; got {row}"
            )
        else:
            label = _bit(row[2], where) if len(row) == 3 else None
            _add(source, dcase, machine, row[0], where, is_anomaly=label, labelled_name=row[1])
    return source


def _read_evaluator(base: Path, dcase: str) -> list[_Source]:
    """The evaluator's folders in ``base``, each a source of its own."""
    sources = []
    for kind in ("ground_truth_data", "ground_truth_domain", "ground_truth_attributes"):
        if not (base / kind).is_dir():
            continue
        source = _Source(EVALUATOR, base / kind)
        sources.append(source)
        for path in sorted((base / kind).rglob("*.csv")):
            if match := _FILE.fullmatch(path.name):
                _read_evaluator_file(path, kind, source, dcase, match["machine"], int(match["section"]))
            elif match := _ATTRIBUTE_FILE.fullmatch(path.name):
                _read_attribute_file(path, source, dcase, path.parent.name, int(match["section"]))
            else:
                raise ValueError(
                    f"{path} is no ground truth of {dcase}: "
                    "expected ground_truth_<machine>_section_<SS>_test.csv"
                )
    return sources


def _read_evaluator_file(
    path: Path, kind: str, source: _Source, dcase: str, machine: str, section: int
) -> None:
    _check_eval_machine(machine, dcase, str(path))
    for where, row in _rows(path):
        if len(row) < 2:
            raise ValueError(f"{where}: expected 'name,value', got {row}")
        if kind == "ground_truth_data":
            _add(source, dcase, machine, row[0], where, section, is_anomaly=_bit(row[1], where))
        elif kind == "ground_truth_domain":
            domain = "target" if _bit(row[1], where) else "source"
            _add(source, dcase, machine, row[0], where, section, domain=domain)
        else:  # a third column, where there is one, holds attributes that the audio's names hide
            name = row[1] if row[1].endswith(".wav") else row[1] + ".wav"
            _add(source, dcase, machine, row[0], where, section, labelled_name=name)


def _read_attribute_file(path: Path, source: _Source, dcase: str, machine: str, section: int) -> None:
    """2022: a header, the anonymous name in the first column, the labelled one in the last, with folders."""
    _check_eval_machine(machine, dcase, str(path))
    rows = _rows(path)
    where, header = next(rows, (str(path), []))
    if not header or header[0] != "file_name" or not header[-1].startswith("file_name_with"):
        raise ValueError(f"{where}: expected the header 'file_name,...,file_name_with_full_attributes'")
    for where, row in rows:
        names = [PurePosixPath(row[i]).name for i in (0, -1)]
        _add(source, dcase, machine, names[0], where, section, labelled_name=names[1])


def _check_eval_machine(machine: str, dcase: str, where: str) -> None:
    try:
        check_machines(dcase, [machine])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if machine not in get_year(dcase).machines["eval"]:
        raise ValueError(f"{where}: {machine} is not an eval machine of {dcase}")


def _bit(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{where}: expected 0 or 1, got {text!r}")
    return text == "1"


def _add(
    source: _Source,
    dcase: str,
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
    if (machine, name) in source.clips:
        raise ValueError(f"{where}: {machine} {name} occurs twice")
    try:
        clip = parse_name(dcase, "eval", "test", name)
        labelled = parse_name(dcase, "eval", "test", labelled_name) if labelled_name else None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if clip.is_anomaly is not None or (labelled and labelled.is_anomaly is None):
        raise ValueError(f"{where}: expected an anonymous name first and a labelled one second")
    sections = get_year(dcase).sections["eval"][machine]
    if clip.section not in sections or section not in (None, clip.section):
        raise ValueError(
            f"{where}: section {clip.section:02d} does not belong here ({machine} has {sections})"
        )
    if labelled and (
        labelled.section != clip.section
        or clip.domain not in (None, labelled.domain)
        or is_anomaly not in (None, labelled.is_anomaly)
    ):
        raise ValueError(f"{where}: {name} and {labelled_name} contradict each other")
    if labelled:
        is_anomaly, domain = labelled.is_anomaly, labelled.domain
    source.clips[machine, name] = Truth(
        is_anomaly=is_anomaly,
        domain=domain or clip.domain,
        labelled_name=build_name(dcase, "eval", labelled) if labelled else None,
        source=source.label_source,
    )


# --------------------------------------------------------------------------------------------- merging


Claims = dict[Key, list[tuple[_Source, Truth]]]


def _claims(sources: list[_Source], dcase: str) -> Claims:
    """Every source's word on every clip, the best source first, without the names known to be wrong."""
    claims: Claims = {}
    for source in sources:
        for key, truth in source.clips.items():
            said = claims.setdefault(key, [])
            if truth.labelled_name is None or (dcase, key[0]) not in _WRONG_LABELLED_NAMES:
                said.append((source, truth))
    return claims


def _refuse_contradictions(claims: Claims, folder: Path) -> None:
    """Raises one message that counts, per machine and kind of fact, the clips that sources disagree on."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], str] = {}
    for (machine, name), said in claims.items():
        for what in ("is_anomaly", "domain", "labelled_name"):
            values = {source.path: value for source, t in said if (value := getattr(t, what)) is not None}
            if len(set(values.values())) > 1:
                files = " against ".join(str(path.relative_to(folder)) for path in values)
                place = (machine, {"is_anomaly": "label"}.get(what, what), files)
                counts[place] += 1
                example.setdefault(place, name)
    owners: dict[tuple[str, str], set[str]] = {}
    for (machine, name), said in claims.items():
        for _, truth in said:
            if truth.labelled_name:
                owners.setdefault((machine, truth.labelled_name), set()).add(name)
    for (machine, labelled), names in owners.items():
        if len(names) > 1:
            place = (machine, "labelled_name", "one name for several clips")
            counts[place] += 1
            example.setdefault(place, labelled)
    if counts:
        lines = [
            f"  {machine}: {n} x {what} ({sources}), for example {example[machine, what, sources]}"
            for (machine, what, sources), n in sorted(counts.items())
        ]
        raise ValueError("\n".join([f"the ground truth in {folder} contradicts itself:", *lines]))


def _merge(said: list[tuple[_Source, Truth]]) -> Truth:
    """One record of claims that agree."""

    def first(what: str):
        return next((v for _, truth in said if (v := getattr(truth, what)) is not None), None)

    return Truth(
        is_anomaly=first("is_anomaly"),
        domain=first("domain"),
        labelled_name=first("labelled_name"),
        source=next((t.source for _, t in said if t.is_anomaly is not None), None),
    )
