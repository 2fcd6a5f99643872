"""Pictures for papers: of a sweep the leaderboard, machines and training curves; of a machine scores and ROC.

The numbers are those of the report's sections. A picture is None where there is nothing to draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from asdray import drawing, points
from asdray.drawing import COLOURS, GREY, SKY, SMALL
from asdray.evaluation.leaderboard import MEAN_TITLES
from asdray.evaluation.metrics import MAX_FPR
from asdray.report import curves, embeddings, scores
from asdray.report.board import Board, Row, board
from asdray.report.content import Content, Panel, Training
from asdray.report.figures import thinned
from asdray.report.machines import HeatMap, heat_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = {"ours": 12, "theirs": 8, "published": 8}
"""Rows of a leaderboard by their origin, the best ones."""

MOST_MAP_ROWS, FEWEST_MAP_ROWS = 24, 5
"""Rows of all heat maps together, of which each has some."""

MOST_LINES, MOST_NAMES = 300, 8
"""Training curves of a recipe, and names in a legend."""

_LINE = 0.125
"""Height of a line of small text in inches."""

_CELL = 0.23
"""Height of a cell of a heat map in inches: two lines of text."""


def _mark(content: Content) -> str:
    """What the title of every picture of synthetic data says."""
    return " (synthetic data)" if content.board.dataset == "synthetic" else ""


def _title(content: Content) -> str:
    name = content.folder.root.name if content.folder.spec.is_file() else ""
    return f"{name}{_mark(content)}".strip()


def _unit(content: Content) -> str:
    metric = content.board.metric
    return f"{'official score' if metric == 'official' else metric} (%)"


def _tops(labels: Sequence[Sequence[str]], body: float) -> Iterator[float]:
    """The upper edge of every row in inches, then the lower edge of the last one.

    Args:
        labels: the lines of text that stand above each row.
        body: height of a row below its label.
    """
    top = 0.0
    for label in labels:
        yield top
        top += _LINE * len(label) + body
    yield top


def _in_lines(name: str) -> list[str]:
    """The name of a row in at most two lines of small text, none of which ends with a dot."""
    return [line.replace("\u00a0", " ") for line in drawing.wrapped(name.replace("· ", "·\u00a0"), 60, 2)]


def _row_label(axes: Axes, bottom: float, label: Sequence[str], colour: str = "black") -> None:
    """The name of a row above its scores; ``bottom`` in inches from the top of the axes."""
    place = axes.get_yaxis_transform()  # x in parts of the axis
    lines = "\n".join(label)
    text = axes.text(0, bottom, lines, transform=place, va="bottom", fontsize=SMALL, color=colour)
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    text.set_in_layout(False)  # a name that is too wide by a letter does not make the axes smaller


# -------------------------------------------------------------------------------------------- leaderboard


class _Series(NamedTuple):
    """A column of the leaderboard as it is drawn; ``place``: its number among the scores of a row."""

    title: str
    place: int
    colour: str
    marker: str


def leaderboard(content: Content) -> Figure | None:
    """Scores with their spread over seeds, the best ranked rows on top."""
    shown = board(content)
    series = _series(shown)
    rows = [row for row in shown.rows if any(row.scores[one.place].value is not None for one in series)]
    if not rows:
        return None
    best = [[row for row in rows if row.origin == origin][:most] for origin, most in MOST_ROWS.items()]
    top_rows = sorted(itertools.chain(*best), key=rows.index)
    labels = [_in_lines(_label(row)) for row in top_rows]
    *tops, height = _tops(labels, 0.07 + 0.09 * len(series))
    with drawing.sheet(height + 0.6 + _LINE * math.ceil(len(series) / 2), _title(content)) as figure:
        axes = figure.subplots()
        for row, label, top in zip(top_rows, labels, tops, strict=True):
            below = top + _LINE * len(label)
            _row_label(axes, below, label, "black" if row.origin == "ours" else "0.4")
            _dots(axes, row, series, below + 0.05)
            axes.axhline(top - 0.01, color="0.9", linewidth=0.5)
        for one in series:
            axes.plot([], [], one.marker, color=one.colour, markersize=3.5, label=one.title)
        axes.set(
            ylim=(height, -0.02), yticks=[], xlabel=_unit(content) + _of(len(top_rows), len(rows), "rows")
        )
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def _of(shown: int, total: int, things: str) -> str:
    return f"; {shown} of {total} {things}" if shown < total else ""


def _series(shown: Board) -> list[_Series]:
    """The columns of years and subsets; of more than four the means over years in their place."""
    titles = [title for title, _, _ in shown.columns]
    means = [i for i, title in enumerate(titles) if title in MEAN_TITLES.values()]
    places = [i for i in range(len(titles)) if i not in means]
    if len(places) > 4 and means:
        places = means
    return [_Series(titles[i], i, COLOURS[k % len(COLOURS)], "o^sDvP*X"[k % 8]) for k, i in enumerate(places)]


def _label(row: Row) -> str:
    """Rank and name of a row, and what speaks against its score."""
    parts = [row.name, row.backend, row.checkpoint if row.checkpoint != "last" else ""]
    marks = [row.origin if row.origin != "ours" else "incomplete" if row.incomplete else "", row.caveat]
    name = " · ".join(part for part in parts if part)
    return f"{row.rank}. {name}".removeprefix(". ") + "".join(f" ({mark})" for mark in marks if mark)


def _dots(axes: Axes, row: Row, series: Sequence[_Series], top: float) -> None:
    """The scores of a row below each other; hollow for what others published, or is not complete."""
    for i, one in enumerate(series):
        score = row.scores[one.place]
        if score.value is not None:
            axes.errorbar(
                score.value, top + 0.09 * i, xerr=score.std, fmt=one.marker, color=one.colour, markersize=3.5,
                markerfacecolor=one.colour if row.rank else "white", linewidth=0.9, capsize=1.5,
            )  # fmt: skip


# ----------------------------------------------------------------------------------------------- machines


def machines(content: Content) -> Figure | None:
    """The mean and spread of every system on every machine, as a heat map per year and subset."""
    all_maps = heat_maps(content, MOST_MAP_ROWS)
    most = max(FEWEST_MAP_ROWS, MOST_MAP_ROWS // max(1, len(all_maps)))
    found = heat_maps(content, most)
    if not found:
        return None
    values = [value for heat_map in found.values() for line in heat_map.values for value in line]
    low, high = min(values), max(values)
    labels = {key: [_in_lines(name) for name in one.rows] for key, one in found.items()}
    heights = [[*_tops(of, _CELL + 0.06)][-1] for of in labels.values()]
    space = 0.66  # of the names of machines, and the title of a map
    with drawing.sheet(sum(heights) + space * len(found), _title(content)) as figure:
        ratios = {"height_ratios": heights}
        every = figure.subplots(len(found), squeeze=False, gridspec_kw=ratios)[:, 0]
        for axes, ((dcase, subset), one) in zip(every, found.items(), strict=True):
            _map(axes, one, labels[dcase, subset], low, max(high, low + 1))
            axes.set_title(
                f"{dcase} {subset}, {_unit(content)}{_of(len(one.rows), one.of, 'rows')}", loc="left"
            )
    return figure


def _map(axes: Axes, of: HeatMap, labels: Sequence[Sequence[str]], low: float, high: float) -> None:
    import matplotlib

    colours = matplotlib.colormaps["cividis"]
    *tops, bottom = _tops(labels, _CELL + 0.06)
    edges = range(len(of.columns) + 1)
    for label, top, values, spreads in zip(labels, tops, of.values, of.spreads, strict=True):
        cell = top + _LINE * len(label)
        _row_label(axes, cell, label)
        axes.pcolormesh(
            edges, [cell, cell + _CELL], [values], cmap=colours, vmin=low, vmax=high, edgecolor="white",
            linewidth=0.8,
        )  # fmt: skip
        for i, (value, spread) in enumerate(zip(values, spreads, strict=True)):
            text = f"{value:.1f}" if math.isnan(spread) else f"{value:.1f}\n±{spread:.1f}"
            colour = "white" if value < (low + high) / 2 else "black"
            written = axes.text(
                i + 0.5, cell + _CELL / 2, text, color=colour, ha="center", va="center", fontsize=6,
                linespacing=1.0,
            )  # fmt: skip
            written.set_in_layout(False)  # hundreds of texts inside the axes: seconds
    axes.set(xlim=(0, len(of.columns)), ylim=(bottom, 0), yticks=[])
    axes.set_xticks([i + 0.5 for i in range(len(of.columns))], of.columns, rotation=40, ha="left")
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=0)
    axes.spines[["left", "bottom"]].set_visible(False)


# ------------------------------------------------------------------------------------------------- curves


def training_curves(content: Content) -> Figure | None:
    """The loss of every epoch of all trainings: an axis per recipe, a colour per system."""
    recipes: dict[str, list[Training]] = {}
    for one in content.trainings:
        recipes.setdefault(one.trial.recipe, []).append(one)
    if not recipes:
        return None
    names = [min(len(curves.colours(of)), MOST_NAMES) for of in recipes.values()]
    with drawing.sheet(2.1 * len(recipes) + _LINE * sum(names), _title(content)) as figure:
        every = figure.subplots(len(recipes), squeeze=False)[:, 0]
        for axes, (recipe, of) in zip(every, recipes.items(), strict=True):
            _curves(axes, content, of)
            some = f"{MOST_LINES} of " if len(of) > MOST_LINES else ""
            title = drawing.wrapped(f"{recipe}, {some}{len(of)} trainings", 56)
            axes.set_title("\n".join(title), loc="left")
            axes.set(xlabel="epoch", ylabel="loss")
    return figure


def _curves(axes: Axes, content: Content, of: Sequence[Training]) -> None:
    colour_of = curves.colours(of)
    named: set[str] = set() if len(colour_of) <= MOST_NAMES else set(colour_of)
    at = thinned(len(of), MOST_LINES)
    for one in (of[i] for i in at):
        system = one.trial.system
        name = content.names.get(system, system) if system not in named else None
        named.add(system)
        axes.plot(
            one.epochs, one.losses, color=colour_of[system], linewidth=0.7, alpha=0.7,
            marker="." if len(one.epochs) == 1 else "", label=name and drawing.wrapped(name, 60, 1)[0],
        )  # fmt: skip
    losses = [loss for one in of for loss in one.losses if math.isfinite(loss)]
    if losses and 0 < 100 * min(losses) < max(losses):
        axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    drawing.legend_below(axes, 1, 0.27)


# ------------------------------------------------------------------------------------------ of one machine


def _panel_title(content: Content, panel: Panel, backend: str = "") -> str:
    trial = panel.trial
    system = content.title(trial.system, panel.checkpoint, backend)
    return f"{trial.dcase} {panel.machine}, seed {trial.seed}{_mark(content)}\n{system}"


def histograms(content: Content, panel: Panel) -> Figure | None:
    """The distributions of a backend's scores, an axis per domain, with the decision threshold."""
    for _, (train, test) in scores.scores_of([panel]):
        of = scores.histogram(train, test, panel)
        train_group, *groups = of.groups
        domains = list(dict.fromkeys(group.domain for group in groups))
        title = _panel_title(content, panel, content.label(panel.backend))
        with drawing.sheet(0.6 + 1.2 * len(domains), title) as figure:
            every = figure.subplots(len(domains), sharex=True, sharey=True, squeeze=False)[:, 0]
            for axes, domain in zip(every, domains, strict=True):
                _bars(axes, of, [train_group, *(group for group in groups if group.domain == domain)])
            figure.supylabel("share of clips", fontsize=7.5)
            every[-1].set_xlabel("anomaly score")
        return figure
    return None


