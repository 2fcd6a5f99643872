"""The official evaluation of submission folders, and the tables that the evaluators of each year write.

A submission is joined with the ground truth by clip name. Scores are fractions, None without a value (empty
in a table); clips outside the ground truth are an error, other files in the folder are ignored. In short::

    truth = load_ground_truth(Path("ground_truth"), "dcase2023")
    against = reference(truth, kind_of_truth(truth))
    systems, _, _ = find_systems(Path("submissions"))
    results = [evaluate(name, folder, against) for name, folder in systems.items()]
    write(results, Path("submissions_result"), against, compat=False)

``<system>_result.csv`` has three forms: 2020, 2021, and since 2022. 2021's holds the official score and the
harmonic means of each domain, 99 rows; the first versions of that evaluator wrote 81, without these.
``teams_*.csv`` are the tables over all systems of the evaluators since 2023, which 2022 gets too.

Two faults of the official evaluators are corrected unless ``compat`` is set:

* ``official score ci95`` (since 2022) is half the width of the interval of the official score. The
  original value is about a thousand times too small, see `interval.evaluators_ci95`.
* ``source harmonic mean`` and ``target harmonic mean`` of a machine in 2022 average the sections of that
  domain. The original splits the list of 3 source and 3 target values after the first value.

Without ``compat`` the additional file ``teams_official_score_ci95.csv`` holds the official score of each
system, both ends of its interval, and the kind of data. With ``compat`` the file ``dataset.txt`` marks
synthetic data.

If the ground truth lacks machines or sections, the official score and its interval are empty, unless
``compat`` or a partial score is requested; means over all machines then cover the known machines.

Source: the official evaluators of 2020-2024; of 2025 and 2026 their READMEs alone, which print the files,
their rows and columns, and totals of both baselines that follow from the printed values of the machines (see
``score_provenance`` in `dcase.years`). Differences: the file of 2020 is called ``result_<system>.csv``
there (and under ``compat``); the order of rounding differs, numbers agree to 1e-12.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdray import store
from asdray.aside import remove
from asdray.dcase.audit import official_counts
from asdray.dcase.manifest import SYNTHETIC_MARKS, unreadable
from asdray.dcase.names import is_clutter
from asdray.dcase.truth import GroundTruth
from asdray.dcase.years import Year, get_year
from asdray.evaluation import metrics, submission
from asdray.evaluation.interval import (
    Interval,
    SectionScores,
    evaluators_ci95,
    official_interval,
)
from asdray.evaluation.submission import Key, Part, Submission, csv_text
from asdray.printable import printable

LONGEST_NAME = 200
"""Bytes of a system's name: a file system takes 255, with ``_result.csv`` and marks of temporary files."""


