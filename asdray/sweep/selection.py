"""Honest selection: what a search chose, how good that is on eval, and how good the best would have been."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from asdray.config.backend import backend_id
from asdray.config.trial import Trial
from asdray.evaluation import leaderboard, metrics, tables
from asdray.evaluation.tables import Tables
from asdray.sweep.objective import ANY
from asdray.sweep.study import Sample, Studies

COLUMNS = (
    "recipe", "sample", "state", "system", "options", "backend", "backend_id", "checkpoint", "objective",
    "dev", "eval", "judged", "selected", "confirmed", "oracle",
)  # fmt: skip
"""Of ``selection.csv``, which adds the kind of data: one row per system, backend and checkpoint of a search,
the best value first.

``objective`` is the sample's value; ``dev`` and ``eval`` are official scores on the years and seeds of the
search, null unless all of them are there. ``judged`` marks the row of each system that its recipe's choice is
between, ``selected`` the best of them, ``oracle`` the row with the best eval score: nothing may be chosen by
that.
"""


def judged_row(studies: Studies, sample: Sample) -> tuple[str, str]:
    """The backend's id and the checkpoint that a sample stands for.

    Where the objective scores no clip that is the first backend that applies to it.
    """
    objective = studies.sweep.search.objective
    assert objective is not None
    backend = sample.backend
    if backend is None or backend == ANY:
        backend = backend_id(studies.trials(sample)[0].backends(studies.sweep.backends)[0])
    return backend, objective.checkpoint


def confirmed_rows(studies: Studies) -> pd.DataFrame:
    """The rows of confirming trials that were chosen, see `tables.planned_rows`.

    A backend or checkpoint that the objective chose is part of the choice; where it looked at none, all
    of them are as fixed as in a grid.
    """
    chosen = {
        f"{s.recipe}-{s.system.id}": judged_row(studies, s)
        for s in studies.chosen()
        if s.system is not None and s.backend not in (None, ANY)
    }
    sweep = studies.sweep
    trials = [trial for sample in studies.chosen() for trial in studies.confirming(sample)]
    planned = tables.planned_rows(trials, sweep.checkpoints, sweep.backends)
    rows = zip(planned["system"], planned["backend"], planned["checkpoint"], strict=True)
    return planned.loc[[chosen.get(system, (b, c)) == (b, c) for system, b, c in rows]]


def selected_by(studies: Studies) -> dict[str, str]:
    """Recipe -> ``official_dev (search, 20 systems)``: what confirmed rows were chosen by."""
    objective = studies.sweep.search.objective
    assert objective is not None
    counts = Counter(s.recipe for s in studies.systems())
    return {recipe: f"{objective.metric} (search, {counts[recipe]} systems)" for recipe in studies.recipes}


def in_the_search(studies: Studies) -> str:
    """What stands in the same column of the search's own rows."""
    objective = studies.sweep.search.objective
    assert objective is not None
    return f"{objective.metric} (in the search)"


