"""Everything that a report shows: what a sweep's run has in memory, and the files of its trials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from asdray import damage
from asdray.dcase.years import get_year
from asdray.evaluation.leaderboard import Leaderboard
from asdray.evaluation.tables import Tables, read_trials, system_labels
from asdray.store import EPOCHS_FILE, SweepDir, TrialDir


@dataclass(frozen=True)
class TrialRow:
    """A trial of the sweep: the facts of ``trials.parquet``, and the folder."""

    dcase: str
    recipe: str
    system: str
    seed: int
    folder: TrialDir


@dataclass(frozen=True)
class Panel:
    """A machine in a row of the leaderboard; its figures are those of the first seed.

    Attributes:
        backend: the backend's id.
    """

    trial: TrialRow
    machine: str
    backend: str
    checkpoint: str


@dataclass(frozen=True)
class Training:
    """The epochs of a trained unit.

    Attributes:
        unit: ``all`` for a unit of all machines, whatever the machines are; else a machine.
        epochs: numbers of the epochs, rising.
        losses: the loss of each epoch; NaN where none is known.
    """

    trial: TrialRow
    unit: str
    epochs: Sequence[int]
    losses: Sequence[float]


@dataclass(frozen=True)
class Content:
    """A sweep with its scores.

    Attributes:
        folder: the sweep's folder.
        tables: (dcase, subset) -> means and spreads of each machine, see `asdray.evaluation.tables`.
        selection: the rows of ``selection.csv``; None without a choice.
        studies: recipe -> study of Optuna's, of a search.
        events: the sweep's log, see `asdray.sweep.events`.
        known_trials: the trials; None: those in the folder's ``trials.parquet``.
    """

    folder: SweepDir
    board: Leaderboard
    tables: Tables
    selection: pd.DataFrame | None = None
    studies: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    known_trials: Sequence[TrialRow] | None = None

    @cached_property
    def trials(self) -> list[TrialRow]:
        """The trials in the order of the sweep; empty where ``trials.parquet`` is missing or damaged."""
        if self.known_trials is not None:
            return list(self.known_trials)
        try:
            rows = read_trials(self.folder.root).to_pylist()
        except ValueError:
            return []
        results = self.folder.root.absolute().parents[1]
        return [
            TrialRow(
                row["dcase"], row["recipe"], row["system"], row["seed"], TrialDir(results / row["directory"])
            )
            for row in rows
        ]

    @cached_property
    def trainings(self) -> list[Training]:
        """The trainings of all trials, each file read once; without those whose file is damaged."""
        found = []
        for trial in self.trials:
            for path in sorted((trial.folder.root / "model").glob(f"*/{EPOCHS_FILE}")):
                unit = "all" if re.fullmatch("all-[0-9a-f]{8}", path.parent.name) else path.parent.name
                if unit not in ("all", *get_year(trial.dcase).all_machines):
                    continue  # a copy, such as `fan copy`
                if rows := read_csv(path):
                    losses = [float(row["loss"] or "nan") for row in rows]
                    found.append(Training(trial, unit, [int(row["epoch"]) for row in rows], losses))
        return found

    @cached_property
    def machines(self) -> dict[str, list[str]]:
        """Year -> machines of the sweep, each once."""
        found: dict[str, list[str]] = {}
        for (dcase, subset), table in self.tables.items():
            known = found.setdefault(dcase, [])
            known += [m for m in get_year(dcase).machines[subset] if m in table.columns and m not in known]
        return found

    @cached_property
    def _ours(self) -> pd.DataFrame:
        return self.board.frame[self.board.frame["origin"] == "ours"]

    @cached_property
    def names(self) -> dict[str, str]:
        """System -> its name for people; ensembles have their own."""
        rows = self._ours[["system", "recipe", "options"]].to_dict("records")
        labels = zip(rows, system_labels(rows), strict=True)
        own = {row["system"]: f"{label} {row['options']}".strip() for row, label in labels}
        return {**own, **self.board.labels}

    @cached_property
    def rows(self) -> list[tuple[str, str, str]]:
        """(system, backend id, checkpoint) of our trials' rows, the best ranked first."""
        systems = {trial.system for trial in self.trials}
        rows = self._ours[self._ours["system"].isin(systems)]
        return list(rows[["system", "backend_id", "checkpoint"]].itertuples(index=False, name=None))

    def title(self, system: str, checkpoint: str, backend: str = "") -> str:
        """A system in words, with its backend, and the checkpoint if the sweep has several.

        Args:
            backend: the backend's label.
        """
        several = len({checkpoint for _, _, checkpoint in self.rows}) > 1
        parts = self.names.get(system, system), backend, checkpoint if several else ""
        return " · ".join(part for part in parts if part)

    def label(self, backend_id: str) -> str:
        """The label of a backend, as in the leaderboard."""
        return self._labels[backend_id]

    @cached_property
    def _labels(self) -> dict[str, str]:
        return dict(zip(self._ours["backend_id"], self._ours["backend"], strict=True))

    def panels(self) -> Iterator[Panel]:
        """Every machine of every year in every row, the best ranked rows first."""
        first: dict[tuple[str, str], TrialRow] = {}
        for trial in self.trials:
            first.setdefault((trial.dcase, trial.system), trial)
        for system, backend, checkpoint in self.rows:
            for dcase, machines in self.machines.items():
                if (dcase, system) in first:
                    trial = first[dcase, system]
                    yield from (Panel(trial, machine, backend, checkpoint) for machine in machines)


def read_csv(path: Path) -> list[dict[str, str]] | None:
    """The rows of a file of a trial; None for a missing or damaged file."""
    try:
        return damage.read_csv(path)
    except (OSError, ValueError):
        return None
