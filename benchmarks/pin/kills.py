"""Does a sweep survive SIGKILL? A sweep of eight small trials is killed, run again, and compared.

Each kill starts a sweep in a results folder of its own and kills one process of it with SIGKILL: the driver,
a worker that trains, a worker that runs tasks, Ray's raylet or its GCS server, in turn; at a random moment or
at an event, such as the first finished training. The same command is then run until it ends with exit code 0.

A kill passes where, at the end,

* tables and leaderboard have the bytes, and score files the values, of an undisturbed sweep;
* every output of a stage that was finished before the kill is the same file, unchanged;
* ``events.jsonl`` has each stage once, and none was finished twice;
* each run but the first repeated at most one epoch per unit: the one that was not yet in a checkpoint.

The output has a row per kill; exit code 1 if one does not pass. Only processes of the sweeps that this script
started are killed, found by their session.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pin import AE, DIS, TREE, Runner
from rows import collect, records

TARGETS = ("driver", "training", "task", "raylet", "gcs")
EVENTS = ("train started", "train", "extract", "evaluate", "table")
"""The first training that starts, or the first stage of this name that ends."""

MOST_RUNS = 6
HANGS_AFTER = 300.0
"""Seconds without a new line in ``events.jsonl`` or an end, after which a run counts as hanging."""

EPOCHS = 6
SPEC = {
    "name": "kills",
    "recipes": {
        "dis_baseline": {"set": {**DIS, "train.epochs": EPOCHS}},
        "ae_baseline": {"set": {**AE, "train.epochs": EPOCHS}},
    },
    "dcase": ["dcase2023"],
    "machines": {"dcase2023": ["fan", "bandsaw"]},
    "seeds": [0, 1, 2, 3],
    "backends": ["knn", "mahalanobis"],
    "umap": False,
}

# ---------------------------------------------------------------------------------------------- processes


def processes(session: int) -> dict[int, str]:
    """Process -> command line, of every process of a session, without zombies."""
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command:
                    found[pid] = command
    return found


def role(command: str) -> str | None:
    """The entry of `TARGETS` that a process is, or None."""
    program = command.partition(" ")[0]
    if program.endswith("/raylet"):
        return "raylet"
    if program.endswith("/gcs_server"):
        return "gcs"
    if command.startswith(("ray::train ", "ray::ImplicitFunc")):
        return "training"
    if command.startswith(("ray::extract ", "ray::umap ")):
        return "task"
    return None


def kill(session: int, target: str, chance: random.Random) -> str | None:
    """Kills one process of a sweep; returns its command line, or None where there is none of that role."""
    if target == "driver":
        chosen, command = session, "driver"
    else:
        those = [(pid, command) for pid, command in processes(session).items() if role(command) == target]
        if not those:
            return None
        chosen, command = chance.choice(sorted(those))
    try:
        os.kill(chosen, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return command


# -------------------------------------------------------------------------------------------------- sweep


class Sweep:
    """One sweep: its results folder, and runs of its command."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.runner, self.name = runner, name
        self.results = runner.root / name
        self.folder = self.results / "sweeps" / SPEC["name"]
        self.log = runner.root / f"{name}.log"

    def start(self) -> subprocess.Popen:
        """Starts a run in a session of its own."""
        path = self.runner.root / "kills.yaml"
        path.write_text(json.dumps(SPEC))
        options = ("--data", self.runner.root / "data", "--results", self.results, "--no-dashboard")
        command = [sys.executable, "-m", "asdray", "sweep", path, *options]
        with open(self.log, "a") as output:
            return subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.runner.root,  # which `-m` would else look into first
                env=self.runner.environment,
                start_new_session=True,
            )

    def events(self) -> list[dict[str, Any]]:
        """Events so far; a line that is just being written is left out."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "events.jsonl").read_text().splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        return []

    def reached(self, event: str) -> bool:
        """True once an event of `EVENTS` has happened."""
        if event == "train started":
            return any(self.results.glob("trials/*/*/seed*/model/*/train.log"))
        return any(e["stage"] == event and e["status"] == "done" for e in self.events())

    def finished(self) -> dict[Path, tuple[int, int]]:
        """Output of a finished stage -> inode and time of its last change."""
        found = {}
        for folder, _, record in records(self.results / "trials"):
            for path in (folder / name for name in record["outputs"]):
                with contextlib.suppress(FileNotFoundError):
                    found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
        return found

    def results_now(self) -> dict[str, str]:
        """Name -> hash, of every score, evaluation, table and leaderboard."""
        return collect(self.results, self.results)

    def epochs(self) -> int:
        """The number of repeated epochs over all units: further lines of an epoch in ``train.log``."""
        repeated = 0
        for log in self.results.glob("trials/*/*/seed*/model/*/train.log"):
            counts = Counter(re.findall(r" epoch (\d+) of ", log.read_text()))
            repeated += sum(count - 1 for count in counts.values())
        return repeated


# ------------------------------------------------------------------------------------------------- a kill


@dataclass
class Kill:
    """One kill, and what came of it."""

    number: int
    target: str
    moment: str
    codes: list[int | str] = field(default_factory=list)
    """Exit code of every run; -9 is that of a killed driver."""
    seconds: float = 0.0
    killed: str = ""
    """The title of the process."""
    outputs: int = 0
    """Files of finished stages, when the process was killed."""
    repeated: int = 0
    epochs: int = 0
    left_over: int = 0
    """Processes of all runs that were still there when the last run ended."""
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        codes = ",".join(map(str, self.codes))
        identical = "yes" if not self.faults else "NO: " + "; ".join(self.faults)
        return (
            f"{self.number:>3}  {self.target:<8}  {self.moment:<18}  {self.outputs:>6}  {codes:<10}  "
            f"{self.seconds:>6.0f}  {self.repeated:>8}  {self.epochs:>6}  {self.left_over:>4}  {identical}"
        )


HEAD = (
    f"{'no.':>3}  {'target':<8}  {'moment':<18}  {'before':>6}  {'exit codes':<10}  {'sec.':>6}  "
    f"{'repeated':>8}  {'epochs':>6}  {'left':>4}  identical"
)


def plan(number: int, chance: random.Random, span: tuple[float, float]) -> Kill:
    """The next kill: its target in turn; every second moment is an event, in turn, the others are random."""
    turn, target = divmod(number, len(TARGETS))
    if turn % 2 == 0:
        moment = EVENTS[(turn // 2 + target) % len(EVENTS)]
    else:
        moment = f"{chance.uniform(*span):.1f} s"
    return Kill(number, TARGETS[target], moment)


def attempt(one: Kill, sweep: Sweep, expected: dict[str, str], chance: random.Random) -> None:
    """Starts a sweep, kills, runs it to its end, and notes what is wrong."""
    started = time.monotonic()
    process = sweep.start()
    sessions = [process.pid]
    before = _kill_at_moment(one, sweep, process, chance)
    one.codes.append(_wait(process, sweep))
    while one.codes[-1] != 0 and len(one.codes) < MOST_RUNS:
        process = sweep.start()
        sessions.append(process.pid)
        one.codes.append(_wait(process, sweep))
    one.seconds = time.monotonic() - started
    one.outputs = len(before)
    one.left_over = _clean_up(sessions)
    _check(one, sweep, expected, before)


def _kill_at_moment(
    one: Kill, sweep: Sweep, process: subprocess.Popen, chance: random.Random
) -> dict[Path, tuple[int, int]]:
    """Waits for the moment, and for a process of the role; kills it. Returns the outputs finished before."""
    due = _moment(one, sweep)
    while process.poll() is None:
        if due():
            before = sweep.finished()
            if killed := kill(process.pid, one.target, chance):
                one.killed = killed
                return before
        time.sleep(0.02)
    one.faults.append("ended before it could be killed")
    return {}


def _moment(one: Kill, sweep: Sweep) -> Callable[[], bool]:
    """Tells whether the moment of a kill has come."""
    if one.moment in EVENTS:
        return lambda: sweep.reached(one.moment)
    at = time.monotonic() + float(one.moment.removesuffix(" s"))
    return lambda: time.monotonic() >= at


def _wait(process: subprocess.Popen, sweep: Sweep) -> int | str:
    """The exit code of a run; ``hang`` of one that had to be killed since it went no further."""
    seen, since = -1, time.monotonic()
    while process.poll() is None:
        if (now := len(sweep.events())) != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > HANGS_AFTER:
            process.kill()
            process.wait()
            return "hang"
        time.sleep(0.2)
    return process.returncode


def _clean_up(sessions: list[int]) -> int:
    """Ends the processes that runs left behind, a few seconds after the last; how many there were."""
    time.sleep(3)
    left = [pid for session in sessions for pid in processes(session)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _check(one: Kill, sweep: Sweep, expected: dict[str, str], before: dict[Path, tuple[int, int]]) -> None:
    """Compares with the undisturbed sweep, and looks for work that was repeated."""
    if one.codes[-1] != 0:
        one.faults.append(f"not done after {len(one.codes)} runs")
    found = sweep.results_now()
    differ = [
        name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)
    ]
    if differ:
        one.faults.append(f"{len(differ)} results differ: {differ[0]}")

    changed = [
        p for p, known in before.items() if not p.exists() or known != (p.stat().st_ino, p.stat().st_mtime_ns)
    ]
    keys = ("dcase", "system", "seed", "stage", "unit", "checkpoint", "machine", "backend", "signature")
    events = [e for e in sweep.events() if e["status"] == "done"]
    lines = Counter(tuple(e[key] for key in keys) for e in events)
    work = Counter(tuple(e[key] for key in keys) for e in events if not e["found"])
    twice = [key for key, count in work.items() if count > 1]
    one.repeated = len(changed) + len(twice)
    if changed:
        one.faults.append(f"{len(changed)} finished outputs changed: {changed[0].relative_to(sweep.results)}")
    if twice:
        one.faults.append(f"{len(twice)} stages finished twice: {twice[0]}")
    if doubled := [key for key, count in lines.items() if count > 1 and key not in twice]:
        one.faults.append(f"{len(doubled)} stages have two lines: {doubled[0]}")

    one.epochs = sweep.epochs()
    at_once = len(os.sched_getaffinity(0))  # trainings; each may repeat the epoch that it was in
    if one.epochs > at_once * max(1, len(one.codes) - 1):
        one.faults.append(f"{one.epochs} epochs repeated")


# --------------------------------------------------------------------------------------------------- main


class Output:
    """Lines for the screen and a file, each written at once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path:
            path.write_text("")

    def line(self, text: str) -> None:
        print(text, flush=True)
        if self._path:
            with open(self._path, "a") as file:
                file.write(f"{text}\n")


