"""Clips held out by ``train.hold_out``, and the decision thresholds that are made of these."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import AE, DIS, build_year, trial_of
from trees import build_tree, write_wav

from asdray.config.backend import Knn, backend_id
from asdray.config.base import canonical
from asdray.config.frontend import RawSpec
from asdray.config.system import System
from asdray.config.system_names import short_values
from asdray.config.train import HoldOut, Train
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest
from asdray.evaluation.decisions import (
    Measured,
    Normals,
    decision_threshold,
    expected_rates,
    limit,
    limits_of,
    measured,
)
from asdray.stages.decisions import decide, read_scores
from asdray.stages.evaluate import evaluate
from asdray.stages.extract import extract, read_extract
from asdray.stages.held_out import held_out, new_to
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.submit import submit
from asdray.stages.train import train
from asdray.stages.trial_json import write_trial
from asdray.store import Places


def holding_out(system: System, share) -> System:
    values = {**system.train.model_dump(), "hold_out": share}
    return system.model_copy(update={"train": Train.model_validate(values)})


# ------------------------------------------------------------------------------------------------ which clips

CLIPS = [f"dev/fan/train/{i:03d}.wav" for i in range(60)]
GROUPS = [(i % 2, "target" if i >= 48 else "source") for i in range(60)]


def test_every_group_gives_its_share_at_least_one_and_never_all():
    out = held_out({"source": 0.25, "target": 0.01}, CLIPS, GROUPS)
    of = [group for clip, group in zip(CLIPS, GROUPS, strict=True) if clip in out]
    assert {group: of.count(group) for group in set(GROUPS)} == {
        (0, "source"): 6, (1, "source"): 6, (0, "target"): 1, (1, "target"): 1,
    }  # fmt: skip
    assert held_out({"source": 0.99}, CLIPS[:3], [("source",)] * 3) < set(CLIPS[:3])
    assert held_out({"source": 0.5}, CLIPS[:1], [("source",)]) == set()


def test_the_choice_depends_neither_on_the_order_nor_on_other_groups():
    shares = {"source": 0.25, "target": 0.5}
    everything = held_out(shares, CLIPS, GROUPS)
    turned = np.random.default_rng(0).permutation(60).tolist()
    assert held_out(shares, [CLIPS[i] for i in turned], [GROUPS[i] for i in turned]) == everything
    own = [i for i, group in enumerate(GROUPS) if group == (1, "source")]
    assert held_out(shares, [CLIPS[i] for i in own], [GROUPS[i] for i in own]) == everything & {
        CLIPS[i] for i in own
    }


def test_the_option_changes_no_hash_of_systems_without_it():
    assert "hold_out" not in canonical(DIS.train)
    both = holding_out(DIS, {"source": 0.1}), holding_out(DIS, 0.1)
    assert isinstance(both[0].train.hold_out, HoldOut)
    assert (both[0].train.held_out_shares, both[1].train.held_out_shares) == (
        {"source": 0.1, "target": 0.5}, {"source": 0.1, "target": 0.1},
    )  # fmt: skip
    assert len({system.id for system in (DIS, *both)}) == 3
    shares = [None, 0.1, {"source": 0.1, "target": 0.5}]
    assert short_values(shares) == ["null", "0.1", "(source=0.1,target=0.5)"]
    for share in (0, 1, -0.1, {"target": 1.5}, {"sauce": 0.1}):
        with pytest.raises(ValueError, match="hold_out"):
            holding_out(DIS, share)


# -------------------------------------------------------------------------------------------------- no training

BOTH = AE.model_copy(
    update={"frontend": AE.frontend.model_copy(update={"n_mels": 8, "scores": ("recon", "mahalanobis")})}
)


def learnt(root, system):
    """The weights, and the test scores or embeddings of the fan."""
    places = Places.of(root / "data", root / "results")
    files = TrialFiles.load(trial_of(system), places)
    unit = files.trial.unit_of("fan")
    train(files, unit)
    extract(files, "fan", "last")
    saved = torch.load(files.folder.checkpoint(unit.name, "last"), weights_only=True)
    found = read_extract(files.folder.extract("last", "fan", "test"))
    return saved["state_dict"], [*found.embeddings.values(), *found.own.values()]


def same(a, b):
    weights = all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    return weights, all(np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True))


@pytest.mark.parametrize("system", [DIS, BOTH], ids=["dis", "ae"])
def test_no_held_out_clip_changes_weights_or_scores_of_other_clips(tmp_path, system):
    build_year(tmp_path / "one" / "data")
    held = holding_out(system, 0.25)
    known = load_manifest(tmp_path / "one" / "data", "dcase2023").to_pylist()
    clips = [row for row in known if (row["machine"], row["split"]) == ("fan", "train")]
    columns = ([row[name] for row in clips] for name in ("clip", "section", "domain"))
    out = new_to(held, *columns)
    assert len(out) == 2  # one of four source clips, one of two target clips
    plain = learnt(tmp_path / "one", held)
    for name, changed in (("held", True), ("trained", False)):
        shutil.copytree(tmp_path / "one" / "data", tmp_path / name / "data", symlinks=True)
        row = next(row for row in clips if (row["clip"] in out) == changed)
        path = tmp_path / name / "data" / row["original_path"]
        path.unlink()
        write_wav(path, "another sound", row["n_samples"])
        format_dataset(tmp_path / name / "data", "dcase2023")
        assert same(plain, learnt(tmp_path / name, held)) == (changed, changed)


# -------------------------------------------------------------------------------------------------- thresholds


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([0.5, 0.9]), st.integers(0, 99))
def test_the_expected_rates_are_those_of_exchangeable_scores(n_source, n_target, quantile, seed):
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(size=n_source), rng.normal(1, 2, size=n_target)]
    domain = ["source"] * n_source + ["target"] * n_target
    of = Normals(scores, domain, held_out=True)
    for per_domain in (False, True):
        limits = limits_of(of, quantile, per_domain)
        rates = expected_rates(limits, of)
        for name, values in of.by_domain().items():
            # A new clip is equally likely to come at each of the places between and beside the known ones.
            above = (values > limit(limits, name)).sum()
            assert rates[name] == pytest.approx((above + 1) / (len(values) + 1))
        asked = list(rates.values()) if per_domain else [np.mean(list(rates.values()))]
        least = [1 / (len(v) + 1) for v in of.by_domain().values()]
        for rate, best in zip(asked, least if per_domain else [np.mean(least)], strict=True):
            assert rate <= max(1 - quantile, best) + 1e-9, "no threshold gives less, or enough"


def test_held_out_scores_give_the_rate_that_is_asked_for_where_gamma_of_trained_ones_does_not():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        known, new = rng.normal(0, 1, 40), rng.normal(0, 1, 200)
        of = Normals(known, ["source"] * 20 + ["target"] * 20, held_out=True)
        rates.append(np.mean(new > limit(limits_of(of, 0.9, per_domain=True), "target")))
    assert np.mean(rates) == pytest.approx(2 / 21, abs=0.015)
    trained = Normals(rng.normal(-2, 1, 40), ["source"] * 40, held_out=False)
    assert limits_of(trained, 0.9, True) == {"": decision_threshold(trained.scores, 0.9)}
    for scores, quantile, message in (([np.nan], 0.9, "finite"), ([1.0], 1.0, "quantile")):
        with pytest.raises(ValueError, match=message):
            limits_of(Normals(np.array(scores), ["source"], held_out=True), quantile, False)


def test_false_alarms_and_f1_by_hand():
    found = measured(
        [True, False, True, True, False], [False, False, True, False, True], ["source"] * 3 + ["target"] * 2
    )
    assert found == {"source": Measured(0.5, pytest.approx(2 / 3)), "target": Measured(1.0, 0.0)}
    assert measured([True], [None], ["source"]) == measured([True], [True], [None]) == {}
    assert measured([True], [True], ["source"]) == {"source": Measured(None, 1.0)}


# ----------------------------------------------------------------------------------------------- where these go


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trial of 2021, whose names tell every domain, up to the evaluation; and its places."""
    root = tmp_path_factory.mktemp("held")
    places = Places.of(root / "data", root / "results")
    build_tree(places.data, "dcase2021", ["fan"], {"source": 9, "target": 4}, 2, n_samples=8000)
    format_dataset(places.data, "dcase2021")
    system = holding_out(System(frontend=RawSpec(n_mels=16)), 0.3)
    files = TrialFiles.load(Trial("dcase2021", "raw", system, 0, ("fan",)), places)
    write_trial(files, Request(("last",), (Knn(),)))
    train(files, files.trial.units[0])
    extract(files, "fan", "last")
    score(files, "fan", "last", Knn())
    evaluate(files, "fan", "last", [Knn()])
    return files


