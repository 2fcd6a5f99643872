"""Summaries of complete trials.

A summary stands beside the table's record in the ``done.json`` of the trial's folder. It holds a hash of the
request, the state of every other ``done.json`` of the trial, the sums that an estimate needs, and what made
the trial. While the same is requested and no record file changed, the trial counts as complete, so that
neither ``status`` nor ``--dry-run`` need read every record. A run trusts no summary: it reads all records and
looks at all outputs.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from asdray import store
from asdray.config.base import digest
from asdray.config.sweep import Sweep
from asdray.config.trial import NUMERICS
from asdray.record import Summary
from asdray.stages.made_by import Made
from asdray.stages.steps import Step, train_signature
from asdray.store import Places
from asdray.sweep.estimate import StageSum, sum_stages
from asdray.sweep.jobs import Job, is_complete


class CompleteTrial(NamedTuple):
    """The sums of a complete trial by stage, and what made its steps."""

    sums: dict[str, StageSum]
    made: frozenset[Made]


def made_of(steps: Iterable[Step]) -> frozenset[Made]:
    """What made the complete steps of a trial."""
    complete = [step for step in steps if step.complete]
    each = {(s.stage, s.versions.get("source"), s.versions.get("commit")): s.versions for s in complete}
    return frozenset(made for (stage, *_), versions in each.items() if (made := Made.of(stage, versions)))


def read_summary(job: Job, sweep: Sweep, places: Places) -> CompleteTrial | None:
    """The summary of a complete trial; None if only the records can tell.

    Raises:
        ValueError: an input file of the frontend cannot be read.
    """
    root = job.files(places).folder.root
    summary = store.read_summary(root)
    try:
        if summary is None or any(
            (name, *_file_state(root, name)) != (name, *of) for name, *of in summary.files
        ):
            return None
    except OSError:
        return None
    if summary.request != _request_id(job, sweep, places):
        return None
    sums = {total[0]: StageSum(*total[1:]) for total in summary.sums}
    return CompleteTrial(sums, _made_by(summary.made))


@functools.lru_cache(maxsize=1024)
def _made_by(made: tuple[tuple[str, str, str], ...]) -> frozenset[Made]:
    return frozenset(Made(*one) for one in made)


def made(job: Job, sweep: Sweep, places: Places) -> frozenset[Made]:
    """What made the complete steps of a trial, by its summary or its records."""
    summary = read_summary(job, sweep, places)
    return summary.made if summary else made_of(job.steps(sweep, places))


def write_summaries(jobs: Iterable[Job], sweep: Sweep, places: Places) -> None:
    """Writes the summaries of complete trials, except where a valid summary exists.

    A trial is skipped if it cannot be read or written.
    """
    for job in jobs:
        with contextlib.suppress(ValueError, OSError):
            if read_summary(job, sweep, places) is None:
                _write_summary(job, sweep, places)


def _write_summary(job: Job, sweep: Sweep, places: Places) -> None:
    root = job.files(places).folder.root
    if not store.read_records(root):
        return  # The table comes last: without it the trial is not complete.
    with store.lease(root):
        # The state of the files is taken first: a record that changes while it is read then differs later.
        files = tuple((name, *_file_state(root, name)) for name in _watched(root))
        steps = job.steps(sweep, places)
        if not is_complete(steps):
            return
        sums = sum_stages(job.trial, job.dataset, steps)
        of_stages = tuple((stage, *astuple(total)) for stage, total in sums.items())
        request = _request_id(job, sweep, places)
        store.write_summary(root, Summary(request, files, of_stages, tuple(sorted(made_of(steps)))))


def _watched(root: Path) -> list[str]:
    """The record files below ``root``, and the folders in which another sweep may add a record file."""
    patterns = (f"model/*/{store.RECORDS}", f"output/*/*/{store.RECORDS}", f"output/*/*/umap/{store.RECORDS}")
    files = [path for pattern in patterns for path in root.glob(pattern)]
    folders = [root / "output", *(path for path in root.glob("output/*") if path.is_dir())]
    return sorted(str(path.relative_to(root)) for path in (*files, *folders))


def _file_state(root: Path, name: str) -> tuple[int, int, int]:
    """Size, time of change in ns, and inode: record files are replaced as a whole, never edited."""
    found = os.stat(f"{root}/{name}")
    return found.st_size, found.st_mtime_ns, found.st_ino


def _request_id(job: Job, sweep: Sweep, places: Places) -> str:
    """Hash of everything besides the trial's own files that decides whether the trial is complete.

    The data of all machines of the year belong to it: the tables may cover machines of other sweeps.
    """
    files = job.files(places)
    machines = job.dataset.machines
    return digest(
        {
            "numerics": NUMERICS,
            "trainings": [train_signature(files, unit) for unit in job.trial.units],
            "data": {name: [data.train, data.test, data.labels] for name, data in machines.items()},
            "checkpoints": sweep.checkpoints,
            "backends": [backend.canonical_json for backend in job.backends],
            "umap": sweep.umap.canonical_json if sweep.umap else None,
        }
    )
