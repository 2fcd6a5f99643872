"""Shipped recipes made small: with the options that make them what they are, and with little work."""

from __future__ import annotations

from typing import Any

from asdray.config.recipe_files import recipe_names
from asdray.config.system import load_recipe

SMALL_FFT = {"channels": 4, "kernels": [32, 16, 4], "strides": [16, 8, 2], "hidden": 1, "embedding_dim": 5}
SMALL_STFT = {"hop_length": 128, "channels": [4, 8], "embedding_dim": 6}


def runnable_recipes() -> list[str]:
    """The recipes that a test can run: all but those of encoders whose weights are no Python package."""
    tuned = tuned_recipes()
    weights = {n: getattr(load_recipe(n).frontend, "weights", "aisfx") for n in recipe_names()}
    return [n for n, of_recipe in weights.items() if of_recipe == "aisfx" and n not in tuned]


def tuned_recipes() -> list[str]:
    """The recipes whose network is a pretrained encoder, tuned."""
    branches = {n: getattr(load_recipe(n).frontend, "branches", ()) for n in recipe_names()}
    return [n for n, of_recipe in branches.items() if any(b.name == "encoder" for b in of_recipe)]


def changes(name: str) -> dict[str, Any]:
    """Overrides of a recipe for one epoch on clips of 0.4 s, or of 1.2 s for an encoder."""
    system = load_recipe(name).system
    small: dict[str, Any] = {"audio.duration": 0.4, "train.epochs": 1, "train.batch_size": 8}
    if system.frontend.name == "discriminative":
        small["frontend.branches"] = [
            {"name": "fft", **SMALL_FFT}
            if b.name == "fft"
            else {"name": "stft", "n_fft": 256 << i, **SMALL_STFT}
            for i, b in enumerate(system.frontend.branches)
        ]
    elif system.frontend.name == "encoder":
        small["audio.duration"] = 1.2
    else:
        sizes = {"n_mels": 8, "n_fft": 256, "hop_length": 128}
        small |= {f"frontend.{k}": v for k, v in sizes.items() if hasattr(system.frontend, k)}
    if system.frontend.name == "autoencoder":
        small |= {"frontend.hidden": [8], "train.batch_size": 32}
    return small
