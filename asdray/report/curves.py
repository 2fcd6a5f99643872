"""Section: training curves of all trials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asdray.report.content import Content, TrialRow, read_csv
from asdray.report.figures import COLOURS, Choice, Figure, Section, left_out, rounded, thinned
from asdray.store import EPOCHS_FILE

MOST_LINES, MOST_POINTS = 200, 60


def section(content: Content) -> Section | None:
    """The curves per year, recipe and unit; None where nothing was trained."""
    lines: dict[tuple[str, str, str], list[tuple[TrialRow, list[dict[str, str]]]]] = {}
    for trial, unit, rows in _curves(content):
        lines.setdefault((trial.dcase, trial.recipe, unit), []).append((trial, rows))
    if not lines:
        return None
    notes = ["The loss of every epoch, per year, recipe and training."]
    figures: dict[tuple[str, ...], Figure] = {}
    for key, of in lines.items():
        figures[key] = _figure(content, of)
        notes += left_out(min(len(of), MOST_LINES), len(of), f"trainings of {' '.join(key)}")
    longest = max(len(rows) for of in lines.values() for _, rows in of)
    if longest > MOST_POINTS:
        notes.append(f"Curves of more than {MOST_POINTS} epochs are drawn through {MOST_POINTS} of them.")
    return Section("curves", "Training", notes, [Choice(("year", "recipe", "training"), figures)])


def _curves(content: Content) -> Iterator[tuple[TrialRow, str, list[dict[str, str]]]]:
    """(trial, unit, rows of epochs); a unit of all machines is ``all``, whatever the machines are."""
    for trial in content.trials:
        for path in sorted((trial.folder.root / "model").glob(f"*/{EPOCHS_FILE}")):
            if rows := read_csv(path):
                yield trial, _unit(path), rows


def _unit(path: Path) -> str:
    name = path.parent.name
    return "all" if name.startswith("all-") else name


def _figure(content: Content, of: list[tuple[TrialRow, list[dict[str, str]]]]) -> Figure:
    systems = list(dict.fromkeys(trial.system for trial, _ in of))
    traces = []
    for index in thinned(len(of), MOST_LINES):
        trial, rows = of[index]
        at = thinned(len(rows), MOST_POINTS)
        name = content.names.get(trial.system, trial.system)
        first = all(trial.system != other.system for other, _ in of[:index])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "legendgroup": trial.system,
                "showlegend": first and len(systems) <= 12,
                "x": [int(rows[i]["epoch"]) for i in at],
                "y": rounded(float(rows[i]["loss"] or "nan") for i in at),
                "line": {"width": 1.2, "color": COLOURS[systems.index(trial.system) % len(COLOURS)]},
                "hovertemplate": f"{name}, seed {trial.seed}<br>epoch %{{x}}: %{{y}}<extra></extra>",
            }
        )
    layout = {"height": 420, "xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "loss"}}}
    return {"data": traces, "layout": layout}
