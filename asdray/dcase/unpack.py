"""Local sources of a year: zips unpacked safely, and unpacked trees linked to.

A zip is checked as a whole, unpacked into a hidden folder, then renamed into place. Zips may have any origin:
entries outside the machine's folder, links, devices, encrypted entries, and more bytes than a zip of
recordings can hold are refused before the first write. Repacked zips are accepted: with backslashes, with
``./``, with texts beside the machine's folder, or with a doubled machine folder.

A tree is a folder as the organisers' download scripts leave it, with ``dev_data`` or ``eval_data``; asdray
links to these folders and changes nothing in them.

Conventions: sizes are bytes; files get the time in the zip, read as UTC, so that unpacking again gives equal
files; files with another content are never overwritten.

>>> import pathlib, tempfile, zipfile
>>> from asdray.dcase.unpack import unpack
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder, "dev_fan.zip")
...     with zipfile.ZipFile(path, "w") as archive:
...         archive.writestr("fan/train/a.wav", b"audio")
...     unpack(path, "fan", path.parent / "raw").files
{'fan/train': 1}
"""

from __future__ import annotations

import calendar
import errno
import filecmp
import os
import re
import shutil
import stat
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asdray import store
from asdray.dcase.fetch import Stopped, digest_of
from asdray.dcase.manifest import SYNTHETIC_MARKS, hint
from asdray.dcase.places import loose_folders, loose_links
from asdray.dcase.records import Zip, holds_something, remove_empty_folders, zips
from asdray.dcase.years import SUBSETS, YEARS, Subset, get_year
from asdray.links import has_no_links
from asdray.regular import check_regular, open_regular

RATIO = 100
"""Limit of unpacked bytes per byte of the zip: recordings have 1 to 3, digital silence up to 1000."""

SMALL = 1 << 24
"""Unpacked bytes allowed for any zip."""

_BLOCK = 1 << 20

_WITH_QUERY = re.compile(r"\.zip[?@]download=1$")
"""The end of the name under which wget keeps Zenodo's ``dev_fan.zip?download=1``; ``@`` on Windows."""

Entries = list[tuple[zipfile.ZipInfo, tuple[str, ...]]]
"""Files of a zip with the parts of their paths, the machine first."""


@dataclass(frozen=True)
class Unpacked:
    """Result of `unpack`.

    Attributes:
        files: number of the zip's files per folder (``fan/train``, with forward slashes).
        kept: existing files with another content, left as they were.
    """

    files: Mapping[str, int]
    kept: tuple[str, ...]


