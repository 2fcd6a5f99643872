"""How much memory do a sweep's driver, a training worker and a large dataset take? Part of `make perf`.

Sweep: one small `dis_baseline` (full-size network, batch 64, clips of 6 s) runs through Ray; measured is the
peak resident memory of the driver and of the training worker, which is the largest worker. Limits: driver 600
MB; worker 1.3 times the saved activations of the batch plus 1.5 GiB.

Dataset: a small network is trained on crops of a second of few and of many packed clips of 6 s, each time in
a new process. Private memory of the process (`RssAnon`; a pack is a shared file mapping) must not grow with
the audio: limit 10 % of the audio's size in float32. Exit code 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
from pathlib import Path

import runs

MOST_DRIVER_MB = 600
MOST_GROWTH = 0.1
SECONDS = 6.0
DIS = {"train.epochs": 1, "train.threads": 1, "audio.duration": SECONDS}
SMALL = [{"name": "stft", "n_fft": 512, "hop_length": 256, "channels": [8, 16], "embedding_dim": 64}]
"""Branches of a network for crops of a second."""


def saved_activations(batch_size: int) -> float:
    """Activations of a training step that the forward pass keeps for the backward pass, in MiB."""
    import steps
    import torch

    model = steps.TwoBranch(SECONDS)
    clips = steps.make_clips(batch_size, SECONDS)
    batch = next(steps.clip_batches(clips, SECONDS, batch_size, torch.device("cpu")))
    return steps.saved_mebibytes(lambda: model.loss(model.prepare(batch)))


def sweep(root: Path, batch_size: int) -> bool:
    """Prints the peak memory of a sweep's processes; True if the limits are met."""
    data, results = root / "data", root / "results"
    runs.make_data(data, ("fan",), 2 * batch_size, 8, SECONDS)
    spec = {
        "name": "memory",
        "recipes": {"dis_baseline": {"set": DIS | {"train.batch_size": batch_size}}},
        "dcase": [runs.DCASE],
        "seeds": [0],
        "machines": {runs.DCASE: ["fan"]},
        "backends": runs.BACKENDS,
    }
    (root / "memory.yaml").write_text(json.dumps(spec))
    tree = runs.ProcessTree(
        ("sweep", root / "memory.yaml", "--data", data, "--results", results, "--no-dashboard", "--quiet")
    )
    driver = tree.peaks[tree.pid][1]
    workers = sorted((mb for name, mb in tree.peaks.values() if name.startswith("ray::")), reverse=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        activations = pool.apply(saved_activations, (batch_size,))
    most = 1.3 * activations + 1.5 * 1024
    runs.print_table(
        ("process", "peak MiB", "limit"),
        [
            ("driver", f"{driver:,.0f}", f"{MOST_DRIVER_MB / 1.048576:,.0f}"),
            (
                f"training worker, {activations:,.0f} MiB saved",
                f"{workers[0]:,.0f}",
                f"{most:,.0f}",
            ),
            *((f"worker {i}", f"{mb:,.0f}", "") for i, mb in enumerate(workers[1:], 2)),
        ],
    )
    return driver * 1.048576 < MOST_DRIVER_MB and workers[0] <= most


def write_clips(root: Path, n: int) -> None:
    """Writes and formats ``n`` training clips of noise and eight test clips in the year's original layout."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    noise = rng.integers(-3000, 3000, int(4 * SECONDS * runs.RATE), dtype=np.int16)
    length = int(SECONDS * runs.RATE)
    names = [
        f"section_00_{'target' if i < 10 else 'source'}_train_normal_{i:04d}_x_{i % 4}" for i in range(n)
    ]
    tests = [
        f"section_00_{d}_test_{label}_{i:04d}_x_0"
        for i in range(2)
        for d in ("source", "target")
        for label in ("normal", "anomaly")
    ]
    for split, stems in (("train", names), ("test", tests)):
        folder = root / "original" / runs.DCASE / "dev_data" / "raw" / "fan" / split
        folder.mkdir(parents=True)
        for name in stems:
            start = int(rng.integers(len(noise) - length))
            soundfile.write(folder / f"{name}.wav", noise[start : start + length], runs.RATE, "PCM_16")
    runs.asdray("format", runs.DCASE, "--data", root, "--partial")


def training(data: Path, results: Path) -> float:
    """Peak private memory of this process in MiB during an epoch of training on crops of a second."""
    from asdray.stages.steps import TrialFiles
    from asdray.stages.train import train
    from asdray.store import Places

    places = Places.of(data, results)
    runs.ensure_packs(places, ("fan",))
    short = {"frontend.branches": SMALL, "audio.duration": 1.0, "train.batch_size": 32}
    trial = runs.trial_of("dis_baseline", DIS | short, 0, ("fan",))
    peak, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], runs.status("RssAnon"))

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        train(TrialFiles.load(trial, places), trial.units[0])
    finally:
        done.set()
        watcher.join()
    return peak[0]


def dataset(root: Path, counts: tuple[int, int]) -> bool:
    """Prints the memory of trainings on few and on many clips; True if the growth is within the limit."""
    spawn = multiprocessing.get_context("spawn")
    rows, peaks = [], []
    for n in counts:
        data = root / f"data{n}"
        with spawn.Pool(1) as pool:
            pool.apply(write_clips, (data, n))
        with spawn.Pool(1) as pool:
            peaks.append(pool.apply(training, (data, root / f"results{n}")))
        samples = n * SECONDS * runs.RATE / 2**20
        rows.append([f"{n:,}", f"{2 * samples:,.0f}", f"{4 * samples:,.0f}", f"{peaks[-1]:,.0f}"])
    runs.print_table(("clips", "int16 MiB", "float32 MiB", "private memory of the training, peak MiB"), rows)
    growth = peaks[1] - peaks[0]
    as_float = 4 * (counts[1] - counts[0]) * SECONDS * runs.RATE / 2**20
    print(f"growth {growth:,.0f} MiB: {100 * growth / as_float:.1f} % of the added audio in float32\n")
    return growth < MOST_GROWTH * as_float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="600 clips instead of 2,000, batches of 16")
    args = parser.parse_args()
    print(f"{runs.describe_machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        fine = dataset(Path(folder), (100, 600) if args.quick else (200, 2000))
        fine &= sweep(Path(folder), 16 if args.quick else 64)
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
