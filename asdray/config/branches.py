"""Branches of the discriminative frontend: a spectral view of the clip and the network on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from asdray.config.base import Config
from asdray.config.losses import Positive
from asdray.dcase.years import SAMPLE_RATE


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
