"""Checkpoints: dictionaries that Lightning writes and that are read here without Lightning.

Besides Lightning's entries a checkpoint has the entry ``asdray``: the training's ``signature``, the
``history`` (one row per finished epoch) and ``frontend``, the return value of the frontend's ``saved()``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asdray import frontends, store

if TYPE_CHECKING:
    from asdray.config.frontend import FrontendConfig
    from asdray.frontends.base import FrontendModule

PREFIX = "frontend."
"""Prefix of the frontend's tensors: the frontend is an attribute of the module that Lightning trains."""


def read(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """The checkpoint at ``path``, on the CPU; code inside the file is not run.

    Args:
        sha256: hash of the content that the training wrote, if known.

    Raises:
        ValueError: the file is missing, damaged, no checkpoint of asdray, or has another hash.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    try:
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("its content is not what the training wrote")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or "asdray" not in checkpoint:
            raise ValueError("not a checkpoint of asdray")
        return checkpoint
    except (ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged ({reason}): delete it and run `asdray train` again") from None


def write_empty(path: Path, signature: str) -> None:
    """Writes a checkpoint without weights, for a frontend that learns nothing."""
    with store.atomic_path(path) as temporary:
        saved = {"signature": signature, "history": [], "frontend": {}}
        torch.save({"state_dict": {}, "asdray": saved}, temporary)


def load(
    path: Path,
    config: FrontendConfig,
    n_samples: int,
    *,
    sha256: str | None = None,
    files: Mapping[str, Mapping[str, Path]] | None = None,
) -> FrontendModule:
    """The trained frontend of a checkpoint, on the CPU, in evaluation mode.

    Args:
        n_samples: samples per clip.
        sha256: of the checkpoint's content, if known.
        files: see `asdray.frontends.build`.

    Raises:
        ValueError: see `read`.
    """
    checkpoint = read(path, sha256)
    frontend = frontends.build(config, n_samples, saved=checkpoint["asdray"]["frontend"], files=files)
    tensors = checkpoint["state_dict"].items()
    weights = {name.removeprefix(PREFIX): value for name, value in tensors if name.startswith(PREFIX)}
    frontend.load_state_dict({**frontend.frozen_state(), **weights})
    return frontend.eval()
