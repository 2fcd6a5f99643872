"""Selection among systems: the chosen ones, their eval scores, and the best eval score that was possible.

A search chooses systems by its objective, a grid rows by its ``choose_by``, both on dev data.
``selection.csv`` sets the objective beside the official dev and eval scores, so that the loss through
selection is visible: the *oracle* is the row with the best eval score, and nothing may be chosen by it.
Scores are fractions, null unless complete.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from asdray.config.backend import backend_id
from asdray.config.sweep import MEANS
from asdray.config.trial import Trial
from asdray.evaluation import leaderboard, metrics, tables
from asdray.evaluation.leaderboard import Leaderboard
from asdray.evaluation.tables import TableContext, Tables
from asdray.sweep.objective import ANY
from asdray.sweep.study import Sample, Studies

COLUMNS = (
    "recipe", "sample", "state", "system", "options", "backend", "backend_id", "checkpoint", "objective",
    "dev", "eval", "judged", "selected", "confirmed", "oracle", "dev_eval_correlation",
)  # fmt: skip
"""Columns of ``selection.csv`` before ``dataset``: one row per system, backend and checkpoint, the best
objective first.

``objective`` is the sample's value; ``dev`` and ``eval`` are official scores on the years and seeds of the
search. ``judged`` marks the row of each system that competes in the recipe's choice, ``selected`` the best of
these, ``confirmed`` the systems that are trained again with other seeds, ``oracle`` the best eval score. In a
grid the objective is the column ``choose_by``, and every ranked row competes. ``dev_eval_correlation`` is the
`rank_correlation` of ``dev`` and ``eval`` over the judged rows of the recipe, in a grid over all rows: the
same number in each of these rows, empty where nothing can be said.
"""

_STATES = ("done", "open", "stopped", "failed")


@dataclass(frozen=True)
class Selection:
    """The outputs of a search beside the tables of its confirmed systems.

    Attributes:
        selected_by: recipe -> how its confirmed systems were chosen, ``official_dev (search, 20 systems)``.
        rows: the search's own rows for the leaderboard, without rank, the best objective first.
        tables: tables of the search's own trials, over the years of the leaderboard.
        frame: the rows of ``selection.csv``.
        notes: sentences for the leaderboard.
    """

    selected_by: Mapping[str, str]
    rows: list[dict[Any, Any]]
    tables: Tables
    frame: pd.DataFrame
    notes: tuple[str, ...]


def select(
    studies: Studies, trials: Sequence[Trial], finished: Sequence[Path], context: TableContext, metric: str
) -> Selection:
    """The selection of a search as of now.

    Args:
        trials: trials of the search's samples.
        finished: ``metrics.parquet`` of every finished trial.
        context: of the leaderboard.
    """
    sweep = studies.sweep
    planned = tables.planned_rows(trials, sweep.checkpoints, sweep.backends)
    years = {dcase: sweep.machines_of(dcase) for dcase in sweep.dcase}
    official = tables.sweep_tables(tables.load_rows(finished), planned, replace(context, machines=years))
    frame = _frame(studies, official)
    own = tables.sweep_tables(tables.load_rows(finished, metric), planned, context, metric)
    rows = leaderboard.rows_of(own, context, f"{studies.objective.metric} (in the search)")
    key = ["system", "backend_id", "checkpoint"]
    oracles = set(frame.loc[frame["oracle"], key].itertuples(index=False, name=None))
    for row in rows:
        if tuple(row[k] for k in key) in oracles:
            row["selected_by"] += "; oracle"
    order = list(dict.fromkeys(frame["system"]))
    rows.sort(key=lambda row: order.index(row["system"]))
    return Selection(selected_by(studies), rows, own, frame, tuple(_notes(studies, frame)))


def judged_row(studies: Studies, sample: Sample) -> tuple[str, str]:
    """The backend id and the checkpoint by which a sample is judged.

    An objective without anomaly scores, such as a loss, judges the first backend of the system.
    """
    backend = sample.backend
    if backend is None or backend == ANY:
        backend = backend_id(studies.trials(sample)[0].backends(studies.sweep.backends)[0])
    return backend, studies.objective.checkpoint


def confirmed_rows(studies: Studies) -> pd.DataFrame:
    """The planned rows of the confirming trials, see `tables.planned_rows`.

    If the objective compared backends, only the chosen backend and checkpoint count; otherwise all do, as
    in a grid.
    """
    chosen = {s.system_name: judged_row(studies, s) for s in studies.chosen() if s.backend not in (None, ANY)}
    sweep = studies.sweep
    trials = [trial for sample in studies.chosen() for trial in studies.confirming(sample)]
    planned = tables.planned_rows(trials, sweep.checkpoints, sweep.backends)
    rows = zip(planned["system"], planned["backend"], planned["checkpoint"], strict=True)
    return planned.loc[[chosen.get(system, (b, c)) == (b, c) for system, b, c in rows]]


def selected_by(studies: Studies) -> dict[str, str]:
    """Recipe -> ``official_dev (search, 20 systems)``, the choice behind its confirmed rows."""
    counts = Counter(s.recipe for s in studies.systems())
    metric = studies.objective.metric
    return {recipe: f"{metric} (search, {counts[recipe]} systems)" for recipe in studies.recipes}


def _frame(studies: Studies, official: Tables) -> pd.DataFrame:
    """The rows of ``selection.csv``.

    Args:
        official: official scores of the search's trials over all years of the search.
    """
    scores = _mean_scores(official)
    best = {id(s) for recipe in studies.recipes for s in studies.ranked(recipe)[:1]}
    chosen = {id(s) for s in studies.chosen()}
    rows = []
    samples = [*studies.ranked(), *(s for s in studies.systems() if s.state != "done")]
    for sample in sorted(samples, key=lambda s: _STATES.index(s.state)):
        system = sample.system_name
        assert system is not None
        judged = judged_row(studies, sample)
        for (backend, checkpoint), found in scores.get(system, {}).items():
            is_judged = (backend, checkpoint) == judged
            rows.append(
                {
                    "recipe": sample.recipe,
                    "sample": sample.number,
                    "state": sample.state,
                    "system": system,
                    "backend_id": backend,
                    "checkpoint": checkpoint,
                    "objective": sample.value,
                    "judged": is_judged,
                    "selected": is_judged and id(sample) in best,
                    "confirmed": is_judged and id(sample) in chosen,
                    **found,
                }
            )
    numbers = ("objective", "dev", "eval", "dev_eval_correlation")
    dtypes = {"sample": "Int64", **dict.fromkeys(numbers, "float64")}
    frame = pd.DataFrame(rows, columns=COLUMNS).astype(dtypes)
    frame["oracle"] = False
    for _, own in frame.groupby("recipe"):
        if own["eval"].notna().any():
            frame.loc[own["eval"].idxmax(), "oracle"] = True
        frame.loc[own.index, "dev_eval_correlation"] = _dev_eval_correlation(own)[0]
    return frame


def _mean_scores(official: Tables) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """System -> (backend id, checkpoint) -> options, backend, and mean scores over years: dev, eval."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for (_, subset), frame in official.items():
        for row in frame.to_dict("records"):
            own = found.setdefault(row["system"], {}).setdefault(
                (row["backend_id"], row["checkpoint"]),
                {"options": row["options"], "backend": row["backend"], "dev": [], "eval": []},
            )
            complete = row["n"] == row["n_expected"] and not math.isnan(row["total_mean"])
            own[subset].append(row["total_mean"] if complete else None)
    for rows in found.values():
        for own in rows.values():
            own |= {subset: metrics.arithmetic_mean(own[subset]) for subset in ("dev", "eval")}
    return found


