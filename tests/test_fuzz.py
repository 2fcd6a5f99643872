"""Damaged and hostile files: no traceback, no hang, no wrong result, and one error that names the file.

A file that is accepted is read again in another way: WAVs, submissions and ground truth by a few lines here.
"""

import io
import json
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzzing import TOKENS, damaged, inputs, misplaced, one_clear_error
from hypothesis import given
from hypothesis import strategies as st

from asdray.audio.cache import read_clip
from asdray.config.base import load_plugins
from asdray.config.expand import expand, load_sweep
from asdray.config.files import parse_set, parse_yaml
from asdray.config.system import load_recipe
from asdray.dcase.truth import load_ground_truth
from asdray.dcase.unpack import unpack
from asdray.dcase.wav import read_header
from asdray.evaluation import submission
from asdray.frontends import precomputed
from asdray.frontends.encoders import weights

ROOT = Path(__file__).parent.parent
SWEEPS = [(ROOT / "sweeps" / f"{name}.yaml").read_bytes() for name in ("demo", "frozen_beats", "search")]
RECIPES = [
    (ROOT / "asdray" / "recipes" / f"{name}.yaml").read_bytes()
    for name in ("dis_baseline", "ae_baseline", "raw_spec", "genrep", "frozen_beats_bands")
]
YAML = [
    b"&a ",
    b"*a",
    b"!!int ",
    b"!!timestamp x",
    b"<<: *a",
    b"? ",
    b"|\n",
    b"---\n",
    b"- ",
    b": ",
    b"1:30",
    b"~",
]
CHARACTERS = [bytes([c]) for c in b"ab:-[]{},&*!|>'\"\n #%@"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def write_yaml(path, value):
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8", errors="surrogatepass")


# ------------------------------------------------------------------------------------- sweep files, recipes


def check_sweep(path):
    """A sweep file is refused with its name, or has trials that differ and can be written down."""
    with one_clear_error(path.name):
        trials = [trial for trial, _ in expand(load_sweep(path), path.name)]
        assert len({trial.name for trial in trials}) == len(trials)
        json.dumps([trial.system.model_dump(mode="json") for trial in trials[:2]], allow_nan=False)


@inputs(10)
@given(damaged(SWEEPS, YAML))
def test_damaged_sweep_files(folder, content):
    path = folder / "sweep.yaml"
    path.write_bytes(content)
    check_sweep(path)


@inputs(11)
@given(misplaced([yaml.safe_load(text) for text in SWEEPS]))
def test_sweep_files_with_other_values(folder, value):
    write_yaml(folder / "sweep.yaml", value)
    check_sweep(folder / "sweep.yaml")


def check_recipe(path):
    with one_clear_error(path.name):
        recipe = load_recipe(str(path))
        assert recipe.system.id
        json.dumps(recipe.model_dump(mode="json"), allow_nan=False)


@inputs(13)
@given(damaged(RECIPES, YAML))
def test_damaged_recipes(folder, content):
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    check_recipe(path)


@inputs(22)
@given(misplaced([yaml.safe_load(text) for text in RECIPES]))
def test_recipes_with_other_values(folder, value):
    write_yaml(folder / "recipe.yaml", value)
    check_recipe(folder / "recipe.yaml")


OPTIONS = [
    "seeds",
    "space",
    "recipes.dis_baseline.set",
    "train.epochs",
    "frontend.loss",
    "a..b",
    ".",
    "machines",
]


@inputs(22)
@given(st.sampled_from(OPTIONS) | st.text(max_size=8), damaged([b"[0, 1]", b"{name: knn}", b"1e-3"], YAML))
def test_options_on_the_command_line(key, value):
    pair = f"{key}={value.decode('utf-8', 'replace')}"
    with one_clear_error("--set"):
        parse_set([pair])


@inputs(33)
@given(st.lists(st.sampled_from([*TOKENS, *YAML, *CHARACTERS]), max_size=30))
def test_any_yaml(parts):
    with one_clear_error("f.yaml"):
        parse_yaml(b"".join(parts).decode("utf-8", "replace"), "f.yaml")


# ------------------------------------------------------------------------------------------------- plugins

PLUGIN = b"""from asdray.config.backend import BackendConfig
from asdray.config.base import Config
from typing import Literal

class MineConfig(BackendConfig):
    name: Literal["mine"] = "mine"
    power: float = 2.0

def mine(references, domain, queries, options):
    return ((queries[:, None] - references) ** options.power).sum(-1).min(1)

class LossConfig(Config):
    name: Literal["my_loss"] = "my_loss"

LOSSES = [(LossConfig, mine)]
BACKENDS = [(MineConfig, mine)]
"""
CODE = [
    b"name", b"None", b"()", b"[]", b"{}", b"int", b"MineConfig", b"mine", b"LOSSES", b"raise ValueError", b"1/0",
    b"import x", b"class A: pass", b"Literal['knn']", b"(MineConfig, 1)", b"BackendConfig", b"object", b"*", b"'''",
    b"\nraise SystemExit(0)\n", b"\ndef f(): f()\nf()\n", b"lambda: 0", b"\nraise KeyError from KeyError()\n",
    b"(" * 300,
]  # fmt: skip


@inputs(16)
@given(damaged(PLUGIN, CODE))
def test_damaged_plugins(folder, content):
    path = folder / "plugin.py"
    path.write_bytes(content)
    with one_clear_error(path.name):
        load_plugins([path])


# --------------------------------------------------------------------------------------------- WAV files


def wav(channels=1, n=40):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, 2, 16000, 0, "NONE", None))
        out.writeframes((np.arange(n * channels, dtype="<i2") * 37 - 600).tobytes())
    return file.getvalue()


