"""What this process may use of the machine: CPUs, memory, threads, address space.

A container's quota (``docker --cpus``, limits of Kubernetes and Slurm) is a limit of its cgroup, of version 1
or 2; the nearest of all groups above counts. ``ulimit`` limits a user or a process.

>>> from asdray import limits
>>> limits.cpus() >= 1
True
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""Where Linux shows cgroups: version 2 itself, version 1 a folder for each controller."""

_OWN = Path("/proc/self/cgroup")
_THREADS, _THREADS_PER_CPU = 150, 30
"""Threads of a Ray without trainings (driver, servers, agents), and of a worker: measured with Ray 2.60."""

_SPACE = 5e9
"""Bytes of addresses that a training's worker reserves with a small store of Ray's."""

_MANY = 2000
"""Threads; who has more left has no fault that comes from a limit of threads."""

_FREE_OF_NPROC = 1 << 21 | 1 << 24
"""The capabilities SYS_ADMIN and SYS_RESOURCE, which know no ``ulimit -u``; capabilities(7)."""


class LimitError(OSError):
    """A limit of this machine or process ends the work: no fault of the input."""


def affinity() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """CPUs whose time this process's cgroup may use; None without a quota."""
    pairs = [*_values("cpu", "cpu.max")]
    quotas, periods = _values("cpu", "cpu.cfs_quota_us"), _values("cpu", "cpu.cfs_period_us")
    pairs += [[*quota, *period] for quota, period in zip(quotas, periods, strict=False)]
    limited = (pair for pair in pairs if len(pair) == 2 and pair[0].isdecimal() and int(pair[1]))
    return min((int(quota) / int(period) for quota, period in limited), default=None)


def cpus() -> int:
    """CPUs to use at a time: the smaller of affinity and quota, rounded down, at least 1."""
    quota = cpu_quota()
    return affinity() if quota is None else max(1, min(affinity(), int(quota)))


def memory() -> int:
    """Bytes of memory to use: the smaller of the machine's and of its cgroup's limit."""
    files = [*_values("memory", "memory.max"), *_values("memory", "memory.limit_in_bytes")]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(int(word) for words in files for word in words if word.isdecimal())])


def free_threads() -> tuple[int, str] | None:
    """Number of threads that may be started yet, with the limit in words; None without a limit."""
    found = []
    users, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if users != resource.RLIM_INFINITY and not _is_free_of_nproc():
        found.append((users - _threads_of_user(), f"`ulimit -u` is {users}"))
    pairs = zip(_values("pids", "pids.max"), _values("pids", "pids.current"), strict=False)
    for most, now in ((*most, *now) for most, now in pairs):
        if most.isdecimal():
            found.append((int(most) - int(now), f"the limit of processes in this container is {most}"))
    return min(found, default=None)


def address_space() -> int | None:
    """Bytes of ``ulimit -v``, which counts what is reserved and never used; None without a limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def shortage() -> str | None:
    """Why the processes of a sweep would crash one after the other, with ways out; None if there is room."""
    threads, space, needed = free_threads(), address_space(), _THREADS + _THREADS_PER_CPU * cpus()
    ways = "or train single trials without Ray (`asdray run`)"
    if threads and threads[0] < needed:
        return (
            f"Ray needs about {needed} threads for {cpus()} CPUs, and {threads[1]}, which leaves "
            f"{max(0, threads[0])}: raise the limit (`ulimit -u {needed + 500}`, `docker run --pids-limit`), "
            f"use fewer CPUs (`taskset -c 0 asdray ...`), {ways}"
        )
    if space and space < _SPACE:
        return (
            f"each of Ray's processes reserves about {_SPACE / 1e9:g} GB of addresses, most of them unused, "
            f"and `ulimit -v` is {space / 1e9:.1f} GB: raise the limit (`ulimit -v unlimited`, SGE's "
            f"h_vmem), {ways}"
        )
    return None


def in_words() -> list[str]:
    """The limits on threads and address space that may be near, for messages."""
    threads, space = free_threads(), address_space()
    near = threads is not None and threads[0] < _MANY
    lines = [f"{threads[1]}, which leaves {max(0, threads[0])} threads"] if threads and near else []
    return lines + ([f"`ulimit -v` is {space / 1e9:.1f} GB"] if space else [])


def told_by(error: BaseException) -> str | None:
    """The fault in words if a limit on threads or memory has made the error, else None."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        what = "there is no memory left"
    elif "can't start new thread" in str(error) or isinstance(error, BlockingIOError):
        what = "no process or thread can be started"
    else:
        return None
    return f"{what} ({', '.join(in_words()) or f'of {memory() / 1e9:.1f} GB'}): raise the limit or run less"


# ----------------------------------------------------------------------------------- Linux's files


def _values(controller: str, name: str) -> Iterator[list[str]]:
    """The words of a file of every cgroup that limits this process."""
    for folder in dict.fromkeys(_groups(controller)):
        with contextlib.suppress(OSError):
            yield (folder / name).read_text(encoding="ascii").split()


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the cgroups above this process, as far as they are visible here."""
    yield from (ROOT, ROOT / controller)
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            base = ROOT / controller if controllers else ROOT
            yield from (base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1))


def _is_free_of_nproc() -> bool:
    """True for root and for processes with capabilities."""
    if os.getuid() == 0:
        return True
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _FREE_OF_NPROC)
    return False


def _threads_of_user() -> int:
    """Threads of all processes of this user that are visible here."""
    n = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that has just ended
            if folder.stat().st_uid == os.getuid():
                n += int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[17])
    return n