@dataclass(frozen=True)
class SectionTruth:
    """The labels of one (machine, section), clips sorted by name; all arrays (N,)."""

    machine: str
    section: int
    names: tuple[str, ...]
    is_anomaly: NDArray[np.bool_]
    is_target: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """The ground truth of a year in the form that submissions are joined with.

    Attributes:
        sections: sorted by machine in ASCII order, then by section.
        parts: clip names of every file of a submission.
        labelled: (machine, labelled clip name) -> anonymous clip name, as far as known.
        dataset: ``official`` or ``synthetic``, see `kind_of_truth`.
    """

    year: Year
    sections: tuple[SectionTruth, ...]
    parts: Mapping[Part, tuple[str, ...]]
    labelled: Mapping[Key, str]
    dataset: str

    @property
    def fewest_clips(self) -> int:
        """The number of clips in the smallest cell of machine, section, domain and label."""
        counts = [np.bincount(2 * s.is_target + s.is_anomaly) for s in self.sections]
        return min(int(count[count > 0].min()) for count in counts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Machines, and sections of other machines, of the year's score that the ground truth lacks."""
        known = {(s.machine, s.section) for s in self.sections}
        found: list[str] = []
        for machine, sections in self.year.sections["eval"].items():
            absent = [section for section in sections if (machine, section) not in known]
            if len(absent) == len(sections):
                found.append(machine)
            else:
                found += [f"{machine} section {section:02d}" for section in absent]
        return tuple(found)

    @property
    def unlike(self) -> tuple[str, ...]:
        """Sections with other numbers of clips per domain and label than the organisers' ground truth has."""
        expected = official_counts(self.year.name)
        found: list[str] = []
        for s in self.sections:
            place = ("eval", s.machine, s.section)
            words = np.where(s.is_target, "target", "source"), np.where(s.is_anomaly, "anomaly", "normal")
            cells = Counter(("test", str(d), str(label)) for d, label in zip(*words, strict=True))
            known = {cell: n for cell, n in expected.cells[place].items() if cell[0] == "test"}
            if cells.total() != expected.splits[place]["test"] or (known and cells != Counter(known)):
                found.append(f"{s.machine} section {s.section:02d}")
        return tuple(found)


@dataclass(frozen=True)
class SectionResult:
    """The metrics of one (machine, section).

    ``values`` holds `metrics.METRICS`; ``{s,t}_precision``, ``{s,t}_recall``, ``{s,t}_f1`` and
    ``{s,t}_false_alarms``, the share of normal clips with the decision "anomaly", of each domain; and
    ``{s,t}_score``, the mean anomaly score of each domain's normal clips.
    """

    machine: str
    section: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class SystemResult:
    """The evaluation of one system.

    Attributes:
        official: the official score; None if the ground truth is incomplete, unless a partial score was
            requested.
        interval: 95 % interval of the official score; None with ``compat``.
        ci95: half the width of the interval; with ``compat`` the value that the official evaluator prints.
        ignored: names of CSV files in the system's folder that are not part of a submission.
    """

    name: str
    sections: tuple[SectionResult, ...]
    official: float | None
    interval: Interval | None
    ci95: float | None
    ignored: tuple[str, ...]


def kind_of_truth(truth: GroundTruth) -> str:
    """``synthetic`` if a folder above any file of the ground truth has the mark of a synthetic dataset.

    Folders above the path and above the target of a link count. Otherwise ``official``.
    """
    for path in truth.sources:
        for folder in (*path.absolute().parents, *path.resolve().parents):
            if any((folder / mark).exists() for mark in SYNTHETIC_MARKS):
                return "synthetic"
    return "official"


def reference(truth: GroundTruth, dataset: str = "official") -> Reference:
    """The ground truth by section.

    Args:
        dataset: ``official`` or ``synthetic``.

    Raises:
        ValueError: clips without label or domain, counted per machine.
    """
    year = get_year(truth.dcase)
    unknown = Counter(
        machine
        for (machine, _), clip in truth.clips.items()
        if clip.is_anomaly is None or (clip.domain is None and len(year.domains) > 1)
    )
    if unknown:
        counts = ", ".join(f"{machine} {n}" for machine, n in unknown.items())
        raise ValueError(
            f"the ground truth of {year.name} lacks the label or the domain of clips ({counts}): give the "
            "folder that holds the official evaluator's ground_truth_data and ground_truth_domain"
        )
    parts = submission.parts_of(year.name, "eval", truth.clips)
    names: dict[tuple[str, int], list[str]] = {}
    for part, of_part in parts.items():
        names.setdefault((part.machine, part.section), []).extend(of_part)
    sections = []
    for place, of_section in sorted(names.items()):
        clips = [truth.clips[place[0], name] for name in sorted(of_section)]
        is_anomaly = np.array([clip.is_anomaly for clip in clips], dtype=bool)
        is_target = np.array([clip.domain == "target" for clip in clips], dtype=bool)
        sections.append(SectionTruth(*place, tuple(sorted(of_section)), is_anomaly, is_target))
    labelled = {
        (machine, clip.labelled_name): name
        for (machine, name), clip in truth.clips.items()
        if clip.labelled_name is not None
    }
    return Reference(year, tuple(sections), parts, labelled, dataset)


def find_systems(folder: Path) -> tuple[dict[str, Path], list[Path], dict[str, str]]:
    """All systems in ``folder``: the folder itself, or subfolders one to three levels down.

    A package of the challenge is ``<team>/task2/<system>``. A system has the name of its folder, or
    ``<team>_<system>`` if two teams have systems of the same name.

    Returns:
        Name -> folder of every system, sorted by folder; the subfolders without a submission; and path ->
        fault of the folders that cannot be read or have no name for tables.

    Raises:
        ValueError: no system.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found: list[Path] = []
    empty: list[Path] = []
    faults: dict[str, str] = {}
    if _is_system(folder):
        found = [folder]
    for child in _subfolders(folder) if not found else ():
        try:
            below = list(_systems(child, 2))
        except OSError as error:
            faults[str(child)] = printable(unreadable(error))
            continue
        found += below
        if not below:
            empty.append(child)
    systems: dict[str, Path] = {}
    for name, paths in _named(folder, found).items():
        if fault := _name_fault(name, paths):
            faults |= {str(path): f"{printable(str(path))}: {fault}" for path in paths}
        else:
            systems[name] = paths[0]
    if not systems:
        raise ValueError(
            "\n".join(faults.values())
            or f"{folder} holds no submission: expected anomaly_score_*.csv in it, in <system>/, in "
            "<team>/<system>/ or in <team>/task2/<system>/ below it"
        )
    return systems, empty, faults


def _systems(folder: Path, depth: int) -> Iterator[Path]:
    """``folder`` if it is a system, else the systems at most ``depth`` levels down."""
    if _is_system(folder):
        yield folder
    elif depth:
        for child in _subfolders(folder):
            yield from _systems(child, depth - 1)


def _named(folder: Path, found: Sequence[Path]) -> dict[str, list[Path]]:
    """Name -> the folders below ``folder`` that get this name."""
    names = [printable(path.absolute().name) for path in found]
    counts = Counter(names)
    called: dict[str, list[Path]] = {}
    for name, path in zip(names, found, strict=True):
        above = [printable(part) for part in path.relative_to(folder).parts[:-1] if part != "task2"]
        called.setdefault(name if counts[name] == 1 else "_".join([*above, name]), []).append(path)
    return called


def _name_fault(name: str, paths: Sequence[Path]) -> str:
    """The fault of a system's name, ``""`` for a good one."""
    if len(paths) > 1:
        return f"{len(paths)} systems cannot be told apart by the name {name}: rename their folders"
    if name.endswith((".csv", ".txt")):
        return "a system cannot be called like a table: rename its folder"
    if len(os.fsencode(name)) > LONGEST_NAME:
        return f"the name is too long for its tables: rename its folder, to {LONGEST_NAME} bytes at most"
    return ""


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_clutter(p.name))


