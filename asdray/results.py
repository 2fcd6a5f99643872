"""Reading back: every score of a sweep, a trial or a results folder in one tidy table.

Scores are fractions in [0, 1], NaN where a score is missing. Section -1 means all sections of a subset
together, seed -1 an ensemble over all seeds.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.base import load_plugins
from asdray.config.files import read_yaml, validate
from asdray.config.stand_in import reading
from asdray.config.sweep import Sweep
from asdray.config.system_names import system_names
from asdray.dcase.years import nearest
from asdray.home import expanded
from asdray.plugin_results import reader
from asdray.store import SweepDir, TrialDir
from asdray.trial_folders import is_in_place, trial_dirs

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DEFAULT_RESULTS = "results"
"""Results folder without ``ASDRAY_RESULTS``."""

Swept = dict[str, dict[str, Any]]
"""System -> option path -> value."""

FIRST = ("system", "recipe")
THEN = (
    "dcase", "seed", "machine", "section", "subset", "backend", "checkpoint", "metric", "value",
    "backend_id", "dataset",
)  # fmt: skip
"""Columns before and after those of the options."""

FOLDER, RESULTS = "folder", "results"
"""Names in the table's ``attrs``: the folder that was read, and the results folder with the trials."""


def load_results(path: str | Path, *, trust_plugins: bool = False) -> pd.DataFrame:
    """Every evaluated score as one row of a table, for notebooks.

    ::

        frame = asdray.load_results("results/sweeps/dis_grid")       # or just "dis_grid"
        official = frame.query("metric == 'official' and section == -1")
        row = ["system", "backend", "checkpoint", "dcase", "subset", "machine"]
        official.groupby(row)["value"].agg(["mean", "std", "count"])

    Args:
        path: a sweep's folder or its name below ``results`` (``ASDRAY_RESULTS``); a trial's folder; or a
            results folder with all its trials. A sweep yields the backends, checkpoints and machines of
            its sweep file, and its ensembles.
        trust_plugins: runs the code of a sweep's plugins, which results of older releases need.

    Returns:
        A row per trial, checkpoint, machine, subset, section, backend and metric; the columns

        * system, recipe (``ensemble`` for ensembles), and one column per varied option, under its dotted path
          (``train.learning_rate``), objects as JSON: of a sweep its swept options, of a results folder the
          options in which systems of a recipe differ,
        * part (sweeps only): ``grid``, or ``search`` and ``confirm``; null for ensembles,
        * dcase, seed, machine, section, subset, backend (as in tables), checkpoint, metric, value,
        * backend_id, which is the same in all tables, and dataset, ``official`` or ``synthetic``.

        Trials without evaluation have no rows. ``asdray report`` checks that results are up to date. The
        table knows its results folder (``attrs``), so that `asdray.plot` finds the files of the trials.

    Raises:
        ValueError: no results at ``path``, or a damaged file.
    """
    folder = folder_of(path)
    trial = TrialDir(folder)
    if trial.trial_json.is_file():
        if not trial.metrics.is_file():
            raise ValueError(f"{folder} is not evaluated yet: run `asdray table {folder}` or its sweep")
        return _of(folder, folder.absolute().parents[3], _frame([trial], lambda systems: {}))
    if SweepDir(folder).spec.is_file():
        results = folder.absolute().parents[1]
        return _of(folder, results, _sweep_frame(SweepDir(folder), trust_plugins))
    if (folder / "trials").is_dir():
        return _of(folder, folder, _frame(trial_dirs(folder), _differing))
    raise ValueError(
        f"{path} is no sweep's folder (or name), no trial's folder and no results folder: there is no "
        f"sweep.yaml, trial.json or trials/ in {folder.absolute()}"
    )


