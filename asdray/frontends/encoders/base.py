"""The interface of pretrained encoders: clips -> spectra -> tokens of the layers that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Tokens(NamedTuple):
    """The output of one layer for B clips.

    Attributes:
        grid: ``(B, T, F, D) float32``: T steps in time, F frequency bands, D dimensions.
        cls: ``(B, D) float32``, the token of the whole clip; None for networks without one.
    """

    grid: Tensor
    cls: Tensor | None


class EncoderNetwork(nn.Module):
    """The base of every encoder. All clips of a batch have the same length, and no clip knows of the others.

    Under ``torch.autocast(..., dtype=torch.bfloat16)`` matrix products are computed in bfloat16; the spectrum
    and the returned tokens are float32 in any case.

    Legend for shapes: B clips, n samples per clip, T steps in time, F bands, D dimensions.

    Attributes:
        name: the network's name in a configuration.
        sample_rate: Hz of the clips that `spectrum` takes.
        first_layer: 0 if `forward` also returns the input of the first block, else 1.
        n_layers: number of blocks; layer k is the output of block k, from 1.
        width: dimensions D of a token.
        bands: frequency bands F; 1 for a network without bands.
        has_cls: True if `forward` returns a CLS token.
        shortest: samples of the shortest clip that gives a token.
        targets: the linear layers of a block that LoRA can extend: name in a configuration -> in the block.
        layerdrop: probability with which a block is left out, in training mode.
        gradient_decay: factor of the gradient before every block; published files of some networks have it.
        checkpointing: True if blocks are computed again in the backward pass, to save memory.
    """

    name: ClassVar[str]
    sample_rate: ClassVar[int] = 16_000
    first_layer: ClassVar[int] = 0
    n_layers: int
    width: int
    bands: int
    has_cls: bool
    shortest: int
    targets: ClassVar[Mapping[str, str]] = {}
    layerdrop: float = 0.0
    gradient_decay: float = 1.0
    checkpointing: bool = False

    @property
    def stack(self) -> Sequence[nn.Module]:
        """The blocks, block k at position k - 1; a network of one layer has itself as its one block."""
        return [self]

    @property
    def after(self) -> Sequence[nn.Module]:
        """Modules between the last block and the tokens of the last layer."""
        return []

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published file under this module's names, but those that `forward` never reads.

        Names that the network does not know stay as they are: loading refuses them.
        """
        return dict(state)

    def fill(self, state: Mapping[str, Tensor]) -> list[str]:
        """Takes the tensors of a published file as weights, without copying them.

        Returns:
            A text for each tensor that is missing, mis-shaped or unknown; with any, the weights are unusable.
        """
        tensors = self.renamed(state)
        wanted = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        faults = [
            f"tensor {name!r} {list(wanted[name])} is missing" for name in wanted if name not in tensors
        ]
        faults += [
            f"tensor {name!r} has the shape {list(tensors[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        faults += [f"tensor {name!r} is unknown" for name in tensors if name not in wanted]
        if not faults:
            self.load_state_dict(tensors, assign=True)
        return faults

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` of full scale 1 -> normalised spectra ``(B, frames, mels) float32``.

        Raises:
            ValueError: the clips are shorter than ``shortest``.
        """
        raise NotImplementedError

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """The tokens of layers; the network stops after the highest one.

        Args:
            spectrum: ``(B, frames, mels) float32`` from `spectrum`.
            layers: numbers from 1 to ``n_layers``; 0 is the input of the first block.

        Raises:
            ValueError: a layer that does not exist.
        """
        raise NotImplementedError

    def check_length(self, waves: Tensor) -> None:
        """Raises ValueError if the clips ``(B, n)`` are too short for one token."""
        if waves.shape[-1] < self.shortest:
            raise ValueError(
                f"clips of {waves.shape[-1] / self.sample_rate:g} s are too short for the encoder "
                f"{self.name!r}, which needs {self.shortest / self.sample_rate:g} s"
            )

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises ValueError if the list is empty or a layer does not exist."""
        for layer in layers:
            if not self.first_layer <= layer <= self.n_layers:
                raise ValueError(
                    f"the encoder {self.name!r} has no layer {layer}: layers are 1 to {self.n_layers}"
                )
        if not layers:
            raise ValueError(f"no layer of the encoder {self.name!r} is asked for")

    def run(
        self, x: Tensor, layers: Sequence[int], tokens: Callable[[Tensor], Tokens], *shared: Any
    ) -> dict[int, Tokens]:
        """Sends tokens through the blocks up to the highest layer, and keeps the layers that are asked for.

        Args:
            x: ``(B, N, D)``, the input of the first block.
            layers: as in `forward`.
            tokens: turns the output of a block, ``(B, N, D)``, into `Tokens`.
            shared: further arguments of every block.
        """
        found = {0: tokens(x)} if 0 in layers else {}
        for number, block in zip(range(1, max(layers) + 1), self.stack, strict=False):
            if x.requires_grad and self.gradient_decay != 1:
                x.register_hook(lambda gradient: gradient * self.gradient_decay)
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                x = self._through(block, x, *shared)
            if number in layers:
                found[number] = tokens(x)
        return found

    def _through(self, block: nn.Module, x: Tensor, *shared: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, *shared, use_reentrant=False)  # with the random choices of before
        return block(x, *shared)
