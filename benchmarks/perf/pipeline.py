"""How long does a whole sweep take, beside the reference toolkit? Five minutes, and no part of `make perf`.

4 machines x (200 training + 100 test) clips of 6 s, synthetic; all four default backends and UMAP; one seed.
As sweeps through the command line, whole processes, start-up included: the autoencoder with 5 epochs, the
two-branch network with 4. Beside them stands what ASDKit needs for the same, one process per stage and
machine: with ``--asdkit CHECKOUT PYTHON`` measured in the same run (see `reference.py`; 15 minutes more),
else MEASURED_SECONDS: what it needed on 2026-11-29 on two quiet cores without AVX-512, its packages compiled
to bytecode; then a ratio means something on such a machine only. Clips are not padded to the year's longest
(18 s), neither by us nor by it.

`after training` is from the last checkpoint to the leaderboard, `start` from the command to the first epoch.
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

# Per recipe: everything; all that follows the training, of all machines and the tables.
MEASURED_SECONDS = {"ae_baseline": (438.0, 250.0), "dis_baseline": (435.0, 260.0)}


def measure(root: Path, recipe: str, run: int) -> dict[str, float]:
    """Seconds of one sweep."""
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
    first = min(runs.begun(p) for p in epochs)
    tables = (results / "sweeps" / "pipeline" / "leaderboard.csv").stat().st_mtime
    return {
        "all": ended - started,
        "start": first - started,
        "training": trained - first,
        "after training": tables - trained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How long does a whole sweep take?")
    parser.add_argument("--runs", type=int, default=1, help="of each sweep; medians are printed")
    parser.add_argument("--recipes", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--asdkit", type=Path, nargs=2, metavar=("CHECKOUT", "PYTHON"), help="measure it too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs.make_data(root / "data", runs.MACHINES, TRAIN, TEST, SECONDS)
        print(f"{runs.here()}; {len(runs.MACHINES)} machines x ({TRAIN} + {TEST}) clips of {SECONDS} s, "
              f"{args.runs} runs: median (least to most) seconds\n")  # fmt: skip
        print("| sweep | all | start | training | after training | reference / all | reference / after |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        theirs: dict[str, list[reference.Stage]] = {}
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
                theirs[recipe] = stages
            cells += [f"{whole / medians['all']:.1f}", f"{after / medians['after training']:.1f}"]
            print(f"| {recipe} | {' | '.join(cells)} |", flush=True)
        for recipe, stages in theirs.items():
            reference.print_stages(recipe, stages)


if __name__ == "__main__":
    main()
