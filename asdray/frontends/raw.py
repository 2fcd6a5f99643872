"""The frontend without a model: the time mean of a mel spectrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from asdray.audio import features
from asdray.audio.batches import Clips

if TYPE_CHECKING:
    from asdray.config.frontend import RawSpec


class RawSpecFrontend(nn.Module):
    """How loud each mel band is on average; HTK filters on magnitudes, no logarithm."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: RawSpec) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        self.register_buffer("window", features.hann(config.n_fft), persistent=False)
        self.register_buffer("filters", features.mel_filters(config.n_mels, config.n_fft), persistent=False)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the weights to build this frontend again."""
        return {}

    shortest = 1
    needs_training_clips = False

    def prepare(self, clips: Clips, columns: Mapping[str, Sequence[Any]]) -> None:
        """Nothing to do: embeddings depend on no other clip."""

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """``embedding`` ``(B, n_mels) float32`` of whole clips ``(B, L) float32``."""
        frames = features.mel(waves, self.window, self.hop_length, self.filters)
        return {"embedding": frames.mean(dim=1)}
