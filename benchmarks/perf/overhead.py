"""What is the overhead of a sweep, and do tasks run beside trainings? Part of `make perf`.

Overhead: sweeps of 50 and 200 trials with almost no work (`raw_spec` on 8 clips of a second, one backend) run
through the command line. The difference gives the seconds per trial and the growth of the driver's memory per
hundred trials. Exit code 1 above 0.5 seconds, above 5 MB, or if the driver's peak is 600 MB or more. The peak
is resident memory, including shared libraries (about 110 MB). Both sweeps pay the cost of the first writing
of tables once: 13 MB, of which 9 MB are pages of libraries.

Overlap: four seeds of a small `dis_baseline` with UMAP plots. The script prints the share of the tasks' time
before the end of the last training. It does not print how busy the CPUs are: the seconds of stages are wall
seconds, and other processes of the machine lengthen wall seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import runs

FEW, MANY = 50, 200
MOST_SECONDS, MOST_MB, MOST_PEAK_MB = 0.5, 5.0, 600.0


def sweep(root: Path, name: str, spec: dict[str, Any]) -> tuple[float, float]:
    """Runs a sweep; wall seconds, and peak resident memory of the driver in MB."""
    path = root / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **spec}))
    command = ["sweep", path, "--data", root / "data", "--results", root / name, "--no-dashboard"]
    cost = runs.asdray(*command)
    return cost.wall, cost.mib * 1.048576


def overhead(root: Path) -> bool:
    """Prints the overhead per trial; True if all limits are met."""
    figures = {}
    for count in (FEW, MANY):
        bands = list(range(16, 16 + count))
        figures[count] = sweep(
            root,
            f"noop{count}",
            {
                "recipes": {"raw_spec": {"space": {"frontend.n_mels": bands}}},
                "dcase": ["dcase2022"],
                "seeds": [0],
                "machines": {"dcase2022": ["fan"]},
                "backends": ["knn"],
                "umap": False,
            },
        )
        seconds, mb = figures[count]
        print(f"{count} trials without work: {seconds:.1f} s, driver's memory at most {mb:.0f} MB")
    seconds = (figures[MANY][0] - figures[FEW][0]) / (MANY - FEW)
    mb = 100 * (figures[MANY][1] - figures[FEW][1]) / (MANY - FEW)
    print(
        f"each further trial: {seconds:.2f} s (at most {MOST_SECONDS}); {MANY} trials with the start of Ray: "
        f"{figures[MANY][0] / MANY:.2f} s each; memory per 100 trials: {mb:.1f} MB (at most {MOST_MB}), "
        f"peak {figures[MANY][1]:.0f} MB (below {MOST_PEAK_MB:.0f})"
    )
    quick = max(seconds, figures[MANY][0] / MANY) <= MOST_SECONDS
    return quick and mb <= MOST_MB and figures[MANY][1] < MOST_PEAK_MB


def overlap(root: Path, epochs: int) -> None:
    """Prints the share of the tasks' time that passed while trainings ran."""
    options = {"train.epochs": epochs, "train.batch_size": 16, "train.threads": 1}
    seconds, _ = sweep(
        root,
        "overlap",
        {"recipes": {"dis_baseline": {"set": options}}, "dcase": ["dcase2023"],
         "seeds": [0, 1, 2, 3], "backends": ["knn", "kmeans"],
         "machines": {"dcase2023": ["fan", "valve", "bandsaw"]}},
    )  # fmt: skip
    lines = (root / "overlap" / "sweeps" / "overlap" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    spans = [(*_span(e), e["stage"]) for e in events if not e["found"]]
    trained = max(end for _, end, stage in spans if stage == "train")
    tasks = [(start, end) for start, end, stage in spans if stage != "train"]
    total = sum(end - start for start, end in tasks)
    during = sum(max(0.0, min(end, trained) - start) for start, end in tasks)
    print(
        f"four seeds of dis_baseline, {epochs} epochs: {seconds:.0f} s; {100 * during / total:.0f} % of the "
        f"tasks' {total:.0f} s ran before the last training ended"
    )


def _span(event: dict[str, Any]) -> tuple[float, float]:
    end = datetime.fromisoformat(event["time"]).timestamp()
    return end - event["seconds"], end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4, help="of each training of the overlap")
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        where = ("--data", root / "data")
        runs.make_data(root / "data", ("fan", "valve", "bandsaw"), 40, 20, 2)
        overlap(root, epochs)
        runs.asdray(
            "synth", "dcase2022", "--machines", "fan", "--train", 4, "--test", 4, "--seconds", 1, *where
        )
        runs.asdray("format", "dcase2022", *where)
        fine = overhead(root)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