def rank_correlation(dev: Sequence[float], eval_: Sequence[float]) -> float | None:
    """Spearman's rank correlation of dev and eval scores, in [-1, 1].

    Returns:
        None for fewer than three systems, or if all scores of a subset are equal.
    """
    from scipy.stats import spearmanr

    if len(dev) < 3 or len(set(dev)) == 1 or len(set(eval_)) == 1:
        return None
    return float(spearmanr(dev, eval_).statistic)


def _dev_eval_correlation(rows: pd.DataFrame) -> tuple[float, int]:
    """The rank correlation of dev and eval over the judged rows with both scores, NaN without one.

    Returns:
        The correlation, and the number of these rows.
    """
    judged = rows[rows["judged"].astype(bool) & rows["dev"].notna() & rows["eval"].notna()]
    found = rank_correlation(judged["dev"].tolist(), judged["eval"].tolist())
    return (math.nan if found is None else found), len(judged)


def _notes(studies: Studies, frame: pd.DataFrame) -> list[str]:
    """Sentences for the leaderboard of a search."""
    sweep, systems = studies.sweep, studies.systems()
    lines = []
    for recipe in studies.recipes:
        own = frame[frame["recipe"] == recipe]
        selected, oracle = own[own["selected"]], own[own["oracle"]]
        if not len(selected):
            continue
        n = sum(s.recipe == recipe for s in systems)
        shown = _shown(selected.iloc[0])
        line = f"{recipe}: selected by {studies.objective.metric} among {n} systems: {shown}"
        if len(oracle):
            line += f". Oracle, the best possible (chosen by eval, never ranked): {_shown(oracle.iloc[0])}"
        rho, judged = _dev_eval_correlation(own)
        if not math.isnan(rho):
            line += f". Rank correlation (Spearman) of dev and eval over {judged} systems: {rho:.2f}"
        lines.append(f"{line}.")
    stopped = sum(s.state == "stopped" for s in systems)
    if sweep.scheduler and stopped:
        name = sweep.scheduler.name
        of = f"{stopped} of {len(systems)} systems"
        lines.append(f"Stopped early by {name}, for their training loss: {of}.")
    if sweep.confirm is None:
        lines.append(
            "Nothing is ranked: a search's own scores flatter what it chose; confirm it (confirm: ...)."
        )
    elif not studies.complete:
        lines.append("Nothing is ranked yet: the search goes on, and what it chooses is confirmed after it.")
    else:
        lines.append(
            "Ranked are the confirmed systems, on seeds that the search did not see; its own rows are not."
        )
    return lines


