"""Ensembles: definitions of the scores, the schema, the stage against a hand-made one, and leaderboard rows."""

import dataclasses
import math
import statistics

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from finished import finished, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from test_scoring_stages import CKPT, all_stages, train_and_extract
from trees import build_tree, write_list

import asdray
from asdray import store
from asdray.config.backend import Knn, Recon, backend_id
from asdray.config.files import validate
from asdray.config.sweep import Ensemble, Sweep
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset, load_manifest, rows
from asdray.dcase.years import get_year
from asdray.evaluation import metrics
from asdray.evaluation.ensemble import combine, mean_ranks, zscores
from asdray.evaluation.tables import write_trials
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import write_trial
from asdray.store import Places
from asdray.sweep import ensembles, outputs
from asdray.sweep.plan import plan, with_datasets_of_now

scores = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=12)
"""Few values, so that many are equal."""


# ---------------------------------------------------------------------------------------- pure functions


def test_zscores_by_hand():
    # Training scores 1, 2, 3: mean 2, standard deviation (ddof 1) 1.
    assert zscores([2, 5, -1], [1, 2, 3]).tolist() == [0, 3, -3]
    train = np.random.default_rng(0).normal(7, 3, size=50)
    own = zscores(train, train)
    assert own.mean() == pytest.approx(0, abs=1e-12)
    assert own.std(ddof=1) == pytest.approx(1)


@pytest.mark.parametrize("train", [[0.1] * 10, [0.0, 0.0], [0.1 + 0.2, 0.3, 0.3], [1e-9] * 3, [3.0], []])
def test_training_scores_without_a_spread_are_an_error(train):
    with pytest.raises(ValueError, match="combine by rank instead"):
        zscores([0.1], train)
    if len(train) > 1:
        with pytest.raises(ValueError, match=r"dis/knn seed0: all \d+ training scores are"):
            combine("zscore", {"ae": ([1, 2], [3.0]), "dis/knn seed0": (train, [1.0])}, ["dev"])
    combine("rank", {"ae": (train, [3.0]), "dis/knn seed0": (train, [1.0])}, ["dev"])


def test_a_small_spread_is_a_spread():
    assert zscores([1e6 + 1e-6], [1e6, 1e6 + 1e-6])[0] == pytest.approx(2**-0.5, rel=1e-3)
    assert zscores([3e-150], [1e-150, 2e-150, 3e-150]).tolist() == pytest.approx([1])


def test_ranks_by_hand():
    assert mean_ranks([[10, 30, 20, 20]]).tolist() == [0.125, 0.875, 0.5, 0.5]
    assert mean_ranks([[1, 1, 1]]).tolist() == [0.5] * 3
    assert mean_ranks([[5, 9, 1, 2]], ["dev", "eval", "dev", "eval"]).tolist() == [0.75, 0.75, 0.25, 0.25]
    assert mean_ranks([[]]).size == 0


@given(scores, st.data())
def test_ranks_are_the_share_of_clips_below(values, data):
    pools = data.draw(st.lists(st.sampled_from(["dev", "eval"]), min_size=len(values), max_size=len(values)))
    for i, found in enumerate(mean_ranks([values], pools)):
        pool = [v for v, p in zip(values, pools, strict=True) if p == pools[i]]
        below = sum(v < values[i] for v in pool) + sum(v == values[i] for v in pool) / 2
        assert found == pytest.approx(below / len(pool))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["zscore", "rank"]))
