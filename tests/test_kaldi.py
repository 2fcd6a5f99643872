"""Kaldi filter banks against torchaudio's, which takes one clip at a time."""

import numpy as np
import pytest
import torch
from golden.encoders.rules import clip
from torchaudio.compliance.kaldi import fbank

from asdray.audio import kaldi

SPREAD = 2 * 4.569
"""The smaller of the divisors that encoders normalise with."""


def _torchaudio(waves, window, n_mels=128):
    options = {"num_mel_bins": n_mels, "window_type": window, "htk_compat": True, "dither": 0.0}
    return torch.stack([fbank(wave[None], **options) for wave in waves])


@pytest.mark.parametrize("window", ["povey", "hanning"])
@pytest.mark.parametrize(
    ("seconds", "scale", "offset"), [(1, 2**15, 0), (3.01, 1, 0), (2, 1, 0.3), (0.025, 1, 0)]
)
def test_a_batch_equals_torchaudio_clip_by_clip(window, seconds, scale, offset):
    waves = (
        torch.from_numpy(np.stack([clip(seconds, seed) for seed in range(3)]) + np.float32(offset)) * scale
    )
    found = kaldi.fbank(waves, window=window)
    assert found.shape == (3, 1 + (waves.shape[1] - 400) // 160, 128)
    torch.testing.assert_close(found / SPREAD, _torchaudio(waves, window) / SPREAD, atol=1e-4, rtol=0)
    # torchaudio's own rounding is left out: against its values in double precision.
    exact = _torchaudio(waves.double(), window).float()
    torch.testing.assert_close(found / SPREAD, exact / SPREAD, atol=1e-4, rtol=0)
    for one, wave in zip(found, waves, strict=True):
        torch.testing.assert_close(kaldi.fbank(wave[None], window=window)[0], one, atol=1e-4, rtol=0)


def test_other_numbers_of_filters():
    waves = torch.from_numpy(clip(0.5))[None] * 2**15
    found = kaldi.fbank(waves, n_mels=23)
    torch.testing.assert_close(found, _torchaudio(waves, "povey", 23), atol=5e-4, rtol=0)


def test_silence_and_the_filter_without_a_bin_are_at_the_floor():
    floor = pytest.approx(np.log(np.finfo(np.float32).eps), abs=1e-5)
    assert kaldi.fbank(torch.zeros(1, 400)).unique().item() == floor
    assert kaldi.fbank(torch.from_numpy(clip(0.5))[None] * 2**15)[..., 3].unique().item() == floor


def test_bfloat16_autocast_changes_nothing():
    waves = torch.from_numpy(clip(0.5))[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kaldi.fbank(waves)
    assert torch.equal(found, kaldi.fbank(waves))


def test_clips_shorter_than_a_frame_are_refused():
    assert [kaldi.fbank(torch.zeros(1, n)).shape[1] for n in (400, 559, 560)] == [1, 1, 2]
    with pytest.raises(ValueError, match="399 samples are shorter than a frame of 400"):
        kaldi.fbank(torch.zeros(2, 399))
