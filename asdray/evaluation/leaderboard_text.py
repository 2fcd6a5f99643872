"""Leaderboards for people, in percent: terminal, Markdown, LaTeX; and as files for programs: CSV, Parquet.

>>> print("\\n".join(markdown_table(["system", "score"], [["ae", "61.20"]], left=1)))
| system | score |
| --- | ---: |
| ae | 61.20 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.table import Table

from asdray import store
from asdray.evaluation.leaderboard import Leaderboard, score_columns
from asdray.evaluation.published import ASDKIT_LABELS
from asdray.evaluation.tables import NO_VALUE, percent, system_labels, write_csv

MEAN_TITLES = {
    "dev_amean": "dev mean", "dev_hmean": "dev h-mean",
    "eval_amean": "eval mean", "eval_hmean": "eval h-mean",
    "amean": "mean", "hmean": "h-mean",
}  # fmt: skip


def _score(mean: float, std: float, n: Any, n_expected: Any) -> str:
    """``70.19 ± 0.53 (2 of 2)``; without counts if they are unknown."""
    spread = "" if math.isnan(std) else f" ± {percent(std)}"
    count = "" if pd.isna(n) else f" ({n} of {n_expected})"
    return f"{NO_VALUE}{count}" if math.isnan(mean) else f"{percent(mean)}{spread}{count}"


def _sources(board: Leaderboard) -> dict[str, int]:
    """Source of published rows -> number of its note."""
    sources = dict.fromkeys(source for source in board.frame["source"] if source != "")
    return {source: i for i, source in enumerate(sources, 1)}


def _names(board: Leaderboard) -> dict[str, list[str]]:
    """The columns that identify a row, as people read them; columns with one value only are left out."""
    frame = board.frame
    ours = frame["origin"] == "ours"
    columns = {"system": system_labels(frame[["system", "recipe", "options"]].to_dict("records"))}
    if frame["options"].any():
        columns["options"] = list(frame["options"])
    columns["backend"] = list(frame["backend"])
    if frame["checkpoint"][ours].nunique() > 1:
        columns["checkpoint"] = list(frame["checkpoint"])
    if frame["selected_by"][ours].nunique() > 1:
        columns["selected by"] = list(frame["selected_by"])
    if (frame["classes_from"] == "train+test").any():
        columns["classes from"] = list(frame["classes_from"])
    if not ours.all():
        numbers = _sources(board)
        columns["origin"] = [
            f"{origin} [{numbers[source]}]" if source else origin
            for origin, source in zip(frame["origin"], frame["source"], strict=True)
        ]
    return columns


def _cells(board: Leaderboard) -> tuple[list[str], list[str], list[list[str]]]:
    """Headers of the identifying columns (rank first), headers of the scores, and the rows."""
    names = _names(board)
    rows = []
    for i, row in enumerate(board.frame.to_dict("records")):
        rank = NO_VALUE if pd.isna(row["rank"]) else str(row["rank"])
        scores = [_score(*(row[c] for c in score_columns(name))) for name in board.names]
        means = [percent(row[mean]) for mean in board.means]
        rows.append([rank, *(column[i] for column in names.values()), *scores, *means])
    return ["rank", *names], [*board.names, *(MEAN_TITLES[m] for m in board.means)], rows


def notes(board: Leaderboard) -> list[str]:
    """The notes to print with the leaderboard; the numbered sources of published rows come last."""
    ours = board.frame[board.frame["origin"] == "ours"]
    every = "All rows" if len(ours) == len(board.frame) else "All rows of ours"
    ways = ours["selected_by"].unique()
    selected = [f"{every}: selected by {ways[0]}."] if len(ways) == 1 else []
    sources = "".join(board.frame["label_source"][board.frame["origin"] == "published"])
    labels = [ASDKIT_LABELS] if "asdkit" in sources and "dcase2022-eval" in board.names else []
    return [*board.notes, *selected, *labels, *(f"[{i}] {source}" for source, i in _sources(board).items())]


# --------------------------------------------------------------------------------- terminal and Markdown


def rich_table(board: Leaderboard, title: str = "") -> Table:
    """The leaderboard for a terminal; print `notes` below the table."""
    names, scores, rows = _cells(board)
    table = Table(title=f"{title} ({board.dataset} data)".strip())
    for i, name in enumerate([*names, *scores]):
        right = i >= len(names) or name == "rank"
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for cells in rows:
        table.add_row(*map(_plain, cells))
    return table


def _plain(text: str) -> str:
    """Text that rich prints unchanged: ``[1]`` would be markup."""
    return text.replace("[", "\\[")


def markdown(board: Leaderboard) -> str:
    """The leaderboard as Markdown: kind of data and ranking above the table, further notes below."""
    names, scores, rows = _cells(board)
    lines = markdown_table([*names, *scores], rows, left=len(names), right=("rank",))
    above, below = notes(board)[:2], notes(board)[2:]
    return "\n\n".join([*above, "\n".join(lines), *below]) + "\n"


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int, right: Sequence[str] = ()
) -> list[str]:
    """Lines of a Markdown table.

    Args:
        left: number of leading columns that are aligned left, except the columns named in ``right``.
    """
    align = ["---:" if i >= left or name in right else "---" for i, name in enumerate(header)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], align, *escaped[1:])]


# ------------------------------------------------------------------------------------------------ LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", **{c: "\\" + c for c in "&%$#_{}"},
}  # fmt: skip


def tex(text: str) -> str:
    r"""``text`` with the special characters of LaTeX escaped.

    >>> tex("s_auc, 5 %")
    's\\_auc, 5 \\%'
    """
    return "".join(_TEX.get(c, c) for c in text)


def latex(board: Leaderboard) -> str:
    """The leaderboard as a ``tabular`` for the package booktabs; the best ranked row of each column is bold.

    The kind of data and the sources of published rows are part of the table, other notes are comments.
    """
    names, scores, rows = _cells(board)
    columns = [*(f"{n}_mean" for n in board.names), *board.means]
    ranked = board.frame["rank"].notna()
    best = {c: percent(board.frame[c][ranked].max()) for c in columns}
    lines = []
    for values, cells in zip(board.frame.to_dict("records"), rows, strict=True):
        escaped = [tex(cell) for cell in cells]
        for i, column in enumerate(columns, start=len(names)):
            if not pd.isna(values["rank"]) and percent(values[column]) == best[column]:
                mean, space, rest = escaped[i].partition(" ")
                escaped[i] = rf"\textbf{{{mean}}}{space}{rest}"
        lines.append(f"{' & '.join(escaped)} \\\\")
    all_notes = notes(board)
    inside = [all_notes[0], *(note for note in all_notes if note.startswith("["))]
    width = len(names) + len(scores)
    return "\n".join(
        [
            *(f"% {note}" for note in all_notes),
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{r{'l' * (len(names) - 1)}{'r' * len(scores)}}}",
            r"\toprule",
            f"{' & '.join(map(tex, [*names, *scores]))} \\\\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            *(rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {tex(note)}}} \\" for note in inside),
            r"\end{tabular}",
            "",
        ]
    )


# ------------------------------------------------------------------------------- beside published results

BESIDE_NOTE = (
    "Difference: ours less theirs. Spread: standard deviation over seeds of the difference of one training "
    "of ours and one of theirs; where that of one of them is not known, it is taken to be the other's, which "
    "gives sqrt(2) times the other's. Within: the difference is no larger."
)


def beside_cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `asdray.evaluation.published.beside` as people read them, in percent."""
    rows = []
    for line in frame.to_dict("records"):
        within, difference = line["within_spread"], line["difference"]
        rows.append(
            [
                line["column"],
                line["recipe"],
                line["backend"],
                _score(line["mean"], line["std"], line["n"], line["n_expected"]),
                line["published"],
                _score(line["published_mean"], line["published_std"], None, None),
                NO_VALUE if pd.isna(difference) else f"{100 * difference:+.2f}",
                percent(line["spread"]),
                NO_VALUE if pd.isna(within) else "yes" if within else "no",
            ]
        )
    header = [
        "column", "recipe", "backend", "ours", "published", "their score", "difference", "spread", "within",
    ]  # fmt: skip
    return header, rows


