"""Zips are unpacked whole or not at all, and nowhere but in their machine's folder."""

import io
import stat
import threading
import zipfile

import pytest

from asdray.dcase import unpack as module
from asdray.dcase.fetch import Stopped
from asdray.dcase.unpack import unpack

TRAIN = {"fan/train/a.wav": b"a" * 3000, "fan/train/b.wav": b"b", "fan/attributes_00.csv": b"file_name\n"}


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name, (2023, 4, 5, 6, 7, 8))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_content_is_in_place_with_the_times_of_the_zip(tmp_path):
    raw = tmp_path / "raw"
    done = unpack(make_zip(tmp_path / "dev_fan.zip", TRAIN), "fan", raw)
    assert tree(raw) == TRAIN
    assert done.files == {"fan/train": 2, "fan": 1}
    assert done.kept == ()
    assert {p.stat().st_mtime for p in raw.rglob("*.wav")} == {1680674828}
    assert [p.name for p in raw.iterdir()] == ["fan"]


def test_folders_and_what_a_mac_adds_are_left_out(tmp_path):
    extra = {"fan/": b"", "fan/train/": b"", "__MACOSX/fan/._a.wav": b"?", "fan/.DS_Store": b"?"}
    unpack(make_zip(tmp_path / "z.zip", {**extra, **TRAIN}), "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == TRAIN


@pytest.mark.parametrize("before", ["./", "././", "fan/", "./fan/", ""])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_what_other_programs_pack_is_understood(tmp_path, before, separator):
    files = {"fan/": b"", "fan/train/": b"", **TRAIN}
    written = {(before + name).replace("/", separator): content for name, content in files.items()}
    done = unpack(make_zip(tmp_path / "z.zip", written), "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == TRAIN
    assert done.files == {"fan/train": 2, "fan": 1}


def test_texts_beside_the_machine_are_left_out(tmp_path):
    texts = {"README.txt": b"?", "LICENSE": b"?", "./Thumbs.db": b"?"}
    unpack(make_zip(tmp_path / "z.zip", {**texts, **TRAIN}), "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == TRAIN
    with pytest.raises(ValueError, match="holds no file"):
        unpack(make_zip(tmp_path / "texts.zip", texts), "fan", tmp_path / "raw")


def test_two_zips_meet_in_one_folder(tmp_path):
    raw, test = tmp_path / "raw", {"fan/test/c.wav": b"c", "fan/attributes_00.csv": b"another\n"}
    unpack(make_zip(tmp_path / "train.zip", TRAIN), "fan", raw)
    done = unpack(make_zip(tmp_path / "test.zip", test), "fan", raw)
    assert done.kept == ("fan/attributes_00.csv",)
    assert tree(raw) == {**test, **TRAIN}


def test_an_interrupted_call_is_repeated(tmp_path):
    raw, path = tmp_path / "raw", make_zip(tmp_path / "z.zip", TRAIN)
    (raw / ".tmp-z/fan/train").mkdir(parents=True)
    (raw / ".tmp-z/fan/train/a.wav").write_bytes(b"half")
    (raw / "fan/train").mkdir(parents=True)
    (raw / "fan/train/b.wav").write_bytes(b"b")
    assert unpack(path, "fan", raw).files == {"fan/train": 2, "fan": 1}
    assert tree(raw) == TRAIN


def test_a_clip_with_another_content_is_never_overwritten(tmp_path):
    raw = tmp_path / "raw"
    (raw / "fan/train").mkdir(parents=True)
    (raw / "fan/train/b.wav").write_bytes(b"mine")
    with pytest.raises(ValueError, match="b.wav is there already, with another content than in z.zip"):
        unpack(make_zip(tmp_path / "z.zip", TRAIN), "fan", raw)
    assert (raw / "fan/train/b.wav").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.wav", "outside"),
        ("fan/../../evil.wav", "outside"),
        ("/tmp/evil.wav", "outside"),
        ("./../evil.wav", "outside"),
        ("fan//evil.wav", "no plain path"),
        ("fan/./evil.wav", "no plain path"),
        ("fan\\..\\..\\evil.wav", "outside"),
        ("..\\evil.wav", "outside"),
        ("\\evil.wav", "outside"),
        ("../README.txt", "outside"),
        ("C:/evil.wav", "in the folder fan"),
        ("C:\\evil.wav", "in the folder fan"),
        ("fan\\train\\a.wav", "twice"),
        ("fan/fan/train/a.wav", "twice"),
        ("fan/fan/../../../evil.wav", "outside"),
        ("bearing/train/a.wav", "in the folder fan"),
        ("a.wav", "in the folder fan"),
        ("fan/train/a.wav/x.wav", "twice"),
        (entry("fan/train/link.wav", stat.S_IFLNK | 0o777), "link or a device"),
        (entry("fan/train/pipe", stat.S_IFIFO | 0o644), "link or a device"),
    ],
)
def test_what_no_dataset_holds_is_refused_before_anything_is_written(tmp_path, name, why):
    path = make_zip(tmp_path / "z.zip", {**TRAIN, name: b"/etc/passwd"})
    with pytest.raises(ValueError, match=f"z.zip is refused: .*{why}"):
        unpack(path, "fan", tmp_path / "raw")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["z.zip"]


def test_duplicate_and_encrypted_entries_and_empty_zips_are_refused(tmp_path):
    make_zip(tmp_path / "twice.zip", {"fan/a.wav": b"1", "fan/b.wav": b"2"})
    twice = (tmp_path / "twice.zip").read_bytes().replace(b"fan/b.wav", b"fan/a.wav")
    (tmp_path / "twice.zip").write_bytes(twice)
    secret = bytearray(make_zip(tmp_path / "s.zip", TRAIN).read_bytes())
    secret[secret.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    (tmp_path / "secret.zip").write_bytes(secret)
    make_zip(tmp_path / "empty.zip", {"fan/": b""})
    for name, why in (("twice", "twice"), ("secret", "encrypted"), ("empty", "holds no file")):
        with pytest.raises(ValueError, match=why):
            unpack(tmp_path / f"{name}.zip", "fan", tmp_path / "raw")


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "bomb.zip", {"fan/train/a.wav": bytes(module.SMALL + 1)})
    with pytest.raises(ValueError, match=r"bytes would become 16777217"):
        unpack(path, "fan", tmp_path / "raw")
    monkeypatch.setattr(module, "RATIO", 10**6)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"needs 0\.02 GB .* where 0\.00 GB are free"):
        unpack(path, "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == {}


def test_an_entry_that_is_longer_than_it_says_is_damaged(tmp_path):
    content = bytearray(make_zip(tmp_path / "z.zip", {"fan/train/a.wav": bytes(5000)}).read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    (tmp_path / "z.zip").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        unpack(tmp_path / "z.zip", "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == {}


def test_damaged_zips_leave_nothing_behind(tmp_path):
    whole = make_zip(tmp_path / "z.zip", TRAIN).read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"fan/train/b.wav") + len("fan/train/b.wav")] ^= 0xFF
    for content in (b"", b"<html>", whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "z.zip").write_bytes(content)
        with pytest.raises(ValueError, match=r"z.zip is damaged or no zip"):
            unpack(tmp_path / "z.zip", "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == {}


def test_unpacking_can_be_stopped(tmp_path):
    stop = threading.Event()
    with pytest.raises(Stopped):
        unpack(
            make_zip(tmp_path / "z.zip", TRAIN),
            "fan",
            tmp_path / "raw",
            stop=stop,
            on_files=lambda *_: stop.set(),
        )
    assert tree(tmp_path / "raw") == {}


def test_ready_comes_before_the_first_file_is_in_place(tmp_path):
    raw, seen = tmp_path / "raw", []
    unpack(
        make_zip(tmp_path / "z.zip", TRAIN), "fan", raw, on_ready=lambda: seen.append((raw / "fan").exists())
    )
    assert seen == [False]


def test_dates_that_no_calendar_has_are_accepted(tmp_path):
    info = zipfile.ZipInfo("fan/train/a.wav")
    info.date_time = (1980, 0, 0, 0, 0, 0)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(info, b"a")
    (tmp_path / "z.zip").write_bytes(memory.getvalue())
    unpack(tmp_path / "z.zip", "fan", tmp_path / "raw")
    assert tree(tmp_path / "raw") == {"fan/train/a.wav": b"a"}


def test_a_zip_of_windows_above_2_gb_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "dev_fan.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fan/train/a.wav", b"audio")
    content = bytearray(path.read_bytes())
    for at in (8, content.find(b"PK\x01\x02") + 10):
        content[at : at + 2] = b"\x09\0"  # Deflate64
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"dev_fan.zip is compressed in a way .* unpack it with another program"
    ):
        unpack(path, "fan", tmp_path / "raw")
