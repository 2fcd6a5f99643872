"""What `download` put where: the folders of a year, and a marker per zip.

``<data>/original/<dcase>/.download/<zip>.json`` is written before the zip's first file appears in the
machine's folder, so that what asdray put there can always be told from what somebody else did, and once
more when all of it is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdray import store
from asdray.dcase.records import Zip
from asdray.dcase.years import SUBSETS, Subset, get_year

MARKER_FORMAT = 1


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
    """Whether there is anything but hidden files in a folder."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in os.scandir(folder))


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


def ground_truth_there(data: Path, dcase: str) -> bool:
    """Whether anybody put ground truth there."""
    return holds_something(store.ground_truth_dir(data, dcase))


# --------------------------------------------------------------------------------------------- markers


def _marker(data: Path, z: Zip) -> Path:
    return year_folder(data, z.dcase) / ".download" / f"{z.name}.json"


def mark(data: Path, z: Zip, files: Mapping[str, int] | None, **facts: Any) -> None:
    """Says how many of the zip's files lie in which folder; None: they are about to appear."""
    value = {"format": MARKER_FORMAT, "zip": z.name, "record": z.record, **facts, "files": files}
    store.write_json(_marker(data, z), value)


def is_there(data: Path, z: Zip) -> bool:
    """Whether all of the zip was put in place, and the folders hold no fewer files since."""
    path = _marker(data, z)
    if not path.exists():
        return False
    files = store.read_json(path).get("files")
    raw = store.original_dir(data, z.dcase, z.subset)
    return files is not None and all(
        (raw / folder).is_dir() and sum(1 for _ in os.scandir(raw / folder)) >= n
        for folder, n in files.items()
    )


def refuse_foreign(data: Path, dcase: str, missing: Sequence[Zip], every: Iterable[Zip]) -> None:
    """Raises ValueError where a missing zip's content would meet data that asdray did not put there.

    Args:
        every: all zips of the year: one of them with a marker makes its machine's folder ours.
    """
    for subset in dict.fromkeys(z.subset for z in missing):
        link = subset_folder(data, dcase, subset)
        if link.is_symlink():
            raise ValueError(
                f"{link} is a link to {link.resolve()}, which is left as it is: the data are there already; "
                f"run `asdray format {dcase}`, or choose another --data"
            )
    ours = {machine_folder(data, z) for z in every if _marker(data, z).exists()}
    foreign = dict.fromkeys(f for z in missing if (f := machine_folder(data, z)) not in ours)
    there = [f for f in foreign if holds_something(f)]
    if there:
        raise ValueError(
            f"{there[0].parent} holds {', '.join(f.name for f in there)} already, and `asdray download` did "
            f"not put that there: run `asdray format {dcase}`, name the others with --machines, or choose "
            "another --data"
        )
