"""Differences of two systems against a loop over seeds, their laws, and `asdray compare` on trials on disk."""

import dataclasses
import importlib.util
import itertools
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_scoring_stages import CKPT, all_stages, train_and_extract
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn, Recon, backend_id
from asdray.config.system import load_recipe
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import get_year
from asdray.evaluation import compare, metrics
from asdray.evaluation.compare import Column
from asdray.evaluation.interval import SectionScores, score_effects
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import write_trial
from asdray.store import Places

# ---------------------------------------------------------------------------------------- pure functions


def sections_of(rng, dcase="dcase2023", machines=("fan", "valve"), per_cell=5, numbers=(0,)):
    """Random scores, rounded so that some are equal, in two domains (one in 2020)."""
    domains = [False] if dcase == "dcase2020" else [False, True]
    cells = np.array([(t, a) for t in domains for a in (False, True) for _ in range(per_cell)])
    return [
        SectionScores(m, n, np.round(rng.normal(size=len(cells)) + cells[:, 1], 1), cells[:, 1], cells[:, 0])
        for m in machines
        for n in numbers
    ]  # fmt: skip


def column(dcase="dcase2023", subset="dev", seeds_a=(0, 1), seeds_b=(0, 1), seed=0, **more):
    rng = np.random.default_rng([seed, int(dcase[-4:]), len(subset)])
    a = {s: sections_of(rng, dcase, **more) for s in seeds_a}
    b = {s: sections_of(rng, dcase, **more) for s in seeds_b}
    return Column(dcase, subset, a, b, tuple(seeds_a) == tuple(seeds_b))


def official(dcase, sections, repeats=None):
    """The official score by the pure metrics, with every clip repeated ``repeats`` times."""
    rule, machines = get_year(dcase).score_rule, {}
    for i, s in enumerate(sections):
        w = np.ones(s.scores.size, int) if repeats is None else repeats[i]
        domain = np.where(s.is_target, "target", "source")
        values = metrics.section_metrics(
            np.repeat(s.scores, w), np.repeat(s.is_anomaly, w).tolist(), np.repeat(domain, w).tolist()
        )
        machines.setdefault(s.machine, []).append(values)
    own = [metrics.official(rule, values) for values in machines.values()]
    return metrics.official_total(rule, own, [len(values) for values in machines.values()])


@dataclasses.dataclass
class Effects:
    score: float
    effects: np.ndarray


def effects_of(rule, sections):
    """The score and effects of one trial alone."""
    (score,), (effects,) = score_effects(rule, [sections])
    return Effects(score, effects)


def parts_by_hand(c):
    """Variances of the choice of clips and of seeds, by loops over pairs of trainings: (clips, {side: seeds})."""
    rule = get_year(c.dcase).score_rule
    a, b = ([effects_of(rule, trial) for trial in side.values()] for side in (c.a, c.b))
    if c.paired:
        a = [
            dataclasses.replace(x, score=x.score - y.score, effects=x.effects - y.effects)
            for x, y in zip(a, b, strict=True)
        ]
        b = []

    def covariance(one, other):
        return math.fsum(one.effects * other.effects)

    clips = 0.0
    for side in (a, b):
        pairs = list(itertools.permutations(side, 2)) or [(one, one) for one in side]
        clips += statistics.mean(covariance(*pair) for pair in pairs) if pairs else 0
    if b:
        clips -= 2 * statistics.mean(covariance(x, y) for x in a for y in b)
    seeds = [
        (len(side) - 1, statistics.variance(one.score for one in side) / len(side))
        for side in (a, b)
        if len(side) > 1
    ]
    return clips, seeds


def by_hand(columns):
    """The squared half widths of the two parts of the mean of columns whose cells have five clips."""
    parts = [parts_by_hand(c) for c in columns]
    clips = stats.t.ppf(0.975, 4) ** 2 * max(sum(clips for clips, _ in parts), 0) / len(parts) ** 2
    seeds = [one for _, own in parts for one in own]
    if not seeds:
        return clips, 0.0
    variances = [v for _, v in seeds]
    freedom = min(f for f, _ in seeds) * (0.3 + 0.7 * sum(variances) ** 2 / sum(v**2 for v in variances))
    return clips, stats.t.ppf(0.975, freedom) ** 2 * sum(variances) / len(parts) ** 2


