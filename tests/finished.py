"""Trials that look finished: every stage's marker, beside outputs that hold nothing. For planning's tests."""

from __future__ import annotations

import time
from pathlib import Path

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.sweep import Sweep
from asdray.stages import state
from asdray.store import Places
from asdray.sweep.jobs import Job


def finish(
    job: Job, sweep: Sweep, places: Places, *, until: str = "table", seconds: float = 8.0, size: int = 100
) -> None:
    """Marks the stages of a job as done, up to and with ``until``; each took ``seconds``."""
    trial, dataset = job.trial, job.dataset
    where = store.trial_dir(places.results, trial)
    order = ["train", "extract", "score", "evaluate", "umap", "table"]
    wanted = order[: order.index(until) + 1]

    def mark(step: state.Step, *outputs: Path) -> None:
        if step.stage in wanted:
            for path in outputs:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x" * size)
            store.mark_done(
                step.folder, step.stage, step.signature, outputs=outputs, started=time.time() - seconds,
                inputs=step.inputs, backend=step.backend,
            )  # fmt: skip

    for unit in trial.units:
        checkpoints = [where.checkpoint(unit.name, c) for c in sweep.checkpoints]
        mark(state.train_step(trial, unit, places, dataset), *checkpoints)
    for ckpt in sweep.checkpoints:
        for machine in trial.machines:
            at = (trial, machine, ckpt)
            splits = [where.extract(ckpt, machine, split) for split in ("train", "test")]
            mark(state.extract_step(*at, places, dataset), *splits)
            for backend in job.backends:
                scores = where.scores(ckpt, machine, backend_id(backend))
                mark(state.score_step(*at, backend, places, dataset), scores)
            evaluation = state.evaluate_step(*at, job.backends, places, dataset)
            mark(evaluation, where.evaluate(ckpt, machine))
            if sweep.umap:
                plot = where.umap(ckpt, machine) / "umap.parquet"
                mark(state.umap_step(*at, sweep.umap, places, dataset), plot)
    mark(state.table_step(trial, sweep.checkpoints, places, dataset), where.metrics)
