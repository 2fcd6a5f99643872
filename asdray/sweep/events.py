"""``events.jsonl``: one line per finished or failed stage of a sweep, written by the driver alone."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Protocol

from asdray import provenance, store
from asdray.config.plugin import plugin_error
from asdray.config.trial import Trial
from asdray.stages.state import Outcome

Event = dict[str, Any]

_KEY = ("dcase", "recipe", "system", "seed", "stage", "unit", "checkpoint", "machine", "backend", "signature")


def event_of(
    trial: Trial,
    stage: str,
    *,
    unit: str | None = None,
    machine: str | None = None,
    checkpoint: str | None = None,
    backend: str | None = None,
) -> Event:
    """The part of an event that says which stage of what it is about."""
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


class Record(Protocol):
    """What an event says of a finished stage; a `asdray.store.Marker` has it all."""

    @property
    def signature(self) -> str: ...
    @property
    def finished(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def device(self) -> str: ...


def finished(event: Event, marker: Record, found: bool) -> Event:
    """``event`` of a stage that is done. ``found``: it was so before this sweep asked."""
    return {
        **event,
        "status": "done",
        "time": marker.finished,
        "seconds": marker.seconds,
        "device": marker.device,
        "signature": marker.signature,
        "found": found,
        "error": None,
    }


def failed(event: Event, error: str, details: str = "", lasting: bool = False) -> Event:
    """``event`` of a stage that failed.

    Args:
        error: one line.
        details: the traceback.
        lasting: whether it would fail again: of bad input, of a loss that became NaN. Else the machine
            was at fault (a lost worker, a full disk, no memory), and the next run tries again.
    """
    return {
        **event,
        "status": "failed",
        "time": provenance.now(),
        "seconds": None,
        "device": None,
        "signature": None,
        "found": False,
        "error": error,
        "details": details,
        "lasting": lasting,
    }


def attempt(event: Event, work: Callable[[], Outcome]) -> Event:
    """Runs one stage; a failure becomes a record, so that it never stops the rest of the sweep."""
    try:
        outcome = work()
    except Exception as error:
        # The one broad except of asdray: whatever a stage dies of is recorded here and shown to the user.
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        of_plugin = plugin_error(error)
        reason = str(of_plugin).partition("\n")[0] if of_plugin else f"{name}{error}"
        return failed(event, reason, traceback.format_exc(limit=-12), _is_lasting(error))
    return finished(event, outcome.marker, outcome.found)


def _is_lasting(error: BaseException) -> bool:
    """Whether neither the error nor one that led to it is of the kinds that the machine causes."""
    links: BaseException | None = error
    while links is not None:
        if isinstance(links, OSError | MemoryError | RuntimeError):  # torch's out of memory is the last
            return False
        links = links.__cause__ or links.__context__
    return True


class History:
    """What the events of a sweep say happened so far."""

    def __init__(self, path: Path) -> None:
        self.lasting: dict[tuple, Event] = {}
        """`key_of` -> the failure of a stage that would fail again; forgotten once it is done."""
        self.broken: dict[tuple, Event] = {}
        """The same for every failure, by `key_of` without the signature."""
        self._done: set[int] = set()
        """Hashes of `key_of`: a large sweep has a hundred thousand, and all that two equal ones could do is
        that a stage which was found done has no line."""
        if path.exists():
            with open(path, encoding="utf-8", errors="replace") as file:
                for event in map(_parse, file):
                    self._remember(event)

    def _remember(self, event: Event) -> None:
        key = key_of(event)
        if event.get("status") == "done":
            self._done.add(hash(key))
            self.lasting.pop(key, None)
            self.broken.pop(key[:-1], None)
        elif event.get("status") == "failed":
            self.broken[key[:-1]] = event
            if event.get("lasting") and event.get("signature"):
                self.lasting[key] = event


class EventLog(History):
    """Appends events, each finished stage once.

    A stage that was already done before this sweep (by an earlier run whose line was lost, or by another
    sweep over the same trial) gets its line too, with ``found: true``: the log is complete, and no
    finished stage stands in it twice, but after ``--fresh`` or where its outputs were lost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.counts: dict[str, int] = {}
        """Stages finished by this run, per stage."""
        self.failures: list[Event] = []
        """Failed events of this run."""
        if path.exists():
            _drop_torn_line(path)
        super().__init__(path)

    def add(self, event: Event) -> bool:
        """Writes the event unless its stage is already logged as done. Returns whether it was new."""
        if event["status"] == "done":
            if hash(key_of(event)) in self._done and event["found"]:
                return False
            if not event["found"]:
                self.counts[event["stage"]] = self.counts.get(event["stage"], 0) + 1
        else:
            self.failures.append(event)
        self._remember(event)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        return True


def forget(path: Path, trials: Container[tuple[str, str, int]]) -> None:
    """Takes the events of some trials, (dcase, system, seed), out of a log that nobody writes to."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if _trial_of(_parse(line)) not in trials]
        store.write_text(path, "".join(kept))


def _trial_of(event: Event) -> tuple:
    return event.get("dcase"), event.get("system"), event.get("seed")


def _parse(line: str) -> Event:
    """The event of a line; an empty one where a damaged disk or an editor left nonsense."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def key_of(event: Mapping[str, Any]) -> tuple:
    """What tells one stage, with its signature, from all others."""
    return tuple(event.get(name) for name in _KEY)


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line that a killed driver left unfinished."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(max(0, size - 1_000_000))
        tail = file.read()
        if not tail.endswith(b"\n"):
            file.truncate(size - (len(tail) - (tail.rfind(b"\n") + 1)))
