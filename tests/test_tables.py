"""Trial tables and sweep tables, from rows made by hand."""

import itertools
import math
import statistics

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from board_rows import BACKENDS, CONTEXT, LABELS, MACHINES, OPTIONS, make_rows, pick, plan, sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from asdray.config.backend import Knn, backend_id
from asdray.config.system import load_recipe
from asdray.config.trial import Trial
from asdray.dcase.years import get_year
from asdray.evaluation import tables


def trial_table(rows, *args):
    """`tables.trial_table` of a table of rows, as a table."""
    return pd.DataFrame(tables.trial_table(rows.to_dict("records"), *args))


def test_machines_in_keeps_the_years_order():
    assert tables.machines_in("dcase2023", "eval", ["ToyTank", "bandsaw", "fan"]) == ("bandsaw", "ToyTank")
    assert tables.machines_in("dcase2022", "eval", ["valve", "fan"]) == ("fan", "valve")


def test_coverage_of_a_total():
    assert tables.coverage("dcase2023", "eval", ["fan", "bandsaw"]) == "1 of 7"
    every = get_year("dcase2023").all_machines
    assert tables.coverage("dcase2023", "eval", every) == tables.coverage("dcase2023", "dev", every) == "all"
    empty = tables.load_rows([])
    assert set(trial_table(empty, "dcase2023", "dev", every, {"knn-1": "knn"})["machines"]) == {"all"}


def test_trial_table():
    rows = make_rows()
    one = rows[pick(rows, dcase="dcase2023", system="dis-11111111", seed=1)]
    labels = {b: LABELS[b] for b in BACKENDS["dis"]}
    table = trial_table(one, "dcase2023", "eval", MACHINES["dcase2023"], labels)
    assert list(table.columns) == ["backend", "bandsaw", "ToyTank", "total", "machines"]
    assert set(table["machines"]) == {"2 of 7"}
    assert list(table["backend"]) == list(labels.values())
    for backend, row in zip(labels, table.to_dict("records"), strict=True):
        mine = one[pick(one, backend=backend, subset="eval", metric="official")]
        values = dict(zip(mine["machine"], mine["value"], strict=True))
        assert {m: row[m] for m in values} == values
        assert row["total"] == pytest.approx(statistics.harmonic_mean(values.values()))


def test_without_a_machine_only_the_total_is_null():
    rows = make_rows()
    one = rows[pick(rows, dcase="dcase2023", system="ae-33333333", seed=0)].copy()
    labels = {"recon-cccccccc": "recon"}
    for damaged in (
        one[~pick(one, machine="bandsaw")],
        one.assign(value=one["value"].astype(object).mask(pick(one, machine="bandsaw"), None)),
    ):
        table = trial_table(damaged, "dcase2023", "eval", MACHINES["dcase2023"], labels)
        assert table["bandsaw"].isna().all()
        assert table["total"].isna().all()
        assert table["ToyTank"].notna().all()
    # A backend without any row is shown, empty.
    table = trial_table(one, "dcase2023", "dev", MACHINES["dcase2023"], {**labels, "knn-x": "knn"})
    assert list(table["total"].isna()) == [False, True]


