"""Section: distributions of scores with the decision threshold, and ROC curves, per machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdray.dcase.years import get_year
from asdray.drawing import BLUE, COLOURS, GREY, ORANGE, RED, SKY
from asdray.evaluation.decisions import Limits, Normals, expected_rates, limit, limits_of, measured
from asdray.evaluation.metrics import MAX_FPR, auc, pauc
from asdray.report.content import Content, Panel, read_csv
from asdray.report.figures import Choice, Figure, Section, left_out, rounded, thinned
from asdray.stages.evaluate import HELD_OUT
from asdray.stages.extract import SPLITS

MOST_FIGURES, BINS, MOST_POINTS = 120, 40, 80
QUANTILE = 0.9
"""Of the decision thresholds, as in a submission without ``--quantile``."""

_LABELS = {"True": True, "False": False}
_GROUPS = (
    ("source", "False", "normal, source", BLUE),
    ("target", "False", "normal, target", SKY),
    ("source", "True", "anomaly, source", RED),
    ("target", "True", "anomaly, target", ORANGE),
)

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Group:
    """The scores of some clips as a histogram.

    Attributes:
        name: the clips in words.
        domain: ``source`` or ``target``; ``""``: all training clips, or test clips without domain or label.
        n: number of clips.
        share: share of the clips in each bin.
    """

    name: str
    domain: str
    colour: str
    n: int
    share: NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """The scores of a machine.

    Attributes:
        edges: edges of the bins, which all groups have in common.
        groups: the training clips, then the test clips by domain and label.
        limits: the decision thresholds; empty where the training scores give none.
        rates: false alarms and F1 in words.
    """

    edges: NDArray[np.float64]
    groups: tuple[Group, ...]
    limits: Limits
    rates: str

    @property
    def thresholds(self) -> dict[str, float]:
        """Name -> value: one threshold, or one per domain."""
        shown = [domain for domain in self.limits if domain] or list(self.limits)
        return {f"threshold {domain}".strip(): limit(self.limits, domain) for domain in shown}


@dataclass(frozen=True)
class Curve:
    """A ROC curve.

    Attributes:
        name: the normal clips in words.
        fpr, tpr: false and true positive rates, rising.
        auc, pauc: the areas, see `asdray.evaluation.metrics`.
    """

    name: str
    colour: str
    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float
    pauc: float


def section(content: Content) -> Section | None:
    """Histograms and ROC curves of the best ranked rows; None without a score file."""
    panels = list(content.panels())
    shown = panels[:MOST_FIGURES]
    read = dict(scores_of(shown))
    if not read:
        return None
    histograms: dict[tuple[str, ...], Figure] = {}
    rocs: dict[tuple[str, ...], Figure] = {}
    for panel in (panel for panel in shown if panel in read):
        row = content.title(panel.trial.system, panel.checkpoint, content.label(panel.backend))
        key = panel.trial.dcase, panel.machine, row
        train, test = read[panel]
        histograms[key] = _histogram_figure(histogram(train, test, panel))
        if of_panel := curves(test, panel.backend):
            rocs[key] = _roc_figure(of_panel)
    notes = [
        "Scores of the first seed: the test clips by domain and label, the training clips behind, and the "
        "decision threshold: the 0.9 quantile of a gamma distribution over training scores, or from held-out "
        "clips (train.hold_out). Above a figure stand the false alarms that the threshold promises, those of "
        "its test clips, and F1.",
        f"ROC curves: the shaded part, false positive rates up to {MAX_FPR}, is what the pAUC sees.",
        *left_out(len(histograms), len(panels), "combinations, those of the best ranked rows"),
    ]
    names = ("year", "machine", "system")
    return Section("scores", "Scores", notes, [Choice(names, histograms), Choice(names, rocs)])


def scores_of(panels: Sequence[Panel]) -> Iterator[tuple[Panel, tuple[Rows, Rows]]]:
    """The training and test rows of each panel whose files are there; each file is read once."""

    def place(panel: Panel) -> tuple[str, str, str]:
        return str(panel.trial.folder.root), panel.checkpoint, panel.machine

    for _, group in itertools.groupby(sorted(panels, key=place), place):
        of_machine = list(group)
        panel = of_machine[0]
        views = [panel.trial.folder.score_view(panel.checkpoint, panel.machine, s) for s in SPLITS]
        train, test = map(read_csv, views)
        for panel in of_machine:
            if train and test and panel.backend in test[0]:
                yield panel, (train, test)


def histogram(train: Rows, test: Rows, panel: Panel) -> Histogram:
    """The distributions of the scores of a panel's backend.

    Args:
        train, test: rows of ``{train,test}_score.csv``.
    """
    backend = panel.backend
    own = np.array([float(row[backend]) for row in train])
    values = np.array([float(row[backend]) for row in test])
    edges = np.histogram_bin_edges(np.concatenate([values, own]), BINS)

    def group(name: str, domain: str, colour: str, at: NDArray[np.float64]) -> Group:
        return Group(name, domain, colour, len(at), np.histogram(at, edges)[0] / max(1, len(at)))

    groups = [group("training", "", GREY, own)]
    kinds = [(row["domain"], row["is_anomaly"]) for row in test]
    for domain, label, name, colour in _GROUPS:
        at = [kind == (domain, label) for kind in kinds]
        if any(at):
            groups.append(group(name, domain, colour, values[at]))
    known = {(domain, label) for domain, label, _, _ in _GROUPS}
    other = [kind not in known for kind in kinds]
    if any(other):
        groups.append(group("test, unknown", "", COLOURS[2], values[other]))
    out = np.array([row.get(HELD_OUT) == "True" for row in train], dtype=bool)
    chosen = out if out.any() else ~out
    domains = [row["domain"] for row, one in zip(train, chosen, strict=True) if one]
    normals = Normals(own[chosen], domains, held_out=bool(out.any()))
    try:
        limits = limits_of(normals, QUANTILE, get_year(panel.trial.dcase).split_test_folders)
    except ValueError:
        return Histogram(edges, tuple(groups), {}, "")
    return Histogram(edges, tuple(groups), limits, _rates(limits, normals, test, values))


def _rates(limits: Limits, normals: Normals, test: Rows, values: NDArray[np.float64]) -> str:
    """The expected false alarms, those of the test clips if these have labels and domains, and F1."""
    expected = f"{1 - QUANTILE:.0%}"
    if normals.held_out:
        promised = expected_rates(limits, normals).items()
        expected = ", ".join(f"{domain} {rate:.0%}" for domain, rate in promised)
    decisions = [value > limit(limits, row["domain"]) for row, value in zip(test, values, strict=True)]
    labels = [_LABELS.get(row["is_anomaly"]) for row in test]
    found = measured(decisions, labels, [row["domain"] or None for row in test])
    here = (f"{domain} {of.false_alarms:.0%}" for domain, of in found.items() if of.false_alarms is not None)
    f1 = (f"{domain} {of.f1:.0%}" for domain, of in found.items() if of.f1 is not None)
    parts = {"expected": expected, "of test clips": ", ".join(here)}
    alarms = "; ".join(f"{name} {text}" for name, text in parts.items() if text)
    scores = ", ".join(f1)
    return f"False alarms: {alarms}." + (f" F1: {scores}." if scores else "")


def curves(test: Rows, backend: str) -> list[Curve]:
    """The ROC curve of all sections, and of each domain against all anomalies as the official AUC has it.

    Args:
        test: rows of ``test_score.csv``; those without a label do not count.
        backend: the backend's id.

    Returns:
        Empty without anomalies or without normal clips.
    """
    rows = [row for row in test if row["is_anomaly"] in ("True", "False")]
    anomalies = [float(row[backend]) for row in rows if row["is_anomaly"] == "True"]
    normal = [row for row in rows if row["is_anomaly"] == "False"]
    found = []
    for name, colour, domains in (
        ("all clips", BLUE, None),
        ("normal clips of the source domain", GREY, "source"),
        ("normal clips of the target domain", ORANGE, "target"),
    ):
        normals = [float(row[backend]) for row in normal if domains in (None, row["domain"])]
        if anomalies and normals and (domains is None or len({row["domain"] for row in rows}) > 1):
            found.append(_curve(name, colour, np.array(normals), np.array(anomalies)))
    return found


def _curve(name: str, colour: str, normals: NDArray[np.float64], anomalies: NDArray[np.float64]) -> Curve:
    from sklearn.metrics import roc_curve

    scores, labels = np.r_[normals, anomalies], np.arange(len(normals) + len(anomalies)) >= len(normals)
    fpr, tpr, _ = roc_curve(labels, scores)
    return Curve(name, colour, fpr, tpr, auc(scores, labels) or 0.0, pauc(scores, labels) or 0.0)


# ------------------------------------------------------------------------------------------ for the page


def _histogram_figure(of: Histogram) -> Figure:
    first, width = rounded([(of.edges[0] + of.edges[1]) / 2, of.edges[1] - of.edges[0]], 6)
    traces = [
        {
            "type": "bar", "name": f"{group.name} ({group.n})", "x0": first, "dx": width, "width": width,
            "y": rounded(group.share),
            "marker": {"color": group.colour, "opacity": 0.65 if i else 0.3},
            "hovertemplate": f"{group.name}<br>%{{x}}: %{{y:.1%}}<extra></extra>",
        }
        for i, group in enumerate(of.groups)
    ]  # fmt: skip
    layout: Figure = {
        "barmode": "overlay",
        "height": 380,
        "xaxis": {"title": {"text": "anomaly score"}},
        "yaxis": {"title": {"text": "share of clips"}, "tickformat": ".0%"},
    }
    if of.limits:
        places = rounded(list(of.thresholds.values()), 6)
        line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
        line["line"] = {"color": "#000", "width": 1.5, "dash": "dash"}
        layout["shapes"] = [{**line, "x0": at, "x1": at} for at in places]
        text = {"y": 1, "yref": "paper", "showarrow": False, "yanchor": "bottom"}
        layout["annotations"] = [
            *({**text, "x": at, "text": name} for name, at in zip(of.thresholds, places, strict=True)),
            {**text, "x": 0, "xref": "paper", "xanchor": "left", "yshift": 16, "text": of.rates},
        ]
    return {"data": traces, "layout": layout}


def _roc_figure(of: Sequence[Curve]) -> Figure:
    traces: list[dict[str, Any]] = []
    for curve in of:
        at = thinned(len(curve.fpr), MOST_POINTS)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{curve.name}: AUC {100 * curve.auc:.1f} %",
                "x": rounded(curve.fpr[at]), "y": rounded(curve.tpr[at]),
                "line": {"color": curve.colour, "width": 2},
            }
        )  # fmt: skip
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
