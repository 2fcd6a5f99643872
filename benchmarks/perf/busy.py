"""Does a sweep keep the CPUs busy? Ten minutes, not part of `make perf`.

One sweep has four seeds x two recipes, all four default backends and UMAP. Printed are the share of the CPUs
used by all processes of the sweep (driver, Ray, workers) from the first training step to the last table, and
the ratio of the sweep's time to half the CPU seconds of the same stages by hand: in one process through the
stages' functions, with audio packed before, imports included. Both figures need an idle machine; the CPU
seconds of other processes are printed, too. Exit code 1 below 85 % of two CPUs, or above a ratio of 1.25.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runs

SEEDS = (0, 1, 2, 3)
RECIPES: dict[str, dict[str, Any]] = {
    "ae_baseline": {"train.epochs": 5, "train.batch_size": 256, "train.threads": 1},
    "dis_baseline": {"train.epochs": 2, "train.batch_size": 64, "train.threads": 1},
}
CPUS = 2
LEAST_BUSY, MOST_WALL = 0.85, 1.25


def by_hand(recipes: dict[str, dict[str, Any]], data: Path, results: Path, machines: Sequence[str]) -> float:
    """Runs all stages of all trials in this process; CPU seconds of the process."""
    from asdray.store import Places

    for recipe, options in recipes.items():
        for seed in SEEDS:
            trial = runs.trial_of(recipe, options, seed, machines)
            runs.all_stages(trial, Places.of(data, results), lambda name: contextlib.nullcontext())
    return time.process_time()


def idle() -> float:
    """Idle seconds of all CPUs of the machine since its start."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 machines x (40 + 20) clips of 5 s, 1 epoch")
    args = parser.parse_args()
    machines = runs.MACHINES[:2] if args.quick else runs.MACHINES
    train, test, seconds = (40, 20, 5.0) if args.quick else (200, 100, 6.0)
    recipes = {name: options | {"audio.duration": seconds} for name, options in RECIPES.items()}
    if args.quick:
        for options in recipes.values():
            options["train.epochs"] = 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, results = root / "data", root / "results"
        runs.make_data(data, machines, train, test, seconds)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            from asdray.store import Places

            pool.apply(runs.ensure_packs, (Places.of(data, results), machines))
        spec = {
            "name": "busy",
            "recipes": {name: {"set": options} for name, options in recipes.items()},
            "dcase": [runs.DCASE],
            "seeds": SEEDS,
            "machines": {runs.DCASE: machines},
            "backends": runs.BACKENDS,
        }
        (root / "busy.yaml").write_text(json.dumps(spec))
        idle_before = idle()
        tree = runs.ProcessTree(
            ("sweep", root / "busy.yaml", "--data", data, "--results", results, "--no-dashboard", "--quiet")
        )
        idle_seconds = idle() - idle_before
        first = min(runs.first_epoch_start(path) for path in results.glob("trials/*/*/*/model/*/metrics.csv"))
        last = (results / "sweeps" / "busy" / "leaderboard.csv").stat().st_mtime
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cpu = pool.apply(by_hand, (recipes, data, root / "by-hand", machines))
    busy = tree.cpu(first, last) / (CPUS * (last - first))
    others = CPUS * tree.wall - idle_seconds - tree.samples[-1][1]
    ratio = tree.wall / (cpu / CPUS)
    print(f"{runs.describe_machine()}; {len(recipes)} recipes x {len(SEEDS)} seeds\n")
    runs.print_table(
        ("figure", "value", "target"),
        [
            ("sweep, whole command", f"{tree.wall:.0f} s", ""),
            ("CPU seconds of the sweep's processes", f"{tree.samples[-1][1]:.0f}", ""),
            *(
                (f"... {kind}", f"{sum(used):.0f}: {' '.join(f'{s:.0f}' for s in used)}", "")
                for kind, used in tree.shares().items()
            ),
            ("to the first training step", f"{tree.wall - (tree.samples[-1][0] - first):.0f} s", ""),
            ("first training step to last table", f"{last - first:.0f} s", ""),
            ("busy from first step to last table", f"{100 * busy:.0f} %", f">= {100 * LEAST_BUSY:.0f} %"),
            ("the same stages by hand, CPU seconds", f"{cpu:.0f}", ""),
            ("sweep / half of the CPU seconds by hand", f"{ratio:.2f}", f"<= {MOST_WALL}"),
            ("CPU seconds of other processes", f"{max(0.0, others):.0f}", "none"),
        ],
    )
    return int(busy < LEAST_BUSY or ratio > MOST_WALL)


if __name__ == "__main__":
    sys.exit(main())