@pytest.mark.parametrize("paired", [True, False])
def test_the_difference_equals_a_loop(paired):
    columns = [
        column("dcase2020", numbers=(1, 3), seeds_a=(0, 1, 2), seeds_b=(0, 1, 2) if paired else (7, 8)),
        column("dcase2021", numbers=(0, 1), seeds_b=(0, 1) if paired else (5,)),
        column("dcase2021", "eval", numbers=(3, 4), seeds_b=(0, 1) if paired else (5,)),
        column("dcase2023", seeds_a=(4,), seeds_b=(4,) if paired else (5,)),
    ]
    found = compare.compare(columns)
    assert [(r.dcase, r.subset) for r in found] == [
        ("dcase2020", "dev"), ("dcase2021", "dev"), ("dcase2021", "eval"), ("dcase2023", "dev"), ("all", "dev"),
    ]  # fmt: skip
    over = [[c] for c in columns] + [[columns[0], columns[1], columns[3]]]
    for row, own in zip(found, over, strict=True):
        clips, seeds = by_hand(own)
        half = math.sqrt(clips + seeds)
        assert (row.low, row.high) == pytest.approx((row.difference - half, row.difference + half))
        assert (row.p <= 0.05) == (row.low > 0 or row.high < 0)
    assert by_hand([columns[3]])[1] == 0, "one seed: no part of seeds"
    for row, c in zip(found, columns, strict=False):
        for value, trials in ((row.a, c.a), (row.b, c.b)):
            assert value == pytest.approx(statistics.mean(official(c.dcase, s) for s in trials.values()))
        assert row.difference == row.a - row.b
        assert row.clips == sum(s.scores.size for s in next(iter(c.a.values())))
        assert (row.seeds_a, row.seeds_b, row.machines) == (len(c.a), len(c.b), 2)
    overall = found[-1]
    assert overall.a == pytest.approx(statistics.mean(found[i].a for i in (0, 1, 3)))
    assert overall.clips == sum(found[i].clips for i in (0, 1, 3))
    assert overall.seeds_a == 1


@pytest.mark.parametrize("dcase", ["dcase2020", "dcase2021", "dcase2023"])
def test_the_effect_of_a_clip_is_the_slope_of_the_score_by_its_weight(dcase):
    """A clip counts a little more, and the others of its cell a little less, and the other way round."""
    sections = sections_of(np.random.default_rng(1), dcase, per_cell=6)
    found = effects_of(get_year(dcase).score_rule, sections)
    assert found.score == pytest.approx(official(dcase, sections), abs=1e-14)
    often, place = 60, 0
    for number, section in enumerate(sections):
        for i in range(number, section.scores.size, 4):
            same = section.cells == section.cells[i]
            ends = []
            for sign in (1, -1):
                repeats = [np.full(s.scores.size, often) for s in sections]
                repeats[number][same] -= sign
                repeats[number][i] += sign * 6
                ends.append(official(dcase, sections, repeats))
            slope = (ends[0] - ends[1]) / 2 * often / 6
            effect = found.effects[place + i]
            assert effect == pytest.approx(slope * math.sqrt(6 / 5), rel=0.02, abs=1e-4)
        place += section.scores.size
    assert place == found.effects.size


def test_a_system_does_not_differ_from_itself():
    one = column(seeds_a=(0, 1, 2))
    (row,) = compare.compare([dataclasses.replace(one, b=one.a, paired=True)])
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_exchanging_the_systems_changes_the_sign(data_seed, paired):
    c = column(seed=data_seed, seeds_b=(0, 1) if paired else (5, 6, 7))
    (one,), (other,) = compare.compare([c]), compare.compare([dataclasses.replace(c, a=c.b, b=c.a)])
    assert one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
    assert one.p == pytest.approx(other.p)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([np.exp, lambda s: 3 * s - 7, np.arctan]))
