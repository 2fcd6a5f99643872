"""Branches of the discriminative frontend: networks on a clip, each with a part of the embedding.

Below ``frontend:`` of a recipe::

    branches: [{name: fft}, {name: stft, n_fft: 1024}]

or a pretrained encoder, beside others or alone::

    branches: [{name: encoder, network: beats, weights: BEATs_iter3, tune: lora, head: attentive_statistics}]
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from asdray.config.base import Config, Extensible, Interface, Positive
from asdray.config.encoder import (
    NETWORKS,
    check_frame_multiple,
    check_length,
    check_poolings,
    check_weights,
    file_name,
    weights_file,
    with_cls_token,
    without_layer,
)
from asdray.config.frontend_base import InputFile
from asdray.config.pooling import NoneOrMorePoolings
from asdray.config.tuning import Full, Last, Lora, NoTuning, Tuning
from asdray.config.weights import MADE_UP, Network
from asdray.dcase.years import SAMPLE_RATE


class NetworkConfig(Config):
    """Base class of a plugin's networks: the options of a branch.

    Attributes:
        takes_any_length: True if the network takes clips of any length. Training crops or lengthens clips to
            one length in any case.
    """

    name: str
    embedding_dim: Positive = 128
    """Dimensions of the branch's part of the embedding."""

    takes_any_length: ClassVar[bool] = False

    def check(self, n_samples: int) -> None:
        """Raises ValueError if clips of ``n_samples`` are too short for the network."""


