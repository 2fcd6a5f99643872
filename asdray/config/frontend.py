"""Frontends: what turns audio into embeddings, or into scores of its own."""

from __future__ import annotations

import string
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from asdray.config.base import Config, Extensible, Positive, Probability, refuse_repeats
from asdray.config.losses import AdaCos, Head, Loss
from asdray.dcase.years import SAMPLE_RATE, nearest

ClassPart = Literal["machine", "section", "attributes", "domain"]
CLASS_PARTS: tuple[ClassPart, ...] = typing.get_args(ClassPart)
OwnScore = Literal["recon", "mahalanobis"]
OWN_SCORES: tuple[OwnScore, ...] = typing.get_args(OwnScore)


def _in_order(values: tuple, known: tuple) -> tuple:
    """``values`` in the order of ``known``, so that equal sets of values have equal hashes.

    Raises:
        ValueError: a repeated value.
    """
    refuse_repeats(values, "the list")
    return tuple(value for value in known if value in values)


class InputFile(NamedTuple):
    """A file that a training reads besides audio: embeddings, or weights of an encoder.

    Attributes:
        kind: a noun for the content, such as ``embeddings``: with the sha256 of the content it enters the
            training's signature. Taken are ``stage``, ``system``, ``dcase``, ``seed``, ``unit``, ``data``.
        option: the option of the frontend that holds the path, for error messages.
        path: absolute, or relative to the data folder; ``~`` is the home folder.
    """

    kind: str
    option: str
    path: str


