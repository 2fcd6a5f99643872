"""The leaderboard of a sweep: one row per system, checkpoint and backend, ranked where it is complete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.table import Table

from asdray import store
from asdray.dcase.years import get_year, nearest
from asdray.evaluation import metrics
from asdray.evaluation.tables import Tables, machines_in

ID_COLUMNS = (
    "rank", "system", "recipe", "options", "backend", "backend_id", "checkpoint", "origin", "source",
    "selected_by", "label_source", "dataset", "machines",
)  # fmt: skip
_KEYS = ["system", "recipe", "options", "backend", "backend_id", "checkpoint"]


@dataclass(frozen=True)
class Leaderboard:
    """A finished leaderboard and what must be said beside it.

    Attributes:
        frame: `ID_COLUMNS`, then per ``<dcase>-<subset>``: ``_mean, _std`` (fractions, NaN where null),
            ``_n, _n_expected``. Ranked rows first.
        names: the ``<dcase>-<subset>`` in their order.
        ranked_by: those of them whose mean decides the rank.
        dataset: ``official`` or ``synthetic``.
        notes: sentences that stand above the table, the kind of dataset first.
    """

    frame: pd.DataFrame
    names: tuple[str, ...]
    ranked_by: tuple[str, ...]
    dataset: str
    notes: tuple[str, ...]


def one_kind(kinds: Mapping[str, str]) -> str:
    """The kind of dataset, ``official`` or ``synthetic``, of all years of one table.

    Raises:
        ValueError: both kinds; their numbers say nothing about each other.
    """
    if len(set(kinds.values())) != 1:
        listed = ", ".join(f"{dcase} is {kind}" for dcase, kind in kinds.items())
        raise ValueError(
            f"synthetic and official datasets never stand in one table ({listed}): sweep them separately"
        )
    return next(iter(kinds.values()))


def build(
    tables: Tables,
    machines: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    label_sources: Mapping[str, str],
    rank_by: Sequence[str] | None = None,
) -> Leaderboard:
    """Puts the tables of a sweep side by side and ranks the complete rows.

    The rank is by the mean over the ``eval`` columns, or over the ``dev`` columns where the sweep has
    no eval machine at all. Ranked are only rows with n = n_expected and a value in every column; the
    others follow in the sweep's order with no rank.

    Args:
        tables: from `tables.sweep_tables`.
        machines: dcase -> the machines that the sweep asked for.
        kinds: dcase -> ``official`` or ``synthetic``.
        label_sources: dcase -> where the labels of the test clips come from, ``""`` if there are none.
        rank_by: ``<dcase>-<subset>`` names to rank by instead.

    Raises:
        ValueError: both kinds of dataset, or an unknown name in ``rank_by``.
    """
    dataset = one_kind(kinds)
    names = tuple(f"{dcase}-{subset}" for dcase, subset in tables)
    ranked_by = _ranked_by(names, rank_by)
    frame = pd.concat([t[_KEYS] for t in tables.values()]).drop_duplicates(ignore_index=True)
    for name, table in zip(names, tables.values(), strict=True):
        part = table.rename(columns={"total_mean": f"{name}_mean", "total_std": f"{name}_std"})
        part = part.rename(columns={"n": f"{name}_n", "n_expected": f"{name}_n_expected"})
        frame = frame.merge(part[[*_KEYS, *_columns(name)]], on=_KEYS, how="left", validate="one_to_one")
    for name in names:
        # A row that is not planned in every year has nothing to expect in the others.
        counts = [f"{name}_n", f"{name}_n_expected"]
        frame[counts] = frame[counts].fillna(0).astype("int64")

    frame = frame.assign(
        origin="ours",
        source="",
        selected_by="fixed",
        label_source=_label_source(label_sources),
        dataset=dataset,
        machines=_coverage(tables, machines),
    )
    frame.insert(0, "rank", _ranks(frame, names, ranked_by))
    frame = frame.assign(_unranked=frame["rank"].isna()).sort_values(
        ["_unranked", "rank"], kind="stable", ignore_index=True
    )
    frame = frame[[*ID_COLUMNS, *(c for n in names for c in _columns(n))]]
    return Leaderboard(frame, names, ranked_by, dataset, _notes(frame, names, dataset, ranked_by))


def _label_source(sources: Mapping[str, str]) -> str:
    if len(set(sources.values())) == 1:
        return next(iter(sources.values()))
    return ", ".join(f"{dcase} {source or 'none'}" for dcase, source in sources.items())


def _columns(name: str) -> list[str]:
    return [f"{name}_{part}" for part in ("mean", "std", "n", "n_expected")]


def _ranked_by(names: tuple[str, ...], rank_by: Sequence[str] | None) -> tuple[str, ...]:
    if rank_by is None:
        return tuple(n for n in names if n.endswith("-eval")) or names
    for name in rank_by:
        if name not in names:
            raise ValueError(f"cannot rank by {name!r}{nearest(name, names)} (one of: {', '.join(names)})")
    if not rank_by:
        raise ValueError(f"rank_by is empty: name at least one of {', '.join(names)}")
    return tuple(rank_by)


def _ranks(frame: pd.DataFrame, names: Sequence[str], ranked_by: Sequence[str]) -> pd.Series:
    """1 for the best complete row, equal for equal values; null for an incomplete one."""
    values: list[float | None] = []
    for row in frame.to_dict("records"):
        complete = all(
            0 < row[f"{n}_n_expected"] == row[f"{n}_n"] and not math.isnan(row[f"{n}_mean"]) for n in names
        )
        values.append(metrics.arithmetic_mean([row[f"{n}_mean"] for n in ranked_by]) if complete else None)
    ranked = pd.Series(values, index=frame.index, dtype=float)
    return ranked.rank(method="min", ascending=False).astype("Int64")


def _coverage(tables: Tables, machines: Mapping[str, Sequence[str]]) -> str:
    """``all``, or how many machines each column speaks of: a mean over fewer is another number."""
    partial = []
    for dcase, subset in tables:
        have = len(machines_in(dcase, subset, machines[dcase]))
        of = len(get_year(dcase).machines[subset])
        if have < of:
            partial.append(f"{dcase}-{subset} {have} of {of}")
    return ", ".join(partial) or "all"


def _notes(
    frame: pd.DataFrame, names: Sequence[str], dataset: str, ranked_by: Sequence[str]
) -> tuple[str, ...]:
    kind = (
        "Dataset: synthetic. These numbers say that the pipeline works, nothing about real machines."
        if dataset == "synthetic"
        else "Dataset: official."
    )
    why = "" if any(name.endswith("-eval") for name in ranked_by) else " (no eval column was asked for)"
    notes = [
        kind,
        f"Official scores in percent: mean ± standard deviation over seeds (n of n expected). "
        f"Ranked by {' and '.join(ranked_by)}{why}.",
    ]
    if len(frame) and frame["machines"].iloc[0] != "all":
        notes.append(f"Not all machines of the year: {frame['machines'].iloc[0]}.")
    empty = [name for name in names if not frame[f"{name}_n"].any()]
    if empty:
        notes.append(f"No scores yet in {' and '.join(empty)}: nothing is finished, or labels are missing.")
    if unranked := int(frame["rank"].isna().sum()):
        notes.append(f"{unranked} of {len(frame)} rows are incomplete and not ranked.")
    return tuple(notes)


# ------------------------------------------------------------------------------------------- showing it


def _percent(mean: float, std: float, n: int, n_expected: int) -> str:
    if math.isnan(mean):
        return f"– ({n} of {n_expected})"
    spread = "" if math.isnan(std) else f" ± {100 * std:.2f}"
    return f"{100 * mean:.2f}{spread} ({n} of {n_expected})"


def _cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows as a person reads them; columns with nothing to tell apart are left out."""
    frame = board.frame
    shown = ["system"]
    if frame["options"].any():
        shown.append("options")
    shown.append("backend")
    if frame["checkpoint"].nunique() > 1:
        shown.append("checkpoint")
    rows = []
    for row in frame.to_dict("records"):
        rank = "–" if pd.isna(row["rank"]) else str(row["rank"])
        values = [_percent(*(row[c] for c in _columns(name))) for name in board.names]
        rows.append([rank, *(str(row[c]) for c in shown), *values])
    return ["rank", *shown, *board.names], rows


def markdown(board: Leaderboard) -> str:
    """The leaderboard as Markdown, scores in percent."""
    header, rows = _cells(board)
    align = ["---" if name not in ("rank", *board.names) else "---:" for name in header]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, align, *rows)]
    return "\n".join(["\n\n".join(board.notes), "", *lines]) + "\n"


def rich_table(board: Leaderboard, title: str = "") -> Table:
    """The leaderboard for a terminal, scores in percent; print ``board.notes`` beside it."""
    header, rows = _cells(board)
    table = Table(title=f"{title} ({board.dataset} data)".strip())
    for name in header:
        table.add_column(name, justify="right" if name in ("rank", *board.names) else "left", overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    return table


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Writes ``leaderboard.{csv,parquet,md}`` into ``folder``, each atomically."""
    paths = [folder / f"leaderboard.{suffix}" for suffix in ("csv", "parquet", "md")]
    with store.atomic_path(paths[0]) as temporary:
        board.frame.to_csv(temporary, index=False, lineterminator="\n")
    with store.atomic_path(paths[1]) as temporary:
        board.frame.to_parquet(temporary, index=False)
    store.write_text(paths[2], markdown(board))
    return paths
