"""Spectra against direct numpy, and batches against the clips they are cut from."""

from __future__ import annotations

import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asdray.audio import features
from asdray.audio.batches import WEIGHTS, Clips, generator, split
from asdray.frontends.base import FrontendModule, extract_all


def _waves(n_clips: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n_clips, n))


def _numpy_spectrogram(wave: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Frame by frame in float64, straight from the definition."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.concatenate([np.zeros(n_fft // 2), wave, np.zeros(n_fft // 2)])
    n_frames = len(wave) // hop + 1
    frames = np.stack([padded[t * hop : t * hop + n_fft] * window for t in range(n_frames)])
    return np.abs(np.fft.rfft(frames, axis=1)).T / np.sqrt(np.sum(window**2))


def _numpy_htk_mel(n_mels: int, n_fft: int) -> np.ndarray:
    def to_hz(mel: np.ndarray) -> np.ndarray:
        return 700 * (10 ** (mel / 2595) - 1)

    edges = to_hz(np.linspace(0, 2595 * np.log10(1 + 8000 / 700), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * 16000 / n_fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


@pytest.mark.parametrize(("n_fft", "hop", "n"), [(1024, 512, 16000), (256, 128, 5001), (64, 16, 63)])
def test_spectrogram_equals_numpy(n_fft, hop, n):
    waves = _waves(2, n)
    found = features.spectrogram(torch.tensor(waves, dtype=torch.float32), features.hann(n_fft), hop, 3, 30)
    expected = np.stack([_numpy_spectrogram(w, n_fft, hop) for w in waves])[:, 3:31]
    assert found.shape == (2, 28, n // hop + 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_spectrum_equals_numpy_and_passes_no_gradient():
    waves = _waves(3, 3201)
    tensor = torch.tensor(waves, dtype=torch.float32, requires_grad=True)
    found = features.spectrum(tensor)
    assert found.shape == (3, 1601)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), np.abs(np.fft.rfft(waves)), rtol=1e-4, atol=1e-3)


def _numpy_slaney_mel(n_mels: int, n_fft: int) -> np.ndarray:
    """Linear below 1000 Hz (15 mel), then a factor of 6.4 every 27 mel; triangles of area 1."""

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    edges = to_hz(np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * 16000 / n_fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])[:, None]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("window_norm", [False, True])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_frames_equal_numpy(power, window_norm, scale):
    waves = _waves(2, 8000)
    filters = (_numpy_htk_mel if scale == "htk" else _numpy_slaney_mel)(128, 1024)
    atol = 2e-5 if scale == "htk" else 1e-7 * filters.max()
    np.testing.assert_allclose(features.mel_filters(128, 1024, scale).numpy(), filters, atol=atol)
    bins = np.stack([_numpy_spectrogram(w, 1024, 512) for w in waves])
    if not window_norm:
        bins *= np.sqrt(384)  # the energy of a Hann window of 1024: 3/8 of it
    expected = (filters @ bins**power).transpose(0, 2, 1)
    options = {"power": power, "window_norm": window_norm}
    arguments = torch.tensor(waves, dtype=torch.float32), features.hann(1024), 512, features.mel_filters(128, 1024, scale)  # fmt: skip
    found = features.mel(*arguments, **options)
    rtol = 1e-4 if scale == "htk" else 0
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=1e-5 * expected.max())
    # An empty filter is at the floor; elsewhere decibels of noise are far from it.
    logs = features.log_mel(*arguments, **options).numpy()
    np.testing.assert_allclose(
        logs, 20 / power * np.log10(np.maximum(expected, sys.float_info.epsilon)), atol=2e-3
    )


