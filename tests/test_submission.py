"""Submission files: names, rows, faults, decision thresholds, and `asdray submit`."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_scoring_stages import CKPT, train_and_extract
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn, backend_id
from asdray.config.system import load_recipe
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import YEARS
from asdray.evaluation import submission
from asdray.evaluation.decisions import decision_threshold
from asdray.evaluation.submission import Part, file_name, part_of, parts_of, read, write
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import write_trial
from asdray.store import Places

NAMES = {
    "dcase2020": ("fan", "id_01_00000007.wav", "anomaly_score_fan_id_01.csv", None),
    "dcase2021": (
        "fan",
        "section_03_target_test_0007.wav",
        "anomaly_score_fan_section_03_target_test.csv",
        "decision_result_fan_section_03_target_test.csv",
    ),
    "dcase2022": (
        "fan",
        "section_03_0007.wav",
        "anomaly_score_fan_section_03_test.csv",
        "decision_result_fan_section_03_test.csv",
    ),
    "dcase2024": (
        "3DPrinter",
        "section_00_0007.wav",
        "anomaly_score_3DPrinter_section_00_test.csv",
        "decision_result_3DPrinter_section_00_test.csv",
    ),
}
BASELINE = {
    "dcase2020": "anomaly_score_DCASE2020T2fan_id_01_test_seed13711_id(0)_Eval.csv",
    "dcase2021": "anomaly_score_DCASE2021T2fan_section_03_target_test_seed13711_id(0)_Eval.csv",
    "dcase2022": "anomaly_score_DCASE2022T2fan_section_03_test_seed1.csv",
    "dcase2024": "anomaly_score_DCASE2024T23DPrinter_section_00_test_seed13711_id(0)_Eval.csv",
}
LABELLED = {
    "dcase2020": "anomaly_id_01_00000098.wav",
    "dcase2021": "section_03_target_test_anomaly_0000.wav",
    "dcase2022": "section_03_target_test_anomaly_0000_vel_21.wav",
    "dcase2024": "section_00_target_test_anomaly_0001_mdl_B_spd_2.wav",
}


# ------------------------------------------------------------------------------------- names and rows


@pytest.mark.parametrize("dcase", NAMES)
def test_file_names(dcase):
    machine, clip, scores, decisions = NAMES[dcase]
    part = part_of(dcase, "eval", machine, clip)
    files = [file_name(dcase, kind, part) for kind in submission.kinds(dcase)]
    assert files == [name for name in (scores, decisions) if name]


@pytest.mark.parametrize("dcase", YEARS)
def test_written_submissions_read_back(dcase, tmp_path):
    year = YEARS[dcase]
    machine = year.machines["eval"][0]
    number = year.sections["eval"][machine][-1]
    form = {"dcase2020": "id_{:02d}_{:08d}.wav", "dcase2021": "section_{:02d}_source_test_{:04d}.wav"}
    names = [form.get(dcase, "section_{:02d}_{:04d}.wav").format(number, i) for i in (3, 1, 2)]
    parts = parts_of(dcase, "eval", [(machine, n) for n in names])
    scores = {(machine, n): v for n, v in zip(names, (0.1 + 0.2, -1e-300, 5.0), strict=True)}
    decisions = {key: value > 1 for key, value in scores.items()} if year.has_decisions else {}
    files = write(tmp_path, dcase, parts, scores, decisions)
    assert len(files) == 1 + year.has_decisions
    assert files[0].read_text() == f"{names[1]},-1e-300\n{names[2]},5.0\n{names[0]},0.30000000000000004\n"
    found = read(tmp_path, dcase, parts)
    assert (found.scores, found.decisions, found.ignored) == (scores, decisions, ())
    # A file of another machine would become part of what is submitted.
    (tmp_path / "anomaly_score_nobody_section_00_test.csv").write_text("")
    with pytest.raises(ValueError, match="1 files of another submission, for example anomaly_score_nobody"):
        write(tmp_path, dcase, parts, scores, decisions)
    assert read(tmp_path, dcase, parts).ignored == ("anomaly_score_nobody_section_00_test.csv",)


@pytest.mark.parametrize("dcase", NAMES)
def test_the_baselines_own_file_and_clip_names(dcase, tmp_path):
    machine, clip, official, _ = NAMES[dcase]
    parts = parts_of(dcase, "eval", [(machine, clip)])
    labelled = {(machine, LABELLED[dcase]): clip}
    (tmp_path / BASELINE[dcase]).write_bytes(f"\ufeff{LABELLED[dcase]}, 1.5 \r\n\r\n".encode())
    if YEARS[dcase].has_decisions:
        (tmp_path / BASELINE[dcase].replace("anomaly_score", "decision_result")).write_text(f"{clip},1.0\n")
    found = read(tmp_path, dcase, parts, labelled)
    assert found.scores == {(machine, clip): 1.5}
    assert found.decisions == ({(machine, clip): True} if YEARS[dcase].has_decisions else {})
    with pytest.raises(ValueError, match=r"1 rows of no clip of this file.*\n.*1 missing clips"):
        read(tmp_path, dcase, parts)
    (tmp_path / official).write_text(f"{clip},1\n")
    with pytest.raises(ValueError, match="two files of the same anomaly_scores"):
        read(tmp_path, dcase, parts, labelled)


def test_file_names_without_test_are_read_with_a_note(tmp_path, capsys):
    for dcase in ("dcase2021", "dcase2022"):
        machine, clip, *files = NAMES[dcase]
        for name, value in zip(files, ("0.5", "1"), strict=True):
            (tmp_path / dcase).mkdir(exist_ok=True)
            (tmp_path / dcase / name.replace("_test", "")).write_text(f"{clip},{value}\n")
        parts = parts_of(dcase, "eval", [(machine, clip)])
        found = read(tmp_path / dcase, dcase, parts)
        assert (found.scores, found.decisions) == ({(machine, clip): 0.5}, {(machine, clip): True})
        assert f"{tmp_path / dcase}: the names of 2 files lack _test" in capsys.readouterr().err
        (tmp_path / dcase / files[0]).write_text(f"{clip},0.5\n")
        with pytest.raises(ValueError, match="are two files of the same anomaly_scores: keep one"):
            read(tmp_path / dcase, dcase, parts)


def test_irregular_labelled_names_of_2024_are_found(tmp_path):
    regular = "section_00_source_test_normal_0035_weight15_BckgF.wav"
    parts = {Part("RoboticArm", 0, None): ("section_00_0003.wav",)}
    for kind in submission.kinds("dcase2024"):
        (tmp_path / file_name("dcase2024", kind, next(iter(parts)))).write_text(
            regular.replace("_test_", "_") + ",1\n"
        )
    found = read(tmp_path, "dcase2024", parts, {("RoboticArm", regular): "section_00_0003.wav"})
    assert list(found.scores) == [("RoboticArm", "section_00_0003.wav")]


def test_numbers_follow_csv_not_python(tmp_path):
    parts = {Part("fan", 0, None): ("section_00_0000.wav",)}
    for text in ("1_000", "1_0.5"):
        for kind in submission.kinds("dcase2022"):
            (tmp_path / file_name("dcase2022", kind, next(iter(parts)))).write_text(
                f"section_00_0000.wav,{text}\n"
            )
        with pytest.raises(ValueError, match=f"1 rows that are not a number.* with '{text}'"):
            read(tmp_path, "dcase2022", parts)


def test_every_fault_is_counted_in_one_message(tmp_path):
    names = tuple(f"section_00_{i:04d}.wav" for i in range(9))
    parts = {Part(m, 0, None): names for m in ("bandsaw", "grinder", "shaker")}
    rows = [f"{n},0" for n in names]
    good = "\n".join(rows) + "\n"
    write = lambda name, text: (tmp_path / name).write_text(text)  # noqa: E731
    write("anomaly_score_bandsaw_section_00_test.csv", good)
    bad = [
        *rows[1:3], rows[2], rows[2], rows[3], "section_00_9999.wav,1", "file_name,score", f"{names[4]},abc",
        f"{names[5]},nan", f"{names[6]},-inf", f"{names[7]},NaN", names[8], "a,b,c",
    ]  # fmt: skip
    write("anomaly_score_grinder_section_00_test.csv", "\n".join(bad))
    write("decision_result_bandsaw_section_00_test.csv", good.replace(",0\n", ",0.7\n", 4))
    (tmp_path / "decision_result_shaker_section_00_test.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError) as caught:
        read(tmp_path, "dcase2023", parts)
    grinder = "anomaly_score_grinder_section_00_test.csv (9 clips expected)"
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: not a submission to dcase2023",
        "  2 of 6 files are missing: decision_result_grinder_section_00_test.csv, "
        "anomaly_score_shaker_section_00_test.csv",
        "  decision_result_bandsaw_section_00_test.csv (9 clips expected): 4 decisions that are neither 0 nor "
        "1, for example section_00_0000.wav with 0.7",
        f"  {grinder}: 2 duplicated rows, for example section_00_0002.wav",
        f"  {grinder}: 2 rows of no clip of this file, for example 'section_00_9999.wav'",
        f"  {grinder}: 1 rows that are not a number, for example section_00_0004.wav with 'abc'",
        f"  {grinder}: 3 rows that are NaN or infinite, for example section_00_0005.wav with nan",
        f"  {grinder}: 2 rows that are not two columns, for example line 12",
        f"  {grinder}: 2 missing clips, for example section_00_0000.wav",
        "  decision_result_shaker_section_00_test.csv is not a text file",
    ]


# ---------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize(
    ("shape", "scale", "shift"), [(2.0, 1e-5, 0.0), (30.0, 1.0, -4.0), (4.0, 300.0, 1e3)]
)
def test_the_threshold_is_the_quantile_of_the_gamma_distribution_that_made_the_scores(shape, scale, shift):
    law = stats.gamma(shape, scale=scale, loc=shift)
    scores = law.rvs(2000, random_state=0)
    for quantile in (0.5, 0.9, 0.99):
        found = decision_threshold(scores, quantile)
        assert (found.method, found.why) == ("gamma", "")
        assert law.cdf(found.value) == pytest.approx(quantile, abs=0.02)


def test_the_threshold_moves_with_shift_and_scale_of_the_scores():
    scores = stats.gamma(3.0).rvs(500, random_state=1)
    base = decision_threshold(scores).value
    assert decision_threshold(1e-6 * scores - 7e-6).value == pytest.approx(1e-6 * base - 7e-6, rel=1e-6)
    # The same as fitting the scores themselves, where these have a scale that the optimiser is made for.
    assert base == pytest.approx(stats.gamma.ppf(0.9, *stats.gamma.fit(scores)), rel=1e-3)


def test_a_rejected_fit_falls_back_to_the_quantile_of_the_scores():
    same = decision_threshold([0.3] * 7)
    assert (same.method, same.why) == ("empirical", "all training scores are equal")
    assert same.value == pytest.approx(0.3, abs=1e-15)
    outlier = np.append(np.linspace(0, 1e-9, 99), 1e9)
    found = decision_threshold(outlier, 0.9)
    assert found.method == "empirical"
    assert found.value == pytest.approx(np.quantile(outlier, 0.9))
    assert found.why


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_threshold_is_always_finite_and_near_its_quantile(scores, quantile):
    found = decision_threshold(scores, quantile)
    assert math.isfinite(found.value)
    below = np.mean(np.asarray(scores) <= found.value)
    assert below >= quantile - max(0.05, 2 * math.sqrt(quantile * (1 - quantile) / len(scores))) - 1 / len(
        scores
    )


def test_invalid_threshold_input_is_an_error():
    for scores in ([], [1.0], [1.0, math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="at least two training scores, all finite"):
            decision_threshold(scores)
    for quantile in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="quantile"):
            decision_threshold([1.0, 2.0], quantile)


# ------------------------------------------------------------------------------------------ asdray submit

DCASE, MACHINES, BACKEND = "dcase2023", ("fan", "bandsaw"), Knn()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A formatted year without any ground truth."""
    made = build_tree(tmp_path_factory.mktemp("data"), DCASE, list(MACHINES), {"source": 30, "target": 6}, 4)
    format_dataset(made.data, DCASE)
    return made


