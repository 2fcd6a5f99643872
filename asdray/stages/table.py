"""Table: the evaluations of a trial's machines -> ``metrics.parquet`` and the trial's tables.

``metrics.parquet`` holds all evaluation rows of a trial; sweeps and `asdray.load_results` read no other file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from asdray import damage, store
from asdray.aside import remove
from asdray.config.backend import Backend, backend_id
from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation import tables
from asdray.stages.steps import Outcome, Snapshot, Step, TrialFiles, checkpoint_folders, working


def table(
    files: TrialFiles, checkpoints: Iterable[str], backends: Iterable[Backend], *, overwrite: bool = False
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
    directory = files.folder
    with working(files, directory.root, lambda now: now.table(checkpoints), overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        evaluated = _evaluated(work.step)
        paths = [path for ckpt in evaluated for path in _paths(files, ckpt, "official").values()]
        work.replace([directory.metrics, *paths])
        rows, labels = _gather(files, evaluated, backends)
        store.write_parquet(directory.metrics, pa.Table.from_pylist(rows, schema=tables.SCHEMA))
        written = _write(files, rows, labels, evaluated, "official")
        for path in (path for folder in checkpoint_folders(directory) for path in folder.glob("*.csv")):
            if path not in written:  # of another metric, or of more machines or checkpoints than now
                remove(path)
        return work.finish([directory.metrics, *written])


def metric_tables(
    files: TrialFiles, checkpoints: Iterable[str], backends: Iterable[Backend], metric: str
) -> list[Path]:
    """Writes the tables of another metric, such as ``s_auc23-{dev,eval}.csv``, and returns their paths.

    No record names these files; `table` removes them when it runs again.

    Args:
        backends: see `table`.

    Raises:
        ValueError: the trial's own table is missing.
    """
    with damage.forgotten(), store.lease(files.folder.root):
        step = Snapshot(files).table(checkpoints)
        if not step.complete:
            raise ValueError(f"the table of {files.trial.name} is not done: run `asdray table` first")
        rows, labels = _gather(files, _evaluated(step), backends)
        return _write(files, rows, labels, _evaluated(step), metric)


def _evaluated(step: Step) -> dict[str, list[str]]:
    """Checkpoint -> evaluated machines, of the trial's table."""
    machines: dict[str, list[str]] = {}
    for name in step.inputs or ():
        ckpt, machine = name.split("/")
        machines.setdefault(ckpt, []).append(machine)
    return machines


def _paths(files: TrialFiles, ckpt: str, metric: str) -> dict[Subset, Path]:
    """The tables of a checkpoint."""
    folder, dcase = files.folder.output(ckpt), files.trial.dcase
    return {subset: folder / tables.table_name(dcase, subset, metric) for subset in SUBSETS}


def _write(
    files: TrialFiles,
    rows: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    evaluated: Mapping[str, Sequence[str]],
    metric: str,
) -> list[Path]:
    """Writes the tables of one metric, of every subset in which the trial has a machine."""
    dcase = files.trial.dcase
    known = {*files.trial.machines, *itertools.chain.from_iterable(evaluated.values())}
    machines = [m for m in get_year(dcase).all_machines if m in known]
    written = []
    for ckpt in evaluated:
        of_ckpt = [row for row in rows if row["checkpoint"] == ckpt]
        for subset, path in _paths(files, ckpt, metric).items():
            if tables.machines_in(dcase, subset, machines):
                scores = tables.trial_table(of_ckpt, dcase, subset, machines, labels, metric)
                store.sweep_leftovers(path.parent, path.name)
                tables.write_trial_table(scores, path, files.dataset.kind)
                written.append(path)
    return written


def _gather(
    files: TrialFiles, evaluated: Mapping[str, Sequence[str]], backends: Iterable[Backend]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All evaluation rows, and the labels of ``backends`` and of all evaluated backends."""
    trial, directory = files.trial, files.folder
    head = {"dcase": trial.dcase, "recipe": trial.recipe, "system": trial.system_name, "seed": trial.seed}
    rows: list[dict[str, Any]] = []
    options: dict[str, dict[str, Any]] = {}
    for ckpt, machine in ((ckpt, machine) for ckpt, machines in evaluated.items() for machine in machines):
        at = {**head, "checkpoint": ckpt, "machine": machine}
        for row in damage.read_csv(directory.evaluate(ckpt, machine)):
            value = float(row["value"]) if row["value"] else None
            rows.append({**at, **row, "section": int(row["section"]), "value": value})
        record = store.read_record(directory.machine(ckpt, machine), "evaluate")
        assert record is not None, "evaluated, under the trial's lease"
        options.update(sorted(record.extra["backends"].items()))
    labels = tables.backend_labels({backend_id(b): b.model_dump(mode="json") for b in backends} | options)
    return rows, labels
