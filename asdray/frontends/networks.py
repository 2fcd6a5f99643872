"""The networks of the frontends, as plain torch modules that import nothing of asdray.

ReLUs and sums overwrite an input that nothing else needs: the values are the same, and fewer large maps are
in memory at once.

Legend for shapes: B clips or vectors, C channels, F frequency bins, T frames, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def batch_norm_1d(features: int) -> nn.BatchNorm1d:
    """Batch norm with torch's defaults, but without affine parameters, as in the two-branch network."""
    return nn.BatchNorm1d(features, affine=False)


def batch_norm_2d(features: int) -> nn.BatchNorm2d:
    """`batch_norm_1d` for maps ``(B, C, F, T)``."""
    return nn.BatchNorm2d(features, affine=False)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1) that two linear layers compute from all channels' means.

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
        channels: output channels of every convolution.
        kernels, strides: kernel sizes and strides of the convolutions, in bins.
        hidden: number of fully connected layers between the first and the last.
        embedding_dim: D, the width of all fully connected layers.
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
        assert length >= 1, f"{n_bins} bins are too few: the configuration's check() refuses them"
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
    """Batch norm, then the sum of two 3x3 convolutions with squeeze-and-excitation and of a shortcut.

    The shortcut is the normalised input; with ``stride`` 2, a 3x3 max-pool and a 1x1 convolution of the
    normalised input. No activation follows the sum.
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
        out += self.shortcut(x)  # in place saves a map
        return out


class StftNetwork(nn.Module):
    """A residual network on the magnitude spectrogram. No bias.

    Args:
        n_bins: F, frequency bins of the spectrogram.
        channels: channels of each residual stage of two blocks; stages after the first halve the map.
        embedding_dim: D.
        aggregation: of the last map, after a maximum over time. ``mlp``: batch norm and a linear layer on
            all frequency rows; ``gap``: a linear layer on the mean of the rows.
    """

    def __init__(
        self, n_bins: int, channels: Sequence[int], embedding_dim: int, aggregation: str = "mlp"
    ) -> None:
        super().__init__()
        self.norm = batch_norm_1d(n_bins)
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels[0], 7, 2, bias=False),
            batch_norm_2d(channels[0]),
            # Pooling before the ReLU gives the same values and gradients on a quarter of the map.
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
        # Convolutions and pooling over few channels run 1.3 to 1.7 times faster with channels last in memory.
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
        hidden: widths of the encoder's hidden layers; the decoder has the same in reverse order.
        bottleneck: D, the width of the code between encoder and decoder.
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
    """Linear layers of the given widths, each followed by batch norm and a ReLU."""
    layers: list[nn.Module] = []
    for now in widths:
        layers += [nn.Linear(width, now), nn.BatchNorm1d(now, eps=1e-3, momentum=0.01), nn.ReLU()]
        width = now
    return layers
