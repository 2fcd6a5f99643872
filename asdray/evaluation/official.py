"""Anyone's submission folders -> the official evaluation of their year, as its organisers compute it."""

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
    """The labels of one (machine, section), clips sorted by name; arrays (N,)."""

    machine: str
    section: int
    names: tuple[str, ...]
    is_anomaly: NDArray[np.bool_]
    is_target: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """All that submissions to a year are joined with.

    Attributes:
        sections: by machine in ASCII order, then by section.
        parts: the clip names of every file of a submission.
        labelled: (machine, labelled name) -> anonymous name, where it is known.
        dataset: ``official`` or ``synthetic``, see `kind_of_truth`.
    """

    year: Year
    sections: tuple[SectionTruth, ...]
    parts: Mapping[Part, tuple[str, ...]]
    labelled: Mapping[Key, str]
    dataset: str

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines that the ground truth covers, in ASCII order."""
        return tuple(dict.fromkeys(s.machine for s in self.sections))

    @property
    def missing(self) -> tuple[str, ...]:
        """Machines of the year's score, and sections of others, that the ground truth lacks."""
        there = {(s.machine, s.section) for s in self.sections}
        found: list[str] = []
        for machine, sections in self.year.sections["eval"].items():
            absent = [section for section in sections if (machine, section) not in there]
            if len(absent) == len(sections):
                found.append(machine)
            else:
                found += [f"{machine} section {section:02d}" for section in absent]
        return tuple(found)


@dataclass(frozen=True)
class SectionResult:
    """The numbers of one (machine, section), fractions in [0, 1], None where one cannot be computed.

    ``values`` holds `metrics.METRICS`; per domain, each with its own clips, ``{s,t}_precision``,
    ``{s,t}_recall`` and ``{s,t}_f1``; and ``{s,t}_score``, the mean anomaly score of its normal clips.
    """

    machine: str
    section: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class SystemResult:
    """One system's evaluation.

    Attributes:
        official: the official score of the year; None where machines or sections are missing, unless
            asked for over what is there.
        interval: its 95 % interval; None with ``ci95`` as coded.
        ci95: half the interval's width, or what the official evaluator prints under this name.
        ignored: CSV files in its folder that are none of the evaluation.
    """

    name: str
    sections: tuple[SectionResult, ...]
    official: float | None
    interval: Interval | None
    ci95: float | None
    ignored: tuple[str, ...]


def kind_of_truth(truth: GroundTruth) -> str:
    """``synthetic`` where a synthetic dataset's mark lies above any file that was read, else ``official``.

    Whichever folder was named, and on both ways there: as the path goes, and as links lead.
    """
    for path in truth.sources:
        for folder in (*path.absolute().parents, *path.resolve().parents):
            if any((folder / mark).exists() for mark in SYNTHETIC_MARKS):
                return "synthetic"
    return "official"


def reference(truth: GroundTruth, dataset: str = "official") -> Reference:
    """What the ground truth says, by section.

    Args:
        dataset: of which kind of data.

    Raises:
        ValueError: a clip whose label or domain no file tells, counted per machine.
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
    """Name -> folder of every system: ``folder`` itself, or its subfolders one or two levels down.

    A system is called as its folder; where two teams have systems of one name, ``<team>_<system>``.

    Returns:
        The systems sorted by folder, and the subfolders that hold no submission at all.

    Raises:
        ValueError: there is no system.
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
        compat: ``ci95`` as the evaluators of 2022-2025 compute it (see `bootstrap.evaluators_ci95`), none
            before, and no interval; and ``partial``, as they do.
        partial: the official score and its interval over what the ground truth has, where it is incomplete.

    Raises:
        ValueError: the submission is incomplete or damaged (see `submission.read`), or asdray wrote it of
            the other kind of data.
    """
    year = against.year
    _same_kind(folder, against.dataset)
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


def _same_kind(folder: Path, dataset: str) -> None:
    if (path := folder / submission.RECORD).is_file():
        told = store.read_json(path)
        kind = told.get("dataset", {}).get("kind", dataset) if isinstance(told, dict) else dataset
        if kind != dataset:
            raise ValueError(
                f"{folder}: a submission of {kind} data ({path.name} says so), but the ground truth is of "
                f"{dataset} data: give that of its own dataset"
            )


def total(year: Year, sections: Sequence[SectionResult]) -> float | None:
    """The official score of the year from the numbers of its sections, over those that are given."""
    machines = by_machine(sections)
    return metrics.official_total(
        year.score_rule,
        [metrics.official(year.score_rule, [s.values for s in own]) for own in machines.values()],
        [len(own) for own in machines.values()],
    )


def by_machine(sections: Sequence[SectionResult]) -> dict[str, list[SectionResult]]:
    """The sections of every machine, in their order."""
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
            said = np.array([given.decisions[truth.machine, n] for n in truth.names])
            found = metrics.decision_metrics(said[own], y[own])
            for what, value in zip(("precision", "recall", "f1"), found, strict=True):
                values[f"{initial}_{what}"] = value
    return values
