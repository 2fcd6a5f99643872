"""Example of a plugin: a small loss, frontend and backend, for ``--plugin``."""

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from asdray.audio.batches import split
from asdray.audio.features import to_float
from asdray.config.backend import BackendConfig
from asdray.config.base import Config
from asdray.config.frontend import FrontendConfig
from asdray.frontends.base import FrontendModule


class SoftmaxConfig(Config):
    name: Literal["softmax"] = "softmax"
    smoothing: float = 0.0


class Softmax(nn.Module):
    """Cross entropy of a plain linear layer."""

    def __init__(self, config, embedding_dim, n_classes):
        super().__init__()
        self.smoothing = config.smoothing
        self.linear = nn.Linear(embedding_dim, n_classes)

    def forward(self, embeddings, targets):
        return F.cross_entropy(self.linear(embeddings), targets, label_smoothing=self.smoothing)


class BandsConfig(FrontendConfig):
    name: Literal["bands"] = "bands"
    n_bands: int = 8
    own_scores: ClassVar = ("recon",)


class Bands(FrontendModule):
    """Log energies of frequency bands; the score is the reconstruction error of a linear bottleneck of size 3.

    Embeddings are the energies relative to the mean of the machine's training clips.
    """

    needs_training_clips = True

    def __init__(self, config, n_samples, columns, saved):
        super().__init__()
        self.n_bands, self.n_samples = config.n_bands, n_samples
        self.machines = sorted(set(columns["machine"])) if saved is None else saved["machines"]
        self.inwards = nn.Linear(config.n_bands, 3)
        self.outwards = nn.Linear(3, config.n_bands)

    def saved(self):
        return {"machines": self.machines}

    def training_data(self, clips, columns, batch_size, rng):
        return Waves(clips, self.n_samples, batch_size)

    def energies(self, waves):
        power = torch.fft.rfft(waves).abs().square()[:, 1:]
        return F.adaptive_avg_pool1d(power, self.n_bands).clamp(min=1e-8).log()

    def errors(self, energies):
        return (self.outwards(self.inwards(energies)) - energies).square().mean(dim=1)

    def loss(self, batch):
        return self.errors(self.energies(to_float(batch))).mean()

    def extract(self, waves):
        energies = self.energies(waves)
        return {"embedding": energies - self.usual, "recon": self.errors(energies)}

    def prepare(self, clips, columns, batch_size, rng):
        device = self.inwards.weight.device
        everything = np.arange(len(clips))
        parts = [clips.gather(everything[b], self.n_samples) for b in split(len(clips), batch_size)]
        self.usual = torch.cat([self.energies(to_float(part.to(device))) for part in parts]).mean(dim=0)


class Waves:
    """Random crops of the training clips."""

    items = "clips"

    def __init__(self, clips, n_samples, batch_size):
        self.clips, self.n_samples = clips, n_samples
        self.batches = split(len(clips), batch_size)
        self.sizes = tuple(b.stop - b.start for b in self.batches)

    def epoch(self, rng):
        order, starts = rng.permutation(len(self.clips)), self.clips.random_starts(rng, self.n_samples)
        for batch in self.batches:
            yield self.clips.gather(order[batch], self.n_samples, starts[order[batch]])

    def held_out(self):
        yield from ()


class CentroidConfig(BackendConfig):
    name: Literal["centroid"] = "centroid"
    power: float = 2.0


def centroid(config, references, domain, queries):
    """Distance to the nearer of both domains' means."""
    means = [references[domain == name].mean(axis=0) for name in np.unique(domain)]
    return np.min([np.linalg.norm(queries - mean, ord=config.power, axis=1) for mean in means], axis=0)


LOSSES = [(SoftmaxConfig, Softmax)]
FRONTENDS = [(BandsConfig, Bands)]
BACKENDS = [(CentroidConfig, centroid)]
