"""The parts of `gpu.py`, each for a process of its own: what is measured, at which sizes and limits."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import steps
import torch
import torch._dynamo  # imported by the first optimiser otherwise, seconds in every part
from gpu_steps import (
    CHUNKS,
    FrozenBeats,
    LoraBeats,
    Stacked,
    Step,
    Work,
    card_speed,
    rate,
    setting,
    synchronised,
)
from torch import nn

from asdray.frontends.encoders.beats import Beats
from asdray.frontends.recorded import arriving

MACHINES = 14  # of 2023
BARRIER_SECONDS = 90
"""Longest wait of a process for the others."""

SHOWN_KERNELS = 12


@dataclass
class Rows:
    """The rows of one part, and what the parts need to know.

    Attributes:
        send: takes every row.
        device: where the part computes.
        seconds: per figure.
        tiny: True for sizes that a CPU does in seconds.
        speed: of the card, see `gpu_steps.card_speed`; empty if unknown.
    """

    send: Callable[[dict[str, Any]], None]
    device: torch.device
    seconds: float
    tiny: bool
    speed: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        what: str,
        variant: str,
        batch: int,
        value: float,
        unit: str,
        target: float | None = None,
        limits: dict[str, float] | None = None,
    ) -> None:
        """Sends a row: a measured value, its target, and its limits by name, in the same unit."""
        row = {"what": what, "variant": variant, "batch": batch, "value": value, "unit": unit}
        self.send({**row, "target": target, "limits": limits or {}})

    @contextlib.contextmanager
    def attempt(self, what: str, variant: str = "eager") -> Iterator[None]:
        """The variant's settings inside; an exception becomes a row, and other rows are still measured."""
        try:
            with setting(variant, self.device):
                yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.send({"what": what, "failed": f"{type(error).__name__}: {lines[0][:300]}"})
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def bf16(self) -> str:
        """``bf16``, or ``fp32`` on a CPU that would only emulate it, ten times slower."""
        return steps.precisions(self.device)[-1]

    def rate(self, work: Callable[[], Any], items: int) -> float:
        """Items per second of ``work()``."""
        return rate(work, items, self.device, self.seconds, 1 if self.tiny else CHUNKS)


# ------------------------------------------------------------------------------------------------ the card


def card(rows: Rows) -> None:
    """The card's speed of products, of memory, and of copies from the host."""
    with rows.attempt("card"):
        speed = card_speed(rows.device, rows.tiny)
        rows.send({"speed": speed})
        for name in ("fp32", "tf32", "bf16"):
            rows.add(f"products, {name}", "", 0, speed[name] / 1e12, "TFLOP/s")
        rows.add("memory, read and written", "", 0, speed["memory"] / 1e9, "GB/s")
        for name in ("page_locked", "pageable"):
            rows.add(f"host to device, {name.replace('_', '-')}", "", 0, speed[name] / 1e9, "GB/s")


# -------------------------------------------------------------------------------------------------- checks

MOST_DIFFERENCE = 1e-3
"""Of a loss in float32 after a few steps, relative: some operations of a GPU add up in another order."""


def checks(rows: Rows) -> None:
    """Does a GPU compute what the CPU's tests have compared? A difference that is too large is a failure."""
    with rows.attempt("check, batches on their way"):
        clips = steps.make_clips(6, 1.0)
        for seconds in (0.5, 1.0, 1.5):
            own = steps.clip_batches(clips, seconds, 4, None)
            for source in (clips.for_copies(rows.device), clips.on(rows.device)):
                there = arriving(steps.clip_batches(source, seconds, 4, None), rows.device)
                _check_equal([next(own) for _ in range(3)], [next(there) for _ in range(3)])
                own = steps.clip_batches(clips, seconds, 4, None)
        rows.add("check, batches on their way are the same bits", "", 4, 1.0, "true")
    for variant in ("graph", "whole graph"):
        _check_losses(rows, "autoencoder", variant, steps.Vectors, _vectors(rows))
        there = steps.clip_batches(steps.make_clips(16, 5.0), 5.0, 8, rows.device)
        _check_losses(rows, "two branches", variant, lambda: steps.TwoBranch(5.0), there)


def _vectors(rows: Rows) -> Iterator[Any]:
    return steps.vector_batches(32, rows.device, 1000)


