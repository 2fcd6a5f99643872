"""BEATs: a transformer over patches of 16 frames x 16 mel bands, with gated relative positions.

Source: arXiv 2212.09058; microsoft/unilm ``beats``. All published checkpoints have this one architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import kaldi
from asdray.frontends.encoders.base import EncoderNetwork, Tokens
from asdray.frontends.encoders.convolution import LongConvolution

MEAN, STD = 15.41663, 6.55582
"""Of the log-mel values of AudioSet, for clips of full scale 2^15."""

N_BUCKETS = 320
"""Buckets of relative positions: one half per direction; of each, one half holds a single distance."""

MAX_DISTANCE = 800
"""Tokens; farther pairs share the last bucket. The checkpoints' value, not that of the original class."""

DROPOUT, LAYERDROP = 0.1, 0.05
"""Of the pretrained checkpoints' own configuration, active while they are tuned: of input, attention and
residual branches; and of whole blocks."""

FINETUNED_DECAY = 0.6
"""Gradient decay of the fine-tuned checkpoints, which have no dropout, and the same layerdrop."""

_PATCH, _BANDS = 16, 8
_COPIES = ".self_attn.relative_attention_bias.weight"


class Beats(EncoderNetwork):
    """BEATs base: 12 blocks of width 768; tokens in rows of 8 bands, one row per 160 ms.

    The names of submodules are those of the published files, so that adapters can be named after them.
    """

    name: ClassVar[str] = "beats"
    shape: ClassVar[tuple[int, int, int]] = (12, 768, 12)
    """Blocks, width, heads."""
    targets: ClassVar = {
        **{name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")},
        **{name: name for name in ("fc1", "fc2")},
    }
    layerdrop = LAYERDROP

    def __init__(self) -> None:
        super().__init__()
        self.n_layers, self.width, n_heads = self.shape
        self.bands, self.has_cls = _BANDS, False
        self.shortest = kaldi.FRAME + (_PATCH - 1) * kaldi.HOP
        self.patch_embedding = nn.Conv2d(1, 512, _PATCH, _PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(512)
        self.post_extract_proj = nn.Linear(512, self.width)
        self.dropout_input = nn.Dropout(DROPOUT)
        self.encoder = _Encoder(self.width, self.n_layers, n_heads)

    @property
    def stack(self) -> Sequence[nn.Module]:
        """The blocks."""
        return [*self.encoder.layers]

    def fill(self, state: Mapping[str, Tensor]) -> list[str]:
        """See `EncoderNetwork.fill`; fine-tuned files, which hold a classifier, were tuned otherwise."""
        if any(name.startswith("predictor.") for name in state):
            self.gradient_decay = FINETUNED_DECAY
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        return super().fill(state)

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the head of fine-tuned files, with one relative bias and the fused positional convolution.

        The files hold the relative bias twelve times; the original code uses the last one for all layers.
        """
        kept = {name: value for name, value in state.items() if not name.startswith("predictor.")}
        copies = [f"encoder.layers.{layer}{_COPIES}" for layer in range(cls.shape[0])]
        if all(name in kept for name in copies):
            kept["encoder.relative_attention_bias.weight"] = [kept.pop(name) for name in copies][-1]
        for g, v in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            scale, direction = (f"encoder.pos_conv.0.{leaf}" for leaf in (g, v))
            if scale in kept and direction in kept and kept[direction].ndim == 3:
                kept["encoder.pos_conv.0.weight"] = torch._weight_norm(
                    kept.pop(direction), kept.pop(scale), 2
                )
        return kept

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` at 16 kHz -> ``(B, frames, 128) float32``: Kaldi filter banks, normalised.

        Raises:
            ValueError: clips shorter than 16 frames, 175 ms.
        """
        self.check_length(waves)
        with torch.no_grad():
            return kaldi.fbank(waves * 2**15).sub_(MEAN).div_(2 * STD)

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Spectra ``(B, frames, 128)`` -> tokens ``(B, frames // 16, 8, 768)`` of every layer asked for.

        Raises:
            ValueError: a layer that does not exist.
        """
        self.check_layers(layers)
        patches = self.patch_embedding(spectrum[:, None]).flatten(2).transpose(1, 2)
        # Sums and norms stay in float32 under autocast: only products are rounded.
        x = self.post_extract_proj(self.layer_norm(patches.float())).float()
        x = self.encoder.start(self.dropout_input(x))
        bias = self.encoder.relative_bias(x.shape[1])
        return self.run(x, layers, _grid, bias, _scratch(x, bias))


def _grid(x: Tensor) -> Tokens:
    """``(B, T * 8, D)``, bands fastest -> a grid."""
    return Tokens(x.float().unflatten(1, (-1, _BANDS)), None)


def _scratch(x: Tensor, bias: Tensor) -> Tensor | None:
    """Memory for the gated biases of one block after another; None where gradients need all of them.

    Fresh memory for every block costs a CPU four times as much as the product.
    """
    if torch.is_grad_enabled():
        return None
    device = x.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return torch.empty(len(x), *bias.shape, dtype=kind, device=x.device)


class _Encoder(nn.Module):
    """The blocks, and the positions that all of them share."""

    def __init__(self, width: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(LongConvolution(width, 128, groups=16))
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(_Block(width, n_layers, n_heads) for _ in range(n_layers))
        self.relative_attention_bias = nn.Embedding(N_BUCKETS, n_heads)

    def start(self, x: Tensor) -> Tensor:
        """Tokens with their positions, ``(B, N, D)``: the input of the first block."""
        return self.dropout(self.layer_norm(x + _gelu(self.pos_conv(x))))

    def relative_bias(self, n: int) -> Tensor:
        """The bias of every pair of n tokens, ``(heads, n, n)``, query by key."""
        weights = self.relative_attention_bias.weight
        line = weights[buckets(torch.arange(1 - n, n, device=weights.device))].T.contiguous()
        # Query i reads the line from distance -i on: windows of n, the last one first.
        return line.unfold(1, n, 1).flip(1)


def buckets(distances: Tensor) -> Tensor:
    """Buckets of relative positions (key minus query): exact up to 79 tokens, then logarithmic up to 800.

    Source: T5's relative positions, arXiv 1910.10683.
    """
    half = N_BUCKETS // 2
    exact = half // 2
    size = distances.abs()
    share = (size.float().clamp_min(1) / exact).log() / math.log(MAX_DISTANCE / exact)
    far = (exact + (share * (half - exact)).long()).clamp_max(half - 1)
    return torch.where(size < exact, size, far) + half * (distances > 0)


class _Block(nn.Module):
    """Attention and a two-layer network, each with a norm after; sums as in DeepNet, arXiv 2203.00555."""

    def __init__(self, width: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.alpha = (2 * n_layers) ** 0.25
        self.dropout = nn.Dropout(DROPOUT)
        self.self_attn = _Attention(width, n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor, scratch: Tensor | None) -> Tensor:
        attended = self.dropout(self.self_attn(x, bias, scratch))
        x = self.self_attn_layer_norm(torch.add(attended, x, alpha=self.alpha))
        fed = self.dropout(self.fc2(_gelu(self.fc1(x))))
        return self.final_layer_norm(torch.add(fed, x, alpha=self.alpha))


class _Attention(nn.Module):
    """Self-attention whose relative bias is gated by the query."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = nn.Dropout(DROPOUT)  # for its probability and mode alone
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.n_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.n_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, scratch: Tensor | None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        gated = torch.mul(bias, self._gate(q), out=scratch).to(q.dtype)
        dropout = self.dropout.p if self.dropout.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=gated, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _gate(self, q: Tensor) -> Tensor:
        """Factors of every query's biases, ``(B, heads, N, 1)``, from the query before its scaling."""
        a, b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1, keepdim=True).sigmoid().unbind(-2)
        return a * (b * self.grep_a - 1) + 2


def _gelu(x: Tensor) -> Tensor:
    """GELU in float32 for any type, as in the original."""
    return F.gelu(x.float()).to(x.dtype)
