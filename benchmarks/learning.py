"""Do systems that learn win where a mean spectrum sees nothing? Fails if they do not.

    python benchmarks/learning.py [--into build/learning]       # two CPUs: ten minutes
    python benchmarks/learning.py --attributes data             # to read beside the scores of `learning.yaml`

The script makes data of `asdray synth` with and without ``--hard``, runs the sweep `hard.yaml` on both, and
prints the official scores of every recipe and backend, mean and standard deviation over the seeds. On hard
data every trained system must be above the best ``raw_spec`` by `MARGIN` standard deviations, in dev and in
eval. Run again, the script goes on where it was interrupted.

``--attributes`` trains nothing: how strongly do attributes change the sound of each machine? The data in the
head of learning.yaml must have been made and formatted. Every training clip of the source domain is
represented by the time mean of its log-mel spectrum (128 HTK bands, 64 ms). Two figures per machine are
printed, each with its value by chance:

* the share of clips with the same attributes as the nearest other clip;
* the share of the variance, summed over the bands, between the means of the attributes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import asdray
from asdray.audio import features
from asdray.audio.batches import Clips
from asdray.audio.cache import pack_of
from asdray.config.expand import load_sweep
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset, load_manifest, rows
from asdray.dcase.synth import synthesise
from asdray.store import Places

DCASE = "dcase2023"

SIZE = {"machines": ("fan", "bandsaw"), "train": 200, "test": 200, "seconds": 4.0}
"""The data of both kinds: 50 test clips per domain and label."""

MARGIN = 2.0
"""Standard deviations over seeds by which a trained system must be above the best system without training."""


# -------------------------------------------------------------------------------------- trained or not


def scores_of(into: Path, hard: bool) -> pd.DataFrame:
    """Official scores in percent by recipe, backend and subset: mean, deviation over seeds, number."""
    kind = "hard" if hard else "plain"
    synthesise(into / kind, DCASE, hard=hard, **SIZE)
    format_dataset(into / kind, DCASE)
    sweep = Path(__file__).with_name("hard.yaml")
    results = asdray.sweep(sweep, data=into / kind, results=into / f"results-{kind}")
    if results.failures or results.unfinished:
        sys.exit(f"the sweep on {kind} data is not complete")
    rows = results.scores().assign(score=lambda frame: 100 * frame["score"])
    return rows.groupby(["recipe", "backend", "subset"])["score"].agg(["mean", "std", "count"])


def table(plain: pd.DataFrame, hard: pd.DataFrame) -> str:
    """Both kinds of data as a table in Markdown, dev / eval."""
    lines = ["| recipe | backend | plain | `--hard` |", "|---|---|---:|---:|"]
    for recipe, backend in dict.fromkeys((recipe, backend) for recipe, backend, _ in hard.index):
        cells = []
        for scores in (plain, hard):
            found = [scores.loc[(recipe, backend, subset)] for subset in ("dev", "eval")]
            cells.append(
                " / ".join(
                    f"{one['mean']:.1f}" + (f" ± {one['std']:.1f}" if one["count"] > 1 else "")
                    for one in found
                )
            )
        lines.append(f"| `{recipe}` | {backend} | {' | '.join(cells)} |")
    return "\n".join(lines)


def losers(hard: pd.DataFrame) -> list[str]:
    """The trained systems that are not clearly above the best system without training, a line each."""
    found = []
    for subset in ("dev", "eval"):
        of_subset = hard.xs(subset, level="subset")
        best = of_subset.loc["raw_spec"]["mean"].max()
        for (recipe, backend), one in of_subset.drop("raw_spec").iterrows():
            if not one["mean"] - MARGIN * one["std"] > best:
                found.append(
                    f"{subset}: {recipe} with {backend} has {one['mean']:.1f} ± {one['std']:.1f}, not "
                    f"{MARGIN:g} standard deviations above raw_spec ({best:.1f})"
                )
    return found


# -------------------------------------------------------------------------------------------- attributes


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


def show_attributes(places: Places) -> None:
    """Prints the figures of every machine of `learning.yaml`."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--into", type=Path, default=Path("build/learning"), help="folder of data and results"
    )
    parser.add_argument("--attributes", type=Path, metavar="DATA", help="measure attributes of these data")
    asked = parser.parse_args()
    if asked.attributes:
        show_attributes(Places.of(asked.attributes, Path("results")))
        return
    plain, hard = scores_of(asked.into, False), scores_of(asked.into, True)
    print(table(plain, hard))
    if lines := losers(hard):
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
