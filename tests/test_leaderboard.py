"""The leaderboard: ranks, means over years, published rows, and its files."""

import io
import itertools
import math
import random
import re
import statistics
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from board_rows import CONTEXT, MACHINES, board, make_rows, pick, plan, sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from asdray.config.backend import Knn, Own, Recon, backend_id
from asdray.config.recipe_use import RecipeUse
from asdray.config.sweep import MEANS, check_rank_by
from asdray.config.system import load_recipe, with_overrides
from asdray.dcase.years import SUBSETS, YEARS
from asdray.evaluation import leaderboard, published, tables


def test_leaderboard_ranks_by_the_mean_of_eval_columns():
    rows = make_rows()
    frame = board(rows).frame
    assert list(frame.columns[:15]) == list(leaderboard.ID_COLUMNS)
    assert list(frame.columns[15:]) == [
        f"{dcase}-{subset}_{part}"
        for dcase, subset in itertools.product(MACHINES, ("dev", "eval"))
        for part in ("mean", "std", "n", "n_expected")
    ] + list(MEANS)
    score = (frame["dcase2022-eval_mean"] + frame["dcase2023-eval_mean"]) / 2
    assert list(frame["rank"]) == [1, 2, 3, 4, 5]
    assert list(score) == sorted(score, reverse=True)
    assert set(frame["origin"]) == {"ours"}
    assert set(frame["selected_by"]) == {"fixed"}
    assert set(frame["dataset"]) == {"synthetic"}
    assert set(frame["label_source"]) == {"name"}
    by_dev = board(rows, rank_by="dcase2022-dev").frame["dcase2022-dev_mean"]
    assert list(by_dev) == sorted(by_dev, reverse=True)
    with pytest.raises(ValueError, match="did you mean 'dcase2022-eval'"):
        board(rows, rank_by="dcase2022-evil")


def test_a_best_checkpoint_is_selected_by_its_loss():
    made = {key: frame.assign(checkpoint="best") for key, frame in sweep(make_rows()).items()}
    context = replace(CONTEXT, best_by={"ae-33333333": "held_out_loss"})
    rows = leaderboard.rows_of(made, context)
    assert {(r["recipe"], r["selected_by"]) for r in rows} == {("dis", "train_loss"), ("ae", "held_out_loss")}
    by = dict.fromkeys(("dis", "ae"), "official_dev (search, 3 systems)")
    rows = leaderboard.rows_of(made, context, by)
    assert {r["selected_by"] for r in rows} == set(by.values())


def test_a_common_selection_is_a_note_below_the_table():
    b = board(make_rows())
    note = "All rows: selected by fixed."
    assert note in leaderboard.markdown(b).splitlines()
    assert f"% {note}" in leaderboard.latex(b).splitlines()
    b.frame.loc[0, "selected_by"] = "train_loss"
    assert "All rows" not in leaderboard.markdown(b)
    assert "| selected by |" in leaderboard.markdown(b)


def test_a_rank_by_eval_has_a_note_on_selection_by_eval():
    said = "the top one of these 5 selects by eval labels, and its score flatters; to choose, --rank-by dev_amean"
    assert any(said in note for note in board(make_rows()).notes)
    for quiet in ("dev_amean", "dcase2022-dev"):
        assert not any("eval labels" in n for n in board(make_rows(), rank_by=quiet).notes)
    assert any("selects by eval labels" in n for n in board(make_rows(), rank_by="amean").notes)
    rows = make_rows()
    alone = rows[rows["system"] == "ae-33333333"]  # nothing to pick from
    assert not any("eval labels" in n for n in board(alone).notes)


def test_incomplete_rows_stand_last_without_a_rank():
    rows = make_rows()
    best = board(rows).frame.iloc[0]
    for absent in (
        pick(rows, system=best["system"], backend=best["backend_id"], seed=1, dcase="dcase2022"),
        pick(rows, system=best["system"], backend=best["backend_id"], subset="dev", machine="valve"),
    ):
        frame = board(rows[~absent]).frame
        last = frame.iloc[-1]
        assert (last["system"], last["backend_id"]) == (best["system"], best["backend_id"])
        assert pd.isna(last["rank"])
        assert list(frame["rank"][:-1]) == [1, 2, 3, 4]