def unpack(
    path: Path,
    machine: str,
    raw: Path,
    *,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_files: Callable[[int, int], None] = lambda done, total: None,
) -> Unpacked:
    """Unpacks a machine's zip into ``raw/<machine>``.

    Args:
        stop: ends the call with `Stopped` when set.
        on_ready: called when everything is unpacked, before the first file appears in ``raw/<machine>``.
        on_files: called with (files unpacked, files in all).

    Raises:
        ValueError: no zip, a damaged zip, a refused zip, or an existing clip with another content. No file of
            the zip is in place then, except in the last case.
        OSError: the disk is full or cannot be written.
    """
    temporary = raw / f".tmp-{path.stem}"
    check_regular(path)  # not below, where the error of a pipe would count as that of a damaged zip
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = _checked(archive, path, machine)
            _check_space(entries, raw, path)
            shutil.rmtree(temporary, ignore_errors=True)  # an interrupted call's
            for done, (info, parts) in enumerate(entries):
                if stop is not None and stop.is_set():
                    raise Stopped
                if done % 64 == 0:
                    on_files(done, len(entries))
                _extract(archive, info, temporary.joinpath(*parts))
        on_ready()
        kept = _put_in_place(temporary, [parts for _, parts in entries], raw, path.name)
    except NotImplementedError:
        raise ValueError(
            f"{path} is compressed in a way that Python cannot read, as Windows does above 2 GB: unpack it "
            "with another program, and name the folder of what is in it"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise ValueError(f"{path} is damaged or no zip ({error})") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{path} is damaged: it names places outside of itself") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(dict(Counter("/".join(parts[:-1]) for _, parts in entries)), kept)


def _checked(archive: zipfile.ZipFile, path: Path, machine: str) -> Entries:
    """The files to unpack, without texts at the top, such as a licence; ValueError if refused."""
    entries: Entries = []
    for info in archive.infolist():
        try:
            parts = _parts(info, machine)
        except ValueError as error:
            raise ValueError(f"{path} is refused: its entry {info.filename!r} {error}") from None
        if parts:
            entries.append((info, parts))
    if not entries:
        raise ValueError(f"{path} is refused: it holds no file")
    names = Counter(parts for _, parts in entries)
    folders = {parts[:i] for parts in names for i in range(1, len(parts))}
    for parts, n in names.items():
        if n > 1 or parts in folders:
            raise ValueError(f"{path} is refused: it holds {'/'.join(parts)!r} twice")
    total = sum(info.file_size for info, _ in entries)
    if total > max(SMALL, RATIO * path.stat().st_size):
        raise ValueError(
            f"{path} is refused: its {path.stat().st_size} bytes would become {total}, "
            "which no zip of recordings does"
        )
    return entries


def _parts(info: zipfile.ZipInfo, machine: str) -> tuple[str, ...]:
    """Parts of an entry's path, the machine first; empty if left out. ValueError if refused."""
    # Some programs on Windows write backslashes; no name of a dataset has a backslash.
    name = info.filename.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    parts = tuple(name.removesuffix("/").split("/"))
    if name in ("", ".") or parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
        return ()
    is_folder = name.endswith("/")
    if ".." in parts or parts[0] == "":
        raise ValueError("would lie outside its folder")
    if "" in parts or "." in parts:
        raise ValueError("is no plain path")
    if len(parts) == 1 and not is_folder and not name.lower().endswith(".wav"):
        return ()
    if parts[:2] == (machine, machine):
        parts = parts[1:]
    if parts[0] != machine:
        raise ValueError(f"does not lie in the folder {machine}")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError("is a link or a device")
    if info.flag_bits & 0x1:
        raise ValueError("is encrypted")
    return () if is_folder else parts


def _check_space(entries: Entries, raw: Path, path: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    total, free = sum(info.file_size for info, _ in entries), shutil.disk_usage(raw).free
    if total > free:
        what = f"{path} needs {total / 1e9:.2f} GB in {raw}, where {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, what)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Unpacks one file; zipfile yields no more bytes than the entry declares, and checks the CRC."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, open(target, "xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
    year, month, *rest = info.date_time
    seconds = calendar.timegm((year, min(max(month, 1), 12), *rest))  # an unset date has month 0
    os.utime(target, (seconds, seconds))


def _put_in_place(temporary: Path, names: list[tuple[str, ...]], raw: Path, zip_name: str) -> tuple[str, ...]:
    """Renames the files into ``raw``, the common folder of an eval machine's two zips."""
    kept = []
    for parts in names:
        source, target = temporary.joinpath(*parts), raw.joinpath(*parts)
        if target.exists():
            # From an interrupted call, or from the machine's other zip.
            if filecmp.cmp(source, target, shallow=False):
                continue
            if target.suffix == ".wav":
                raise ValueError(f"{target} is there already, with another content than in {zip_name}")
            kept.append("/".join(parts))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    return tuple(kept)


# ------------------------------------------------------------------------------------------ zips of a user


def find_zips(source: Path, wanted: Iterable[Zip]) -> dict[Zip, Path]:
    """Paths of the wanted zips that lie anywhere below ``source``.

    Raises:
        ValueError: several files with the name of one zip.
    """
    paths_of: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.zip*")):
        paths_of.setdefault(_WITH_QUERY.sub(".zip", path.name), []).append(path)
    found = {}
    for z in wanted:
        paths = paths_of.get(z.name, [])
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


# ----------------------------------------------------------------------------------------- trees of a user


def find_tree(source: Path, dcase: str, wanted: Iterable[Zip]) -> Path | None:
    """The root of the unpacked tree that ``source`` means; None if ``source`` is a folder with zips.

    The root is ``source`` itself, or the folder above if ``source`` is ``dev_data`` or ``dev_data/raw``; or,
    if ``source`` holds none of the ``wanted`` zips, its only subfolder that is a tree of this year.

    Raises:
        ValueError: no folder; several trees, or neither a tree nor zips; synthetic data.
    """
    if not source.is_dir():
        raise ValueError(f"--from: there is no folder {source}")
    wanted = list(wanted)
    folder = source.parent if source.name == "raw" else source
    above = folder.parent if folder.name in ("dev_data", "eval_data") else source
    root = above if _is_tree(above) else None
    if root is None and wanted and not find_zips(source, wanted):
        root = source if loose_folders(source, get_year(dcase)) else _tree_below(source, dcase)
        if root is None:
            raise ValueError(
                f"--from: {source} holds none of the zips that are missing ({wanted[0].name}, ...), and "
                f"no tree of {dcase}, such as dev_data/raw/<machine>/train or <machine>/train"
            )
    _refuse_synthetic(root or source, dcase)
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
    """Machines of any year with a folder in ``raw``."""
    known = {m for year in YEARS.values() for m in year.all_machines}
    return {p.name for p in raw.iterdir() if p.name in known and p.is_dir()} if raw.is_dir() else set()


def _tree_below(source: Path, dcase: str) -> Path | None:
    """The subfolder that may be a tree of this year; folders named after another year are left out."""
    folders = [p for p in sorted(source.iterdir()) if p.is_dir()]
    trees = [p for p in folders if _is_tree(p) or loose_folders(p, get_year(dcase))]
    of_year = [p for p in trees if dcase in p.name]
    of_year = of_year or [p for p in trees if not re.search(r"dcase20\d\d", p.name)]
    if len(of_year) > 1:
        names = ", ".join(p.name for p in of_year)
        raise ValueError(f"--from: {source} holds several trees ({names}): name that of {dcase}")
    return of_year[0] if of_year else None


def _refuse_synthetic(root: Path, dcase: str) -> None:
    """Raises ValueError if ``root`` holds data of `asdray synth`, also through links."""
    parts = [root, root / "ground_truth", *loose_folders(root, get_year(dcase)).values()]
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


def plan_links(data: Path, dcase: str, root: Path, subsets: Iterable[Subset]) -> dict[Path, Path]:
    """Links (path -> target) through which ``original/<dcase>`` holds the tree. Changes nothing.

    One link per subset: ``dev_data``, or ``dev_data/raw`` if the tree's ``dev_data`` holds the machines.

    Raises:
        ValueError: the tree holds machines of another year, or none of this year; the data folder has data.
    """
    if not _is_tree(root):
        return _loose_links(data, dcase, root, subsets)
    links = {}
    for subset in subsets:
        raw, link = _raw(root, subset), store.original_dir(data, dcase, subset)
        if raw is None or not _holds_machines(raw, dcase, subset):
            continue
        above = link.parent
        if raw.name == "raw":
            raw, link = raw.parent, above
        target = raw.resolve()
        _refuse_taken(link, target, data, dcase, root, taken=above.is_symlink())
        links[link] = target
    if not links:
        raise ValueError(f"--from: {root} holds no machine of {dcase} that was asked for")
    return links


def _loose_links(data: Path, dcase: str, root: Path, subsets: Iterable[Subset]) -> dict[Path, Path]:
    """As `plan_links`, for machines' folders and folders of unpacked zips that lie in ``root`` itself."""
    year = get_year(dcase)
    if foreign := sorted(_machines_in(root) - set(year.all_machines)):
        raise ValueError(f"--from: {root} holds {', '.join(foreign)}, which {dcase} does not have")
    links = loose_links(data, year, loose_folders(root, year), subsets)
    for link, target in links.items():
        _refuse_taken(link, target, data, dcase, root)
    if not links:
        raise ValueError(f"--from: {root} holds no machine of {dcase} that was asked for")
    return links


def _refuse_taken(
    link: Path, target: Path, data: Path, dcase: str, root: Path, *, taken: bool = False
) -> None:
    taken = taken or link.is_symlink() or holds_something(link) or link.is_file()
    if taken and link.resolve() != target:
        raise ValueError(
            f"{link} is there already: run `{hint('format', dcase, data)}`, or choose another --data for "
            f"{root}"
        )


def _holds_machines(raw: Path, dcase: str, subset: Subset) -> bool:
    found, own = _machines_in(raw), set(get_year(dcase).machines[subset])
    for year in YEARS.values():
        if foreign := sorted(found & set(year.all_machines) - own):
            raise ValueError(
                f"--from: {raw} holds {', '.join(foreign)}, which {dcase} does not have among its {subset} "
                f"machines ({year.name} has): is it another year's?"
            )
    return bool(found)


def make_links(links: Mapping[Path, Path]) -> None:
    """Makes the missing links of `plan_links`; ValueError if a folder with hidden files is in the way."""
    for link, target in links.items():
        if link.resolve() == target:
            continue
        remove_empty_folders(link)  # left by an interrupted call
        if link.exists() or link.is_symlink():
            raise ValueError(f"{link} is in the way of a link to {target}: delete it, it holds no data")
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(target, target_is_directory=True)
        except OSError as error:
            fix = ""
            if has_no_links(error, link.parent):
                fix = ": this file system has no links; copy the folder there, and format it with --link copy"
            raise ValueError(f"cannot make the link {link} to {target}: {error.strerror}{fix}") from error


def take_ground_truth(data: Path, dcase: str, source: Path) -> bool:
    """Links to ``source/ground_truth``, or copies ``source/eval_data_list_<year>.csv``.

    Existing ground truth stays as it is.

    Returns:
        True if the data folder has ground truth now.
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
