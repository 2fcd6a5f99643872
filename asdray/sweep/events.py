"""``events.jsonl``: one line per finished or failed stage of a sweep, written by the driver alone."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from asdray import notes, provenance, store
from asdray.aside import move_aside
from asdray.config.plugin_fault import chain_of, ended_by_plugin
from asdray.config.trial import Trial
from asdray.damage import DamagedError
from asdray.full_disk import storage_fault_named
from asdray.record import Record
from asdray.stages.steps import Outcome, Step
from asdray.sweep import signs

Event = dict[str, Any]
"""A line of the log: the fields of `event_of`, and those of `finished` or `failed`."""

_KEY = ("dcase", "recipe", "system", "seed", "stage", "unit", "checkpoint", "machine", "backend", "signature")


OUT_OF_MEMORY = "out_of_memory"
"""Field of the event of a training that had to split its batches: the sizes ``asked`` and ``used``."""

GPU_MEMORY = "gpu_memory"
"""Field of the event of a training on a GPU: bytes ``used``, bytes ``of`` the GPU, and ``batch_size``."""


def event_of(
    trial: Trial,
    stage: str,
    *,
    unit: str | None = None,
    machine: str | None = None,
    checkpoint: str | None = None,
    backend: str | None = None,
) -> Event:
    """The fields that identify a stage of a trial in an event."""
    return {
        "dcase": trial.dcase,
        "recipe": trial.recipe,
        "system": trial.system_name,
        "seed": trial.seed,
        "stage": stage,
        "unit": unit,
        "machine": machine,
        "checkpoint": checkpoint,
        "backend": backend,
    }


def finished(event: Event, record: Record | Step, found: bool) -> Event:
    """The complete event of a finished stage.

    Args:
        event: the fields of `event_of`.
        found: True for a stage reused from an earlier run, or from another sweep.
    """
    facts = {"seconds": record.seconds, "device": record.device, "signature": record.signature}
    sizes = record.out_of_memory if isinstance(record, Step) else record.extra.get(OUT_OF_MEMORY)
    if sizes:
        facts[OUT_OF_MEMORY] = sizes
    if isinstance(record, Record) and (memory := record.extra.get(GPU_MEMORY)):
        facts[GPU_MEMORY] = memory
    return {**event, "status": "done", "time": record.finished, **facts, "found": found, "error": None}


def failed(event: Event, error: str, details: str = "", lasting: bool = False) -> Event:
    """The complete event of a failed stage.

    Args:
        event: the fields of `event_of`.
        error: one line.
        details: the traceback.
        lasting: True if the stage would fail again, as with bad input or a NaN loss. After a fault of the
            machine (a lost worker, a full disk, no memory) the next run tries again.
    """
    facts = {"seconds": None, "device": None, "signature": None, "found": False}
    about = {"error": error, "details": details, "lasting": lasting}
    return {**event, "status": "failed", "time": provenance.now(), **facts, **about}


def attempt(event: Event, work: Callable[[], Outcome]) -> Event:
    """Runs a stage and returns the event; a failed stage never stops the rest of the sweep.

    Args:
        event: the fields of `event_of`.

    In a worker the stage gives signs of life, and a stage that has cost too many workers is not tried again.

    Returns:
        The complete event; ``damaged`` is the file if a damaged file is the reason, and ``notes`` has the
        sentences of `asdray.notes`, if there are some.
    """
    if reason := signs.given_up(event):
        return failed(event, reason)
    with signs.during(event):
        ended = _attempt(event, work)
    told = notes.take()
    return {**ended, "notes": told} if told else ended


def _attempt(event: Event, work: Callable[[], Outcome]) -> Event:
    try:
        outcome = work()
    except DamagedError as error:
        return {**failed(event, str(error)), "damaged": str(error.path)}
    except BaseException as error:
        # The one broad except of asdray: any error of a stage is recorded here and shown to the user. Ray and
        # Ctrl-C end a process by exceptions of their own, which go on; a plugin's sys.exit(0) does not.
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        of_plugin = ended_by_plugin(error)
        if of_plugin is None and not isinstance(error, Exception):
            raise
        reason = str(of_plugin).partition("\n")[0] if of_plugin else f"{name}{error}"
        by_machine = any(isinstance(one, MACHINE_FAULTS) for one in chain_of(error))
        return failed(event, reason, traceback.format_exc(limit=-12), lasting=not by_machine)
    return finished(event, outcome.record, outcome.reused)


MACHINE_FAULTS = (OSError, MemoryError, RuntimeError)
"""Errors that may not happen again: no disk, no memory, and torch's RuntimeError for lack of GPU memory."""


