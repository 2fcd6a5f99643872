"""Evaluate: a machine's scores and the labels of its test clips -> metrics, and readable score files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asdray import store
from asdray.config.backend import Backend
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.years import get_year
from asdray.evaluation.metrics import MetricRow, evaluate_machine
from asdray.stages.files import read_scores, write_csv
from asdray.stages.steps import Outcome, TrialFiles, working
from asdray.store import Places

SPLITS = ("train", "test")


def evaluate(
    trial: Trial,
    machine: str,
    ckpt: str,
    backends: Iterable[Backend],
    places: Places,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Writes ``test_evaluate.csv`` and ``{train,test}_score.csv`` of a machine.

    The former has `MetricRow`'s columns and, as the others, ``dataset``, the kind of data that `Dataset.kind`
    tells: from here the mark goes into every file that is made of these rows.

    The files cover the backends asked for, and other backends whose scores are up to date (see
    `asdray.stages.steps.Snapshot.evaluate`). Without labels the values are null.

    Args:
        overwrite: evaluate again even if the stage is complete.

    Raises:
        ValueError: a backend that is asked for has not scored this machine yet.
    """
    backends = tuple(backends)
    files = TrialFiles.load(trial, places, [machine])
    directory, dataset = files.folder, files.dataset
    folder = directory.machine(ckpt, machine)
    with working(
        files, folder, lambda now: now.evaluate(machine, ckpt, backends), overwrite=overwrite
    ) as work:
        if work.reused:
            return work.reused
        views = [directory.score_view(ckpt, machine, split) for split in SPLITS]
        outputs = [directory.evaluate(ckpt, machine), *views]
        work.replace(outputs)
        ids = list(work.step.inputs or ())
        scores = {name: read_scores(directory.scores(ckpt, machine, name)) for name in ids}
        table = manifest.load_manifest(places.data, trial.dcase)
        clips = {split: manifest.rows(table, machine=machine, split=split).to_pylist() for split in SPLITS}
        rows = _rows(trial.dcase, machine, clips["test"], scores)
        write_csv(outputs[0], [*MetricRow._fields, "dataset"], ([*row, dataset.kind] for row in rows))
        for path, split in zip(views, SPLITS, strict=True):
            _write_view(path, clips[split], scores, dataset.kind)
        records = store.read_records(folder)
        options = {name: records[store.record_name("score", name)].extra["options"] for name in ids}
        label_sources = list(dataset.machines[machine].label_sources)
        return work.finish(outputs, extra={"backends": options, "label_sources": label_sources})


def _rows(
    dcase: str, machine: str, clips: list[dict[str, Any]], scores: Mapping[str, Mapping[str, float]]
) -> list[MetricRow]:
    columns = {name: [c[name] for c in clips] for name in ("subset", "section", "domain", "is_anomaly")}
    in_order = {name: [by_clip[c["clip"]] for c in clips] for name, by_clip in scores.items()}
    return evaluate_machine(get_year(dcase), machine, in_order, **columns)


def _write_view(
    path: Path, clips: list[dict[str, Any]], scores: Mapping[str, Mapping[str, float]], dataset: str
) -> None:
    """A readable score file; nothing of asdray reads it."""
    columns = ("clip", "machine", "section", "domain", "is_anomaly")
    rows = ([*(c[n] for n in columns), *(s[c["clip"]] for s in scores.values()), dataset] for c in clips)
    write_csv(path, [*columns, *scores, "dataset"], rows)
