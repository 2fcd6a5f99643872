"""How long does ``sweep --dry-run`` of 1,000 trials take? `make perf` runs the small part.

Timed are whole processes (median of 5) over records beside dummy outputs, in four states: no trial done; all
trials done, with the summaries that a run writes, and without; and a backend added to the sweep. Exit code 1
if a state takes longer than the limit of its shape.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import runs

from asdray.store import Places, sweep_dir
from asdray.sweep.plan import load
from asdray.sweep.summaries import write_summaries

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from finished import finish

SHAPES: dict[str, tuple[float, dict[str, Any]]] = {
    "3 machines, one backend, no UMAP": (
        3.0,
        {"machines": {runs.DCASE: ["fan", "valve", "bearing"]}, "backends": ["knn"], "umap": False},
    ),
    "14 machines, four backends, UMAP": (5.0, {"backends": runs.BACKENDS}),
}
"""Trials -> the limit in seconds, and the keys of the sweep file."""

SEEDS = [0, 1, 2, 3]
ADDED_BACKEND = {"name": "knn", "n_neighbors": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only the trials with few stages")
    options = parser.parse_args()
    os.fsync = lambda fd: None  # with fsync a hundred thousand records would take half an hour
    rows, fine = [], True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = root / "data"
        size = ("--train", 4, "--test", 4, "--seconds", 1)
        runs.asdray("synth", runs.DCASE, *size, "--data", data)
        runs.asdray("format", runs.DCASE, "--data", data)
        for i, (shape, (limit, spec)) in enumerate(list(SHAPES.items())[: 1 if options.quick else None]):
            times = _times(root / str(i), data, spec, options.trials, options.runs)
            fine &= max(statistics.median(cost.wall for cost in costs) for costs in times.values()) < limit
            for state, costs in times.items():
                walls, cpu = [cost.wall for cost in costs], [cost.cpu for cost in costs]
                rows.append([f"{shape}: {state}", runs.spread(walls), runs.spread(cpu), f"{limit:g}"])
    print(f"{runs.describe_machine()}; {options.trials} trials, median of {options.runs}\n")
    runs.print_table(["`sweep --dry-run`", "wall s", "CPU s", "limit, wall s"], rows)
    return int(not fine)


def _times(root: Path, data: Path, spec: dict, trials: int, n: int) -> dict[str, list[runs.Cost]]:
    """State of a sweep -> the costs of ``n`` dry runs."""
    root.mkdir()
    places = Places.of(data, root / "results")

    def write(name: str, **changes: object) -> Path:
        space = {"train.learning_rate": [round(1e-4 * (i + 1), 6) for i in range(trials // len(SEEDS))]}
        grid = {"recipes": {"dis_baseline": {"space": space}}, "dcase": [runs.DCASE], "seeds": SEEDS}
        path = root / f"{name}.yaml"
        path.write_text(json.dumps({"name": "big", **grid, **spec, **changes}))
        return path

    def measure(path: Path, results: Path = places.results) -> list[runs.Cost]:
        command = ("sweep", path, "--dry-run", "--data", data, "--results", results)
        return [runs.asdray(*command) for _ in range(n)]

    path, extended = write("big"), write("extended", backends=[*spec["backends"], ADDED_BACKEND])
    times = {"nothing done": measure(path, root / "none")}
    sweep, jobs = load(path, {}, places)
    for job in jobs:
        finish(job, sweep, places)
    sweep_dir(places.results, "big").mkdir(parents=True)
    times["done, without summaries"] = measure(path)
    times["a backend added"] = measure(extended)
    write_summaries(jobs, sweep, places)
    times["done, as a run leaves it"] = measure(path)
    return times


if __name__ == "__main__":
    sys.exit(main())
