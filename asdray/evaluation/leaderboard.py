"""The leaderboard of a sweep: one row per system, checkpoint and backend, ranked where it is complete.

Rows that others published stand among ours where their score puts them, without a rank: only what was run
here, completely, is ranked. `asdray.evaluation.leaderboard_text` shows and writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd

from asdray.config.sweep import MEANS, averaged, check_rank_by
from asdray.evaluation import metrics
from asdray.evaluation.tables import Tables, coverage

ID_COLUMNS = (
    "rank", "system", "recipe", "options", "backend", "backend_id", "checkpoint", "origin", "source",
    "selected_by", "label_source", "dataset", "machines", "classes_from",
)  # fmt: skip
_KEYS = ["system", "recipe", "options", "backend", "backend_id", "checkpoint"]


@dataclass(frozen=True)
class Leaderboard:
    """A finished leaderboard and what must be said beside it.

    Attributes:
        frame: `ID_COLUMNS`, then per ``<dcase>-<subset>``: ``_mean, _std`` (fractions, NaN where null),
            ``_n, _n_expected``, then `MEANS`. Rows with a value to rank by come first, the best on top.
        names: the ``<dcase>-<subset>`` in their order.
        rank_by: the one of them, or of `MEANS`, that decides the rank.
        dataset: ``official`` or ``synthetic``.
        metric: ``official``, or one of `metrics.METRICS`.
        notes: sentences that stand beside the table, the kind of dataset first.
    """

    frame: pd.DataFrame
    names: tuple[str, ...]
    rank_by: str
    dataset: str
    metric: str
    notes: tuple[str, ...]

    @property
    def means(self) -> tuple[str, ...]:
        """Those of `MEANS` that people are shown: over several columns, and not over the same as others of
        them; those of dev only where it decides the rank or is all there is."""
        has_eval = any(name.endswith("-eval") for name in self.names)
        shown: dict[tuple[tuple[str, ...], str], str] = {}
        for mean in MEANS:
            over = averaged(mean, self.names)
            if len(over) > 1 and (not mean.startswith("dev") or not has_eval or mean == self.rank_by):
                shown.setdefault((over, mean.rpartition("_")[2]), mean)
        return tuple(shown.values())


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
    *,
    rank_by: str | None = None,
    unlabelled: Iterable[str] = (),
    extra: Iterable[Mapping[str, Any]] = (),
    unranked: Sequence[Mapping[str, Any]] = (),
    selected_by: str | Mapping[str, str] = "fixed",
    best_by: Mapping[str, str] = MappingProxyType({}),
    classes_from: Mapping[str, str] = MappingProxyType({}),
    metric: str = "official",
) -> Leaderboard:
    """Puts the tables of a sweep side by side and ranks the complete rows.

    Ranked are only rows of ours with n = n_expected and a value in every column; the others follow in
    the sweep's order with no rank.

    Args:
        tables: from `tables.sweep_tables`.
        machines: dcase -> the machines that the sweep asked for.
        kinds: dcase -> ``official`` or ``synthetic``.
        label_sources: dcase -> where the labels of the test clips come from, ``""`` if there are none.
        rank_by: a ``<dcase>-<subset>`` or one of `MEANS`; None: see `check_rank_by`.
        unlabelled: those ``<dcase>-<subset>`` whose test clips lack labels: no row can have a value there,
            so a row is complete without.
        extra: rows from elsewhere, such as `rows_of` other tables or published ones, with `ID_COLUMNS`
            (without rank) and the columns of each name; what is left out is null.
        unranked: rows of ours that are shown behind all others and never ranked, such as a search's own.
        selected_by: what the systems of ``tables`` were chosen by, of all of them or per recipe.
        best_by: see `rows_of`.
        classes_from: system -> ``classes_from`` of its frontend, for all rows of ours.

    Raises:
        ValueError: both kinds of dataset, a published row beside synthetic data, an unknown ``rank_by``.
    """
    dataset = one_kind(kinds)
    names = tuple(f"{dcase}-{subset}" for dcase, subset in tables)
    rank_by = check_rank_by(rank_by, names)
    more = [dict(row) for row in extra]
    if any(row["dataset"] != dataset for row in more):
        raise ValueError(f"no row of other data stands beside those of {dataset} data")
    ours = rows_of(tables, machines, label_sources, dataset, selected_by, best_by)
    columns = [*ID_COLUMNS[1:], *(c for n in names for c in columns_of(n))]
    rows = [{"classes_from": classes_from.get(row["system"], ""), **row} for row in (*ours, *more, *unranked)]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({c: kind for n in names for c, kind in zip(columns_of(n), _DTYPES, strict=True)})
    for mean in MEANS:
        frame[mean] = _mean_over(frame, mean, names)
    return _ranked(frame, names, rank_by, dataset, metric, tuple(unlabelled), len(unranked))


def rows_of(
    tables: Tables,
    machines: Mapping[str, Sequence[str]],
    label_sources: Mapping[str, str],
    dataset: str,
    selected_by: str | Mapping[str, str] = "fixed",
    best_by: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[Any, Any]]:
    """The rows that tables of ours give to a leaderboard, unranked, in the tables' order.

    `build` calls it with a sweep's tables; rows from other tables (ensembles) reach it as ``extra``.
    What is ``fixed`` but for its checkpoint ``best`` was selected by the loss that this one is the lowest of.

    Args:
        best_by: system -> that loss; ``train_loss`` for what it leaves out.
    """
    names = [f"{dcase}-{subset}" for dcase, subset in tables]
    more: dict[str, Any] = {
        "origin": "ours",
        "source": "",
        "selected_by": selected_by
        if isinstance(selected_by, str)
        else lambda f: f["recipe"].map(selected_by),
        "label_source": _label_source(label_sources),
        "dataset": dataset,
        "machines": _coverage(tables, machines),
    }
    frame = _side_by_side(tables, names).assign(**more)
    chosen = (frame["checkpoint"] == "best") & (frame["selected_by"] == "fixed")
    loss = [best_by.get(system, "train_loss") for system in frame["system"]]
    frame["selected_by"] = frame["selected_by"].mask(chosen, pd.Series(loss, frame.index, "object"))
    return frame.to_dict("records")


def columns_of(name: str) -> list[str]:
    """The columns of one ``<dcase>-<subset>``."""
    return [f"{name}_{part}" for part in ("mean", "std", "n", "n_expected")]


_DTYPES = ("float64", "float64", "Int64", "Int64")


def _side_by_side(tables: Tables, names: Sequence[str]) -> pd.DataFrame:
    frame = pd.concat([t[_KEYS] for t in tables.values()]).drop_duplicates(ignore_index=True)
    for name, table in zip(names, tables.values(), strict=True):
        part = table.rename(columns={"total_mean": f"{name}_mean", "total_std": f"{name}_std"})
        part = part.rename(columns={"n": f"{name}_n", "n_expected": f"{name}_n_expected"})
        frame = frame.merge(part[[*_KEYS, *columns_of(name)]], on=_KEYS, how="left", validate="one_to_one")
    for name in names:
        # A row that is not planned in every year has nothing to expect in the others.
        counts = [f"{name}_n", f"{name}_n_expected"]
        frame[counts] = frame[counts].fillna(0).astype("int64")
    return frame


def _label_source(sources: Mapping[str, str]) -> str:
    if len(set(sources.values())) == 1:
        return next(iter(sources.values()))
    return ", ".join(f"{dcase} {source or 'none'}" for dcase, source in sources.items())


def _coverage(tables: Tables, machines: Mapping[str, Sequence[str]]) -> str:
    """``all``, or how many machines each column speaks of that speaks of fewer."""
    covered = {f"{dcase}-{subset}": coverage(dcase, subset, machines[dcase]) for dcase, subset in tables}
    return ", ".join(f"{name} {part}" for name, part in covered.items() if part != "all") or "all"


def _mean_over(frame: pd.DataFrame, mean: str, names: Sequence[str]) -> list[float | None]:
    """One of `MEANS` of every row; null unless all of its columns have a value over all seeds expected.

    It has no room for counts: over other seeds it would stand there as if it were the same number.
    """
    function = metrics.harmonic_mean if mean.endswith("hmean") else metrics.arithmetic_mean
    over = averaged(mean, names)
    whole = {name: frame[f"{name}_mean"].where(~_partly(frame, name)) for name in over}
    rows = pd.DataFrame(whole, index=frame.index).to_numpy(dtype=float).tolist()
    values = [function([None if math.isnan(v) else v for v in row]) for row in rows]
    return [math.nan if v is None else v for v in values]


def _partly(frame: pd.DataFrame, name: str) -> pd.Series:
    """Rows with fewer seeds in a column than expected; a published row may tell neither number."""
    return (frame[f"{name}_n"] < frame[f"{name}_n_expected"]).fillna(False).astype(bool)


# ---------------------------------------------------------------------------------------------- ranking


def _ranked(
    frame: pd.DataFrame,
    names: tuple[str, ...],
    rank_by: str,
    dataset: str,
    metric: str,
    unlabelled: Sequence[str],
    n_unranked: int,
) -> Leaderboard:
    """Sorts by the deciding column and numbers the complete rows of ours: equal values, equal ranks.

    Args:
        n_unranked: how many rows at the end are never ranked.
    """
    value = frame[rank_by if rank_by in MEANS else f"{rank_by}_mean"].copy()
    value.iloc[len(frame) - n_unranked :] = math.nan
    ours = frame["origin"] == "ours"
    complete = ours & value.notna()
    for name in names:
        if name not in unlabelled:
            n, expected = frame[f"{name}_n"], frame[f"{name}_n_expected"]
            complete &= (n == expected).fillna(False) & (n > 0).fillna(False) & frame[f"{name}_mean"].notna()
    placed = complete | ~ours & value.notna()
    frame.insert(0, "rank", value.where(complete).rank(method="min", ascending=False).astype("Int64"))
    frame = frame.assign(_last=~placed, _value=value.where(placed)).sort_values(
        ["_last", "_value"], ascending=[True, False], kind="stable", ignore_index=True
    )
    frame = frame.drop(columns=["_last", "_value"])
    notes = _notes(frame, names, rank_by, dataset, metric, unlabelled, n_unranked)
    return Leaderboard(frame, names, rank_by, dataset, metric, notes)


def _notes(
    frame: pd.DataFrame,
    names: Sequence[str],
    rank_by: str,
    dataset: str,
    metric: str,
    unlabelled: Sequence[str],
    n_unranked: int,
) -> tuple[str, ...]:
    kind = (
        "Dataset: synthetic. These numbers say that the pipeline works, nothing about real machines."
        if dataset == "synthetic"
        else "Dataset: official."
    )
    over = averaged(rank_by, names) if rank_by in MEANS else (rank_by,)
    harmonic = " (harmonic mean)" if len(over) > 1 and rank_by.endswith("hmean") else ""
    why = "" if any(name.endswith("-eval") for name in names) else " (no eval column was asked for)"
    what = "Official scores" if metric == "official" else f"{metric}"
    notes = [
        kind,
        f"{what} in percent: mean ± standard deviation over seeds (n of n expected). "
        f"Ranked by {' and '.join(over)}{harmonic}{why}.",
    ]
    ours = frame[frame["origin"] == "ours"]
    if len(ours) and ours["machines"].iloc[0] != "all":
        notes.append(f"Not all machines of the year: {ours['machines'].iloc[0]}.")
    if "train+test" in set(frame["classes_from"]):
        notes.append(
            "Classes from train+test: the attributes and domains of test clips were classes of the training, "
            "too (frontend.labels: asdkit)."
        )
    if unlabelled:
        hint = "; rank by another column, such as dev_amean" if set(over) & set(unlabelled) else ""
        notes.append(f"Labels are missing in {' and '.join(unlabelled)}: no scores there{hint}.")
    if empty := [n for n in names if n not in unlabelled and not ours[f"{n}_n"].any()]:
        notes.append(f"No scores yet in {' and '.join(empty)}: nothing is finished.")
    if incomplete := int(ours["rank"].isna().sum()) - n_unranked:
        notes.append(f"{incomplete} of {len(ours) - n_unranked} rows are incomplete and not ranked.")
    ranked = int(ours["rank"].notna().sum())
    if ranked > 1 and any(name.endswith("-eval") for name in over):
        instead = "" if all(n.endswith("-eval") for n in names) else "; to choose, --rank-by dev_amean"
        notes.append(
            "What a row was selected by speaks of that row alone: whoever picks the top one of these "
            f"{ranked} selects by eval labels, and its score flatters{instead}."
        )
    if len(ours) < len(frame):
        notes.append("Published rows are placed by their score and not ranked; they were not run here.")
    return tuple(notes)