def _bars(axes: Axes, of: scores.Histogram, groups: Sequence[scores.Group]) -> None:
    """Training clips as a grey area, test clips as outlines over a light area."""
    for i, group in enumerate(groups):
        label = f"{group.name} ({group.n})"
        area = None if i else label
        axes.stairs(group.share, of.edges, fill=True, color=group.colour, alpha=0.35, linewidth=0, label=area)
        if i:
            axes.stairs(group.share, of.edges, color=group.colour, linewidth=1.1, label=label)
    for name, at in of.thresholds.items():
        axes.axvline(at, color="black", linewidth=0.9, linestyle="--", label=name)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.legend(loc="best")


def roc(content: Content, panel: Panel) -> Figure | None:
    """The ROC curves of a machine; shaded are the false positive rates that the pAUC sees."""
    for _, (_, test) in scores.scores_of([panel]):
        found = scores.curves(test, panel.backend)
        if not found:
            return None
        title = _panel_title(content, panel, content.label(panel.backend))
        with drawing.sheet(4.15, title) as figure:
            axes = figure.subplots()
            axes.axvspan(0, MAX_FPR, color=SKY, alpha=0.2, linewidth=0, label=f"pAUC: rates up to {MAX_FPR}")
            axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=0.8)
            for curve, line in zip(found, ("-", "--", "-."), strict=False):
                areas = f"AUC {100 * curve.auc:.1f}, pAUC {100 * curve.pauc:.1f} %"
                axes.plot(curve.fpr, curve.tpr, line, color=curve.colour, label=f"{curve.name}: {areas}")
            axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", anchor="N")
            axes.set(xlabel="false positive rate", ylabel="true positive rate")
            drawing.legend_below(axes, 1, 0.14)
        return figure
    return None


def umap(content: Content, panel: Panel) -> Figure | None:
    """The embeddings of a machine in two dimensions, by label, domain, section and attribute."""
    found = embeddings.points_of(panel.trial, panel.checkpoint, panel.machine)
    return points.picture(found, _panel_title(content, panel)) if found else None


# ---------------------------------------------------------------------------------------------------- all

OF_SWEEP = {"leaderboard": leaderboard, "machines": machines, "curves": training_curves}
"""Kind -> picture of a sweep."""

OF_MACHINE = {"scores": histograms, "roc": roc, "umap": umap}
"""Kind -> picture of a machine in a trial."""


def write(content: Content) -> None:
    """Writes the pictures of a sweep into its folder; one without content is removed."""
    for kind, draw in OF_SWEEP.items():
        figure = draw(content)
        for suffix in ("png", "pdf") if kind == "leaderboard" else ("png",):
            path = content.folder.picture(kind, suffix)
            if figure is None:
                path.unlink(missing_ok=True)
            else:
                drawing.save(figure, path, f"{kind} of {_title(content)}")
