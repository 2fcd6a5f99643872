"""Finds the files of a year's original tree by the names of their folders, and everything that lies wrong.

Nothing that holds wavs is passed over without a word: what lies where the year has no clips is told.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asdray import store
from asdray.dcase import manifest
from asdray.dcase.names import is_clutter
from asdray.dcase.years import SUBSETS, Year, nearest


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
class Scan:
    """What lies in ``original/<dcase>``.

    Attributes:
        files: everything in the year's clip folders.
        problems: one line for each file or folder that is wrong, beginning with it.
        notes: wavs that are rightly left out.
    """

    files: list[File] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What lies in a folder; nothing, and a problem if it should be otherwise."""
        if os.path.lexists(folder) and not os.path.isdir(folder):
            what = "a file where a folder should be" if os.path.exists(folder) else "a link to nowhere"
            self.problems.append(f"{folder}: is {what}")
            return []
        try:
            return manifest.clip_entries(folder)
        except ValueError as error:
            self.problems.append(str(error))
            return []

    def wavs(self, folder: str) -> list[str]:
        """The paths of all wavs below a folder, relative to it; a problem for each that cannot be read."""

        def unread(error: OSError) -> None:
            self.problems.append(f"{error.filename}: cannot be read ({error.strerror})")

        found = []
        for root, below, names in os.walk(folder, onerror=unread):
            below[:] = sorted(name for name in below if not is_clutter(name))
            found += [os.path.relpath(os.path.join(root, name), folder) for name in names if _is_wav(name)]
        return found


def scan(data: Path, year: Year) -> Scan:
    """Looks through the folders of both subsets."""
    found = Scan()
    for subset in SUBSETS:
        raw = store.original_dir(data, year.name, subset)
        machines = year.machines[subset]
        found.problems += [
            f"{entry.path}: a machine's folder belongs into {raw}"
            for entry in found.entries(raw.parent)
            if entry.name in machines and _is_folder(entry)
        ]
        loose = 0
        for entry in found.entries(raw):
            if entry.name in machines:
                _scan_machine(found, data, year, subset, entry.name)
            elif _is_folder(entry):
                holds = _count(found.wavs(entry.path))
                found.problems.append(
                    f"{entry.path}: {year.name} has no {subset} machine of this name"
                    f"{nearest(entry.name, machines)}{f' (it holds {holds})' if holds else ''}"
                )
            else:
                loose += _is_wav(entry.name)
        if loose:
            found.problems.append(
                f"{raw}: holds {_count(loose)} beside the machines' folders: move them into one, or away"
            )
    return found


def _scan_machine(found: Scan, data: Path, year: Year, subset: str, machine: str) -> None:
    root = store.original_dir(data, year.name, subset) / machine
    known_problems = len(found.problems)
    here = {entry.name: entry for entry in found.entries(root)}
    if len(found.problems) > known_problems:
        return
    folders = {
        folder.name: split for split, folder in manifest.clip_folders(data, year.name, subset, machine)
    }
    others = [entry for name, entry in here.items() if name not in folders]
    if not any(name in here and _is_folder(here[name]) for name in folders):
        says = f"{root}: holds no folder {' or '.join(folders)}"
        if machine in here and _is_folder(here[machine]):
            says += f" but {machine}/{machine}: move what is in that one level up"
            others.remove(here[machine])
        found.problems.append(says)
    mine = []
    for name, split in folders.items():
        if name in here:
            mine += [
                File(subset, machine, split, name, entry.name, entry.path, _is_folder(entry))
                for entry in found.entries(root / name)
            ]
    found.files += mine
    for entry in others:
        if _is_folder(entry):
            _unlisted(found, year, entry, folders, {file.name for file in mine if file.split == "test"})
    if loose := sum(_is_wav(entry.name) and not _is_folder(entry) for entry in others):
        found.problems.append(
            f"{root}: holds {_count(loose)} beside its folders {', '.join(folders)}: "
            "move them into one, or away"
        )


def _unlisted(
    found: Scan, year: Year, entry: os.DirEntry[str], folders: Mapping[str, str], test: Collection[str]
) -> None:
    """Tells of a folder in which the year has no clips, if it holds some.

    Args:
        folders: those in which it has some, each with its split.
        test: names of the test clips.
    """
    wavs = found.wavs(entry.path)
    if year.split_test_folders and entry.name == "test":
        if copies := [wav for wav in wavs if wav in test]:
            found.notes.append(
                f"{entry.path}: {_count(copies)} left out: copies of those in "
                f"{' and '.join(n for n, split in folders.items() if split == 'test')}, as the organisers' "
                "scripts make them"
            )
        wavs = [wav for wav in wavs if wav not in test]
    if wavs:
        found.problems.append(
            f"{entry.path}: holds {_count(wavs)}, but {year.name} has no clips in a folder of this name: "
            f"move them into one of {', '.join(folders)}, or away{nearest(entry.name, folders)}"
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles, or where nobody may look
        return False


def _is_wav(name: str) -> bool:
    return name.lower().endswith(".wav") and not is_clutter(name)


def _count(wavs: int | list[str]) -> str:
    """``3 wavs``, or ``""`` for none."""
    n = wavs if isinstance(wavs, int) else len(wavs)
    return f"{n} wav{'s' * (n != 1)}" if n else ""
