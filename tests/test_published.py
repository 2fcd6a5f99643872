"""Published rows: valid values, and derived and second-hand rows that are marked and consistent."""

import csv
import re
import statistics

import pytest

from asdray.dcase.years import YEARS
from asdray.evaluation import published

VALUES = published.load()
SECOND_HAND = "as recorded by"


def value(column, system, backend=None):
    (found,) = [
        v for v in VALUES if (v.column, v.system) == (column, system) and backend in (None, v.backend)
    ]
    return found


def test_every_row_is_a_fraction_of_a_known_year_with_a_source():
    columns = {f"{dcase}-{subset}" for dcase in YEARS for subset in ("dev", "eval")}
    for v in VALUES:
        assert v.column in columns
        assert v.metric == "official"
        assert 0.4 < v.mean < 0.95, "an official score; neither percent nor a fraction of a fraction"
        assert v.std is None or (0 < v.std < 0.05 and v.n > 1), "a spread is that of several trainings"
        assert v.label_source in ("official", "evaluator", "asdkit", "unstated")
        assert v.source.strip() == v.source != ""
        assert not re.search(
            r"unverified|inferred|from memory|wizwand|third[- ]party", " ".join(map(str, vars(v).values()))
        )
        words = ("transductive", "chosen by", "tuned on dev", "classes of test clips")
        assert not v.caveat or any(word in v.caveat for word in words)
        assert not any(word in v.backend for word in words), "a caveat has a column of its own"


def test_scores_of_2026_name_their_recorder():
    """The pages of 2026 were not read: a row is the record, or the measurement, of a third party."""
    of_2026 = [v for v in VALUES if v.dcase == "dcase2026"]
    assert len(of_2026) > 10
    for v in of_2026:
        first_hand = ("DACo experiments", "asd-experiments", "repository ")
        assert SECOND_HAND in v.source or v.source.startswith(first_hand), v
    for v in VALUES:
        if v.dcase != "dcase2026" and SECOND_HAND in v.source:
            assert "as recorded by arXiv 2603.04605, Table V" in v.source


def test_label_sources_are_claimed_only_if_known():
    for v in VALUES:
        known = re.search(
            r"evaluator of|dcase2020_task2_baseline, README|ASDKit, arXiv|results page|Nishida", v.source
        )
        of_challenge = v.system in ("Challenge top", "Challenge second") and v.column > "dcase2025-dev"
        assert (v.label_source == "unstated") == (known is None and not of_challenge), v


@pytest.mark.parametrize(
    ("column", "backend", "parts"),
    [
        # h-means over machines of AUC (source), AUC (target) and pAUC, from the same page as the total
        ("dcase2023-eval", "selective Mahalanobis", (78.71, 53.09, 56.82)),
        ("dcase2023-eval", "mean squared error", (74.23, 52.54, 55.17)),
        ("dcase2024-eval", "selective Mahalanobis", (67.18, 51.44, 53.24)),
        ("dcase2024-eval", "mean squared error", (71.51, 50.58, 51.72)),
        ("dcase2025-eval", "selective Mahalanobis", (71.99, 47.88, 54.59)),
        ("dcase2025-eval", "mean squared error", (68.80, 44.95, 54.53)),
        ("dcase2026-dev", "selective Mahalanobis", (66.46, 54.24, 53.91)),
        # machines' official scores
        ("dcase2026-dev", "selective Mahalanobis", (62.37, 61.33, 62.79, 51.75, 58.92, 54.29, 54.26)),
    ],
)
def test_a_baselines_total_is_the_harmonic_mean_of_its_parts(column, backend, parts):
    found = value(column, "Official autoencoder baseline", backend)
    assert 100 * found.mean == pytest.approx(statistics.harmonic_mean(parts), abs=0.0101)