def test_increasing_transforms_of_a_trials_scores_change_nothing(transform):
    c = column(subset="eval")
    moved = {
        seed: [dataclasses.replace(s, scores=transform(s.scores)) for s in sections]
        for seed, sections in c.a.items()
    }
    assert compare.compare([dataclasses.replace(c, a=moved)]) == compare.compare([c])


def test_a_score_without_a_value_is_null():
    c = column()
    normal = {
        seed: [dataclasses.replace(s, is_anomaly=np.zeros_like(s.is_anomaly)) for s in sections]
        for seed, sections in c.a.items()
    }
    both = dataclasses.replace(c, a=normal, b=normal)
    rows = compare.compare([both, column("dcase2022", numbers=(0, 1))])
    for row in (rows[0], rows[2]):
        assert (row.a, row.difference, row.low, row.high, row.p) == (None,) * 5
    assert rows[1].p is not None


def test_a_cell_of_one_clip_gives_no_interval():
    (row,) = compare.compare([column(per_cell=1)])
    assert row.difference is not None
    assert (row.low, row.high, row.p) == (None, None, None)


@pytest.mark.parametrize(("paired", "n"), [(True, 2), (True, 4), (False, 2), (False, 4)])
def test_seeds_that_differ_much_are_compared_as_a_t_test_does(paired, n):
    """Clips by the thousand leave the seeds' part alone: a t test on the scores, in pairs or nearly Welch's."""
    rng = np.random.default_rng(n)

    def side():
        y, t = np.array([(a, t) for a in (0, 1) for t in (0, 1)] * 1500, dtype=bool).T
        return {
            k: [SectionScores("fan", 0, rng.normal(size=y.size) + y * rng.uniform(0, 3), y, t)]
            for k in range(n)
        }

    c = Column("dcase2023", "dev", side(), side(), paired)
    a, b = ([official("dcase2023", s) for s in trials.values()] for trials in (c.a, c.b))
    (row,) = compare.compare([c])
    expected = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    freedom = expected.df if paired else (n - 1) + 0.7 * (expected.df - (n - 1))
    assert row.p == pytest.approx(2 * stats.t.sf(abs(expected.statistic), freedom), rel=0.05)
    half = stats.t.ppf(0.975, freedom) * abs(row.difference / expected.statistic)
    assert (row.high - row.low) / 2 == pytest.approx(half, rel=0.05)


def test_the_interval_is_as_wide_as_the_scatter_of_new_seeds_and_test_sets():
    """Two equal systems with unequal seeds: the scatter of new experiments against one interval."""
    rng = np.random.default_rng(0)
    cells = np.array([(t, a) for t in (False, True) for a in (False, True) for _ in range(40)])

    def experiment(seeds):
        hard = rng.normal(size=len(cells))  # what is hard is hard for both
        sides = []
        for _ in "ab":
            trials = {}
            for s in range(seeds):
                scores = rng.normal(1, 0.35) * cells[:, 1] + hard + rng.normal(size=len(cells))
                trials[s] = [SectionScores("fan", 0, scores, cells[:, 1], cells[:, 0])]
            sides.append(trials)
        return Column("dcase2023", "dev", sides[0], sides[1], paired=True)

    differences, widths, false_alarms = [], [], 0
    for _ in range(60):
        (row,) = compare.compare([experiment(6)])
        differences.append(row.difference)
        widths.append(row.high - row.low)
        false_alarms += row.p < 0.05
    # Six seeds take 2.57 standard errors for the seeds' part, hence up to 1.3 of the width of many seeds.
    ratio = statistics.mean(widths) / (2 * 1.96 * statistics.pstdev(differences, mu=0))
    assert 1 < ratio < 1.4
    assert false_alarms <= 0.08 * 60


