"""`asdray download` against a server on loopback: what comes, what is wrong, what is left alone."""

import dataclasses
import errno
import functools
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from http_server import Fault, Site, serve
from rich.console import Console
from trees import build_tree, write_evaluator, write_list
from zips import publish, zip_of, zips_of

from asdray import store
from asdray.cli import main
from asdray.cli.data import download_lines
from asdray.cli.options import DATA
from asdray.cli.screen import DownloadView
from asdray.dcase import records
from asdray.dcase.download import Download, FileProgress
from asdray.dcase.fetch import BLOCK, Patience
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import hint, load_manifest
from asdray.dcase.records import has_ground_truth
from asdray.dcase.years import YEARS

FAST = Patience(tries=3, first=0.001, longest=0.01, connect=5, read=5)
DCASE, MACHINES = "dcase2024", ("fan", "3DPrinter")
LIST = records._BASELINE[0] + "/" + records._BASELINE[1] + "/datasets/eval_data_list_2024.csv"


def tree(folder):
    """Every file below a folder that is not hidden, nor in a hidden folder."""
    found = {p.relative_to(folder): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {
        str(name): p.read_bytes()
        for name, p in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The organisers' data: a tree of two machines, its ground truth in both forms, its zips."""
    root = tmp_path_factory.mktemp("organisers")
    built = build_tree(root, DCASE, list(MACHINES), n_samples=400)
    zips = zips_of(root / "original" / DCASE, DCASE, MACHINES)
    write_evaluator(built)
    write_list(built)
    return built, zips


@pytest.fixture
def truth(made, monkeypatch):
    """Addresses and content of the ground truth; the pinned checksum is that of our list."""
    built, _ = made
    content = (built.ground_truth / "eval_data_list_2024.csv").read_bytes()
    monkeypatch.setitem(records._LIST_SHA256, 2024, hashlib.sha256(content).hexdigest())
    files = {LIST: content}
    for f in records.ground_truth(DCASE):
        if f.machine == "3DPrinter":
            files[f"{f.repository}/{f.commit}/{f.path}"] = (built.ground_truth / f.path).read_bytes()
    return files


@pytest.fixture
def site(made, truth, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Site()) as it:
        publish(it, made[1])
        it.files |= truth
        yield it


@pytest.fixture
def get(site, tmp_path):
    """Downloads the two machines to ``tmp_path``; ``get.notes`` holds what was said."""

    def run(**options):
        notes.clear()
        base_url = site.url if options.get("source") is None else None
        options = {"machines": MACHINES, "base_url": base_url, "patience": FAST, **options}
        return Download(tmp_path, DCASE, on_note=notes.append, **options).run()

    run.notes = notes = []
    return run


@pytest.fixture
def audio(made):
    """The complete content of ``dev_data`` and ``eval_data``."""
    return {n: c for n, c in tree(made[0].ground_truth.parent).items() if not n.startswith("ground_truth")}


def audio_in(data, dcase=DCASE):
    return {n: c for n, c in tree(data / "original" / dcase).items() if n.split("/")[0].endswith("_data")}


def zip_path(site, part):
    return next(p for p in site.files if part in p and p.endswith(".zip"))


# ----------------------------------------------------------------------------------------- all goes well


def test_a_year_is_there_and_formatted_to_the_same_manifest(get, made, tmp_path, audio):
    report = get()
    assert not report.failed
    assert len(report.brought) == 3 + 2
    assert "eval_data_3DPrinter_train_r2.zip" in report.brought
    assert audio_in(tmp_path) == audio
    assert not (report.folder / "zips").exists()
    here = {p.name for p in store.original_dir(tmp_path, DCASE, "eval").iterdir()}
    assert here == {"3DPrinter"}
    for root in (tmp_path, made[0].data):
        format_dataset(root, DCASE)
    ours, theirs = (load_manifest(root, DCASE) for root in (tmp_path, made[0].data))
    columns = [c for c in ours.column_names if c != "mtime_ns"]
    assert ours.select(columns).equals(theirs.select(columns))
    assert None not in ours["is_anomaly"].to_pylist()


def test_a_second_call_asks_for_nothing(get, site):
    get()
    before = len(site.requests)
    report = get()
    assert len(site.requests) == before
    assert len(report.found) == 3
    assert report.brought == ()
    assert get.notes == []


@pytest.mark.parametrize("dcase", YEARS)
def test_every_year_is_downloaded_in_its_layout(dcase, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    year = YEARS[dcase]
    machines = {year.machines["dev"][0], year.machines["eval"][-1]}
    tests = ("source_test", "target_test") if year.split_test_folders else ("test",)
    expected, zips = {}, {}
    for z in records.zips(dcase):
        if z.machine in machines:
            folders = {"dev": ("train", *tests), "eval_train": ("train",), "eval_test": tests}[z.part]
            files = {f"{z.machine}/{f}/{z.part}.wav": f"{f} of {z.name}".encode() for f in folders}
            zips[z] = zip_of(files)
            expected |= {f"{z.subset}_data/raw/{name}": content for name, content in files.items()}
    # The known md5 sums are those of the real zips.
    monkeypatch.setattr(records, "_MD5", {})
    truth = [f for f in records.ground_truth(dcase) if f.machine in machines]
    with serve(Site()) as site:
        publish(site, zips)
        site.files |= {f"{f.repository}/{f.commit}/{f.path}": f.path.encode() for f in truth}
        report = Download(tmp_path, dcase, machines=tuple(machines), base_url=site.url, patience=FAST).run()
    assert audio_in(tmp_path, dcase) == expected
    for f in truth:
        assert (store.ground_truth_dir(tmp_path, dcase) / f.folder / f.path).read_bytes() == f.path.encode()
    # Only the list is missing, where there is one: nothing can pass for it.
    lists = [f.path for f in records.ground_truth(dcase) if f.machine is None]
    assert len(report.failed) == len(lists) <= 1
    assert all(p in why for p, why in zip(lists, report.failed.values(), strict=True))


def test_parts_of_a_year_are_added_to_each_other(get, site, tmp_path, audio):
    assert get(machines=("fan",)).brought == ("dev_fan.zip",)
    assert not any("ground_truth" in path for path, _ in site.requests)
    report = get(subset="eval", ground_truth=False)
    assert len(report.brought) == 2
    assert sorted(get().found) == ["dev_fan.zip", *report.brought]
    assert audio_in(tmp_path) == audio


def test_zips_can_be_kept(get, made, tmp_path):
    report = get(keep_zips=True)
    names = {z.name for z in made[1]}
    assert {p.name for p in (report.folder / "zips").iterdir()} == names
    for keep in (True, False):
        get(keep_zips=keep)
        assert {p.name for p in (report.folder / "zips").iterdir()} == names
    next((store.original_dir(tmp_path, DCASE, "dev") / "fan" / "train").iterdir()).unlink()
    assert get().brought == ("dev_fan.zip",)
    assert {p.name for p in (report.folder / "zips").iterdir()} == names


def test_zips_that_lie_in_the_folder_of_zips_stay(get, site, made, tmp_path):
    zips = tmp_path / "original" / DCASE / "zips"
    zips.mkdir(parents=True)
    for z, content in made[1].items():
        (zips / z.name).write_bytes(content)
    before = tree(zips)
    assert len(get(source=zips, ground_truth=False).brought) == 3
    for options in ({"source": zips, "ground_truth": False}, {}):
        assert len(get(**options).found) == 3
        assert tree(zips) == before
    shutil.rmtree(tmp_path / "original" / DCASE / "dev_data")
    assert get().brought == ("dev_fan.zip",)
    assert site.asked(".zip") == []
    assert tree(zips) == before


def test_a_zip_that_somebody_puts_there_later_stays(get, made):
    folder = get().folder / "zips"
    folder.mkdir()
    for z, content in made[1].items():
        (folder / z.name).write_bytes(content)
    assert len(get().found) == 3
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("keep", [False, True])
def test_a_zip_that_was_about_to_be_removed_is(get, made, monkeypatch, keep):
    with monkeypatch.context() as patch:
        patch.setattr("asdray.dcase.download.is_kept", lambda *_: True)  # as if killed before
        folder = get().folder / "zips"
    names = {z.name for z in made[1]}
    assert {p.name for p in folder.iterdir()} == names
    get(keep_zips=keep)
    get()
    assert ({p.name for p in folder.iterdir()} if folder.exists() else set()) == (names if keep else set())


def test_licences_are_named_once_and_only_for_what_is_fetched(get):
    get(ground_truth=False)
    assert [n for n in get.notes if "licence" in n] == [f"licence of the audio: {records.AUDIO_LICENCE}"]
    get()
    licences = [n for n in get.notes if "licence" in n]
    assert len(licences) == 2
    assert all("nttcslab/" in n and "NTT" in n for n in licences)


def test_removed_files_are_fetched_again(get, site, tmp_path, audio):
    get()
    next((store.original_dir(tmp_path, DCASE, "dev") / "fan" / "train").iterdir()).unlink()
    assert get().brought == ("dev_fan.zip",)
    assert audio_in(tmp_path) == audio


# ------------------------------------------------------------------------------------- something is wrong


def test_a_zip_that_is_missing_upstream_does_not_hold_up_the_rest(get, site):
    path = zip_path(site, "_test")
    site.faults[path] = Fault(99, status=404)
    report = get()
    assert list(report.failed) == ["eval_data_3DPrinter_test.zip"]
    assert f"{site.url}/{path}: the server answers 404" in report.failed["eval_data_3DPrinter_test.zip"]
    assert len(report.brought) == 2 + 2
    site.faults.clear()
    assert get().brought == ("eval_data_3DPrinter_test.zip",)


def test_errors_that_pass_are_survived(get, site, tmp_path, audio):
    for path in list(site.files):
        site.faults[path] = Fault(1, status=500)
    site.faults[zip_path(site, "dev_fan")] = Fault(2, status=429, headers={"Retry-After": "1"})
    site.faults[zip_path(site, "_test")] = Fault(2, cut_after=100)
    assert not get().failed
    assert audio_in(tmp_path) == audio


def test_a_wrong_md5_leaves_nothing_behind(get, site):
    path = zip_path(site, "dev_fan")
    site.files[path] = site.files[path][:-1] + b"?"
    report = get()
    assert "wrong checksum" in report.failed["dev_fan.zip"]
    assert not (report.folder / "dev_data").exists()
    assert len(site.asked("dev_fan.zip")) == 2


def test_the_md5_of_the_table_counts(get, monkeypatch):
    monkeypatch.setattr(records, "_MD5", {(2024, "dev"): {"fan": "0" * 32}})
    assert "not md5:000" in get().failed["dev_fan.zip"]


@pytest.mark.parametrize("description", [None, b"<html>", b'{"files": {}}', b'{"message": "no"}'])
def test_without_the_records_description_md5_is_said_to_be_unknown(
    get, site, made, monkeypatch, description, tmp_path, audio
):
    dev = next(z for z in made[1] if z.part == "dev")
    md5 = hashlib.md5(made[1][dev]).hexdigest()
    monkeypatch.setattr(records, "_MD5", {(2024, "dev"): {"fan": md5}})
    for path in [p for p in site.files if p.startswith("api/")]:
        del site.files[path]
        if description is not None:
            site.files[path] = description
    assert not get().failed
    (unknown,) = (n for n in get.notes if "no md5 is known" in n)
    assert "3DPrinter_test.zip" in unknown
    assert "fan" not in unknown
    if description != b'{"files": {}}':
        assert any(f"{site.url}/api/records/{dev.record}" in n for n in get.notes)
    assert audio_in(tmp_path) == audio


def test_a_damaged_zip_of_unknown_md5_is_fetched_again_by_the_next_call(get, site):
    for path in [p for p in site.files if p.startswith("api/")]:
        del site.files[path]
    path = zip_path(site, "dev_fan")
    good, site.files[path] = site.files[path], b"<html>sorry</html>"
    assert "damaged or no zip" in get().failed["dev_fan.zip"]
    site.files[path] = good
    assert get().brought == ("dev_fan.zip",)


def test_a_disk_that_fills_up_while_files_are_put_in_place(get, site, monkeypatch, tmp_path, audio):
    real, count = os.rename, iter(range(99))

    def full_after_two(old, new):
        if next(count) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(new))
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("asdray.dcase.unpack.os.rename", full_after_two)
        report = get(machines=("fan",))
    assert "No space left" in report.failed["dev_fan.zip"]
    assert len(audio_in(tmp_path)) == 2
    before = len(site.asked("dev_fan.zip"))
    assert not get().failed
    assert len(site.asked("dev_fan.zip")) == before
    assert audio_in(tmp_path) == audio


def test_a_zip_with_another_machine_is_refused(get, site, made, tmp_path):
    content = zip_of({"bearing/train/a.wav": b"a"})
    publish(site, {z: content if z.machine == "fan" else c for z, c in made[1].items()})
    assert "does not lie in the folder fan" in get().failed["dev_fan.zip"]
    assert not any((tmp_path / "original" / DCASE / "dev_data").rglob("*.wav"))


def test_ground_truth_that_is_missing_does_not_lose_the_audio(get, site, truth, tmp_path, audio):
    for path in truth:
        if "domain" in path or path == LIST:
            del site.files[path]
    report = get()
    assert len(report.failed) == 2
    assert all("404" in why and site.url in why for why in report.failed.values())
    assert audio_in(tmp_path) == audio
    assert has_ground_truth(tmp_path, DCASE)
    site.files |= truth
    assert len(get().brought) == 2


@pytest.mark.parametrize("fault", [Fault(99, status=404), Fault(99, cut_after=3), Fault(99, status=500)])
def test_without_any_ground_truth_there_is_no_folder_of_it(get, site, truth, tmp_path, fault):
    for path in truth:
        site.faults[path] = dataclasses.replace(fault)
    if fault.cut_after:
        site.etags = site.ranges = False
    report = get()
    assert len(report.failed) == 2
    assert not has_ground_truth(tmp_path, DCASE)
    assert not store.ground_truth_dir(tmp_path, DCASE).exists()
    assert "  ground truth: none" in download_lines(report, tmp_path)
    format_dataset(tmp_path, DCASE)


def test_empty_folders_and_parts_are_no_ground_truth(tmp_path):
    folder = store.ground_truth_dir(tmp_path, DCASE) / "repository" / "datasets"
    folder.mkdir(parents=True)
    for name in ("eval_data_list_2024.csv.part", ".DS_Store"):
        (folder / name).write_bytes(b"half")
        assert not has_ground_truth(tmp_path, DCASE)
    (folder / "eval_data_list_2024.csv").write_bytes(b"whole")
    assert has_ground_truth(tmp_path, DCASE)


def test_ground_truth_is_given_up_at_the_first_file_that_the_server_cannot_send(get, site, truth):
    broken = [path for path in truth if path != LIST]
    for path in broken:
        site.faults[path] = Fault(99, status=500)
    (why,) = get().failed.values()
    assert "500" in why
    assert sum(path in broken for path, _ in site.requests) == FAST.tries


def test_a_list_that_has_changed_upstream_is_an_error(get, site, tmp_path):
    site.files[LIST] += b"\n"
    (why,) = get().failed.values()
    assert LIST in why
    assert "wrong checksum (sha256:" in why
    assert not list(store.ground_truth_dir(tmp_path, DCASE).rglob("eval_data_list*"))


def test_too_little_space_is_said_before_anything_comes(get, site, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"dcase2024 needs about 0\.0 GB more in .* 0\.0 GB are free"):
        get()
    assert not any(p.endswith(".zip") for p, _ in site.requests)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"machines": ("fann",)}, "did you mean 'fan'"),
        ({"subset": "test"}, "must be dev or eval"),
        ({"machines": ("fan",), "subset": "eval"}, "dcase2024 has no eval data of fan"),
        ({"base_url": "ftp://x"}, "must begin with http"),
        ({"jobs": 0}, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(get, options, why):
    with pytest.raises(ValueError, match=why):
        get(**options)


# ---------------------------------------------------------------------------------------- what is left alone


def test_a_synthetic_dataset_is_left_alone(tmp_path):
    from asdray.dcase.synth import synthesise

    synthesise(tmp_path, "dcase2023", machines=("fan",), train=4, test=4, seconds=0.5)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="holds a synthetic dataset: choose another --data"):
        Download(tmp_path, "dcase2023", machines=("bandsaw",)).run()
    assert tree(tmp_path) == before


