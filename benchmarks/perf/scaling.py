"""How do time and memory grow with clips, their length, machines, trials and nodes? Half an hour on 2 CPUs.

    python benchmarks/perf/scaling.py [--only clips,references,length,machines,trials,nodes] [--quick]
    python benchmarks/perf/scaling.py --from benchmarks/scaling/points.jsonl      # measures nothing

Every point is measured in its own process, as a whole command if users run this command: wall seconds, CPU
seconds, peak resident memory. Points are appended to ``points.jsonl`` below ``--out`` and are not measured
again, so an interrupted study continues. `scaling_report.py` prints the table, draws the plot, and forecasts
a benchmark of all years and 20 recipes. CPU seconds hardly depend on other processes; wall seconds do.

The study is scaled down: clips last a quarter of a second if only their number matters; embeddings are
random; trials without work are `raw_spec` on 8 clips per machine, one backend; nodes are processes of this
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import official
import runs
import scaling_report
import scaling_work

from asdray import provenance
from asdray.dcase.years import get_year

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "scaling"
ONE_THREAD = {**official.ONE_THREAD, "NUMBA_NUM_THREADS": "1"}
POLL = 0.2

TREE, SHORT = "dcase2020", 0.25  # year of the tree's file names, and seconds of its clips
NOOP = "dcase2024"  # the year with the most machines
TRIALS_OF_MACHINES, TRIALS_OF_NODES = 10, 40

Figures = dict[str, float]
Point = tuple[str, int, Callable[[], Figures]]
"""Series, x within the series, and the function that measures the point."""


# ---------------------------------------------------------------------------------------------- measuring


def measured(command: list[object], others: bool = False, **env: str) -> Figures:
    """Runs a command to its end; the figures of the process and the values of a last output line in JSON.

    Args:
        others: measure the descendants separately.

    Returns:
        ``wall`` seconds; ``cpu`` seconds, including children that the process waited for; ``rss``: peak
        resident memory in MiB, including mapped files; ``anon``: the peak without mapped files, sampled every
        fifth of a second. With ``others``, ``cpu`` is of the process alone, and ``others_cpu`` and
        ``others_anon`` (the peak of the sum) belong to its descendants.
    """
    with tempfile.TemporaryFile("w+") as out:
        start = time.monotonic()
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, start_new_session=True, env={**os.environ, **env}
        )
        spent: dict[tuple[int, str], float] = {}
        anon = most = peak = 0.0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(POLL)
            anon, peak = max(anon, _anonymous(process.pid)), max(peak, runs.status("VmHWM", process.pid))
            if others:
                pids = list(_session(process.pid, spent))
                most = max(most, sum(map(_anonymous, pids)))
        wall = time.monotonic() - start
        own = _cpu(_stat(process.pid))
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: {' '.join(map(str, command))}")
        out.seek(0)
        last = (out.read().splitlines() or [""])[-1]
    figures = {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": peak,  # not that of its largest child
        "anon": anon,
    }
    if others:
        figures |= {"cpu": own, "others_cpu": sum(spent.values()), "others_anon": most}
    if last.startswith("{"):
        figures |= json.loads(last)
    return figures


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` after the name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu(stat: list[str]) -> float:
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _session(leader: int, spent: dict[tuple[int, str], float]) -> Iterator[int]:
    """The other processes of a session; writes the CPU seconds of each to ``spent``."""
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and int(name) != leader and int((stat := _stat(int(name)))[3]) == leader:
                spent[int(name), stat[19]] = _cpu(stat)
                yield int(name)


def _anonymous(pid: int) -> float:
    """Memory of a process without mapped files, in MiB; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def asdray(*args: object) -> list[object]:
    """The command line of `asdray` with these arguments."""
    return [sys.executable, "-m", "asdray", *args]


def run_unmeasured(*args: object) -> None:
    """Runs a command of `asdray` without measurement."""
    subprocess.run(list(map(str, asdray(*args))), check=True, stdout=subprocess.DEVNULL)


def work(name: str, *args: object) -> Figures:
    """The figures of a function of `scaling_work`, in a new process with one thread."""
    return measured([sys.executable, scaling_work.__file__, name, *args], **ONE_THREAD)


# ------------------------------------------------------------------------------------------------- clips