def test_equal_scores_share_a_rank():
    rows = make_rows()
    frame = board(rows.assign(value=0.5)).frame
    assert set(frame["rank"]) == {1}
    assert list(frame["system"]) == ["dis-11111111"] * 2 + ["dis-22222222"] * 2 + ["ae-33333333"]


def test_without_eval_machines_dev_decides_the_rank_with_a_note():
    rows = make_rows()
    context = replace(CONTEXT, machines={"dcase2023": ("fan", "valve")}, dataset="official")
    planned = plan()
    planned = planned[planned["dcase"] == "dcase2023"]
    found = tables.sweep_tables(rows, planned, context)
    assert list(found) == [("dcase2023", "dev")]
    b = leaderboard.build(found, context)
    assert b.rank_by == "dev_amean"
    assert list(b.frame["rank"]) == [1, 2, 3, 4, 5]
    assert "no eval column was asked for" in leaderboard.markdown(b)
    assert set(b.frame["machines"]) == {"dcase2023-dev 2 of 7"}


def test_eval_without_labels_leaves_all_rows_unranked():
    rows = make_rows()
    rows["value"] = rows["value"].mask(rows["subset"] == "eval")
    b = board(rows)
    assert b.frame["rank"].isna().all()
    assert "No scores yet in dcase2022-eval and dcase2023-eval" in leaderboard.markdown(b)


def test_different_label_sources_are_named_per_year():
    b = board(make_rows(), replace(CONTEXT, label_sources={"dcase2022": "name+evaluator", "dcase2023": ""}))
    assert set(b.frame["label_source"]) == {"dcase2022 name+evaluator, dcase2023 none"}


def test_backends_that_compare_test_clips_are_marked():
    marked = {"knn-aaaaaaaa": "transductive mem_mixup(z=test)", "knn-bbbbbbbb": "mem_mixup(z=train)"}
    context = replace(CONTEXT, labels={**CONTEXT.labels, **marked})
    shown = leaderboard.markdown(
        leaderboard.build(tables.sweep_tables(make_rows(), plan(), context), context)
    )
    assert shown.count("| transductive mem_mixup(z=test) |") == 2
    assert "Transductive backends: a clip's score depends on which other test clips" in shown
    assert "Transductive" not in leaderboard.markdown(board(make_rows()))


def test_training_classes_from_test_clips_are_marked():
    asdkit = with_overrides(load_recipe("dis_baseline").system, {"frontend.labels": "asdkit"}, "set")
    origins = [f.classes_from for f in (asdkit.frontend, load_recipe("ae_baseline").system.frontend)]
    assert origins == ["train+test", ""]
    classes = {"dis-11111111": "train", "dis-22222222": origins[0], "ae-33333333": origins[1]}
    rows = make_rows()
    b = board(rows, replace(CONTEXT, classes_from=classes))
    assert dict(zip(b.frame["system"], b.frame["classes_from"], strict=True)) == classes
    shown = leaderboard.markdown(b)
    assert shown.count("| train+test |") == 2, "one row per backend"
    assert "Classes from train+test: the attributes and domains of test clips were classes" in shown
    only_train = replace(CONTEXT, classes_from={**classes, "dis-22222222": "train"})
    assert "classes from" not in leaderboard.markdown(board(rows, only_train))
    theirs = {r["system"]: r["classes_from"] for r in published.leaderboard_rows(["dcase2023-eval"])}
    assert theirs["ASDKit dis_spec_featex"] == "train+test"
    assert theirs["ASDKit raw_spec"] == theirs["Challenge top"] == ""


