"""How long does a training step take, where does the time go, and how far from the machine's limit is it?

    python benchmarks/perf/train.py [--device cuda] [--quick] [--threads N]

Timed are steps of the two-branch network (batch 64) on clips of 6, 10 and 18 s in fp32 and bf16 (fp32 alone
if the CPU only emulates bf16), steps of the autoencoder (batch 256), and the extraction by both, all on
generated audio. Every row runs in its own process. Times are medians of CPU seconds (with `--device cuda`, of
wall seconds). The tables are in Markdown. Columns of training:

* s: from one batch to the next, everything included (least-most), and the shares of its parts. ``wait`` is
  the share of the wall time without the CPU: other processes, or the disk;
* alone: the sum of layers, spectra, loss and optimiser, each timed alone at the same shapes; a step should
  take at most 1.4 times this sum;
* limit: all operations of the step one after another, each at the machine's measured speed of products or of
  memory, whichever takes longer;
* stock: the same step with torch's defaults: the C allocator's settings, channels first, AdamW not fused.

Columns of extraction: the time of a clip in `extract_all`, from int16 to embeddings and scores; and the ratio
to the time of a clip's features and network alone, on one batch of 64.

With more than one thread, CPU seconds say little, so the table has wall seconds, which need an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import steps
import torch

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Environment of a sweep's workers (`asdray.sweep.cluster.WORKER_ENV`)."""

PARTS = ("gather", "feature", "forward", "backward", "optimiser")


@dataclasses.dataclass(frozen=True)
class Row:
    """The network, input and settings of one row."""

    network: str
    seconds: float
    precision: str
    stock: bool = False
    batch_size: int = 64


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows of the table."""
    lengths = (6.0,) if quick else (6.0, 10.0, 18.0)
    size = 256 if device == "cuda" else 64
    for seconds in lengths:
        for precision in steps.precisions(torch.device(device)):
            yield Row("two branches", seconds, precision, batch_size=size)
        if device == "cpu":
            yield Row("two branches", seconds, "fp32", stock=True)
    yield Row("autoencoder", 0, "fp32", batch_size=256)


def model_and_batches(row: Row, device: torch.device) -> tuple[Any, Iterator[Any]]:
    """The network of a row, and an endless iterator of generated batches."""
    if row.network == "autoencoder":
        return steps.Vectors().to(device), steps.vector_batches(row.batch_size, device)
    clips = steps.make_clips(4 * row.batch_size, row.seconds)
    if device.type == "cuda":
        clips = clips.on(device)
    model = steps.TwoBranch(row.seconds).to(device)
    return model, steps.clip_batches(clips, row.seconds, row.batch_size, device)


def repeats_of(row: Row, device: torch.device, quick: bool) -> tuple[int, int]:
    """The number of timings of a row, and the number of steps in each timing."""
    if row.network == "autoencoder":
        return (3, 20) if quick else (7, 100)
    return 3 if quick else 5, 1 if device.type == "cpu" else 20


class Laps:
    """Seconds spent in every part of a step; called at the end of each part."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0.0
        self.spent = dict.fromkeys(PARTS, 0.0)

    def start(self) -> None:
        """Begins a step."""
        self._last = self._clock()

    def __call__(self, part: str) -> None:
        now = self._clock()
        self.spent[part] += now - self._last
        self._last = now


