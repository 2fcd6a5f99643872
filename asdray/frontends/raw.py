"""The frontend without learning: the time mean of a mel spectrogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from asdray.audio import features
from asdray.frontends.base import FrontendModule

if TYPE_CHECKING:
    from asdray.config.frontend import RawSpec


class RawSpecFrontend(FrontendModule):
    """The mean magnitude of each mel band over time; HTK filters on magnitudes, no logarithm.

    Source: ASDKit ``raw_spec``, arXiv 2507.10264.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: RawSpec) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        self.register_buffer("window", features.hann(config.n_fft), persistent=False)
        self.register_buffer("filters", features.mel_filters(config.n_mels, config.n_fft), persistent=False)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Whole clips ``(B, L) float32`` -> ``embedding`` ``(B, n_mels) float32``."""
        frames = features.mel(waves, self.window, self.hop_length, self.filters)
        return {"embedding": frames.mean(dim=1)}