@pytest.fixture(scope="module")
def simulation():
    """The script `benchmarks/intervals.py`, which belongs to no package."""
    path = Path(__file__).parent.parent / "benchmarks" / "intervals.py"
    spec = importlib.util.spec_from_file_location("intervals_simulated", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("n", [2, 3])
def test_equal_systems_seldom_differ_with_few_seeds(simulation, n):
    """Of 1,000 repetitions; drawing seeds with replacement rejects 49 and 26 % of them in pairs."""
    for design in simulation.DESIGNS:
        found = simulation.seeds_alone(design, n, 1000, np.random.default_rng(n))
        assert found <= 0.06, design
        if design.name == "paired":
            assert found >= 0.04, "the t test of pairs is exact"


def test_the_simulation_prints_its_tables(simulation, capsys):
    simulation.main(["--tiny"])
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("|---")]
    assert [line.count("---:") for line in tables] == [2, 3, 3, 4]
    assert sum(line.startswith("| ") for line in lines) == 4 + 9 + 5 + 2 + 6
    assert "nan" not in " ".join(lines)


def test_one_table_in_percent_and_every_digit_in_the_frame(capsys):
    from rich.console import Console

    rows = compare.compare([column("dcase2022", numbers=(0, 1)), column(seeds_b=(5,))])
    made = compare.Comparison(
        ("dis-1", "ae-2"),
        ("dis-1", "ae-2"),
        ("knn", "recon"),
        "last",
        "synthetic",
        "name",
        tuple(rows),
        (),
    )
    frame = compare.frame(made)
    assert frame["difference"].tolist() == [r.difference for r in rows]
    assert set(frame["backend_b"]) == {"recon"}
    assert list(frame["dcase"]) == ["dcase2022", "dcase2023", "all"]
    Console(width=160).print(compare.rich_table(made))
    shown = capsys.readouterr().out
    assert [line.rstrip() for line in shown.splitlines()[:3]] == [
        "A: dis-1 knn", "B: ae-2 recon", "official scores in percent, synthetic data",
    ]  # fmt: skip
    assert f"{100 * rows[0].a:.2f}" in shown
    assert f"{100 * rows[1].low:+.2f} … {100 * rows[1].high:+.2f}" in shown
    assert "2 and 1" in shown
    assert "2 paired" in shown
    assert "all years" in shown


# ------------------------------------------------------------------------------------------ on trials

DCASE, MACHINES = "dcase2023", ("fan", "bandsaw")
BACKENDS = (Knn(), Knn(n_neighbors=2))


def finished(places, dcase, recipe, seed, machines=MACHINES):
    """A trial with an invented extraction and all stages after."""
    trial = Trial(dcase, recipe, load_recipe(recipe).system, seed, machines)
    write_trial(TrialFiles(trial, places, load_dataset(places.data, dcase)), Request((CKPT,), BACKENDS))
    train_and_extract(trial, places)
    all_stages(trial, places, BACKENDS)
    return trial


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """dis_baseline with three seeds, ae_baseline with two, of one year; dis_baseline of another."""
    data = tmp_path_factory.mktemp("data")
    for dcase in (DCASE, "dcase2024"):
        machines = list(MACHINES) if dcase == DCASE else ["fan"]
        tree = build_tree(data, dcase, machines, {"source": 6, "target": 2}, per_cell=6)
        if dcase == DCASE:
            write_list(tree)
        format_dataset(data, dcase)
    places = Places.of(data, tmp_path_factory.mktemp("results"))
    dis = [finished(places, DCASE, "dis_baseline", s) for s in (0, 1, 2)]
    ae = [finished(places, DCASE, "ae_baseline", s) for s in (1, 2)]
    finished(places, "dcase2024", "dis_baseline", 0, machines=("fan",))
    return places, dis, ae


def run(asdray, world, *args):
    places = world[0]
    where = ("--data", places.data, "--results", places.results)
    return asdray("compare", *where, *args)