def test_data_that_came_in_another_way_is_left_alone(get, site, tmp_path):
    mine = store.original_dir(tmp_path, DCASE, "dev") / "fan" / "train"
    mine.mkdir(parents=True)
    (mine / "a.wav").write_bytes(b"mine")
    report = get()
    assert list(report.failed) == ["dev fan test"]
    assert "somebody else's data are left as they are" in report.failed["dev fan test"]
    (said,) = (n for n in get.notes if "left as they are" in n)
    assert said.endswith("dev_data/raw: fan")
    assert site.asked("dev_fan.zip") == []
    assert len(report.brought) == 2 + 2
    assert tree(mine) == {"a.wav": b"mine"}
    (mine.parent / "test").mkdir()
    (mine.parent / "test" / "b.wav").write_bytes(b"mine")
    assert not get().failed


def by_hand(made, data):
    """The organisers' audio put into place by a person; returns the year's folder."""
    folder = data / "original" / DCASE
    shutil.copytree(made[0].ground_truth.parent, folder, ignore=shutil.ignore_patterns("ground_truth"))
    return folder


def linked_by_hand(made, data):
    mine = by_hand(made, data.parent / "mine")
    folder = data / "original" / DCASE
    folder.mkdir(parents=True)
    (folder / "dev_data").symlink_to(mine / "dev_data")
    (folder / "eval_data").mkdir()
    (folder / "eval_data" / "raw").symlink_to(mine / "eval_data" / "raw")
    return folder


