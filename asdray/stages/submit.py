"""Submit: a trial's scores of one backend -> the files of a challenge submission. Reads no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from asdray import damage, provenance, store
from asdray.aside import remove
from asdray.config.backend import Backend, backend_id
from asdray.dcase import manifest
from asdray.dcase.years import Subset, get_year
from asdray.evaluation import submission
from asdray.evaluation.submission import RECORD, Key, Threshold, decision_threshold
from asdray.stages.steps import Snapshot, TrialFiles


@dataclass(frozen=True)
class Submitted:
    """A written submission.

    Attributes:
        files: paths of the files, without `RECORD`.
        clips: number of test clips.
        thresholds: machine -> decision threshold; empty in 2020.
        absent: machines of the subset that the trial lacks.
        dataset: ``official`` or ``synthetic``.
    """

    files: tuple[Path, ...]
    clips: int
    thresholds: Mapping[str, Threshold]
    absent: tuple[str, ...]
    dataset: str


def submit(
    files: TrialFiles,
    ckpt: str,
    backend: Backend,
    out: Path,
    *,
    subset: Subset = "eval",
    quantile: float = 0.9,
) -> Submitted:
    """Writes the files of a submission into ``out``, reads them back, and describes them in `RECORD`.

    Each machine has one threshold for all sections and domains, from the scores of all its training clips.
    No ground truth is needed: the clip names are those of the manifest.

    Args:
        quantile: quantile of the decision threshold, in (0, 1).

    Raises:
        ValueError: a machine without scores; no machine of the trial in ``subset``; ``out`` holds files of
            another submission.
        RuntimeError: the files read back differ from the scores.
    """
    trial, dataset, year = files.trial, files.dataset, get_year(files.trial.dcase)
    identity: dict[str, Any] = {"dcase": trial.dcase, "subset": subset}
    identity |= {"system": trial.system_name, "seed": trial.seed}
    _refuse_another(out / RECORD, identity)
    machines = _machines(files, subset)
    found = {machine: _scores(files, machine, ckpt, backend, subset) for machine in machines}
    scores = {key: score for _, test in found.values() for key, score in test.items()}
    thresholds: dict[str, Threshold] = {}
    for machine, (train, _) in found.items() if year.has_decisions else ():
        try:
            thresholds[machine] = decision_threshold(train, quantile)
        except ValueError as error:
            raise ValueError(f"{trial.name}: {machine}: {error}") from None
    written = _write(out, files, subset, scores, thresholds)
    description = {
        **identity,
        "dataset": {"kind": dataset.kind, "id": dataset.id},
        "checkpoint": ckpt,
        "backend": backend.model_dump(mode="json"),
        "backend_id": backend_id(backend),
        "quantile": quantile if year.has_decisions else None,
        "thresholds": {machine: asdict(threshold) for machine, threshold in thresholds.items()},
        "provenance": provenance.everything(),
    }
    store.write_json(out / RECORD, description)
    absent = tuple(m for m in year.machines[subset] if m not in machines)
    return Submitted(tuple(written), len(scores), thresholds, absent, dataset.kind)


def _machines(files: TrialFiles, subset: Subset) -> list[str]:
    """The trial's machines in a subset; ValueError if the trial has none, or the dataset lacks one."""
    trial = files.trial
    machines = [m for m in get_year(trial.dcase).machines[subset] if m in trial.machines]
    if not machines:
        raise ValueError(
            f"{trial.name} has no machine of the {subset} subset (it has: {', '.join(trial.machines)})"
        )
    files.dataset.require(machines)
    return machines


def _refuse_another(record: Path, identity: Mapping[str, Any]) -> None:
    """Raises ValueError if the folder holds a submission of another trial, year or subset."""
    if not record.exists():
        return
    old = store.read_json(record, dict[str, Any])
    if any(old.get(name) != value for name, value in identity.items()):
        raise ValueError(
            f"{record.parent} holds the {old.get('subset')} submission of {old.get('system')} "
            f"{old.get('dcase')} seed{old.get('seed')}: choose another folder"
        )


def _scores(
    files: TrialFiles, machine: str, ckpt: str, backend: Backend, subset: str
) -> tuple[list[float], dict[Key, float]]:
    """Scores of the machine's training clips, and of its test clips by machine and original file name."""
    name = backend_id(backend)
    if not Snapshot(files).score(machine, ckpt, backend).complete:
        raise ValueError(
            f"{files.trial.name}: {machine} is not scored by {name} with checkpoint {ckpt}: "
            "run `asdray score` first"
        )
    rows = damage.read_parquet(files.folder.scores(ckpt, machine, name)).to_pylist()
    test = [row for row in rows if row["split"] == "test" and row["clip"].startswith(f"{subset}/")]
    return (
        [row["score"] for row in rows if row["split"] == "train"],
        {(machine, PurePosixPath(row["clip"]).name): row["score"] for row in test},
    )


def _write(
    out: Path,
    files: TrialFiles,
    subset: str,
    scores: Mapping[Key, float],
    thresholds: Mapping[str, Threshold],
) -> list[Path]:
    """Writes the files of every test clip in the manifest and checks that they read back unchanged."""
    dcase = files.trial.dcase
    machines = {machine for machine, _ in scores}
    table = manifest.load_manifest(files.places.data, dcase)
    table = manifest.rows(table, split="test", subset=subset)
    clips = zip(table["machine"].to_pylist(), table["clip"].to_pylist(), strict=True)
    expected = [(machine, PurePosixPath(clip).name) for machine, clip in clips if machine in machines]
    parts = submission.parts_of(dcase, subset, expected)
    decisions = {
        key: value > thresholds[key[0]].value for key, value in scores.items() if key[0] in thresholds
    }
    remove(out / RECORD)  # the record must not describe files that change
    written = submission.write(out, dcase, parts, scores, decisions)
    again = submission.read(out, dcase, parts)
    if (dict(again.scores), dict(again.decisions)) != (scores, decisions):
        raise RuntimeError(f"{out}: the files do not read as they were written: submit again")
    return written
