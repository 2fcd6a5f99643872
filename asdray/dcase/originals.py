"""Reads a year's original tree: which clips there are, what is known of each, and everything wrong with it.

Only names, headers, sizes and ground truth are read; nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray import store
from asdray.dcase import manifest, names
from asdray.dcase.ground_truth import GroundTruth, Labels, load_ground_truth
from asdray.dcase.threads import Progress, Steps, in_threads
from asdray.dcase.wav import WavInfo, read_header
from asdray.dcase.years import SAMPLE_RATE, SUBSETS, Year, get_year, nearest


@dataclass(frozen=True)
class Originals:
    """What lies in ``original/<dcase>``.

    Attributes:
        kind: ``official`` or ``synthetic``.
        clips: the manifest's rows, sorted by clip; without those that cannot be read or understood.
        problems: one line for everything that is wrong, beginning with the file or folder.
        has_truth: whether there is ground truth.
        notes: what the ground truth does not tell, with counts per machine.
    """

    dcase: str
    kind: str
    clips: list[dict[str, Any]]
    problems: list[str]
    has_truth: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """One file in the original tree."""

    subset: str
    machine: str
    split: str
    folder: str
    name: str
    path: str
    is_folder: bool


def read_originals(
    data: Path,
    dcase: str,
    *,
    ground_truth: Path | None = None,
    labels: Labels = "official",
    on_progress: Progress | None = None,
) -> Originals:
    """Reads all that is there of a year.

    Args:
        ground_truth, labels: as in `asdray.dcase.format.format_dataset`.

    Raises:
        ValueError: no dataset, or an unfinished synthetic one; or there is no ``ground_truth`` where it was
            said to be. Bad files and wrong ground truth are told in `Originals.problems`.
    """
    year = get_year(dcase)
    kind = manifest.dataset_kind(data, dcase)
    problems: list[str] = []
    files = _scan(data, year, problems)
    if not files and not problems:
        raise ValueError(
            f"there is no {dcase} in {data}: expected wav files in "
            f"{store.original_dir(data, dcase, 'dev')}/<machine>/train and so on "
            f"(`asdray download {dcase}` gets it, `asdray synth {dcase}` makes a synthetic one)"
        )
    if ground_truth is not None and not ground_truth.is_dir():
        raise ValueError(f"there is no ground-truth folder {ground_truth}")
    folder = ground_truth or store.ground_truth_dir(data, dcase)
    has_truth = folder.is_dir()
    truth = None
    if has_truth:
        try:
            truth = load_ground_truth(folder, dcase, labels)
        except ValueError as error:
            problems.append(str(error))
    headers = list(in_threads(_header, files, Steps(len(files), on_progress)))
    clips = _clips(data, year, files, headers, truth, problems)
    return Originals(dcase, kind, clips, problems, has_truth, truth.notes if truth else ())


# --------------------------------------------------------------------------------------- what is there


def _scan(data: Path, year: Year, problems: list[str]) -> list[_File]:
    """Every file in the year's clip folders."""
    files = []
    for subset in SUBSETS:
        raw = store.original_dir(data, year.name, subset)
        for folder in (raw.parent, raw):
            if folder.exists() and not folder.is_dir():
                problems.append(f"{folder}: is a file where a folder should be")
        problems += [
            f"{e.path}: a machine's folder belongs into {raw}"
            for e in manifest.clip_entries(raw.parent)
            if e.name in year.machines[subset] and e.is_dir()
        ]
        for entry in manifest.clip_entries(raw):
            if entry.is_dir() and entry.name in year.machines[subset]:
                files += _scan_machine(data, year, subset, entry.name, problems)
            elif entry.is_dir():
                problems.append(
                    f"{entry.path}: {year.name} has no {subset} machine of this name"
                    f"{nearest(entry.name, year.machines[subset])}"
                )
            elif entry.name in year.machines[subset]:
                problems.append(f"{entry.path}: is a file where a folder should be")
    return files