def test_derived_rows_are_marked_and_recomputed():
    computed = {(v.column, v.system) for v in VALUES if "(computed)" in v.source}
    assert computed == {
        ("dcase2020-dev", "Official autoencoder baseline"),
        ("dcase2020-dev", "Noisy-ArcMix, TASTgramMFN"),
        ("dcase2025-dev", "Official autoencoder baseline"),
        ("dcase2026-dev", "Official autoencoder baseline"),
    }
    auc_and_pauc = [94.65, 89.31]
    found = value("dcase2020-dev", "Noisy-ArcMix, TASTgramMFN")
    assert 100 * found.mean == pytest.approx(statistics.mean(auc_and_pauc), abs=0.0101)
    auc_and_pauc = [80.09, 67.22, 72.68, 60.66, 65.16, 52.59, 72.59, 60.00, 84.99, 66.93, 66.46, 50.60]
    found = value("dcase2020-dev", "Official autoencoder baseline")
    assert 100 * found.mean == pytest.approx(statistics.mean(auc_and_pauc), abs=0.0101)


@pytest.mark.parametrize("dcase", ["dcase2023", "dcase2024"])
def test_the_challenges_baseline_is_the_better_of_the_two(dcase):
    both = [
        v.mean for v in VALUES if v.column == f"{dcase}-eval" and v.system == "Official autoencoder baseline"
    ]
    assert len(both) == 2
    assert value(f"{dcase}-eval", "Challenge baseline").mean == pytest.approx(max(both), abs=5.1e-5)
    assert value(f"{dcase}-eval", "Challenge top").mean > max(both)


@pytest.mark.parametrize(
    ("ours", "within"),
    [
        ("asdkit+name", True),
        ("evaluator+name", None),
        ("dcase2022 asdkit+name, dcase2023 evaluator", True),
        ("dcase2022 evaluator+name, dcase2023 none", None),
    ],
)
def test_scores_with_other_labels_have_no_spread(ours, within):
    of_2022 = [link for link in published.links() if link.value.dcase == "dcase2022"]
    for link in [link for link in of_2022 if link.recipe == "dis_spec_featex_asdkit"]:
        name = link.value.column
        mine = {"system": "s", "recipe": "r", "backend": "b", "label_source": ours}
        mine |= {f"{name}_mean": link.value.mean + 0.001, f"{name}_std": 0.01}
        mine |= {f"{name}_n": 4, f"{name}_n_expected": 4}
        line = published._beside_line(name, mine, link)
        assert line["difference"] == pytest.approx(0.001)
        assert line["within_spread"] is (True if name.endswith("dev") else within)
        assert line["within_tolerance"] is line["within_spread"]
        assert (line["spread"] is None) == (line["within_spread"] is None)


def test_the_newest_years_have_their_best_and_what_beats_them():
    top = value("dcase2025-eval", "Challenge top").mean
    frozen = value("dcase2025-eval", "BEATs iter3, frozen", "RDP+GeM pooling; kNN (1), LDN (1), VarMin")
    assert (top, frozen.mean) == (0.616, 0.624)
    assert frozen.caveat == "parameters of the pooling tuned on dev"
    of_2026 = {v.system: v.mean for v in VALUES if v.column == "dcase2026-eval" and "Challenge" in v.system}
    assert of_2026["Challenge top"] > of_2026["Challenge second"]
    assert max(v.mean for v in VALUES if v.column == "dcase2026-eval") == 0.70659


def test_what_standardises_test_scores_is_marked_everywhere():
    assert {v.caveat for v in VALUES if v.system == "GenRep"} == {
        "transductive: test scores standardised by domain"
    }
    assert len([v for v in VALUES if "transductive" in v.caveat]) == 3


def test_what_learns_the_classes_of_test_clips_is_marked_everywhere():
    told = {v.system for v in VALUES if v.caveat == "knows the classes of test clips"}
    assert told == {v.system for v in VALUES if v.system.startswith("ASDKit dis_")}
    rows = published.leaderboard_rows(["dcase2023-dev", "dcase2023-eval"])
    assert {row["system"] for row in rows if row["classes_from"] == "train+test"} == told


def test_the_readme_names_every_file():
    readme = (published.FOLDER / "README.md").read_text()
    for path in published.FOLDER.glob("*.csv"):
        assert f"* `{path.name}`" in readme
        with open(path, newline="") as file:
            assert all(None not in row and None not in row.values() for row in csv.DictReader(file))
