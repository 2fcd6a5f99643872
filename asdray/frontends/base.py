"""What a frontend is unless it says otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from asdray.audio.batches import Clips
from asdray.audio.features import to_float

if TYPE_CHECKING:
    from asdray.config.frontend import FrontendConfig

_CALLS = {"saved": (), "prepare": ("clips", "columns", "batch_size", "rng"), "extract": ("waves",)}
_CALLS_IN_TRAINING = {"training_data": ("clips", "columns", "batch_size", "rng"), "loss": ("batch",)}


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


def extract_all(
    frontend: FrontendModule, clips: Clips, n_samples: int | None, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """``frontend.extract`` of all N clips, on the CPU.

    Args:
        n_samples: of every clip; None = each at its own length.
        batch_size: clips at once.

    Returns:
        As of ``extract``, ``(N, ...)``, in the order of ``clips``.
    """
    wanted = np.full(len(clips), n_samples) if n_samples else np.maximum(clips.lengths, frontend.shortest)
    order, parts = [], []
    for length in np.unique(wanted):
        (same,) = np.nonzero(wanted == length)
        for start in range(0, len(same), batch_size):
            index = same[start : start + batch_size]
            waves = to_float(clips.gather(index, int(length)).to(device))
            order.append(index)
            # Left on the device: a GPU is not waited for, and computes while the next clips are gathered.
            parts.append(frontend.extract(waves))
    place = torch.from_numpy(np.argsort(np.concatenate(order)))
    return {name: torch.cat([part[name] for part in parts]).cpu()[place] for name in parts[0]}


def checked(frontend: Any, config: FrontendConfig) -> Any:
    """``frontend``, which a plugin made, if it can be called as asdray is going to.

    Raises:
        ValueError: it cannot; the message says how it must be.
    """
    name = f"frontend {config.name!r}: {type(frontend).__name__}"
    if not isinstance(frontend, FrontendModule):
        raise ValueError(f"{name} does not derive from asdray.frontends.base.FrontendModule")
    for method, arguments in {**_CALLS, **(_CALLS_IN_TRAINING if config.learns else {})}.items():
        found = getattr(frontend, method, None)
        wanted = f"{method}({', '.join(arguments)})"
        if found is None or getattr(found, "__func__", None) is FrontendModule.extract:
            raise ValueError(f"{name} has no {wanted}")
        signature = inspect.signature(found)
        try:
            signature.bind(*arguments)
        except TypeError:
            raise ValueError(f"{name}.{method}{signature} cannot be called as {wanted}") from None
    return frontend
