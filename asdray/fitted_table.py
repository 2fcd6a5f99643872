"""Tables that fit a terminal: a row takes at most two lines, and no word is broken.

A cell of text wraps between words, and before options in brackets. A number with an addition, such as its
spread, has the addition below where one line is too narrow. Columns of numbers that still do not fit are left
out, the least important first, and named. Example::

    names = TextColumn("system", ["dis_baseline loss=arcface lr=3e-4"])
    scores = NumberColumn("dcase2023-dev", [("70.19", "± 0.53")])
    table, left_out = fitted("demo", [names], [scores], width=40)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from asdray.printable import printable

GAP = 2
"""Spaces between two columns."""

LINES = 2
"""Most lines of a row."""


@dataclass(frozen=True)
class TextColumn:
    """A column of words."""

    title: str
    cells: Sequence[str]
    right: bool = False

    @property
    def natural(self) -> int:
        """The width at which every cell takes one line."""
        return max(map(cell_len, (self.title, *self.cells)))

    @property
    def smallest(self) -> int:
        """The least width at which every cell takes at most `LINES` lines with whole words."""
        return max(map(_smallest, (self.title, *self.cells)))

    def lines(self, width: int) -> list[str]:
        """The cells at a width, cut with an ellipsis where that is too narrow."""
        return [_cut(cell, width) for cell in self.cells]


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers.

    Attributes:
        cells: the number, and an addition in the same line or below.
        importance: columns of the least importance are left out first; None: never.
    """

    title: str
    cells: Sequence[tuple[str, str]]
    importance: int | None = None

    def heading(self, stacked: bool) -> str:
        """The title in two lines; of ``dcase2023-dev`` the year alone where there is little space."""
        title = self.title.removeprefix("dcase") if stacked else self.title
        return "\n".join(re.split("[- ]", title, maxsplit=1))

    def lines(self, stacked: bool) -> list[str]:
        """The cells, the additions below or beside."""
        if not stacked:
            return [" ".join(filter(None, cell)) for cell in self.cells]
        return ["\n".join(filter(None, (number, more.replace("± ", "±")))) for number, more in self.cells]

    def width(self, stacked: bool) -> int:
        return max(
            cell_len(line)
            for cell in (self.heading(stacked), *self.lines(stacked))
            for line in cell.split("\n")
        )


def fitted(
    title: str, texts: Sequence[TextColumn], numbers: Sequence[NumberColumn], width: int
) -> tuple[Table, list[str]]:
    """The table with the columns of ``texts``, then of ``numbers``, and the titles of columns left out."""
    shown = list(numbers)
    left_out: list[str] = []
    smallest = sum(column.smallest for column in texts)
    while True:
        for stacked in (False, True):
            gaps = GAP * (len(texts) + len(shown) - 1)
            room = width - gaps - sum(column.width(stacked) for column in shown)
            if room >= smallest:
                return _table(title, texts, _widths(texts, room), shown, stacked), left_out
        if not (droppable := [column for column in shown if column.importance is not None]):
            return _table(title, texts, _widths(texts, room), shown, stacked), left_out
        least = min(reversed(droppable), key=lambda column: column.importance or 0)
        shown.remove(least)
        left_out.insert(0, least.title)


def _widths(texts: Sequence[TextColumn], room: int) -> list[int]:
    """A width for every column of text: what is more than the least goes to the first columns first.

    With less room than that the widest column gives.
    """
    widths = [column.smallest for column in texts]
    extra = room - sum(widths)
    for i, column in enumerate(texts):
        more = min(max(extra, 0), column.natural - widths[i])
        widths[i] += more
        extra -= more
    if extra < 0 and widths:
        widest = widths.index(max(widths))
        widths[widest] = max(1, widths[widest] + extra)
    return widths


def _table(
    title: str,
    texts: Sequence[TextColumn],
    widths: Sequence[int],
    numbers: Sequence[NumberColumn],
    stacked: bool,
) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    columns = []
    for text, width in zip(texts, widths, strict=True):
        table.add_column(
            Text(_cut(text.title, width)),
            justify="right" if text.right else "left",
            width=width,
            no_wrap=True,
        )
        columns.append(text.lines(width))
    for number in numbers:
        table.add_column(
            Text(number.heading(stacked)), justify="right", width=number.width(stacked), no_wrap=True
        )
        columns.append(number.lines(stacked))
    for row in zip(*columns, strict=True):
        # As a text, `[1]` would be markup.
        table.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in row))
    return table


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between its parts; a part may be longer than a line."""
    lines = [""]
    for part in _parts(text):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append(part.lstrip())
        else:
            lines[-1] += part
    return lines


def _parts(text: str) -> list[str]:
    """Words with the space before; a name and its options in brackets, and items of a list, are parts, too.

    >>> _parts("dis loss=arcface(margin=0.5,scale=2)")
    ['dis', ' loss=arcface', '(margin=0.5,', 'scale=2)']
    """
    return [part for part in re.split(r"(?=[ (])|(?<=[,+])", " ".join(text.split())) if part]


def _smallest(text: str) -> int:
    width = max((cell_len(part.lstrip()) for part in _parts(text)), default=0)
    while len(_wrapped(text, width)) > LINES:
        width += 1
    return width


def _cut(text: str, width: int) -> str:
    """The text in at most `LINES` lines of a width, with an ellipsis for what does not fit."""
    lines = _wrapped(text, width)
    kept = lines[:LINES]
    if len(lines) > LINES:
        kept[-1] = _wrapped(kept[-1], width - 2)[0] + " …"
    return "\n".join(
        line if cell_len(line) <= width else set_cell_size(line, width - 1) + "…" for line in kept
    )
