"""Checks that every file of results names the kind of its data, official or synthetic."""

from __future__ import annotations

import csv
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq

FIXED = (
    # The challenge's own formats have no column for the kind; a file beside these names the kind:
    # `submission.json`, `teams_official_score_ci95.csv` or `dataset.txt`.
    "*/anomaly_score_*.csv",
    "*/decision_result_*.csv",
    "*/*_result.csv",
    "*/official_score.csv",
    "*/teams_official_score.csv",
    "*/teams_official_score_paper.csv",
    "*/teams_section_*.csv",
    # Losses by epoch; the trial.json of the trial names the kind.
    "*/model/*/metrics.csv",
    # Links to the models.
    "*/tensorboard/*",
    # Ray Tune's own logs.
    "*/tune/*",
)
"""Files in a form fixed by others. Parquet files with a row per clip (a column ``clip``) don't name the kind
either: scores, embeddings and points of plots are no results, and belong to a trial with a trial.json."""


def marks(folder: Path) -> dict[str, bool]:
    """Every table and text of results below ``folder`` -> True if all of it names the data as synthetic."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder).as_posix()}"
        if path.suffix not in (".csv", ".parquet", ".md", ".tex") or any(fnmatch(name, p) for p in FIXED):
            continue
        if path.suffix in (".md", ".tex"):
            found[name] = "Dataset: synthetic" in path.read_text()
            continue
        if path.suffix == ".parquet":
            columns = pq.read_table(path).to_pydict()
            if "clip" in columns:
                continue
        else:
            with open(path, newline="") as file:
                head, *rows = csv.reader(file)
            columns = {column: [row[i] for row in rows] for i, column in enumerate(head)}
        found[name] = set(columns.get("dataset", ["none"])) <= {"synthetic"}
    return found
