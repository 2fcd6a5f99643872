"""Files that a frontend reads besides clips: their paths, and hashes for the signatures."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

from asdray import store
from asdray.config.frontend_base import InputFile
from asdray.config.trial import Trial, Unit
from asdray.home import expanded
from asdray.regular import open_regular
from asdray.store import Places


def input_ids(trial: Trial, unit: Unit, places: Places) -> dict[str, dict[str, str]]:
    """Hashes of the frontend's input files: kind -> machine -> sha256.

    Raises:
        ValueError: see `input_id`; the message begins with the recipe.
    """
    ids: dict[str, dict[str, str]] = {}
    for machine in unit.machines:
        for file in trial.system.frontend.input_files(trial.dcase, machine, trial.seed):
            try:
                sha256 = input_id(file, input_path(file, places))
            except ValueError as error:
                raise ValueError(f"recipe {trial.recipe}: {error}") from None
            ids.setdefault(file.kind, {})[machine] = sha256
    return ids


def input_id(file: InputFile, path: Path) -> str:
    """The sha256 of an input file.

    Raises:
        ValueError: the file cannot be read, is a truncated archive, or is not the published file that the
            configuration names.
    """
    hint = f"; {file.hint}" if file.hint else ""
    try:
        found = path.stat()
        sha256 = _sha256_of(path, found.st_size, found.st_mtime_ns)
        truncated = _lacks_end(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ValueError(f"frontend.{file.option}: cannot read {path}: {error.strerror}{hint}") from None
    if file.sha256 is not None and file.sha256 != sha256:
        raise ValueError(
            f"frontend.{file.option}: {path} has the sha256 {sha256[:16]}..., not {file.sha256[:16]}... as "
            f"published: the file is damaged or another one{hint}, or give its path in place of the name"
        )
    if truncated:
        raise ValueError(
            f"frontend.{file.option}: {path} is truncated: copy or fetch the file again (its end is missing)"
        )
    return sha256


def input_paths(trial: Trial, unit: Unit, places: Places) -> dict[str, dict[str, Path]]:
    """The files that a training reads besides audio: kind -> machine -> absolute path."""
    paths: dict[str, dict[str, Path]] = {}
    for machine in unit.machines:
        for file in trial.system.frontend.input_files(trial.dcase, machine, trial.seed):
            paths.setdefault(file.kind, {})[machine] = input_path(file, places)
    return paths


def input_path(file: InputFile, places: Places) -> Path:
    """The absolute path of an input file."""
    return places.data / expanded(file.path)


@functools.lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file's content, read again only after the file's size or time has changed."""
    return store.sha256_file(path)


@functools.lru_cache(maxsize=256)
def _lacks_end(path: Path, size: int, mtime_ns: int) -> bool:
    """True for the first part of a zip archive, the format of files of PyTorch and of NumPy (.npz)."""
    with open_regular(path) as file:
        return file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(file)
