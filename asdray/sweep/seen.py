"""What commands that only tell find out about every trial: with all CPUs, and without reading twice.

A trial of 14 machines with four backends and UMAP has a hundred markers. They stay the only truth, but once a
trial was found complete, ``seen.jsonl`` in the sweep's folder says what was asked of it, and of what size and
time every folder, marker and output was that said so. While the same is asked and all of that is as it was, a
look at each replaces reading and comparing. To delete the file costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic_core import from_json

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.base import digest
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.stages import state
from asdray.stages.walk import Found
from asdray.store import Marker, Places, TrialDir
from asdray.sweep.estimate import StageSum, sum_stages
from asdray.sweep.jobs import Job, found_of
from asdray.sweep.standing import Standing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")

FEW = 100
"""Fewer trials are not worth remembering."""
SHARE = 50
"""Fewer trials are not worth a process of their own."""
SETTLED_SECONDS = 2.0
"""What changed later than so long ago could change again within the same tick of a coarse clock."""


@dataclass(frozen=True)
class Settled:
    """A trial that was found complete before, and is as it was then."""

    sums: Mapping[str, StageSum]
    """Over its stages, which are all done."""


Tell = Callable[[Job, Standing | Settled], T]


def told(jobs: Sequence[Job], sweep: Sweep, places: Places, tell: Tell[T]) -> list[T]:
    """What ``tell`` says of every job, in their order; of many of them with all CPUs, where processes fork.

    For commands that only tell: a process that has threads must not fork.

    Raises:
        ValueError: precomputed embeddings that cannot be read.
    """
    seen = Seen(sweep, places, len(jobs))
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    cpus = max(1, min(cpus, len(jobs) // SHARE))
    shares = [jobs[len(jobs) * i // cpus : len(jobs) * (i + 1) // cpus] for i in range(cpus)]
    looks = _in_processes(shares, seen, tell) if cpus > 1 else [_look(jobs, seen, tell)]
    lines = [line for look in looks for line in look.lines]
    if any(line is not None for _, line in lines):
        seen.keep(lines)
    return [one for look in looks for one in look.told]


def remember(jobs: Sequence[Job], sweep: Sweep, places: Places) -> None:
    """Looks at every trial so that the next command that only tells need not, but for what changes.

    Nothing comes of it where something cannot be read.
    """
    seen = Seen(sweep, places, len(jobs))
    if seen.keeps:
        with contextlib.suppress(ValueError, OSError):
            seen.keep(_look(jobs, seen, lambda job, stands: None).lines)


# ---------------------------------------------------------------------------------------------- looking


class _Look(NamedTuple):
    told: list
    lines: list[tuple[str, bytes | None]]
    """Trial -> what is to be remembered; None: what is known already. Without those that are not complete."""


def _look(jobs: Sequence[Job], seen: Seen, tell: Tell) -> _Look:
    look = _Look([], [])
    for job in jobs:
        settled = seen.settled(job)
        if settled is not None:
            look.told.append(tell(job, settled))
            look.lines.append((job.trial.name, None))
            continue
        stands, line = seen.stands(job)
        look.told.append(tell(job, stands))
        if line is not None:
            look.lines.append((job.trial.name, line))
    return look


def _in_processes(shares: Sequence[Sequence[Job]], seen: Seen, tell: Tell) -> list[_Look]:
    import multiprocessing

    fork = multiprocessing.get_context("fork")  # jobs are inherited: pickling them takes as long as the work
    receivers = []
    for share in shares:
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_look_and_send, args=(share, seen, tell, sender), daemon=True)
        process.start()
        sender.close()  # else the end of a child that was killed would never be heard of
        receivers.append(receiver)
    looks = []
    for receiver in receivers:
        try:
            look = receiver.recv()
        except EOFError:
            raise RuntimeError("a process that looked at trials was killed: run the command again") from None
        if isinstance(look, Exception):
            raise look
        looks.append(look)
    return looks


def _look_and_send(share: Sequence[Job], seen: Seen, tell: Tell, sender: Connection) -> None:
    """In a process of its own, which ends by a signal as any does, whatever its parent makes of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    gc.disable()  # it makes a hundred thousand small things that all stay
    try:
        sender.send(_look(share, seen, tell))
    except Exception as error:
        sender.send(error)


