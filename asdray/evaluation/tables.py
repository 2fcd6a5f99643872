"""Tables of a trial and of a sweep, and the readable names of systems, options and backends in them.

All tables come from one long frame of evaluation rows with the columns `COLUMNS`. ``system`` is
``<recipe>-<system8>``, ``backend`` a backend id, section -1 all sections of the subset together. Scores are
fractions in [0, 1], NaN where a score is missing. Every written table names its kind of data in the column
``dataset``, ``official`` or ``synthetic``.

>>> backend_labels({"knn-1f": {"name": "knn", "n_neighbors": 1}, "knn-2e": {"name": "knn", "n_neighbors": 4}})
{'knn-1f': 'knn(n_neighbors=1)', 'knn-2e': 'knn(n_neighbors=4)'}
>>> coverage("dcase2023", "eval", ["Vacuum", "ToyTank"])
'2 of 7'
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from asdray import damage, store
from asdray.config.backend import TRANSDUCTIVE, Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.years import SUBSETS, Subset, get_year, nearest
from asdray.evaluation import metrics
from asdray.evaluation.metrics import ALL_SECTIONS
from asdray.printable import cell

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dcase", "recipe", "system")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("checkpoint", "machine", "subset")),
        ("section", pa.int64()),
        *((name, pa.string()) for name in ("backend", "metric")),
        ("value", pa.float64()),
        ("dataset", pa.string()),
    ]
)
"""Columns of ``metrics.parquet``, the evaluation rows of a trial or of an ensemble."""

COLUMNS = tuple(name for name in SCHEMA.names if name != "dataset")
TRIAL_KEYS = ["recipe", "system", "seed", "checkpoint", "backend"]
ROW_KEYS = ["recipe", "system", "checkpoint", "backend"]
HEAD = ("system", "recipe", "options", "backend", "backend_id", "checkpoint", "n", "n_expected", "machines")

NO_VALUE = "–"
"""A missing score in tables for people."""

Tables = dict[tuple[str, Subset], pd.DataFrame]
"""(dcase, subset) -> table."""


@dataclass(frozen=True)
class TableContext:
    """Everything except scores that the tables and the leaderboard of a sweep show.

    Attributes:
        machines: dcase -> the machines of the sweep; years in the order of the leaderboard.
        dataset: ``official`` or ``synthetic``.
        label_sources: dcase -> sources of the test labels, such as ``name+evaluator``; ``""`` without labels.
        labels: backend id -> label, see `backend_labels`.
        options: system -> its swept options, see `option_labels`.
        best_by: system -> the loss by which its checkpoint ``best`` is chosen; ``train_loss`` by default.
        classes_from: system -> the clips that define its training classes: ``train``, ``train+test``, ``""``.
    """

    machines: Mapping[str, Sequence[str]]
    dataset: str
    label_sources: Mapping[str, str]
    labels: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    best_by: Mapping[str, str] = field(default_factory=dict)
    classes_from: Mapping[str, str] = field(default_factory=dict)


def one_dataset(kinds: Mapping[str, str]) -> str:
    """The kind of data, ``official`` or ``synthetic``, that all years (dcase -> kind) of a table share.

    Raises:
        ValueError: both kinds; synthetic and official scores cannot be compared.
    """
    if len(set(kinds.values())) != 1:
        listed = ", ".join(f"{dcase} is {kind}" for dcase, kind in kinds.items())
        raise ValueError(
            f"synthetic and official datasets never stand in one table ({listed}): sweep them separately"
        )
    return next(iter(kinds.values()))


# ---------------------------------------------------------------------------------------- evaluation rows


def read_metrics(path: Path) -> pa.Table:
    """The evaluation rows in a ``metrics.parquet``, with the columns of `SCHEMA`.

    Raises:
        ValueError: a missing or damaged file, or other columns.
    """
    table = damage.read_parquet(path)
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"{path} was written by another version: run the sweep or `asdray table` again")
    return table


def load_rows(paths: Iterable[Path], metric: str = "official") -> pd.DataFrame:
    """The rows of one metric over all sections of each subset, from many ``metrics.parquet``: `COLUMNS`."""
    found = [SCHEMA.empty_table()]
    for path in paths:
        table = read_metrics(path)
        wanted = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["section"], ALL_SECTIONS))
        found.append(table.filter(wanted))
    return pa.concat_tables(found).select([*COLUMNS]).to_pandas()


def planned_rows(
    trials: Iterable[Trial], checkpoints: Sequence[str], backends: tuple[Backend, ...]
) -> pd.DataFrame:
    """The rows of a sweep's complete tables: the columns dcase and `TRIAL_KEYS`, in the order of the trials.

    Args:
        backends: backends of the sweep; each trial has those that apply to its frontend.
    """
    rows = [
        (trial.dcase, trial.recipe, trial.system_name, trial.seed, ckpt, backend_id(backend))
        for trial in trials
        for ckpt in checkpoints
        for backend in trial.backends(backends)
    ]
    return pd.DataFrame(rows, columns=["dcase", *TRIAL_KEYS])


# ------------------------------------------------------------------------------------------ score tables


def machines_in(dcase: str, subset: Subset, machines: Sequence[str]) -> tuple[str, ...]:
    """The machines of the subset among ``machines``, in the organisers' order."""
    return tuple(m for m in get_year(dcase).machines[subset] if m in set(machines))