@pytest.fixture
def trial(tree, tmp_path):
    """The folder of a trial with scores of one backend."""
    places = Places.of(tree.data, tmp_path / "results")
    made = Trial(DCASE, "dis_baseline", load_recipe("dis_baseline").system, 0, MACHINES)
    folder = write_trial(
        TrialFiles(made, places, load_dataset(tree.data, DCASE)), Request((CKPT,), (BACKEND,))
    )
    train_and_extract(made, places)
    for machine in MACHINES:
        score(TrialFiles.load(made, places), machine, CKPT, BACKEND)
    return folder


def test_submit_writes_what_official_reads(asdray, tree, trial, tmp_path):
    out = tmp_path / "mine"
    command = ["submit", trial, "--backend", "knn", "--out", out, "--data", tree.data]
    code, shown, err = asdray(*command)
    assert (code, err) == (0, "")
    assert "2 files of 16 eval clips" in shown
    assert "no complete submission: the trial has no grinder, shaker, ToyDrone" in shown
    files = {p.name: p.read_bytes() for p in out.glob("*.csv")}
    assert set(files) == {f"{k}_bandsaw_section_00_test.csv" for k in ("anomaly_score", "decision_result")}

    # Scores are those of the score stage; decisions, those above the threshold of the training scores.
    table = store.TrialDir(trial).scores(CKPT, "bandsaw", backend_id(BACKEND))
    import pyarrow.parquet as pq

    rows = pq.read_table(table).to_pylist()
    by_name = {r["clip"].rsplit("/", 1)[1]: r["score"] for r in rows if r["split"] == "test"}
    limit = decision_threshold([r["score"] for r in rows if r["split"] == "train"]).value
    record = json.loads((out / "submission.json").read_text())
    assert record["thresholds"]["bandsaw"]["value"] == limit
    assert (record["quantile"], record["backend_id"], record["dataset"]["kind"]) == (
        0.9, backend_id(BACKEND), "official",
    )  # fmt: skip
    lines = files["anomaly_score_bandsaw_section_00_test.csv"].decode().splitlines()
    assert [tuple(line.split(",")) for line in lines] == [(n, repr(v)) for n, v in sorted(by_name.items())]
    lines = files["decision_result_bandsaw_section_00_test.csv"].decode().splitlines()
    assert lines == [f"{n},{int(v > limit)}" for n, v in sorted(by_name.items())]

    write_list(tree, folder=tmp_path / "truth")
    code, shown, err = asdray("official", out, "--dcase", DCASE, "--ground-truth", tmp_path / "truth")
    assert (code, err) == (0, "")
    assert f"the ground truth of {DCASE} lacks " in shown

    code, shown, _ = asdray(*command, "--quantile", "0.01")
    assert code == 0
    again = (out / "decision_result_bandsaw_section_00_test.csv").read_bytes()
    assert again.count(b",1\n") >= files["decision_result_bandsaw_section_00_test.csv"].count(b",1\n")
    code, _, err = asdray(*command, "--subset", "dev")
    assert code == 2
    assert "holds the eval submission of dis_baseline" in err
    code, shown, _ = asdray(*command[:-3], tmp_path / "dev", "--data", tree.data, "--subset", "dev")
    assert code == 0
    assert "16 dev clips" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backend", "knn", "--ckpt", "best"], "bandsaw is not scored by knn-"),
        (["--backend", "{name: knn, n_neighbors: 3}"], "run `asdray score` first"),
        (["--backend", "{name: knn, n_neighbors: [1, 2]}"], "names 2 backends"),
        (["--backend", "recon"], "--backend recon does not apply to dis_baseline"),
        (["--backend", "knn", "--quantile", "1"], "bandsaw: the quantile of the decision threshold"),
        (["--backend", "nope"], "nope"),
    ],
)
def test_invalid_input_to_submit_gives_one_message_and_writes_nothing(
    asdray, tree, trial, tmp_path, more, message
):
    out = tmp_path / "mine"
    code, _, err = asdray("submit", trial, "--out", out, "--data", tree.data, *more)
    assert code == 2
    assert message in err
    assert not out.exists()
