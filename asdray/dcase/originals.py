"""Reads a year's original tree: which clips there are, what is known of each, and everything wrong with it.

Only names, headers, sizes and ground truth are read; nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray import store
from asdray.dcase import manifest, names, placed, records
from asdray.dcase.ground_truth import GroundTruth, Labels, check_folder, load_ground_truth
from asdray.dcase.hints import hint
from asdray.dcase.scan import File, scan
from asdray.dcase.threads import Progress, Steps, in_threads
from asdray.dcase.truth_files import WrongGroundTruthError, holds_files
from asdray.dcase.wav import WavInfo, read_header
from asdray.dcase.years import SAMPLE_RATE, Year, get_year


@dataclass(frozen=True)
class Originals:
    """What lies in ``original/<dcase>``.

    Attributes:
        kind: ``official`` or ``synthetic``.
        clips: the manifest's rows, sorted by clip; without those that cannot be read or understood.
        problems: one line for each file or folder that is wrong, beginning with it.
        truth_folder: where the ground truth is, or would be.
        truth_problems: what is wrong with it.
        has_truth: whether there is any.
        notes: wavs that are rightly left out; what the ground truth does not tell, with counts per machine.
    """

    dcase: str
    kind: str
    clips: list[dict[str, Any]]
    problems: list[str]
    truth_folder: Path
    truth_problems: list[str]
    has_truth: bool
    notes: tuple[str, ...]


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
            said to be. Bad files and wrong ground truth are told in what is returned.
    """
    year = get_year(dcase)
    kind = manifest.dataset_kind(data, dcase)
    found = scan(data, year)
    if not found.files and not found.problems:
        raise ValueError(
            f"there is no {dcase} in {data}: expected wav files in "
            f"{store.original_dir(data, dcase, 'dev')}/<machine>/train and so on "
            f"(`{hint('download', dcase, data)}` gets it, `{hint('synth', dcase, data)}` makes a synthetic "
            "one)"
        )
    if ground_truth is not None:
        check_folder(ground_truth)
    folder = ground_truth or store.ground_truth_dir(data, dcase)
    has_truth = ground_truth is not None or holds_files(folder)
    truth = None
    wrong: list[str] = []
    if has_truth:
        try:
            truth = load_ground_truth(folder, dcase, labels)
        except WrongGroundTruthError as error:
            wrong += error.faults
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    headers = list(in_threads(_header, found.files, Steps(len(found.files), on_progress)))
    clips = _clips(data, year, found.files, headers, truth, found.problems)
    notes = (*found.notes, *(truth.notes if truth else ()))
    return Originals(dcase, kind, clips, found.problems, folder, wrong, has_truth, notes)


def remedy(data: Path, dcase: str, kind: str, subset: str, machine: str) -> str:
    """What to do about clips of a machine that are missing."""
    if kind == "synthetic":
        folder = manifest.synthetic_path(data, dcase).parent
        return f"delete the folder {folder} and run `{hint('synth', dcase, data)}` again"
    zips = [z for z in records.zips(dcase) if (z.subset, z.machine) == (subset, machine)]
    try:
        complete = all(placed.is_there(data, z) for z in zips)
    except (ValueError, OSError):  # a damaged marker or an unreadable folder says nothing
        complete = False
    if complete:
        return "all that the published zips hold is there: what is missing is not in them"
    return f"run `{hint('download', dcase, data)}`"


def _header(file: File) -> WavInfo | str:
    """The header, or what is wrong with it."""
    if file.is_folder:
        return "is a folder where a wav file should be"
    try:
        return read_header(file.path)
    except ValueError as error:
        return str(error).removeprefix(f"{file.path}: ")


# ---------------------------------------------------------------------------------------- what it says


def _clips(
    data: Path,
    year: Year,
    files: Sequence[File],
    headers: Sequence[WavInfo | str],
    truth: GroundTruth | None,
    problems: list[str],
) -> list[dict[str, Any]]:
    """The manifest's rows, sorted by clip; what is wrong goes to ``problems``."""
    clips = []
    owner: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        wrong = []
        if isinstance(header, str):
            wrong.append(header)
        else:
            if header.sample_rate != SAMPLE_RATE:
                wrong.append(f"has {header.sample_rate} Hz, {year.name} has {SAMPLE_RATE} Hz")
            if header.channels != year.channels:
                wrong.append(f"has {header.channels} channels, {year.name} has {year.channels}")
        try:
            clip = None if file.is_folder else _parse(file, year)
        except ValueError as error:
            clip = None
            wrong.append(str(error))
        if clip is not None and not isinstance(header, str):
            row = _row(data, year.name, file, header, clip, truth)
            if row["path"] in owner:
                wrong.append(f"gets the same formatted name as {owner[row['path']]}: {row['path']}")
            owner[row["path"]] = file.path
            clips.append(row)
        if wrong:
            problems.append(f"{_printable(file.path)}: {'; '.join(wrong)}")
    return sorted(clips, key=lambda c: c["clip"])


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _parse(file: File, year: Year) -> names.ClipName:
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
    data: Path, dcase: str, file: File, header: WavInfo, clip: names.ClipName, truth: GroundTruth | None
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
