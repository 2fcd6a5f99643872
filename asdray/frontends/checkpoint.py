"""Checkpoints: dictionaries that Lightning writes and that are read here without Lightning.

Besides Lightning's entries a checkpoint has the entry ``asdray``: the training's ``signature``, the
``history`` (one row per finished epoch) and ``frontend``, the return value of the frontend's ``saved()``.
A training with ``train.ema`` adds the entry ``averaged``: the averaged weights, which extraction uses.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asdray import damage, frontends, store
from asdray.regular import open_regular

if TYPE_CHECKING:
    from asdray.config.frontend import FrontendConfig
    from asdray.frontends.base import FrontendModule

PREFIX = "frontend."
"""Prefix of the frontend's tensors: the frontend is an attribute of the module that Lightning trains."""


AVERAGED = "averaged"
"""Entry of a checkpoint with averaged weights: ``n_averaged`` steps, and ``tensors`` by name."""


def read(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """The checkpoint at ``path``, on the CPU; code inside the file is not run.

    Args:
        sha256: hash of the content that the training wrote, if known; else the checksums inside the file are
            compared, which PyTorch does not.

    Raises:
        DamagedError: no checkpoint of asdray, or one with other content than the training wrote.
        ValueError: the file is missing.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
        if sha256 is None:
            _check_parts(content)
        elif hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("its content is not what the training wrote")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        saved = checkpoint.get("asdray") if isinstance(checkpoint, dict) else None
        if not isinstance(saved, dict) or not {"signature", "history", "frontend"} <= saved.keys():
            raise ValueError("not a checkpoint of asdray")
        return checkpoint
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except _FAULTS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise damage.DamagedError(path, reason, damage.owner_of(path)) from None


_FAULTS = (
    *(ValueError, RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, OverflowError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)
"""What reading the bytes of a damaged checkpoint raises."""


def _check_parts(content: bytes) -> None:
    """Compares every part of a checkpoint, a zip archive, with its CRC-32."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part {name} is another one")


def interned(value: Any) -> Any:
    """``value`` with one object per text inside dictionaries and lists, as in the process that wrote it.

    Pickled, an object that occurs again is a reference: with it, a training that goes on from a checkpoint
    writes the bytes of an undisturbed one.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) is dict:
        return {interned(name): interned(inner) for name, inner in value.items()}
    return [interned(inner) for inner in value] if type(value) is list else value


def write_empty(path: Path, signature: str) -> None:
    """Writes a checkpoint without weights, for a frontend that learns nothing."""
    saved = {"signature": signature, "history": [], "frontend": {}}
    with store.atomic_path(path) as temporary:
        write({"state_dict": {}, "asdray": saved}, temporary)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint to ``path``, which is not its name yet; equal contents give equal bytes.

    PyTorch would name the archive by the file, and tell a full disk as a RuntimeError.
    """
    whole = io.BytesIO()
    torch.save(content, whole)
    path.write_bytes(whole.getbuffer())


def load(
    path: Path,
    config: FrontendConfig,
    n_samples: int,
    *,
    sha256: str | None = None,
    files: Mapping[str, Mapping[str, Path]] | None = None,
) -> FrontendModule:
    """The trained frontend of a checkpoint, on the CPU, in evaluation mode; averaged weights come first.

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
    averaged = checkpoint.get(AVERAGED, {}).get("tensors", {})
    frontend.load_state_dict({**frontend.frozen_state(), **weights, **averaged})
    return frontend.eval()
