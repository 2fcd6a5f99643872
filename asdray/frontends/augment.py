"""Augmentation of training batches. Random choices are drawn beforehand; what runs on the device is plain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MASK_FFT, MASK_HOP = 1024, 256
"""The STFT whose frames and bins SpecAugment masks."""


def draw_mixup(rng: np.random.Generator, size: int, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Whom each clip of a batch is mixed with, and how much of it stays.

    The partners are a permutation of the batch; each clip is mixed, independently of the others, with
    ``probability``, and then keeps a share drawn uniformly from [0, 1) (not from a Beta distribution).

    Returns:
        partner ``(B,) int64``; share ``(B,) float32``, 1 where the clip stays as it is.

    Source: mixup as configured in ASDKit, arXiv 2507.10264.
    """
    partner = rng.permutation(size)
    share = rng.random(size, dtype=np.float32)
    share[rng.random(size) >= probability] = 1.0
    return partner, share


def mix(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """``share * values + (1 - share) * values[partner]``; rows with share 1 stay exactly as they are.

    Args:
        values: ``(B, n) float32``, waveforms or class probabilities.
        partner: ``(B,) int64``.
        share: ``(B,) float32``.

    Returns:
        ``(B, n) float32``.
    """
    return torch.lerp(values[partner], values, share[:, None])


# ----------------------------------------------------------------------------------------- SpecAugment


def draw_masks(
    rng: np.random.Generator, size: int, n_samples: int, probability: float, max_frames: int, max_bins: int
) -> np.ndarray:
    """For each clip a stretch of frames and one of frequency bins to silence.

    Each clip gets each of both, independently, with ``probability``; the width is uniform from 0 to the
    largest, and so is the place among those where it fits.

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
    """Waveforms without the masked frames and bins, phases kept; a clip without a mask stays as it is.

    Args:
        waves: ``(B, n) float32``.
        masks: ``(B, 4) int64``, as of `draw_masks`.

    Returns:
        ``(B, n) float32``.
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
    """``(B, length) bool``: where ``first <= position < first + width``."""
    position = torch.arange(length, device=first.device)
    return (position >= first[:, None]) & (position < (first + width)[:, None])


# ---------------------------------------------------------------------------------------------- FeatEx


class Exchange(NamedTuple):
    """Which clips of a batch hold sub-embeddings of others.

    Attributes:
        swapped: ``(B,) bool``.
        source: ``(B, M) int64``, the clip that each sub-embedding is taken from: the clip itself for the
            first one and wherever a clip is not swapped.
    """

    swapped: Tensor
    source: Tensor


def draw_exchange(rng: np.random.Generator, size: int, n_parts: int, probability: float) -> Exchange:
    """An exchange of sub-embeddings 2 to M, each by a permutation of the batch of its own.

    Source: FeatEx as configured in ASDKit, arXiv 2507.10264.
    """
    swapped = rng.random(size) < probability
    own = np.arange(size)
    columns = [own] + [np.where(swapped, rng.permutation(size), own) for _ in range(n_parts - 1)]
    return Exchange(torch.from_numpy(swapped), torch.from_numpy(np.stack(columns, axis=1)))
