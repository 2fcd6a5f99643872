"""Speed of a GPU: training of both networks, many autoencoders at once, extraction.

    python benchmarks/perf/gpu.py [--out FILE.md] [--seconds 5] [--minutes 20] [--parts ...] [--device cpu]

The script suits a machine that is available for minutes only: it needs numpy, torch, torchaudio and this
repository, and no data. Every part runs in its own process and gets a share of ``--minutes``. A failure is
printed as a row, and the other rows follow. Rows are printed as soon as they are measured, and all rows again
as JSON at the end. ``--out`` writes FILE.md and a JSON file beside it, after every row. ``--device cpu`` runs
the same code at tiny sizes, as a test.

Variants: ``eager``, as in the pipeline; ``graph``, the step captured as a CUDA graph; ``free``, eager without
deterministic algorithms and with cuDNN's choice of the fastest; ``compiled``, like ``free``, with network and
loss compiled by torch.compile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import steps
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = {
    "two branches": 6_000,
    "two branches / same batch": 0.9,
    "autoencoder": 150_000,
    "autoencoders": 1_000_000,
    "extraction": 15_000,
}
MACHINES = 14  # of 2023


class Rows:
    """Rows of one part; each row goes through ``send`` to the printing process."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send

    def add(self, name: str, variant: str, batch: int, value: float, unit: str, target: float | None) -> None:
        self._send(
            {"what": name, "variant": variant, "batch": batch, "value": value, "unit": unit, "target": target}
        )

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Turns an exception inside into a row, so that the other rows are still measured."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self._send({"what": name, "failed": f"{type(error).__name__}: {lines[0][:200]}"})


def markdown(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "failed" in row:
        return f"| {row['what']} | failed | | {row['failed']} | | |"
    value = row["value"]
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    wanted = f"{row['target']:,.9g}" if row["target"] else ""
    return f"| {row['what']} | {row['variant']} | {row['batch']} | {shown} | {row['unit']} | {wanted} |"


def rate(work: Callable[[], Any], items: int, device: torch.device, seconds: float) -> float:
    """Items per second of ``work()`` in wall time, measured for about ``seconds``."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        work()
    began = now()
    work()
    n = max(3, int(seconds / max(now() - began, 1e-6)))
    began = now()
    for _ in range(n):
        work()
    return n * items / (now() - began)


class Step:
    """A training step of a model, eager or as a graph; a graph reads a static copy of its input."""

    def __init__(self, model: Any, batch: tuple[Tensor, ...], precision: str, variant: str) -> None:
        self._model = model
        self._loss = torch.compile(model.loss) if variant == "compiled" else model.loss
        self._precision = precision
        self._device = batch[0].device
        self._static = tuple(t.clone() for t in batch)
        graph = variant == "graph" and self._device.type == "cuda"
        self._optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=graph)
        self._graph = self._capture() if graph else None

    def _run(self, batch: tuple[Tensor, ...]) -> None:
        with steps.compute.precision(self._precision, self._device):
            loss = self._loss(self._model.prepare(batch))
        loss.backward()
        self._optimizer.step()

    def _capture(self) -> Any:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._optimizer.zero_grad()
                self._run(self._static)
        torch.cuda.current_stream().wait_stream(side)
        self._optimizer.zero_grad()  # so the captured pass writes gradients instead of adding
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(self._static)
        return graph

    def __call__(self, batch: tuple[Tensor, ...]) -> None:
        if self._graph is None:
            self._optimizer.zero_grad()
            self._run(batch)
            return
        for static, value in zip(self._static, batch, strict=True):
            static.copy_(value)
        self._graph.replay()


@contextlib.contextmanager
def setting(variant: str, device: torch.device) -> Iterator[None]:
    """The pipeline's settings; the fastest algorithms with ``free`` and ``compiled``."""
    with steps.compute.settings(torch.get_num_threads(), device):
        if variant in ("free", "compiled"):
            torch.set_deterministic_debug_mode("default")
            torch.backends.cudnn.benchmark = True
        yield


def two_branches(rows: Rows, device: torch.device, seconds: float, tiny: bool) -> None:
    """Training with its batches, and the same step on one batch that stays on the device."""
    clip_seconds = 5.0 if tiny else 10.0
    name = f"two branches, {clip_seconds:g} s, bf16"
    on_host = steps.make_clips(8 if tiny else 4096, clip_seconds)
    on_device = on_host.on(device)
    variants = ("eager", "graph", "free") + (() if tiny else ("compiled",))
    for variant, size in itertools.product(variants, (4,) if tiny else (64, 256)):
        with rows.attempt(f"{name}, {variant}, {size}"), setting(variant, device):
            torch.manual_seed(0)
            model = steps.TwoBranch(clip_seconds).to(device)
            batches = steps.clip_batches(on_device, clip_seconds, size, device)
            batch = next(batches)
            step = Step(model, batch, "bf16", variant)
            alone = rate(lambda: step(batch), size, device, seconds)  # noqa: B023 - called at once
            whole = rate(lambda: step(next(batches)), size, device, seconds)  # noqa: B023
            rows.add(f"{name}, training", variant, size, whole, "clips/s", TARGETS["two branches"])
            rows.add(f"{name}, same batch", variant, size, alone, "clips/s", None)
            target = TARGETS["two branches / same batch"]
            rows.add(f"{name}, training / same batch", variant, size, whole / alone, "", target)
            if variant == "eager":
                copied = steps.clip_batches(on_host, clip_seconds, size, device)
                whole = rate(lambda: step(next(copied)), size, device, seconds)  # noqa: B023
                rows.add(f"{name}, audio copied every step", variant, size, whole, "clips/s", None)


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

    def loss(self, vectors: Tensor) -> Tensor:
        """The sum of the K mean squared errors for vectors ``(K, B, width)``."""
        x = vectors
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.norms):
                k, b, c = x.shape
                flat = self.norms[i](x.transpose(0, 1).reshape(b, k * c))
                x = torch.relu(flat).view(b, k, c).transpose(0, 1)
        return F.mse_loss(x, vectors) * len(vectors)


