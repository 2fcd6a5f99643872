"""The leaderboard of a sweep: one row per system, checkpoint and backend; complete rows are ranked.

Columns are named ``<dcase>-<subset>``. Scores are fractions in [0, 1], NaN where a score is missing; higher
is better. Only the sweep's own rows with a score from every expected seed in every column have a rank.
Published rows are placed by their score, without a rank. Leaderboards for people (terminal, Markdown, LaTeX)
are in percent, those for programs (CSV, Parquet) in fractions.

>>> Leaderboard(pd.DataFrame(), ("dcase2022-eval", "dcase2023-eval"), "eval_amean", "official").means
('eval_amean', 'eval_hmean')
>>> print("\\n".join(markdown_table(["system", "score"], [["ae", "61.20"]], left=1)))
| system | score |
| --- | ---: |
| ae | 61.20 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.table import Table

from asdray import store
from asdray.config.recipe_use import RecipeUse
from asdray.config.sweep import MEANS, averaged, check_rank_by
from asdray.evaluation import metrics
from asdray.evaluation.published import ASDKIT_LABELS
from asdray.evaluation.tables import (
    NO_VALUE,
    TRANSDUCTIVE_MARK,
    TableContext,
    Tables,
    coverage,
    percent,
    system_labels,
    write_csv,
)
from asdray.fitted_table import NumberColumn, TextColumn, fitted
from asdray.printable import printable

ID_COLUMNS = (
    "rank", "system", "recipe", "options", "backend", "backend_id", "checkpoint", "origin", "source",
    "selected_by", "label_source", "dataset", "machines", "classes_from", "caveat",
)  # fmt: skip
_KEYS = ["system", "recipe", "options", "backend", "backend_id", "checkpoint"]
_SCORE_PARTS = {"mean": "float64", "std": "float64", "n": "Int64", "n_expected": "Int64"}


@dataclass(frozen=True)
class Leaderboard:
    """A finished leaderboard with its notes.

    Attributes:
        frame: `ID_COLUMNS` (``caveat``: what is transductive, chosen by test labels, tuned on dev or taught
            the classes of test clips, else ``""``), the `score_columns` of every name, then `MEANS`. Ranked
            and published rows with a value in the ranking column come first, the best on top; other rows
            follow in their old order.
        names: the columns ``<dcase>-<subset>`` in their order.
        rank_by: the ranking column: one of ``names`` or of `MEANS`.
        dataset: ``official`` or ``synthetic``.
        metric: ``official``, or one of `metrics.METRICS`.
        notes: sentences to print with the table; the first states the kind of data.
        recipes: the sweep's recipes: what they say to reproduce counts as for shipped recipes.
        labels: system -> its name for people, see `asdray.config.system_names`; of the sweep's trials.
    """

    frame: pd.DataFrame
    names: tuple[str, ...]
    rank_by: str
    dataset: str
    metric: str = "official"
    notes: tuple[str, ...] = ()
    recipes: Mapping[str, RecipeUse] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def means(self) -> tuple[str, ...]:
        """The `MEANS` in tables for people: means over several columns, each set of columns once per kind.
        Means over dev appear only without eval columns, or if one decides the rank."""
        has_eval = any(name.endswith("-eval") for name in self.names)
        shown: dict[tuple[tuple[str, ...], str], str] = {}
        for name, mean in MEANS.items():
            over = averaged(name, self.names)
            if len(over) > 1 and (mean.subset != "dev" or not has_eval or name == self.rank_by):
                shown.setdefault((over, mean.kind), name)
        return tuple(shown.values())


def score_columns(name: str) -> list[str]:
    """The frame's columns of one ``<dcase>-<subset>``.

    >>> score_columns("dcase2023-eval")[:2]
    ['dcase2023-eval_mean', 'dcase2023-eval_std']
    """
    return [f"{name}_{part}" for part in _SCORE_PARTS]


def build(
    tables: Tables,
    context: TableContext,
    *,
    rank_by: str | None = None,
    unlabelled: Sequence[str] = (),
    extra: Iterable[Mapping[str, Any]] = (),
    unranked: Sequence[Mapping[str, Any]] = (),
    selected_by: str | Mapping[str, str] = "fixed",
    metric: str = "official",
) -> Leaderboard:
    """Joins the tables of a sweep side by side and ranks the complete rows.

    Args:
        tables: see `asdray.evaluation.tables.sweep_tables`.
        rank_by: a ``<dcase>-<subset>`` or one of `MEANS`; default: see `check_rank_by`.
        unlabelled: names of columns whose test clips lack labels; a row is complete without a score there.
        extra: further rows, from ensembles or publications, with the frame's columns; a column that a row
            lacks is null.
        unranked: further rows, listed last and without a rank, such as those of a search.
        selected_by: how the systems of ``tables`` were chosen, for all or per recipe.

    Raises:
        ValueError: a row of the other kind of data, an unknown ``rank_by``.
    """
    names = tuple(f"{dcase}-{subset}" for dcase, subset in tables)
    rank_by, more = check_rank_by(rank_by, names), list(extra)
    if any(row["dataset"] != context.dataset for row in more):
        raise ValueError(f"no row of other data stands beside those of {context.dataset} data")
    rows = [
        {"classes_from": context.classes_from.get(row["system"], ""), "caveat": "", **row}
        for row in (*rows_of(tables, context, selected_by), *more, *unranked)
    ]
    dtypes = {f"{name}_{part}": kind for name in names for part, kind in _SCORE_PARTS.items()}
    frame = pd.DataFrame(rows, columns=[*ID_COLUMNS[1:], *dtypes]).astype(dtypes)
    for mean in MEANS:
        frame[mean] = _mean_over(frame, mean, names)
    board = Leaderboard(frame, names, rank_by, context.dataset, metric)
    board = replace(board, frame=_ranked(board, unlabelled, len(unranked)))
    return replace(board, notes=_notes_on_rows(board, unlabelled, len(unranked)))


def rows_of(
    tables: Tables, context: TableContext, selected_by: str | Mapping[str, str] = "fixed"
) -> list[dict[Any, Any]]:
    """The rows of a sweep's tables for a leaderboard, without rank, in the order of the tables.

    Args:
        selected_by: how the systems were chosen, for all or per recipe. The checkpoint ``best`` of a system
            that is ``fixed`` was chosen by a loss, ``context.best_by``.
    """
    names = [f"{dcase}-{subset}" for dcase, subset in tables]
    sources = context.label_sources
    if len(set(sources.values())) == 1:
        label_source = next(iter(sources.values()))
    else:
        label_source = ", ".join(f"{dcase} {source or 'none'}" for dcase, source in sources.items())
    covered = {f"{d}-{subset}": coverage(d, subset, context.machines[d]) for d, subset in tables}
    frame = _side_by_side(tables, names).assign(
        origin="ours",
        source="",
        selected_by=selected_by if isinstance(selected_by, str) else lambda f: f["recipe"].map(selected_by),
        label_source=label_source,
        dataset=context.dataset,
        machines=", ".join(f"{name} {part}" for name, part in covered.items() if part != "all") or "all",
        caveat=lambda f: ["transductive" if b.startswith(TRANSDUCTIVE_MARK) else "" for b in f["backend"]],
    )
    chosen = (frame["checkpoint"] == "best") & (frame["selected_by"] == "fixed")
    loss = [context.best_by.get(system, "train_loss") for system in frame["system"]]
    frame["selected_by"] = frame["selected_by"].mask(chosen, pd.Series(loss, frame.index, "object"))
    return frame.to_dict("records")


def _side_by_side(tables: Tables, names: Sequence[str]) -> pd.DataFrame:
    frame = pd.concat([t[_KEYS] for t in tables.values()]).drop_duplicates(ignore_index=True)
    for name, table in zip(names, tables.values(), strict=True):
        own = ("total_mean", "total_std", "n", "n_expected")
        part = table.rename(columns=dict(zip(own, score_columns(name), strict=True)))
        frame = frame.merge(part[[*_KEYS, *score_columns(name)]], on=_KEYS, how="left", validate="one_to_one")
    for name in names:  # a row that is planned for other years only expects no seed
        counts = [f"{name}_n", f"{name}_n_expected"]
        frame[counts] = frame[counts].fillna(0).astype("int64")
    return frame


def _mean_over(frame: pd.DataFrame, mean: str, names: Sequence[str]) -> list[float | None]:
    """One of `MEANS` per row; null unless every column has a score from all expected seeds.

    Means have no counts: a mean over fewer seeds would look complete.
    """
    whole = {}
    for name in averaged(mean, names):  # counts of a published row may be unknown
        partly = (frame[f"{name}_n"] < frame[f"{name}_n_expected"]).fillna(False).astype(bool)
        whole[name] = frame[f"{name}_mean"].where(~partly)
    rows = pd.DataFrame(whole, index=frame.index).to_numpy(dtype=float).tolist()
    function = metrics.MEAN_FUNCTIONS[MEANS[mean].kind]
    values = [function([None if math.isnan(v) else v for v in row]) for row in rows]
    return [math.nan if v is None else v for v in values]


def _ranked(board: Leaderboard, unlabelled: Sequence[str], n_unranked: int) -> pd.DataFrame:
    """The frame sorted by the ranking column, with the ranks of complete rows; equal values share a rank.

    Args:
        n_unranked: number of rows at the end that have no rank.
    """
    frame = board.frame
    value = frame[board.rank_by if board.rank_by in MEANS else f"{board.rank_by}_mean"].copy()
    value.iloc[len(frame) - n_unranked :] = math.nan
    ours = frame["origin"] == "ours"
    complete = ours & value.notna()
    for name in board.names:
        if name not in unlabelled:
            n, expected = frame[f"{name}_n"], frame[f"{name}_n_expected"]
            complete &= (n == expected).fillna(False) & (n > 0).fillna(False) & frame[f"{name}_mean"].notna()
    placed = complete | ~ours & value.notna()
    frame = frame.copy()
    frame.insert(0, "rank", value.where(complete).rank(method="min", ascending=False).astype("Int64"))
    frame = frame.assign(_last=~placed, _value=value.where(placed)).sort_values(
        ["_last", "_value"], ascending=[True, False], kind="stable", ignore_index=True
    )
    return frame.drop(columns=["_last", "_value"])


def _notes_on_rows(board: Leaderboard, unlabelled: Sequence[str], n_unranked: int) -> tuple[str, ...]:
    names = board.names
    over = averaged(board.rank_by, names)
    harmonic = len(over) > 1 and MEANS[board.rank_by].kind == "harmonic"
    has_eval = any(name.endswith("-eval") for name in names)
    notes = [
        "Dataset: synthetic. These numbers say that the pipeline works, nothing about real machines."
        if board.dataset == "synthetic"
        else "Dataset: official.",
        f"{'Official scores' if board.metric == 'official' else board.metric} in percent: mean ± standard "
        "deviation over seeds (n of n expected). "
        f"Ranked by {' and '.join(over)}{' (harmonic mean)' if harmonic else ''}"
        f"{'' if has_eval else ' (no eval column was asked for)'}.",
    ]
    ours = board.frame[board.frame["origin"] == "ours"]
    if len(ours) and ours["machines"].iloc[0] != "all":
        notes.append(f"Not all machines of the year: {ours['machines'].iloc[0]}.")
    if "train+test" in set(board.frame["classes_from"]):
        notes.append(
            "Classes from train+test: the attributes and domains of test clips were classes of the training, "
            "too (frontend.labels: asdkit)."
        )
    if board.frame["backend"].astype(str).str.startswith(TRANSDUCTIVE_MARK).any():
        notes.append(
            "Transductive backends: a clip's score depends on which other test clips it is scaled with; a "
            "detector that hears one clip at a time does not know them."
        )
    if unlabelled:
        hint = "; rank by another column, such as dev_amean" if set(over) & set(unlabelled) else ""
        notes.append(f"Labels are missing in {' and '.join(unlabelled)}: no scores there{hint}.")
    if empty := [n for n in names if n not in unlabelled and not ours[f"{n}_n"].any()]:
        notes.append(f"No scores yet in {' and '.join(empty)}: nothing is finished.")
    if incomplete := int(ours["rank"].isna().sum()) - n_unranked:
        notes.append(f"{incomplete} of {len(ours) - n_unranked} rows are incomplete and not ranked.")
    ranked = int(ours["rank"].notna().sum())
    if ranked > 1 and any(name.endswith("-eval") for name in over):
        instead = "" if all(n.endswith("-eval") for n in names) else "; to choose, --rank-by dev_amean"
        notes.append(
            "What a row was selected by speaks of that row alone: whoever picks the top one of these "
            f"{ranked} selects by eval labels, and its score flatters{instead}."
        )
    origins = set(board.frame["origin"])
    if "published" in origins:
        notes.append("Published rows are placed by their score and not ranked; they were not run here.")
    if "theirs" in origins:
        notes.append(
            "Rows of theirs are another group's, without a rank: their scores are recomputed here from the "
            "anomaly scores in the file that is named below."
        )
    return tuple(notes)


# ------------------------------------------------------------------------------------------------- for people

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
    if frame["caveat"].any():
        columns["caveat"] = list(frame["caveat"])
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


def rich_table(board: Leaderboard, title: str = "", width: int = 200) -> tuple[Table, list[str]]:
    """The leaderboard for a terminal of a width, and a note on columns left out; print `notes` below it.

    Systems have their names for people. Counts of seeds stand at incomplete scores only, means where there
    is more than one year.
    """
    ranks = [NO_VALUE if pd.isna(rank) else str(rank) for rank in board.frame["rank"]]
    texts = [TextColumn("rank", ranks, right=True), TextColumn("system", _people_names(board))]
    others = {
        name: cells for name, cells in _names(board).items() if name not in ("system", "options", "origin")
    }
    texts += [TextColumn(name, cells) for name, cells in others.items()]
    table, left_out = fitted(f"{title} ({board.dataset} data)".strip(), texts, _number_columns(board), width)
    return table, [
        f"Left out at this width: {', '.join(left_out)}. The files have all columns."
    ] if left_out else []


def _people_names(board: Leaderboard) -> list[str]:
    """The name of every row's system for people; those of others have the number of their source."""
    numbers = _sources(board)
    own = system_labels(board.frame[["system", "recipe", "options"]].to_dict("records"))
    names = []
    for row, name in zip(board.frame.to_dict("records"), own, strict=True):
        note = f"[{numbers[row['source']]}]" if row["source"] else ""
        if row["origin"] == "published":
            names.append(f"{name} {note or '(published)'}")
            continue
        shown = board.labels.get(row["system"], f"{name} {row['options']}".strip())
        names.append(shown if row["origin"] == "ours" else f"{shown} (theirs {note})")
    return names


