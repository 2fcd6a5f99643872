"""Table: the evaluations of a trial's machines -> its tables, and the one file that a sweep reads."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation import naming, tables
from asdray.stages.state import Outcome, table_step
from asdray.store import Places, TrialDir

if TYPE_CHECKING:
    import pandas as pd


def table(
    trial: Trial,
    checkpoints: Iterable[str],
    backends: Iterable[Backend],
    places: Places,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Writes ``metrics.parquet`` and per checkpoint ``official<YY>-{dev,eval}.csv``.

    Over the trial's machines and any others that are evaluated (see `asdray.stages.state.table_step`);
    a total is null unless all of them are.

    Args:
        backends: those asked for that apply to the trial; a missing one gets an empty row.
        overwrite: do it again although it is done.

    Raises:
        ValueError: no machine is evaluated yet.
    """
    backends = tuple(backends)
    dataset = load_dataset(places.data, trial.dcase)
    dataset.require(trial.machines)
    directory = store.trial_dir(places.results, trial)
    with store.lease(directory.root):
        step = table_step(trial, checkpoints, places, dataset)
        if not overwrite and (marker := step.marker):
            return Outcome(marker, found=True)
        if not step.inputs:
            raise ValueError(f"{trial.name}: no machine is evaluated yet: run `asdray evaluate` first")
        started = time.time()
        checkpoints, machines = _covered(trial, step.inputs)
        expected = [path for ckpt in checkpoints for _, path in _paths(trial, directory, ckpt, "official")]
        store.begin(step.folder, step.stage, [directory.metrics, *expected])
        rows, options = _gather(trial, directory, step.inputs)
        with store.atomic_path(directory.metrics) as temporary:
            pq.write_table(rows, temporary)
        labels = _labels(backends, options)
        written = _write(
            trial, directory, rows.to_pandas(), checkpoints, machines, labels, "official", dataset.kind
        )
        for path in directory.root.glob("output/*/*.csv"):
            if path not in written:
                # Of another metric, or of an earlier run over more machines or checkpoints: it would no
                # longer belong to metrics.parquet.
                path.unlink(missing_ok=True)
        outputs = [directory.metrics, *written]
        marker = store.mark_done(
            step.folder, step.stage, step.signature, outputs=outputs, started=started, inputs=step.inputs
        )
        return Outcome(marker, found=False)


def metric_tables(
    trial: Trial, checkpoints: Iterable[str], backends: Iterable[Backend], places: Places, metric: str
) -> list[Path]:
    """Writes per checkpoint the tables of another metric, ``s_auc23-{dev,eval}.csv``, and returns them.

    They are views on request: no marker names them, and making the trial's table anew removes them.

    Args:
        backends: as for `table`.

    Raises:
        ValueError: an unknown metric, or a trial whose table is not done.
    """
    tables.check_metric(metric)
    dataset = load_dataset(places.data, trial.dcase)
    dataset.require(trial.machines)
    directory = store.trial_dir(places.results, trial)
    with store.lease(directory.root):
        step = table_step(trial, checkpoints, places, dataset)
        if step.marker is None or not step.inputs:
            raise ValueError(f"the table of {trial.name} is not done: run `asdray table` first")
        rows, options = _gather(trial, directory, step.inputs)
        covered = _covered(trial, step.inputs)
        labels = _labels(backends, options)
        return _write(trial, directory, rows.to_pandas(), *covered, labels, metric, dataset.kind)


def _covered(trial: Trial, evaluated: Iterable[str]) -> tuple[list[str], list[str]]:
    """Checkpoints that are evaluated, and the machines that their tables are over."""
    pairs = [name.split("/") for name in evaluated]
    known = {*trial.machines, *(machine for _, machine in pairs)}
    machines = [m for m in get_year(trial.dcase).all_machines if m in known]
    return list(dict.fromkeys(ckpt for ckpt, _ in pairs)), machines


def _labels(backends: Iterable[Backend], options: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return naming.backend_labels({backend_id(b): b.model_dump(mode="json") for b in backends} | dict(options))


def _paths(trial: Trial, directory: TrialDir, ckpt: str, metric: str) -> list[tuple[Subset, Path]]:
    names = {subset: tables.table_name(trial.dcase, subset, metric) for subset in SUBSETS}
    return [(subset, directory.output(ckpt) / name) for subset, name in names.items()]


def _write(
    trial: Trial,
    directory: TrialDir,
    rows: pd.DataFrame,
    checkpoints: Iterable[str],
    machines: Sequence[str],
    labels: Mapping[str, str],
    metric: str,
    dataset: str,
) -> list[Path]:
    """Writes the tables of one metric, of the subsets in which there is a machine."""
    written = []
    for ckpt in checkpoints:
        of_ckpt = rows[rows["checkpoint"] == ckpt]
        for subset, path in _paths(trial, directory, ckpt, metric):
            if tables.machines_in(trial.dcase, subset, machines):
                frame = tables.trial_table(of_ckpt, trial.dcase, subset, machines, labels, metric)
                tables.write_csv(frame, path, dataset)
                written.append(path)
    return written


def _gather(
    trial: Trial, directory: TrialDir, evaluated: Iterable[str]
) -> tuple[pa.Table, dict[str, Mapping[str, Any]]]:
    """All evaluation rows, and the options of every backend in them.

    Args:
        evaluated: ``<checkpoint>/<machine>``.
    """
    rows: list[dict[str, Any]] = []
    options: dict[str, Mapping[str, Any]] = {}
    for name in evaluated:
        ckpt, machine = name.split("/")
        head = {
            "dcase": trial.dcase,
            "recipe": trial.recipe,
            "system": trial.system_name,
            "seed": trial.seed,
            "checkpoint": ckpt,
            "machine": machine,
        }
        with open(directory.evaluate(ckpt, machine), newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                value = float(row["value"]) if row["value"] else None
                rows.append({**head, **row, "section": int(row["section"]), "value": value})
        marker = store.read_marker(directory.machine(ckpt, machine), "evaluate")
        assert marker is not None, "it was done a moment ago, and the trial's lease is ours"
        options.update(sorted(marker.extra["backends"].items()))
    return pa.Table.from_pylist(rows, schema=tables.SCHEMA), options
