"""The content of a report from a table of `asdray.load_results`: what the table and its trials have."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from asdray import store
from asdray.config.system_names import sampled_name, system_names
from asdray.dcase.years import SUBSETS, get_year
from asdray.evaluation import leaderboard, published, tables
from asdray.points import in_words
from asdray.report.content import Content, TrialRow
from asdray.results import FIRST, FOLDER, RESULTS, THEN, from_json
from asdray.stages.trial_json import read_trial
from asdray.store import SweepDir


def content_of(frame: pd.DataFrame) -> Content:
    """Leaderboard, tables and trials of a table of results, whatever rows of the table are left.

    The metric is ``official``, or the only one in the table. Trials without a row are unknown: no row of the
    leaderboard is incomplete for want of a seed.

    Args:
        frame: from `asdray.load_results`, with all columns that are not options.

    Raises:
        ValueError: no rows, or a missing column; several metrics and not ``official``; official and synthetic
            data in one table.
    """
    if lacking := [name for name in (*FIRST, *THEN) if name not in frame.columns]:
        raise ValueError(
            f"this is no table of load_results: the column {lacking[0]!r} is missing; filter rows, such as "
            "frame.query(\"machine == 'fan'\"), and keep the columns"
        )
    if frame.empty:
        raise ValueError("there are no rows left: a filter was too narrow, or nothing is evaluated yet")
    if frame["dataset"].nunique() > 1:
        raise ValueError(
            "official and synthetic results never stand in one picture: choose one, "
            "frame.query(\"dataset == 'official'\")"
        )
    metric = _metric(frame)
    rows = frame.drop(columns="backend").rename(columns={"backend_id": "backend"})
    rows = rows[list(tables.COLUMNS)].drop_duplicates()
    context = _context(frame)
    planned = rows[["dcase", *tables.TRIAL_KEYS]].drop_duplicates()
    scores = tables.sweep_tables(rows, planned, context, metric)
    extra: list[dict[str, Any]] = []
    if context.dataset == "official":
        whole = [f"{d}-{s}" for d, s in scores if tables.coverage(d, s, context.machines[d]) == "all"]
        extra = published.leaderboard_rows(whole, metric)
    board = leaderboard.build(scores, context, extra=extra, metric=metric)
    trials = _trials(frame)
    board = replace(board, labels=_labels(frame, trials))
    folder = SweepDir(Path(frame.attrs.get(FOLDER, "")))
    return Content(folder, board, scores, known_trials=trials)


def _metric(frame: pd.DataFrame) -> str:
    metrics = list(frame["metric"].unique())
    if "official" not in metrics and len(metrics) > 1:
        raise ValueError(f"choose one metric of {', '.join(metrics)}: frame.query(\"metric == 'mix_auc'\")")
    return "official" if "official" in metrics else str(metrics[0])


def _context(frame: pd.DataFrame) -> tables.TableContext:
    machines = {}
    for dcase in sorted(frame["dcase"].unique()):
        own = set(frame["machine"][frame["dcase"] == dcase])
        of_year = [name for subset in SUBSETS for name in get_year(dcase).machines[subset]]
        machines[dcase] = [name for name in dict.fromkeys(of_year) if name in own]
    return tables.TableContext(
        machines=machines,
        dataset=str(frame["dataset"].iloc[0]),
        label_sources=dict.fromkeys(machines, ""),
        labels=dict(zip(frame["backend_id"], frame["backend"], strict=True)),
    )


def _labels(frame: pd.DataFrame, trials: Sequence[TrialRow]) -> dict[str, str]:
    """System -> its name for people among the systems of the table.

    A single system has all swept options; without swept options, as of a trial's folder, those in which the
    system differs from the shipped recipe.
    """
    swept = [str(name) for name in frame.columns if name not in (*FIRST, *THEN, "part")]
    rows = frame[[*FIRST, *swept]].drop_duplicates("system").to_dict("records")
    own = {
        row["system"]: (
            row["recipe"],
            {name: from_json(row[name]) for name in swept if not pd.isna(row[name])},
        )
        for row in rows
        if row["recipe"] != "ensemble"
    }
    if len(own) == 1:
        ((system, (recipe, options)),) = own.items()
        if trials and not options:
            with contextlib.suppress(ValueError):  # a plugin's, a folder that was moved: the recipe alone
                return {system: in_words(read_trial(trials[0].folder.root)[0])}
        return {system: sampled_name(recipe, options, {recipe: dict.fromkeys(options, ())})}
    return system_names(own)


def _trials(frame: pd.DataFrame) -> list[TrialRow]:
    """The trials of the table; without ensembles, whose seed is -1, and without a results folder none."""
    if RESULTS not in frame.attrs:
        return []
    keys = frame[["dcase", "recipe", "system", "seed"]].drop_duplicates()
    results = Path(frame.attrs[RESULTS])
    return [
        TrialRow(dcase, recipe, system, seed, store.named_trial_dir(results, dcase, system, seed))
        for dcase, recipe, system, seed in keys.itertuples(index=False, name=None)
        if recipe != "ensemble"
    ]
