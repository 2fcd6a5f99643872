"""Models, steps and limits that `gpu_parts.py` measures."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import steps
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tuning import N_CLASSES, lora_network

from asdray.frontends import compute
from asdray.frontends.aggregation import AttentiveStatistics
from asdray.frontends.augment import mix
from asdray.frontends.losses import AdaCosLoss
from asdray.frontends.recorded import RecordedPass

CHUNKS = 5
"""Stretches of time, of whose rates the median is taken."""

CONVOLUTIONS = ("convolution", "_convolution", "cudnn_convolution", "convolution_backward")


# ---------------------------------------------------------------------------------------------- measuring


def synchronised(device: torch.device) -> float:
    """The time in seconds, after the GPU has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(
    work: Callable[[], Any], items: int, device: torch.device, seconds: float, chunks: int = CHUNKS
) -> float:
    """Items per second of ``work()`` in wall time: median of some stretches, ``seconds`` in all."""
    for _ in range(min(3, chunks)):
        work()
    began = synchronised(device)
    work()
    n = max(1, int(seconds / chunks / max(synchronised(device) - began, 1e-6)))
    rates = []
    for _ in range(chunks):
        began = synchronised(device)
        for _ in range(n):
            work()
        rates.append(n * items / (synchronised(device) - began))
    return statistics.median(rates)


def card_speed(device: torch.device, quick: bool) -> dict[str, float]:
    """The card's measured speed.

    Returns:
        FLOP/s of matrix products in ``fp32``, ``tf32`` (a CPU: as fp32) and ``bf16``; bytes/s of ``memory``,
        read and written; bytes/s from the host to the device, from ``page_locked`` and ``pageable`` memory.
    """
    clock = steps.Clock(device, torch.get_num_threads())
    n = 8192 if device.type == "cuda" and not quick else 256
    found = {}
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        # Random values: products of zeros draw less power, and run faster than any training.
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        with tf32_products(name == "tf32"):
            found[name] = 2 * n**3 / steps.median(lambda a=a, b=b: a @ b, clock, inner=5)
    size = 1 << (20 if quick else 29)
    big = torch.ones(size, device=device)
    other = torch.empty_like(big)
    found["memory"] = 2 * big.nbytes / steps.median(lambda: other.copy_(big), clock, inner=5)
    host = torch.ones(size // 4)
    there = torch.empty_like(host, device=device)
    kinds = {"pageable": host, "page_locked": host.pin_memory() if device.type == "cuda" else host}
    for name, source in kinds.items():
        seconds = steps.median(lambda s=source: there.copy_(s, non_blocking=True), clock, inner=2)
        found[name] = host.nbytes / seconds
    return found


@contextlib.contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Context in which matrix products of float32 may have TF32's 10 bits; by default torch allows none."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Work(steps.OperationCounter):
    """FLOPs and bytes of all operations inside; convolutions are counted apart.

    Attributes:
        convolved: FLOPs of convolutions, a part of ``flops``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolved = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.flops if func.__name__.partition(".")[0] in CONVOLUTIONS else None
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if before is not None:
            self.convolved += self.flops - before
        return out

    @classmethod
    def of(cls, work: Callable[[], Any]) -> Work:
        """The operations of one call."""
        counter = cls()
        with counter:
            work()
        return counter

    def limits(self, items: int, speed: dict[str, float], precision: str) -> dict[str, float]:
        """Items per second if nothing but products, or nothing but memory traffic, took time.

        Memory: every operation reads and writes its tensors once; operations that are joined to one kernel
        can be faster. Convolutions in fp32 are computed with TF32 on a GPU, as torch does by default.
        """
        if not speed:
            return {}
        if precision == "bf16":
            seconds = self.flops / speed["bf16"]
        else:
            seconds = self.convolved / speed["tf32"] + (self.flops - self.convolved) / speed["fp32"]
        found = {"products": items / seconds} if seconds else {}
        return {**found, "memory": items * speed["memory"] / self.nbytes}


@contextlib.contextmanager
def setting(variant: str, device: torch.device) -> Iterator[None]:
    """The pipeline's settings; with ``free`` without deterministic algorithms, and cuDNN's fastest ones."""
    with compute.settings(torch.get_num_threads(), device):
        if variant == "free":
            torch.set_deterministic_debug_mode("default")
            torch.backends.cudnn.benchmark = True
        yield


# -------------------------------------------------------------------------------------------------- steps


class Step:
    """A training step of a model with ``prepare(batch)`` and ``loss(prepared)``.

    Variants: ``eager`` and ``free``; ``graph``, passes recorded as with ``train.cuda_graphs``; ``compiled``,
    as with ``train.compile``; ``compiled graph``, both; ``whole graph``, the optimiser recorded as well.
    """

    def __init__(self, model: Any, batch: tuple[Tensor, ...], precision: str, variant: str) -> None:
        self._model, self._precision, self._device = model, precision, batch[0].device
        whole = variant == "whole graph" and self._device.type == "cuda"
        self._loss = compute.compiled(self._loss_of) if "compiled" in variant else self._loss_of
        learnt = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learnt, fused=True, capturable=whole)
        self._recorded = RecordedPass(model, self._in_precision, batch) if "graph" in variant else None
        self._optimiser_graph = self._record_optimiser() if whole else None

    def _loss_of(self, batch: tuple[Tensor, ...]) -> Tensor:
        return self._model.loss(self._model.prepare(batch))

    def _in_precision(self, batch: tuple[Tensor, ...]) -> Tensor:
        with compute.precision(self._precision, self._device):
            return self._loss(batch)

    def _record_optimiser(self) -> Any:
        """The optimiser's step as a graph of its own, which follows that of the passes."""
        assert self._recorded is not None
        self._recorded(self._recorded.inputs)
        for _ in range(3):
            self.optimiser.step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.optimiser.step()
        return graph

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        """One step; the loss."""
        if self._recorded is not None:
            loss = self._recorded(batch)
        else:
            self.optimiser.zero_grad()
            value = self._in_precision(batch)
            value.backward()
            loss = value.detach()
        if self._optimiser_graph is None:
            self.optimiser.step()
        else:
            self._optimiser_graph.replay()
        return loss


class Stacked(nn.Module):
    """K autoencoders as one model: batched products, and one batch norm over the features of all K.

    No term of the loss depends on the parameters of two autoencoders, so each learns as it would alone.
    """

    def __init__(self, networks: list[Any]) -> None:
        super().__init__()
        layers = [[*network.encoder, *network.decoder] for network in networks]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.norms = nn.ModuleList()
        for same in zip(*layers, strict=True):
            if isinstance(same[0], nn.Linear):
                self.weights.append(torch.stack([m.weight.detach().T for m in same]))
                self.biases.append(torch.stack([m.bias.detach()[None] for m in same]))
            elif isinstance(same[0], nn.BatchNorm1d):
                norm = nn.BatchNorm1d(sum(m.num_features for m in same), same[0].eps, same[0].momentum)
                with torch.no_grad():
                    for name in ("weight", "bias", "running_mean", "running_var"):
                        getattr(norm, name).copy_(torch.cat([getattr(m, name) for m in same]))
                self.norms.append(norm)

    def prepare(self, batch: tuple[Tensor, ...]) -> Tensor:
        return batch[0]

    def losses(self, vectors: Tensor) -> Tensor:
        """The K mean squared errors for vectors ``(K, B, width)``."""
        x = vectors
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.norms):
                k, b, c = x.shape
                flat = self.norms[i](x.transpose(0, 1).reshape(b, k * c))
                x = torch.relu(flat).view(b, k, c).transpose(0, 1)
        return (x - vectors).square().mean(dim=(1, 2))

    def loss(self, vectors: Tensor) -> Tensor:
        """The sum of `losses`, whose gradient is that of each autoencoder alone."""
        return self.losses(vectors).sum()


