"""Frontends: models that turn the sound of a clip into an embedding, or into anomaly scores of their own.

Each class describes one kind of frontend, below ``frontend:`` of a recipe::

    frontend:
      name: discriminative
      loss: {name: adacos}
      branches: [{name: fft}, {name: stft, n_fft: 1024}]

Lengths of clips are in samples at 16 kHz; a clip of N samples has N // hop_length + 1 frames.
"""

from __future__ import annotations

import typing
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from asdray.config.base import (
    Config,
    Extensible,
    Interface,
    Positive,
    Probability,
    in_order,
    refuse_repeats,
)
from asdray.config.branch import Branch, EncoderBranch, FftBranch, StftBranch
from asdray.config.clustering import Clustering
from asdray.config.encoder import Encoder
from asdray.config.frontend_base import CLASS_PARTS, ClassPart, FrontendConfig, InputFile
from asdray.config.losses import AdaCos, ClassHead, Head, Loss, Projector
from asdray.config.untrained import Precomputed, RawSpec
from asdray.config.weights import MADE_UP
from asdray.dcase.years import SAMPLE_RATE

OwnScore = Literal["recon", "mahalanobis"]
OWN_SCORES: tuple[OwnScore, ...] = typing.get_args(OwnScore)


# ------------------------------------------------------------------------------------------- discriminative


class SpecAugment(Config):
    """SpecAugment on the waveform: frames and frequency bins of a training clip's spectrogram are set to 0.

    The spectrogram is an STFT (1024, hop 256); its inverse keeps the phases, so that all branches hear the
    same masked clip. Masks come after mixup. Source: Park et al., SpecAugment, Interspeech 2019, as in
    ASDKit.

    Example: ``spec_augment: {probability: 0.5, max_frames: 79, max_bins: 79}``
    """

    probability: Probability = 0.5
    """Share of the clips with a mask in time; independently, share of the clips with a mask in frequency."""
    max_frames: Annotated[int, Field(ge=0)] = 79
    """Largest width of a mask in time, in frames of 16 ms, inclusive; ASDKit leaves out its width, 80."""
    max_bins: Annotated[int, Field(ge=0)] = 79
    """Largest width of a mask in frequency, in bins of 15.6 Hz."""


class SupplementalNoise(Config):
    """Supplemental clips of noise alone, added to training clips before every other augmentation.

    The noise of a clip comes from any machine of the unit. A clip is noise if its name says so; supplemental
    clips of the machine alone are not read.

    Example: ``supplemental: {snr: [0, 20], probability: 0.5}``
    """

    snr: tuple[float, float] = (0.0, 20.0)
    """Smallest and largest ratio of the training clip's power to the noise's, in dB; uniform in between."""
    probability: Probability = 0.5
    """Share of the clips that noise is added to."""

    @field_validator("snr")
    @classmethod
    def _ascending(cls, snr: tuple[float, float]) -> tuple[float, float]:
        if snr[0] > snr[1]:
            raise ValueError(f"snr {list(snr)} must be the smallest ratio, then the largest")
        return snr