class FftBranch(Config):
    """A branch with a 1-D convolutional network on the magnitude spectrum of the whole clip.

    Example: ``{name: fft, kernels: [256, 64, 16], strides: [64, 32, 4]}``
    """

    name: Literal["fft"] = "fft"
    channels: Positive = 128
    """Channels of each convolution."""
    kernels: tuple[Positive, Positive, Positive] = (256, 64, 16)
    """Widths of the three convolutions, in bins of the layer's input."""
    strides: tuple[Positive, Positive, Positive] = (64, 32, 4)
    """Steps of the three convolutions, in bins of the layer's input."""
    hidden: Annotated[int, Field(ge=0)] = 4
    """Number of fully connected layers between the first one and the last."""
    embedding_dim: Positive = 128
    """Dimensions of the branch's part of the embedding."""

    takes_any_length: ClassVar = False

    def lengths(self, n_samples: int) -> list[int]:
        """Number of bins of the spectrum, and after each of the three convolutions.

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

    def check(self, n_samples: int) -> None:
        """Raises ValueError if clips of ``n_samples`` are too short for the branch."""
        self.lengths(n_samples)


class StftBranch(Config):
    """A branch with a residual 2-D convolutional network on the magnitude spectrogram.

    Example: ``{name: stft, n_fft: 4096, hop_length: 2048, temporal_norm: true}``
    """

    name: Literal["stft"] = "stft"
    n_fft: Annotated[int, Field(ge=16)] = 1024
    """Window length, in samples."""
    hop_length: Positive = 512
    """Distance between windows, in samples."""
    f_min: Annotated[float, Field(ge=0)] = 200.0
    """Lowest centre frequency of a bin, in Hz; lower bins are cut off."""
    f_max: Annotated[float, Field(gt=0, le=SAMPLE_RATE / 2)] = 8000.0
    """Highest centre frequency of a bin, in Hz."""
    channels: tuple[Positive, ...] = Field(default=(16, 32, 64, 128), min_length=1)
    """Channels of the residual stages, two blocks each; every stage after the first halves the map."""
    embedding_dim: Positive = 128
    """Dimensions of the branch's part of the embedding."""
    temporal_norm: bool = False
    """If true, each bin's mean over the clip is subtracted, which removes stationary sound."""
    aggregation: Literal["mlp", "gap"] = "mlp"
    """Last map to vector: ``mlp``, one linear layer over all rows; ``gap``, the mean of the rows."""

    later: ClassVar = {"temporal_norm": False, "aggregation": "mlp"}
    takes_any_length: ClassVar = False
    MIN_SIDE: ClassVar[int] = 36

    def input_shape(self, n_samples: int) -> tuple[int, int]:
        """(frequency bins, frames) of the spectrogram.

        Raises:
            ValueError: fewer than 36 bins or frames, too few for the network's down-sampling.
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
        """First and last bin with a centre frequency in [f_min, f_max]."""
        width = SAMPLE_RATE / self.n_fft
        return -int(-self.f_min // width), int(self.f_max // width)

    def check(self, n_samples: int) -> None:
        """Raises ValueError if the spectrogram of a clip of ``n_samples`` is too small for the branch."""
        self.input_shape(n_samples)


class EncoderBranch(Config):
    """A branch with a pretrained encoder, frozen or tuned, and a head on its tokens.

    Example: ``{name: encoder, network: beats, weights: BEATs_iter3, tune: {name: lora, rank: 64}}``
    """

    name: Literal["encoder"] = "encoder"
    network: Network
    """As in the frontend ``encoder``."""
    weights: Annotated[str, Field(min_length=1)]
    """As in the frontend ``encoder``: a name that ``asdray encoders`` lists, or the path of a file."""
    layer: Literal["last"] | Positive = "last"
    """Block whose output tokens the head takes, from 1, or ``last``. Later blocks are not computed."""
    frame_multiple: Literal[16, 32] = 16
    """EAT only: spectra are padded with zeros to a multiple of so many frames of 10 ms. ASDKit has 32."""
    tune: Tuning = NoTuning()
    """The trained part of the encoder: ``none``, ``lora``, ``full``, ``{last: k}``, or an object."""
    head: Literal["mean", "cls", "attentive_statistics"] = "mean"
    """From tokens to one vector: the mean of all tokens; the class token; or mean and standard deviation over
    tokens that a small network weighs, then a linear layer (Okabe et al., Interspeech 2018, as in ASDKit)."""
    embedding_dim: Positive | None = 256
    """Dimensions of a linear layer on the head's vector; null for no layer."""
    norm_stats: Literal["saved", "initial"] = "saved"
    """Mean and variance of the head's batch norms after training. ``saved``: the running statistics of the
    training. ``initial``: 0 and 1, as in ASDKit, whose checkpoints lack the statistics."""
    dropout: Literal["published", "none"] = "published"
    """``published``: a tuned encoder trains with the dropouts that were published with it; the numbers are in
    `asdray.frontends.encoders.beats` and `asdray.frontends.encoders.eat`. ``none``: without any."""
    activation_checkpointing: bool = False
    """If true, blocks are computed again in the backward pass, which needs less memory and more time."""
    poolings: NoneOrMorePoolings = ()
    """Poolings of the tokens before head and linear layer: each is a further embedding of the extraction,
    named as in the frontend ``encoder``."""

    hashed_as: ClassVar = {"weights": file_name}
    takes_any_length: ClassVar = True

    @field_validator("tune")
    @classmethod
    def _fits_the_network(cls, tune: Tuning, info: ValidationInfo) -> Tuning:
        network = info.data.get("network")
        if network is None:  # a fault of its own
            return tune
        return tune.of_network(network) if isinstance(tune, Lora) else tune

    @model_validator(mode="after")
    def _network_has_them(self) -> EncoderBranch:
        facts = NETWORKS[self.network]
        if self.layer_number > facts.n_layers:
            raise ValueError(f"layer: {without_layer(self.network, self.layer_number)}")
        check_poolings(self.network, self.poolings)
        check_frame_multiple(self.network, self.frame_multiple)
        check_weights(self.network, self.weights)
        if self.head == "cls" and not facts.has_cls:
            having = with_cls_token()
            raise ValueError(
                f"head: network {self.network!r} has no CLS token: choose mean or attentive_statistics "
                f"(networks with a CLS token: {having})"
            )
        if self.norm_stats == "initial" and self.head != "attentive_statistics":
            raise ValueError(
                f"norm_stats: the head {self.head!r} has no batch norm, so norm_stats must be saved"
            )
        if self.activation_checkpointing:
            self._check_checkpointing()
        self._check_depth()
        return self

    def _check_checkpointing(self) -> None:
        having = ("beats", "eat", "eat_large")
        if self.network not in (*having, *MADE_UP.values()):
            raise ValueError(
                f"activation_checkpointing is an option of {', '.join(having)}, not of {self.network!r}"
            )
        if isinstance(self.tune, NoTuning):
            raise ValueError("activation_checkpointing saves nothing with tune none: leave it out")

    def _check_depth(self) -> None:
        n_layers = NETWORKS[self.network].n_layers
        if isinstance(self.tune, Last) and self.tune.blocks > self.layer_number:
            raise ValueError(
                f"tune: network {self.network!r} has {self.layer_number} blocks up to layer {self.layer}, "
                f"not {self.tune.blocks}: choose {{last: {self.layer_number}}}, fewer blocks, or full"
            )
        in_blocks = isinstance(self.tune, Last) or (isinstance(self.tune, Full) and self.tune.layer_decay < 1)
        if in_blocks and n_layers == 1:
            raise ValueError(
                f"tune: network {self.network!r} has one block, so there is nothing between none and full: "
                "choose one of them, without layer_decay"
            )

    @property
    def layer_number(self) -> int:
        """The number of the block whose tokens the head takes."""
        return NETWORKS[self.network].n_layers if self.layer == "last" else self.layer

    @property
    def drops_blocks(self) -> bool:
        """True if training leaves blocks out at random."""
        return not isinstance(self.tune, NoTuning) and self.dropout == "published"

    @property
    def embeddings(self) -> dict[str, Any]:
        """Names of the further embeddings, each with its pooling."""
        return {f"L{self.layer_number}_{pooling.label}": pooling for pooling in self.poolings}

    def input_file(self, kind: str, option: str) -> InputFile:
        """The file of the weights."""
        return weights_file(self.network, self.weights, kind, option)

    def check(self, n_samples: int) -> None:
        """Raises ValueError if a clip of ``n_samples`` gives no token of the network."""
        check_length(self.network, n_samples)


_BuiltIn = FftBranch | StftBranch | EncoderBranch
_MODULE = Interface(
    ("config", "n_samples"), "torch.nn.modules.module.Module", {"forward": ("waves",)}, {"view": ("waves",)}
)
Branch = Annotated[_BuiltIn, Extensible("NETWORKS", "network", NetworkConfig, _BuiltIn, _MODULE)]
