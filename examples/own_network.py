"""A network as a plugin, for the discriminative frontend: a GRU over a log spectrogram."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from asdray.config.branch import NetworkConfig


class BandsConfig(NetworkConfig):
    name: Literal["band_rnn"] = "band_rnn"
    n_fft: int = Field(default=512, ge=16)
    hidden: int = Field(default=32, ge=1)

    def check(self, n_samples):
        if n_samples < self.n_fft:
            raise ValueError(f"clips of {n_samples} samples are shorter than n_fft {self.n_fft}")


class BandRnn(nn.Module):
    """A GRU over the frames of a log spectrogram; its last state is projected to the embedding."""

    def __init__(self, config, n_samples):
        super().__init__()
        self.n_fft = config.n_fft
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.rnn = nn.GRU(config.n_fft // 2 + 1, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, config.embedding_dim)

    def view(self, waves):
        frames = torch.stft(waves, self.n_fft, self.n_fft // 2, window=self.window, return_complex=True)
        return frames.abs().clamp(min=1e-5).log().transpose(1, 2)

    def forward(self, view):
        _, last = self.rnn(view)
        return self.out(last[0])


NETWORKS = [(BandsConfig, BandRnn)]