def test_synthetic_and_official_data_cannot_share_a_table():
    kinds = {"dcase2022": "synthetic", "dcase2023": "official"}
    with pytest.raises(ValueError, match="dcase2022 is synthetic, dcase2023 is official"):
        tables.one_dataset(kinds)


def test_written_leaderboard(tmp_path):
    rows = make_rows()
    rows = rows[~pick(rows, system="ae-33333333", seed=1)]
    b = board(rows)
    csv, parquet, md, tex = leaderboard.write(b, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.parquet",
        "leaderboard.tex",
    ]
    read = pd.read_csv(csv)
    assert read["dcase2022-dev_mean"].tolist() == b.frame["dcase2022-dev_mean"].tolist()  # every digit
    assert csv.read_text().splitlines()[-1].startswith(",ae-33333333,ae,,recon,")
    table = pq.read_table(parquet)
    assert table.column("rank").null_count == 1
    assert table.column("dcase2022-dev_std").null_count == 1
    assert table.schema.field("dcase2022-dev_n").type == pa.int64()
    written = md.read_text()
    assert written.startswith("Dataset: synthetic.")
    assert "Ranked by dcase2022-eval and dcase2023-eval." in written
    assert "Not all machines of the year: dcase2022-dev 2 of 7" in written
    assert "1 of 5 rows are incomplete and not ranked." in written
    assert "published" not in written
    first = b.frame.iloc[0]
    shown = f"{100 * first['dcase2022-dev_mean']:.2f} ± {100 * first['dcase2022-dev_std']:.2f} (2 of 2)"
    assert shown in next(line for line in written.splitlines() if line.startswith("| 1 |"))
    console = Console(width=300, record=True, file=open(tmp_path / "screen", "w"))  # noqa: SIM115
    console.print(leaderboard.rich_table(b, width=300)[0])
    screen = console.export_text()
    assert shown.removesuffix(" (2 of 2)") in screen, "complete scores need no count"
    assert "(synthetic data)" in screen
    assert "synthetic" in tex.read_text().split(r"\bottomrule")[1], "seen by whoever reads the paper"


# ------------------------------------------------------------------------------------- means over years


def test_means_over_years():
    frame = board(make_rows()).frame
    for row in frame.to_dict("records"):
        columns = [f"{d}-{s}" for d, s in itertools.product(MACHINES, SUBSETS)]
        for subset, chosen in (("dev_", columns[::2]), ("eval_", columns[1::2]), ("", columns)):
            values = [row[f"{c}_mean"] for c in chosen]
            assert row[f"{subset}amean"] == pytest.approx(statistics.mean(values))
            assert row[f"{subset}hmean"] == pytest.approx(statistics.harmonic_mean(values))


def test_a_mean_over_years_needs_every_year():
    rows = make_rows()
    b = board(rows[~pick(rows, dcase="dcase2022", subset="eval")])
    assert b.frame[["eval_amean", "eval_hmean", "amean", "hmean"]].isna().all(axis=None)
    assert b.frame["dev_amean"].notna().all()


def test_a_mean_over_years_needs_every_seed():
    rows = make_rows()
    absent = pick(rows, dcase="dcase2023", system="ae-33333333", seed=1, machine="bandsaw")
    row = board(rows[~absent]).frame.set_index("system").loc["ae-33333333"]
    assert (row["dcase2023-eval_n"], row["dcase2023-eval_n_expected"]) == (1, 2)
    assert not math.isnan(row["dcase2023-eval_mean"])
    assert row[["eval_amean", "eval_hmean", "amean", "hmean"]].isna().all()
    assert row[["dev_amean", "dev_hmean"]].notna().all()


