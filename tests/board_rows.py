"""Rows of evaluation made by hand, for the tests of tables and of leaderboards."""

import numpy as np
import pandas as pd

from asdray.evaluation import leaderboard, tables

MACHINES = {"dcase2022": ("fan", "valve"), "dcase2023": ("fan", "valve", "bandsaw", "ToyTank")}
SYSTEMS = {"dis-11111111": "dis", "dis-22222222": "dis", "ae-33333333": "ae"}
BACKENDS = {"dis": ("knn-aaaaaaaa", "knn-bbbbbbbb"), "ae": ("recon-cccccccc",)}
LABELS = {
    "knn-aaaaaaaa": "knn(n_neighbors=1)",
    "knn-bbbbbbbb": "knn(n_neighbors=4)",
    "recon-cccccccc": "recon",
}
OPTIONS = {"dis-11111111": "train.epochs=1", "dis-22222222": "train.epochs=2"}
CONTEXT = tables.TableContext(MACHINES, "synthetic", dict.fromkeys(MACHINES, "name"), LABELS, OPTIONS)
SEEDS = (0, 1)


def plan(seeds=SEEDS):
    return pd.DataFrame(
        [
            (dcase, recipe, system, seed, "last", backend)
            for dcase in MACHINES
            for system, recipe in SYSTEMS.items()
            for seed in seeds
            for backend in BACKENDS[recipe]
        ],
        columns=["dcase", *tables.TRIAL_KEYS],
    )


def make_rows(seed=0, seeds=SEEDS, **more):
    """A complete frame of official rows with random values, and decoys that no table may read."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in plan(seeds).itertuples():
        for subset in ("dev", "eval"):
            for machine in tables.machines_in(row.dcase, subset, MACHINES[row.dcase]):
                head = {c: getattr(row, c) for c in ("dcase", *tables.TRIAL_KEYS)}
                head |= {"machine": machine, "subset": subset}
                rows.append(head | {"section": -1, "metric": "official", "value": rng.uniform(0.4, 0.9)})
                rows.append(head | {"section": -1, "metric": "mix_auc", "value": 0.123})
                rows.append(head | {"section": 0, "metric": "mix_auc", "value": 0.456})
    return pd.DataFrame(rows)[list(tables.COLUMNS)]


def pick(rows, **where):
    chosen = pd.Series(True, index=rows.index)
    for column, value in where.items():
        chosen &= rows[column] == value
    return chosen


def sweep(rows, **more):
    return tables.sweep_tables(rows, plan(**more), CONTEXT)


def board(rows, context=CONTEXT, **more):
    return leaderboard.build(sweep(rows), context, **more)
