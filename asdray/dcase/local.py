"""Data that somebody has already: zips in a folder, or the unpacked tree of the organisers' scripts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from asdray import store
from asdray.dcase.fetch import digest_of
from asdray.dcase.hints import hint
from asdray.dcase.manifest import SYNTHETIC_MARKS
from asdray.dcase.placed import holds_something, prune, subset_folder
from asdray.dcase.records import Zip, zips
from asdray.dcase.years import SUBSETS, YEARS, Subset, get_year

_SUBSET_FOLDERS = tuple(f"{subset}_data" for subset in SUBSETS)


def find_tree(source: Path, dcase: str, wanted: Iterable[Zip]) -> Path | None:
    """The root of the unpacked tree that ``source`` means, or None if it means a folder with zips.

    The root is ``source`` itself, or what it lies in if it is ``dev_data`` or ``dev_data/raw``; or, where
    ``source`` holds none of the ``wanted`` zips, the one folder in it that is a tree of this year.

    Raises:
        ValueError: it is no folder; it holds several trees, or neither a tree nor zips; or synthetic data.
    """
    if not source.is_dir():
        raise ValueError(f"--from: there is no folder {source}")
    wanted = list(wanted)
    folder = source.parent if source.name == "raw" else source
    root = folder.parent if folder.name in _SUBSET_FOLDERS else source
    if not _is_tree(root):
        lying = find_zips(source, wanted)
        below = _tree_below(source, dcase) if wanted and not lying else None
        if below is None:
            if wanted and not lying:
                raise ValueError(
                    f"--from: {source} holds none of the zips that are missing ({wanted[0].name}, ...), and "
                    f"no tree of {dcase}, neither dev_data/raw/<machine>/train nor eval_data/raw/..."
                )
            _refuse_synthetic(source)
            return None
        root = below
    _refuse_synthetic(root)
    return root


def _is_tree(root: Path) -> bool:
    return any(_raw(root, subset) is not None for subset in SUBSETS)


def _raw(root: Path, subset: Subset) -> Path | None:
    """The folder with the machines' folders: ``dev_data/raw``, or ``dev_data`` itself."""
    folder = root / f"{subset}_data"
    if _machines_in(folder) and not _machines_in(folder / "raw"):
        return folder
    return folder / "raw" if (folder / "raw").is_dir() else None


def _machines_in(raw: Path) -> set[str]:
    """The machines, of any year, that a folder holds."""
    known = {m for year in YEARS.values() for m in year.all_machines}
    return {p.name for p in raw.iterdir() if p.name in known and p.is_dir()} if raw.is_dir() else set()


def _tree_below(source: Path, dcase: str) -> Path | None:
    """The tree in ``source`` that may be this year's, as far as folders are named like years."""
    trees = [p for p in sorted(source.iterdir()) if p.is_dir() and _is_tree(p)]
    mine = [p for p in trees if dcase in p.name]
    mine = mine or [p for p in trees if not re.search(r"dcase20\d\d", p.name)]
    if len(mine) > 1:
        raise ValueError(
            f"--from: {source} holds several trees ({', '.join(p.name for p in mine)}): name that of {dcase}"
        )
    return mine[0] if mine else None


def _refuse_synthetic(root: Path) -> None:
    """Raises ValueError where `asdray synth` made what ``root`` holds, itself or through links."""
    parts = [root, root / "ground_truth"]
    for subset in SUBSETS:
        raw = _raw(root, subset)
        if raw is not None:
            parts += [raw, *(raw / machine for machine in _machines_in(raw))]
    folders = {folder for p in parts for folder in (p.resolve(), *p.resolve().parents[:3])}
    for folder in sorted(folders):
        for name in SYNTHETIC_MARKS:
            if (folder / name).exists():
                raise ValueError(
                    f"--from: {folder} holds synthetic data ({name}), which must not pass for official: "
                    "use them where they are, with another --data"
                )


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


def plan_links(data: Path, dcase: str, root: Path, subsets: Iterable[Subset]) -> dict[Path, Path]:
    """What of ``original/<dcase>`` has to be a link to what, so that it holds the tree. Changes nothing.

    That is ``dev_data``, or ``dev_data/raw`` where the tree's ``dev_data`` holds the machines itself.

    Raises:
        ValueError: the tree holds machines of another year, or none of this one; there is data already.
    """
    links = {}
    for subset in subsets:
        raw, link = _raw(root, subset), subset_folder(data, dcase, subset)
        if raw is None or not _holds_machines(raw, dcase, subset):
            continue
        above = link
        if raw.name == "raw":
            raw = raw.parent
        else:
            link = store.original_dir(data, dcase, subset)
        target = raw.resolve()
        taken = above.is_symlink() or link.is_symlink() or holds_something(link) or link.is_file()
        if taken and link.resolve() != target:
            raise ValueError(
                f"{link} is there already: run `{hint('format', dcase, data)}`, or choose another --data for "
                f"{root}"
            )
        links[link] = target
    if not links:
        raise ValueError(f"--from: {root} holds no machine of {dcase} that was asked for")
    return links


def _holds_machines(raw: Path, dcase: str, subset: Subset) -> bool:
    there, mine = _machines_in(raw), set(get_year(dcase).machines[subset])
    for year in YEARS.values():
        if foreign := sorted(there & set(year.all_machines) - mine):
            raise ValueError(
                f"--from: {raw} holds {', '.join(foreign)}, which {dcase} does not have among its {subset} "
                f"machines ({year.name} has): is it another year's?"
            )
    return bool(there)


def make_links(links: Mapping[Path, Path]) -> None:
    """Makes the links of `plan_links` that are not there.

    Raises:
        ValueError: a folder with hidden files is in the way.
    """
    for link, target in links.items():
        if link.resolve() == target:
            continue
        prune(link)  # empty folders, as an interrupted call leaves them
        if link.exists() or link.is_symlink():
            raise ValueError(f"{link} is in the way of a link to {target}: delete it, it holds no data")
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
    if holds_something(source / "ground_truth"):
        make_links({folder: (source / "ground_truth").resolve()})
    elif (source / name).is_file():
        with store.atomic_path(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return holds_something(folder)
