"""Scan of a year's original tree: its clips, with header and name facts, and every fault of the tree.

The organisers ship ``original/<dcase>/{dev,eval}_data/raw/<machine>/{train,test}/*.wav``. `read_originals`
reads names, wav headers, sizes and ground truth, and writes nothing; audio is not decoded. Only audio of the
challenge is accepted: RIFF/WAVE, 16-bit PCM (also spelt WAVE_FORMAT_EXTENSIBLE), 16 kHz, the year's number of
channels.

Conventions: lengths are samples per channel, sizes are bytes, times are nanoseconds. Each fault is one line
that begins with the path of the file or folder. Hidden files and clutter of desktop systems are ignored;
every other folder with wavs is read or reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asdray import store
from asdray.dcase import manifest, names
from asdray.dcase.manifest import Kind, hint, unreadable
from asdray.dcase.names import is_clutter
from asdray.dcase.places import machine_folders, subset_of
from asdray.dcase.truth import GroundTruth, Labels, check_folder, load_ground_truth
from asdray.dcase.truth_files import WrongGroundTruthError, folder_with_truth, holds_files
from asdray.dcase.wav import WavInfo, read_header
from asdray.dcase.years import SAMPLE_RATE, SUBSETS, Subset, Year, get_year, nearest

Progress = Callable[[int, int], None]
"""Progress callback: (items done, items in all), called from the calling thread."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]")
"""Characters in no name of a published list: blanks, brackets and accents come with copies."""

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    function: Callable[[T], R],
    items: Sequence[T],
    on_progress: Progress | None = None,
    *,
    threads: int = 8,
    chunk: int = 128,
) -> Iterator[R]:
    """``map`` over a thread pool, for work that waits for the file system.

    Items travel in chunks, since a task per item would cost more than reading a header. An exception of
    ``function`` is raised here after the running chunks have ended; waiting chunks are cancelled.
    """

    def run(start: int) -> list[R]:
        return [function(item) for item in items[start : start + chunk]]

    done = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for results in pool.map(run, range(0, len(items), chunk)):
            done += len(results)
            if on_progress:
                on_progress(done, len(items))
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# --------------------------------------------------------------------------------------------- the tree

RENAMED = "test_rename"
"""Folder of copies of the eval test clips under their labelled names.

Source: ``tools/rename_eval_wav.py`` of nttcslab/dcase2023_task2_baseline_ae, which runs for all years.
"""


@dataclass(frozen=True)
class File:
    """One entry of a clip folder."""

    subset: str
    machine: str
    split: str
    folder: str
    name: str
    path: str
    is_folder: bool


