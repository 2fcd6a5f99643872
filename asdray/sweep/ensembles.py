"""The ensembles of a sweep: which trials are in which, and the leaderboard rows that they give."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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

    from asdray.evaluation.tables import Tables

HOW = {"zscore": "zscore", "rank": "transductive rank"}
"""What tables call the ways to combine."""

Key = tuple[str, str]
"""(system, backend id): a leaderboard row of a checkpoint."""


@dataclass(frozen=True)
class Row:
    """A leaderboard row to be: ``members`` are None until they are chosen."""

    ensemble: Ensemble
    system: str
    checkpoint: str
    backend: str
    members: tuple[Key, ...] | None


def plan(sweep: Sweep, trials: Iterable[Trial]) -> list[Row]:
    """The rows that a sweep's ensembles will give.

    Raises:
        ValueError: a name that no row has; more rows asked for than there are; an ensemble of one.
    """
    keys = _keys(sweep, trials)
    rows = []
    for one in sweep.ensembles:
        where = f"ensembles: {one.name}"
        if one.of == "seeds":
            for ckpt in sweep.checkpoints:
                for (system, backend), own in keys.items():
                    if not own[0].system.frontend.has_one_seed:
                        rows.append(Row(one, f"{one.name}-{system}", ckpt, backend, ((system, backend),)))
            continue
        members: tuple[Key, ...] | None = None
        if one.of == "top":
            assert one.k is not None
            if one.k > len(keys):
                raise ValueError(f"{where}: k is {one.k}, but the sweep has {len(keys)} rows")
        else:
            members = tuple(dict.fromkeys(key for name in one.of for key in _named(name, keys, where)))
            if len(members) < 2 and (one.per_seed or len(keys[members[0]]) < 2):
                raise ValueError(f"{where}: an ensemble of {'/'.join(members[0])} alone is no other system")
        rows += [Row(one, one.name, ckpt, one.combine, members) for ckpt in sweep.checkpoints]
    return rows


def _keys(sweep: Sweep, trials: Iterable[Trial]) -> dict[Key, list[Trial]]:
    """Every row of a checkpoint, in the order of the leaderboard, with its trials of all years."""
    keys: dict[Key, list[Trial]] = {}
    for trial in trials:
        for backend in trial.backends(sweep.backends):
            keys.setdefault((trial.system_name, backend_id(backend)), []).append(trial)
    return keys


def _named(name: str, keys: Mapping[Key, Sequence[Trial]], where: str) -> list[Key]:
    """The rows that ``<recipe or system>[/<backend>]`` names."""
    of, slash, backend = name.partition("/")
    systems = [key for key, own in keys.items() if of in (key[0], own[0].recipe)]
    if not systems:
        known = list(dict.fromkeys(n for key, own in keys.items() for n in (own[0].recipe, key[0])))
        raise ValueError(
            f"{where}: no system is called {of!r}{nearest(of, known)} (known: {', '.join(known)})"
        )
    found = [k for k in systems if not slash or backend in (k[1], k[1].rpartition("-")[0])]
    if not found:
        there = list(dict.fromkeys(n for _, b in systems for n in (b.rpartition("-")[0], b)))
        raise ValueError(
            f"{where}: {of} has no backend {backend!r}{nearest(backend, there)} (it has: {', '.join(there)})"
        )
    return found


# -------------------------------------------------------------------------------------------- making them


@dataclass(frozen=True)
class MadeRow:
    """A row as it stands.

    Attributes:
        text: what it is made of.
        selected_by: what chose its members.
        seeds: year -> the seeds that it must have, to be complete; `ALL_SEEDS` for one of all.
        paths: the ``metrics.parquet`` of those that are there.
    """

    row: Row
    text: str
    selected_by: str
    seeds: Mapping[str, tuple[int, ...]]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Made:
    """What a sweep's ensembles came to; ``notes``: sentences on those that could not be made."""

    rows: tuple[MadeRow, ...] = ()
    notes: tuple[str, ...] = ()


