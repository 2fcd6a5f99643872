"""Records, atomic writes and leases: what a killed process may and may not leave behind."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from asdray import store
from asdray.record import Summary


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.bin").write_bytes(b"\0" * 100)
    return tmp_path


def finish(folder, name="score", **kwargs):
    outputs = [folder / "a.txt", folder / "sub" / "b.bin"]
    facts = {"extra": {"options": {}, "backends": {}}, **kwargs}
    return store.finish(folder, name, "sig", outputs=outputs, started=time.time(), **facts)


def test_a_record_describes_outputs_of_its_sizes(folder):
    assert store.read_records(folder) == {}
    record = finish(folder, store.record_name("score", "knn-1"), inputs={"extract": "d1"}, device="cpu")
    assert store.read_records(folder) == {"score-knn-1": record}
    assert store.read_record(folder, "score-knn-2") is None
    assert record.describes(folder)
    (folder / "sub" / "b.bin").write_bytes(b"\0" * 99)
    assert not record.describes(folder)
    (folder / "sub" / "b.bin").unlink()
    assert not record.describes(folder)
    assert dataclasses.replace(record, pruned=("sub/b.bin",)).describes(folder)


def test_the_records_of_a_folder_stand_in_one_file_and_say_what_made_them(folder):
    first = finish(folder, extra={"options": {"n": 1}})
    second = finish(folder, "evaluate")
    raw = json.loads((folder / "done.json").read_text())
    assert raw["format"] == 2
    assert list(raw["records"]) == ["evaluate", "score"]
    score = raw["records"]["score"]
    assert score["outputs"]["a.txt"] == {"size": 5, "sha256": store.sha256_file(folder / "a.txt")}
    assert score["versions"]["torch"]
    assert score["extra"] == {"options": {"n": 1}}
    store.write_record(folder, "score", None)
    assert store.read_records(folder) == {"evaluate": second}
    store.write_record(folder, "score", first)
    assert store.read_record(folder, "score") == first


def test_before_outputs_are_replaced_their_record_goes(folder):
    finish(folder)
    finish(folder, "evaluate")
    leftover = folder / ".tmp-1-2-a.txt"
    leftover.write_text("half")
    store.forget(folder, "score", [folder / "a.txt"])
    assert list(store.read_records(folder)) == ["evaluate"]
    assert not leftover.exists()


def test_a_record_whose_outputs_were_all_pruned_stays_while_they_are_rebuilt(folder):
    record = finish(folder)
    for pruned, stays in ((("a.txt",), False), (("a.txt", "sub/b.bin"), True)):
        store.write_record(folder, "score", dataclasses.replace(record, pruned=pruned))
        store.forget(folder, "score", [])
        assert (store.read_record(folder, "score") is not None) == stays


def test_digest_is_of_content_alone(folder):
    first = finish(folder)
    again = finish(folder)
    assert again.digest == first.digest
    (folder / "a.txt").write_text("hellO")
    assert finish(folder).digest != first.digest


RECORD = {
    "signature": "s", "inputs": {}, "outputs": {}, "digest": "d", "seconds": 1.0, "finished": "", "device": "cpu",
    "versions": {}, "extra": {"options": {}}, "pruned": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"format": 99, "records": {}}',
        '{"format": 2}',
        '{"format": 2, "records": []}',
        '{"format": 2, "records": {"score": 1}}',
        json.dumps({"format": 2, "records": {"score": {**RECORD, "new": 1}}}),
        json.dumps({"format": 2, "records": {"score": {k: RECORD[k] for k in RECORD if k != "digest"}}}),
        json.dumps({"format": 2, "records": {"score": {**RECORD, "pruned": None}}}),
    ],
)
def test_a_damaged_record_file_proves_nothing(folder, damage):
    finish(folder)
    (folder / "done.json").write_text(damage)
    assert store.read_records(folder) == {}
    record = finish(folder)
    assert store.read_records(folder) == {"score": record}


HUGE = {"size": 10**30, "sha256": ""}


@pytest.mark.parametrize(
    "change",
    [
        *[
            {"outputs": value}
            for value in (None, 1, {"a.txt": None}, {"a.txt": {}}, {"a.txt": {"size": "5"}})
        ],
        *[{"outputs": {"a.txt": HUGE}}, {"seconds": 1e300}, {"seconds": "1"}, {"seconds": -1}],
        *[
            {"inputs": []},
            {"inputs": {"extract": 1}},
            {"extra": None},
            {"extra": {}},
            {"extra": {"options": []}},
            {"pruned": "a.txt"},
            {"finished": 0},
        ],
    ],
)
def test_a_record_of_another_shape_proves_nothing(folder, change):
    finish(folder)
    content = {"format": 2, "records": {"score": {**RECORD, **change}}}
    (folder / "done.json").write_text(json.dumps(content))
    assert store.read_record(folder, "score") is None


@pytest.mark.parametrize("name", ["", "a\0", "/etc/passwd", "../a.txt", "sub/../../a.txt", ".", "sub//b.bin"])
def test_a_record_names_no_file_outside_of_its_folder(folder, name):
    outputs = {name: {"size": 5, "sha256": ""}}
    (folder / "done.json").write_text(
        json.dumps({"format": 2, "records": {"score": {**RECORD, "outputs": outputs}}})
    )
    assert store.read_record(folder, "score") is None


def test_a_folder_in_the_place_of_a_file_is_named_and_moved_aside(folder, capfd):
    (folder / "done.json" / "sub").mkdir(parents=True)
    assert store.read_records(folder) == {}
    record = finish(folder)
    assert store.read_records(folder) == {"score": record}
    (aside,) = folder.glob("done.json.folder-*")
    assert (aside / "sub").is_dir()
    assert f"{folder}/done.json is damaged (cannot be read: Is a directory)" in capfd.readouterr().err


def test_any_new_record_removes_the_summary(folder):
    finish(folder)
    assert store.read_summary(folder) is None
    summary = Summary("r", (("model/all/done.json", 1, 2, 3),), (("train", 1, 2.0, 3.0, 4.5, 6),))
    store.write_summary(folder, summary)
    assert store.read_summary(folder) == summary
    assert list(store.read_records(folder)) == ["score"]
    finish(folder, "evaluate")
    assert store.read_summary(folder) is None


def test_atomic_path_leaves_old_or_new_never_half(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    store.write_text(target, "old")
    with pytest.raises(RuntimeError), store.atomic_path(target) as temporary:
        temporary.write_text("ha")
        assert temporary.suffix == ".csv"
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["table.csv"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match=r"Out of range|JSON compliant"):
        store.write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*gone\.json"):
        store.read_json(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is damaged"):
        store.read_json(tmp_path / "bad.json")


def _holder(folder):
    code = f"""
        import sys, pathlib
        from asdray import store
        with store.lease(pathlib.Path({str(folder)!r})):
            print("held", flush=True)
            sys.stdin.readline()
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    with pytest.raises(PermissionError) as told, store.lease(Path("/sys/kernel")):
        pass
    assert told.value.filename == "/sys/kernel"


