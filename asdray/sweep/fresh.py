"""``--fresh``: deletes the results of a sweep's trials."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asdray import store
from asdray.config.sweep import Sweep
from asdray.store import Places, SweepDir
from asdray.sweep.changes import last_trials
from asdray.sweep.dry_run import size
from asdray.sweep.events import forget
from asdray.sweep.jobs import Job


@dataclass(frozen=True)
class Results:
    """Existing results of some trials.

    Attributes:
        folders: (dcase, system, seed) of a trial with results -> folder.
        others: name of another sweep -> number of shared trials.
    """

    folders: Mapping[tuple[str, str, int], Path]
    others: Mapping[str, int]

    def lines(self) -> list[str]:
        """The announcement of the deletion: folders, size, other sweeps over the same trials."""
        files = (file for folder in self.folders.values() for file in folder.rglob("*") if not file.is_dir())
        total = size(sum(file.lstat().st_size for file in files))
        lines = [f"--fresh deletes all results of {len(self.folders)} trials ({total}):"]
        lines += [f"  {folder}" for folder in list(self.folders.values())[:10]]
        if len(self.folders) > 10:
            lines.append(f"  and {len(self.folders) - 10} more")
        return lines + [f"{n} of them belong to the sweep {name!r} too" for name, n in self.others.items()]


def results_of(sweep: Sweep, jobs: Sequence[Job], places: Places) -> Results:
    """The existing results of the trials of ``jobs``."""
    folders = {}
    for job in jobs:
        folder = store.trial_dir(places.results, job.trial).root
        if folder.is_dir():
            folders[job.trial.dcase, job.trial.system_name, job.trial.seed] = folder
    others = {}
    for other in store.sweep_dirs(places.results):
        shared = folders.keys() & (last_trials(other) or {}).keys()
        if other.name != sweep.name and shared:
            others[other.name] = len(shared)
    return Results(folders, others)


def delete(results: Results, sweep: Sweep, places: Places) -> None:
    """Deletes the folders and the events of the trials, and the study of a search.

    Raises:
        ValueError: the sweep, or another sweep over the trials, runs.
    """
    for name in results.others:
        if store.is_leased(store.sweep_dir(places.results, name)):
            raise ValueError(f"--fresh: the sweep {name!r} runs and has some of these trials: stop it first")

    def refuse() -> None:
        raise ValueError(f"--fresh: the sweep {sweep.name!r} runs: stop it first")

    files = SweepDir(store.sweep_dir(places.results, sweep.name))
    with store.lease(files.root, on_wait=refuse):
        for folder in results.folders.values():
            # Renamed first: a folder that is half deleted when this process is killed must not pass for a
            # trial.
            folder.rename(folder.parents[2] / f".deleted-{os.getpid()}-{'-'.join(folder.parts[-3:])}")
            remove_deleted(places)
            for parent in (folder.parent, folder.parent.parent):
                if not any(parent.iterdir()):
                    parent.rmdir()
        forget(files.events, results.folders)
        if sweep.search.samples:
            files.study.unlink(missing_ok=True)


def remove_deleted(places: Places) -> None:
    """Removes the rest of trials that a killed process was deleting."""
    for folder in places.results.glob("trials/.deleted-*"):
        shutil.rmtree(folder, ignore_errors=True)
