"""What is done of a trial: for every stage, where its marker lies, its signature and its inputs.

Each stage asks here about itself before it works, and planning asks the same questions, so that both
can never disagree. Reads markers and ``dataset.json`` alone; imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from asdray import store
from asdray.config import trial as signatures
from asdray.config.backend import Backend, Umap, backend_id
from asdray.config.frontend import InputFile
from asdray.config.trial import Trial, Unit
from asdray.dcase.manifest import Dataset, MachineData
from asdray.dcase.years import get_year
from asdray.store import Marker, Places


class Step(NamedTuple):
    """One stage of one unit or machine: what its marker must say.

    ``inputs`` is None where something that it reads is not done: then it cannot be done either. Where
    what it reads was dropped, it may well be done, but else cannot be until that is made again.
    """

    stage: str
    folder: Path
    signature: str
    inputs: Mapping[str, str] | None = MappingProxyType({})
    backend: str | None = None
    reads_dropped: bool = False

    @property
    def marker(self) -> Marker | None:
        """The stage's marker if it is done; what was dropped of its outputs counts as there."""
        if self.inputs is None:
            return None
        return store.done(self.folder, self.stage, self.signature, self.inputs, self.backend)


@dataclass(frozen=True)
class Outcome:
    """What a stage function tells its caller: the marker, and whether it worked or found it done."""

    marker: Marker
    found: bool


def outputs_hold(marker: Marker, folder: Path, paths: Iterable[Path]) -> bool:
    """Whether all ``paths`` are outputs that ``marker`` names."""
    return all(str(path.relative_to(folder)) in marker.outputs for path in paths)


def _needs(**steps: Marker | None) -> dict[str, str] | None:
    inputs: dict[str, str] = {}
    for name, marker in steps.items():
        if marker is None:
            return None
        inputs[name] = marker.digest
    return inputs


def train_step(trial: Trial, unit: Unit, places: Places, dataset: Dataset) -> Step:
    """Training of a unit."""
    train_ids = {m: dataset.machines[m].train for m in unit.machines}
    folder = store.trial_dir(places.results, trial).model(unit.name)
    more = _also_read(trial, unit, places, dataset)
    return Step("train", folder, signatures.train_signature(trial, unit, train_ids, more))


def _also_read(trial: Trial, unit: Unit, places: Places, dataset: Dataset) -> dict[str, dict[str, str]]:
    """Identities of all that a training reads besides its clips: kind -> machine -> id.

    Raises:
        ValueError: an input file of the frontend cannot be read.
    """
    frontend = trial.system.frontend
    ids: dict[str, dict[str, str]] = {}
    if frontend.test_classes:
        ids["test_classes"] = {m: dataset.machines[m].classes for m in unit.machines}
    for machine in unit.machines:
        for file in frontend.input_files(trial.dcase, machine, trial.seed):
            path = _input_path(file, places)
            try:
                found = path.stat()
                sha256 = _sha256_of(path, found.st_size, found.st_mtime_ns)
            except OSError as error:
                raise ValueError(f"frontend.{file.option}: cannot read {path}: {error.strerror}") from None
            ids.setdefault(file.kind, {})[machine] = sha256
    return ids


def input_paths(trial: Trial, unit: Unit, places: Places) -> dict[str, dict[str, Path]]:
    """The files that a training reads besides audio: kind -> machine -> absolute path."""
    paths: dict[str, dict[str, Path]] = {}
    for machine in unit.machines:
        for file in trial.system.frontend.input_files(trial.dcase, machine, trial.seed):
            paths.setdefault(file.kind, {})[machine] = _input_path(file, places)
    return paths


def _input_path(file: InputFile, places: Places) -> Path:
    return places.data / Path(file.path).expanduser()


@functools.lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file's content, read again only after the file's size or time has changed."""
    return store.sha256_file(path)


def trained(
    trial: Trial, unit: Unit, checkpoints: Iterable[str], places: Places, dataset: Dataset
) -> Marker | None:
    """The marker of a unit's training if it is done and holds all ``checkpoints``."""
    marker = train_step(trial, unit, places, dataset).marker
    directory = store.trial_dir(places.results, trial)
    wanted = [directory.checkpoint(unit.name, c) for c in checkpoints]
    if marker is None or not outputs_hold(marker, directory.model(unit.name), wanted):
        return None
    return marker