@pytest.mark.parametrize("place", [by_hand, linked_by_hand])
def test_ground_truth_is_fetched_for_data_that_came_in_another_way(get, site, made, tmp_path, audio, place):
    data = tmp_path / "data"
    folder = place(made, data)
    before = tree(folder)
    report = Download(
        data, DCASE, machines=MACHINES, base_url=site.url, patience=FAST, on_note=get.notes.append
    ).run()
    assert not report.failed
    assert len(report.brought) == 2
    assert [n.split(": ")[1].split(";")[0] for n in get.notes if "left as they are" in n] == [
        "fan",
        "3DPrinter",
    ]
    assert {n: c for n, c in tree(folder).items() if not n.startswith("ground_truth")} == before
    assert not any("zip" in path or path.startswith("api") for path, _ in site.requests)
    format_dataset(data, DCASE)
    assert None not in load_manifest(data, DCASE)["is_anomaly"].to_pylist()


def test_ground_truth_that_came_in_another_way_is_left_alone(get, site, tmp_path):
    folder = store.ground_truth_dir(tmp_path, DCASE)
    folder.mkdir(parents=True)
    (folder / "eval_data_list_2024.csv").write_bytes(b"mine")
    assert not get().failed
    assert tree(folder) == {"eval_data_list_2024.csv": b"mine"}


