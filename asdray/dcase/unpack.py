"""One zip unpacked safely: looked at as a whole, then into a folder of its own, then renamed into place.

A zip may have come from anywhere. What would lie outside its folder, links, devices, encrypted entries and
more bytes than a zip of recordings can hold are refused before anything is written. Zips that somebody
packed anew are understood: with backslashes, with ``./``, with texts beside the machine's folder, or with
that folder twice.
"""

from __future__ import annotations

import calendar
import errno
import filecmp
import os
import shutil
import stat
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asdray.dcase.fetch import Stopped

RATIO = 100
"""Bytes that a zip may hold per byte of its own: recordings have 1 to 3, digital silence up to 1000."""

SMALL = 1 << 24
"""Bytes that any zip may hold."""

_BLOCK = 1 << 20

Entries = list[tuple[zipfile.ZipInfo, tuple[str, ...]]]
"""The files of a zip with the parts of their paths, the machine first."""


@dataclass(frozen=True)
class Unpacked:
    """What `unpack` brought.

    Attributes:
        files: how many files of the zip lie in each folder (``fan/train``, with forward slashes).
        kept: files that were there before with another content, and were left as they are.
    """

    files: Mapping[str, int]
    kept: tuple[str, ...]


def unpack(
    path: Path,
    machine: str,
    raw: Path,
    *,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
    on_files: Callable[[int, int], None] | None = None,
) -> Unpacked:
    """Unpacks a machine's zip so that its content lies in ``raw/<machine>``.

    Files get the time that the zip says, read as UTC: unpacking again gives the same files.

    Args:
        stop: ends the call with `Stopped` when it is set.
        on_ready: called when everything is unpacked, before the first file appears in ``raw/<machine>``.
        on_files: called with (files unpacked, files in all).

    Raises:
        ValueError: no zip, a damaged one, one that is refused, or a clip that lies there already with another
            content. Nothing of the zip is in place then, but for the latter.
        OSError: the disk is full or cannot be written.
        Stopped: ``stop`` was set.
    """
    temporary = raw / f".tmp-{path.stem}"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(archive, path, machine)
            _check_space(entries, raw, path)
            shutil.rmtree(temporary, ignore_errors=True)  # an interrupted call's
            for done, (info, parts) in enumerate(entries):
                if stop is not None and stop.is_set():
                    raise Stopped
                if on_files and done % 64 == 0:
                    on_files(done, len(entries))
                _extract(archive, info, temporary.joinpath(*parts))
        if on_ready:
            on_ready()
        kept = _put_in_place(temporary, [parts for _, parts in entries], raw, path.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged or no zip ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(dict(Counter("/".join(parts[:-1]) for _, parts in entries)), kept)


def _checked(archive: zipfile.ZipFile, path: Path, machine: str) -> Entries:
    """The files to unpack. A text at the top (a licence, a system's own file) is left out.

    Raises:
        ValueError: the zip holds what no dataset's zip holds.
    """
    entries: Entries = []
    for info in archive.infolist():
        # Some programs on Windows write backslashes. No name of a dataset has one.
        name = info.filename.replace("\\", "/")
        while name.startswith("./"):
            name = name[2:]
        parts = tuple(name.removesuffix("/").split("/"))
        if name in ("", ".") or parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
            continue
        where = f"{path} is refused: its entry {info.filename!r}"
        if ".." in parts or parts[0] == "":
            raise ValueError(f"{where} would lie outside its folder")
        if "" in parts or "." in parts:
            raise ValueError(f"{where} is no plain path")
        is_folder = name.endswith("/")
        if len(parts) == 1 and not is_folder and not name.lower().endswith(".wav"):
            continue
        if parts[:2] == (machine, machine):
            parts = parts[1:]
        if parts[0] != machine:
            raise ValueError(f"{where} does not lie in the folder {machine}")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{where} is a link or a device")
        if info.flag_bits & 0x1:
            raise ValueError(f"{where} is encrypted")
        if not is_folder:
            entries.append((info, parts))
    if not entries:
        raise ValueError(f"{path} is refused: it holds no file")
    names = [parts for _, parts in entries]
    folders = {parts[:i] for parts in names for i in range(1, len(parts))}
    twice = [name for name, n in Counter(names).items() if n > 1 or name in folders]
    if twice:
        raise ValueError(f"{path} is refused: it holds {'/'.join(twice[0])!r} twice")
    total = sum(info.file_size for info, _ in entries)
    if total > max(SMALL, RATIO * path.stat().st_size):
        raise ValueError(
            f"{path} is refused: its {path.stat().st_size} bytes would become {total}, "
            "which no zip of recordings does"
        )
    return entries


def _check_space(entries: Entries, raw: Path, path: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    total, free = sum(info.file_size for info, _ in entries), shutil.disk_usage(raw).free
    if total > free:
        what = f"{path} needs {total / 1e9:.2f} GB in {raw}, where {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, what)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """One file. zipfile yields no more bytes than the entry declares, and checks its CRC."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, open(target, "xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
    year, month, *rest = info.date_time
    seconds = calendar.timegm((year, min(max(month, 1), 12), *rest))  # an unset date has month 0
    os.utime(target, (seconds, seconds))


def _put_in_place(temporary: Path, names: list[tuple[str, ...]], raw: Path, zip_name: str) -> tuple[str, ...]:
    """Renames the files into ``raw``; the two zips of an eval machine meet there."""
    kept = []
    for parts in names:
        source, target = temporary.joinpath(*parts), raw.joinpath(*parts)
        if target.exists():
            # From a call that was interrupted here, or from the machine's other zip.
            if filecmp.cmp(source, target, shallow=False):
                continue
            if target.suffix == ".wav":
                raise ValueError(f"{target} is there already, with another content than in {zip_name}")
            kept.append("/".join(parts))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    return tuple(kept)
