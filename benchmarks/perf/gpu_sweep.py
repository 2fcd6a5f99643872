"""Eight small trials in a sweep on Ray: in quarters of a GPU, as ``auto`` gives, and one after the other.

    python benchmarks/perf/gpu_sweep.py [--gpus 1] [--minutes 6] [--ways quarters one auto] [--small]
        [--out FILE]

Two recipes (``ae_baseline``, ``dis_baseline``) x four seeds, on generated sound of four machines, without
UMAP. Every way of sharing is a sweep of its own, with results of its own, over the same decoded audio.
Printed for each way, as a line when it ends and at last as JSON:

* ``seconds``: from the start of the first epoch of any trial to the end of the last epoch;
* ``command``: from the start of the command to its end;
* ``busy``: mean share of the seconds above in which the GPU computed, by nvidia-smi every 0.2 s; without a
  GPU, the share of all CPUs that was in use.

``ratio`` is the seconds of ``one`` over those of ``quarters``; its target is 2, that of ``busy`` 0.85. With
``--gpus 0`` CPUs take the place of the GPU: ``one`` reserves all, ``quarters`` a quarter of them. ``--small``
is for a try. Exit code 1 if a way failed. `gpu_sweep.sh` runs this script where asdray is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import runs

SEEDS = (0, 1, 2, 3)
EVERY = 0.2
"""Seconds between two samples of the load."""

ENDS_WITHIN = 60
"""Seconds that a sweep has to end after an interrupt: it writes its tables and ends Ray."""


def recipes(small: bool) -> dict[str, dict[str, Any]]:
    """The trials' recipes: trainings of about ten seconds on a fast GPU, or of a few on a CPU."""
    if small:
        return {"ae_baseline": {"train.epochs": 1}}
    return {"ae_baseline": {"train.epochs": 10}, "dis_baseline": {"train.epochs": 40}}


def resources(way: str, gpus: int) -> dict[str, Any] | str:
    """The reservations of a way of sharing."""
    if way == "auto":
        return "auto"
    share = 1.0 if way == "one" else 0.25
    if gpus:
        return {"train": {"gpu": share, "cpu": 1}}
    return {"train": {"gpu": 0, "cpu": share * len(os.sched_getaffinity(0))}}


class Load:
    """Samples of the load in the background: (Unix time, share from 0 to 1), until `end`."""

    def __init__(self, gpus: int) -> None:
        self.samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        if gpus:
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            command += ["--id=0", f"--loop-ms={int(1000 * EVERY)}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._of_gpu if gpus else self._of_cpus, daemon=True)
        self._thread.start()

    def _of_gpu(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdecimal():
                self.samples.append((time.time(), int(line) / 100))

    def _of_cpus(self) -> None:
        before = cpu_ticks()
        while not self._ended.wait(EVERY):
            now = cpu_ticks()
            if now[1] > before[1]:
                self.samples.append((time.time(), (now[0] - before[0]) / (now[1] - before[1])))
            before = now

    def end(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._thread.join()

    def mean(self, first: float, last: float) -> float | None:
        """Mean share between two times; None without a sample."""
        found = [share for at, share in self.samples if first <= at <= last]
        return statistics.mean(found) if found else None


def cpu_ticks() -> tuple[int, int]:
    """Ticks in use and ticks in all of the machine's CPUs since its start."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def span(results: Path) -> tuple[float, float, int]:
    """Unix times of the first epoch's start and the last epoch's end, and the number of trained units."""
    found = [*results.glob("trials/*/*/*/model/*/metrics.csv")]
    checkpoints = [path.parent / "checkpoints" / "last.ckpt" for path in found]
    if not found:
        raise ValueError("no training ended")
    ends = [path.stat().st_mtime for path in checkpoints]
    return min(map(runs.first_epoch_start, found)), max(ends), len(found)


def sweep(
    way: str, root: Path, small: bool, gpus: int, machines: tuple[str, ...], limit: float
) -> dict[str, Any]:
    """The figures of one way of sharing.

    Raises:
        ValueError: the sweep fails, or lasts longer than ``limit`` seconds.
    """
    results, path = root / way, root / f"{way}.yaml"
    spec = {
        "name": way,
        "recipes": {name: {"set": options} for name, options in recipes(small).items()},
        "dcase": [runs.DCASE],
        "seeds": SEEDS,
        "machines": {runs.DCASE: list(machines)},
        "backends": ["knn"],
        "umap": False,
        "report": False,
        "resources": resources(way, gpus),
    }
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "asdray", "sweep", str(path), "--data", str(root / "data")]
    command += ["--results", str(results), "--no-dashboard", "--quiet"]
    load, began = Load(gpus), time.time()
    try:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(ENDS_WITHIN)
            raise ValueError(f"not done after {limit:.0f} s") from None
        whole = time.time() - began
    finally:
        load.end()
    if code:
        raise ValueError(f"asdray sweep ended with code {code}")
    first, last, units = span(results)
    devices = {
        json.loads(line).get("device")
        for line in (results / "sweeps" / way / "events.jsonl").read_text().splitlines()
        if '"stage": "train"' in line
    }
    return {
        "way": way,
        "trials": len(recipes(small)) * len(SEEDS),
        "units": units,
        "seconds": round(last - first, 1),
        "command": round(whole, 1),
        "to_first_epoch": round(first - began, 1),
        "busy": load.mean(first, last),
        "devices": sorted(map(str, devices)),
    }


def measured(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The figures of all ways, and what failed."""
    until = time.monotonic() + 60 * options.minutes
    machines = runs.MACHINES[:2] if options.small else runs.MACHINES
    train, test, seconds = (30, 10, 2.0) if options.small else (200, 20, 10.0)
    runs.make_data(root / "data", machines, train, test, seconds)
    found: dict[str, Any] = {"gpus": options.gpus, "machine": runs.describe_machine(), "ways": []}
    # Audio is decoded and in the page cache: no way has to begin with it.
    from asdray.store import Places

    runs.ensure_packs(Places.of(root / "data", root / "results"), machines)
    for i, way in enumerate(options.ways):
        longer = [2 if later == "one" else 1 for later in options.ways[i:]]
        limit = (until - time.monotonic()) * longer[0] / sum(longer)
        try:
            found["ways"].append(sweep(way, root, options.small, options.gpus, machines, max(limit, 1.0)))
        except (ValueError, OSError, subprocess.SubprocessError) as error:
            found["ways"].append({"way": way, "failed": f"{type(error).__name__}: {error}"})
        print(json.dumps(found["ways"][-1]), flush=True)
    times = {one["way"]: one["seconds"] for one in found["ways"] if "seconds" in one}
    if {"one", "quarters"} <= times.keys():
        found["ratio"] = round(times["one"] / times["quarters"], 2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1))
    parser.add_argument("--minutes", type=float, default=6.0, help="for all ways together, with the data")
    parser.add_argument(
        "--ways", nargs="+", default=["quarters", "one", "auto"], choices=("quarters", "one", "auto")
    )
    parser.add_argument("--small", action="store_true", help="one recipe, one epoch, two machines")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asdray") as folder:
        found = measured(options, Path(folder))
    text = json.dumps(found, indent=1)
    print(text, flush=True)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(any("failed" in one for one in found["ways"]))


if __name__ == "__main__":
    sys.exit(main())
