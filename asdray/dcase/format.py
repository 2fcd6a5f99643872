"""``asdray format``: the organisers' tree -> one unified tree of links, the manifest, and its summary.

Dev and eval of a machine come together; eval test clips get their labelled name where the ground truth
knows it. Only headers, sizes and names are read. All input is checked before anything is written; what
is already right stays, so that formatting again costs little and formatting can be interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from asdray import store
from asdray.dcase import manifest, names
from asdray.dcase.ground_truth import GroundTruth, load_ground_truth
from asdray.dcase.links import Link, Linker, remove_stale
from asdray.dcase.wav import WavInfo, read_header
from asdray.dcase.years import SAMPLE_RATE, SUBSETS, get_year, nearest

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all), from the calling thread."""

_THREADS = 8  # headers and links wait for the file system, not for a core
_CHUNK = 128

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FormatReport:
    """What a format did.

    Attributes:
        dataset: counts, ids and label sources per machine.
        unlabelled: test clips without a label per machine; only machines that have some.
        made: links or copies written now.
        kept: those that were right already.
        removed: stale ones.
    """

    dataset: manifest.Dataset
    unlabelled: Mapping[str, int]
    made: int
    kept: int
    removed: int

    @property
    def n_clips(self) -> int:
        return self.made + self.kept


@dataclass(frozen=True)
class _File:
    """One file in the original tree."""

    subset: str
    machine: str
    split: str
    name: str
    path: str


def format_dataset(
    data: Path,
    dcase: str,
    *,
    ground_truth: Path | None = None,
    link: Link = "symlink",
    on_progress: Progress | None = None,
) -> FormatReport:
    """Formats the machines that are there of a year.

    Args:
        data: the data folder; reads ``original/<dcase>``, writes ``formatted/<dcase>``.
        ground_truth: folder of official ground truth; by default ``original/<dcase>/ground_truth``, and
            without that the eval test clips have null labels.
        link: symlinks are relative, so that the data folder may move.

    Raises:
        ValueError: no dataset, or an unfinished synthetic one; wrong ground truth; or bad files, all of
            them listed: unreadable, empty, truncated, no wav, wrong format, rate or channels, a name that
            does not fit, two clips with one formatted name. Nothing is written then.
    """
    if link not in get_args(Link):
        raise ValueError(
            f"unknown link {link!r}{nearest(link, get_args(Link))} (known: {', '.join(get_args(Link))})"
        )
    data = Path(data).absolute()
    kind = manifest.dataset_kind(data, dcase)
    problems: list[str] = []
    files = _scan(data, dcase, problems)
    truth = _load_truth(data, dcase, ground_truth)
    steps = _Steps(2 * len(files), on_progress)
    headers = list(_in_threads(_header, files, steps))
    clips = _clips(data, dcase, files, headers, truth, problems)
    if problems:
        raise ValueError(
            f"{len(problems)} bad file{'s' * (len(problems) > 1)} in {data / 'original' / dcase} "
            "(nothing was written):\n" + "\n".join(f"  {p}" for p in problems)
        )
    with store.lease(store.formatted_dir(data, dcase)):
        removed = remove_stale(data, dcase, {c["path"] for c in clips})
        made = sum(_in_threads(Linker(data, clips, link), clips, steps))
        dataset = manifest.write(data, dcase, kind, clips)
    missing = Counter(c["machine"] for c in clips if c["split"] == "test" and c["is_anomaly"] is None)
    return FormatReport(dataset, dict(missing), made, len(clips) - made, removed)


# --------------------------------------------------------------------------------------- what is there


def _scan(data: Path, dcase: str, problems: list[str]) -> list[_File]:
    """Every file in the year's clip folders."""
    year = get_year(dcase)
    files = []
    for subset in SUBSETS:
        raw = store.original_dir(data, dcase, subset)
        for machine in (e.name for e in manifest.clip_entries(raw) if e.is_dir()):
            if machine not in year.machines[subset]:
                problems.append(
                    f"{raw / machine}: {dcase} has no {subset} machine of this name"
                    f"{nearest(machine, year.machines[subset])}"
                )
                continue
            folders = list(manifest.clip_folders(data, dcase, subset, machine))
            if not any(folder.is_dir() for _, folder in folders):
                problems.append(f"{raw / machine}: holds no folder {' or '.join(f.name for _, f in folders)}")
            for split, folder in folders:
                if folder.exists() and not folder.is_dir():
                    problems.append(f"{folder}: is a file where a folder should be")
                files += [
                    _File(subset, machine, split, e.name, e.path) for e in manifest.clip_entries(folder)
                ]
    if not files and not problems:
        raise ValueError(
            f"there is no {dcase} in {data}: expected wav files in "
            f"{store.original_dir(data, dcase, 'dev')}/<machine>/train and so on "
            f"(`asdray synth {dcase}` makes a synthetic dataset)"
        )
    return files


def _load_truth(data: Path, dcase: str, folder: Path | None) -> GroundTruth | None:
    default = store.ground_truth_dir(data, dcase)
    if folder is None and not default.is_dir():
        return None
    return load_ground_truth(folder or default, dcase)


def _header(file: _File) -> WavInfo | str:
    """The header, or what is wrong with it."""
    try:
        return read_header(file.path)
    except ValueError as error:
        return str(error)


def _clips(
    data: Path,
    dcase: str,
    files: Sequence[_File],
    headers: Sequence[WavInfo | str],
    truth: GroundTruth | None,
    problems: list[str],
) -> list[dict[str, Any]]:
    """The manifest's rows, sorted by clip; what is wrong goes to ``problems``."""
    year = get_year(dcase)
    clips = []
    owner: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        clip = None
        try:
            clip = names.parse_name(dcase, file.subset, file.split, file.name)
        except ValueError as error:
            problems.append(f"{file.path}: {error}")
        sections = year.sections[file.subset][file.machine]  # type: ignore[index]
        if clip and clip.section not in sections:
            problems.append(f"{file.path}: section {clip.section:02d} is not one of {file.subset} {sections}")
        if isinstance(header, str):
            problems.append(header)
            continue
        if header.sample_rate != SAMPLE_RATE:
            problems.append(f"{file.path}: has {header.sample_rate} Hz, {dcase} has {SAMPLE_RATE} Hz")
        if header.channels != year.channels:
            problems.append(f"{file.path}: has {header.channels} channels, {dcase} has {year.channels}")
        if clip is None:
            continue
        row = _row(data, dcase, file, header, clip, truth)
        if row["path"] in owner:
            problems.append(
                f"{file.path}: gets the same formatted name as {owner[row['path']]}: {row['path']}"
            )
        owner[row["path"]] = file.path
        clips.append(row)
    return sorted(clips, key=lambda c: c["clip"])


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
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "n_samples": header.n_samples,
        "size": header.size,
        "mtime_ns": header.mtime_ns,
    }


# ------------------------------------------------------------------------------------------------ threads


class _Steps:
    """Counts finished steps for the progress callback."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def add(self, n: int) -> None:
        self.done += n
        if self.report:
            self.report(self.done, self.total)


def _in_threads(function: Callable[[T], R], items: Sequence[T], steps: _Steps) -> Iterator[R]:
    """``map`` over a thread pool, in chunks: a task per item would cost more than reading a header."""

    def run(start: int) -> list[R]:
        return [function(item) for item in items[start : start + _CHUNK]]

    with ThreadPoolExecutor(_THREADS) as pool:
        for results in pool.map(run, range(0, len(items), _CHUNK)):
            steps.add(len(results))
            yield from results