def test_log_mel_equals_numpy():
    waves = _waves(2, 16000)
    found = features.log_mel(
        torch.tensor(waves, dtype=torch.float32), features.hann(1024), 512, features.mel_filters(128, 1024)
    )
    filters = _numpy_htk_mel(128, 1024)
    mel = np.stack([filters @ _numpy_spectrogram(w, 1024, 512) for w in waves])
    expected = 20 * np.log10(np.maximum(mel, sys.float_info.epsilon)).transpose(0, 2, 1)
    assert found.shape == (2, 32, 128)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_log_mel_of_silence_is_the_references_floor():
    """20 log10 of 2^-52, double precision's epsilon, in float32: -313.0712."""
    found = features.log_mel(torch.zeros(1, 4000), features.hann(512), 256, features.mel_filters(16, 512))
    np.testing.assert_allclose(found.numpy(), -20 * 52 * np.log10(2), rtol=1e-7)


def test_too_many_mel_bands_do_not_warn(recwarn):
    features.mel_filters(128, 256)
    assert not recwarn.list


def test_samples_are_divided_by_32768():
    found = features.to_float(torch.tensor([-32768, 0, 16384, 32767], dtype=torch.int16))
    assert found.tolist() == [-1.0, 0.0, 0.5, 32767 / 32768]


def test_stacked_frames_keep_time_order():
    frames = torch.arange(12.0).view(6, 2)
    found = features.stack_frames(frames, torch.tensor([3, 0]), 3)
    assert found.tolist() == [[6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5]]


# ---------------------------------------------------------------------------------------------- batches


