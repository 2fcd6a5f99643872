"""Format: the unified tree, the manifest, ids, and every bad file in one message."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from trees import build_tree, samples, write_counts, write_evaluator, write_list, write_wav

from asdray import store
from asdray.audio.cache import check_unchanged
from asdray.dcase import manifest
from asdray.dcase.format import format_dataset
from asdray.dcase.names import build_name
from asdray.dcase.truth import load_ground_truth
from asdray.dcase.wav import read_header
from asdray.dcase.years import get_year
from asdray.evaluation import official


@pytest.fixture
def tree(tmp_path):
    return build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], per_cell=2, n_samples=40)


def formatted(tree) -> Path:
    return store.formatted_dir(tree.data, tree.dcase)


def rows_of(tree) -> dict[str, dict]:
    return {r["clip"]: r for r in manifest.load_manifest(tree.data, tree.dcase).to_pylist()}


def files_of(tree) -> set[str]:
    return {p.relative_to(tree.data).as_posix() for p in (formatted(tree) / "raw").rglob("*.wav")}


# ------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("dcase", ["dcase2022", "dcase2023"])
def test_every_row_of_the_manifest_and_every_link(tmp_path, dcase):
    machines = {"dcase2022": ["fan", "ToyCar"], "dcase2023": ["fan", "ToyCar", "bandsaw"]}[dcase]
    tree = build_tree(tmp_path / "data", dcase, machines, n_samples=40)
    write_evaluator(tree)
    write_list(tree)
    if dcase == "dcase2022":  # the released names of the Toy machines are those of other clips
        for path in (tree.ground_truth / "ground_truth_attributes" / "ToyCar").iterdir():
            text = path.read_text()
            path.write_text(
                text.replace("_anomaly_", "_?_").replace("_normal_", "_anomaly_").replace("_?_", "_normal_")
            )
    report = format_dataset(tree.data, dcase)
    rows = rows_of(tree)

    originals = sorted((tree.data / "original" / dcase).rglob("*.wav"))
    assert len(rows) == len(originals) == report.n_clips
    assert list(rows) == sorted(rows)
    assert manifest.load_manifest(tree.data, dcase).schema.equals(manifest.schema())
    for original in originals:
        subset, machine, split = original.parts[-5][: -len("_data")], original.parts[-3], original.parts[-2]
        row = rows[f"{subset}/{machine}/{split}/{original.name}"]
        tokens = original.stem.split("_", 6)
        label_source, name = "name", original.name
        if split == "test" and subset == "eval":
            clip = tree.truth[machine, original.name]
            label_source = "evaluator"
            section, domain, is_anomaly, attributes = (
                clip.section,
                clip.domain,
                clip.is_anomaly,
                clip.attributes,
            )
            if (dcase, machine) == ("dcase2022", "ToyCar"):
                attributes = ""
            else:
                name = build_name(dcase, "eval", clip)
        else:
            section, domain, is_anomaly, attributes = (
                int(tokens[1]),
                tokens[2],
                tokens[4] == "anomaly",
                tokens[6],
            )
        found = original.stat()
        assert row == {
            "clip": f"{subset}/{machine}/{split}/{original.name}",
            "path": f"formatted/{dcase}/raw/{machine}/{split}/{name}",
            "original_path": original.relative_to(tree.data).as_posix(),
            "machine": machine,
            "section": section,
            "domain": domain,
            "split": split,
            "subset": subset,
            "is_anomaly": is_anomaly,
            "label_source": label_source,
            "attributes": attributes,
            "revealed_attributes": None,
            "sample_rate": 16000,
            "channels": 1,
            "n_samples": 40 + 16 * machines.index(machine),
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
        }
        link = tree.data / row["path"]
        assert link.is_symlink()
        assert not os.path.isabs(os.readlink(link))
        assert link.samefile(original)
    assert files_of(tree) == {r["path"] for r in rows.values()}
    assert report.unlabelled == {}


# Of each year a machine with hidden attributes, where it has one, and one of each subset.
EVERY_YEAR = {
    "dcase2020": ["ToyCar", "fan"],
    "dcase2021": ["fan"],
    "dcase2022": ["ToyTrain", "bearing"],
    "dcase2023": ["fan", "Vacuum"],
    "dcase2024": ["ToyTrain", "fan", "3DPrinter", "BrushlessMotor"],
    "dcase2025": ["bearing", "fan", "ToyPet", "HomeCamera"],
    "dcase2026": ["ToyCar", "fan", "Sander", "ToothBrush"],
}


@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("dcase", EVERY_YEAR)
def test_every_year_row_by_row(tmp_path, dcase, with_truth):
    tree = build_tree(tmp_path, dcase, EVERY_YEAR[dcase], n_samples=20)
    year = int(dcase[-4:])
    if with_truth:
        write_list(tree)
        if dcase == "dcase2022":
            write_evaluator(tree, attributes=False)
    report = format_dataset(tree.data, dcase)
    rows = rows_of(tree)
    assert list(rows) == sorted(tree.clips)
    names = set()
    for key, clip in tree.clips.items():
        row = rows[key]
        subset, machine, split, name = key.split("/")
        known = with_truth or (subset, split) != ("eval", "test")
        nameless = (dcase, machine, subset, split) == ("dcase2022", "ToyTrain", "eval", "test")
        assert (row["subset"], row["machine"], row["split"]) == (subset, machine, split)
        assert row["section"] == clip.section
        assert row["is_anomaly"] == (clip.is_anomaly if known else None)
        assert row["domain"] == (clip.domain if known or year <= 2021 else None)
        assert row["attributes"] == (clip.attributes if known and not nameless else "")
        assert row["channels"] == (2 if year == 2026 else 1)
        new = name
        if year == 2020 and known:
            label = "anomaly" if clip.is_anomaly else "normal"
            new = f"section_{clip.section:02d}_source_{split}_{label}_{clip.index}.wav"
        elif known and not nameless and split == "test":
            new = build_name(dcase, subset, clip)
        assert row["path"] == f"formatted/{dcase}/raw/{machine}/{split}/{new}"
        names.add(row["path"])
    assert len(names) == len(rows)
    assert files_of(tree) == names
    assert format_dataset(tree.data, dcase).made == 0
    assert bool(report.unlabelled) != with_truth


def test_counts_and_summary(tree):
    write_list(tree)
    report = format_dataset(tree.data, "dcase2023")
    dataset = manifest.load_dataset(tree.data, "dcase2023")
    assert dataset == report.dataset
    assert dataset.kind == "official"
    assert list(dataset.machines) == ["fan", "bandsaw"]  # the year's order
    bandsaw = dataset.machines["bandsaw"]
    assert bandsaw.counts == {
        "eval/test/source/anomaly": 2,
        "eval/test/source/normal": 2,
        "eval/test/target/anomaly": 2,
        "eval/test/target/normal": 2,
        "eval/train/source/normal": 3,
        "eval/train/target/normal": 1,
    }
    assert bandsaw.count() == 12
    assert bandsaw.count(split="test", label="anomaly") == 4
    assert bandsaw.count(subset="dev") == 0
    assert bandsaw.label_sources == ("eval_data_list_2023.csv",)
    assert dataset.machines["fan"].label_sources == ("name",)
    assert bandsaw.supplemental is None
    assert bandsaw.split_id("supplemental") is None
    assert bandsaw.split_id("train") == bandsaw.train
    table = manifest.load_manifest(tree.data, "dcase2023")
    some = manifest.rows(table, machine="bandsaw", split="train", domain="source")
    assert some["clip"].to_pylist() == [
        f"eval/bandsaw/train/section_00_source_train_normal_000{i}_vel_{i % 2}_m-n_W.wav" for i in range(3)
    ]
    assert len(manifest.rows(table, subset="dev", section=0)) == dataset.machines["fan"].count()
    with pytest.raises(
        ValueError, match=r"without bandsow; did you mean 'bandsaw'\? \(there: fan, bandsaw\)"
    ):
        dataset.require(["fan", "bandsow"])


def test_ground_truth_published_later_changes_only_the_labels(tree):
    report = format_dataset(tree.data, "dcase2023")
    before = report.dataset
    assert report.unlabelled == {"bandsaw": 8}
    assert before.machines["bandsaw"].label_sources == ()
    assert before.machines["bandsaw"].count(label="unknown", domain="unknown") == 8
    anonymous = {p for p in files_of(tree) if "bandsaw/test/section_00_00" in p}
    assert len(anonymous) == 8
    row = rows_of(tree)["eval/bandsaw/test/section_00_0000.wav"]
    assert (row["is_anomaly"], row["domain"], row["label_source"], row["attributes"]) == (
        None,
        None,
        None,
        "",
    )

    write_list(tree)
    report = format_dataset(tree.data, "dcase2023")
    after = report.dataset
    assert (report.made, report.removed) == (8, 8)
    assert report.unlabelled == {}
    assert not anonymous & files_of(tree)
    assert after.id == before.id
    for machine in ("fan", "bandsaw"):
        assert after.machines[machine].train == before.machines[machine].train
        assert after.machines[machine].test == before.machines[machine].test
    assert after.machines["fan"] == before.machines["fan"]
    assert after.machines["bandsaw"].labels != before.machines["bandsaw"].labels


def test_partial_ground_truth_leaves_the_rest_null(tree):
    path = write_list(tree, "\n")
    path.write_text("\n".join(path.read_text().splitlines()[:-3]))
    report = format_dataset(tree.data, "dcase2023")
    assert report.unlabelled == {"bandsaw": 3}
    assert sum(r["is_anomaly"] is None for r in rows_of(tree).values()) == 3


def test_asdkit_labels_on_request_change_the_labels_alone(tmp_path):
    tree = build_tree(tmp_path, "dcase2022", ["ToyCar", "fan"], n_samples=20)
    write_evaluator(tree, attributes=False)
    path = write_list(tree)
    toys, fans = path.read_text().split("fan\n")
    swapped = toys.replace("_source_", "_?_").replace("_target_", "_source_").replace("_?_", "_target_")
    path.write_text(f"{swapped}fan\n{fans}")
    official = format_dataset(tree.data, "dcase2022").dataset
    before = rows_of(tree)
    asdkit = format_dataset(tree.data, "dcase2022", labels="asdkit").dataset
    assert asdkit.id == official.id
    assert asdkit.machines["fan"] == official.machines["fan"]
    one, other = official.machines["ToyCar"], asdkit.machines["ToyCar"]
    assert (one.train, one.test) == (other.train, other.test)
    assert one.labels != other.labels
    assert (one.label_sources, other.label_sources) == (("evaluator", "name"), ("asdkit", "name"))
    for key, row in rows_of(tree).items():
        assert row["is_anomaly"] == before[key]["is_anomaly"]
        if key.startswith("eval/ToyCar/test/"):
            assert {row["domain"], before[key]["domain"]} == {"source", "target"}
            assert (row["label_source"], before[key]["label_source"]) == ("asdkit", "evaluator")
        else:
            assert row == before[key]
    with pytest.raises(ValueError, match="unknown labels 'asdkitt'; did you mean 'asdkit'"):
        format_dataset(tree.data, "dcase2022", labels="asdkitt")


def test_attributes_that_were_revealed_later_stand_beside_the_published_ones(tmp_path):
    tree = build_tree(tmp_path, "dcase2024", ["slider"], n_samples=20)
    before = format_dataset(tree.data, "dcase2024").dataset
    folder = tree.ground_truth / "slider"
    folder.mkdir(parents=True)
    name = "section_00_source_train_normal_0000_noAttribute.wav"
    (folder / "attributes_00_train_correspondence.csv").write_text(
        f"source_file_name,target_file_name\nsection_00_source_train_normal_0000_vel_300.wav,{name}\n"
    )
    after = format_dataset(tree.data, "dcase2024").dataset
    assert after.machines == before.machines
    rows = rows_of(tree)
    row = rows.pop(f"dev/slider/train/{name}")
    assert (row["attributes"], row["revealed_attributes"]) == ("noAttribute", "vel_300")
    assert {r["revealed_attributes"] for r in rows.values()} == {None}


def test_ground_truth_from_elsewhere(tree, tmp_path):
    write_list(tree, folder=tmp_path / "mine")
    assert format_dataset(tree.data, "dcase2023", ground_truth=tmp_path / "mine").unlabelled == {}
    with pytest.raises(ValueError, match="there is no ground-truth folder"):
        format_dataset(tree.data, "dcase2023", ground_truth=tmp_path / "none")


@pytest.mark.parametrize("place", [".", "dev_data", "eval_data", "eval_data/raw"])
def test_a_list_beside_the_clips_is_ground_truth(tree, place):
    folder, original = store.ground_truth_dir(tree.data, tree.dcase), tree.data / "original" / tree.dcase
    write_list(tree, folder=original / place)
    report = format_dataset(tree.data, tree.dcase)
    assert f"no ground truth is in {folder}: that in {original / place} is read" in report.notes
    assert report.unlabelled == {}
    write_list(tree)
    assert not [note for note in format_dataset(tree.data, tree.dcase).notes if "ground truth" in note]


def test_kind_and_ids_follow_the_audio(tree):
    before = format_dataset(tree.data, "dcase2023").dataset
    (tree.data / "original" / "dcase2023" / "synthetic-unfinished.json").write_text("{}")
    with pytest.raises(ValueError, match="is unfinished: run `asdray synth dcase2023 --data .*` again"):
        format_dataset(tree.data, "dcase2023")
    (tree.data / "original" / "dcase2023" / "synthetic.json").write_text("{}")
    synthetic = format_dataset(tree.data, "dcase2023").dataset
    assert synthetic.kind == "synthetic"
    assert synthetic.id != before.id
    assert synthetic.machines == before.machines
    write_wav(next(tree.folder("dev", "fan", "train").glob("*.wav")), "another", n=41)
    after = format_dataset(tree.data, "dcase2023").dataset
    assert after.id != synthetic.id
    assert after.machines["fan"].train != before.machines["fan"].train
    assert after.machines["fan"].test == before.machines["fan"].test
    assert after.machines["bandsaw"] == before.machines["bandsaw"]


# ----------------------------------------------------------------------------- again, and interrupted


def test_formatting_again_changes_no_byte(tree):
    write_list(tree)
    first = format_dataset(tree.data, "dcase2023")
    content = {p: p.read_bytes() for p in formatted(tree).glob("[cd]*")}
    assert len(content) == 2
    seen = []
    again = format_dataset(tree.data, "dcase2023", on_progress=lambda *step: seen.append(step))
    assert (again.made, again.kept, again.removed) == (0, first.made, 0)
    assert {p: p.read_bytes() for p in formatted(tree).glob("[cd]*")} == content
    assert seen[-1] == (2 * first.n_clips, 2 * first.n_clips)


def test_two_thousand_clips_twice(tmp_path):
    wav = tmp_path / "a.wav"
    write_wav(wav, "a", n=10)
    content = wav.read_bytes()
    folder = store.original_dir(tmp_path, "dcase2020", "dev") / "fan" / "train"
    folder.mkdir(parents=True)
    for section in (0, 2, 4, 6):
        for i in range(500):
            (folder / f"normal_id_{section:02d}_{i:08d}.wav").write_bytes(content)
    report = format_dataset(tmp_path, "dcase2020")
    assert (report.made, report.kept, report.removed) == (2000, 0, 0)
    manifest_bytes = store.manifest_path(tmp_path, "dcase2020").read_bytes()
    again = format_dataset(tmp_path, "dcase2020")
    assert (again.made, again.kept, again.removed) == (0, 2000, 0)
    assert again.dataset == report.dataset
    assert store.manifest_path(tmp_path, "dcase2020").read_bytes() == manifest_bytes


def test_what_is_wrong_or_stale_is_mended(tree):
    write_list(tree)
    report = format_dataset(tree.data, "dcase2023")
    right = files_of(tree)
    train = formatted(tree) / "raw" / "fan" / "train"
    one, two, three, *_ = sorted(train.iterdir())
    one.unlink()
    two.unlink()
    two.symlink_to(three.resolve())
    (train / "section_00_source_train_normal_0999_vel_0.wav").symlink_to("nowhere.wav")
    (train / "notes.txt").write_text("mine")
    (formatted(tree) / "raw" / "valve" / "test").mkdir(parents=True)
    (formatted(tree) / "raw" / "valve" / "test" / "section_00_0000.wav").symlink_to("nowhere.wav")
    store.dataset_path(tree.data, "dcase2023").unlink()  # as if killed before the end
    again = format_dataset(tree.data, "dcase2023")
    assert (again.made, again.removed) == (2, 2)
    assert again.dataset == report.dataset
    assert files_of(tree) == right
    assert two.samefile(tree.folder("dev", "fan", "train") / two.name)
    assert (train / "notes.txt").exists()
    assert not (formatted(tree) / "raw" / "valve").exists()


_KILLED = """
import os, signal, sys
from pathlib import Path
from asdray.dcase.format import format_dataset
function, calls = getattr(os, sys.argv[2]), int(sys.argv[3])
def killing(*args, **kwargs):
    global calls
    calls -= 1
    if calls < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)
