"""Table: the evaluations of a trial's machines -> its tables, and the one file that a sweep reads."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import SUBSETS, get_year
from asdray.evaluation import naming, tables
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
        evaluated = [name.split("/") for name in step.inputs]
        known = {*trial.machines, *(machine for _, machine in evaluated)}
        machines = [m for m in get_year(trial.dcase).all_machines if m in known]
        places_of = {
            (ckpt, subset): directory.output(ckpt) / tables.table_name(trial.dcase, subset)
            for ckpt in dict.fromkeys(ckpt for ckpt, _ in evaluated)
            for subset in SUBSETS
        }
        store.begin(step.folder, step.stage, [directory.metrics, *places_of.values()])
        rows, options = _gather(trial, directory, step.inputs)
        options = {backend_id(b): b.model_dump(mode="json") for b in backends} | options
        with store.atomic_path(directory.metrics) as temporary:
            pq.write_table(rows, temporary)
        outputs = [directory.metrics]
        labels = naming.backend_labels(options)
        frame = rows.to_pandas()
        for (ckpt, subset), path in places_of.items():
            if tables.machines_in(trial.dcase, subset, machines):
                of_ckpt = frame[frame["checkpoint"] == ckpt]
                official = tables.trial_table(of_ckpt, trial.dcase, subset, machines, labels)
                tables.write_csv(official, path)
                outputs.append(path)
            else:
                # Left by an earlier run over more machines: it would no longer belong to metrics.parquet.
                path.unlink(missing_ok=True)
        marker = store.mark_done(
            step.folder, step.stage, step.signature, outputs=outputs, started=started, inputs=step.inputs
        )
        return Outcome(marker, found=False)


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
