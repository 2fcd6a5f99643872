"""Augmentation of training batches: mixup, SpecAugment, FeatEx and noise.

The ``draw_*`` functions make all random choices beforehand, on the CPU; the others apply them on the device
and are deterministic.

Legend for shapes: B clips, L samples per clip, M sub-embeddings per clip.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MASK_FFT, MASK_HOP = 1024, 256
"""Window and hop, in samples, of the STFT whose frames and frequency bins SpecAugment masks."""


def draw_mixup(
    rng: np.random.Generator, size: int, probability: float, alpha: float | None = None, per: str = "clip"
) -> tuple[np.ndarray, np.ndarray]:
    """A partner for each clip of a batch, and the clip's own share in the mixture.

    The partners are a permutation of the batch. Each clip is mixed with ``probability``, independently of
    the others.

    Args:
        size: B.
        alpha: the share is drawn from the distribution Beta(alpha, alpha); None: uniform in [0, 1).
        per: ``clip``, a share for every clip; ``batch``, one share for all mixed clips.

    Returns:
        partner ``(B,) int64``, positions in the batch; share ``(B,) float32``, 1 for clips left unmixed.

    Source: Zhang et al., mixup, ICLR 2018; uniform as configured in ASDKit, arXiv 2507.10264.
    """
    partner = rng.permutation(size)
    n_shares = size if per == "clip" else 1
    if alpha is None:
        share = rng.random(n_shares, dtype=np.float32)
    else:
        share = rng.beta(alpha, alpha, n_shares).astype(np.float32)
    share = np.broadcast_to(share, size).copy()
    share[rng.random(size) >= probability] = 1.0
    return partner, share


def mix(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """``share * values + (1 - share) * values[partner]``; rows with share 1 stay exactly equal.

    Example:
        >>> mix(torch.tensor([[0.0], [8.0]]), torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))
        tensor([[2.],
                [8.]])

    Args:
        values: ``(B, ...) float32``: waveforms, spectra, spectrograms or class probabilities.
        partner: ``(B,) int64``.
        share: ``(B,) float32``.

    Returns:
        ``(B, ...) float32``.
    """
    return torch.lerp(values[partner], values, share.reshape(-1, *[1] * (values.ndim - 1)))


# ----------------------------------------------------------------------------------------------- noise


class Noise(NamedTuple):
    """The noise that is added to the clips of a batch.

    Attributes:
        samples: ``(B, L)`` int16 or float32, see `asdray.audio.batches.Clips.gather`.
        snr: ``(B,) float32``, power of the clip over power of the noise in dB; infinite without noise.
    """

    samples: Tensor
    snr: Tensor


def draw_noise(
    rng: np.random.Generator, size: int, n_noises: int, snr: tuple[float, float], probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """A clip of noise for each clip of a batch, and the ratio of their powers.

    Args:
        size: B.
        n_noises: number of clips of noise.
        snr: smallest and largest ratio, in dB.
        probability: share of the clips that noise is added to.

    Returns:
        noise ``(B,) int64``, positions among the clips of noise; ratio ``(B,) float32`` in dB, uniform
        between the two, and infinite for clips without noise.
    """
    ratio = rng.uniform(*snr, size).astype(np.float32)
    ratio[rng.random(size) >= probability] = np.inf
    return rng.integers(0, n_noises, size), ratio


def add_noise(waves: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Waveforms plus noise, scaled to the ratio of powers; with silent noise or an infinite ratio unchanged.

    Example:
        >>> add_noise(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([20.0]))
        tensor([[ 2.2000, -1.8000]])

    Args:
        waves, noise: ``(B, L) float32``.
        snr: ``(B,) float32``, dB.

    Returns:
        ``(B, L) float32``.
    """
    power, of_noise = waves.square().mean(dim=1), noise.square().mean(dim=1)
    gain = (power / of_noise.where(of_noise > 0, 1)).sqrt() * 10 ** (-snr / 20)
    return waves + gain[:, None] * noise


# ----------------------------------------------------------------------------------------- SpecAugment


def draw_masks(
    rng: np.random.Generator, size: int, n_samples: int, probability: float, max_frames: int, max_bins: int
) -> np.ndarray:
    """For each clip a stretch of STFT frames and a stretch of frequency bins to silence.

    Each clip gets each kind of stretch with ``probability``, independently. The width is uniform from 0 to
    ``max_frames`` or ``max_bins``, the position uniform among all at which the stretch fits.

    Args:
        size: B.
        n_samples: L.

    Returns:
        ``(B, 4) int64``: first frame, number of frames, first bin, number of bins.

    Source: Park et al., SpecAugment, Interspeech 2019.
    """
    columns = []
    for length, longest in ((n_samples // MASK_HOP + 1, max_frames), (MASK_FFT // 2 + 1, max_bins)):
        width = rng.integers(0, min(longest, length) + 1, size)
        width[rng.random(size) >= probability] = 0
        columns += [rng.integers(0, length - width + 1), width]
    return np.stack(columns, axis=1)


def mask(waves: Tensor, masks: Tensor) -> Tensor:
    """Waveforms with the masked frames and bins silenced, phases kept; clips without a mask stay equal.

    Args:
        waves: ``(B, L) float32``.
        masks: ``(B, 4) int64``, see `draw_masks`.

    Returns:
        ``(B, L) float32``.
    """
    window = torch.hann_window(MASK_FFT, device=waves.device)
    with torch.no_grad():
        bins = torch.stft(
            waves, MASK_FFT, MASK_HOP, window=window, center=True, pad_mode="constant", return_complex=True
        )
        silent = _stretch(bins.shape[2], masks[:, 0], masks[:, 1])[:, None, :]
        silent = silent | _stretch(bins.shape[1], masks[:, 2], masks[:, 3])[:, :, None]
        masked = torch.istft(
            bins.masked_fill(silent, 0), MASK_FFT, MASK_HOP, window=window, center=True, length=waves.shape[1]
        )
        touched = (masks[:, 1] > 0) | (masks[:, 3] > 0)
        return torch.where(touched[:, None], masked, waves)


def _stretch(length: int, first: Tensor, width: Tensor) -> Tensor:
    """``(B, length) bool``, True at ``first <= position < first + width``."""
    position = torch.arange(length, device=first.device)
    return (position >= first[:, None]) & (position < (first + width)[:, None])


# ---------------------------------------------------------------------------------------------- FeatEx


class Exchange(NamedTuple):
    """The sub-embeddings that the clips of a batch take from other clips.

    Attributes:
        swapped: ``(B,) bool``, True for clips that take sub-embeddings from others.
        source: ``(B, M) int64``, the clip from which each sub-embedding is taken: the clip itself for the
            first sub-embedding, and for all of a clip that is not swapped.
    """

    swapped: Tensor
    source: Tensor


def draw_exchange(rng: np.random.Generator, size: int, n_parts: int, probability: float) -> Exchange:
    """An exchange of sub-embeddings 2 to M, each by another permutation of the batch.

    Args:
        size: B.
        n_parts: M.
        probability: share of the clips that are swapped.

    Source: FeatEx as configured in ASDKit, arXiv 2507.10264.
    """
    swapped = rng.random(size) < probability
    own = np.arange(size)
    columns = [own] + [np.where(swapped, rng.permutation(size), own) for _ in range(n_parts - 1)]
    return Exchange(torch.from_numpy(swapped), torch.from_numpy(np.stack(columns, axis=1)))
