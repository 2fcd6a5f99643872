"""Does a training step of a LoRA-tuned encoder take more than its parts? Part of `make perf`.

    python benchmarks/perf/tuning.py [--network beats] [--seconds 10] [--batch 8] [--precision fp32]
        [--small] [--runs 5] [--device auto]

Weights are random, which changes no time. The script measures, in one process and in turns,

* features: int16 to float, mixup of waveforms, spectra;
* the encoder: forward and backward pass over ready spectra, from a ready gradient of the tokens;
* head and loss: attentive statistics, linear layer, sub-cluster AdaCos, forward and backward pass over ready
  tokens;
* the optimiser: AdamW over all that learns;
* the whole step, as the recipe ``dis_beats_scac_trainable`` makes it.

It prints steps and clips per second, the peak memory, and the FLOP of the step as a share of the
speed of a matrix product. ``--small`` has two narrow blocks, for a CPU. The script needs numpy, torch and
this repository alone. Exit code 1 if the whole takes more than 1.15 times the sum of its parts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import numpy as np
import steps
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asdray.audio.features import to_float
from asdray.frontends import compute, encoders
from asdray.frontends.aggregation import AttentiveStatistics
from asdray.frontends.augment import mix
from asdray.frontends.encoders.beats import Beats
from asdray.frontends.encoders.eat import Eat
from asdray.frontends.lora import add_lora
from asdray.frontends.losses import AdaCosLoss

MOST = 1.15
N_CLASSES = 187  # of 2023
TARGETS = ("q", "v", "qkv")  # of these each network has its own


def lora_network(name: str, rank: int = 64) -> Any:
    """An encoder with random weights, in evaluation mode; with LoRA of a rank above 0."""
    network = encoders.build(name).to_empty(device="cpu")
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.02)
    network.requires_grad_(False)
    layers = [layer for name, layer in network.targets.items() if name in TARGETS]
    for block in network.stack if rank else ():
        add_lora(block, layers, rank=rank, alpha=8.0, dropout=0.0)
    return network


class Step(nn.Module):
    """A tuned encoder with head, loss, optimiser and one batch.

    Args:
        network: ``beats`` or ``eat``.
        samples: ``(B, L) int16``.
    """

    def __init__(self, network: str, samples: Tensor, precision: str) -> None:
        super().__init__()
        self.network = lora_network(network)
        self.network.train()
        self.layer = len(self.network.stack)
        self.head = AttentiveStatistics(self.network.width)
        self.projection = nn.Linear(self.network.width, 256)
        self.criterion = AdaCosLoss(256, N_CLASSES, 16, trainable=True)
        self.precision = precision
        self.to(samples.device)
        self.samples = samples
        size, device = len(samples), samples.device
        self.partner = torch.arange(size, device=device).roll(1)
        self.share = torch.full((size,), 0.7, device=device)
        targets = F.one_hot(torch.arange(size, device=device) % N_CLASSES, N_CLASSES).float()
        self.targets = mix(targets, self.partner, self.share)
        learnt = [p for p in self.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learnt, lr=1e-4, fused=True)
        self.spectrum = self.features()
        self.tokens = self.encoded(self.spectrum).detach().requires_grad_(True)

    def features(self) -> Tensor:
        """``(B, frames, mels)``."""
        return self.network.spectrum(mix(to_float(self.samples), self.partner, self.share))

    def encoded(self, spectrum: Tensor) -> Tensor:
        """Tokens ``(B, N, D)`` of the last block."""
        with compute.precision(self.precision, spectrum.device):
            return self.network(spectrum, [self.layer])[self.layer].grid.flatten(1, 2)

    def loss(self, tokens: Tensor) -> Tensor:
        """The loss of a batch of tokens, ``()``."""
        with compute.precision(self.precision, tokens.device):
            return self.criterion(self.projection(self.head(tokens)), self.targets)

    def encode(self) -> None:
        """The encoder's part: forward, and backward from a gradient of ones."""
        tokens = self.encoded(self.spectrum)
        tokens.backward(torch.ones_like(tokens))

    def judge(self) -> None:
        """The part of head and loss."""
        self.tokens.grad = None
        self.loss(self.tokens).backward()

    def update(self) -> None:
        """The optimiser's part: the gradients are those of the parts before, and are kept."""
        self.optimiser.step()

    def whole(self) -> None:
        """One step of the training."""
        self.optimiser.zero_grad()
        self.loss(self.encoded(self.features())).backward()
        self.optimiser.step()


def report(step: Step, device: torch.device, runs: int) -> float:
    """Prints the measurements; returns the whole divided by the sum of its parts."""
    work = {"features": step.features, "encoder": step.encode, "head and loss": step.judge}
    work |= {"optimiser": step.update, "whole step": step.whole}
    clock = steps.Clock(device, torch.get_num_threads())
    times = [{name: steps.median(one, clock, 1) for name, one in work.items()} for _ in range(runs)]
    peak = steps.peak_mebibytes(device)
    with FlopCounterMode(display=False) as counter:
        step.whole()
    median = {name: statistics.median(row[name] for row in times) for name in work}
    ratio = statistics.median(row["whole step"] / (sum(row.values()) - row["whole step"]) for row in times)
    whole, size = median["whole step"], len(step.samples)
    print("  " + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in median.items()))
    print(
        f"  {1 / whole:.2f} steps/s, {size / whole:.1f} clips/s; whole / parts {ratio:.2f} (at most {MOST})"
    )
    flop, speed = counter.get_total_flops(), steps.machine_speed(device)[step.precision]
    share = 100 * flop / whole / speed
    print(f"  {flop / size / 1e9:.1f} GFLOP a clip: {share:.0f} % of a product's {speed / 1e12:.2f} TFLOP/s")
    print(f"  peak memory {peak:,.0f} MiB")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="beats", choices=("beats", "eat"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    if options.small:
        Beats.shape = Eat.shape = (2, 192, 3)
    device = compute.choose_device(options.device)
    torch.manual_seed(0)
    with compute.settings(options.threads, device):
        clips = steps.make_clips(options.batch, options.seconds)
        length = int(options.seconds * steps.RATE)
        samples = clips.gather(np.arange(options.batch), length).to(device)
        small = ", two narrow blocks" if options.small else ""
        print(
            f"LoRA of {options.network}{small}, {options.precision}, batches of {options.batch} clips of "
            f"{options.seconds:g} s, {options.threads} threads, {compute.device_label(device)}:"
        )
        ratio = report(Step(options.network, samples, options.precision), device, options.runs)
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
