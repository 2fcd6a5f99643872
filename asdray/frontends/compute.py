"""The device that computes, and torch's settings while it does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from asdray.allocator import keep_memory


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is none of: auto, cpu, cuda, cuda:<number>") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device {name!r} is not there: this machine has {count} usable GPUs")
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise ValueError(f"device {name!r} is none of: auto, cpu, cuda, cuda:<number>")
    return device


def device_label(device: torch.device) -> str:
    """How results name the device: ``cpu`` or for example ``cuda:NVIDIA H200``."""
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


def precision(name: str, device: torch.device) -> torch.autocast:
    """The context for ``train.precision``: ``fp32`` changes nothing, ``bf16`` computes in bfloat16 where
    torch's autocast deems it safe; weights, their gradients and spectra stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")


@contextlib.contextmanager
def settings(threads: int, device: torch.device) -> Iterator[None]:
    """Reproducible computation with ``threads`` CPU threads; what was set before comes back at the end.

    Freed memory stays with the process from then on, see `asdray.allocator`. Torch's global random generators
    may be seeded freely inside. Operations without a deterministic algorithm are still used: no frontend can
    do without them on every device.
    """
    keep_memory()
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    if device.type == "cuda":
        # cuBLAS is deterministic only with this, and reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.set_num_threads(threads)
        # Not `use_deterministic_algorithms`: that also tells torch's compiler, whose import takes seconds.
        torch.set_deterministic_debug_mode("warn")
        # Otherwise every new tensor would be filled with NaN first, which costs a pass over memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