def test_sweep_table_is_mean_and_std_over_seeds():
    rows = make_rows(seeds=(0, 1, 2))
    found = tables.sweep_tables(rows, plan((0, 1, 2)), CONTEXT)
    assert list(found) == list(itertools.product(MACHINES, ("dev", "eval")))
    table = found["dcase2022", "dev"]
    assert list(table.columns) == [
        "system", "recipe", "options", "backend", "backend_id", "checkpoint", "n", "n_expected", "machines",
        "fan", "valve", "total_mean", "total_std", "fan_std", "valve_std",
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
        assert row["fan_std"] == pytest.approx(statistics.stdev(values["fan"]))
        assert row["total_mean"] == pytest.approx(statistics.mean(totals))
        assert row["total_std"] == pytest.approx(statistics.stdev(totals))
        assert (row["n"], row["n_expected"]) == (3, 3)
        assert row["options"] == OPTIONS.get(row["system"], "")


def test_the_total_of_2020_is_an_arithmetic_mean():
    head = {"dcase": "dcase2020", "recipe": "ae", "system": "ae-1", "seed": 0, "checkpoint": "last"}
    head |= {"subset": "dev", "section": -1, "backend": "recon-1", "metric": "official"}
    rows = pd.DataFrame(
        [head | {"machine": m, "value": v} for m, v in (("fan", 0.5), ("ToyConveyor", 0.9))],
        columns=tables.COLUMNS,
    )
    machines = ("fan", "ToyConveyor")
    table = trial_table(rows, "dcase2020", "dev", machines, {"recon-1": "recon"})
    assert table["total"][0] == pytest.approx(0.7)


def test_one_seed_has_no_std_and_an_absent_trial_counts_as_expected():
    rows = make_rows()
    only = rows[rows["seed"] == 0]
    table = sweep(only)["dcase2023", "dev"]
    assert set(table["n"]) == {1}
    assert set(table["n_expected"]) == {2}
    assert table[["fan_std", "valve_std", "total_std"]].isna().all(axis=None)
    assert table["total_mean"].notna().all()
    nothing = sweep(rows.iloc[:0])["dcase2023", "dev"]
    assert len(nothing) == 5
    assert set(nothing["n"]) == {0}
    assert nothing[["fan", "valve", "total_mean", "total_std"]].isna().all(axis=None)


def test_an_incomplete_trial_is_in_no_mean_of_its_row():
    rows = make_rows()
    absent = pick(rows, dcase="dcase2023", system="ae-33333333", seed=1, machine="bandsaw")
    table = sweep(rows[~absent])["dcase2023", "eval"].set_index("system")
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


@settings(max_examples=4, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(random):
    rows = make_rows()
    order = list(range(len(rows)))
    random.shuffle(order)
    a, b = sweep(rows), sweep(rows.iloc[order])
    for key in a:
        pd.testing.assert_frame_equal(a[key], b[key], check_exact=True)


def test_tables_on_disk_and_rows_from_disk(tmp_path):
    rows = make_rows()
    for i, (_, part) in enumerate(rows.assign(dataset="official").groupby(["dcase", "system", "seed"])):
        pq.write_table(
            pa.Table.from_pandas(part, schema=tables.SCHEMA, preserve_index=False), tmp_path / f"{i}.parquet"
        )
    paths = sorted(tmp_path.glob("*.parquet"))
    read = tables.load_rows(paths)
    assert set(read["metric"]) == {"official"}
    assert list(read.columns) == list(tables.COLUMNS)
    for key, table in sweep(rows).items():
        pd.testing.assert_frame_equal(table, sweep(read)[key])
    assert len(sweep(tables.load_rows([]))["dcase2022", "dev"]) == 5
    written = tables.write_tables(sweep(rows), tmp_path / "tables", "synthetic")
    assert [p.name for p in written] == [
        f"official{year}-{subset}{what}.csv"
        for year in (22, 23) for subset in ("dev", "eval") for what in ("", "-std")
    ]  # fmt: skip
    mean, std = (pd.read_csv(path) for path in written[:2])
    head = ["system", "recipe", "options", "backend", "backend_id", "checkpoint", "n", "n_expected"]
    head += ["machines"]
    assert list(mean.columns) == [*head, "fan", "valve", "total_mean", "total_std", "dataset"]
    assert list(std.columns) == [*head, "fan", "valve", "total", "dataset"]
    table = sweep(rows)["dcase2022", "dev"]
    assert mean["fan"].tolist() == table["fan"].tolist()
    assert std["fan"].tolist() == table["fan_std"].tolist()
    assert std["total"].tolist() == mean["total_std"].tolist()
    assert set(mean["dataset"]) == set(std["dataset"]) == {"synthetic"}
    assert set(mean["machines"]) == set(std["machines"]) == {"2 of 7"}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"bad\.parquet is damaged"):
        tables.load_rows([tmp_path / "bad.parquet"])


def test_a_trial_table_is_written_as_any_other_table(tmp_path):
    values = [0.1 + 0.2, 1e-7, 1.0, None, 123456789.123456789, 1 / 3]
    table = [
        {"backend": label, "fan": value, "total": None, "machines": "1 of 7"}
        for label, value in zip(("knn", "=knn", 'a "b", c', "-1", "é", "k\nn"), values, strict=True)
    ]
    tables.write_trial_table(table, tmp_path / "ours.csv", "synthetic")
    frame = pd.DataFrame(table).astype({"total": float})
    tables.write_csv(frame, tmp_path / "pandas.csv", "synthetic")
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "pandas.csv").read_bytes()


