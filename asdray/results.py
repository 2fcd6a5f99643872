"""Reading back: every number of a sweep, a trial or a results folder in one tidy table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.files import read_yaml, validate
from asdray.config.load import load_plugins
from asdray.config.sweep import Sweep
from asdray.store import TrialDir

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Swept = dict[str, dict[str, Any]]
"""System -> option path -> value."""

_FIRST = ("system", "recipe")
_THEN = (
    "dcase", "seed", "machine", "section", "subset", "backend", "checkpoint", "metric", "value",
    "backend_id", "dataset",
)  # fmt: skip


def load_results(path: str | Path) -> pd.DataFrame:
    """Everything that was evaluated, one number per row; the documented way into a notebook.

    ::

        frame = asdray.load_results("results/sweeps/dis_grid")       # or just "dis_grid"
        official = frame.query("metric == 'official' and section == -1")
        row = ["system", "backend", "checkpoint", "dcase", "subset", "machine"]
        official.groupby(row)["value"].agg(["mean", "std", "count"])

    Args:
        path: a sweep's folder or, below ``results`` (``ASDRAY_RESULTS``), its name; a trial's folder; or a
            results folder, of which all trials are read. Of a sweep: the backends, checkpoints and
            machines that its file names, and its ensembles.

    Returns:
        A row per trial, checkpoint, machine, subset, section, backend and metric; the columns

        * system, recipe; ensembles have the recipe ``ensemble``,
        * one per option that varies, under its dotted path (``train.learning_rate``), objects as JSON: in
          a sweep those that it swept, in a results folder those in which systems of a recipe differ,
        * part, of a sweep alone: ``grid``, or of a search ``search`` and ``confirm``; null for ensembles,
        * dcase, seed (-1: of all seeds together), machine, section (-1: of all together), subset,
          backend (as tables show it), checkpoint, metric,
        * value: a fraction in [0, 1]; NaN where it cannot be computed or labels are missing,
        * backend_id, which does not depend on what else is in the table, and dataset, ``official`` or
          ``synthetic``.

        A trial that is not evaluated yet has no row. What is read is what was written last; that it is still
        up to date, only ``asdray sweep`` and ``asdray report`` check.

    Raises:
        ValueError: the path is none of these, or a file is damaged.
    """
    folder = Path(path).expanduser()
    if not folder.exists() and len(Path(path).parts) == 1:
        folder = store.sweep_dir(Path(os.environ.get("ASDRAY_RESULTS", "results")), str(path))
    if (folder / "trial.json").is_file():
        if not (folder / "metrics.parquet").is_file():
            raise ValueError(f"{folder} is not evaluated yet: run `asdray table {folder}` or its sweep")
        return _frame([TrialDir(folder)], lambda known: {})
    if (folder / "sweep.yaml").is_file():
        return _of_sweep(folder)
    if (folder / "trials").is_dir():
        trials = [TrialDir(p.parent) for p in sorted((folder / "trials").glob("*/*/seed*/trial.json"))]
        return _frame(trials, _differing)
    raise ValueError(
        f"{path} is no sweep's folder (or name), no trial's folder and no results folder: there is no "
        f"sweep.yaml, trial.json or trials/ in {folder.absolute()}"
    )


# ------------------------------------------------------------------------------------------- of a sweep


def _of_sweep(folder: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.compute as pc

    spec = read_yaml(folder / "sweep.yaml")
    named = spec.get("plugins", ()) if isinstance(spec, dict) else ()
    load_plugins(folder / name for name in named)
    sweep = validate(Sweep, spec, str(folder / "sweep.yaml"))
    planned = _read(folder / "trials.parquet").to_pylist()
    options = _option_paths(planned)
    swept = {row["system"]: {name: row[name] for name in options} for row in planned}
    results = folder.absolute().parents[1]
    asked = {backend_id(b) for b in sweep.backends}
    machines = [f"{dcase}/{m}" for dcase in sweep.years for m in sweep.machines_of(dcase)]

    def chosen(table: pa.Table) -> pa.Table:
        # What a frontend offers of its own is scored by every sweep.
        ids = table["backend"].unique().to_pylist()
        wanted = {name for name in ids if name in asked or name.rpartition("-")[0] in ("recon", "own")}
        keep = pc.and_(_in(table["backend"], wanted), _in(table["checkpoint"], sweep.checkpoints))
        pairs = pc.binary_join_element_wise(table["dcase"], table["machine"], "/")
        return table.filter(pc.and_(keep, _in(pairs, machines)))

    more = sorted(store.ensembles_dir(results, folder.name).glob("*/*/*/*/metrics.parquet"))
    trials = [TrialDir(results / row["directory"]) for row in planned]
    frame = _frame(trials, lambda _: swept, chosen, more)
    parts = {(row["dcase"], row["system"], row["seed"]): row.get("part") for row in planned}
    keys = zip(frame["dcase"], frame["system"], frame["seed"], strict=True)
    part = pd.Series([parts.get(key) for key in keys], frame.index, "str")
    frame.insert(list(frame.columns).index("dcase"), "part", part)
    return frame


def _in(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


_NO_OPTIONS = (
    "dcase", "recipe", "system", "seed", "part", "status", "device", "error", "directory", "dataset",
    *(f"{stage}_seconds" for stage in ("train", "extract", "score", "evaluate", "umap", "table")),
)  # fmt: skip


def _option_paths(planned: list[dict[str, Any]]) -> list[str]:
    """The columns of ``trials.parquet`` that are swept options."""
    names = list(planned[0]) if planned else []
    return [n for n in names if n not in _NO_OPTIONS]


# ------------------------------------------------------------------------------------ of results folders


def _differing(systems: Mapping[tuple[str, str], Mapping[str, Any]]) -> Swept:
    """The options in which the systems of a recipe differ.

    Args:
        systems: (recipe, system) -> its configuration.
    """
    from asdray.evaluation.naming import differences

    found: Swept = {}
    for recipe in dict.fromkeys(recipe for recipe, _ in systems):
        found |= differences({name: _flat(tree) for (r, name), tree in systems.items() if r == recipe})
    return found


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Option path -> value of a nested configuration; lists as JSON."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return flat


# ------------------------------------------------------------------------------------------------- both


def _frame(
    trials: Iterable[TrialDir],
    swept_of: Callable[[Mapping[tuple[str, str], Mapping[str, Any]]], Swept],
    chosen: Callable[[pa.Table], pa.Table] = lambda table: table,
    ensembles: Iterable[Path] = (),
) -> pd.DataFrame:
    """The rows of many trials, with what is known of their systems, backends and datasets."""
    import pandas as pd
    import pyarrow as pa

    from asdray.evaluation import naming
    from asdray.evaluation.tables import SCHEMA

    parts = [SCHEMA.empty_table()]
    systems: dict[tuple[str, str], Mapping[str, Any]] = {}
    there: dict[tuple[str, str, int], TrialDir] = {}
    for directory in trials:
        if directory.metrics.is_file():
            described = store.read_json(directory.trial_json)
            recipe = described["recipe"]
            system = f"{recipe}-{described['system_id']}"
            systems.setdefault((recipe, system), described["system"])
            there[described["dcase"], system, described["seed"]] = directory
            parts.append(_read_metrics(directory.metrics))
    rows = chosen(pa.concat_tables(parts))
    options = _options(rows, there)
    frame = pa.concat_tables([rows, *map(_read_metrics, ensembles)]).to_pandas()
    labels = naming.backend_labels({name: options.get(name) for name in frame["backend"].unique()})
    frame = frame.rename(columns={"backend": "backend_id"})
    frame["backend"] = frame["backend_id"].map(labels).astype("str")
    swept = swept_of(systems)
    paths = list(dict.fromkeys(path for own in swept.values() for path in own))
    for path in paths:
        values = pd.Series({system: own.get(path) for system, own in swept.items()}).infer_objects()
        frame[path] = frame["system"].map(values)
    return frame[[*_FIRST, *paths, *_THEN]]


def _options(
    rows: pa.Table, trials: Mapping[tuple[str, str, int], TrialDir]
) -> dict[str, Mapping[str, Any] | None]:
    """Backend id -> its options, as the marker of the first score that it gave tells them."""
    import pyarrow.compute as pc

    found: dict[str, Mapping[str, Any] | None] = {}
    for backend in rows["backend"].unique().to_pylist():
        (row,) = rows.slice(pc.index(rows["backend"], backend).as_py(), 1).to_pylist()
        folder = trials[row["dcase"], row["system"], row["seed"]].machine(row["checkpoint"], row["machine"])
        marker = store.read_marker(folder, "score", backend)
        found[backend] = None if marker is None else marker.extra["options"]
    return found


def _read_metrics(path: Path) -> pa.Table:
    """A ``metrics.parquet``.

    Raises:
        ValueError: as `_read`, and of other columns.
    """
    from asdray.evaluation.tables import SCHEMA

    table = _read(path)
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"{path} was written by another version: run the sweep or `asdray table` again")
    return table


def _read(path: Path) -> pa.Table:
    """A parquet file.

    Raises:
        ValueError: missing or damaged, with its name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(str(path)).read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {path} ({error}): run the sweep or `asdray table` again") from None
