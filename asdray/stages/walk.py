"""Every stage of a trial in one pass: planning a thousand trials reads each marker once.

The same questions as the stages ask (`asdray.stages.state`), with what one answer needs of another
handed on. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def walk(
    trial: Trial,
    checkpoints: Iterable[str],
    backends: Iterable[Backend],
    umap: Umap | Literal[False],
    places: Places,
    dataset: Dataset,
) -> Iterator[Found]:
    """Every stage of ``trial``, in the order in which they run.

    A training that lacks one of the ``checkpoints`` is not done.

    Args:
        backends: those that apply to the trial.
        umap: its options, or False for none.
    """
    checkpoints, backends = tuple(checkpoints), tuple(backends)
    trainings: dict[str, tuple[state.Step, Marker | None]] = {}
    for unit in trial.units:
        train = state.train_step(trial, unit, places, dataset)
        marker = train.marker
        trainings |= dict.fromkeys(unit.machines, (train, marker))
        if marker is not None and any(store.checkpoint_name(c) not in marker.outputs for c in checkpoints):
            marker = None
        yield Found("train", unit.name, None, None, None, train.signature, marker)
    known: dict[tuple[str, str], tuple[state.Step, Marker]] = {}
    for ckpt in checkpoints:
        for machine in trial.machines:
            extract = state.extract_after(*trainings[machine], trial, machine, ckpt, places, dataset)
            extracted = extract.marker
            yield Found("extract", None, machine, ckpt, None, extract.signature, extracted)
            scored: dict[str, tuple[state.Step, Marker | None]] = {}
            for backend in backends:
                step = state.score_after(extract, extracted, backend)
                name = backend_id(backend)
                scored[name] = step, step.marker
                yield Found("score", None, machine, ckpt, name, step.signature, scored[name][1])
            evaluate = state.evaluate_after(extract, extracted, scored, dataset.machines[machine])
            evaluated = evaluate.marker
            if evaluated is not None:
                known[ckpt, machine] = evaluate, evaluated
            partial = False
            if evaluated is None and (there := {k: v for k, v in scored.items() if v[1] is not None}):
                step = state.evaluate_after(extract, extracted, there, dataset.machines[machine])
                partial = step.marker is not None
            yield Found("evaluate", None, machine, ckpt, None, evaluate.signature, evaluated, partial)
            if umap:
                plot = state.umap_after(extract, extracted, umap)
                yield Found("umap", None, machine, ckpt, None, plot.signature, plot.marker)
    table = state.table_step(trial, checkpoints, places, dataset, known)
    yield Found("table", None, None, None, None, table.signature, table.marker)
