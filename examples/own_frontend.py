"""A frontend as a plugin: cepstra, their mean and spread over a clip; nothing is learnt."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field

from asdray.audio.features import hann, mel_filters
from asdray.config.frontend import FrontendConfig
from asdray.frontends.base import FrontendModule


class CepstraConfig(FrontendConfig):
    name: Literal["cepstra"] = "cepstra"
    n_mels: int = Field(default=64, ge=2)
    n_cepstra: int = Field(default=20, ge=1)
    learns: ClassVar = False
    has_one_seed: ClassVar = True


class Cepstra(FrontendModule):
    """Clips ``(B, L)`` -> embeddings ``(B, 2 * n_cepstra)``."""

    def __init__(self, config, n_samples, columns, saved):
        super().__init__()
        self.register_buffer("window", hann(1024), persistent=False)
        self.register_buffer("filters", mel_filters(config.n_mels, 1024), persistent=False)
        bands, orders = torch.arange(config.n_mels), torch.arange(config.n_cepstra)
        cosines = torch.cos(math.pi / config.n_mels * (bands + 0.5) * orders[:, None])
        self.register_buffer("cosines", cosines, persistent=False)

    def extract(self, waves):
        frames = torch.stft(waves, 1024, 512, window=self.window, return_complex=True).abs()
        mels = (self.filters @ frames).clamp(min=1e-6).log()
        cepstra = self.cosines @ mels
        return {"embedding": torch.cat([cepstra.mean(dim=2), cepstra.std(dim=2)], dim=1)}


FRONTENDS = [(CepstraConfig, Cepstra)]
