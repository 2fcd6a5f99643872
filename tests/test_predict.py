"""Prediction: new wavs get the scores that the trial has, a wrong file is one error, a folder may still be filled."""

import contextlib
import csv
import io
import os
import shutil
import signal
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny import AE, DIS
from trees import build_tree

import asdray as package
from asdray import store
from asdray.cli import main
from asdray.config.backend import Gmm, KMeans, Knn, KnnRescale, Mahalanobis, MemMixup, backend_id
from asdray.config.frontend import Autoencoder, RawSpec
from asdray.config.system import Audio, System
from asdray.config.train import Train
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest, rows
from asdray.evaluation.decisions import decision_threshold
from asdray.stages.extract import extract
from asdray.stages.predict import predictor
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.train import train
from asdray.stages.trial_json import write_trial
from asdray.store import Places

DCASE, MACHINES = "dcase2021", ("fan", "valve")
# Three batches of test clips, the last one smaller; sections of the same name as in other years.
SMALL = DIS.model_copy(update={"train": DIS.train.model_copy(update={"batch_size": 9, "epochs": 2})})
BOTH = System(
    frontend=Autoencoder(n_mels=16, n_fft=256, hop_length=128, hidden=(8,), bottleneck=3, scores=("recon", "mahalanobis")),
    train=Train(epochs=2, batch_size=16),
    audio=Audio(duration=0.4),
)  # fmt: skip
RAW = System(frontend=RawSpec(n_mels=16), train=AE.train, audio=Audio(duration="native", padding="zero"))
BACKENDS = (Knn(), Knn(n_neighbors=2, sep_section=True), KMeans(n_clusters=2), KnnRescale(n_neighbors=2), Mahalanobis(shrinkage=0.5), Gmm(n_components=1))  # fmt: skip


def finish(places, recipe, system, dcase=DCASE, machines=("fan",), backends=BACKENDS[:1]):
    """Runs the stages up to the scores of the first machine; returns the trial's folder."""
    trial = Trial(dcase, recipe, system, 0, machines)
    files = TrialFiles.load(trial, places)
    write_trial(files, Request(("last",), trial.backends(backends)))
    train(files, trial.unit_of(machines[0]))
    extract(files, machines[0], "last")
    for backend in trial.backends(backends):
        score(files, machines[0], "last", backend)
    return store.TrialDir(files.folder.root)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    places = Places.of(root / "data", root / "results")
    build_tree(places.data, DCASE, list(MACHINES), {"source": 3, "target": 2}, n_samples=8000)
    format_dataset(places.data, DCASE)
    return places


@pytest.fixture(scope="module")
def trial(places):
    return finish(places, "dis", SMALL, backends=BACKENDS)


def wavs(places, dcase=DCASE, column="original_path"):
    """The test clips of the fan, and their keys, in the order of the manifest."""
    found = rows(load_manifest(places.data, dcase), machine="fan", split="test")
    return [str(places.data / path) for path in found[column].to_pylist()], found["clip"].to_pylist()


def known_scores(trial, backend):
    found = pq.read_table(trial.scores("last", "fan", backend_id(backend))).to_pylist()
    test = {row["clip"]: row["score"] for row in found if row["split"] == "test"}
    return test, [row["score"] for row in found if row["split"] == "train"]


@pytest.mark.parametrize(
    ("recipe", "system", "backends"),
    [("dis", SMALL, BACKENDS), ("both", BOTH, (Knn(),)), ("raw", RAW, (Mahalanobis(),))],
    ids=["dis", "ae", "raw"],
)
def test_test_clips_get_the_scores_of_the_trial_bit_for_bit(recipe, system, backends, places, request):
    of = (
        request.getfixturevalue("trial")
        if recipe == "dis"
        else finish(places, recipe, system, backends=backends)
    )
    paths, keys = wavs(places, column="path")  # links with other names, in another order
    shuffled = np.random.default_rng(0).permutation(len(paths)).tolist()
    found = package.predict(of.root, [paths[i] for i in shuffled], data=places.data)
    asked = Trial(DCASE, recipe, system, 0, ("fan",)).backends(backends)
    assert len(found) == len(asked) * len(paths)
    assert found["error"].isna().all()
    assert set(found["machine"]) == {"fan"}
    assert list(found["file"][:: len(asked)]) == [paths[i] for i in shuffled]
    for i, backend in enumerate(asked):
        test, training = known_scores(of, backend)
        mine = found.iloc[i :: len(asked)]
        assert mine["score"].tolist() == [test[keys[k]] for k in shuffled]
        threshold = decision_threshold(training).value
        assert set(mine["threshold"]) == {threshold}
        assert mine["decision"].tolist() == [int(test[keys[k]] > threshold) for k in shuffled]


