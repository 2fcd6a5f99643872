"""Tables on narrow terminals: whole words, at most two lines for a row, nothing beyond the edge."""

import io
import re
from dataclasses import replace

import pytest
from board_rows import CONTEXT, MACHINES, board, make_rows, pick, plan
from rich.console import Console

from asdray.evaluation import leaderboard, tables
from asdray.fitted_table import NumberColumn, TextColumn, fitted
from asdray.sweep.progress import render

LONG = "dis_baseline loss=subcluster_adacos(trainable=false) lr=1e-3"
LABELS = {
    "dis-11111111": LONG,
    "dis-22222222": "dis_baseline loss=arcface lr=3e-4",
    "ae-33333333": "ae_baseline",
}
ROWS = make_rows()


def printed(*parts, width):
    # As the live view's console, which wraps no line itself.
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False, soft_wrap=True)
    for part in parts:
        console.print(part)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines), lines
    return lines


def shown(made, width):
    """The lines of a leaderboard, and its notes; labels as a sweep gives them."""
    table, notes = leaderboard.rich_table(replace(made, labels=LABELS), "losses", width)
    return printed(table, width=width), " ".join(notes)


def rows_of(lines):
    """The lines of every row: the first begins with a rank."""
    rows = []
    for line in lines[3:]:
        if re.match(r" *(\d+|–)  ", line):
            rows.append([])
        rows[-1].append(line)
    return rows


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_a_row_takes_two_lines_at_most_and_no_word_is_broken(width):
    lines, notes = shown(board(ROWS), width)
    rows = rows_of(lines)
    assert len(rows) == 5
    assert all(len(row) <= 2 for row in rows)
    words = {word for name in LABELS.values() for word in re.findall(r"[^ ()]+", name)}
    whole = re.findall(r"[^ ()]+", " ".join(lines))
    assert words <= {*whole}
    assert "eval" in lines[1], "what ranks is there"
    assert ("h-mean" in notes) == (width <= 100)


def test_columns_that_say_nothing_are_not_there():
    lines, notes = shown(board(ROWS), 200)
    assert "of 2" not in "".join(lines), "all seeds are there"
    missing = ROWS[~pick(ROWS, system="dis-11111111", seed=1, dcase="dcase2022")]
    lines, _ = shown(board(missing), 200)
    assert sum("(1 of 2)" in line for line in lines) == 2
    planned = plan()
    planned = planned[planned["dcase"] == "dcase2023"]
    context = replace(CONTEXT, machines={"dcase2023": MACHINES["dcase2023"]})
    one_year = leaderboard.build(tables.sweep_tables(ROWS, planned, context), context)
    assert one_year.means == ("amean", "hmean")
    lines, notes = shown(one_year, 80)
    assert "mean" not in "".join(lines) + notes


def test_the_column_that_ranks_is_left_out_never():
    made = board(ROWS, rank_by="dcase2022-dev")
    lines, notes = shown(made, 60)
    assert "2022" in lines[1]
    assert "dev" in lines[2]
    assert "dcase2022-dev" not in notes


def test_what_has_no_place_at_all_is_cut_with_an_ellipsis():
    table, left_out = fitted("", [TextColumn("name", ["a_very_long_word", "two words"])],
                             [NumberColumn("x", [("1", ""), ("2", "")])], width=12)  # fmt: skip
    assert printed(table, width=12) == ["name       x", "a_very_l…  1", "two words  2"]
    assert left_out == []


def training(title, unit="all-1a2b3c4d"):
    return {"trial": "x", "title": title, "unit": unit, "epoch": 12, "epochs": 100, "loss": 0.1234,
            "clips_per_second": 1234.0, "seconds_left": 12000.0}  # fmt: skip


@pytest.mark.parametrize("height", [24, 50])
def test_the_live_view_fits_its_screen(height):
    best = {"system": "s", "name": LONG, "backend": "knn(n_neighbors=4)", "column": "eval_amean", "score": 0.7,
            "dataset": "synthetic", "complete": False}  # fmt: skip
    snapshot = {
        "training": [training(f"{LONG} dcase2023 seed{k}") for k in range(30)],
        "leaderboard": [best, {**best, "complete": True}] * 2,
        "trials": {"done": 3, "running": 30, "failed": 0, "waiting": 48},
        "tasks": 12,
        "seconds_left": 7200.0,
        "to_come": {"search": 9, "confirm": 3},
        "without": 9,
    }
    lines = printed(render(snapshot, 80, height), width=80)
    assert len(lines) < height
    assert "12/100  0.1234     1234  3 h 20 min" in " ".join(lines)
    hidden = int(next(re.search(r"and (\d+) more", line)[1] for line in lines if "more trainings" in line))
    assert hidden + sum("12/100" in line for line in lines) == 30
    assert " ".join(lines[-2:]).endswith("without the 9 systems to come")
    assert "all-1a2b3c4d" not in " ".join(lines), "no hash"
    narrow = printed(render(snapshot, 20, height), width=20)
    assert "…" not in narrow[0]
    assert narrow[1].startswith("dis_bas"), "a training has its name and its epoch at least"
    assert "12/100" in narrow[1]
    (line,) = [
        line
        for line in printed(render({**snapshot, "training": [training("a", "fan")]}), width=200)
        if "12/100" in line
    ]
    assert line.startswith("a fan ")