def test_every_column_can_decide_the_rank():
    rows = make_rows()
    for by in ("dcase2023-dev", "eval_hmean", "amean", "hmean", "dev_amean"):
        b = board(rows, rank_by=by)
        values = list(b.frame[by if by in MEANS else f"{by}_mean"])
        assert values == sorted(values, reverse=True)
        assert list(b.frame["rank"]) == [1, 2, 3, 4, 5]
    assert "Ranked by dcase2022-eval and dcase2023-eval (harmonic mean)." in leaderboard.markdown(
        board(rows, rank_by="eval_hmean")
    )
    with pytest.raises(ValueError, match="did you mean 'eval_hmean'"):
        board(rows, rank_by="evil_hmean")
    with pytest.raises(ValueError, match="cannot rank by 'eval_amean'"):
        check_rank_by("eval_amean", ["dcase2023-dev"])


def test_equal_means_are_shown_once():
    names = ("dcase2022-dev", "dcase2022-eval")
    b = board(make_rows())
    assert b.means == ("eval_amean", "eval_hmean", "amean", "hmean")
    assert board(make_rows(), rank_by="dev_hmean").means[0] == "dev_hmean"
    for chosen, shown in (
        (("dcase2022-eval",), ()),
        (names, ("amean", "hmean")),
        (("dcase2022-dev", "dcase2023-dev"), ("dev_amean", "dev_hmean")),
    ):
        assert leaderboard.Leaderboard(b.frame, chosen, "", "official", "official", ()).means == shown


def test_missing_labels_of_a_column_do_not_prevent_ranks_by_another_column():
    rows = make_rows()
    rows["value"] = rows["value"].mask(pick(rows, dcase="dcase2023", subset="eval"))
    no_labels = {"unlabelled": ["dcase2023-eval"]}
    b = board(rows, **no_labels)
    assert b.frame["rank"].isna().all(), "by default the mean over all eval columns decides"
    assert (
        "Labels are missing in dcase2023-eval: no scores there; rank by another column"
        in leaderboard.markdown(b)
    )
    ranked = board(rows, rank_by="dcase2022-eval", **no_labels).frame
    assert list(ranked["rank"]) == [1, 2, 3, 4, 5]
    # Without a word on labels it is only unfinished, and no row is complete.
    assert board(rows, rank_by="dcase2022-eval").frame["rank"].isna().all()


@settings(max_examples=4, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 59)))
def test_the_order_of_rows_does_not_matter_and_incomplete_rows_have_no_rank(shuffler, absent):
    """The order of rows does not change the leaderboard; incomplete rows come last, without a rank."""
    rows = make_rows()
    rows = rows[rows["metric"] == "official"].reset_index(drop=True)
    rows = rows.drop(index=[i for i in absent if i < len(rows)])
    order = list(rows.index)
    shuffler.shuffle(order)
    b = board(rows)
    pd.testing.assert_frame_equal(b.frame, board(rows.loc[order]).frame, check_exact=True)
    for row in b.frame.to_dict("records"):
        mine = rows[pick(rows, system=row["system"], backend=row["backend_id"])]
        assert pd.isna(row["rank"]) == (len(mine) < 2 * 8)
    ranks = b.frame["rank"]
    assert ranks.notna().sum() == ranks[: ranks.notna().sum()].notna().sum()
    assert ranks.dropna().is_monotonic_increasing


# --------------------------------------------------------------------------------------- published rows


def official_board(systems, seeds=(0, 1, 2, 3), value=None, dcase="dcase2023", **more):
    """A leaderboard of official data over all machines of one year: name -> (recipe, backend)."""
    machines = {dcase: YEARS[dcase].all_machines}
    rng = random.Random(0)
    planned, rows = [], []
    for name, (recipe, backend) in systems.items():
        for seed in seeds:
            planned.append((dcase, recipe, name, seed, "last", backend))
            for subset in SUBSETS:
                for machine in YEARS[dcase].machines[subset]:
                    number = rng.uniform(0.5, 0.7) if value is None else value
                    rows.append(
                        (dcase, recipe, name, seed, "last", machine, subset, -1, backend, "official", number)
                    )
    planned = pd.DataFrame(planned, columns=["dcase", *tables.TRIAL_KEYS])
    rows = pd.DataFrame(rows, columns=tables.COLUMNS)
    labels = {b: b for _, b in systems.values()}
    context = tables.TableContext(machines, "official", {dcase: "evaluator"}, labels)
    found = tables.sweep_tables(rows, planned, context)
    names = [f"{dcase}-{s}" for s in SUBSETS]
    return leaderboard.build(found, context, extra=published.leaderboard_rows(names), **more)


