"""The stages of a trial and their status: complete, missing, or blocked by an upstream stage.

Stages run in this order, each on the outputs of the one before::

    train (per unit) -> extract (per machine and checkpoint) -> score (per backend) -> evaluate -> table
                                                            \\-> umap

A stage asks for its own `Step` before it works, and planning asks for all steps of a trial (`steps`), by the
same functions, so that both always agree. Only records and ``dataset.json`` are read; nothing heavy is
imported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from asdray import damage, store
from asdray.config import trial as signatures
from asdray.config.backend import Backend, Umap, backend_id
from asdray.config.clustering import Clustering
from asdray.config.search import CHECKPOINT
from asdray.config.trial import Trial, Unit
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.dcase.years import get_year
from asdray.record import Record
from asdray.stages.input_files import input_ids
from asdray.stages.made_by import keep_source
from asdray.store import Places, TrialDir

Status = Literal["done", "pruned", "missing", "blocked"]


class Step(NamedTuple):
    """One stage of one unit or machine, and its status.

    Attributes:
        folder: holds the outputs and their record.
        inputs: name of each input -> hash of its content; None if an upstream stage is not complete.
        status: ``done``; ``pruned``: complete, and some outputs were deleted on purpose; ``missing``;
            ``blocked``: an upstream stage must run first.
        reads_pruned: True if an upstream output was pruned: the stage may be complete, but can only run
            again once that output is rebuilt.
        rebuild: True for a training or extraction that was complete, and whose pruned outputs another stage
            is to read.
        partial: True for an evaluation that is missing, but is complete over the backends that are scored.
        seconds: of a complete stage, as the three fields below.
        bytes: size of the outputs, pruned ones included.
        finished: UTC time, ISO 8601.
        versions: of asdray and of packages, see `asdray.record.Record`.
        out_of_memory: of a training that had to split its batches, the sizes ``asked`` and ``used``.
    """

    stage: str
    unit: str | None
    machine: str | None
    checkpoint: str | None
    backend: str | None
    folder: Path
    signature: str
    inputs: Mapping[str, str] | None
    status: Status = "missing"
    reads_pruned: bool = False
    rebuild: bool = False
    partial: bool = False
    seconds: float = 0.0
    bytes: int = 0
    device: str = ""
    finished: str = ""
    versions: Mapping[str, str | None] = MappingProxyType({})
    out_of_memory: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The key of the step's record in its folder."""
        return store.record_name(self.stage, self.backend)

    @property
    def key(self) -> tuple[str, str | None, str | None, str | None, str | None]:
        """Stage, unit, machine, checkpoint and backend: unique within the trial."""
        return self[:5]

    @property
    def complete(self) -> bool:
        return self.status in ("done", "pruned")


@dataclass(frozen=True)
class Request:
    """Results that are wanted of a trial.

    Attributes:
        backends: those that apply to the trial (`Trial.backends`).
        umap: options of the plots, or False for none.
    """

    checkpoints: tuple[str, ...]
    backends: tuple[Backend, ...]
    umap: Umap | Literal[False] = False


@dataclass(frozen=True)
class TrialFiles:
    """A trial, its data and the place of its results."""

    trial: Trial
    places: Places
    dataset: Dataset

    @classmethod
    def load(cls, trial: Trial, places: Places, machines: Iterable[str] | None = None) -> TrialFiles:
        """Reads the dataset, which must hold ``machines`` (None: all of the trial).

        Raises:
            ValueError: a year that is not formatted, or is formatted without one of the machines.
        """
        dataset = load_dataset(places.data, trial.dcase)
        dataset.require(trial.machines if machines is None else machines)
        return cls(trial, places, dataset)

    @functools.cached_property
    def folder(self) -> TrialDir:
        return store.trial_dir(self.places.results, self.trial)

    def clustered(self, machines: tuple[str, ...]) -> TrialFiles | None:
        """The files of the trial whose embeddings are clustered for the classes of this one, or None."""
        source = self.trial.clustered(machines)
        return replace(self, trial=source) if source else None


