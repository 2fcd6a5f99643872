"""Sections: time and resources of every stage, and failures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from asdray.drawing import COLOURS, GREY
from asdray.evaluation.tables import STAGES
from asdray.report.content import Content
from asdray.report.figures import Choice, Figure, Grid, Section, left_out

MOST_BARS, MOST_TRIALS = 4000, 120

_STAGE_COLOURS = dict(zip((*STAGES, "cluster"), COLOURS, strict=False))


def section(content: Content) -> Section | None:
    """A table of stages and a Gantt chart of trials and tasks; None before the first finished stage."""
    done = [e for e in content.events if e["status"] == "done" and not e.get("found") and e.get("seconds")]
    if not done:
        return None
    devices = sorted({str(event.get("device")) for event in done} - {"None"})
    notes = [f"Stages that this sweep ran, on {', '.join(devices)}. Reused results took no time."]
    figure, more = _gantt(content, done)
    return Section("times", "Time", [*notes, *more], [_table(done), Choice((), {(): figure})])


def _trial(content: Content, event: Mapping[str, Any]) -> str:
    """The trial of an event in words."""
    return f"{content.names.get(event['system'], event['system'])} · {event['dcase']} · seed {event['seed']}"


def _table(done: Sequence[Mapping[str, Any]]) -> Grid:
    rows = []
    for stage in dict.fromkeys([*STAGES, *sorted({str(e["stage"]) for e in done})]):
        seconds = [float(e["seconds"]) for e in done if e["stage"] == stage]
        if seconds:
            figures = (sum(seconds), statistics.median(seconds), max(seconds))
            rows.append([stage, str(len(seconds)), *map(duration, figures)])
    header = ["stage", "runs", "in sum", "median", "longest"]
    return Grid(header, rows, right=header[1:])


def duration(seconds: float) -> str:
    """Seconds as people write a duration.

    >>> duration(0.25), duration(75), duration(7300)
    ('0.25 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _gantt(content: Content, done: Sequence[Mapping[str, Any]]) -> tuple[Figure, list[str]]:
    trials = list(dict.fromkeys((e["system"], e["dcase"], e["seed"]) for e in done))
    shown = set(trials[-MOST_TRIALS:])
    notes = left_out(len(shown), len(trials), "trials, the latest")
    events = [e for e in done if (e["system"], e["dcase"], e["seed"]) in shown]
    if len(events) > MOST_BARS:
        events = sorted(events, key=lambda e: -float(e["seconds"]))[:MOST_BARS]
        notes.append(f"Bars are drawn for the {MOST_BARS} longest runs of stages.")
    traces = []
    for stage in dict.fromkeys([*STAGES, *sorted({str(e["stage"]) for e in events})]):
        if of_stage := [e for e in events if e["stage"] == stage]:
            traces.append(_bars(content, stage, of_stage))
    layout = {
        "barmode": "overlay",
        "height": 160 + 18 * len(shown),
        "xaxis": {"type": "date", "side": "top"},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "bargap": 0.15,
    }
    return {"data": traces, "layout": layout}, notes


def _bars(content: Content, stage: str, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ends = [datetime.fromisoformat(str(e["time"])).timestamp() for e in events]
    begins = [end - float(e["seconds"]) for end, e in zip(ends, events, strict=True)]
    return {
        "type": "bar",
        "orientation": "h",
        "name": stage,
        "y": [_trial(content, e) for e in events],
        "base": [datetime.fromtimestamp(b).isoformat(timespec="milliseconds") for b in begins],
        "x": [round(1000 * float(e["seconds"])) for e in events],
        "text": [" ".join(str(e[k]) for k in ("machine", "backend", "unit") if e.get(k)) for e in events],
        "textposition": "none",
        "customdata": [duration(float(e["seconds"])) for e in events],
        "hovertemplate": f"%{{y}}<br>{stage} %{{text}}: %{{customdata}}<extra></extra>",
        "marker": {"color": _STAGE_COLOURS.get(stage, GREY)},
    }


def failures(content: Content) -> Section | None:
    """The stages whose last attempt failed, with the reason; None without one."""
    last: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for event in content.events:
        key = ("dcase", "system", "seed", "stage", "unit", "machine", "checkpoint", "backend")
        last[tuple(event.get(name) for name in key)] = event
    failed = [event for event in last.values() if event["status"] == "failed"]
    if not failed:
        return None
    rows: list[list[str | tuple[str, str]]] = [
        [
            _trial(content, e),
            " ".join(str(e[k]) for k in ("stage", "machine", "backend", "unit") if e.get(k)),
            (str(e.get("error")), str(e["details"])) if e.get("details") else str(e.get("error")),
            "yes" if not e.get("lasting") else "no: its input must change, or --retry-failed",
        ]
        for e in failed
    ]
    notes = [f"{len(failed)} stages failed in their last attempt."]
    header = ["trial", "stage", "reason", "the next run tries again"]
    return Section("failures", "Failures", notes, [Grid(header, rows)])