def _is_system(folder: Path) -> bool:
    """True if the folder holds a file of a submission; raises OSError if the folder cannot be read."""
    kinds = (f"{submission.SCORE}_", f"{submission.DECISION}_")
    return any(name.startswith(kinds) and name.endswith(".csv") for name in os.listdir(folder))


def evaluate(
    name: str,
    folder: Path,
    against: Reference,
    *,
    compat: bool = False,
    partial: bool = False,
) -> SystemResult:
    """Reads and evaluates one system.

    Args:
        compat: compute like the official evaluators: ``ci95`` with the faults of 2022-2024 (see
            `interval.evaluators_ci95`), no ``ci95`` before, no interval; implies ``partial``.
        partial: score the machines and sections of an incomplete ground truth.

    Raises:
        ValueError: an incomplete or damaged submission (see `submission.read`), or asdray's own submission
            of the other kind of data.
    """
    year = against.year
    _check_dataset(folder, against.dataset)
    given = submission.read(folder, year.name, against.parts, against.labelled)
    scored = []
    for t in against.sections:
        scores = np.array([given.scores[t.machine, n] for n in t.names])
        scored.append(SectionScores(t.machine, t.section, scores, t.is_anomaly, t.is_target))
    sections = tuple(
        SectionResult(truth.machine, truth.section, _values(truth, clips, given))
        for truth, clips in zip(against.sections, scored, strict=True)
    )
    counts = compat or partial or not against.missing
    interval = official_interval(year.score_rule, scored) if counts and not compat else None
    if compat:
        ci95 = evaluators_ci95(scored) if year.score_rule == "both_domains" else None
    else:
        ci95 = interval.half_width if interval else None
    official = total(year, sections) if counts else None
    return SystemResult(name, sections, official, interval, ci95, given.ignored)


