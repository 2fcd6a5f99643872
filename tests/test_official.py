"""`asdray official`: tables against brute force and by hand, intervals, faulty submissions."""

import csv
import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import hmean
from scipy.stats import t as student
from sklearn.metrics import confusion_matrix, roc_auc_score
from test_metrics import PUBLISHED

from asdray.dcase.truth import load_ground_truth
from asdray.dcase.years import YEARS, get_year
from asdray.evaluation import interval, metrics, official
from asdray.evaluation.interval import SectionScores

EPS = 2.220446049250313e-16


# ------------------------------------------------------------------------------------------- a small case


@dataclass
class Case:
    """Two or three machines of a year; unequal cells, tied scores. ``clips``: (machine, section) -> rows."""

    dcase: str
    machines: tuple[str, ...]
    seed: int = 0
    clips: dict = field(default_factory=dict)

    def __post_init__(self):
        year = get_year(self.dcase)
        rng = np.random.default_rng(self.seed)
        for machine in self.machines:
            for section in year.sections["eval"][machine]:
                cells = [(d, a) for d in year.domains for a in (0, 1)]
                rows = [cell for k, cell in enumerate(cells) for _ in range(11 + 2 * k)]
                self.clips[machine, section] = [
                    (self.name(section, place, domain), domain, anomaly,
                     round(float(rng.normal() + 0.8 * anomaly), 1), int(rng.random() < 0.3 + 0.4 * anomaly))
                    for place, (domain, anomaly) in enumerate(rows[i] for i in rng.permutation(len(rows)))
                ]  # fmt: skip

    def name(self, section, index, domain):
        if self.dcase == "dcase2020":
            return f"id_{section:02d}_{index:08d}.wav"
        middle = f"{domain}_test_" if self.dcase == "dcase2021" else ""
        return f"section_{section:02d}_{middle}{index:04d}.wav"

    def labelled(self, name, domain, anomaly):
        word = "anomaly" if anomaly else "normal"
        if self.dcase == "dcase2020":
            return f"{word}_{name}"
        if self.dcase == "dcase2021":
            return name.replace("_test_", f"_test_{word}_")
        return name.replace("section_00_", f"section_00_{domain}_test_{word}_").replace(".wav", "_vel_1.wav")

    def write_truth(self, folder):
        """Writes the organisers' list in 2020, otherwise the folders of the official evaluator."""
        folder.mkdir(parents=True)
        if self.dcase == "dcase2020":
            lines = []
            for machine in self.machines:
                lines.append(machine)
                for (m, _), rows in self.clips.items():
                    lines += [f"{n},{self.labelled(n, d, a)},{a}" for n, d, a, *_ in rows if m == machine]
            (folder / "eval_data_list_2020.csv").write_text("\n".join(lines) + "\n")
            return
        for (machine, section), rows in self.clips.items():
            for kind in ("data", "domain", "attributes"):
                if self.dcase in ("dcase2021", "dcase2022") and kind != "data" and (
                    kind == "attributes" or self.dcase == "dcase2021"
                ):  # fmt: skip
                    continue
                files = {}
                for row in rows:
                    ending = f"_{row[1]}" if self.dcase == "dcase2021" else ""
                    stem = f"ground_truth_{machine}_section_{section:02d}{ending}_test.csv"
                    value = {
                        "data": row[2],
                        "domain": int(row[1] == "target"),
                        "attributes": self.labelled(*row[:3]).removesuffix(".wav"),
                    }[kind]
                    files.setdefault(stem, []).append(f"{row[0]},{value}\n")
                for stem, lines in files.items():
                    path = folder / f"ground_truth_{kind}" / stem
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("".join(lines))

    def write_system(self, folder, scale=1.0, order=None, names=lambda n, d, a: n, files=None):
        """Writes a submission; ``order`` shuffles rows, ``names`` and ``files`` rename clips and files."""
        folder.mkdir(parents=True, exist_ok=True)
        for (machine, section), rows in self.clips.items():
            rows = list(rows)
            if order is not None:
                order.shuffle(rows)
            for kind, column in (("anomaly_score", 3), ("decision_result", 4)):
                if self.dcase == "dcase2020":
                    if kind == "decision_result":
                        continue
                    groups = {f"{kind}_{machine}_id_{section:02d}.csv": rows}
                elif self.dcase == "dcase2021":
                    groups = {
                        f"{kind}_{machine}_section_{section:02d}_{d}_test.csv": [r for r in rows if r[1] == d]
                        for d in ("source", "target")
                    }
                else:
                    groups = {f"{kind}_{machine}_section_{section:02d}_test.csv": rows}
                for stem, those in groups.items():
                    values = [r[column] * (scale if column == 3 else 1) for r in those]
                    text = "".join(f"{names(*r[:3])},{v}\n" for r, v in zip(those, values, strict=True))
                    (folder / (files(stem) if files else stem)).write_text(text)
        return folder


CASES = {
    "dcase2020": ("ToyCar", "fan"),
    "dcase2021": ("fan", "ToyTrain"),
    "dcase2022": ("valve", "ToyCar"),
    "dcase2023": ("shaker", "ToyDrone"),
    "dcase2024": ("3DPrinter", "Scanner", "ToyCircuit"),
    "dcase2025": ("Polisher", "AutoTrash"),
    "dcase2026": ("Sander", "ToyDrone"),
}


@pytest.fixture
def case(tmp_path, request):
    """A case with its ground truth in ``truth`` and one system in ``teams/team1/sys1``."""
    made = Case(request.param, CASES[request.param])
    made.write_truth(tmp_path / "truth")
    made.write_system(tmp_path / "teams" / "team1" / "sys1")
    return made


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def assert_same(found, expected):
    """Asserts equal cells: text exactly, numbers within 1e-12."""
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        assert len(have) == len(want), (have, want)
        for a, b in zip(have, want, strict=True):
            if isinstance(b, str):
                assert a == b
            elif b is None:
                assert a == ""
            else:
                assert float(a) == pytest.approx(float(b), abs=1e-12)
                assert a == repr(float(a))