def test_one_clip_alone_gets_the_same_score_up_to_rounding(trial, places):
    paths, keys = wavs(places)
    model = predictor(trial.root, backend="{name: knn, n_neighbors: 1}", data=places.data)
    test, _ = known_scores(trial, Knn())
    for i in (0, 7):
        (found,) = model.predict([paths[i]])
        assert found.score == pytest.approx(test[keys[i]], rel=1e-4, abs=1e-6)


def test_two_microphones(tmp_path):
    places = Places.of(tmp_path / "data", tmp_path / "results")
    build_tree(places.data, "dcase2026", ["fan"], n_samples=7000, per_cell=2)
    format_dataset(places.data, "dcase2026")
    for channel in ("difference", "cancel"):
        system = RAW.model_copy(update={"audio": Audio(duration=0.4, channel=channel)})
        of = finish(places, channel, system, "dcase2026")
        paths, keys = wavs(places, "dcase2026")
        found = package.predict(of.root, paths, data=places.data, backend={"name": "knn"})
        test, _ = known_scores(of, Knn())
        assert found["score"].tolist() == [test[key] for key in keys]


# -------------------------------------------------------------------------------------------- what goes wrong


def write_wav(path, seconds=0.5, rate=16000, channels=1, samples=None):
    noise = np.random.default_rng(1).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(path, noise if samples is None else samples, rate, subtype="PCM_16")
    return str(path)


def test_wrong_files_are_one_error_each_and_the_others_go_on(trial, places, tmp_path):
    good = str(shutil.copy(wavs(places)[0][0], tmp_path / "section_00_new.wav"))
    files = {
        write_wav(
            tmp_path / "section_00_fast.wav", rate=22050
        ): "has 22050 Hz, the model was trained at 16000 Hz",
        write_wav(tmp_path / "section_00_stereo.wav", channels=2): "has 2 channels, dcase2021 has 1",
        write_wav(
            tmp_path / "section_00_long.wav", 0.7
        ): "has 0.7 s, the clips of fan have 0.5 s: cut it to that",
        write_wav(tmp_path / "section_00_silent.wav", samples=np.zeros(8000)): "holds nothing but zeros",
        write_wav(tmp_path / "nothing.wav"): "has none of section_00, section_01, section_02, section_03",
        str(tmp_path / "absent.wav"): "cannot be read (No such file or directory)",
    }
    (tmp_path / "section_00_text.wav").write_text("no sound")
    files[str(tmp_path / "section_00_text.wav")] = "is not a wav file"
    found = package.predict(trial.root, [*files, good], data=places.data)
    assert len(found) == len(files) + len(BACKENDS)
    for name, error in files.items():
        (row,) = found[found["file"] == name].to_dict("records")
        assert row["error"].startswith(name), row["error"]
        assert error in row["error"]
        assert row["error"].count("\n") == 0
        assert np.isnan(row["score"])
        assert pd.isna(row["decision"])
    assert found[found["file"] == good]["score"].notna().all()
    assert len(package.predict(trial.root, list(files)[:2], data=places.data)) == 2  # no good file at all


