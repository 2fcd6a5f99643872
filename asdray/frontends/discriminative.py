"""The discriminative frontend: a network that is trained to tell classes of normal sound apart.

A class is a combination of machine, section, attributes and domain. Each branch of the network sees another
spectral representation of the clip; the embedding is the concatenation of the branches' outputs. Anomalous
clips get embeddings that are far from those of normal clips, which backends measure.

Legend for shapes: B clips, N training clips, L samples per clip, C classes, M branches, D dimensions of the
embedding, D_m of the sub-embedding of branch m.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import features
from asdray.audio.batches import Clips, split
from asdray.config.branch import NetworkConfig
from asdray.dcase.names import is_hidden
from asdray.dcase.years import NO_ATTRIBUTE
from asdray.frontends.augment import (
    Exchange,
    Noise,
    add_noise,
    draw_exchange,
    draw_masks,
    draw_mixup,
    draw_noise,
    mask,
    mix,
)
from asdray.frontends.base import FrontendModule
from asdray.frontends.encoder_branch import EncoderBranch
from asdray.frontends.heads import ClassesHead, Projector, SubspaceHead, build_head, build_loss
from asdray.frontends.losses import loss_of, require_classes
from asdray.frontends.networks import FftNetwork, StftNetwork
from asdray.frontends.plugin_branch import PluginBranch

if TYPE_CHECKING:
    from asdray.config.branch import Branch as BranchConfig
    from asdray.config.branch import FftBranch, StftBranch
    from asdray.config.frontend import Discriminative
    from asdray.config.system import Train
    from asdray.frontends import Columns

_GPU_SHARE = 0.4
"""Share of a GPU's free memory: training clips are copied to the GPU if they need less."""


def class_labels(parts: Sequence[str], columns: Columns) -> list[str]:
    """The class of every clip, such as ``fan---0---m-n_W---0``: its parts, and 1 for the target domain.

    Example:
        >>> columns = {"machine": ["fan"], "section": [0], "attributes": ["m-n_W"], "domain": ["target"]}
        >>> class_labels(("machine", "domain"), columns)
        ['fan---1']

    Args:
        parts: the parts that make a class, of ``machine``, ``section``, ``attributes``, ``domain``,
            ``cluster``; labels always have this order.
        columns: columns of the manifest, one value per clip. A supplemental clip belongs to a class of its
            machine's supplemental clips, such as ``fan---supplemental``.

    Source: ASDKit's ``main`` label, arXiv 2507.10264. ASDKit's labels of 2020 end after the section; the
    other two parts are equal for all clips of 2020, so that classes and their order are the same here.
    """
    as_text: dict[str, Callable[[Any], str]] = {
        "machine": str,
        "section": str,
        # Hidden attributes are spelt in two ways, for one machine of 2026 perhaps in both.
        "attributes": lambda value: NO_ATTRIBUTE if is_hidden(value) else value,
        "domain": lambda value: str(int(value == "target")),
        "cluster": lambda value: "noCluster" if value is None else f"cluster_{value}",
    }
    chosen = [[text(value) for value in columns[part]] for part, text in as_text.items() if part in parts]
    labels = ["---".join(values) for values in zip(*chosen, strict=True)]
    for i, kind in enumerate(columns.get("supplemental", ())):
        if kind:
            labels[i] = "---".join([*([columns["machine"][i]] if "machine" in parts else []), "supplemental"])
    return labels


def learnt(config: Discriminative, columns: Columns) -> Columns:
    """The columns without supplemental clips, unless these are classes."""
    kinds = columns.get("supplemental")
    if kinds is None or config.supplemental == "classes":
        return columns
    kept = [i for i, kind in enumerate(kinds) if not kind]
    return {name: [values[i] for i in kept] for name, values in columns.items()}