def beside_table(frame: pd.DataFrame) -> Table:
    """`asdray.evaluation.published.beside` for a terminal."""
    table = Table(title="ours beside the published results that they follow")
    header, rows = beside_cells(frame)
    for name in header:
        table.add_column(name, justify="left" if name in header[:3] else "right", overflow="fold")
    for cells in rows:
        table.add_row(*map(_plain, cells))
    return table


# ------------------------------------------------------------------------------------------------- files


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Writes the leaderboard as ``csv``, ``parquet``, ``md`` and ``tex`` into a sweep's folder.

    Returns:
        The paths, see `asdray.store.SweepDir.leaderboard`.
    """
    sweep = store.SweepDir(folder)
    csv, parquet, md, tex = (sweep.leaderboard(s, board.metric) for s in ("csv", "parquet", "md", "tex"))
    write_csv(board.frame, csv, board.dataset)
    store.write_parquet(parquet, pa.Table.from_pandas(board.frame, preserve_index=False))
    store.write_text(md, markdown(board))
    store.write_text(tex, latex(board))
    return [csv, parquet, md, tex]


def write_beside(frame: pd.DataFrame, board: Leaderboard, folder: Path) -> list[Path]:
    """Writes ``beside_published.{csv,md}`` into a sweep's folder."""
    csv, md = (store.SweepDir(folder).beside_published(suffix) for suffix in ("csv", "md"))
    write_csv(frame, csv, board.dataset)
    header, rows = beside_cells(frame)
    lines = markdown_table(header, rows, left=3)
    labels = [note for note in notes(board) if note == ASDKIT_LABELS]
    store.write_text(md, "\n\n".join([board.notes[0], BESIDE_NOTE, "\n".join(lines), *labels]) + "\n")
    return [csv, md]
