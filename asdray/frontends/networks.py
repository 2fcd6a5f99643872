"""The networks, as plain torch modules: tensors in, tensors out. They import nothing of asdray.

Where nothing needs what comes into a ReLU or a sum again, it is overwritten: the same values, and fewer large
maps at once.

Legend for shapes: B clips or vectors, C channels, F frequency bins, T frames, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def batch_norm_1d(features: int) -> nn.BatchNorm1d:
    """Library defaults, without the affine parameters that the two-branch network does without."""
    return nn.BatchNorm1d(features, affine=False)


def batch_norm_2d(features: int) -> nn.BatchNorm2d:
    """As `batch_norm_1d`, for maps."""
    return nn.BatchNorm2d(features, affine=False)


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means; ``max(1, C // 16)`` hidden units, no bias.

    Source: Hu et al., Squeeze-and-excitation networks, CVPR 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, ...)`` -> the same shape."""
        means = x.mean(dim=tuple(range(2, x.ndim)))
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(means))))
        return x * gate.view(*gate.shape, *(1,) * (x.ndim - 2))


class FftNetwork(nn.Module):
    """Three 1-D convolutions over the spectrum of a whole clip, then fully connected layers. No bias.

    Args:
        n_bins: length of the spectrum.
        channels: of every convolution.
        kernels, strides: of the convolutions, in bins.
        hidden: fully connected layers between the first one and the last.
        embedding_dim: width of all fully connected layers.
    """

    def __init__(
        self,
        n_bins: int,
        channels: int,
        kernels: Sequence[int],
        strides: Sequence[int],
        hidden: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        length = n_bins
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            layers += [
                nn.Conv1d(channels if i else 1, channels, kernel, stride, bias=False),
                nn.ReLU(inplace=True),
                SqueezeExcite(channels),
            ]
            length = (length - kernel) // stride + 1
        assert length >= 1, f"{n_bins} bins are too few: the configuration's check comes first"
        layers.append(nn.Flatten())
        for i in range(hidden + 1):
            width = embedding_dim if i else channels * length
            layers += [nn.Linear(width, embedding_dim, bias=False), batch_norm_1d(embedding_dim), nn.ReLU()]
        layers.append(nn.Linear(embedding_dim, embedding_dim, bias=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, spectrum: Tensor) -> Tensor:
        """``(B, n_bins)`` -> ``(B, D)``."""
        return self.layers(spectrum[:, None])


class ResidualBlock(nn.Module):
    """Batch norm, then two 3x3 convolutions with squeeze-and-excitation beside a shortcut.

    The shortcut is the normalised input, or with ``stride`` 2 its 3x3 max-pool followed by a 1x1
    convolution. Nothing follows the sum.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm = batch_norm_2d(channels_in)
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            batch_norm_2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            SqueezeExcite(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.MaxPool2d(3, stride, padding=1), nn.Conv2d(channels_in, channels, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, F, T)`` -> ``(B, C, ceil(F / stride), ceil(T / stride))``."""
        x = self.norm(x)
        out = self.branch(x)
        out += self.shortcut(x)  # in place: one map less
        return out


class StftNetwork(nn.Module):
    """A residual network on the magnitude spectrogram. No bias.

    Args:
        n_bins: frequency bins F of the spectrogram.
        channels: of the residual stages, two blocks each; every stage after the first halves the map.
        embedding_dim: D.
        aggregation: ``mlp``: one linear layer, after a batch norm, on all rows of the last map; ``gap``: a
            linear layer on the mean of the rows.
    """

    def __init__(
        self, n_bins: int, channels: Sequence[int], embedding_dim: int, aggregation: str = "mlp"
    ) -> None:
        super().__init__()
        self.norm = batch_norm_1d(n_bins)
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels[0], 7, 2, bias=False),
            batch_norm_2d(channels[0]),
            # Pooled before the ReLU, not after it: the same values and gradients, on a quarter of the map.
            nn.MaxPool2d(3, 2),
            nn.ReLU(inplace=True),
        )
        height = ((n_bins - 7) // 2 + 1 - 3) // 2 + 1
        blocks: list[nn.Module] = []
        before = channels[0]
        for i, now in enumerate(channels):
            stride = 2 if i else 1
            blocks += [ResidualBlock(before, now, stride), ResidualBlock(now, now, 1)]
            height = (height - 1) // stride + 1
            before = now
        self.blocks = nn.Sequential(*blocks)
        if aggregation == "mlp":
            self.head = nn.Sequential(
                nn.Flatten(),
                batch_norm_1d(before * height),
                nn.Linear(before * height, embedding_dim, bias=False),
            )
        else:
            self.head = nn.Sequential(nn.Linear(before, embedding_dim, bias=False))
        self.aggregation = aggregation
        # Channels last in memory: convolutions and pooling over few channels run 1.3 to 1.7 times faster so.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, spectrogram: Tensor) -> Tensor:
        """``(B, F, T)`` -> ``(B, D)``."""
        x = self.norm(spectrogram)[:, None]
        x = self.blocks(self.stem(x))
        x = x.amax(dim=-1)
        return self.head(x if self.aggregation == "mlp" else x.mean(dim=-1))


class AutoencoderNetwork(nn.Module):
    """Fully connected autoencoder with biases and affine batch norm (momentum 0.01, eps 1e-3).

    Args:
        width: values per input vector.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        bottleneck: D.
    """

    def __init__(self, width: int, hidden: Sequence[int], bottleneck: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_dense(width, [*hidden, bottleneck]))
        self.decoder = nn.Sequential(*_dense(bottleneck, [*reversed(hidden)]), nn.Linear(hidden[0], width))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, width)`` -> reconstruction ``(B, width)`` and bottleneck ``(B, D)``."""
        code = self.encoder(vectors)
        return self.decoder(code), code


def _dense(width: int, widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for now in widths:
        layers += [nn.Linear(width, now), nn.BatchNorm1d(now, eps=1e-3, momentum=0.01), nn.ReLU()]
        width = now
    return layers