def measure(row: Row, device_name: str, threads: int, quick: bool) -> dict[str, Any]:
    """The figures of one row."""
    device = torch.device(device_name)
    clock = steps.Clock(device, threads)
    with contextlib.ExitStack() as stack:
        if row.stock:
            torch.set_num_threads(threads)
        else:
            stack.enter_context(steps.compute.settings(threads, device))
        torch.manual_seed(0)
        model, batches = model_and_batches(row, device)
        counts, inner = repeats_of(row, device, quick)
        if row.stock:
            model = model.to(memory_format=torch.contiguous_format)
        optimizer = torch.optim.AdamW(model.parameters(), fused=None if row.stock else True)

        def context() -> Any:
            return steps.compute.precision(row.precision, device)

        def step(lap: Callable[[str], None] = lambda part: None) -> None:
            batch = next(batches)
            lap("gather")
            optimizer.zero_grad()
            with context():
                prepared = model.prepare(batch)
                lap("feature")
                loss = model.loss(prepared)
            lap("forward")
            del batch, prepared  # as in training: freed before the backward pass
            loss.backward()
            lap("backward")
            optimizer.step()
            lap("optimiser")

        for _ in range(2 * inner if inner > 1 else 3):
            step()
        seconds, walls = [], []
        for _ in range(counts):
            began, wall = clock(), time.perf_counter()
            for _ in range(inner):
                step()
            seconds.append((clock() - began) / inner)
            walls.append((time.perf_counter() - wall) / inner)
        peak = steps.peak_mebibytes(device)
        laps = Laps(clock)
        for _ in range(counts * min(inner, 20)):
            laps.start()
            step(laps)
        whole = sum(laps.spent.values())
        figures: dict[str, Any] = {
            "step": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "wall": statistics.median(walls),
            "peak": peak,
            "parts": {part: value / whole for part, value in laps.spent.items()},
        }
        if row.stock:
            return figures
        batch = next(batches)
        with context():
            prepared = model.prepare(batch)
        figures["saved"] = steps.saved_mebibytes(lambda: _loss(model, prepared, context))
        work = steps.OperationCounter()
        with work:
            step()
        speed = steps.machine_speed(device, quick)
        figures |= {"flops": work.flops, "nbytes": work.nbytes, "speed": speed}
        figures["limit"] = work.limit(speed, row.precision)
        repeats = 3 if device.type == "cpu" and row.network != "autoencoder" else 20
        alone = steps.layers_alone(model, lambda: model.loss(model.prepare(batch)), context, clock, repeats)
        alone += steps.median(lambda: model.prepare(batch), clock, repeats)
        alone += steps.median(optimizer.step, clock, repeats)
        figures["alone"] = alone + _head_alone(model, row, clock, repeats, device)
        return figures


def measure_extraction(row: Row, device_name: str, threads: int, quick: bool) -> dict[str, float]:
    """Seconds per clip of extraction, and of features and network alone on one batch; peak memory in MiB."""
    device = torch.device(device_name)
    clock = steps.Clock(device, threads)
    with steps.compute.settings(threads, device), torch.inference_mode():
        torch.manual_seed(0)
        clips = steps.make_clips(3 * row.batch_size, row.seconds)
        n_samples = int(row.seconds * steps.RATE)
        waves = steps.features.to_float(clips.gather(steps.np.arange(row.batch_size), n_samples)).to(device)
        if row.network == "autoencoder":
            frontend: Any = steps.autoencoder_frontend().to(device).eval()

            def alone() -> None:
                vectors = frontend.frames(waves).unfold(1, steps.N_FRAMES, 1).transpose(2, 3).flatten(2)
                frontend.network(vectors.reshape(-1, vectors.shape[2]))
        else:
            frontend = steps.TwoBranch(row.seconds).to(device).eval()

            def alone() -> None:
                frontend.extract(waves)

        repeats = 3 if quick else 7
        whole = steps.median(
            lambda: steps.extract_all(frontend, clips, n_samples, row.batch_size, device), clock, repeats
        )
        peak = steps.peak_mebibytes(device)
        one = steps.median(alone, clock, repeats)
    return {"extract": whole / len(clips), "alone": one / row.batch_size, "peak": peak}


