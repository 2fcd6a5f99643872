"""The ensembles of a sweep: the choice of their members, and their rows of the leaderboard.

A member is a leaderboard row (system and backend) of one checkpoint. An ensemble combines the members' trials
of one year, per seed or over all seeds, see `asdray.stages.ensemble`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.sweep import MEANS, Ensemble, Sweep, averaged
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import nearest
from asdray.store import Places

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from asdray.evaluation.tables import TableContext, Tables

COMBINATION_NAMES = {"zscore": "zscore", "rank": "transductive rank"}
"""``combine`` of an ensemble -> the name in tables."""

RowKey = tuple[str, str]
"""(system, backend id): a leaderboard row of one checkpoint."""


@dataclass(frozen=True)
class EnsembleRow:
    """A planned leaderboard row; ``members`` is None until scores choose the members."""

    ensemble: Ensemble
    system: str
    checkpoint: str
    backend: str
    members: tuple[RowKey, ...] | None


def plan(sweep: Sweep, trials: Iterable[Trial]) -> list[EnsembleRow]:
    """The leaderboard rows of a sweep's ensembles.

    Raises:
        ValueError: a name that no row has, a ``k`` above the number of rows, an ensemble of one trial.
    """
    keys = _keys(sweep, trials)
    rows = []
    for one in sweep.ensembles:
        where = f"ensembles: {one.name}"
        if one.of == "seeds":
            for ckpt in sweep.checkpoints:
                for (system, backend), own in keys.items():
                    if not own[0].system.frontend.has_one_seed:
                        name = f"{one.name}-{system}"
                        rows.append(EnsembleRow(one, name, ckpt, backend, ((system, backend),)))
            continue
        members: tuple[RowKey, ...] | None = None
        if one.of == "top":
            assert one.k is not None
            if one.k > len(keys):
                raise ValueError(f"{where}: k is {one.k}, but the sweep has {len(keys)} rows")
        else:
            members = tuple(dict.fromkeys(key for name in one.of for key in _named(name, keys, where)))
            if len(members) < 2 and (one.per_seed or len(keys[members[0]]) < 2):
                raise ValueError(f"{where}: an ensemble of {'/'.join(members[0])} alone is no other system")
        rows += [EnsembleRow(one, one.name, ckpt, one.combine, members) for ckpt in sweep.checkpoints]
    return rows


def _keys(sweep: Sweep, trials: Iterable[Trial]) -> dict[RowKey, list[Trial]]:
    """The trials of all years of every leaderboard row, in the order of the leaderboard."""
    keys: dict[RowKey, list[Trial]] = {}
    for trial in trials:
        for backend in trial.backends(sweep.backends):
            keys.setdefault((trial.system_name, backend_id(backend)), []).append(trial)
    return keys


def _named(name: str, keys: Mapping[RowKey, Sequence[Trial]], where: str) -> list[RowKey]:
    """The rows with the name ``<recipe or system>[/<backend>]``."""
    of, slash, backend = name.partition("/")
    systems = [key for key, own in keys.items() if of in (key[0], own[0].recipe)]
    if not systems:
        known = list(dict.fromkeys(n for key, own in keys.items() for n in (own[0].recipe, key[0])))
        raise ValueError(
            f"{where}: no system is called {of!r}{nearest(of, known)} (known: {', '.join(known)})"
        )
    found = [k for k in systems if not slash or backend in (k[1], k[1].rpartition("-")[0])]
    if not found:
        names = list(dict.fromkeys(n for _, b in systems for n in (b.rpartition("-")[0], b)))
        raise ValueError(
            f"{where}: {of} has no backend {backend!r}{nearest(backend, names)} (it has: {', '.join(names)})"
        )
    return found


# --------------------------------------------------------------------------------------- combined scores


@dataclass(frozen=True)
class Combined:
    """A leaderboard row with the evaluations that exist.

    Attributes:
        text: combination and members in words, the column ``options``.
        selected_by: how the members were chosen.
        classes_from: the clips that define the training classes of the members, ``train+test`` if one member
            has classes of test clips.
        best_by: the losses that choose the checkpoint ``best`` of the members.
        seeds: dcase -> the seeds of a complete row; `ALL_SEEDS` for one ensemble over all seeds.
        paths: the ``metrics.parquet`` of the ensembles that could be made.
    """

    row: EnsembleRow
    text: str
    selected_by: str
    classes_from: str
    best_by: str
    seeds: Mapping[str, tuple[int, ...]]
    paths: tuple[Path, ...]


def make(
    sweep: Sweep,
    trials: Sequence[Trial],
    datasets: Mapping[str, Dataset],
    places: Places,
    tables: Tables,
    context: TableContext,
) -> tuple[list[Combined], list[str]]:
    """Combines and evaluates the ensembles whose members are all scored; removes ensembles of older runs.

    Finished ensembles are reused, see `asdray.stages.ensemble`.

    Args:
        tables: official scores of the sweep's own rows, which choose the members of ``of: top``.

    Returns:
        The rows, and sentences on ensembles that could not be made.
    """
    maker = _Maker(sweep, _keys(sweep, trials), datasets, places)
    rows = [maker.combined(row, tables, context) for row in plan(sweep, trials)]
    notes = maker.notes
    if any(one.row.ensemble.combine == "rank" for one in rows):
        notes.append(
            f"{COMBINATION_NAMES['rank'].capitalize()}: a clip's score depends on which other test clips "
            "it is ranked with; z-scores are made with the training scores alone."
        )
    current = {path.parent for one in rows for path in one.paths}
    for folder in store.ensembles_dir(places.results, sweep.name).glob("*/*/*/*/"):
        if folder not in current:  # `load_results` reads every ensemble in the folder
            shutil.rmtree(folder, ignore_errors=True)
    return rows, notes


@dataclass
class _Maker:
    """Makes the ensembles of a sweep.

    Attributes:
        keys: leaderboard row -> trials.
        datasets: of the leaderboard's years.
        scores: (trial, checkpoint) -> `asdray.stages.ensemble.scores_of`, read once.
        notes: sentences on ensembles that could not be made.
    """

    sweep: Sweep
    keys: Mapping[RowKey, Sequence[Trial]]
    datasets: Mapping[str, Dataset]
    places: Places
    scores: dict[tuple[str, str], dict[str, dict[str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def combined(self, row: EnsembleRow, tables: Tables, context: TableContext) -> Combined:
        """The row with the evaluations of its ensembles, which are made if their members are scored."""
        one = row.ensemble
        members, n_compared = _best(row, tables) if row.members is None else (row.members, 0)
        seeds, paths = self._make(row, members)
        best = f"official_dev ({one.chosen_by}, top {one.k} of {n_compared})"
        systems = [system for system, _ in members or ()]
        return Combined(
            row,
            _described(row, members, context.labels, self.keys),
            "fixed" if one.chosen_by is None else best,
            max((context.classes_from[system] for system in systems), default=""),  # "train" < "train+test"
            "+".join(sorted({context.best_by[system] for system in systems} - {"fixed"})),
            seeds,
            paths,
        )

    def _make(
        self, row: EnsembleRow, members: Sequence[RowKey] | None
    ) -> tuple[dict[str, tuple[int, ...]], tuple[Path, ...]]:
        """``seeds`` and ``paths`` of a `Combined`."""
        from asdray.stages.ensemble import ALL_SEEDS

        seeds: dict[str, tuple[int, ...]] = {}
        paths: list[Path] = []
        per_seed = row.ensemble.per_seed
        for dcase in self.datasets:
            groups = _groups(self.keys, members, dcase, per_seed)
            if members is None:
                groups = {s: [] for s in (self.sweep.seeds if per_seed else (None,))}
            seeds[dcase] = tuple(ALL_SEEDS if s is None else s for s in groups)
            for seed, group in groups.items():
                try:
                    path = self._combine(row, group, seed, dcase)
                except ValueError as error:
                    self.notes.append(f"Not made: {error}.")
                else:
                    paths += [path] if path else []
        return seeds, tuple(paths)

    def _combine(
        self, row: EnsembleRow, group: Sequence[tuple[Trial, str]], seed: int | None, dcase: str
    ) -> Path | None:
        """The ``metrics.parquet`` of one ensemble of one year; None while a member lacks scores of a machine.

        Args:
            group: trials with their backends.

        Raises:
            ValueError: scores that cannot be combined.
        """
        from asdray.stages.ensemble import Identity, Member, ensemble, scores_of
        from asdray.stages.steps import TrialFiles

        machines, dataset = self.sweep.machines_of(dcase), self.datasets[dcase]
        members = []
        for trial, backend in group:
            at = (trial.name, row.checkpoint)
            if at not in self.scores:
                files = TrialFiles(trial, self.places, dataset)
                self.scores[at] = scores_of(files, row.checkpoint, machines)
            members.append(Member(trial, backend, self.scores[at].get(backend, {})))
        if not members or any(set(machines) - set(m.scores) for m in members):
            return None
        identity = Identity(dcase, row.system, seed, row.checkpoint, row.backend)
        folder = store.ensemble_dir(
            self.places.results, self.sweep.name, row.system, row.checkpoint, row.backend, dcase, seed
        )
        ensemble(identity, row.ensemble.combine, members, machines, folder, self.places, dataset)
        return store.ensemble_metrics(folder)


def _groups(
    keys: Mapping[RowKey, Sequence[Trial]], members: Sequence[RowKey] | None, dcase: str, per_seed: bool
) -> dict[int | None, list[tuple[Trial, str]]]:
    """Seed (None = all seeds) -> the trials of one year in an ensemble, each with its backend.

    Trials without a seed of their own belong to the ensemble of every seed.
    """
    own = [(t, key[1]) for key in members or () for t in keys[key] if t.dcase == dcase]
    if not per_seed:
        return {None: own}
    varied = dict.fromkeys(t.seed for t, _ in own if not t.system.frontend.has_one_seed)
    return {
        seed: [(t, b) for t, b in own if t.seed == seed or t.system.frontend.has_one_seed]
        for seed in (varied or (0,))
    }


def _best(row: EnsembleRow, tables: Tables) -> tuple[tuple[RowKey, ...] | None, int]:
    """The ``k`` best complete rows of the checkpoint (None if fewer), and the number of complete rows."""
    from asdray.evaluation import metrics

    by = row.ensemble.chosen_by
    assert by is not None
    assert row.ensemble.k is not None
    names = {f"{dcase}-{subset}": table for (dcase, subset), table in tables.items()}
    over = averaged(by, tuple(names))
    values: dict[RowKey, list[float]] = {}
    for name in over:
        for line in names[name].to_dict("records"):
            whole = 0 < line["n_expected"] == line["n"] and not math.isnan(line["total_mean"])
            if line["checkpoint"] == row.checkpoint and whole:
                values.setdefault((line["system"], line["backend_id"]), []).append(line["total_mean"])
    mean = metrics.MEAN_FUNCTIONS[MEANS[by].kind if by in MEANS else "arithmetic"]
    complete = {key: mean(own) or 0.0 for key, own in values.items() if len(own) == len(over)}
    best = sorted(complete, key=lambda key: -complete[key])[: row.ensemble.k]
    return tuple(best) if len(best) == row.ensemble.k else None, len(complete)


def _described(
    row: EnsembleRow,
    members: Sequence[RowKey] | None,
    labels: Mapping[str, str],
    keys: Mapping[RowKey, Sequence[Trial]],
) -> str:
    one = row.ensemble
    how = COMBINATION_NAMES[one.combine]
    if one.of == "seeds":
        return f"{how} of {len({t.seed for t in keys[row.members[0]]}) if row.members else 0} seeds"
    if members is None:
        return f"{how} of the top {one.k} by {one.chosen_by}"
    named = " + ".join(f"{system}/{labels[backend]}" for system, backend in members)
    return f"{how} of {named}{'' if one.per_seed else ', all seeds'}"


def leaderboard_rows(made: Sequence[Combined], context: TableContext, metric: str) -> list[dict[str, Any]]:
    """The ensembles' rows of the leaderboard, see ``extra`` of `asdray.evaluation.leaderboard.build`."""
    import pandas as pd

    from asdray.evaluation import leaderboard, tables
    from asdray.stages.ensemble import RECIPE

    if not made:
        return []
    by_key = {(one.row.system, one.row.checkpoint, one.row.backend): one for one in made}
    planned = pd.DataFrame(
        [
            (dcase, RECIPE, system, seed, checkpoint, backend)
            for (system, checkpoint, backend), one in by_key.items()
            for dcase, seeds in one.seeds.items()
            for seed in seeds
        ],
        columns=["dcase", *tables.TRIAL_KEYS],
    )
    scores = tables.load_rows([path for one in made for path in one.paths], metric)
    context = replace(
        context,
        labels={key[2]: context.labels.get(key[2], key[2]) for key in by_key},
        best_by={one.row.system: one.best_by or "fixed" for one in made},
    )
    rows = leaderboard.rows_of(tables.sweep_tables(scores, planned, context, metric), context)
    for row in rows:
        one = by_key[row["system"], row["checkpoint"], row["backend_id"]]
        row |= {"options": one.text, "classes_from": one.classes_from}
        if one.selected_by != "fixed":
            row["selected_by"] = one.selected_by
    first = list(dict.fromkeys(one.selected_by for one in made))
    keys = {key: first.index(one.selected_by) for key, one in by_key.items()}
    return sorted(rows, key=lambda row: keys[row["system"], row["checkpoint"], row["backend_id"]])
