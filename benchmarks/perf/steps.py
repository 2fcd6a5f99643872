"""Training steps on generated audio, and their measurement, for `train.py` and `gpu.py`.

The steps use networks, losses, features and batches of asdray directly, so only numpy and torch are needed,
and no installed asdray. `tests/test_speed.py` checks that the steps have the same losses as the frontends.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from asdray.audio import features
from asdray.audio.batches import Clips, split
from asdray.frontends import compute
from asdray.frontends.augment import draw_mixup, mix
from asdray.frontends.autoencoder import AutoencoderFrontend
from asdray.frontends.base import extract_all
from asdray.frontends.losses import AdaCosLoss
from asdray.frontends.networks import AutoencoderNetwork, FftNetwork, SqueezeExcite, StftNetwork

RATE = features.SAMPLE_RATE
N_CLASSES = 187  # of 2023
N_FFT, HOP, FIRST, LAST = 1024, 512, 13, 512
N_MELS, N_FRAMES = 128, 5


def make_clips(n: int, seconds: float) -> Clips:
    """``n`` clips of noise in one int16 array, as in a pack."""
    length = int(seconds * RATE)
    noise = np.random.default_rng(0).integers(-3000, 3000, 1 << 20, dtype=np.int16)
    samples = np.resize(noise, (n * length, 1))
    offsets = np.arange(n + 1, dtype=np.int64) * length
    return Clips([SimpleNamespace(clips=tuple(map(str, range(n))), samples=samples, offsets=offsets)])  # type: ignore[list-item]


class TwoBranch(nn.Module):
    """The recipe ``dis_baseline``: the two-branch network with mixup and a fixed AdaCos head."""

    window: Tensor

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.fft = FftNetwork(int(seconds * RATE) // 2 + 1, 128, (256, 64, 16), (64, 32, 4), 4, 128)
        self.register_buffer("window", features.hann(N_FFT))
        self.stft = StftNetwork(LAST - FIRST + 1, (16, 32, 64, 128), 128)
        self.head = AdaCosLoss(256, N_CLASSES, trainable=False)

    def spectra(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        return features.spectrum(waves), features.spectrogram(waves, self.window, HOP, FIRST, LAST)

    def prepare(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """``(samples, classes, partner, share)`` -> spectra and targets."""
        samples, classes, partner, share = batch
        targets = F.one_hot(classes, N_CLASSES).to(torch.float32)
        waves = mix(features.to_float(samples), partner, share)
        return self.spectra(waves), mix(targets, partner, share)

    def loss(self, prepared: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
        (spectrum, bins), targets = prepared
        return self.head(torch.cat([self.fft(spectrum), self.stft(bins)], dim=1), targets)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        spectrum, bins = self.spectra(waves)
        return {"embedding": torch.cat([self.fft(spectrum), self.stft(bins)], dim=1).float()}


class Vectors(nn.Module):
    """The recipe ``ae_baseline``: the autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.network = AutoencoderNetwork(N_FRAMES * N_MELS, (128,) * 4, 8)

    def prepare(self, batch: tuple[Tensor, ...]) -> Tensor:
        return batch[0]

    def loss(self, vectors: Tensor) -> Tensor:
        return F.mse_loss(self.network(vectors)[0], vectors)


def autoencoder_frontend() -> AutoencoderFrontend:
    """The frontend of the recipe ``ae_baseline`` with fresh weights, for extraction."""
    config = SimpleNamespace(
        n_frames=N_FRAMES,
        hop_length=HOP,
        n_mels=N_MELS,
        n_fft=N_FFT,
        mel_scale="htk",
        power=1,
        window_norm=True,
        hidden=(128,) * 4,
        bottleneck=8,
        scores=("recon",),
    )
    return AutoencoderFrontend(config)  # type: ignore[arg-type]


def clip_batches(
    clips: Clips, seconds: float, batch_size: int, device: torch.device | None
) -> Iterator[tuple[Tensor, ...]]:
    """Endless training batches gathered from ``clips``, on a device; None: where they are gathered."""
    rng = np.random.default_rng(0)
    n_samples = int(seconds * RATE)
    classes = rng.integers(0, N_CLASSES, len(clips))
    while True:
        order = rng.permutation(len(clips))
        starts = clips.random_starts(rng, n_samples)
        for part in split(len(clips), batch_size):
            index = order[part]
            if len(index) != batch_size:
                continue
            partner, share = draw_mixup(rng, batch_size, 0.5)
            drawn = (classes[index], partner, share)
            samples = clips.gather(index, n_samples, starts[index])
            yield tuple(t.to(device or t.device) for t in (samples, *map(torch.from_numpy, drawn)))


def stacked_batches(
    count: int, batch_size: int, device: torch.device, n_frames: int = 60_000
) -> Iterator[tuple[Tensor]]:
    """Endless batches of vectors ``(count, B, width)``.

    Each of ``count`` machines has its own frames in its own order; all are gathered at once.
    """
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(count * n_frames, N_MELS)).astype(np.float32)).to(device)
    first = np.arange(count)[:, None] * n_frames
    while True:
        orders = np.stack([rng.permutation(n_frames - N_FRAMES + 1) for _ in range(count)]) + first
        for starts in torch.from_numpy(orders).to(device).split(batch_size, dim=1):
            if starts.shape[1] == batch_size:
                vectors = features.stack_frames(frames, starts.reshape(-1), N_FRAMES)
                yield (vectors.view(count, batch_size, -1),)


