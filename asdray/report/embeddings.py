"""Section: UMAP plots of embeddings, coloured by domain, label, attribute or section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from asdray import damage
from asdray.report.content import Content, TrialRow, read_csv
from asdray.report.figures import COLOURS, GREY, Choice, Figure, Section, left_out, rounded
from asdray.stages.extract import SPLITS

MOST_POINTS = 40_000
"""Points of all plots together; each takes about 80 bytes of the page."""

MOST_VALUES = 24
"""Values of a colouring that have a colour; the others are grey."""

_LABELS = {"True": "anomaly", "False": "normal"}


def section(content: Content) -> Section | None:
    """The plots of the best ranked systems; None without one."""
    figures: dict[tuple[str, ...], Figure] = {}
    points = total = 0
    # Backends share the embeddings of a machine.
    places = {(panel.trial, panel.machine, panel.checkpoint): None for panel in content.panels()}
    for trial, machine, checkpoint in places:
        path = trial.folder.umap(checkpoint, machine) / "umap.parquet"
        if not path.exists():
            continue
        total += 1
        if points < MOST_POINTS and (clips := _clips(path, trial, checkpoint, machine)):
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


def _clips(path: Path, trial: TrialRow, checkpoint: str, machine: str) -> list[dict[str, Any]]:
    """Clips with their position and facts; empty where a file is damaged."""
    try:
        rows = damage.read_parquet(path, ["clip", "x", "y"]).to_pylist()
    except ValueError:
        return []
    facts = {
        row["clip"]: {**row, "split": split}
        for split in SPLITS
        for row in read_csv(trial.folder.score_view(checkpoint, machine, split)) or ()
    }
    return [{**facts[row["clip"]], **row} for row in rows if row["clip"] in facts]


def _label(clip: Mapping[str, Any]) -> str:
    return "training" if clip["split"] == "train" else f"test, {_LABELS.get(clip['is_anomaly'], 'unknown')}"


def _attributes(clip: Mapping[str, Any]) -> str:
    """The attributes in the name of a file, after its number."""
    parts = PurePosixPath(clip["clip"]).stem.split("_")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal() and len(part) > 2]
    return "_".join(parts[numbers[-1] + 1 :]) or "none" if numbers else "none"


_COLOURINGS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "label": _label,
    "domain": lambda clip: clip["domain"] or "unknown",
    "section": lambda clip: f"section {int(clip['section']):02d}",
    "attribute": _attributes,
}


def _figure(clips: Sequence[Mapping[str, Any]]) -> Figure:
    """The points once, and a number per point and colouring: the page makes a trace of each value."""
    groups = {name: _group([of(clip) for clip in clips]) for name, of in _COLOURINGS.items()}
    shown = {name: group for name, group in groups.items() if len(group["values"]) > 1 or name == "label"}
    axis = {"visible": False}
    return {
        "points": {
            "x": rounded((clip["x"] for clip in clips), 3),
            "y": rounded((clip["y"] for clip in clips), 3),
            "text": [PurePosixPath(clip["clip"]).name for clip in clips],
            "crossed": [int(clip["is_anomaly"] == "True") for clip in clips],
            "groups": shown,
        },
        "layout": {"height": 520, "xaxis": axis, "yaxis": {**axis, "scaleanchor": "x"}},
    }


def _group(values: Sequence[str]) -> dict[str, Any]:
    """Titles and colours of the values, the most frequent ones in colour, and the value of each point."""
    counts = Counter(values)
    names = sorted(counts)
    frequent = sorted(value for value, _ in counts.most_common(MOST_VALUES) if value != "training")
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(frequent)}
    place = {name: i for i, name in enumerate(names)}
    return {
        "values": [[f"{name} ({counts[name]})", colours.get(name, GREY)] for name in names],
        "of": [place[value] for value in values],
    }
