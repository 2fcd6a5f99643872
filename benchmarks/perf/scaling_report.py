"""Report on the points of `scaling.py`: fitted lines, table, plot, and a forecast for all years on GPUs."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import format as formatting
import numpy as np

from asdray.dcase.years import YEARS, get_year

Points = Sequence[dict[str, Any]]

Curves = list[tuple[str, str, str]]
"""Series, figure, and label in the plot."""

_SWEEP_TIME = [("cpu", "driver, CPU"), ("others_cpu", "all other processes, CPU"), ("wall", "wall")]
_SWEEP_MEMORY = [("rss", "driver"), ("others_anon", "all other processes")]
_STEPS = ("step fp32", "step bf16", "extraction")


@dataclass(frozen=True)
class Panel:
    """The curves over one quantity ``x``; the table has the growth per ``per`` units of ``x``."""

    x: str
    per: int
    times: Curves
    memory: Curves


_OF_MACHINE = [("backends of a machine", "four backends"), ("UMAP of a machine", "UMAP")]
PANELS = (
    Panel(
        "clips",
        1000,
        [("format", "cpu", "format"), ("pack", "value", "pack and read"),
         ("backends", "value", "four backends"), ("official", "cpu", "official")],
        [("format", "rss", "format"), ("pack", "anon", "pack and read, own memory"),
         ("backends", "rss", "four backends"), ("official", "rss", "official")],
    ),
    Panel(
        "clips of a machine",
        1000,
        [(series, "value", name) for series, name in _OF_MACHINE],
        [(series, "rss", name) for series, name in _OF_MACHINE],
    ),
    Panel(
        "seconds of a clip",
        1,
        [(series, "value", series) for series in _STEPS],
        [(series, "rss", series) for series in _STEPS],
    ),
    Panel(
        "machines",
        1,
        [("machines", figure, name) for figure, name in _SWEEP_TIME],
        [("machines", figure, name) for figure, name in _SWEEP_MEMORY],
    ),
    Panel(
        "trials",
        100,
        [*(("trials", figure, name) for figure, name in _SWEEP_TIME), ("tables", "cpu", "tables alone")],
        [*(("trials", figure, name) for figure, name in _SWEEP_MEMORY), ("tables", "rss", "tables alone")],
    ),
    Panel("nodes", 1, [("nodes", "cpu", "driver, CPU")], [("nodes", "rss", "driver")]),
)  # fmt: skip

GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Kind:
    """Recipes that cost a GPU the same.

    Attributes:
        seeds: trainings of a recipe and year; an encoder that nothing trains has one.
        train, extract: clips of 10 s per second on one GPU.
    """

    name: str
    recipes: int
    seeds: int
    epochs: int
    train: float
    extract: float

    @classmethod
    def of(cls, speeds: Speeds) -> tuple[Kind, ...]:
        """20 recipes: two branches, encoders as they are, and encoders tuned by LoRA."""
        return (
            cls("two branches", 12, 4, 16, speeds.train, speeds.extract),
            cls("an encoder", 6, 1, 0, speeds.tune, speeds.encode),
            cls("an encoder tuned by LoRA", 2, 4, 25, speeds.tune, speeds.encode),
        )

    def seconds(self, year: Year) -> float:
        """Seconds of a GPU for one training and its extractions, in proportion to the length of a clip."""
        clips = year.train + year.test
        return year.seconds / 10 * (self.epochs * year.train / self.train + clips / self.extract)


@dataclass(frozen=True)
class Speeds:
    """Assumed clips of 10 s per second on one GPU; the defaults are the targets of `gpu.py`.

    Attributes:
        train, extract: of the two-branch network.
        tune, encode: of an encoder of BEATs' size, tuned by LoRA and as it is.
    """

    train: float = 6000.0
    extract: float = 15000.0
    tune: float = 600.0
    encode: float = 2000.0


# ----------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True)
class Line:
    """The least-squares line through the medians of the points at each x."""

    x: np.ndarray
    y: np.ndarray
    intercept: float
    slope: float

    @classmethod
    def through(cls, points: Points, series: str, figure: str) -> Line | None:
        """Fits a figure of a series; None with fewer than two different x."""
        values: dict[int, list[float]] = {}
        for point in points:
            if point["series"] == series and figure in point:
                values.setdefault(point["x"], []).append(point[figure])
        if len(values) < 2:
            return None
        x = np.array(sorted(values), float)
        y = np.array([statistics.median(values[int(position)]) for position in x])
        slope, intercept = np.polyfit(x, y, 1)
        return cls(x, y, float(intercept), float(slope))

    def __call__(self, x: float) -> float:
        return self.intercept + self.slope * x

    def between(self, x: float) -> float:
        """Linear interpolation between the points; beyond the last point with the slope of the last two."""
        if x <= self.x[-1]:
            return float(np.interp(x, self.x, self.y))
        return float(self.y[-1] + (self.y[-1] - self.y[-2]) / (self.x[-1] - self.x[-2]) * (x - self.x[-1]))

    @property
    def residuals(self) -> np.ndarray:
        return self.y - (self.intercept + self.slope * self.x)

    @property
    def r2(self) -> float:
        whole = float(((self.y - self.y.mean()) ** 2).sum())
        return 1 - float((self.residuals**2).sum()) / whole if whole else 1.0

    @property
    def verdict(self) -> str:
        """How well the line fits.

        ``flat`` if the growth over all x is less than a tenth of the mean; ``line`` if no point is further
        from the line than a twentieth of the growth (``nearly`` for a tenth); else ``no line``.
        """
        if len(self.x) < 3:
            return "two points"
        grown = abs(self.slope) * (self.x[-1] - self.x[0])
        furthest = float(np.abs(self.residuals).max())
        if grown < 0.1 * self.y.mean() and furthest < 0.1 * self.y.mean():
            return "flat"
        return "line" if furthest <= 0.05 * grown else "nearly" if furthest <= 0.1 * grown else "no line"


def table(points: Points) -> str:
    """All lines in Markdown."""
    rows = [
        "| grows with | what | from, to | at 0 | and per | more | R² | furthest from the line | |",
        "|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    for panel in PANELS:
        for unit, shown in (("s", panel.times), ("MiB", panel.memory)):
            for series, figure, name in shown:
                if (line := Line.through(points, series, figure)) is None:
                    continue
                at = int(np.abs(line.residuals).argmax())
                away = float(line.residuals[at])
                cells = [
                    panel.x,
                    name,
                    f"{line.x[0]:,.0f} to {line.x[-1]:,.0f}",
                    f"{_number(line.intercept)} {unit}",
                    f"{panel.per:,}",
                    f"{_number(line.slope * panel.per)} {unit}",
                    f"{line.r2:.3f}",
                    f"{_number(away, sign=True)} {unit} ({abs(away) / line.y[at]:.0%}) at {line.x[at]:,.0f}",
                    line.verdict,
                ]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _number(value: float, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{value:{plus},.0f}" if abs(value) >= 100 else f"{value:{plus}.3g}"


def plot(points: Points, path: Path) -> None:
    """Draws points and lines as SVG, with a panel for time and a panel for memory per dimension."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "asdray", "font.size": 8}):
        figure = Figure(figsize=(12, 13), layout="constrained")
        axes = figure.subplots(4, 3)
        for i, panel in enumerate(PANELS):
            for j, (label, shown) in enumerate((("seconds", panel.times), ("MiB at most", panel.memory))):
                ax = axes[2 * (i // 3) + j][i % 3]
                for k, (series, quantity, name) in enumerate(shown):
                    if line := Line.through(points, series, quantity):
                        ends = [0, line.x[-1]]
                        ax.plot(ends, [line(x) for x in ends], color=f"C{k}", linewidth=1)
                        ax.plot(line.x, line.y, "o", color=f"C{k}", markersize=4, label=name)
                        ax.legend(frameon=False)
                ax.set(xlabel=panel.x, ylabel=label)
                ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
                ax.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


# ---------------------------------------------------------------------------------------- the benchmark


@dataclass(frozen=True)
class Year:
    """Clips, machines and clip length of one training on all machines of a year."""

    train: int
    test: int
    machines: int
    seconds: float

    @classmethod
    def of(cls, dcase: str) -> Year:
        """The organisers' nominal counts; for 2020 the counts of `perf/format.py`."""
        year = get_year(dcase)
        train = test = 0
        for subset in ("dev", "eval"):
            for machine, sections in year.sections[subset].items():
                for section in sections:
                    if dcase == formatting.DCASE:
                        train += formatting.DEV_TRAIN if subset == "dev" else formatting.EVAL_TRAIN
                    else:
                        train += sum(year.train_per_section.values())
                    for domain in year.domains:
                        each = year.test_per_cell or formatting.DEV_TEST // 2
                        test += sum(year.test_counts.get((subset, machine, section, domain), (each, each)))
        return cls(train, test, len(year.all_machines), year.duration_max)


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """Seconds until the last training ends, if each starts on the first free GPU."""
    free = [0.0] * gpus
    for training in seconds:
        heapq.heappush(free, heapq.heappop(free) + training)
    return max(free)


def forecast(points: Points, speeds: Speeds) -> str:
    """Forecast for all machines of all years, from the fitted lines and assumed speeds, in Markdown."""
    precisions = [p for p in ("fp32", "bf16") if Line.through(points, f"step {p}", "value")] or ["fp32"]
    lengths = (*(f"step {p}" for p in precisions), "extraction", "decoding")
    asked = [(s, "value") for s in (*lengths, *(series for series, _ in _OF_MACHINE))]
    asked += itertools.product(("machines", "trials"), ("cpu", "others_cpu", "wall", "rss"))
    found = {key: Line.through(points, *key) for key in asked}
    if missing := sorted({series for (series, _), line in found.items() if line is None}):
        return f"No forecast: it needs at least two points of {', '.join(missing)}."
    fit = {key: line for key, line in found.items() if line}
    nodes = [Line.through(points, "nodes", figure) for figure in ("cpu", "rss")]
    more = [_number(line.slope) if line else "" for line in nodes]
    batch = next(p["batch"] for p in points if "batch" in p)
    # The sweeps over machines have some trials each.
    per_machine = next(p["trials"] for p in points if p["series"] == "machines")
    driver_machine, task = (fit["machines", figure].slope / per_machine for figure in ("cpu", "others_cpu"))
    if min(driver_machine, task, fit["trials", "cpu"].slope) <= 0:
        return "No forecast: more machines or trials seem to cost less: too few points, or too close."

    years, kinds = [Year.of(dcase) for dcase in YEARS], Kind.of(speeds)
    work = [(kind, year) for kind in kinds for year in years for _ in range(kind.recipes * kind.seeds)]
    trainings = sorted((kind.seconds(year) for kind, year in work), reverse=True)
    tasks = plots = driver = 0.0
    cpu = dict.fromkeys(precisions, 0.0)
    for kind, year in work:
        clips = year.train + year.test
        backends = fit["backends of a machine", "value"].between(year.train / year.machines)
        tasks += year.machines * (task + backends)
        plots += year.machines * fit["UMAP of a machine", "value"].between(clips / year.machines)
        driver += fit["trials", "cpu"].slope + (year.machines - 1) * driver_machine
        if kind is kinds[0]:
            extraction = clips * fit["extraction", "value"](year.seconds)
            for precision in cpu:
                steps = kind.epochs * year.train * fit[f"step {precision}", "value"](year.seconds)
                cpu[precision] += (steps + extraction) / batch
    count, gpu = len(trainings), sum(trainings)
    of_kind = {kind.name: sum(kind.seconds(year) for of, year in work if of is kind) for kind in kinds}
    audio = [(y.train + y.test) * fit["decoding", "value"](10) for y in years]
    start = fit["trials", "wall"].intercept
    busy = tasks / gpu, (tasks + plots) / gpu
    # A training holds a CPU, and tasks may have half of all while something trains.
    needed = [max(1 + load, 2 * load) for load in busy]

    text = [
        f"{sum(y.machines for y in years)} machines of {min(YEARS)} to {max(YEARS)} "
        f"({sum(y.train for y in years):,} training and {sum(y.test for y in years):,} test clips), "
        f"{sum(kind.recipes for kind in kinds)} recipes, {count} trainings: "
        + "; ".join(
            f"{k.recipes} of {k.name}, {k.seeds} seed{'s' * (k.seeds > 1)}, {k.epochs} epochs" for k in kinds
        )
        + ". **Assumed, since no GPU was measured** (clips of 10 s per second on a GPU): two branches "
        f"{speeds.train:,.0f} in training and {speeds.extract:,.0f} in extraction, an encoder "
        f"{speeds.encode:,.0f}, tuned {speeds.tune:,.0f}; the time is proportional to the length of a clip.",
        "",
        "| GPUs | trainings take | GPUs in use | driver in use | CPUs in use by tasks | with UMAP |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for gpus in GPUS:
        span = makespan(trainings, gpus)
        text.append(
            f"| {gpus} | {_time(span)} | {gpu / span / gpus:.0%} | {driver / span:.1%} "
            f"| {tasks / span:.1f} | {(tasks + plots) / span:.1f} |"
        )
    text += [
        "",
        "* Hours of a GPU: "
        + ", ".join(f"{name} {seconds / 3600:.1f}" for name, seconds in of_kind.items())
        + ".",
        f"* A training: {_time(gpu / count)} of a GPU ({_time(min(trainings))} to {_time(max(trainings))}), "
        f"{driver / count:.2f} s of the driver's CPU, {tasks / count:.0f} s of CPU in tasks "
        f"({(tasks + plots) / count:.0f} s with UMAP).",
        f"* Tasks keep up with **{needed[0]:.1f} CPUs per GPU** ({needed[1]:.1f} with UMAP): one for the "
        f"training, {busy[0]:.2f} ({busy[1]:.2f}) for tasks, which get at most half of all CPUs during "
        "trainings.",
        f"* The driver is one process, and the bottleneck from {gpu / driver:,.0f} GPUs on; GPUs beyond the "
        f"{count} trainings are idle. The start of the sweep takes another {_time(start)}.",
        f"* Driver's memory: {fit['trials', 'rss'](count):,.0f} MiB with {count} trials."
        + (" Each further node costs the driver {} s of CPU and {} MiB.".format(*more) if all(more) else ""),
        f"* Decoding on every node, once: {_time(sum(audio))} of CPU ({_time(max(audio))} for the largest "
        "year).",
        *(
            f"* Two branches on CPUs in {precision}, as measured: {seconds / 86400:,.0f} CPU days; one such "
            f"GPU is as fast as {seconds / of_kind[kinds[0].name]:,.0f} of these CPUs."
            for precision, seconds in cpu.items()
        ),
    ]
    return "\n".join(text)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def report(points: Points, picture: Path, speeds: Speeds) -> str:
    """Draws the plot; returns the table and the forecast."""
    plot(points, picture)
    return f"\n{table(points)}\n\n{forecast(points, speeds)}\n\n{picture}"