def test_published_scores_reproduce_the_printed_means():
    """The paper prints the means of its ten columns, which check all digits of the 130 scores."""
    printed = {  # harmonic and arithmetic mean
        "ae": (57.22, 57.55), "raw_spec": (57.22, 57.43), "raw_beats": (61.38, 61.76), "raw_eat": (59.06, 59.33),
        "dis_spec_adacos_fixed_wo_mixup": (64.12, 66.27), "dis_spec_adacos_fixed": (65.58, 67.54),
        "dis_spec_scac_fixed": (66.47, 68.30), "dis_spec_scac_trainable": (69.02, 70.53),
        "dis_spec_subspaceloss": (68.46, 70.06), "dis_spec_featex": (68.93, 70.44),
        "dis_multispec_scac_trainable": (70.16, 71.66), "dis_beats_scac_trainable": (70.76, 72.23),
        "dis_eat_scac_trainable": (71.13, 72.55),
    }  # fmt: skip
    values = [v for v in published.load() if v.system.startswith("ASDKit ")]
    for name, (harmonic, arithmetic) in printed.items():
        mine = [v for v in values if v.system == f"ASDKit {name}"]
        assert len({v.column for v in mine}) == len(mine) == 10
        assert 100 * statistics.harmonic_mean([v.mean for v in mine]) == pytest.approx(harmonic, abs=0.0101)
        assert 100 * statistics.mean([v.mean for v in mine]) == pytest.approx(arithmetic, abs=0.0101)
        for v in mine:
            assert (v.n, v.std is None) == ((1, True) if name.startswith("raw_") else (4, False))
            assert v.label_source == ("asdkit" if v.column == "dcase2022-eval" else "official")
    assert len(values) == 10 * len(printed)


