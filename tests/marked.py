"""Which files below a folder do not say of which kind of data they are: for the tests that write results."""

from __future__ import annotations

import csv
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq

FIXED = (
    # The challenge's own formats have no place for a mark; `submission.json`, and
    # `teams_official_score_ci95.csv` or `dataset.txt`, which lie beside them, have.
    "*/anomaly_score_*.csv",
    "*/decision_result_*.csv",
    "*/*_result.csv",
    "*/official_score.csv",
    "*/teams_official_score.csv",
    "*/teams_official_score_paper.csv",
    "*/teams_section_*.csv",
    # Losses by epoch as Lightning writes them; the trial.json above them says of which data.
    "*/model/*/metrics.csv",
    # Ray Tune's own logs.
    "*/tune/*",
)
"""Files whose form others fixed. Not marked either are Parquet files with a row per clip (a column ``clip``):
scores, embeddings and points of plots are no results, and trial.json stands above them."""


def marks(folder: Path, kind: str = "synthetic") -> dict[str, bool]:
    """Every table and text of results below ``folder`` -> whether all of it says that the data are ``kind``."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder).as_posix()}"
        if path.suffix not in (".csv", ".parquet", ".md", ".tex") or any(fnmatch(name, p) for p in FIXED):
            continue
        if path.suffix in (".md", ".tex"):
            found[name] = f"Dataset: {kind}" in path.read_text()
            continue
        if path.suffix == ".parquet":
            columns = pq.read_table(path).to_pydict()
            if "clip" in columns:
                continue
        else:
            with open(path, newline="") as file:
                head, *rows = csv.reader(file)
            columns = {column: [row[i] for row in rows] for i, column in enumerate(head)}
        found[name] = set(columns.get("dataset", ["none"])) <= {kind}
    return found
