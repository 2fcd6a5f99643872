"""The discriminative frontend: branches on spectra, trained to tell classes of normal sound apart.

Legend for shapes: B clips, N training clips, L samples per clip, C classes, D embedding dimensions (of all
branches together).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import features
from asdray.audio.batches import Clips, split
from asdray.frontends.augment import draw_mixup, mix
from asdray.frontends.losses import AngularLoss
from asdray.frontends.networks import FftNetwork, StftNetwork

if TYPE_CHECKING:
    from asdray.config.system import Discriminative, FftBranch, StftBranch


def class_labels(parts: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The class of every clip, such as ``fan---0---m-n_W---0``: machine, section, attributes, is_target.

    Args:
        parts: which of ``machine``, ``section``, ``attributes``, ``domain`` make a class; their order is
            always this one.
        columns: columns of the manifest, one value per clip.

    Source: ASDKit's ``main`` label, arXiv 2507.10264. Its labels of 2020 end after the section: here the two
    other parts are the same for all clips of that year, so that classes and their order are the same.
    """
    as_text: dict[str, Callable[[Any], str]] = {
        "machine": str,
        "section": str,
        "attributes": str,
        "domain": lambda value: str(int(value == "target")),
    }
    chosen = [[text(value) for value in columns[part]] for part, text in as_text.items() if part in parts]
    return ["---".join(values) for values in zip(*chosen, strict=True)]


class Branch(nn.Module):
    """One branch: a spectral representation of the waveform, then its network."""

    window: Tensor

    def __init__(self, config: FftBranch | StftBranch, n_samples: int) -> None:
        super().__init__()
        self.hop_length = 0
        if config.name == "fft":
            n_bins = config.lengths(n_samples)[0]
            self.network: nn.Module = FftNetwork(
                n_bins,
                config.channels,
                config.kernels,
                config.strides,
                config.hidden,
                config.embedding_dim,
            )
        else:
            n_bins, _ = config.input_shape(n_samples)
            self.hop_length = config.hop_length
            self.first, self.last = config.bins()
            self.register_buffer("window", features.hann(config.n_fft), persistent=False)
            self.network = StftNetwork(n_bins, config.channels, config.embedding_dim)

    def forward(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> ``(B, D_branch)``."""
        if not self.hop_length:
            return self.network(features.spectrum(waves))
        return self.network(features.spectrogram(waves, self.window, self.hop_length, self.first, self.last))


class ClipBatch(NamedTuple):
    """A training batch with the choices that were drawn for it.

    Attributes:
        samples: ``(B, L) int16``.
        classes: ``(B,) int64``.
        partner: ``(B,) int64``, whom each clip is mixed with.
        share: ``(B,) float32``, how much of the clip stays.
    """

    samples: Tensor
    classes: Tensor
    partner: Tensor
    share: Tensor


class ClipBatches:
    """The training clips of a unit, in a new order with new crops and mixtures every epoch."""

    items = "clips"

    def __init__(
        self, clips: Clips, classes: np.ndarray, n_samples: int, batch_size: int, mixup_probability: float
    ) -> None:
        self._clips = clips
        self._classes = classes
        self._n_samples = n_samples
        self._batches = split(len(clips), batch_size)
        self._mixup_probability = mixup_probability
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[ClipBatch]:
        """The batches of one epoch; all its choices come from ``rng``."""
        order = rng.permutation(len(self._clips))
        starts = self._clips.random_starts(rng, self._n_samples)
        for batch in self._batches:
            index = order[batch]
            partner, share = draw_mixup(rng, len(index), self._mixup_probability)
            yield ClipBatch(
                self._clips.gather(index, self._n_samples, starts[index]),
                torch.from_numpy(self._classes[index]),
                torch.from_numpy(partner),
                torch.from_numpy(share),
            )


class DiscriminativeFrontend(nn.Module):
    """Branches side by side, their outputs concatenated; the loss sees class centres that only it needs.

    Args:
        n_samples: L.
        classes: names of the C classes, sorted.

    Raises:
        ValueError: clips too short for a branch, or too few classes.
    """

    def __init__(self, config: Discriminative, n_samples: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.class_parts = config.classes
        self.n_samples = n_samples
        self.mixup_probability = config.mixup_probability
        self.branches = nn.ModuleList(Branch(branch, n_samples) for branch in config.branches)
        loss = config.loss
        self.head = AngularLoss(
            sum(branch.embedding_dim for branch in config.branches),
            len(self.classes),
            1 if loss.name == "adacos" else loss.n_subclusters,
            loss.trainable,
        )

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the weights to build this frontend again."""
        return {"classes": list(self.classes)}

    def training_data(
        self, clips: Clips, columns: Mapping[str, Sequence[Any]], batch_size: int
    ) -> ClipBatches:
        """The unit's training clips; ``columns`` as for `class_labels`, aligned with ``clips``."""
        index = {name: i for i, name in enumerate(self.classes)}
        classes = np.array(
            [index[label] for label in class_labels(self.class_parts, columns)], dtype=np.int64
        )
        return ClipBatches(clips, classes, self.n_samples, batch_size, self.mixup_probability)

    def forward(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> embeddings ``(B, D)``."""
        return torch.cat([branch(waves) for branch in self.branches], dim=1)

    def loss(self, batch: ClipBatch) -> Tensor:
        """The batch's mean loss, ``() float32``."""
        waves = features.to_float(batch.samples)
        targets = F.one_hot(batch.classes, len(self.classes)).to(torch.float32)
        if self.mixup_probability > 0:
            waves = mix(waves, batch.partner, batch.share)
            targets = mix(targets, batch.partner, batch.share)
        return self.head(self(waves), targets)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Embeddings of whole clips.

        Args:
            waves: ``(B, L) float32``.

        Returns:
            ``embedding`` ``(B, D) float32``.
        """
        return {"embedding": self(waves).float()}
