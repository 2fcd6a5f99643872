"""How much of the time of an encoder's extraction is the encoder itself? Part of `make perf`.

    python benchmarks/perf/encoders.py [--network beats] [--clips 24] [--seconds 10] [--batch 8]
        [--precision fp32] [--device auto]

Weights are random, which changes no time. The script measures, in one process and in turns,

* the network's forward passes over ready spectra, in batches;
* the whole extraction of the same batches: gathering from a pack of int16, spectra, forward passes, and the
  pooling of the last layer by seven poolings, over all tokens and per band;
* the extraction with one pooling of the last layer, and with seven poolings of three layers.

It prints clips per second, the FLOP and the bytes of weights that a forward pass needs, the time of its FLOP
at the speed of a large matrix product, and the share of its bytes in the speed of a copy on the device. Exit
code 1 if the extraction takes more than 1.15 times the forward passes, these more than 1.4 times their
products, or poolings of three layers more than 1.05 times one pooling.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from asdray.audio.batches import Clips
from asdray.audio.cache import Pack
from asdray.config.encoder import NETWORKS, Encoder
from asdray.dcase.years import SAMPLE_RATE
from asdray.frontends import compute
from asdray.frontends.base import extract_all
from asdray.frontends.encoder import EncoderFrontend

MOST, MOST_PRODUCTS, MOST_POOLINGS = 1.15, 1.4, 1.05
RUNS = 3
POOLINGS = [
    "mean",
    "max",
    "mean_std",
    {"name": "gwrp", "r": 0.9},
    {"name": "gem", "p": 3},
    {"name": "rdp", "gamma": 8},
    {"name": "rdp_gem", "gamma": 4, "p": 3},
]


def frontend_of(
    network: str, precision: str, poolings: Sequence[Any], tokens: Sequence[str], layers: Any = "last"
) -> EncoderFrontend:
    """A frontend with random weights and the given poolings, over all tokens or per band."""
    objects = [{"name": p} if isinstance(p, str) else p for p in poolings]
    options = {
        "network": network,
        "weights": "aisfx" if network == "aisfx" else "random.pt",
        "poolings": [{**p, "tokens": of} for p in objects for of in tokens],
        "precision": precision,
        "layers": layers,
    }
    config = Encoder.model_validate(options)
    frontend = EncoderFrontend(config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in frontend.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return frontend.eval()


def clips_of(n: int, seconds: float) -> Clips:
    """Noise of n clips, as a pack in memory."""
    length = int(seconds * SAMPLE_RATE)
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(n * length, 1)) * 3000).astype(np.int16)
    keys = tuple(f"clip{i}" for i in range(n))
    return Clips(
        [Pack("dcase2023", "fan", "test", "id", keys, samples, np.arange(n + 1) * length, SAMPLE_RATE)]
    )


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peaks(device: torch.device, precision: str) -> tuple[float, float]:
    """FLOP per second of a large matrix product, and bytes per second of a copy."""
    n = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(n, n, device=device, dtype=dtype)
    product = min(timed(lambda: a @ a, device) for _ in range(4))
    copy = min(timed(a.clone, device) for _ in range(4))
    return 2 * n**3 / product, 2 * a.nbytes / copy


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="beats", choices=("beats", "eat", "eat_large", "aisfx"))
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    device = compute.choose_device(options.device)
    with compute.settings(options.threads, device), torch.inference_mode():
        facts = NETWORKS[options.network]
        of = options.network, options.precision
        tokens = ["all", "bands"] if facts.bands > 1 else ["all"]
        frontend = frontend_of(*of, POOLINGS, tokens).to(device)
        some_layers = sorted({max(1, facts.n_layers * k // 3) for k in (1, 2, 3)})
        one = frontend_of(*of, POOLINGS[:1], ["all"]).to(device)
        many = frontend_of(*of, POOLINGS, ["all"], some_layers).to(device)
        clips = clips_of(options.clips, options.seconds)
        length = int(options.seconds * SAMPLE_RATE)
        batches = [
            np.arange(first, min(first + options.batch, options.clips))
            for first in range(0, options.clips, options.batch)
        ]
        spectra = [frontend.network.spectrum(clips.gather(batch, length).to(device)) for batch in batches]
        layers = frontend.config.layer_numbers

        def forward() -> None:
            for spectrum in spectra:
                with compute.precision(options.precision, device):
                    frontend.network(spectrum, layers)

        def extraction(by: EncoderFrontend = frontend) -> None:
            extract_all(by, clips, length, options.batch, device)

        with FlopCounterMode(display=False) as counter:
            frontend.network(spectra[0], layers)
        flop = counter.get_total_flops() / len(batches[0])
        works = forward, extraction, partial(extraction, one), partial(extraction, many)
        for work in works:
            work()
        rounds = [[timed(work, device) for work in works] for _ in range(RUNS)]
        flops, bandwidth = peaks(device, options.precision)

    own, whole, *_ = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b, *_ in rounds)
    of_poolings = statistics.median(d / c for *_, c, d in rounds)
    weights = sum(p.nbytes for p in frontend.network.parameters()) * len(batches)
    n = options.clips
    products = own / (flop * n / flops)
    for line in (
        f"{options.network}, {options.precision}, {n} clips of {options.seconds:g} s in batches of "
        f"{options.batch}, {options.threads} threads, {compute.device_label(device)}:",
        f"  forward passes {n / own:.2f} clips/s; extraction with {len(frontend.config.poolings)} poolings "
        f"{n / whole:.2f} clips/s; ratio {ratio:.2f} (at most {MOST})",
        f"  seven poolings of layers {some_layers} against one of the last: {of_poolings:.2f} times "
        f"(at most {MOST_POOLINGS})",
        f"  {flop / 1e9:.1f} GFLOP a clip: {products:.2f} times (at most {MOST_PRODUCTS}) the time at a "
        f"matrix product's {flops / 1e12:.2f} TFLOP/s; weights {weights / n / 1e6:.0f} MB a clip: "
        f"{100 * weights / own / bandwidth:.1f} % of a copy's {bandwidth / 1e9:.1f} GB/s",
    ):
        print(line)
    return int(ratio > MOST or products > MOST_PRODUCTS or of_poolings > MOST_POOLINGS)


if __name__ == "__main__":
    sys.exit(main())
