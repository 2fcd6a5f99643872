"""Damaged files that asdray wrote and reads back: named, or read with the values that were written."""

import io
import json
from types import SimpleNamespace

import damage as world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import LONG, damaged, inputs, misplaced, one_clear_error
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_damage import KINDS, readers
from tiny import AE, DCASE, build_year

from asdray import damage, store
from asdray.config.backend import Knn
from asdray.config.trial import Trial
from asdray.dcase import audit, manifest, records
from asdray.dcase.synth import dataset as synth
from asdray.evaluation import official
from asdray.frontends import precomputed
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import read_inputs, read_trial, write_trial
from asdray.store import Places
from asdray.sweep import events, progress

JSON = [b"{}", b"[]", b"null", b"1e999", b"NaN", b"true", b'"a"', b":", b",", b"-1", b"[" * 3000]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    build_year(folder)
    return folder


@pytest.fixture(scope="module")
def trial(root):
    """The folder of a trial, and its description."""
    made = Trial(DCASE, "ae", AE, 0, ("fan",))
    files = TrialFiles(made, Places.of(root, root / "results"), manifest.load_dataset(root, DCASE))
    folder = write_trial(files, Request(("last",), made.backends((Knn(),))))
    content = json.loads((folder / "trial.json").read_text()) | {"provenance": {}}
    return SimpleNamespace(folder=folder, text=json.dumps(content).encode(), value=made)


def contents(text):
    """Damages of a JSON text, of its bytes and of its values."""
    value = json.loads(text)
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    values = st.recursive(
        plain, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2)
    )
    return damaged(text, JSON) | misplaced(value, values).map(
        lambda v: json.dumps(v).encode("utf-8", "replace")
    )


@inputs(33)
@given(st.data())
def test_damaged_descriptions_of_trials(trial, data):
    path = trial.folder / "trial.json"
    path.write_bytes(data.draw(contents(trial.text)))
    with one_clear_error("trial.json", trial.folder) as outcome:
        found, _, _ = read_trial(trial.folder)
    if outcome.fault is None:
        assert found.system == trial.value.system, "another system has another folder"
        assert (found.dcase, found.recipe, found.seed) == (DCASE, "ae", 0)
    assert isinstance(read_inputs(store.TrialDir(trial.folder)), dict)


SNAPSHOT = {
    "sweep": "s", "state": "running", "pid": 1, "host": "h", "started": "2026-01-01T00:00:00+00:00",
    "updated": "2026-01-01T00:00:00+00:00", "dashboard": None, "metrics": None, "trials": {"done": 1, "waiting": 2},
    "running": ["a"], "failures": 0, "tasks": 3, "clips_per_second": 1.0, "seconds_left": 12.5,
    "training": [{"trial": "a", "unit": "all", "epoch": 1, "epochs": 2, "loss": 0.5, "clips_per_second": 1.0,
                  "seconds_left": 3.0}],
    "to_come": {"search": 3}, "without": 0,
    "leaderboard": [{"system": "a", "backend": "knn", "checkpoint": "last", "column": "eval_amean", "score": 0.5,
                     "dataset": "official", "complete": True}],
}  # fmt: skip


@inputs(33)
@given(st.data())
def test_damaged_snapshots_of_a_run(root, data):
    path = root / "status.json"
    path.write_bytes(data.draw(contents(json.dumps(SNAPSHOT).encode())))
    found = progress.read_snapshot(root)
    if found is not None:
        Console(width=100, file=io.StringIO()).print(progress.render(found))
        assert progress.snapshot_age(found) >= 0


EVENT = {
    "time": "t", "dcase": "dcase2023", "recipe": "r", "system": "r-1", "seed": 0, "stage": "train", "unit": "all",
    "checkpoint": None, "machine": None, "backend": None, "signature": "abc", "status": "failed", "error": "NaN",
    "lasting": True,
}  # fmt: skip
LOG = b"".join(
    json.dumps({**EVENT, "seed": seed, "status": status}).encode() + b"\n"
    for seed, status in ((0, "failed"), (1, "done"), (2, "failed"), (2, "done"))
)


@inputs(33)
@given(damaged(LOG, [*JSON, b'"failed"', b'"done"', b"{}\n", b"\n"]))
def test_damaged_logs(root, content):
    path = root / "events.jsonl"
    path.write_bytes(content)
    with one_clear_error(path):
        found = events.History(path)
        lines = [
            progress.failure_line(event, {}) for event in [*found.failed.values(), *found.lasting.values()]
        ]
        assert all(isinstance(line, str) for line in lines)
        events.EventLog(path).add({**EVENT, "found": False})
        assert len(events.History(path).failed) >= 1, "the next line is readable"


@inputs(22)
@given(st.data())
def test_damaged_markers_of_zips(root, data):
    z = records.zips("dcase2023")[0]
    marker = root / "original" / "dcase2023" / ".download" / f"{z.name}.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"format": 1, "zip": z.name, "record": 1, "files": {"fan/train": 3}, "fetched": True}
    ).encode()
    marker.write_bytes(data.draw(contents(text)))
    with one_clear_error(marker):
        records.is_in_place(root, z)
        records.foreign(root, [z], [z])
        records.mark(root, z, keep=True)
        assert records.is_kept(root, z)
    marker.unlink()