# ------------------------------------------------------------------------------------------ remembering

File = tuple[str, int | None, int | None]
"""Path below the trial's folder, bytes (of a folder None), time of change in ns (of an output None: whether a
stage is done goes by its size alone)."""


class Seen:
    """The trials of a sweep that were found complete, as they were then."""

    def __init__(self, sweep: Sweep, places: Places, trials: int) -> None:
        self._sweep = sweep
        self._places = places
        folder = store.sweep_dir(places.results, sweep.name)
        self.keeps = trials >= FEW and folder.is_dir()
        """Whether anything is remembered: not of few trials, nor of a sweep that was never run."""
        self._path = folder / "seen.jsonl"
        self._lines: dict[str, bytes] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().split(b"\n"):
                name, _, entry = line.partition(b"\t")
                self._lines[name.decode(errors="replace")] = entry

    def settled(self, job: Job) -> Settled | None:
        """A trial that is complete, by what is remembered of it; None: that is for its markers to say."""
        line = self._lines.get(job.trial.name)
        if line is None:
            return None
        try:
            entry = from_json(line)
            root = store.trial_dir(self._places.results, job.trial).root
            if entry["asked"] != self._asked(job) or not _as_it_was(root, entry["files"]):
                return None
            return Settled({stage: StageSum(*values) for stage, *values in entry["sums"]})
        except (ValueError, KeyError, TypeError):
            return None  # damaged

    def stands(self, job: Job) -> tuple[Standing, bytes | None]:
        """How a trial stands by its markers, and what to remember of it where it is complete."""
        directory = store.trial_dir(self._places.results, job.trial)
        # Files that change while the markers are read are then not as they were.
        files = _files_of(directory, job.trial) if self.keeps and self._may_be_complete(job) else None
        found = list(found_of(job, self._sweep, self._places))
        stands = Standing.of(job.trial, found)
        if files is None or not stands.complete or (outputs := _outputs(directory, found, files)) is None:
            return stands, None
        sums = sum_stages(job.trial, job.dataset, stands.all)
        alike = [[stage, *astuple(total)] for stage, total in sums.items()]
        entry = {"asked": self._asked(job), "sums": alike, "files": [*files, *outputs]}
        return stands, json.dumps(entry, separators=(",", ":")).encode()

    def keep(self, lines: Iterable[tuple[str, bytes | None]]) -> None:
        """Remembers these trials and no others; those whose line is None as they are remembered already.

        Nothing comes of it where that cannot be written.
        """
        content = b"".join(
            [name.encode() + b"\t" + (line or self._lines[name]) + b"\n" for name, line in lines]
        )
        with contextlib.suppress(OSError):
            # Without a lease: two that write at once can at worst cost each other what they remembered.
            store.sweep_leftovers(self._path.parent, self._path.name)
            with store.atomic_path(self._path) as temporary:
                temporary.write_bytes(content)

    def _may_be_complete(self, job: Job) -> bool:
        """Whether the last markers that are asked for are there; most often that tells, and costs little."""
        directory = store.trial_dir(self._places.results, job.trial)
        of_machine = directory.machine(self._sweep.checkpoints[-1], job.trial.machines[-1])
        markers = [store.marker_path(directory.root, "table"), store.marker_path(of_machine, "evaluate")]
        markers += [store.marker_path(of_machine, "score", backend_id(backend)) for backend in job.backends]
        markers += [store.marker_path(of_machine, "umap")] if self._sweep.umap else []
        return all(os.path.exists(marker) for marker in markers)

    def _asked(self, job: Job) -> str:
        """Hash of all that makes a trial complete or not, but for its own files."""
        trial, sweep, machines = job.trial, self._sweep, job.dataset.machines
        return digest(
            {
                "code": _code(),
                "trainings": [
                    state.train_step(trial, unit, self._places, job.dataset).signature for unit in trial.units
                ],
                "data": [
                    (m, machines[m].train, machines[m].test, machines[m].labels) for m in trial.machines
                ],
                "checkpoints": sweep.checkpoints,
                "backends": [backend.canonical_json for backend in job.backends],
                "umap": sweep.umap.canonical_json if sweep.umap else None,
            }
        )