def _check_equal(wanted: list[Any], found: list[Any]) -> None:
    """Raises ValueError unless all tensors have the same values."""
    for one, other in zip(wanted, found, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            if not torch.equal(mine, theirs.cpu()):
                raise ValueError(f"{(mine != theirs.cpu()).sum()} of {mine.numel()} values differ")


def _check_losses(
    rows: Rows, name: str, variant: str, model: Callable[[], Any], batches: Iterator[Any]
) -> None:
    """A row with the largest relative difference between five losses of a variant and of eager steps."""
    what = f"check, {name}, fp32: difference from eager losses"
    with rows.attempt(what, variant):
        some = [next(batches) for _ in range(5)]
        losses = []
        for kind in ("eager", variant):
            torch.manual_seed(0)
            step = Step(model().to(rows.device), some[0], "fp32", kind)
            losses.append(torch.stack([step(batch) for batch in some]).double())
        difference = float(((losses[1] - losses[0]) / losses[0]).abs().max())
        if not difference <= MOST_DIFFERENCE:
            raise ValueError(f"{losses[1].tolist()} instead of {losses[0].tolist()}")
        rows.add(what, variant, len(some), difference, "relative", None, {"allowed": MOST_DIFFERENCE})


# ---------------------------------------------------------------------------------- training of two branches


def two_branches(rows: Rows) -> None:
    """Training with its batches, beside the same step on one batch that stays on the device."""
    for variant, size in itertools.product(("eager", "graph", "free"), (4,) if rows.tiny else (64, 256)):
        _two_branches(rows, variant, size)


def two_branches_compiled(rows: Rows) -> None:
    """The same with PyTorch's compiler, which needs a minute before the first step."""
    for variant, size in (("compiled", 256), ("compiled graph", 64)):
        if not rows.tiny:  # the compiler takes minutes on a CPU
            _two_branches(rows, variant, size)


def _two_branches(rows: Rows, variant: str, size: int) -> None:
    clip_seconds = 5.0 if rows.tiny else 10.0
    name = f"two branches, {clip_seconds:g} s, {rows.bf16}"
    with rows.attempt(f"{name}, {variant}, {size}", variant):
        torch.manual_seed(0)
        clips = steps.make_clips(8 if rows.tiny else 2048, clip_seconds)
        model = steps.TwoBranch(clip_seconds).to(rows.device)

        def batches(source: Any) -> Iterator[Any]:
            gathered = steps.clip_batches(source.for_copies(rows.device), clip_seconds, size, None)
            return arriving(gathered, rows.device)

        there = batches(clips.on(rows.device))
        batch = next(there)
        step = Step(model, batch, rows.bf16, variant)
        limits = Work.of(lambda: _eager_step(rows, model, batch)).limits(size, rows.speed, rows.bf16)
        # In turns, so that another program's load does not decide the ratio.
        pairs = [
            (rows.rate(lambda: step(batch), size), rows.rate(lambda: step(next(there)), size))
            for _ in range(1 if rows.tiny else 2)
        ]
        alone, whole = (statistics.mean(values) for values in zip(*pairs, strict=True))
        rows.add(f"{name}, training", variant, size, whole, "clips/s", 6_000, limits)
        rows.add(f"{name}, same batch", variant, size, alone, "clips/s", None, limits)
        rows.add(f"{name}, training / same batch", variant, size, whole / alone, "", 0.9, {"same batch": 1.0})
        if variant == "eager":
            copied = batches(clips)
            value = rows.rate(lambda: step(next(copied)), size)
            if rows.speed:
                copy = rows.speed["page_locked"] / (2 * clip_seconds * steps.RATE)
                limits = {**limits, "copy": copy}
            rows.add(f"{name}, audio copied in every step", variant, size, value, "clips/s", None, limits)


def _eager_step(rows: Rows, model: Any, batch: Any, precision: str | None = None) -> None:
    """One step with AdamW, of which only the operations count: the model keeps its weights."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, fused=True)
    with steps.compute.precision(precision or rows.bf16, rows.device):
        loss = model.loss(model.prepare(batch))
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


# --------------------------------------------------------------------------------------------- autoencoders

GRAPHS = ("eager", "graph", "whole graph")


def autoencoders(rows: Rows) -> None:
    """One autoencoder alone; then those of all machines of a year, on a stream each, and stacked in one."""
    size, n_frames, count = (32, 1000, 3) if rows.tiny else (256, 60_000, MACHINES)
    limits: dict[str, float] = {}
    for variant in GRAPHS:
        with rows.attempt(f"autoencoder, {variant}", variant):
            torch.manual_seed(0)
            batches = arriving(steps.vector_batches(size, rows.device, n_frames), rows.device)
            model = steps.Vectors().to(rows.device)
            step = Step(model, next(batches), "fp32", variant)
            limits = _autoencoder_limits(rows, model, next(batches), size)
            value = rows.rate(lambda: step(next(batches)), size)  # noqa: B023 - called at once
            rows.add("autoencoder, training", variant, size, value, "vectors/s", 150_000, limits)

        name = f"{count} autoencoders, a stream each"
        with rows.attempt(f"{name}, {variant}", variant):
            value = rows.rate(_on_streams(rows, variant, count, size, n_frames), count * size)
            rows.add(name, variant, size, value, "vectors/s", 1_000_000, limits)

        name = f"{count} autoencoders, stacked"
        with rows.attempt(f"{name}, {variant}", variant):
            torch.manual_seed(0)
            models = [steps.Vectors().to(rows.device) for _ in range(count)]
            stacked = Stacked([model.network for model in models]).to(rows.device)
            at_once = steps.stacked_batches(count, size, rows.device, n_frames)
            batch = next(at_once)
            _same_losses(stacked, models, batch[0])
            own = _autoencoder_limits(rows, stacked, batch, count * size)
            step = Step(stacked, batch, "fp32", variant)
            value = rows.rate(lambda: step(next(at_once)), count * size)  # noqa: B023
            rows.add(name, variant, size, value, "vectors/s", 1_000_000, own)


def _autoencoder_limits(rows: Rows, model: nn.Module, batch: Any, items: int) -> dict[str, float]:
    return Work.of(lambda: _eager_step(rows, model, batch, "fp32")).limits(items, rows.speed, "fp32")


def _same_losses(stacked: Stacked, models: list[Any], vectors: torch.Tensor) -> None:
    """Raises ValueError if stacked autoencoders have other losses than each alone."""
    with torch.no_grad():
        wanted = torch.stack([model.loss(x) for model, x in zip(models, vectors, strict=True)])
        found = stacked.losses(vectors)
    if not torch.allclose(found, wanted, rtol=1e-3):
        raise ValueError(f"stacked losses {found.tolist()}, alone {wanted.tolist()}")


def _on_streams(rows: Rows, variant: str, count: int, size: int, n_frames: int) -> Callable[[], None]:
    """Work that takes one step of every autoencoder, each on a stream of its own."""
    own = [steps.vector_batches(size, rows.device, n_frames) for _ in range(count)]
    many = [Step(steps.Vectors().to(rows.device), next(b), "fp32", variant) for b in own]
    streams = [torch.cuda.Stream() for _ in many] if rows.device.type == "cuda" else [None] * count

    def together() -> None:
        for one, stream, batches in zip(many, streams, own, strict=True):
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                one(next(batches))

    return together


def fork_after_imports() -> Any:
    """A context for new processes, forked from one that has imported torch, but not touched the GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpu_parts"])
    here = str(Path(__file__).parent)  # the process that forks knows no other path than this variable's
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return context


def processes(rows: Rows) -> None:
    """Autoencoders in processes of their own that share the card, as trials in parts of a GPU do."""
    counts, variants = ((2,), ("graph",)) if rows.tiny else ((4, MACHINES), ("eager", "graph"))
    for count, variant in itertools.product(counts, variants):
        name = f"autoencoders in {count} processes"
        with rows.attempt(f"{name}, {variant}"):
            value = sum(_in_processes(rows, count, variant))
            rows.add(name, variant, 32 if rows.tiny else 256, value, "vectors/s", 1_000_000)


def _in_processes(rows: Rows, count: int, variant: str) -> list[float]:
    """Vectors per second of every process, in the same seconds."""
    context = fork_after_imports()
    barrier, results = context.Barrier(count), context.SimpleQueue()
    arguments = (str(rows.device), rows.seconds, rows.tiny, variant, barrier, results)
    started = [context.Process(target=_train_alone, args=arguments, daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(2 * BARRIER_SECONDS)
    ended = [process.exitcode for process in started]
    if any(ended):
        raise RuntimeError(f"exit codes {ended}")
    return [results.get() for _ in started]


def _train_alone(
    device_name: str, seconds: float, tiny: bool, variant: str, barrier: Any, results: Any
) -> None:
    """Trains one autoencoder for some seconds, at the same time as the other processes."""
    device = torch.device(device_name)
    size, n_frames = (32, 1000) if tiny else (256, 60_000)
    torch.set_num_threads(1)
    with setting(variant, device):
        batches = arriving(steps.vector_batches(size, device, n_frames), device)
        step = Step(steps.Vectors().to(device), next(batches), "fp32", variant)
        for _ in range(20):
            step(next(batches))
        synchronised(device)
        barrier.wait(BARRIER_SECONDS)
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(20):
                step(next(batches))
            synchronised(device)
            n += 20
        results.put(n * size / (time.perf_counter() - began))


# ------------------------------------------------------------------------------------------------ extraction


def extraction(rows: Rows) -> None:
    """Embeddings of whole clips by both networks, from int16 clips to float32 in the host's memory."""
    clip_seconds = 5.0 if rows.tiny else 10.0
    models = {
        "two branches": steps.TwoBranch(clip_seconds).to(rows.device).eval(),
        "autoencoder": steps.autoencoder_frontend().to(rows.device).eval(),
    }
    for (name, model), size in itertools.product(models.items(), (4,) if rows.tiny else (64, 256)):
        target = 15_000 if name == "two branches" else None
        _extract(rows, f"extraction, {name}, {clip_seconds:g} s, fp32", model, clip_seconds, size, target)


def encoder_extraction(rows: Rows) -> None:
    """Embeddings by BEATs base with random weights."""
    clip_seconds = _small_encoder(rows)
    for precision, size in itertools.product({rows.bf16: 1, "fp32": 1}, (2,) if rows.tiny else (16, 64)):
        target = 2_000 if precision == rows.bf16 else None
        name = f"extraction, BEATs, {clip_seconds:g} s, {precision}"
        model = FrozenBeats(precision).to(rows.device).eval()
        _extract(rows, name, model, clip_seconds, size, target, precision)


def _extract(
    rows: Rows,
    name: str,
    model: Any,
    clip_seconds: float,
    size: int,
    target: float | None,
    precision: str = "fp32",
) -> None:
    n = 4 * size if rows.tiny else max(512, 8 * size)
    on_host, n_samples = steps.make_clips(n, clip_seconds), int(clip_seconds * steps.RATE)
    with rows.attempt(f"{name}, {size}"), torch.inference_mode():
        clips = on_host.on(rows.device)
        waves = steps.features.to_float(clips.gather(steps.np.arange(size), n_samples))
        limits = Work.of(lambda: model.extract(waves)).limits(size, rows.speed, precision)

        def work(source: Any) -> None:
            steps.extract_all(model, source, n_samples, size, rows.device)

        value = rows.rate(lambda: work(clips), n)
        rows.add(f"{name}, audio on the device", "eager", size, value, "clips/s", target, limits)
        if rows.speed:
            limits = {**limits, "copy": rows.speed["page_locked"] / (2 * n_samples)}
        value = rows.rate(lambda: work(on_host), n)
        rows.add(f"{name}, audio copied", "eager", size, value, "clips/s", target, limits)


def _small_encoder(rows: Rows) -> float:
    """Seconds of a clip; with ``tiny``, BEATs has two narrow blocks from now on in this process."""
    if rows.tiny:
        Beats.shape = (2, 192, 3)
    return 1.0 if rows.tiny else 10.0


# --------------------------------------------------------------------------------------------- LoRA training


def lora(rows: Rows) -> None:
    """Training of BEATs base by LoRA with attentive statistics and sub-cluster AdaCos."""
    for variant, size in itertools.product(("eager", "graph"), (2,) if rows.tiny else (8, 64)):
        _lora(rows, variant, size)


def lora_compiled(rows: Rows) -> None:
    """The same with PyTorch's compiler."""
    if not rows.tiny:
        _lora(rows, "compiled", 64)


def _lora(rows: Rows, variant: str, size: int) -> None:
    clip_seconds = _small_encoder(rows)
    name = f"LoRA of BEATs, {clip_seconds:g} s, {rows.bf16}, training"
    with rows.attempt(f"{name}, {variant}, {size}", variant):
        torch.manual_seed(0)
        clips = steps.make_clips(4 if rows.tiny else 512, clip_seconds).on(rows.device)
        model = LoraBeats().to(rows.device)
        batches = arriving(steps.clip_batches(clips, clip_seconds, size, None), rows.device)
        batch = next(batches)
        limits = Work.of(lambda: _eager_step(rows, model, batch)).limits(size, rows.speed, rows.bf16)
        step = Step(model, batch, rows.bf16, variant)
        value = rows.rate(lambda: step(next(batches)), size)
        rows.add(name, variant, size, value, "clips/s", 600, limits)
        if rows.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            rows.add(f"{name}, peak memory", variant, size, peak, "GiB")
            torch.cuda.reset_peak_memory_stats()


# ------------------------------------------------------------------------------------------------ the profile


def profile(rows: Rows) -> None:
    """The kernels that take most of the time of a step, for the figures that miss their targets."""
    size, clip_seconds = (4, 5.0) if rows.tiny else (256, 10.0)
    with rows.attempt("profile, two branches"):
        clips = steps.make_clips(8 if rows.tiny else 512, clip_seconds).on(rows.device)
        model = steps.TwoBranch(clip_seconds).to(rows.device)
        batches = steps.clip_batches(clips, clip_seconds, size, rows.device)
        _profiled(rows, f"two branches, {rows.bf16}", model, batches, rows.bf16)
    with rows.attempt("profile, LoRA"):
        size, clip_seconds = 2 if rows.tiny else 64, _small_encoder(rows)
        clips = steps.make_clips(2 * size, clip_seconds).on(rows.device)
        batches = steps.clip_batches(clips, clip_seconds, size, rows.device)
        _profiled(rows, f"LoRA of BEATs, {rows.bf16}", LoraBeats().to(rows.device), batches, rows.bf16)
    with rows.attempt("profile, autoencoder"):
        batches = steps.vector_batches(256, rows.device, 1000 if rows.tiny else 60_000)
        _profiled(rows, "autoencoder, fp32", steps.Vectors().to(rows.device), batches, "fp32")


def _profiled(rows: Rows, name: str, model: Any, batches: Any, precision: str) -> None:
    """Sends the kernels of three steps: share of all kernels' time, calls per step; and the busy share."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    on_gpu = rows.device.type == "cuda"
    batch = next(batches)
    step, n = Step(model, batch, precision, "eager"), 3
    for _ in range(n):
        step(batch)
    began = synchronised(rows.device)
    for _ in range(n):
        step(batch)
    wall = (synchronised(rows.device) - began) / n
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profiled(activities=[activity], acc_events=True) as found:
        for _ in range(n):
            step(batch)
        synchronised(rows.device)
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in found.key_averages()
    }
    whole = sum(microseconds for microseconds, _ in times.values()) or 1.0
    largest = sorted(times.items(), key=lambda item: -item[1][0])[:SHOWN_KERNELS]
    kernels = [
        {"kernel": key[:120], "share": microseconds / whole, "calls": count / n}
        for key, (microseconds, count) in largest
    ]
    busy = whole / 1e6 / n / wall
    rows.send({"what": f"profile, {name}", "kernels": kernels, "step_seconds": wall, "busy": busy})


PARTS: dict[str, tuple[Callable[[Rows], None], int]] = {
    "card": (card, 30),
    "checks": (checks, 30),
    "two_branches": (two_branches, 110),
    "autoencoders": (autoencoders, 75),
    "extraction": (extraction, 45),
    "encoder_extraction": (encoder_extraction, 40),
    "lora": (lora, 45),
    "processes": (processes, 60),
    "profile": (profile, 30),
    "two_branches_compiled": (two_branches_compiled, 90),
    "lora_compiled": (lora_compiled, 75),
}
"""Name -> function, and its share of the seconds. The parts that only wait for a compiler come last."""
