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

from asdray import store
from asdray.doctor import Finding

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
    yield from _folder("data", places.data, _DATA_GB)
    if not places.cache.is_relative_to(places.data):
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
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdecimal() and int(quota[0]) < usable * int(quota[1]):
        share = int(quota[0]) / int(quota[1])
        yield Finding(
            "note",
            f"{usable} CPUs, but this container may use {share:g} of them: "
            f"start it with {usable} CPUs, or asdray under `taskset` with fewer",
        )
    else:
        yield Finding("ok", f"{usable} of {total} CPUs")


def _memory() -> Iterator[Finding]:
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _cgroup("memory.max")
    if limit.isdecimal():
        memory = min(memory, float(limit))
    small = memory < _MEMORY_GB * _GB
    hint = ": a training takes about 1 GB; let fewer run at once with `resources: {train: {cpu: ...}}`"
    yield Finding("note" if small else "ok", f"{memory / _GB:.1f} GB of memory{hint if small else ''}")
    if not os.path.isdir("/dev/shm"):
        return
    shm = shutil.disk_usage("/dev/shm").free
    small = shm < _SHM_GB * _GB
    hint = ": Ray falls back to the disk; give the container more, for example --shm-size=4g"
    yield Finding("note" if small else "ok", f"{shm / _GB:.1f} GB free in /dev/shm{hint if small else ''}")


def _cgroup(name: str) -> str:
    """A limit of this container; ``""`` without a limit or container."""
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _folder(what: str, path: Path, wanted: float) -> Iterator[Finding]:
    """Space, writing and file locks of a folder, or of its nearest existing parent."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        yield Finding("wrong", f"{what} {path}: {existing} is a file: choose another place with --{what}")
        return
    free = shutil.disk_usage(existing).free / _GB
    try:
        with tempfile.TemporaryDirectory(prefix=".asdray-doctor-", dir=existing) as trial:
            store.write_text(Path(trial) / "file", "content")
            locks = _locks(Path(trial))
    except OSError as error:
        yield Finding(
            "wrong",
            f"{what} {path}: cannot be written ({error.strerror}): choose another place with --{what}",
        )
        return
    if locks:
        yield Finding("wrong", f"{what} {path}: {locks}: choose another place with --{what}")
    elif free < wanted:
        yield Finding("note", f"{what} {path}: {free:.1f} GB free; a whole year may need {wanted:g} GB")
    else:
        yield Finding("ok", f"{what} {path}: {free:.1f} GB free, can be written and locked")


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
