"""A branch of the discriminative frontend with a network from a plugin.

Legend for shapes: B clips, L samples per clip, D dimensions of the branch's part of the embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from asdray.config.base import UNIONS, implementation
from asdray.config.plugin_fault import in_words, wrong
from asdray.frontends.augment import mix

if TYPE_CHECKING:
    from asdray.config.branch import NetworkConfig


class PluginBranch(nn.Module):
    """A plugin's network, with checks of what it returns.

    Attributes:
        width: D.
        shortest: samples; shorter clips are lengthened.
    """

    def __init__(self, config: NetworkConfig, n_samples: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.embedding_dim
        make: Any = implementation(config)
        self.network: Any = make(config, n_samples)
        UNIONS["NETWORKS"].interface.check_instance(config, self.network)
        self.shortest = int(getattr(self.network, "shortest", 1))

    def forward(self, waves: Tensor, mixing: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Waveforms ``(B, L) float32`` -> the branch's part of the embedding, ``(B, D)``.

        Args:
            mixing: partner and share of `mix`, for a mixture of the network's inputs.

        Raises:
            PluginError: anything else than a tensor of real numbers of this shape.
        """
        view = self.view(waves)
        found: Any = self.network(view if mixing is None else mix(view, *mixing))
        if not (isinstance(found, Tensor) and found.is_floating_point()) or found.shape != (
            len(waves),
            self.width,
        ):
            raise wrong(
                self.network.forward,
                type(self.config),
                in_words(found),
                f"a tensor of real numbers of shape {(len(waves), self.width)}, clips x embedding_dim",
                "return embedding_dim numbers per clip",
            )
        return found

    def view(self, waves: Tensor) -> Tensor:
        """Waveforms ``(B, L) float32`` -> the input of the network, ``(B, ...)``.

        Raises:
            PluginError: anything else than a tensor of real numbers with a row per clip.
        """
        if not hasattr(self.network, "view"):
            return waves
        found: Any = self.network.view(waves)
        if not (isinstance(found, Tensor) and found.is_floating_point() and len(found) == len(waves)):
            raise wrong(
                self.network.view,
                type(self.config),
                in_words(found),
                f"a tensor of real numbers of shape ({len(waves)}, ...), a row per clip",
                "keep the clips in the first dimension",
            )
        return found
