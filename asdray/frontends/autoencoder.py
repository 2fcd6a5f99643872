"""The autoencoder frontend: reconstructs stacked log-mel frames; scores of its own come from its error.

* ``recon``: the squared error's mean over a clip's vectors and their values.
* ``mahalanobis``: with m the mean of the clip's errors over all its vectors and their S frames, the smaller
  one of ``m' C^-1 m`` over source and target, with C the covariance of such errors (of single frames) in the
  domain's training clips. Without target clips the source's C serves for both.

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
from torch import Tensor

from asdray.audio import features
from asdray.audio.batches import Clips, split
from asdray.frontends.base import FrontendModule
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
        held_out: likewise for vectors that are never trained on.
    """

    items = "vectors"

    def __init__(
        self, frames: Tensor, starts: Tensor, held_out: Tensor, n_frames: int, batch_size: int
    ) -> None:
        self._frames = frames
        self._starts = starts
        self._held_out = held_out
        self._n_frames = n_frames
        self._batch_size = batch_size
        self._batches = split(len(starts), batch_size)
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[Tensor]:
        """Batches ``(B, S M) float32`` of one epoch; the order comes from ``rng``."""
        order = torch.from_numpy(rng.permutation(len(self._starts))).to(self._starts.device)
        for batch in self._batches:
            yield features.stack_frames(self._frames, self._starts[order[batch]], self._n_frames)

    def held_out(self) -> Iterator[Tensor]:
        """Batches ``(B, S M) float32`` of the vectors that are never trained on."""
        for starts in self._held_out.split(self._batch_size) if len(self._held_out) else ():
            yield features.stack_frames(self._frames, starts, self._n_frames)


