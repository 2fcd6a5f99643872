"""Every stage of a trial in one pass: planning a thousand trials reads each marker once.

The same questions as the stages ask (`asdray.stages.state`), with what one answer needs of another
handed on. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from asdray import store
from asdray.config.backend import Backend, Umap, backend_id
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.stages import state
from asdray.store import Marker, Places


class Found(NamedTuple):
    """One stage of a trial: what it is about, the signature asked for, and its marker if it is done."""

    stage: str
    unit: str | None
    machine: str | None
    checkpoint: str | None
    backend: str | None
    signature: str
    marker: Marker | None
    partial: bool = False
    """Of an evaluation that is not done: whether it is over those of the backends that are scored."""
    again: bool = False
    """Of a training or extraction that is not done: whether it was, and what it made was dropped."""


def walk(
    trial: Trial,
    checkpoints: Iterable[str],
    backends: Iterable[Backend],
    umap: Umap | Literal[False],
    places: Places,
    dataset: Dataset,
    *,
    wanted: Container[str] = (),
) -> Iterator[Found]:
    """Every stage of ``trial``, in the order in which they run.

    A training that lacks one of the ``checkpoints`` is not done. One whose checkpoint was dropped is done
    unless it is to be extracted with, an extraction whose embeddings were dropped unless they are to be
    read.

    Args:
        backends: those that apply to the trial.
        umap: its options, or False for none.
        wanted: machines whose embeddings somebody else is to read.
    """
    checkpoints, backends = tuple(checkpoints), tuple(backends)
    trainings = {unit.name: state.train_step(trial, unit, places, dataset) for unit in trial.units}
    markers = {name: train.marker for name, train in trainings.items()}
    again: set[str] = set()
    """Units whose dropped checkpoint is needed."""
    rest = list(_rest(trial, checkpoints, backends, umap, places, dataset, trainings, markers, again, wanted))
    for name, train in trainings.items():
        marker = markers[name]
        if marker is not None and any(store.checkpoint_name(c) not in marker.outputs for c in checkpoints):
            marker = None
        redone = marker is not None and name in again
        yield Found(
            "train", name, None, None, None, train.signature, None if redone else marker, again=redone
        )
    yield from rest


def _rest(
    trial: Trial,
    checkpoints: tuple[str, ...],
    backends: tuple[Backend, ...],
    umap: Umap | Literal[False],
    places: Places,
    dataset: Dataset,
    trainings: Mapping[str, state.Step],
    markers: Mapping[str, Marker | None],
    again: set[str],
    wanted: Container[str],
) -> Iterator[Found]:
    """What follows the trainings; adds to ``again``."""
    named = {backend_id(backend): backend for backend in backends}
    unit_of = {machine: unit.name for unit in trial.units for machine in unit.machines}
    known: dict[tuple[str, str], tuple[state.Step, Marker]] = {}
    for ckpt in checkpoints:
        for machine in trial.machines:
            unit = unit_of[machine]
            train = trainings[unit], markers[unit]
            extract = state.extract_after(*train, trial, machine, ckpt, places, dataset)
            extracted = extract.marker
            scored: dict[str, tuple[state.Step, Marker | None]] = {}
            for name, backend in named.items():
                step = state.score_after(extract, extracted, backend, name)
                scored[name] = step, step.marker
            plot = state.umap_after(extract, extracted, umap) if umap else None
            plotted = plot.marker if plot else None
            lacking = machine in wanted or any(marker is None for _, marker in scored.values())
            redone = bool(extracted and extracted.dropped) and (lacking or bool(plot and plotted is None))
            if extract.reads_dropped and (extracted is None or redone):
                again.add(unit)
            there = None if redone else extracted
            yield Found("extract", None, machine, ckpt, None, extract.signature, there, again=redone)
            for name, (step, marker) in scored.items():
                yield Found("score", None, machine, ckpt, name, step.signature, marker)
            evaluate = state.evaluate_after(extract, extracted, scored, dataset.machines[machine])
            evaluated = evaluate.marker
            partial = False
            if evaluated is not None:
                known[ckpt, machine] = evaluate, evaluated
            elif have := {name: score for name, score in scored.items() if score[1] is not None}:
                some = state.evaluate_after(extract, extracted, have, dataset.machines[machine])
                if (over_some := some.marker) is not None:
                    partial = True
                    known[ckpt, machine] = some, over_some
            yield Found("evaluate", None, machine, ckpt, None, evaluate.signature, evaluated, partial)
            if plot:
                yield Found("umap", None, machine, ckpt, None, plot.signature, plotted)
    table = state.table_step(trial, checkpoints, places, dataset, known)
    yield Found("table", None, None, None, None, table.signature, table.marker)