# ------------------------------------------------------------------------------------------------- --from


def folder_of_zips(path, made, leave_out=()):
    for i, (z, content) in enumerate(made[1].items()):
        if z.part not in leave_out:
            (path / str(i)).mkdir(parents=True)
            (path / str(i) / z.name).write_bytes(content)
    return path


def test_zips_of_a_folder_are_unpacked_and_left_there(get, site, made, tmp_path, audio):
    mine = folder_of_zips(tmp_path / "mine", made)
    (mine / "eval_data_list_2024.csv").write_bytes(b"list")
    (mine / "tree" / "dev_data" / "raw" / "fan").mkdir(parents=True)  # zips come before a tree beside them
    before = tree(mine)
    report = get(source=mine)
    assert not report.failed
    assert audio_in(tmp_path) == audio
    assert tree(mine) == before
    assert site.requests == []
    assert tree(store.ground_truth_dir(tmp_path, DCASE)) == {"eval_data_list_2024.csv": b"list"}
    assert len(get(source=mine).found) == 3


def test_what_a_folder_lacks_is_listed_and_can_be_fetched(get, made, tmp_path, audio):
    mine = folder_of_zips(tmp_path / "mine", made, leave_out=("eval_test",))
    report = get(source=mine)
    assert list(report.failed) == ["eval_data_3DPrinter_test.zip", "ground truth"]
    assert len(report.brought) == 2
    assert not get().failed
    assert audio_in(tmp_path) == audio


