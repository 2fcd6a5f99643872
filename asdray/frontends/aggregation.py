"""From the tokens of a clip to one vector, with weights that are learnt.

Legend for shapes: B clips, N tokens, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_VARIANCE = 1e-4
"""Smallest variance of which a root is taken."""

REDUCTION = 16
"""D divided by the width of the network that weighs tokens."""


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over tokens, weighted per token and dimension; then a linear layer.

    A small network gives each token, beside the plain mean and standard deviation of its clip, a number per
    dimension; their softmax over the tokens are the weights. Names of tensors are ASDKit's; the kernels of
    size 1 of its two convolutions are matrices here.

    Args:
        width: D.
        initial_stats: if true, batch norms outside training have the mean 0 and the variance 1.

    Source: Okabe et al., Interspeech 2018; Desplanques et al., Interspeech 2020 (with the clip's mean and
    deviation); as configured in ASDKit, arXiv 2507.10264.
    """

    def __init__(self, width: int, initial_stats: bool = False) -> None:
        super().__init__()
        hidden = max(1, width // REDUCTION)
        self.width = width
        self.attention = nn.ModuleList(
            [
                nn.Linear(3 * width, hidden),
                nn.ReLU(),
                Norm(hidden, initial_stats),
                nn.Tanh(),
                nn.Linear(hidden, width),
            ]
        )
        self.last_layer = nn.Sequential(
            Norm(2 * width, initial_stats), nn.Linear(2 * width, width), Norm(width, initial_stats)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, N, D) float32`` -> ``(B, D)``."""
        weights = self.weights(tokens)
        mean = (weights * tokens).sum(1)
        variance = (weights * (tokens - mean[:, None]).square()).sum(1)
        return self.last_layer(torch.cat([mean, variance.clamp_min(MIN_VARIANCE).sqrt()], dim=1))

    def weights(self, tokens: Tensor) -> Tensor:
        """The weights ``(B, N, D) float32``, with the sum 1 over tokens."""
        reduce, relu, norm, tanh, expand = self.attention
        assert isinstance(reduce, nn.Linear)
        # The variance over a single token is 0.
        variance = tokens.var(1, correction=min(1, tokens.shape[1] - 1))
        clip = torch.cat([tokens.mean(1), variance.clamp_min(MIN_VARIANCE).sqrt()], dim=1)
        # The layer on [token, mean, deviation], without a copy of mean and deviation for every token.
        x = F.linear(tokens, reduce.weight[:, : self.width], reduce.bias)
        x = relu(x + F.linear(clip, reduce.weight[:, self.width :])[:, None])
        x = norm(x.flatten(0, 1)).view(x.shape)
        return expand(tanh(x)).softmax(1)


class Norm(nn.BatchNorm1d):
    """Batch norm with a choice of the statistics outside training.

    Args:
        initial_stats: if true the mean 0 and the variance 1, else the running ones.
    """

    def __init__(self, width: int, initial_stats: bool) -> None:
        super().__init__(width)
        self.initial_stats = initial_stats

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D)`` -> ``(B, D)``."""
        if self.training or not self.initial_stats:
            return super().forward(x)
        mean, variance = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
