"""Evaluate: a machine's scores and the labels of its test clips -> metrics, and readable score files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asdray import damage, store
from asdray.config.backend import Backend
from asdray.dcase import manifest
from asdray.dcase.years import get_year
from asdray.evaluation.metrics import MetricRow, evaluate_machine
from asdray.stages.extract import SPLITS
from asdray.stages.held_out import new_to
from asdray.stages.steps import Outcome, Snapshot, TrialFiles, working

FACTS = ("clip", "machine", "section", "domain", "is_anomaly")
"""The first columns of a score file; a column per backend follows."""

HELD_OUT = "held_out"
"""Column of ``train_score.csv`` with ``train.hold_out``: True for a clip that thresholds are made of."""


def read_scores(path: Path) -> dict[str, float]:
    """Clip key -> anomaly score, from a backend's score file.

    Raises:
        ValueError: a missing or damaged file, with its name.
    """
    table = damage.read_parquet(path, ["clip", "score"])
    return dict(zip(table["clip"].to_pylist(), table["score"].to_pylist(), strict=True))


def evaluate(
    files: TrialFiles, machine: str, ckpt: str, backends: Iterable[Backend], *, overwrite: bool = False
) -> Outcome:
    """Writes ``test_evaluate.csv`` and ``{train,test}_score.csv`` of a machine.

    ``test_evaluate.csv`` has the columns of `MetricRow`; without labels, values are null. All three files
    have a column ``dataset``, the kind of data, and that of training clips `HELD_OUT` if any are. They cover
    ``backends``, and other backends with up-to-date scores (see `asdray.stages.steps.Snapshot.evaluate`).

    Args:
        overwrite: evaluate again even if the stage is complete.

    Raises:
        ValueError: one of ``backends`` has not scored the machine yet.
    """
    directory, dataset, dcase = files.folder, files.dataset, files.trial.dcase
    folder = directory.machine(ckpt, machine)
    ask = partial(Snapshot.evaluate, machine=machine, ckpt=ckpt, backends=tuple(backends))
    with working(files, folder, ask, overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        evaluated = directory.evaluate(ckpt, machine)
        views = [directory.score_view(ckpt, machine, split) for split in SPLITS]
        work.replace([evaluated, *views])
        ids = list(work.step.inputs or ())
        scores = {name: read_scores(directory.scores(ckpt, machine, name)) for name in ids}
        table = manifest.load_manifest(files.places.data, dcase)
        clips = {split: manifest.rows(table, machine=machine, split=split).to_pylist() for split in SPLITS}
        test = clips["test"]
        columns = {name: [c[name] for c in test] for name in ("subset", "section", "domain", "is_anomaly")}
        in_order = {name: [by_clip[c["clip"]] for c in test] for name, by_clip in scores.items()}
        rows = evaluate_machine(get_year(dcase), machine, in_order, **columns)
        _write_csv(evaluated, MetricRow._fields, rows, dataset.kind)
        for path, split in zip(views, SPLITS, strict=True):
            more = _held_out(files, clips["train"]) if split == "train" else {}
            by_clip: list[Mapping[str, Any]] = [*more.values(), *scores.values()]
            view = ([*(c[n] for n in FACTS), *(s[c["clip"]] for s in by_clip)] for c in clips[split])
            _write_csv(path, [*FACTS, *more, *scores], view, dataset.kind)
        records = store.read_records(folder)
        options = {name: records[store.record_name("score", name)].extra["options"] for name in ids}
        extra = {"backends": options, "label_sources": list(dataset.machines[machine].label_sources)}
        return work.finish([evaluated, *views], extra=extra)


def _held_out(files: TrialFiles, clips: Sequence[dict[str, Any]]) -> dict[str, dict[str, bool]]:
    """The column `HELD_OUT`, clip -> value; none without ``train.hold_out``."""
    system = files.trial.system
    if system.train.hold_out is None:
        return {}
    names, section, domain = ([clip[name] for clip in clips] for name in ("clip", "section", "domain"))
    out = new_to(system, names, section, domain)
    return {HELD_OUT: {name: name in out for name in names}}


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Sequence[Any]], dataset: str) -> None:
    """Writes a CSV atomically: null is empty, a float has every digit, lines end in LF."""
    with store.atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "dataset"])
        writer.writerows([*row, dataset] for row in rows)
