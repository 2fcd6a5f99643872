"""Section: the score of every system on every machine, as a heat map per year and subset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from asdray.evaluation.tables import HEAD
from asdray.report.content import Content
from asdray.report.figures import Choice, Figure, Section, left_out, rounded

MOST_ROWS = 40


@dataclass(frozen=True)
class HeatMap:
    """Scores in percent of a year's subset, a row per system, the best ranked first.

    Attributes:
        columns: machines, and ``total``.
        rows: names of the rows.
        of: number of rows before the last ones were left out.
        values: mean over seeds, one list per row.
        spreads: standard deviation over seeds; NaN for one seed.
    """

    columns: list[str]
    rows: list[str]
    of: int
    values: list[list[float]]
    spreads: list[list[float]]


def heat_maps(content: Content, most: int) -> dict[tuple[str, str], HeatMap]:
    """(dcase, subset) -> heat map of at most ``most`` rows; without those that have no score."""
    found: dict[tuple[str, str], HeatMap] = {}
    for (dcase, subset), table in content.tables.items():
        rows = _ranked(content, table.dropna(subset=["total_mean"]))
        if len(rows):
            found[dcase, subset] = _heat_map(content, rows, most)
    return found


def section(content: Content) -> Section | None:
    """The heat maps; None without a score."""
    found = heat_maps(content, MOST_ROWS)
    if not found:
        return None
    notes = [
        "Official score in percent, mean over seeds; the spread over seeds stands in the label of a cell."
    ]
    for (dcase, subset), heat_map in found.items():
        of_year = f"rows of {dcase} {subset}, the best ranked"
        notes += left_out(len(heat_map.rows), heat_map.of, of_year)
    figures: dict[tuple[str, ...], Figure] = {key: _figure(heat_map) for key, heat_map in found.items()}
    return Section("machines", "Machines", notes, [Choice(("year", "subset"), figures)])


def _ranked(content: Content, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table in the order of the leaderboard."""
    place = {key: i for i, key in enumerate(content.rows)}
    keys = table[["system", "backend_id", "checkpoint"]].itertuples(index=False, name=None)
    order = [place.get(key, len(place)) for key in keys]
    return table.assign(_place=order).sort_values("_place", kind="stable").drop(columns="_place")


def _heat_map(content: Content, table: pd.DataFrame, most: int) -> HeatMap:
    rows = table.head(most)
    spreads = [name for name in rows.columns if name.endswith("_std")]
    machines = [n for n in rows.columns if n not in HEAD and n not in spreads and n != "total_mean"]
    keys = rows[["system", "checkpoint", "backend"]].to_numpy(str).tolist()
    return HeatMap(
        columns=[*machines, "total"],
        rows=[content.title(system, checkpoint, backend) for system, checkpoint, backend in keys],
        of=len(table),
        values=(100 * rows[[*machines, "total_mean"]]).to_numpy(float).tolist(),
        spreads=(100 * rows[[f"{name}_std" for name in (*machines, "total")]]).to_numpy(float).tolist(),
    )


def _figure(heat_map: HeatMap) -> Figure:
    trace = {
        "type": "heatmap",
        "x": heat_map.columns,
        "y": heat_map.rows[::-1],
        "z": [rounded(line) for line in heat_map.values[::-1]],
        "customdata": [list(map(_spread, line)) for line in heat_map.spreads[::-1]],
        "hovertemplate": "%{y}<br>%{x}: %{z:.2f}%{customdata}<extra></extra>",
        "texttemplate": "%{z:.1f}" if len(heat_map.columns) <= 17 else "",
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
        "xgap": 1,
        "ygap": 1,
    }
    layout = {
        "height": 140 + 26 * len(heat_map.rows),
        "xaxis": {"side": "top", "tickangle": -40, "constrain": "domain"},
        "yaxis": {"automargin": True},
    }
    return {"data": [trace], "layout": layout}


def _spread(value: float) -> str:
    return "" if math.isnan(value) else f" ± {value:.2f}"