def coverage(dcase: str, subset: Subset, machines: Sequence[str]) -> str:
    """``all``, or the share of the subset's machines in a total: totals of ``1 of 7`` and ``all`` differ."""
    have, of = len(machines_in(dcase, subset, machines)), len(get_year(dcase).machines[subset])
    return "all" if have == of else f"{have} of {of}"


def check_metric(name: str) -> str:
    """Returns ``name``; raises ValueError unless it is ``official`` or one of `metrics.METRICS`."""
    known = ("official", *metrics.METRICS)
    if name not in known:
        raise ValueError(f"unknown metric {name!r}{nearest(name, known)} (one of: {', '.join(known)})")
    return name


def table_name(dcase: str, subset: Subset, metric: str = "official") -> str:
    """The file name of a table, such as ``official23-dev.csv`` or ``s_auc23-dev.csv``."""
    return f"{get_year(dcase).score_name.replace('official', metric)}-{subset}.csv"


def trial_scores(
    rows: pd.DataFrame, dcase: str, subset: Subset, machines: Sequence[str], metric: str
) -> pd.DataFrame:
    """The scores of every trial, checkpoint and backend: `TRIAL_KEYS`, one column per machine, total.

    Args:
        rows: see `load_rows`.
        machines: machines of the subset; a total is null unless all have a score.
    """
    year = get_year(dcase)
    chosen = rows[
        (rows["dcase"] == dcase)
        & (rows["subset"] == subset)
        & (rows["metric"] == metric)
        & (rows["section"] == ALL_SECTIONS)
    ]
    wide = chosen.pivot(index=TRIAL_KEYS, columns="machine", values="value").reindex(columns=list(machines))
    n_sections = [len(year.sections[subset][m]) for m in machines]
    totals = [
        metrics.official_total(
            year.score_rule, [None if math.isnan(v) else float(v) for v in values], n_sections
        )
        for values in wide.to_numpy(dtype=float)
    ]
    wide["total"] = pd.Series(totals, index=wide.index, dtype=float)
    return wide.reset_index()


def trial_table(
    rows: Iterable[Mapping[str, Any]],
    dcase: str,
    subset: Subset,
    machines: Sequence[str],
    labels: Mapping[str, str],
    metric: str = "official",
) -> list[dict[str, Any]]:
    """The table of one trial and checkpoint: backend, one column per machine, total, machines.

    Args:
        rows: evaluation rows of the trial and checkpoint.
        machines: machines of the trial; the total is null unless all machines have a score.
        labels: backend id -> label, in the order of the table; other backends are left out.

    Returns:
        One row per backend; the column ``machines`` holds the `coverage` of the total.
    """
    year, columns = get_year(dcase), machines_in(dcase, subset, machines)
    wanted = {"dcase": dcase, "subset": subset, "metric": metric, "section": ALL_SECTIONS}
    chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    scores = {(row["backend"], row["machine"]): row["value"] for row in chosen}
    assert len(scores) == len(chosen), "rows of one trial and checkpoint"
    n_sections = [len(year.sections[subset][machine]) for machine in columns]
    table = []
    for backend, label in labels.items():
        values = [scores.get((backend, machine)) for machine in columns]
        total = metrics.official_total(year.score_rule, values, n_sections)
        of_machines = dict(zip(columns, values, strict=True))
        covered = coverage(dcase, subset, machines)
        table.append({"backend": label, **of_machines, "total": total, "machines": covered})
    return table