@functools.cache
def _code() -> str:
    """Hash of asdray's own source: another version may think otherwise of what is complete."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    return hashlib.sha256(b"".join([file.read_bytes() for file in files])).hexdigest()


def _as_it_was(root: Path, files: Iterable[File]) -> bool:
    try:
        for path, size, changed in files:
            now = os.stat(f"{root}/{path}")
            if size is not None and now.st_size != size:
                return False
            if changed is not None and now.st_mtime_ns != changed:
                return False
    except OSError:
        return False
    return True


def _files_of(directory: TrialDir, trial: Trial) -> list[File] | None:
    """Every folder of a trial, and every marker; None: these are not all that says whether it is complete."""
    root = str(directory.root)
    files: list[File] = []
    folders = [""]
    try:
        for below in folders:  # which grows
            files.append((below, None, os.stat(f"{root}/{below}").st_mtime_ns))
            marked = below.endswith(".done/")
            for entry in list(os.scandir(f"{root}/{below}")):  # all of it: that closes the folder
                if entry.is_dir():
                    if entry.is_symlink():
                        return None  # what is behind it could point anywhere
                    folders.append(f"{below}{entry.name}/")
                elif marked:
                    now = entry.stat()
                    files.append((f"{below}{entry.name}", now.st_size, now.st_mtime_ns))
    except OSError:
        return None  # it changes just now
    latest = max([changed for _, _, changed in files if changed])
    if latest > (time.time() - SETTLED_SECONDS) * 1e9:
        return None
    if trial.system.frontend.scope == "machine" and _other_machines(directory, trial, folders):
        return None  # of another sweep: the trial's tables go by the data of these, too
    return files


def _other_machines(directory: TrialDir, trial: Trial, folders: Iterable[str]) -> bool:
    """Whether outputs are there of machines that the trial was not asked for."""
    own = set(trial.machines)
    outputs = f"{directory.outputs.relative_to(directory.root)}/"
    below = [folder.removeprefix(outputs).split("/") for folder in folders if folder.startswith(outputs)]
    return any(len(parts) == 3 and parts[1] not in own for parts in below)


def _outputs(directory: TrialDir, found: Iterable[Found], files: Iterable[File]) -> list[File] | None:
    """What the markers among ``files`` say was made, and was not dropped since.

    None: a marker that nobody asked for is not as a marker should be; let the next look read it again.
    """
    known: dict[str, Marker | None] = {}
    for (unit, ckpt, machine), stages in groupby(found, lambda one: (one.unit, one.checkpoint, one.machine)):
        folder = directory.model(unit) if unit else directory.root
        folder = directory.machine(ckpt, machine) if ckpt and machine else folder
        root = f"{folder}/"[len(f"{directory.root}/") :]
        known |= {root + store.marker_name(one.stage, one.backend): one.marker for one in stages}
    outputs: list[File] = []
    try:
        for path, size, _ in files:
            if size is None:
                continue
            below, _, name = path.rpartition(".done/")
            own = known.get(path)
            # Else of another sweep over the trial, which may share its tables, or of none any more.
            marker = own or store.read_marker(directory.root / below, name.removesuffix(".json"))
            if marker is None:
                return None
            made = [(n, entry["size"]) for n, entry in marker.outputs.items() if n not in marker.dropped]
            if own is None and any(os.stat(directory.root / below / n).st_size != size for n, size in made):
                return None
            outputs += [(f"{below}{n}", size, None) for n, size in made]
    except (OSError, AttributeError, TypeError, KeyError):
        return None
    return outputs