def test_the_order_of_members_and_of_clips_changes_no_digit(seed, n, how):
    rng = np.random.default_rng(seed)
    members = {f"m{i}": (np.r_[0, 1, rng.integers(5, size=6)], rng.integers(5, size=9)) for i in range(n)}
    pools = ["dev"] * 5 + ["eval"] * 4
    train, test = combine(how, members, pools)
    names = list(rng.permutation(list(members)))
    turned = combine(how, {name: members[name] for name in names}, pools)
    assert (train == turned[0]).all()
    assert (test == turned[1]).all()
    order = rng.permutation(9)
    moved = combine(how, {k: (a, b[order]) for k, (a, b) in members.items()}, [pools[i] for i in order])
    assert (moved[1] == test[order]).all()


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_laws_of_zscores_and_ranks(seed):
    rng = np.random.default_rng(seed)
    members = {f"m{i}": (rng.normal(size=8), rng.normal(size=12)) for i in range(3)}
    pools = ["dev"] * 12
    # Ranks: any increasing transform of a member changes nothing.
    bent = {k: (np.exp(a), np.exp(b)) if k == "m1" else (a, b) for k, (a, b) in members.items()}
    for a, b in zip(combine("rank", members, pools), combine("rank", bent, pools), strict=True):
        assert (a == b).all()
    # z-scores: other units do not, up to rounding; and of one member, AUC stays the same.
    units = {k: (5 * a - 3, 5 * b - 3) if k == "m1" else (a, b) for k, (a, b) in members.items()}
    for a, b in zip(combine("zscore", members, pools), combine("zscore", units, pools), strict=True):
        assert a == pytest.approx(b)
    labels = np.arange(12) % 3 == 0
    for how in ("zscore", "rank"):
        alone = combine(how, {"m0": members["m0"]}, pools)[1]
        assert metrics.auc(alone, labels) == metrics.auc(members["m0"][1], labels)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_other_test_clips_change_ranks_but_no_zscore(seed, n):
    rng = np.random.default_rng(seed)
    members = {f"m{i}": (rng.normal(size=8), rng.normal(size=6)) for i in range(n)}
    higher = {name: (train, np.r_[test[0], test[1:] + 100]) for name, (train, test) in members.items()}
    first = {
        how: [combine(how, m, ["dev"] * 6)[1][0] for m in (members, higher)] for how in ("zscore", "rank")
    }
    assert first["zscore"][0] == first["zscore"][1]
    assert first["rank"][1] == pytest.approx(1 / 12)
    trained = {name: (10 + train, test) for name, (train, test) in members.items()}
    assert combine("zscore", trained, ["dev"] * 6)[1][0] < first["zscore"][0]


@given(st.lists(st.permutations(range(12)), min_size=2, max_size=5))
def test_clips_whose_ranks_have_the_same_sum_are_tied(orders):
    members = {f"m{i}": ([1, 2], order) for i, order in enumerate(orders)}
    test = combine("rank", members, ["dev"] * 12)[1]
    sums = np.sum(orders, axis=0)
    assert len(set(test)) == len(set(sums))
    assert (np.argsort(test, kind="stable") == np.argsort(sums, kind="stable")).all()


# ------------------------------------------------------------------------------------------- the schema

DCASE, MACHINES = "dcase2023", ("fan", "bandsaw")


def spec(*ensembles, **more):
    return {
        "name": "mixed",
        "recipes": {"dis_baseline": {"space": {"train.learning_rate": [0.001, 0.01]}}, "ae_baseline": {}},
        "dcase": [DCASE],
        "seeds": [0, 1],
        "machines": {DCASE: list(MACHINES)},
        "backends": ["knn"],
        "umap": False,
        "ensembles": list(ensembles),
        **more,
    }


def test_no_ensembles_by_default_and_the_resolved_spec_reads_back():
    assert validate(Sweep, {k: v for k, v in spec().items() if k != "ensembles"}, "x").ensembles == ()
    given_ = (
        {"name": "s", "of": "seeds"},
        {"name": "t", "of": "top", "k": 2, "combine": "rank", "rank_by": "dcase2023-dev"},
        {"name": "m", "of": ["dis_baseline/knn", "ae_baseline"], "seeds": "all"},
    )
    sweep = validate(Sweep, spec(*given_), "x")
    assert validate(Sweep, sweep.model_dump(mode="json"), "x") == sweep
    assert [e.per_seed for e in sweep.ensembles] == [False, True, False]
    assert [e.chosen_by for e in sweep.ensembles] == [None, "dcase2023-dev", None]
    assert Ensemble(name="t", of="top", k=2).chosen_by == "dev_amean"