def _number_columns(board: Leaderboard) -> list[NumberColumn]:
    """The scores and means; the more a column has to do with the rank, the more important it is."""
    years = {name.rpartition("-")[0] for name in board.names}
    over = averaged(board.rank_by, board.names)
    rows = board.frame.to_dict("records")
    columns = []
    for name in board.names:
        cells = [_short_score(*(row[c] for c in score_columns(name))) for row in rows]
        decides = name == board.rank_by or over == (name,)
        columns.append(NumberColumn(name, cells, None if decides else 3 if name in over else 2))
    for mean in board.means:
        if len(years) > 1 or mean == board.rank_by:
            cells = [(percent(row[mean]), "") for row in rows]
            importance = 0 if mean.endswith("hmean") else 1
            columns.append(
                NumberColumn(MEAN_TITLES[mean], cells, None if mean == board.rank_by else importance)
            )
    return columns


def _short_score(mean: float, std: float, n: Any, n_expected: Any) -> tuple[str, str]:
    """``70.19`` and ``± 0.53``; with ``1 of 2`` for an incomplete score."""
    spread = "" if math.isnan(std) else f"± {percent(std)}"
    count = "" if pd.isna(n) or n == n_expected else f"({n} of {n_expected})"
    return percent(mean), f"{spread} {count}".strip()


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
    escaped = [[_in_markdown(cell) for cell in row] for row in (header, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], align, *escaped[1:])]


