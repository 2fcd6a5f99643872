"""Signs of life of the steps that run in workers: a file per attempt at a step, which the driver watches.

While a step runs, a thread of its worker keeps the file up to date: the number of signs so far
(`asdray.alive`), and the memory of the worker and its node. The file of a killed worker stays. The next
attempt at the step reads why the earlier ones were lost, and gives the step up after the second hang or the
third loss.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from asdray import alive, store
from asdray.config.base import digest
from asdray.config.trial import unit_title

SAMPLE_SECONDS = 0.5
"""Time between two looks at the number of signs and at the memory."""

MOST_HANGS = 2
"""Hangs after which a step is given up."""

MOST_LOSSES = 3
"""Lost workers, hung ones included, after which a step is given up."""

DUMP_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 7
"""Signal at which a worker writes the stacks of all its threads, in C: also while Python's lock is held."""

NEARLY_FULL = 0.05
"""Part of a node's memory below Ray's limit at which the node counts as full."""


_LIMIT = "RAY_memory_usage_threshold"
"""Variable with the part of a node's memory at which Ray kills a worker."""

MOST_IN_ALL = 40
"""Workers that a training or task may lose in all: a trial has up to 16 units, each of which is given up."""


@dataclass(frozen=True)
class Sign:
    """The content of a file: an attempt at a step.

    Attributes:
        step: the fields of `asdray.sweep.events.event_of`.
        node: Ray's id of the node.
        started: start of the process, which tells the process from a later one of the same number.
        stacks: file into which the process writes its stacks at `DUMP_SIGNAL`.
        signs: number of signs of life of the process.
        own: most memory that the process had for itself, in bytes; 0 if unknown.
        used, memory: most memory in use on the node, and all of it, in bytes; 0 if unknown.
        full: True if the node had (nearly) no memory left.
    """

    step: dict[str, Any]
    node: str
    host: str
    pid: int
    started: str
    stacks: str
    signs: int = 0
    own: int = 0
    used: int = 0
    memory: int = 0
    full: bool = False

    @property
    def name(self) -> str:
        """The step in words: ``train fan of dis_baseline-1a2b3c4d dcase2023 seed0``."""
        return self.title({})

    def title(self, names: Mapping[str, str]) -> str:
        """`name` for people; ``names``: system -> its name for people."""
        step = self.step
        words = [str(step[k]) for k in ("stage", "backend", "machine") if step.get(k)]
        what = " ".join([*words, *([unit_title(step["unit"])] if step.get("unit") else [])])
        system = names.get(step["system"], step["system"])
        return f"{what} of {system} {step['dcase']} seed{step['seed']}"

    @property
    def memory_text(self) -> str:
        """The memory in words; empty if unknown."""
        if not self.memory:
            return ""
        node = f"{self.used / 1e9:.1f} of the {self.memory / 1e9:.1f} GB of {self.host} were in use"
        return f"its worker had {self.own / 1e9:.1f} GB, and {node}"


# ---------------------------------------------------------------------------------------- in the worker

_folder: Path | None = None


@contextlib.contextmanager
def given_in(folder: Path | None) -> Iterator[None]:
    """Context of a worker whose steps give signs of life in ``folder``; None: they give none."""
    global _folder
    _folder = folder
    try:
        yield
    finally:
        _folder = None


@contextlib.contextmanager
def during(step: Mapping[str, Any]) -> Iterator[None]:
    """Context of one attempt at a step, with its file; files of earlier attempts go with this one."""
    if _folder is None:
        yield
        return
    key = _key(step)
    path = _folder / f"{key}.{len(_files(_folder, key)) + 1}.json"
    writer = _Writer(path, step)
    writer.start()
    try:
        yield
    finally:
        writer.end()
        for file in _folder.glob(f"{key}.*"):
            file.unlink(missing_ok=True)


def given_up(step: Mapping[str, Any]) -> str | None:
    """The reason for which a step is not tried again, from the files of the lost attempts; None for none."""
    if _folder is None:
        return None
    files = _files(_folder, _key(step))
    hangs = [store.read_json(hung, str) for file in files if (hung := file.with_suffix(".hung")).exists()]
    if len(hangs) >= MOST_HANGS:
        return f"{hangs[-1]}; the attempt before it hung, too"
    return _lost(list(read(files).values())) if len(files) >= MOST_LOSSES else None


