"""The record of a training in ``model/<unit>/``: its epochs, its log, and the state to resume from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray import provenance, store
from asdray.config.trial import Trial, Unit
from asdray.stages.steps import TrialFiles

TIMES = ("seconds", "per_second")
METRICS = ("epoch", "loss", "learning_rate", *TIMES)
"""Columns of ``metrics.csv``; ``per_second`` counts clips (discriminative) or vectors (autoencoder). A column
``validation_loss`` follows if the frontend holds data out from training."""


class TrainingDiverged(ValueError):  # noqa: N818 - named after the event
    """A loss or a weight is no longer a finite number; training again would end the same way."""


@dataclass(frozen=True)
class UnitTraining:
    """The training of one unit of a trial: its identity and its files.

    Attributes:
        checkpoints: names of the checkpoints to write: ``last``, ``best``, ``epoch_<k>``.
        signature: the training's signature, which every checkpoint holds.
    """

    files: TrialFiles
    unit: Unit
    checkpoints: tuple[str, ...]
    signature: str

    @property
    def trial(self) -> Trial:
        return self.files.trial

    @property
    def folder(self) -> Path:
        """``model/<unit>`` in the trial's folder."""
        return self.files.folder.model(self.unit.name)

    def checkpoint(self, name: str) -> Path:
        """The file of a checkpoint."""
        return self.files.folder.checkpoint(self.unit.name, name)

    def log(self, text: str) -> None:
        """Adds a line with the time to ``train.log``."""
        with open(self.folder / store.LOG_FILE, "a", encoding="utf-8") as file:
            file.write(f"{provenance.now()} {text}\n")


def criterion(row: Mapping[str, Any]) -> float:
    """The loss that is lowest in the best epoch: of validation if data are held out, else of training."""
    return row.get("validation_loss", row["loss"])


def write_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``metrics.csv``, one row per epoch, numbers in full precision, unknown times empty."""
    with store.atomic_path(folder / store.EPOCHS_FILE) as temporary, open(temporary, "w", newline="") as file:
        names = [*METRICS, *(name for row in history[:1] for name in row if name not in METRICS)]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in history)


def resumable(training: UnitTraining) -> list[dict[str, Any]]:
    """The history of the epochs after which an interrupted training goes on; empty = from the start.

    Only a training of the same signature goes on, and only if the checkpoints asked for of all its epochs so
    far exist.
    """
    from asdray.frontends import checkpoint

    def history_of(name: str) -> list[dict[str, Any]]:
        try:
            saved = checkpoint.read(training.checkpoint(name))["asdray"]
        except ValueError:  # missing or damaged: the training starts afresh, which is no reason to stop
            return []
        return saved["history"] if saved["signature"] == training.signature else []

    history = history_of("last")
    epochs = (int(name.removeprefix("epoch_")) for name in training.checkpoints if name.startswith("epoch_"))
    if any(n <= len(history) and len(history_of(f"epoch_{n}")) != n for n in epochs):
        return []
    if "best" in training.checkpoints and history:
        # A best checkpoint of a later epoch was written just before the interruption: it is written again.
        best = min(history, key=criterion)["epoch"]
        found = len(history_of("best"))
        if not (found == best or found > len(history)):
            return []
    return _with_times(training.folder / store.EPOCHS_FILE, history)


def _with_times(path: Path, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history with the times from ``metrics.csv``, which no checkpoint holds; None if unknown."""
    times: dict[str, dict[str, str]] = {}
    if path.exists():
        with open(path, newline="") as file:
            times = {row["epoch"]: row for row in csv.DictReader(file)}

    def time_of(row: Mapping[str, Any], name: str) -> float | None:
        text = times.get(str(row["epoch"]), {}).get(name)
        return float(text) if text else None

    return [{**row, **{name: time_of(row, name) for name in TIMES}} for row in history]
