"""The frontend of pretrained encoders: clips -> tokens of some layers -> pooled embeddings.

Only pooled statistics leave the frontend: the tokens of a clip of 10 s have 1.5 MB, and are never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asdray.frontends import compute, encoders
from asdray.frontends.base import FrontendModule
from asdray.frontends.encoders import weights
from asdray.frontends.pooling import pool

if TYPE_CHECKING:
    from asdray.config.encoder import Encoder


class EncoderFrontend(FrontendModule):
    """A frozen encoder and the poolings of its tokens.

    Attributes:
        network: the encoder; without values until `load_frozen`.
    """

    frozen = ("network",)

    def __init__(self, config: Encoder) -> None:
        super().__init__()
        self.config = config
        options = {"frame_multiple": config.frame_multiple} if config.network.startswith("eat") else {}
        self.network = encoders.build(config.network, **options)
        self.shortest = self.network.shortest

    def load_frozen(self, files: Mapping[str, Mapping[str, Path]]) -> None:
        """Loads the weight file, of kind ``encoder``."""
        (path,) = set(files["encoder"].values())
        weights.load(self.network, path)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Clips ``(B, L) float32`` -> every embedding by name, ``(B, D)`` or ``(B, bands, D) float32``."""
        spectrum = self.network.spectrum(waves)
        with compute.precision(self.config.precision, waves.device):
            tokens = self.network(spectrum, self.config.layer_numbers)
        return {
            f"L{layer}_{pooling.label}": pool(grid, pooling, tokens[layer].cls)
            for layer in self.config.layer_numbers
            for grid in (self.limited(tokens[layer].grid),)
            for pooling in self.config.poolings
        }

    def limited(self, grid: Tensor) -> Tensor:
        """The tokens with the limits ``clamp_min`` and ``spike`` on their values."""
        if self.config.clamp_min is not None:
            grid = grid.clamp_min(self.config.clamp_min)
        if (spike := self.config.spike) is not None:
            grid = torch.where(grid > spike, spike + torch.tanh(grid - spike), grid)
        return grid