def class_names(parts: Sequence[str], columns: Columns, test_classes: Columns | None = None) -> list[str]:
    """The names of all classes, sorted.

    Args:
        parts: see `class_labels`.
        columns: one value per training clip.
        test_classes: one value per class among the test clips, if training knows their classes.

    Raises:
        ValueError: the training clips make too few classes.
    """
    names = set(class_labels(parts, columns))
    if test_classes is not None:
        # Classes that occur only among test clips cannot be learnt, so they don't count here.
        require_classes(len(names))
        names |= set(class_labels(parts, test_classes))
    return sorted(names)


def _positions(parts: Sequence[str], columns: Columns, names: Sequence[str]) -> np.ndarray:
    """The class of every clip as its position in ``names``, ``(N,) int64``; see `class_labels`."""
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[label] for label in class_labels(parts, columns)], dtype=np.int64)


def head_classes(
    config: Discriminative, columns: Columns, test_classes: Columns | None = None
) -> list[list[str]]:
    """The sorted names of the classes of every head with classes of its own; arguments as of `class_names`.

    Raises:
        ValueError: the training clips make fewer than two classes of a head.
    """
    found = []
    for head in config.class_heads:
        assert head.classes is not None
        try:
            found.append(class_names(head.classes, columns, test_classes))
            require_classes(len(found[-1]))
        except ValueError as error:
            raise ValueError(f"frontend.heads, classes {list(head.classes)}: {error}") from None
    return found


