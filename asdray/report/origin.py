"""Sections: what was selected by what, figures of searches, and the provenance of all numbers."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from asdray import provenance, store
from asdray.config.files import read_yaml
from asdray.evaluation.tables import NO_VALUE, percent
from asdray.report.content import Content
from asdray.report.figures import Choice, Figure, Grid, Section, left_out
from asdray.results import flat

MOST_ROWS = 200


def selection(content: Content) -> Section | None:
    """The rows among which something was chosen; None without a choice."""
    frame = content.selection
    if frame is None or frame.empty:
        return None
    rows = []
    for row in frame.head(MOST_ROWS).to_dict("records"):
        marks = [name for name in ("selected", "confirmed", "oracle") if row.get(name) is True]
        name = content.names.get(row["system"], str(row["system"]))
        scores = [NO_VALUE if pd.isna(row[column]) else percent(row[column]) for column in ("dev", "eval")]
        objective = NO_VALUE if pd.isna(row["objective"]) else f"{row['objective']:.5g}"
        rows.append([name, str(row["backend"]), objective, *scores, ", ".join(marks)])
    notes = [
        "The objective chooses; official scores in percent stand beside it. The oracle is the best eval "
        "score, by which nothing may be chosen: its difference to the selected row is the loss by selection.",
        *_correlations(frame),
        *left_out(len(rows), len(frame), "rows, the best objective first"),
    ]
    header = ["system", "backend", "objective", "dev", "eval", ""]
    return Section("selection", "Selection", notes, [Grid(header, rows, right=("objective", "dev", "eval"))])


def _correlations(frame: pd.DataFrame) -> list[str]:
    """A sentence with the rank correlation of dev and eval, of each recipe of a search; none without one."""
    found = frame.dropna(subset="dev_eval_correlation").groupby("recipe")["dev_eval_correlation"].first()
    shown = [f"{rho:.2f} ({recipe})" for recipe, rho in found.items()]
    if shown and frame["dev_eval_correlation"].nunique(dropna=False) == 1:  # a grid, or one recipe
        shown = [f"{found.iloc[0]:.2f}"]
    return [f"Rank correlation (Spearman) of dev and eval: {', '.join(shown)}."] if shown else []


def search(content: Content) -> Section | None:
    """Parallel coordinates, slices and importances of every study, drawn by Optuna; None without a search."""
    figures: dict[tuple[str, ...], Figure] = {}
    for recipe, study in content.studies.items():
        for name, figure in _drawn(study).items():
            figures[recipe, name] = figure
    if not figures:
        return None
    return Section("search", "Search", [], [Choice(("recipe", "figure"), figures)])


def _drawn(study: Any) -> dict[str, Figure]:
    """Name -> figure of a study; without the figures that need more finished samples."""
    from optuna import visualization

    kinds: dict[str, Any] = {
        "parallel coordinates": visualization.plot_parallel_coordinate,
        "slices": visualization.plot_slice,
        "importances": visualization.plot_param_importances,
        "history": visualization.plot_optimization_history,
    }
    found: dict[str, Figure] = {}
    for name, draw in kinds.items():
        # Optuna refuses a figure where there is nothing to compare: one sample, or one value.
        with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
            figure = json.loads(draw(study).to_json())
            layout = figure["layout"]
            layout.pop("template", None)
            found[name] = {"data": figure["data"], "layout": {**layout, "height": 460}}
    return {name: figure for name, figure in found.items() if figure["data"]}


def sources(content: Content) -> Section:
    """Data, versions that made the trials' tables, and the sweep file with all defaults."""
    board = content.board
    facts = [
        ["sweep", content.folder.root.name],
        ["data", board.dataset],
        ["trials", str(len(content.trials))],
        ["page written", provenance.now()],
        *_versions(content),
    ]
    notes = [note for note in board.notes if note.startswith("Weights ")]
    parts = [Grid(["", ""], facts), Grid(["option", "value"], list(map(list, _options(content))))]
    return Section("origin", "Provenance", notes, parts)


def _versions(content: Content) -> list[list[str]]:
    """Package and version in the records of the trials' tables; several versions with their trials."""
    found: dict[str, Counter[str]] = {}
    for trial in content.trials:
        record = store.read_record(trial.folder.root, "table")
        for name, version in record.versions.items() if record else ():
            found.setdefault(name, Counter())[version or "unknown"] += 1
    return [
        [name, next(iter(of)) if len(of) == 1 else ", ".join(f"{v} ({n} trials)" for v, n in of.items())]
        for name, of in found.items()
    ]


def _options(content: Content) -> list[tuple[str, str]]:
    """Dotted option -> value of the sweep file."""
    try:
        spec = read_yaml(content.folder.spec)
    except (OSError, ValueError):
        return []
    options = flat(spec) if isinstance(spec, Mapping) else {}
    return [(name, str(value)) for name, value in options.items() if value not in (None, "[]")]