def refuse_old_results(folders: Iterable[TrialDir]) -> None:
    """Refuses trials of release 0.1, whose records this version does not read.

    Raises:
        ValueError: a folder holds such a trial; the message says how to go on.
    """
    old = [folder.root for folder in folders if folder.is_of_release_0_1]
    if old:
        raise ValueError(
            f"{old[0]} was written by asdray 0.1, whose results this version cannot continue"
            f"{f' ({len(old)} trials in all)' if len(old) > 1 else ''}: delete them with `asdray sweep ... "
            "--fresh`, or choose another folder with --results"
        )


def train_signature(files: TrialFiles, unit: Unit) -> str:
    """The signature of a unit's training.

    Raises:
        ValueError: an input file of the frontend cannot be read.
    """
    train_ids = {machine: files.dataset.machines[machine].train for machine in unit.machines}
    return signatures.train_signature(files.trial, unit, train_ids, _more_training_data(files, unit))


def _more_training_data(files: TrialFiles, unit: Unit) -> dict[str, dict[str, str]]:
    """Identities of all that a training reads besides its clips: kind -> machine -> id."""
    ids: dict[str, dict[str, str]] = {}
    if files.trial.system.frontend.test_classes:
        ids["test_classes"] = {m: files.dataset.machines[m].classes for m in unit.machines}
    if files.trial.system.frontend.reads_supplemental:
        ids["supplemental"] = {m: files.dataset.machines[m].supplemental or "" for m in unit.machines}
    clustering, source = files.trial.system.frontend.clustering, files.clustered(unit.machines)
    if clustering and source:
        ids["clusters"] = {m: cluster_signature(source, m, clustering) for m in unit.machines}
    return ids | input_ids(files.trial, unit, files.places)


def cluster_signature(files: TrialFiles, machine: str, clustering: Clustering) -> str:
    """The signature of a clustering of a machine's embeddings; ``files``: of the trial that is clustered."""
    train = train_signature(files, files.trial.unit_of(machine))
    return signatures.cluster_signature(train, machine, files.dataset.machines[machine].train, clustering)


