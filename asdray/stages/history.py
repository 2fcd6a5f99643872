"""The epochs of a training: ``metrics.csv``, and what of them is left to go on from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asdray import store
from asdray.config.trial import Unit
from asdray.store import TrialDir

TIMES = ("seconds", "per_second")
METRICS = ("epoch", "loss", "learning_rate", *TIMES)
"""Columns of ``metrics.csv``; ``per_second`` counts clips (discriminative) or vectors (autoencoder). Where
something is held out from training, its ``validation_loss`` follows."""


def criterion(row: Mapping[str, Any]) -> float:
    """What the best epoch has least of: the loss of what is held out, if anything is, else of training."""
    return row.get("validation_loss", row["loss"])


def write_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``metrics.csv`` anew, one row per epoch, numbers in full precision, unknown times empty."""
    with store.atomic_path(folder / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
        names = [*METRICS, *(name for row in history[:1] for name in row if name not in METRICS)]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in history)


def resumable(
    directory: TrialDir, unit: Unit, checkpoints: tuple[str, ...], signature: str
) -> list[dict[str, Any]]:
    """The history to go on from; empty = from the start.

    Only a training of the same signature is continued, and only if it has left every checkpoint asked for
    of its epochs so far.
    """
    from asdray.frontends import checkpoint

    def history_of(name: str) -> list[dict[str, Any]]:
        try:
            saved = checkpoint.read(directory.checkpoint(unit.name, name))["asdray"]
        except ValueError:  # missing or damaged: it cannot be used, which is no reason to stop
            return []
        return saved["history"] if saved["signature"] == signature else []

    history = history_of("last")
    for name in checkpoints:
        if name.startswith("epoch_"):
            epoch = int(name.removeprefix("epoch_"))
            if epoch <= len(history) and len(history_of(name)) != epoch:
                return []
    if "best" in checkpoints and history:
        # A best of a later epoch was written just before the end came: it will be written again.
        best = min(history, key=criterion)["epoch"]
        found = len(history_of("best"))
        if not (found == best or found > len(history)):
            return []
    return _with_times(directory.model(unit.name) / "metrics.csv", history)


def _with_times(path: Path, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the times of the epochs, which ``metrics.csv`` alone knows; None where it is not there."""
    times: dict[str, dict[str, Any]] = {}
    if path.exists():
        with open(path, newline="") as file:
            times = {row["epoch"]: row for row in csv.DictReader(file)}
    rows = []
    for row in history:
        found = times.get(str(row["epoch"]), {})
        rows.append({**row, **{name: float(found[name]) if found.get(name) else None for name in TIMES}})
    return rows
