"""Audio packs: exact samples, built once, never stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import build_tree, samples, write_list, write_wav

from asdray import store
from asdray.audio.cache import check_unchanged, ensure_pack, train_rows
from asdray.dcase import manifest
from asdray.dcase.format import format_dataset


@pytest.fixture
def tree(tmp_path):
    tree = build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], train={"source": 20, "target": 2})
    format_dataset(tree.data, "dcase2023")
    return tree


@pytest.fixture
def places(tree, tmp_path):
    return store.Places.of(tree.data, tmp_path / "results")


def folder_of(places, machine, split):
    return store.pack_dir(places.cache, "dcase2023", machine, split)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_pack_holds_every_sample_of_every_clip(tree, places, split):
    for n, machine in ((800, "fan"), (816, "bandsaw")):
        pack = ensure_pack(places, "dcase2023", machine, split)
        table = manifest.rows(manifest.load_manifest(tree.data, "dcase2023"), machine=machine, split=split)
        assert list(pack.clips) == table["clip"].to_pylist() == sorted(pack.clips)
        assert len(pack) == {"train": 22, "test": 4}[split]
        assert pack.sample_rate == 16000
        assert (pack.samples.dtype, pack.offsets.dtype) == (np.int16, np.int64)
        assert isinstance(pack.samples, np.memmap)
        assert not pack.samples.flags.writeable
        for i, clip in enumerate(pack.clips):
            np.testing.assert_array_equal(pack.clip(i), samples(clip, n))


def test_clips_of_different_length_and_two_channels(tmp_path):
    tree = build_tree(tmp_path, "dcase2026", ["fan"])
    lengths = {}
    for i, path in enumerate(sorted(tree.folder("dev", "fan", "train").glob("*.wav"))):
        lengths[f"dev/fan/train/{path.name}"] = 100 * (i + 1)
        write_wav(path, path.name, 100 * (i + 1), channels=2)
    format_dataset(tmp_path, "dcase2026")
    pack = ensure_pack(store.Places.of(tmp_path, tmp_path / "results"), "dcase2026", "fan", "train")
    for i, clip in enumerate(pack.clips):
        expected = samples(clip.split("/")[-1], lengths[clip], 2)
        assert expected.shape == (lengths[clip], 2)
        np.testing.assert_array_equal(pack.clip(i), expected)


def test_train_rows_are_aligned_and_test_has_none(tree, places):
    pack = ensure_pack(places, "dcase2023", "fan", "train")
    rows = train_rows(tree.data, pack)
    for clip, section, domain, attributes, subset in zip(
        pack.clips, rows.section, rows.domain, rows.attributes, rows.subset, strict=True
    ):
        name = clip.split("/")[-1].removesuffix(".wav").split("_", 6)
        assert (f"{section:02d}", domain, attributes, subset) == (name[1], name[2], name[6], "dev")
    with pytest.raises(AssertionError):
        train_rows(tree.data, ensure_pack(places, "dcase2023", "fan", "test"))


def test_opening_again_touches_nothing_and_reads_no_wav(tree, places):
    ensure_pack(places, "dcase2023", "fan", "train")
    folder = folder_of(places, "fan", "train")
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    for path in tree.folder("dev", "fan", "train").glob("*.wav"):
        path.unlink()
    assert len(ensure_pack(places, "dcase2023", "fan", "train")) == 22
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_new_ground_truth_keeps_the_packs(tree, places):
    before = ensure_pack(places, "dcase2023", "bandsaw", "test")
    write_list(tree)
    format_dataset(tree.data, "dcase2023")
    file = folder_of(places, "bandsaw", "test") / "pack.json"
    built = file.stat().st_mtime_ns
    after = ensure_pack(places, "dcase2023", "bandsaw", "test")
    assert (after.id, after.clips) == (before.id, before.clips)
    assert file.stat().st_mtime_ns == built


def test_two_processes_that_start_together_build_once(tree, places, tmp_path):
    code = """
import sys, time
from pathlib import Path
from asdray import store
from asdray.audio import cache
build = cache._build
def counted(*args):
    Path(sys.argv[2], f"built-{sys.argv[3]}").write_text("")
    build(*args)
cache._build = counted
places = store.Places.of(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
pack = cache.ensure_pack(places, "dcase2023", "fan", "train")
print(pack.id, int(pack.samples.astype("int64").sum()))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tree.data), str(tmp_path), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for p in processes:
        assert p.stdout.readline() == "ready\n"
    for p in processes:
        p.stdin.write("go\n")
        p.stdin.flush()
    outputs = {p.communicate()[0] for p in processes}
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_a_reader_of_the_old_pack_survives_a_new_one(tree, places):
    old = ensure_pack(places, "dcase2023", "fan", "train")
    content = np.array(old.samples)
    write_wav(next(tree.folder("dev", "fan", "train").glob("*.wav")), "another", 900)
    format_dataset(tree.data, "dcase2023")
    new = ensure_pack(places, "dcase2023", "fan", "train")
    assert new.id != old.id
    assert len(new.samples) == len(old.samples) + 100
    np.testing.assert_array_equal(old.samples, content)
    assert len(list(folder_of(places, "fan", "train").glob("samples-*.npy"))) == 1