def make_tree(data: Path, n: int) -> None:
    """About ``n`` clips of 2020, evenly over its machines and ids, two thirds of them for training."""
    year = get_year(TREE)
    samples = np.random.default_rng(0).integers(-3000, 3000, int(SHORT * 16000), dtype=np.int16)
    wav = scaling_work.wav(samples)
    units = [(s, m, i) for s in ("dev", "eval") for m in year.machines[s] for i in year.sections[s][m]]
    truth = []
    for subset, machine, section in units:
        folder = data / "original" / TREE / f"{subset}_data" / "raw" / machine
        each = round(n / len(units))
        truth.append(machine) if subset == "eval" and machine not in truth else None
        for split, count in (("train", each * 2 // 3), ("test", each - each * 2 // 3)):
            (folder / split).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                label = "anomaly" if split == "test" and i % 2 else "normal"
                name = labelled = f"{label}_id_{section:02d}_{i:08d}.wav"
                if (subset, split) == ("eval", "test"):
                    name = f"id_{section:02d}_{i:08d}.wav"
                    truth.append(f"{name},{labelled},{int(label == 'anomaly')}")
                (folder / split / name).write_bytes(wav)
    lists = data / "original" / TREE / "ground_truth"
    lists.mkdir()
    (lists / "eval_data_list_2020.csv").write_text("\n".join(truth) + "\n")


def clips(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the number of clips of a year."""

    def formatted(n: int) -> Figures:
        if not (data := root / f"tree-{n}").exists():
            make_tree(data, n)
        shutil.rmtree(data / "formatted", ignore_errors=True)
        return measured(asdray("format", TREE, "--partial", "--data", data))

    def packed(n: int) -> Figures:
        data = root / f"tree-{n}"
        if not (data / "formatted" / TREE / "dataset.json").exists():
            formatted(n)
        figures = work("pack", data, TREE)
        shutil.rmtree(data)
        return figures

    def scored(n: int) -> Figures:
        return work("backends", n // 1000, 1000)

    def official_score(n: int) -> Figures:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            official.PER_CELL = round(n / 84)
            official.build(Path(folder))
            system, truth = f"{folder}/system", f"{folder}/ground_truth"
            command = asdray("official", system, "--dcase", official.DCASE, "--ground-truth", truth)
            return measured(command, **ONE_THREAD)

    series = {"format": formatted, "pack": packed, "backends": scored, "official": official_score}
    for n in (1000, 4000) if quick else (1000, 4000, 15_000, 60_000):
        for name, measure in series.items():
            yield name, n, lambda measure=measure, n=n: measure(n)


def references(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the number of clips of one machine."""
    for n in (250, 1000) if quick else (1000, 2000, 4000, 8000):
        yield "backends of a machine", n, lambda n=n: work("backends", 1, n)
        yield "UMAP of a machine", n, lambda n=n: work("umap", n)


def length(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the length of a clip."""
    # In a new process: torch's memory in this process would raise the peaks of all later child processes.
    precisions = ("fp32", "bf16")[: int(work("precisions")["value"])]
    batch = 8 if quick else 64
    for seconds in (5, 6) if quick else (6, 10, 14, 18):
        for precision in precisions:
            yield f"step {precision}", seconds, lambda s=seconds, p=precision: work("step", s, p, batch)
        yield "extraction", seconds, lambda s=seconds: work("extraction", s, batch)
        yield "decoding", seconds, lambda s=seconds: work("decoding", s, root)


# ------------------------------------------------------------------------------------------------ sweeps


def sweep(root: Path, machines: int, trials: int, *options: object, **env: str) -> Figures:
    """The figures of a sweep of trials with almost no work."""
    data = root / "noop"
    names = get_year(NOOP).all_machines
    if not (data / "formatted" / NOOP / "dataset.json").exists():
        run_unmeasured("synth", NOOP, "--train", 4, "--test", 4, "--seconds", 1, "--data", data)
        run_unmeasured("format", NOOP, "--data", data)
    spec = {
        "name": "noop",
        "recipes": {"raw_spec": {"space": {"frontend.n_mels": list(range(16, 16 + trials))}}},
        "dcase": [NOOP],
        "seeds": [0],
        "machines": {NOOP: names[:machines]},
        "backends": ["knn"],
        "umap": False,
    }
    with tempfile.TemporaryDirectory(dir=root) as folder:
        path = Path(folder) / "noop.yaml"
        path.write_text(json.dumps(spec))
        command = asdray("sweep", path, "--data", data, "--results", folder, "--no-dashboard", *options)
        return {**measured(command, others=True, **env), "trials": trials}


def machines(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the machines of a sweep."""
    for n in (1, 3) if quick else (1, 4, 8, 16):
        yield "machines", n, lambda n=n: sweep(root, n, 3 if quick else TRIALS_OF_MACHINES)


def trials(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the trials of a sweep, and over the trials of tables with 16 machines and 4 backends."""
    for n in (4, 12) if quick else (10, 50, 100, 200, 400):
        yield "trials", n, lambda n=n: sweep(root, 1, n)
        yield "tables", n, lambda n=n: tables(root, n)


def tables(root: Path, n: int) -> Figures:
    """The figures of tables and leaderboard of ``n`` trials."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        build_command = [sys.executable, scaling_work.__file__, "build_tables", str(n), folder]
        subprocess.run(build_command, check=True, stdout=subprocess.DEVNULL)
        return work("tables", n, folder)


def nodes(root: Path, quick: bool) -> Iterator[Point]:
    """Series over the nodes of a sweep, each with one CPU."""
    sys.path.append(str(ROOT / "tests"))
    from ray_nodes import HEAD, RayCluster

    def on(n: int) -> Figures:
        cluster = RayCluster()
        try:
            cluster.begin()
            for i in range(2, n + 1):
                cluster.add(f"{HEAD[:-1]}{i}")
            with tempfile.TemporaryDirectory(dir=root) as cache:
                options = ("--address", cluster.address, "--cache-dir", cache)
                return sweep(root, 1, 3 if quick else TRIALS_OF_NODES, *options, **cluster.env)
        finally:
            cluster.end()

    for n in (1, 2) if quick else (1, 2, 4, 8):
        yield "nodes", n, lambda n=n: on(n)


DIMENSIONS = (clips, references, length, machines, trials, nodes)


# -------------------------------------------------------------------------------------------------- main


def read(path: Path) -> list[dict[str, Any]]:
    """The points of a file with one JSON object per line; empty if the file is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def study(path: Path, only: list[str], quick: bool, repeat: int) -> None:
    """Measures the points missing from the file, ``repeat`` times each, and appends each point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    commit = str(provenance.versions()["commit"])[:7]
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="asdray-scaling-") as folder:
        for dimension in DIMENSIONS:
            if dimension.__name__ not in only:
                continue
            for series, x, measure in dimension(Path(folder), quick):
                measured_points = [p for p in read(path) if (p["series"], p["x"]) == (series, x)]
                for _ in range(repeat - len(measured_points)):
                    figures = {name: round(value, 6) for name, value in measure().items()}
                    known = {"date": provenance.now(), "commit": commit, "cpus": cpus}
                    load = round(os.getloadavg()[0], 1)
                    point = {"series": series, "x": x, **figures, **known, "load": load}
                    with open(path, "a", encoding="utf-8") as file:
                        file.write(json.dumps(point) + "\n")
                    print(json.dumps(point), flush=True)


def main() -> None:
    names = [dimension.__name__ for dimension in DIMENSIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test of two minutes")
    parser.add_argument("--repeat", type=int, default=1, help="measurements per point; medians are used")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of points.jsonl and scaling.svg")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="report these points and measure nothing"
    )
    for speed in dataclasses.fields(scaling_report.Speeds):
        parser.add_argument(
            f"--gpu-{speed.name}",
            type=float,
            default=speed.default,
            help=f"clips of 10 s per second on one GPU, see `Speeds.{speed.name}` of scaling_report.py",
        )
    options = parser.parse_args()
    only = options.only.split(",")
    if unknown := set(only) - set(names):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
    out = options.out / "quick" if options.quick else options.out
    source = options.source or out / "points.jsonl"
    if not options.source:
        study(source, only, options.quick, options.repeat)
    out.mkdir(parents=True, exist_ok=True)
    asked = {s.name: vars(options)[f"gpu_{s.name}"] for s in dataclasses.fields(scaling_report.Speeds)}
    speeds = scaling_report.Speeds(**asked)
    print(scaling_report.report(read(source), out / "scaling.svg", speeds))


if __name__ == "__main__":
    main()
