"""Trial tables, sweep tables and the leaderboard, from rows made by hand."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from asdray.config.backend import Knn, backend_id
from asdray.config.load import load_recipe
from asdray.config.trial import Trial
from asdray.dcase.years import get_year
from asdray.evaluation import leaderboard, naming, tables

MACHINES = {"dcase2022": ("fan", "valve"), "dcase2023": ("fan", "valve", "bandsaw", "ToyTank")}
SYSTEMS = {"dis-11111111": "dis", "dis-22222222": "dis", "ae-33333333": "ae"}
BACKENDS = {"dis": ("knn-aaaaaaaa", "knn-bbbbbbbb"), "ae": ("recon-cccccccc",)}
LABELS = {
    "knn-aaaaaaaa": "knn(n_neighbors=1)",
    "knn-bbbbbbbb": "knn(n_neighbors=4)",
    "recon-cccccccc": "recon",
}
OPTIONS = {"dis-11111111": "train.epochs=1", "dis-22222222": "train.epochs=2"}
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
    return tables.sweep_tables(rows, plan(**more), MACHINES, LABELS, OPTIONS)


def board(rows, **more):
    kinds = dict.fromkeys(MACHINES, "synthetic")
    return leaderboard.build(sweep(rows), MACHINES, kinds, dict.fromkeys(MACHINES, "name"), **more)


def test_machines_in_keeps_the_years_order():
    assert tables.machines_in("dcase2023", "eval", ["ToyTank", "bandsaw", "fan"]) == ("bandsaw", "ToyTank")
    assert tables.machines_in("dcase2022", "eval", ["valve", "fan"]) == ("fan", "valve")


def test_trial_table():
    rows = make_rows()
    one = rows[pick(rows, dcase="dcase2023", system="dis-11111111", seed=1)]
    labels = {b: LABELS[b] for b in BACKENDS["dis"]}
    table = tables.trial_table(one, "dcase2023", "eval", MACHINES["dcase2023"], labels)
    assert list(table.columns) == ["backend", "bandsaw", "ToyTank", "total"]
    assert list(table["backend"]) == list(labels.values())
    for backend, row in zip(labels, table.to_dict("records"), strict=True):
        mine = one[pick(one, backend=backend, subset="eval", metric="official")]
        values = dict(zip(mine["machine"], mine["value"], strict=True))
        assert {m: row[m] for m in values} == values
        assert row["total"] == pytest.approx(statistics.harmonic_mean(values.values()))


def test_a_missing_machine_voids_the_total_and_nothing_else():
    rows = make_rows()
    one = rows[pick(rows, dcase="dcase2023", system="ae-33333333", seed=0)].copy()
    labels = {"recon-cccccccc": "recon"}
    for damaged in (
        one[~pick(one, machine="bandsaw")],
        one.assign(value=one["value"].mask(pick(one, machine="bandsaw"))),
    ):
        table = tables.trial_table(damaged, "dcase2023", "eval", MACHINES["dcase2023"], labels)
        assert table["bandsaw"].isna().all()
        assert table["total"].isna().all()
        assert table["ToyTank"].notna().all()
    # A backend without any row is shown, empty.
    table = tables.trial_table(one, "dcase2023", "dev", MACHINES["dcase2023"], {**labels, "knn-x": "knn"})
    assert list(table["total"].isna()) == [False, True]


def test_sweep_table_is_mean_and_std_over_seeds():
    rows = make_rows(seeds=(0, 1, 2))
    found = tables.sweep_tables(rows, plan((0, 1, 2)), MACHINES, LABELS, OPTIONS)
    assert list(found) == list(itertools.product(MACHINES, ("dev", "eval")))
    table = found["dcase2022", "dev"]
    assert list(table.columns) == [
        "system", "recipe", "options", "backend", "backend_id", "checkpoint", "n", "n_expected",
        "fan", "valve", "total_mean", "total_std",
    ]  # fmt: skip
    assert len(table) == 5
    for row in table.to_dict("records"):
        mine = rows[
            pick(
                rows,
                dcase="dcase2022",
                subset="dev",
                metric="official",
                system=row["system"],
                backend=row["backend_id"],
            )
        ]
        values = mine.pivot(index="seed", columns="machine", values="value")
        totals = [statistics.harmonic_mean(v) for v in values.to_numpy().tolist()]
        assert row["fan"] == pytest.approx(values["fan"].mean())
        assert row["total_mean"] == pytest.approx(statistics.mean(totals))
        assert row["total_std"] == pytest.approx(statistics.stdev(totals))
        assert (row["n"], row["n_expected"]) == (3, 3)
        assert row["options"] == OPTIONS.get(row["system"], "")


def test_2020_is_arithmetic():
    head = {"dcase": "dcase2020", "recipe": "ae", "system": "ae-1", "seed": 0, "checkpoint": "last"}
    head |= {"subset": "dev", "section": -1, "backend": "recon-1", "metric": "official"}
    rows = pd.DataFrame(
        [head | {"machine": m, "value": v} for m, v in (("fan", 0.5), ("ToyConveyor", 0.9))],
        columns=tables.COLUMNS,
    )
    machines = ("fan", "ToyConveyor")
    table = tables.trial_table(rows, "dcase2020", "dev", machines, {"recon-1": "recon"})
    assert table["total"][0] == pytest.approx(0.7)


def test_one_seed_has_no_std_and_an_absent_trial_counts_as_expected():
    rows = make_rows()
    only = rows[rows["seed"] == 0]
    table = sweep(only)["dcase2023", "dev"]
    assert set(table["n"]) == {1}
    assert set(table["n_expected"]) == {2}
    assert table["total_std"].isna().all()
    assert table["total_mean"].notna().all()
    nothing = sweep(rows.iloc[:0])["dcase2023", "dev"]
    assert len(nothing) == 5
    assert set(nothing["n"]) == {0}
    assert nothing[["fan", "valve", "total_mean", "total_std"]].isna().all(axis=None)


def test_an_incomplete_trial_is_in_no_mean_of_its_row():
    rows = make_rows()
    gone = pick(rows, dcase="dcase2023", system="ae-33333333", seed=1, machine="bandsaw")
    table = sweep(rows[~gone])["dcase2023", "eval"].set_index("system")
    row = table.loc["ae-33333333"]
    seed0 = rows[pick(rows, dcase="dcase2023", system="ae-33333333", seed=0, metric="official")]
    assert row["n"] == 1
    assert row["ToyTank"] == seed0[seed0["machine"] == "ToyTank"]["value"].item()
    assert math.isnan(row["total_std"])


def test_rows_that_were_not_planned_are_ignored():
    rows = make_rows()
    other = rows.assign(backend=rows["backend"] + "0", value=0.99)
    older = rows[rows["seed"] == 0].assign(seed=99, value=0.01)
    best = rows.assign(checkpoint="best", value=0.01)
    everything = pd.concat([other, rows, older, best], ignore_index=True)
    for key, table in sweep(rows).items():
        pd.testing.assert_frame_equal(table, sweep(everything)[key])


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(random):
    rows = make_rows()
    order = list(range(len(rows)))
    random.shuffle(order)
    a, b = sweep(rows), sweep(rows.iloc[order])
    for key in a:
        pd.testing.assert_frame_equal(a[key], b[key], check_exact=True)


# ----------------------------------------------------------------------------------------- leaderboard


def test_leaderboard_ranks_by_the_mean_of_eval_columns():
    rows = make_rows()
    frame = board(rows).frame
    assert list(frame.columns[:13]) == list(leaderboard.ID_COLUMNS)
    assert list(frame.columns[13:]) == [
        f"{dcase}-{subset}_{part}"
        for dcase, subset in itertools.product(MACHINES, ("dev", "eval"))
        for part in ("mean", "std", "n", "n_expected")
    ]
    score = (frame["dcase2022-eval_mean"] + frame["dcase2023-eval_mean"]) / 2
    assert list(frame["rank"]) == [1, 2, 3, 4, 5]
    assert list(score) == sorted(score, reverse=True)
    assert set(frame["origin"]) == {"ours"}
    assert set(frame["selected_by"]) == {"fixed"}
    assert set(frame["dataset"]) == {"synthetic"}
    assert set(frame["label_source"]) == {"name"}
    by_dev = board(rows, rank_by=["dcase2022-dev"]).frame["dcase2022-dev_mean"]
    assert list(by_dev) == sorted(by_dev, reverse=True)
    with pytest.raises(ValueError, match="did you mean 'dcase2022-eval'"):
        board(rows, rank_by=["dcase2022-evil"])


def test_incomplete_rows_stand_last_without_a_rank():
    rows = make_rows()
    best = board(rows).frame.iloc[0]
    for gone in (
        pick(rows, system=best["system"], backend=best["backend_id"], seed=1, dcase="dcase2022"),
        pick(rows, system=best["system"], backend=best["backend_id"], subset="dev", machine="valve"),
    ):
        frame = board(rows[~gone]).frame
        last = frame.iloc[-1]
        assert (last["system"], last["backend_id"]) == (best["system"], best["backend_id"])
        assert pd.isna(last["rank"])
        assert list(frame["rank"][:-1]) == [1, 2, 3, 4]


def test_equal_scores_share_a_rank():
    rows = make_rows()
    frame = board(rows.assign(value=0.5)).frame
    assert set(frame["rank"]) == {1}
    assert list(frame["system"]) == ["dis-11111111"] * 2 + ["dis-22222222"] * 2 + ["ae-33333333"]


def test_without_eval_machines_dev_decides_and_it_is_said():
    rows = make_rows()
    machines = {"dcase2023": ("fan", "valve")}
    planned = plan()
    planned = planned[planned["dcase"] == "dcase2023"]
    found = tables.sweep_tables(rows, planned, machines, LABELS, OPTIONS)
    assert list(found) == [("dcase2023", "dev")]
    b = leaderboard.build(found, machines, {"dcase2023": "official"}, {"dcase2023": "official"})
    assert b.ranked_by == ("dcase2023-dev",)
    assert list(b.frame["rank"]) == [1, 2, 3, 4, 5]
    assert "no eval column was asked for" in leaderboard.markdown(b)
    assert set(b.frame["machines"]) == {"dcase2023-dev 2 of 7"}


def test_eval_without_labels_ranks_nobody():
    rows = make_rows()
    rows["value"] = rows["value"].mask(rows["subset"] == "eval")
    b = board(rows)
    assert b.frame["rank"].isna().all()
    assert "No scores yet in dcase2022-eval and dcase2023-eval" in leaderboard.markdown(b)


def test_label_sources_are_told_per_year_where_they_differ():
    kinds = dict.fromkeys(MACHINES, "official")
    b = leaderboard.build(
        sweep(make_rows()), MACHINES, kinds, {"dcase2022": "name+evaluator", "dcase2023": ""}
    )
    assert set(b.frame["label_source"]) == {"dcase2022 name+evaluator, dcase2023 none"}


def test_synthetic_and_official_never_meet():
    kinds = {"dcase2022": "synthetic", "dcase2023": "official"}
    with pytest.raises(ValueError, match="dcase2022 is synthetic, dcase2023 is official"):
        leaderboard.build(sweep(make_rows()), MACHINES, kinds, dict.fromkeys(MACHINES, "name"))


def test_written_leaderboard(tmp_path):
    rows = make_rows()
    rows = rows[~pick(rows, system="ae-33333333", seed=1)]
    b = board(rows)
    csv, parquet, md = leaderboard.write(b, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.parquet",
    ]
    read = pd.read_csv(csv)
    assert read["dcase2022-dev_mean"].tolist() == b.frame["dcase2022-dev_mean"].tolist()  # every digit
    assert csv.read_text().splitlines()[-1].startswith(",ae-33333333,ae,,recon,")
    table = pq.read_table(parquet)
    assert table.column("rank").null_count == 1
    assert table.column("dcase2022-dev_std").null_count == 1
    assert table.schema.field("dcase2022-dev_n").type == pa.int64()
    text = md.read_text()
    assert text.startswith("Dataset: synthetic.")
    assert "Ranked by dcase2022-eval and dcase2023-eval." in text
    assert "Not all machines of the year: dcase2022-dev 2 of 7" in text
    assert "1 of 5 rows are incomplete and not ranked." in text
    first = b.frame.iloc[0]
    shown = f"{100 * first['dcase2022-dev_mean']:.2f} ± {100 * first['dcase2022-dev_std']:.2f} (2 of 2)"
    assert shown in next(line for line in text.splitlines() if line.startswith("| 1 |"))
    console = Console(width=240, record=True, file=open(tmp_path / "screen", "w"))  # noqa: SIM115
    console.print(leaderboard.rich_table(b))
    screen = console.export_text()
    assert shown in screen
    assert "(synthetic data)" in screen


def test_tables_on_disk_and_rows_from_disk(tmp_path):
    rows = make_rows()
    for i, (_, part) in enumerate(rows.groupby(["dcase", "system", "seed"])):
        pq.write_table(
            pa.Table.from_pandas(part, schema=tables.SCHEMA, preserve_index=False), tmp_path / f"{i}.parquet"
        )
    paths = sorted(tmp_path.glob("*.parquet"))
    read = tables.load_rows(paths)
    assert set(read["metric"]) == {"official"}
    for key, table in sweep(rows).items():
        pd.testing.assert_frame_equal(table, sweep(read)[key])
    assert len(sweep(tables.load_rows([]))["dcase2022", "dev"]) == 5
    written = tables.write_tables(sweep(rows), tmp_path / "tables")
    assert [p.name for p in written] == [
        "official22-dev.csv", "official22-eval.csv", "official23-dev.csv", "official23-eval.csv",
    ]  # fmt: skip
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"bad\.parquet is damaged"):
        tables.load_rows([tmp_path / "bad.parquet"])


def test_planned_rows_of_real_trials():
    dis, ae = (load_recipe(name).system for name in ("dis_baseline", "ae_baseline"))
    machines = get_year("dcase2023").all_machines
    trials = [
        Trial("dcase2023", recipe, system, seed, machines)
        for recipe, system in (("dis_baseline", dis), ("ae_baseline", ae))
        for seed in (0, 1)
    ]
    planned = tables.planned_rows(trials, ["last"], (Knn(), Knn(n_neighbors=4)))
    assert len(planned) == 2 * 2 + 2 * 1
    assert set(planned["system"]) == {f"dis_baseline-{dis.id}", f"ae_baseline-{ae.id}"}
    assert set(planned["backend"][planned["recipe"] == "dis_baseline"]) == {
        backend_id(Knn()), backend_id(Knn(n_neighbors=4)),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- names


def test_names_show_only_what_differs():
    knn = {"name": "knn", "n_neighbors": 1, "metric": "cosine"}
    assert naming.backend_labels({"a": knn, "b": {"name": "recon"}}) == {"a": "knn", "b": "recon"}
    assert naming.backend_labels({"a": knn, "b": {**knn, "n_neighbors": 4}, "c": None}) == {
        "a": "knn(n_neighbors=1)",
        "b": "knn(n_neighbors=4)",
        "c": "c",
    }
    assert naming.backend_labels({"a": knn, "b": dict(knn)}) == {"a": "a", "b": "b"}
    swept = {
        "s1": {"frontend.loss": {"name": "adacos"}, "train.epochs": 2, "audio.duration": 2.0},
        "s2": {"frontend.loss": {"name": "scac", "n": 16}, "train.epochs": 2, "audio.duration": 2.0},
    }
    assert naming.option_labels(swept) == {"s1": "frontend.loss=adacos", "s2": "frontend.loss=scac(n=16)"}
    assert naming.option_labels({"s1": {"train.epochs": 2}}) == {"s1": ""}
    assert naming.show([0.001, True, None, {"a": 1}]) == "[0.001, true, null, (a=1)]"
