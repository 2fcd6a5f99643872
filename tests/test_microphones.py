"""Channels computed from two microphones: the reference's samples, packs of their own, and trials that read them."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny import AE
from trees import build_tree, samples, write_wav

from asdray import store
from asdray.audio import cache, microphones
from asdray.audio.batches import Clips
from asdray.audio.cache import ensure_pack, pack_sizes, stale_packs
from asdray.config import audio
from asdray.config.base import digest
from asdray.config.expand import load_sweep
from asdray.config.system import Audio
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset
from asdray.frontends import checkpoint
from asdray.stages.extract import extract, read_extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.inputs import packs

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders" / "cancel.npz")
"""Samples of asd-experiments (src/asd_min/waveform.py at 0c24fec4), made from `_stereo` by code that follows its formulas."""
POWERS = {"cancel": 0.00671189867204996, "subtract": 0.008378799264010731}
"""Mean squares of the same for 1.003 s, seed 1."""
NAMES = {"cancel": "w1", "subtract": "ss"}


def _noise(name: str, n: int) -> np.ndarray:
    """Near-normal values that depend on the name alone, the same on every platform."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(n).astype("<u8").view("<u2").astype(np.int32)
    return (raw.reshape(-1, 4).sum(axis=1) - 2 * 65535) / (65536.0 / np.sqrt(3.0))


def _machine(seconds: float, seed: int) -> np.ndarray:
    """Harmonics with slow and fast modulation, one burst, and noise."""
    n = round(seconds * 16000)
    t = np.arange(n) / 16000
    f0 = 87.0 + 13.0 * (seed % 7)
    x = np.zeros(n)
    for h, a in ((1, 0.30), (2, 0.22), (3, 0.16), (5, 0.12), (9, 0.08), (17, 0.06), (31, 0.04)):
        slow = 1 + 0.6 * np.sin(2 * np.pi * (0.31 + 0.13 * h) * t + h + seed)
        vibrato = 1.5 * np.sin(2 * np.pi * 0.7 * t) + 0.5 * h * h + seed
        x += a * slow * np.sin(2 * np.pi * f0 * h * t + vibrato)
    x += 0.25 * np.exp(-(((t - 0.37 * seconds) / 0.08) ** 2)) * _noise(f"burst {seed}", n)
    x += (0.02 + 0.015 * np.sin(2 * np.pi * 1.7 * t)) * _noise(f"clip {seed}", n)
    return np.clip(0.45 * x, -1, 1).astype(np.float32)


