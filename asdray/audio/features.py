"""Spectra, spectrograms and log-mel frames of batches of clips, on the clips' own device.

All functions depend on audio alone, have no trained parameters and pass no gradient. The module imports torch
(and torchaudio for mel filters) but nothing else of asdray.

Conventions: 16 kHz audio, float32 with full scale 1, frequencies from 0 to 8000 Hz. Legend for shapes: B
clips, n samples per clip, F frequency bins, T frames, M mel bands, S stacked frames.

>>> import torch
>>> from asdray.audio import features
>>> waves = torch.zeros(2, 16000)
>>> features.spectrogram(waves, features.hann(1024), hop_length=512).shape
torch.Size([2, 513, 32])
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
"""Hz; as in `asdray.dcase.years`, which a benchmark without asdray's data does not import."""

LOG_FLOOR = sys.float_info.epsilon
"""Smallest mel magnitude before the logarithm, about 2.22e-16, as in the reference."""


def to_float(samples: Tensor) -> Tensor:
    """Samples as float32, full scale 1.

    Args:
        samples: ``(...)`` int16, or float32 in this scale already.

    Returns:
        ``(...)`` float32: int16 divided by 32768, float32 unchanged.
    """
    if samples.is_floating_point():
        return samples
    return samples.to(torch.float32).mul_(1 / 32768)


def spectrum(waves: Tensor) -> Tensor:
    """Magnitude spectrum of whole clips, without window or normalisation.

    Args:
        waves: ``(B, n) float32``.

    Returns:
        ``(B, n // 2 + 1) float32``.
    """
    with torch.no_grad():
        return torch.fft.rfft(waves).abs()


def spectrogram(
    waves: Tensor,
    window: Tensor,
    hop_length: int,
    first: int = 0,
    last: int | None = None,
    *,
    window_norm: bool = True,
) -> Tensor:
    """Magnitude spectrogram; frames centred, zeros outside.

    Args:
        waves: ``(B, n) float32``.
        window: ``(n_fft,) float32``, one frame long.
        hop_length: samples between frames.
        first: lowest frequency bin to keep.
        last: highest bin to keep, inclusive; None = up to half the sampling rate.
        window_norm: divide magnitudes by the root of the window's energy.

    Returns:
        ``(B, F, T) float32`` with ``F = last - first + 1`` and ``T = n // hop_length + 1``.
    """
    n_fft = window.numel()
    last = n_fft // 2 if last is None else last
    with torch.no_grad():
        complex_bins = torch.stft(
            waves, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True
        )
        # Bins outside the band are dropped before the magnitude, the costlier half of the work.
        magnitude = complex_bins[:, first : last + 1].abs()
        return magnitude.div_(window.square().sum().sqrt()) if window_norm else magnitude


def hann(n_fft: int) -> Tensor:
    """Periodic Hann window, ``(n_fft,) float32``."""
    return torch.hann_window(n_fft)


def mel_filters(n_mels: int, n_fft: int, scale: str = "htk") -> Tensor:
    """Triangular mel filters from 0 to 8000 Hz.

    Narrow filters without a bin are all zero, and the band is constant at the log floor.

    Args:
        scale: ``htk``: HTK's mel scale, filters of height 1; ``slaney``: linear below 1000 Hz, filters of
            area 1 (per Hz), librosa's default.

    Returns:
        ``(M, n_fft // 2 + 1) float32``.
    """
    if scale == "slaney":
        return _slaney_filters(n_mels, n_fft)
    import warnings

    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        bank = melscale_fbanks(n_fft // 2 + 1, 0.0, SAMPLE_RATE / 2, n_mels, SAMPLE_RATE, None, scale)
    return bank.T.contiguous()


def _slaney_filters(n_mels: int, n_fft: int) -> Tensor:
    """Slaney's filters, computed in float64: torchaudio's float32 is off by some 1e-5 of a filter's height.

    Source: Slaney, Auditory Toolbox, 1998: 200/3 Hz per mel up to 1000 Hz, then a factor 6.4 per 27 mel.
    """
    knee, octave = 15.0, 27 / math.log(6.4)
    top = knee + octave * math.log(SAMPLE_RATE / 2 / 1000)
    mels = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    linear, rising = mels * 200 / 3, 1000 * ((mels - knee) / octave).exp()
    edges = torch.where(mels < knee, linear, rising)[:, None]
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / n_fft
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    sides = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return (sides.clamp_min(0) * 2 / (high - low)).float()


def mel(
    waves: Tensor,
    window: Tensor,
    hop_length: int,
    filters: Tensor,
    *,
    power: int = 1,
    window_norm: bool = True,
) -> Tensor:
    """Mel frames: magnitudes (``power`` 1) or squared magnitudes (``power`` 2), weighted by the filters.

    Args:
        waves: ``(B, n) float32``.
        window: ``(n_fft,) float32``.
        filters: ``(M, n_fft // 2 + 1) float32``.
        window_norm: see `spectrogram`.

    Returns:
        ``(B, T, M) float32``.
    """
    bins = spectrogram(waves, window, hop_length, window_norm=window_norm)
    if power == 2:
        bins.square_()
    return torch.matmul(filters, bins).transpose(1, 2)


def log_mel(
    waves: Tensor,
    window: Tensor,
    hop_length: int,
    filters: Tensor,
    *,
    power: int = 1,
    window_norm: bool = True,
) -> Tensor:
    """Log-mel frames in dB: ``20 / power * log10(max(x, LOG_FLOOR))`` of the values ``x`` of `mel`.

    Args:
        waves: ``(B, n) float32``.
        window: ``(n_fft,) float32``.
        filters: ``(M, n_fft // 2 + 1) float32``.

    Returns:
        ``(B, T, M) float32``.

    Source: the official baseline; with power 1 ASDKit's ``ae`` recipe, arXiv 2507.10264.
    """
    frames = mel(waves, window, hop_length, filters, power=power, window_norm=window_norm)
    return frames.clamp_min(LOG_FLOOR).log10().mul_(20.0 / power).contiguous()


def stack_frames(frames: Tensor, starts: Tensor, n_frames: int) -> Tensor:
    """Vectors of consecutive frames, gathered by index; no frame is stored S times.

    Args:
        frames: ``(N, M) float32``, contiguous, frames one after another.
        starts: ``(V,) int64``, the first frame of each vector.

    Returns:
        ``(V, S * M) float32``, the earliest frame first.
    """
    # A view with overlapping windows: one block copy per vector, four times as fast as frame by frame.
    n_bands = frames.shape[1]
    return frames.flatten().unfold(0, n_frames * n_bands, n_bands).index_select(0, starts)