def test_tables_of_another_metric(tmp_path):
    rows = make_rows()
    one = rows[pick(rows, dcase="dcase2023", system="ae-33333333", seed=0)]
    table = trial_table(
        one, "dcase2023", "dev", MACHINES["dcase2023"], {"recon-cccccccc": "recon"}, "mix_auc"
    )
    assert table["fan"][0] == 0.123
    assert table["total"][0] == pytest.approx(0.123)
    found = tables.sweep_tables(rows, plan(), CONTEXT, "mix_auc")
    assert found["dcase2022", "eval"]["total_mean"].tolist() == pytest.approx([0.123] * 5)
    assert set(found["dcase2022", "eval"]["n"]) == {2}
    assert [p.name for p in tables.write_tables(found, tmp_path, "official", "mix_auc")][::2] == [
        "mix_auc22-dev.csv", "mix_auc22-eval.csv", "mix_auc23-dev.csv", "mix_auc23-eval.csv",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown metric 'smix_aux'; did you mean 'smix_auc'"):
        tables.check_metric("smix_aux")


@settings(max_examples=5, deadline=None)
@given(st.sets(st.integers(0, 59), min_size=1))
def test_missing_values_do_not_enter_a_mean(absent):
    """If machine values are missing, n counts the complete trials, and means cover only these trials."""
    rows = make_rows()
    rows = rows[rows["metric"] == "official"].reset_index(drop=True)
    rows.loc[[i for i in absent if i < len(rows)], "value"] = math.nan
    for (dcase, subset), table in sweep(rows).items():
        for row in table.to_dict("records"):
            mine = rows[
                pick(rows, dcase=dcase, subset=subset, system=row["system"], backend=row["backend_id"])
            ]
            whole = [part for _, part in mine.groupby("seed") if part["value"].notna().all()]
            assert (row["n"], row["n_expected"]) == (len(whole), 2)
            totals = [statistics.harmonic_mean(part["value"]) for part in whole]
            if whole:
                assert row["total_mean"] == pytest.approx(statistics.mean(totals))
            else:
                assert math.isnan(row["total_mean"])
            assert math.isnan(row["total_std"]) == (len(whole) < 2)


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


def test_system_labels_are_recipes_where_these_are_unique():
    rows = [
        {"system": "ae-1", "recipe": "ae", "options": ""},
        {"system": "ae-1", "recipe": "ae", "options": ""},
        {"system": "dis-1", "recipe": "dis", "options": "train.epochs=1"},
        {"system": "dis-2", "recipe": "dis", "options": "train.epochs=2"},
        {"system": "raw-1", "recipe": "raw", "options": ""},
        {"system": "raw-2", "recipe": "raw", "options": ""},
        {"system": "Their ae", "recipe": "ae", "options": ""},
    ]
    assert tables.system_labels(rows) == ["ae", "ae", "dis", "dis", "raw-1", "raw-2", "Their ae"]


def test_labels_show_only_differing_options():
    knn = {"name": "knn", "n_neighbors": 1, "metric": "cosine"}
    assert tables.backend_labels({"a": knn, "b": {"name": "recon"}}) == {"a": "knn", "b": "recon"}
    assert tables.backend_labels({"a": knn, "b": {**knn, "n_neighbors": 4}, "c": None}) == {
        "a": "knn(n_neighbors=1)",
        "b": "knn(n_neighbors=4)",
        "c": "c",
    }
    assert tables.backend_labels({"a": knn, "b": dict(knn)}) == {"a": "a", "b": "b"}
    apart = {"name": "knn", "sep_section": True, "n_neighbors": 4, "metric": "cosine"}
    assert tables.backend_labels({"a": {**knn, "sep_section": False}, "b": apart}) == {
        "a": "knn(n_neighbors=1, sep_section=false)",
        "b": "knn(n_neighbors=4, sep_section=true)",
    }
    swept = {
        "s1": {"frontend.loss": {"name": "adacos"}, "train.epochs": 2, "audio.duration": 2.0},
        "s2": {"frontend.loss": {"name": "scac", "n": 16}, "train.epochs": 2, "audio.duration": 2.0},
    }
    assert tables.option_labels(swept) == {"s1": "frontend.loss=adacos", "s2": "frontend.loss=scac(n=16)"}
    assert tables.option_labels({"s1": {"train.epochs": 2}}) == {"s1": ""}
    loss = {"name": "scac", "n": 16, "scale": {"name": "dynamic", "at": 1}}
    assert tables.option_labels({"s1": {"loss": loss}, "s2": {"loss": {**loss, "n": 8}}}) == {
        "s1": "loss=scac(n=16)",
        "s2": "loss=scac(n=8)",
    }
    inside = {**loss, "scale": {"name": "dynamic", "at": 2}}
    assert tables.option_labels({"s1": {"loss": loss}, "s2": {"loss": inside}, "s3": {}}) == {
        "s1": "loss=scac(scale=dynamic(at=1))",
        "s2": "loss=scac(scale=dynamic(at=2))",
        "s3": "",
    }
    fft, stft = {"name": "fft", "hidden": 1}, {"name": "stft", "n_fft": 256, "dim": 4}
    lists = {
        "s1": {"branches": [fft, stft]},
        "s2": {"branches": [fft, {**stft, "n_fft": 512}]},
    }
    assert tables.option_labels(lists) == {
        "s1": "branches=[fft, stft(n_fft=256)]",
        "s2": "branches=[fft, stft(n_fft=512)]",
    }
    assert (
        tables.option_labels({**lists, "s3": {"branches": [stft]}})["s3"]
        == "branches=[stft(n_fft=256, dim=4)]"
    )
    assert tables.option_labels({"s1": {"hidden": [8, 8]}, "s2": {"hidden": [8, 4]}})["s2"] == "hidden=[8, 4]"
    assert tables.show([0.001, True, None, {"a": 1}]) == "[0.001, true, null, (a=1)]"
