"""Weight files of encoders: reading without running code from them, and strict loading.

Files may be torch's (with or without a configuration beside the tensors), fairseq's, or safetensors.
"""

from __future__ import annotations

import json
import mmap
import pickle
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asdray.frontends import encoders
from asdray.frontends.encoders.base import EncoderNetwork
from asdray.regular import open_regular

# Part of the name of a tensor that only this network has, and the tensor's last dimension if that matters.
_SIGNS = {
    "eat_made_up": ("extra_tokens", 48),
    "beats_made_up": ("self_attn.q_proj.weight", 48),
    "beats": ("self_attn.grep_a", None),
    "eat": ("extra_tokens", 768),
    "eat_large": ("extra_tokens", 1024),
    "aisfx": ("conv_block1.conv1.weight", None),
    "ast": ("embeddings.distillation_token", None),
    "clap": ("audio_encoder.patch_embed.proj.weight", None),
}
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(network: EncoderNetwork, path: Path) -> None:
    """Fills a network with the weights of a file; the file's pages are shared between processes that read it.

    Args:
        network: may be on the meta device.
        path: a published file of the network; what inference never reads, such as heads, is left out.

    Raises:
        ValueError: the file is unreadable, of another network, or its tensors are not exactly the network's.
    """
    fit(network, read(path), path)


def fit(network: EncoderNetwork, state: Mapping[str, Tensor], path: Path) -> None:
    """Fills a network with tensors under their published names, from the file that messages name.

    Raises:
        ValueError: the tensors are of another network, or not exactly the network's.
    """
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    if faults := network.fill(tensors):
        other = recognised(state)
        if other and other != network.name:
            raise ValueError(
                f"{path} holds weights of the network {other!r}, not of {network.name!r}: "
                f"choose `network: {other}`, or other weights"
            )
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        unknown = "" if other else "; the file seems to be of no network that asdray knows"
        raise ValueError(f"{path} does not fit the network {network.name!r}: {faults[0]}{more}{unknown}")


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The name of the network whose tensors these are, by a tensor that no other one has; None if unknown."""
    for network, (part, width) in _SIGNS.items():
        if any(
            part in name and (width is None or value.shape[-1:] == (width,)) for name, value in state.items()
        ):
            return network
    return None


def check(name: str, path: Path) -> None:
    """Compares the names and shapes of a file's tensors with a network's; no values are read or kept.

    Only the old format of torch, which has its values inside of the pickle, is read as a whole.

    Args:
        name: of the network, see `asdray.frontends.encoders.build`.

    Raises:
        ValueError: see `load`; or the network needs a package that is not installed.
    """
    shapes = {tensor: value.to("meta") for tensor, value in read(path).items()}
    fit(encoders.build(name), shapes, path)


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name, on the CPU.

    Raises:
        ValueError: the file does not exist, is truncated, or is no weight file; or its pickled part asks for
            code that reading tensors never needs.
    """
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if start[8:9] == b"{":
        return _safetensors(path)
    try:
        content = _torch(path, mapped=start.startswith(b"PK"))
    except _ForbiddenError as error:
        raise ValueError(
            f"{path} asks for {error}, which no weight file needs: the file is not trusted"
        ) from None
    except Exception as error:  # a foreign file can make the reader of pickles raise anything
        raise ValueError(
            f"{path} is truncated or no weight file ({type(error).__name__}): fetch the file again"
        ) from None
    state = _state(content)
    if not state:
        raise ValueError(f"{path} holds no tensors by name: the file is no weight file")
    return state


def _state(content: Any) -> dict[str, Tensor]:
    """The tensors in a file's content: a dict, one below ``model`` or ``state_dict``, or a tuple's first."""
    if isinstance(content, tuple | list) and content:
        content = content[0]
    for entry in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


# ---------------------------------------------------------------------------------------------- safetensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: 8 bytes with the length of a JSON header, the header, the values."""
    try:
        with open_regular(path) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(content, start, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError):
        raise ValueError(f"{path} is truncated or no safetensors file: fetch the file again") from None


def _tensor(content: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    """One tensor, as a view of the file unless its values are not aligned."""
    first, last = data_offsets
    kind = _SAFETENSORS[dtype]
    size = (last - first) // kind.itemsize
    if size == 0:
        return torch.empty(shape, dtype=kind)
    if (start + first) % kind.itemsize:
        return torch.frombuffer(bytearray(content[start + first : start + last]), dtype=kind).reshape(shape)
    return torch.frombuffer(content, dtype=kind, count=size, offset=start + first).reshape(shape)


# ------------------------------------------------------------------------------------------ pickled by torch


class _ForbiddenError(Exception):
    """A pickled file asks for a name that is not harmless."""


class _Inert:
    """Stands for an object of a class that is not imported: takes everything and does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...


_REAL = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "list", "dict", "tuple", "int", "float", "complex")
    ),
}
_SILENT = ("argparse", "pathlib", "typing", "enum", "collections", "_codecs", "datetime")


class _Unpickler(pickle.Unpickler):
    """Knows what tensors need. Classes of other packages become inert objects, and are never imported.

    The remaining names of the standard library and of torch, such as ``os.system``, are refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        if (module, name) in _REAL or (
            module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)
        ):
            return super().find_class(module, name)
        if package in _SILENT:
            return _Inert
        if package in ("torch", "builtins", "__builtin__") or package in sys.stdlib_module_names:
            raise _ForbiddenError(f"{module}.{name}")
        return _Inert


def _torch(path: Path, *, mapped: bool) -> Any:
    """The content of a file that ``torch.save`` wrote; ``mapped`` for the zip format, which needs no copy."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        # More than tensors: configurations of fairseq, numbers of NumPy.
        restricted: Any = types.SimpleNamespace(__name__="restricted", Unpickler=_Unpickler, load=_load)
        return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=restricted)


def _load(file: Any, **options: Any) -> Any:
    """As ``pickle.load``, restricted."""
    return _Unpickler(file, **options).load()


# ----------------------------------------------------------------------------------- as a process of its own


def main(arguments: Sequence[str]) -> int:
    """Checks files and prints the faults as JSON: a list of pairs, the file's number and the message.

    Args:
        arguments: network, path, network, path, and so on.
    """
    faults = []
    for number, (name, path) in enumerate(zip(arguments[::2], arguments[1::2], strict=True)):
        try:
            check(name, Path(path))
        except ValueError as error:
            faults.append((number, str(error)))
    print(json.dumps(faults))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
