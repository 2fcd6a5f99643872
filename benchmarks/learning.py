"""How strongly do attributes change the sound of each machine? To read beside the scores of `learning.yaml`.

    python benchmarks/learning.py [--data data]

The data in the head of learning.yaml must have been made and formatted. The script trains nothing: every
training clip of the source domain is represented by the time mean of its log-mel spectrum (128 HTK bands,
64 ms). The script prints two figures per machine, each with its value by chance:

* the share of clips with the same attributes as the nearest other clip;
* the share of the variance, summed over the bands, between the means of the attributes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asdray.audio import features
from asdray.audio.batches import Clips
from asdray.audio.cache import pack_of
from asdray.config.expand import load_sweep
from asdray.dcase.manifest import load_dataset, load_manifest, rows
from asdray.store import Places

DCASE = "dcase2023"


def spectra(places: Places, machine: str) -> tuple[NDArray[np.float64], list[str]]:
    """Spectra ``(N, 128)`` in dB of the source domain's training clips, and the attributes of each clip."""
    table = rows(load_manifest(places.data, DCASE), machine=machine, split="train", domain="source")
    attributes = dict(zip(table["clip"].to_pylist(), table["attributes"].to_pylist(), strict=True))
    clips = Clips([pack_of(places, load_dataset(places.data, DCASE), machine, "train")])
    window, filters = features.hann(1024), features.mel_filters(128, 1024)
    means, labels = [], []
    for i, key in enumerate(clips.keys):
        if key in attributes:
            waves = features.to_float(clips.gather(np.array([i]), int(clips.lengths[i])))
            means.append(features.log_mel(waves, window, 512, filters)[0].mean(dim=0).double().numpy())
            labels.append(attributes[key])
    return np.array(means), labels


def same_as_nearest(x: NDArray[np.float64], labels: NDArray) -> tuple[float, float]:
    """Leave-one-out accuracy of the nearest neighbour, and of a random other clip."""
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    same = labels[:, None] == labels[None]
    return float(same[np.arange(len(x)), distance.argmin(axis=1)].mean()), float(
        (same.sum(axis=1) - 1).mean() / (len(x) - 1)
    )


def between(x: NDArray[np.float64], labels: NDArray) -> tuple[float, float]:
    """Share of the variance between the means of the labels, and its expectation without an effect."""
    kinds, index = np.unique(labels, return_inverse=True)
    means = np.array([x[index == i].mean(axis=0) for i in range(len(kinds))])
    share = ((means[index] - x.mean(axis=0)) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    return float(share), (len(kinds) - 1) / (len(x) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    places = Places.of(parser.parse_args().data, Path("results"))
    torch.set_num_threads(1)
    print("machine     attributes  nearest (chance)  variance between (chance)")
    for machine in load_sweep(Path(__file__).with_suffix(".yaml")).machines_of(DCASE):
        x, attributes = spectra(places, machine)
        labels = np.array(attributes)
        (near, by_chance), (share, expected) = same_as_nearest(x, labels), between(x, labels)
        print(
            f"{machine:<12}{len(set(attributes)):>10}"
            f"{near:>9.0%} ({by_chance:.0%}){share:>16.0%} ({expected:.0%})"
        )


if __name__ == "__main__":
    main()
