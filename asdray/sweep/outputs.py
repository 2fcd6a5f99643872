"""What a sweep writes beside its trials: the resolved spec, trials.parquet, tables and leaderboard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.load import loaded_plugin
from asdray.config.sweep import Sweep
from asdray.dcase.years import get_year
from asdray.stages import state
from asdray.store import Places
from asdray.sweep import ensembles
from asdray.sweep.jobs import Job
from asdray.sweep.standing import Standing

if TYPE_CHECKING:
    import pandas as pd

    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.evaluation.tables import Tables
    from asdray.sweep.events import Event

STAGES = ("train", "extract", "score", "evaluate", "umap", "table")


def resolved(sweep: Sweep) -> dict[str, Any]:
    """What ``sweep.yaml`` says: every option, and of plugins the copies that lie beside it."""
    spec = sweep.model_dump(mode="json")
    for i, path in enumerate(sweep.plugins):
        plugin = loaded_plugin(path)
        mark = f"-{plugin.sha256[:8]}"
        spec["plugins"][i] = f"plugins/{Path(path).stem.removesuffix(mark)}{mark}{plugin.suffix}"
    return spec


def write_spec(sweep: Sweep, folder: Path) -> None:
    """``sweep.yaml``: the spec with every default written out, and copies of its plugins beside it.

    With these the sweep can be reported on when its plugins have changed since.
    """
    spec = resolved(sweep)
    for path, name in zip(sweep.plugins, spec["plugins"], strict=True):
        for file, content in loaded_plugin(path).files_at(folder / name).items():
            store.write_bytes(file, content)
    store.write_text(folder / "sweep.yaml", yaml.safe_dump(spec, sort_keys=False, width=100))


def trial_row(
    job: Job, stands: Standing, places: Places, failures: Sequence[Event], running: bool
) -> dict[str, Any]:
    """One row of ``trials.parquet``."""
    seconds: dict[str, float] = {}
    devices: set[str] = set()
    for event, marker in stands.stages:
        if marker is not None:
            seconds[event["stage"]] = seconds.get(event["stage"], 0.0) + marker.seconds
            if event["stage"] == "train":
                devices.add(marker.device)
    complete = stands.complete
    status = "done" if complete else "failed" if failures else "running" if running else "waiting"
    first = failures[0] if failures else None
    return {
        "dcase": job.trial.dcase,
        "recipe": job.trial.recipe,
        "system": job.trial.system_name,
        "seed": job.trial.seed,
        "part": job.part,
        "swept": dict(job.swept),
        "status": status,
        "seconds": seconds,
        "device": "+".join(sorted(devices)) or None,
        "error": f"{first['stage']} {first['machine'] or first['unit'] or ''}: {first['error']}"
        if first and not complete
        else None,
        "directory": store.trial_dir(places.results, job.trial).root.relative_to(places.results).as_posix(),
        "dataset": job.dataset.kind,
    }


def write_trials(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """``trials.parquet``: one row per trial; every swept option is a column, objects as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    paths = list(dict.fromkeys(path for row in rows for path in row["swept"]))
    columns: dict[str, pa.Array] = {
        "dcase": pa.array([r["dcase"] for r in rows], pa.string()),
        "recipe": pa.array([r["recipe"] for r in rows], pa.string()),
        "system": pa.array([r["system"] for r in rows], pa.string()),
        "seed": pa.array([r["seed"] for r in rows], pa.int64()),
        "part": pa.array([r["part"] for r in rows], pa.string()),
    }
    for path in paths:
        columns[path] = _option_column([r["swept"].get(path) for r in rows])
    columns["status"] = pa.array([r["status"] for r in rows], pa.string())
    for stage in STAGES:
        columns[f"{stage}_seconds"] = pa.array([r["seconds"].get(stage) for r in rows], pa.float64())
    for name in ("device", "error", "directory", "dataset"):
        columns[name] = pa.array([r[name] for r in rows], pa.string())
    with store.atomic_path(folder / "trials.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)


def _option_column(values: list[Any]) -> Any:
    import pyarrow as pa

    present = [v for v in values if v is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present):
        kind = pa.int64() if all(isinstance(v, int) for v in present) else pa.float64()
        return pa.array(values, kind)
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values], pa.string()
    )


def write_results(
    sweep: Sweep, jobs: Sequence[Job], places: Places, *, rank_by: str | None = None
) -> Leaderboard:
    """Tables and leaderboard over the trials whose own tables are done; the others count as missing.

    Everything of earlier writings goes, so that what is there is of now: tables of years that the sweep no
    longer names, and what `write_metric` wrote.

    Args:
        rank_by: what to rank by instead of the sweep's own ``rank_by``.

    Raises:
        ValueError: an unknown ``rank_by``.
    """
    from asdray.evaluation import leaderboard_text, published, tables

    folder = store.sweep_dir(places.results, sweep.name)
    made, board, searched = _board(sweep, jobs, places, "official", rank_by)
    if searched is not None:
        tables.write_csv(searched, folder / "selection.csv", board.dataset)
    written = tables.write_tables(made, folder / "tables", board.dataset)
    written += leaderboard_text.write(board, folder)
    if len(beside := published.beside(board)):
        written += leaderboard_text.write_beside(beside, board, folder)
    for pattern in ("tables/*.csv", "leaderboard-*", "beside_published.*"):
        for path in folder.glob(pattern):
            if path not in written:
                path.unlink()
    return board