def _shown(row: Mapping[str, Any] | pd.Series) -> str:
    value = "unknown" if math.isnan(row["eval"]) else tables.percent(row["eval"])
    return f"{row['system']} {row['backend']}, eval {value}"


# -------------------------------------------------------------------------------------------------- a grid
def of_grid(board: Leaderboard, choose_by: str) -> tuple[pd.DataFrame, str]:
    """The choice of a grid among the ranked rows of its leaderboard.

    Args:
        choose_by: a ``<dcase>-dev`` column or a mean of dev columns.

    Returns:
        The rows of ``selection.csv``, the best objective first, and a sentence for the leaderboard. Without a
        ranked row the frame is empty.
    """
    ranked = board.frame[board.frame["rank"].notna()]
    frame = ranked.assign(
        objective=ranked[choose_by if choose_by in MEANS else f"{choose_by}_mean"],
        dev=ranked["dev_amean"],
        eval=ranked["eval_amean"],
        state="done",
        judged=True,
        selected=False,
        confirmed=False,
        oracle=False,
        dev_eval_correlation=math.nan,
    )
    frame = frame.reindex(columns=list(COLUMNS)).sort_values(
        "objective", ascending=False, kind="stable", ignore_index=True
    )
    if not len(frame):
        return frame, f"Nothing is chosen by {choose_by} yet: no row is complete."
    frame.loc[0, "selected"] = True
    frame["dev_eval_correlation"] = _dev_eval_correlation(frame)[0]
    line = f"Chosen by {choose_by} among {len(frame)} rows: {_shown(frame.iloc[0])}"
    if frame["eval"].notna().any():
        oracle = int(frame["eval"].argmax())
        frame.loc[oracle, "oracle"] = True
        place = int(frame["eval"].rank(method="min", ascending=False)[0])
        line += f", which is place {place} by eval. Oracle, the best possible (chosen by eval): "
        line += _shown(frame.iloc[oracle])
        rho = rank_correlation(frame["objective"].tolist(), frame["eval"].tolist())
        if rho is not None:
            line += f". Rank correlation (Spearman) of {choose_by} and eval over the rows: {rho:.2f}"
    return frame, f"{line}."
