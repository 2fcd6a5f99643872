"""What a GPU reaches: training of both networks, many autoencoders at once, extraction.

    python benchmarks/perf/gpu.py [--out FILE.md] [--seconds 10] [--device cpu]

One script for a machine lent for minutes: it needs numpy, torch and this repository, and no data. It writes a
Markdown table as it goes, so that what is measured stays if the time runs out. ``--device cpu`` runs the same
code at tiny sizes, to see that it runs; without a GPU nothing else is done.

Variants: ``eager``, as the pipeline runs; ``graph``, the step captured as a CUDA graph; ``free``, eager
without deterministic algorithms and with cuDNN's choice of the fastest.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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


class Table:
    """Rows of the result, printed and written as they come."""

    def __init__(self, path: Path | None, title: str) -> None:
        self._path = path
        self._write(
            f"{title}\n\n| what | variant | batch | value | unit | target |\n|---|---|---:|---:|---|---:|"
        )

    def add(self, what: str, variant: str, batch: int, value: float, unit: str, target: float | None) -> None:
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        wanted = f"{target:,.9g}" if target else ""
        self._write(f"| {what} | {variant} | {batch} | {shown} | {unit} | {wanted} |")

    def _write(self, text: str) -> None:
        print(text, flush=True)
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text + "\n")


def rate(work: Callable[[], Any], items: int, device: torch.device, seconds: float) -> float:
    """Items per second of ``work()``, by the wall clock, over about ``seconds``."""

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
    """A training step of a model, eager or as a graph; its input is copied to where the graph reads it."""

    def __init__(self, model: Any, batch: tuple[Tensor, ...], precision: str, graph: bool) -> None:
        self._model = model
        self._precision = precision
        self._device = batch[0].device
        self._static = tuple(t.clone() for t in batch)
        graph = graph and self._device.type == "cuda"
        self._optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=graph)
        self._graph = self._capture() if graph else None

    def _run(self, batch: tuple[Tensor, ...]) -> None:
        with steps.compute.precision(self._precision, self._device):
            loss = self._model.loss(self._model.prepare(batch))
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
        self._optimizer.zero_grad()  # so that the captured pass writes gradients instead of adding to them
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(self._static)
        return graph

    def __call__(self, batch: tuple[Tensor, ...]) -> None:
        if self._graph is None:
            self._optimizer.zero_grad()
            self._run(batch)
            return
        for place, value in zip(self._static, batch, strict=True):
            place.copy_(value)
        self._graph.replay()


@contextlib.contextmanager
def setting(variant: str, device: torch.device) -> Iterator[None]:
    """The pipeline's settings, or with ``free`` those of fastest computation."""
    with steps.compute.settings(torch.get_num_threads(), device):
        if variant == "free":
            torch.set_deterministic_debug_mode("default")
            torch.backends.cudnn.benchmark = True
        yield


def two_branches(table: Table, device: torch.device, seconds: float, tiny: bool) -> None:
    """Training, data included, beside the same step on one batch that stays on the device."""
    clip_seconds = 5.0 if tiny else 10.0
    here = steps.make_clips(8 if tiny else 4096, clip_seconds)
    there = here.on(device)
    for size, variant in itertools.product((4,) if tiny else (64, 256), ("eager", "graph", "free")):
        with setting(variant, device):
            torch.manual_seed(0)
            model = steps.TwoBranch(clip_seconds).to(device)
            batches = steps.clip_batches(there, clip_seconds, size, device)
            one = next(batches)
            step = Step(model, one, "bf16", variant == "graph")
            alone = rate(lambda: step(one), size, device, seconds)  # noqa: B023 - called at once
            whole = rate(lambda: step(next(batches)), size, device, seconds)  # noqa: B023
            name = f"two branches, {clip_seconds:g} s, bf16"
            target = TARGETS["two branches"]
            table.add(f"{name}, training", variant, size, whole, "clips/s", target)
            table.add(f"{name}, same batch", variant, size, alone, "clips/s", None)
            target = TARGETS["two branches / same batch"]
            table.add(f"{name}, training / same batch", variant, size, whole / alone, "", target)
            if variant == "eager":
                copied = steps.clip_batches(here, clip_seconds, size, device)
                whole = rate(lambda: step(next(copied)), size, device, seconds)  # noqa: B023
                table.add(f"{name}, audio copied every step", variant, size, whole, "clips/s", None)


