"""What does each stage of a trial cost? `make perf` runs the quick part.

Synthetic data of 4 machines x (200 training + 100 test) clips of 6 s, all four default backends and UMAP, one
seed; the autoencoder has 5 epochs, the two-branch network 4, as in `pipeline.py` (`--quick`: 2 machines x (40
+ 20) clips of 5 s, 2 epochs). Each recipe runs stage by stage in one process, with imports measured
separately, and then as a whole command with `asdray run`.

Before the first stage the original WAV files are moved away, so every stage reads packed audio. `reading` is
the cost of making the batches of an epoch, relative to the training of an epoch (target: 2 %).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runs
from runs import Cost

RECIPES: dict[str, dict[str, Any]] = {
    "ae_baseline": {"train.epochs": 5, "train.threads": 1},
    "dis_baseline": {"train.epochs": 4, "train.batch_size": 64, "train.threads": 1},
}
MOST_READING = 0.02


def pack(data: Path, results: Path, machines: Sequence[str]) -> dict[str, list[Cost]]:
    """The costs of decoding all clips into packs, and of opening the packs again, in this process."""
    from asdray.store import Places

    meter = runs.Meter()
    with meter("imports"):
        import soundfile  # noqa: F401

        from asdray.dcase import manifest

        manifest.rows(manifest.load_manifest(data, runs.DCASE), machine=machines[0], split="train")
    for name in ("pack", "open packs again"):
        with meter(name):
            runs.ensure_packs(Places.of(data, results), machines)
    return meter.costs


def stages(
    recipe: str, options: dict[str, Any], data: Path, results: Path, machines: Sequence[str]
) -> dict[str, Any]:
    """The costs of all stages of a recipe in this process, and the share of reading in training."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
    from asdray.store import Places

    places = Places.of(data, results)
    trial = runs.trial_of(recipe, options, 0, machines)
    meter = runs.Meter()
    with meter("imports: training"):
        import asdray.stages.fit  # noqa: F401
    with meter("imports: scikit-learn, matplotlib"):
        import matplotlib.pyplot  # noqa: F401
        import sklearn.neighbors  # noqa: F401
    with meter("imports: UMAP"):
        import umap  # noqa: F401
    runs.all_stages(trial, places, meter)
    epochs = options["train.epochs"]
    trained = sum(cost.cpu for cost in meter.costs["train"]) / epochs
    return {"costs": meter.costs, "reading": reading(trial, places) / trained}


def reading(trial: Any, places: Any) -> float:
    """CPU seconds of making the batches of one epoch of all units; the minimum of three."""
    import numpy as np

    from asdray import frontends
    from asdray.audio.batches import Clips, generator
    from asdray.audio.cache import ensure_pack
    from asdray.stages.columns import training_columns

    total = 0.0
    for unit in trial.units:
        packs = [ensure_pack(places, trial.dcase, machine, "train") for machine in unit.machines]
        clips, columns = Clips(packs), training_columns(places, packs)
        frontend = frontends.build(
            trial.system.frontend, trial.system.audio.n_samples(trial.dcase), columns=columns
        )
        data = frontend.training_data(clips, columns, trial.system.train.batch_size, np.random.default_rng(0))
        seconds = []
        for epoch in range(3):
            began = time.process_time()
            for _ in data.epoch(generator(0, unit.name, epoch)):
                pass
            seconds.append(time.process_time() - began)
        total += min(seconds)
    return total


def rows(results: list[dict[str, list[Cost]]], clips: dict[str, int]) -> list[list[str]]:
    """A row per stage, over all machines; the first UMAP has its own row, because it compiles functions.

    Args:
        results: for each run, stage -> costs.
        clips: stage -> number of clips, for clips per CPU second.
    """
    table = []
    for stage in results[0]:
        parts = [("UMAP, first", slice(1)), ("UMAP, each further", slice(1, None))]
        for name, part in parts if stage == "UMAP" else [(stage, slice(None))]:
            costs = [run[stage][part] for run in results]
            share = len(costs[0]) if "each further" in name else 1
            cpu = [sum(c.cpu for c in run) / share for run in costs]
            rate = clips.get(stage, 0) / statistics.median(cpu)
            table.append(
                [
                    name,
                    runs.spread([sum(c.wall for c in run) / share for run in costs]),
                    runs.spread(cpu),
                    f"{max(c.mib for run in costs for c in run):,.0f}",
                    f"{rate:,.0f}" if rate else "",
                ]
            )
    return table


HEAD = ("stage", "wall s", "CPU s", "peak MiB", "clips/CPU s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    machines = runs.MACHINES[:2] if args.quick else runs.MACHINES
    train, test, seconds = (40, 20, 5.0) if args.quick else (200, 100, 6.0)
    n_train, n_all = len(machines) * train, len(machines) * (train + test)
    spawn = multiprocessing.get_context("spawn")
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, results = root / "data", root / "results"
        first = runs.make_data(data, machines, train, test, seconds)
        again = runs.asdray("format", runs.DCASE, "--data", data)
        with spawn.Pool(1) as pool:
            packed = pool.apply(pack, (data, results, machines))
        machine = runs.describe_machine()
        print(f"{machine}; {len(machines)} machines x ({train} + {test}) clips of {seconds:g} s\n")
        packing = {"`asdray format`": [first], "`asdray format` again": [again], **packed}
        runs.print_table(HEAD, rows([packing], dict.fromkeys([*packing], n_all) | {"imports": 0}))
        cost = packed["pack"][0]
        print(f"packing: {n_all * seconds * runs.RATE * 2 / 1e6 / cost.cpu:,.0f} MB per CPU second\n")
        wavs = data / "original"
        for recipe in args.recipes:
            options = RECIPES[recipe] | {"audio.duration": seconds}
            if args.quick:
                options["train.epochs"] = 2
            wavs.rename(root / "away")
            results_by_run = []
            for run in range(args.runs):
                with spawn.Pool(1) as pool:
                    results_by_run.append(
                        pool.apply(stages, (recipe, options, data, root / f"by-{run}", machines))
                    )
            (root / "away").rename(wavs)
            chosen = [f"--set={name}={value}" for name, value in options.items()]
            commands = [
                runs.asdray("run", recipe, runs.DCASE, "--machines", ",".join(machines), *chosen,
                            "--data", data, "--results", root / f"run-{run}")
                for run in range(args.runs)
            ]  # fmt: skip
            epochs = options["train.epochs"]
            clips = {"train": epochs * n_train, "extract": n_all, "evaluate": len(machines) * test}
            table = rows([one["costs"] for one in results_by_run], clips)
            table += rows([{"`asdray run`, whole command": [cost]} for cost in commands], {})
            print(f"`{recipe}`, {epochs} epochs, median of {args.runs} (least-most)\n")
            runs.print_table(HEAD, table)
            share = statistics.median(one["reading"] for one in results_by_run)
            print(f"reading the batches of an epoch: {100 * share:.2f} % of its CPU seconds\n", flush=True)
            fine &= share < MOST_READING
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
