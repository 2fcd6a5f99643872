"""Clips where UMAP places them: their colours, and the picture of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from asdray import drawing
from asdray.config.system import load_recipe
from asdray.config.system_names import system_names
from asdray.config.trial import Trial
from asdray.drawing import BLUE, COLOURS, GREY, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = "umap.parquet"
"""The file of a machine's points, in its folder ``umap``."""


@dataclass(frozen=True)
class Point:
    """A clip where UMAP places it.

    Attributes:
        domain: ``source`` or ``target``; None or ``""`` if unknown.
        is_anomaly: None if unknown.
    """

    clip: str
    x: float
    y: float
    split: str
    section: int
    domain: str | None
    is_anomaly: bool | None


_LABELS = {True: "test, anomaly", False: "test, normal", None: "test, unknown"}
_LABEL_COLOURS = {"training": GREY, "test, unknown": PURPLE, "test, normal": BLUE, "test, anomaly": RED}
_MARKERS = {"source": "o", "target": "^", "unknown": "s"}


def _label(point: Point) -> str:
    return "training" if point.split == "train" else _LABELS[point.is_anomaly]


def _attributes(point: Point) -> str:
    """The attributes in the name of a file, after its number."""
    parts = PurePosixPath(point.clip).stem.split("_")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal() and len(part) > 2]
    return "_".join(parts[numbers[-1] + 1 :]) or "none" if numbers else "none"


COLOURINGS: dict[str, Callable[[Point], str]] = {
    "label": _label,
    "domain": lambda point: point.domain or "unknown",
    "section": lambda point: f"section {point.section:02d}",
    "attribute": _attributes,
}
"""What points are coloured by -> the value of a point."""


def coloured(values: Sequence[str], most: int) -> dict[str, str]:
    """Value -> its colour, sorted by value: ``most`` values that are frequent have one, others are grey."""
    counts = Counter(values)
    frequent = sorted(value for value, _ in counts.most_common(most) if value != "training")
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(frequent)}
    return {value: colours.get(value, GREY) for value in sorted(counts)}


def picture(points: Sequence[Point], title: str) -> Figure:
    """The points by label and domain, and below by section and by attribute where there are several."""
    shown = [name for name in ("section", "attribute") if len({COLOURINGS[name](p) for p in points}) > 1]
    with drawing.sheet(2.9 + 3.0 * len(shown), title) as figure:
        first, *others = figure.subplots(1 + len(shown), squeeze=False)[:, 0]
        _by_label(first, points)
        for axes, name in zip(others, shown, strict=True):
            _by_value(axes, [COLOURINGS[name](point) for point in points], points)
            axes.set_title(f"by {name}")
        for axes in (first, *others):
            axes.set_axis_off()
            drawing.legend_below(axes)
    return figure


def _by_label(axes: Axes, points: Sequence[Point]) -> None:
    for label, colour in _LABEL_COLOURS.items():
        for domain, marker in _MARKERS.items():
            at = [p for p in points if (_label(p), COLOURINGS["domain"](p)) == (label, domain)]
            of_domain = "domain unknown" if domain == "unknown" else domain
            _scatter(axes, at, colour, f"{label}, {of_domain}", marker)


def _by_value(axes: Axes, values: Sequence[str], points: Sequence[Point]) -> None:
    """The points in a colour per value; rare values together, below the others."""
    colours = coloured(values, len(COLOURS) - 1)
    rare = [value for value, colour in colours.items() if colour == GREY]
    for value, colour in colours.items():
        if value not in rare:
            at = [point for point, own in zip(points, values, strict=True) if own == value]
            _scatter(axes, at, colour, value)
    at = [point for point, value in zip(points, values, strict=True) if value in rare]
    _scatter(axes, at, GREY, rare[0] if len(rare) == 1 else f"{len(rare)} others")


def _scatter(axes: Axes, points: Sequence[Point], colour: str, name: str, marker: str = "o") -> None:
    if points:
        x, y = [point.x for point in points], [point.y for point in points]
        size, order = (5, 1) if colour == GREY else (8, 2)
        name = f"{drawing.wrapped(name, 36, 1)[0]} ({len(points)})"
        # As pixels, since a thousand marks make a PDF slow.
        axes.scatter(
            x, y, s=size, c=colour, marker=marker, linewidths=0, label=name, zorder=order, rasterized=True
        )


def in_words(trial: Trial) -> str:
    """The system of a trial for people: its name in the sweep, or how it differs from the shipped recipe."""
    if trial.label not in ("", trial.recipe):
        return trial.label
    try:
        known = load_recipe(trial.recipe).system
    except ValueError:  # a recipe file of the user's, whose place nobody knows any more
        return trial.label or trial.system_name
    if known == trial.system:
        return trial.recipe
    systems = {"": known, trial.system_name: trial.system}
    named = {name: (trial.recipe, system.model_dump(mode="json")) for name, system in systems.items()}
    return system_names(named)[trial.system_name]