class History:
    """The events of a sweep so far.

    Attributes:
        lasting: `key_of` -> failure that would happen again, of every stage not done since.
        failed: `key_of` without the signature -> last failure of every stage not done since.
    """

    def __init__(self, path: Path) -> None:
        self.lasting: dict[tuple, Event] = {}
        self.failed: dict[tuple, Event] = {}
        # Hashes of `key_of`: a large sweep has a hundred thousand keys. Two equal hashes could at worst keep
        # the line of a reused stage out of the log.
        self._done: set[int] = set()
        for event in read(path):
            self._remember(event)

    def _remember(self, event: Event) -> None:
        key = key_of(event)
        if event.get("status") == "done":
            self._done.add(hash(key))
            self.lasting.pop(key, None)
            self.failed.pop(key[:-1], None)
        elif event.get("status") == "failed":
            self.failed[key[:-1]] = event
            if event.get("lasting") and event.get("signature"):
                self.lasting[key] = event


class EventLog(History):
    """The log of a running driver, complete and without repetition.

    A reused stage (from another sweep over the same trial, or from a run whose line was lost) gets a line
    with ``found: true``. A stage has two lines only if it was done twice, after a loss of outputs.

    Attributes:
        path: the file.
        counts: stage -> number of stages finished by the current run.
        failures: failed events of the current run, without those of damaged files that are made again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.counts: dict[str, int] = {}
        self.failures: list[Event] = []
        self._damaged: dict[str, bool] = {}
        """Damaged file -> True if the run knows that the file is to be made again."""
        if path.is_dir():
            move_aside(path)
        if path.exists():
            drop_torn_line(path)
        super().__init__(path)

    def add(self, event: Event) -> None:
        """Writes an event, except a second line for a reused stage."""
        if event["status"] == "done":
            if hash(key_of(event)) in self._done and event["found"]:
                return
            if not event["found"]:
                self.counts[event["stage"]] = self.counts.get(event["stage"], 0) + 1
        elif (path := event.get("damaged")) and path not in self._damaged:
            self._damaged[path] = False
        else:
            self.failures.append(event)
        self._remember(event)
        with storage_fault_named(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def take_damaged(self) -> bool:
        """True if files were found damaged for the first time since the last call: they are made again."""
        found = not all(self._damaged.values())
        self._damaged = dict.fromkeys(self._damaged, True)
        return found


def read(path: Path) -> Iterator[Event]:
    """The events of a log, without damaged lines; none without a log."""
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from filter(None, map(_parse, file))


def split_trainings(path: Path) -> list[Event]:
    """The events of a log on trainings that ran out of memory and went on with smaller batches.

    A training worker calls this function while the driver writes.
    """
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        events = [_parse(line) for line in file if f'"{OUT_OF_MEMORY}"' in line]
    return [event for event in events if event.get("status") == "done" and OUT_OF_MEMORY in event]


def largest_batch(path: Path, recipe: str, device: str) -> int | None:
    """The largest batch for which trainings of a recipe had memory on a kind of device.

    None if no training in the log ran out of memory.

    Args:
        path: the log.
        device: `asdray.frontends.compute.device_label`.
    """
    used = (
        event[OUT_OF_MEMORY]["used"]["batch_size"]
        for event in split_trainings(path)
        if (event["recipe"], event["device"]) == (recipe, device)
    )
    return min(used, default=None)


def forget(path: Path, trials: Container[tuple]) -> None:
    """Removes the events of some trials, given as (dcase, system, seed), from a log without a writer."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        events = map(_parse, lines)
        trial_of = [(event.get("dcase"), event.get("system"), event.get("seed")) for event in events]
        kept = [line for line, trial in zip(lines, trial_of, strict=True) if trial not in trials]
        store.write_text(path, "".join(kept))


def _parse(line: str) -> Event:
    """The event of a line; an empty event for a damaged line."""
    try:
        event = json.loads(line)
        hash(key_of(event))
        whole = event["status"] != "failed" or {*_KEY[:5], "error"} <= event.keys()
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # no event, or half of one
        return {}
    return event if whole else {}


def key_of(event: Mapping[str, Any]) -> tuple:
    """The key of a stage of a trial, the signature included."""
    return tuple(event.get(name) for name in _KEY)


def drop_torn_line(path: Path) -> None:
    """Cuts off the unfinished last line of a killed driver, which would make the next line unreadable."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1_000_000))
        tail = file.read()
        if not tail.endswith(b"\n"):
            file.truncate(size - (len(tail) - (tail.rfind(b"\n") + 1)))
