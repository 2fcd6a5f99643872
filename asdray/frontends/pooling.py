"""The formulas of `asdray.config.pooling`: tokens -> one vector per clip, or one per clip and band."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asdray.config.pooling import Cls, Gem, Gwrp, Max, Mean, MeanStd, PoolingConfig, Rdp, RdpForm, RdpGem


def pool(grid: Tensor, pooling: PoolingConfig, cls: Tensor | None = None) -> Tensor:
    """A statistic over the tokens of each clip, in float32, or in float64 for tokens of this type.

    With x_t the value of one dimension at time t and the sums over t (``tokens: bands``), or over all times
    and bands as one line of tokens (``tokens: all``):

    * ``mean``, ``max``, ``mean_std``: the latter with the root of the mean squared deviation.
    * ``gwrp``: sum of r^(k - 1) x_(k) / sum of r^(k - 1), x_(k) being the k-th largest value.
    * ``gem``: (mean of max(x_t, 0)^p)^(1/p).
    * ``rdp``: sum w_t x_t / sum w_t, with the weights of `deviation_weights`, one per token.
    * ``rdp_gem``: (sum w_t max(x_t, 0)^p / sum w_t)^(1/p).
    * ``cls``: the class token.

    Args:
        grid: ``(B, T, F, D)``, T times in F bands.
        cls: ``(B, D)``, the class tokens.

    Returns:
        ``(B, D')`` for all tokens and for the class token, ``(B, F, D')`` for bands; D' is D, for
        ``mean_std`` 2 D.

    Raises:
        ValueError: no class tokens, where these are asked for.
    """
    if isinstance(pooling, Cls):
        if cls is None:
            raise ValueError("pooling cls: the encoder has no class token (choose another pooling)")
        return cls if cls.dtype == torch.float64 else cls.float()
    x = grid if grid.dtype == torch.float64 else grid.float()
    if pooling.per_band:
        return _over_time(x, pooling)
    return _over_time(x.flatten(1, 2).unsqueeze(2), pooling).squeeze(1)


def _over_time(x: Tensor, pooling: PoolingConfig) -> Tensor:
    """(B, T, F, D) -> (B, F, D')."""
    match pooling:
        case Mean():
            return x.mean(dim=1)
        case Max():
            return x.amax(dim=1)
        case MeanStd():
            return torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)], dim=2)
        case Gwrp():
            return _ranked(x, pooling.r)
        case Gem():
            return _power_mean(x, None, pooling.p, pooling.floor)
        case Rdp():
            return _weighted(x, deviation_weights(x, pooling.gamma, pooling.form))
        case RdpGem():
            weights = deviation_weights(x, pooling.gamma, pooling.form)
            return _power_mean(x, weights, pooling.p, pooling.floor)
    raise TypeError(f"{pooling.name} is no pooling of tokens")


def deviation_weights(x: Tensor, gamma: float, form: RdpForm) -> Tensor:
    """The weights of relative deviation pooling, (B, T, F), with the sum 1 over T.

    d_t is the Euclidean distance of the token at time t from the mean over time; for ``joint`` and ``minmax``
    the distance of the joined bands. The weight is proportional to (1 + d_t / max d)^gamma (``band``,
    ``joint``), (1 + (d_t - min d) / (max d - min d))^gamma (``minmax``) or (d_t / max d)^gamma (``power``).
    If all d_t are equal, so are the weights.

    Args:
        x: (B, T, F, D).
    """
    squares = (x - x.mean(dim=1, keepdim=True)).square().sum(dim=3)
    if form in ("joint", "minmax"):
        squares = squares.sum(dim=2, keepdim=True).expand_as(squares)
    d = squares.sqrt()
    if form == "minmax":
        d = d - d.amin(dim=1, keepdim=True)
    most = d.amax(dim=1, keepdim=True)
    # Of constant tokens every d is 0, and so every weight the same.
    ratio = torch.where(most > 0, d / torch.where(most > 0, most, 1.0), 1.0)
    base = ratio if form == "power" else (1 + ratio) / 2  # at most 1: no power overflows
    weights = base.pow(gamma)
    return weights / weights.sum(dim=1, keepdim=True)


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("btfd,btf->bfd", x, weights)


def _ranked(x: Tensor, r: float) -> Tensor:
    """The weighted mean over the values of each dimension in falling order, weights r^rank."""
    n = x.shape[1]
    # Ranks whose weights make up less than 1e-12 of the sum change no digit.
    kept = n if r == 1 else 1 if r == 0 else min(n, math.ceil(math.log(1e-12) / math.log(r)))
    highest = x.topk(kept, dim=1).values if kept < n else x.sort(dim=1, descending=True).values
    weights = r ** torch.arange(kept, dtype=torch.float64)
    weights = (weights / weights.sum()).to(x)
    return torch.einsum("btfd,t->bfd", highest, weights)


def _power_mean(x: Tensor, weights: Tensor | None, p: float, floor: float) -> Tensor:
    """(sum of w_t max(x_t, 0)^p)^(1/p), the sum at least ``floor``; equal weights for None.

    Values are scaled by their maximum, so that no power overflows, and none of the largest value vanishes.
    """
    x = x.clamp_min(0)
    most = x.amax(dim=1, keepdim=True)
    powers = (x / torch.where(most > 0, most, 1.0)).pow(p)
    mean = powers.mean(dim=1) if weights is None else _weighted(powers, weights)
    return (most.squeeze(1) * mean.pow(1 / p)).clamp_min(floor ** (1 / p))