class Branch(nn.Module):
    """A branch: the spectrum or spectrogram of the waveform, and the network on it."""

    window: Tensor
    shortest = 1

    def __init__(self, config: FftBranch | StftBranch, n_samples: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.embedding_dim
        match config.name:
            case "fft":
                n_bins = config.lengths(n_samples)[0]
                layers = config.channels, config.kernels, config.strides, config.hidden
                self.network: nn.Module = FftNetwork(n_bins, *layers, config.embedding_dim)
            case "stft":
                n_bins, _ = config.input_shape(n_samples)
                self.first, self.last = config.bins()
                self.register_buffer("window", features.hann(config.n_fft), persistent=False)
                self.network = StftNetwork(n_bins, config.channels, config.embedding_dim, config.aggregation)

    def forward(self, waves: Tensor, mixing: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Waveforms ``(B, L) float32`` -> the branch's sub-embedding ``(B, D_branch)``.

        Args:
            mixing: partner and share of `mix`, for a mixture of the network's inputs.
        """
        view = self.view(waves)
        return self.network(view if mixing is None else mix(view, *mixing))

    def view(self, waves: Tensor) -> Tensor:
        """Waveforms ``(B, L) float32`` -> the input of the network, ``(B, ...) float32``."""
        match self.config.name:
            case "fft":
                return features.spectrum(waves)
            case "stft":
                hop = self.config.hop_length
                bins = features.spectrogram(waves, self.window, hop, self.first, self.last)
                return bins - bins.mean(dim=2, keepdim=True) if self.config.temporal_norm else bins


def build_branch(
    config: BranchConfig | NetworkConfig, n_samples: int
) -> Branch | EncoderBranch | PluginBranch:
    """The branch of a configuration, with fresh weights; an encoder's weights are loaded later."""
    if isinstance(config, NetworkConfig):
        return PluginBranch(config, n_samples)
    return EncoderBranch(config) if config.name == "encoder" else Branch(config, n_samples)


class ClipBatch(NamedTuple):
    """A training batch with the random choices of its augmentation.

    Attributes:
        samples: ``(B, L)`` int16 or float32, see `asdray.audio.batches.Clips.gather`.
        classes: ``(B,) int64``, positions in the frontend's sorted classes.
        partner: ``(B,) int64``, the clip with which each clip is mixed (mixup).
        share: ``(B,) float32``, the clip's own share in the mixture.
        masks: ``(B, 4) int64`` for SpecAugment, or None.
        exchange: for FeatEx, or None.
        head_classes: ``(B, H) int64``, positions in the classes of each of the H heads with classes of their
            own, or None.
        noise: the noise that is added, or None.
    """

    samples: Tensor
    classes: Tensor
    partner: Tensor
    share: Tensor
    masks: Tensor | None = None
    exchange: Exchange | None = None
    head_classes: Tensor | None = None
    noise: Noise | None = None


@dataclass
class ClipBatches:
    """Batches of a unit's training clips, with a new order, new crops and new augmentation every epoch.

    Attributes:
        classes: ``(N,) int64``, the class of every clip.
        n_samples: L, samples per crop.
        head_classes: ``(N, H) int64``, see `ClipBatch`.
        noises: positions of the clips of noise, behind the training clips.
        trained, held_out_clips: positions of the clips to train on, and of those never trained on, ``int64``.
    """

    clips: Clips
    classes: np.ndarray
    n_samples: int
    batch_size: int
    config: Discriminative
    trained: np.ndarray
    held_out_clips: np.ndarray
    head_classes: np.ndarray | None = None
    noises: np.ndarray | None = None
    items = "clips"
    independent = True

    def __post_init__(self) -> None:
        self._batches = split(len(self.trained), self.batch_size)
        self.sizes = tuple(b.stop - b.start for b in self._batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[ClipBatch]:
        """The batches of one epoch; all random choices come from ``rng``."""
        options = self.config.spec_augment
        featex = next((head for head in self.config.heads if head.name == "featex"), None)
        order = self.trained[rng.permutation(len(self.trained))]
        starts = self.clips.random_starts(rng, self.n_samples)
        for batch in self._batches:
            index, size = order[batch], batch.stop - batch.start
            partner, share = self._draw_mixup(rng, size)
            masks = exchange = None
            if options is not None:
                widths = options.max_frames, options.max_bins
                drawn = draw_masks(rng, size, self.n_samples, options.probability, *widths)
                masks = torch.from_numpy(drawn)
            if featex is not None:
                exchange = draw_exchange(rng, size, len(self.config.branches), featex.probability)
            yield ClipBatch(
                self.clips.gather(index, self.n_samples, starts[index]),
                torch.from_numpy(self.classes[index]),
                torch.from_numpy(partner),
                torch.from_numpy(share),
                masks,
                exchange,
                None if self.head_classes is None else torch.from_numpy(self.head_classes[index]),
                self._draw_noise(rng, size),
            )

    def _draw_mixup(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        return draw_mixup(rng, size, config.mixup_probability, config.mixup_alpha, config.mixup_per)

    def _draw_noise(self, rng: np.random.Generator, size: int) -> Noise | None:
        options = self.config.supplemental
        if self.noises is None or options is None or options == "classes":
            return None
        drawn, snr = draw_noise(rng, size, len(self.noises), options.snr, options.probability)
        index = self.noises[drawn]
        starts = self.clips.random_starts(rng, self.n_samples)[index]
        return Noise(self.clips.gather(index, self.n_samples, starts), torch.from_numpy(snr))

    def held_out(self) -> Iterator[ClipBatch]:
        """Batches of the held-out clips for the validation loss: from their start, without augmentation."""
        n_parts = len(self.config.branches)
        for start in range(0, len(self.held_out_clips), self.batch_size):
            index = self.held_out_clips[start : start + self.batch_size]
            own = torch.arange(len(index))
            of_heads = None if self.head_classes is None else torch.from_numpy(self.head_classes[index])
            exchange = Exchange(own < 0, own[:, None].expand(-1, n_parts))  # each clip keeps its own parts
            yield ClipBatch(
                self.clips.gather(index, self.n_samples),
                torch.from_numpy(self.classes[index]),
                own,
                torch.ones(len(index)),
                exchange=exchange,
                head_classes=of_heads,
            )


class DiscriminativeFrontend(FrontendModule):
    """Branches whose outputs are concatenated to an embedding, a main loss, and further heads.

    The class centres of the losses are needed in training only.

    Args:
        n_samples: L.
        classes: names of the C classes, sorted.
        head_classes: for every head with classes of its own their names, sorted.

    Raises:
        ValueError: clips too short for a branch, or too few classes.
    """

    def __init__(
        self,
        config: Discriminative,
        n_samples: int,
        classes: Sequence[str],
        head_classes: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.head_classes = tuple(map(tuple, head_classes))
        self.config = config
        self.n_samples = n_samples
        branches = [build_branch(branch, n_samples) for branch in config.branches]
        self.branches = nn.ModuleList(branches)
        dims = [branch.width for branch in branches]
        self.head = build_loss(config.loss, sum(dims), len(self.classes))
        names = self._of_heads(self.classes, self.head_classes)
        self.more_heads = nn.ModuleList(
            build_head(head, dims, len(classes)) for head, classes in zip(config.heads, names, strict=True)
        )
        self.projector = Projector(sum(dims), config.projector.dim) if config.projector else None
        self.encoders = {i: branch for i, branch in enumerate(branches) if isinstance(branch, EncoderBranch)}
        self.small_checkpoints = bool(self.encoders)
        self.shortest = max(branch.shortest for branch in branches)

    def load_frozen(self, files: Mapping[str, Mapping[str, Path]]) -> None:
        """Loads the weight files of encoders."""
        for i, kind in self.config.encoder_kinds.items():
            (path,) = set(files[kind].values())
            self.encoders[i].load(path)

    def frozen_state(self) -> dict[str, Tensor]:
        """The tensors of the state dict that training leaves as they are: those of encoders."""
        return {
            f"branches.{i}.{name}": value
            for i, encoder in self.encoders.items()
            for name, value in encoder.frozen_state().items()
        }

    def parameter_groups(self, options: Train) -> list[dict[str, Any]]:
        """One group with all parameters, and one per smaller learning rate of an encoder's blocks."""
        (group,) = super().parameter_groups(options)
        slow: dict[float, list[nn.Parameter]] = {}
        for encoder in self.encoders.values():
            for factor, parameters in encoder.rates().items():
                if factor < 1:
                    slow.setdefault(factor, []).extend(parameters)
        taken = {id(p) for parameters in slow.values() for p in parameters}
        group["params"] = [p for p in group["params"] if id(p) not in taken]
        return [
            group,
            *({"params": slow[f], "lr": options.learning_rate * f} for f in sorted(slow, reverse=True)),
        ]

    def saved(self) -> dict[str, Any]:
        """The names of the classes, whose number decides the shape of the class centres."""
        more = {"head_classes": [list(names) for names in self.head_classes]} if self.head_classes else {}
        return {"classes": list(self.classes), **more}

    def training_data(
        self, clips: Clips, columns: Columns, batch_size: int, rng: np.random.Generator
    ) -> ClipBatches:
        """Batches of crops; on a GPU whose memory has room, all clips are copied there once."""
        noises = self._noises(columns)
        columns = learnt(self.config, columns)
        classes = _positions(self.config.class_parts, columns, self.classes)
        of_heads = [
            _positions(head.classes or (), columns, names)
            for head, names in zip(self.config.class_heads, self.head_classes, strict=True)
        ]
        values = itertools.chain(self.branches.parameters(), self.parameters(), self.buffers())
        device = next((one.device for one in values), torch.device("cpu"))  # a plugin's may have no weights
        if device.type == "cuda" and clips.nbytes < torch.cuda.mem_get_info(device)[0] * _GPU_SHARE:
            clips = clips.on(device)
        clips = clips.for_copies(device)
        head_classes = np.stack(of_heads, axis=1) if of_heads else None
        n_clips = len(classes)  # clips of noise are behind these
        held_out = np.zeros(n_clips, dtype=bool)
        held_out[rng.choice(n_clips, round(self.config.validation * n_clips), replace=False)] = True
        parts = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        return ClipBatches(
            clips, classes, self.n_samples, batch_size, self.config, *parts, head_classes, noises
        )

    def _noises(self, columns: Columns) -> np.ndarray | None:
        """The positions of the clips of noise if noise is to be added, else None."""
        if self.config.supplemental in (None, "classes"):
            return None
        noises = np.flatnonzero(np.array(columns["supplemental"]) == "noise")
        if not len(noises):
            raise ValueError(
                "frontend.supplemental has an snr, but no supplemental clip of these machines is noise: "
                "train on more machines, or choose classes"
            )
        return noises

    def forward(self, waves: Tensor) -> Tensor:
        """Waveforms ``(B, L) float32`` -> embeddings ``(B, D)``."""
        return self._scored(torch.cat(self.parts(waves), dim=1))

    def _scored(self, embeddings: Tensor) -> Tensor:
        """The embeddings ``(B, D)`` as backends see them."""
        options = self.config.projector
        return self._seen(embeddings) if options and options.embedding == "after" else embeddings

    def _seen(self, embeddings: Tensor) -> Tensor:
        """The embeddings ``(B, D)`` as the losses see them."""
        return embeddings if self.projector is None else self.projector(embeddings)

    @property
    def losses(self) -> list[nn.Module]:
        """The main loss, and the losses of all heads."""
        found: list[nn.Module] = [self.head]
        for head in self.more_heads:
            found += head.losses if isinstance(head, SubspaceHead) else [head.get_submodule("loss")]
        return found

    def _of_heads(self, main: Any, own: Iterable[Any]) -> list[Any]:
        """For every head ``main``, or the next one of ``own`` for a head with classes of its own."""
        rest = iter(own)
        return [next(rest) if head in self.config.class_heads else main for head in self.config.heads]

    def parts(self, waves: Tensor, mixing: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Waveforms ``(B, L) float32`` -> the sub-embedding ``(B, D_branch)`` of every branch."""
        return [branch(waves, mixing) for branch in self.branches]

    def loss(self, batch: ClipBatch) -> Tensor:
        """The mean of the main loss plus the losses of all heads, ``() float32``."""
        waves = features.to_float(batch.samples)
        if batch.noise is not None:
            waves = add_noise(waves, features.to_float(batch.noise.samples), batch.noise.snr)
        mixing = (batch.partner, batch.share) if self.config.mixup_probability > 0 else None
        if mixing is not None and self.config.mixup_of == "waveform":
            waves, mixing = mix(waves, *mixing), None
        if batch.masks is not None:
            waves = mask(waves, batch.masks)
        parts = self.parts(waves, mixing)
        seen = self._seen(torch.cat(parts, dim=1))
        main = self._targets(batch, batch.classes, self.classes)
        loss = loss_of(self.head, seen, *main)
        columns = () if batch.head_classes is None else batch.head_classes.unbind(dim=1)
        own = [self._targets(batch, c, names) for c, names in zip(columns, self.head_classes, strict=True)]
        for head, targets in zip(self.more_heads, self._of_heads(main, own), strict=True):
            loss = loss + head([seen] if isinstance(head, ClassesHead) else parts, *targets, batch.exchange)
        return loss

    def _targets(self, batch: ClipBatch, classes: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Class probabilities after and before mixup, each ``(B, C) float32``."""
        own = F.one_hot(classes, len(names)).to(torch.float32)
        mixes = self.config.mixup_probability > 0
        return (mix(own, batch.partner, batch.share) if mixes else own), own

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Whole clips ``(B, L) float32`` -> ``embedding`` ``(B, D) float32``, and encoders' pooled tokens."""
        pooled: dict[str, Tensor] = {}
        parts = []
        for branch in self.branches:
            if isinstance(branch, EncoderBranch):
                part, more = branch.extract(waves)
                pooled |= more
            else:
                part = branch(waves)
            parts.append(part)
        return {"embedding": self._scored(torch.cat(parts, dim=1)).float(), **pooled}
