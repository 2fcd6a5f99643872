"""Shared by the benchmarks: whole commands, one trial through all stages in this process, tables in Markdown.

CPU seconds hardly depend on the load of the machine; wall seconds do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asdray.config.trial import Trial
    from asdray.store import Places

DCASE = "dcase2023"
MACHINES = ("fan", "valve", "bearing", "gearbox")
BACKENDS = ["knn", {"name": "knn", "smote_ratio": 0.2}, "kmeans", "knn_rescale"]
RATE = 16000


@dataclass(frozen=True)
class Cost:
    """Wall seconds, CPU seconds, and peak resident memory in MiB."""

    wall: float
    cpu: float
    mib: float


def asdray(*args: object) -> Cost:
    """The cost of one command as a whole process; ends this script if the command fails."""
    command = [sys.executable, "-m", "asdray", *map(str, args)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    code, usage, peak = ended(process.pid)
    if code:
        raise SystemExit(f"failed: asdray {' '.join(command[3:])}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak)


def ended(pid: int) -> tuple[int, resource.struct_rusage, float]:
    """Waits for a child process; its status, its use, and its own peak memory in MiB.

    The memory in its use would be that of the largest of its children, the fork server of a sweep.
    """
    peak = 0.0
    while True:
        peak = max(peak, status("VmHWM", pid))
        found, code, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return code, usage, peak
        time.sleep(0.01)


class Meter:
    """The costs of named parts of the work of this process: ``with meter("train"): ...``.

    Attributes:
        costs: name -> the cost of each part with this name.
    """

    def __init__(self) -> None:
        self.costs: dict[str, list[Cost]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        _reset_peak()
        wall, cpu = time.perf_counter(), _cpu()
        yield
        self.costs.setdefault(name, []).append(
            Cost(time.perf_counter() - wall, _cpu() - cpu, status("VmHWM"))
        )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def status(name: str, pid: int | str = "self") -> float:
    """Memory of a process in MiB: ``VmHWM`` (peak), ``VmRSS`` or ``RssAnon``; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


