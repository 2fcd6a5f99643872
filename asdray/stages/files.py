"""Reading and writing the files that stages hand to each other."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdray import store


@dataclass(frozen=True)
class Extract:
    """What extraction wrote of N clips of one machine and split.

    Attributes:
        clips: N clip keys.
        embedding: (N, D) float32, or None where the frontend has none.
        own: the frontend's own anomaly scores, each (N,).
    """

    clips: list[str]
    embedding: NDArray[np.float32] | None
    own: dict[str, NDArray[np.floating]]


def read_scores(path: Path) -> dict[str, float]:
    """Clip key -> anomaly score, from a backend's score file.

    Raises:
        ValueError: a missing or damaged file, with its name.
    """
    table = store.read_parquet(path, ["clip", "score"])
    return dict(zip(table["clip"].to_pylist(), table["score"].to_pylist(), strict=True))


def read_extract(path: Path) -> Extract:
    """A ``{train,test}_extract.parquet``.

    Raises:
        ValueError: damaged, with its name.
    """
    table = store.read_parquet(path)
    embedding = None
    if "embedding" in table.column_names:
        column = table["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        embedding = values.reshape(len(column), column.type.list_size)
    own = {name: table[name].to_numpy() for name in table.column_names if name not in ("clip", "embedding")}
    return Extract(table["clip"].to_pylist(), embedding, own)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV atomically: null is empty, a float has every digit, lines end in LF."""
    with store.atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