def write_metric(
    sweep: Sweep, jobs: Sequence[Job], places: Places, metric: str, *, rank_by: str | None = None
) -> Leaderboard:
    """The same of another metric: ``tables/s_auc23-dev.csv``, ..., ``leaderboard-s_auc.{csv,...}``.

    Views on request: the next `write_results` removes them.

    Raises:
        ValueError: an unknown metric or ``rank_by``.
    """
    from asdray.evaluation import leaderboard_text, tables

    folder = store.sweep_dir(places.results, sweep.name)
    made, board, _ = _board(sweep, jobs, places, tables.check_metric(metric), rank_by)
    tables.write_tables(made, folder / "tables", board.dataset, metric)
    leaderboard_text.write(board, folder, f"leaderboard-{metric}")
    return board


def _board(
    sweep: Sweep, jobs: Sequence[Job], places: Places, metric: str, rank_by: str | None
) -> tuple[Tables, Leaderboard, pd.DataFrame | None]:
    """The tables of one metric, the leaderboard that they make, and of a search what it chose."""
    from asdray.evaluation import leaderboard, naming, published, tables
    from asdray.sweep import selection
    from asdray.sweep.search import read_studies

    paths = (
        store.trial_dir(places.results, job.trial).metrics
        for job in jobs
        if state.table_step(job.trial, sweep.checkpoints, places, job.dataset).marker
    )
    finished = list(dict.fromkeys(paths))
    rows = tables.load_rows(finished, metric)
    planned = tables.planned_rows([job.trial for job in jobs], sweep.checkpoints, sweep.backends)
    machines = {dcase: sweep.machines_of(dcase) for dcase in sweep.board_years}
    swept: dict[str, dict[str, Mapping[str, Any]]] = {}
    for job in jobs:
        swept.setdefault(job.trial.recipe, {})[job.trial.system_name] = job.swept
    options: dict[str, str] = {}
    for systems in swept.values():
        options |= naming.option_labels(systems)
    backends = {backend_id(b): b.model_dump() for job in jobs for b in job.backends}
    labels = naming.backend_labels(backends)
    datasets = {job.trial.dcase: job.dataset for job in jobs if job.trial.dcase in machines}
    studies = None
    if sweep.search.samples:
        studies, datasets = read_studies(sweep, places)
        planned = selection.confirmed_rows(studies)
        datasets = {dcase: datasets[dcase] for dcase in machines}
    made = tables.sweep_tables(rows, planned, machines, labels, options, metric)
    best_by = {job.trial.system_name: ensembles.best_by(job.trial) for job in jobs}
    classes_from = {j.trial.system_name: j.trial.system.frontend.classes_from for j in jobs}
    kinds = {name: d.kind for name, d in datasets.items()}
    more: list[dict[str, Any]] = []
    if set(kinds.values()) == {"official"}:
        whole = [
            f"{dcase}-{subset}"
            for dcase, subset in made
            if set(get_year(dcase).machines[subset]) <= set(machines[dcase])
        ]
        more = published.leaderboard_rows(whole, metric)
    sources = {
        name: "+".join(sorted({s for m in machines[name] for s in d.machines[m].label_sources}))
        for name, d in datasets.items()
    }
    official = made
    if metric != "official" and sweep.ensembles:  # whose members the official score chooses
        official = tables.sweep_tables(tables.load_rows(finished), planned, machines, labels, options)
    combined = ensembles.make(sweep, [j.trial for j in jobs], datasets, places, official, labels)
    for one in combined.rows:  # of its members the one that read the most: "" < "train" < "train+test"
        own_classes = (classes_from[system] for system, _ in one.row.members or ())
        classes_from[one.row.system] = max(own_classes, default="")
    kind = leaderboard.one_kind(kinds)
    more += ensembles.leaderboard_rows(combined, machines, sources, kind, labels, metric, best_by)
    searched = None
    if studies is not None:
        own = [job.trial for job in jobs if job.part == "search"]
        searched = selection.searched(
            studies, own, finished, machines, sources, kind, labels, options, metric
        )
    board = leaderboard.build(
        made,
        machines,
        kinds,
        sources,
        rank_by=rank_by or sweep.rank_by,
        unlabelled=[
            f"{dcase}-{subset}"
            for dcase, subset in made
            if any(
                datasets[dcase].machines[m].count(subset=subset, split="test", label="unknown")
                for m in machines[dcase]
            )
        ],
        extra=more,
        unranked=searched.rows if searched else (),
        selected_by=searched.selected_by if searched else "fixed",
        best_by=best_by,
        classes_from=classes_from,
        metric=metric,
    )
    board = replace(board, notes=(*board.notes, *combined.notes, *(searched.notes if searched else ())))
    if searched is None:
        return made, board, None
    return made if sweep.confirm else searched.tables, board, searched.frame