class Snapshot:
    """A trial's records at one moment: each ``done.json`` is read at most once.

    Every method returns the `Step` of one stage. A stage that is about to work takes a new snapshot under its
    lease.
    """

    def __init__(self, files: TrialFiles) -> None:
        self.files = files
        self._records: dict[Path, dict[str, Record]] = {}
        self._trains: dict[str, Step] = {}
        self._extracts: dict[tuple[str, str], Step] = {}
        self._scored: dict[tuple[str, str], dict[str, Record]] = {}
        self._evaluations: dict[tuple[str, str], Step | None] = {}

    def records(self, folder: Path) -> dict[str, Record]:
        """The records in a folder whose outputs are there, by `asdray.store.record_name`."""
        found = self._records.get(folder)
        if found is None:
            everything = store.read_records(folder)
            found = {name: record for name, record in everything.items() if record.describes(folder)}
            self._records[folder] = found
        return found

    def record(self, step: Step) -> Record | None:
        """The record of a complete step, or None."""
        return self.records(step.folder)[step.name] if step.complete else None

    @property
    def sources(self) -> set[str]:
        """The hashes of asdray's source in all records that were read, see `asdray.source`."""
        of = (
            record.versions.get("source") for records in self._records.values() for record in records.values()
        )
        return {made for made in of if made}

    def train(self, unit: Unit, checkpoints: Iterable[str] = ()) -> Step:
        """Training of a unit; complete only with all ``checkpoints``."""
        step = self._trains.get(unit.name)
        if step is None:
            folder = self.files.folder.model(unit.name)
            signature = train_signature(self.files, unit)
            step = Step("train", unit.name, None, None, None, folder, signature, {})
            step = self._trains[unit.name] = self._look_up(step)
        if (record := self.record(step)) is None:
            return step
        lacking = any(store.checkpoint_name(ckpt) not in record.outputs for ckpt in checkpoints)
        return step._replace(status="missing") if lacking else step

    def extract(self, machine: str, ckpt: str) -> Step:
        """Extraction of a machine's embeddings, and of the frontend's own scores, with one checkpoint."""
        step = self._extracts.get((machine, ckpt))
        if step is None:
            train = self.train(self._unit_of(machine))
            inputs, pruned = None, False
            if (trained := self.record(train)) is not None:
                name = store.checkpoint_name(ckpt)
                entry = trained.outputs.get(name)
                inputs, pruned = {"checkpoint": entry.sha256} if entry else None, name in trained.pruned
            ids = self.files.dataset.machines[machine]
            signature = signatures.extract_signature(train.signature, ckpt, machine, ids.train, ids.test)
            folder = self.files.folder.machine(ckpt, machine)
            step = Step("extract", None, machine, ckpt, None, folder, signature, inputs, reads_pruned=pruned)
            step = self._extracts[machine, ckpt] = self._look_up(step)
        return step

    def cluster(self, machine: str, clustering: Clustering) -> Step:
        """Clustering of a machine's training clips, by embeddings of the checkpoint ``last``."""
        signature = cluster_signature(self.files, machine, clustering)
        extract = self.extract(machine, "last")
        return self._after_extract(extract, "cluster", extract.folder, signature, clustering.id)

    def score(self, machine: str, ckpt: str, backend: Backend) -> Step:
        """Scoring of a machine's clips by one backend."""
        extract = self.extract(machine, ckpt)
        signature = signatures.score_signature(extract.signature, backend)
        return self._after_extract(extract, "score", extract.folder, signature, backend_id(backend))

    def umap(self, machine: str, ckpt: str, options: Umap) -> Step:
        """UMAP of a machine's embeddings."""
        extract = self.extract(machine, ckpt)
        signature = signatures.umap_signature(extract.signature, options)
        return self._after_extract(extract, "umap", self.files.folder.umap(ckpt, machine), signature)

    def _after_extract(
        self, extract: Step, stage: str, folder: Path, signature: str, backend: str | None = None
    ) -> Step:
        extracted = self.record(extract)
        inputs = None if extracted is None else {"extract": extracted.digest}
        at = (stage, None, extract.machine, extract.checkpoint, backend, folder, signature, inputs)
        return self._look_up(Step(*at, reads_pruned=extract.status == "pruned"))

    def evaluate(self, machine: str, ckpt: str, backends: Iterable[Backend]) -> Step:
        """Evaluation of a machine over ``backends``, and over other backends whose scores are on disk.

        The others belong to other sweeps over the same trial: one table holds them all, so that two sweeps
        with different backends do not undo each other's work.
        """
        scores = {step.backend or "": step for step in (self.score(machine, ckpt, b) for b in backends)}
        return self._evaluate(machine, ckpt, scores)

    def _evaluate(self, machine: str, ckpt: str, asked: Mapping[str, Step]) -> Step:
        scored = self.scored(machine, ckpt)
        names = {name: record.signature for name, record in scored.items() if name not in asked}
        names |= {name: step.signature for name, step in asked.items()}
        missing = {name for name, step in asked.items() if not step.complete}
        step = self._evaluation(machine, ckpt, names, None if missing else scored)
        if step.complete or len(missing) == len(asked):
            return step
        present = self.present_evaluation(machine, ckpt)
        covered = set(present.inputs or ()) if present else None
        return step._replace(partial=covered == names.keys() - missing)

    def _evaluation(
        self, machine: str, ckpt: str, names: Mapping[str, str], scored: Mapping[str, Record] | None
    ) -> Step:
        """The evaluation of a machine.

        Args:
            names: id of every backend -> score signature.
            scored: the records of their scores; None if a score is missing.
        """
        labels = self.files.dataset.machines[machine].labels
        signature = signatures.evaluate_signature(names, labels)
        inputs = None if scored is None else {name: scored[name].digest for name in sorted(names)}
        folder = self.extract(machine, ckpt).folder
        return self._look_up(Step("evaluate", None, machine, ckpt, None, folder, signature, inputs))

    def scored(self, machine: str, ckpt: str) -> dict[str, Record]:
        """Backend id -> record of every score that was computed from the present embeddings."""
        found = self._scored.get((machine, ckpt))
        if found is None:
            found = self._scored[machine, ckpt] = {}
            extract = self.extract(machine, ckpt)
            if (extracted := self.record(extract)) is not None:
                inputs = {"extract": extracted.digest}
                for name, record in self.records(extract.folder).items():
                    stage, _, backend = name.partition("-")
                    if stage == "score" and record.inputs == inputs:
                        found[backend] = record
        return found

    def table(self, checkpoints: Iterable[str]) -> Step:
        """The trial's own tables, over every complete evaluation.

        A machine or backend that failed is missing in the signature too: the tables are written again once
        it succeeds. Evaluations by other backends and checkpoints and, where every machine has its own
        model, of other machines belong to other sweeps over the trial, and are in the tables as well.
        """
        folder = self.files.folder
        evaluations: dict[str, str] = {}
        inputs: dict[str, str] = {}
        for ckpt in sorted({*checkpoints, *(path.name for path in checkpoint_folders(folder))}):
            for machine in self._evaluated_machines(folder.output(ckpt)):
                if (step := self.present_evaluation(machine, ckpt)) is not None:
                    evaluations[f"{ckpt}/{machine}"] = step.signature
                    inputs[f"{ckpt}/{machine}"] = self.records(step.folder)["evaluate"].digest
        signature = signatures.table_signature(evaluations)
        return self._look_up(Step("table", None, None, None, None, folder.root, signature, inputs or None))

    def present_evaluation(self, machine: str, ckpt: str) -> Step | None:
        """The evaluation on disk, whichever backends it covers; None if it is not up to date."""
        at = machine, ckpt
        if at not in self._evaluations:
            self._evaluations[at] = None
            if scored := self.scored(*at):
                record = self.records(self.extract(*at).folder).get("evaluate")
                if record is not None and record.inputs and record.inputs.keys() <= scored.keys():
                    names = {name: scored[name].signature for name in record.inputs}
                    step = self._evaluation(*at, names, scored)
                    self._evaluations[at] = step if step.complete else None
        return self._evaluations[at]

    def _unit_of(self, machine: str) -> Unit:
        """The unit of a machine, also of a machine of another sweep that has a model of its own."""
        trial = self.files.trial
        return trial.unit_of(machine) if machine in trial.machines else Unit(machine, (machine,))

    def _evaluated_machines(self, output: Path) -> list[str]:
        """The trial's machines, and machines of other sweeps that share no model with these."""
        trial = self.files.trial
        if trial.system.frontend.scope == "all":
            return list(trial.machines)
        known = {*trial.machines, *(_subfolders(output) & self.files.dataset.machines.keys())}
        return [m for m in get_year(trial.dcase).all_machines if m in known]

    def _look_up(self, step: Step) -> Step:
        """The step with its status; a record counts if it is of the same signature and inputs."""
        if step.inputs is None:
            return step._replace(status="blocked")
        record = self.records(step.folder).get(step.name)
        if record is None or record.signature != step.signature or record.inputs != step.inputs:
            return step._replace(status="blocked") if step.reads_pruned else step
        return step._replace(
            status="pruned" if record.pruned else "done",
            seconds=record.seconds,
            bytes=record.size,
            device=record.device,
            finished=record.finished,
            versions=record.versions,
            out_of_memory=record.extra.get("out_of_memory"),
        )


