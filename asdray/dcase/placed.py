"""What `download` put where: the folders of a year, and a marker per zip.

``<data>/original/<dcase>/.download/<zip>.json`` is written before the zip's first file appears in the
machine's folder, so that what asdray put there can always be told from what somebody else did, and once
more when all of it is there. It also says whether asdray itself fetches the zip, from before its first byte
comes until the zip is removed: no other zip is ever removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asdray import store
from asdray.dcase.manifest import clip_folders
from asdray.dcase.names import is_clutter
from asdray.dcase.records import PARTS, Zip
from asdray.dcase.years import SUBSETS, Subset, get_year

MARKER_FORMAT = 1

PARTIAL = (".part", ".part.etag")
"""Endings of what has come of a file so far."""

_SPLITS = dict(zip(PARTS, (("train", "test"), ("train",), ("test",)), strict=True))


def year_folder(data: Path, dcase: str) -> Path:
    """``<data>/original/<dcase>``."""
    return subset_folder(data, dcase, "dev").parent


def subset_folder(data: Path, dcase: str, subset: Subset) -> Path:
    """``<data>/original/<dcase>/{dev,eval}_data``."""
    return store.original_dir(data, dcase, subset).parent


def zips_folder(data: Path, dcase: str) -> Path:
    """Where zips lie until they are unpacked, or stay if they are kept."""
    return year_folder(data, dcase) / "zips"


def machine_folder(data: Path, z: Zip) -> Path:
    """Where the zip's content belongs."""
    return store.original_dir(data, z.dcase, z.subset) / z.machine


def holds_something(folder: Path) -> bool:
    """Whether there is a file anywhere below a folder, other than clutter and parts of downloads."""
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_clutter(name)]
        if any(not is_clutter(name) and not name.endswith(PARTIAL) for name in files):
            return True
    return False


def prune(folder: Path) -> None:
    """Removes empty folders: those below ``folder``, and itself. Follows no link."""
    if folder.is_symlink():
        return
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(path)


def machines_there(data: Path, dcase: str) -> dict[Subset, tuple[str, ...]]:
    """The machines of each subset whose folders hold something, whoever put it there."""
    return {
        subset: tuple(
            m
            for m in get_year(dcase).machines[subset]
            if holds_something(store.original_dir(data, dcase, subset) / m)
        )
        for subset in SUBSETS
    }


def lacking(data: Path, z: Zip) -> list[str]:
    """What of a zip's content is in no folder, whoever may have put it there: a machine, or its folders."""
    machine = f"{z.subset} {z.machine}"
    if not holds_something(machine_folder(data, z)):
        return [machine]
    return [
        f"{machine} {folder.name}"
        for split, folder in clip_folders(data, z.dcase, z.subset, z.machine)
        if split in _SPLITS[z.part] and not holds_something(folder)
    ]


def ground_truth_there(data: Path, dcase: str) -> bool:
    """Whether anybody put ground truth there."""
    return holds_something(store.ground_truth_dir(data, dcase))


# --------------------------------------------------------------------------------------------- markers


def _marker(data: Path, z: Zip) -> Path:
    return year_folder(data, z.dcase) / ".download" / f"{z.name}.json"


def _facts(data: Path, z: Zip) -> dict[str, Any]:
    path = _marker(data, z)
    facts: dict[str, Any] = store.read_json(path) if path.exists() else {}
    return facts


def mark(data: Path, z: Zip, **facts: Any) -> None:
    """Writes facts of a zip, beside those that are known.

    ``files``: how many of its files lie in which folder, None = they are about to appear. ``fetched``:
    whether asdray fetches the zip that lies in the zips' folder. ``keep``: whether it was asked to keep it.
    """
    always = {"format": MARKER_FORMAT, "zip": z.name, "record": z.record}
    store.write_json(_marker(data, z), {**_facts(data, z), **always, **facts})


def is_there(data: Path, z: Zip) -> bool:
    """Whether all of the zip was put in place, and the folders hold no fewer files since."""
    files = _facts(data, z).get("files")
    raw = store.original_dir(data, z.dcase, z.subset)
    return files is not None and all(
        (raw / folder).is_dir() and sum(1 for _ in os.scandir(raw / folder)) >= n
        for folder, n in files.items()
    )


def is_fetched(data: Path, z: Zip) -> bool:
    """Whether the zip in the zips' folder is one that asdray fetched."""
    return bool(_facts(data, z).get("fetched"))


def is_kept(data: Path, z: Zip) -> bool:
    """Whether asdray was asked to keep the zip."""
    return bool(_facts(data, z).get("keep"))


def remove_zip(data: Path, z: Zip) -> None:
    """Removes the zip that asdray fetched, and what came of it; another that lies there later stays."""
    assert is_fetched(data, z)
    for ending in (*PARTIAL, ""):
        (zips_folder(data, z.dcase) / (z.name + ending)).unlink(missing_ok=True)
    mark(data, z, fetched=False)


def protected(data: Path, missing: Sequence[Zip], every: Iterable[Zip]) -> list[Zip]:
    """Those zips whose content would meet data that asdray did not put there.

    Args:
        every: all zips of the year: one of them that was put in place makes its machine's folder ours.
    """
    ours = {machine_folder(data, z) for z in every if "files" in _facts(data, z)}

    def is_foreign(z: Zip) -> bool:
        folder = machine_folder(data, z)
        if folder.parent.is_symlink() or folder.parent.parent.is_symlink():
            return True
        return folder not in ours and (folder.is_symlink() or holds_something(folder))

    return [z for z in missing if is_foreign(z)]
