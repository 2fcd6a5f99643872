"""Do systems that learn win where a mean spectrum sees nothing? Fails if they do not.

    python benchmarks/learning.py hard                                # two CPUs: two minutes
    python benchmarks/learning.py hard --plain --into build/learning  # the table of README.md: four
    python benchmarks/learning.py attributes data                     # beside the scores of learning.yaml

``hard`` makes data of ``asdray synth --hard`` in a temporary folder, runs the sweep hard.yaml on them by the
``asdray`` command, and prints the official scores of every recipe and backend, mean and standard deviation
over the seeds. It ends with 1 unless every trained system, with each of its backends, in dev and in eval, is
still `MARGIN` points above the best backend of ``raw_spec`` when `DEVIATIONS` standard deviations are taken
off its mean. ``--plain`` runs the same sweep on data without ``--hard`` beside, where nothing is demanded.
``--into`` keeps data and results, and a run goes on where the last one was interrupted. ``--data-seed`` makes
other recordings; the seeds of the sweep are those of the networks.

``attributes`` trains nothing: how strongly do attributes change the sound of each machine? The data in the
head of learning.yaml must have been made and formatted. Every training clip of the source domain is
represented by the time mean of its log-mel spectrum (128 HTK bands, 64 ms). Two figures per machine are
printed, each with its value by chance:

* the share of clips with the same attributes as the nearest other clip;
* the share of the variance, summed over the bands, between the means of the attributes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Collection
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
from asdray.dcase.manifest import load_dataset, load_manifest, rows
from asdray.store import Places

DCASE = "dcase2023"
FOLDER = Path(__file__).parent

CLIPS = ("--train", "200", "--test", "200", "--seconds", "4")
"""The data of both kinds: 50 test clips per domain and label."""

UNTRAINED = "raw_spec"

MARGIN = 5.0
"""Points between a trained system and the best system without training. On hard data that one scores by
chance: 50 with a standard deviation of 3 over the clips."""

DEVIATIONS = 2.0
"""Standard deviations over seeds that are taken off a trained system's mean before it is compared."""


# -------------------------------------------------------------------------------------- trained or not


def run_asdray(*words: str | Path) -> None:
    """Runs an ``asdray`` command.

    Raises:
        SystemExit: the command failed.
    """
    code = subprocess.run([sys.executable, "-m", "asdray", *words], check=False).returncode
    if code:
        sys.exit(f"asdray {words[0]} ended with {code}: nothing is judged")


def make_data(data: Path, machines: Collection[str], hard: bool, seed: int = 0) -> None:
    """Synthetic data of `DCASE` in ``data``, formatted."""
    kind = ("--hard",) if hard else ()
    words = ("--machines", ",".join(machines), *CLIPS, "--seed", str(seed), *kind)
    run_asdray("synth", DCASE, *words, "--data", data)
    run_asdray("format", DCASE, "--data", data)