def sweep_tables(
    rows: pd.DataFrame, planned: pd.DataFrame, context: TableContext, metric: str = "official"
) -> Tables:
    """The table of every year and subset in which the sweep has a machine, one row per system, checkpoint
    and backend.

    A trial counts once its total is known: ``n`` of ``n_expected`` seeds. Means and standard deviations
    (ddof 1, null for one seed) are over the same n trials in all columns of a row.

    Args:
        rows: evaluation rows, see `load_rows`.
        planned: see `planned_rows`; rows of other trials, checkpoints and backends are left out.

    Returns:
        Tables with the columns `HEAD` (``machines`` is the `coverage`), the mean of each machine,
        total_mean, total_std, and the standard deviation of each machine as ``<machine>_std``.
    """
    return {
        (dcase, subset): _sweep_table(rows, planned, dcase, subset, context, metric)
        for dcase, machines in context.machines.items()
        for subset in SUBSETS
        if machines_in(dcase, subset, machines)
    }


def _sweep_table(
    rows: pd.DataFrame, planned: pd.DataFrame, dcase: str, subset: Subset, context: TableContext, metric: str
) -> pd.DataFrame:
    columns = machines_in(dcase, subset, context.machines[dcase])
    spreads = [f"{machine}_std" for machine in columns]
    scores = trial_scores(rows, dcase, subset, columns, metric)
    expected = planned[planned["dcase"] == dcase]
    joined = expected.merge(scores, on=TRIAL_KEYS, how="left", validate="one_to_one")
    numbers = joined[[*columns, "total"]].to_numpy(dtype=float)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(joined[ROW_KEYS].itertuples(index=False, name=None)):
        groups.setdefault(key, []).append(i)
    covered = coverage(dcase, subset, context.machines[dcase])
    out = []
    for (recipe, system, checkpoint, backend), at in groups.items():
        known = numbers[at]
        known = known[[not math.isnan(total) for total in known[:, -1]]]
        means = [metrics.arithmetic_mean(column) for column in known.T.tolist()]
        stds = [metrics.sample_std(column) for column in known.T.tolist()]
        label, options = context.labels[backend], context.options.get(system, "")
        head = (system, recipe, options, label, backend, checkpoint, len(known), len(at), covered)
        out.append([*head, *means[:-1], means[-1], stds[-1], *stds[:-1]])
    values = [*columns, "total_mean", "total_std", *spreads]
    return pd.DataFrame(out, columns=[*HEAD, *values]).astype(dict.fromkeys(values, float))


def write_csv(frame: pd.DataFrame, path: Path, dataset: str) -> None:
    """Writes a table atomically; nulls are empty, floats keep every digit, and no text is a formula: `cell`.

    Args:
        dataset: value of the column ``dataset``, the last column unless the frame has it elsewhere.
    """
    with store.atomic_path(path) as temporary:
        texts = frame.select_dtypes(exclude=["number", "bool"]).columns
        safe = frame.assign(**{str(name): frame[name].map(cell, na_action="ignore") for name in texts})
        safe.assign(dataset=dataset).to_csv(temporary, index=False, lineterminator="\n")


def write_trial_table(table: Sequence[Mapping[str, Any]], path: Path, dataset: str) -> None:
    """Writes a `trial_table` as `write_csv` would; pandas takes a hundred times as long for some rows."""
    with store.atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*table[0], "dataset"])
        writer.writerows([*map(cell, row.values()), dataset] for row in table)


