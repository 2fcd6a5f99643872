"""aiSFX: a small convolutional network for sound effects; one vector per window of 2.3 s.

Source: Ma and Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR
2022; weights in the package ``aisfx`` (CC BY 4.0). Spectra are the paper's, which Essentia computes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.frontends.encoders.base import EncoderNetwork, Tokens

RATE = 44_100
"""Hz of the network's input, to which clips are resampled."""

N_FFT, HOP, N_MELS = 2048, 1024, 96

LARGEST = 9.457798957824707
"""Largest value of a spectrum in the network's training data; 0 is the smallest."""

WINDOW, STEP = 100, 50
"""Frames of one input of the network, and between two; an incomplete last window is left out."""

AT_ONCE = 64
"""Windows that are computed together; each takes some 7 MB."""


class Aisfx(EncoderNetwork):
    """aiSFX: four blocks of two convolutions; the one layer is the vector of each window, 512 dimensions.

    A clip that is shorter than a window is followed by silence.
    """

    name: ClassVar[str] = "aisfx"
    first_layer: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__()
        self.n_layers, self.width, self.bands, self.has_cls = 1, 512, 1, False
        # More than STEP frames.
        self.shortest = math.ceil(((STEP - 1) * HOP + 1) * self.sample_rate / RATE)
        self.conv_block1, self.conv_block2 = _Block(1, 64), _Block(64, 128)
        self.conv_block3, self.conv_block4 = _Block(128, 256), _Block(256, 512)

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the classifiers of the training datasets."""
        return {
            name.removeprefix("embedding_net."): value
            for name, value in state.items()
            if not name.startswith("fc.")
        }

    def fill(self, state: Mapping[str, Tensor]) -> list[str]:
        """See `EncoderNetwork.fill`; the kernels are copied."""
        faults = super().fill(state)
        # Channels next to each other: convolutions on a CPU take three quarters of the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return faults

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` at 16 kHz -> ``(B, frames, 96) float32`` between 0 and about 1.

        Raises:
            ValueError: clips shorter than 1.14 s.
        """
        from torchaudio.functional import resample

        self.check_length(waves)
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False):
            waves = resample(waves.float(), self.sample_rate, RATE)
            waves = F.pad(waves, (0, -waves.shape[-1] % HOP))
            window = torch.hann_window(N_FFT, periodic=False, device=waves.device)
            bins = torch.stft(waves, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True)
            powers = torch.addcmul(bins.real.square(), bins.imag, bins.imag).transpose(1, 2)
            return (powers @ _filters(waves.device)).mul_(1e4).add_(1).log10_().div_(LARGEST)

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Spectra ``(B, frames, 96)`` -> ``(B, windows, 1, 512)``.

        Raises:
            ValueError: a layer that does not exist.
        """
        self.check_layers(layers)
        if spectrum.shape[1] < WINDOW:
            spectrum = F.pad(spectrum, (0, 0, 0, WINDOW - spectrum.shape[1]))
        windows = spectrum.unfold(1, WINDOW, STEP).transpose(2, 3).reshape(-1, 1, WINDOW, N_MELS)
        vectors = torch.cat([self._vectors(part) for part in windows.split(AT_ONCE)])
        return {1: Tokens(vectors.unflatten(0, (len(spectrum), -1))[:, :, None], None)}

    def _vectors(self, x: Tensor) -> Tensor:
        """Windows ``(W, 1, 100, 96)`` -> ``(W, 512)``."""
        for block in (self.conv_block1, self.conv_block2, self.conv_block3):
            x = F.max_pool2d(block(x), 2)
        return self.conv_block4(x).float().mean(3).amax(2)


class _Block(nn.Module):
    """Two convolutions of 3 x 3, each with batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)))


@functools.lru_cache(maxsize=16)
def _filters(device: torch.device) -> Tensor:
    """Mel filters ``(1025, 96)`` up to 22050 Hz: triangles on HTK's mel scale, each of sum 1."""

    def mel(hz: Tensor) -> Tensor:
        return 2595 * (1 + hz / 700).log10()

    with torch.device("cpu"):
        bins = mel(torch.linspace(0, RATE / 2, N_FFT // 2 + 1, dtype=torch.float64))
        edges = torch.linspace(0, float(bins[-1]), N_MELS + 2, dtype=torch.float64)[:, None]
        low, centre, high = edges[:-2], edges[1:-1], edges[2:]
        sides = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp_min(0)
        return (sides / sides.sum(1, keepdim=True)).T.float().contiguous().to(device)