LISTED = wav()[:12] + b"LIST\x04\0\0\0abcd" + wav()[12:]
PADDED = wav()[:36] + b"junk\x03\0\0\0abc\0" + wav()[36:]
SIZES = [n.to_bytes(4, "little") for n in (0, 1, 16, 40, 80, 2**16, 2**31 - 1, 2**31, 2**32 - 1)]
CHUNKS = [b"RIFF", b"RIFX", b"RF64", b"WAVE", b"fmt ", b"data", b"LIST", b"\xfe\xff", *SIZES]


@inputs(66)
@given(damaged([wav(), wav(2), LISTED, PADDED], CHUNKS))
def test_damaged_wavs(folder, content):
    path = folder / "clip.wav"
    path.write_bytes(content)
    with one_clear_error(path) as outcome:
        info = read_header(path)
    if outcome.fault is not None or info.n_samples > 10_000 or info.channels > 64:
        return
    out = np.zeros((info.n_samples, info.channels), np.int16)
    with one_clear_error(path):
        if fault := read_clip(path, out):
            raise ValueError(fault)
        np.testing.assert_array_equal(out, samples_of(content))


def samples_of(content):
    """The samples of a WAV: its first format chunk and its first data chunk."""
    at, channels = 12, None
    while True:
        name, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name == b"fmt ":
            channels = int.from_bytes(content[at + 10 : at + 12], "little")
        if name == b"data":
            return np.frombuffer(content[at + 8 : at + 8 + length], "<i2").reshape(-1, channels)
        at += 8 + length + length % 2


# --------------------------------------------------------------------------- submissions and ground truth

NAMES = tuple(f"section_00_{i:04d}.wav" for i in range(8))
PART = submission.Part("bandsaw", 0, None)
SCORES = "".join(f"{name},{0.37 * i - 1}\n" for i, name in enumerate(NAMES)).encode()
CELLS = [
    b"section_00_0000.wav",
    b"section_00_0001.wav,0.5\n",
    b"-inf",
    b"1,5",
    b"0.5",
    b",",
    b'"',
    b'""',
    b"+1",
    b" 1 ",
]


def cells_of(content):
    """The cells of a CSV file without quotation marks, of every line that has any text."""
    lines = content.decode("utf-8-sig").splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    return [row for row in rows if any(row)]


@inputs(55)
@given(damaged(SCORES, CELLS))
def test_damaged_submissions(folder, content):
    place = folder / "system"
    place.mkdir(exist_ok=True)
    (place / "decision_result_bandsaw_section_00_test.csv").write_text("".join(f"{n},1\n" for n in NAMES))
    (place / "anomaly_score_bandsaw_section_00_test.csv").write_bytes(content)
    with one_clear_error(place) as outcome:
        found = submission.read(place, "dcase2023", {PART: NAMES})
    if outcome.fault is None and b'"' not in content:
        rows = cells_of(content)
        assert found.scores == {("bandsaw", name): float(number) for name, number in rows}
        assert len(rows) == len(NAMES)


