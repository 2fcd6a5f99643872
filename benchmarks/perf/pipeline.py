"""How long does a whole sweep take, against the reference toolkit? Five minutes, not part of `make perf`.

Synthetic data of 4 machines x (200 training + 100 test) clips of 6 s, all four default backends and UMAP, one
seed. The sweeps run through the command line as whole processes, including start-up: the autoencoder with 5
epochs, the two-branch network with 4. ASDKit runs the same work with one process per stage and machine. With
``--asdkit CHECKOUT PYTHON`` ASDKit is measured in the same run (see `reference.py`; 15 minutes more).
Otherwise the ratios use MEASURED_SECONDS, measured on 2026-11-29 on two idle cores without AVX-512 with
packages compiled to bytecode; these ratios only mean something on such a machine. Neither toolkit pads clips
to the longest of the year (18 s).

`after training` lasts from the last checkpoint to the leaderboard, `start` from the command to the first
epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import reference
import runs
from reference import OURS, SECONDS, TEST, TRAIN

# Recipe -> seconds in total, and seconds after training (all machines and the tables).
MEASURED_SECONDS = {"ae_baseline": (438.0, 250.0), "dis_baseline": (435.0, 260.0)}


def measure(root: Path, recipe: str, run: int) -> dict[str, float]:
    """Part of one sweep -> wall seconds."""
    results = root / f"{recipe}-{run}"
    spec = {
        "name": "pipeline",
        "recipes": {recipe: {"set": OURS[recipe]}},
        "dcase": [runs.DCASE],
        "seeds": [0],
        "machines": {runs.DCASE: runs.MACHINES},
        "backends": runs.BACKENDS,
    }
    path = root / "pipeline.yaml"
    path.write_text(json.dumps(spec))
    started = time.time()
    runs.asdray("sweep", path, "--data", root / "data", "--results", results, "--no-dashboard")
    ended = time.time()
    epochs = list(results.glob("trials/*/*/*/model/*/metrics.csv"))
    trained = max(p.stat().st_mtime for p in results.glob("trials/*/*/*/model/*/checkpoints/last.ckpt"))
    first = min(runs.first_epoch_start(p) for p in epochs)
    tables = (results / "sweeps" / "pipeline" / "leaderboard.csv").stat().st_mtime
    return {
        "all": ended - started,
        "start": first - started,
        "training": trained - first,
        "after training": tables - trained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How long does a whole sweep take?")
    parser.add_argument("--runs", type=int, default=1, help="runs of each sweep; medians are printed")
    parser.add_argument("--recipes", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument(
        "--asdkit", type=Path, nargs=2, metavar=("CHECKOUT", "PYTHON"), help="measure ASDKit, too"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs.make_data(root / "data", runs.MACHINES, TRAIN, TEST, SECONDS)
        machine = runs.describe_machine()
        print(f"{machine}; {len(runs.MACHINES)} machines x ({TRAIN} + {TEST}) clips of {SECONDS} s, "
              f"{args.runs} runs: median (least to most) seconds\n")  # fmt: skip
        print("| sweep | all | start | training | after training | reference / all | reference / after |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        asdkit_stages: dict[str, list[reference.Stage]] = {}
        for recipe in args.recipes:
            figures = [measure(root, recipe, run) for run in range(args.runs)]
            cells, medians = [], {}
            for name in figures[0]:
                values = [figure[name] for figure in figures]
                medians[name] = statistics.median(values)
                cells.append(f"{medians[name]:.1f} ({min(values):.1f} to {max(values):.1f})")
            whole, after = MEASURED_SECONDS[recipe]
            if args.asdkit:
                toolkit = reference.Toolkit(args.asdkit[0].resolve(), args.asdkit[1].absolute())
                stages = reference.pipeline(toolkit, recipe, root / "data", root / f"asdkit-{recipe}")
                whole, after = sum(stage.wall for stage in stages), reference.after_training(stages)
                asdkit_stages[recipe] = stages
            cells += [f"{whole / medians['all']:.1f}", f"{after / medians['after training']:.1f}"]
            print(f"| {recipe} | {' | '.join(cells)} |", flush=True)
        for recipe, stages in asdkit_stages.items():
            reference.print_stages(recipe, stages)


if __name__ == "__main__":
    main()
