"""Work that `scaling.py` measures in a new process: `python scaling_work.py NAME ARGUMENT...`.

Most functions print ``{"value": CPU seconds of the work}`` in JSON, without the start of Python, imports and
compilation.
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


def print_json(**values: float) -> None:
    """Prints the values as the line of JSON that `scaling.measured` reads."""
    print(json.dumps(values))


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of ``work()`` in this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def pack(data: str, dcase: str) -> None:
    """Decodes all clips of a year into packs and reads the packs once in batches of 64."""
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

    print_json(value=cpu_seconds(build_and_read))


def backends(machines: str, references: str) -> None:
    """Scores some machines by the four default backends, 200 queries per machine."""
    import backends as perf

    perf.DIMENSIONS = DIMENSIONS
    perf.REFERENCES = 100
    perf.score()
    perf.REFERENCES = int(references)
    print_json(value=cpu_seconds(lambda: [perf.score() for _ in range(int(machines))]))


def umap(n: str) -> None:
    """UMAP of ``n`` clips, after a small UMAP that compiles the functions."""
    from asdray.config.backend import Umap
    from asdray.stages.umap import embed

    rng = np.random.default_rng(0)
    embed(rng.normal(size=(64, DIMENSIONS)).astype(np.float32), Umap())
    clips = rng.normal(size=(int(n), DIMENSIONS)).astype(np.float32)
    print_json(value=cpu_seconds(lambda: embed(clips, Umap())))


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
        print_json(value=steps.median(one, steps.Clock(device), 5), batch=size)


def precisions() -> None:
    """Prints the number of precisions worth measuring: 1 (fp32) or 2 (and bf16)."""
    import steps
    import torch

    print_json(value=len(steps.precisions(torch.device("cpu"))))


def extraction(seconds: str, batch_size: str) -> None:
    """Extraction of the embeddings of a batch of clips."""
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
        print_json(value=steps.median(one, steps.Clock(device), 5), batch=size)


def decoding(seconds: str, folder: str) -> None:
    """Decoding of one clip, as in packing: the mean of 200 clips."""
    from asdray.audio.cache import read_clip

    n = int(float(seconds) * 16000)
    rng = np.random.default_rng(0)
    paths = [Path(folder) / f"{seconds}-{i}.wav" for i in range(200)]
    for path in paths:
        path.write_bytes(wav(rng.integers(-3000, 3000, n, dtype=np.int16)))
    out = np.empty((n, 1), np.int16)
    read_clip(paths[0], out)
    print_json(value=cpu_seconds(lambda: [read_clip(path, out) for path in paths]) / len(paths))
    for path in paths:
        path.unlink()


def build_tables(trials: str, folder: str) -> None:
    """Writes the input of `tables`."""
    import tables as perf

    perf.SYSTEMS, perf.SEEDS = int(trials), 1
    perf.build(Path(folder))


def tables(trials: str, folder: str) -> None:
    """Tables and leaderboard of some trials with 16 machines and 4 backends."""
    import tables as perf

    perf.SYSTEMS, perf.SEEDS = int(trials), 1
    perf.tabulate(Path(folder))


if __name__ == "__main__":
    works = (pack, backends, umap, step, precisions, extraction, decoding, build_tables, tables)
    next(work for work in works if work.__name__ == sys.argv[1])(*sys.argv[2:])
