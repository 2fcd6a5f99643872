"""Section: UMAP plots of embeddings, coloured by domain, label, attribute or section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from asdray import damage
from asdray.points import COLOURINGS, POINTS, Point, coloured
from asdray.report.content import Content, TrialRow, read_csv
from asdray.report.figures import Choice, Figure, Section, left_out, rounded
from asdray.stages.extract import SPLITS

MOST_POINTS = 40_000
"""Points of all plots together; each takes about 80 bytes of the page."""

MOST_VALUES = 24
"""Values of a colouring that have a colour; the others are grey."""

_LABELS = {"True": True, "False": False}


def section(content: Content) -> Section | None:
    """The plots of the best ranked systems; None without one."""
    figures: dict[tuple[str, ...], Figure] = {}
    points = total = 0
    # Backends share the embeddings of a machine.
    places = {(panel.trial, panel.machine, panel.checkpoint): None for panel in content.panels()}
    for trial, machine, checkpoint in places:
        if not (trial.folder.umap(checkpoint, machine) / POINTS).exists():
            continue
        total += 1
        if points < MOST_POINTS and (clips := points_of(trial, checkpoint, machine)):
            points += len(clips)
            figures[trial.dcase, machine, content.title(trial.system, checkpoint)] = _figure(clips)
    if not figures:
        return None
    notes = [
        "Embeddings of the first seed in two dimensions, for the eye only. A click on a name of the legend "
        "hides its clips; the pointer on a clip shows its file.",
        *left_out(len(figures), total, "plots, those of the best ranked systems"),
    ]
    return Section("umap", "UMAP", notes, [Choice(("year", "machine", "system"), figures)])


def points_of(trial: TrialRow, checkpoint: str, machine: str) -> list[Point]:
    """The clips of a machine where UMAP places them; empty where a file is missing or damaged."""
    try:
        table = damage.read_parquet(trial.folder.umap(checkpoint, machine) / POINTS, ["clip", "x", "y"])
    except ValueError:
        return []
    facts = {
        row["clip"]: (split, row)
        for split in SPLITS
        for row in read_csv(trial.folder.score_view(checkpoint, machine, split)) or ()
    }
    found = []
    for clip, x, y in zip(*(table[name].to_pylist() for name in ("clip", "x", "y")), strict=True):
        if clip in facts:
            split, row = facts[clip]
            label = _LABELS.get(row["is_anomaly"])
            found.append(Point(clip, x, y, split, int(row["section"]), row["domain"], label))
    return found


def _figure(clips: Sequence[Point]) -> Figure:
    """The points once, and a number per point and colouring: the page makes a trace of each value."""
    groups = {}
    for name, of in COLOURINGS.items():
        values = [of(clip) for clip in clips]
        colours = coloured(values, MOST_VALUES)
        place = {value: i for i, value in enumerate(colours)}
        if len(colours) > 1 or name == "label":
            titles = [[f"{value} ({values.count(value)})", colour] for value, colour in colours.items()]
            groups[name] = {"values": titles, "of": [place[value] for value in values]}
    axis = {"visible": False}
    return {
        "points": {
            "x": rounded((clip.x for clip in clips), 3),
            "y": rounded((clip.y for clip in clips), 3),
            "text": [PurePosixPath(clip.clip).name for clip in clips],
            "crossed": [int(clip.is_anomaly is True) for clip in clips],
            "groups": groups,
        },
        "layout": {"height": 520, "xaxis": axis, "yaxis": {**axis, "scaleanchor": "x"}},
    }
