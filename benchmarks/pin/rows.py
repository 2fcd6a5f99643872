"""Rows of a pin: hashes of results by content, and the comparison of two sets of rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DIGITS = 16
"""Characters of a sha256 in a row."""

LEFT_OUT = (
    # Times, addresses, logs of Ray and of TensorBoard, leases, copies of what a command was given, and the
    # source that made the results.
    "*/events.jsonl", "*/status.json", "*/seen.jsonl", "*/tune/*", "*/study*", "*/train.log", "*.tfevents.*",
    "*/sources/*", "*/.lease", "*/.done/*", "*/done.json", "*/trial.json", "*/sweep.yaml", "*/hparams.yaml",
)  # fmt: skip
PRESENT = (".ckpt", ".png", ".pdf", ".html")
"""Endings of files whose bytes may differ between two runs: a row says that they are there."""

TIMES = ("seconds", "per_second", "mtime_ns", "device")
"""Endings of columns that are left out, as their values differ between two runs or two machines."""


def collect(folder: Path, root: Path) -> dict[str, str]:
    """Name below ``folder`` -> hash, of every result; signatures of finished stages are ``<folder>#<stage>``.

    Args:
        root: a folder whose path is taken out of texts.
    """
    rows = {f"{_name(path, folder)}#{stage}": signature[:DIGITS] for path, stage, signature in stages(folder)}
    for path in sorted(folder.rglob("*")):
        name = _name(path, folder)
        if path.is_file() and not any(fnmatch(f"/{name}", pattern) for pattern in LEFT_OUT):
            rows[name] = _hash_of(path, root)
    for path in sorted(folder.rglob("trial.json")):
        rows[f"{_name(path, folder)}:signatures"] = _digest(_identity(json.loads(path.read_text())))
    return rows


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def stages(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """(folder, ``<stage>[-<backend>]``, signature) of every finished stage below a folder."""
    for path, stage, record in records(folder):
        yield path, stage, record["signature"]


def records(folder: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """(folder, ``<stage>[-<backend>]``, record) of every finished stage below a folder.

    The one place that knows how the store keeps them: a file per stage, or one ``done.json`` per folder. The
    record of a UMAP counts for the folder above, where releases without ``done.json`` kept it.
    """
    for path in sorted(folder.rglob(".done/*.json")):
        yield path.parent.parent, path.stem, json.loads(path.read_text())
    for path in sorted(folder.rglob("done.json")):
        for stage, record in json.loads(path.read_text())["records"].items():
            yield path.parent.parent if stage == "umap" else path.parent, stage, record


def _identity(trial: Mapping[str, Any]) -> str:
    """The parts of a ``trial.json`` that say which trial it is, as text."""
    keys = (
        "dcase",
        "recipe",
        "system_id",
        "canonical",
        "seed",
        "machines",
        "checkpoints",
        "dataset",
        "signatures",
    )
    return json.dumps({key: trial.get(key) for key in keys}, sort_keys=True)


def _hash_of(path: Path, root: Path) -> str:
    """The hash of one file: of a Parquet file and a log of losses by content, of others by bytes."""
    if path.suffix in PRESENT:
        return "present"
    if path.suffix == ".parquet":
        return of_parquet(path)
    text = path.read_text(encoding="utf-8")
    if path.name == "metrics.csv":
        text = without_times(text)
    elif path.suffix == ".json":
        text = json.dumps(_without(json.loads(text), ("provenance", "why")), sort_keys=True)
    return of_text(text, root)


def _without(value: Any, keys: Sequence[str]) -> Any:
    """A value of a JSON file, without some keys of its objects: parts that differ between runs, and prose."""
    if isinstance(value, list):
        return [_without(part, keys) for part in value]
    if isinstance(value, dict):
        return {key: _without(part, keys) for key, part in value.items() if key not in keys}
    return value


def of_files(folder: Path, *patterns: str) -> str:
    """One hash of many files: of their names and bytes."""
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    lines = [f"{_name(path, folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in found]
    return _digest("\n".join(lines))


def of_text(text: str, root: Path) -> str:
    """The hash of a text in which ``root`` is no part of any path."""
    return _digest(text.replace(str(root), "<root>"))


def of_parquet(path: Path) -> str:
    """The hash of a table's columns and values: not of its compression, metadata or widths of types."""
    return of_table(pq.read_table(path))


def of_table(table: pa.Table) -> str:
    """The hash of the names and values of columns, in their order; columns of times are left out."""
    text = "\n".join(
        f"{name} {table.column(name).to_pylist()!r}" for name in table.column_names if not _is_time(name)
    )
    return _digest(text)


def without_times(text: str) -> str:
    """A CSV text without its columns of times."""
    head, *lines = csv.reader(io.StringIO(text))
    wanted = [i for i, name in enumerate(head) if not _is_time(name)]
    return "\n".join(",".join(line[i] for i in wanted) for line in [head, *lines])


def _is_time(column: str) -> bool:
    return column.endswith(TIMES)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


# ------------------------------------------------------------------------------------------------- files


def write_rows(path: Path, rows: Mapping[str, str], header: Sequence[str]) -> None:
    """Writes rows sorted by name below lines that say where they were made."""
    lines = [f"# {line}" for line in header] + [
        f"{digest:<{DIGITS}}  {name}" for name, digest in sorted(rows.items())
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(path: Path) -> dict[str, str]:
    """Name -> hash of a file that `write_rows` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    split = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {name: digest for digest, name in split}


def compare_rows(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """A line for every row that changed, is missing or is new; none: both are equal."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        before, now = expected.get(name), found.get(name)
        if before is None:
            lines.append(f"new      {'':<{DIGITS}}    {now:<{DIGITS}}  {name}")
        elif now is None:
            lines.append(f"missing  {before:<{DIGITS}}    {'':<{DIGITS}}  {name}")
        elif before != now:
            lines.append(f"changed  {before:<{DIGITS}} -> {now:<{DIGITS}}  {name}")
    return lines