def evaluate_all(
    systems: Mapping[str, Path], against: Reference, **options: Any
) -> tuple[list[SystemResult], dict[str, str]]:
    """Reads and evaluates systems, name -> folder, with the options of `evaluate`.

    Returns:
        The results, and name -> fault of the systems that could not be scored.

    Raises:
        ValueError: no system could be scored.
    """
    results: list[SystemResult] = []
    faults: dict[str, str] = {}
    for name, folder in systems.items():
        try:
            results.append(evaluate(name, folder, against, **options))
        except OSError as error:
            faults[name] = printable(unreadable(error))
        except ValueError as error:
            faults[name] = str(error)
    if not results:
        raise ValueError("\n".join(faults.values()))
    return results, faults


def _check_dataset(folder: Path, dataset: str) -> None:
    """Raises ValueError if asdray wrote the submission from the other kind of data."""
    if (path := folder / submission.RECORD).is_file():
        record = store.read_json(path)
        written = record.get("dataset") if isinstance(record, dict) else None
        kind = written.get("kind", dataset) if isinstance(written, dict) else dataset
        if kind != dataset:
            place, other = printable(str(folder)), printable(str(kind)[:60])
            raise ValueError(
                f"{place}: a submission of {other} data ({path.name} says so), but the ground truth is of "
                f"{dataset} data: give that of its own dataset"
            )


def total(year: Year, sections: Sequence[SectionResult]) -> float | None:
    """The official score of the year over the given sections."""
    machines = by_machine(sections).values()
    values = [metrics.official(year.score_rule, [s.values for s in own]) for own in machines]
    return metrics.official_total(year.score_rule, values, [len(own) for own in machines])


def by_machine(sections: Sequence[SectionResult]) -> dict[str, list[SectionResult]]:
    """Machine -> its sections, in the given order."""
    machines: dict[str, list[SectionResult]] = {}
    for section in sections:
        machines.setdefault(section.machine, []).append(section)
    return machines


def _values(truth: SectionTruth, clips: SectionScores, given: Submission) -> dict[str, float | None]:
    y, target = truth.is_anomaly, truth.is_target
    domains = np.where(target, "target", "source")
    values = metrics.section_metrics(clips.scores, y.tolist(), domains.tolist())
    for initial, own in (("s", ~target), ("t", target)):
        values[f"{initial}_score"] = metrics.arithmetic_mean(clips.scores[own & ~y].tolist())
        if given.decisions:
            decided = np.array([given.decisions[truth.machine, n] for n in truth.names])
            found = metrics.decision_metrics(decided[own], y[own])
            for name, value in zip(("precision", "recall", "f1"), found, strict=True):
                values[f"{initial}_{name}"] = value
            alarms = [float(one) for one in decided[own & ~y]]
            values[f"{initial}_false_alarms"] = metrics.arithmetic_mean(alarms)
    return values


# ------------------------------------------------------------------------------------- the evaluators' tables

Row = list[str | float | None]
Mean = Callable[[Sequence[float | None]], float | None]

_COLUMNS = {
    "AUC (all)": "mix_auc",
    "AUC (source)": "smix_auc",
    "AUC (target)": "tmix_auc",
    "pAUC": "mix_pauc",
    "precision (source)": "s_precision",
    "precision (target)": "t_precision",
    "recall (source)": "s_recall",
    "recall (target)": "t_recall",
    "F1 score (source)": "s_f1",
    "F1 score (target)": "t_f1",
}
_MEAN_HEADER: Row = ["", "", "AUC", "pAUC", "precision", "recall", "F1 score"]
_DECISIONS = (("s_precision", "t_precision"), ("s_recall", "t_recall"), ("s_f1", "t_f1"))
_MEANS_2021 = (("s_auc", "t_auc"), ("s_pauc", "t_pauc"), *_DECISIONS)
# One pAUC covers both domains and enters both halves of every mean.
_MEANS_2022 = (("smix_auc", "tmix_auc"), ("mix_pauc", "mix_pauc"), *_DECISIONS)
_OVER_ALL = " over all machine types, sections, and domains"