def run(kills: int, seed: int, tree: Path, out: Output, first: int = 0) -> bool:
    """All kills; whether each passed."""
    root = Path(tempfile.mkdtemp(prefix="kills-", dir="/tmp" if os.path.isdir("/tmp") else None))
    runner = Runner(root, tree)
    try:
        runner.make_data("dcase2023", ["fan", "bandsaw"], 12, 8)
        reference = Sweep(runner, "undisturbed")
        for _ in range(2):  # the second finds audio decoded, as all that follow
            shutil.rmtree(reference.results, ignore_errors=True)
            started = time.monotonic()
            process = reference.start()
            assert process.wait() == 0, reference.log.read_text()
            seconds = time.monotonic() - started
            _clean_up([process.pid])
        expected = reference.results_now()
        out.line(f"undisturbed: {seconds:.0f} s, {len(expected)} results, {len(reference.events())} stages")
        out.line(HEAD)
        done = []
        for number in range(first, first + kills):
            chance = random.Random(f"{seed} {number}")
            one = plan(number, chance, (0.1 * seconds, 0.95 * seconds))
            sweep = Sweep(runner, f"k{number}")
            attempt(one, sweep, expected, chance)
            out.line(one.row())
            done.append(one)
            if not one.faults:
                shutil.rmtree(sweep.results, ignore_errors=True)
                sweep.log.unlink()
        _summarise(done, out)
        return not any(one.faults for one in done)
    finally:
        if list(root.glob("k[0-9]*.log")):
            print(f"results and logs of the kills that did not pass are in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)


def _summarise(done: list[Kill], out: Output) -> None:
    """A line per target, and one in all."""
    for target in (*TARGETS, "all"):
        those = [one for one in done if target in (one.target, "all")]
        passed = sum(not one.faults for one in those)
        runs = sum(len(one.codes) for one in those) / max(1, len(those))
        out.line(f"{target}: {passed} of {len(those)} kills passed, {runs:.1f} runs each")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the number of the first kill; skips others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the rows, beside the screen")
    parser.add_argument("--tree", type=Path, default=TREE, help="the checkout whose asdray runs")
    args = parser.parse_args()
    fine = run(args.kills, args.seed, args.tree.resolve(), Output(args.out), args.first)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
