"""The official evaluation of submission folders, as the organisers of each year compute it.

A submission is joined with the ground truth by clip name. Scores are fractions, None without a value;
clips outside the ground truth are an error, other files in the folder are ignored. In short::

    truth = load_ground_truth(Path("ground_truth"), "dcase2023")
    against = reference(truth, kind_of_truth(truth))
    systems, _ = find_systems(Path("submissions"))
    results = [evaluate(name, folder, against) for name, folder in systems.items()]
    official_csv.write(results, Path("submissions_result"), against, compat=False)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asdray import store
from asdray.dcase.manifest import SYNTHETIC_MARKS
from asdray.dcase.truth import GroundTruth
from asdray.dcase.years import Year, get_year
from asdray.evaluation import metrics, submission
from asdray.evaluation.bootstrap import (
    DRAWS,
    Interval,
    SectionScores,
    evaluators_ci95,
    official_interval,
)
from asdray.evaluation.submission import Key, Part, Submission


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


@dataclass(frozen=True)
class SectionResult:
    """The metrics of one (machine, section).

    ``values`` holds `metrics.METRICS`; ``{s,t}_precision``, ``{s,t}_recall`` and ``{s,t}_f1`` over the clips
    of each domain; and ``{s,t}_score``, the mean anomaly score of each domain's normal clips.
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
    unknown: dict[str, int] = {}
    for (machine, _), clip in truth.clips.items():
        if clip.is_anomaly is None or (clip.domain is None and len(year.domains) > 1):
            unknown[machine] = unknown.get(machine, 0) + 1
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
    for (machine, section), of_section in sorted(names.items()):
        clips = [truth.clips[machine, name] for name in sorted(of_section)]
        sections.append(
            SectionTruth(
                machine,
                section,
                tuple(sorted(of_section)),
                np.array([clip.is_anomaly for clip in clips], dtype=bool),
                np.array([clip.domain == "target" for clip in clips], dtype=bool),
            )
        )
    labelled = {
        (machine, clip.labelled_name): name
        for (machine, name), clip in truth.clips.items()
        if clip.labelled_name is not None
    }
    return Reference(year, tuple(sections), parts, labelled, dataset)


def find_systems(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """All systems in ``folder``: the folder itself, or subfolders one or two levels down.

    A system has the name of its folder, or ``<team>_<system>`` if two teams have systems of the same name.

    Returns:
        Name -> folder of every system, sorted by folder, and the subfolders without a submission.

    Raises:
        ValueError: no system.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if _is_system(folder):
        return {folder.absolute().name: folder}, []
    found: list[Path] = []
    empty: list[Path] = []
    for child in _subfolders(folder):
        below = [child] if _is_system(child) else [p for p in _subfolders(child) if _is_system(p)]
        found += below
        if not below:
            empty.append(child)
    if not found:
        raise ValueError(
            f"{folder} holds no submission: expected anomaly_score_*.csv in it, in <system>/ or in "
            "<team>/<system>/ below it"
        )
    names = [path.name for path in found]
    called = {
        path.name if names.count(path.name) == 1 else f"{path.parent.name}_{path.name}": path
        for path in found
    }
    if len(called) < len(found):
        raise ValueError(f"{folder} holds systems that cannot be told apart by name: rename one of {names}")
    return called, empty


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_system(folder: Path) -> bool:
    return any(next(folder.glob(f"{k}_*.csv"), None) for k in (submission.SCORE, submission.DECISION))


def evaluate(
    name: str,
    folder: Path,
    against: Reference,
    *,
    compat: bool = False,
    partial: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> SystemResult:
    """Reads and evaluates one system.

    Args:
        compat: compute like the official evaluators: ``ci95`` with the faults of 2022-2025 (see
            `bootstrap.evaluators_ci95`), no ``ci95`` before, no interval; implies ``partial``.
        partial: score the machines and sections of an incomplete ground truth.

    Raises:
        ValueError: an incomplete or damaged submission (see `submission.read`), or asdray's own submission
            of the other kind of data.
    """
    year = against.year
    _check_dataset(folder, against.dataset)
    given = submission.read(folder, year.name, against.parts, against.labelled)
    scored = [
        SectionScores(
            truth.machine,
            truth.section,
            np.array([given.scores[truth.machine, n] for n in truth.names]),
            truth.is_anomaly,
            truth.is_target,
        )
        for truth in against.sections
    ]
    sections = tuple(
        SectionResult(truth.machine, truth.section, _values(truth, clips, given))
        for truth, clips in zip(against.sections, scored, strict=True)
    )
    counts = compat or partial or not against.missing
    interval = official_interval(year.score_rule, scored, draws, seed) if counts and not compat else None
    if compat:
        ci95 = evaluators_ci95(scored) if year.score_rule == "both_domains" else None
    else:
        ci95 = interval.half_width if interval else None
    official = total(year, sections) if counts else None
    return SystemResult(name, sections, official, interval, ci95, given.ignored)


def _check_dataset(folder: Path, dataset: str) -> None:
    """Raises ValueError if asdray wrote the submission from the other kind of data."""
    if (path := folder / submission.RECORD).is_file():
        record = store.read_json(path)
        kind = record.get("dataset", {}).get("kind", dataset) if isinstance(record, dict) else dataset
        if kind != dataset:
            raise ValueError(
                f"{folder}: a submission of {kind} data ({path.name} says so), but the ground truth is of "
                f"{dataset} data: give that of its own dataset"
            )


def total(year: Year, sections: Sequence[SectionResult]) -> float | None:
    """The official score of the year over the given sections."""
    machines = by_machine(sections)
    return metrics.official_total(
        year.score_rule,
        [metrics.official(year.score_rule, [s.values for s in own]) for own in machines.values()],
        [len(own) for own in machines.values()],
    )


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
    return values
