"""Data that somebody has already: zips in a folder, or the unpacked tree of the organisers' scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from asdray import store
from asdray.dcase.fetch import digest_of
from asdray.dcase.placed import holds_something, subset_folder
from asdray.dcase.records import Zip, zips
from asdray.dcase.years import SUBSETS, YEARS, Subset, get_year


def is_tree(source: Path) -> bool:
    """Whether ``source`` is an unpacked tree.

    Raises:
        ValueError: it is no folder.
    """
    if not source.is_dir():
        raise ValueError(f"--from: there is no folder {source}")
    return any((source / f"{subset}_data" / "raw").is_dir() for subset in SUBSETS)


def find_zips(source: Path, wanted: Iterable[Zip]) -> dict[Zip, Path]:
    """Where each zip lies, anywhere below ``source``; those that do not are left out.

    Raises:
        ValueError: a zip lies there more than once.
    """
    lying: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.zip")):
        lying.setdefault(path.name, []).append(path)
    found = {}
    for z in wanted:
        paths = lying.get(z.name, [])
        if len(paths) > 1:  # names repeat from year to year
            raise ValueError(
                f"--from: {z.name} lies in {' and in '.join(str(p.parent) for p in paths)}: "
                f"name the folder with the zips of {z.dcase}"
            )
        if paths:
            found[z] = paths[0]
    return found


def check_zip(path: Path, z: Zip) -> None:
    """Raises ValueError if the file is another zip than ``z``, as far as md5 sums are known."""
    digest = digest_of(path, "md5:").removeprefix("md5:")
    known = {other.md5: other for name in YEARS for other in zips(name) if other.md5}
    if digest in known and known[digest] != z:
        raise ValueError(f"{path} is {known[digest].name} of {known[digest].dcase}, not of {z.dcase}")
    if z.md5 not in (None, digest):
        raise ValueError(f"{path} is damaged or another file: its md5 is {digest}, not {z.md5}")


# ------------------------------------------------------------------------------------------------ trees


def link_tree(data: Path, dcase: str, source: Path, subsets: Iterable[Subset]) -> tuple[Path, ...]:
    """Makes ``original/<dcase>/{dev_data,eval_data}`` links to what ``source`` has of them.

    Returns:
        The links, old and new.

    Raises:
        ValueError: ``source`` holds machines of another year, or none of this one; there is data already.
    """
    pairs = [
        (subset_folder(data, dcase, s), (source / f"{s}_data").resolve())
        for s in subsets
        if _holds_machines(source, dcase, s)
    ]
    if not pairs:
        raise ValueError(f"--from: {source} holds no machine of {dcase} that was asked for")
    for link, target in pairs:
        if link.resolve() != target and (link.is_symlink() or _holds_data(link)):
            raise ValueError(
                f"{link} is there already: run `asdray format {dcase}`, or choose another --data for {source}"
            )
    for link, target in pairs:
        _link(link, target)
    return tuple(link for link, _ in pairs)


def _holds_machines(source: Path, dcase: str, subset: Subset) -> bool:
    raw = source / f"{subset}_data" / "raw"
    there = {p.name for p in raw.iterdir() if p.is_dir()} if raw.is_dir() else set()
    mine = set(get_year(dcase).machines[subset])
    for year in YEARS.values():
        if foreign := sorted(there & set(year.all_machines) - mine):
            raise ValueError(
                f"--from: {raw} holds {', '.join(foreign)}, which {dcase} does not have among its {subset} "
                f"machines ({year.name} has): is it another year's?"
            )
    return bool(there & mine)


def _holds_data(folder: Path) -> bool:
    return any(holds_something(p) for p in (folder / "raw").glob("*")) if folder.is_dir() else folder.exists()


def _link(link: Path, target: Path) -> None:
    if link.resolve() == target:
        return
    if link.is_dir():
        for folder in sorted((p for p in link.rglob("*") if p.is_dir()), reverse=True):
            folder.rmdir()  # empty folders, as an interrupted call leaves them
        link.rmdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target, target_is_directory=True)


def take_ground_truth(data: Path, dcase: str, source: Path) -> bool:
    """Links to ``source/ground_truth``, or copies ``source/eval_data_list_<year>.csv``.

    Ground truth that is there already stays as it is.

    Returns:
        Whether there is ground truth now.
    """
    folder = store.ground_truth_dir(data, dcase)
    if holds_something(folder):
        return True
    name = f"eval_data_list_{get_year(dcase).year}.csv"
    if (source / "ground_truth").is_dir():
        _link(folder, (source / "ground_truth").resolve())
    elif (source / name).is_file():
        with store.atomic_path(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return holds_something(folder)


def missing_machines(data: Path, wanted: Iterable[Zip]) -> dict[str, str]:
    """What of ``wanted`` is in no folder, as ``failed`` of the report."""
    missing = {}
    for z in wanted:
        raw = store.original_dir(data, z.dcase, z.subset)
        if not holds_something(raw / z.machine):
            missing[f"{z.subset} {z.machine}"] = f"not in {raw}"
    return missing