def test_a_zip_of_another_year_or_a_damaged_one_is_found_out(get, made, tmp_path, monkeypatch):
    mine = folder_of_zips(tmp_path / "mine", made)
    content = next(c for z, c in made[1].items() if z.part == "dev")
    md5 = hashlib.md5(content).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(
            records, "_MD5", {(2023, "dev"): {"fan": md5}, (2024, "eval_test"): {"3DPrinter": "0" * 32}}
        )
        report = get(source=mine, ground_truth=False)
    assert "is dev_fan.zip of dcase2023, not of dcase2024" in report.failed["dev_fan.zip"]
    assert "is damaged or another file" in report.failed["eval_data_3DPrinter_test.zip"]
    assert len(report.brought) == 1


def test_a_folder_with_two_zips_of_one_name_is_refused(get, made, tmp_path):
    mine = folder_of_zips(tmp_path / "mine", made)
    folder_of_zips(mine / "again", made)
    with pytest.raises(ValueError, match=r"dev_fan.zip lies in .* and in .*name the folder"):
        get(source=mine)


def official_tree(made, root):
    """As the organisers' scripts leave it."""
    base = root / "dcase2024t2"
    for name, content in tree(made[0].ground_truth.parent).items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(content)
    return base


def test_a_tree_is_linked_to_and_formatted(get, site, made, tmp_path, audio):
    mine = official_tree(made, tmp_path / "mine")
    for _ in range(2):
        assert not get(source=mine).failed
    folder = tmp_path / "original" / DCASE
    for name in ("dev_data", "eval_data", "ground_truth"):
        assert (folder / name).readlink() == mine / name
    assert site.requests == []
    format_dataset(tmp_path, DCASE)
    assert load_manifest(tmp_path, DCASE).num_rows == sum(name.endswith(".wav") for name in audio)


