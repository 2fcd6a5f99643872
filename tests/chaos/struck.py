"""A sweep that faults strike: its processes by kind, its runs, and the judgement of each fault.

All faults of one results folder share the sweep; the same command is given until it ends with 0.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from outcomes import Outcome, note
from ray_nodes import processes
from sweeping import MACHINES, ONE_BY_ONE, SMALL_AE, SMALL_DIS, World, in_process

DIS = {**SMALL_DIS, "train.epochs": 20}
AE = {**SMALL_AE, "train.epochs": 20}
SWEEP = {
    "recipes": {
        "dis_baseline": {"set": DIS},
        "dis_spec_scac_fixed": {"set": DIS},
        "dis_spec_subspaceloss": {"set": DIS},
        "ae_baseline": {"set": AE},
    },
    "resources": ONE_BY_ONE,
}
"""One seed: a mean over some of the seeds would be a number that the tables of the whole sweep do not have."""

QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}
"""Ray's time-outs: a process that is silent for some six seconds is taken for lost; by default after a minute."""

SILENCE = 10.0
"""Seconds of a stop, longer than the time-outs of `QUICK`."""

ENDS = (0, 1, 75, -9)
"""Exit codes of a struck run: complete, a failed stage or Ray's own end of the driver, a clean stop, killed."""

PROCESSES = {
    "raylet": r"/raylet/raylet ",
    "GCS": r"/gcs/gcs_server ",
    "dashboard": r"dashboard/dashboard\.py|ray-dashboard",
    "dashboard agent": r"^ray::DashboardAgent|dashboard/agent\.py",
    "runtime env agent": r"^ray::RuntimeEnvAgent|runtime_env/agent/main\.py",
    "training worker": r"^ray::train ",
    "task worker": r"^ray::(extract|umap) ",
}
"""Kind of a process of a running sweep -> pattern of its command line."""


def victims(session: int, kind: str) -> list[int]:
    """The processes of a kind in the session of a driver."""
    if kind == "driver":
        return [session]
    found = []
    for pid in processes(session):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            # The command line of a raylet has those of its agents as options.
            first = line if kind in ("raylet", "GCS") or "/raylet/raylet " not in line else ""
            if re.search(PROCESSES[kind], first):
                found.append(pid)
    return found


@dataclass
class Fault:
    """A fault that has struck, and the steps that were finished by then."""

    kind: str
    place: str
    finished: dict[str, tuple]