def make(
    sweep: Sweep,
    trials: Sequence[Trial],
    datasets: Mapping[str, Dataset],
    places: Places,
    tables: Tables,
    labels: Mapping[str, str],
) -> Made:
    """Combines and evaluates what can be: ensembles whose members are all scored.

    Nothing is done twice: see `asdray.stages.ensemble`. What lies in the folder of ensembles and is none of
    now is removed.

    Args:
        tables: of the sweep's own rows and the official score; they choose the best.
        labels: backend id -> label.
    """
    from asdray.stages.ensemble import ALL_SEEDS, METRICS, Identity, Member, ensemble, scores_of

    keys = _keys(sweep, trials)
    digests: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    made: list[MadeRow] = []
    notes: list[str] = []
    for row in plan(sweep, trials):
        one = row.ensemble
        members, n_compared = _best(row, tables) if row.members is None else (row.members, 0)
        seeds: dict[str, tuple[int, ...]] = {}
        paths: list[Path] = []
        for dcase, dataset in datasets.items():
            machines = sweep.machines_of(dcase)
            groups = _groups(keys, members, dcase, one.per_seed)
            if members is None:
                groups = {s: [] for s in (sweep.seeds if one.per_seed else (None,))}
            seeds[dcase] = tuple(ALL_SEEDS if s is None else s for s in groups)
            for seed, group in groups.items():
                chosen = []
                for trial, backend in group:
                    at = (trial.name, row.checkpoint)
                    if at not in digests:
                        digests[at] = scores_of(trial, row.checkpoint, machines, places, dataset)
                    chosen.append(Member(trial, backend, digests[at].get(backend, {})))
                if not chosen or any(set(machines) - set(m.scores) for m in chosen):
                    continue
                identity = Identity(dcase, row.system, seed, row.checkpoint, row.backend)
                folder = store.ensemble_dir(
                    places.results, sweep.name, row.system, row.checkpoint, row.backend, dcase, seed
                )
                try:
                    ensemble(identity, one.combine, chosen, machines, folder, places, dataset)
                except ValueError as error:
                    notes.append(f"Not made: {error}.")
                else:
                    paths.append(folder / METRICS)
        text = _described(row, members, labels, keys)
        made.append(MadeRow(row, text, _selected_by(one, n_compared), seeds, tuple(paths)))
    if any(one.row.ensemble.combine == "rank" for one in made):
        notes.append(
            f"{HOW['rank'].capitalize()}: a clip's score depends on which other test clips it is ranked "
            "with; z-scores are made with the training scores alone."
        )
    there = {path.parent for one in made for path in one.paths}
    _remove_others(store.ensembles_dir(places.results, sweep.name), there)
    return Made(tuple(made), tuple(notes))


def _groups(
    keys: Mapping[Key, Sequence[Trial]], members: Sequence[Key] | None, dcase: str, per_seed: bool
) -> dict[int | None, list[tuple[Trial, str]]]:
    """Seed (None = all) -> the trials of one year that make an ensemble, each with its backend.

    What is the same for all seeds stands in the ensemble of each.
    """
    own = [(t, key[1]) for key in members or () for t in keys[key] if t.dcase == dcase]
    if not per_seed:
        return {None: own}
    varied = dict.fromkeys(t.seed for t, _ in own if not t.system.frontend.has_one_seed)
    return {
        seed: [(t, b) for t, b in own if t.seed == seed or t.system.frontend.has_one_seed]
        for seed in (varied or (0,))
    }


