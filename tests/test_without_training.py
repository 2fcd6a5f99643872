"""Frontends that learn nothing run through the same stages: mean spectra, and embeddings from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from finished import snapshot
from test_features import _numpy_htk_mel, _numpy_spectrogram
from tiny import AE, DCASE, build_year

from asdray import store
from asdray.config.backend import Knn
from asdray.config.frontend import Precomputed, RawSpec
from asdray.config.system import Audio, System
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_manifest, rows
from asdray.frontends import precomputed
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles, steps
from asdray.stages.train import train
from asdray.store import Places

RAW = System(frontend=RawSpec(n_mels=8, n_fft=256, hop_length=128), audio=Audio(duration=0.4))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_year(folder)
    return folder


@pytest.fixture
def places(data, tmp_path) -> Places:
    return Places.of(data, tmp_path / "results")


def trial_of(system: System, seed: int = 0) -> Trial:
    return Trial(DCASE, "raw", system, seed, ("fan",))


def from_file(path: Path | str) -> System:
    return System(frontend=Precomputed(path=str(path)))


def keys_of(places: Places, *machines: str) -> list[str]:
    table = load_manifest(places.data, DCASE)
    return [key for m in machines or ("fan",) for key in rows(table, machine=m)["clip"].to_pylist()]


def read(places: Places, trial: Trial, split: str = "test") -> dict[str, np.ndarray]:
    table = pq.read_table(store.trial_dir(places.results, trial).extract("last", "fan", split))
    return dict(zip(table["clip"].to_pylist(), np.array(table["embedding"].to_pylist()), strict=True))


# -------------------------------------------------------------------------------------------- raw_spec


@pytest.mark.parametrize("duration", [0.4, "native"])
def test_raw_spec_is_the_mean_of_mel_magnitudes(duration, places):
    trial = trial_of(RAW.model_copy(update={"audio": Audio(duration=duration)}))
    outcome = train(TrialFiles.load(trial, places), trial.units[0], checkpoints=("last", "best"))
    assert not outcome.reused
    assert train(TrialFiles.load(trial, places), trial.units[0], checkpoints=("best",)).reused
    assert outcome.record.extra == {"epochs": 0, "n_clips": 6, "threads": 1}
    folder = store.trial_dir(places.results, trial).model("fan")
    assert (folder / "metrics.csv").read_text() == "epoch,loss,learning_rate,seconds,per_second\n"
    extract(TrialFiles.load(trial, places), "fan", "last")
    found = read(places, trial)
    filters = _numpy_htk_mel(8, 256)
    for row in rows(load_manifest(places.data, DCASE), machine="fan", split="test").to_pylist():
        wave, _ = soundfile.read(places.data / row["original_path"])
        wave = wave if duration == "native" else wave[:6400]
        expected = (filters @ _numpy_spectrogram(wave, 256, 128)).mean(axis=1)
        np.testing.assert_allclose(found[row["clip"]], expected, rtol=1e-4, atol=1e-6)
    score(TrialFiles.load(trial, places), "fan", "last", Knn())
    extract(TrialFiles.load(trial, places), "fan", "best")


def test_clips_of_different_lengths_keep_their_keys(places, tmp_path):
    """Extraction groups clips by length; results keep the order of the keys."""
    raw = places.data / "original" / DCASE / "dev_data" / "raw" / "fan" / "test"
    copies = Places.of(tmp_path / "data", tmp_path / "other")
    for machine_split in ("train", "test"):
        target = copies.data / "original" / DCASE / "dev_data" / "raw" / "fan" / machine_split
        target.mkdir(parents=True)
        for i, path in enumerate(sorted((raw.parent / machine_split).iterdir())):
            wave, _ = soundfile.read(path, dtype="int16")
            soundfile.write(target / path.name, wave[: 3000 + 700 * (i * 5 % 4)], 16000, subtype="PCM_16")
    from asdray.dcase.format import format_dataset

    format_dataset(copies.data, DCASE)
    system = AE.model_copy(update={"audio": Audio(duration="native")})
    raw_system = RAW.model_copy(update={"audio": Audio(duration="native")})
    for trial in (trial_of(raw_system), trial_of(system)):
        train(TrialFiles.load(trial, copies), trial.units[0])
        extract(TrialFiles.load(trial, copies), "fan", "last")
    found = read(copies, trial_of(raw_system), "train")
    for row in rows(load_manifest(copies.data, DCASE), machine="fan", split="train").to_pylist():
        wave, _ = soundfile.read(copies.data / row["original_path"])
        expected = (_numpy_htk_mel(8, 256) @ _numpy_spectrogram(wave, 256, 128)).mean(axis=1)
        np.testing.assert_allclose(found[row["clip"]], expected, rtol=1e-4, atol=1e-6)


# ----------------------------------------------------------------------------------------- precomputed


def write(path: Path, keys: list[str], values: np.ndarray) -> None:
    if path.suffix == ".npz":
        np.savez(path, clip=np.array(keys), embedding=values)
    else:
        pq.write_table(pa.table({"clip": keys, "embedding": list(values)}), path)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_embeddings_are_read_in_any_order_of_the_file(suffix, dtype, places, tmp_path):
    keys = keys_of(places, "fan", "ToyCar")[::-1]  # more machines than asked for
    values = np.random.default_rng(0).normal(size=(len(keys), 5)).astype(dtype)
    write(tmp_path / f"{DCASE}.{suffix}", keys, values)
    trial = trial_of(from_file(tmp_path / f"{{dcase}}.{suffix}"))
    train(TrialFiles.load(trial, places), trial.units[0])
    assert not extract(TrialFiles.load(trial, places), "fan", "last").reused
    for split in ("train", "test"):
        found = read(places, trial, split)
        assert len(found) == {"train": 6, "test": 4}[split]
        for key, value in found.items():
            np.testing.assert_array_equal(value, values[keys.index(key)].astype(np.float32))
    score(TrialFiles.load(trial, places), "fan", "last", Knn())


def test_extraction_files_serve_as_precomputed_embeddings(places):
    trial = trial_of(RAW)
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    path = store.trial_dir(places.results, trial).extract("last", "fan", "test")
    expected = read(places, trial)
    found = precomputed.read(path, list(expected)[::-1], "clips")
    np.testing.assert_array_equal(found, list(expected.values())[::-1])


def test_a_relative_path_lies_in_the_data_folder(places):
    keys = keys_of(places)
    write(places.data / "mine.npz", keys, np.ones((len(keys), 2)))
    trial = trial_of(from_file("mine.npz"))
    train(TrialFiles.load(trial, places), trial.units[0])


def test_other_content_is_another_training(places, tmp_path):
    keys = keys_of(places)
    path = tmp_path / "e.npz"
    write(path, keys, np.zeros((len(keys), 2)))
    trial = trial_of(from_file(path))
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    assert extract(TrialFiles.load(trial, places), "fan", "last").reused
    write(path, keys, np.ones((len(keys), 2)))
    assert not snapshot(trial, places).train(trial.units[0], ("last",)).complete
    with pytest.raises(ValueError, match="no finished training"):
        extract(TrialFiles.load(trial, places), "fan", "last")
    train(TrialFiles.load(trial, places), trial.units[0])
    assert not extract(TrialFiles.load(trial, places), "fan", "last").reused
    assert set(map(tuple, read(places, trial).values())) == {(1.0, 1.0)}


def test_files_per_seed(places, tmp_path):
    keys = keys_of(places)
    for seed in (0, 1):
        write(tmp_path / f"e{seed}.npz", keys, np.full((len(keys), 2), float(seed)))
    for seed in (0, 1):
        trial = trial_of(from_file(tmp_path / "e{seed}.npz"), seed)
        train(TrialFiles.load(trial, places), trial.units[0])
        extract(TrialFiles.load(trial, places), "fan", "last")
        assert set(map(tuple, read(places, trial).values())) == {(float(seed),) * 2}


def test_missing_clips_are_counted(places, tmp_path):
    keys = [key for key in keys_of(places) if "/test/" not in key or "source_test_normal" in key]
    write(tmp_path / "e.npz", keys, np.zeros((len(keys), 2)))
    trial = trial_of(from_file(tmp_path / "e.npz"))
    with pytest.raises(
        ValueError,
        match=r"e.npz lacks the embeddings of 3 of 4 test clips of dcase2023 fan, first dev/fan/test/",
    ):
        train(TrialFiles.load(trial, places), trial.units[0])
    assert store.read_record(store.trial_dir(places.results, trial).model("fan"), "train") is None


def test_a_missing_file_is_named_before_anything_runs(places, tmp_path):
    trial = trial_of(from_file(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match=r"frontend.path: cannot read .*none.npz: No such file"):
        steps(TrialFiles.load(trial, places), Request(("last",), (Knn(),)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.npz", b"no zip", "cannot read embeddings from .*e.npz"),
        ("e.parquet", b"no parquet", "cannot read embeddings from .*e.parquet"),
        ("e.npz", {"clip": ["a"]}, "cannot read embeddings from .*embedding"),
        ("e.npz", {"clip": ["a", "a"], "embedding": np.zeros((2, 2))}, "1 clips more than once, first a"),
        ("e.npz", {"clip": ["a"], "embedding": np.zeros(1)}, r"embeddings of shape \(1,\)"),
        ("e.npz", {"clip": ["a"], "embedding": np.zeros((2, 3))}, r"holds 1 clips, but embeddings of shape \(2, 3\)"),
        ("e.npz", {"clip": ["a"], "embedding": np.array([["x"]])}, "must be numbers"),
        ("e.npz", {"clip": ["b"], "embedding": np.zeros((1, 2))}, r"lacks the embeddings of 1 of 1 c, first a .*first b"),
        ("e.npz", {"clip": [], "embedding": np.zeros((0, 2))}, r"lacks the embeddings of 1 of 1 c.*first None"),
        ("e.parquet", {"clip": ["a"]}, "cannot read embeddings .*embedding"),
        ("e.parquet", {"clip": ["a"], "embedding": [1.0]}, "of type double, not a list of numbers"),
        ("e.parquet", {"clip": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}, "different lengths: .*1.*2"),
        ("e.parquet", {"clip": ["a", "b"], "embedding": [[1.0], None]}, "different lengths"),
        ("e.parquet", {"clip": ["a"], "embedding": [["x"]]}, "must be numbers"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        pq.write_table(pa.table(content), path)
    with pytest.raises(ValueError, match=message):
        precomputed.read(path, ["a"], "c")
    with pytest.raises(ValueError, match="no file"):
        precomputed.read(tmp_path / "other.npz", ["a"], "c")
