"""EAT and SSLAM: a transformer over patches of 16 frames x 16 mel bands, CLS token, fixed positions.

Sources: arXiv 2401.03497 (EAT, cwx-worst-one/EAT), arXiv 2506.12222 (SSLAM, ta012/SSLAM, the same network).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import kaldi
from asdray.frontends.encoders.base import EncoderNetwork, Tokens

MEAN, STD = -4.268, 4.569
"""Of the log-mel values of AudioSet, for clips of full scale 1."""

DROP_PATH = 0.1
"""Probability with which the last block's residual branches are left out for a clip while EAT is tuned; it
rises linearly from 0 at the first block. Source: the fine-tuning of cwx-worst-one/EAT, and ASDKit."""

_PATCH, _BANDS, _EPS = 16, 8, 1e-6
# The decoder and the heads of fine-tuned files; positions are computed.
_UNUSED = re.compile(r"(decoder|head|fc_norm|_ema|fixed_positional_encoder)\b")
_NAMES = {
    "modality_encoders.IMAGE.context_encoder.norm.": "pre_norm.",
    "modality_encoders.IMAGE.": "",
}


class Eat(EncoderNetwork):
    """EAT base: 12 blocks of width 768; tokens in rows of 8 bands, one row per 160 ms.

    Args:
        frame_multiple: spectra are padded with zeros to a multiple of so many frames; a multiple of 16.
    """

    name: ClassVar[str] = "eat"
    shape: ClassVar[tuple[int, int, int]] = (12, 768, 12)
    """Blocks, width, heads."""
    targets: ClassVar = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}

    def __init__(self, frame_multiple: int = _PATCH) -> None:
        super().__init__()
        if frame_multiple < 1 or frame_multiple % _PATCH:
            raise ValueError(f"frame_multiple must be a multiple of {_PATCH}, not {frame_multiple}")
        self.frame_multiple = frame_multiple
        self.n_layers, self.width, n_heads = self.shape
        self.bands, self.has_cls, self.shortest = _BANDS, True, kaldi.FRAME
        self.local_encoder = nn.ModuleDict({"proj": nn.Conv2d(1, self.width, _PATCH, _PATCH)})
        self.extra_tokens = nn.Parameter(torch.zeros(1, 1, self.width))
        self.pre_norm = nn.LayerNorm(self.width, eps=_EPS)
        rates = torch.linspace(0, DROP_PATH, self.n_layers, dtype=torch.float64, device="cpu").tolist()
        self.blocks = nn.ModuleList(_Block(self.width, n_heads, rate) for rate in rates)

    @property
    def stack(self) -> Sequence[nn.Module]:
        """The blocks."""
        return [*self.blocks]

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Hugging Face's names and fairseq's, each without the decoder, heads and stored positions."""
        kept = {}
        for name, value in state.items():
            short = name.removeprefix("model.")
            if _UNUSED.search(short):
                continue
            for old, new in _NAMES.items():
                if short.startswith(old):
                    short = new + short.removeprefix(old)
                    break
            kept[short] = value
        return kept

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` at 16 kHz -> ``(B, frames, 128) float32``, padded, then normalised.

        Raises:
            ValueError: clips shorter than a frame of 25 ms.
        """
        self.check_length(waves)
        with torch.no_grad():
            frames = kaldi.fbank(waves - waves.mean(-1, keepdim=True), window="hanning")
            padding = -frames.shape[1] % self.frame_multiple
            return F.pad(frames, (0, 0, 0, padding)).sub_(MEAN).div_(2 * STD)

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Spectra ``(B, frames, 128)`` -> tokens ``(B, frames // 16, 8, D)`` and CLS of the layers asked for.

        Raises:
            ValueError: a layer that does not exist.
        """
        self.check_layers(layers)
        patches = self.local_encoder["proj"](spectrum[:, None]).flatten(2).transpose(1, 2)
        # Sums and norms stay in float32 under autocast: only products are rounded.
        patches = patches + positions(patches.shape[1] // _BANDS, self.width).to(patches.device)
        x = torch.cat([self.extra_tokens.expand(len(patches), -1, -1), patches], dim=1)
        return self.run(self.pre_norm(x), layers, _tokens)


class EatLarge(Eat):
    """EAT large: 24 blocks of width 1024, 16 heads."""

    name: ClassVar[str] = "eat_large"
    shape: ClassVar[tuple[int, int, int]] = (24, 1024, 16)


def positions(n_times: int, width: int) -> Tensor:
    """Sine and cosine positions of a grid, ``(n_times * 8, width) float32``, bands fastest, on the CPU.

    The first half of the dimensions is of the band, the second of the time; each half has its sines first.

    Source: MAE, arXiv 2111.06377.
    """
    rates = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    waves = [torch.outer(torch.arange(n, dtype=torch.float64), rates) for n in (_BANDS, n_times)]
    bands, times = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in waves)
    both = bands.expand(n_times, -1, -1), times[:, None].expand(-1, _BANDS, -1)
    return torch.cat(both, dim=2).flatten(0, 1).float()


def _tokens(x: Tensor) -> Tokens:
    """``(B, 1 + T * 8, D)``: CLS, then tokens with the bands fastest."""
    x = x.float()
    return Tokens(x[:, 1:].unflatten(1, (-1, _BANDS)), x[:, 0])


class _Block(nn.Module):
    """Attention and a two-layer network, the norm after each."""

    def __init__(self, width: int, n_heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.attn = _Attention(width, n_heads)
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.norm2 = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop_path(self.attn(x)))
        return self.norm2(x + self.drop_path(self.mlp["fc2"](F.gelu(self.mlp["fc1"](x)))))


class DropPath(nn.Module):
    """In training mode, zero for some clips of a batch, and larger values for the others: their mean stays.

    Source: Huang et al., Deep networks with stochastic depth, ECCV 2016.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...)`` -> the same shape."""
        if not self.training or self.p == 0:
            return x
        kept = torch.empty(len(x), *(1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.p).div_(1 - self.p)


class _Attention(nn.Module):
    """Plain self-attention."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