@dataclass
class Tree:
    """Content of ``original/<dcase>``.

    Attributes:
        files: every entry of the year's clip folders.
        problems: one line per faulty file or folder, beginning with its path.
        notes: wavs that are left out on purpose.
    """

    files: list[File] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Content of a folder; empty, with a problem, if the path is no readable folder."""
        if os.path.lexists(folder) and not os.path.isdir(folder):
            kind = "a file where a folder should be" if os.path.exists(folder) else "a link to nowhere"
            self.problems.append(f"{folder}: is {kind}")
            return []
        try:
            return manifest.clip_entries(folder)
        except ValueError as error:
            self.problems.append(str(error))
            return []

    def wavs(self, folder: str) -> list[str]:
        """Relative paths of all wavs below a folder; a problem for each unreadable folder."""
        found = []
        for root, below, files in os.walk(folder, onerror=lambda e: self.problems.append(unreadable(e))):
            below[:] = sorted(name for name in below if not is_clutter(name))
            found += [os.path.relpath(os.path.join(root, name), folder) for name in files if is_wav(name)]
        return found


def scan(data: Path, year: Year) -> Tree:
    """Looks through the folders of both subsets."""
    tree = Tree()
    for subset in SUBSETS:
        raw = store.original_dir(data, year.name, subset)
        machines = year.machines[subset]
        loose = 0
        for entry in tree.entries(raw):
            if entry.name in machines or any(subset_of(entry.name, machine) for machine in machines):
                continue
            if _is_folder(entry):
                holds = _count(len(tree.wavs(entry.path)))
                tree.problems.append(
                    f"{entry.path}: {year.name} has no {subset} machine of this name"
                    f"{nearest(entry.name, machines)}{f' (it holds {holds})' if holds else ''}"
                )
            else:
                loose += is_wav(entry.name)
        if loose:
            tree.problems.append(
                f"{raw}: holds {_count(loose)} beside the machines' folders: move them into one, or away"
            )
        _scan_machines(tree, data, year, subset)
    return tree


def _scan_machines(tree: Tree, data: Path, year: Year, subset: Subset) -> None:
    raw = store.original_dir(data, year.name, subset)
    elsewhere: list[Path] = []
    for machine in year.machines[subset]:
        folders = {
            path.name: (split, path)
            for split, path in manifest.clip_folders(data, year.name, subset, machine)
        }
        usual, *others = machine_folders(data, year.name, subset, machine)
        for root in (*([usual] if os.path.lexists(usual) else []), *others):
            _scan_machine(tree, year, subset, root, folders)
            tree.problems += [
                f"{root / name}: {path} holds {subset} clips of {machine}, too: keep one"
                for name, (_, path) in folders.items()
                if path.parent != root and os.path.isdir(root / name)
            ]
        elsewhere += others
        loose = raw.parents[1] / machine
        if len(year.subsets_of(machine)) > 1 and subset == "dev" and os.path.isdir(loose):
            places = " or ".join(str(store.original_dir(data, year.name, s)) for s in SUBSETS)
            tree.problems.append(f"{loose}: {year.name} has {machine} in dev and eval: move it into {places}")
    if elsewhere:
        names = ", ".join(dict.fromkeys(path.name for path in elsewhere))
        tree.notes.append(f"{subset} {names}: read where they lie, such as {elsewhere[0]}, not in {raw}")


def _scan_machine(
    tree: Tree, year: Year, subset: str, root: Path, folders_of: Mapping[str, tuple[str, Path]]
) -> None:
    """Looks through a folder of a machine.

    Args:
        folders_of: the machine's clip folders, each with its split and path, in whatever place.
    """
    machine = root.name
    known_problems = len(tree.problems)
    here = {entry.name: entry for entry in tree.entries(root)}
    if len(tree.problems) > known_problems:
        return
    if here.keys() == {RENAMED} and not tree.wavs(here[RENAMED].path):
        return  # the organisers' script makes the folder for every machine of its list, also for absent ones
    folders = {name: split for name, (split, _) in folders_of.items()}
    others = [entry for name, entry in here.items() if name not in folders]
    if not any(name in here and _is_folder(here[name]) for name in folders):
        problem = f"{root}: holds no folder {' or '.join(folders)}"
        if machine in here and _is_folder(here[machine]):
            problem += f" but {machine}/{machine}: move what is in that one level up"
            others.remove(here[machine])
        tree.problems.append(problem)
    files = [
        File(subset, machine, split, name, entry.name, entry.path, _is_folder(entry))
        for name, split in folders.items()
        if name in here and folders_of[name][1].parent == root
        for entry in tree.entries(root / name)
    ]
    tree.files += files
    test = {file.name for file in files if file.split == "test"}
    for entry in others:
        if not _is_folder(entry):
            continue
        if subset == "eval" and entry.name == RENAMED:
            _scan_renamed(tree, entry, [n for n, split in folders.items() if split == "test"], len(test))
        else:
            _scan_other(tree, year, entry, folders, test)
    if loose := sum(is_wav(entry.name) and not _is_folder(entry) for entry in others):
        tree.problems.append(
            f"{root}: holds {_count(loose)} beside its folders {', '.join(folders)}: "
            "move them into one, or away"
        )


def _scan_renamed(tree: Tree, entry: os.DirEntry[str], tests: Sequence[str], n_test: int) -> None:
    """Leaves out the organisers' copies of a machine's ``n_test`` eval test clips.

    Args:
        tests: names of the folders of test clips.
    """
    n, of = len(tree.wavs(entry.path)), " and ".join(tests)
    if n > n_test:
        tree.problems.append(
            f"{entry.path}: holds {_count(n)}, which the organisers' scripts copy from {of}, but {of} "
            f"{'hold' if len(tests) > 1 else 'holds'} {_count(n_test) or 'none'}: put the clips that are "
            f"missing into {of}, under either of their names"
        )
    elif n:
        tree.notes.append(
            f"{entry.path}: {_count(n)} left out: copies of those in {of} under their labelled names, as the "
            "organisers' scripts make them"
        )


def _scan_other(
    tree: Tree, year: Year, entry: os.DirEntry[str], folders: Mapping[str, str], test: Collection[str]
) -> None:
    """Reports wavs in a folder of a machine that is no clip folder of the year.

    Args:
        folders: the machine's clip folders, each with its split.
        test: names of the test clips.
    """
    wavs = tree.wavs(entry.path)
    if year.split_test_folders and entry.name == "test":
        if copies := sum(wav in test for wav in wavs):
            tree.notes.append(
                f"{entry.path}: {_count(copies)} left out: copies of those in "
                f"{' and '.join(n for n, split in folders.items() if split == 'test')}, as the organisers' "
                "scripts make them"
            )
        wavs = [wav for wav in wavs if wav not in test]
    if wavs:
        tree.problems.append(
            f"{entry.path}: holds {_count(len(wavs))}, but {year.name} has no clips in a folder of this "
            f"name: move them into one of {', '.join(folders)}, or away{nearest(entry.name, folders)}"
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link, or a target without permission
        return False


def is_wav(name: str) -> bool:
    """True for the name of a wav that is no clutter."""
    return name.lower().endswith(".wav") and not is_clutter(name)


def _count(n: int) -> str:
    """``3 wavs``, or ``""`` for none."""
    return f"{n} wav{'s' * (n != 1)}" if n else ""


# --------------------------------------------------------------------------------------------- the clips

TOLERATED_LENGTH = 0.1
"""Relative difference between a machine's longest clip and the published length, in few of many clips."""


