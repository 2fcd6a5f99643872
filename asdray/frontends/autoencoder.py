"""The autoencoder frontend: reconstructs stacked log-mel frames; scores of its own come from its error.

* ``recon``: the squared error's mean over a clip's vectors and their values.
* ``mahalanobis``: with m the mean of the clip's errors over all its vectors and their S frames, the smaller
  one of ``m' C^-1 m`` over source and target, with C the covariance of such errors (of single frames) in the
  domain's training clips (see `AutoencoderFrontend.prepare`). Without target clips the source's C serves for
  both.

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

DOMAINS = ("source", "target")


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


class _Errors:
    """The sums over a domain's errors that its covariance is made of."""

    def __init__(self, n_bands: int, device: torch.device) -> None:
        self.n_vectors = 0
        self._n_frames = 0
        self._total = torch.zeros(n_bands, dtype=torch.float64, device=device)
        self._products = torch.zeros(n_bands, n_bands, dtype=torch.float64, device=device)

    def add(self, errors: Tensor, n_vectors: int, centre: bool) -> None:
        """Adds ``(N, M) float64`` errors of single frames, around their own mean if ``centre``."""
        if centre:
            errors = errors - errors.mean(dim=0)
        self.n_vectors += n_vectors
        self._n_frames += len(errors)
        self._total += errors.sum(dim=0)
        self._products += errors.T @ errors

    def root(self, domain: str) -> Tensor:
        """The lower Cholesky factor of the covariance, ``(M, M) float64``.

        Raises:
            ValueError: it is singular.
        """
        centred = self._products - torch.outer(self._total, self._total) / self._n_frames
        root, failed = torch.linalg.cholesky_ex(centred / max(1, self.n_vectors - 1))
        if failed:
            raise ValueError(
                f"the score 'mahalanobis' needs the inverse of a covariance over {len(root)} mel bands, but "
                f"that of the {domain} training clips ({self.n_vectors} vectors) is singular: choose fewer "
                "n_mels or the score 'recon'"
            )
        return root


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
        chosen, held_out = (torch.from_numpy(w).to(frames.device) for w in self._split(starts, rng))
        return VectorBatches(frames, chosen, held_out, self.n_frames, batch_size)

    def _split(self, starts: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where the vectors to train on begin, and those to hold out, which ``rng`` draws."""
        everything = np.concatenate(starts)
        n_held_out = round(self.config.validation * len(everything))
        held_out = np.zeros(len(everything), dtype=bool)
        held_out[rng.choice(len(everything), n_held_out, replace=False)] = True
        return everything[~held_out], everything[held_out]

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

    def prepare(
        self,
        clips: Clips,
        columns: Mapping[str, Sequence[Any]],
        batch_size: int,
        rng: np.random.Generator,
    ) -> None:
        """Computes the covariance of the errors in each domain's training clips, in closed form.

        As in the official baseline it is divided by the number of vectors, not of frames, less one: a
        factor of about S, the same for all. What is subtracted from the errors first, ``centring`` says.

        ``batch``, as there: one more pass over the vectors of training, without those that were held out,
        in shuffled batches of ``batch_size``; errors are taken around the mean of their domain's in the
        same batch. ``domain``: over all vectors of the training clips, around the mean of the domain's. That
        is the default, because a domain's covariance is then what it is called, and depends on no order and
        no size of batches. With c the share of a domain and batches of B vectors, the one of ``batch`` is
        smaller by the factor

            1 - (1 - exp(-B c)) / (B c) v,

        with v the variance of a vector's mean error over its S frames, relative to that of a frame. For the
        source (B c = 253) that is 1. For a target of 1 % in batches of 256, S = 5 and an autocorrelation r
        from frame to frame it is 0.93, 0.84, 0.69 for r = 0, 0.5, 0.9: there distances to the target are
        larger, and the smaller of both distances is the target's somewhat less often.

        Args:
            rng: as that of `training_data` was, from which it draws the same vectors to hold out; the order
                of the batches comes after them.

        Raises:
            ValueError: a covariance is singular.

        Source: the official baseline's selective Mahalanobis mode, arXiv 2303.00455.
        """
        frames, starts = self._vectors(clips)
        is_target = np.asarray(columns["domain"]) == "target"
        if self.config.centring == "batch":
            trained, _ = self._split(starts, rng)
            # Vectors stand in the order of their clips: the last clip that begins no later is theirs.
            clip = np.searchsorted([some[0] for some in starts], trained, side="right") - 1
            order = rng.permutation(len(trained))
            batches = [(trained[order[b]], is_target[clip[order[b]]]) for b in split(len(order), batch_size)]
        else:
            batches = [(some, np.full(len(some), t)) for some, t in zip(starts, is_target, strict=True)]
        errors = _Errors(frames.shape[1], frames.device), _Errors(frames.shape[1], frames.device)
        for begins, of_target in batches:
            vectors = features.stack_frames(frames, torch.from_numpy(begins).to(frames.device), self.n_frames)
            found = (vectors - self.network(vectors)[0]).double()
            for domain, mine in enumerate((~of_target, of_target)):
                if mine.any():
                    errors[domain].add(
                        found[torch.from_numpy(mine).to(frames.device)].view(-1, frames.shape[1]),
                        int(mine.sum()),
                        centre=self.config.centring == "batch",
                    )
        self._roots = [e.root(name) for e, name in zip(errors, DOMAINS, strict=True) if e.n_vectors]

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
