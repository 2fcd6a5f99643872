"""Kaldi's log-mel filter banks of batches of clips, on the clips' own device.

The values are those of ``torchaudio.compliance.kaldi.fbank`` without dither and energy, which takes one clip
at a time: here one FFT does all frames of a batch. No gradient passes.

>>> import torch
>>> from asdray.audio import kaldi
>>> kaldi.fbank(torch.zeros(2, 16000)).shape
torch.Size([2, 98, 128])
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
"""Hz."""

FRAME = 400
"""Samples per frame: 25 ms."""

HOP = 160
"""Samples between the starts of frames: 10 ms."""

N_FFT = 512
"""Points of the FFT: a frame is padded with zeros to the next power of two."""

LOWEST = 20.0
"""Hz: the lower edge of the first mel filter; the upper edge of the last one is half the sampling rate."""

PRE_EMPHASIS = 0.97
"""Share of the sample before that is subtracted from every sample."""

Window = Literal["povey", "hanning"]


def fbank(waves: Tensor, *, n_mels: int = 128, window: Window = "povey") -> Tensor:
    """Natural logarithm of the power in mel bands.

    Per frame: the mean is subtracted, then pre-emphasis, the window, the power spectrum and the mel filters.

    Args:
        waves: ``(B, n) float32`` at 16 kHz, in the scale that the encoder was trained with.
        n_mels: number of mel filters between 20 and 8000 Hz.
        window: ``povey``, a Hann window to the power of 0.85, or ``hanning``; both symmetric.

    Returns:
        ``(B, T, n_mels) float32`` of the T frames that lie within a clip, not smaller than the logarithm of
        float32's epsilon, -15.94. A filter without a bin of the FFT, such as the fourth of 128, has that
        value everywhere.

    Raises:
        ValueError: clips shorter than a frame of 25 ms.
    """
    if waves.shape[-1] < FRAME:
        raise ValueError(f"clips of {waves.shape[-1]} samples are shorter than a frame of {FRAME} (25 ms)")
    with torch.no_grad(), torch.autocast(waves.device.type, enabled=False):
        waves = waves.float()
        bins = torch.fft.rfft(_frames(waves, window), N_FFT)
        powers = torch.addcmul(bins.real.square(), bins.imag, bins.imag)
        return (powers @ _filters(n_mels, waves.device)).clamp_min_(torch.finfo(torch.float32).eps).log_()


def _frames(waves: Tensor, window: Window) -> Tensor:
    """Frames without their mean, with pre-emphasis and window, ``(B, T, 400)``."""
    frames = waves.unfold(-1, FRAME, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    result = torch.empty_like(frames)
    torch.sub(frames[..., 1:], frames[..., :-1], alpha=PRE_EMPHASIS, out=result[..., 1:])
    # Kaldi takes a frame's first sample as its own predecessor.
    torch.mul(frames[..., 0], 1 - PRE_EMPHASIS, out=result[..., 0])
    return result.mul_(_window(window, waves.device))


@functools.lru_cache(maxsize=16)
def _window(name: Window, device: torch.device) -> Tensor:
    """The window, ``(400,)``."""
    hann = torch.hann_window(FRAME, periodic=False)
    return (hann**0.85 if name == "povey" else hann).to(device)


@functools.lru_cache(maxsize=16)
def _filters(n_mels: int, device: torch.device) -> Tensor:
    """The mel filters, ``(257, n_mels)``: triangles on the mel scale, none at half the sampling rate."""
    from torchaudio.compliance.kaldi import get_mel_banks

    with torch.device("cpu"):
        bank, _ = get_mel_banks(n_mels, N_FFT, SAMPLE_RATE, LOWEST, 0.0, 100.0, -500.0, 1.0)
        return torch.nn.functional.pad(bank, (0, 1)).T.contiguous().to(device)
