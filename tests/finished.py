"""Trials that look finished: a record of every stage, beside outputs that hold nothing. For planning's tests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.record import Record
from asdray.stages.steps import Snapshot, Step, TrialFiles
from asdray.store import Places
from asdray.sweep.jobs import Job

FACTS = {"options": {}, "backends": {}}
"""The facts of a score and an evaluation that other stages read."""


def snapshot(trial: Trial, places: Places) -> Snapshot:
    """The records of a trial as they are now."""
    return Snapshot(TrialFiles.load(trial, places))


def finished(step: Step, outputs: Iterable[Path]) -> Record:
    """Writes the record of ``step`` over outputs that exist."""
    return store.finish(
        step.folder, step.name, step.signature, outputs=outputs, started=0.0, inputs=step.inputs,
        extra=FACTS,
    )  # fmt: skip


def record(step: Step, outputs: Iterable[Path], *, seconds: float = 0.0, size: int = 1) -> Record:
    """Writes ``outputs`` of ``size`` bytes, and the record of ``step`` over these."""
    outputs = list(outputs)
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return store.finish(
        step.folder, step.name, step.signature, outputs=outputs, started=time.time() - seconds, inputs=step.inputs,
        extra=FACTS,
    )  # fmt: skip


def finish(
    job: Job, sweep: Sweep, places: Places, *, until: str = "table", seconds: float = 8.0, size: int = 100
) -> None:
    """Records the stages of a job as done, up to and with ``until``; each took ``seconds``."""
    trial, files = job.trial, job.files(places)
    where = files.folder
    order = ["train", "extract", "score", "evaluate", "umap", "table"]
    wanted = order[: order.index(until) + 1]

    def done(step: Step, *outputs: Path) -> None:
        if step.stage in wanted:
            record(step, outputs, seconds=seconds, size=size)

    for unit in trial.units:
        done(Snapshot(files).train(unit), *[where.checkpoint(unit.name, c) for c in sweep.checkpoints])
    for ckpt in sweep.checkpoints:
        for machine in trial.machines:
            at = machine, ckpt
            done(Snapshot(files).extract(*at), *[where.extract(ckpt, machine, s) for s in ("train", "test")])
            for backend in job.backends:
                done(Snapshot(files).score(*at, backend), where.scores(ckpt, machine, backend_id(backend)))
            done(Snapshot(files).evaluate(*at, job.backends), where.evaluate(ckpt, machine))
            if sweep.umap:
                done(Snapshot(files).umap(*at, sweep.umap), where.umap(ckpt, machine) / "umap.parquet")
    done(Snapshot(files).table(sweep.checkpoints), where.metrics)
