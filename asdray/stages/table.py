"""Table: the evaluations of a trial's machines -> ``metrics.parquet`` and the trial's tables.

``metrics.parquet`` holds all evaluation rows of a trial; sweeps and `asdray.load_results` read no other file.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation import tables
from asdray.stages.state import Outcome, table_step
from asdray.store import Places, TrialDir


def table(
    trial: Trial,
    checkpoints: Iterable[str],
    backends: Iterable[Backend],
    places: Places,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Writes ``metrics.parquet`` and, per checkpoint, ``official<YY>-{dev,eval}.csv``.

    Tables cover the trial's machines and any further evaluated machine of its folder, see
    `asdray.stages.state.table_step`; a total is null unless all machines are evaluated.

    Args:
        backends: backends of the trial; one without scores gets an empty row.
        overwrite: repeat the work if it is done.

    Raises:
        ValueError: no machine is evaluated yet.
    """
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
        names = dict.fromkeys(name.partition("/")[0] for name in step.inputs)
        expected = [path for ckpt in names for _, path in _paths(trial, directory, ckpt, "official")]
        store.begin(step.folder, step.stage, [directory.metrics, *expected])
        rows, labels = _gather(trial, directory, step.inputs, backends)
        store.write_parquet(directory.metrics, rows)
        written = _write(trial, rows, labels, directory, step.inputs, "official", dataset.kind)
        for path in directory.root.glob("output/*/*.csv"):
            if path not in written:  # of another metric, or of more machines or checkpoints than now
                path.unlink(missing_ok=True)
        outputs = [directory.metrics, *written]
        marker = store.mark_done(
            step.folder, step.stage, step.signature, outputs=outputs, started=started, inputs=step.inputs
        )
        return Outcome(marker, found=False)


def metric_tables(
    trial: Trial, checkpoints: Iterable[str], backends: Iterable[Backend], places: Places, metric: str
) -> list[Path]:
    """Writes the tables of another metric, such as ``s_auc23-{dev,eval}.csv``, and returns their paths.

    No marker names these files; `table` removes them when it runs again.

    Args:
        backends: see `table`.

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
        rows, labels = _gather(trial, directory, step.inputs, backends)
        return _write(trial, rows, labels, directory, step.inputs, metric, dataset.kind)


def _paths(trial: Trial, directory: TrialDir, ckpt: str, metric: str) -> list[tuple[Subset, Path]]:
    names = {subset: tables.table_name(trial.dcase, subset, metric) for subset in SUBSETS}
    return [(subset, directory.output(ckpt) / name) for subset, name in names.items()]


def _write(
    trial: Trial,
    rows: pa.Table,
    labels: Mapping[str, str],
    directory: TrialDir,
    evaluated: Iterable[str],
    metric: str,
    dataset: str,
) -> list[Path]:
    """Writes the tables of one metric, of every subset in which the trial has a machine.

    Args:
        evaluated: ``<checkpoint>/<machine>`` of every evaluation.
    """
    pairs = [name.split("/") for name in evaluated]
    known = {*trial.machines, *(machine for _, machine in pairs)}
    machines = [m for m in get_year(trial.dcase).all_machines if m in known]
    frame = rows.to_pandas()
    written = []
    for ckpt in dict.fromkeys(ckpt for ckpt, _ in pairs):
        of_ckpt = frame[frame["checkpoint"] == ckpt]
        for subset, path in _paths(trial, directory, ckpt, metric):
            if tables.machines_in(trial.dcase, subset, machines):
                scores = tables.trial_table(of_ckpt, trial.dcase, subset, machines, labels, metric)
                tables.write_csv(scores, path, dataset)
                written.append(path)
    return written


def _gather(
    trial: Trial, directory: TrialDir, evaluated: Iterable[str], backends: Iterable[Backend]
) -> tuple[pa.Table, dict[str, str]]:
    """All evaluation rows, and the labels of ``backends`` and of all evaluated backends.

    Args:
        evaluated: ``<checkpoint>/<machine>`` of every evaluation.
    """
    rows: list[dict[str, Any]] = []
    options: dict[str, dict[str, Any]] = {}
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
        assert marker is not None, "evaluated, under the trial's lease"
        options.update(sorted(marker.extra["backends"].items()))
    labels = tables.backend_labels({backend_id(b): b.model_dump(mode="json") for b in backends} | options)
    return pa.Table.from_pylist(rows, schema=tables.SCHEMA), labels