LABELLED = "".join(
    f"section_00_{i:04d}.wav,section_00_{domain}_test_{label}_{i:04d}_vel_{i}.wav\n"
    for i in range(8)
    for domain, label in [(("source", "target")[i % 2], ("normal", "anomaly")[i // 4])]
).encode()
LIST = b"bandsaw\n" + LABELLED + b"shaker\n" + LABELLED
ROWS = [
    b"bandsaw",
    b"shaker\n",
    b"normal",
    b"anomaly",
    b"source",
    b"target",
    b".wav",
    b"_01",
    b",1",
    b",0",
    b"noAttribute",
]


@inputs(33)
@given(damaged(LIST, ROWS))
def test_damaged_lists_of_ground_truth(folder, content):
    place = folder / "list"
    place.mkdir(exist_ok=True)
    (place / "eval_data_list_2023.csv").write_bytes(content)
    with one_clear_error(place) as outcome:
        truth = load_ground_truth(place, "dcase2023")
    if outcome.fault is not None or b'"' in content:
        return
    machine, n = None, 0
    for row in cells_of(content):
        if len(row) == 1:
            (machine,) = row
            continue
        clip = truth.clips[machine, Path(row[0]).name.removesuffix(".wav") + ".wav"]
        assert clip.is_anomaly == ("_anomaly_" in row[1])
        assert clip.domain == ("source" if "_source_" in row[1] else "target")
        n += 1
    assert n == len(truth.clips)


EVALUATOR = {
    "ground_truth_data": "".join(f"section_00_{i:04d}.wav,{i // 4}\n" for i in range(8)),
    "ground_truth_domain": "".join(f"section_00_{i:04d}.wav,{i % 2}\n" for i in range(8)),
    "ground_truth_attributes": LABELLED.decode(),
}


@inputs(33)
@given(st.sampled_from(sorted(EVALUATOR)), st.data())
def test_damaged_files_of_an_evaluator(folder, kind, data):
    content = data.draw(damaged(EVALUATOR[kind].encode(), ROWS))
    for name, text in EVALUATOR.items():
        path = folder / "evaluator" / name / "ground_truth_bandsaw_section_00_test.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if name == kind else text.encode())
    with one_clear_error(folder / "evaluator") as outcome:
        truth = load_ground_truth(folder / "evaluator", "dcase2023")
    if outcome.fault is None:  # the other files hold the same facts, and a wrong one contradicts them
        for i, name in enumerate(NAMES):
            clip = truth.clips["bandsaw", name]
            assert (clip.is_anomaly, clip.domain) == (bool(i // 4), ("source", "target")[i % 2])


# ------------------------------------------------------------------------------------ archives and arrays


def packed():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fan/train/a.wav", wav())
        archive.writestr("fan/test/b.wav", wav(2))
    return file.getvalue()


@inputs(22)
@given(damaged(packed(), [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"..", b"/", *SIZES]))
def test_damaged_zips(tmp_path_factory, content):
    place = tmp_path_factory.mktemp("zip")
    path = place / "fan.zip"
    path.write_bytes(content)
    with one_clear_error(path) as outcome:
        unpack(path, "fan", place / "raw")
    found = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())
    if outcome.fault is not None:
        assert found == ["fan.zip"], "nothing of a refused zip is left"
    for name, whole in (("fan/train/a.wav", wav()), ("fan/test/b.wav", wav(2))):
        if (there := place / "raw" / name).exists():
            assert there.read_bytes() == whole


def vectors():
    """An archive of two arrays, and the positions of its parts: the checksums of a zip hide damage from NumPy."""
    arrays = {"clip": np.array(NAMES), "embedding": np.arange(16, dtype=np.float32).reshape(8, 2)}
    contents = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array)
        contents[name] = file.getvalue()
    return contents


def archive(contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in contents.items():
            out.writestr(f"{name}.npy", content)
    return file.getvalue()


NUMPY = [b"'<f4'", b"'|O'", b"(8, 2)", b"(2, 8)", b"True", b"<U19", b"(((((", b"(10**9,", *SIZES]
VECTORS = st.one_of(
    damaged(archive(vectors()), NUMPY),
    st.builds(
        lambda name, content: archive({**vectors(), name: content}),
        st.just("embedding"),
        damaged(vectors()["embedding"], NUMPY),
    ),
)


@inputs(44)
@given(VECTORS)
def test_damaged_vectors(folder, content):
    path = folder / "vectors.npz"
    path.write_bytes(content)
    with one_clear_error(path) as outcome:
        found = precomputed.read(path, NAMES, "test clips")
    if outcome.fault is None:
        assert found.shape[0] == len(NAMES)
        assert found.dtype == np.float32


def safetensors():
    entries = {
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(32))


@inputs(33)
@given(damaged(safetensors(), [b"F64", b"BF16", b"-1", b"[0, 24]", b"[]", b"99999999999", *SIZES]))
def test_damaged_safetensors(folder, content):
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    with one_clear_error(path):
        found = weights.read(path)
        assert all(tensor.numel() <= len(content) for tensor in found.values())