def test_published_rows_name_their_source_and_recipe():
    links = published.links()
    found = {(link.value.column, link.recipe, link.backend_id): link.value.mean for link in links}
    assert len(found) == len(links)
    smote = backend_id(Knn(smote_ratio=0.2))
    assert found["dcase2023-eval", "dis_spec_featex_asdkit", smote] == 0.6543
    assert found["dcase2022-dev", "raw_spec", smote] == 0.5815
    assert found["dcase2020-dev", "ae_baseline", backend_id(Recon())] == 0.6533
    assert (
        found["dcase2025-eval", "ae_official_mahalanobis", backend_id(Own(score="mahalanobis"))]
        == 0.5650558189601554
    )
    assert found["dcase2025-eval", "ae_official_mse", backend_id(Recon())] == 0.5442827820713174
    for link in links:
        system = load_recipe(link.recipe).system
        assert link.system == f"{link.recipe}-{system.id}"
        assert bool(system.frontend.scored_embedding) != link.backend_id.startswith(("recon-", "own-"))
        assert (getattr(system.frontend, "labels", "") == "asdkit") == link.recipe.endswith("_asdkit")
        assert link.tolerance <= (0.02 if system.frontend.learns else 0.01)
    theirs = {(r["system"], r["backend"]): r for r in published.leaderboard_rows(["dcase2023-eval"])}
    row = theirs["ASDKit dis_spec_featex", "kNN with SMOTE"]
    assert (row["recipe"], row["backend_id"]) == ("dis_spec_featex_asdkit", smote)
    assert theirs["Challenge top", ""]["recipe"] == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": "65.33"}, "fractions"),
        ({"dcase": "dcase1999"}, "unknown DCASE year"),
        ({"subset": "test"}, "no subset and metric"),
        ({"source": ""}, "source is empty"),
        ({"std": "x"}, "could not convert"),
        ({}, "stands there twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, changed, message):
    good = dict(zip(published.COLUMNS, ["dcase2023", "dev", "s", "b", "official", "0.6", "", "", "official", "", "p"], strict=True))  # fmt: skip
    path = tmp_path / "own.csv"
    pd.DataFrame([good, {**good, **changed}]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as raised:
        published.load(tmp_path)
    assert f"{path}, line 3" in str(raised.value)


def test_published_rows_are_placed_by_score_without_a_rank():
    b = official_board({"dis-1": ("dis", "knn-1"), "ae-1": ("ae", "recon-1")})
    theirs = b.frame["origin"] == "published"
    placed = b.frame["eval_amean"].notna()
    values = list(b.frame["eval_amean"][placed])
    assert values == sorted(values, reverse=True)
    assert list(placed) == sorted(placed, reverse=True)
    assert list(b.frame["rank"][~theirs]) == [1, 2]
    assert b.frame["rank"][theirs].isna().all()
    top = b.frame[b.frame["system"] == "Challenge top"].iloc[0]
    assert (top["dcase2023-eval_mean"], top["selected_by"], top["dataset"]) == (0.6697, "", "official")
    assert pd.isna(top["dcase2023-eval_n"])
    assert math.isnan(top["dcase2023-dev_mean"])
    shown = leaderboard.markdown(b)
    assert re.search(r"\| – \| Challenge top \|.*published \[\d\].*\| – \| 66\.97 \|", shown)
    assert re.search(r"\[\d\] Fujimura et al\. 2025, ASDKit, arXiv 2507\.10264, Fig\. 2", shown)
    assert "were not run here" in shown
    assert leaderboard.ASDKIT_LABELS not in shown


def test_label_sources_of_published_rows_are_named():
    b = official_board({"dis-1": ("dis", "knn-1")}, dcase="dcase2022")
    asdkit = b.frame[b.frame["system"] == "ASDKit dis_spec_featex"].iloc[0]
    assert asdkit["label_source"] == "dcase2022-dev official, dcase2022-eval asdkit"
    assert leaderboard.ASDKIT_LABELS in leaderboard.markdown(b)


def test_published_rows_need_official_data_and_all_machines():
    theirs = published.leaderboard_rows(["dcase2022-eval"])
    assert theirs
    with pytest.raises(ValueError, match="beside those of synthetic data"):
        board(make_rows(), extra=theirs)
    only = published.leaderboard_rows(["dcase2023-eval"])
    assert not any("dcase2023-dev_mean" in row for row in only)
    assert published.leaderboard_rows([]) == []
    assert published.leaderboard_rows(["dcase2023-eval"], "mix_auc") == []


def test_own_rows_beside_published_rows():
    featex = load_recipe("dis_spec_featex_asdkit").system
    smote = backend_id(Knn(smote_ratio=0.2))
    name = f"dis_spec_featex_asdkit-{featex.id}"
    other = "dis_spec_featex_asdkit-00000000"
    b = official_board(
        {name: ("dis_spec_featex_asdkit", smote), other: ("dis_spec_featex_asdkit", smote)}, value=0.65
    )
    frame = published.beside(b).set_index("column")
    assert set(frame["system"]) == {name}, "with other options it is another system"
    row = frame.loc["dcase2023-eval"]
    assert row["published_mean"] == 0.6543
    assert row["difference"] == pytest.approx(0.65 - 0.6543)
    assert row["spread"] == pytest.approx(0.0126), "ours does not vary here"
    assert row["within_spread"]
    once = official_board({name: ("dis_spec_featex_asdkit", smote)}, seeds=(0,))
    assert published.beside(once)["spread"].tolist()[1] == pytest.approx(math.sqrt(2) * 0.0126)
    row = frame.loc["dcase2023-dev"]
    assert row["difference"] == pytest.approx(0.65 - 0.6432)
    assert not row["within_spread"]
    assert (row["label_source"], row["published_label_source"]) == ("evaluator", "official")
    assert row["within_tolerance"], "0.68 points, and the recipe allows two"
    far = official_board({name: ("dis_spec_featex_asdkit", smote)}, value=0.68)
    assert not published.beside(far)["within_tolerance"].any()
    header, rows = leaderboard.beside_cells(published.beside(b))
    assert dict(zip(header, rows[0], strict=True)) == {
        "column": "dcase2023-dev",
        "recipe": "dis_spec_featex_asdkit",
        "backend": smote,
        "ours": "65.00 ± 0.00 (4 of 4)",
        "published": "ASDKit dis_spec_featex",
        "their score": "64.32 ± 0.57",
        "difference": "+0.68",
        "spread": "0.57",
        "within spread": "no",
        "tolerance": "2.00",
        "within tolerance": "yes",
        "caveat": "knows the classes of test clips",
    }
    assert published.beside(official_board({"dis-1": ("dis", smote)})).empty


def test_an_incomplete_row_has_no_difference():
    mse = load_recipe("ae_official_mse").system
    name = f"ae_official_mse-{mse.id}"
    b = official_board({name: ("ae_official_mse", backend_id(Recon()))})
    frame = b.frame.copy()
    frame.loc[frame["origin"] == "ours", "dcase2023-eval_n"] = 3
    less = leaderboard.Leaderboard(frame, b.names, b.rank_by, "official", "official", b.notes)
    (row,) = published.beside(less).to_dict("records")
    assert row["published"] == "Official autoencoder baseline"
    assert pd.isna(row["difference"])
    assert pd.isna(row["within_spread"])
    assert pd.isna(row["within_tolerance"])
    (row,) = published.beside(b).to_dict("records")
    assert pd.isna(row["published_std"])
    assert row["spread"] == pytest.approx(math.sqrt(2) * row["std"]), "their one training scatters like ours"
    assert "taken to be the other's" in leaderboard.BESIDE_NOTE


# ----------------------------------------------------------------------------------------------- caveats


def test_a_caveat_is_in_every_form_of_the_leaderboard(tmp_path):
    b = official_board({"dis-1": ("dis", "knn-1")})
    said = "transductive: test scores standardised by domain"
    row = b.frame[b.frame["system"] == "GenRep"].iloc[0]
    assert row["caveat"] == said
    assert b.frame["caveat"][b.frame["origin"] == "ours"].tolist() == [""]
    csv, parquet, md, tex = leaderboard.write(b, tmp_path)
    assert pd.read_csv(csv).set_index("system")["caveat"]["GenRep"] == said
    assert pd.read_parquet(parquet).set_index("system")["caveat"]["GenRep"] == said
    for path, cell in ((md, f"| {said} |"), (tex, f"& {said} &")):
        (line,) = [line for line in path.read_text().splitlines() if "GenRep" in line]
        assert cell in line
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(leaderboard.rich_table(b, width=1000)[0])
    assert said in console.export_text()


def test_a_backend_may_have_a_caveat_and_leaderboards_without_one_have_no_column(tmp_path):
    rows = make_rows()
    for path in leaderboard.write(board(rows), tmp_path):
        assert b"caveat" not in path.read_bytes()
    labels = {**CONTEXT.labels, "knn-bbbbbbbb": f"{tables.TRANSDUCTIVE_MARK}knn"}
    context = replace(CONTEXT, labels=labels)
    b = leaderboard.build(tables.sweep_tables(rows, plan(), context), context)
    caveats = dict(zip(b.frame["backend_id"], b.frame["caveat"], strict=True))
    assert caveats == {"knn-aaaaaaaa": "", "knn-bbbbbbbb": "transductive", "recon-cccccccc": ""}
    assert "| caveat |" in leaderboard.markdown(b)


def test_caveats_that_differ_have_their_columns():
    base = {"dcase": "dcase2025", "system": "s", "backend": "b", "metric": "official", "mean": 0.6}
    base |= {"std": None, "n": None, "label_source": "unstated", "source": "p"}
    values = [
        published.Published(subset=s, caveat=c, **base) for s, c in (("dev", "tuned on dev"), ("eval", ""))
    ]
    (row,) = published.leaderboard_rows(["dcase2025-dev", "dcase2025-eval"], values=values)
    assert row["caveat"] == "dcase2025-dev: tuned on dev"


# ---------------------------------------------------------------------------------- what recipes reproduce


def _recipe_file(folder, reproduces):
    path = folder / "mine.yaml"
    path.write_text(f"about: mine\nfrontend: {{name: raw_spec, n_mels: 64}}\nreproduces: {reproduces}\n")
    return path


def test_a_recipe_file_may_reproduce_a_published_score(tmp_path):
    what = "[{system: BEATs with LoRA, published_backend: near microphone, columns: [dcase2026-eval], backend: knn, tolerance: 0.01}]"
    path = _recipe_file(tmp_path, what)
    recipe = load_recipe(str(path))
    assert recipe.system.id == with_overrides(load_recipe("raw_spec").system, {"frontend.n_mels": 64}, "").id
    system, knn = f"mine-{recipe.system.id}", backend_id(Knn())
    b = official_board({system: ("mine", knn)}, seeds=(0,), value=0.66, dcase="dcase2026")
    assert published.beside(b).empty
    (row,) = published.beside(
        replace(b, recipes={"raw_spec": RecipeUse(), "mine": RecipeUse(recipe=str(path))})
    ).to_dict("records")
    assert (row["column"], row["published_mean"], row["tolerance"]) == ("dcase2026-eval", 0.67916, 0.01)
    assert row["within_tolerance"] is False
    assert pd.isna(row["within_spread"]), "nobody knows how either scatters"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{system: GenRap, backend: knn, tolerance: 0.1}", "no system 'GenRap'; did you mean 'GenRep'"),
        (
            "{system: BEATs with LoRA, backend: knn, tolerance: 0.1}",
            "published_backend is None, must be one of: near",
        ),
        (
            "{system: GenRep, columns: [dcase2022-dev], backend: knn, tolerance: 0.1}",
            "columns has 'dcase2022-dev', of",
        ),
    ],
)
def test_a_published_score_that_does_not_exist_is_named(what, message, tmp_path):
    path = _recipe_file(tmp_path, f"[{what}]")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        published.links_of_others({"raw_spec": RecipeUse(), str(path): RecipeUse()})
    assert f"recipe {path}: reproduces[0]: " in str(error.value)