def test_what_cannot_predict_says_why(trial, places, tmp_path):
    for options, message in (
        ({"machine": "fam"}, "has no machine 'fam'; did you mean 'fan'"),
        ({"backend": "recon"}, "backend recon does not apply to dis-"),
        ({"backend": "knm"}, "knm"),
        ({"checkpoint": "best"}, "no finished training of unit .* with the checkpoint 'best'"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(trial.root, data=places.data, **options)
    for wrong in (["knn"], 1):
        with pytest.raises(ValueError, match=r"^backend: backends\.0 "):
            predictor(trial.root, data=places.data, backend=wrong)
    with pytest.raises(ValueError, match="not a trial's folder"):
        predictor(tmp_path, data=places.data)
    two = finish(places, "two", SMALL, machines=MACHINES)
    with pytest.raises(ValueError, match="has several machines: name one of fan, valve"):
        predictor(two.root, data=places.data)
    with pytest.raises(ValueError, match="valve is not extracted with checkpoint last: run `asdray extract`"):
        predictor(two.root, machine="valve", data=places.data)


def test_a_transductive_backend_scores_no_new_clips(places):
    mixup = MemMixup(z="test")
    of = finish(places, "mixup", RAW, backends=(mixup, Knn()))
    asked = {"name": "mem_mixup", "z": "test"}
    with pytest.raises(
        ValueError, match="scores of transductive mem_mixup depend on which test clips are scored"
    ):
        predictor(of.root, data=places.data, backend=asked)
    assert list(predictor(of.root, data=places.data).backends.values()) == [Knn()]
    alone = finish(places, "alone", RAW, backends=(mixup,))
    with pytest.raises(ValueError, match="run the sweep with it if the trial has none"):
        predictor(alone.root, data=places.data)


def test_a_single_path_is_one_file(trial, places):
    path = wavs(places)[0][0]
    model = predictor(trial.root, backend="knn", data=places.data)
    assert model.predict(path) == model.predict(Path(path)) == model.predict([path])


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_prints_csv_and_errors_apart(asdray, trial, places, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for path in wavs(places)[0][:3]:
        shutil.copy(path, folder)
    write_wav(folder / "section_00_fast.wav", rate=8000)
    options = ["--data", places.data, "--backend", "knn"]
    code, out, err = asdray("predict", trial.root, folder, *options)
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["file"] for row in found] == sorted(map(str, folder.glob("section*test*.wav")))
    test, training = known_scores(trial, Knn())
    for row in found:
        key = next(key for key in test if key.endswith(f"/{Path(row['file']).name}"))
        assert float(row["score"]) == pytest.approx(test[key], rel=1e-4, abs=1e-6)
        assert row["decision"] == str(int(float(row["score"]) > decision_threshold(training).value))
    assert code == 1
    assert err.count("error: ") == 1
    assert "has 8000 Hz" in err
    assert asdray("predict", trial.root, found[0]["file"], *options)[0] == 0
    code, _, err = asdray("predict", trial.root, tmp_path, *options)
    assert (code, "there is no wav in" in err) == (2, True)
    code, _, err = asdray("predict", trial.root, found[0]["file"], "--follow", *options)
    assert (code, "--follow takes one folder" in err) == (2, True)


def grow(source, target, parts=4):
    """Copies a wav in parts, as a recorder writes: the header first, which promises all."""
    content = Path(source).read_bytes()
    with open(target, "wb") as file:
        for part in np.array_split(np.frombuffer(content, np.uint8), parts):
            file.write(part.tobytes())
            file.flush()
            time.sleep(0.15)


def test_a_folder_that_is_filled_is_followed(trial, places, tmp_path):
    paths, keys = wavs(places)
    names = [tmp_path / f"section_00_{i}.wav" for i in range(3)]
    shutil.copy(paths[0], names[0])
    (tmp_path / "section_00_never.wav").write_bytes(Path(paths[0]).read_bytes()[:2000])
    (tmp_path / "notes.txt").write_text("no wav")
    recorder = threading.Thread(target=lambda: [grow(paths[i], names[i]) for i in (1, 2)])
    recorder.start()
    model = predictor(trial.root, backend="knn", data=places.data)
    found = []
    for some in model.follow(tmp_path, interval=0.05):
        found += some
        if len(found) == 3:
            break
    recorder.join()
    test, _ = known_scores(trial, Knn())
    assert [one.file for one in found] == list(map(str, names))
    for one, key in zip(found, keys, strict=False):
        assert one.error is None
        assert one.score == pytest.approx(test[key], rel=1e-4, abs=1e-6)
    assert model.incomplete == (str(tmp_path / "section_00_never.wav"),)


def test_a_wav_with_an_error_is_scored_once_its_writer_has_gone_on(trial, places, tmp_path):
    content = Path(wavs(places)[0][0]).read_bytes()
    late = tmp_path / "section_00_late.wav"
    late.write_bytes(content[:6])
    (tmp_path / "circle.wav").symlink_to("circle.wav")
    model = predictor(trial.root, backend="knn", data=places.data)
    following = model.follow(tmp_path, interval=0.05)
    (first,) = next(following)
    assert "is not a wav file" in str(first.error)
    late.write_bytes(content)
    other = shutil.copy(wavs(places)[0][1], tmp_path / "section_00_other.wav")
    assert [(one.file, one.error) for one in next(following)] == [(str(late), None), (str(other), None)]


def test_files_that_are_being_scored_at_ctrl_c_are_named(trial, places, tmp_path, monkeypatch):
    path = shutil.copy(wavs(places)[0][0], tmp_path / "section_00_a.wav")
    model = predictor(trial.root, backend="knn", data=places.data)

    def interrupted(files):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(model.follow(tmp_path, interval=0.05))
    assert model.incomplete == (str(path),)


def test_ctrl_c_ends_following_cleanly(trial, places, tmp_path, capsys):
    shutil.copy(wavs(places)[0][0], tmp_path / "section_00_a.wav")
    with wave.open(str(tmp_path / "section_00_b.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", None))
    out = io.StringIO()

    def interrupt():
        while "section_00_a.wav" not in out.getvalue():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    command = ["predict", trial.root, tmp_path, "--follow", "--backend", "knn", "--data", places.data]
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([str(part) for part in command])
    assert ended.value.code == 0
    header, row = out.getvalue().splitlines()
    assert header == "file,machine,backend,score,threshold,decision"
    assert row.startswith(f"{tmp_path}/section_00_a.wav,fan,knn,")
    err = capsys.readouterr().err
    assert err == f"1 files scored, 0 not usable\nnot complete: {tmp_path}/section_00_b.wav\n"