def _scan_machine(data: Path, year: Year, subset: str, machine: str, problems: list[str]) -> list[_File]:
    root = store.original_dir(data, year.name, subset) / machine
    folders = list(manifest.clip_folders(data, year.name, subset, machine))
    if not any(folder.is_dir() for _, folder in folders):
        says = f"{root}: holds no folder {' or '.join(f.name for _, f in folders)}"
        if (root / machine).is_dir():
            says += f" but {machine}/{machine}: move what is in that one level up"
        problems.append(says)
    files = []
    for split, folder in folders:
        if folder.exists() and not folder.is_dir():
            problems.append(f"{folder}: is a file where a folder should be")
        files += [
            _File(subset, machine, split, folder.name, e.name, e.path, e.is_dir())
            for e in manifest.clip_entries(folder)
        ]
    return files


def _header(file: _File) -> WavInfo | str:
    """The header, or what is wrong with it."""
    if file.is_folder:
        return f"{file.path}: is a folder where a wav file should be"
    try:
        return read_header(file.path)
    except ValueError as error:
        return str(error)


# ---------------------------------------------------------------------------------------- what it says


def _clips(
    data: Path,
    year: Year,
    files: Sequence[_File],
    headers: Sequence[WavInfo | str],
    truth: GroundTruth | None,
    problems: list[str],
) -> list[dict[str, Any]]:
    """The manifest's rows, sorted by clip; what is wrong goes to ``problems``."""
    clips = []
    owner: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        if isinstance(header, str):
            problems.append(header)
            if file.is_folder:
                continue
        else:
            wrong = []
            if header.sample_rate != SAMPLE_RATE:
                wrong.append(f"has {header.sample_rate} Hz, {year.name} has {SAMPLE_RATE} Hz")
            if header.channels != year.channels:
                wrong.append(f"has {header.channels} channels, {year.name} has {year.channels}")
            problems += [f"{file.path}: {says}" for says in wrong]
        try:
            clip = _parse(file, year)
        except ValueError as error:
            problems.append(f"{_printable(file.path)}: {error}")
            continue
        if isinstance(header, str):
            continue
        row = _row(data, year.name, file, header, clip, truth)
        if row["path"] in owner:
            problems.append(
                f"{file.path}: gets the same formatted name as {owner[row['path']]}: {row['path']}"
            )
        owner[row["path"]] = file.path
        clips.append(row)
    return sorted(clips, key=lambda c: c["clip"])


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _parse(file: _File, year: Year) -> names.ClipName:
    """What the name says, after checking that it may say so there; ValueError without the path."""
    if not file.name.isprintable():
        raise ValueError("has characters in its name that cannot be printed")
    clip = names.parse_name(year.name, file.subset, file.split, file.name)
    sections = year.sections[file.subset][file.machine]  # type: ignore[index]
    if clip.section not in sections:
        raise ValueError(f"section {clip.section:02d} is not one of {file.subset} {sections}")
    if file.folder in ("source_test", "target_test") and clip.domain != file.folder.split("_")[0]:
        raise ValueError(f"is a {clip.domain} clip in the folder {file.folder}")
    return clip


def _row(
    data: Path, dcase: str, file: _File, header: WavInfo, clip: names.ClipName, truth: GroundTruth | None
) -> dict[str, Any]:
    """One row of the manifest."""
    label_source = None if clip.is_anomaly is None else "name"
    is_anomaly, domain, attributes = clip.is_anomaly, clip.domain, clip.attributes
    name = names.unified_name(dcase, file.subset, clip)
    anonymous = file.split == "test" and clip.is_anomaly is None
    if anonymous and truth and (known := truth.get(file.machine, file.name)):
        is_anomaly, domain, label_source = known.is_anomaly, known.domain or domain, known.source
        if known.labelled_name:
            labelled = names.parse_name(dcase, file.subset, file.split, known.labelled_name)
            attributes = labelled.attributes
            name = names.unified_name(dcase, file.subset, labelled)
    revealed = truth.revealed.get((file.subset, file.machine, file.split, file.name)) if truth else None
    formatted = store.formatted_dir(data, dcase) / "raw" / file.machine / file.split / name
    return {
        "clip": manifest.clip_key(file.subset, file.machine, file.split, file.name),
        "path": formatted.relative_to(data).as_posix(),
        "original_path": Path(file.path).relative_to(data).as_posix(),
        "machine": file.machine,
        "section": clip.section,
        "domain": domain,
        "split": file.split,
        "subset": file.subset,
        "is_anomaly": is_anomaly,
        "label_source": label_source,
        "attributes": attributes,
        "revealed_attributes": revealed,
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "n_samples": header.n_samples,
        "size": header.size,
        "mtime_ns": header.mtime_ns,
    }