def checkpoint_folders(trial: TrialDir) -> list[Path]:
    """The folders of outputs of a trial, sorted; no copies such as ``last copy``."""
    return [trial.output(name) for name in sorted(_subfolders(trial.outputs)) if re.match(CHECKPOINT, name)]


def _subfolders(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except FileNotFoundError:
        return set()


# --------------------------------------------------------------------------------------- all of a trial


def steps(files: TrialFiles, request: Request, wanted: Container[str] = ()) -> list[Step]:
    """Every step of a trial, in the order in which stages run.

    A pruned checkpoint or pruned embeddings count as complete, unless a stage of the request is missing that
    reads them: then their training or extraction must be rebuilt.

    Args:
        wanted: machines whose embeddings are read in any case.
    """
    snapshot = Snapshot(files)
    of_machines: list[Step] = []
    rebuild: set[str] = set()
    for ckpt in request.checkpoints:
        for machine in files.trial.machines:
            found = _steps_of_machine(snapshot, machine, ckpt, request, machine in wanted)
            if found[0].reads_pruned and not found[0].complete:
                rebuild.add(files.trial.unit_of(machine).name)
            of_machines += found
    trainings = [snapshot.train(unit, request.checkpoints) for unit in files.trial.units]
    trainings = [
        step._replace(status="missing", rebuild=True) if step.complete and step.unit in rebuild else step
        for step in trainings
    ]
    return [*trainings, *of_machines, snapshot.table(request.checkpoints)]


def _steps_of_machine(
    snapshot: Snapshot, machine: str, ckpt: str, request: Request, wanted: bool
) -> list[Step]:
    """Extraction, scores, evaluation and UMAP."""
    extract = snapshot.extract(machine, ckpt)
    scores = [snapshot.score(machine, ckpt, backend) for backend in request.backends]
    umaps = [snapshot.umap(machine, ckpt, request.umap)] if request.umap else []
    if extract.status == "pruned" and (wanted or not all(step.complete for step in (*scores, *umaps))):
        extract = extract._replace(status="blocked" if extract.reads_pruned else "missing", rebuild=True)
    evaluate = snapshot._evaluate(machine, ckpt, {step.backend or "": step for step in scores})
    return [extract, *scores, evaluate, *umaps]


def needs_pruned_embeddings(files: TrialFiles, machine: str, ckpt: str, request: Request) -> bool:
    """True if a score or the UMAP is missing whose embeddings were pruned."""
    return _steps_of_machine(Snapshot(files), machine, ckpt, request, wanted=False)[0].rebuild


# ------------------------------------------------------------------------------------------- working


@dataclass(frozen=True)
class Outcome:
    """The end of a stage: its record, and True if the stage was complete already."""

    record: Record
    reused: bool


@dataclass
class Work:
    """A stage at work under the lease of its folder.

    Attributes:
        reused: the outcome if the stage is complete already; else None.
    """

    step: Step
    reused: Outcome | None = None
    started: float = field(default_factory=time.time)

    def replace(self, outputs: Iterable[Path]) -> None:
        """Announces that these outputs are replaced from now on: the stage is no longer complete."""
        store.forget(self.step.folder, self.step.name, outputs)

    def finish(
        self, outputs: Sequence[Path], *, device: str = "cpu", extra: Mapping[str, Any] | None = None
    ) -> Outcome:
        """Records that all outputs are in place."""
        step = self.step
        record = store.finish(
            step.folder,
            step.name,
            step.signature,
            outputs=outputs,
            started=self.started,
            inputs=step.inputs,
            device=device,
            extra=extra,
        )
        return Outcome(record, reused=False)


@contextlib.contextmanager
def working(
    files: TrialFiles,
    folder: Path,
    ask: Callable[[Snapshot], Step],
    *,
    overwrite: bool = False,
    rebuild: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Work]:
    """Holds the lease of a stage's folder, and finds out whether the stage must run.

    Args:
        ask: the stage's own step.
        overwrite: run the stage even if it is complete.
        rebuild: run the stage if outputs of it were pruned.

    Raises:
        ValueError: an upstream output is missing, pruned or damaged; the message says what to run first.
    """
    with damage.forgotten(), store.lease(folder, on_wait):
        snapshot = Snapshot(files)
        step = ask(snapshot)
        record = snapshot.record(step)
        if record is not None and not overwrite and not (rebuild and record.pruned):
            yield Work(step, Outcome(record, reused=True))
            return
        if reason := why_not(files, step):
            raise ValueError(reason)
        keep_source(files.places.results)
        yield Work(step)


def why_not(files: TrialFiles, step: Step) -> str | None:
    """Why a step cannot run now, and the command to run first; None if it can."""
    if step.inputs is not None and not step.reads_pruned:
        return None
    name, root, machine, ckpt = files.trial.title, files.folder.root, step.machine, step.checkpoint
    pruned = "pruned (keep: in a sweep file)"
    match step.stage:
        case "extract":
            assert machine is not None
            unit, command = files.trial.unit_of(machine).name, f"`asdray train {root} --ckpt {ckpt}`"
            if step.inputs is not None:
                return f"the checkpoint {ckpt!r} of {name}, unit {unit}, was {pruned}: {command} rebuilds it"
            what = f"finished training of unit {unit} with the checkpoint {ckpt!r}"
            return f"{name} has no {what}: run {command} first"
        case "evaluate":
            what = f"scored by all of its backends with checkpoint {ckpt}"
            return f"{name}: {machine} is not {what}: run `asdray score` first"
        case "table":
            return f"{name}: no machine is evaluated yet: run `asdray evaluate` first"
    if step.inputs is None:
        return f"{name}: {machine} is not extracted with checkpoint {ckpt}: run `asdray extract` first"
    return (
        f"{name}: the embeddings of {machine} with checkpoint {ckpt} were {pruned}: "
        f"`asdray extract {root} --machine {machine} --ckpt {ckpt}` rebuilds them"
    )
