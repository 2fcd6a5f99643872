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
from asdray.dcase.names import is_hidden
from asdray.dcase.years import NO_ATTRIBUTE
from asdray.frontends.augment import Exchange, draw_exchange, draw_masks, draw_mixup, mask, mix
from asdray.frontends.base import FrontendModule
from asdray.frontends.heads import build_head, build_loss
from asdray.frontends.losses import require_classes
from asdray.frontends.networks import FftNetwork, StftNetwork

if TYPE_CHECKING:
    from asdray.config.frontend import Discriminative, FftBranch, StftBranch

_GPU_SHARE = 0.4
"""Of a GPU's free memory: training clips that need less live there."""


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
        # Hidden ones are spelt in two ways, for one machine of 2026 perhaps in both.
        "attributes": lambda value: NO_ATTRIBUTE if is_hidden(value) else value,
        "domain": lambda value: str(int(value == "target")),
    }
    chosen = [[text(value) for value in columns[part]] for part, text in as_text.items() if part in parts]
    return ["---".join(values) for values in zip(*chosen, strict=True)]


def class_names(
    parts: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    test_classes: Mapping[str, Sequence[Any]] | None = None,
) -> list[str]:
    """The names of all classes, sorted.

    Args:
        parts: see `class_labels`.
        columns: of the training clips.
        test_classes: of the classes among the test clips, if training knows these.

    Raises:
        ValueError: the training clips make too few classes.
    """
    names = set(class_labels(parts, columns))
    if test_classes is not None:
        # Classes that occur only among test clips cannot be learnt, so they don't count here.
        require_classes(len(names))
        names |= set(class_labels(parts, test_classes))
    return sorted(names)


class Branch(nn.Module):
    """One branch: a spectral representation of the waveform, then its network."""

    window: Tensor

    def __init__(self, config: FftBranch | StftBranch, n_samples: int) -> None:
        super().__init__()
        self.hop_length = 0
        self.temporal_norm = False
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
            self.temporal_norm = config.temporal_norm
            self.network = StftNetwork(n_bins, config.channels, config.embedding_dim, config.aggregation)

    def forward(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> ``(B, D_branch)``."""
        if not self.hop_length:
            return self.network(features.spectrum(waves))
        bins = features.spectrogram(waves, self.window, self.hop_length, self.first, self.last)
        if self.temporal_norm:
            bins = bins - bins.mean(dim=2, keepdim=True)
        return self.network(bins)


class ClipBatch(NamedTuple):
    """A training batch with the choices that were drawn for it.

    Attributes:
        samples: ``(B, L)`` int16 or float32, see `asdray.audio.batches.Clips.gather`.
        classes: ``(B,) int64``.
        partner: ``(B,) int64``, whom each clip is mixed with.
        share: ``(B,) float32``, how much of the clip stays.
        masks: ``(B, 4) int64`` of SpecAugment, or None.
        exchange: of FeatEx, or None.
    """

    samples: Tensor
    classes: Tensor
    partner: Tensor
    share: Tensor
    masks: Tensor | None = None
    exchange: Exchange | None = None


class ClipBatches:
    """The training clips of a unit, in a new order with new crops and mixtures every epoch."""

    items = "clips"

    def __init__(
        self, clips: Clips, classes: np.ndarray, n_samples: int, batch_size: int, config: Discriminative
    ) -> None:
        self._clips = clips
        self._config = config
        self._classes = classes
        self._n_samples = n_samples
        self._batches = split(len(clips), batch_size)
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[ClipBatch]:
        """The batches of one epoch; all its choices come from ``rng``."""
        order = rng.permutation(len(self._clips))
        starts = self._clips.random_starts(rng, self._n_samples)
        for batch in self._batches:
            index = order[batch]
            partner, share = draw_mixup(rng, len(index), self._config.mixup_probability)
            masks = self._draw_masks(rng, len(index))
            exchange = self._draw_exchange(rng, len(index))
            yield ClipBatch(
                self._clips.gather(index, self._n_samples, starts[index]),
                torch.from_numpy(self._classes[index]),
                torch.from_numpy(partner),
                torch.from_numpy(share),
                masks,
                exchange,
            )

    def held_out(self) -> Iterator[ClipBatch]:
        """Nothing: every clip is trained on."""
        yield from ()

    def _draw_masks(self, rng: np.random.Generator, size: int) -> Tensor | None:
        options = self._config.spec_augment
        if options is None:
            return None
        drawn = draw_masks(
            rng, size, self._n_samples, options.probability, options.max_frames, options.max_bins
        )
        return torch.from_numpy(drawn)

    def _draw_exchange(self, rng: np.random.Generator, size: int) -> Exchange | None:
        for head in self._config.heads:
            if head.name == "featex":
                return draw_exchange(rng, size, len(self._config.branches), head.probability)
        return None


class DiscriminativeFrontend(FrontendModule):
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
        self.config = config
        self.n_samples = n_samples
        self.branches = nn.ModuleList(Branch(branch, n_samples) for branch in config.branches)
        dims = [branch.embedding_dim for branch in config.branches]
        self.head = build_loss(config.loss, sum(dims), len(self.classes))
        self.more_heads = nn.ModuleList(build_head(head, dims, len(self.classes)) for head in config.heads)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the weights to build this frontend again."""
        return {"classes": list(self.classes)}

    def training_data(
        self,
        clips: Clips,
        columns: Mapping[str, Sequence[Any]],
        batch_size: int,
        rng: np.random.Generator,
    ) -> ClipBatches:
        """The unit's training clips; ``columns`` as for `class_labels`, aligned with ``clips``."""
        index = {name: i for i, name in enumerate(self.classes)}
        classes = np.array(
            [index[label] for label in class_labels(self.config.classes, columns)], dtype=np.int64
        )
        device = next(self.branches.parameters()).device  # a plugin's loss may have no weights
        if device.type == "cuda" and clips.nbytes < torch.cuda.mem_get_info(device)[0] * _GPU_SHARE:
            clips = clips.on(device)
        return ClipBatches(clips, classes, self.n_samples, batch_size, self.config)

    def forward(self, waves: Tensor) -> Tensor:
        """``(B, L) float32`` -> embeddings ``(B, D)``."""
        return torch.cat(self.parts(waves), dim=1)

    def parts(self, waves: Tensor) -> list[Tensor]:
        """The sub-embeddings: each branch's output ``(B, D_branch)``."""
        return [branch(waves) for branch in self.branches]

    def loss(self, batch: ClipBatch) -> Tensor:
        """The batch's mean loss, ``() float32``."""
        waves = features.to_float(batch.samples)
        targets = F.one_hot(batch.classes, len(self.classes)).to(torch.float32)
        if self.config.mixup_probability > 0:
            waves = mix(waves, batch.partner, batch.share)
            targets = mix(targets, batch.partner, batch.share)
        if batch.masks is not None:
            waves = mask(waves, batch.masks)
        parts = self.parts(waves)
        loss = self.head(torch.cat(parts, dim=1), targets)
        for head in self.more_heads:
            loss = loss + head(parts, targets, batch.exchange)
        return loss

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Embeddings of whole clips.

        Args:
            waves: ``(B, L) float32``.

        Returns:
            ``embedding`` ``(B, D) float32``.
        """
        return {"embedding": self(waves).float()}