@pytest.mark.parametrize(
    ("ensemble", "more", "message"),
    [
        ({"of": "top"}, {}, "'of: top' needs 'k'"),
        ({"of": "top", "k": 1}, {}, "ensembles.0.k is 1"),
        ({"of": "seeds", "k": 2}, {}, "'k' is for 'of: top' alone"),
        ({"of": "seeds", "seeds": "each"}, {}, "is over all seeds"),
        ({"of": "seeds"}, {"seeds": [3]}, "e: 'of: seeds' needs two seeds"),
        ({"of": "sedes"}, {}, "did you mean 'seeds'"),
        ({"of": []}, {}, "ensembles.0.of"),
        ({"of": "seeds", "combine": "mean"}, {}, "ensembles.0.combine is 'mean'"),
        ({"of": "seeds", "combin": "rank"}, {}, "did you mean 'combine'"),
        ({"of": "top", "k": 2, "rank_by": "dcase2023-eval"}, {}, "the eval subset must not choose"),
        ({"of": "top", "k": 2, "rank_by": "eval_amean"}, {}, "choose by dev columns (one of: dcase2023-dev"),
        ({"of": "top", "k": 2, "rank_by": "amean"}, {}, "the eval subset must not choose"),
        ({"of": "top", "k": 2, "rank_by": "dcase2023-dve"}, {}, "did you mean 'dcase2023-dev'"),
        ({"of": "top", "k": 2}, {"machines": {DCASE: ["bandsaw"]}}, "one of: none in this sweep"),
        ({"name": "a/b", "of": "seeds"}, {}, "ensembles.0.name"),
    ],
)
def test_invalid_ensembles_are_errors(ensemble, more, message):
    with pytest.raises(ValueError) as caught:
        validate(Sweep, spec({"name": "e", **ensemble}, **more), "sweep.yaml")
    assert message in str(caught.value)


def test_names_of_ensembles_are_unique():
    with pytest.raises(ValueError, match="ensembles names 'e' twice"):
        validate(Sweep, spec({"name": "e", "of": "seeds"}, {"name": "e", "of": "top", "k": 2}), "x")


