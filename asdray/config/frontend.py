"""Frontends: what turns audio into embeddings, or into scores of its own."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from asdray.config.base import Config
from asdray.config.branches import Branch, FftBranch, StftBranch
from asdray.config.losses import AdaCos, Head, Loss, Positive, Probability
from asdray.dcase.years import SAMPLE_RATE

ClassPart = Literal["machine", "section", "attributes", "domain"]
CLASS_PARTS: tuple[ClassPart, ...] = typing.get_args(ClassPart)
OwnScore = Literal["recon", "mahalanobis"]
OWN_SCORES: tuple[OwnScore, ...] = typing.get_args(OwnScore)


def _in_order(values: tuple, known: tuple) -> tuple:
    """``values`` in the order of ``known``, so that one choice has one id.

    Raises:
        ValueError: one stands there twice.
    """
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"the list names {value!r} twice")
    return tuple(value for value in known if value in values)


class SpecAugment(Config):
    """Masks on the waveform of training clips: frames and bins of its spectrogram are silenced.

    Masked are magnitudes of an STFT (1024, hop 256), which is then inverted with its phases, so that all
    branches hear the same. After mixup. Source: Park et al., SpecAugment, Interspeech 2019, as in ASDKit.
    """

    probability: Probability = 0.5
    """Share of the clips that get a mask in time, and, independently, one in frequency."""
    max_frames: Annotated[int, Field(ge=0)] = 80
    max_bins: Annotated[int, Field(ge=0)] = 80


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

    spec_augment: SpecAugment | None = None
    heads: tuple[Head, ...] = ()
    """What is learnt besides: each adds its loss to the main one."""

    later: ClassVar[Mapping[str, Any]] = {"labels": "train_only", "spec_augment": None, "heads": ()}

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
        return _in_order(parts, CLASS_PARTS)

    @model_validator(mode="after")
    def _heads_fit(self) -> Discriminative:
        names = [head.name for head in self.heads]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"heads names {name!r} twice")
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


class Autoencoder(Config):
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

    later: ClassVar[Mapping[str, Any]] = {
        "mel_scale": "htk",
        "power": 1,
        "window_norm": True,
        "validation": 0.0,
        "scores": ("recon",),
    }
    scope: ClassVar[Literal["all", "machine"]] = "machine"
    scored_embedding: ClassVar[bool] = False
    sees_test_classes: ClassVar[bool] = False

    @field_validator("scores")
    @classmethod
    def _in_one_order(cls, scores: tuple[OwnScore, ...]) -> tuple[OwnScore, ...]:
        return _in_order(scores, OWN_SCORES)

    @property
    def own_scores(self) -> tuple[str, ...]:
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


Frontend = Annotated[Discriminative | Autoencoder, Field(discriminator="name")]