class FrontendConfig(Config):
    """The base of every frontend's configuration: its options, and all that planning asks of a frontend.

    Planning imports no torch; `asdray.frontends.base.FrontendModule` is the part that computes.

    Example:
        A frontend of one option, trained on all machines together::

            class Encoder(FrontendConfig):
                name: Literal["encoder"] = "encoder"
                weights: str
                scope: ClassVar = "all"

                def input_files(self, dcase, machine, seed):
                    return (InputFile("encoder", "weights", self.weights),)

    Attributes:
        scope: the training data of one model: ``all`` machines together, or one ``machine``.
        own_scores: names of the anomaly scores that the frontend computes itself.
        scored_embedding: True if backends score the embedding.
        learns: True if the frontend is trained.
        has_one_seed: True if all seeds give the same result.
        takes_any_length: True if clips may have any length.
        reads_audio: False if embeddings come from the input file of kind ``embeddings`` instead of audio.
        test_classes: the parts of a class (machine, section, attributes, domain) whose values among the test
            clips training may read; empty for none.
        classes_from: the clips whose attributes and domains make the classes, ``train`` or ``train+test``;
            empty without classes.
        modules: modules that a worker imports before its first task, to save the seconds that it takes.
    """

    name: str
    scope: ClassVar[Literal["all", "machine"]] = "machine"
    own_scores: ClassVar[tuple[str, ...]] = ()
    scored_embedding: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    has_one_seed: ClassVar[bool] = False
    takes_any_length: ClassVar[bool] = True
    reads_audio: ClassVar[bool] = True
    test_classes: ClassVar[tuple[ClassPart, ...]] = ()
    classes_from: ClassVar[Literal["", "train", "train+test"]] = ""
    modules: ClassVar[tuple[str, ...]] = (
        "torchaudio",
        "asdray.audio.cache",
        "asdray.frontends.checkpoint",
        "asdray.frontends.compute",
    )

    @property
    def loss_kind(self) -> str:
        """The names of the losses that are minimised; values of different kinds cannot be compared."""
        return self.name

    @property
    def label(self) -> str:
        """The frontend in the words of an error message."""
        return f"frontend {self.name!r}"

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The files that training reads for a machine besides its audio, each of another kind."""
        return ()

    def check(self, n_samples: int) -> None:
        """Raises ValueError if the frontend cannot take clips of ``n_samples`` samples."""


class FftBranch(Config):
    """A 1-D convolutional network on the magnitude spectrum of the whole clip."""

    name: Literal["fft"] = "fft"
    channels: Positive = 128
    kernels: tuple[Positive, Positive, Positive] = (256, 64, 16)
    strides: tuple[Positive, Positive, Positive] = (64, 32, 4)
    hidden: Annotated[int, Field(ge=0)] = 4
    """Fully connected layers between the first one and the last."""
    embedding_dim: Positive = 128

    def lengths(self, n_samples: int) -> list[int]:
        """Lengths of the spectrum and after each of the three convolutions, in bins.

        Raises:
            ValueError: the clip is too short for the kernels.
        """
        lengths = [n_samples // 2 + 1]
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            if lengths[-1] < kernel:
                raise ValueError(
                    f"clips of {n_samples / SAMPLE_RATE:g} s are too short for the fft branch "
                    f"(kernels {list(self.kernels)}, strides {list(self.strides)}): "
                    "choose smaller kernels or strides, or a longer audio.duration"
                )
            lengths.append((lengths[-1] - kernel) // stride + 1)
        return lengths


class StftBranch(Config):
    """A residual network on the magnitude spectrogram."""

    name: Literal["stft"] = "stft"
    n_fft: Annotated[int, Field(ge=16)] = 1024
    hop_length: Positive = 512
    f_min: Annotated[float, Field(ge=0)] = 200.0
    f_max: Annotated[float, Field(gt=0, le=SAMPLE_RATE / 2)] = 8000.0
    channels: tuple[Positive, ...] = Field(default=(16, 32, 64, 128), min_length=1)
    """Channels of the residual stages, two blocks each; every stage after the first halves the map."""
    embedding_dim: Positive = 128
    temporal_norm: bool = False
    """Whether each bin's mean over the clip is subtracted: takes away what is stationary."""
    aggregation: Literal["mlp", "gap"] = "mlp"
    """What becomes of the last map's rows: all into one linear layer, or their mean."""

    later: ClassVar[Mapping[str, Any]] = {"temporal_norm": False, "aggregation": "mlp"}
    MIN_SIDE: ClassVar[int] = 36

    def input_shape(self, n_samples: int) -> tuple[int, int]:
        """(frequency bins, frames) of the spectrogram.

        Raises:
            ValueError: fewer than 36 of either, too few for the network's down-sampling.
        """
        first, last = self.bins()
        shape = (last - first + 1, n_samples // self.hop_length + 1)
        if min(shape) < self.MIN_SIDE:
            raise ValueError(
                f"the stft branch sees {shape[0]} bins x {shape[1]} frames of a clip of "
                f"{n_samples / SAMPLE_RATE:g} s (n_fft {self.n_fft}, hop_length {self.hop_length}), but "
                f"needs at least {self.MIN_SIDE} of both: choose a shorter hop_length, a larger n_fft or a "
                "longer audio.duration"
            )
        return shape

    def bins(self) -> tuple[int, int]:
        """First and last bin whose centre frequency lies in [f_min, f_max]."""
        width = SAMPLE_RATE / self.n_fft
        first = -int(-self.f_min // width)
        return first, int(self.f_max // width)


Branch = Annotated[FftBranch | StftBranch, Field(discriminator="name")]


class SpecAugment(Config):
    """Masks on the waveform of training clips: frames and bins of its spectrogram are silenced.

    Masked are magnitudes of an STFT (1024, hop 256), which is then inverted with its phases, so that all
    branches hear the same. After mixup. Source: Park et al., SpecAugment, Interspeech 2019, as in ASDKit.
    """

    probability: Probability = 0.5
    """Share of the clips that get a mask in time, and, independently, one in frequency."""
    max_frames: Annotated[int, Field(ge=0)] = 80
    max_bins: Annotated[int, Field(ge=0)] = 80


class Discriminative(FrontendConfig):
    """One network for all machines, trained to tell classes of normal sound apart; offers embeddings.

    Source: Wilkinghoff, ICASSP 2023 (two branches), as configured in ASDKit, arXiv 2507.10264.
    """

    name: Literal["discriminative"] = "discriminative"
    classes: tuple[ClassPart, ...] = Field(default=CLASS_PARTS, min_length=1)
    """What a class is made of, in whatever order."""
    labels: Literal["train_only", "asdkit"] = "train_only"
    """Which classes there are: those of the training clips, or as in ASDKit those of the test clips too.

    The latter adds centres that no clip is ever drawn to, and a larger scale. It reads which sections,
    attributes and domains the test clips of a machine have, though neither their labels nor which clip has
    which: for comparison with published results that were made so.
    """
    branches: tuple[Branch, ...] = Field(default=(FftBranch(), StftBranch()), min_length=1)
    loss: Loss = AdaCos()
    mixup_probability: Probability = 0.5
    """Share of the clips of a training batch that are mixed with another clip of it."""

    spec_augment: SpecAugment | None = None
    heads: tuple[Head, ...] = ()
    """What is learnt besides: each adds its loss to the main one."""

    later: ClassVar[Mapping[str, Any]] = {"labels": "train_only", "spec_augment": None, "heads": ()}

    scope: ClassVar[Literal["all", "machine"]] = "all"
    takes_any_length: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = (*FrontendConfig.modules, "asdray.frontends.discriminative")

    @property
    def test_classes(self) -> tuple[ClassPart, ...]:  # type: ignore[override]
        """The parts of a class whose values among the test clips are read: with ``labels: asdkit`` all."""
        return self.classes if self.labels == "asdkit" else ()

    @property
    def classes_from(self) -> Literal["train", "train+test"]:  # type: ignore[override]
        """The clips whose attributes and domains make the classes."""
        return "train+test" if self.labels == "asdkit" else "train"

    @property
    def loss_kind(self) -> str:
        """The names of the main loss and, in alphabetical order, of each head and its loss."""
        return " + ".join((self.loss.name, *sorted(f"{h.name} ({h.loss.name})" for h in self.heads)))

    @property
    def label(self) -> str:
        """The frontend and its loss in the words of an error message."""
        return f"{super().label} with the loss {self.loss.name!r}"

    @field_validator("classes")
    @classmethod
    def _in_one_order(cls, parts: tuple[ClassPart, ...]) -> tuple[ClassPart, ...]:
        return _in_order(parts, CLASS_PARTS)

    @model_validator(mode="after")
    def _heads_fit(self) -> Discriminative:
        names = [head.name for head in self.heads]
        refuse_repeats(names, "heads")
        if "featex" in names and len(self.branches) < 2:
            raise ValueError("heads: featex exchanges the outputs of branches, so it needs at least two")
        return self

    def check(self, n_samples: int) -> None:
        """Raises ValueError where clips of ``n_samples`` are too short for a branch."""
        for branch in self.branches:
            if isinstance(branch, FftBranch):
                branch.lengths(n_samples)
            else:
                branch.input_shape(n_samples)


class Autoencoder(FrontendConfig):
    """One autoencoder per machine on stacked log-mel frames; offers scores of its own.

    Its embedding, the time mean of the bottleneck, is for plots; backends do not score it.
    Source: the official DCASE Task 2 baseline's network; defaults as in ASDKit's ``ae``.
    """

    name: Literal["autoencoder"] = "autoencoder"
    n_mels: Positive = 128
    n_fft: Annotated[int, Field(ge=16)] = 1024
    hop_length: Positive = 512
    n_frames: Positive = 5
    """Consecutive log-mel frames that make one input vector."""
    mel_scale: Literal["htk", "slaney"] = "htk"
    """``slaney`` brings filters of area 1 along, as in librosa; those of ``htk`` have height 1."""
    power: Literal[1, 2] = 1
    """Of the magnitudes that the filters sum."""
    window_norm: bool = True
    """Whether magnitudes are divided by the root of the window's energy."""
    hidden: tuple[Positive, ...] = Field(default=(128, 128, 128, 128), min_length=1)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    bottleneck: Positive = 8
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training vectors, drawn at random, that is held out: ``best`` is the epoch that does
    best on it, and ``metrics.csv`` tells its loss."""
    scores: tuple[OwnScore, ...] = Field(default=("recon",), min_length=1)
    """``recon``, the mean squared error; ``mahalanobis``, the length of a clip's mean error in units of
    what is usual in the nearer domain. Facts in `asdray.frontends.autoencoder`."""
    centring: Literal["domain", "batch"] = "domain"
    """Around what the score ``mahalanobis`` takes covariances: the mean error of a domain's training clips,
    or, as the official baseline does, that of the domain's vectors in each batch of a shuffled pass over
    the vectors of training. The first depends neither on an order of batches nor on their size, which have
    nothing to do with what is usual in a domain."""

    later: ClassVar[Mapping[str, Any]] = {
        "mel_scale": "htk",
        "power": 1,
        "window_norm": True,
        "validation": 0.0,
        "scores": ("recon",),
        "centring": "domain",
    }
    scored_embedding: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = (*FrontendConfig.modules, "asdray.frontends.autoencoder")

    @field_validator("scores")
    @classmethod
    def _in_one_order(cls, scores: tuple[OwnScore, ...]) -> tuple[OwnScore, ...]:
        return _in_order(scores, OWN_SCORES)

    @property
    def own_scores(self) -> tuple[str, ...]:  # type: ignore[override]
        """The scores that it offers."""
        return self.scores

    def check(self, n_samples: int) -> None:
        """Raises ValueError where a clip of ``n_samples`` gives no input vector."""
        frames = n_samples // self.hop_length + 1
        if frames < self.n_frames:
            raise ValueError(
                f"clips of {n_samples / SAMPLE_RATE:g} s have {frames} frames, fewer than n_frames "
                f"{self.n_frames}: choose a shorter hop_length, fewer n_frames or a longer audio.duration"
            )


class RawSpec(FrontendConfig):
    """The time mean of a mel spectrogram, without a logarithm: learns nothing.

    Source: ASDKit ``raw_spec``, arXiv 2507.10264.
    """

    name: Literal["raw_spec"] = "raw_spec"
    n_mels: Positive = 128
    n_fft: Annotated[int, Field(ge=16)] = 1024
    hop_length: Positive = 512

    learns: ClassVar[bool] = False
    has_one_seed: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ()


class Precomputed(FrontendConfig):
    """Embeddings of any model, from files: learns nothing, reads no audio."""

    name: Literal["precomputed"] = "precomputed"
    path: Annotated[str, Field(min_length=1)]
    """A ``.parquet`` file with the columns ``clip`` (keys as in ``clips.parquet``) and ``embedding``, or a
    ``.npz`` file with arrays of these names. In it ``{dcase}``, ``{machine}`` and ``{seed}`` are replaced;
    where it is relative, it is so to the data folder."""

    learns: ClassVar[bool] = False
    reads_audio: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = ()

    @field_validator("path")
    @classmethod
    def _placeholders(cls, path: str) -> str:
        known = ("dcase", "machine", "seed")
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(path) if name is not None]
        except ValueError as error:
            raise ValueError(f"{path!r} is no path with placeholders ({error})") from None
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{path!r} has the unknown placeholder {{{name}}}{nearest(name, known)} "
                    "(known: {dcase}, {machine}, {seed})"
                )
        if not path.endswith((".parquet", ".npz")):
            raise ValueError(f"{path!r} must end in .parquet or .npz")
        return path

    @property
    def has_one_seed(self) -> bool:  # type: ignore[override]
        """Whether the files are the same for all seeds."""
        return "{seed}" not in self.path

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The file of embeddings, its path with all placeholders replaced."""
        return (InputFile("embeddings", "path", self.path.format(dcase=dcase, machine=machine, seed=seed)),)


_BuiltIn = Discriminative | Autoencoder | RawSpec | Precomputed
Frontend = Annotated[_BuiltIn, Extensible("FRONTENDS", "frontend", FrontendConfig, _BuiltIn)]