def _pack(lengths: list[int], name: str = "p", channels: int = 1) -> SimpleNamespace:
    rng = np.random.default_rng(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    samples = rng.integers(-32768, 32767, (int(offsets[-1]), channels)).astype(np.int16)
    return SimpleNamespace(
        clips=tuple(f"{name}{i}" for i in range(len(lengths))), samples=samples, offsets=offsets
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=3),
    n_samples=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_crops_come_from_the_tiled_clip(lengths, n_samples, seed):
    packs = [_pack(part, f"p{i}-", channels=1 + i % 2) for i, part in enumerate(lengths)]
    clips = Clips(packs)
    starts = clips.random_starts(np.random.default_rng(seed), n_samples)
    index = np.random.default_rng(seed + 1).permutation(len(clips))
    found = clips.gather(index, n_samples, starts[index]).numpy()
    originals = [p.samples[a:b, 0] for p in packs for a, b in zip(p.offsets[:-1], p.offsets[1:], strict=True)]
    assert clips.keys == tuple(key for p in packs for key in p.clips)
    for row, i in zip(found, index, strict=True):
        tiled = np.tile(originals[i], max(1, -(-n_samples // len(originals[i]))))
        assert 0 <= starts[i] <= len(tiled) - n_samples
        np.testing.assert_array_equal(row, tiled[starts[i] : starts[i] + n_samples])
    np.testing.assert_array_equal(
        clips.gather(np.array([0]), n_samples)[0].numpy(), np.resize(originals[0], n_samples)
    )


def test_channels():
    pack = _pack([9, 5], channels=2)
    pack.samples[:2] = [[32767, -32768], [-32768, 32767]]  # where int16 would overflow
    near, far = pack.samples[:9].astype(np.int64).T
    starts = np.array([4])
    expected = {"near": near / 32768, "far": far / 32768, "mean": (near + far) / 65536, "difference": (near - far) / 32768}  # fmt: skip
    for channel, values in expected.items():
        found = Clips([pack], channel).gather(np.array([0]), 12, starts)
        assert found.dtype == (torch.int16 if channel in ("near", "far") else torch.float32)
        np.testing.assert_array_equal(
            features.to_float(found)[0].numpy(), np.resize(np.tile(values, 3)[4:], 12)
        )
    assert features.to_float(Clips([pack], "difference").gather(np.array([0]), 1)).item() == 65535 / 32768


@pytest.mark.parametrize("channel", ["near", "difference"])
def test_zeros_follow_a_short_clip(channel):
    pack = _pack([9, 20, 5], channels=2)
    clips = Clips([pack], channel, "zero")
    starts = clips.random_starts(np.random.default_rng(0), 12)
    assert starts.tolist()[::2] == [0, 0], "a short clip is not cut"
    assert {clips.random_starts(np.random.default_rng(i), 12)[1] for i in range(99)} == set(range(9))
    index, starts = np.array([2, 1, 0]), np.array([0, 6, 0])
    whole = Clips([pack], channel)
    found = clips.gather(index, 12, starts)
    for row, i, start in zip(found, index, starts, strict=True):
        n = min(12, clips.lengths[i] - start)
        np.testing.assert_array_equal(row[:n], whole.gather(np.array([i]), n, np.array([start]))[0])
        assert not row[n:].any()
    on_device = clips.on(torch.device("cpu")).gather(index, 12, starts)
    assert on_device.dtype == found.dtype
    np.testing.assert_array_equal(on_device, found)
    np.testing.assert_array_equal(clips.gather(index, 12)[1], whole.gather(index, 12)[1])


@pytest.mark.parametrize("padding", ["repeat", "zero"])
def test_clips_of_native_length_are_extracted_in_batches_of_equal_length(padding):
    class Sums(FrontendModule):
        shortest = 8

        def extract(self, waves):
            batches.append(tuple(waves.shape))
            ramp = torch.arange(1.0, waves.shape[1] + 1)
            return {"embedding": torch.stack([waves.sum(1), waves @ ramp], 1), "own": waves.amax(1)}

    batches: list[tuple[int, ...]] = []
    clips = Clips([_pack([12, 5, 12, 30, 8]), _pack([12, 5, 30, 12], "q")], padding=padding)
    found = extract_all(Sums(), clips, None, 3, torch.device("cpu"))
    assert batches == [(3, 8), (3, 12), (1, 12), (2, 30)]
    for i, length in enumerate(clips.lengths):
        wave = features.to_float(clips.gather(np.array([i]), max(8, int(length))))
        alone = Sums().extract(wave)
        torch.testing.assert_close(found["embedding"][i], alone["embedding"][0])
        assert torch.equal(found["own"][i], alone["own"][0])


def test_extraction_keeps_the_results_of_one_batch_besides_the_rows():
    class Waves(FrontendModule):
        shortest = 1

        def extract(self, waves):
            alive.append(sum(one() is not None for one in made))
            value = waves * 2
            made.append(weakref.ref(value))
            return {"embedding": value}

    made, alive = [], []
    clips = Clips([_pack([9] * 20)])
    found = extract_all(Waves(), clips, 9, 3, torch.device("cpu"))["embedding"]
    assert alive == [0, *[1] * 6]
    assert torch.equal(found, features.to_float(clips.gather(np.arange(20), 9)) * 2)


def test_random_crops_reach_both_ends():
    clips = Clips([_pack([5] * 400)])
    starts = clips.random_starts(np.random.default_rng(0), 3)
    assert set(starts.tolist()) == {0, 1, 2}
    # A clip of 5 is tiled to 10 for crops of 8.
    assert set(clips.random_starts(np.random.default_rng(0), 8).tolist()) == {0, 1, 2}


@given(n=st.integers(1, 300), size=st.integers(2, 64))
def test_split_covers_all_items_and_leaves_none_alone(n, size):
    parts = split(n, size)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in parts]
    assert all(s == size for s in sizes[:-1])
    assert n == 1 or min(sizes) >= 2
    assert max(sizes) <= size + 1


def test_generators_depend_on_seed_unit_and_epoch_and_on_no_process():
    def draw(*key) -> int:
        return int(generator(*key).integers(2**62))

    keys = [(s, u, e) for s in (0, 1) for u in ("all", "fan") for e in (WEIGHTS, 0, 1)]
    assert len({draw(*key) for key in keys}) == len(keys)
    code = "from asdray.audio.batches import generator; print(generator(1, 'fan', 3).integers(2**62))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == draw(1, "fan", 3)
