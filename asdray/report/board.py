"""The leaderboard of a report: cells that the page sorts and filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from asdray.evaluation import leaderboard
from asdray.evaluation.leaderboard import MEAN_TITLES, Leaderboard, score_columns
from asdray.evaluation.tables import NO_VALUE, percent
from asdray.report.content import Content


@dataclass(frozen=True)
class Score:
    """A score in percent.

    Attributes:
        text: ``70.2 ± 0.5``.
        value: the number that sorts; None is last.
        count: ``2 of 4 seeds`` where seeds are missing, else ``""``.
        std: the spread over seeds in percent; None where there is none.
    """

    text: str
    value: float | None
    count: str = ""
    std: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard.

    Attributes:
        origin: ``ours``, ``published``, or ``theirs`` of another group's bundle.
        source: where a published row stands, or the bundle; else ``""``.
        scores: one per column.
    """

    rank: str
    name: str
    system: str
    recipe: str
    backend: str
    checkpoint: str
    origin: str
    source: str
    caveat: str
    selected_by: str
    incomplete: bool
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Board:
    """The leaderboard with what the reader can filter by.

    Attributes:
        columns: (title, year, subset) of every score; means have neither year nor subset.
    """

    columns: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def values(self, name: str) -> list[str]:
        """The different values of a field of the rows, sorted."""
        return sorted({getattr(row, name) for row in self.rows} - {""})


def board(content: Content) -> Board:
    """The leaderboard of a sweep."""
    found = content.board
    columns = [(name, year, subset) for name in found.names for year, _, subset in [name.rpartition("-")]]
    columns += [(MEAN_TITLES[mean], "", "") for mean in found.means]
    rows = tuple(_rows(found, content.names))
    return Board(tuple(columns), rows, tuple(leaderboard.notes(found)))


def _rows(found: Leaderboard, names: dict[str, str]) -> Iterator[Row]:
    for row in found.frame.to_dict("records"):
        scores = [_score(row, name) for name in found.names]
        scores += [Score(percent(row[mean]), _number(row[mean])) for mean in found.means]
        ours = row["origin"] == "ours"
        yield Row(
            rank="" if pd.isna(row["rank"]) else str(row["rank"]),
            name=_name(row, names),
            system=str(row["system"]),
            recipe=_text(row["recipe"]),
            backend=_text(row["backend"]),
            checkpoint=_text(row["checkpoint"]),
            origin=row["origin"],
            source=_text(row["source"]),
            caveat=_caveat(row),
            selected_by=_text(row["selected_by"]) if ours else "",
            incomplete=ours and pd.isna(row["rank"]),
            scores=tuple(scores),
        )


def _caveat(row: dict[Any, Any]) -> str:
    """The caveat of a row; published rows say there if they know the classes of test clips."""
    caveats = [_text(row["caveat"])]
    if row["classes_from"] == "train+test" and row["origin"] != "published":
        caveats.append("classes from train+test")
    return "; ".join(filter(None, caveats))


def _name(row: dict[Any, Any], names: dict[str, str]) -> str:
    """The system of a row for people; published systems have names of their own."""
    if row["origin"] == "published":
        return str(row["system"])
    if row["origin"] == "theirs":
        return f"{row['recipe']} {_text(row['options'])}".strip()
    return names.get(row["system"], row["recipe"] or row["system"])


def _score(row: dict[Any, Any], name: str) -> Score:
    mean, std, n, expected = (row[column] for column in score_columns(name))
    known = not (pd.isna(n) or pd.isna(expected))
    count = f"{n} of {expected} seeds" if known and n != expected else ""
    if pd.isna(mean):
        return Score(NO_VALUE, None, count)
    text = percent(mean) + ("" if pd.isna(std) else f" ± {percent(std)}")
    return Score(text, _number(mean), count, _number(std))


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(100 * float(value), 4)


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
