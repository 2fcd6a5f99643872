"""Markers, atomic writes and leases: what a killed process may and may not leave behind."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from asdray import store


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.bin").write_bytes(b"\0" * 100)
    return tmp_path


def mark(folder, **kwargs):
    outputs = [folder / "a.txt", folder / "sub" / "b.bin"]
    return store.mark_done(folder, "score", "sig", outputs=outputs, started=time.time(), **kwargs)


def test_done_needs_the_signature_the_inputs_and_the_outputs(folder):
    assert store.done(folder, "score", "sig") is None
    marker = mark(folder, inputs={"extract": "d1"}, backend="knn-1", device="cpu")
    assert store.done(folder, "score", "sig", {"extract": "d1"}, "knn-1") == marker
    assert store.done(folder, "score", "other", {"extract": "d1"}, "knn-1") is None
    assert store.done(folder, "score", "sig", {"extract": "d2"}, "knn-1") is None
    assert store.done(folder, "score", "sig", {}, "knn-1") is None
    assert store.done(folder, "score", "sig", {"extract": "d1"}, "knn-2") is None
    (folder / "sub" / "b.bin").write_bytes(b"\0" * 99)
    assert store.done(folder, "score", "sig", {"extract": "d1"}, "knn-1") is None
    (folder / "sub" / "b.bin").unlink()
    assert store.done(folder, "score", "sig", {"extract": "d1"}, "knn-1") is None


def test_marker_says_what_made_it(folder):
    mark(folder, extra={"loss": 0.5})
    raw = json.loads((folder / ".done" / "score.json").read_text())
    assert raw["outputs"]["a.txt"] == {"size": 5, "sha256": store.sha256_file(folder / "a.txt")}
    assert raw["versions"]["torch"]
    assert raw["extra"] == {"loss": 0.5}


@pytest.mark.parametrize("names", [[], ["a"], ["z/ü", 'a "b"']])
def test_digest_is_that_of_the_outputs_as_json(names):
    """Old markers name the digests of what was read: its text must never change."""
    sums = {name: f"{i:064x}" for i, name in enumerate(names)}
    outputs = {name: {"size": 1, "sha256": sha256} for name, sha256 in sums.items()}
    marker = store.Marker("s", "x", {}, outputs, 1.0, "", "cpu", {}, {})
    assert marker.digest == hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def test_digest_is_of_content_alone(folder):
    first = mark(folder)
    again = mark(folder)
    assert again.digest == first.digest
    (folder / "a.txt").write_text("hellO")
    assert mark(folder).digest != first.digest


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "stage": "x"}'])
def test_a_damaged_marker_counts_as_not_done(folder, damage):
    mark(folder)
    (folder / ".done" / "score.json").write_bytes(damage)
    assert store.done(folder, "score", "sig") is None


def test_a_marker_with_a_field_more_or_less_counts_as_not_done(folder):
    """Another version wrote it: it may mean by the others what this one does not."""
    mark(folder)
    path = folder / ".done" / "score.json"
    raw = json.loads(path.read_text())
    for changed in ({**raw, "new": 1}, {k: v for k, v in raw.items() if k != "seconds"}):
        path.write_text(json.dumps(changed))
        assert store.done(folder, "score", "sig") is None
    path.write_text(json.dumps({k: v for k, v in raw.items() if k != "dropped"}))  # of before it could be
    assert store.done(folder, "score", "sig") is not None


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
