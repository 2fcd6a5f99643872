"""Ensemble: the scores of several trials of one year -> one score per clip, and its evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asdray import store
from asdray.config.base import digest
from asdray.config.sweep import Combine
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import get_year
from asdray.evaluation.ensemble import combine
from asdray.evaluation.machine import evaluate_machine
from asdray.evaluation.tables import SCHEMA
from asdray.stages.files import read_table
from asdray.stages.state import Outcome, Step, evaluate_step
from asdray.store import Places

NUMERICS = 2
"""Bumped by hand when the same members give another score, or it is written in another form."""

RECIPE = "ensemble"
"""In column ``recipe``."""

ALL_SEEDS = -1
"""In column ``seed``: of trials of all seeds together."""

METRICS = "metrics.parquet"


@dataclass(frozen=True)
class Member:
    """The scores of one trial by one backend: ``scores`` is machine -> digest of its scores."""

    trial: Trial
    backend: str
    scores: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.trial.system_name}/{self.backend} seed{self.trial.seed}"


@dataclass(frozen=True)
class Identity:
    """What an ensemble of one year is called in the tables. ``seed``: None = of all seeds."""

    dcase: str
    system: str
    seed: int | None
    checkpoint: str
    backend: str


def scores_of(
    trial: Trial, ckpt: str, machines: Iterable[str], places: Places, dataset: Dataset
) -> dict[str, dict[str, str]]:
    """Backend id -> machine -> digest, of all that is scored of a trial and up to date."""
    found: dict[str, dict[str, str]] = {}
    for machine in machines:
        inputs = evaluate_step(trial, machine, ckpt, (), places, dataset).inputs
        for backend, content in (inputs or {}).items():
            found.setdefault(backend, {})[machine] = content
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

    Scores are combined per machine; the metrics are those of any trial, by the same evaluation.

    Args:
        members: each scored on all ``machines``.

    Raises:
        ValueError: a member whose training scores are all equal, where they are to be standardised.
    """
    members = sorted(members, key=lambda m: m.name)
    step = _step(identity, how, members, machines, folder, dataset)
    with store.lease(folder):
        if marker := step.marker:
            return Outcome(marker, found=True)
        started = time.time()
        paths = {machine: folder / f"{machine}.parquet" for machine in machines}
        outputs = [*paths.values(), folder / METRICS, folder / "ensemble.json"]
        store.begin(folder, step.stage, outputs)
        table = manifest.load_manifest(places.data, identity.dcase)
        rows: list[dict[str, object]] = []
        for machine, path in paths.items():
            try:
                found = _machine(identity, how, members, machine, path, table, places)
                rows += [row | {"dataset": dataset.kind} for row in found]
            except ValueError as error:
                raise ValueError(f"{identity.system} {identity.dcase}: {machine}: {error}") from None
        with store.atomic_path(folder / METRICS) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)
        store.write_json(
            folder / "ensemble.json",
            {
                **identity.__dict__,
                "recipe": RECIPE,
                "combine": how,
                "members": [m.name for m in members],
                "machines": list(machines),
                "dataset": {"kind": dataset.kind, "id": dataset.id},
            },
        )
        marker = store.mark_done(
            folder, step.stage, step.signature, outputs=outputs, started=started, inputs=step.inputs
        )
        return Outcome(marker, found=False)


def _step(
    identity: Identity,
    how: Combine,
    members: Sequence[Member],
    machines: Sequence[str],
    folder: Path,
    dataset: Dataset,
) -> Step:
    signature = digest(
        {
            "stage": ("ensemble", NUMERICS),
            "identity": identity.__dict__,
            "combine": how,
            "members": [m.name for m in members],
            "labels": {machine: dataset.machines[machine].labels for machine in machines},
        }
    )
    inputs = {f"{m.name} {machine}": m.scores[machine] for m in members for machine in machines}
    return Step("ensemble", folder, signature, inputs)


def _machine(
    identity: Identity,
    how: Combine,
    members: Sequence[Member],
    machine: str,
    path: Path,
    table: pa.Table,
    places: Places,
) -> list[dict[str, object]]:
    """Writes the scores of a machine and returns its evaluation rows, without the kind of data."""
    clips = {split: manifest.rows(table, machine=machine, split=split) for split in ("train", "test")}
    keys = {split: rows["clip"].to_pylist() for split, rows in clips.items()}
    scores = {}
    for member in members:
        own = read_table(
            store.trial_dir(places.results, member.trial).scores(identity.checkpoint, machine, member.backend)
        )
        by_clip = dict(zip(own["clip"].to_pylist(), own["score"].to_pylist(), strict=True))
        train, test = (np.array([by_clip[clip] for clip in keys[split]]) for split in ("train", "test"))
        scores[member.name] = train, test
    test_rows = clips["test"].select(["subset", "section", "domain", "is_anomaly"]).to_pydict()
    train, test = combine(how, scores, test_rows["subset"])
    out = pa.table(
        {
            "clip": [*keys["train"], *keys["test"]],
            "split": ["train"] * len(train) + ["test"] * len(test),
            "score": pa.array(np.concatenate([train, test]), pa.float64()),
        }
    )
    with store.atomic_path(path) as temporary:
        pq.write_table(out, temporary)
    head = {
        "dcase": identity.dcase,
        "recipe": RECIPE,
        "system": identity.system,
        "seed": ALL_SEEDS if identity.seed is None else identity.seed,
        "checkpoint": identity.checkpoint,
        "machine": machine,
    }
    found = evaluate_machine(get_year(identity.dcase), machine, {identity.backend: test}, **test_rows)
    return [head | row._asdict() for row in found]