setattr(os, sys.argv[2], killing)
format_dataset(Path(sys.argv[1]), "dcase2023", link=sys.argv[4])
"""


def test_killed_at_any_moment_and_started_again_it_ends_the_same(tmp_path):
    train = {"source": 30, "target": 6}
    tree = build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], train, per_cell=4, n_samples=20)

    def state():
        links = {str(p): os.path.realpath(p) for p in formatted(tree).rglob("*.wav")}
        return links, {p.name: p.read_bytes() for p in formatted(tree).glob("[cd]*")}

    format_dataset(tree.data, "dcase2023")
    before = state()
    labels = write_list(tree)
    format_dataset(tree.data, "dcase2023")
    after = state()
    assert format_dataset(tree.data, "dcase2023").made == 0
    assert state() == after
    for function, calls, link in [
        ("symlink", 9, "symlink"),  # a few new links
        ("replace", 0, "symlink"),  # the manifest written, not yet renamed
        ("replace", 1, "symlink"),  # one of its two files renamed
        ("unlink", 7, "symlink"),  # a few stale links removed
        ("link", 50, "hardlink"),
    ]:
        labels.rename(tmp_path / labels.name)
        labels.parent.rmdir()
        format_dataset(tree.data, "dcase2023")
        assert state() == before
        labels.parent.mkdir()
        (tmp_path / labels.name).rename(labels)
        run = subprocess.run(
            [sys.executable, "-c", _KILLED, str(tree.data), function, str(calls), link], check=False
        )
        assert run.returncode == -signal.SIGKILL, (function, calls)
        if (function, calls) in (("symlink", 9), ("replace", 0)):
            # What the manifest speaks of is all there still.
            assert state()[1] == before[1]
            assert before[0].items() <= state()[0].items()
        format_dataset(tree.data, "dcase2023")
        assert state() == after
        assert not list(formatted(tree).rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("link", "limit", "says"),
    [
        ("copy", 1000, "cannot make the copy .*: File too large"),
        ("symlink", 1000, "cannot write .*clips.parquet"),
    ],
)
def test_no_space_left_is_one_message_and_what_was_there_stays(tmp_path, link, limit, says):
    tree = build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"])
    before = format_dataset(tree.data, "dcase2023").dataset
    content = {p: p.read_bytes() for p in formatted(tree).glob("[cd]*")}
    paths = files_of(tree)
    write_list(tree)
    code = (
        "import resource, sys; from asdray.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); main(sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "format", "dcase2023", "--link", link, "--data", str(tree.data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert re.fullmatch(f"error: {says}.*\n", run.stderr)
    assert {p: p.read_bytes() for p in formatted(tree).glob("[cd]*")} == content
    assert not list(formatted(tree).rglob(".tmp-*"))
    assert paths <= files_of(tree)
    assert manifest.load_dataset(tree.data, "dcase2023") == before
    assert len(manifest.load_manifest(tree.data, "dcase2023")) == len(tree.clips)
    assert format_dataset(tree.data, "dcase2023").unlabelled == {}


def test_a_removed_original_leaves_the_tree_and_the_manifest(tree):
    format_dataset(tree.data, "dcase2023")
    victim = next(tree.folder("dev", "fan", "train").glob("*.wav"))
    victim.unlink()
    report = format_dataset(tree.data, "dcase2023")
    assert report.removed == 1
    assert not [p for p in files_of(tree) if p.endswith(victim.name) and "/fan/" in p]


def test_every_change_of_link_mode(tree):
    content = {p: p.read_bytes() for p in (tree.data / "original").rglob("*.wav")}
    n = len(content)
    ids = set()
    for mode in ("symlink", "copy", "symlink", "hardlink", "copy", "hardlink", "symlink"):
        report = format_dataset(tree.data, "dcase2023", link=mode)
        ids.add(report.dataset.id)
        assert (report.made, report.kept, report.removed) == (n, 0, 0)
        assert format_dataset(tree.data, "dcase2023", link=mode).kept == n
        for row in rows_of(tree).values():
            link, original = tree.data / row["path"], tree.data / row["original_path"]
            assert link.is_symlink() == (mode == "symlink")
            assert link.samefile(original) == (mode != "copy")
            assert link.read_bytes() == content[original]
        assert not list(formatted(tree).rglob(".tmp-*"))
    assert {p: p.read_bytes() for p in (tree.data / "original").rglob("*.wav")} == content
    assert len(ids) == 1
    with pytest.raises(ValueError, match="unknown link 'simlink'; did you mean 'symlink'"):
        format_dataset(tree.data, "dcase2023", link="simlink")


def test_the_data_folder_may_move_and_be_a_link(tree, tmp_path):
    format_dataset(tree.data, "dcase2023")
    moved = tree.data.rename(tmp_path / "elsewhere")
    assert all(p.exists() for p in (moved / "formatted").rglob("*.wav"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    alias = tmp_path / "deep" / "er" / "data"
    alias.symlink_to(moved)
    assert format_dataset(alias, "dcase2023").made == 0


def test_a_manifest_that_belongs_to_another_summary_is_refused(tree):
    format_dataset(tree.data, "dcase2023")
    old = store.dataset_path(tree.data, "dcase2023").read_bytes()
    write_list(tree)
    format_dataset(tree.data, "dcase2023")
    store.dataset_path(tree.data, "dcase2023").write_bytes(old)  # killed between the two files
    with pytest.raises(ValueError, match=r"does not match its dataset\.json: run `asdray format dcase2023"):
        manifest.load_manifest(tree.data, "dcase2023")


def test_not_formatted(tree):
    for load in (manifest.load_dataset, manifest.load_manifest):
        with pytest.raises(
            ValueError, match=r"dcase2023 is not formatted under .*: run `asdray format dcase2023"
        ):
            load(tree.data, "dcase2023")
    format_dataset(tree.data, "dcase2023")
    path = store.dataset_path(tree.data, "dcase2023")
    path.write_text(path.read_text().replace(f'"format": {manifest.DATASET_FORMAT}', '"format": 0'))
    with pytest.raises(ValueError, match="was not written by this version"):
        manifest.load_dataset(tree.data, "dcase2023")


def test_planning_imports_nothing_heavy(tree):
    format_dataset(tree.data, "dcase2023")
    code = (
        "import sys; from pathlib import Path; from asdray.dcase.manifest import load_dataset; "
        f"load_dataset(Path({str(tree.data)!r}), 'dcase2023'); "
        "print(sorted({'pyarrow', 'numpy', 'pandas', 'torch', 'ray'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------ bad input


def bad_tree(tree) -> dict[Path, str]:
    """Spoils the tree in every way; maps each bad file to what the message must say of it."""
    train, test = tree.folder("dev", "fan", "train"), tree.folder("eval", "bandsaw", "test")
    names = sorted(train.iterdir())
    bad = {}
    names[0].write_bytes(names[0].read_bytes()[:-10])
    bad[names[0]] = "is truncated (its header says 80 bytes of audio, 70 are there)"
    write_wav(names[1], "x", n=40, channels=2)
    bad[names[1]] = "has 2 channels, dcase2023 has 1"
    write_wav(names[2], "x", n=40, rate=8000)
    bad[names[2]] = "has 8000 Hz, dcase2023 has 16000 Hz"
    names[3].write_bytes(b"")
    bad[names[3]] = "is empty (0 bytes)"

    def extra(folder: Path, name: str, says: str) -> Path:
        write_wav(folder / name, "x", n=40)
        bad[folder / name] = says
        return folder / name

    extra(
        train, "section_00_source_train_anomaly_0009_vel_0.wav", "is not a name of a dcase2023 dev train clip"
    )
    extra(train, "section_03_source_train_normal_0009_vel_0.wav", "section 03 is not one of dev (0,)")
    path = extra(train, "section_00_source_train_normal_0010_a.wav", "is not a wav file")
    path.write_bytes(b"ID3" + bytes(100))
    path = extra(train, "section_00_source_train_normal_0011_a.wav", "is not 16-bit PCM (format 3, 32 bits)")
    soundfile.write(path, np.zeros(40, "float32"), 16000, subtype="FLOAT")
    path = extra(train, "section_00_source_train_normal_0012_a.wav", "is empty (no samples)")
    soundfile.write(path, np.zeros((0, 1), "int16"), 16000, subtype="PCM_16")
    path = extra(
        train, "section_00_source_train_normal_0013_a.wav", "cannot be read (No such file or directory)"
    )
    path.unlink()
    path.symlink_to("nowhere.wav")
    path = extra(train, "section_00_source_train_normal_0014_a.wav", "is a folder where a wav file should be")
    path.unlink()
    path.mkdir()
    labelled = tree.labelled("bandsaw", "section_00_0000.wav")
    extra(test, labelled, "gets the same formatted name as")
    folder = tree.folder("dev", "Fan")
    folder.mkdir()
    bad[folder] = "no dev machine of this name; did you mean 'fan'"
    folder = tree.folder("eval", "ToyTank")
    folder.mkdir()
    bad[folder] = "holds no folder train or test"
    folder = tree.folder("eval", "Vacuum")
    folder.mkdir()
    (folder / "train").write_text("")
    bad[folder / "train"] = "is a file where a folder should be"
    (tree.folder("eval", "ToyDrone") / "ToyDrone" / "train").mkdir(parents=True)
    bad[tree.folder("eval", "ToyDrone")] = "but ToyDrone/ToyDrone: move what is in that one level up"
    tree.folder("dev", "valve").write_text("")
    bad[tree.folder("dev", "valve")] = "is a file where a folder should be"
    beside = tree.folder("dev", "fan").parents[1] / "bearing"
    beside.mkdir()
    bad[beside] = "holds no folder train or test"
    return bad


def test_all_bad_files_are_listed_at_once_and_nothing_is_written(tree):
    write_list(tree)
    bad = bad_tree(tree)
    with pytest.raises(ValueError, match=r"bad files or folders in .*nothing was written") as error:
        format_dataset(tree.data, "dcase2023")
    lines = str(error.value).splitlines()[1:]
    problems = dict(line.strip().split(": ", 1) for line in lines)
    # Either of two clips with one name may be called the second.
    collision = next(p for p, says in bad.items() if says.startswith("gets the same"))
    if str(collision) not in problems:
        bad[collision.with_name("section_00_0000.wav")] = bad.pop(collision)
    for path, says in bad.items():
        assert says in problems[str(path)], path
    assert set(problems) == {str(p) for p in bad} | {str(tree.folder("eval", "Vacuum"))}
    assert not (tree.data / "formatted").exists()


def test_everything_that_cannot_be_read_is_listed_in_one_pass(tree, asdray_as_user):
    write_evaluator(tree)
    train, test = tree.folder("dev", "fan", "train"), tree.folder("eval", "bandsaw", "test")
    clip = min(tree.folder("dev", "fan", "test").iterdir())
    empty = min(tree.folder("eval", "bandsaw", "train").iterdir())
    empty.write_bytes(b"")
    truth = tree.ground_truth / "ground_truth_data"
    table = min((tree.ground_truth / "ground_truth_domain").iterdir())
    # Listed, but nothing in it can be looked at.
    machine = tree.folder("eval", "Vacuum")
    (machine / "train").mkdir(parents=True)
    locked = {train: 0o000, test: 0o000, clip: 0o000, truth: 0o000, table: 0o000, machine: 0o600}
    for path, mode in locked.items():
        path.chmod(mode)
    formatted = asdray_as_user("format", "dcase2023", "--data", tree.data)
    looked = asdray_as_user("doctor", "dcase2023", "--data", tree.data)
    for path in locked:
        path.chmod(0o755)
    assert (formatted.returncode, looked.returncode) == (2, 1)
    assert "5 bad files or folders in" in formatted.stderr
    assert f"wrong ground truth in {tree.ground_truth} (nothing was written):" in formatted.stderr
    for problems in (formatted.stderr, looked.stdout):
        for path in (train, test, clip, machine / "train", truth, table):
            assert problems.count(f"{path}: cannot be read (Permission denied)") == 1, path
        assert problems.count(f"{empty}: is empty") == 1
    assert not (tree.data / "formatted").exists()


def test_the_whole_year_out_of_reach(tree, asdray_as_user):
    format_dataset(tree.data, "dcase2023")
    root = tree.data / "original" / "dcase2023"
    for path in (root, formatted(tree)):
        path.chmod(0o000)
    runs = [asdray_as_user(command, "dcase2023", "--data", tree.data) for command in ("format", "doctor")]
    for path in (root, formatted(tree)):
        path.chmod(0o755)
    assert [run.returncode for run in runs] == [2, 1]
    assert f"{root / 'dev_data' / 'raw'}: cannot be read (Permission denied)" in runs[0].stderr
    assert f"{root / 'eval_data' / 'raw'}: cannot be read (Permission denied)" in runs[1].stdout
    assert f"{formatted(tree) / 'dataset.json'}: cannot be read (Permission denied)" in runs[1].stdout


def test_folders_of_ground_truth_without_a_file_are_none(tree):
    (tree.ground_truth / "dcase2023_task2_evaluator" / "datasets").mkdir(parents=True)
    (tree.ground_truth / ".DS_Store").write_bytes(b"x")
    report = format_dataset(tree.data, "dcase2023")
    assert report.unlabelled == {"bandsaw": 8}
    assert not [d for d in report.audit.differences if d.what == "test label"]
    with pytest.raises(ValueError, match="holds no ground truth of dcase2023"):  # asked for by name
        format_dataset(tree.data, "dcase2023", ground_truth=tree.ground_truth)


def test_ground_truth_that_is_a_file(tree):
    path = write_list(tree)
    with pytest.raises(ValueError, match=f"is a file, .*give the one that holds it, {tree.ground_truth}$"):
        format_dataset(tree.data, "dcase2023", ground_truth=path)


def problems_of(tree) -> dict[str, str]:
    with pytest.raises(ValueError, match="nothing was written") as error:
        format_dataset(tree.data, tree.dcase)
    head, *lines = str(error.value).splitlines()
    assert head.startswith(f"{len(lines)} bad file")
    problems = dict(line.strip().split(": ", 1) for line in lines)
    assert len(problems) == len(lines)
    return problems


def test_wavs_where_the_year_has_no_clips_are_reported_with_their_number(tree):
    fan = tree.folder("dev", "fan")
    shutil.copytree(fan / "train", fan / "Train")
    shutil.copytree(fan / "test", fan / "fan" / "test")  # left over from unpacking
    shutil.copy(min((fan / "test").iterdir()), fan / "a.WAV")
    for name in ("a.wav", "b.wav"):
        shutil.copy(min((fan / "test").iterdir()), fan.parent / name)
    (fan / "supplemental").mkdir()
    (fan / "supplemental" / "section_00_machine_0001_.wav").write_bytes(b"")
    for name in ("attributes", "__MACOSX/fan"):
        (fan / name).mkdir(parents=True)
        (fan / name / "._a.wav").write_bytes(b"x")  # no wavs: not worth a word
    shutil.copytree(fan / "train", fan.parent / "Fan" / "train")
    problems = problems_of(tree)
    expected = {
        fan
        / "Train": "holds 4 wavs, but dcase2023 has no clips in a folder of this name: move them into one of "
        "train, test, or away; did you mean 'train'?",
        fan / "fan": "holds 8 wavs, but dcase2023 has no clips in a folder of this name",
        fan / "supplemental": "holds 1 wav, but dcase2023 has no clips in a folder of this name",
        fan: "holds 1 wav beside its folders train, test",
        fan.parent: "holds 2 wavs beside the machines' folders",
        fan.parent / "Fan": "has no dev machine of this name; did you mean 'fan'? (it holds 4 wavs)",
    }
    assert set(problems) == set(map(str, expected))
    for path, says in expected.items():
        assert says in problems[str(path)]


def test_made_up_clips_are_told_by_their_length_and_marked_on_request(tmp_path, asdray):
    tree = build_tree(tmp_path, "dcase2023", ["fan", "ToyNscale"], n_samples=int(6.5 * 16000))
    write_evaluator(tree)
    where = ("dcase2023", "--partial", "--data", tmp_path)
    said = "the longest clips are not as long as the organisers': fan 6.5 s, not 10; if the clips are made up"
    shown = asdray("format", *where)[1]
    assert said in shown
    assert f"`asdray format dcase2023 --data {tmp_path} --synthetic`" in shown
    assert manifest.load_dataset(tmp_path, "dcase2023").kind == "official"
    assert said in asdray("doctor", "dcase2023", "--data", tmp_path)[1]
    for again in ("--synthetic", None):  # the mark stays
        code, shown, _ = asdray("format", *where, *([again] if again else []))
        assert (code, "not as long" in shown) == (0, False)
        assert manifest.load_dataset(tmp_path, "dcase2023").kind == "synthetic"
        assert "dcase2023 (synthetic)" in shown
    truth = load_ground_truth(tree.ground_truth, "dcase2023")
    assert official.kind_of_truth(truth) == "synthetic"
    assert "hold" in asdray("synth", "dcase2023", "--data", tmp_path)[2], "no synthesis over them"


def test_lengths_are_compared_where_the_organisers_published_them(tmp_path):
    build_tree(tmp_path, "dcase2026", ["fan", "Sander"], n_samples=20)
    (note,) = format_dataset(tmp_path, "dcase2026").notes
    assert "fan 0.0 s, not 10" in note
    assert "Sander" not in note
    build_tree(tmp_path / "right", "dcase2021", ["fan", "pump"], n_samples=int(9.5 * 16000))
    assert format_dataset(tmp_path / "right", "dcase2021").notes == ()


@pytest.mark.parametrize("place", ["year", "subset", "folders of zips in raw", "folders of zips"])
def test_places_where_people_unpack_zips_are_read_with_a_note(tree, place):
    format_dataset(tree.data, "dcase2023")
    before = rows_of(tree)
    fan, saw = tree.folder("dev", "fan"), tree.folder("eval", "bandsaw")
    year = saw.parents[2]
    if place.startswith("folders of zips"):
        base = (fan.parent, saw.parent) if place.endswith("raw") else (year, year)
        target = base[0] / "dev_fan" / "fan"
        for part in ("train", "test"):  # two zips
            (base[1] / f"eval_data_bandsaw_{part}" / "bandsaw").mkdir(parents=True)
            (saw / part).rename(base[1] / f"eval_data_bandsaw_{part}" / "bandsaw" / part)
        shutil.rmtree(saw)
    else:
        base = (year, year) if place == "year" else (year / "dev_data", year / "eval_data")
        target = base[0] / "fan"
        saw.rename(base[1] / "bandsaw")
    target.parent.mkdir(exist_ok=True)
    fan.rename(target)
    report = format_dataset(tree.data, "dcase2023")
    assert [note.split(", ")[0] for note in report.notes[:2]] == [
        "dev fan: read where they lie",
        "eval bandsaw: read where they lie",
    ]
    assert f"such as {target}, not in {fan.parent}" in report.notes[0]
    rows = rows_of(tree)
    assert rows.keys() == before.keys()
    for clip, row in rows.items():
        assert {**row, "original_path": ""} == {**before[clip], "original_path": ""}
        assert (tree.data / row["path"]).samefile(tree.data / row["original_path"])
    check_unchanged(tree.data, "dcase2023", ["fan", "bandsaw"])
    shutil.copytree(target, fan)
    assert (
        problems_of(tree)[str(target / "train")] == f"{fan / 'train'} holds dev clips of fan, too: keep one"
    )


def test_a_machine_of_both_subsets_must_lie_in_one(tmp_path):
    tree = build_tree(tmp_path, "dcase2022", ["fan"], n_samples=20)
    loose = tmp_path / "original" / "dcase2022" / "fan"
    tree.folder("dev", "fan").rename(loose)
    assert problems_of(tree)[str(loose)].startswith("dcase2022 has fan in dev and eval: move it into ")


def test_copies_of_2021s_tests_are_left_out_with_a_note(tmp_path):
    tree = build_tree(tmp_path, "dcase2021", ["fan"], n_samples=20)
    test = tree.folder("dev", "fan", "test")
    shutil.copytree(tree.folder("dev", "fan", "source_test"), test)
    shutil.copytree(tree.folder("dev", "fan", "target_test"), test, dirs_exist_ok=True)
    report = format_dataset(tmp_path, "dcase2021")
    assert report.n_clips == len(tree.clips)
    assert report.notes[:-1] == (
        f"{test}: 12 wavs left out: copies of those in source_test and target_test, as the organisers' "
        "scripts make them",
    )
    (tree.folder("dev", "fan", "source_test") / "section_00_source_test_anomaly_0001.wav").unlink()
    (problems,) = problems_of(tree).items()
    assert problems[0] == str(test)
    assert problems[1].startswith("holds 1 wav, but dcase2021 has no clips in a folder of this name")


@pytest.mark.parametrize("dcase", ["dcase2020", "dcase2021", "dcase2023"])
def test_what_the_organisers_scripts_rename_is_left_out_with_a_note(tmp_path, dcase):
    machine = get_year(dcase).machines["eval"][0]
    tree = build_tree(tmp_path, dcase, [machine], n_samples=20)
    tests = ["source_test", "target_test"] if dcase == "dcase2021" else ["test"]
    renamed = tree.folder("eval", machine, "test_rename")
    renamed.mkdir()
    for folder in tests:
        for path in tree.folder("eval", machine, folder).iterdir():
            shutil.copy2(path, renamed / tree.labelled(machine, path.name))
    # The scripts make the folder for all machines of their list, downloaded or not, and leave a lock file.
    absent = get_year(dcase).machines["eval"][1]
    tree.folder("eval", absent, "test_rename").mkdir(parents=True)
    (tree.folder("eval", machine) / "lockfile").touch()
    write_list(tree)
    report = format_dataset(tmp_path, dcase)
    n = len(list(renamed.iterdir()))
    assert n > 1
    assert report.n_clips == len(tree.clips)
    assert report.notes[:-1] == (
        f"{renamed}: {n} wavs left out: copies of those in {' and '.join(tests)} under their labelled names, "
        "as the organisers' scripts make them",
    )
    # Copies without their originals may be all that is left of these clips.
    gone = min(tree.folder("eval", machine, tests[0]).iterdir())
    gone.unlink()
    (problems,) = problems_of(tree).items()
    assert problems[0] == str(renamed)
    assert f"holds {n} wavs, which the organisers' scripts copy" in problems[1]
    assert f"hold{'s' * (len(tests) == 1)} {n - 1} wav" in problems[1]
    shutil.copy2(renamed / tree.labelled(machine, gone.name), gone.parent)
    assert format_dataset(tmp_path, dcase).n_clips == len(tree.clips)


def test_supplemental_clips_of_2026_and_names_of_any_form(tmp_path):
    for dcase in ("dcase2025", "dcase2026"):
        tree = build_tree(tmp_path, dcase, ["fan"], n_samples=20)
        folder = tree.folder("dev", "fan", "supplemental")
        names = ["noise_0001.wav", "section_0_machine.wav", "machine-7.wav", "section_00_machine_0007_.wav"]
        for name in names:
            write_wav(folder / name, name, n=20, channels=2 if dcase == "dcase2026" else 1)
        report = format_dataset(tmp_path, dcase)
        rows = rows_of(tree)
        for name in names:
            row = rows[f"dev/fan/supplemental/{name}"]
            assert (row["section"], row["split"], row["is_anomaly"]) == (0, "supplemental", None)
            assert row["path"] == f"formatted/{dcase}/raw/fan/supplemental/{name}"
            assert (tmp_path / row["path"]).samefile(folder / name)
    assert "dev supplemental" in report.audit.unchecked  # of 2026 nobody said how many
    assert not [d for d in report.audit.differences if d.what.startswith("supplemental")]


def test_files_that_systems_leave_are_ignored_and_others_are_one_line_each(tree):
    train = tree.folder("dev", "fan", "train")
    for name in ("Thumbs.db", "desktop.ini", "@eaDir/x.wav"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).write_bytes(b"x")
    assert format_dataset(tree.data, "dcase2023").n_clips == 24
    (train / "notes.txt").write_bytes(b"x")
    write_wav(train / "nonsense.wav", "x", n=40, channels=2, rate=8000)
    problems = problems_of(tree)
    assert set(problems) == {str(train / "notes.txt"), str(train / "nonsense.wav")}
    assert problems[str(train / "nonsense.wav")].startswith(
        "has 8000 Hz, dcase2023 has 16000 Hz; has 2 channels, dcase2023 has 1; 'nonsense.wav' is not a name"
    )


def test_wrong_ground_truth_alone_is_reported_under_its_own_folder(tree, tmp_path):
    write_list(tree, folder=tmp_path / "mine").write_text("bandsaw\nsection_00_0000.wav,nonsense\n")
    with pytest.raises(ValueError, match="nothing was written") as error:
        format_dataset(tree.data, "dcase2023", ground_truth=tmp_path / "mine")
    head, line = str(error.value).splitlines()
    assert head == f"wrong ground truth in {tmp_path / 'mine'} (nothing was written):"
    assert line.startswith(f"  {tmp_path / 'mine' / 'eval_data_list_2023.csv'}, line 2: 'nonsense.wav' is")


def test_labels_without_domains_are_not_all_as_expected(tree):
    write_evaluator(tree, attributes=False)
    shutil.rmtree(tree.ground_truth / "ground_truth_domain")
    write_counts(tree)
    report = format_dataset(tree.data, "dcase2023")
    assert [str(d) for d in report.audit.missing] == ["test domains 0 of 8"]


def test_links_that_lead_in_circles_are_named(tree):
    train = tree.folder("dev", "fan", "train")
    (train / "circle.wav").symlink_to("circle.wav")
    tree.folder("dev", "valve").symlink_to("nowhere")
    problems = problems_of(tree)
    assert problems[str(train / "circle.wav")].startswith(
        "cannot be read (Too many levels of symbolic links)"
    )
    assert problems[str(tree.folder("dev", "valve")).rstrip("/")] == "is a link to nowhere"


def test_a_name_that_cannot_be_printed_is_reported_all_the_same(tree):
    name = "section_00_source_train_normal_0100_\x1b[2J.wav"
    write_wav(tree.folder("dev", "fan", "train") / name, "x", n=40)
    with pytest.raises(ValueError, match="1 bad file") as error:
        format_dataset(tree.data, "dcase2023")
    assert "\\x1b[2J.wav': has characters in its name that cannot be printed" in str(error.value)


def test_copies_of_clips_are_refused(tree):
    """Under the names of Windows, browsers and the Finder; each would be a training clip, and a class."""
    train, test = tree.folder("dev", "fan", "train"), tree.folder("eval", "bandsaw", "test")
    first, second, *_ = sorted(path.stem for path in train.iterdir())
    number = "has section, domain, label and number of"
    problem_of = {
        train / f"{first} - Copy.wav": "has ' ' in its name",
        train / f"{first} (1).wav": "has ' ()' in its name",
        train / f"{first} - Kopie – für mich.wav": "has ' –ü' in its name",
        train / f"{first}_copy.wav": f"{number} {first}.wav: one of them is a copy",
        train / f"{second}.wav": f"{number} {second}-2.wav: one of them is a copy",
        test / "section_00_0000 (1).wav": "has ' ()' in its name",
    }
    originals = [*train.iterdir(), *test.iterdir()]
    for path in (*problem_of, train / f"{second}-2.wav"):
        if not path.exists():
            shutil.copy2(train / f"{first}.wav", path)
    problems = problems_of(tree)
    assert problems.keys() == {str(path) for path in problem_of}
    for path, says in problem_of.items():
        assert problems[str(path)].startswith(says)
    for path in {*train.iterdir(), *test.iterdir()} - set(originals):
        path.unlink()
    assert format_dataset(tree.data, "dcase2023").n_clips == len(tree.clips)


def test_a_clip_of_2021_in_the_other_domains_folder(tmp_path):
    tree = build_tree(tmp_path, "dcase2021", ["fan"], n_samples=20)
    name = "section_00_target_test_normal_0002.wav"
    folder = tree.folder("dev", "fan", "target_test")
    shutil.copy(folder / name, folder.with_name("source_test") / name)
    with pytest.raises(ValueError, match="is a target clip in the folder source_test"):
        format_dataset(tree.data, "dcase2021")


def test_contradictory_ground_truth_and_bad_files_are_reported_in_one_pass(tree):
    write_list(tree).write_text("bandsaw\nsection_00_0000.wav,nonsense\n")
    write_wav(next(tree.folder("dev", "fan", "test").glob("*.wav")), "x", n=40, channels=2)
    with pytest.raises(
        ValueError,
        match=r"1 bad file or folder in .*\n.*2 channels.*\nwrong ground truth in .*/ground_truth .*\n.*"
        r"eval_data_list_2023.csv, line 2: ",
    ):
        format_dataset(tree.data, "dcase2023")


def test_the_command_lists_missing_files(tree):
    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "asdray", "format", "dcase2023", "--data", str(tree.data), *args],
            capture_output=True,
            text=True,
            check=False,
        )

    first = run()
    assert first.returncode == 1
    assert f"\nrun `asdray download dcase2023 --data {tree.data}`\n" in f"\n{first.stderr}"
    assert "missing dev machines: bearing, gearbox, slider, ToyCar, ToyTrain, valve" in first.stdout
    assert "--partial" in first.stderr
    rows = {tuple(line.split()[:6]): line for line in first.stdout.splitlines()}
    assert "missing: train source normal 3 of 990" in rows["fan", "dev", "00", "3", "1", "2"]
    assert run("--partial").returncode == 0
    write_counts(tree)
    complete = run()
    assert complete.returncode == 0, complete.stderr
    assert complete.stdout.splitlines()[-1] == "dcase2023: 24 clips, all as expected"
    next(tree.folder("dev", "fan", "train").glob("*.wav")).write_bytes(b"")
    assert run("--partial").returncode == 2


def test_a_good_dataset_survives_a_bad_format(tree):
    before = format_dataset(tree.data, "dcase2023").dataset
    write_wav(next(tree.folder("dev", "fan", "test").glob("*.wav")), "x", n=40, channels=2)
    with pytest.raises(ValueError, match=r"1 bad file or folder in .*\n.*has 2 channels"):
        format_dataset(tree.data, "dcase2023")
    assert manifest.load_dataset(tree.data, "dcase2023") == before
    assert all(p.exists() for p in (tree.data / "formatted").rglob("*.wav"))


def test_hidden_files_are_not_clips(tree):
    for name in (".DS_Store", "._section_00_source_train_normal_0000_vel_0.wav"):
        (tree.folder("dev", "fan", "train") / name).write_bytes(b"x")
    (tree.folder("dev", "fan").parent / "dev_fan.zip").write_bytes(b"x")
    assert format_dataset(tree.data, "dcase2023").n_clips == 24


def test_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"there is no dcase2023 in .*asdray synth dcase2023"):
        format_dataset(tmp_path, "dcase2023")
    with pytest.raises(ValueError, match="unknown DCASE year 'dcase2032'"):
        format_dataset(tmp_path, "dcase2032")
    assert not list(tmp_path.iterdir())


def test_stereo_belongs_to_2026(tmp_path):
    tree = build_tree(tmp_path, "dcase2026", ["fan"], n_samples=40)
    format_dataset(tree.data, "dcase2026")
    assert {r["channels"] for r in rows_of(tree).values()} == {2}


def test_supplemental_clips_are_kept_apart(tmp_path):
    tree = build_tree(tmp_path, "dcase2025", ["fan"], n_samples=40)
    shutil.rmtree(tree.folder("dev", "fan", "supplemental"))
    before = format_dataset(tree.data, "dcase2025").dataset.machines["fan"]
    write_wav(tree.folder("dev", "fan", "supplemental") / "section_00_machine_0001_.wav", "x", n=40)
    report = format_dataset(tree.data, "dcase2025")
    fan = report.dataset.machines["fan"]
    assert (fan.train, fan.test, fan.labels) == (before.train, before.test, before.labels)
    assert (before.split_id("supplemental"), report.unlabelled) == (None, {})
    assert fan.split_id("supplemental") == fan.supplemental is not None
    row = rows_of(tree)["dev/fan/supplemental/section_00_machine_0001_.wav"]
    assert (row["is_anomaly"], row["domain"], row["label_source"]) == (None, None, None)
    assert row["path"] == "formatted/dcase2025/raw/fan/supplemental/section_00_machine_0001_.wav"


def test_the_two_test_folders_of_2021_become_one_split(tmp_path):
    for subset, name in [
        ("dev", "train/section_00_source_train_normal_0000_a.wav"),
        ("dev", "source_test/section_00_source_test_anomaly_0000.wav"),
        ("dev", "target_test/section_00_target_test_anomaly_0000.wav"),
        ("eval", "target_test/section_03_target_test_0000.wav"),
    ]:
        write_wav(store.original_dir(tmp_path, "dcase2021", subset) / "fan" / name, name, n=40)
    report = format_dataset(tmp_path, "dcase2021")
    assert report.dataset.machines["fan"].counts == {
        "dev/test/source/anomaly": 1,
        "dev/test/target/anomaly": 1,
        "dev/train/source/normal": 1,
        "eval/test/target/unknown": 1,
    }
    clips = manifest.load_manifest(tmp_path, "dcase2021")["clip"].to_pylist()
    assert "eval/fan/test/section_03_target_test_0000.wav" in clips


def test_a_data_folder_whose_name_looks_like_a_partition(tmp_path):
    tree = build_tree(tmp_path / "take=2", "dcase2023", ["fan"], n_samples=40)
    format_dataset(tree.data, "dcase2023")
    assert manifest.load_manifest(tree.data, "dcase2023").schema.equals(manifest.schema())


# ------------------------------------------------------------------------------------------- wav headers


@given(
    st.sampled_from(["WAV", "WAVEX"]),
    st.integers(1, 3),
    st.sampled_from([8000, 16000, 44100]),
    st.integers(1, 500),
)
def test_header_agrees_with_libsndfile(tmp_path_factory, kind, channels, rate, n):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    soundfile.write(path, samples("a", n, channels), rate, subtype="PCM_16", format=kind)
    info, stat = read_header(path), path.stat()
    assert (info.sample_rate, info.channels, info.n_samples) == (rate, channels, n)
    assert (info.size, info.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for name, c in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


FMT = (b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16))


def test_other_chunks_are_skipped_wherever_they_lie(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(
        chunks((b"bext", bytes(5001)), FMT, (b"LIST", bytes(3)), (b"data", bytes(20)), (b"id3 ", b"x"))
    )
    assert read_header(path).n_samples == 10


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"RIFF", "is not a wav file"),
        (chunks(FMT), "is truncated"),
        (chunks((b"data", bytes(20)), FMT), "no format before its data"),
        (chunks((b"fmt ", bytes(4)), (b"data", bytes(20))), "format chunk too short"),
        (chunks(FMT, (b"data", bytes(21))), "no whole number of 2-byte frames"),
        (chunks((b"fmt ", struct.pack("<HHIIHH", 1, 0, 16000, 0, 0, 16))), "0 channels"),
        (chunks((b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 48000, 3, 24))), "is not 16-bit PCM"),
        (chunks(FMT, (b"data", bytes(20)))[:36], "is truncated"),
        (chunks(FMT, (b"data", bytes(20)))[:-1], "is truncated"),
        # What people get in place of a clip: by Git without its LFS, by a server, through a pipe from FFmpeg.
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 320044\n",
            "of Git LFS: run `git",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "but a web page: get the clip again"),
        (chunks(FMT) + b"data" + b"\xff" * 4 + bytes(20), "does not say how long it is"),
    ],
)
def test_bad_headers(tmp_path, content, says):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_time_of_change_that_no_manifest_can_hold(tree):
    clip = min(tree.folder("dev", "fan", "train").iterdir())
    os.utime(clip, (10**11, 10**11))
    assert "run `touch` on it" in problems_of(tree)[str(clip)]


@given(st.binary(max_size=80), st.integers(0, 60))
def test_no_bytes_break_the_header_reader(tmp_path_factory, noise, cut):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    path.write_bytes(chunks(FMT, (b"data", bytes(20)))[:cut] + noise)
    says = ""
    try:
        assert read_header(path).n_samples > 0
    except ValueError as error:
        says = str(error)
    assert says == "" or says.startswith(f"{path}: ")


def test_a_wav_that_becomes_shorter_while_it_is_read_is_truncated(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(chunks(FMT, (b"data", bytes(20))))
    before = os.stat(path)
    path.write_bytes(path.read_bytes()[:12])
    monkeypatch.setattr("os.fstat", lambda descriptor: before)
    with pytest.raises(ValueError, match=r"a\.wav: is truncated \(it became shorter"):
        read_header(path)


def test_what_cannot_be_written_is_named(tree):
    names = sorted(p.name for p in tree.folder("dev", "fan", "train").iterdir())
    (formatted(tree) / "raw" / "fan" / "train" / names[0]).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"cannot make the symlink .*{names[0]}: Is a directory"):
        format_dataset(tree.data, "dcase2023")
    shutil.rmtree(formatted(tree) / "raw" / "fan")
    (formatted(tree) / "raw" / "fan").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot make the folder .*raw/fan/t.*: Not a directory"):
        format_dataset(tree.data, "dcase2023")
