"""The unified tree of a formatted dataset: links or copies, made right one by one."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from asdray import store
from asdray.dcase.names import SPLITS

Link = Literal["symlink", "hardlink", "copy"]


def remove_stale(data: Path, dcase: str, wanted: set[str]) -> int:
    """Removes links and wavs of the unified tree that no clip has any more; other files are left alone."""
    removed = 0
    raw = store.formatted_dir(data, dcase) / "raw"
    for folder in (p / split for p in (raw.iterdir() if raw.is_dir() else ()) for split in SPLITS):
        if not folder.is_dir():
            continue
        prefix = folder.relative_to(data).as_posix()
        with os.scandir(folder) as entries:
            stale = [
                e.path
                for e in entries
                if f"{prefix}/{e.name}" not in wanted
                and (e.is_symlink() or e.name.endswith(".wav") or e.name.startswith(".tmp-"))
            ]
        for path in stale:
            os.unlink(path)
        removed += len(stale)
        for empty in (folder, folder.parent):
            if not any(empty.iterdir()):
                empty.rmdir()
    return removed


class Linker:
    """Makes one clip of the unified tree right; returns whether there was anything to do."""

    def __init__(self, data: Path, clips: Iterable[Mapping[str, Any]], link: Link) -> None:
        self.data, self.link = data, link
        # The way from each folder of links to each folder of originals, for relative symlinks. Real paths:
        # `..` in a link is taken from where the link really lies.
        self.ways: dict[tuple[str, str], str] = {}
        root = data.resolve()
        for clip in clips:
            here, there = os.path.dirname(clip["path"]), os.path.dirname(clip["original_path"])
            if (here, there) not in self.ways:
                try:
                    os.makedirs(data / here, exist_ok=True)
                except OSError as error:
                    raise ValueError(f"cannot make the folder {data / here}: {error.strerror}") from None
                self.ways[here, there] = os.path.relpath(root / there, os.path.realpath(data / here))

    def __call__(self, clip: Mapping[str, Any]) -> bool:
        target, source = self.data / clip["path"], self.data / clip["original_path"]
        here, there = os.path.dirname(clip["path"]), os.path.dirname(clip["original_path"])
        way = f"{self.ways[here, there]}/{source.name}"
        try:
            if self._is_right(target, source, way):
                return False
            if self.link == "copy":
                with store.atomic_path(target) as temporary:
                    shutil.copy2(source, temporary)
            else:
                try:
                    self._make(way, source, target)
                except FileExistsError:
                    self._replace(way, source, target)
        except OSError as error:
            hint = ": choose --link symlink or copy" if error.errno == errno.EXDEV else ""
            raise ValueError(f"cannot make the {self.link} {target}: {error.strerror}{hint}") from None
        return True

    def _make(self, way: str, source: Path, target: Path) -> None:
        if self.link == "symlink":
            os.symlink(way, target)
        else:
            os.link(source.resolve(), target)

    def _replace(self, way: str, source: Path, target: Path) -> None:
        """Puts the link in the place of something else, which stays if that fails."""
        temporary = target.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}-{target.name}")
        temporary.unlink(missing_ok=True)
        self._make(way, source, temporary)
        try:
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _is_right(self, target: Path, source: Path, way: str) -> bool:
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(found.st_mode):
            return self.link == "symlink" and os.readlink(target) == way
        if self.link == "symlink":
            return False
        original = os.stat(source)
        if self.link == "hardlink":
            return os.path.samestat(found, original)
        same = (found.st_size, found.st_mtime_ns) == (original.st_size, original.st_mtime_ns)
        return same and not os.path.samestat(found, original)
