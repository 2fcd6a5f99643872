"""A branch of the discriminative frontend with a pretrained encoder, frozen or tuned.

Legend for shapes: B clips, L samples per clip, N tokens, D dimensions of the branch's part of the embedding.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from asdray.config.tuning import Full, NoTuning
from asdray.frontends import encoders, tuning
from asdray.frontends.aggregation import AttentiveStatistics
from asdray.frontends.augment import mix
from asdray.frontends.encoders import weights
from asdray.frontends.encoders.base import Tokens
from asdray.frontends.pooling import pool

if TYPE_CHECKING:
    from asdray.config import branch


class EncoderBranch(nn.Module):
    """An encoder, a head that makes one vector of its tokens, and a linear layer.

    Attributes:
        network: the encoder; without values until `load`.
        width: D.
    """

    def __init__(self, config: branch.EncoderBranch) -> None:
        super().__init__()
        self.config = config
        options = {"frame_multiple": config.frame_multiple} if config.network.startswith("eat") else {}
        self.network = encoders.build(config.network, **options)
        width = self.network.width
        self.head: AttentiveStatistics | None = None
        if config.head == "attentive_statistics":
            self.head = AttentiveStatistics(width, config.norm_stats == "initial")
        self.width = config.embedding_dim or width
        self.projection = nn.Linear(width, self.width) if config.embedding_dim else nn.Identity()
        self.tuned = not isinstance(config.tune, NoTuning)
        self.shortest = self.network.shortest

    def load(self, path: Path) -> None:
        """Loads the encoder's weights.

        Raises:
            ValueError: see `asdray.frontends.encoders.weights.load`.
        """
        weights.load(self.network, path)
        self.tune()

    def tune(self) -> None:
        """Decides which of the encoder's weights learn, now that they have values."""
        tuning.tune(self.network, self.config.tune, self.config.layer_number)
        self.network.checkpointing = self.config.activation_checkpointing
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training (or evaluation) mode; an encoder that does not learn stays in evaluation mode."""
        super().train(mode)
        learning = mode and self.tuned
        tuning.set_mode(self.network, learning=learning, dropouts=self.config.dropout == "published")
        return self

    def frozen_state(self) -> dict[str, Tensor]:
        """The tensors of the state dict that training leaves as they are."""
        return {f"network.{name}": value for name, value in tuning.frozen_state(self.network).items()}

    def rates(self) -> dict[float, list[nn.Parameter]]:
        """The encoder's parameters by the factor of their learning rate; empty if all have the same."""
        tune = self.config.tune
        if not isinstance(tune, Full) or tune.layer_decay == 1:
            return {}
        found = defaultdict(list)
        for parameter, depth in tuning.depths(self.network, self.config.layer_number):
            if parameter.requires_grad:
                found[tune.layer_decay**depth].append(parameter)
        return found

    def forward(self, waves: Tensor, mixing: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Waveforms ``(B, L) float32`` -> the branch's part of the embedding, ``(B, D)``.

        Args:
            mixing: partner and share of `mix`, for a mixture of spectra.
        """
        return self.embedded(self.tokens(waves, mixing))

    def extract(self, waves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Waveforms ``(B, L) float32`` -> the part of the embedding, and the pooled tokens by name."""
        tokens = self.tokens(waves)
        pooled = {name: pool(tokens.grid, p, tokens.cls) for name, p in self.config.embeddings.items()}
        return self.embedded(tokens), pooled

    def tokens(self, waves: Tensor, mixing: tuple[Tensor, Tensor] | None = None) -> Tokens:
        """The tokens of the layer that is used."""
        layer = self.config.layer_number
        spectrum = self.network.spectrum(waves)
        if mixing is not None:
            spectrum = mix(spectrum, *mixing)
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            return self.network(spectrum, [layer])[layer]

    def embedded(self, tokens: Tokens) -> Tensor:
        """Tokens -> ``(B, D)``."""
        if self.head is not None:
            vector = self.head(tokens.grid.flatten(1, 2))
        elif self.config.head == "cls":
            assert tokens.cls is not None
            vector = tokens.cls
        else:
            vector = tokens.grid.mean((1, 2))
        return self.projection(vector)
