"""Figures and tables of a report as plain data: plotly draws figures in the browser, with the page's colours.

A figure is a plotly figure as lists and dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Figure = dict[str, Any]
"""``data``, a list of plotly's traces, and ``layout``; or ``points`` in place of traces, see
`asdray.report.embeddings`."""


@dataclass(frozen=True)
class Choice:
    """Figures of one kind, of which the reader chooses one.

    Attributes:
        names: nouns of what the reader chooses, such as ``("year", "machine")``.
        figures: one value per noun -> figure. The first one is shown at first.
    """

    names: tuple[str, ...]
    figures: Mapping[tuple[str, ...], Figure]

    def as_json(self) -> dict[str, Any]:
        """The choice as the page's script reads it."""
        return {"names": self.names, "figures": [[list(key), fig] for key, fig in self.figures.items()]}


@dataclass(frozen=True)
class Grid:
    """A plain table.

    Attributes:
        header: names of columns.
        rows: texts of cells; a tuple (text, details) is a text that opens to more.
        right: names of the columns of numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: identifies the section in links.
        title: heading.
        notes: sentences below the heading, among them what was thinned out.
        parts: figures and tables in their order.
    """

    name: str
    title: str
    notes: Sequence[str] = ()
    parts: Sequence[Choice | Grid] = ()


def rounded(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Finite numbers with a few significant digits, others as None: a page holds many numbers.

    >>> rounded([0.123456789, float("nan"), 1234567.0])
    [0.1235, None, 1235000.0]
    """
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in map(float, values)]


def thinned(n: int, most: int) -> list[int]:
    """Indices of at most ``most`` of ``n`` values, evenly spread, first and last among them.

    >>> thinned(5, 10), thinned(101, 3)
    ([0, 1, 2, 3, 4], [0, 50, 100])
    """
    return list(range(n)) if n <= most else np.linspace(0, n - 1, most).round().astype(int).tolist()


def left_out(shown: int, of: int, things: str) -> list[str]:
    """A sentence if not all things are shown.

    >>> left_out(20, 100, "systems, the best ranked")
    ['Shown are 20 of 100 systems, the best ranked.']
    """
    return [f"Shown are {shown} of {of} {things}."] if shown < of else []
