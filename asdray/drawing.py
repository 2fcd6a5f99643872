"""Pictures in the style of a paper: colours, sizes and files. matplotlib is imported where it draws.

A picture is as wide as the column of a two-column paper, and its text is readable there at its true size.
Colours are those of Okabe and Ito (2008) as in Wong (2011), "Points of view: Color blindness", Nature
Methods 8(6), which people with any kind of colour blindness tell apart.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#888888",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, GREY)
"""Colours of series, in this order."""

WIDTH = 3.4
"""Width of a picture in inches."""

SMALL = 6.5
"""Size of the smaller text in points."""

FORMATS = ("png", "pdf", "svg")
"""Kinds of files, by their suffix."""

_STYLE: dict[Any, Any] = {
    "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "figure.titlesize": 7.5,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.2,
    "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.handlelength": 1.4, "legend.borderaxespad": 0.2,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
    "figure.dpi": 150,
    "text.parse_math": False,  # names of options and systems are text, with a dollar sign too
    "text.usetex": False,
}  # fmt: skip


@contextlib.contextmanager
def sheet(height: float, title: str) -> Iterator[Figure]:
    """An empty figure of `WIDTH` x ``height`` inches, which is drawn inside the block."""
    import matplotlib
    from matplotlib.figure import Figure  # itself, not pyplot: no global state, no display

    with matplotlib.rc_context(_STYLE):
        lines = wrapped(title)
        figure = Figure(figsize=(WIDTH, height + 0.13 * len(lines)), layout="constrained")
        figure.suptitle("\n".join(lines))
        yield figure


def wrapped(text: str, width: int = 62, most: int = 3) -> list[str]:
    """``text`` in lines of at most ``width`` characters; what is left after ``most`` lines is ``...``.

    >>> wrapped("dis_baseline loss=arcface learning_rate=0.001", 26, 2)
    ['dis_baseline loss=arcface', 'learning_rate=0.001']
    >>> wrapped("dis_baseline loss=arcface learning_rate=0.001", 26, 1)
    ['dis_baseline ...']
    """
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(
            printable(part), width, max_lines=most, placeholder=" ...", break_on_hyphens=False
        )
    ]


def legend_below(axes: Axes, columns: int = 2, gap: float = 0.02) -> None:
    """The legend of ``axes`` below its axis, where it hides nothing; none for axes without a label.

    Args:
        gap: distance in heights of the axes, for labels in between.
    """
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns)


def save(figure: Figure, path: Path, title: str = "") -> None:
    """Writes a picture atomically; the suffix of ``path``, one of `FORMATS`, is its kind.

    Equal figures give equal bytes.

    Args:
        title: title in the properties of the file.
    """
    import matplotlib

    # Journals take no fonts of type 3. A salt in place of a random one keeps the names in an SVG file.
    style: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "asdray"}
    dates: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    metadata = {"Title": printable(title), **dates.get(path.suffix[1:].lower(), {})}
    with store.atomic_path(path) as temporary, matplotlib.rc_context(style):
        figure.savefig(temporary, dpi=300, metadata=metadata)
