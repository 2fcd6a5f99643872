"""A convolution over many tokens at once, computed from Fourier coefficients.

Legend for shapes: B clips, N tokens, D dimensions in G groups, S blocks, F = 129 frequencies.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 256
"""Tokens from which the outputs of one block are computed."""


class LongConvolution(nn.Conv1d):
    """A grouped convolution over an even number of tokens: one half before an output's token, one from it on.

    The sums of a kernel over 128 tokens take 6 % of BEATs' time on a CPU. Products of Fourier coefficients,
    by frequency and group, take a sixth of that; all steps are products of matrices.

    Args:
        width: dimensions D of a token.
        kernel: number of tokens, up to 128.
        groups: number of groups G of dimensions.
    """

    # The coefficients of one state of the weights: 38 MB for BEATs, computed once for frozen weights.
    _prepared: tuple[tuple[object, ...], Tensor] | None = None

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__(width, width, kernel, groups=groups)
        self.before, self.step = kernel // 2, BLOCK - kernel + 1

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, N, D) float32`` -> ``(B, N, D) float32``."""
        n_tokens, width = x.shape[1:]
        after = self.before - 1 - n_tokens % -self.step
        blocks = F.pad(x, (0, 0, self.before, after)).unfold(1, BLOCK, self.step).transpose(2, 3)
        with torch.autocast(x.device.type, enabled=False):
            bins = (_fourier(x.device) @ blocks).flatten(0, 1)
            cos, sin = (self._per_group(part) for part in bins.chunk(2, dim=1))
            kernel_cos, kernel_sin = self._kernel()
            real = torch.baddbmm(cos @ kernel_cos, sin, kernel_sin)
            imaginary = torch.baddbmm(cos @ kernel_sin, sin, kernel_cos, alpha=-1)
            products = torch.stack([real.transpose(0, 1), imaginary.transpose(0, 1)], dim=1)
            sums = _inverse(x.device, self.step) @ products.view(len(products), -1, width)
            return torch.add(sums.view(len(x), -1, width)[:, :n_tokens], self.bias)  # type: ignore[arg-type]

    def _per_group(self, bins: Tensor) -> Tensor:
        """``(B * S, F, D)`` -> a matrix per frequency and group, ``(F * G, B * S, D / G)``, no copy."""
        return bins.unflatten(2, (self.groups, -1)).flatten(1, 2).transpose(0, 1)

    def _kernel(self) -> Tensor:
        """Cosine and sine parts of the weights, ``(2, F * G, D / G inputs, D / G outputs)``."""
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        # Training cannot use coefficients that extraction has computed in inference mode.
        state = id(weight), weight.data_ptr(), weight.device, version, torch.is_inference_mode_enabled()
        learns = torch.is_grad_enabled() and weight.requires_grad
        if self._prepared and self._prepared[0] == state and not learns:
            return self._prepared[1]
        taps = weight.unflatten(0, (self.groups, -1)).permute(3, 0, 2, 1)
        parts = _fourier(weight.device)[:, : len(taps)] @ taps.flatten(1)
        kernel = parts.view(2, -1, *taps.shape[2:])
        if not learns:
            self._prepared = state, kernel
        return kernel


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # else training could not use what extraction has left here
def _fourier(device: torch.device) -> Tensor:
    """Cosines of the frequencies 0 to 128 at 256 times, then sines: ``(2 * F, 256)``."""
    turns = torch.outer(torch.arange(BLOCK // 2 + 1), torch.arange(BLOCK)) % BLOCK
    angles = turns.double() * (2 * math.pi / BLOCK)
    return torch.cat([angles.cos(), angles.sin()]).float().to(device)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _inverse(device: torch.device, n: int) -> Tensor:
    """Coefficients -> values at the first n times, ``(n, 2 * F)``."""
    # All frequencies but the first and the last stand for a negative one, too.
    counts = torch.full((BLOCK // 2 + 1,), 2 / BLOCK)
    counts[[0, -1]] /= 2
    return _fourier(torch.device("cpu"))[:, :n].T.mul(torch.cat([counts, -counts])).to(device)