def _in_markdown(cell: str) -> str:
    """The text of a cell, without HTML and without the end of a cell or line."""
    return printable(cell).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


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
    return "".join(_TEX.get(c, c) for c in printable(text))


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
            *(f"% {printable(note)}" for note in all_notes),
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
    "gives sqrt(2) times the other's. Tolerance: the difference up to which the recipe counts the score as "
    "reproduced. Within: the difference is no larger."
)


def beside_cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `asdray.evaluation.published.beside` as people read them, in percent."""
    rows = []
    with_caveat = frame["caveat"].any()
    for line in frame.to_dict("records"):
        difference = line["difference"]
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
                _yes_or_no(line["within_spread"]),
                percent(line["tolerance"]),
                _yes_or_no(line["within_tolerance"]),
                *([line["caveat"]] if with_caveat else []),
            ]
        )
    header = [
        "column", "recipe", "backend", "ours", "published", "their score", "difference", "spread",
        "within spread", "tolerance", "within tolerance", *(["caveat"] if with_caveat else []),
    ]  # fmt: skip
    return header, rows


def _yes_or_no(value: Any) -> str:
    return NO_VALUE if pd.isna(value) else "yes" if value else "no"


def beside_table(frame: pd.DataFrame, width: int = 200) -> tuple[Table, list[str]]:
    """`asdray.evaluation.published.beside` for a terminal of a width, and the titles of columns left out."""
    header, rows = beside_cells(frame)
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    texts = {title: columns.pop(title) for title in (*header[:3], "published", "caveat") if title in columns}
    importance = {"ours": None, "their score": 4, "difference": 3, "within tolerance": 2, "within spread": 1}
    numbers = [
        NumberColumn(title, [_stacked(cell) for cell in cells], importance.get(title, 0))
        for title, cells in columns.items()
    ]
    title = "ours beside the published results that they follow"
    return fitted(title, [TextColumn(*column) for column in texts.items()], numbers, width)


def _stacked(score: str) -> tuple[str, str]:
    """A score and its spread, apart."""
    mean, mark, spread = score.partition(" ± ")
    return mean, f"± {spread}" if mark else ""


# ------------------------------------------------------------------------------------------------- files


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Writes the leaderboard as ``csv``, ``parquet``, ``md`` and ``tex`` into a sweep's folder.

    Without a row that has a caveat, the files have no column of caveats.

    Returns:
        The paths, see `asdray.store.SweepDir.leaderboard`.
    """
    sweep = store.SweepDir(folder)
    csv, parquet, md, tex = (sweep.leaderboard(s, board.metric) for s in ("csv", "parquet", "md", "tex"))
    frame = board.frame if board.frame["caveat"].any() else board.frame.drop(columns="caveat")
    write_csv(frame, csv, board.dataset)
    store.write_parquet(parquet, pa.Table.from_pandas(frame, preserve_index=False))
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
