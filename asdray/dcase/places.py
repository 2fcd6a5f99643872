"""Places of a machine's folders: where the organisers' scripts put them, and where people unpack zips.

The usual place is ``original/<dcase>/<subset>_data/raw/<machine>``. Folders are also read where they lie in
``<subset>_data``, in ``original/<dcase>`` itself (machines of one subset only), and in a folder per zip, as
desktop systems unpack: ``dev_fan/fan``, ``eval_data_fan_train/fan``.

>>> zip_folders("eval", "fan")[:2]
('eval_data_fan_train', 'eval_data_fan_test')
>>> subset_of("dev_data_fan", "fan"), subset_of("fan", "fan")
('dev', None)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from asdray import store
from asdray.dcase.years import SUBSETS, Subset, Year, get_year

_CLIPS = ("train", "test", "source_test", "target_test")
"""Folders of which a machine has at least one."""


def zip_folders(subset: str, machine: str) -> tuple[str, ...]:
    """Names of the folders into which a desktop system unpacks a machine's zips, of any year."""
    if subset == "dev":
        names = [f"dev_{machine}", f"dev_data_{machine}"]
    else:
        parts = ("train", "test")
        names = [f"eval_data_{machine}_{part}" for part in parts]
        names += [f"eval_data_{part}_{machine}" for part in parts]
    return (*names, *(f"{name}_r2" for name in names))


def subset_of(name: str, machine: str) -> Subset | None:
    """The subset of a folder of this name if the folder is that of a machine's zip, else None."""
    return next((subset for subset in SUBSETS if name in zip_folders(subset, machine)), None)


def machine_folders(data: Path, dcase: str, subset: str, machine: str) -> list[Path]:
    """The folders that hold a machine's clips: the usual one, existing or not, then others that exist."""
    raw = store.original_dir(data, dcase, subset)
    others = [raw.parent / machine]
    if get_year(dcase).subsets_of(machine) == (subset,):
        others.append(raw.parents[1] / machine)
    for name in zip_folders(subset, machine):
        others += [base / name / machine for base in (raw, raw.parent, raw.parents[1])]
    return [raw / machine, *(folder for folder in others if os.path.isdir(folder))]


def loose_folders(root: Path, year: Year) -> dict[str, Path]:
    """Folders in ``root`` that are machines of the year, or hold one as its zip does: name -> path."""
    found = {}
    for machine in year.all_machines:
        if any((root / machine / clips).is_dir() for clips in _CLIPS):
            found[machine] = root / machine
        for name in (name for subset in SUBSETS for name in zip_folders(subset, machine)):
            if (root / name / machine).is_dir():
                found[name] = root / name
    return found


def loose_links(
    data: Path, year: Year, folders: Mapping[str, Path], subsets: Iterable[Subset]
) -> dict[Path, Path]:
    """Links through which ``original/<dcase>`` holds `loose_folders`: path -> target.

    Raises:
        ValueError: a machine of both subsets, of which both are asked for.
    """
    wanted = tuple(subsets)
    links = {}
    for name, folder in folders.items():
        if name not in year.all_machines:
            machine = next(path.name for path in folder.iterdir() if subset_of(name, path.name))
            if subset_of(name, machine) in wanted:
                links[data / "original" / year.name / name] = folder.resolve()
            continue
        of = [subset for subset in wanted if name in year.machines[subset]]
        if len(of) > 1:
            raise ValueError(
                f"--from: {folder} lies in no folder that tells its subset, and {year.name} has {name} in "
                "dev and eval: say which with --subset"
            )
        links |= {store.original_dir(data, year.name, subset) / name: folder.resolve() for subset in of}
    return links