def _stereo(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Near and far float32: a machine, and a noise that reaches both microphones."""
    n = round(seconds * 16000)
    w = _noise(f"room {seed}", n + 64)
    room = w[64:] + 0.7 * w[61:-3] - 0.5 * w[55:-9] + 0.3 * w[37:-27]
    path = 0.8 * w[60:-4] + 0.5 * w[57:-7] - 0.35 * w[51:-13] + 0.2 * w[33:-31]
    machine = _machine(seconds, seed).astype(np.float64)
    near, far = 0.8 * machine + 0.05 * path, 0.06 * machine + 0.06 * room + 0.004 * _noise(f"far {seed}", n)
    return np.clip(near, -1, 1).astype(np.float32), np.clip(far, -1, 1).astype(np.float32)


def _parts(wave: np.ndarray) -> dict[str, np.ndarray]:
    middle, double = len(wave) // 2, wave.astype(np.float64)
    sums = np.array([double.sum(), np.abs(double).sum(), (double**2).sum()])
    return {
        "first50": wave[:50],
        "mid50": wave[middle - 25 : middle + 25],
        "last50": wave[-50:],
        "sums": sums,
    }


@pytest.mark.parametrize("channel", NAMES)
def test_samples_of_the_reference(channel):
    near, far = _stereo(4, 0)
    for name, wave in (("near", near), ("far", far)):
        for part, values in _parts(wave).items():
            np.testing.assert_allclose(values, GOLDEN[f"s4_{name}_{part}"], rtol=1e-6, atol=1e-7)
    found = microphones.FUNCTIONS[channel](near.astype(np.float64), far.astype(np.float64))
    parts = _parts(found.astype(np.float32))
    sums, expected = parts.pop("sums"), GOLDEN[f"s4_{NAMES[channel]}_sums"]
    for part, values in parts.items():
        np.testing.assert_allclose(values, GOLDEN[f"s4_{NAMES[channel]}_{part}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(sums[1:], expected[1:], rtol=1e-5)
    assert sums[0] == pytest.approx(expected[0], abs=1e-3)
    near, far = _stereo(1.003, 1)  # no whole number of frames
    found = microphones.FUNCTIONS[channel](near.astype(np.float64), far.astype(np.float64))
    assert len(found) == 16048
    assert (found**2).mean() == pytest.approx(POWERS[channel], rel=1e-5)


@pytest.mark.parametrize("channel", NAMES)
@pytest.mark.parametrize("n", [1, 2, 400, 512, 1024, 1535, 16383])
def test_a_clip_of_any_length_keeps_its_length_and_ends_in_no_burst(channel, n):
    near, far = np.random.default_rng(n).normal(size=(2, n)) / 10
    found = microphones.FUNCTIONS[channel](near, far)
    assert found.shape == (n,)
    assert np.abs(found[-20:]).max(initial=0) < 1


def test_a_far_microphone_without_sound_of_the_machine_leaves_near_alone():
    near, far = _stereo(1, 0)
    hears_nothing = np.zeros_like(far, dtype=np.float64)
    for function in microphones.FUNCTIONS.values():
        np.testing.assert_allclose(function(near.astype(np.float64), hears_nothing), near, atol=1e-12)
        assert not function(hears_nothing, hears_nothing).any()


# ------------------------------------------------------------------------------------------------- packs


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    """A year with two microphones, clips of two lengths."""
    root = tmp_path_factory.mktemp("microphones")
    tree = build_tree(root / "data", "dcase2026", ["fan"], {"source": 4, "target": 2}, n_samples=6400)
    path = min(tree.folder("dev", "fan", "train").glob("*.wav"))
    write_wav(path, f"dev/fan/train/{path.name}", 5000, channels=2)
    format_dataset(root / "data", "dcase2026")
    return Places.of(root / "data", root / "results")


@pytest.mark.parametrize("channel", NAMES)
def test_a_computed_channel_has_a_pack_of_its_own(channel, places):
    plain = ensure_pack(places, "dcase2026", "fan", "train")
    pack = ensure_pack(places, "dcase2026", "fan", "train", channel)
    assert ensure_pack(places, "dcase2026", "fan", "train", "difference").id == plain.id != pack.id
    assert (pack.clips, pack.split) == (plain.clips, "train")
    assert pack.samples.dtype == np.float32
    clips = Clips([pack], channel)
    assert clips.nbytes == 4 * len(plain.samples)
    for i, key in enumerate(pack.clips):
        near, far = samples(key, len(plain.clip(i)), 2).T / 32768
        expected = microphones.FUNCTIONS[channel](near, far).astype(np.float32)
        np.testing.assert_array_equal(pack.clip(i)[:, 0], expected)
        crop = np.resize(np.roll(expected, -7), 7000)
        for some in (clips, clips.on(torch.device("cpu"))):
            found = some.gather(np.array([i]), 7000, np.array([7]))
            assert found.dtype == torch.float32
            np.testing.assert_array_equal(found[0].numpy(), crop)


def test_packs_are_counted_by_the_channels_that_read_them(places):
    dataset = load_dataset(places.data, "dcase2026")
    n = len(ensure_pack(places, "dcase2026", "fan", "train").samples)
    for channels, sizes in (
        (["near", "mean"], [4 * n]),
        (["cancel"], [4 * n]),
        (["cancel", "near", "subtract"], [4 * n] * 3),
    ):
        wanted = [(split, channel) for split in ("train", "test") for channel in channels]
        found = pack_sizes(places, dataset, ["fan"], wanted)
        assert [size for path, _, size in found if path.parent.name.startswith("train")] == sizes
        for path, key, _ in found:
            if path.exists():
                assert store.read_json(path)["id"] == key


def test_another_formula_makes_other_packs_and_other_systems(places, monkeypatch):
    before = ensure_pack(places, "dcase2026", "fan", "test", "cancel")
    plain = ensure_pack(places, "dcase2026", "fan", "test")
    dataset = load_dataset(places.data, "dcase2026")
    assert stale_packs(places.cache, dataset) == []
    ids = {c: digest(Audio(channel=c)) for c in ("near", *NAMES)}
    monkeypatch.setattr(audio, "FORMULAS", {**audio.FORMULAS, "cancel": 2})
    monkeypatch.setattr(cache, "FORMULAS", audio.FORMULAS)
    folder = store.pack_dir(places.cache, "dcase2026", "fan", "test", "cancel")
    assert folder in stale_packs(places.cache, dataset)
    after = ensure_pack(places, "dcase2026", "fan", "test", "cancel")
    assert after.id != before.id
    assert len(list(folder.glob("samples-*.npy"))) == 1
    assert ensure_pack(places, "dcase2026", "fan", "test").id == plain.id
    assert [c for c, old in ids.items() if digest(Audio(channel=c)) != old] == ["cancel"]


def test_wavs_without_sound_are_listed_for_a_computed_channel_too(tmp_path):
    tree = build_tree(tmp_path, "dcase2026", ["fan"])
    path = min(tree.folder("dev", "fan", "train").glob("*.wav"))
    audio = samples("x", 800, 2)
    audio[:, 1] = 0
    soundfile.write(path, audio, 16000, subtype="PCM_16")
    format_dataset(tmp_path, "dcase2026")
    with pytest.raises(ValueError, match=r"1 of \d train clips of dcase2026 fan cannot be used") as error:
        ensure_pack(Places.of(tmp_path, tmp_path), "dcase2026", "fan", "train", "cancel")
    assert f"{path}: channel 1 holds nothing but zeros" in str(error.value)


# ------------------------------------------------------------------------------------------------ trials


def test_training_and_extraction_read_the_computed_channel(places):
    audio = AE.audio.model_copy(update={"channel": "cancel", "padding": "zero", "duration": 0.45})
    trial = Trial("dcase2026", "ae", AE.model_copy(update={"audio": audio}), 0, ("fan",))
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    folder = store.trial_dir(places.results, trial)
    module = checkpoint.load(folder.checkpoint("fan", "last"), AE.frontend, 7200)
    found = read_extract(folder.extract("last", "fan", "train"))
    for key, score in zip(found.clips, found.own["recon"], strict=True):
        n = 5000 if key == min(found.clips) else 6400
        near, far = samples(key, n, 2).T / 32768
        wave = np.pad(microphones.cancel(near, far), (0, 7200 - n)).astype(np.float32)
        with torch.no_grad():
            expected = module.extract(torch.from_numpy(wave[None]))["recon"].item()
        assert score == pytest.approx(expected, rel=1e-4)


def test_a_year_with_one_microphone_is_refused():
    for channel in NAMES:
        with pytest.raises(ValueError, match=rf"dcase2025: audio.channel is '{channel}', but its clips have"):
            AE.model_copy(update={"audio": Audio(channel=channel)}).check("dcase2025")


RAW_OF_FAR = {"recipe": "raw", "frontend": {"name": "raw_spec"}, "audio": {"channel": "far"}}
SUPPLEMENTAL = {"frontend.supplemental": {"snr": [0, 20], "probability": 0.5}}


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        ("ae_baseline", {}, {"near": 2}),
        ("ae_baseline", {"space": {"audio.channel": ["cancel", "far"]}}, {"cancel": 2, "far": 2}),
        ("ae_baseline", {"space": {"audio": [{"duration": 10}, {"channel": "subtract"}]}}, {"near": 2, "subtract": 2}),
        ("dis_baseline", {"set": {"frontend.classes": ["machine", {"from": RAW_OF_FAR}]}}, {"near": 2, "far": 2}),
        ("dis_baseline", {"set": SUPPLEMENTAL}, {"near": 3}),
    ],
)  # fmt: skip
def test_the_packs_of_a_sweep(recipe, options, expected, tmp_path):
    path = tmp_path / "s.yaml"
    recipes, dcase = {recipe: options}, "dcase2025" if options.get("set") == SUPPLEMENTAL else "dcase2026"
    path.write_text(yaml.safe_dump({"name": "s", "recipes": recipes, "dcase": [dcase], "seeds": [0]}))
    found = packs(load_sweep(path))
    assert Counter(channel for _, channel in found) == expected
    assert {"train", "test"} <= {split for split, _ in found}