def extract_step(trial: Trial, machine: str, ckpt: str, places: Places, dataset: Dataset) -> Step:
    """Extraction of a machine's embeddings and own scores with one checkpoint."""
    train = train_step(trial, trial.unit_of(machine), places, dataset)
    return extract_after(train, train.marker, trial, machine, ckpt, places, dataset)


def extract_after(
    train: Step,
    trained: Marker | None,
    trial: Trial,
    machine: str,
    ckpt: str,
    places: Places,
    dataset: Dataset,
) -> Step:
    """`extract_step` behind a training that was looked up already."""
    inputs, dropped = None, False
    if trained is not None:
        name = store.checkpoint_name(ckpt)
        entry = trained.outputs.get(name)
        inputs = {"checkpoint": entry["sha256"]} if entry else None
        dropped = name in trained.dropped
    ids = dataset.machines[machine]
    signature = signatures.extract_signature(train.signature, ckpt, machine, ids.train, ids.test)
    folder = store.trial_dir(places.results, trial).machine(ckpt, machine)
    return Step("extract", folder, signature, inputs, reads_dropped=dropped)


def score_step(
    trial: Trial, machine: str, ckpt: str, backend: Backend, places: Places, dataset: Dataset
) -> Step:
    """Scoring of a machine's clips by one backend."""
    extract = extract_step(trial, machine, ckpt, places, dataset)
    return score_after(extract, extract.marker, backend)


def score_after(extract: Step, extracted: Marker | None, backend: Backend, name: str | None = None) -> Step:
    """`score_step` behind an extraction that was looked up already; ``name``: the backend's id, if known."""
    signature = signatures.score_signature(extract.signature, backend)
    inputs, dropped = _needs(extract=extracted), bool(extracted and extracted.dropped)
    return Step("score", extract.folder, signature, inputs, name or backend_id(backend), dropped)


def evaluate_step(
    trial: Trial,
    machine: str,
    ckpt: str,
    backends: Iterable[Backend],
    places: Places,
    dataset: Dataset,
) -> Step:
    """Evaluation of a machine, over the backends asked for and any others that are scored on disk.

    The others belong to other sweeps over the same trial: one table holds them all, so that two sweeps
    with different backends do not undo each other's work.
    """
    extract = extract_step(trial, machine, ckpt, places, dataset)
    extracted = extract.marker
    steps = {backend_id(b): score_after(extract, extracted, b) for b in backends}
    scored = {name: (step, step.marker) for name, step in steps.items()}
    return evaluate_after(extract, extracted, scored, dataset.machines[machine])


def evaluate_after(
    extract: Step,
    extracted: Marker | None,
    asked: Mapping[str, tuple[Step, Marker | None]],
    machine: MachineData,
) -> Step:
    """`evaluate_step` behind an extraction and scores (backend id -> step) that were looked up already."""
    scores = {name: step.signature for name, (step, _) in asked.items()}
    markers = {name: marker for name, (_, marker) in asked.items()}
    for name, marker in _scores_on_disk(extract, extracted, skip=set(asked)).items():
        scores[name] = marker.signature
        markers[name] = marker
    return _evaluate_step(extract, scores, markers, machine.labels)


def _evaluate_step(
    extract: Step, scores: Mapping[str, str], markers: Mapping[str, Marker | None], labels: str
) -> Step:
    signature = signatures.evaluate_signature(dict(sorted(scores.items())), labels)
    return Step("evaluate", extract.folder, signature, _needs(**dict(sorted(markers.items()))))


def _scores_on_disk(
    extract: Step, extracted: Marker | None, skip: Set[str] = frozenset()
) -> dict[str, Marker]:
    """Backend id -> marker of every score that was made from the extraction as it is, but those to skip."""
    found: dict[str, Marker] = {}
    if extracted is not None:
        for name in store.marked_backends(extract.folder, "score"):
            if name in skip:
                continue
            marker = store.read_marker(extract.folder, "score", name)
            if marker is None or dict(marker.inputs) != _needs(extract=extracted):
                continue
            if store.done(extract.folder, "score", marker.signature, marker.inputs, name):
                found[name] = marker
    return found