@dataclass(frozen=True)
class Originals:
    """Clips and faults of ``original/<dcase>``.

    Attributes:
        kind: ``official`` or ``synthetic``.
        clips: rows of the manifest, sorted by clip; clips with an unreadable header or name are left out.
        problems: one line per faulty file or folder, beginning with its path.
        truth_folder: folder of the ground truth, existing or not.
        truth_problems: faults of the ground truth.
        has_truth: the folder holds ground truth.
        notes: wavs left out on purpose; labels and domains that the ground truth lacks, with counts per
            machine; machines whose clips are not as long as the organisers'.
    """

    dcase: str
    kind: Kind
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
    synthetic: bool = False,
    on_progress: Progress | None = None,
) -> Originals:
    """Reads all originals of a year and their ground truth.

    Args:
        ground_truth, labels, synthetic: as in `asdray.dcase.format.format_dataset`; nothing is marked here.

    Raises:
        ValueError: no dataset, an unfinished synthetic dataset, or no folder ``ground_truth``. Faulty files
            and wrong ground truth are reported in the result.
    """
    year = get_year(dcase)
    kind = manifest.dataset_kind(data, dcase)
    kind = "synthetic" if synthetic else kind
    tree = scan(data, year)
    if not tree.files and not tree.problems:
        raise ValueError(
            f"there is no {dcase} in {data}: expected wav files in "
            f"{store.original_dir(data, dcase, 'dev')}/<machine>/train and so on "
            f"(`{hint('download', dcase, data)}` gets it, `{hint('synth', dcase, data)}` makes a synthetic "
            "one)"
        )
    if ground_truth is not None:
        check_folder(ground_truth)
    default = store.ground_truth_dir(data, dcase)
    beside = None if ground_truth or holds_files(default) else _truth_beside(data, dcase)
    folder = ground_truth or beside or default
    has_truth = ground_truth is not None or holds_files(folder)
    truth, truth_problems = _truth(folder, dcase, labels) if has_truth else (None, [])
    headers = list(in_threads(_header, tree.files, on_progress))
    clips = _clips(data, year, tree, headers, truth)
    lengths = _strange_lengths(data, year, clips) if kind == "official" else ""
    elsewhere = [f"no ground truth is in {default}: that in {beside} is read"] if beside else []
    notes = (*tree.notes, *elsewhere, *(truth.notes if truth else ()), *([lengths] if lengths else ()))
    return Originals(dcase, kind, clips, tree.problems, folder, truth_problems, has_truth, notes)


