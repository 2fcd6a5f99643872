"""Everything that a report shows: what a sweep's run has in memory, and the files of its trials."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from asdray import damage
from asdray.dcase.years import get_year
from asdray.evaluation.leaderboard import Leaderboard
from asdray.evaluation.tables import Tables, option_columns, read_trials
from asdray.store import SweepDir, TrialDir


@dataclass(frozen=True)
class TrialRow:
    """A trial of the sweep: the facts of ``trials.parquet``, and the folder."""

    dcase: str
    recipe: str
    system: str
    seed: int
    status: str
    folder: TrialDir


@dataclass(frozen=True)
class Content:
    """A sweep with its scores.

    Attributes:
        folder: the sweep's folder.
        tables: (dcase, subset) -> means and spreads of each machine, see `asdray.evaluation.tables`.
        selection: the rows of ``selection.csv``; None without a choice.
        studies: recipe -> study of Optuna's, of a search.
    """

    folder: SweepDir
    board: Leaderboard
    tables: Tables
    selection: pd.DataFrame | None = None
    studies: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The results folder, which trials are below."""
        return self.folder.root.absolute().parents[1]

    @cached_property
    def trials(self) -> list[TrialRow]:
        """The trials in the order of the sweep; empty where ``trials.parquet`` is missing or damaged."""
        return [
            TrialRow(
                row["dcase"], row["recipe"], row["system"], row["seed"], row["status"],
                TrialDir(self.results / row["directory"]),
            )
            for row in self._rows
        ]  # fmt: skip

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self._table.to_pylist() if self._table is not None else []

    @cached_property
    def _table(self) -> Any:
        try:
            return read_trials(self.folder.root)
        except ValueError:
            return None

    @cached_property
    def names(self) -> dict[str, str]:
        """System -> its name for people: the recipe, and the options in which it differs from others."""
        options = [] if self._table is None else option_columns(self._table)
        found = {}
        for row in self._rows:
            parts = [f"{path.rpartition('.')[2]}={row[path]}" for path in options if row[path] is not None]
            found[row["system"]] = " ".join([row["recipe"], *parts])
        counts = pd.Series(found).value_counts()
        return {system: name if counts[name] == 1 else f"{name} ({system})" for system, name in found.items()}

    @cached_property
    def machines(self) -> dict[str, list[str]]:
        """Year -> machines of the sweep, each once."""
        found: dict[str, list[str]] = {}
        for (dcase, subset), table in self.tables.items():
            known = found.setdefault(dcase, [])
            known += [m for m in get_year(dcase).machines[subset] if m in table.columns and m not in known]
        return found

    @cached_property
    def backends(self) -> dict[str, str]:
        """Backend id -> label, as in the leaderboard."""
        frame = self.board.frame
        ours = frame[frame["origin"] == "ours"]
        return dict(zip(ours["backend_id"], ours["backend"], strict=True))

    @cached_property
    def ranked(self) -> list[tuple[str, str, str]]:
        """(system, backend id, checkpoint) of our rows, the best ranked first."""
        frame = self.board.frame
        rows = frame[(frame["origin"] == "ours") & frame["system"].isin(set(self.names))]
        return list(rows[["system", "backend_id", "checkpoint"]].itertuples(index=False, name=None))

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The readable lines of the sweep's log of events."""
        return list(_events(self.folder.events))

    def seeds_of(self, dcase: str, system: str) -> list[TrialRow]:
        """The trials of a system in a year, by seed."""
        return [trial for trial in self.trials if (trial.dcase, trial.system) == (dcase, system)]


_OF_EVENTS = {"dcase", "recipe", "system", "seed", "stage", "status", "time"}


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and event.keys() >= _OF_EVENTS:
                yield event


def read_csv(path: Path) -> list[dict[str, str]] | None:
    """The rows of a file of a trial; None for a missing or damaged file."""
    try:
        return damage.read_csv(path)
    except (OSError, ValueError):
        return None
