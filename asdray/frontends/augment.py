"""Augmentation of training batches. Random choices are drawn beforehand; what runs on the device is plain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
