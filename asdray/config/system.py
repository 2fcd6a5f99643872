"""A system: frontend, training and audio options. What a trial computes, without year and seed."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from asdray.config.base import Config, digest
from asdray.dcase.years import SAMPLE_RATE, YEARS, get_year

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
ClassPart = Literal["machine", "section", "attributes", "domain"]
CLASS_PARTS: tuple[ClassPart, ...] = typing.get_args(ClassPart)
Channel = Literal["near", "far", "mean", "difference"]

# --------------------------------------------------------------------------------------------- losses


class AdaCos(Config):
    """Cross entropy of ``s * cos``, ``s = sqrt(2) ln(C - 1)`` fixed.

    Source: Zhang et al., AdaCos, CVPR 2019, eq. 8 (fixed scale).
    """

    name: Literal["adacos"] = "adacos"
    trainable: bool = False
    """Whether the class centres are learnt; fixed centres keep their Xavier-uniform start."""


class SubclusterAdaCos(Config):
    """AdaCos with several centres per class, whose probabilities are summed before the logarithm.

    ``s = sqrt(2) ln(C K - 1)`` fixed. Source: Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021.
    """

    name: Literal["subcluster_adacos"] = "subcluster_adacos"
    n_subclusters: Positive = 16
    trainable: bool = False


Loss = Annotated[AdaCos | SubclusterAdaCos, Field(discriminator="name")]

# ------------------------------------------------------------------------------------------- branches


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

# ------------------------------------------------------------------------------------------ frontends


class Discriminative(Config):
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

    later: ClassVar[Mapping[str, Any]] = {"labels": "train_only"}

    scope: ClassVar[Literal["all", "machine"]] = "all"
    own_scores: ClassVar[tuple[str, ...]] = ()
    scored_embedding: ClassVar[bool] = True

    @property
    def sees_test_classes(self) -> bool:
        """Whether training depends on which classes the test clips have."""
        return self.labels == "asdkit"

    @field_validator("classes")
    @classmethod
    def _in_one_order(cls, parts: tuple[ClassPart, ...]) -> tuple[ClassPart, ...]:
        for part in parts:
            if parts.count(part) > 1:
                raise ValueError(f"the list names {part!r} twice")
        return tuple(part for part in CLASS_PARTS if part in parts)

    def check(self, n_samples: int) -> None:
        """Raises ValueError where clips of ``n_samples`` are too short for a branch."""
        for branch in self.branches:
            if isinstance(branch, FftBranch):
                branch.lengths(n_samples)
            else:
                branch.input_shape(n_samples)


class Autoencoder(Config):
    """One autoencoder per machine on stacked log-mel frames; offers its reconstruction error, ``recon``.

    Its embedding, the time mean of the bottleneck, is for plots; backends do not score it.
    Source: the official DCASE Task 2 baseline's network; options as in ASDKit's ``ae``.
    """

    name: Literal["autoencoder"] = "autoencoder"
    n_mels: Positive = 128
    n_fft: Annotated[int, Field(ge=16)] = 1024
    hop_length: Positive = 512
    n_frames: Positive = 5
    """Consecutive log-mel frames that make one input vector."""
    hidden: tuple[Positive, ...] = Field(default=(128, 128, 128, 128), min_length=1)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    bottleneck: Positive = 8

    scope: ClassVar[Literal["all", "machine"]] = "machine"
    own_scores: ClassVar[tuple[str, ...]] = ("recon",)
    scored_embedding: ClassVar[bool] = False
    sees_test_classes: ClassVar[bool] = False

    def check(self, n_samples: int) -> None:
        """Raises ValueError where a clip of ``n_samples`` gives no input vector."""
        frames = n_samples // self.hop_length + 1
        if frames < self.n_frames:
            raise ValueError(
                f"clips of {n_samples / SAMPLE_RATE:g} s have {frames} frames, fewer than n_frames "
                f"{self.n_frames}: choose a shorter hop_length, fewer n_frames or a longer audio.duration"
            )


Frontend = Annotated[Discriminative | Autoencoder, Field(discriminator="name")]

# ---------------------------------------------------------------------------------- training and audio


class Train(Config):
    """How a unit is trained: AdamW with library defaults apart from what is said here."""

    epochs: Positive = 16
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Clips (discriminative) or stacked frames (autoencoder) per step; the last, smaller batch is kept."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    threads: Positive = 1
    """CPU threads of the process; they change the order of sums, so they belong to the system."""


class Audio(Config):
    """Clip length and channel. Shorter clips are repeated end to end, then all are cropped.

    The crop starts at random in training and at 0 elsewhere.
    """

    duration: Annotated[float, Field(gt=0, le=60)] | Literal["year_max"] = "year_max"
    """Seconds, or ``year_max``: the longest machine of the year."""
    channel: Channel = "near"
    """Of a year with two microphones: one of them, the mean of both, or near minus far."""

    later: ClassVar[Mapping[str, Any]] = {"channel": "near"}

    def n_samples(self, dcase: str) -> int:
        """Samples per clip in ``dcase``."""
        seconds = get_year(dcase).duration_max if self.duration == "year_max" else self.duration
        return round(seconds * SAMPLE_RATE)


class System(Config):
    """A recipe with all hyperparameters fixed, without the seed."""

    frontend: Frontend
    train: Train = Train()
    audio: Audio = Audio()

    @functools.cached_property
    def id(self) -> str:
        """Eight hex digits: the same for all years and seeds."""
        return digest(self)[:8]

    def check(self, dcase: str) -> None:
        """Raises ValueError where the frontend cannot take the clips of ``dcase``."""
        if self.audio.channel != "near" and get_year(dcase).channels == 1:
            stereo = ", ".join(name for name, year in YEARS.items() if year.channels > 1)
            raise ValueError(
                f"{dcase}: audio.channel is {self.audio.channel!r}, but its clips have one channel: "
                f"choose near (two channels: {stereo})"
            )
        try:
            self.frontend.check(self.audio.n_samples(dcase))
        except ValueError as error:
            raise ValueError(f"{dcase}: {error}") from None


class Recipe(System):
    """A named full configuration, as shipped in ``asdray/recipes/<name>.yaml``."""

    about: str
    """One line for ``asdray recipes``."""
    source: str = ""
    """The paper or code that the recipe follows."""

    @model_validator(mode="after")
    def _one_line(self) -> Recipe:
        if "\n" in self.about.strip():
            raise ValueError("about must be one line")
        return self

    @property
    def system(self) -> System:
        """The recipe without its description: what is hashed."""
        return System(frontend=self.frontend, train=self.train, audio=self.audio)
