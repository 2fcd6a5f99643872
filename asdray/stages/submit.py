"""Submit: a trial's scores of one backend -> the files of a challenge submission. Sees no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from asdray import provenance, store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.years import Subset, get_year
from asdray.evaluation import submission
from asdray.evaluation.submission import RECORD, Key
from asdray.evaluation.threshold import Threshold, threshold
from asdray.stages.files import read_table
from asdray.stages.state import score_step
from asdray.store import Places


@dataclass(frozen=True)
class Submitted:
    """What was written.

    Attributes:
        files: their paths, without `RECORD`.
        clips: how many test clips they cover.
        thresholds: machine -> its decision threshold; empty in 2020.
        absent: machines of the year's subset that the trial does not have.
        dataset: ``official`` or ``synthetic``.
    """

    files: tuple[Path, ...]
    clips: int
    thresholds: Mapping[str, Threshold]
    absent: tuple[str, ...]
    dataset: str


def submit(
    trial: Trial,
    ckpt: str,
    backend: Backend,
    places: Places,
    out: Path,
    *,
    subset: Subset = "eval",
    quantile: float = 0.9,
) -> Submitted:
    """Writes the files of a submission into ``out``, checks them, and describes them in ``submission.json``.

    One threshold per machine, for its sections and domains alike, from the scores of all its training
    clips. Needs no ground truth. What was written is read back as `asdray official` reads submissions, with
    the names of the manifest's clips.

    Raises:
        ValueError: a machine is not scored yet; no machine of the trial has clips in ``subset``; ``out``
            holds files of another submission.
        RuntimeError: the files do not hold what was written.
    """
    identity: dict[str, str | int] = {
        "dcase": trial.dcase, "subset": subset, "system": trial.system_name, "seed": trial.seed
    }  # fmt: skip
    _refuse_another(out / RECORD, identity)
    year = get_year(trial.dcase)
    dataset = manifest.load_dataset(places.data, trial.dcase)
    machines = [m for m in year.machines[subset] if m in trial.machines]
    if not machines:
        raise ValueError(
            f"{trial.name} has no machine of the {subset} subset (it has: {', '.join(trial.machines)})"
        )
    dataset.require(machines)
    scores: dict[Key, float] = {}
    thresholds: dict[str, Threshold] = {}
    for machine in machines:
        train, test = _scores(trial, machine, ckpt, backend, places, dataset, subset)
        scores |= {(machine, name): value for name, value in test.items()}
        if year.has_decisions:
            try:
                thresholds[machine] = threshold(train, quantile)
            except ValueError as error:
                raise ValueError(f"{trial.name}: {machine}: {error}") from None
    decisions = {
        key: value > thresholds[key[0]].value for key, value in scores.items() if key[0] in thresholds
    }
    parts = submission.parts_of(trial.dcase, subset, _expected(places, trial.dcase, subset, machines))
    # A record is of what lies beside it: none while the files change.
    (out / RECORD).unlink(missing_ok=True)
    files = submission.write(out, trial.dcase, parts, scores, decisions)
    again = submission.read(out, trial.dcase, parts)
    if (dict(again.scores), dict(again.decisions)) != (scores, decisions):
        raise RuntimeError(f"{out}: the files do not read as they were written: submit again")
    store.write_json(
        out / RECORD,
        {
            **identity,
            "dataset": {"kind": dataset.kind, "id": dataset.id},
            "checkpoint": ckpt,
            "backend": backend.model_dump(mode="json"),
            "backend_id": backend_id(backend),
            "quantile": quantile if year.has_decisions else None,
            "thresholds": {machine: asdict(found) for machine, found in thresholds.items()},
            "provenance": provenance.everything(),
        },
    )
    absent = tuple(m for m in year.machines[subset] if m not in machines)
    return Submitted(tuple(files), len(scores), thresholds, absent, dataset.kind)


def _refuse_another(record: Path, identity: Mapping[str, str | int]) -> None:
    """Raises ValueError where another trial, year or subset was submitted into the folder before."""
    if not record.exists():
        return
    there = store.read_json(record)
    if any(there.get(name) != value for name, value in identity.items()):
        raise ValueError(
            f"{record.parent} holds the {there.get('subset')} submission of {there.get('system')} "
            f"{there.get('dcase')} seed{there.get('seed')}: choose another folder"
        )


def _expected(places: Places, dcase: str, subset: str, machines: list[str]) -> list[Key]:
    """Every test clip that must be in the submission."""
    table = manifest.rows(manifest.load_manifest(places.data, dcase), split="test", subset=subset)
    clips = zip(table["machine"].to_pylist(), table["clip"].to_pylist(), strict=True)
    return [(machine, PurePosixPath(clip).name) for machine, clip in clips if machine in machines]


def _scores(
    trial: Trial,
    machine: str,
    ckpt: str,
    backend: Backend,
    places: Places,
    dataset: manifest.Dataset,
    subset: str,
) -> tuple[list[float], dict[str, float]]:
    """Scores of the machine's training clips, and of its test clips by original file name."""
    if score_step(trial, machine, ckpt, backend, places, dataset).marker is None:
        raise ValueError(
            f"{trial.name}: {machine} is not scored by {backend_id(backend)} with checkpoint {ckpt}: run "
            "`asdray score` first"
        )
    table = read_table(store.trial_dir(places.results, trial).scores(ckpt, machine, backend_id(backend)))
    train: list[float] = []
    test: dict[str, float] = {}
    for row in table.to_pylist():
        if row["split"] == "train":
            train.append(row["score"])
        elif row["clip"].startswith(f"{subset}/"):
            test[PurePosixPath(row["clip"]).name] = row["score"]
    return train, test