def _best(row: Row, tables: Tables) -> tuple[tuple[Key, ...] | None, int]:
    """The best rows of the checkpoint, None while fewer than asked for are complete; and how many are."""
    from asdray.evaluation import metrics

    by = row.ensemble.chosen_by
    assert by is not None
    assert row.ensemble.k is not None
    names = {f"{dcase}-{subset}": table for (dcase, subset), table in tables.items()}
    over = averaged(by, tuple(names)) if by in MEANS else (by,)
    values: dict[Key, list[float]] = {}
    for name in over:
        for line in names[name].to_dict("records"):
            whole = 0 < line["n_expected"] == line["n"] and not math.isnan(line["total_mean"])
            if line["checkpoint"] == row.checkpoint and whole:
                values.setdefault((line["system"], line["backend_id"]), []).append(line["total_mean"])
    mean = metrics.harmonic_mean if by.endswith("hmean") else metrics.arithmetic_mean
    whole_rows = {key: mean(own) or 0.0 for key, own in values.items() if len(own) == len(over)}
    best = sorted(whole_rows, key=lambda key: -whole_rows[key])[: row.ensemble.k]
    return tuple(best) if len(best) == row.ensemble.k else None, len(whole_rows)


def _described(
    row: Row,
    members: Sequence[Key] | None,
    labels: Mapping[str, str],
    keys: Mapping[Key, Sequence[Trial]],
) -> str:
    one = row.ensemble
    how = HOW[one.combine]
    if one.of == "seeds":
        return f"{how} of {len({t.seed for t in keys[row.members[0]]}) if row.members else 0} seeds"
    if members is None:
        return f"{how} of the top {one.k} by {one.chosen_by}"
    named = " + ".join(f"{system}/{labels[backend]}" for system, backend in members)
    return f"{how} of {named}{'' if one.per_seed else ', all seeds'}"


def _remove_others(folder: Path, keep: set[Path]) -> None:
    """Removes ensembles that are none of now: they would stand in what reads the folder."""
    for path in folder.glob("*/*/*/*/"):
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------------------------------- their rows


def leaderboard_rows(
    made: Made,
    machines: Mapping[str, Sequence[str]],
    label_sources: Mapping[str, str],
    dataset: str,
    labels: Mapping[str, str],
    metric: str,
    best_by: Mapping[str, str],
) -> list[dict[str, Any]]:
    """What the ensembles give to a leaderboard: `asdray.evaluation.leaderboard.build`'s ``extra``.

    Args:
        best_by: of the sweep's own systems, as for `asdray.evaluation.leaderboard.build`.
    """
    import pandas as pd

    from asdray.evaluation import leaderboard, tables
    from asdray.stages.ensemble import RECIPE

    found: list[dict[str, Any]] = []
    for selected_by in dict.fromkeys(one.selected_by for one in made.rows):
        own = [one for one in made.rows if one.selected_by == selected_by]
        planned = pd.DataFrame(
            [
                (dcase, RECIPE, one.row.system, seed, one.row.checkpoint, one.row.backend)
                for one in own
                for dcase, seeds in one.seeds.items()
                for seed in seeds
            ],
            columns=["dcase", *tables.TRIAL_KEYS],
        )
        rows = tables.load_rows([path for one in own for path in one.paths], metric)
        known = {one.row.backend: labels.get(one.row.backend, one.row.backend) for one in own}
        made_tables = tables.sweep_tables(rows, planned, machines, known, {}, metric)
        texts = {(one.row.system, one.row.checkpoint, one.row.backend): one.text for one in own}
        best = {
            one.row.system: "+".join(
                sorted({best_by[system] for system, _ in one.row.members or ()} - {"fixed"})
            )
            or "fixed"
            for one in own
        }
        rows_of = leaderboard.rows_of(made_tables, machines, label_sources, dataset, selected_by, best)
        for row in rows_of:
            key = (row["system"], row["checkpoint"], row["backend_id"])
            found.append({**row, "options": texts[key]})
    return found


def _selected_by(ensemble: Ensemble, n_compared: int) -> str:
    """``official_dev (dev_amean, top 3 of 20)``: how many rows the best were chosen among."""
    if ensemble.chosen_by is None:
        return "fixed"
    return f"official_dev ({ensemble.chosen_by}, top {ensemble.k} of {n_compared})"


def best_by(trial: Trial) -> str:
    """What the checkpoint ``best`` of a trial is the best of."""
    if not trial.system.frontend.learns:
        return "fixed"
    return "held_out_loss" if getattr(trial.system.frontend, "validation", 0) else "train_loss"