@pytest.mark.parametrize("damage", ["unlink", "truncate", "zero", "index"])
def test_a_damaged_pack_is_built_again(tree, places, damage, capsys):
    content = np.array(ensure_pack(places, "dcase2023", "fan", "test").samples)
    folder = folder_of(places, "fan", "test")
    (file,) = folder.glob("samples-*.npy")
    if damage == "unlink":
        file.unlink()
    elif damage == "truncate":
        os.truncate(file, 200)
    elif damage == "zero":  # a machine that lost its power: the size is right, the blocks were never written
        file.write_bytes(bytes(file.stat().st_size))
    else:
        (folder / "pack.json").unlink()
    (folder / ".tmp-1-2-samples.npy").write_bytes(b"left by a killed process")
    np.testing.assert_array_equal(ensure_pack(places, "dcase2023", "fan", "test").samples, content)
    assert not list(folder.glob(".tmp-*"))
    told = capsys.readouterr().err
    assert "pickle" not in told
    assert (f"{file.name} does not begin as a file of NumPy's" in told) == (damage == "zero")


def test_changed_added_and_removed_wavs_are_noticed(tree, places):
    check_unchanged(tree.data, "dcase2023", ["fan", "bandsaw"])
    train = sorted(tree.folder("dev", "fan", "train").glob("*.wav"))
    stat = train[0].stat()
    write_wav(train[0], "another", 800)  # as long as before: only the time tells
    os.utime(train[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    train[1].unlink()
    for i in range(5):
        write_wav(train[2].with_name(f"section_00_source_train_normal_01{i:02d}_x.wav"), "added")
    with pytest.raises(ValueError, match="are not those that were formatted") as error:
        check_unchanged(tree.data, "dcase2023", ["fan"])
    message = str(error.value)
    assert f"1 changed (dev/fan/train/{train[0].name})" in message
    assert f"1 removed (dev/fan/train/{train[1].name})" in message
    assert "5 added (" in message
    assert message.count("normal_01") == 3
    assert message.endswith(f"run `asdray format dcase2023 --data {tree.data}` again")
    check_unchanged(tree.data, "dcase2023", ["bandsaw"])
    with pytest.raises(ValueError, match="are not those that were formatted"):
        ensure_pack(places, "dcase2023", "fan", "test")
    assert not list(folder_of(places, "fan", "test").glob("samples-*"))
    format_dataset(tree.data, "dcase2023")
    check_unchanged(tree.data, "dcase2023", ["fan", "bandsaw"])
    assert len(ensure_pack(places, "dcase2023", "fan", "train")) == 22 + 5 - 1


def test_a_subset_that_arrives_later_is_noticed(tmp_path):
    tree = build_tree(tmp_path, "dcase2022", ["fan"], n_samples=10)
    moved = (tmp_path / "original" / "dcase2022" / "eval_data").rename(tmp_path / "later")
    format_dataset(tmp_path, "dcase2022")
    check_unchanged(tmp_path, "dcase2022", ["fan"])
    moved.rename(tmp_path / "original" / "dcase2022" / "eval_data")
    with pytest.raises(ValueError, match=r"24 added \(eval/fan"):
        check_unchanged(tree.data, "dcase2022", ["fan"])


def spoil(path, content: bytes):
    """Other content, same size and time: only decoding can tell."""
    stat = path.stat()
    path.write_bytes(content)
    os.truncate(path, stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_all_wavs_that_cannot_be_decoded_are_listed_and_no_pack_is_left(tree, places):
    one, two, three, *_ = sorted(tree.folder("dev", "fan", "train").glob("*.wav"))
    spoil(one, b"no wav at all")
    content = two.read_bytes()
    spoil(two, content[:40] + (100).to_bytes(4, "little"))  # a shorter data chunk than was formatted
    three_bytes = bytearray(three.read_bytes())
    three_bytes[22:24] = (2).to_bytes(2, "little")
    three_bytes[32:34] = (4).to_bytes(2, "little")
    spoil(three, bytes(three_bytes))
    with pytest.raises(ValueError, match="3 of 22 train clips of dcase2023 fan cannot be used") as error:
        ensure_pack(places, "dcase2023", "fan", "train")
    lines = dict(line.strip().split(": ", 1) for line in str(error.value).splitlines()[1:])
    assert set(lines) == {str(one), str(two), str(three)}
    assert lines[str(two)] == "holds 50 samples, its header says 800"
    assert lines[str(three)] == "has 2 channels, 1 when it was formatted"
    assert [p.name for p in folder_of(places, "fan", "train").iterdir()] == [".lease"]


def test_what_is_not_there(tree, places):
    with pytest.raises(ValueError, match=r"formatted without valve .*machines: {dcase2023: \[fan, \.\.\.\]}"):
        ensure_pack(places, "dcase2023", "valve", "train")
    with pytest.raises(ValueError, match="dcase2023 fan has no supplemental clips under"):
        ensure_pack(places, "dcase2023", "fan", "supplemental")
    with pytest.raises(ValueError, match="dcase2022 is not formatted"):
        ensure_pack(places, "dcase2022", "fan", "train")


def test_a_full_disk_is_one_message_not_a_dead_process(tree, places):
    """A limit on the size of files takes the place of a full disk: the same calls fail."""
    old = ensure_pack(places, "dcase2023", "fan", "test")
    write_wav(next(tree.folder("dev", "fan", "test").glob("*.wav")), "x", 900)
    format_dataset(tree.data, "dcase2023")
    before = sorted(folder_of(places, "fan", "test").iterdir())
    code = f"""
import resource
from asdray import store
from asdray.audio.cache import ensure_pack
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    ensure_pack(store.Places.of({str(tree.data)!r}, "results"), "dcase2023", "fan", "test")
except OSError as error:
    print(error.filename, error.strerror)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{folder_of(places, 'fan', 'test')} no space for 0.0 GB of audio on " in run.stdout
    assert run.stdout.endswith("choose another place with --cache-dir\n")
    assert sorted(folder_of(places, "fan", "test").iterdir()) == before
    assert len(old.samples)
    assert len(ensure_pack(places, "dcase2023", "fan", "test").samples) == len(old.samples) + 100


def test_clips_without_sound_are_listed_with_those_that_cannot_be_decoded(tree, places):
    one, two, three, *_ = sorted(tree.folder("dev", "fan", "train").glob("*.wav"))
    soundfile.write(one, np.zeros(800, np.int16), 16000, subtype="PCM_16")
    soundfile.write(two, np.full(800, -32768, np.int16), 16000, subtype="PCM_16")
    content = np.zeros(800, np.int16)
    content[-1] = 1
    soundfile.write(three, content, 16000, subtype="PCM_16")
    format_dataset(tree.data, "dcase2023")
    with pytest.raises(
        ValueError, match="2 of 22 train clips of dcase2023 fan cannot be used: get them again"
    ) as error:
        ensure_pack(places, "dcase2023", "fan", "train")
    assert str(error.value).splitlines()[1:] == [
        f"  {one}: holds nothing but zeros",
        f"  {two}: holds nothing but the value -32768",
    ]
    assert [p.name for p in folder_of(places, "fan", "train").iterdir()] == [".lease"]


def test_a_dead_microphone_of_a_stereo_clip_is_reported(tmp_path):
    tree = build_tree(tmp_path, "dcase2026", ["fan"])
    one, two, three, *_ = sorted(tree.folder("dev", "fan", "train").glob("*.wav"))
    for path, near, far in ((one, 0, None), (two, None, 7), (three, 0, -1)):
        audio = samples(path.name, 800, 2)
        for channel, value in enumerate((near, far)):
            if value is not None:
                audio[:, channel] = value
        soundfile.write(path, audio, 16000, subtype="PCM_16")
    format_dataset(tmp_path, "dcase2026")
    with pytest.raises(ValueError, match="3 of 4 train clips of dcase2026 fan cannot be used") as error:
        ensure_pack(store.Places.of(tmp_path, tmp_path / "results"), "dcase2026", "fan", "train")
    assert str(error.value).splitlines()[1:] == [
        f"  {one}: channel 0 holds nothing but zeros",
        f"  {two}: channel 1 holds nothing but the value 7",
        f"  {three}: channel 0 holds nothing but zeros, channel 1 holds nothing but the value -1",
    ]


def test_the_cache_may_lie_elsewhere(tree, tmp_path):
    places = store.Places.of(tree.data, tmp_path / "results", tmp_path / "local")
    ensure_pack(places, "dcase2023", "fan", "train")
    assert (tmp_path / "local" / "dcase2023" / "fan" / "train" / "pack.json").exists()
    assert not (tree.data / "cache").exists()


def test_a_place_that_may_not_be_written_is_told_with_the_option(tree):
    """As ``<data>/cache`` in the shared folder of a group; /sys refuses root, too."""
    places = store.Places(tree.data, tree.data / "results", Path("/sys/kernel/cache"))
    with pytest.raises(OSError, match="name another place for decoded audio by --cache-dir") as told:
        ensure_pack(places, "dcase2023", "fan", "train")
    assert told.value.filename.startswith("/sys/kernel/cache")


def test_a_pack_of_a_dataset_that_moved_on_gives_no_rows(tree, places):
    pack = ensure_pack(places, "dcase2023", "fan", "train")
    next(tree.folder("dev", "fan", "train").glob("*.wav")).unlink()
    format_dataset(tree.data, "dcase2023")
    with pytest.raises(ValueError, match="was formatted while its audio was in use"):
        train_rows(tree.data, pack)