class Stacked(nn.Module):
    """K autoencoders as one: batched products, and batch norm over all their features side by side.

    Their parameters share no term of the loss, so each learns as it would alone.
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
        """The sum of the models' mean squared errors of ``(K, B, width)``."""
        x = vectors
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.norms):
                k, b, c = x.shape
                flat = self.norms[i](x.transpose(0, 1).reshape(b, k * c))
                x = torch.relu(flat).view(b, k, c).transpose(0, 1)
        return F.mse_loss(x, vectors) * len(vectors)


def autoencoders(table: Table, device: torch.device, seconds: float, tiny: bool) -> None:
    """One model alone, then those of all machines of a year: in turns, concurrently, stacked."""
    size, n_frames = (256, 60_000) if not tiny else (32, 1000)
    count = 3 if tiny else MACHINES
    for variant in ("eager", "graph"):
        with setting(variant, device):
            torch.manual_seed(0)
            batches = steps.vector_batches(size, device, n_frames)
            step = Step(steps.Vectors().to(device), next(batches), "fp32", variant == "graph")
            found = rate(lambda: step(next(batches)), size, device, seconds)  # noqa: B023
            table.add("autoencoder, training", variant, size, found, "vectors/s", TARGETS["autoencoder"])

            models = [steps.Vectors().to(device) for _ in range(count)]
            many = [Step(model, next(batches), "fp32", variant == "graph") for model in models]
            streams = [torch.cuda.Stream() for _ in models] if device.type == "cuda" else [None] * count

            def together(
                many: list[Step] = many, streams: list[Any] = streams, batches: Any = batches
            ) -> None:
                for one, stream in zip(many, streams, strict=True):
                    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                        one(next(batches))

            found = rate(together, count * size, device, seconds)
            target = TARGETS["autoencoders"]
            table.add(f"{count} autoencoders, a stream each", variant, size, found, "vectors/s", target)

            stacked = Stacked([model.network for model in models]).to(device)
            batch = torch.stack([next(batches)[0] for _ in range(count)])
            with torch.no_grad():
                wanted = sum(float(m.loss(x)) for m, x in zip(models, batch, strict=True))
                got = float(stacked.loss(batch))
            assert abs(got - wanted) < 1e-3 * wanted, (got, wanted)
            step = Step(stacked, (batch,), "fp32", variant == "graph")

            def at_once(step: Step = step, batches: Any = batches) -> None:
                step((torch.stack([next(batches)[0] for _ in range(count)]),))

            found = rate(at_once, count * size, device, seconds)
            table.add(f"{count} autoencoders, stacked", variant, size, found, "vectors/s", target)


def extraction(table: Table, device: torch.device, seconds: float, tiny: bool) -> None:
    """Embeddings of whole clips, from the clips' int16 to float32 in the host's memory."""
    clip_seconds = 5.0 if tiny else 10.0
    here = steps.make_clips(8 if tiny else 2048, clip_seconds)
    places = {"audio copied": here, "audio on the device": here.on(device)}
    n_samples = int(clip_seconds * steps.RATE)
    model = steps.TwoBranch(clip_seconds).to(device).eval()
    for size, (where, clips), precision in itertools.product(
        (4,) if tiny else (64, 256), places.items(), ("fp32", "bf16")
    ):

        def work(size: int = size, clips: Any = clips, precision: str = precision) -> None:
            index = steps.np.arange(len(clips))
            found = []
            for part in steps.split(len(clips), size):
                waves = steps.features.to_float(clips.gather(index[part], n_samples).to(device))
                with steps.compute.precision(precision, device):
                    found.append(model.extract(waves).float())
            torch.cat(found).cpu()

        with setting("eager", device), torch.inference_mode():
            value = rate(work, len(clips), device, seconds)
        what = f"extraction, {clip_seconds:g} s, {precision}, {where}"
        table.add(what, "eager", size, value, "clips/s", TARGETS["extraction"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, help="append the table to this file")
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu tries the code at tiny sizes)")
        return
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    tiny = device.type == "cpu"
    seconds = 0.1 if tiny else options.seconds
    if tiny:
        torch.set_num_threads(1)
    with setting("eager", device):
        speed = steps.machine_speed(device, quick=tiny)
    table = Table(
        options.out,
        f"{steps.describe(device, torch.get_num_threads())}: products {speed['fp32'] / 1e12:.3g} (fp32) and "
        f"{speed['bf16'] / 1e12:.3g} (bf16) TFLOP/s, memory {speed['memory'] / 1e9:,.0f} GB/s",
    )
    failed = False
    for part in (two_branches, autoencoders, extraction):
        try:
            part(table, device, seconds, tiny)
        except RuntimeError as error:  # the next part may still run: the machine is lent for minutes only
            failed = True
            print(f"{part.__name__} failed: {error}", file=sys.stderr, flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