def autoencoders(rows: Rows, device: torch.device, seconds: float, tiny: bool) -> None:
    """One model alone; then the models of all machines of a year, each on a stream, and stacked."""
    size, n_frames = (32, 1000) if tiny else (256, 60_000)
    count = 3 if tiny else MACHINES
    for variant in ("eager", "graph"):
        with rows.attempt(f"autoencoder, {variant}"), setting(variant, device):
            torch.manual_seed(0)
            batches = steps.vector_batches(size, device, n_frames)
            step = Step(steps.Vectors().to(device), next(batches), "fp32", variant)
            per_second = rate(lambda: step(next(batches)), size, device, seconds)  # noqa: B023
            rows.add("autoencoder, training", variant, size, per_second, "vectors/s", TARGETS["autoencoder"])

        with rows.attempt(f"{count} autoencoders, a stream each, {variant}"), setting(variant, device):
            own = [steps.vector_batches(size, device, n_frames) for _ in range(count)]
            many = [Step(steps.Vectors().to(device), next(b), "fp32", variant) for b in own]
            streams = [torch.cuda.Stream() for _ in many] if device.type == "cuda" else [None] * count

            def together(many: list[Step] = many, streams: list[Any] = streams, own: Any = own) -> None:
                for one, stream, batches in zip(many, streams, own, strict=True):
                    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                        one(next(batches))

            per_second = rate(together, count * size, device, seconds)
            target = TARGETS["autoencoders"]
            rows.add(f"{count} autoencoders, a stream each", variant, size, per_second, "vectors/s", target)

        with rows.attempt(f"{count} autoencoders, stacked, {variant}"), setting(variant, device):
            models = [steps.Vectors().to(device) for _ in range(count)]
            stacked = Stacked([model.network for model in models]).to(device)
            at_once = steps.stacked_batches(count, size, device, n_frames)
            batch = next(at_once)
            with torch.no_grad():
                wanted = sum(float(m.loss(x)) for m, x in zip(models, batch[0], strict=True))
                got = float(stacked.loss(batch[0]))
            assert abs(got - wanted) < 1e-3 * wanted, (got, wanted)
            step = Step(stacked, batch, "fp32", variant)
            per_second = rate(lambda: step(next(at_once)), count * size, device, seconds)  # noqa: B023
            target = TARGETS["autoencoders"]
            rows.add(f"{count} autoencoders, stacked", variant, size, per_second, "vectors/s", target)


