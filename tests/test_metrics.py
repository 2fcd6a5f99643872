"""Metrics against published numbers, brute force, scikit-learn and mathematical laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from asdray.dcase.years import YEARS, get_year
from asdray.evaluation import metrics
from asdray.evaluation.metrics import ALL_SECTIONS, evaluate_machine

# (AUC source, AUC target, pAUC) per eval machine of the official autoencoder (MSE), then the published
# harmonic and arithmetic means of the three columns and the official score.
PUBLISHED = {
    "dcase2023": (
        {
            "bandsaw": (0.6667348190554078, 0.48287671232876717, 0.5091087658743451),
            "grinder": (0.706837186424004, 0.5516569200779727, 0.5846166760294185),
            "shaker": (0.69428983714698, 0.5604118104118104, 0.5491654428600755),
            "ToyDrone": (0.7968, 0.561, 0.5368421052631579),
            "ToyNscale": (0.77, 0.4716, 0.5178947368421053),
            "ToyTank": (0.7212, 0.6468, 0.5826315789473684),
            "Vacuum": (0.8816, 0.4532, 0.5947368421052631),
        },
        (0.742349489, 0.525382683, 0.551741965),
        (0.748208835, 0.532506492, 0.553570878),
        0.5925469043549957,
    ),
    "dcase2024": (
        {
            "3DPrinter": (0.7912, 0.4796, 0.4942105263157895),
            "AirCompressor": (0.65, 0.4824, 0.5547368421052632),
            "Scanner": (0.6916, 0.5374, 0.5010526315789474),
            "ToyCircuit": (0.7658, 0.5266, 0.5),
            "HoveringDrone": (0.8602, 0.4388, 0.5021052631578947),
            "HairDryer": (0.6224, 0.4598, 0.5163157894736842),
            "ToothBrush": (0.7504, 0.6948, 0.5273684210526316),
            "RoboticArm": (0.6596, 0.4152, 0.511578947368421),
            "BrushlessMotor": (0.707, 0.6352, 0.5557894736842105),
        },
        (0.715055523, 0.505797715, 0.517227111),
        (0.722022222, 0.518866667, 0.518128655),
        0.5650830191796572,
    ),
    "dcase2025": (
        {
            "AutoTrash": (0.8102, 0.3436, 0.5421052631578948),
            "HomeCamera": (0.814, 0.4976, 0.5284210526315789),
            "ToyPet": (0.677, 0.367, 0.55),
            "ToyRCCar": (0.5284, 0.6272, 0.5552631578947368),
            "BandSealer": (0.7198, 0.3956, 0.5205263157894737),
            "CoffeeGrinder": (0.7304, 0.4436, 0.5342105263157895),
            "Polisher": (0.6686, 0.443, 0.5231578947368422),
            "ScrewFeeder": (0.6486, 0.6592, 0.6210526315789474),
        },
        (0.687982224, 0.449549170, 0.545296703),
        (0.699625, 0.472100, 0.546842105),
        0.5442827820713174,
    ),
    "dcase2025 Mahalanobis": (
        {
            "AutoTrash": (0.7726, 0.526, 0.541578947368421),
            "HomeCamera": (0.8616, 0.4264, 0.5184210526315789),
            "ToyPet": (0.6982, 0.509, 0.5684210526315789),
            "ToyRCCar": (0.5586, 0.5548, 0.54),
            "BandSealer": (0.7638, 0.3268, 0.49105263157894735),
            "CoffeeGrinder": (0.7498, 0.4042, 0.5142105263157895),
            "Polisher": (0.7042, 0.5278, 0.5378947368421052),
            "ScrewFeeder": (0.729, 0.7904, 0.7005263157894737),
        },
        (0.719933864, 0.478833126, 0.545916108),
        (0.729725, 0.508175, 0.551513158),
        0.5650558189601554,
    ),
    "dcase2026": (
        {
            "ToyDrone": (0.7126, 0.468, 0.5510526315789473),
            "ToothBrush": (0.5902, 0.6434, 0.5978947368421053),
            "SewingMachine": (0.6484, 0.6142, 0.5810526315789474),
            "BlowerDustCollector": (0.6948, 0.8838, 0.6178947368421053),
            "Sander": (0.6714, 0.4402, 0.5089473684210526),
        },
        (0.660624266, 0.573243179, 0.568731371),
        (0.66348, 0.60992, 0.571368421),
        0.5980289616592438,
    ),
    "dcase2026 Mahalanobis": (
        {
            "ToyDrone": (0.7276, 0.5428, 0.5926315789473684),
            "ToothBrush": (0.4398, 0.394, 0.5278947368421053),
            "SewingMachine": (0.6034, 0.4376, 0.5057894736842106),
            "BlowerDustCollector": (0.6766, 0.872, 0.6389473684210526),
            "Sander": (0.698, 0.451, 0.49473684210526314),
        },
        (0.608564154, 0.498522076, 0.546737055),
        (0.62908, 0.53948, 0.552),
        0.5476277174340481,
    ),
}
# Harmonic means of source AUC, target AUC and pAUC of systems whose machines are not listed, and their score.
PUBLISHED_MEANS = [
    ((0.787114131, 0.530908629, 0.568210328), 0.6105082186925268),
    ((0.671822191, 0.514411348, 0.532402437), 0.5648933421610234),
]


@pytest.mark.parametrize("dcase", PUBLISHED)
def test_published_scores(dcase):
    machines, harmonic, arithmetic, score = PUBLISHED[dcase]
    year = get_year(dcase.split()[0])
    assert set(machines) == set(year.machines["eval"])
    names = metrics.OFFICIAL_TERMS[year.score_rule]
    values = [
        metrics.official(year.score_rule, [dict(zip(names, v, strict=True))]) for v in machines.values()
    ]
    total = metrics.official_total(year.score_rule, values, [1] * len(values))
    assert total == pytest.approx(score, abs=1e-14)
    for column, h, a in zip(zip(*machines.values(), strict=True), harmonic, arithmetic, strict=True):
        assert metrics.harmonic_mean(column) == pytest.approx(h, abs=1e-9)
        assert metrics.arithmetic_mean(column) == pytest.approx(a, abs=1e-9)


@pytest.mark.parametrize(("means", "score"), PUBLISHED_MEANS)
def test_published_score_from_its_means(means, score):
    assert metrics.harmonic_mean(means) == pytest.approx(score, abs=1e-9)


def brute_auc(s, y):
    pairs = [(a > n) + 0.5 * (a == n) for a in s[y] for n in s[~y]]
    return sum(pairs) / len(pairs)


def brute_pauc(s, y, p):
    """The ROC as a polyline, integrated on a fine exact grid: every breakpoint and p itself."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(s), reverse=True):
        points.append((float(np.mean(s[~y] >= threshold)), float(np.mean(s[y] >= threshold))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= p or x1 == x0:
            continue
        end = min(x1, p)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return 0.5 * (1 + (area - p * p / 2) / (p - p * p / 2))


few_values = st.integers(0, 6).map(float)  # many ties
any_values = st.one_of(few_values, st.floats(-1e6, 1e6))


@st.composite
def labelled(draw, values=None):
    s = draw(st.lists(any_values if values is None else values, min_size=2, max_size=40))
    y = draw(st.lists(st.booleans(), min_size=len(s), max_size=len(s)))
    y[0], y[1] = True, False
    return np.array(s), np.array(y)


@given(labelled())
def test_auc_and_pauc_equal_brute_force(data):
    s, y = data
    assert metrics.auc(s, y) == pytest.approx(brute_auc(s, y), abs=1e-12)
    assert metrics.auc(s, y) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert metrics.pauc(s, y) == pytest.approx(brute_pauc(s, y, 0.1), abs=1e-12)


@given(labelled(few_values), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_pauc_equals_scikit_learn_with_ties(data, p):
    s, y = data
    assert metrics.pauc(s, y, p) == pytest.approx(roc_auc_score(y, s, max_fpr=p), abs=1e-12)


def test_pauc_equals_scikit_learn_on_the_official_sizes():
    rng = np.random.default_rng(0)
    for normal, anomaly in [(100, 100), (50, 50), (67, 40), (36, 30), (100, 400)]:
        y = np.arange(normal + anomaly) >= normal
        for digits in (1, 3, 17):
            s = np.round(rng.normal(size=y.size) + 0.7 * y, digits)
            assert metrics.pauc(s, y) == pytest.approx(roc_auc_score(y, s, max_fpr=0.1), abs=1e-12)
            assert metrics.auc(s, y) == pytest.approx(roc_auc_score(y, s), abs=1e-12)


@given(labelled(), st.randoms(use_true_random=False))
def test_auc_and_pauc_do_not_depend_on_the_order_of_clips(data, random):
    s, y = data
    order = list(range(len(s)))
    random.shuffle(order)
    assert metrics.auc(s, y) == metrics.auc(s[order], y[order])
    assert metrics.pauc(s, y) == metrics.pauc(s[order], y[order])


@given(labelled(st.integers(-1000, 1000).map(float)))
def test_increasing_transforms_keep_the_auc_and_negation_mirrors_it(data):
    s, y = data
    for monotone in (lambda v: 3 * v - 7, lambda v: np.exp(v / 100), lambda v: v**3):
        assert metrics.auc(monotone(s), y) == metrics.auc(s, y)
        assert metrics.pauc(monotone(s), y) == metrics.pauc(s, y)
    assert metrics.auc(-s, y) == pytest.approx(1 - metrics.auc(s, y), abs=1e-15)


def test_perfect_worst_and_constant_scores():
    y = np.arange(200) >= 100
    assert metrics.auc(y.astype(float), y) == metrics.pauc(y.astype(float), y) == 1
    assert metrics.auc(-y.astype(float), y) == 0
    assert metrics.pauc(-y.astype(float), y) == pytest.approx(9 / 19, abs=1e-15)
    assert metrics.auc(np.zeros(200), y) == metrics.pauc(np.zeros(200), y) == 0.5


def test_a_missing_class_is_none_and_bad_input_an_error():
    assert metrics.auc([1.0, 2.0], [True, True]) is None
    assert metrics.pauc([1.0, 2.0], [False, False]) is None
    assert metrics.auc([], []) is None
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"1 of 2 .* position 1"):
            metrics.auc([0.0, bad], [True, False])
    with pytest.raises(ValueError, match="one length"):
        metrics.auc([0.0], [True, False])
    with pytest.raises(ValueError, match="booleans"):
        metrics.auc([0.0, 1.0], [0, 1])
    with pytest.raises(ValueError, match="max_fpr"):
        metrics.pauc([0.0, 1.0], [True, False], 0.0)


def test_means():
    assert metrics.harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert metrics.harmonic_mean([0.5, 1.0], weights=[2, 1]) == pytest.approx(3 / 5)
    assert 0 < metrics.harmonic_mean([0.0, 1.0]) < 1e-15
    assert metrics.sample_std([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert metrics.sample_std([1.0]) is None
    for mean in (metrics.harmonic_mean, metrics.arithmetic_mean, metrics.sample_std):
        assert mean([]) is None
        assert mean([0.5, None, 0.7]) is None


def four_cells(rng):
    n = 20
    domain = ["source", "target"] * (2 * n)
    anomaly = [False] * (2 * n) + [True] * (2 * n)
    return rng.normal(size=4 * n) + 0.8 * np.array(anomaly), anomaly, domain


def test_section_metrics_use_the_clips_of_their_name():
    s, y, d = four_cells(np.random.default_rng(1))
    a, source = np.array(y), np.array([x == "source" for x in d])
    found = metrics.section_metrics(s, y, d)
    assert tuple(found) == metrics.METRICS

    def two(negative, positive):
        return np.concatenate([s[negative], s[positive]]), np.repeat(
            [False, True], [negative.sum(), positive.sum()]
        )

    assert found["s_auc"] == pytest.approx(brute_auc(*two(source & ~a, source & a)))
    assert found["t_auc"] == pytest.approx(brute_auc(*two(~source & ~a, ~source & a)))
    assert found["smix_auc"] == pytest.approx(brute_auc(*two(source & ~a, a)))
    assert found["tmix_auc"] == pytest.approx(brute_auc(*two(~source & ~a, a)))
    assert found["mix_auc"] == pytest.approx(brute_auc(s, a))
    assert found["s_pauc"] == pytest.approx(brute_pauc(*two(source & ~a, source & a), 0.1))
    assert found["t_pauc"] == pytest.approx(brute_pauc(*two(~source & ~a, ~source & a), 0.1))
    assert found["mix_pauc"] == pytest.approx(brute_pauc(s, a, 0.1))


def test_section_metrics_of_unknown_labels_domains_and_classes():
    s, y, d = four_cells(np.random.default_rng(2))
    one_unknown = [None, *y[1:]]
    assert set(metrics.section_metrics(s, one_unknown, d).values()) == {None}
    no_domain = metrics.section_metrics(s, y, [None, *d[1:]])
    assert {k for k, v in no_domain.items() if v is not None} == {"mix_auc", "mix_pauc"}
    only_source = metrics.section_metrics(s, y, ["source"] * len(d))
    assert only_source["s_auc"] == only_source["smix_auc"] == only_source["mix_auc"]
    assert only_source["t_auc"] is only_source["t_pauc"] is only_source["tmix_auc"] is None
    with pytest.raises(ValueError, match="'sauce'"):
        metrics.section_metrics([1.0], [True], ["sauce"])
    with pytest.raises(ValueError, match="do not match"):
        metrics.section_metrics([1.0], [True, False], ["source"])


def test_official_rules():
    a = dict(zip(metrics.METRICS, (0.9, 0.8, 0.7, 0.6, 0.95, 0.85, 0.75, 0.65), strict=True))
    b = dict.fromkeys(metrics.METRICS, 0.5)
    assert metrics.official("machine_mean", [a, b]) == pytest.approx((0.9 + 0.7 + 0.5 + 0.5) / 4)
    assert metrics.official("own_domain", [a, b]) == pytest.approx(
        8 / (1 / 0.9 + 1 / 0.8 + 1 / 0.7 + 1 / 0.6 + 4 / 0.5)
    )
    assert metrics.official("both_domains", [a]) == pytest.approx(3 / (1 / 0.95 + 1 / 0.85 + 1 / 0.65))
    assert metrics.official("both_domains", [a, {**b, "mix_pauc": None}]) is None
    # What the rule does not use may be missing: 2020 has no target domain.
    assert metrics.official("machine_mean", [{**a, "t_auc": None, "tmix_auc": None}]) is not None


@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12), min_size=1, max_size=5))
def test_the_total_is_the_harmonic_mean_of_all_terms(machines):
    names = metrics.OFFICIAL_TERMS["both_domains"]
    machines = [m[: len(m) // 3 * 3] for m in machines]  # unequally many sections of three terms each
    values = [
        metrics.official(
            "both_domains", [dict(zip(names, m[i : i + 3], strict=True)) for i in range(0, len(m), 3)]
        )
        for m in machines
    ]
    total = metrics.official_total("both_domains", values, [len(m) // 3 for m in machines])
    everything = metrics.harmonic_mean([v for m in machines for v in m])
    assert total == pytest.approx(everything, rel=1e-12)


def test_the_total_of_2020_is_an_arithmetic_mean_and_none_without_a_machine():
    assert metrics.official_total("machine_mean", [0.5, 0.7], [4, 3]) == pytest.approx(0.6)
    for rule in metrics.OFFICIAL_TERMS:
        assert metrics.official_total(rule, [0.5, None], [1, 1]) is None


# ---------------------------------------------------------------------------------------- rows of a machine


def clips(sections, seed=0, subset="dev"):
    n, rng = 12, np.random.default_rng(seed)
    columns = {"subset": [], "section": [], "domain": [], "is_anomaly": []}
    for section in sections:
        for i in range(4 * n):
            columns["subset"].append(subset)
            columns["section"].append(section)
            columns["domain"].append("source" if i % 2 else "target")
            columns["is_anomaly"].append(i < 2 * n)
    return rng.normal(size=len(columns["section"])), columns


def as_dict(rows):
    return {(r.subset, r.section, r.backend, r.metric): r.value for r in rows}


@pytest.mark.parametrize("dcase", YEARS)
def test_evaluation_rows_of_every_year(dcase):
    year = get_year(dcase)
    machine = year.machines["dev"][0]
    s, columns = clips(year.sections["dev"][machine])
    if year.domains == ("source",):
        columns["domain"] = ["source"] * len(s)
    found = as_dict(evaluate_machine(year, machine, {"knn": s, "recon": -s}, **columns))
    n_sections = len(year.sections["dev"][machine])
    assert len(found) == 2 * (8 * n_sections + 9)
    terms = [
        found["dev", section, "knn", name]
        for section in year.sections["dev"][machine]
        for name in metrics.OFFICIAL_TERMS[year.score_rule]
    ]
    mean = metrics.arithmetic_mean if dcase == "dcase2020" else metrics.harmonic_mean
    assert found["dev", ALL_SECTIONS, "knn", "official"] == pytest.approx(mean(terms))
    assert found["dev", ALL_SECTIONS, "knn", "mix_auc"] == pytest.approx(
        mean([found["dev", section, "knn", "mix_auc"] for section in year.sections["dev"][machine]])
    )
    assert found["dev", year.sections["dev"][machine][0], "recon", "mix_auc"] == pytest.approx(
        1 - found["dev", year.sections["dev"][machine][0], "knn", "mix_auc"]
    )


def test_dev_and_eval_are_separate_and_a_missing_section_leaves_no_mean():
    year = get_year("dcase2022")
    s_dev, dev = clips((0, 1, 2))
    s_eval, eval_ = clips((3, 4), subset="eval", seed=1)
    both = {k: dev[k] + eval_[k] for k in dev}
    found = as_dict(evaluate_machine(year, "fan", {"knn": np.concatenate([s_dev, s_eval])}, **both))
    alone = as_dict(evaluate_machine(year, "fan", {"knn": s_dev}, **dev))
    assert {k: v for k, v in found.items() if k[0] == "dev"} == alone
    assert found["eval", 3, "knn", "mix_auc"] is not None
    assert found["eval", ALL_SECTIONS, "knn", "official"] is None
    assert found["eval", ALL_SECTIONS, "knn", "mix_auc"] is None


def test_without_labels_every_value_is_null_and_a_foreign_section_is_an_error():
    year = get_year("dcase2023")
    s, columns = clips((0,), subset="eval")
    columns["is_anomaly"] = [None] * len(s)
    rows = evaluate_machine(year, "bandsaw", {"knn": s}, **columns)
    assert len(rows) == 17
    assert {r.value for r in rows} == {None}
    s, columns = clips((7,))
    with pytest.raises(ValueError, match="dcase2023 dev fan has no section 7"):
        evaluate_machine(year, "fan", {"knn": s}, **columns)
