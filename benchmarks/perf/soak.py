"""Does a long sweep leak? 1,000 tiny trainings in one sweep, whose driver is killed twice (``make soak``).

Each trial trains one small autoencoder for one epoch on four clips, extracts, scores with one backend and is
evaluated. The script looks at all processes of the sweep every second: resident memory without shared
libraries, open files, threads. A slope is the growth per 100 finished trials, by least squares over the
samples of one process after its first quarter (imports and first writes are no leak). Printed are the slopes
of all processes that lived for at least 100 trials: the driver between the kills, workers, and Ray's own.

Exit code 1: the sweep is incomplete, a slope is above its limit, a table is missing, a process or a folder in
``/tmp`` is left behind, or the whole took longer than 30 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import runs

LIMITS = {"MB": 8.0, "files": 2.0, "threads": 2.0}
"""The largest slope of each figure, per 100 trials: a file or thread that every trial leaves would be 100.

Ray keeps 50 kB per trial in the driver and the GCS, and pools of threads of its processes grow by some.
"""
MINUTES = 30
SEEDS = 4
OPTIONS = {
    "audio.duration": 1.0,
    "frontend.n_mels": 16,
    "frontend.hidden": [16],
    "frontend.bottleneck": 4,
    "train.epochs": 1,
}


@dataclass
class Watched:
    """One process: its name, and a row (finished trials, MB, open files, threads) per second."""

    name: str
    rows: list[tuple[float, float, float, float]] = field(default_factory=list)

    def slopes(self) -> dict[str, float] | None:
        """Figure -> growth per 100 trials after the first quarter; None for fewer than 100 trials.

        The seconds after the last trial, in which the tables are written, are left out.
        """
        running = [row for row in self.rows if row[0] < self.rows[-1][0]]
        rows = np.array(running[len(running) // 4 :])
        if len(rows) < 30 or np.ptp(rows[:, 0]) < 75:
            return None
        return {
            name: 100 * float(np.polyfit(rows[:, 0], rows[:, i], 1)[0]) for i, name in enumerate(LIMITS, 1)
        }


class Soak:
    """A sweep that is watched, and whose driver is killed.

    Attributes:
        watched: (number of the start, process id) -> the process.
    """

    def __init__(self, root: Path, trials: int) -> None:
        self.results = root / "results"
        self.trials = trials
        self.mark = secrets.token_hex(8)
        self.watched: dict[tuple[int, int], Watched] = {}
        rates = [round(1e-4 * 1.02**i, 9) for i in range(trials // SEEDS)]
        recipe = {"set": OPTIONS, "space": {"train.learning_rate": rates}}
        spec = {
            "name": "soak",
            "recipes": {"ae_baseline": recipe},
            "dcase": [runs.DCASE],
            "seeds": list(range(SEEDS)),
            "machines": {runs.DCASE: ["fan"]},
            "backends": ["knn"],
            "umap": False,
        }
        (root / "soak.yaml").write_text(json.dumps(spec))
        places = ["--data", root / "data", "--results", self.results]
        self.command = ["sweep", root / "soak.yaml", *places, "--no-dashboard"]

    def finished(self) -> int:
        """The number of trials whose tables were written once."""
        path = self.results / "sweeps" / "soak" / "events.jsonl"
        with contextlib.suppress(FileNotFoundError):
            events = map(json.loads, path.read_text().rpartition("\n")[0].splitlines())
            return sum(event["stage"] == "table" and not event["found"] for event in events)
        return 0

    def start(self, number: int, until: int | None) -> None:
        """Runs the command; kills it with SIGKILL once ``until`` trials are finished (None: to its end)."""
        command = [sys.executable, "-m", "asdray", *map(str, self.command)]
        environment = {**os.environ, "ASDRAY_SOAK": self.mark}
        with open(self.results.parent / f"output{number}.txt", "w") as output:
            driver = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            while driver.poll() is None:
                done = self.finished()
                if until is not None and done >= until:
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    return
                for pid, row in self._samples():
                    name = "driver" if pid == driver.pid else _name(pid)
                    self.watched.setdefault((number, pid), Watched(name)).rows.append((done, *row))
                time.sleep(1)
        if driver.returncode:
            raise SystemExit(
                f"the sweep ended with {driver.returncode}: {Path(output.name).read_text()[-3000:]}"
            )

    def _samples(self) -> Iterator[tuple[int, tuple[float, float, float]]]:
        """(process id, (MB, open files, threads)) of every process of the sweep."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                threads = len(os.listdir(f"/proc/{pid}/task"))
                files = len(os.listdir(f"/proc/{pid}/fd"))
                yield pid, (runs.status("RssAnon", pid) * 1.048576, files, threads)

    def processes(self) -> list[int]:
        """The processes that have inherited the mark of this soak from the driver."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found


def _name(pid: int) -> str:
    """The program of a process, without paths and options."""
    with contextlib.suppress(OSError, IndexError):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if words[0].startswith("ray::"):
            return "worker"
        scripts = [Path(word).name for word in words if word.endswith(".py")]
        return scripts[-1] if scripts else Path(words[0].split()[0]).name
    return "ended"


def report(soak: Soak) -> bool:
    """Prints the slopes; True if none is above its limit."""
    rows, worst = [], defaultdict(float)
    for (number, _), process in sorted(soak.watched.items()):
        if slopes := process.slopes():
            first, last = process.rows[0][0], process.rows[-1][0]
            peak = max(row[1] for row in process.rows)
            cells = [f"{slopes[name]:+.2f}" for name in LIMITS]
            rows.append(
                [f"{process.name}, start {number + 1}", f"{first:.0f}-{last:.0f}", f"{peak:.0f}", *cells]
            )
            for name in LIMITS:
                worst[name] = max(worst[name], slopes[name])
    head = ["process", "trials", "most MB", *(f"{name} per 100 trials" for name in LIMITS)]
    runs.print_table(head, rows)
    print("limits per 100 trials: " + ", ".join(f"{name} {limit}" for name, limit in LIMITS.items()))
    return bool(rows) and all(worst[name] <= limit for name, limit in LIMITS.items())


def left_behind(soak: Soak, folders: set[Path]) -> list[str]:
    """Processes and folders of the sweep that are still there, ten seconds after its end at the latest."""
    left: list[str] = []
    for _ in range(20):
        new = set(Path(tempfile.gettempdir()).glob("asdray-????")) - folders
        left = [*map(_name, soak.processes()), *map(str, new)]
        if not left:
            break
        time.sleep(0.5)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print(runs.describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        runs.make_data(root / "data", ["fan"], 4, 4, 1)
        folders = set(Path(tempfile.gettempdir()).glob("asdray-????"))
        soak, begin = Soak(root, trials), time.perf_counter()
        for number, until in enumerate([trials // 3, 2 * trials // 3, None]):
            soak.start(number, until)
            print(
                f"start {number + 1}: {soak.finished()} trials after {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
        minutes = (time.perf_counter() - begin) / 60
        flat = report(soak)
        left = left_behind(soak, folders)
        rows = (soak.results / "sweeps" / "soak" / "leaderboard.csv").read_text().count("\n") - 1
        print(f"{soak.finished()} trials in {minutes:.1f} minutes, {rows} rows on the board, left: {left}")
        fine = flat and not left and soak.finished() >= trials and rows == trials // SEEDS
        sys.exit(0 if fine and minutes < MINUTES else 1)


if __name__ == "__main__":
    main()
