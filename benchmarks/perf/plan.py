"""How long does ``sweep --dry-run`` of 1,000 trials take? `make perf` runs the small part.

Whole processes, median of 5, over records beside outputs that hold nothing: nothing done; everything done,
with summaries as a run leaves them, and without; a backend added to that. Exit code 1 if one of them takes
longer than the limit of its shape.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import runs

from asdray.store import Places, sweep_dir
from asdray.sweep.plan import load
from asdray.sweep.summary import write_summaries

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from finished import finish

MOST_SECONDS = {"3 machines": 3.0, "14 machines": 5.0}
SHAPES = {
    "3 machines, one backend, no UMAP": {
        "machines": {runs.DCASE: ["fan", "valve", "bearing"]},
        "backends": ["knn"],
        "umap": False,
    },
    "14 machines, four backends, UMAP": {"backends": runs.BACKENDS},
}
SEEDS = [0, 1, 2, 3]
ONE_MORE = {"name": "knn", "n_neighbors": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="trials of few stages only")
    options = parser.parse_args()
    os.fsync = lambda fd: None  # with it a hundred thousand records would take half an hour
    rows, fine = [], True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = root / "data"
        size = ("--train", 4, "--test", 4, "--seconds", 1)
        runs.asdray("synth", runs.DCASE, *size, "--data", data)
        runs.asdray("format", runs.DCASE, "--data", data)
        for i, (shape, spec) in enumerate(list(SHAPES.items())[: 1 if options.quick else None]):
            times = _times(root / str(i), data, spec, options.trials, options.runs)
            most = MOST_SECONDS[" ".join(shape.split()[:2])]
            fine &= max(seconds for _, seconds in times.values()) < most
            rows += [[f"{shape}: {what}", text] for what, (text, _) in times.items()]
    print(f"{runs.here()}; {options.trials} trials, median of {options.runs}; at most {MOST_SECONDS}\n")
    runs.print_table(["`sweep --dry-run`", "wall s"], rows)
    return int(not fine)


def _times(root: Path, data: Path, spec: dict, trials: int, n: int) -> dict[str, tuple[str, float]]:
    """What is asked of a sweep -> the spread of the wall seconds, and their median."""
    root.mkdir()
    places = Places.of(data, root / "results")

    def write(name: str, **changes: object) -> Path:
        space = {"train.learning_rate": [round(1e-4 * (i + 1), 6) for i in range(trials // len(SEEDS))]}
        grid = {"recipes": {"dis_baseline": {"space": space}}, "dcase": [runs.DCASE], "seeds": SEEDS}
        path = root / f"{name}.yaml"
        path.write_text(json.dumps({"name": "big", **grid, **spec, **changes}))
        return path

    def measure(path: Path, results: Path = places.results) -> tuple[str, float]:
        command = ("sweep", path, "--dry-run", "--data", data, "--results", results)
        walls = [runs.asdray(*command).wall for _ in range(n)]
        return runs.spread(walls), sorted(walls)[n // 2]

    path, more = write("big"), write("more", backends=[*spec["backends"], ONE_MORE])
    times = {"nothing done": measure(path, root / "none")}
    sweep, jobs = load(path, {}, places)
    for job in jobs:
        finish(job, sweep, places)
    sweep_dir(places.results, "big").mkdir(parents=True)
    times["done, without summaries"] = measure(path)
    times["a backend more"] = measure(more)
    write_summaries(jobs, sweep, places)
    times["done, as a run leaves it"] = measure(path)
    return times


if __name__ == "__main__":
    sys.exit(main())
