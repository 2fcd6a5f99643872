"""Section: distributions of scores with the decision threshold, and ROC curves, per machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from asdray.evaluation.metrics import MAX_FPR, auc
from asdray.evaluation.submission import decision_threshold
from asdray.report.content import Content, Panel, read_csv
from asdray.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    RED,
    SKY,
    Choice,
    Figure,
    Section,
    left_out,
    rounded,
    thinned,
)
from asdray.stages.extract import SPLITS

MOST_FIGURES, BINS, MOST_POINTS = 120, 40, 80
_GROUPS = (
    ("source", "False", "normal, source", BLUE),
    ("target", "False", "normal, target", SKY),
    ("source", "True", "anomaly, source", RED),
    ("target", "True", "anomaly, target", ORANGE),
)

Rows = list[dict[str, str]]


def section(content: Content) -> Section | None:
    """Histograms and ROC curves of the best ranked rows; None without a score file."""
    panels = list(content.panels())
    shown = panels[:MOST_FIGURES]
    drawn = _drawn(shown)
    if not drawn:
        return None
    histograms: dict[tuple[str, ...], Figure] = {}
    curves: dict[tuple[str, ...], Figure] = {}
    for panel in (panel for panel in shown if panel in drawn):
        row = content.title(panel.trial.system, panel.checkpoint, content.label(panel.backend))
        key = panel.trial.dcase, panel.machine, row
        histograms[key], roc = drawn[panel]
        if roc:
            curves[key] = roc
    notes = [
        "Scores of the first seed: the test clips by domain and label, the training clips behind, and the "
        "decision threshold (the 0.9 quantile of a gamma distribution over training scores).",
        f"ROC curves: the shaded part, false positive rates up to {MAX_FPR}, is what the pAUC sees.",
        *left_out(len(histograms), len(panels), "combinations, those of the best ranked rows"),
    ]
    names = ("year", "machine", "system")
    return Section("scores", "Scores", notes, [Choice(names, histograms), Choice(names, curves)])


def _drawn(panels: Sequence[Panel]) -> dict[Panel, tuple[Figure, Figure | None]]:
    """Histogram and ROC curve of each panel whose files are there; backends share files, each read once."""
    found = {}

    def place(panel: Panel) -> tuple[str, str, str]:
        return str(panel.trial.folder.root), panel.checkpoint, panel.machine

    for _, group in itertools.groupby(sorted(panels, key=place), place):
        of_machine = list(group)
        panel = of_machine[0]
        views = [panel.trial.folder.score_view(panel.checkpoint, panel.machine, s) for s in SPLITS]
        train, test = map(read_csv, views)
        for panel in of_machine:
            if train and test and panel.backend in test[0]:
                own = [float(row[panel.backend]) for row in train]
                found[panel] = _histogram(test, own, panel.backend), _roc(test, panel.backend)
    return found


def _histogram(test: Rows, train: list[float], backend: str) -> Figure:
    values = np.array([float(row[backend]) for row in test])
    edges = np.histogram_bin_edges(np.concatenate([values, train]), BINS)
    first, width = rounded([(edges[0] + edges[1]) / 2, edges[1] - edges[0]], 6)

    def bars(name: str, at: np.ndarray, colour: str, opacity: float = 0.65) -> dict[str, Any]:
        share = np.histogram(at, edges)[0] / max(1, len(at))
        return {
            "type": "bar", "name": f"{name} ({len(at)})", "x0": first, "dx": width, "width": width,
            "y": rounded(share),
            "marker": {"color": colour, "opacity": opacity},
            "hovertemplate": f"{name}<br>%{{x}}: %{{y:.1%}}<extra></extra>",
        }  # fmt: skip

    traces = [bars("training", np.array(train), GREY, 0.3)]
    known = {(domain, label) for domain, label, _, _ in _GROUPS}
    for domain, label, name, colour in _GROUPS:
        at = [(row["domain"], row["is_anomaly"]) == (domain, label) for row in test]
        if any(at):
            traces.append(bars(name, values[at], colour))
    other = [(row["domain"], row["is_anomaly"]) not in known for row in test]
    if any(other):
        traces.append(bars("test, unknown", values[other], COLOURS[2]))
    layout: Figure = {
        "barmode": "overlay",
        "height": 380,
        "xaxis": {"title": {"text": "anomaly score"}},
        "yaxis": {"title": {"text": "share of clips"}, "tickformat": ".0%"},
    }
    threshold = _threshold(train)
    if threshold is not None:
        line = {"color": "#000", "width": 1.5, "dash": "dash"}
        layout["shapes"] = [
            {
                "type": "line",
                "x0": threshold,
                "x1": threshold,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": line,
            }
        ]
        layout["annotations"] = [
            {
                "x": threshold,
                "y": 1,
                "yref": "paper",
                "text": "threshold",
                "showarrow": False,
                "yanchor": "bottom",
            }
        ]
    return {"data": traces, "layout": layout}


def _threshold(train: list[float]) -> float | None:
    try:
        return rounded([decision_threshold(train).value], 6)[0]
    except ValueError:
        return None


def _roc(test: Rows, backend: str) -> Figure | None:
    """The ROC curve of all sections, and of each domain against all anomalies as the official AUC has it."""
    traces = []
    rows = [row for row in test if row["is_anomaly"] in ("True", "False")]
    anomalies = [float(row[backend]) for row in rows if row["is_anomaly"] == "True"]
    for name, colour, domains in (
        ("all clips", BLUE, None),
        ("normal clips of the source domain", GREY, "source"),
        ("normal clips of the target domain", ORANGE, "target"),
    ):
        normals = [
            float(r[backend]) for r in rows if r["is_anomaly"] == "False" and domains in (None, r["domain"])
        ]
        if anomalies and normals and (domains is None or len({r["domain"] for r in rows}) > 1):
            traces.append(_curve(name, colour, np.array(normals), np.array(anomalies)))
    if not traces:
        return None
    diagonal = {"dash": "dot", "color": GREY, "width": 1}
    shapes = [
        {"type": "rect", "x0": 0, "x1": MAX_FPR, "y0": 0, "y1": 1, "fillcolor": SKY, "opacity": 0.15,
         "line": {"width": 0}},
        {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "line": diagonal},
    ]  # fmt: skip
    layout = {
        "height": 420,
        "xaxis": {"title": {"text": "false positive rate"}, "range": [0, 1], "constrain": "domain"},
        "yaxis": {"title": {"text": "true positive rate"}, "range": [0, 1.02]},
        "shapes": shapes,
    }
    return {"data": traces, "layout": layout}


def _curve(name: str, colour: str, normals: np.ndarray, anomalies: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import roc_curve

    scores, labels = np.r_[normals, anomalies], np.arange(len(normals) + len(anomalies)) >= len(normals)
    fpr, tpr, _ = roc_curve(labels, scores)
    at = thinned(len(fpr), MOST_POINTS)
    return {
        "type": "scatter", "mode": "lines", "name": f"{name}: AUC {100 * (auc(scores, labels) or 0.0):.1f} %",
        "x": rounded(fpr[at]), "y": rounded(tpr[at]), "line": {"color": colour, "width": 2},
    }  # fmt: skip
