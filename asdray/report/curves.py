"""Section: training curves of all trials."""

from __future__ import annotations

from collections.abc import Sequence

from asdray.drawing import COLOURS
from asdray.report.content import Content, Training
from asdray.report.figures import Choice, Figure, Section, left_out, rounded, thinned

MOST_LINES, MOST_POINTS = 200, 60


def section(content: Content) -> Section | None:
    """The curves per year, recipe and unit; None where nothing was trained."""
    lines: dict[tuple[str, ...], list[Training]] = {}
    for one in content.trainings:
        lines.setdefault((one.trial.dcase, one.trial.recipe, one.unit), []).append(one)
    if not lines:
        return None
    notes = ["The loss of every epoch, per year, recipe and training."]
    figures: dict[tuple[str, ...], Figure] = {}
    for key, of in lines.items():
        figures[key] = _figure(content, of)
        notes += left_out(min(len(of), MOST_LINES), len(of), f"trainings of {' '.join(key)}")
    longest = max(len(one.epochs) for one in content.trainings)
    if longest > MOST_POINTS:
        notes.append(f"Curves of more than {MOST_POINTS} epochs are drawn through {MOST_POINTS} of them.")
    return Section("curves", "Training", notes, [Choice(("year", "recipe", "training"), figures)])


def colours(of: Sequence[Training]) -> dict[str, str]:
    """System -> its colour; the colours repeat where there are more systems."""
    systems = dict.fromkeys(one.trial.system for one in of)
    return {system: COLOURS[i % len(COLOURS)] for i, system in enumerate(systems)}


def _figure(content: Content, of: Sequence[Training]) -> Figure:
    colour_of, named = colours(of), set()
    traces = []
    for index in thinned(len(of), MOST_LINES):
        one = of[index]
        system = one.trial.system
        at = thinned(len(one.epochs), MOST_POINTS)
        name = content.names.get(system, system)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "legendgroup": system,
                "showlegend": system not in named and len(colour_of) <= 12,
                "x": [one.epochs[i] for i in at],
                "y": rounded(one.losses[i] for i in at),
                "line": {"width": 1.2, "color": colour_of[system]},
                "hovertemplate": f"{name}, seed {one.trial.seed}<br>epoch %{{x}}: %{{y}}<extra></extra>",
            }
        )
        named.add(system)
    layout = {"height": 420, "xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "loss"}}}
    return {"data": traces, "layout": layout}