class Results:
    """The results of a sweep, as its last run or `asdray report` has written them.

    ::

        results = asdray.Results("dis_grid")  # also what asdray.sweep(...) returns
        results.leaderboard()
        results.best("dcase2023-dev")["folders"]
        results.scores().groupby("train.learning_rate")["score"].mean()

    In the tables of `leaderboard` and `scores` every swept option is a column of plain values, under its
    path: of ``frontend.loss: {name: arcface, margin: 0.5}`` the column ``frontend.loss`` holds ``arcface``
    and ``frontend.loss.margin`` 0.5. ``name`` is the recipe with the options that differ.
    Scores are fractions in [0, 1], NaN where a score is missing.

    Args:
        path: the sweep's folder, or its name below ``results`` (``ASDRAY_RESULTS``).
        unfinished: names of trials that the run has not completed.
        failures: failed stages of the run, a line each.

    Attributes:
        folder: the sweep's folder.

    Raises:
        ValueError: no sweep at ``path``.
    """

    def __init__(
        self, path: str | Path, *, unfinished: Sequence[str] = (), failures: Sequence[str] = ()
    ) -> None:
        self.folder = folder_of(path)
        self.unfinished, self.failures = tuple(unfinished), tuple(failures)
        self._files = SweepDir(self.folder)
        if not self._files.spec.is_file():
            raise ValueError(
                f"{path} is no sweep's folder (or name): there is no {self._files.spec.absolute()}"
            )

    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard: a row per system, checkpoint and backend, and the published rows.

        Columns: see `asdray.evaluation.leaderboard.Leaderboard`, and one per swept option after ``options``.

        Raises:
            ValueError: no leaderboard yet, or a damaged one.
        """
        from asdray import damage

        board = damage.read_parquet(self._files.leaderboard("parquet")).to_pandas()
        options = self._options()
        after = list(board.columns).index("options") + 1
        for i, path in enumerate(options.columns):
            board.insert(after + i, path, board["system"].map(options[path]))
        return board

    def best(self, by: str | None = None) -> pd.Series:
        """The best complete row of the leaderboard, and ``folders``: those of its trials.

        Args:
            by: a column such as ``dcase2023-dev`` or ``dev_amean``; None: the one that ranks. A choice by
                eval columns flatters its own eval score.

        Raises:
            ValueError: no complete row, or no such column.
        """
        import pandas as pd

        board = self.leaderboard()
        ranked = board[board["rank"].notna()]
        if ranked.empty:
            raise ValueError(f"no row of {self._files.leaderboard()} is complete")
        row = ranked.iloc[0]
        if by is not None:
            columns = [name.removesuffix("_mean") for name in board.columns if name.endswith("mean")]
            if by not in columns:
                raise ValueError(
                    f"unknown column {by!r}{nearest(by, columns)} (one of: {', '.join(columns)})"
                )
            values = ranked[by if by in board.columns else f"{by}_mean"]
            if values.isna().all():
                raise ValueError(f"no complete row has a score in {by}")
            row = ranked.iloc[int(values.fillna(-1).argmax())]
        folders = [str(of.root) for (_, system, _), of in self._trials().items() if system == row["system"]]
        return pd.Series({**row, "folders": folders})

    def scores(self, metric: str = "official") -> pd.DataFrame:
        """The score of every year and subset by every trial, backend and checkpoint.

        Args:
            metric: ``official``, or one of `asdray.evaluation.metrics.METRICS`, in the mean of the machines
                that makes the year's official score.

        Returns:
            The columns system, recipe, name, one per swept option, dcase, subset, seed (-1: an ensemble over
            all seeds), backend, checkpoint, score, backend_id, part, dataset, and folder: that of the trial.
            A trial without an evaluation has no row; without one of some machines its score is NaN.
        """
        import pandas as pd

        from asdray.evaluation.tables import check_metric, machines_in, trial_scores

        frame, sweep = load_results(self.folder), _read_sweep(self._files, False)
        frame = frame[(frame["metric"] == check_metric(metric)) & (frame["section"] == -1)]
        rows = frame.drop(columns="backend").rename(columns={"backend_id": "backend"})
        parts = []
        for dcase, subset in dict.fromkeys(zip(rows["dcase"], rows["subset"], strict=True)):
            machines = machines_in(dcase, subset, sweep.machines_of(dcase))
            found = trial_scores(rows, dcase, subset, machines, metric)
            parts.append(
                found.rename(columns={"backend": "backend_id", "total": "score"}).assign(
                    dcase=dcase, subset=subset
                )
            )
        names = ["system", "recipe", "seed", "checkpoint", "backend_id", "dcase", "subset", "score"]
        scores = pd.concat([part[names] for part in parts]) if parts else pd.DataFrame(columns=names)
        of_trial = ["dcase", "system", "seed", "backend_id", "backend", "part", "dataset"]
        scores = scores.merge(frame[of_trial].drop_duplicates(), on=of_trial[:4], how="left")
        options, folders = self._options(), self._trials()
        for path in options.columns:
            scores[path] = scores["system"].map(options[path])
        keys = zip(scores["dcase"], scores["system"], scores["seed"], strict=True)
        scores["folder"] = [str(folders[key].root) if key in folders else None for key in keys]
        order = ["dcase", "subset", "seed", "backend", "checkpoint", "score"]
        order += ["backend_id", "part", "dataset", "folder"]
        return scores[["system", "recipe", *options.columns, *order]].reset_index(drop=True)

    def _trials(self) -> dict[tuple[str, str, int], TrialDir]:
        """(dcase, system, seed) -> folder."""
        from asdray.evaluation.tables import read_trials

        results = self.folder.absolute().parents[1]
        rows = read_trials(self.folder).select(["dcase", "system", "seed", "directory"]).to_pylist()
        return {(r["dcase"], r["system"], r["seed"]): TrialDir(results / r["directory"]) for r in rows}

    def _options(self) -> pd.DataFrame:
        """The swept options of every system, as plain values, after the system's ``name`` for people."""
        import pandas as pd

        from asdray.evaluation.tables import option_columns, read_trials

        table = read_trials(self.folder)
        paths = option_columns(table)
        rows = table.select(["system", "recipe", *paths]).to_pylist()
        swept = {
            row["system"]: (row["recipe"], {p: from_json(row[p]) for p in paths if row[p] is not None})
            for row in rows
        }
        names = system_names(swept)
        plain = {system: {"name": names[system], **plain_options(own)} for system, (_, own) in swept.items()}
        own_columns = [column for own in plain.values() for column in own]
        columns = [c for p in ("name", *paths) for c in own_columns if c == p or c.startswith(f"{p}.")]
        return pd.DataFrame.from_dict(plain, orient="index", columns=list(dict.fromkeys(columns)))

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """The leaderboard, for notebooks."""
        try:
            return self.leaderboard().to_html()
        except ValueError as error:
            return html.escape(str(error))


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Swept options without objects: the name of an object under its path, its other options below.

    >>> plain_options({"frontend.loss": {"margin": 0.5, "name": "arcface"}, "train.epochs": 4})
    {'frontend.loss': 'arcface', 'frontend.loss.margin': 0.5, 'train.epochs': 4}

    Args:
        options: path -> value; a list becomes JSON.
    """
    found: dict[str, Any] = {}
    for path, value in options.items():
        if isinstance(value, Mapping):
            if "name" in value:
                found[path] = value["name"]
            found |= flat({key: inner for key, inner in value.items() if key != "name"}, f"{path}.")
        else:
            found[path] = json.dumps(value) if isinstance(value, list) else value
    return found


def from_json(text: Any) -> Any:
    """The value of a JSON text, as ``trials.parquet`` has objects; anything else as it is."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def folder_of(path: str | Path, results: Path | None = None) -> Path:
    """The folder of results: ``path``, or the sweep of this name where no results are in ``path``.

    Args:
        results: folder of all results; None: ``ASDRAY_RESULTS``, or ``results``.
    """
    folder = expanded(path)
    if len(Path(path).parts) != 1:
        return folder
    results = results or Path(os.environ.get("ASDRAY_RESULTS") or DEFAULT_RESULTS)
    named = store.sweep_dir(results, str(path))
    of_results = (SweepDir(folder).spec, TrialDir(folder).trial_json, folder / "trials")
    if not folder.exists() or (SweepDir(named).spec.is_file() and not any(map(Path.exists, of_results))):
        return named
    return folder