class Discriminative(FrontendConfig):
    """One network for all machines, trained to classify normal sound; offers an embedding.

    Source: Wilkinghoff, ICASSP 2023 (two branches), as configured in ASDKit, arXiv 2507.10264.

    Example: ``frontend: {name: discriminative, loss: {name: adacos}, mixup_probability: 0.5}``
    """

    name: Literal["discriminative"] = "discriminative"
    classes: tuple[ClassPart | Clustering, ...] = Field(default=CLASS_PARTS, min_length=1)
    """Properties that make up a class, in any order: clips of one class are equal in all of them. One of the
    properties may be a cluster of another system's embeddings, see `asdray.config.clustering`."""
    labels: Literal["train_only", "asdkit"] = "train_only"
    """``train_only``: the classes of the training clips. ``asdkit``: the classes of the test clips as well,
    for comparison with results that ASDKit published. ``asdkit`` adds centres of classes without a training
    clip, and enlarges the scale of the loss. The training then reads the sections, attributes and domains
    that occur among a machine's test clips, but neither normal/anomalous labels nor the class of any single
    clip."""
    branches: tuple[Branch, ...] = Field(default=(FftBranch(), StftBranch()), min_length=1)
    """Networks on the clip (spectrum, spectrogram, pretrained encoder, a plugin's own); the embedding joins
    all outputs."""
    loss: Loss = AdaCos()
    """Main loss, of the whole embedding."""
    mixup_probability: Probability = 0.5
    """Share of the clips of a training batch that are mixed with another clip of the batch."""
    mixup_alpha: Annotated[float, Field(gt=0)] | None = None
    """A mixed clip's own share comes from the distribution Beta(alpha, alpha), 0.5 in Noisy-ArcMix; null:
    uniform between 0 and 1."""
    mixup_per: Literal["clip", "batch"] = "clip"
    """``clip``: every mixed clip has a share of its own. ``batch``: all mixed clips of a batch have one."""
    mixup_of: Literal["waveform", "spectrogram"] = "waveform"
    """``waveform``: sounds are mixed. ``spectrogram``: the inputs of the branches' networks are mixed, after
    `spec_augment`."""
    spec_augment: SpecAugment | None = None
    """Masks on training clips; null for none."""
    heads: tuple[Head, ...] = ()
    """Auxiliary losses, each added to the main one."""
    projector: Projector | None = None
    """A bottleneck between embedding and losses; null for none."""
    supplemental: Literal["classes"] | SupplementalNoise | None = None
    """Use of the supplemental clips that some years have. ``classes``: a machine's supplemental clips are
    trained on as a class of their own. An object with ``snr``: noise is added to the training clips. Null:
    the clips are not read."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training clips, drawn at random, that is held out. ``best`` is then the epoch with the
    lowest loss of held-out clips, without augmentation; ``metrics.csv`` has a column for this loss."""

    later: ClassVar = {
        "labels": "train_only",
        "mixup_alpha": None,
        "mixup_per": "clip",
        "mixup_of": "waveform",
        "spec_augment": None,
        "heads": (),
        "projector": None,
        "supplemental": None,
        "validation": 0.0,
    }
    scope: ClassVar[Literal["all", "machine"]] = "all"
    modules: ClassVar[tuple[str, ...]] = (*FrontendConfig.modules, "asdray.frontends.discriminative")

    @property
    def encoder_branches(self) -> dict[int, EncoderBranch]:
        """The branches with a pretrained encoder, by position."""
        return {i: branch for i, branch in enumerate(self.branches) if isinstance(branch, EncoderBranch)}

    @property
    def takes_any_length(self) -> bool:  # type: ignore[override]
        """True if all branches take clips of any length, as encoders do. Training crops or lengthens clips to
        one length in any case."""
        return all(branch.takes_any_length for branch in self.branches)

    @property
    def embeddings(self) -> tuple[str, ...]:  # type: ignore[override]
        """``embedding``, then the poolings of encoders' tokens."""
        more = (name for branch in self.encoder_branches.values() for name in branch.embeddings)
        return ("embedding", *more)

    @property
    def encoder_kinds(self) -> dict[int, str]:
        """The kind of input file that each encoder reads, by the position of its branch.

        Encoders with the same weights read the same file.
        """
        files = dict.fromkeys(branch.weights for branch in self.encoder_branches.values())
        kinds = dict(
            zip(files, ("encoder", *(f"encoder{n}" for n in range(2, len(files) + 1))), strict=False)
        )
        return {i: kinds[branch.weights] for i, branch in self.encoder_branches.items()}

    @property
    def test_classes(self) -> tuple[ClassPart, ...]:  # type: ignore[override]
        """The parts of a class whose values among the test clips are read: with ``labels: asdkit`` all."""
        if self.labels == "train_only":
            return ()
        parts = {*self.classes, *(part for head in self.class_heads for part in head.classes or ())}
        return tuple(part for part in CLASS_PARTS if part in parts)

    @property
    def reads_supplemental(self) -> bool:  # type: ignore[override]
        """True if training reads the machines' supplemental clips."""
        return self.supplemental is not None

    @property
    def has_made_up_weights(self) -> bool:  # type: ignore[override]
        """True if an encoder's weights are drawn at random."""
        return any(branch.network in MADE_UP.values() for branch in self.encoder_branches.values())

    @property
    def class_heads(self) -> tuple[ClassHead, ...]:
        """The heads with classes of their own."""
        return tuple(head for head in self.heads if head.name == "classes" and head.classes is not None)

    @property
    def clustering(self) -> Clustering | None:  # type: ignore[override]
        """The clustering among the classes."""
        return next((part for part in self.classes if isinstance(part, Clustering)), None)

    @property
    def class_parts(self) -> tuple[str, ...]:
        """Names of the columns that make up a class; ``cluster`` for the clustering."""
        return tuple("cluster" if isinstance(part, Clustering) else part for part in self.classes)

    @property
    def classes_from(self) -> Literal["train", "train+test"]:  # type: ignore[override]
        """The clips whose attributes and domains make the classes."""
        return "train+test" if self.labels == "asdkit" else "train"

    @property
    def holds_out(self) -> bool:  # type: ignore[override]
        """True if training clips are held out."""
        return self.validation > 0

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
    def _in_one_order(cls, parts: tuple[ClassPart | Clustering, ...]) -> tuple[ClassPart | Clustering, ...]:
        clusterings = tuple(part for part in parts if isinstance(part, Clustering))
        if len(clusterings) > 1:
            raise ValueError("the list has more than one clustering: leave all but one out")
        if clusterings and "machine" not in parts:
            raise ValueError("a clustering needs machine in the list: clusters are numbered per machine")
        known = tuple(part for part in parts if not isinstance(part, Clustering))
        return (*in_order(known, CLASS_PARTS), *clusterings)

    @model_validator(mode="after")
    def _clusters_training_clips(self) -> Discriminative:
        if self.clustering and self.labels == "asdkit":
            raise ValueError(
                "labels: asdkit reads the classes of the test clips, which have no clusters: choose "
                "labels: train_only, or leave the clustering out of classes"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Discriminative:
        names = [head.name for head in self.heads if head.name != "classes"]
        refuse_repeats(names, "heads")
        refuse_repeats([head for head in self.heads if head.name == "classes"], "heads")
        if "featex" in names and len(self.branches) < 2:
            raise ValueError("heads: featex exchanges the outputs of branches, so it needs at least two")
        refuse_repeats(self.embeddings, "branches: the embeddings of all poolings together")
        return self

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The weight files of encoders, each once."""
        files = {
            kind: self.encoder_branches[i].input_file(kind, f"branches.{i}.weights")
            for i, kind in reversed(self.encoder_kinds.items())
        }
        return tuple(files[kind] for kind in sorted(files))

    def check(self, n_samples: int) -> None:
        """Raises ValueError if clips of ``n_samples`` are too short for a branch."""
        for branch in self.branches:
            branch.check(n_samples)


# ------------------------------------------------------------------------------------------ other frontends


class Autoencoder(FrontendConfig):
    """One autoencoder per machine on stacked log-mel frames; offers anomaly scores of its own.

    The embedding, the mean of the bottleneck over time, is for plots; backends do not score it.
    Source: network of the official DCASE Task 2 baseline; defaults as in ASDKit's ``ae``.

    Example: ``frontend: {name: autoencoder, n_frames: 5, bottleneck: 8, scores: [recon]}``
    """

    name: Literal["autoencoder"] = "autoencoder"
    n_mels: Positive = 128
    """Number of mel filters, from 0 to 8000 Hz."""
    n_fft: Annotated[int, Field(ge=16)] = 1024
    """Window length, in samples."""
    hop_length: Positive = 512
    """Distance between windows, in samples."""
    n_frames: Positive = 5
    """Number of consecutive log-mel frames in one input vector."""
    mel_scale: Literal["htk", "slaney"] = "htk"
    """``htk``: filters of height 1. ``slaney``: filters of area 1, as in librosa."""
    power: Literal[1, 2] = 1
    """Exponent of the magnitudes that a mel filter sums: 1 magnitude, 2 power."""
    window_norm: bool = True
    """If true, magnitudes are divided by the root of the window's energy."""
    hidden: tuple[Positive, ...] = Field(default=(128, 128, 128, 128), min_length=1)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    bottleneck: Positive = 8
    """Width of the bottleneck."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training vectors, drawn at random, that is held out. ``best`` is then the epoch with the
    lowest loss of held-out vectors, and ``metrics.csv`` has a column for this loss."""
    scores: tuple[OwnScore, ...] = Field(default=("recon",), min_length=1)
    """``recon``: mean squared reconstruction error of a clip. ``mahalanobis``: Mahalanobis length of a clip's
    mean error, for the nearer domain's covariance. Formulas in `asdray.frontends.autoencoder`."""
    centring: Literal["domain", "batch"] = "domain"
    """Mean around which ``mahalanobis`` takes covariances. ``domain``: mean error of a domain's training
    clips. ``batch``, as in the official baseline: mean error of the domain's vectors in each batch of a
    shuffled pass over the training vectors, so that order and size of batches change the score."""

    later: ClassVar = {
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
        return in_order(scores, OWN_SCORES)

    @property
    def own_scores(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the scores that the frontend computes."""
        return self.scores

    @property
    def holds_out(self) -> bool:  # type: ignore[override]
        """True if training vectors are held out."""
        return self.validation > 0

    def check(self, n_samples: int) -> None:
        """Raises ValueError if a clip of ``n_samples`` has too few frames for one input vector."""
        frames = n_samples // self.hop_length + 1
        if frames < self.n_frames:
            raise ValueError(
                f"clips of {n_samples / SAMPLE_RATE:g} s have {frames} frames, fewer than n_frames "
                f"{self.n_frames}: choose a shorter hop_length, fewer n_frames or a longer audio.duration"
            )


_BuiltIn = Discriminative | Autoencoder | RawSpec | Precomputed | Encoder
_FOUR = ("clips", "columns", "batch_size", "rng")
_MODULE = Interface(
    ("config", "n_samples", "columns", "saved"),
    "asdray.frontends.base.FrontendModule",
    {"extract": ("waves",)},
    {"saved": (), "prepare": _FOUR, "load_frozen": ("files",), "parameter_groups": ("options",)},
    {"training_data": _FOUR, "loss": ("batch",)},
)
Frontend = Annotated[_BuiltIn, Extensible("FRONTENDS", "frontend", FrontendConfig, _BuiltIn, _MODULE)]