class LoraBeats(nn.Module):
    """The recipe ``dis_beats_scac_trainable`` without dropouts, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.network = lora_network("beats")
        self.layer = len(self.network.stack)
        self.head = AttentiveStatistics(self.network.width)
        self.projection = nn.Linear(self.network.width, 256)
        self.criterion = AdaCosLoss(256, N_CLASSES, 16, trainable=True)

    def prepare(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """``(samples, classes, partner, share)`` -> spectra and targets."""
        samples, classes, partner, share = batch
        targets = F.one_hot(classes, N_CLASSES).to(torch.float32)
        waves = mix(steps.features.to_float(samples), partner, share)
        return self.network.spectrum(waves), mix(targets, partner, share)

    def loss(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        spectrum, targets = prepared
        tokens = self.network(spectrum, [self.layer])[self.layer].grid.flatten(1, 2)
        return self.criterion(self.projection(self.head(tokens)), targets)


class FrozenBeats(nn.Module):
    """BEATs with random weights, and the mean of the last layer's tokens; in bfloat16 or float32."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.network, self.precision = lora_network("beats", rank=0), precision
        self.layer = len(self.network.stack)

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        spectrum = self.network.spectrum(waves)
        with compute.precision(self.precision, waves.device):
            tokens = self.network(spectrum, [self.layer])[self.layer]
        return {"embedding": tokens.grid.mean(dim=(1, 2))}