def with_oracles(rows: Iterable[Mapping[Any, Any]], frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """A search's rows of the leaderboard, of which those are marked that are best on eval.

    Args:
        frame: from `table`.
    """
    key = ["system", "backend_id", "checkpoint"]
    oracles = set(frame.loc[frame["oracle"], key].itertuples(index=False, name=None))
    return [
        {**row, "selected_by": f"{row['selected_by']}; oracle"}
        if tuple(row[k] for k in key) in oracles
        else {**row}
        for row in rows
    ]


def table(studies: Studies, made: Tables) -> pd.DataFrame:
    """The rows of ``selection.csv``.

    Args:
        made: the official tables of the search's trials, over all of its years.
    """
    scores = _scores(made)
    names = {s: i for i, s in enumerate(["done", "open", "stopped", "failed"])}
    best = {id(s) for recipe in studies.recipes for s in studies.ranked(recipe)[:1]}
    chosen = {id(s) for s in studies.chosen()}
    rows = []
    order = [*studies.ranked(), *(s for s in studies.systems() if s.state != "done")]
    for sample in order:
        assert sample.system is not None
        system = f"{sample.recipe}-{sample.system.id}"
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
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["sample"] = frame["sample"].astype("Int64")
    frame[["objective", "dev", "eval"]] = frame[["objective", "dev", "eval"]].astype("float64")
    # The best values of each recipe stand together; what has none follows.
    frame = frame.assign(_order=[names[s] for s in frame["state"]])
    frame = frame.sort_values(["_order"], kind="stable", ignore_index=True).drop(columns="_order")
    frame["oracle"] = False
    for _, own in frame.groupby("recipe"):
        if own["eval"].notna().any():
            frame.loc[own["eval"].idxmax(), "oracle"] = True
    return frame


def _scores(made: Tables) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """System -> (backend id, checkpoint) -> options, backend, and the means over the years: dev, eval."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for (_, subset), frame in made.items():
        for row in frame.to_dict("records"):
            own = found.setdefault(row["system"], {}).setdefault(
                (row["backend_id"], row["checkpoint"]),
                {"options": row["options"], "backend": row["backend"], "dev": [], "eval": []},
            )
            whole = row["n"] == row["n_expected"] and not math.isnan(row["total_mean"])
            own[subset].append(row["total_mean"] if whole else None)
    for rows in found.values():
        for own in rows.values():
            for subset in ("dev", "eval"):
                own[subset] = metrics.arithmetic_mean(own[subset]) if own[subset] else None
    return found


def rank_correlation(dev: Sequence[float], eval_: Sequence[float]) -> float | None:
    """Spearman's of N systems' dev and eval scores; None for fewer than three, or where all are equal."""
    from scipy.stats import spearmanr

    if len(dev) < 3 or len(set(dev)) == 1 or len(set(eval_)) == 1:
        return None
    return float(spearmanr(dev, eval_).statistic)


def notes(studies: Studies, frame: pd.DataFrame) -> list[str]:
    """What stands beside the leaderboard of a search.

    Args:
        frame: from `table`.
    """
    objective = studies.sweep.search.objective
    assert objective is not None
    lines = []
    for recipe in studies.recipes:
        own = frame[frame["recipe"] == recipe]
        judged = own[own["judged"] & own["dev"].notna() & own["eval"].notna()]
        n = sum(s.recipe == recipe for s in studies.systems())
        selected, oracle = own[own["selected"]], own[own["oracle"]]
        if not len(selected):
            continue
        line = f"{recipe}: selected by {objective.metric} among {n} systems: {_shown(selected.iloc[0])}"
        if len(oracle):
            line += f". Oracle, the best possible (chosen by eval, never ranked): {_shown(oracle.iloc[0])}"
        rho = rank_correlation(judged["dev"].tolist(), judged["eval"].tolist())
        if rho is not None:
            line += f". Rank correlation (Spearman) of dev and eval over {len(judged)} systems: {rho:.2f}"
        lines.append(f"{line}.")
    scheduler = studies.sweep.scheduler
    if scheduler and (n := sum(s.state == "stopped" for s in studies.systems())):
        of = len(studies.systems())
        lines.append(f"Stopped early by {scheduler.name}, for their training loss: {n} of {of} systems.")
    if studies.sweep.confirm is None:
        lines.append(
            "Nothing is ranked: a search's own scores flatter what it chose; confirm it (confirm: ...)."
        )
    elif not studies.over:
        lines.append("Nothing is ranked yet: the search goes on, and what it chooses is confirmed after it.")
    else:
        lines.append(
            "Ranked are the confirmed systems, on seeds that the search did not see; its own rows are not."
        )
    return lines


def _shown(row: Mapping[str, Any] | pd.Series) -> str:
    value = "unknown" if math.isnan(row["eval"]) else f"{100 * row['eval']:.2f}"
    return f"{row['system']} {row['backend']}, eval {value}"


@dataclass(frozen=True)
class Searched:
    """What a search adds to a sweep's outputs.

    Attributes:
        selected_by: recipe -> that of its confirmed rows.
        rows: its own, for the leaderboard to show without a rank, the best by the objective first.
        tables: of its own trials, over the years of the leaderboard.
        frame: ``selection.csv``.
        notes: what stands beside the leaderboard.
    """

    selected_by: Mapping[str, str]
    rows: list[dict[Any, Any]]
    tables: Tables
    frame: pd.DataFrame
    notes: tuple[str, ...]


def searched(
    studies: Studies,
    trials: Sequence[Trial],
    finished: Sequence[Path],
    machines: Mapping[str, Sequence[str]],
    sources: Mapping[str, str],
    dataset: str,
    labels: Mapping[str, str],
    options: Mapping[str, str],
    metric: str,
) -> Searched:
    """What a search adds to a sweep's outputs.

    Args:
        trials: of its samples.
        finished: ``metrics.parquet`` of every finished trial.
        machines, sources: of the leaderboard's years.
        dataset: ``official`` or ``synthetic``.
        labels, options: as for `tables.sweep_tables`.
    """
    sweep = studies.sweep
    planned = tables.planned_rows(trials, sweep.checkpoints, sweep.backends)
    years = {dcase: sweep.machines_of(dcase) for dcase in sweep.dcase}
    official = tables.sweep_tables(tables.load_rows(finished), planned, years, labels, options)
    frame = table(studies, official)
    shown = tables.sweep_tables(
        tables.load_rows(finished, metric), planned, machines, labels, options, metric
    )
    rows = leaderboard.rows_of(shown, machines, sources, dataset, in_the_search(studies))
    rows = with_oracles(rows, frame)
    order = list(dict.fromkeys(frame["system"]))
    rows.sort(key=lambda row: order.index(row["system"]))
    return Searched(selected_by(studies), rows, shown, frame, tuple(notes(studies, frame)))