class AutoencoderFrontend(FrontendModule):
    """Log-mel frames, stacked, through the autoencoder."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: Autoencoder) -> None:
        super().__init__()
        self.config = config
        self.n_frames = config.n_frames
        self.hop_length = config.hop_length
        filters = features.mel_filters(config.n_mels, config.n_fft, config.mel_scale)
        self.register_buffer("window", features.hann(config.n_fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.network = AutoencoderNetwork(config.n_frames * config.n_mels, config.hidden, config.bottleneck)
        self.shortest = (config.n_frames - 1) * config.hop_length
        self.needs_training_clips = "mahalanobis" in config.scores
        self._roots: list[Tensor] = []

    def frames(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> log-mel frames ``(B, T, M)``."""
        return features.log_mel(
            waves,
            self.window,
            self.hop_length,
            self.filters,
            power=self.config.power,
            window_norm=self.config.window_norm,
        )

    def training_data(
        self,
        clips: Clips,
        columns: Mapping[str, Sequence[Any]],
        batch_size: int,
        rng: np.random.Generator,
    ) -> VectorBatches:
        """All vectors of whole clips at their native length; a clip too short for one vector is repeated.

        ``columns`` are not used: an autoencoder has no classes. ``rng`` draws the vectors to hold out.
        """
        frames, starts = self._vectors(clips)
        everything = np.concatenate(starts)
        n_held_out = round(self.config.validation * len(everything))
        held_out = np.zeros(len(everything), dtype=bool)
        held_out[rng.choice(len(everything), n_held_out, replace=False)] = True
        chosen, rest = (torch.from_numpy(everything[w]).to(frames.device) for w in (~held_out, held_out))
        return VectorBatches(frames, chosen, rest, self.n_frames, batch_size)

    def _vectors(self, clips: Clips) -> tuple[Tensor, list[np.ndarray]]:
        """The frames of all whole clips, ``(N, M)``, and for each clip where its vectors begin in them."""
        lengths = np.maximum(clips.lengths, self.shortest)
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
        return frames, [np.arange(a, b - self.n_frames + 1) for a, b in itertools.pairwise(first)]

    def loss(self, batch: Tensor) -> Tensor:
        """Mean squared error of the vectors ``(B, S M)``, ``() float32``."""
        reconstruction, _ = self.network(batch)
        return F.mse_loss(reconstruction, batch)

    # -------------------------------------------------------------------------------------- extraction

    def prepare(self, clips: Clips, columns: Mapping[str, Sequence[Any]]) -> None:
        """Computes the covariance of the errors in each domain's training clips, in closed form.

        As in the official baseline it is divided by the number of vectors, not of frames, less one: a
        factor of about S, the same for all. Unlike there it is computed over all training clips, also over
        vectors that were held out, and around the domain's mean, not around that of the domain's vectors in
        every batch: so it depends on no order of batches. With c the share of a domain and batches of B
        vectors, the official one is smaller by the factor

            1 - (1 - exp(-B c)) / (B c) v,

        with v the variance of a vector's mean error over its S frames, relative to that of a frame. For the
        source (B c = 253) that is 1. For a target of 1 % in batches of 256, S = 5 and an autocorrelation r
        from frame to frame it is 0.93, 0.84, 0.69 for r = 0, 0.5, 0.9: there distances to the target are
        larger, and the smaller of both distances is the target's somewhat less often.

        Raises:
            ValueError: a covariance is singular.

        Source: the official baseline's selective Mahalanobis mode, arXiv 2303.00455.
        """
        frames, starts = self._vectors(clips)
        domains = np.asarray(columns["domain"])
        roots = {}
        for domain in ("source", "target"):
            (mine,) = np.nonzero(domains == domain)
            if len(mine):
                roots[domain] = self._root(frames, [starts[i] for i in mine], domain)
        self._roots = list(roots.values())

    def _root(self, frames: Tensor, starts: Sequence[np.ndarray], domain: str) -> Tensor:
        """The lower Cholesky factor of the errors' covariance over some clips, ``(M, M) float64``."""
        n_bands = frames.shape[1]
        total = torch.zeros(n_bands, dtype=torch.float64, device=frames.device)
        products = torch.zeros(n_bands, n_bands, dtype=torch.float64, device=frames.device)
        n_vectors = 0
        for some in starts:
            index = torch.from_numpy(some).to(frames.device)
            vectors = features.stack_frames(frames, index, self.n_frames)
            errors = (vectors - self.network(vectors)[0]).double().view(-1, n_bands)
            total += errors.sum(dim=0)
            products += errors.T @ errors
            n_vectors += len(some)
        n_rows = n_vectors * self.n_frames
        covariance = (products - torch.outer(total, total) / n_rows) / max(1, n_vectors - 1)
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise ValueError(
                f"the score 'mahalanobis' needs the inverse of a covariance over {n_bands} mel bands, but "
                f"that of the {domain} training clips ({n_vectors} vectors) is singular: choose fewer n_mels "
                "or the score 'recon'"
            )
        return root

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Bottleneck and scores of whole clips.

        Args:
            waves: ``(B, L) float32``.

        Returns:
            ``embedding`` ``(B, D) float32``, the bottleneck's mean over the clip; and each of the
            configuration's scores ``(B,)``.
        """
        frames = self.frames(waves)
        # (B, V, S M): vectors of each clip, the earliest frame first.
        vectors = frames.unfold(1, self.n_frames, 1).transpose(2, 3).flatten(2)
        n_clips, n_vectors, width = vectors.shape
        reconstruction, code = self.network(vectors.reshape(-1, width))
        error = reconstruction.view_as(vectors) - vectors
        found = {"embedding": code.view(n_clips, n_vectors, -1).mean(dim=1)}
        if "recon" in self.config.scores:
            found["recon"] = error.square().mean(dim=(1, 2))
        if "mahalanobis" in self.config.scores:
            assert self._roots, "prepare comes first"
            mean = error.double().reshape(n_clips, -1, frames.shape[2]).mean(dim=1)
            distances = [torch.linalg.solve_triangular(root, mean.T, upper=False) for root in self._roots]
            found["mahalanobis"] = torch.stack([d.square().sum(dim=0) for d in distances]).amin(dim=0)
        return found