def extraction_table(results: list[tuple[Row, dict[str, float]]]) -> str:
    """The figures of extraction in Markdown."""
    lines = [
        "| extraction | batch | clips/s | ms a clip | features and network alone, ms | ratio | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, figures in results:
        lines.append(
            f"| {row.network}, {row.seconds:g} s | {row.batch_size} | {1 / figures['extract']:,.0f} | "
            f"{1000 * figures['extract']:.3g} | {1000 * figures['alone']:.3g} | "
            f"{figures['extract'] / figures['alone']:.2f} | {figures['peak']:,.0f} |"
        )
    return "\n".join(lines)


def _loss(model: Any, prepared: Any, context: Any) -> torch.Tensor:
    with context():
        return model.loss(prepared)


def _head_alone(model: Any, row: Row, clock: Any, repeats: int, device: torch.device) -> float:
    """Seconds of the loss, forward and backward."""
    if row.network == "autoencoder":
        out = torch.randn(row.batch_size, steps.N_FRAMES * steps.N_MELS, device=device, requires_grad=True)
        other = torch.randn_like(out)
        return steps.median(lambda: torch.nn.functional.mse_loss(out, other).backward(), clock, repeats)
    embeddings = torch.randn(row.batch_size, 256, device=device, requires_grad=True)
    targets = torch.softmax(torch.randn(row.batch_size, steps.N_CLASSES, device=device), dim=1)
    return steps.median(lambda: model.head(embeddings, targets).backward(), clock, repeats)


def table(results: list[tuple[Row, dict[str, Any]]]) -> str:
    """The figures in Markdown."""
    stock = {(r.network, r.seconds): f["step"] for r, f in results if r.stock}
    head = [
        "step", "precision", "batch", "s (least-most)", "items/s", "peak MiB", "saved MiB", *PARTS, "wait",
        "GFLOP", "GB", "limit s", "s / limit", "s / alone", "stock / s",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row, figures in results:
        step = figures["step"]
        name = (
            row.network + (f", {row.seconds:g} s" if row.seconds else "") + (" (stock)" if row.stock else "")
        )
        cells = [
            name,
            row.precision,
            str(row.batch_size),
            f"{step:.4g} ({figures['least']:.4g}-{figures['most']:.4g})",
            f"{row.batch_size / step:,.0f}",
            f"{figures['peak']:,.0f}",
            f"{figures['saved']:,.0f}" if "saved" in figures else "",
            *(f"{figures['parts'][part]:.1%}" for part in PARTS),
            f"{max(0.0, 1 - step / figures['wall']):.0%}",
        ]
        if "limit" in figures:
            cells += [
                f"{figures['flops'] / 1e9:.3g}",
                f"{figures['nbytes'] / 1e9:.3g}",
                f"{figures['limit']:.3g}",
                f"{step / figures['limit']:.2f}",
                f"{step / figures['alone']:.2f}",
            ]
        else:
            cells += [""] * 5
        slow = stock.get((row.network, row.seconds))
        cells.append(f"{slow / step:.2f}" if slow and not row.stock else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def set_allocator(as_in_sweeps: bool) -> None:
    """New processes start like a sweep's workers, or with the C library's defaults."""
    for name in ALLOCATOR:
        os.environ.pop(name, None)
    if as_in_sweeps:
        os.environ.update(ALLOCATOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="clips of 6 s only, fewer repeats")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: run this with --device cpu, or where there is one")
        return
    results = []
    # A process per row: peak memory and allocator belong to a process.
    spawn = multiprocessing.get_context("spawn")
    for row in rows(options.quick, options.device):
        set_allocator(as_in_sweeps=not row.stock)
        with spawn.Pool(1) as pool:
            figures = pool.apply(measure, (row, options.device, options.threads, options.quick))
        results.append((row, figures))
        print(f"{row}: {figures['step']:.4g} s", flush=True)
    extracted = []
    set_allocator(as_in_sweeps=True)
    for network in ("two branches", "autoencoder"):
        row = Row(network, 10.0 if options.device == "cuda" else 6.0, "fp32")
        with spawn.Pool(1) as pool:
            figures = pool.apply(measure_extraction, (row, options.device, options.threads, options.quick))
        extracted.append((row, figures))
        print(f"extraction, {network}: {figures['extract']:.4g} s a clip", flush=True)
    speed = results[0][1]["speed"]
    print(f"\n{steps.describe(torch.device(options.device), options.threads)}: products "
          f"{speed['fp32'] / 1e9:,.0f} (fp32) and {speed['bf16'] / 1e9:,.0f} (bf16) GFLOP/s, "
          f"memory {speed['memory'] / 1e9:,.0f} GB/s\n")  # fmt: skip
    print(table(results))
    print("\n" + extraction_table(extracted))


if __name__ == "__main__":
    main()
