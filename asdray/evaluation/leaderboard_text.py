"""How a leaderboard is shown and written: terminal, Markdown, LaTeX, CSV, Parquet. People read percent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from asdray import store
from asdray.evaluation import naming
from asdray.evaluation.leaderboard import Leaderboard, columns_of
from asdray.evaluation.published import ASDKIT_LABELS
from asdray.evaluation.tables import write_csv

NONE = "–"
MEAN_TITLES = {
    "dev_amean": "dev mean", "dev_hmean": "dev h-mean",
    "eval_amean": "eval mean", "eval_hmean": "eval h-mean",
    "amean": "mean", "hmean": "h-mean",
}  # fmt: skip


def _score(mean: float, std: float, n: Any, n_expected: Any) -> str:
    """``70.19 ± 0.53 (2 of 2)``; without counts where nobody said how many."""
    spread = "" if math.isnan(std) else f" ± {100 * std:.2f}"
    count = "" if pd.isna(n) else f" ({n} of {n_expected})"
    return f"{NONE}{count}" if math.isnan(mean) else f"{100 * mean:.2f}{spread}{count}"


def _percent(value: float) -> str:
    return NONE if math.isnan(value) else f"{100 * value:.2f}"


def _sources(board: Leaderboard) -> dict[str, int]:
    """Where published rows are from -> the number of the note that says so."""
    return {
        source: i for i, source in enumerate(dict.fromkeys(board.frame["source"].loc[lambda s: s != ""]), 1)
    }


def _names(board: Leaderboard) -> dict[str, list[str]]:
    """The columns that name a row, as a person reads them; those with nothing to tell apart are left out."""
    frame = board.frame
    columns = {"system": naming.system_labels(frame[["system", "recipe", "options"]].to_dict("records"))}
    if frame["options"].any():
        columns["options"] = list(frame["options"])
    columns["backend"] = list(frame["backend"])
    if frame["checkpoint"][frame["origin"] == "ours"].nunique() > 1:
        columns["checkpoint"] = list(frame["checkpoint"])
    if frame["selected_by"][frame["origin"] == "ours"].nunique() > 1:
        columns["selected by"] = list(frame["selected_by"])
    if (frame["classes_from"] == "train+test").any():
        columns["classes from"] = list(frame["classes_from"])
    if (frame["origin"] != "ours").any():
        numbers = _sources(board)
        columns["origin"] = [
            f"{origin} [{numbers[source]}]" if source else origin
            for origin, source in zip(frame["origin"], frame["source"], strict=True)
        ]
    return columns


def _cells(
    board: Leaderboard, score: Callable[..., str] = _score, number: Callable[[float], str] = _percent
) -> tuple[list[str], list[str], list[list[str]]]:
    """Headers of the columns that name a row (rank first), headers of its scores, and the rows."""
    names = _names(board)
    rows = []
    for i, row in enumerate(board.frame.to_dict("records")):
        rank = NONE if pd.isna(row["rank"]) else str(row["rank"])
        scores = [score(*(row[c] for c in columns_of(name))) for name in board.names]
        means = [number(row[mean]) for mean in board.means]
        rows.append([rank, *(column[i] for column in names.values()), *scores, *means])
    return ["rank", *names], [*board.names, *(MEAN_TITLES[m] for m in board.means)], rows


def notes(board: Leaderboard) -> list[str]:
    """What stands beside the table, the sources of published rows last."""
    ours = board.frame[board.frame["origin"] == "ours"]
    every = "All rows" if len(ours) == len(board.frame) else "All rows of ours"
    alike = ours["selected_by"].unique()
    selected = [f"{every}: selected by {alike[0]}."] if len(alike) == 1 else []
    known = "".join(board.frame["label_source"][board.frame["origin"] == "published"])
    labels = [ASDKIT_LABELS] if "asdkit" in known and "dcase2022-eval" in board.names else []
    return [*board.notes, *selected, *labels, *(f"[{i}] {source}" for source, i in _sources(board).items())]


def markdown(board: Leaderboard) -> str:
    """The leaderboard as Markdown: the kind of data and the ranking above the table, the rest below it."""
    names, scores, rows = _cells(board)
    lines = markdown_table([*names, *scores], rows, left=len(names), right=("rank",))
    above, below = notes(board)[:2], notes(board)[2:]
    return "\n\n".join([*above, "\n".join(lines), *below]) + "\n"


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int, right: Sequence[str] = ()
) -> list[str]:
    """Lines of a Markdown table.

    Args:
        left: how many of the first columns are aligned left, but for those in ``right``.
    """
    align = ["---:" if i >= left or name in right else "---" for i, name in enumerate(header)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], align, *escaped[1:])]


def rich_table(board: Leaderboard, title: str = "") -> Table:
    """The leaderboard for a terminal; print `notes` beside it."""
    names, scores, rows = _cells(board)
    table = Table(title=f"{title} ({board.dataset} data)".strip())
    for i, name in enumerate([*names, *scores]):
        right = i >= len(names) or name == "rank"
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for cells in rows:
        table.add_row(*map(_plain, cells))
    return table


def _plain(text: str) -> str:
    """Text that rich shows as it is: ``[1]`` is no markup."""
    return text.replace("[", "\\[")


# ------------------------------------------------------------------------------------------------ LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", **{c: "\\" + c for c in "&%$#_{}"},
}  # fmt: skip


def tex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_TEX.get(c, c) for c in text)


def latex(board: Leaderboard) -> str:
    """The leaderboard as a ``tabular`` for the package booktabs; the best of each column is bold.

    Only ranked rows compete. What says of which kind the data are and where published rows are from is
    part of the table; the other notes are comments.
    """
    names, scores, rows = _cells(board)
    columns = [*(f"{n}_mean" for n in board.names), *board.means]
    ranked = board.frame["rank"].notna()
    best = {c: _percent(board.frame[c][ranked].max()) for c in columns}
    lines = []
    for values, cells in zip(board.frame.to_dict("records"), rows, strict=True):
        told = [tex(cell) for cell in cells]
        for i, column in enumerate(columns, start=len(names)):
            if not pd.isna(values["rank"]) and _percent(values[column]) == best[column]:
                mean, space, rest = told[i].partition(" ")
                told[i] = rf"\textbf{{{mean}}}{space}{rest}"
        lines.append(f"{' & '.join(told)} \\\\")
    said = notes(board)
    beside = [said[0], *(note for note in said if note.startswith("["))]
    width = len(names) + len(scores)
    return "\n".join(
        [
            *(f"% {note}" for note in said),
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{r{'l' * (len(names) - 1)}{'r' * len(scores)}}}",
            r"\toprule",
            f"{' & '.join(map(tex, [*names, *scores]))} \\\\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            *(rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {tex(note)}}} \\" for note in beside),
            r"\end{tabular}",
            "",
        ]
    )


# ------------------------------------------------------------------------------- beside published results


def beside_cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `asdray.evaluation.published.beside` as a person reads them; points are percent."""
    rows = []
    for line in frame.to_dict("records"):
        within = line["within_spread"]
        rows.append(
            [
                line["column"],
                line["recipe"],
                line["backend"],
                _score(line["mean"], line["std"], line["n"], line["n_expected"]),
                line["published"],
                _score(line["published_mean"], line["published_std"], None, None),
                NONE if pd.isna(line["difference"]) else f"{100 * line['difference']:+.2f}",
                NONE if pd.isna(line["spread"]) else f"{100 * line['spread']:.2f}",
                NONE if pd.isna(within) else "yes" if within else "no",
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


BESIDE_NOTE = (
    "Difference: ours less theirs. Spread: standard deviation over seeds of the difference of one training "
    "of ours and one of theirs; where that of one of them is not known, it is taken to be the other's, which "
    "gives sqrt(2) times the other's. Within: the difference is no larger."
)


def write(board: Leaderboard, folder: Path, stem: str = "leaderboard") -> list[Path]:
    """Writes ``leaderboard.{csv,parquet,md,tex}`` into ``folder``, each atomically."""
    paths = [folder / f"{stem}.{suffix}" for suffix in ("csv", "parquet", "md", "tex")]
    write_csv(board.frame, paths[0], board.dataset)
    with store.atomic_path(paths[1]) as temporary:
        board.frame.to_parquet(temporary, index=False)
    store.write_text(paths[2], markdown(board))
    store.write_text(paths[3], latex(board))
    return paths


def write_beside(frame: pd.DataFrame, board: Leaderboard, folder: Path) -> list[Path]:
    """Writes ``beside_published.{csv,md}`` into ``folder``."""
    csv, md = folder / "beside_published.csv", folder / "beside_published.md"
    write_csv(frame, csv, board.dataset)
    header, rows = beside_cells(frame)
    lines = markdown_table(header, rows, left=3)
    labels = [note for note in notes(board) if note == ASDKIT_LABELS]
    store.write_text(md, "\n\n".join([board.notes[0], BESIDE_NOTE, "\n".join(lines), *labels]) + "\n")
    return [csv, md]