def test_a_tree_is_never_written_to(get, made, tmp_path):
    mine = official_tree(made, tmp_path / "mine")
    before = tree(mine)
    report = get(source=mine, machines=("fan", "bearing"), subset="dev")
    assert list(report.failed) == ["dev bearing"]
    report = get(machines=("bearing",))
    assert list(report.failed) == ["dev bearing"]
    assert re.search(r"left as they are; .*dev_data is a link to .*mine", report.failed["dev bearing"])
    assert not get(machines=("3DPrinter",)).failed
    assert tree(mine) == before


def test_a_tree_of_another_year_is_refused(get, tmp_path):
    mine = tmp_path / "mine"
    for name in ("dev_data/raw/fan", "eval_data/raw/bandsaw"):
        (mine / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds bandsaw, which dcase2024 does not have.*dcase2023"):
        get(source=mine)
    (mine / "eval_data/raw/bandsaw").rename(mine / "eval_data/raw/other")
    with pytest.raises(ValueError, match="no machine of dcase2024 that was asked for"):
        get(source=mine, subset="eval")
    assert not (tmp_path / "original" / DCASE / "dev_data").exists()


def test_a_tree_does_not_replace_what_is_there(get, made, tmp_path):
    get(machines=("fan",))
    mine = official_tree(made, tmp_path / "mine")
    with pytest.raises(ValueError, match="dev_data is there already"):
        get(source=mine)
    assert not get(source=mine, subset="eval").failed


def test_a_folder_that_is_not_there_is_refused(get, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        get(source=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds none of the zips that are missing \(dev_fan.zip.*no tree"):
        get(source=tmp_path)
    with pytest.raises(ValueError, match="drop one"):
        get(source=tmp_path, base_url="http://127.0.0.1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", ["", "dcase2024t2", "dcase2024t2/dev_data", "dcase2024t2/eval_data/raw"])
@pytest.mark.parametrize("has_raw", [True, False])
def test_a_tree_is_found_from_around_it(get, made, tmp_path, audio, named, has_raw):
    mine = official_tree(made, tmp_path / "mine")
    (tmp_path / "mine" / "dcase2023t2" / "dev_data" / "raw" / "fan").mkdir(parents=True)
    if not has_raw:
        for folder in ("dev_data", "eval_data"):
            (mine / folder / "raw").rename(mine / "raw")
            (mine / folder).rmdir()
            (mine / "raw").rename(mine / folder)
        named = named.removesuffix("/raw")
    for _ in range(2):
        assert not get(source=tmp_path / "mine" / named).failed
        assert not get().failed
    link = store.original_dir(tmp_path, DCASE, "dev")
    assert (link.parent if has_raw else link).readlink() == mine / "dev_data"
    format_dataset(tmp_path, DCASE)
    assert load_manifest(tmp_path, DCASE).num_rows == sum(name.endswith(".wav") for name in audio)


@pytest.mark.parametrize("in_zips", [True, False])
def test_unpacked_zips_and_loose_machines_are_linked_to(get, made, tmp_path, audio, in_zips):
    """As desktop systems unpack a folder of zips, and as people collect machines."""
    mine = tmp_path / "mine"
    for name, content in audio.items():
        subset, _, machine, *rest = Path(name).parts
        part = (
            "dev_fan"
            if subset == "dev_data"
            else f"eval_data_3DPrinter_{'te' if rest[0] == 'test' else 'trai'}"
        )
        part = part.replace("_te", "_test").replace("_trai", "_train")
        path = Path(mine, *([part] if in_zips else []), machine, *rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    before = tree(mine)
    for _ in range(2):
        report = get(source=mine, ground_truth=False)
        assert not report.failed
    assert not get(ground_truth=False).failed
    assert tree(mine) == before
    format_dataset(tmp_path, DCASE)
    assert load_manifest(tmp_path, DCASE).num_rows == sum(name.endswith(".wav") for name in audio)
    (mine / "synthetic.json").write_text("{}")
    with pytest.raises(ValueError, match="holds synthetic data"):
        Download(tmp_path / "other", DCASE, machines=MACHINES, source=mine).run()


def test_loose_machines_of_both_subsets_ask_for_the_subset(tmp_path):
    theirs = build_tree(tmp_path / "theirs", "dcase2022", ["fan"], n_samples=20)
    loose = tmp_path / "mine"
    shutil.copytree(theirs.folder("eval", "fan"), loose / "fan")
    download = functools.partial(
        Download, tmp_path, "dcase2022", machines=["fan"], source=loose, ground_truth=False
    )
    with pytest.raises(ValueError, match="dcase2022 has fan in dev and eval: say which with --subset"):
        download().run()
    assert not download(subset="eval").run().failed
    assert (store.original_dir(tmp_path, "dcase2022", "eval") / "fan").readlink() == loose / "fan"
    format_dataset(tmp_path, "dcase2022")
    assert set(load_manifest(tmp_path, "dcase2022")["subset"].to_pylist()) == {"eval"}


def test_zips_with_the_query_of_their_address_in_their_names(get, made, tmp_path, audio):
    mine = folder_of_zips(tmp_path / "mine", made)
    for path, mark in zip(sorted(mine.rglob("*.zip")), "?@?", strict=True):
        path.rename(path.with_name(f"{path.name}{mark}download=1"))
    assert not get(source=mine, ground_truth=False).failed
    assert audio_in(tmp_path) == audio
    assert any("spite of the ends of their names" in note and "?download=1" in note for note in get.notes)


def test_trees_that_may_be_of_another_year_are_not_taken(get, made, tmp_path):
    mine = official_tree(made, tmp_path / "mine")
    other = mine.rename(mine.with_name("dcase2023t2"))
    with pytest.raises(ValueError, match="no tree of dcase2024"):
        get(source=other.parent)
    other.rename(other.with_name("a"))
    official_tree(made, tmp_path / "mine").rename(other.with_name("b"))
    with pytest.raises(ValueError, match=r"several trees \(a, b\): name that of dcase2024"):
        get(source=other.parent)
    assert not (tmp_path / "original").exists()


def test_a_tree_without_ground_truth_names_the_command_that_gets_it(get, made, tmp_path):
    mine = by_hand(made, tmp_path / "mine")
    before = tree(mine)
    report = get(source=mine)
    assert list(report.failed) == ["ground truth"]
    advice = f"`asdray download dcase2024 --data {tmp_path} --machines fan,3DPrinter` fetches it"
    assert report.failed["ground truth"].endswith(advice)
    report = get()
    assert not report.failed
    assert len(report.brought) == 2
    assert tree(mine) == before


@pytest.mark.parametrize("mark", ["synthetic.json", "synthetic-unfinished.json"])
def test_synthetic_data_are_not_taken_for_official(get, made, tmp_path, mark):
    mine = by_hand(made, tmp_path / "mine")
    (mine / mark).write_text("{}")
    linked = tmp_path / "linked"
    (linked / "dev_data" / "raw").mkdir(parents=True)
    (linked / "dev_data" / "raw" / "fan").symlink_to(mine / "dev_data" / "raw" / "fan")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "dev_fan.zip").write_bytes(next(iter(made[1].values())))
    (labels / "ground_truth").symlink_to(made[0].ground_truth)
    (made[0].ground_truth.parent / mark).write_text("{}")
    try:
        for source in (mine, mine.parent, mine / "dev_data", linked, labels):
            with pytest.raises(ValueError, match=f"holds synthetic data .{mark}.*another --data"):
                get(source=source)
    finally:
        (made[0].ground_truth.parent / mark).unlink()
    assert not (tmp_path / "original").exists()


# ------------------------------------------------------------------------------------------- the command


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["download", *map(str, arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_the_command_says_what_is_there_and_what_to_do(site, tmp_path, capsys, monkeypatch):
    arguments = (DCASE, "--machines", ",".join(MACHINES), "--base-url", site.url, "--data", tmp_path)
    code, out, err = command(capsys, *arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sum(line.startswith("licence of the audio") for line in lines) == 1
    for name in (
        "dev_fan.zip",
        "eval_data_3DPrinter_train_r2.zip",
        "ground truth of nttcslab/dcase2024_task2_evaluator",
    ):
        mine = [line for line in lines if line.startswith(f"{name}:")]
        assert len(mine) == 2
        assert "fetching" in mine[0]
        assert mine[1].endswith(": done")
    assert "  dev: fan" in lines
    assert "  eval: 3DPrinter" in lines
    assert lines[-1] == f"next: asdray format dcase2024 --data {tmp_path}"
    monkeypatch.chdir(tmp_path.parent)
    code, out, _ = command(capsys, *arguments)
    assert code == 0
    assert "0 brought, 3 found there" in out
    assert out.endswith(f"next: asdray format dcase2024 --data {tmp_path.name}\n")
    assert "licence" not in out


def test_the_command_lists_what_is_missing(site, tmp_path, capsys):
    path = zip_path(site, "dev_fan")
    del site.files[path]
    code, out, err = command(
        capsys, DCASE, "--machines", "fan,3DPrinter", "--base-url", f"{site.url}/", "--data", tmp_path
    )
    assert code == 1
    assert f"dev_fan.zip: failed: {site.url}/{path}: the server answers 404" in out
    assert "1 missing:\n  dev_fan.zip: " in err
    assert command(capsys, "dcase2042", "--data", tmp_path)[0] == 2


def test_commands_in_messages_name_the_data_where_that_is_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASDRAY_DATA", raising=False)
    line = "asdray format dcase2024"
    assert hint("format", DCASE, tmp_path / DATA) == line
    assert hint("format", DCASE, Path("d 1")) == f"{line} --data 'd 1'"
    assert hint("format", DCASE, tmp_path) == f"{line} --data ."
    assert hint("format", DCASE, Path("/elsewhere")) == f"{line} --data /elsewhere"
    monkeypatch.setenv("ASDRAY_DATA", "/elsewhere")
    assert hint("format", DCASE, Path("/elsewhere")) == line
    assert hint("format", DCASE, tmp_path / DATA) == f"{line} --data data"


def test_a_terminal_shows_a_bar_per_running_file():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    view = DownloadView(console)
    with view.bars:
        for i in range(30):
            name = f"dev_{i}.zip"
            view.show(FileProgress(name, "fetching", 0, None))
            view.show(FileProgress(name, "fetching", 1_500_000, 3_000_000))
            view.show(FileProgress(name, "waiting", text="[cut]"))
            view.show(FileProgress(name, "unpacking", 64, 128))
            if i < 29:
                view.show(FileProgress(name, "failed" if i == 7 else "done", text="[404]" if i == 7 else ""))
        live = io.StringIO()
        Console(file=live, width=100).print(view.bars)
    assert "dev_29.zip" in live.getvalue()
    assert "unpacking 64 of 128 files" in live.getvalue()
    assert "dev_28.zip" not in live.getvalue()
    assert "dev_7.zip: failed: [404]\n" in console.file.getvalue()


def start(site, data):
    """The command in a process of its own, and the path of the part that hangs."""
    arguments = [DCASE, "--machines", "fan", "--base-url", site.url, "--data", str(data)]
    process = subprocess.Popen(
        [sys.executable, "-m", "asdray", "download", *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = data / "original" / DCASE / "zips" / "dev_fan.zip.part"
    assert site.hanging.wait(120)
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size >= 2 * BLOCK):
        assert time.monotonic() < deadline, "two of the blocks that were sent are not written"
        time.sleep(0.01)
    return process, part


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_command_goes_on_where_it_was(site, made, tmp_path, signum):
    noise = {"fan/train/noise.wav": os.urandom(3 * BLOCK)}
    publish(site, {z: zip_of(noise) if z.machine == "fan" else c for z, c in made[1].items()})
    path = zip_path(site, "dev_fan")
    site.faults[path] = Fault(1, hang_after=2 * BLOCK + 5)
    process, part = start(site, tmp_path)
    process.send_signal(signum)
    if signum == signal.SIGINT:
        site.ended.set()  # a hanging read ends by its own time limit, half a minute later
    _, err = process.communicate(timeout=200)
    assert process.returncode == (75 if signum == signal.SIGINT else -signal.SIGKILL)
    assert ("to go on: asdray download dcase2024 --machines fan" in err) == (signum == signal.SIGINT)
    assert part.stat().st_size == 2 * BLOCK
    assert not part.with_suffix("").exists()
    assert audio_in(tmp_path) == {}
    report = Download(tmp_path, DCASE, machines=("fan",), base_url=site.url, patience=FAST).run()
    assert not report.failed
    assert site.asked("dev_fan.zip")[-1]["Range"] == f"bytes={2 * BLOCK}-"
    assert audio_in(tmp_path) == {f"dev_data/raw/{name}": content for name, content in noise.items()}