def extraction(rows: Rows, device: torch.device, seconds: float, tiny: bool) -> None:
    """Embeddings of whole clips, from int16 clips to float32 in the host's memory."""
    clip_seconds = 5.0 if tiny else 10.0
    on_host = steps.make_clips(8 if tiny else 2048, clip_seconds)
    sources = {"audio copied": on_host, "audio on the device": on_host.on(device)}
    n_samples = int(clip_seconds * steps.RATE)
    models = {
        "two branches": steps.TwoBranch(clip_seconds).to(device).eval(),
        "autoencoder": steps.autoencoder_frontend().to(device).eval(),
    }
    for (name, model), precision, (source, clips), size in itertools.product(
        models.items(), ("fp32", "bf16"), sources.items(), (4,) if tiny else (64, 256)
    ):
        if name == "autoencoder" and precision == "bf16":
            continue

        def work(
            size: int = size, clips: Any = clips, precision: str = precision, model: Any = model
        ) -> None:
            with steps.compute.precision(precision, device):
                steps.extract_all(model, clips, n_samples, size, device)

        title = f"extraction, {name}, {clip_seconds:g} s, {precision}, {source}"
        with rows.attempt(title), setting("eager", device), torch.inference_mode():
            value = rate(work, len(clips), device, seconds)
            target = TARGETS["extraction"] if name == "two branches" else None
            rows.add(title, "eager", size, value, "clips/s", target)


def speed(rows: Rows, device: torch.device, seconds: float, tiny: bool) -> None:
    """The machine's speed of products and of memory."""
    with rows.attempt("speed"), setting("eager", device):
        speeds = steps.machine_speed(device, quick=tiny)
        for name in ("fp32", "bf16"):
            rows.add(f"products, {name}", "", 0, speeds[name] / 1e12, "TFLOP/s", None)
        rows.add("memory", "", 0, speeds["memory"] / 1e9, "GB/s", None)


PARTS = {f.__name__: f for f in (speed, autoencoders, extraction, two_branches)}


def run_part(name: str, device_name: str, seconds: float, pipe: Any) -> None:
    """Runs one part in this process and sends its rows through ``pipe``."""
    device = torch.device(device_name)
    tiny = device.type == "cpu"
    if tiny:
        torch.set_num_threads(1)
    rows = Rows(pipe.send)
    with rows.attempt(name):
        PARTS[name](rows, device, seconds, tiny)
    pipe.close()


def received(name: str, device_name: str, seconds: float, limit: float) -> Iterator[dict[str, Any]]:
    """The rows of one part from a new process, which is ended after ``limit`` seconds."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run_part, args=(name, device_name, seconds, sender))
    process.start()
    sender.close()
    until = time.monotonic() + limit
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            yield receiver.recv()
        yield {"what": name, "failed": f"not done after {limit:.0f} s"}
    except EOFError:  # the process has ended
        process.join(10)
        if process.exitcode:
            yield {"what": name, "failed": f"exit code {process.exitcode}"}
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, help="write the table to this file, and the JSON beside it")
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu runs the code at tiny sizes)")
        return
    device_name, seconds = ("cuda:0", options.seconds) if options.device == "cuda" else ("cpu", 0.1)
    machine = steps.describe(torch.device(device_name), 1)
    table = [
        f"{machine}\n",
        "| what | variant | batch | value | unit | target |",
        "|---|---|---:|---:|---|---:|",
    ]
    print("\n".join(table), flush=True)
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + 60 * options.minutes
    for i, name in enumerate(options.parts):
        share = max(1.0, (until - time.monotonic()) / (len(options.parts) - i))
        for row in received(name, device_name, seconds, share):
            rows.append(row)
            table.append(markdown(row))
            print(table[-1], flush=True)
            if options.out:
                options.out.write_text("\n".join(table) + "\n", encoding="utf-8")
                text = json.dumps({"machine": machine, "rows": rows}, indent=1)
                options.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print("\n" + json.dumps({"machine": machine, "rows": rows}), flush=True)
    sys.exit(int(any("failed" in row for row in rows)))


if __name__ == "__main__":
    main()