def _lost(signs: Sequence[Sign]) -> str:
    """The reason after the last loss: memory, if a node was full, and what to change."""
    text = f"its worker was lost {MOST_LOSSES} times"
    largest = max(signs, key=lambda sign: (sign.full, sign.own), default=None)
    if largest is None or not largest.memory:
        return text
    if not largest.full:
        return f"{text}; {largest.memory_text}"
    kind = {"train": "train", "umap": "umap"}.get(largest.step["stage"], "extract")
    smaller = "a smaller train.batch_size" if kind != "umap" else "fewer clips or umap: false"
    return (
        f"{text}, out of memory: {largest.memory_text}; let fewer run at a time (resources: {{{kind}: "
        f"{{cpu: ...}}}}, the CPUs that each reserves), choose {smaller}, or a node with more memory"
    )


def _key(step: Mapping[str, Any]) -> str:
    return digest(dict(step))[:16]


def _files(folder: Path, key: str) -> list[Path]:
    return sorted(folder.glob(f"{key}.*.json"))


def read(files: Sequence[Path]) -> dict[Path, Sign]:
    """The signs in some files, without those that end or are written at this moment."""
    found = {}
    for file in files:
        with contextlib.suppress(ValueError):
            found[file] = store.read_json(file, Sign)
    return found


class _Writer(threading.Thread):
    """Keeps the file of an attempt up to date. A full disk prevents the file, and never the step."""

    def __init__(self, path: Path, step: Mapping[str, Any]) -> None:
        super().__init__(name="signs of life", daemon=True)
        self._ended = threading.Event()
        pid = os.getpid()
        about = dict(step), _node(), socket.gethostname(), pid, process_start(pid), _stacks(path.parent)
        self._sign = Sign(*about, signs=alive.signs())
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by `end`
            self._write(self._sign)

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self.join()
        if self._file:
            self._file.close()

    def run(self) -> None:
        while self._file and not self._ended.wait(SAMPLE_SECONDS):
            with contextlib.suppress(OSError):
                self._write(_now(self._sign))

    def _write(self, sign: Sign) -> None:
        """Writes in place, always as many bytes: no reader sees half a file, and a full disk has space."""
        assert self._file
        if sign != self._sign or not self._file.tell():
            self._sign = sign
            self._file.seek(0)
            self._file.write(json.dumps(asdict(sign)).encode().ljust(4096))


def _now(before: Sign) -> Sign:
    """The sign with the numbers of this moment."""
    used, memory = _node_memory()
    limit = float(os.environ.get(_LIMIT, "0.95")) - NEARLY_FULL
    return replace(
        before,
        signs=alive.signs(),
        own=max(before.own, own_memory()),
        used=max(before.used, used),
        memory=memory,
        full=before.full or (memory > 0 and used >= limit * memory),
    )


def _node_memory() -> tuple[int, int]:
    """Memory in use on this node, and all of it, in bytes; zeros outside Ray."""
    if (ray := sys.modules.get("ray")) is None:
        return 0, 0
    utils = ray._private.utils  # not public: these are the numbers that Ray's memory monitor compares
    return int(utils.get_used_memory()), int(utils.get_system_memory())


def own_memory() -> int:
    """Memory of this process without the pages that it shares, in bytes; 0 if the system has no ``/proc``."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def process_start(pid: int) -> str:
    """The start of a process in ticks of the kernel; empty without such a process, or without ``/proc``."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _node() -> str:
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else ""


@functools.cache
def _stacks(folder: Path) -> str:
    """The file for the stacks of this process, which from now on writes them at `DUMP_SIGNAL`."""
    path = folder / f"{socket.gethostname()}-{os.getpid()}.stacks"
    try:
        file = open(path, "w")  # noqa: SIM115 - for the life of the process
    except OSError:
        return ""
    _open.append(file)
    faulthandler.register(DUMP_SIGNAL, file=file, all_threads=True)
    return str(path)


_open: list[IO[str]] = []
