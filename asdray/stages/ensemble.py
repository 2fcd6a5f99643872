"""Ensemble: the scores of several trials of one year -> combined scores per machine, and evaluation rows.

`asdray.evaluation.ensemble` defines the combination; the evaluation is the same as for a single trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from asdray import damage, notes, store
from asdray.config.base import digest
from asdray.config.sweep import Combine
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import get_year
from asdray.evaluation.ensemble import combine
from asdray.evaluation.metrics import evaluate_machine
from asdray.evaluation.tables import SCHEMA
from asdray.stages.evaluate import read_scores
from asdray.stages.steps import Outcome, Snapshot, Step, TrialFiles, Work
from asdray.store import Places

NUMERICS = 2
"""Raised by hand with every change of the scores of equal members, or of the files' form."""

RECIPE = "ensemble"
"""The ``recipe`` of an ensemble in tables."""

ALL_SEEDS = -1
"""The ``seed`` of an ensemble over all seeds in tables."""


@dataclass(frozen=True)
class Member:
    """One trial with one backend in an ensemble; ``scores`` maps machine -> digest of the score file."""

    trial: Trial
    backend: str
    scores: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.trial.system_name}/{self.backend} seed{self.trial.seed}"


@dataclass(frozen=True)
class Identity:
    """The columns that identify an ensemble of one year in tables; ``seed`` None means all seeds."""

    dcase: str
    system: str
    seed: int | None
    checkpoint: str
    backend: str


def scores_of(files: TrialFiles, ckpt: str, machines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Backend id -> machine -> digest of the trial's score file, if up to date."""
    found: dict[str, dict[str, str]] = {}
    snapshot = Snapshot(files)
    for machine in machines:
        for backend, record in sorted(snapshot.scored(machine, ckpt).items()):
            found.setdefault(backend, {})[machine] = record.digest
    return found


def ensemble(
    identity: Identity,
    how: Combine,
    members: Sequence[Member],
    machines: Sequence[str],
    folder: Path,
    places: Places,
    dataset: Dataset,
) -> Outcome:
    """Writes ``<machine>.parquet`` (clip, split, score), ``metrics.parquet`` and ``ensemble.json``.

    Args:
        members: trials with scores of all ``machines``.

    Raises:
        ValueError: a member whose training scores are all equal, with ``how="zscore"``.
    """
    members = sorted(members, key=lambda m: m.name)
    names = [m.name for m in members]
    labels = {machine: dataset.machines[machine].labels for machine in machines}
    about = {"identity": asdict(identity), "combine": how, "members": names, "labels": labels}
    signature = digest({"stage": ("ensemble", NUMERICS), **about})
    inputs = {f"{m.name} {machine}": m.scores[machine] for m in members for machine in machines}
    step = Step("ensemble", None, None, None, None, folder, signature, inputs)
    with damage.forgotten(), store.lease(folder):
        record = store.read_record(folder, "ensemble")
        metrics, description = store.ensemble_metrics(folder), folder / "ensemble.json"
        if record and (record.signature, record.inputs) == (signature, inputs) and record.describes(folder):
            try:
                damage.check(metrics)
                return Outcome(record, reused=True)
            except damage.DamagedError as fault:
                notes.tell(f"{metrics} is damaged ({fault.reason}): made again")
        work = Work(step)
        paths = {machine: folder / f"{machine}.parquet" for machine in machines}
        outputs = [*paths.values(), metrics, description]
        work.replace(outputs)
        table = manifest.load_manifest(places.data, identity.dcase)
        rows: list[dict[str, object]] = []
        for machine, path in paths.items():
            try:
                found = _machine(identity, how, members, machine, path, table, places)
            except damage.DamagedError:
                raise
            except ValueError as error:
                raise ValueError(f"{identity.system} {identity.dcase}: {machine}: {error}") from None
            rows += [row | {"dataset": dataset.kind} for row in found]
        store.write_parquet(metrics, pa.Table.from_pylist(rows, schema=SCHEMA))
        facts = {"recipe": RECIPE, "combine": how, "members": names, "machines": list(machines)}
        kind = {"dataset": {"kind": dataset.kind, "id": dataset.id}}
        store.write_json(description, {**asdict(identity), **facts, **kind})
        return work.finish(outputs)


def _machine(
    identity: Identity,
    how: Combine,
    members: Sequence[Member],
    machine: str,
    path: Path,
    table: pa.Table,
    places: Places,
) -> list[dict[str, object]]:
    """Writes the scores of a machine and returns its evaluation rows, without ``dataset``."""
    train_clips = manifest.rows(table, machine=machine, split="train")["clip"].to_pylist()
    test_rows = manifest.rows(table, machine=machine, split="test")
    test_clips = test_rows["clip"].to_pylist()
    scores = {}
    for member in members:
        directory = store.trial_dir(places.results, member.trial)
        by_clip = read_scores(directory.scores(identity.checkpoint, machine, member.backend))
        train, test = (np.array([by_clip[c] for c in clips]) for clips in (train_clips, test_clips))
        scores[member.name] = train, test
    columns = test_rows.select(["subset", "section", "domain", "is_anomaly"]).to_pydict()
    train, test = combine(how, scores, columns["subset"])
    combined = {
        "clip": [*train_clips, *test_clips],
        "split": ["train"] * len(train) + ["test"] * len(test),
        "score": pa.array(np.concatenate([train, test]), pa.float64()),
    }
    store.write_parquet(path, pa.table(combined))
    head = {
        "dcase": identity.dcase,
        "recipe": RECIPE,
        "system": identity.system,
        "seed": ALL_SEEDS if identity.seed is None else identity.seed,
        "checkpoint": identity.checkpoint,
        "machine": machine,
    }
    found = evaluate_machine(get_year(identity.dcase), machine, {identity.backend: test}, **columns)
    return [head | row._asdict() for row in found]
