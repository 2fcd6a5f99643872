"""From one long frame of evaluation rows to the tables of a trial and of a sweep, each marked with its data.

The long frame has the columns `COLUMNS`: ``system`` is ``<recipe>-<system8>``, ``backend`` a backend id,
``section`` -1 stands for all sections of the subset, ``value`` is a fraction in [0, 1], NaN where null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.trial import Trial
from asdray.dcase.years import SUBSETS, Subset, get_year, nearest
from asdray.evaluation import metrics
from asdray.evaluation.machine import ALL_SECTIONS

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
"""Of a trial's ``metrics.parquet``; ``dataset``: ``official`` or ``synthetic``."""

COLUMNS = tuple(name for name in SCHEMA.names if name != "dataset")
TRIAL_KEYS = ["recipe", "system", "seed", "checkpoint", "backend"]
ROW_KEYS = ["recipe", "system", "checkpoint", "backend"]
HEAD = ("system", "recipe", "options", "backend", "backend_id", "checkpoint", "n", "n_expected", "machines")

Tables = dict[tuple[str, Subset], pd.DataFrame]
"""(dcase, subset) -> table."""


def load_rows(paths: Iterable[Path], metric: str = "official") -> pd.DataFrame:
    """The rows of one metric over all sections of each subset, from the ``metrics.parquet`` of many trials.

    Raises:
        ValueError: a damaged file, with its name.
    """
    wanted = [("metric", "=", metric), ("section", "=", ALL_SECTIONS)]
    found = []
    for path in paths:
        try:
            found.append(
                pq.read_table(path, columns=[*COLUMNS], filters=wanted, schema=SCHEMA, partitioning=None)
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run the command again") from None
    return pa.concat_tables([SCHEMA.empty_table().select([*COLUMNS]), *found]).to_pandas()


def planned_rows(
    trials: Iterable[Trial], checkpoints: Sequence[str], asked: tuple[Backend, ...]
) -> pd.DataFrame:
    """What a sweep's tables must hold to be complete: columns dcase and `TRIAL_KEYS`, in the sweep's order.

    Args:
        asked: the sweep's backends; of these the ones that apply to a trial's frontend count.
    """
    rows = [
        (trial.dcase, trial.recipe, trial.system_name, trial.seed, ckpt, backend_id(backend))
        for trial in trials
        for ckpt in checkpoints
        for backend in trial.backends(asked)
    ]
    return pd.DataFrame(rows, columns=["dcase", *TRIAL_KEYS])


def machines_in(dcase: str, subset: Subset, machines: Sequence[str]) -> tuple[str, ...]:
    """Those of ``machines`` that the subset has, in the organisers' order."""
    return tuple(m for m in get_year(dcase).machines[subset] if m in set(machines))


def coverage(dcase: str, subset: Subset, machines: Sequence[str]) -> str:
    """``all``, or of how many of the subset's machines a total speaks: ``1 of 7`` is another number."""
    have, of = len(machines_in(dcase, subset, machines)), len(get_year(dcase).machines[subset])
    return "all" if have == of else f"{have} of {of}"


def check_metric(name: str) -> str:
    """``name`` if tables can be made of it.

    Raises:
        ValueError: no metric that is evaluated.
    """
    known = ("official", *metrics.METRICS)
    if name not in known:
        raise ValueError(f"unknown metric {name!r}{nearest(name, known)} (one of: {', '.join(known)})")
    return name


def table_name(dcase: str, subset: Subset, metric: str = "official") -> str:
    """``official23-dev.csv``, or ``s_auc23-dev.csv``."""
    return f"{get_year(dcase).score_name.replace('official', metric)}-{subset}.csv"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _trial_scores(
    rows: pd.DataFrame, dcase: str, subset: Subset, machines: Sequence[str], metric: str
) -> pd.DataFrame:
    """One row per trial, checkpoint and backend: `TRIAL_KEYS`, one column per machine, total."""
    year = get_year(dcase)
    chosen = rows[
        (rows["dcase"] == dcase)
        & (rows["subset"] == subset)
        & (rows["metric"] == metric)
        & (rows["section"] == ALL_SECTIONS)
    ]
    wide = chosen.pivot(index=TRIAL_KEYS, columns="machine", values="value").reindex(columns=list(machines))
    n_sections = [len(year.sections[subset][m]) for m in machines]
    wide["total"] = pd.Series(
        [
            metrics.official_total(year.score_rule, [_known(v) for v in values], n_sections)
            for values in wide.to_numpy(dtype=float)
        ],
        index=wide.index,
        dtype=float,
    )
    return wide.reset_index()


def trial_table(
    rows: pd.DataFrame,
    dcase: str,
    subset: Subset,
    machines: Sequence[str],
    labels: Mapping[str, str],
    metric: str = "official",
) -> pd.DataFrame:
    """A trial's table of one checkpoint: backend (its label), one column per machine, total, machines.

    Args:
        rows: of one trial and checkpoint.
        machines: those that the trial was asked for; the total is null unless all of them have a value.
        labels: backend id -> label; only these are shown, in this order.

    Returns:
        What the total is over is in ``machines``, see `coverage`.
    """
    columns = machines_in(dcase, subset, machines)
    scores = _trial_scores(rows, dcase, subset, columns, metric)
    scores = scores.set_index("backend").reindex(list(labels))
    assert scores.index.is_unique, "rows of one trial and checkpoint"
    scores.insert(0, "label", [labels[b] for b in scores.index])
    shown = scores[["label", *columns, "total"]].assign(machines=coverage(dcase, subset, machines))
    return shown.rename(columns={"label": "backend"}).reset_index(drop=True)


def sweep_table(
    rows: pd.DataFrame,
    planned: pd.DataFrame,
    dcase: str,
    subset: Subset,
    machines: Sequence[str],
    labels: Mapping[str, str],
    options: Mapping[str, str],
    metric: str = "official",
) -> pd.DataFrame:
    """A sweep's table of one year and subset, one row per system, checkpoint and backend.

    A trial counts once its total is known. ``n`` is how many do, of ``n_expected`` seeds; means and the
    standard deviation (ddof 1, null for one seed) are over these ``n`` alone, so that all numbers of a
    row speak of the same trials.

    Args:
        planned: see `planned_rows`; rows of other trials, checkpoints and backends are left out.
        machines: those that the sweep asks for in this year.
        labels: backend id -> label.
        options: system -> its swept values, readable.

    Returns:
        Columns system, recipe, options, backend, backend_id, checkpoint, n, n_expected, machines (see
        `coverage`), the mean of each machine, total_mean, total_std, the standard deviation of each machine
        as ``<machine>_std``.
    """
    columns = machines_in(dcase, subset, machines)
    spreads = [f"{machine}_std" for machine in columns]
    scores = _trial_scores(rows, dcase, subset, columns, metric)
    expected = planned[planned["dcase"] == dcase]
    joined = expected.merge(scores, on=TRIAL_KEYS, how="left", validate="one_to_one")
    numbers = joined[[*columns, "total"]].to_numpy(dtype=float)
    out = []
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(joined[ROW_KEYS].itertuples(index=False, name=None)):
        groups.setdefault(key, []).append(i)
    for (recipe, system, checkpoint, backend), at in groups.items():
        known = numbers[at]
        known = known[[not math.isnan(total) for total in known[:, -1]]]
        means = [metrics.arithmetic_mean(column) for column in known.T.tolist()]
        stds = [metrics.sample_std(column) for column in known.T.tolist()]
        out.append(
            {
                "system": system,
                "recipe": recipe,
                "options": options.get(system, ""),
                "backend": labels[backend],
                "backend_id": backend,
                "checkpoint": checkpoint,
                "n": len(known),
                "n_expected": len(at),
                "machines": coverage(dcase, subset, machines),
                **dict(zip(columns, means, strict=False)),
                "total_mean": means[-1],
                "total_std": stds[-1],
                **dict(zip(spreads, stds, strict=False)),
            }
        )
    values = [*columns, "total_mean", "total_std", *spreads]
    return pd.DataFrame(out, columns=[*HEAD, *values]).astype(dict.fromkeys(values, float))


def sweep_tables(
    rows: pd.DataFrame,
    planned: pd.DataFrame,
    machines: Mapping[str, Sequence[str]],
    labels: Mapping[str, str],
    options: Mapping[str, str],
    metric: str = "official",
) -> Tables:
    """The `sweep_table` of every year and subset in which the sweep has a machine.

    Args:
        machines: dcase -> the machines that the sweep asks for; years in the order of the leaderboard.
    """
    return {
        (dcase, subset): sweep_table(rows, planned, dcase, subset, names, labels, options, metric)
        for dcase, names in machines.items()
        for subset in SUBSETS
        if machines_in(dcase, subset, names)
    }


def write_csv(frame: pd.DataFrame, path: Path, dataset: str) -> None:
    """Writes a table atomically; nulls are empty, floats keep every digit.

    Args:
        dataset: ``official`` or ``synthetic``: the column of this name, the last one unless the frame has it.
    """
    with store.atomic_path(path) as temporary:
        frame.assign(dataset=dataset).to_csv(temporary, index=False, lineterminator="\n")


def write_tables(tables: Tables, folder: Path, dataset: str, metric: str = "official") -> list[Path]:
    """Writes every table of a sweep to ``folder``: ``official23-dev.csv``, and ``official23-dev-std.csv``.

    The latter has the standard deviations over seeds, of every machine and the total, in the same rows.
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
