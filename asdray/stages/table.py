"""Table: the evaluations of a trial's machines -> ``metrics.parquet`` and the trial's tables.

``metrics.parquet`` holds all evaluation rows of a trial; sweeps and `asdray.load_results` read no other file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation import tables
from asdray.stages.steps import Outcome, Snapshot, TrialFiles, working
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
    `asdray.stages.steps.Snapshot.table`; a total is null unless all machines are evaluated.

    Args:
        backends: backends of the trial; one without scores gets an empty row.
        overwrite: repeat the work if it is done.

    Raises:
        ValueError: no machine is evaluated yet.
    """
    files = TrialFiles.load(trial, places)
    directory = files.folder
    with working(files, directory.root, lambda now: now.table(checkpoints), overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        evaluated = work.step.inputs or {}
        names = dict.fromkeys(name.partition("/")[0] for name in evaluated)
        expected = [path for ckpt in names for _, path in _paths(trial, directory, ckpt, "official")]
        work.replace([directory.metrics, *expected])
        rows, labels = _gather(trial, directory, evaluated, backends)
        store.write_parquet(directory.metrics, rows)
        written = _write(trial, rows, labels, directory, evaluated, "official", files.dataset.kind)
        for path in directory.root.glob("output/*/*.csv"):
            if path not in written:  # of another metric, or of more machines or checkpoints than now
                path.unlink(missing_ok=True)
        return work.finish([directory.metrics, *written])


def metric_tables(
    trial: Trial, checkpoints: Iterable[str], backends: Iterable[Backend], places: Places, metric: str
) -> list[Path]:
    """Writes the tables of another metric, such as ``s_auc23-{dev,eval}.csv``, and returns their paths.

    No record names these files; `table` removes them when it runs again.

    Args:
        backends: see `table`.

    Raises:
        ValueError: an unknown metric, or a trial whose table is not done.
    """
    tables.check_metric(metric)
    files = TrialFiles.load(trial, places)
    directory = files.folder
    with store.lease(directory.root):
        step = Snapshot(files).table(checkpoints)
        if not step.complete or not step.inputs:
            raise ValueError(f"the table of {trial.name} is not done: run `asdray table` first")
        rows, labels = _gather(trial, directory, step.inputs, backends)
        return _write(trial, rows, labels, directory, step.inputs, metric, files.dataset.kind)


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
        record = store.read_record(directory.machine(ckpt, machine), "evaluate")
        assert record is not None, "evaluated, under the trial's lease"
        options.update(sorted(record.extra["backends"].items()))
    labels = tables.backend_labels({backend_id(b): b.model_dump(mode="json") for b in backends} | options)
    return pa.Table.from_pylist(rows, schema=tables.SCHEMA), labels