# --------------------------------------------------------------------------------------------- on trials


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two systems of dis_baseline and one of ae_baseline, two seeds each, all scored."""
    data = tmp_path_factory.mktemp("data")
    write_list(build_tree(data, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=5))
    format_dataset(data, DCASE)
    places = Places.of(data, tmp_path_factory.mktemp("results"))
    jobs = plan(validate(Sweep, spec(), "test"), places, "test")
    for i, job in enumerate(jobs):
        write_trial(TrialFiles(job.trial, places, job.dataset), Request((CKPT,), job.backends))
        train_and_extract(dataclasses.replace(job.trial), places, shift=0.2 * i)
        all_stages(job.trial, places, job.backends)
    return places, jobs


def board(world, *given_, **more):
    """The leaderboard of a sweep with these ensembles, by name of system."""
    sweep = validate(Sweep, spec(*given_, **more), "test")
    places = world[0]
    made = outputs.write_results(sweep, plan(sweep, places, "test"), places)
    return made, made.frame.set_index("system")


def score(world, job, machine, backend):
    path = store.trial_dir(world[0].results, job.trial).scores(CKPT, machine, backend_id(backend))
    return pd.read_parquet(path).set_index("clip")


def official(world, machine, by_clip):
    table = rows(load_manifest(world[0].data, DCASE), machine=machine, split="test").to_pylist()
    section = metrics.section_metrics(
        [by_clip[c["clip"]] for c in table], [c["is_anomaly"] for c in table], [c["domain"] for c in table]
    )
    return metrics.official(get_year(DCASE).score_rule, [section])


def combined(frames, how):
    """The mean over members, by pandas and scipy."""
    out = []
    for frame in frames:
        train, test = (frame[frame["split"] == s]["score"] for s in ("train", "test"))
        if how == "zscore":
            out.append((test - train.mean()) / train.std())
        else:
            out.append(pd.Series((rankdata(test) - 0.5) / len(test), test.index))
    return pd.concat(out, axis=1).mean(axis=1).round(12)  # so that equal means are tied


@pytest.mark.parametrize("how", ["zscore", "rank"])
def test_an_ensemble_over_seeds_is_one_row_per_system(world, how):
    places, jobs = world
    made, frame = board(world, {"name": "s", "of": "seeds", "combine": how})
    assert any("which other test clips it is ranked with" in n for n in made.notes) == (how == "rank")
    systems = list(dict.fromkeys(job.trial.system_name for job in jobs))
    assert set(frame.index) == {*systems, *(f"s-{name}" for name in systems)}
    for name in systems:
        row = frame.loc[f"s-{name}"]
        own = [job for job in jobs if job.trial.system_name == name]
        (backend,) = own[0].backends
        assert (row["recipe"], row["backend"], row["selected_by"]) == ("ensemble", backend.name, "fixed")
        assert row["options"] == f"{ensembles.COMBINATION_NAMES[how]} of 2 seeds"
        assert row["classes_from"] == frame.loc[name, "classes_from"]
        for subset, machine in (("dev", "fan"), ("eval", "bandsaw")):
            expected = official(
                world, machine, combined([score(world, j, machine, backend) for j in own], how)
            )
            assert row[f"{DCASE}-{subset}_mean"] == pytest.approx(expected)
            assert math.isnan(row[f"{DCASE}-{subset}_std"])
            assert (row[f"{DCASE}-{subset}_n"], row[f"{DCASE}-{subset}_n_expected"]) == (1, 1)
    assert frame["rank"].notna().all()
    # The scores are there too, of training clips as well, in the form of every score file.
    folder = store.ensemble_dir(
        places.results, "mixed", f"s-{systems[0]}", CKPT, backend_id(Knn()), DCASE, None
    )
    table = pq.read_table(folder / "fan.parquet")
    assert table.column_names == ["clip", "split", "score"]
    assert table["split"].to_pylist().count("train") == 8


def test_named_rows_make_an_ensemble_per_seed_or_one_over_all_seeds(world):
    _, jobs = world
    names = ["dis_baseline/knn", "ae_baseline/recon"]
    _, frame = board(
        world, {"name": "each", "of": names}, {"name": "all", "of": names, "seeds": "all", "combine": "rank"}
    )
    by_seed = []
    for seed in (0, 1):
        own = [score(world, j, "fan", j.backends[0]) for j in jobs if j.trial.seed == seed]
        assert len(own) == 3
        by_seed.append(official(world, "fan", combined(own, "zscore")))
    row = frame.loc["each"]
    assert row[f"{DCASE}-dev_mean"] == pytest.approx(statistics.mean(by_seed))
    assert row[f"{DCASE}-dev_std"] == pytest.approx(statistics.stdev(by_seed))
    assert (row[f"{DCASE}-dev_n"], row[f"{DCASE}-dev_n_expected"]) == (2, 2)
    assert row["backend"] == "zscore"
    assert row["options"].startswith("zscore of dis_baseline-")
    everything = [score(world, j, "fan", j.backends[0]) for j in jobs]
    row = frame.loc["all"]
    assert row[f"{DCASE}-dev_mean"] == pytest.approx(official(world, "fan", combined(everything, "rank")))
    assert (row[f"{DCASE}-dev_n"], row["backend"]) == (1, "rank")
    assert row["options"].startswith("transductive rank of dis_baseline-")
    assert row["options"].endswith(", all seeds")


def test_the_best_rows_are_chosen_by_dev_scores_and_named(world):
    _, jobs = world
    _, frame = board(world, {"name": "top", "of": "top", "k": 2})
    ours = frame[frame["recipe"] != "ensemble"]
    best = list(ours.sort_values(f"{DCASE}-dev_mean", ascending=False).index[:2])
    row = frame.loc["top"]
    assert row["selected_by"] == f"official_dev (dev_amean, top 2 of {len(ours)})"
    for name in best:
        assert name in row["options"]
    own = [score(world, j, "bandsaw", j.backends[0]) for j in jobs if j.trial.system_name in best]
    by_seed = [official(world, "bandsaw", combined(own[s::2], "zscore")) for s in (0, 1)]
    assert row[f"{DCASE}-eval_mean"] == pytest.approx(statistics.mean(by_seed))


def test_no_eval_score_chooses(world):
    """Eval scores do not change the choice of systems."""
    sweep = validate(Sweep, spec({"name": "top", "of": "top", "k": 2}), "test")
    (row,) = ensembles.plan(sweep, [job.trial for job in world[1]])
    keys = list(ensembles._keys(sweep, [job.trial for job in world[1]]))
    rng = np.random.default_rng(0)
    chosen = set()
    for _ in range(10):
        frames = {}
        for subset, values in (("dev", [0.6, 0.9, 0.7]), ("eval", rng.uniform(size=3))):
            frames[DCASE, subset] = pd.DataFrame(
                [
                    {
                        "system": s,
                        "backend_id": b,
                        "checkpoint": CKPT,
                        "n": 2,
                        "n_expected": 2,
                        "total_mean": v,
                    }
                    for (s, b), v in zip(keys, values, strict=True)
                ]
            )
        chosen.add(ensembles._best(row, frames))
        # An incomplete row is not chosen from, however good it looks.
        frames[DCASE, "dev"].loc[1, "n"] = 1
        assert ensembles._best(row, frames) == ((keys[2], keys[0]), 2)
        frames[DCASE, "dev"].loc[2, "total_mean"] = math.nan
        assert ensembles._best(row, frames) == (None, 1)
    assert chosen == {((keys[1], keys[2]), 3)}


def test_finished_ensembles_are_reused_and_older_ones_removed(world):
    places = world[0]
    board(world, {"name": "s", "of": "seeds"}, {"name": "top", "of": "top", "k": 2})
    folder = store.ensembles_dir(places.results, "mixed")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    assert len(before) == (3 + 2) * 3
    board(world, {"name": "top", "of": "top", "k": 2}, {"name": "s", "of": "seeds"})
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")} == before
    board(world, {"name": "top", "of": "top", "k": 2})
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")} == {
        p: t for p, t in before.items() if "top" in p.parts
    }
    board(world)
    assert not list(folder.rglob("*.parquet"))


def test_incomplete_ensembles_are_counted_and_not_ranked(world):
    places, jobs = world
    trial = next(j.trial for j in jobs if j.trial.recipe == "ae_baseline" and j.trial.seed == 1)
    path = store.trial_dir(places.results, trial).scores(CKPT, "bandsaw", backend_id(Recon()))
    aside = path.with_suffix(".aside")
    path.rename(aside)
    given_ = (
        {"name": "s", "of": "seeds"},
        {"name": "mix", "of": ["dis_baseline", "ae_baseline"]},
        {"name": "top", "of": "top", "k": 3},
    )
    try:
        _, frame = board(world, *given_)
    finally:
        aside.rename(path)
    for system, n, of in ((f"s-{trial.system_name}", 0, 1), ("mix", 1, 2), ("top", 0, 2)):
        row = frame.loc[system]
        assert (row[f"{DCASE}-dev_n"], row[f"{DCASE}-dev_n_expected"]) == (n, of), system
        assert pd.isna(row["rank"])
    assert math.isnan(frame.loc["top"][f"{DCASE}-dev_mean"])
    assert "zscore of the top 3 by dev_amean" in frame.loc["top"]["options"]
    _, frame = board(world, *given_)
    assert frame["rank"].notna().all()


def test_constant_training_scores_give_a_note_and_no_score(world, tmp_path):
    mine = Places.of(world[0].data, tmp_path)
    jobs = [job for job in world[1] if job.trial.recipe == "ae_baseline"]
    for job in jobs:
        write_trial(TrialFiles(job.trial, mine, job.dataset), Request((CKPT,), job.backends))
        train_and_extract(job.trial, mine)
        if job.trial.seed == 0:
            path = store.trial_dir(mine.results, job.trial).extract(CKPT, "fan", "train")
            table = pq.read_table(path)
            at = table.column_names.index("recon")
            pq.write_table(table.set_column(at, "recon", [np.full(len(table), 2.5, np.float32)]), path)
            outputs = [path, path.with_name("test_extract.parquet")]
            finished(snapshot(job.trial, mine).extract("fan", CKPT), outputs)
        all_stages(job.trial, mine, job.backends)
    made, frame = board(
        (mine, jobs), {"name": "z", "of": "seeds"}, {"name": "r", "of": "seeds", "combine": "rank"},
        recipes=["ae_baseline"],
    )  # fmt: skip
    name = jobs[0].trial.system_name
    assert [frame.loc[f"{n}-{name}"][f"{DCASE}-dev_n"] for n in "zr"] == [0, 1]
    assert pd.isna(frame.loc[f"z-{name}"]["rank"])
    (note,) = [n for n in made.notes if n.startswith("Not made:")]
    assert f"z-{name} dcase2023: fan: {name}/recon-" in note
    assert "seed0: all 8 training scores are 2.5" in note
    assert "Not made: z-" in (store.sweep_dir(mine.results, "mixed") / "leaderboard.md").read_text()


def test_new_labels_repeat_the_evaluation_of_ensembles(tmp_path):
    places = Places.of(tmp_path / "data", tmp_path / "results")
    tree = build_tree(places.data, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=3)
    format_dataset(places.data, DCASE)
    sweep = validate(Sweep, spec({"name": "s", "of": "seeds"}, recipes=["ae_baseline"]), "test")
    jobs = plan(sweep, places, "test")
    for job in jobs:
        write_trial(TrialFiles(job.trial, places, job.dataset), Request((CKPT,), job.backends))
        train_and_extract(job.trial, places)
        all_stages(job.trial, places, job.backends)
    first = outputs.write_results(sweep, jobs, places).frame
    assert first[f"{DCASE}-eval_mean"].isna().all()
    assert first[f"{DCASE}-dev_mean"].notna().all()
    write_list(tree)
    format_dataset(places.data, DCASE)
    jobs = with_datasets_of_now(jobs, places)
    for job in jobs:
        all_stages(job.trial, places, job.backends)
    frame = outputs.write_results(sweep, jobs, places).frame.set_index("recipe")
    assert frame.loc["ensemble"][f"{DCASE}-eval_n"] == 1
    assert frame.loc["ensemble"][f"{DCASE}-eval_mean"] > 0


def test_load_results_reads_ensembles(world):
    places, jobs = world
    sweep = validate(Sweep, spec({"name": "s", "of": "seeds"}, {"name": "t", "of": "top", "k": 2}), "test")
    _, frame = board(world, *(e.model_dump(mode="json") for e in sweep.ensembles))
    folder = store.sweep_dir(places.results, "mixed")
    outputs.write_spec(sweep, folder)
    write_trials(
        [
            {
                "dcase": DCASE, "recipe": j.trial.recipe, "system": j.trial.system_name, "seed": j.trial.seed,
                "part": j.part, "swept": j.swept, "status": "done", "seconds": {}, "device": None, "error": None,
                "directory": store.trial_dir(places.results, j.trial).root.relative_to(places.results).as_posix(),
                    "dataset": "official",
            }
            for j in jobs
        ],
        folder,
    )  # fmt: skip
    read = asdray.load_results(folder)
    read = read[(read["metric"] == "official") & (read["section"] == -1) & (read["subset"] == "dev")]
    for (system, recipe), own in read.groupby(["system", "recipe"]):
        assert frame.loc[system][f"{DCASE}-dev_mean"] == pytest.approx(own["value"].mean())
        assert set(own["seed"]) == ({-1} if system.startswith("s-") else {0, 1})
        assert (recipe == "ensemble") == (system[:2] in ("s-", "t"))
    assert set(read[read["system"] == "t"]["backend"]) == {"zscore"}


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        ({"of": ["dis_baselin", "ae_baseline"]}, "e: no system is called 'dis_baselin'; did you mean"),
        ({"of": ["dis_baseline/recon"]}, "dis_baseline has no backend 'recon' (it has: knn"),
        ({"of": ["ae_baseline"]}, "an ensemble of ae_baseline-"),
        ({"of": "top", "k": 4}, "k is 4, but the sweep has 3 rows"),
    ],
)
def test_unknown_members_are_errors_before_anything_runs(world, ensemble, message):
    sweep = validate(Sweep, spec({"name": "e", **ensemble}), "x")
    with pytest.raises(ValueError) as caught:
        plan(sweep, world[0], "sweep.yaml")
    assert str(caught.value).startswith("sweep.yaml: ensembles: e: ")
    assert message in str(caught.value)
    assert load_dataset(world[0].data, DCASE)


def test_a_system_with_one_seed_is_in_the_ensemble_of_every_seed(world):
    sweep = validate(
        Sweep, spec({"name": "e", "of": ["raw_spec", "ae_baseline"]}, recipes=["raw_spec", "ae_baseline"]), "x"
    )  # fmt: skip
    trials = [job.trial for job in plan(sweep, world[0], "x")]
    (row,) = ensembles.plan(sweep, trials)
    groups = ensembles._groups(ensembles._keys(sweep, trials), row.members, DCASE, per_seed=True)
    assert {s: [(t.recipe, t.seed) for t, _ in own] for s, own in groups.items()} == {
        0: [("raw_spec", 0), ("ae_baseline", 0)],
        1: [("raw_spec", 0), ("ae_baseline", 1)],
    }
    only = validate(Sweep, spec({"name": "e", "of": "seeds"}, recipes=["raw_spec", "ae_baseline"]), "x")
    assert [r.system[:4] for r in ensembles.plan(only, trials)] == ["e-ae"]
