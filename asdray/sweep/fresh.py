"""``--fresh``: forgets the results of a sweep's trials."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asdray import store
from asdray.config.sweep import Sweep
from asdray.store import Places
from asdray.sweep import changes
from asdray.sweep.events import forget
from asdray.sweep.jobs import Job


@dataclass(frozen=True)
class Results:
    """What there is of some trials.

    Attributes:
        trials: (dcase, system, seed) of those that were begun.
        folders: theirs.
        bytes: in all of them.
        others: other sweeps in these results -> how many of the trials are theirs too.
    """

    trials: frozenset[tuple[str, str, int]]
    folders: tuple[Path, ...]
    bytes: int
    others: Mapping[str, int]

    def lines(self) -> list[str]:
        """What is said before they are deleted."""
        from asdray.sweep.dry_run import size

        lines = [f"--fresh deletes all results of {len(self.folders)} trials ({size(self.bytes)}):"]
        lines += [f"  {folder}" for folder in self.folders[:10]]
        if len(self.folders) > 10:
            lines.append(f"  and {len(self.folders) - 10} more")
        lines += [f"{n} of them belong to the sweep {name!r} too" for name, n in self.others.items()]
        return lines


def results_of(sweep: Sweep, jobs: Sequence[Job], places: Places) -> Results:
    """What there is of the trials of ``jobs``."""
    there = {}
    for job in jobs:
        folder = store.trial_dir(places.results, job.trial).root
        if folder.is_dir():
            there[job.trial.dcase, job.trial.system_name, job.trial.seed] = folder
    others = {}
    for folder in store.sweep_dirs(places.results):
        shared = set(there) & (changes.last_trials(folder) or set())
        if folder.name != sweep.name and shared:
            others[folder.name] = len(shared)
    size = sum(_size(folder) for folder in there.values())
    return Results(frozenset(there), tuple(there.values()), size, others)


def delete(found: Results, sweep: Sweep, places: Places) -> None:
    """Deletes the trials' folders, their events, and where a search would go on, its study.

    Raises:
        ValueError: the sweep, or another one over these trials, runs.
    """

    def runs() -> None:
        raise ValueError(f"--fresh: the sweep {sweep.name!r} runs: stop it first")

    for name in found.others:
        if store.is_leased(store.sweep_dir(places.results, name)):
            raise ValueError(f"--fresh: the sweep {name!r} runs and has some of these trials: stop it first")
    folder = store.sweep_dir(places.results, sweep.name)
    with store.lease(folder, on_wait=runs):
        for trial in found.folders:
            # Renamed first: what is half deleted when this is killed must not pass for a trial.
            gone = trial.with_name(f".deleted-{os.getpid()}-{trial.name}")
            trial.rename(gone)
            shutil.rmtree(gone)
            for parent in (trial.parent, trial.parent.parent):
                if not any(parent.iterdir()):
                    parent.rmdir()
        forget(folder / "events.jsonl", found.trials)
        if sweep.search.samples:
            from asdray.sweep.study import study_file

            study_file(places, sweep.name).unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry
