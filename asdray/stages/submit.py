"""Submit: a trial's scores of one backend -> the files of a challenge submission.

Labels of dev clips are read to tell how often the decisions are wrong there, and for nothing that is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from asdray import provenance, store
from asdray.aside import remove
from asdray.config.backend import Backend, backend_id
from asdray.dcase import manifest
from asdray.dcase.years import Subset, get_year
from asdray.evaluation import submission
from asdray.evaluation.decisions import Measured
from asdray.evaluation.submission import RECORD, Key
from asdray.stages.decisions import Decided, decide, on_dev, read_scores
from asdray.stages.steps import Snapshot, TrialFiles


@dataclass(frozen=True)
class Submitted:
    """A written submission.

    Attributes:
        files: paths of the files, without `RECORD`.
        clips: number of test clips.
        decided: machine -> thresholds, and the clips that they are made of; empty in 2020.
        on_dev: domain -> false alarms and F1 on the trial's dev clips, means over the machines that are
            scored; empty in 2020.
        absent: machines of the subset that the trial lacks.
        dataset: ``official`` or ``synthetic``.
    """

    files: tuple[Path, ...]
    clips: int
    decided: Mapping[str, Decided]
    on_dev: Mapping[str, Measured]
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

    Each machine has one threshold for all sections and domains, from the scores of all its training clips; or
    those of its held-out clips, see `asdray.evaluation.decisions`. No ground truth is needed: the clip names
    are those of the manifest.

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
    rows = {machine: read_scores(files, machine, ckpt, backend) for machine in machines}
    scores = {
        _key(machine, row["clip"]): row["score"]
        for machine, of in rows.items()
        for row in of
        if row["split"] == "test" and row["clip"].startswith(f"{subset}/")
    }
    decided = {m: decide(files, m, of, quantile) for m, of in rows.items()} if year.has_decisions else {}
    decisions = {
        _key(machine, clip): one.is_anomaly(clip)
        for machine, one in decided.items()
        for clip in one.scores
        if clip.startswith(f"{subset}/")
    }
    written = _write(out, files, subset, scores, decisions)
    description = {
        **identity,
        "dataset": {"kind": dataset.kind, "id": dataset.id},
        "checkpoint": ckpt,
        "backend": backend.model_dump(mode="json"),
        "backend_id": backend_id(backend),
        "quantile": quantile if year.has_decisions else None,
        "thresholds": {machine: _in_record(one) for machine, one in decided.items()},
        "provenance": provenance.everything(),
    }
    store.write_json(out / RECORD, description)
    absent = tuple(m for m in year.machines[subset] if m not in machines)
    rates = _on_dev(files, ckpt, backend, decided, quantile)
    return Submitted(tuple(written), len(scores), decided, rates, absent, dataset.kind)


def _key(machine: str, clip: str) -> Key:
    return machine, PurePosixPath(clip).name


def _in_record(one: Decided) -> dict[str, Any]:
    """The thresholds of a machine in `RECORD`: one, or by domain; from held-out clips with expected rates."""
    own = {domain: asdict(threshold) for domain, threshold in one.limits.items()}
    value = own.pop("")
    if not one.normals.held_out:
        return value
    return {**value, **own, "held_out_clips": len(one.normals.scores), "expected_false_alarms": one.expected}


def _on_dev(
    files: TrialFiles, ckpt: str, backend: Backend, decided: Mapping[str, Decided], quantile: float
) -> dict[str, Measured]:
    """False alarms and F1 on the dev clips of all machines of the trial that are scored."""
    if not decided:
        return {}
    found, snapshot = [], Snapshot(files)
    there = [m for m in files.trial.machines if m in files.dataset.machines]
    for machine in get_year(files.trial.dcase).machines["dev"]:
        if machine in decided:
            found.append(decided[machine])
        elif machine in there and snapshot.score(machine, ckpt, backend).complete:
            rows = read_scores(files, machine, ckpt, backend)
            found.append(decide(files, machine, rows, quantile))
    return on_dev(files, found)


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


def _write(
    out: Path,
    files: TrialFiles,
    subset: str,
    scores: Mapping[Key, float],
    decisions: Mapping[Key, bool],
) -> list[Path]:
    """Writes the files of every test clip in the manifest and checks that they read back unchanged."""
    dcase = files.trial.dcase
    machines = {machine for machine, _ in scores}
    table = manifest.load_manifest(files.places.data, dcase)
    table = manifest.rows(table, split="test", subset=subset)
    clips = zip(table["machine"].to_pylist(), table["clip"].to_pylist(), strict=True)
    expected = [(machine, PurePosixPath(clip).name) for machine, clip in clips if machine in machines]
    parts = submission.parts_of(dcase, subset, expected)
    remove(out / RECORD)  # the record must not describe files that change
    written = submission.write(out, dcase, parts, scores, decisions)
    again = submission.read(out, dcase, parts)
    if (dict(again.scores), dict(again.decisions)) != (scores, decisions):
        raise RuntimeError(f"{out}: the files do not read as they were written: submit again")
    return written