# -------------------------------------------------------------------- brute force, as the evaluators compute


def brute_domain(rows, domain):
    """Precision, recall, F1 score, and mean score of normal clips of one domain."""
    own = [r for r in rows if r[1] == domain]
    _, fp, fn, tp = confusion_matrix([r[2] for r in own], [r[4] for r in own]).ravel()
    p, r = tp / max(tp + fp, EPS), tp / max(tp + fn, EPS)
    return p, r, 2 * p * r / max(p + r, EPS), np.mean([r[3] for r in own if not r[2]])


def auc(rows, **more):
    return roc_auc_score([r[2] for r in rows], [r[3] for r in rows], **more)


def hm(values):
    return hmean(np.maximum(values, EPS))


def ordered(case):
    """(machine, sections) in ASCII order of machines, as the evaluators glob them."""
    for machine in sorted(case.machines):
        yield machine, [(f"{s:02d}", rows) for (m, s), rows in case.clips.items() if m == machine]


def brute_2020(case):
    out = []
    for machine in [m for m in ("fan", "pump", "slider", "valve", "ToyCar") if m in case.machines]:
        rows = [[s, auc(r), auc(r, max_fpr=0.1)] for s, r in dict(ordered(case))[machine]]
        out += [[machine], ["id", "AUC", "pAUC"], *rows]
        out += [["Average", np.mean([r[1] for r in rows]), np.mean([r[2] for r in rows])], []]
    return out