def _evaluated(
    trial: Trial, machine: str, ckpt: str, places: Places, dataset: Dataset
) -> tuple[Step, Marker] | None:
    """The evaluation that is there, over whichever backends it covers; None if it is none of now."""
    folder = store.trial_dir(places.results, trial).machine(ckpt, machine)
    there = store.read_marker(folder, "evaluate")
    if there is None or not there.inputs:  # most often, and the signatures below cost a hundred times more
        return None
    extract = extract_step(trial, machine, ckpt, places, dataset)
    scored = _scores_on_disk(extract, extract.marker)
    if not set(there.inputs) <= set(scored):
        return None
    markers = {name: scored[name] for name in there.inputs}
    scores = {name: marker.signature for name, marker in markers.items()}
    step = _evaluate_step(extract, scores, markers, dataset.machines[machine].labels)
    marker = step.marker
    return None if marker is None else (step, marker)


def umap_step(trial: Trial, machine: str, ckpt: str, umap: Umap, places: Places, dataset: Dataset) -> Step:
    """UMAP of a machine's embeddings."""
    extract = extract_step(trial, machine, ckpt, places, dataset)
    return umap_after(extract, extract.marker, umap)


def umap_after(extract: Step, extracted: Marker | None, umap: Umap) -> Step:
    """`umap_step` behind an extraction that was looked up already."""
    signature = signatures.umap_signature(extract.signature, umap)
    dropped = bool(extracted and extracted.dropped)
    return Step("umap", extract.folder, signature, _needs(extract=extracted), reads_dropped=dropped)


def reads_dropped_embeddings(
    trial: Trial,
    machine: str,
    ckpt: str,
    backends: Iterable[Backend],
    umap: Umap | Literal[False],
    places: Places,
    dataset: Dataset,
) -> bool:
    """Whether a score or the UMAP is to be made of embeddings that were dropped."""
    extract = extract_step(trial, machine, ckpt, places, dataset)
    extracted = extract.marker
    if extracted is None or not extracted.dropped:
        return False
    steps = [score_after(extract, extracted, backend) for backend in backends]
    steps += [umap_after(extract, extracted, umap)] if umap else []
    return any(step.marker is None for step in steps)


def dropped_embeddings(trial: Trial, machine: str, ckpt: str, places: Places) -> str:
    """What is said where they are to be read."""
    folder = store.trial_dir(places.results, trial).root
    return (
        f"{trial.name}: the embeddings of {machine} with checkpoint {ckpt} were dropped (keep: in a sweep "
        f"file): `asdray extract {folder} --machine {machine} --ckpt {ckpt}` makes them again"
    )


def table_step(
    trial: Trial,
    checkpoints: Iterable[str],
    places: Places,
    dataset: Dataset,
    known: Mapping[tuple[str, str], tuple[Step, Marker]] = MappingProxyType({}),
) -> Step:
    """The trial's own tables, over all that is evaluated of it.

    That is what was asked for, as far as it is done (a machine or backend that failed is missing in the
    signature too: when it is mended, the tables are made anew), and what is done of other backends and
    checkpoints and, where every machine has its own model, of other machines: they belong to other sweeps
    over the trial.

    Args:
        known: (checkpoint, machine) -> evaluations that were looked up already and are done.
    """
    directory = store.trial_dir(places.results, trial)
    evaluations: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for ckpt in sorted({*checkpoints, *_folders(directory.outputs)}):
        everything = _with_finished_machines(trial, directory.output(ckpt), dataset)
        for machine in everything.machines:
            if found := known.get((ckpt, machine)):
                step, marker = found
            elif other := _evaluated(everything, machine, ckpt, places, dataset):
                step, marker = other
            else:
                continue
            evaluations[f"{ckpt}/{machine}"] = step.signature
            inputs[f"{ckpt}/{machine}"] = marker.digest
    return Step("table", directory.root, signatures.table_signature(evaluations), inputs)


def _with_finished_machines(trial: Trial, output: Path, dataset: Dataset) -> Trial:
    """The trial over more machines than it was asked for, where these share no model with them."""
    if trial.system.frontend.scope == "all":
        return trial
    known = {*trial.machines, *(_folders(output) & set(dataset.machines))}
    machines = tuple(m for m in get_year(trial.dcase).all_machines if m in known)
    return dataclasses.replace(trial, machines=machines)


def _folders(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except FileNotFoundError:
        return set()
