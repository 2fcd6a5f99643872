"""What `scaling.py` measures in a process of its own: `python scaling_work.py NAME ARGUMENT...`.

Each prints as JSON ``value``, the CPU seconds of one piece of the work itself, where the start of Python, the
imports and what is compiled once are not to count.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS = 256  # of the embeddings of dis_baseline


def wav(samples: np.ndarray) -> bytes:
    """A wav of 16 kHz with one channel of ``(n,) int16``."""
    audio = samples.astype("<i2").tobytes()
    head = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    sizes = (struct.pack("<I", 36 + len(audio)), struct.pack("<I", len(head)), struct.pack("<I", len(audio)))
    return b"RIFF%sWAVEfmt %s%sdata%s%s" % (sizes[0], sizes[1], head, sizes[2], audio)


def tell(**values: float) -> None:
    print(json.dumps(values))


def spent(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def pack(data: str, dcase: str) -> None:
    """Decodes all clips of a year into packs, then reads them once, in batches of 64."""
    from asdray.audio.batches import Clips
    from asdray.audio.cache import ensure_pack
    from asdray.dcase.manifest import load_dataset
    from asdray.store import Places

    places = Places.of(Path(data), Path(data) / "results")

    def build_and_read() -> None:
        for machine, split in itertools.product(load_dataset(places.data, dcase).machines, ("train", "test")):
            clips = Clips([ensure_pack(places, dcase, machine, split)])
            for start in range(0, len(clips), 64):
                clips.gather(np.arange(start, min(start + 64, len(clips))), 4000)

    tell(value=spent(build_and_read))


def backends(machines: str, references: str) -> None:
    """The four default backends for some machines, 200 queries each."""
    import backends as perf

    perf.DIMENSIONS = DIMENSIONS
    perf.REFERENCES = 100
    perf.score()
    perf.REFERENCES = int(references)
    tell(value=spent(lambda: [perf.score() for _ in range(int(machines))]))


def umap(n: str) -> None:
    """UMAP of so many clips, once it is compiled."""
    from asdray.config.backend import Umap
    from asdray.stages.umap import embed

    rng = np.random.default_rng(0)
    embed(rng.normal(size=(64, DIMENSIONS)).astype(np.float32), Umap())
    clips = rng.normal(size=(int(n), DIMENSIONS)).astype(np.float32)
    tell(value=spent(lambda: embed(clips, Umap())))


def step(seconds: str, precision: str, batch_size: str) -> None:
    """A training step of the two-branch network on one thread."""
    import steps
    import torch

    device, size, length = torch.device("cpu"), int(batch_size), float(seconds)
    with steps.compute.settings(1, device):
        torch.manual_seed(0)
        batches = steps.clip_batches(steps.make_clips(2 * size, length), length, size, device)
        model = steps.TwoBranch(length)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def one() -> None:
            optimizer.zero_grad()
            with steps.compute.precision(precision, device):
                loss = model.loss(model.prepare(next(batches)))
            loss.backward()
            optimizer.step()

        for _ in range(2):
            one()
        tell(value=steps.median(one, steps.Clock(device), 5), batch=size)


def precisions() -> None:
    """How many of fp32 and bf16 are worth measuring."""
    import steps
    import torch

    tell(value=len(steps.precisions(torch.device("cpu"))))


def extraction(seconds: str, batch_size: str) -> None:
    """Embeddings of a batch of clips."""
    import steps
    import torch

    device, size, length = torch.device("cpu"), int(batch_size), float(seconds)
    with steps.compute.settings(1, device), torch.inference_mode():
        torch.manual_seed(0)
        clips = steps.make_clips(size, length)
        model = steps.TwoBranch(length).eval()
        index, n_samples = np.arange(size), int(length * steps.RATE)

        def one() -> None:
            model.extract(steps.features.to_float(clips.gather(index, n_samples)))

        one()
        tell(value=steps.median(one, steps.Clock(device), 5), batch=size)


def decoding(seconds: str, folder: str) -> None:
    """One clip read as it is when a pack is made: the mean of 200."""
    from asdray.audio.cache import read_clip

    n = int(float(seconds) * 16000)
    rng = np.random.default_rng(0)
    paths = [Path(folder) / f"{seconds}-{i}.wav" for i in range(200)]
    for path in paths:
        path.write_bytes(wav(rng.integers(-3000, 3000, n, dtype=np.int16)))
    out = np.empty((n, 1), np.int16)
    read_clip(paths[0], out)
    tell(value=spent(lambda: [read_clip(path, out) for path in paths]) / len(paths))
    for path in paths:
        path.unlink()


def build_tables(trials: str, folder: str) -> None:
    """What `tables` reads."""
    import tables as perf

    perf.SYSTEMS, perf.SEEDS = int(trials), 1
    perf.build(Path(folder))


def tables(trials: str, folder: str) -> None:
    """Tables and leaderboard of so many trials with 16 machines and 4 backends."""
    import tables as perf

    perf.SYSTEMS, perf.SEEDS = int(trials), 1
    perf.tabulate(Path(folder))


if __name__ == "__main__":
    works = (pack, backends, umap, step, precisions, extraction, decoding, build_tables, tables)
    next(work for work in works if work.__name__ == sys.argv[1])(*sys.argv[2:])