# ------------------------------------------------------------------------------------------------ LaTeX


def test_latex_escapes_and_marks_the_best():
    assert leaderboard.tex("a_b & 50 % #1 {x} \\ ~ ^ $ ± –") == (
        r"a\_b \& 50 \% \#1 \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$ $\pm$ --"
    )
    rows = make_rows()
    absent = pick(rows, system="dis-22222222", seed=1, dcase="dcase2022")
    rows.loc[pick(rows, system="dis-22222222"), "value"] = 0.99
    b = board(rows[~absent])
    lines = leaderboard.latex(b).splitlines()
    assert [line for line in lines if line.startswith("\\") and "rule" in line] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    width = lines[lines.index(r"\toprule") + 1].count("&")
    assert all(line.count(" & ") == width and line.endswith(r" \\") for line in body)
    ranked, unranked = body[:3], body[3:]
    assert "99.00" in "".join(unranked)
    assert "\\textbf" not in "".join(unranked), "an incomplete row wins nothing"
    best = b.frame["dcase2022-dev_mean"][:3].max()
    (line,) = [line for line in ranked if rf"\textbf{{{100 * best:.2f}}} $\pm$ " in line]
    assert "(2 of 2)" in line
    assert "".join(ranked).count("textbf") >= 4 + len(b.means)
    assert leaderboard.latex(b).count("{") == leaderboard.latex(b).count("}")
