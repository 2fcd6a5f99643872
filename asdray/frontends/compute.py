"""The device for computations, and torch's settings during them."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

from asdray.allocator import keep_memory


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first GPU, or the CPU on a machine without GPUs.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is none of: auto, cpu, cuda, cuda:<number>")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ValueError(f"device {name!r} is not there: this machine has {count} usable GPUs")
    return torch.device("cuda", device.index or 0)


def device_label(device: torch.device) -> str:
    """The device's name in result files: ``cpu`` or for example ``cuda:NVIDIA H200``."""
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


def precision(name: str, device: torch.device) -> torch.autocast:
    """The context for a ``precision``: that of a training, or of an encoder.

    ``fp32`` changes nothing. ``bf16`` computes in bfloat16 wherever torch's autocast considers bfloat16 safe;
    weights, gradients of weights and spectra stay in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")


COMPILER = "inductor"
"""The compiler that `compiled` uses, of those that torch knows."""

P = ParamSpec("P")
R = TypeVar("R")


def compiled(work: Callable[P, R]) -> Callable[P, R]:
    """``work``, compiled at its first call for the shapes of its tensors, and again for other shapes."""
    return torch.compile(work, dynamic=False, backend=COMPILER)


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's errors for lack of memory, of a GPU or of the CPU's allocator."""
    texts = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def free_memory() -> None:
    """Frees what no object refers to, on GPUs as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def measured_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Measures the GPU's memory inside: at the end the dictionary has bytes ``used`` at most, and ``of`` all.

    It stays empty on a CPU. ``used`` is what PyTorch keeps from other processes, more than its tensors need.
    """
    found: dict[str, int] = {}
    if device.type != "cuda":
        yield found
        return
    free_memory()  # of the training before in this process
    torch.cuda.reset_peak_memory_stats(device)
    yield found
    found["used"] = torch.cuda.max_memory_reserved(device)
    found["of"] = torch.cuda.get_device_properties(device).total_memory


@contextlib.contextmanager
def settings(threads: int, device: torch.device) -> Iterator[None]:
    """Reproducible computation with ``threads`` CPU threads; at the end the earlier settings are restored.

    The process keeps freed memory from now on, see `asdray.allocator`. Torch's global random generators may
    be seeded inside: their state is restored, too. Operations without a deterministic algorithm remain
    allowed, because on some devices every frontend needs one.
    """
    keep_memory()
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    if device.type == "cuda":
        # cuBLAS is deterministic only with this variable, which is read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.set_num_threads(threads)
        # `use_deterministic_algorithms` would also import torch's compiler, which takes seconds.
        torch.set_deterministic_debug_mode("warn")
        # Filling every new tensor with NaN would cost a pass over its memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