def test_submissions_have_a_threshold_per_domain_where_every_domain_is_told(finished, asdray, tmp_path):
    made = submit(finished, "last", Knn(), tmp_path / "out")
    rows = pq.read_table(finished.folder.scores("last", "fan", backend_id(Knn()))).to_pylist()
    one = decide(finished, "fan", read_scores(finished, "fan", "last", Knn()), 0.9)
    assert made.decided["fan"].limits == one.limits
    source = [row["score"] for row in rows if row["split"] == "train" and "_source_" in row["clip"]]
    above = sorted(source)[-(-9 * (len(source) + 1) // 10) - 1]  # the 0.9 (N + 1)-th lowest
    assert one.limits["source"].value == above
    assert set(one.limits) == {"", "source", "target"}
    record = json.loads((tmp_path / "out" / "submission.json").read_text())["thresholds"]["fan"]
    assert record["target"]["value"] == one.limits["target"].value
    assert record["held_out_clips"] == len(one.normals.scores) == 6 * 13
    path = tmp_path / "out" / "decision_result_fan_section_03_target_test.csv"
    found = dict(line.split(",") for line in path.read_text().splitlines())
    scores = {
        row["clip"].rpartition("/")[2]: row["score"]
        for row in rows
        if row["clip"].startswith("eval/fan/test")
    }
    assert found == {name: str(int(scores[name] > one.limits["target"].value)) for name in found}
    code, shown, _ = asdray(
        "submit",
        finished.folder.root,
        "--backend",
        "knn",
        "--out",
        tmp_path / "out",
        "--data",
        finished.places.data,
    )
    assert code == 0
    assert "expected false alarms: source 9 %, target " in shown
    assert "on dev clips, mean over machines: false alarms source " in shown


def test_the_score_file_says_which_clips_are_held_out(finished):
    with open(finished.folder.score_view("last", "fan", "train"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["held_out"] for row in rows} == {"True"}  # the system learns nothing: every clip is new to it
    with open(finished.folder.score_view("last", "fan", "test"), newline="") as file:
        assert "held_out" not in next(csv.reader(file))