class ProcessTree:
    """A command and all its descendants, sampled every ``every`` seconds until the command ends.

    Attributes:
        samples: (time, CPU seconds of all processes so far). CPU seconds between the last sample and the
            end of a process are missing.
        peaks: process id -> (name, peak resident memory in MiB).
    """

    def __init__(self, command: Sequence[object], every: float = 0.25) -> None:
        self.samples: list[tuple[float, float]] = []
        self.peaks: dict[int, tuple[str, float]] = {}
        self._used: dict[tuple[int, str], float] = {}
        start = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "asdray", *map(str, command)], stdout=subprocess.DEVNULL
        )
        self.pid = process.pid
        while process.poll() is None:
            self._sample()
            time.sleep(every)
        if process.returncode:
            raise SystemExit(f"failed: asdray {' '.join(map(str, command))}")
        self.wall = time.time() - start

    def _sample(self) -> None:
        parents, used = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                pid = int(folder.name)
                parents[pid] = int(fields[1])
                used[pid] = (fields[19], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        mine = {self.pid} | {pid for pid, start_tick in self._used if used.get(pid, ("",))[0] == start_tick}
        while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
            mine |= more  # a process whose parent has ended is known from an earlier sample
        for pid in mine & set(used):
            start_tick, seconds = used[pid]
            self._used[pid, start_tick] = seconds
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                before = self.peaks.get(pid, ("", 0.0))  # a process that just ended has no name and no peak
                self.peaks[pid] = (name or before[0], max(status("VmHWM", pid), before[1]))
        self.samples.append((time.time(), sum(self._used.values())))

    def shares(self) -> dict[str, list[float]]:
        """CPU seconds of each process in descending order: ``driver``, ``workers`` and ``Ray's own``."""
        found: dict[str, list[float]] = {"driver": [], "workers": [], "Ray's own": []}
        for (pid, _), seconds in self._used.items():
            name = self.peaks[pid][0]
            worker = name.startswith("ray::") and not name.endswith("Agent")
            kind = "driver" if pid == self.pid else "workers" if worker else "Ray's own"
            found[kind].append(seconds)
        return {kind: sorted(values, reverse=True) for kind, values in found.items()}

    def cpu(self, begin: float, end: float) -> float:
        """CPU seconds between two times."""
        used = []
        for moment in (begin, end):
            after = next((i for i, (at, _) in enumerate(self.samples) if at >= moment), len(self.samples) - 1)
            (t0, c0), (t1, c1) = self.samples[max(after - 1, 0)], self.samples[after]
            part = min(1.0, (moment - t0) / (t1 - t0)) if t1 > t0 else 1.0
            used.append(c0 + part * (c1 - c0))
        return used[1] - used[0]


def first_epoch_start(metrics: Path) -> float:
    """Unix time at which the first epoch of a unit began, from its ``metrics.csv`` and ``last.ckpt``."""
    rows = [line.split(",") for line in metrics.read_text().splitlines()]
    seconds = sum(float(row[rows[0].index("seconds")]) for row in rows[1:])
    return (metrics.parent / "checkpoints" / "last.ckpt").stat().st_mtime - seconds


def make_data(data: Path, machines: Iterable[str], train: int, test: int, seconds: float) -> Cost:
    """Makes and formats synthetic data of 2023; the cost of the formatting."""
    asdray("synth", DCASE, "--machines", ",".join(machines), "--train", train, "--test", test,
           "--seconds", seconds, "--data", data)  # fmt: skip
    return asdray("format", DCASE, "--data", data)


def trial_of(
    recipe: str, options: dict[str, object], seed: int, machines: Sequence[str], dcase: str = DCASE
) -> Trial:
    """The trial of a shipped recipe with some options changed."""
    from asdray.config.system import load_recipe, with_overrides
    from asdray.config.trial import Trial

    system = with_overrides(load_recipe(recipe).system, options, recipe)
    return Trial(dcase, recipe, system, seed, tuple(machines))


def all_stages(
    trial: Trial,
    places: Places,
    meter: Callable[[str], AbstractContextManager[object]],
    backends: Sequence[object] = BACKENDS,
    plots: bool = True,
) -> None:
    """Runs every stage of a trial one after the other in this process, each inside ``meter(stage)``."""
    from asdray.config.backend import Umap
    from asdray.config.sweep import check_backends
    from asdray.stages.evaluate import evaluate
    from asdray.stages.extract import extract
    from asdray.stages.score import score
    from asdray.stages.steps import TrialFiles
    from asdray.stages.table import table
    from asdray.stages.train import train
    from asdray.stages.umap import umap

    applied = trial.backends(check_backends(list(backends), "backends"))
    for unit in trial.units:
        with meter("train"):
            train(TrialFiles.load(trial, places), unit)
    for machine in trial.machines:
        with meter("extract"):
            extract(TrialFiles.load(trial, places), machine, "last")
        for backend in applied:
            with meter(f"score, {backend.name}"):
                score(TrialFiles.load(trial, places), machine, "last", backend)
        with meter("evaluate"):
            evaluate(TrialFiles.load(trial, places), machine, "last", applied)
        if plots:
            with meter("UMAP"):
                umap(TrialFiles.load(trial, places), machine, "last", Umap())
    with meter("table"):
        table(TrialFiles.load(trial, places), ("last",), applied)


def ensure_packs(places: Places, machines: Iterable[str]) -> None:
    """Decodes all training and test clips of some machines into packs."""
    from asdray.audio.cache import ensure_pack

    for machine, split in itertools.product(machines, ("train", "test")):
        ensure_pack(places, DCASE, machine, split)


# ---------------------------------------------------------------------------------------------- tables


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``0.62 (0.60-0.71)``: median, minimum and maximum; a single value alone."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table in Markdown, numbers to the right."""
    print(f"| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def describe_machine() -> str:
    """CPUs, Python, load, and the state of the packages: each process compiles packages without bytecode."""
    typer = importlib.util.find_spec("typer")
    assert typer is not None
    assert typer.origin is not None
    compiled = Path(importlib.util.cache_from_source(typer.origin)).exists()
    load = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, load {load:.1f}; "
        f"packages are {'compiled' if compiled else 'NOT compiled to bytecode: each process compiles them'}"
    )
