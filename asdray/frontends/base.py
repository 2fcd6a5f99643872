"""What a frontend is unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from asdray.audio.batches import Clips


class FrontendModule(nn.Module):
    """The base of every frontend, see `asdray.frontends`.

    Attributes:
        shortest: samples; a shorter clip is repeated, also where every clip has its own length.
        needs_training_clips: whether `prepare` is called before extraction.
    """

    shortest: int = 1
    needs_training_clips: bool = False

    def saved(self) -> dict[str, Any]:
        """Plain values that a checkpoint must hold besides the weights to build this frontend again."""
        return {}

    def prepare(
        self,
        clips: Clips,
        columns: Mapping[str, Sequence[Any]],
        batch_size: int,
        rng: np.random.Generator,
    ) -> None:
        """Takes from the machine's training clips what extraction must know of them.

        Args:
            rng: in the state in which ``training_data`` got it, where the unit is this machine.
        """

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """``embedding (B, D) float32`` of clips ``(B, L) float32``, and each of its own scores ``(B,)``."""
        raise NotImplementedError
