"""Embeddings of any model as files for asdray: ``python examples/embed.py DATA DCASE``.

Put a model of your own into `embed`. Each machine gets a file ``DATA/mine/DCASE/MACHINE.parquet`` with the
columns ``clip`` (the key in ``clips.parquet``) and ``embedding``, for its training and test clips.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile


def embed(wave: np.ndarray, rate: int) -> np.ndarray:
    """A clip of shape (samples,) -> a vector: here the log spectrum, averaged over time and in 64 bands."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::512] * np.hanning(1024)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).mean(axis=0)
    return np.log([band.mean() + 1e-10 for band in np.array_split(power[1:], 64)])


def main(data: Path, dcase: str) -> None:
    clips = pd.read_parquet(data / "formatted" / dcase / "clips.parquet")
    folder = data / "mine" / dcase
    folder.mkdir(parents=True, exist_ok=True)
    for machine, rows in clips[clips["split"].isin(["train", "test"])].groupby("machine"):
        vectors = []
        for path in rows["path"]:
            wave, rate = soundfile.read(data / path, dtype="float32", always_2d=True)
            vectors.append(embed(wave[:, 0], rate))
        table = pd.DataFrame({"clip": rows["clip"].to_numpy(), "embedding": vectors})
        table.to_parquet(folder / f"{machine}.parquet")
        print(f"{len(table):6d}  {folder / f'{machine}.parquet'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
