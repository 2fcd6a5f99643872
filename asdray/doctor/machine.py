"""Check of this machine: Python, packages, CPUs, memory, folders for data and results, GPUs.

Conventions: space and memory are GB (1e9 bytes). The check writes one temporary file per folder.

>>> from asdray.doctor.machine import check_machine
>>> from asdray.store import Places
>>> next(check_machine(Places.of("data", "results"))).kind
'ok'
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from asdray import limits, store, temporary
from asdray.doctor import Finding
from asdray.home import can_be_written, private_name

_GB = 1e9
_DATA_GB = 40.0
"""Free space that suffices for every year: up to 18 GB of wavs, and as much decoded audio."""
_RESULTS_GB = 5.0
_MEMORY_GB = 4.0
_SHM_GB = 1.0


def check_machine(places: store.Places) -> Iterator[Finding]:
    """Findings on all needs of asdray, cheap checks first."""
    yield Finding("ok", f"Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield from _processors()
    yield from _memory()
    yield from _limits()
    yield from _homes()
    yield from _folder("data", places.data, _DATA_GB)
    if not places.cache.is_relative_to(places.data) or not can_be_written(places.cache):
        yield from _folder("cache", places.cache, _DATA_GB)
    yield from _folder("results", places.results, _RESULTS_GB)
    yield from _devices()


def _packages() -> Iterator[Finding]:
    """Installed packages against asdray's requirements."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("asdray") or []
    except metadata.PackageNotFoundError:
        yield Finding("wrong", "asdray is not installed: run `make install` in its folder")
        return
    good = []
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("wrong", f"{requirement.name} is not installed: {_install(requirement)}")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            asked = str(requirement.specifier)
            yield Finding("wrong", f"{requirement.name} is {version}, not {asked}: {_install(requirement)}")
    yield Finding("ok", f"{len(good)} packages as required: {', '.join(sorted(good))}")


def _install(requirement: object) -> str:
    return f"run `make install`, or install '{requirement}'"


def _processors() -> Iterator[Finding]:
    usable, quota = limits.affinity(), limits.cpu_quota()
    if quota is not None and quota < usable:
        text = f"CPUs used: {limits.cpus()}; there are {usable}, of which this container may use {quota:g}"
        yield Finding("note" if quota < 1 else "ok", text)
    else:
        yield Finding("ok", f"{usable} of {os.cpu_count() or 1} CPUs")


def _memory() -> Iterator[Finding]:
    memory = limits.memory()
    small = memory < _MEMORY_GB * _GB
    hint = ": a training takes about 1 GB; let fewer run at once with `resources: {train: {cpu: ...}}`"
    yield Finding("note" if small else "ok", f"{memory / _GB:.1f} GB of memory{hint if small else ''}")
    if not os.path.isdir("/dev/shm"):
        return
    shm = shutil.disk_usage("/dev/shm").free
    small = shm < _SHM_GB * _GB
    hint = ": Ray falls back to the disk; give the container more, for example --shm-size=4g"
    yield Finding("note" if small else "ok", f"{shm / _GB:.1f} GB free in /dev/shm{hint if small else ''}")


def _limits() -> Iterator[Finding]:
    """Room for the processes of a sweep under ``ulimit -u`` and ``ulimit -v``."""
    if short := limits.shortage():
        yield Finding("wrong", short)
    elif near := limits.in_words():
        yield Finding("note", f"{'; '.join(near)}: enough to start, perhaps not for large trainings")


def _homes() -> Iterator[Finding]:
    """The folders for temporary files and for caches of libraries."""
    try:
        place = temporary.place()
    except limits.LimitError as error:
        yield Finding("wrong", str(error))
        return
    yield Finding("ok", f"temporary files: {place}, {shutil.disk_usage(place).free / _GB:.1f} GB free")
    caches = Path(os.environ.get("NUMBA_CACHE_DIR", ""))
    if caches.is_relative_to(place / private_name()):
        text = f"the home folder cannot be written: libraries keep their caches in {caches.parent}"
        yield Finding("note", f"{text}; to keep them elsewhere, set NUMBA_CACHE_DIR and MPLCONFIGDIR")


def _folder(what: str, path: Path, wanted: float) -> Iterator[Finding]:
    """Space, writing and file locks of a folder, or of its nearest existing parent.

    Data that somebody else has formatted need not be written: the place of decoded audio is checked apart.
    """
    option = "--cache-dir" if what == "cache" else f"--{what}"
    other = f"choose another place with {option}"
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        yield Finding("wrong", f"{what} {path}: {existing} is a file: {other}")
        return
    free = shutil.disk_usage(existing).free / _GB
    try:
        with tempfile.TemporaryDirectory(prefix=".asdray-doctor-", dir=existing) as trial:
            store.write_text(Path(trial) / "file", "content")
            locks, links = _locks(Path(trial)), _links(Path(trial))
    except OSError as error:
        if what == "data" and (path / "formatted").is_dir() and os.access(path, os.R_OK | os.X_OK):
            yield Finding("ok", f"{what} {path}: formatted years can be read, nothing can be written")
            return
        yield Finding("wrong", f"{what} {path}: cannot be written ({error.strerror}): {other}")
        return
    if locks:
        yield Finding("wrong", f"{what} {path}: {locks}: {other}")
    elif what == "data" and links:
        yield Finding("note", f"{what} {path}: {links}: format years with --link copy")
    elif free < wanted:
        yield Finding("note", f"{what} {path}: {free:.1f} GB free; a whole year may need {wanted:g} GB")
    else:
        yield Finding("ok", f"{what} {path}: {free:.1f} GB free, can be written and locked")


def _links(folder: Path) -> str | None:
    """The fault of symbolic links in ``folder``, or None."""
    try:
        (folder / "link").symlink_to("file")
    except OSError as error:
        return f"its file system has no symbolic links ({error.strerror})"
    return None


def _locks(folder: Path) -> str | None:
    """The fault of file locks in ``folder``, or None."""
    try:
        with store.lease(folder):
            try:
                FileLock(folder / ".lease").acquire(timeout=0)
            except Timeout:
                return None
            return "its file system grants a file lock twice"
    except ValueError as error:
        return str(error)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("wrong", f"torch cannot be imported ({error}): run `make install`")
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            yield Finding("ok", f"cuda:{i} {facts.name}, {facts.total_memory / _GB:.0f} GB")
    elif os.path.exists("/dev/nvidia0"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield Finding(
            "note",
            f"there is a GPU, but torch ({torch.__version__}, {built}) cannot use it: "
            "install a build that fits the driver (`nvidia-smi` shows what it supports)",
        )
    else:
        yield Finding("ok", "no GPU: everything runs on the CPU")
