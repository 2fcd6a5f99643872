"""How much of the time of an encoder's extraction is the encoder itself? Part of `make perf`.

    python benchmarks/perf/encoders.py [--network beats] [--clips 24] [--seconds 10] [--batch 8]
        [--precision fp32] [--device auto]

Weights are random, which changes no time. The script measures, in one process and in turns,

* the network's forward passes over ready spectra, in batches;
* the whole extraction of the same batches: gathering from a pack of int16, spectra, forward passes, and the
  pooling of the last layer by seven poolings, over all tokens and per band.

It prints clips per second, the FLOP and the bytes of weights that a forward pass needs, and their share of
the speed of a matrix product and of a copy on the device. Exit code 1 if the extraction takes more than 1.25
times the forward passes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

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

MOST = 1.25
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


def frontend_of(network: str, precision: str) -> EncoderFrontend:
    """A frontend with random weights and all poolings."""
    tokens = ["all", "bands"] if NETWORKS[network].bands > 1 else ["all"]
    objects = [{"name": p} if isinstance(p, str) else p for p in POOLINGS]
    poolings = [{**p, "tokens": of} for p in objects for of in tokens]
    weights = "aisfx" if network == "aisfx" else "random.pt"
    config = Encoder.model_validate(
        {"network": network, "weights": weights, "poolings": poolings, "precision": precision}
    )
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
        frontend = frontend_of(options.network, options.precision).to(device)
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

        def extraction() -> None:
            extract_all(frontend, clips, length, options.batch, device)

        with FlopCounterMode(display=False) as counter:
            frontend.network(spectra[0], layers)
        flop = counter.get_total_flops() / len(batches[0])
        forward(), extraction()
        pairs = [(timed(forward, device), timed(extraction, device)) for _ in range(RUNS)]
        flops, bandwidth = peaks(device, options.precision)

    own, whole = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    weights = sum(p.nbytes for p in frontend.network.parameters()) * len(batches)
    n = options.clips
    for line in (
        f"{options.network}, {options.precision}, {n} clips of {options.seconds:g} s in batches of "
        f"{options.batch}, {options.threads} threads, {compute.device_label(device)}:",
        f"  forward passes {n / own:.2f} clips/s; extraction with {len(frontend.config.poolings)} poolings "
        f"{n / whole:.2f} clips/s; ratio {ratio:.2f} (at most {MOST})",
        f"  {flop / 1e9:.1f} GFLOP a clip: {100 * flop * n / own / flops:.0f} % of a matrix product's "
        f"{flops / 1e12:.2f} TFLOP/s; weights {weights / n / 1e6:.0f} MB a clip: "
        f"{100 * weights / own / bandwidth:.1f} % of a copy's {bandwidth / 1e9:.1f} GB/s",
    ):
        print(line)
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