def write_tables(tables: Tables, folder: Path, dataset: str, metric: str = "official") -> list[Path]:
    """Writes ``official23-dev.csv`` and ``official23-dev-std.csv`` of every year and subset.

    ``-std`` holds the standard deviations over seeds of every machine and of the total, in the same rows.

    Returns:
        The paths of the files.
    """
    paths = []
    for (dcase, subset), frame in tables.items():
        path = folder / table_name(dcase, subset, metric)
        spreads = [name for name in frame.columns if name.endswith("_std") and name != "total_std"]
        std = frame[[*HEAD, *spreads, "total_std"]]
        for table, to in (
            (frame.drop(columns=spreads), path),
            (std.rename(columns=lambda name: name.removesuffix("_std")), path.with_stem(f"{path.stem}-std")),
        ):
            write_csv(table, to, dataset)
            paths.append(to)
    return paths


# ---------------------------------------------------------------------------------------- table of trials

STAGES = ("train", "extract", "score", "evaluate", "umap", "table")

_BEFORE_OPTIONS = {
    **dict.fromkeys(("dcase", "recipe", "system"), pa.string()), "seed": pa.int64(), "part": pa.string()
}  # fmt: skip
_AFTER_OPTIONS = {
    "status": pa.string(),
    **{f"{stage}_seconds": pa.float64() for stage in STAGES},
    **dict.fromkeys(("device", "error", "directory", "dataset"), pa.string()),
}