def table_of(trial, places, subset, backend):
    path = store.trial_dir(places.results, trial).metrics
    rows = pd.read_parquet(path)
    chosen = rows[(rows["metric"] == "official") & (rows["section"] == -1) & (rows["subset"] == subset)]
    (value,) = chosen[chosen["backend"] == backend_id(backend)]["value"]
    return value


def test_two_systems_by_name(asdray, world, tmp_path):
    places, dis, ae = world
    out = tmp_path / "new" / "c.csv"
    code, shown, err = run(asdray, world, "dis_baseline", "ae_baseline", "--backend", "knn", "--out", out)
    assert (code, err) == (0, "")
    assert f"A: dis_baseline ({dis[0].system_name}) knn" in shown
    assert f"B: ae_baseline ({ae[0].system_name}) recon" in shown
    assert "official data" in shown
    assert "dcase2023: seeds of one system alone, left out: 0." in shown
    assert "dcase2023-dev: 1 of 7 machines." in shown
    assert "2 seeds: the interval takes 12.7 standard errors of the mean over seeds" in shown
    assert "Cells (machine, section, domain, label) of 6 clips: the interval is rough." in shown
    frame = pd.read_csv(out)
    assert list(zip(frame["dcase"], frame["subset"], strict=True)) == [(DCASE, "dev"), (DCASE, "eval")]
    for row in frame.to_dict("records"):
        a = statistics.mean(table_of(t, places, row["subset"], Knn()) for t in dis[1:])
        b = statistics.mean(table_of(t, places, row["subset"], Recon()) for t in ae)
        assert (row["a"], row["b"]) == (pytest.approx(a), pytest.approx(b))
        assert row["low"] <= row["difference"] <= row["high"]
        assert (row["seeds_a"], row["seeds_b"], row["paired"], row["clips"]) == (2, 2, True, 24)


def test_a_folder_of_a_year_and_trials(asdray, world):
    places, dis, ae = world
    folders = [store.trial_dir(places.results, t).root for t in (dis[0], ae[0], ae[1])]
    code, shown, err = run(asdray, world, folders[0].parent, folders[1].parent, "--backend", "knn")
    assert (code, err) == (0, "")
    assert "2 paired" in shown
    # Two seeds of one system, and one seed of each with other numbers: nothing to pair.
    code, shown, _ = run(asdray, world, folders[1], folders[2])
    assert code == 0
    assert f"A: ae_baseline ({ae[0].name}) recon" in shown
    assert f"B: ae_baseline ({ae[1].name}) recon" in shown
    assert "1 and 1" in shown
    assert "One seed: the interval covers the choice of test clips alone" in shown
    # Two backends of one system, the second by its id.
    second = backend_id(BACKENDS[1])
    code, shown, _ = run(asdray, world, folders[0], folders[0], "--backend", "knn", "--backend-b", second)
    assert code == 0
    assert "knn(n_neighbors=1)" in shown
    assert "knn(n_neighbors=2)" in shown


def test_only_common_years_are_compared(asdray, world):
    code, shown, err = run(asdray, world, "dis_baseline", "dis_baseline", "--backend", "knn")
    assert (code, err) == (0, "")
    assert "all years" in shown
    assert "dcase2024-eval" in shown  # no machine of it: said, and left out
    rows = [line.split() for line in shown.splitlines() if "dcase202" in line and "│" in line]
    assert [(r[1], r[3]) for r in rows] == [(DCASE, "dev"), ("dcase2024", "dev"), (DCASE, "eval")]


def test_a_system_without_training_is_compared_with_all_seeds(asdray, world):
    places = world[0]
    finished(places, DCASE, "raw_spec", 0)
    code, shown, err = run(asdray, world, "raw_spec", "dis_baseline", "--backend", "knn")
    assert (code, err) == (0, "")
    assert "1 and 3" in shown
    assert "3 seeds: the interval takes up to 4.3 standard errors of the mean over seeds" in shown