@dataclass
class Struck:
    """A results folder whose sweep is struck by faults.

    Attributes:
        reference: the sweep's results without faults.
        more, prefix: options of the command, and what stands before it.
        runs: process numbers of every run so far, which are also their sessions.
        wrong: numbers in tables between the faults that the reference does not have.
    """

    world: World
    reference: World
    more: tuple[str, ...] = ("--no-dashboard",)
    prefix: tuple[str, ...] = ()
    sweep: dict = field(default_factory=lambda: SWEEP)
    env: dict = field(default_factory=lambda: {**os.environ, **QUICK})
    faults: list[Fault] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rays = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))  # short: Unix sockets are below
        self.process: subprocess.Popen | None = None
        self.output: list[str] = []

    def start(self) -> None:
        """Starts the command in a session of its own."""
        command = [str(part) for part in self.world.command(**self.sweep)]
        command = [part for part in command if part != "--no-dashboard"]
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "asdray", *command, *self.more],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**self.env, "RAY_TMPDIR": str(self.rays)},
        )  # fmt: skip
        self.runs.append(self.process.pid)
        self.output = []
        threading.Thread(target=self._read, args=(self.process, self.output), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen, output: list[str]) -> None:
        output.extend(process.stdout)

    def wait(self, seconds: float = 400.0) -> int:
        """Waits for the end of a run; returns its exit code, which is one of `ENDS`."""
        try:
            self.ends.append(self.process.wait(seconds))
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            raise AssertionError(f"no end within {seconds:.0f} s: {self.history()}") from None
        self.look()
        assert self.ends[-1] in ENDS, self.history()
        return self.ends[-1]

    def history(self) -> str:
        """All faults, the exit codes, and what the last run has printed."""
        struck = "; ".join(f"{fault.kind} {fault.place}" for fault in self.faults)
        return f"{struck}\nexit codes {self.ends}\n{''.join(self.output)}"

    def find(self, kind: str, seconds: float) -> list[int]:
        """Waits for processes of a kind; none if the run ends before."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if found := victims(self.process.pid, kind):
                return found
            time.sleep(0.02)
        return []

    def strike(self, kind: str, action: str, delay: float, choice: float) -> bool:
        """Strikes a process of a kind ``delay`` seconds after its start; False if the run has ended before.

        Args:
            action: ``kill -9`` or ``stop``, which lasts `SILENCE`.
            choice: in [0, 1), chooses among several processes.
        """
        began = time.monotonic()
        if not self.find(kind, 200):
            return False
        end = time.monotonic() + delay
        while time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.01)
        found = self.find(kind, 30)
        if not found:
            return False
        pid, finished = found[int(choice * len(found))], self.finished()
        try:
            os.kill(pid, signal.SIGSTOP if action == "stop" else signal.SIGKILL)
        except ProcessLookupError:
            return False
        place = f"run {len(self.runs)}, {time.monotonic() - began:.1f} s"
        self.faults.append(Fault(f"{action} of the {kind}", place, finished))
        if action == "stop":
            time.sleep(SILENCE)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.look()
        return True

    def strikes(self, kind: str, place: str) -> None:
        """Announces a fault that the test itself makes."""
        self.faults.append(Fault(kind, place, self.finished()))

    # ------------------------------------------------------------------------------------- judgement

    def finished(self) -> dict[str, tuple]:
        """Every finished step, tables apart -> time and seconds of its work."""
        found = {}
        for path in self.world.results.glob("trials/**/done.json"):
            with contextlib.suppress(FileNotFoundError):
                records = json.loads(path.read_text())["records"]
                at = path.parent.relative_to(self.world.results)
                found |= {
                    f"{at}/{name}": (record["finished"], record["seconds"])
                    for name, record in records.items()
                    if name != "table"
                }
        return found

    def look(self) -> None:
        """Compares the tables of this moment with the reference; an empty cell is no number."""
        whole = {name: rows_of(text) for name, text in self.reference.tables().items()}
        folder = self.world.folder()
        for path in [*folder.glob("tables/*.csv"), *folder.glob("leaderboard.csv")]:
            for system, row in rows_of(path.read_text()).items():
                self.wrong += [
                    f"{path.name} {system} {column}: {value}"
                    for column, value in row.items()
                    if value and is_number(column) and value != whole[path.name][system][column]
                ]

    def judge(self) -> None:
        """Notes and asserts the outcome of every fault, after the run that ended with 0."""
        identical = (
            not self.wrong
            and self.world.tables() == self.reference.tables()
            and scores(self.world) == scores(self.reference)
        )
        left = self.left_behind()
        survived = self.ends[-1:] == [0] and not left
        states = [fault.finished for fault in self.faults] + [self.finished()]
        repeated = [
            [name for name, times in before.items() if after.get(name) != times]
            for before, after in itertools.pairwise(states)
        ]
        for fault, steps in zip(self.faults, repeated, strict=True):
            note(Outcome(fault.kind, fault.place, survived, len(steps), identical))
        assert not left, (left, self.history())
        assert not [steps for steps in repeated if steps], self.history()
        assert identical, (self.wrong, self.history())

    def left_behind(self) -> list[str]:
        """Temporary files, folders of Ray, and processes of any run; dying processes have a minute."""
        end = time.monotonic() + 60
        while (alive := self.alive()) and time.monotonic() < end:
            time.sleep(0.2)
        files = [
            *self.world.results.rglob(".tmp-*"),
            *self.world.results.rglob(".nodes-*"),
            *itertools.islice(self.rays.rglob("*"), 20),
        ]
        return [*map(str, alive), *map(str, files)]

    def alive(self) -> list[int]:
        """The processes of all runs."""
        return [pid for run in self.runs for pid in processes(run) if is_alive(pid)]

    def end(self) -> None:
        """Ends everything that a failed test has left."""
        for run in self.runs:
            for pid in processes(run):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        subprocess.run(["rm", "-rf", str(self.rays)], check=True)


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """System -> row of a table."""
    return {row["system"]: row for row in csv.DictReader(io.StringIO(text))}


def is_number(column: str) -> bool:
    """True for a column of scores: counts and ranks are those of the moment."""
    return column.endswith(("mean", "std", "total")) or column in MACHINES


def scores(world: World) -> dict[str, bytes]:
    """Path -> content of every file of scores and evaluations."""
    patterns = ("scores/*.parquet", "*_score.csv", "test_evaluate.csv")
    paths = [
        path for pattern in patterns for path in world.results.glob(f"trials/**/output/last/*/{pattern}")
    ]
    assert paths
    return {str(path.relative_to(world.results)): path.read_bytes() for path in paths}


def undisturbed(data: Path, results: Path) -> World:
    """The results of the sweep without Ray and without faults."""
    world = World(data, results)
    for recipe, of in SWEEP["recipes"].items():
        options = [
            part for key, value in of["set"].items() for part in ("--set", f"{key}={json.dumps(value)}")
        ]
        in_process(
            "run", recipe, "dcase2023", "--machines", ",".join(MACHINES), "--seed", 0, *options,
            "--data", data, "--results", results, "--no-umap", "--device", "cpu",
        )  # fmt: skip
    in_process(*world.command(**SWEEP))
    assert world.tables()
    return world


def is_alive(pid: int) -> bool:
    """True for a process that has not ended; one that nobody has waited for is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