@inputs(22)
@given(st.data())
def test_damaged_marks_of_synthetic_data(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("synth")
    spec = synth.spec_of("dcase2023", ("fan",), 4, 4, 0.5)
    done, begun = manifest.synthetic_path(folder, "dcase2023"), manifest.unfinished_path(folder, "dcase2023")
    counts = {"dev/fan/00/train/source/normal": 4}
    done.parent.mkdir(parents=True)
    done.write_bytes(
        data.draw(contents(json.dumps({**spec.as_json(), "clips": 4, "counts": counts}).encode()))
    )
    begun.write_bytes(data.draw(contents(json.dumps(spec.as_json()).encode())))
    with one_clear_error(done.parent):
        synth._is_done(folder, spec)
    with one_clear_error(done):
        audit.expected_counts(folder, "dcase2023", "synthetic")
    with one_clear_error(begun):
        synth._claim(folder, spec)


@inputs(16)
@given(st.data())
def test_damaged_marks_of_submissions(root, data):
    path = root / "submission.json"
    path.write_bytes(data.draw(contents(json.dumps({"dataset": {"kind": "official", "id": "x"}}).encode())))
    with one_clear_error(root):
        official._check_dataset(root, "official")


# ------------------------------------------------------- what is compared with its hash, see `asdray.damage`


@inputs(33)
@given(st.data())
def test_damaged_manifests(root, data):
    """Either file damaged: refused by name, or the same clips."""
    paths = {"parquet": store.manifest_path(root, DCASE), "json": store.dataset_path(root, DCASE)}
    whole = {kind: path.read_bytes() for kind, path in paths.items()}
    table = manifest.load_manifest(root, DCASE)
    kind = data.draw(st.sampled_from(sorted(paths)))
    try:
        strategy = contents(whole[kind]) if kind == "json" else damaged(whole[kind], [b"PAR1"])
        paths[kind].write_bytes(data.draw(strategy))
        with one_clear_error(*(path.name for path in paths.values()), DCASE) as outcome:
            found = manifest.load_manifest(root, DCASE)
        if outcome.fault is None:
            assert found.equals(table)
    finally:
        for kind, path in paths.items():
            path.write_bytes(whole[kind])


def vectors():
    table = pa.table({"clip": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue().to_pybytes()


@inputs(33)
@given(damaged(vectors(), [b"PAR1"]))
def test_damaged_parquet_files_of_a_user(root, content):
    path = root / "vectors.parquet"
    path.write_bytes(content)
    with one_clear_error(path):
        found = precomputed.read(path, ["a", "b"], "clips")
        assert found.shape[0] == 2
        assert found.dtype == np.float32


# --------------------------------------------------------------------------------- records of finished stages


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The folder of a finished stage, and its records."""
    folder = tmp_path_factory.mktemp("stage")
    store.write_text(folder / "scores.csv", "0.25")
    store.finish(folder, "score", "s", outputs=[folder / "scores.csv"], inputs={"a": "b"}, started=0.0)
    content = json.loads((folder / store.RECORDS).read_text())
    content["records"]["score"] |= {
        "seconds": 1.5,
        "finished": "2026-01-01T00:00:00Z",
        "versions": {"numpy": "2"},
    }
    return folder, json.dumps(content).encode()  # the same bytes each time


@inputs(30)
@given(st.data())
def test_damaged_records(stage, data):
    """A damaged record proves nothing, or describes the file that is there, or names it."""
    folder, whole = stage
    (folder / store.RECORDS).write_bytes(data.draw(contents(whole)))
    found = store.read_record(folder, "score")
    assert found is None or isinstance(found.describes(folder), bool)
    store.read_summary(folder)
    with one_clear_error(folder):
        damage.check(folder / "scores.csv")
    assert all(fault.path.is_relative_to(folder) for fault in damage.below(folder))
    store.write_record(folder, "score", found)
    assert store.read_record(folder, "score") == found, "what is written next is readable"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Reader and path of every kind of file of a finished trial."""
    places = world.build(tmp_path_factory.mktemp("finished"))
    paths = {kind: path for kind, path in world.files_of(places).items() if kind in KINDS}
    pack = paths["audio pack"].with_name("pack.json")
    return readers(places), {**paths, "index of a pack": pack}


@pytest.mark.skipif(not LONG, reason="trains for some seconds: make fuzz")
@pytest.mark.parametrize("kind", [*KINDS, "index of a pack"])
@inputs(1)
@given(st.data())
def test_damaged_files_of_a_finished_trial(finished, kind, data):
    """What `tests/test_damage.py` does with single bits, with all kinds of damages."""
    read, path = finished[0].get(kind, finished[0]["audio pack"]), finished[1][kind]
    whole, expected = path.read_bytes(), str(read())
    try:
        path.write_bytes(data.draw(contents(whole) if path.suffix == ".json" else damaged(whole, [b"PAR1"])))
        with one_clear_error(path.name, path.parent) as outcome:
            found = str(read())
        assert outcome.fault is not None or found == expected
    finally:
        path.write_bytes(whole)
