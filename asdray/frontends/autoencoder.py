"""The autoencoder frontend: reconstructs stacked log-mel frames; its error is the score ``recon``.

Legend for shapes: B clips, L samples per clip, T frames, M mel bands, S stacked frames, V vectors,
D bottleneck.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import features
from asdray.audio.batches import Clips, split
from asdray.frontends.networks import AutoencoderNetwork

if TYPE_CHECKING:
    from asdray.config.frontend import Autoencoder

_CHUNK = 32
"""Clips whose frames are computed at once: bounds the memory of that."""


class VectorBatches:
    """Vectors of all clips of a unit, shuffled together anew every epoch.

    Args:
        frames: ``(N, M) float32``, the frames of all clips one after another; each is stored once, and
            vectors are gathered from them by index.
        starts: ``(V,) int64``, the first frame of every vector.
    """

    items = "vectors"

    def __init__(self, frames: Tensor, starts: Tensor, n_frames: int, batch_size: int) -> None:
        self._frames = frames
        self._starts = starts
        self._n_frames = n_frames
        self._batches = split(len(starts), batch_size)
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[Tensor]:
        """Batches ``(B, S M) float32`` of one epoch; the order comes from ``rng``."""
        order = torch.from_numpy(rng.permutation(len(self._starts))).to(self._starts.device)
        for batch in self._batches:
            yield features.stack_frames(self._frames, self._starts[order[batch]], self._n_frames)


class AutoencoderFrontend(nn.Module):
    """Log-mel frames, stacked, through the autoencoder."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: Autoencoder) -> None:
        super().__init__()
        self.n_frames = config.n_frames
        self.hop_length = config.hop_length
        self.register_buffer("window", features.hann(config.n_fft), persistent=False)
        self.register_buffer("filters", features.mel_filters(config.n_mels, config.n_fft), persistent=False)
        self.network = AutoencoderNetwork(config.n_frames * config.n_mels, config.hidden, config.bottleneck)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the weights to build this frontend again."""
        return {}

    def frames(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> log-mel frames ``(B, T, M)``."""
        return features.log_mel(waves, self.window, self.hop_length, self.filters)

    def training_data(
        self, clips: Clips, columns: Mapping[str, Sequence[Any]], batch_size: int
    ) -> VectorBatches:
        """All vectors of whole clips at their native length; a clip too short for one vector is repeated.

        ``columns`` are not used: an autoencoder has no classes.
        """
        shortest = (self.n_frames - 1) * self.hop_length
        lengths = np.maximum(clips.lengths, shortest)
        per_clip = lengths // self.hop_length + 1
        first = np.concatenate([[0], np.cumsum(per_clip)])
        device = self.window.device
        frames = torch.empty(int(first[-1]), self.filters.shape[0], device=device)
        for length in np.unique(lengths):
            (same,) = np.nonzero(lengths == length)
            for chunk in np.array_split(same, -(-len(same) // _CHUNK)):
                waves = features.to_float(clips.gather(chunk, int(length)).to(device))
                for clip, values in zip(chunk.tolist(), self.frames(waves), strict=True):
                    frames[first[clip] : first[clip + 1]] = values
        starts = np.concatenate([np.arange(a, b - self.n_frames + 1) for a, b in itertools.pairwise(first)])
        return VectorBatches(frames, torch.from_numpy(starts).to(device), self.n_frames, batch_size)

    def loss(self, batch: Tensor) -> Tensor:
        """Mean squared error of the vectors ``(B, S M)``, ``() float32``."""
        reconstruction, _ = self.network(batch)
        return F.mse_loss(reconstruction, batch)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Bottleneck and reconstruction error of whole clips.

        Args:
            waves: ``(B, L) float32``.

        Returns:
            ``embedding`` ``(B, D) float32``, the bottleneck's mean over the clip; ``recon`` ``(B,) float32``,
            the squared error's mean over the clip's vectors and their values.
        """
        frames = self.frames(waves)
        # (B, V, S M): vectors of each clip, the earliest frame first.
        vectors = frames.unfold(1, self.n_frames, 1).transpose(2, 3).flatten(2)
        n_clips, n_vectors, width = vectors.shape
        reconstruction, code = self.network(vectors.reshape(-1, width))
        error = (reconstruction.view_as(vectors) - vectors).square().mean(dim=(1, 2))
        return {"embedding": code.view(n_clips, n_vectors, -1).mean(dim=1), "recon": error}
