"""`asdray.plot`: one picture of a table of results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from asdray.dcase.years import nearest
from asdray.report.content import Content, Panel
from asdray.report.frame import content_of
from asdray.report.pictures import OF_MACHINE, OF_SWEEP

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = (*OF_SWEEP, *OF_MACHINE)


def plot(frame: pd.DataFrame, kind: str) -> Figure:
    """A picture of results in the style of a paper, 3.4 inches wide.

    ::

        frame = asdray.load_results("dis_grid")
        asdray.plot(frame, "leaderboard").savefig("leaderboard.pdf")
        asdray.plot(frame.query("machine == 'fan' and backend == 'knn'"), "roc")   # a notebook shows it

    Args:
        frame: from `load_results`, or rows of it.
        kind: of everything in the table: ``leaderboard``, ``machines`` (a heat map), ``curves`` (of the
            trainings). Of one machine: ``scores`` (histograms), ``roc``, ``umap``; of several systems,
            backends and seeds in the table the best ranked one, and its first seed.

    Raises:
        ValueError: an unknown kind; a table without rows, or that is none of `load_results`; several machines
            for a picture of one; a picture without content, with the reason.
    """
    check_kind(kind)
    content = content_of(frame)
    if kind in OF_SWEEP:
        return of_sweep(content, kind)
    panels = list(machine_panels(content, kind))
    if len(panels) > 1:
        names = ", ".join(f"{panel.trial.dcase} {panel.machine}" for panel in panels)
        raise ValueError(
            f"{kind} is a picture of one machine, and the table has {len(panels)} ({names}): choose one, "
            "frame.query(\"dcase == 'dcase2023' and machine == 'fan'\")"
        )
    return of_machine(content, kind, panels[0])


def check_kind(kind: str) -> None:
    """Raises ValueError for an unknown kind of picture."""
    if kind not in KINDS:
        raise ValueError(f"unknown picture {kind!r}{nearest(kind, KINDS)} (known: {', '.join(KINDS)})")


def of_sweep(content: Content, kind: str) -> Figure:
    """A picture of everything.

    Raises:
        ValueError: there is nothing to draw.
    """
    if figure := OF_SWEEP[kind](content):
        return figure
    why = _no_trials(content) or "nothing was trained, or no epoch is finished"
    raise ValueError(f"there is no picture {kind!r}: {why if kind == 'curves' else 'no row has a score'}")


def machine_panels(content: Content, kind: str) -> Iterator[Panel]:
    """Every year and machine with the best ranked row that has a trial there, and its first seed.

    Raises:
        ValueError: the table has no trial, or does not know where its trials are.
    """
    seen = set()
    for panel in content.panels():
        if (key := (panel.trial.dcase, panel.machine)) not in seen:
            seen.add(key)
            yield panel
    if not seen:
        raise ValueError(f"there is no picture {kind!r}: {_no_trials(content) or 'the table has no trial'}")


def of_machine(content: Content, kind: str, panel: Panel) -> Figure:
    """A picture of a machine.

    Raises:
        ValueError: a file of the trial is missing or damaged, or has no labels.
    """
    if figure := OF_MACHINE[kind](content, panel):
        return figure
    folder = panel.trial.folder.machine(panel.checkpoint, panel.machine)
    why = {
        "scores": "there are no intact score files",
        "roc": "there are no intact score files, or no labels of test clips",
        "umap": f"there are no intact points; `asdray umap {panel.trial.folder.root}` makes them",
    }
    raise ValueError(
        f"there is no picture {kind!r} of {panel.trial.dcase} {panel.machine}: {why[kind]} in {folder}"
    )


def _no_trials(content: Content) -> str:
    """Why the table has no trials; ``""`` if it has some."""
    return (
        ""
        if content.trials
        else (
            "the table does not know its results folder, as after a merge or from a CSV file: set "
            "frame.attrs['results'] = 'results'"
        )
    )
