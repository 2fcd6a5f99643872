"""Section: the score of every system on every machine, as a heat map per year and subset."""

from __future__ import annotations

import math

import pandas as pd

from asdray.evaluation.tables import HEAD
from asdray.report.content import Content
from asdray.report.figures import Choice, Figure, Section, left_out, rounded

MOST_ROWS = 40


def section(content: Content) -> Section | None:
    """The heat maps; None without a score."""
    figures: dict[tuple[str, ...], Figure] = {}
    notes: list[str] = []
    for (dcase, subset), table in content.tables.items():
        rows = _ranked(content, table.dropna(subset=["total_mean"]))
        if len(rows):
            figures[dcase, subset] = _heat_map(content, rows.head(MOST_ROWS))
            notes += left_out(
                min(len(rows), MOST_ROWS), len(rows), f"rows of {dcase} {subset}, the best ranked"
            )
    if not figures:
        return None
    about = "Official score in percent, mean over seeds; the spread over seeds stands in the label of a cell."
    return Section("machines", "Machines", [about, *notes], [Choice(("year", "subset"), figures)])


def _ranked(content: Content, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table in the order of the leaderboard."""
    place = {key: i for i, key in enumerate(content.rows)}
    keys = table[["system", "backend_id", "checkpoint"]].itertuples(index=False, name=None)
    order = [place.get(key, len(place)) for key in keys]
    return table.assign(_place=order).sort_values("_place", kind="stable").drop(columns="_place")


def _heat_map(content: Content, rows: pd.DataFrame) -> Figure:
    spreads = [name for name in rows.columns if name.endswith("_std")]
    machines = [n for n in rows.columns if n not in HEAD and n not in spreads and n != "total_mean"]
    shown = [*machines, "total_mean"]
    keys = rows[["system", "checkpoint", "backend"]].to_numpy(str).tolist()
    labels = [content.title(system, checkpoint, backend) for system, checkpoint, backend in keys]
    z = [rounded(100 * rows[name]) for name in shown]
    spread = [_spread(rows[f"{name.removesuffix('_mean')}_std"]) for name in shown]
    trace = {
        "type": "heatmap",
        "x": [*machines, "total"],
        "y": labels[::-1],
        "z": [list(line) for line in zip(*z, strict=True)][::-1],
        "customdata": [list(line) for line in zip(*spread, strict=True)][::-1],
        "hovertemplate": "%{y}<br>%{x}: %{z:.2f}%{customdata}<extra></extra>",
        "texttemplate": "%{z:.1f}" if len(machines) <= 16 else "",
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
        "xgap": 1,
        "ygap": 1,
    }
    layout = {
        "height": 140 + 26 * len(rows),
        "xaxis": {"side": "top", "tickangle": -40, "constrain": "domain"},
        "yaxis": {"automargin": True},
    }
    return {"data": [trace], "layout": layout}


def _spread(column: pd.Series) -> list[str]:
    return ["" if math.isnan(value) else f" ± {100 * value:.2f}" for value in column]