CI95_FILE = "teams_official_score_ci95.csv"
MARK_FILE = "dataset.txt"
SYNTHETIC = "Dataset: synthetic. These numbers say that files and scores fit, nothing about real machines."


def write(results: Sequence[SystemResult], folder: Path, against: Reference, *, compat: bool) -> list[Path]:
    """Writes all tables of ``results``, each file atomically; returns the paths of the tables."""
    year = against.year
    tables: dict[str, list[Row]] = {}
    for result in results:
        old_name = compat and year.year == 2020
        name = f"result_{result.name}.csv" if old_name else f"{result.name}_result.csv"
        tables[name] = _result_rows(result, year, compat)
    if year.score_rule == "both_domains":
        tables |= _team_tables(results, year)
    if not compat:
        header: Row = ["System", "official score", "ci95", "low", "high", "dataset"]
        tables[CI95_FILE] = [header]
        for r in results:
            ends = astuple(r.interval) if r.interval else (None,) * 2
            tables[CI95_FILE].append([r.name, r.official, r.ci95, *ends, against.dataset])
    texts = {name: csv_text(rows) for name, rows in tables.items()}
    if compat and against.dataset == "synthetic":
        texts[MARK_FILE] = f"{SYNTHETIC}\n"
    for name in {CI95_FILE, MARK_FILE} - set(texts):  # left over from an earlier run
        remove(folder / name)
    for name, text in texts.items():
        store.write_text(folder / name, text)
    return [folder / name for name in tables]


def _pick(sections: Sequence[SectionResult], *names: str) -> list[float | None]:
    """The values of the first of ``names`` of all sections, then of the second, and so on."""
    return [s.values.get(name) for name in names for s in sections]


# ------------------------------------------------------------------------------------ one system's result


def _result_rows(result: SystemResult, year: Year, compat: bool) -> list[Row]:
    if year.score_rule == "machine_mean":
        return _rows_2020(result, year)
    if year.score_rule == "own_domain":
        return _rows_2021(result)
    return _rows_2022(result, year, compat)


def _rows_2020(result: SystemResult, year: Year) -> list[Row]:
    rows: list[Row] = []
    machines = by_machine(result.sections)
    for machine in sorted(machines, key=year.machines["eval"].index):
        sections = machines[machine]
        rows += [[machine], ["id", "AUC", "pAUC"]]
        rows += [[f"{s.section:02d}", *_pick([s], "s_auc", "s_pauc")] for s in sections]
        means = [metrics.arithmetic_mean(_pick(sections, name)) for name in ("s_auc", "s_pauc")]
        rows += [["Average", *means], []]
    return rows


def _rows_2021(result: SystemResult) -> list[Row]:
    rows: list[Row] = []
    for machine, sections in by_machine(result.sections).items():
        rows += [[machine], ["section", "domain", *_MEAN_HEADER[2:]]]
        for place, domain in enumerate(("source", "target")):
            names = [pair[place] for pair in _MEANS_2021]
            rows += [[f"{s.section:02d}", domain, *_pick([s], *names)] for s in sections]
        rows += [*_means(sections, _MEANS_2021, "", len(sections)), []]
    rows += [_MEAN_HEADER, *_means(result.sections, _MEANS_2021, _OVER_ALL, len(result.sections)), []]
    return [*rows, ["official score", "", result.official], []]


def _rows_2022(result: SystemResult, year: Year, compat: bool) -> list[Row]:
    rows: list[Row] = []
    for machine, sections in by_machine(result.sections).items():
        rows += [[machine], ["section", *_COLUMNS]]
        rows += [[f"{s.section:02d}", *_pick([s], *_COLUMNS.values())] for s in sections]
        cut = len(sections) // 2 if compat and year.year == 2022 else len(sections)
        rows += [_MEAN_HEADER, *_means(sections, _MEANS_2022, "", cut), []]
    rows += [_MEAN_HEADER, *_means(result.sections, _MEANS_2022, _OVER_ALL, len(result.sections)), []]
    return [*rows, ["official score", "", result.official], ["official score ci95", "", result.ci95], []]