def _read_sweep(folder: SweepDir, trust_plugins: bool) -> Sweep:
    """The sweep in a folder of results; plugins are stand-ins unless they are trusted."""
    spec = read_yaml(folder.spec)
    plugins = spec.get("plugins", ()) if isinstance(spec, dict) else ()
    with reading() as described:
        use = load_plugins if trust_plugins else reader(described, folder.root)
        use(folder.root / name for name in plugins)
        return validate(Sweep, spec, str(folder.spec))


def _of(folder: Path, results: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The table, which now knows where its rows are from."""
    frame.attrs |= {FOLDER: str(folder.absolute()), RESULTS: str(results.absolute())}
    return frame


def _sweep_frame(folder: SweepDir, trust_plugins: bool) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.compute as pc

    from asdray.evaluation.tables import option_columns, read_trials

    sweep = _read_sweep(folder, trust_plugins)
    table = read_trials(folder.root)
    planned, options = table.to_pylist(), option_columns(table)
    swept = {row["system"]: {name: row[name] for name in options} for row in planned}
    results = folder.root.absolute().parents[1]
    backends = {backend_id(b) for b in sweep.backends}
    machines = [f"{dcase}/{m}" for dcase in sweep.years for m in sweep.machines_of(dcase)]

    def of_sweep(rows: pa.Table) -> pa.Table:
        # A frontend's own scores belong to every sweep, whether its file names them or not.
        ids = rows["backend"].unique().to_pylist()
        wanted = {name for name in ids if name in backends or name.rpartition("-")[0] in ("recon", "own")}
        keep = pc.and_(_is_in(rows["backend"], wanted), _is_in(rows["checkpoint"], sweep.checkpoints))
        pairs = pc.binary_join_element_wise(rows["dcase"], rows["machine"], "/")
        return rows.filter(pc.and_(keep, _is_in(pairs, machines)))

    trials = [TrialDir(results / row["directory"]) for row in planned]
    frame = _frame(trials, lambda systems: swept, of_sweep, folder.ensemble_metrics())
    parts = {(row["dcase"], row["system"], row["seed"]): row.get("part") for row in planned}
    keys = zip(frame["dcase"], frame["system"], frame["seed"], strict=True)
    part = pd.Series([parts.get(key) for key in keys], frame.index, "str")
    frame.insert(list(frame.columns).index("dcase"), "part", part)
    return frame


def _is_in(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


def _differing(systems: Mapping[tuple[str, str], Mapping[str, Any]]) -> Swept:
    """The options in which the systems of a recipe differ.

    Args:
        systems: (recipe, system) -> configuration.
    """
    from asdray.evaluation.tables import differences

    found: Swept = {}
    for recipe in dict.fromkeys(recipe for recipe, _ in systems):
        found |= differences({name: flat(tree) for (r, name), tree in systems.items() if r == recipe})
    return found


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Option path -> value of a nested configuration; lists as JSON."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found


@dataclass(frozen=True)
class _About:
    """The part of a trial's ``trial.json`` that is read here."""

    dcase: str
    recipe: str
    system_id: str
    system: dict[str, Any]
    seed: int


def _frame(
    trials: Iterable[TrialDir],
    swept_of: Callable[[Mapping[tuple[str, str], Mapping[str, Any]]], Swept],
    chosen: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ensembles: Sequence[Path] = (),
) -> pd.DataFrame:
    """The evaluation rows of many trials with swept options and backend labels.

    Args:
        swept_of: gives the swept options of systems, from (recipe, system) -> configuration.
        chosen: selects rows of trials.
        ensembles: ``metrics.parquet`` of ensembles.
    """
    import pandas as pd
    import pyarrow as pa

    from asdray.evaluation.tables import SCHEMA, backend_labels, read_metrics

    parts = [SCHEMA.empty_table()]
    systems: dict[tuple[str, str], Mapping[str, Any]] = {}
    evaluated: dict[tuple[str, str, int], TrialDir] = {}
    for directory in trials:
        if directory.metrics.is_file():
            about = store.read_json(directory.trial_json, _About)
            system = f"{about.recipe}-{about.system_id}"
            systems.setdefault((about.recipe, system), about.system)
            evaluated[about.dcase, system, about.seed] = directory
            parts.append(read_metrics(directory.metrics))
    rows = chosen(pa.concat_tables(parts))
    options = _backend_options(rows, evaluated)
    combined = [read_metrics(path) for path in ensembles]
    combined = [
        table for path, table in zip(ensembles, combined, strict=True) if _is_of_ensemble(path, table)
    ]
    frame = pa.concat_tables([rows, *combined]).to_pandas()
    labels = backend_labels({name: options.get(name) for name in frame["backend"].unique()})
    frame = frame.rename(columns={"backend": "backend_id"})
    frame["backend"] = frame["backend_id"].map(labels).astype("str")
    swept = swept_of(systems)
    paths = list(dict.fromkeys(path for own in swept.values() for path in own))
    for path in paths:
        values = pd.Series({system: own.get(path) for system, own in swept.items()}).infer_objects()
        frame[path] = frame["system"].map(values)
    return frame[[*FIRST, *paths, *THEN]]


def _is_of_ensemble(metrics: Path, rows: pa.Table) -> bool:
    """True unless an ensemble's ``metrics.parquet`` lies in a folder of another name: in a copy."""
    for row in rows.slice(0, 1).to_pylist():
        seed = "seeds" if row["seed"] == -1 else f"seed{row['seed']}"
        names = (row["system"], f"{row['checkpoint']}-{row['backend']}", row["dcase"], seed)
        return is_in_place(metrics.parent, names, metrics.name)
    return True


def _backend_options(
    rows: pa.Table, trials: Mapping[tuple[str, str, int], TrialDir]
) -> dict[str, Mapping[str, Any] | None]:
    """Backend id -> its options, from the record of its first score; None without a record."""
    import pyarrow.compute as pc

    found: dict[str, Mapping[str, Any] | None] = {}
    for backend in rows["backend"].unique().to_pylist():
        (row,) = rows.slice(pc.index(rows["backend"], backend).as_py(), 1).to_pylist()
        folder = trials[row["dcase"], row["system"], row["seed"]].machine(row["checkpoint"], row["machine"])
        record = store.read_record(folder, store.record_name("score", backend))
        found[backend] = None if record is None else record.extra["options"]
    return found
