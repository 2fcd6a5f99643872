"""The doctor: a healthy dataset has nothing to say, and every kind of trouble is named with its fix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import build_tree, samples, write_counts, write_evaluator, write_list, write_wav

from asdray import store
from asdray.audio.cache import ensure_pack
from asdray.dcase.format import format_dataset
from asdray.dcase.records import mark, zips
from asdray.doctor import machine as doctor_machine
from asdray.doctor.dataset import check_dataset


@pytest.fixture
def tree(tmp_path):
    """A complete formatted dataset with ground truth."""
    tree = build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], n_samples=40)
    write_counts(tree)
    write_list(tree)
    format_dataset(tree.data, "dcase2023")
    return tree


@pytest.fixture
def places(tmp_path):
    return store.Places.of(tmp_path / "data", tmp_path / "results")


def said(places, dcase="dcase2023", **kwargs) -> list[tuple[str, str]]:
    """The findings of `check_dataset` other than ``ok``: (kind, text)."""
    report = check_dataset(places, dcase, **kwargs)
    return [(f.kind, f.text) for f in report.findings if f.kind != "ok"]


def train_clips(tree):
    return sorted(tree.folder("dev", "fan", "train").glob("*.wav"))


def asdray(*args):
    return subprocess.run(
        [sys.executable, "-m", "asdray", "doctor", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------------------------------------------------------ a dataset


def test_a_healthy_dataset(tree, places):
    ensure_pack(places, "dcase2023", "fan", "train")
    before = {p: p.lstat().st_mtime_ns for p in places.data.rglob("*")}
    report = check_dataset(places, "dcase2023", deep=True)
    assert {f.kind for f in report.findings} == {"ok"}
    texts = "\n".join(f.text for f in report.findings)
    assert "synthetic data: 16 clips, 1 of 7 dev machines, 1 of 7 eval machines" in texts
    assert "every eval test clip has its label" in texts
    assert "formatted: 16 clips" in texts
    assert "all 16 clips were decoded and hold sound" in texts
    assert report.audit.n_clips == 16
    assert {p: p.lstat().st_mtime_ns for p in places.data.rglob("*")} == before


def test_the_command_and_its_exit_codes(tree, places):
    code = (
        "import sys; from asdray.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'pandas', 'ray'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "doctor", "dcase2023", "--data", str(places.data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["nothing is wrong", "[]"]
    train_clips(tree)[0].unlink()
    run = asdray("dcase2023", "--deep", "--data", places.data)
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1] == "3 things wrong or missing"
    assert "missing dev fan section 00: train source normal 2 of 3; delete the folder" in run.stdout
    assert "wrong   the wavs of dcase2023 are not those that were formatted: 1 removed" in run.stdout
    assert "doctor dcase2023: 15 of 15" in run.stderr
    assert asdray("dcase2033", "--data", places.data).returncode == 2
    assert "name the year" in asdray("--deep").stderr


def test_nothing_there_and_not_formatted(tree, places):
    assert [kind for kind, _ in said(places, "dcase2022")] == ["missing"]
    assert "there is no dcase2022 in" in said(places, "dcase2022")[0][1]
    shutil.rmtree(places.data / "formatted")
    assert [(kind, "run `asdray format dcase2023" in text) for kind, text in said(places)] == [
        ("missing", True)
    ]
    with pytest.raises(ValueError, match="unknown DCASE year"):
        check_dataset(places, "dcase1999")


def test_what_an_official_dataset_lacks(tree, places):
    (places.data / "original" / "dcase2023" / "synthetic.json").unlink()
    format_dataset(places.data, "dcase2023")
    shutil.rmtree(tree.folder("eval", "bandsaw", "test"))
    findings = said(places)
    assert [kind for kind, _ in findings] == ["missing"] * 4 + ["note"] + ["wrong"] * 2
    texts = [text for kind, text in findings if kind != "note"]
    assert texts[0].startswith(
        "dev machines: bearing, gearbox, slider, ToyCar, ToyTrain, valve; run `asdray download"
    )
    assert texts[1].startswith("eval machines: grinder, shaker, ToyDrone")
    assert (
        "dev fan section 00: train source normal 3 of 990, train target normal 1 of 10, test 4 of 200"
        in texts[2]
    )
    assert (
        "eval bandsaw section 00: train source normal 3 of 990, train target normal 1 of 10, test 0 of 200"
        in texts[3]
    )
    assert "4 removed (eval/bandsaw/test/section_00_0000.wav" in texts[4]
    assert "links of the formatted tree that are missing or lead nowhere: 4, such as" in texts[5]


def test_what_changed_since_it_was_formatted(tree, places):
    one, two, *_ = train_clips(tree)
    os.utime(one, (1, 1))
    write_wav(two.with_name("section_00_source_train_normal_0900_a.wav"), "x", n=40)
    findings = said(places)
    assert ("note", "dev fan section 00: different: train source normal 4 of 3") in findings
    (wrong,) = [text for kind, text in findings if kind == "wrong"]
    assert "1 changed (dev/fan/train/" in wrong
    assert "1 added (dev/fan/train/section_00_source_train_normal_0900_a.wav)" in wrong
    assert wrong.endswith(f"run `asdray format dcase2023 --data {places.data}` again")


def test_every_bad_header_is_listed(tree, places):
    one, two, *_ = train_clips(tree)
    one.write_bytes(b"")
    write_wav(two, "x", n=40, rate=8000)
    wrong = [text for kind, text in said(places) if kind == "wrong"]
    assert f"{one}: is empty (0 bytes)" in wrong
    assert f"{two}: has 8000 Hz, dcase2023 has 16000 Hz" in wrong


def test_links_that_lead_nowhere(tree, places):
    links = sorted((store.formatted_dir(places.data, "dcase2023") / "raw" / "fan" / "train").iterdir())
    links[0].unlink()
    links[1].unlink()
    links[1].symlink_to("nowhere")
    (findings,) = said(places)
    assert findings[0] == "wrong"
    assert "links of the formatted tree that are missing or lead nowhere: 2, such as" in findings[1]


@pytest.mark.parametrize("file", ["clips.parquet", "dataset.json"])
def test_a_damaged_manifest(tree, places, file):
    path = store.formatted_dir(places.data, "dcase2023") / file
    path.write_bytes(path.read_bytes()[:-100])
    ((kind, text),) = said(places)
    assert kind == "wrong"
    assert str(path) in text
    format_dataset(places.data, "dcase2023")
    assert said(places) == []


def test_ground_truth_missing_late_and_incomplete(tree, places):
    (path,) = tree.ground_truth.iterdir()
    lines = path.read_text()
    path.unlink()
    tree.ground_truth.rmdir()
    format_dataset(places.data, "dcase2023")
    ((kind, text),) = said(places)
    assert (kind, text.split(":")[0]) == ("note", "no ground truth")
    tree.ground_truth.mkdir()
    path.write_text(lines)
    ((kind, text),) = said(places)
    assert kind == "wrong"
    assert text.startswith("the ground truth has 4 new labels since it was formatted; run `asdray format")
    path.write_text("\n".join(lines.splitlines()[:-1]))
    format_dataset(places.data, "dcase2023")
    ((kind, text),) = said(places)
    assert kind == "missing"
    assert text.startswith("eval bandsaw section 00: test labels 3 of 4; ")
    path.write_text("bandsaw\nsection_00_0000.wav,nonsense\n")
    assert ("wrong", True) in [(kind, "line 2" in text) for kind, text in said(places)]


def test_labels_that_were_mended_upstream(tree, places):
    (path,) = tree.ground_truth.iterdir()
    text = path.read_text()
    path.write_text(
        text.replace("_normal_", "_?_").replace("_anomaly_", "_normal_").replace("_?_", "_anomaly_")
    )
    findings = [text for kind, text in said(places) if kind == "wrong"]
    assert findings == [
        "the ground truth has 4 changed labels since it was formatted; run `asdray format dcase2023 "
        f"--data {places.data}` again"
    ]


def test_packs_of_other_audio(tree, places):
    for machine, split in (("fan", "train"), ("fan", "test"), ("bandsaw", "train")):
        ensure_pack(places, "dcase2023", machine, split)
    write_wav(train_clips(tree)[0], "x", n=44)
    format_dataset(places.data, "dcase2023")
    folder = store.pack_dir(places.cache, "dcase2023", "bandsaw", "train")
    os.truncate(next(folder.glob("*.npy")), 100)
    ((kind, text),) = said(places)
    assert kind == "note"
    assert (
        f"or of other clips: 2, such as {store.pack_dir(places.cache, 'dcase2023', 'fan', 'train')}" in text
    )


def test_what_a_download_left(tree, places):
    zips = places.data / "original" / "dcase2023" / "zips"
    zips.mkdir()
    (zips / "dev_fan.zip").write_bytes(b"x")
    (zips / "dev_valve.zip.part").write_bytes(b"x")
    (zips / "dev_valve.zip.part.etag").write_bytes(b"x")
    findings = said(places)
    assert [kind for kind, _ in findings] == ["missing", "note"]
    assert f"{zips / 'dev_valve.zip.part'}: a download that was interrupted" in findings[0][1]
    assert "zips: 1 (0.0 GB), such as" in findings[1][1]


def test_deep_decodes_and_lists_every_bad_clip(tree, places):
    zero, constant, cut, *_ = train_clips(tree)
    soundfile.write(zero, np.zeros(40, np.int16), 16000, subtype="PCM_16")
    soundfile.write(constant, np.full(40, 32767, np.int16), 16000, subtype="PCM_16")
    cut.write_bytes(cut.read_bytes()[:20] + b"\xff" * 4 + cut.read_bytes()[24:])
    format_failed = [text for kind, text in said(places) if kind == "wrong"]
    assert not [text for text in format_failed if str(zero) in text or str(constant) in text]
    seen = []
    findings = said(places, deep=True, on_progress=lambda *step: seen.append(step))
    wrong = [text for kind, text in findings if kind == "wrong"]
    assert f"{zero}: holds nothing but zeros" in wrong
    assert f"{constant}: holds nothing but the value 32767" in wrong
    assert [text for text in wrong if str(cut) in text]
    assert seen[-1][0] == seen[-1][1]


def test_after_a_complete_download_nobody_is_sent_to_download_again(tmp_path, places):
    tree = build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], n_samples=40)
    for z in zips("dcase2023"):
        if z.machine == "fan":
            mark(tree.data, z, files={"fan/train": 4, "fan/test": 4})
        elif z.machine == "bandsaw":  # a file of its training clips was taken away since
            mark(tree.data, z, files={f"bandsaw/{z.part.removeprefix('eval_')}": 5})
        elif z.machine == "grinder":
            mark(tree.data, z, files={})
    format_dataset(tree.data, "dcase2023")
    findings = [text for kind, text in said(places) if kind == "missing"]
    complete = "all that the published zips hold is there: what is missing is not in them"
    again = f"run `asdray download dcase2023 --data {tree.data}`"
    (fan,) = [text for text in findings if text.startswith("dev fan section 00: ")]
    (bandsaw,) = [text for text in findings if text.startswith("eval bandsaw section 00: ")]
    assert fan.endswith(f"; {complete}")
    assert bandsaw.endswith(f"; {again}")
    assert f"eval machines: grinder; {complete}" in findings
    assert f"dev machines: bearing, gearbox, slider, ToyCar, ToyTrain, valve; {again}" in findings
    run = subprocess.run(
        [sys.executable, "-m", "asdray", "format", "dcase2023", "--data", str(tree.data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr.splitlines() == [
        again,
        complete,
        "then format again; or accept what is missing with --partial",
    ]


def test_ground_truth_without_domains_is_missing(tree, places):
    shutil.rmtree(tree.ground_truth)
    write_evaluator(tree, attributes=False)
    shutil.rmtree(tree.ground_truth / "ground_truth_domain")
    format_dataset(tree.data, "dcase2023")
    findings = said(places)
    assert (
        "missing",
        f"eval bandsaw section 00: test domains 0 of 4; add what says so to {tree.ground_truth}",
    ) in findings


def test_every_bad_row_of_the_ground_truth_is_a_line(tree, places):
    (path,) = tree.ground_truth.iterdir()
    path.write_text("bandsaw\nsection_00_0000.wav,nonsense\nsection_00_0001.wav,rubbish\n")
    wrong = [text for kind, text in said(places) if kind == "wrong"]
    assert [text.split(" is not")[0] for text in wrong] == [
        f"{path}, line 2: 'nonsense.wav'",
        f"{path}, line 3: 'rubbish.wav'",
    ]


def test_omissions_are_reported_without_eval_clips_too(tmp_path, places):
    tree = build_tree(tmp_path / "data", "dcase2021", ["fan"], n_samples=40)
    shutil.rmtree(tmp_path / "data" / "original" / "dcase2021" / "eval_data")
    shutil.copytree(tree.folder("dev", "fan", "source_test"), tree.folder("dev", "fan", "test"))
    format_dataset(tree.data, "dcase2021")
    assert [text for kind, text in said(places, "dcase2021") if kind == "note" and "6 wavs left out" in text]


def test_deep_hears_a_dead_microphone(tmp_path, places):
    tree = build_tree(tmp_path / "data", "dcase2026", ["fan"], n_samples=40)
    clip = train_clips(tree)[0]
    audio = samples("x", 40, 2)
    audio[:, 1] = 0
    soundfile.write(clip, audio, 16000, subtype="PCM_16")
    findings = said(places, "dcase2026", deep=True)
    assert ("wrong", f"{clip}: channel 1 holds nothing but zeros") in findings


# ------------------------------------------------------------------------------------------ a machine


def test_this_machine(places, tmp_path):
    run = asdray("--data", places.data, "--results", places.results, "--cache-dir", tmp_path / "cache")
    assert run.returncode == 0, run.stdout
    for what in (
        "Python 3",
        "packages as required",
        "CPUs",
        "of memory",
        "data ",
        "cache ",
        "results ",
        "nothing is wrong",
    ):
        assert what in run.stdout
    assert not list(tmp_path.iterdir())  # it left nothing


@pytest.mark.parametrize(
    ("path", "says"), [("/proc/asdray", "cannot be written"), ("{tmp}/file/data", "{tmp}/file is a file")]
)
def test_folders_that_cannot_be_used(tmp_path, path, says):
    (tmp_path / "file").write_text("")
    (found,) = doctor_machine._folder("data", Path(path.format(tmp=tmp_path)), 0)
    assert found.kind == "wrong"
    assert says.format(tmp=tmp_path) in found.text
    assert found.text.endswith("choose another place with --data")


def test_data_that_somebody_else_has_formatted_need_not_be_written(tree, places, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(doctor_machine.tempfile, "TemporaryDirectory", refuse)
        (data,) = doctor_machine._folder("data", places.data, 0)
        (cache,) = doctor_machine._folder("cache", places.cache, 0)
    assert (data.kind, cache.kind) == ("ok", "wrong")
    assert "formatted years can be read, nothing can be written" in data.text
    assert cache.text.endswith("(Permission denied): choose another place with --cache-dir")
    monkeypatch.setattr(doctor_machine, "can_be_written", lambda path: path != places.cache)
    texts = [f.text for f in doctor_machine.check_machine(places)]
    assert any(text.startswith(f"cache {places.cache}: ") for text in texts), "below the data, and looked at"


def test_a_file_system_without_links(places, monkeypatch):
    places.data.mkdir()

    def refuse(source, target, target_is_directory):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    (found,) = doctor_machine._folder("data", places.data, 0)
    assert found.kind == "note"
    assert found.text.endswith(
        "has no symbolic links (Operation not permitted): format years with --link copy"
    )


def test_packages_that_do_not_fit(monkeypatch):
    # What this environment holds cannot be changed for a test: what asdray asks for is.
    lines = ["numpy>=99", "no-such-package-of-ours>=1", "rich", "pytest>=99; extra == 'dev'"]
    monkeypatch.setattr(doctor_machine.metadata, "requires", lambda name: lines)
    found = [(f.kind, f.text) for f in doctor_machine._packages()]
    assert [kind for kind, _ in found] == ["wrong", "wrong", "ok"]
    assert found[0][1].startswith("numpy is ")
    assert "not >=99" in found[0][1]
    assert "no-such-package-of-ours is not installed" in found[1][1]
    assert found[2][1].startswith("1 packages as required: rich ")