def test_a_lease_is_waited_for_and_freed_by_a_kill(tmp_path):
    holder = _holder(tmp_path)
    assert holder.stdout.readline() == "held\n"
    waited = []

    def on_wait():
        waited.append(True)
        holder.kill()  # SIGKILL: the kernel frees the lock, nothing goes stale

    with store.lease(tmp_path, on_wait):
        assert waited == [True]
    holder.wait()
    with store.lease(tmp_path, lambda: pytest.fail("nobody holds it any more")):
        pass


def test_on_wait_may_refuse_to_wait(tmp_path):
    holder = _holder(tmp_path)
    assert holder.stdout.readline() == "held\n"

    def refuse():
        raise ValueError("busy")

    with pytest.raises(ValueError, match="busy"), store.lease(tmp_path, refuse):
        pytest.fail("must not get here")
    holder.communicate("done\n")


def test_places_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = store.Places.of("data", "results")
    assert places.data == tmp_path / "data"
    assert places.cache == tmp_path / "data" / "cache"
    assert store.Places.of("data", "results", "/fast").cache.as_posix() == "/fast"


def test_a_clock_that_is_set_back_leaves_a_record_that_is_read(tmp_path):
    store.write_text(tmp_path / "a.csv", "x")
    outputs = [tmp_path / "a.csv"]
    record = store.finish(tmp_path, "extract", "s", outputs=outputs, started=time.time() + 3600)
    assert store.read_record(tmp_path, "extract") == record
    assert record.seconds == 0


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    """Lustre without ``-o flock``: filelock waits for ever for a file that an earlier run has left."""
    (tmp_path / ".lease").touch()
    monkeypatch.setattr("asdray.file_locks._with_locks", set())

    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    says = r"cannot lock .*Function not implemented.*Lustre: -o flock"
    with pytest.raises(ValueError, match=says), store.lease(tmp_path):
        pass
    assert not store.is_leased(tmp_path)
