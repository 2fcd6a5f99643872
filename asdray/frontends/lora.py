"""LoRA: linear layers with a low-rank addition, the only part that learns."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """``W x + b + (alpha / rank) B A dropout(x)`` of an existing layer, whose W and b are kept and frozen.

    Names in the state dict are those of the layer, and ``lora_A.weight``, ``lora_B.weight`` as in the package
    peft. A starts as a linear layer of torch does, B at zero: at first, the values are those of the layer.

    Args:
        base: the layer.
        rank: rows of A.
        alpha: numerator of the factor.
        dropout: probability, in training mode, on the input of A.

    Source: Hu et al., LoRA, ICLR 2022.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)  # no memory for weights that are about to be replaced
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight.requires_grad_(False), base.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.lora_A = nn.Linear(self.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., out)``."""
        base = super().forward(x)
        low = self.lora_A(self.dropout(x))
        # One product that adds to the layer's output, in place of a product and two passes over its memory.
        found = torch.addmm(base.flatten(0, -2), low.flatten(0, -2), self.lora_B.weight.T, alpha=self.scale)
        return found.view(base.shape)


def add_lora(module: nn.Module, layers: Sequence[str], rank: int, alpha: float, dropout: float) -> None:
    """Extends linear layers inside a module by LoRA.

    Args:
        layers: patterns of the ends of their names, such as ``self_attn.q_proj``.
    """
    end = re.compile(rf"(.*\.)?({'|'.join(layers)})")
    for name, layer in [*module.named_modules()]:
        if isinstance(layer, nn.Linear) and end.fullmatch(name):
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, LoraLinear(layer, rank, alpha, dropout))