def vector_batches(batch_size: int, device: torch.device, n_frames: int = 60_000) -> Iterator[tuple[Tensor]]:
    """Endless batches of vectors, gathered by index from frames on the device."""
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(n_frames, N_MELS)).astype(np.float32)).to(device)
    while True:
        order = torch.from_numpy(rng.permutation(n_frames - N_FRAMES + 1)).to(device)
        for starts in order.split(batch_size):
            if len(starts) == batch_size:
                yield (features.stack_frames(frames, starts, N_FRAMES),)


# -------------------------------------------------------------------------------------------- measuring


class Clock:
    """Seconds: CPU time for one thread (independent of other processes), wall time otherwise."""

    def __init__(self, device: torch.device, threads: int = 1) -> None:
        self._cuda = device.type == "cuda"
        self._wall = self._cuda or threads > 1

    def __call__(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self._wall else time.process_time()


def median(work: Callable[[], Any], clock: Clock, repeats: int = 5, inner: int = 1) -> float:
    """Median seconds of ``work()``, after one call without measurement."""
    work()
    seconds = []
    for _ in range(repeats):
        began = clock()
        for _ in range(inner):
            work()
        seconds.append((clock() - began) / inner)
    return statistics.median(seconds)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions worth measuring: a CPU without AVX-512 emulates bf16, ten times slower than fp32."""
    emulated = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    return ("fp32",) if emulated else ("fp32", "bf16")


def machine_speed(device: torch.device, quick: bool = False) -> dict[str, float]:
    """The machine's measured speed.

    Returns:
        FLOP/s of products (matrix or convolution, whichever is faster) in ``fp32`` and ``bf16``, and bytes/s
        of ``memory`` read and written.
    """
    clock = Clock(device, torch.get_num_threads())
    n = 8192 if device.type == "cuda" else 512 if quick else 1024
    channels = 256 if device.type == "cuda" else 64
    speed = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        matrix = 2 * n**3 / median(lambda a=a, b=b: a @ b, clock, inner=5)
        x = torch.randn(16, channels, 32, 32, device=device).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
        flops = 2 * 16 * 32 * 32 * channels**2 * 9
        convolution = flops / median(lambda x=x, w=w: F.conv2d(x, w, padding=1), clock, inner=5)
        speed[name] = max(matrix, convolution)
    big = torch.ones(1 << (28 if device.type == "cuda" else 26), device=device)
    other = torch.empty_like(big)
    speed["memory"] = 2 * 4 * big.numel() / median(lambda: other.copy_(big), clock, inner=3)
    return speed


class OperationCounter(TorchDispatchMode):
    """Counts FLOPs and bytes of all operations inside, forward and backward.

    Attributes:
        flops: FLOPs of products and convolutions, two per multiply-add; FFTs count as zero.
        nbytes: bytes of all tensors read and written, each once per operation, without views.
        ops: (FLOPs, bytes) of every operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        if func.is_view:
            return out
        tensors = [t for t in _flat((args, kwargs, out)) if isinstance(t, Tensor)]
        self.ops.append((float(flops), float(sum(t.numel() * t.element_size() for t in tensors))))
        return out

    @property
    def flops(self) -> float:
        return sum(f for f, _ in self.ops)

    @property
    def nbytes(self) -> float:
        return sum(b for _, b in self.ops)

    def limit(self, speed: dict[str, float], precision: str) -> float:
        """Seconds of the operations, one after another, at the machine's measured speeds."""
        return sum(max(f / speed[precision], b / speed["memory"]) for f, b in self.ops)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def layers_alone(
    module: nn.Module, run: Callable[[], Any], context: Callable[[], Any], clock: Clock, repeats: int
) -> float:
    """Seconds of all layers, forward and backward, each timed alone at its shapes in ``run()``."""
    inputs: list[tuple[nn.Module, Tensor, bool]] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        inputs.append((layer, args[0].detach().clone(), args[0].requires_grad))

    inside = {m for gate in module.modules() if isinstance(gate, SqueezeExcite) for m in gate.children()}
    leaves = [
        m for m in module.modules() if isinstance(m, SqueezeExcite) or not (list(m.children()) or m in inside)
    ]
    handles = [
        m.register_forward_hook(note)
        for m in leaves
        if not isinstance(m, AdaCosLoss | nn.Flatten | nn.Identity)
    ]
    with context():
        run()
    for handle in handles:
        handle.remove()
    total = 0.0
    for layer, shaped, needs_grad in inputs:
        if isinstance(layer, nn.ReLU):
            layer = nn.ReLU()  # an in-place ReLU would overwrite its input
        x = shaped.requires_grad_(needs_grad)
        with context():
            out = layer(x)
        gradient = torch.ones_like(out)

        def both(layer: nn.Module = layer, x: Tensor = x, gradient: Tensor = gradient) -> None:
            with context():
                out = layer(x)
            if out.requires_grad:
                out.backward(gradient)
            x.grad = None
            layer.zero_grad()

        total += median(both, clock, repeats)
    return total


def peak_mebibytes(device: torch.device) -> float:
    """Peak memory of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def saved_mebibytes(loss: Callable[[], Tensor]) -> float:
    """Size of the tensors that the forward pass keeps for the backward pass."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(kept.values()) / 2**20


def describe(device: torch.device, threads: int) -> str:
    """Name of the GPU or CPU, threads, and the version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    return f"{threads} thread(s) of {model}, torch {torch.__version__}"


__all__ = [
    "Clips",
    "Clock",
    "OperationCounter",
    "TwoBranch",
    "Vectors",
    "autoencoder_frontend",
    "clip_batches",
    "compute",
    "describe",
    "extract_all",
    "layers_alone",
    "machine_speed",
    "make_clips",
    "median",
    "peak_mebibytes",
    "precisions",
    "saved_mebibytes",
    "vector_batches",
]