def write_trials(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes ``trials.parquet`` of a sweep: one row per trial, one column per swept option.

    Args:
        rows: see `asdray.sweep.jobs.trial_row`; ``swept`` maps option path -> value, ``seconds`` maps
            stage -> seconds. An object among the values is written as JSON text.
        folder: the sweep's folder.
    """
    flat = [{**row, **{f"{stage}_seconds": row["seconds"].get(stage) for stage in STAGES}} for row in rows]
    options = dict.fromkeys(path for row in rows for path in row["swept"])
    columns = {name: pa.array([row[name] for row in flat], kind) for name, kind in _BEFORE_OPTIONS.items()}
    columns |= {path: _option_column([row["swept"].get(path) for row in rows]) for path in options}
    columns |= {name: pa.array([row[name] for row in flat], kind) for name, kind in _AFTER_OPTIONS.items()}
    # No record has a hash of this file, so that the file has checksums of its own.
    store.write_parquet(store.SweepDir(folder).trials, pa.table(columns), write_page_checksum=True)


def read_trials(folder: Path) -> pa.Table:
    """The table that `write_trials` wrote.

    Raises:
        ValueError: a missing or damaged file, or other columns; with the file's name.
    """
    path = store.SweepDir(folder).trials
    table = damage.read_parquet(path)
    wanted = _BEFORE_OPTIONS | _AFTER_OPTIONS
    found = {name: table.schema.field(name).type for name in table.column_names if name in wanted}
    if found != wanted:
        raise ValueError(f"{path} is damaged, or of another version: run the sweep again")
    return table


def option_columns(trials: pa.Table) -> list[str]:
    """The columns of ``trials.parquet`` that are swept options."""
    return [n for n in trials.column_names if n not in _BEFORE_OPTIONS and n not in _AFTER_OPTIONS]


def _option_column(values: list[Any]) -> pa.Array:
    present = [v for v in values if v is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present):
        return pa.array(values, pa.int64() if all(isinstance(v, int) for v in present) else pa.float64())
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values]
    return pa.array(texts, pa.string())


# ----------------------------------------------------------------------------------------------- labels

ALWAYS_SHOWN = {"own": ("score",), "pyod": ("detector",)}
"""Options that the label of a backend always names, since its name alone says nothing."""

TRANSDUCTIVE_MARK = "transductive "
"""Beginning of the label of a backend whose score of a clip depends on which other test clips there are."""

SHOWN_IF_GIVEN = ("embedding", "combine")
"""Options of every backend that a label names where they are given; descriptions leave out their defaults."""


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals, `NO_VALUE` for None and NaN."""
    return NO_VALUE if value is None or math.isnan(value) else f"{100 * value:.2f}"


def differences(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options of each key whose values differ between keys.

    >>> differences({"a": {"k": 1, "metric": "cosine"}, "b": {"k": 4, "metric": "cosine"}})
    {'a': {'k': 1}, 'b': {'k': 4}}
    """
    names = dict.fromkeys(name for own in options.values() for name in own)
    missing, first = object(), next(iter(options.values()), {})
    varied = [
        n for n in names if any(own.get(n, missing) != first.get(n, missing) for own in options.values())
    ]
    return {key: {n: own[n] for n in varied if n in own} for key, own in options.items()}


def show(value: Any) -> str:
    """An option's value on one line; an object with a name as ``adacos`` or ``knn(n_neighbors=4)``."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={show(v)}" for k, v in value.items() if k != "name")
        if "name" not in value:
            return f"({inner})"
        return f"{value['name']}({inner})" if inner else str(value["name"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(v) for v in value)}]"
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def option_labels(swept: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """System -> the swept values in which systems differ, such as ``train.batch_size=32, train.epochs=4``.

    Objects show only their name and the options that differ: ``frontend.loss=arcface(margin=0.5)``.

    Args:
        swept: system -> option path -> value, of systems of one recipe.
    """
    varied = differences(swept)
    for name in dict.fromkeys(name for own in varied.values() for name in own):
        having = [own for own in varied.values() if name in own]
        for own, value in zip(having, _without_common([own[name] for own in having]), strict=True):
            own[name] = value
    return {
        system: ", ".join(f"{name}={show(value)}" for name, value in own.items())
        for system, own in varied.items()
    }


def _without_common(values: Sequence[Any]) -> list[Any]:
    """The values of one option; objects, and objects in lists of one length, lose their common options."""
    if all(isinstance(value, Mapping) for value in values):
        inner = differences({str(i): value for i, value in enumerate(values)})
        for name in set.intersection(*(set(own) for own in inner.values())):
            for own, value in zip(inner.values(), _without_common([v[name] for v in values]), strict=True):
                own[name] = value
        return [
            {**({"name": value["name"]} if "name" in value else {}), **own}
            for value, own in zip(values, inner.values(), strict=True)
        ]
    same_length = all(isinstance(v, list | tuple) for v in values) and len(set(map(len, values))) == 1
    if same_length and all(isinstance(item, Mapping) and "name" in item for v in values for item in v):
        items = [_without_common(item) for item in zip(*values, strict=True)]
        return [list(value) for value in zip(*items, strict=True)]
    return list(values)


def system_labels(rows: Sequence[Mapping[Any, str]]) -> list[str]:
    """The system of every row, shortened to its recipe where recipe and options identify the system.

    Args:
        rows: mappings with system, recipe and options. Published systems, whose name does not begin with a
            recipe's name, keep their name.
    """
    named: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        named.setdefault((row["recipe"], row["options"]), set()).add(row["system"])
    labels = []
    for row in rows:
        ours = {s for s in named[row["recipe"], row["options"]] if s.startswith(f"{row['recipe']}-")}
        labels.append(row["recipe"] if ours == {row["system"]} else row["system"])
    return labels


def backend_labels(options: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Backend id -> ``knn``, or ``knn(n_neighbors=4)`` where several kNN backends differ in that option.

    Args:
        options: backend id -> its configuration, including ``name``; None where the configuration is
            unknown, then the id is the label.

    Returns:
        Distinct labels; backends whose options do not distinguish them are labelled by their ids. The label
        of a backend whose score of a test clip depends on other test clips begins with `TRANSDUCTIVE_MARK`.
    """
    labels = {key: key for key in options}
    known = {key: own for key, own in options.items() if own is not None}
    for name in {own["name"] for own in known.values()}:
        same = {key: own for key, own in known.items() if own["name"] == name}
        for key, own in differences(same).items():
            shown = (*ALWAYS_SHOWN.get(name, ()), *SHOWN_IF_GIVEN)
            always = {n: same[key][n] for n in shown if n in same[key]}
            ordered = sorted(own, key="sep_section".__eq__)  # a common option after the method's own
            labels[key] = show({"name": name, **always, **{n: own[n] for n in ordered}})
    taken = list(labels.values())
    found = {key: label if taken.count(label) == 1 else key for key, label in labels.items()}
    for key, config in known.items():
        option, value = TRANSDUCTIVE.get(config["name"], ("name", None))
        if config.get(option) == value:
            found[key] = TRANSDUCTIVE_MARK + found[key]
    return found