def scores_of(into: Path, spec: Path, hard: bool, seed: int = 0) -> pd.DataFrame:
    """The rows of `asdray.Results.scores` of a sweep on data of one kind, which are made below ``into``."""
    kind = "hard" if hard else "plain"
    results = into / f"results-{kind}"
    sweep = load_sweep(spec)
    make_data(into / kind, sweep.machines_of(DCASE), hard, seed)
    run_asdray("sweep", spec, "--data", into / kind, "--results", results, "--no-dashboard", "--quiet")
    return asdray.Results(results / "sweeps" / sweep.name).scores()


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores in percent by recipe, backend and subset: mean, std (over seeds), count (of seeds)."""
    percent = scores.assign(score=100 * scores["score"])
    return percent.groupby(["recipe", "backend", "subset"])["score"].agg(["mean", "std", "count"])


def table(kinds: dict[str, pd.DataFrame]) -> str:
    """`over_seeds` of every kind of data as a table in Markdown, dev / eval."""
    lines = [
        f"| recipe | backend | {' | '.join(kinds)} |",
        f"|---|---|{'---:|' * len(kinds)}",
    ]
    pairs = [(recipe, backend) for frame in kinds.values() for recipe, backend, _ in frame.index]
    for recipe, backend in dict.fromkeys(pairs):
        cells = []
        for frame in kinds.values():
            found = frame.loc[(recipe, backend)].reindex(["dev", "eval"])
            cells.append(
                " / ".join(
                    f"{one['mean']:.1f}" + (f" ± {one['std']:.1f}" if one["count"] > 1 else "")
                    for _, one in found.iterrows()
                )
            )
        lines.append(f"| `{recipe}` | {backend} | {' | '.join(cells)} |")
    return "\n".join(lines)


def losers(scores: pd.DataFrame, recipes: Collection[str]) -> list[str]:
    """Each reason why the trained systems have not won, a line each.

    Args:
        scores: those on hard data, by `over_seeds`.
        recipes: the recipes of the sweep, all of which must have scores.
    """
    found = []
    if set(recipes) <= {UNTRAINED}:
        found.append("the sweep trains nothing")
    for subset in ("dev", "eval"):
        rows_of = scores[scores.index.get_level_values("subset") == subset].droplevel("subset")
        best = rows_of["mean"][rows_of.index.get_level_values("recipe") == UNTRAINED].max()
        for recipe in dict.fromkeys((UNTRAINED, *recipes)):
            if recipe not in rows_of.index.get_level_values("recipe"):
                found.append(f"{subset}: {recipe} has no score")
        for (recipe, backend), one in rows_of.iterrows():
            if recipe == UNTRAINED:
                continue
            if one["count"] < 2:
                found.append(f"{subset}: {recipe} with {backend} has fewer than two seeds with a score")
            elif not one["mean"] - DEVIATIONS * one["std"] >= best + MARGIN:
                found.append(
                    f"{subset}: {recipe} with {backend} has {one['mean']:.1f} ± {one['std']:.1f}: "
                    f"{DEVIATIONS:g} standard deviations below its mean it is not {MARGIN:g} points above "
                    f"{UNTRAINED} ({best:.1f})"
                )
    return found


def show_hard(into: Path, plain: bool, seed: int) -> None:
    """Makes the data, runs the sweep, and prints the table.

    Raises:
        SystemExit: a command failed, or a trained system has not won.
    """
    spec = FOLDER / "hard.yaml"
    kinds = {"plain": False} if plain else {}
    kinds["`--hard`"] = True
    found = {name: over_seeds(scores_of(into, spec, hard, seed)) for name, hard in kinds.items()}
    print(table(found))
    if lines := losers(found["`--hard`"], load_sweep(spec).recipes):
        sys.exit("\n".join(lines))
    print(f"Every trained system has won by {MARGIN:g} points and {DEVIATIONS:g} standard deviations.")


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
    for machine in load_sweep(FOLDER / "learning.yaml").machines_of(DCASE):
        x, attributes = spectra(places, machine)
        labels = np.array(attributes)
        (near, by_chance), (share, expected) = same_as_nearest(x, labels), between(x, labels)
        print(
            f"{machine:<12}{len(set(attributes)):>10}"
            f"{near:>9.0%} ({by_chance:.0%}){share:>16.0%} ({expected:.0%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    hard = modes.add_parser("hard", help="do trained systems win on data of synth --hard?")
    hard.add_argument("--plain", action="store_true", help="also run on data without --hard")
    hard.add_argument("--into", type=Path, help="keep data and results in this folder, and go on there")
    hard.add_argument("--data-seed", type=int, default=0, metavar="N", help="seed of the sounds (default 0)")
    attributes = modes.add_parser("attributes", help="how strongly do attributes change the sound?")
    attributes.add_argument("data", type=Path, help="the folder of the datasets")
    asked = parser.parse_args()
    if asked.mode == "attributes":
        show_attributes(Places.of(asked.data, Path("results")))
    elif asked.into:
        show_hard(asked.into, asked.plain, asked.data_seed)
    else:
        with tempfile.TemporaryDirectory(prefix="asdray-learning-") as folder:
            show_hard(Path(folder), asked.plain, asked.data_seed)


if __name__ == "__main__":
    main()