def _strange_lengths(data: Path, year: Year, clips: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about machines whose longest clip is not as long as the organisers'; ``""`` without one.

    Such clips are no recordings of the challenge, whoever made them.
    """
    longest: dict[str, float] = {}
    for clip in clips:
        machine = clip["machine"]
        longest[machine] = max(longest.get(machine, 0), clip["n_samples"] / SAMPLE_RATE)
    strange = [
        f"{machine} {longest[machine]:.1f} s, not {year.durations[machine]:g}"
        for machine in year.all_machines
        if machine in longest
        and machine not in year.longest_only
        and abs(longest[machine] / year.durations[machine] - 1) > TOLERATED_LENGTH
    ]
    if not strange:
        return ""
    more = f", and {len(strange) - 3} more machines" if len(strange) > 3 else ""
    return (
        f"the longest clips are not as long as the organisers': {', '.join(strange[:3])}{more}; if the clips "
        f"are made up, `{hint('format', year.name, data)} --synthetic` has their results say so"
    )


def _truth_beside(data: Path, dcase: str) -> Path | None:
    """The folder among the originals in which the ground truth lies, where people unpack it beside clips."""
    raw = [store.original_dir(data, dcase, subset) for subset in SUBSETS]
    return folder_with_truth([raw[0].parents[1], *(path.parent for path in raw), *raw], dcase)


def _truth(folder: Path, dcase: str, labels: Labels) -> tuple[GroundTruth | None, list[str]]:
    """The ground truth of a folder, None if wrong, and its faults."""
    try:
        return load_ground_truth(folder, dcase, labels), []
    except (ValueError, OSError) as error:
        return None, list(error.faults) if isinstance(error, WrongGroundTruthError) else [str(error)]


def _header(file: File) -> WavInfo | str:
    """The header, or its fault."""
    if file.is_folder:
        return "is a folder where a wav file should be"
    try:
        return read_header(file.path)
    except ValueError as error:
        return str(error).removeprefix(f"{file.path}: ")


def _clips(
    data: Path, year: Year, tree: Tree, headers: Sequence[WavInfo | str], truth: GroundTruth | None
) -> list[dict[str, Any]]:
    """Rows of the manifest, sorted by clip; faults are added to the tree's problems."""
    clips = []
    owner: dict[str, str] = {}
    identities: dict[tuple[object, ...], str] = {}
    for file, header in zip(tree.files, headers, strict=True):
        faults = []
        if isinstance(header, str):
            faults.append(header)
        else:
            if header.sample_rate != SAMPLE_RATE:
                faults.append(f"has {header.sample_rate} Hz, {year.name} has {SAMPLE_RATE} Hz")
            if header.channels != year.channels:
                faults.append(f"has {header.channels} channels, {year.name} has {year.channels}")
        try:
            clip = None if file.is_folder else _parse(file, year)
        except ValueError as error:
            clip = None
            faults.append(str(error))
        if clip is not None and not isinstance(header, str):
            row = _row(data, year.name, file, header, clip, truth)
            if row["path"] in owner:
                faults.append(f"gets the same formatted name as {owner[row['path']]}: {row['path']}")
            owner[row["path"]] = file.path
            other = identities.setdefault(_identity(file, clip), file.name)
            if clip.index and other != file.name:
                faults.append(
                    f"has section, domain, label and number of {other}: one of them is a copy; delete it, or "
                    "give each clip a number of its own"
                )
            clips.append(row)
        if faults:
            path = file.path if file.path.isprintable() else ascii(file.path)
            tree.problems.append(f"{path}: {'; '.join(faults)}")
    return sorted(clips, key=lambda c: c["clip"])


def _identity(file: File, clip: names.ClipName) -> tuple[object, ...]:
    """What tells a clip from every other one, without attributes.

    Source: section, domain, label and number are unique in the evaluation lists of 2020-2025 and in the 14
    correspondences of training clips that the organisers published.
    """
    return file.subset, file.machine, file.split, clip.section, clip.domain, clip.is_anomaly, clip.index


def _parse(file: File, year: Year) -> names.ClipName:
    """Facts in the file's name, checked against its folder; ValueError without the path."""
    if not file.name.isprintable():
        raise ValueError("has characters in its name that cannot be printed")
    if foreign := "".join(dict.fromkeys(_FOREIGN.findall(file.name))):
        raise ValueError(
            f"has {foreign!r} in its name, where clips of the challenge have letters, digits, '_', '.' and "
            "'-' alone: delete the clip if it is a copy, else rename it"
        )
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
        **header._asdict(),
    }