def _means(
    sections: Sequence[SectionResult], pairs: Sequence[tuple[str, str]], over: str, cut: int
) -> list[Row]:
    """The rows of both means over sections and domains, and of the harmonic means per domain.

    Args:
        cut: the first ``cut`` values of both domains count as source.
    """
    kinds: tuple[tuple[str, Mean, slice], ...] = (
        ("arithmetic mean", metrics.arithmetic_mean, slice(None)),
        ("harmonic mean", metrics.harmonic_mean, slice(None)),
        ("source harmonic mean", metrics.harmonic_mean, slice(cut)),
        ("target harmonic mean", metrics.harmonic_mean, slice(cut, None)),
    )
    return [
        [f"{label}{over}", "", *(mean(_pick(sections, *pair)[part]) for pair in pairs)]
        for label, mean, part in kinds
    ]


# ------------------------------------------------------------------------------------------- all systems


def _team_tables(results: Sequence[SystemResult], year: Year) -> dict[str, list[Row]]:
    """The tables over all systems of the evaluators since 2023, and ``official_score.csv`` of each system."""
    machines = year.evaluator_machines or year.machines["eval"]
    summary: Row = ["official score", "arithmetic mean", "harmonic mean (source)", "harmonic mean (target)"]

    def header(quantity: str) -> Row:
        return ["", *summary, *(f"{m} {quantity} ({d})" for d in ("source", "target") for m in machines)]

    official: list[Row] = [header("AUC")]
    paper: list[Row] = [["System", "metric", "h-mean", "a-mean", *machines]]
    tables = {"teams_official_score.csv": official, "teams_official_score_paper.csv": paper}
    for result in results:
        official.append(_official_row(result, machines))
        paper += _paper_rows(result, machines)
        tables[f"{result.name}/official_score.csv"] = [header("AUC"), official[-1]]
    numbers = sorted({s.section for result in results for s in result.sections})
    for number in numbers:
        for what, names in (("auc", ("smix_auc", "tmix_auc")), ("score", ("s_score", "t_score"))):
            rows = [header("AUC" if what == "auc" else "Score")]
            for result in results:
                here = {s.machine: [s] for s in result.sections if s.section == number}
                cells = [v for n in names for m in machines for v in _pick(here.get(m, []), n) or [None]]
                rows.append([result.name, *[None] * len(summary), *cells])
            tables[f"teams_section_{number:02d}_{what}.csv"] = rows
    return tables


def _machine_means(result: SystemResult, machines: Sequence[str], name: str) -> list[float | None]:
    own = by_machine(result.sections)
    return [metrics.arithmetic_mean(_pick(own.get(machine, []), name)) for machine in machines]


def _official_row(result: SystemResult, machines: Sequence[str]) -> Row:
    source, target = (_pick(result.sections, name) for name in ("smix_auc", "tmix_auc"))
    return [
        result.name,
        result.official,
        metrics.arithmetic_mean([*source, *target]),
        metrics.harmonic_mean(source),
        metrics.harmonic_mean(target),
        *_machine_means(result, machines, "smix_auc"),
        *_machine_means(result, machines, "tmix_auc"),
    ]


def _paper_rows(result: SystemResult, machines: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for label, name in (
        ("AUC (source)", "smix_auc"),
        ("AUC (target)", "tmix_auc"),
        ("pAUC (source, target)", "mix_pauc"),
    ):
        values = _pick(result.sections, name)
        means = [metrics.harmonic_mean(values), metrics.arithmetic_mean(values)]
        rows.append([result.name, label, *means, *_machine_means(result, machines, name)])
    everything = metrics.arithmetic_mean(_pick(result.sections, "smix_auc", "tmix_auc", "mix_pauc"))
    return [*rows, [result.name, "TOTAL score", result.official, everything, *[None] * len(machines)]]