def brute_2021(case):
    out, everything = [], []
    names = ["AUC", "pAUC", "precision", "recall", "F1 score"]
    for machine, sections in ordered(case):
        out += [[machine], ["section", "domain", *names]]
        performance = []
        for domain in ("source", "target"):
            for section, rows in sections:
                own = [r for r in rows if r[1] == domain]
                performance.append([auc(own), auc(own, max_fpr=0.1), *brute_domain(rows, domain)[:3]])
                out.append([section, domain, *performance[-1]])
        everything.append(np.array(performance))
        out += [*brute_means_2021(everything[-1], ""), []]
    source = np.concatenate([p[: len(p) // 2] for p in everything])
    target = np.concatenate([p[len(p) // 2 :] for p in everything])
    over = " over all machine types, sections, and domains"
    out += [["", "", *names], *brute_means_2021(np.concatenate([source, target]), over), []]
    return [*out, ["official score", "", hm([v for row in (*source, *target) for v in row[:2]])], []]


def brute_means_2021(performance, over):
    """``performance``: the rows of source, then as many of target."""
    half = len(performance) // 2
    return [
        [f"arithmetic mean{over}", "", *np.mean(performance, axis=0)],
        [f"harmonic mean{over}", "", *[hm(c) for c in performance.T]],
        [f"source harmonic mean{over}", "", *[hm(c) for c in performance[:half].T]],
        [f"target harmonic mean{over}", "", *[hm(c) for c in performance[half:].T]],
    ]


def brute_section(rows):
    """Values of a section in the order of the result's columns."""
    source = [r for r in rows if r[2] or r[1] == "source"]
    target = [r for r in rows if r[2] or r[1] == "target"]
    decisions = zip(brute_domain(rows, "source")[:3], brute_domain(rows, "target")[:3], strict=True)
    return [auc(rows), auc(source), auc(target), auc(rows, max_fpr=0.1), *(v for d in decisions for v in d)]


def brute_means(values, over, n_source):
    """``values``: per section as in `brute_section`."""
    v = np.array(values)
    table = [np.r_[v[:, a], v[:, b]] for a, b in ((1, 2), (3, 3), (4, 5), (6, 7), (8, 9))]
    return [
        [f"arithmetic mean{over}", "", *[np.mean(c) for c in table]],
        [f"harmonic mean{over}", "", *[hm(c) for c in table]],
        [f"source harmonic mean{over}", "", *[hm(c[:n_source]) for c in table]],
        [f"target harmonic mean{over}", "", *[hm(c[n_source:]) for c in table]],
        [],
    ]


def brute_2022(case, ci95, compat=False):
    out, everything = [], []
    columns = [
        "AUC (all)", "AUC (source)", "AUC (target)", "pAUC", "precision (source)", "precision (target)",
        "recall (source)", "recall (target)", "F1 score (source)", "F1 score (target)",
    ]  # fmt: skip
    header = ["", "", "AUC", "pAUC", "precision", "recall", "F1 score"]
    for machine, sections in ordered(case):
        values = [brute_section(rows) for _, rows in sections]
        everything += values
        out += [[machine], ["section", *columns]]
        out += [[s, *v] for (s, _), v in zip(sections, values, strict=True)]
        fault = compat and case.dcase == "dcase2022"
        out += [header, *brute_means(values, "", len(values) // 2 if fault else len(values))]
    over = " over all machine types, sections, and domains"
    out += [header, *brute_means(everything, over, len(everything))]
    return [*out, ["official score", "", brute_official(everything)], ["official score ci95", "", ci95], []]


def brute_official(everything):
    return hm([v for row in everything for v in row[1:4]])


def brute_jackknife(case):
    """The official ci95: leave one out of the pool of all clips."""
    rows = [r for own in case.clips.values() for r in own]
    n = len(rows)
    halves = []
    for more in ({}, {"max_fpr": 0.1}):
        theta = [auc(rows[:i] + rows[i + 1 :], **more) for i in range(n)]
        squares = np.sum((np.array(theta) - np.mean(theta)) ** 2)
        halves.append(abs(student.ppf(0.025, n - 1)) * np.sqrt(squares / (n * (n - 1))))
    return np.mean(halves)


def results_of(case, root, partial=True, **more):
    against = official.reference(load_ground_truth(root / "truth", case.dcase))
    return official.evaluate("sys1", root / "teams" / "team1" / "sys1", against, partial=partial, **more)


# ------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("compat", [False, True], ids=["mended", "compat"])
@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_result_equals_the_official_evaluator(asdray, case, tmp_path, compat):
    where = ["--dcase", case.dcase, "--ground-truth", tmp_path / "truth"]
    code, shown, err = asdray("official", tmp_path / "teams", *where, "--compat" if compat else "--partial")
    assert (code, err) == (0, "")
    folder = tmp_path / "teams_result"
    old = compat and case.dcase == "dcase2020"
    path = folder / ("result_sys1.csv" if old else "sys1_result.csv")
    expected = {"dcase2020": brute_2020, "dcase2021": brute_2021}.get(case.dcase)
    if expected:
        assert_same(rows_of(path), expected(case))
    elif compat:
        assert_same(rows_of(path), brute_2022(case, brute_jackknife(case), compat=True))
    else:
        assert_same(rows_of(path), brute_2022(case, results_of(case, tmp_path).ci95))
    assert b"\r" not in path.read_bytes()
    assert (folder / official.CI95_FILE).exists() != compat
    assert (folder / "teams_official_score.csv").exists() == (expected is None)
    year = get_year(case.dcase)
    absent = [m for m in year.machines["eval"] if m not in case.machines]
    assert f"the ground truth of {case.dcase} lacks {', '.join(absent)}\n" in shown
    assert "partial score" in shown
    assert f"{100 * results_of(case, tmp_path, compat=True).official:.2f}" in shown
    assert ("the evaluator of" in shown) == (year.year > 2024)
    assert "not as many clips as in the organisers' ground truth: " in shown


@pytest.mark.parametrize("case", ["dcase2022", "dcase2023", "dcase2024"], indirect=True)
def test_tables_over_systems_equal_the_official_evaluator(asdray, case, tmp_path):
    case.write_system(tmp_path / "teams" / "team2" / "sys2", scale=-2.0)
    order = {
        "dcase2022": ["bearing", "fan", "gearbox", "slider", "ToyCar", "ToyTrain", "valve"],
        "dcase2023": ["ToyDrone", "ToyNscale", "ToyTank", "Vacuum", "bandsaw", "grinder", "shaker"],
        "dcase2024": [
            "3DPrinter", "AirCompressor", "Scanner", "ToyCircuit", "HoveringDrone", "HairDryer", "ToothBrush",
            "RoboticArm", "BrushlessMotor",
        ],
    }[case.dcase]  # fmt: skip
    where = ["--dcase", case.dcase, "--ground-truth", tmp_path / "truth", "--out", tmp_path / "out"]
    assert asdray("official", tmp_path / "teams", *where, "--partial")[0] == 0
    summary = ["official score", "arithmetic mean", "harmonic mean (source)", "harmonic mean (target)"]
    both = lambda what: [f"{m} {what} ({d})" for d in ("source", "target") for m in order]  # noqa: E731
    official_rows, paper = [["", *summary, *both("AUC")]], [["System", "metric", "h-mean", "a-mean", *order]]
    per_section = {
        s: ([["", *summary, *both("AUC")]], [["", *summary, *both("Score")]]) for _, s in case.clips
    }
    for system, scale in (("sys1", 1), ("sys2", -2)):
        clips = {k: [(n, d, a, v * scale, x) for n, d, a, v, x in rows] for k, rows in case.clips.items()}
        values = {key: brute_section(rows) for key, rows in clips.items()}

        def mean(machine, column, values=values):
            own = [v[column] for (m, _), v in values.items() if m == machine]
            return np.mean(own) if own else None

        aucs = {c: [v[c] for v in values.values()] for c in (1, 2, 3)}
        score = brute_official(list(values.values()))
        machines = {c: [mean(m, c) for m in order] for c in (1, 2, 3)}
        official_rows.append(
            [system, score, np.mean(aucs[1] + aucs[2]), hm(aucs[1]), hm(aucs[2]), *machines[1], *machines[2]]
        )
        for label, c in (("AUC (source)", 1), ("AUC (target)", 2), ("pAUC (source, target)", 3)):
            paper.append([system, label, hm(aucs[c]), np.mean(aucs[c]), *machines[c]])
        everything = aucs[1] + aucs[2] + aucs[3]
        paper.append([system, "TOTAL score", score, np.mean(everything), *[None] * len(order)])
        for section, (auc_rows, score_rows) in per_section.items():
            own = [values.get((m, section)) for m in order]
            cells = [v and v[c] for c in (1, 2) for v in own]
            auc_rows.append([system, *[None] * 4, *cells])
            own = [clips.get((m, section)) for m in order]
            cells = [r and brute_domain(r, d)[3] for d in ("source", "target") for r in own]
            score_rows.append([system, *[None] * 4, *cells])
    out = tmp_path / "out"
    assert_same(rows_of(out / "teams_official_score.csv"), official_rows)
    assert_same(rows_of(out / "teams_official_score_paper.csv"), paper)
    assert_same(rows_of(out / "sys2" / "official_score.csv"), [official_rows[0], official_rows[2]])
    for section, (auc_rows, score_rows) in per_section.items():
        assert_same(rows_of(out / f"teams_section_{section:02d}_auc.csv"), auc_rows)
        assert_same(rows_of(out / f"teams_section_{section:02d}_score.csv"), score_rows)
    header, first, second = rows_of(out / official.CI95_FILE)
    assert header == ["System", "official score", "ci95", "low", "high", "dataset"]
    for row, name in ((first, "sys1"), (second, "sys2")):
        score, ci95, low, high = map(float, row[1:5])
        assert (row[0], row[5:]) == (name, ["official"])
        assert low < score < high
        assert ci95 == pytest.approx((high - low) / 2)
        assert float(rows_of(out / f"{name}_result.csv")[-2][2]) == ci95


BY_HAND = """\
bandsaw
section,AUC (all),AUC (source),AUC (target),pAUC,precision (source),precision (target),recall (source),recall (target),F1 score (source),F1 score (target)
00,0.6875,0.75,0.625,0.736842105263158,1.0,0.5,0.5,0.5,0.6666666666666666,0.5
,,AUC,pAUC,precision,recall,F1 score
arithmetic mean,,0.6875,0.736842105263158,0.75,0.5,0.5833333333333333
harmonic mean,,0.6818181818181818,0.736842105263158,0.6666666666666666,0.5,0.5714285714285714
source harmonic mean,,0.75,0.736842105263158,1.0,0.5,0.6666666666666666
target harmonic mean,,0.625,0.736842105263158,0.5,0.5,0.5

,,AUC,pAUC,precision,recall,F1 score
"arithmetic mean over all machine types, sections, and domains",,0.6875,0.736842105263158,0.75,0.5,0.5833333333333333
"harmonic mean over all machine types, sections, and domains",,0.6818181818181818,0.736842105263158,0.6666666666666666,0.5,0.5714285714285714
"source harmonic mean over all machine types, sections, and domains",,0.75,0.736842105263158,1.0,0.5,0.6666666666666666
"target harmonic mean over all machine types, sections, and domains",,0.625,0.736842105263158,0.5,0.5,0.5

official score,,0.6992230854605993
"""


def test_synthetic_ground_truth_is_recognised_through_links_and_subfolders(tmp_path):
    case = Case("dcase2023", ())
    case.machines = ("bandsaw",)
    case.clips = {("bandsaw", 0): [("section_00_0000.wav", "source", 1, 9.0, 1)]}
    year = tmp_path / "d" / "original" / "dcase2023"
    truth = year / "ground_truth"
    case.write_truth(truth)

    def kind(folder):
        return official.kind_of_truth(load_ground_truth(folder, "dcase2023"))

    links = [tmp_path / "linked", tmp_path / "clone" / "ground_truth_data"]
    links[1].parent.mkdir()
    for link, to in zip(links, (truth, truth / "ground_truth_data"), strict=True):
        link.symlink_to(to)
    ways = [truth, year, year.parent, tmp_path / "d", links[0], links[1].parent]
    (year.with_name("dcase2022")).mkdir()
    (year.with_name("dcase2022") / "synthetic.json").touch()  # another year's says nothing of this one
    assert {kind(way) for way in ways} == {"official"}
    (year / "synthetic.json").touch()
    assert [kind(way) for way in ways] == ["synthetic"] * len(ways)


def test_a_result_by_hand(asdray, tmp_path):
    """Worked out on paper: anomalies at 9, 8, 5, 2, source normals at 1, 6, target normals at 4, 7.

    Anomalies above 1, 6, 4, 7: 4, 2, 3, 2, hence AUC (source) 6/8, AUC (target) 5/8, AUC (all) 11/16. The
    true positive rate is 1/2 for false positive rates below 1/4: pAUC (1 + (0.05 - 0.005) / 0.095) / 2 =
    14/19. Official score 3 / (8/6 + 8/5 + 19/14) = 630/901.
    """
    rows = [
        ("section_00_0000.wav", "source", 1, 9.0, 1), ("section_00_0001.wav", "target", 1, 8.0, 1),
        ("section_00_0002.wav", "source", 1, 5.0, 0), ("section_00_0003.wav", "target", 1, 2.0, 0),
        ("section_00_0004.wav", "source", 0, 1.0, 0), ("section_00_0005.wav", "source", 0, 6.0, 0),
        ("section_00_0006.wav", "target", 0, 4.0, 0), ("section_00_0007.wav", "target", 0, 7.0, 1),
    ]  # fmt: skip
    case = Case("dcase2023", ())
    case.machines, case.clips = ("bandsaw",), {("bandsaw", 0): rows}
    case.write_truth(tmp_path / "truth")
    case.write_system(tmp_path / "mine")
    where = ["--dcase", "dcase2023", "--ground-truth", tmp_path / "truth"]
    (tmp_path / "synthetic.json").touch()  # as `asdray synth` leaves it beside the ground truth
    code, shown, _ = asdray("official", tmp_path / "mine", *where, "--partial")
    assert (code, "Dataset: synthetic" in shown) == (0, True)
    mark = tmp_path / "mine_result" / official.MARK_FILE
    assert not mark.exists(), "the table of intervals has a column for it"
    for made, marked in ((True, True), (False, False)):
        if not made:
            (tmp_path / "synthetic.json").unlink()
        assert asdray("official", tmp_path / "mine", *where, "--compat")[0] == 0
        assert mark.exists() == marked
        assert not marked or mark.read_text().startswith("Dataset: synthetic.")
    assert asdray("official", tmp_path / "mine", *where, "--partial")[0] == 0
    found = rows_of(tmp_path / "mine_result" / "mine_result.csv")
    expected = list(csv.reader(io.StringIO(BY_HAND)))
    assert found[-2][:2] == ["official score ci95", ""]
    assert_same(found[:-2], [[_cell(c) for c in row] for row in expected])


def _cell(text):
    try:
        return float(text) if "." in text else text
    except ValueError:
        return text


@pytest.mark.parametrize("dcase", PUBLISHED)
def test_tables_reproduce_published_totals(dcase, tmp_path):
    machines, harmonic, arithmetic, score = PUBLISHED[dcase]
    names = ("smix_auc", "tmix_auc", "mix_pauc")
    sections = tuple(
        official.SectionResult(m, 0, dict(zip(names, machines[m], strict=True))) for m in sorted(machines)
    )
    year = get_year(dcase.split()[0])
    result = official.SystemResult("mse", sections, official.total(year, sections), None, None, ())
    against = official.Reference(year, (), {}, {}, "official")
    official.write([result], tmp_path, against, compat=True)
    assert float(rows_of(tmp_path / "mse_result.csv")[-3][2]) == pytest.approx(score, abs=1e-14)
    paper = rows_of(tmp_path / "teams_official_score_paper.csv")
    assert float(paper[4][2]) == pytest.approx(score, abs=1e-14)
    for row, h, a in zip(paper[1:4], harmonic, arithmetic, strict=True):
        assert float(row[2]) == pytest.approx(h, abs=1e-9)
        assert float(row[3]) == pytest.approx(a, abs=1e-9)
    if year.year > 2024:  # their READMEs show the columns, and the mean of all values
        assert paper[0][4:] == list(machines)
        everything = [value for values in machines.values() for value in values]
        assert float(paper[4][3]) == pytest.approx(np.mean(everything), abs=1e-14)
    if dcase == "dcase2023":  # the first two columns as published there, for the order of columns
        assert paper[0][4:6] == ["ToyDrone", "ToyNscale"]
        assert [float(c) for c in paper[1][4:6]] == [0.7968, 0.77]


@pytest.mark.parametrize("dcase", YEARS)
def test_ground_truth_of_others_is_told_by_its_number_of_clips(dcase):
    """An official section: 50 clips of each kind, or what 2020, 2021 and 2023 have, see `dcase.years`."""
    year = get_year(dcase)
    machine = year.machines["eval"][-1]
    number = year.sections["eval"][machine][0]
    cells = {"dcase2021": [100] * 4, "dcase2026": [80, 20, 60, 40]}.get(dcase, [50] * 4)
    if dcase == "dcase2020":
        machine, number, cells = "fan", 5, [109, 349]
    kinds = [(d == "target", a) for d in year.domains for a in (False, True)]
    target, anomaly = np.repeat(np.array(kinds), cells, axis=0).T

    def unlike(flags, domains):
        truth = official.SectionTruth(machine, number, ("x",) * len(flags), flags, domains)
        return official.Reference(year, (truth,), {}, {}, "official").unlike

    assert unlike(anomaly, target) == ()
    assert unlike(anomaly[1:], target[1:]) == (f"{machine} section {number:02d}",)
    if dcase != "dcase2026":  # of 2026 the total alone is known
        assert unlike(~anomaly, target) == (
            () if cells[0] == cells[1] else (f"{machine} section {number:02d}",)
        )
        flags = anomaly.copy()
        flags[0] = True
        assert unlike(flags, target)


def test_a_class_without_clips_gives_empty_cells(asdray, tmp_path):
    case = Case("dcase2023", ("bandsaw",))
    case.clips["bandsaw", 0] = [r for r in case.clips["bandsaw", 0] if (r[1], r[2]) != ("source", 0)]
    case.write_truth(tmp_path / "truth")
    case.write_system(tmp_path / "mine")
    where = ["--dcase", "dcase2023", "--ground-truth", tmp_path / "truth", "--partial"]
    code, shown, _ = asdray("official", tmp_path / "mine", *where)
    assert code == 0
    assert "–" in shown
    rows = rows_of(tmp_path / "mine_result" / "mine_result.csv")
    assert rows[2][2] == ""
    assert rows[2][3] != ""
    assert rows[-3:-1] == [["official score", "", ""], ["official score ci95", "", ""]]
    assert "nan" not in (tmp_path / "mine_result" / "mine_result.csv").read_text()


@pytest.mark.parametrize("case", ["dcase2021", "dcase2023"], indirect=True)
def test_false_alarms_are_the_share_of_normal_clips_with_the_decision_anomaly(case, tmp_path):
    for section in results_of(case, tmp_path).sections:
        rows = case.clips[section.machine, section.section]
        for initial, domain in (("s", "source"), ("t", "target")):
            normal = [r for r in rows if r[1] == domain and not r[2]]
            expected = sum(r[4] for r in normal) / len(normal)
            assert section.values[f"{initial}_false_alarms"] == pytest.approx(expected)


@pytest.mark.parametrize("case", ["dcase2022"], indirect=True)
def test_an_incomplete_ground_truth_gives_no_official_score(asdray, case, tmp_path):
    lost = get_year(case.dcase).sections["eval"]["valve"][0]
    for path in (tmp_path / "truth").glob(f"*/ground_truth_*valve_section_{lost:02d}_*"):
        path.unlink()
    where = ["--dcase", case.dcase, "--ground-truth", tmp_path / "truth"]
    code, shown, _ = asdray("official", tmp_path / "teams", *where)
    assert code == 0
    assert f"valve section {lost:02d}" in shown
    assert "so there is no official score; --partial" in shown
    folder = tmp_path / "teams_result"
    rows = rows_of(folder / "sys1_result.csv")
    assert rows[-3:-1] == [["official score", "", ""], ["official score ci95", "", ""]]
    assert ["ToyCar"] in rows, "machines keep their rows"
    assert rows_of(folder / official.CI95_FILE)[1] == ["sys1", "", "", "", "", "official"]
    assert rows_of(folder / "teams_official_score.csv")[1][1] == ""
    assert results_of(case, tmp_path).interval is not None


# --------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("case", ["dcase2020", "dcase2021", "dcase2023"], indirect=True)
def test_row_order_and_baseline_file_names_do_not_matter(case, tmp_path):
    against = official.reference(load_ground_truth(tmp_path / "truth", case.dcase))
    expected = results_of(case, tmp_path)
    case.write_system(tmp_path / "shuffled", order=np.random.default_rng(5))
    found = official.evaluate("sys1", tmp_path / "shuffled", against, partial=True)
    assert found == expected

    def baseline(stem):
        stem = stem.replace("anomaly_score_", f"anomaly_score_DCASE{case.dcase[5:]}T2")
        stem = stem.replace("decision_result_", f"decision_result_DCASE{case.dcase[5:]}T2")
        return stem.replace(".csv", "_seed13711_id(0_)_Eval.csv")

    # 2021's evaluator, unlike the lists of the other years, tells no labelled names.
    names = {} if case.dcase == "dcase2021" else {"names": case.labelled}
    case.write_system(tmp_path / "baseline", files=baseline, **names)
    assert official.evaluate("sys1", tmp_path / "baseline", against, partial=True) == expected


def test_missing_labels_in_the_ground_truth_are_an_error(asdray, tmp_path):
    case = Case("dcase2023", ("bandsaw",))
    case.write_truth(tmp_path / "truth")
    case.write_system(tmp_path / "mine")
    for kind in ("domain", "attributes"):
        for path in (tmp_path / "truth" / f"ground_truth_{kind}").iterdir():
            path.unlink()
        (tmp_path / "truth" / f"ground_truth_{kind}").rmdir()
    code, _, err = asdray(
        "official", tmp_path / "mine", "--dcase", "dcase2023", "--ground-truth", tmp_path / "truth"
    )
    assert code == 2
    assert "lacks the label or the domain of clips (bandsaw 56)" in err


def test_systems_of_teams_are_found_and_have_distinct_names(tmp_path):
    file = "anomaly_score_bandsaw_section_00_test.csv"
    for place in ("teams/a/one", "teams/a/two", "teams/b/one", "teams/c", "teams/.hidden/x"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / file).write_text("")
    (tmp_path / "teams" / "empty").mkdir()
    teams = tmp_path / "teams"
    systems, empty, faults = official.find_systems(teams)
    assert faults == {}
    assert systems == {
        "a_one": teams / "a" / "one", "two": teams / "a" / "two", "b_one": teams / "b" / "one", "c": teams / "c"
    }  # fmt: skip
    assert empty == [teams / "empty"]
    assert official.find_systems(teams / "a" / "one") == ({"one": teams / "a" / "one"}, [], {})
    with pytest.raises(ValueError, match="holds no submission"):
        official.find_systems(teams / "empty")
    with pytest.raises(ValueError, match="there is no folder"):
        official.find_systems(teams / "nope")
    (teams / "a_one").mkdir()
    (teams / "a_one" / file).write_text("")
    systems, _, faults = official.find_systems(teams)
    assert set(systems) == {"two", "b_one", "c"}, "the others go on"
    alike = {str(teams / "a" / "one"), str(teams / "a_one")}
    assert set(faults) == alike
    assert all("2 systems cannot be told apart by the name a_one" in fault for fault in faults.values())


def test_packages_of_the_challenge_are_found(tmp_path):
    file = "anomaly_score_bandsaw_section_00_test.csv"
    places = ("a/task2/one", "a/task2/two", "b/task2/one", "__MACOSX/a/task2/one", "d/task2/x/too/deep")
    for place in places:
        (tmp_path / "teams" / place).mkdir(parents=True)
        (tmp_path / "teams" / place / file).write_text("")
    teams = tmp_path / "teams"
    systems, empty, faults = official.find_systems(teams)
    assert (systems, empty, faults) == (
        {"a_one": teams / places[0], "two": teams / places[1], "b_one": teams / places[2]},
        [teams / "d"],
        {},
    )


@pytest.mark.parametrize("case", ["dcase2023"], indirect=True)
def test_a_faulty_system_is_listed_and_other_systems_are_scored(asdray, case, tmp_path):
    bad = case.write_system(tmp_path / "teams" / "team2" / "bad")
    path = bad / "anomaly_score_shaker_section_00_test.csv"
    path.write_text(path.read_text().replace("section_00_0003.wav", "section_00_0103.wav"))
    (bad / "decision_result_ToyDrone_section_00_test.csv").unlink()
    (tmp_path / "teams" / "team1" / "sys1" / "notes.csv").write_text("")
    where = ["--dcase", "dcase2023", "--ground-truth", tmp_path / "truth", "--out", tmp_path / "out"]
    code, shown, err = asdray("official", tmp_path / "teams", *where)
    assert code == 1
    assert err.splitlines() == [
        "1 of 2 systems could not be scored:",
        f"{bad}: not a submission to dcase2023",
        "  1 of 4 files are missing: decision_result_ToyDrone_section_00_test.csv",
        f"  {path.name} (56 clips expected): 1 rows of no clip of this file, for example 'section_00_0103.wav'",
        f"  {path.name} (56 clips expected): 1 missing clips, for example section_00_0003.wav",
    ]
    assert "ignored in sys1: notes.csv" in shown
    assert (tmp_path / "out" / "sys1_result.csv").exists()
    assert not (tmp_path / "out" / "bad_result.csv").exists()
    assert [row[0] for row in rows_of(tmp_path / "out" / "teams_official_score.csv")] == ["", "sys1"]
    old = tmp_path / "out" / "bad_result.csv"
    old.write_text("")
    assert asdray("official", tmp_path / "teams", *where)[2].endswith(f"  {old} is of an earlier run\n")
    # Alone it is wrong input, and nothing is written.
    code, _, err = asdray("official", bad, *where[:-1], tmp_path / "none")
    assert code == 2
    assert "1 missing clips" in err
    assert not (tmp_path / "none").exists()
    code, _, err = asdray("official", bad, "--dcase", "dcase2032", *where[2:])
    assert (code, "unknown DCASE year" in err) == (2, True)


def test_hostile_systems_are_faulted_one_by_one_and_the_others_are_scored(asdray, tmp_path):
    """A pipe, a long field, names that a spreadsheet or a terminal obeys or that are too long, no permission."""
    case = Case("dcase2023", ("bandsaw",))
    case.write_truth(tmp_path / "truth")
    teams = tmp_path / "teams"
    file = "anomaly_score_bandsaw_section_00_test.csv"
    good = ("=cmd|x", "a\n\x1b[2Jb", "\udcff", "[bold] :x:", "<b>|`", "-1", "one")
    bad = {
        "pipe": "is a pipe, not a regular file", "long": "field larger than field limit", "loop": "Too many levels",
        "n" * 220: "name is too long", "x.csv": "cannot be called like a table", "json": "is damaged",
        "huge": "has more than 67108864 bytes", "shape": "", "arabic": "rows that are not a number, for example",
    }  # fmt: skip
    for name in (*good, *bad):
        case.write_system(teams / name)
    for name in ("pipe", "long", "loop", "huge"):
        (teams / name / file).unlink()
    os.mkfifo(teams / "pipe" / file)
    (teams / "long" / file).write_text("section_00_0000.wav," + "1" * 200_000 + "\n")
    (teams / "loop" / file).symlink_to(file)
    with open(teams / "huge" / file, "w") as sparse:
        sparse.truncate(2**40)
    (teams / "json" / "submission.json").write_text("[" * 100_000)
    (teams / "shape" / "submission.json").write_text('{"dataset": [1]}')
    os.mkfifo(teams / "one" / "submission.json")
    text = (teams / "arabic" / file).read_text()
    (teams / "arabic" / file).write_text(text.replace(",0.1\n", ",\u0660.1\n"))
    out = tmp_path / "out"
    code, shown, err = asdray(
        "official", teams, "--dcase", "dcase2023", "--ground-truth", tmp_path / "truth", "--out", out
    )
    del bad["shape"]
    assert code == 1
    assert f"{len(bad)} of {len(good) + len(bad) + 1} systems could not be scored" in err
    for name, fault in bad.items():
        assert any(line.startswith(f"{teams / name}") for line in err.splitlines()), (name, err)
        assert fault in err, (name, err)
    assert not any(c in shown + err for c in "\x1b\udcff")
    rows = rows_of(out / "teams_official_score.csv")
    assert [row[0] for row in rows[1:]] == [
        "-1", "<b>|`", "'=cmd|x", "[bold] :x:", "a\\n\\x1b[2Jb", "one", "shape", "\\udcff"
    ]  # fmt: skip
    assert "[bold] :x:" in shown
    assert {path.name for path in out.glob("*_result.csv")} == {
        f"{n}_result.csv"
        for n in ("-1", "<b>|`", "=cmd|x", "[bold] :x:", "a\\n\\x1b[2Jb", "one", "shape", "\\udcff")
    }


def test_writing_twice_gives_the_same_bytes(asdray, tmp_path):
    case = Case("dcase2023", ("bandsaw",))
    case.write_truth(tmp_path / "truth")
    mine = case.write_system(tmp_path / "mine")
    command = ["official", mine, "--dcase", "dcase2023", "--ground-truth", tmp_path / "truth"]
    contents = []
    for _ in range(2):
        assert asdray(*command)[0] == 0
        contents.append({p.name: p.read_bytes() for p in Path(f"{mine}_result").rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 7
    assert asdray(*command, "--compat")[0] == 0
    assert not (tmp_path / "mine_result" / official.CI95_FILE).exists()


def test_small_cells_are_named(asdray, tmp_path):
    for kept, sentence in (
        (11, None),
        (4, "Cells (machine, section, domain, label) of 4 clips: the interval is rough."),
        (
            1,
            "No interval: a cell (machine, section, domain, label) has a single clip, which shows no scatter.",
        ),
    ):
        case, folder = Case("dcase2023", ("bandsaw",)), tmp_path / str(kept)
        rows = case.clips["bandsaw", 0]
        drop = [r for r in rows if r[1:3] == ("target", 1)][kept:]
        case.clips["bandsaw", 0] = [r for r in rows if r not in drop]
        case.write_truth(folder / "truth")
        mine = case.write_system(folder / "mine")
        code, shown, _ = asdray(
            "official", mine, "--dcase", "dcase2023", "--ground-truth", folder / "truth", "--partial"
        )
        assert code == 0
        ends = rows_of(folder / "mine_result" / official.CI95_FILE)[1][2:5]
        assert all(ends) if kept > 1 else ends == ["", "", ""]
        assert sentence in " ".join(shown.split()) if sentence else "Cells" not in shown


# ----------------------------------------------------------------------------------------------- intervals


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            arrays(float, n, elements=st.integers(0, 5).map(float)),
            arrays(bool, n),
            arrays(np.int64, (3, n), elements=st.integers(0, 3)),
        )
    ),
    st.sampled_from([0.1, 0.3, 1.0]),
)
def test_resampled_areas_equal_those_of_repeated_clips(data, p):
    scores, y, weights = data
    area, partial = metrics.resampled_areas(scores, y, weights.T, p)
    for k, w in enumerate(weights):
        s, labels = np.repeat(scores, w), np.repeat(y, w)
        for found, expected in ((area[k], metrics.auc(s, labels)), (partial[k], metrics.pauc(s, labels, p))):
            assert np.isnan(found) if expected is None else found == pytest.approx(expected, abs=1e-12)


def scored(case):
    return [
        SectionScores(
            machine, section, np.array([r[3] for r in rows]), np.array([bool(r[2]) for r in rows]),
            np.array([r[1] == "target" for r in rows]),
        )
        for (machine, section), rows in case.clips.items()
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30).flatmap(
        lambda n: st.tuples(arrays(float, n, elements=st.integers(0, 5).map(float)), arrays(bool, n))
    ),
    st.sampled_from([0.07, 0.31, 1.0]),
)
def test_effects_are_slopes_of_the_resampled_areas(data, p):
    scores, y = data
    others = np.stack([scores, -scores, np.zeros(scores.shape)])
    areas, all_effects = metrics.area_effects(others, y, p)
    area, effects = areas[0], all_effects[0]
    assert (
        np.isnan(area)
        if metrics.auc(scores, y) is None
        else area == pytest.approx(metrics.pauc(scores, y, p))
    )
    if np.isnan(area):
        return
    assert areas[2] == pytest.approx(0.5)
    step = 1e-6
    ends = [metrics.resampled_areas(scores, y, 2 + s * np.eye(y.size), p)[1] for s in (step, -step)]
    slopes = (ends[0] - ends[1]) / step  # twice those by a weight of 2
    for own in (y, ~y):  # constants per label do not count
        expected = slopes[own] - slopes[own].mean()
        assert effects[own] - effects[own].mean() == pytest.approx(expected, abs=1e-7)


def test_an_interval_does_not_depend_on_the_order_of_machines():
    case = Case("dcase2023", ("shaker", "ToyDrone"))
    sections = scored(case)
    found = interval.official_interval("both_domains", sections)
    turned = interval.official_interval("both_domains", sections[::-1])
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), abs=1e-14)
    perfect = [
        SectionScores(s.machine, 0, s.is_anomaly.astype(float), s.is_anomaly, s.is_target) for s in sections
    ]
    sure = interval.official_interval("both_domains", perfect)
    assert (sure.low, sure.high, sure.half_width) == (1.0, 1.0, 0.0)
    without = [SectionScores(s.machine, 0, s.scores, s.is_anomaly, s.is_anomaly & False) for s in sections]
    assert interval.official_interval("both_domains", without) is None


def test_parts_of_an_interval_add_up_and_p_agrees():
    t = student.ppf
    assert interval.half_width([(9, 4.0)]) == pytest.approx(2 * t(0.975, 9))
    two = [(9, 4.0), (1, 0.01)]
    assert interval.half_width(two) == pytest.approx(math.hypot(2 * t(0.975, 9), 0.1 * t(0.975, 1)))
    for value in (0.3, 3.0, 30.0):
        p = interval.p_value(value, two)
        assert interval.half_width(two, 1 - p) == pytest.approx(value)
        assert p == interval.p_value(-value, two)
    assert interval.p_value(1.5, [(9, 4.0)]) == pytest.approx(2 * student.sf(0.75, 9))
    assert interval.p_value(1.0, [(9, 0.0)]) == interval.LEAST_P
    assert interval.p_value(0.0, [(9, 0.0)]) == 1
    # Two equal parts have twice the degrees of freedom, less 0.3 of the gain; the smaller number counts.
    assert interval.joined([(3, 1.0), (7, 1.0)]) == [(pytest.approx(3 + 0.7 * 3), 2)]
    assert interval.joined([(1, 0.5), (7, 0.0)]) == [(1, 0.5)]
    assert interval.joined([(1, 0.0)]) == []


def test_the_interval_is_as_wide_as_the_scatter_of_new_test_sets():
    """The half-width against 1.96 standard deviations of the score over independent draws of the clips."""
    domain, anomaly = np.array([(d, a) for d in (0, 1) for a in (0, 1)] * 50, dtype=bool).T

    def sections(rng):
        return [
            SectionScores(m, 0, rng.normal(size=200) + anomaly, anomaly, domain)
            for m in ("fan", "valve", "pump")
        ]

    rng = np.random.default_rng(0)
    score = interval.score_effects("both_domains", [sections(rng) for _ in range(300)])[0]
    widths = [interval.official_interval("both_domains", sections(rng)).half_width for _ in range(8)]
    assert np.mean(widths) == pytest.approx(1.96 * np.std(score), rel=0.15)


def test_the_official_ci95_is_the_jackknife_divided_by_n_minus_1():
    case = Case("dcase2024", ("Scanner",), seed=4)
    rows = [r for own in case.clips.values() for r in own]
    n = len(rows)
    found = interval.evaluators_ci95(scored(case), chunk=10)
    assert found == pytest.approx(brute_jackknife(case), abs=1e-15)
    textbook = []
    for more in ({}, {"max_fpr": 0.1}):
        theta = np.array([auc(rows[:i] + rows[i + 1 :], **more) for i in range(n)])
        textbook.append(
            student.ppf(0.975, n - 1) * math.sqrt((n - 1) / n * np.sum((theta - theta.mean()) ** 2))
        )
    assert found * (n - 1) == pytest.approx(np.mean(textbook), rel=1e-12)


def test_decision_metrics_without_a_decision_and_without_an_anomaly():
    y = np.array([True, True, False])
    assert metrics.decision_metrics([False] * 3, y) == (0, 0, 0)
    assert metrics.decision_metrics([True] * 3, y) == (2 / 3, 1, 0.8)
    assert metrics.decision_metrics([True] * 3, ~y | y) == (1, 1, 1)
    assert metrics.decision_metrics([True, False], [False, False]) == (None, None, None)


def test_every_year_has_the_columns_of_its_official_evaluator():
    for year in YEARS.values():
        columns = year.evaluator_machines or year.machines["eval"]
        assert sorted(columns) == sorted(year.machines["eval"])
