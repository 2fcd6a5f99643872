"""The autoencoder frontend: reconstructs stacked log-mel frames and scores clips by the reconstruction error.

A vector is S consecutive log-mel frames of a clip. The network learns to reconstruct the vectors of normal
clips, so that vectors of anomalous clips have larger errors. Two scores are offered:

* ``recon``: the mean of the squared error over a clip's vectors and their values.
* ``mahalanobis``: with m the mean of a clip's errors over all vectors and their S frames, the smaller one of
  ``m' C^-1 m`` over source and target, where C is the covariance of single frames' errors in the domain's
  training clips (see `AutoencoderFrontend.prepare`). Without target clips, the source's C is used alone.

Legend for shapes: B clips, L samples per clip, T frames, M mel bands, S stacked frames, V vectors,
D bottleneck.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    from asdray.frontends import Columns

_CHUNK = 32
"""Clips whose frames are computed at once: bounds the memory."""

DOMAINS = ("source", "target")


@dataclass
class VectorBatches:
    """Training vectors of all clips of a unit, in a new random order every epoch.

    Attributes:
        frames: ``(N, M) float32``, the frames of all clips one after another; vectors overlap, so that every
            frame is stored once and vectors are gathered by index.
        starts: ``(V,) int64``, the first frame of every training vector.
        held_out_starts: the first frame of every vector that is never trained on, ``int64``.
        n_frames: S.
        batch_size: vectors per batch.
    """

    frames: Tensor
    starts: Tensor
    held_out_starts: Tensor
    n_frames: int
    batch_size: int
    items = "vectors"
    independent = True

    def __post_init__(self) -> None:
        self._batches = split(len(self.starts), self.batch_size)
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[Tensor]:
        """Batches ``(B, S M) float32`` of one epoch, in an order drawn from ``rng``."""
        order = torch.from_numpy(rng.permutation(len(self.starts))).to(self.starts.device)
        for batch in self._batches:
            yield features.stack_frames(self.frames, self.starts[order[batch]], self.n_frames)

    def held_out(self) -> Iterator[Tensor]:
        """Batches ``(B, S M) float32`` of the held-out vectors, for the validation loss."""
        for starts in self.held_out_starts.split(self.batch_size) if len(self.held_out_starts) else ():
            yield features.stack_frames(self.frames, starts, self.n_frames)


class _Errors:
    """Running sums over the reconstruction errors of a domain, from which the covariance is computed."""

    def __init__(self, n_bands: int, device: torch.device) -> None:
        self.n_vectors = 0
        self._n_frames = 0
        self._total = torch.zeros(n_bands, dtype=torch.float64, device=device)
        self._products = torch.zeros(n_bands, n_bands, dtype=torch.float64, device=device)

    def add(self, errors: Tensor, n_vectors: int, centre: bool) -> None:
        """Adds errors of single frames, ``(N, M) float64``; with ``centre`` their own mean is subtracted."""
        if centre:
            errors = errors - errors.mean(dim=0)
        self.n_vectors += n_vectors
        self._n_frames += len(errors)
        self._total += errors.sum(dim=0)
        self._products += errors.T @ errors

    def root(self, domain: str) -> Tensor:
        """The lower Cholesky factor of the covariance, ``(M, M) float64``.

        Raises:
            ValueError: the covariance is singular.
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
    """Log-mel frames, stacked to vectors, through a fully connected autoencoder.

    Source: the network of the official DCASE Task 2 baseline.
    """

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
        """Waveforms ``(B, L) float32`` -> log-mel frames in dB ``(B, T, M) float32``."""
        power, norm = self.config.power, self.config.window_norm
        return features.log_mel(
            waves, self.window, self.hop_length, self.filters, power=power, window_norm=norm
        )

    def training_data(
        self, clips: Clips, columns: Columns, batch_size: int, rng: np.random.Generator
    ) -> VectorBatches:
        """All vectors of whole clips at their native length; a clip too short for one vector is lengthened.

        Args:
            columns: unused, since an autoencoder has no classes.
            rng: draws the vectors to hold out.
        """
        frames, starts = self._vectors(clips)
        trained, held_out = (torch.from_numpy(w).to(frames.device) for w in self._split(starts, rng))
        return VectorBatches(frames, trained, held_out, self.n_frames, batch_size)

    def _split(self, starts: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The first frames of the vectors to train on and of the vectors to hold out, which ``rng`` draws."""
        everything = np.concatenate(starts)
        n_held_out = round(self.config.validation * len(everything))
        held_out = np.zeros(len(everything), dtype=bool)
        held_out[rng.choice(len(everything), n_held_out, replace=False)] = True
        return everything[~held_out], everything[held_out]

    def _vectors(self, clips: Clips) -> tuple[Tensor, list[np.ndarray]]:
        """The frames of all whole clips ``(N, M)``, and the first frame of every vector, per clip."""
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
        """The mean squared error of vectors ``(B, S M) float32``, shape ``()``."""
        reconstruction, _ = self.network(batch)
        return F.mse_loss(reconstruction, batch)

    # -------------------------------------------------------------------------------------- extraction

    def prepare(self, clips: Clips, columns: Columns, batch_size: int, rng: np.random.Generator) -> None:
        """Computes the covariance of the errors in each domain's training clips, in closed form.

        The sums of products are divided by the number of vectors (not frames) less one, as in the official
        baseline: a factor of about S, the same for all clips. The option ``centring`` chooses the mean that
        is subtracted from the errors first:

        * ``domain`` (default): the mean over all vectors of the domain's training clips. The result depends
          neither on an order of batches nor on their size.
        * ``batch``, as in the baseline: one more pass over the training vectors, without the held-out ones,
          in shuffled batches of ``batch_size``; the mean over the domain's vectors in the same batch.

        With c the share of a domain and batches of B vectors, the covariance of ``batch`` is smaller by the
        factor

            1 - (1 - exp(-B c)) / (B c) v,

        with v the variance of a vector's mean error over its S frames, relative to that of a frame. For the
        source (B c = 253) the factor is 1. For a target share of 1 %, batches of 256, S = 5 and an
        autocorrelation r from frame to frame it is 0.93, 0.84, 0.69 for r = 0, 0.5, 0.9: distances to the
        target are then larger, and the target is somewhat less often the nearer domain.

        Args:
            columns: ``domain`` of every clip.
            rng: in the state that `training_data` started from, so that the same vectors are held out; the
                order of the batches is drawn afterwards.

        Raises:
            ValueError: a covariance is singular.

        Source: the official baseline's selective Mahalanobis mode, arXiv 2303.00455.
        """
        frames, starts = self._vectors(clips)
        is_target = np.asarray(columns["domain"]) == "target"
        n_bands, device = frames.shape[1], frames.device
        errors = _Errors(n_bands, device), _Errors(n_bands, device)
        for begins, of_target in self._batches_with_domains(starts, is_target, batch_size, rng):
            vectors = features.stack_frames(frames, torch.from_numpy(begins).to(device), self.n_frames)
            found = (vectors - self.network(vectors)[0]).double()
            for domain, mine in enumerate((~of_target, of_target)):
                if mine.any():
                    errors[domain].add(
                        found[torch.from_numpy(mine).to(device)].view(-1, n_bands),
                        int(mine.sum()),
                        centre=self.config.centring == "batch",
                    )
        self._roots = [e.root(name) for e, name in zip(errors, DOMAINS, strict=True) if e.n_vectors]

    def _batches_with_domains(
        self, starts: Sequence[np.ndarray], is_target: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Batches for `prepare`: the first frame of every vector, and True for vectors of the target.

        Args:
            starts: the first frame of every vector, per clip.
            is_target: ``(N,) bool``, per clip.
        """
        if self.config.centring == "domain":
            return [(some, np.full(len(some), t)) for some, t in zip(starts, is_target, strict=True)]
        trained, _ = self._split(starts, rng)
        # Vectors are in the order of their clips: a vector's clip is the last one that begins no later.
        clip = np.searchsorted([some[0] for some in starts], trained, side="right") - 1
        order = rng.permutation(len(trained))
        return [(trained[order[b]], is_target[clip[order[b]]]) for b in split(len(order), batch_size)]

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Bottleneck and scores of whole clips.

        Args:
            waves: ``(B, L) float32``.

        Returns:
            ``embedding`` ``(B, D) float32``, the mean of the bottleneck over a clip's vectors; and each of
            the configuration's scores ``(B,)``.
        """
        frames = self.frames(waves)
        # (B, V, S M): the vectors of each clip, the earliest frame first.
        vectors = frames.unfold(1, self.n_frames, 1).transpose(2, 3).flatten(2)
        n_clips, n_vectors, width = vectors.shape
        reconstruction, code = self.network(vectors.reshape(-1, width))
        error = reconstruction.view_as(vectors) - vectors
        found = {"embedding": code.view(n_clips, n_vectors, -1).mean(dim=1)}
        if "recon" in self.config.scores:
            found["recon"] = error.square().mean(dim=(1, 2))
        if "mahalanobis" in self.config.scores:
            assert self._roots, "prepare() comes first"
            mean = error.double().reshape(n_clips, -1, frames.shape[2]).mean(dim=1)
            distances = [torch.linalg.solve_triangular(root, mean.T, upper=False) for root in self._roots]
            found["mahalanobis"] = torch.stack([d.square().sum(dim=0) for d in distances]).amin(dim=0)
        return found