def test_training_classes_from_test_clips_have_a_note(asdray, world):
    finished(world[0], DCASE, "dis_spec_adacos_fixed_asdkit", 0)
    code, shown, err = run(asdray, world, "dis_spec_adacos_fixed_asdkit", "dis_baseline", "--backend", "knn")
    assert (code, err) == (0, "")
    assert "A: attributes and domains of test clips were classes, too (frontend.labels: asdkit).\n" in shown
    assert "B: attributes" not in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["dis_baselin3", "ae_baseline"], "no system is called 'dis_baselin3'"),
        (["", "ae_baseline"], "names several systems: choose one of"),
        (["dis_baseline", "ae_baseline"], "choose one with --backend (knn(n_neighbors=2) (knn-"),
        (["ae_baseline", "dis_baseline"], "choose one with --backend-b"),
        (["dis_baseline", "ae_baseline", "--backend", "knn", "--backend-b", "knn"], "is not scored by knn"),
        (["dis_baseline", "ae_baseline", "--backend", "knnn"], "knnn"),
        (["dis_baseline", "ae_baseline", "--backend", "{name: knn, n_neighbors: [1, 2]}"], "names 2 backends"),
        (["dis_baseline", "ae_baseline", "--backend", "knn", "--ckpt", "best"], "with checkpoint best"),
        (["dis_baseline", "ae_baseline", "--ckpt", "worst"], "worst"),
        (["@2024", "ae_baseline", "--backend", "knn"], "have no year in common (A has dcase2024; B has dcase2023)"),
    ],
)  # fmt: skip
def test_invalid_input_gives_one_message(asdray, world, args, message):
    places, dis, _ = world
    there = store.trial_dir(places.results, dataclasses.replace(dis[0], dcase="dcase2024")).root
    code, _, err = run(asdray, world, *(there if a == "@2024" else a for a in args))
    assert code == 2
    assert message in err


def test_unlabelled_and_changed_data_have_messages(asdray, tmp_path):
    places = Places.of(tmp_path / "data", tmp_path / "results")
    tree = build_tree(places.data, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=2)
    format_dataset(places.data, DCASE)
    world = [places]
    for recipe in ("dis_baseline", "ae_baseline"):
        finished(places, DCASE, recipe, 0)
    command = ["dis_baseline", "ae_baseline", "--backend", "knn"]
    code, shown, _ = run(asdray, world, *command)
    assert code == 0
    assert "dcase2023-eval: left out, no labels or not all sections of bandsaw." in shown
    # Labels that come later count at once: nothing is read of the old evaluation.
    write_list(tree)
    format_dataset(places.data, DCASE)
    code, shown, _ = run(asdray, world, *command)
    assert (code, "left out" in shown) == (0, False)
    # Other audio: what was scored is of the past.
    wav = next(tree.folder("dev", "fan", "test").glob("*.wav"))
    wav.touch()
    format_dataset(places.data, DCASE)
    code, _, err = run(asdray, world, *command)
    assert code == 2
    assert "on the data of now (it was made of another dataset): run `asdray score` or its sweep" in err


def test_synthetic_and_official_trials_are_not_compared(asdray, world):
    places, dis, _ = world
    folder = store.trial_dir(places.results, dis[2]).root
    path = folder / "trial.json"
    before = path.read_text()
    try:
        path.write_text(before.replace('"kind": "official"', '"kind": "synthetic"'))
        code, _, err = run(asdray, world, folder, folder, "--backend", "knn")
    finally:
        path.write_text(before)
    assert code == 2
    assert "was made of synthetic data, but dcase2023 under" in err


def test_a_trial_with_unscored_machines_is_left_out(asdray, tmp_path, world):
    places, dis, _ = world
    mine = Places.of(places.data, tmp_path / "results")
    for seed in (0, 1):
        finished(mine, DCASE, "dis_baseline", seed)
    first = store.trial_dir(mine.results, dis[0])
    first.scores(CKPT, "fan", backend_id(Knn())).unlink()
    code, shown, err = run(asdray, [mine], "dis_baseline", "dis_baseline", "--backend", "knn")
    assert (code, err) == (0, "")
    assert f"left out: {dis[0].name}" in shown
    assert "1 paired" in shown
