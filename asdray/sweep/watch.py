"""The watch over running steps: a step without a sign of life is ended, and tried once more elsewhere.

Signs of life are batches of a training or an extraction, decoded clips, and waits for another process
(`asdray.alive`). A step counts as hung after `TIMES` times the usual time of its kind in this run, and at
least `LEAST` seconds; of a training the kind is an epoch. Before the first of a kind has ended, the time is
`UNKNOWN` seconds. ``stall_after`` replaces all of these. What waits for resources gives no signs, and is not
watched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from asdray import provenance, store
from asdray.config.trial import Trial
from asdray.sweep import signs
from asdray.sweep.progress import duration
from asdray.sweep.signs import Sign

TIMES = 20
LEAST = 30 * 60.0
UNKNOWN = 2 * 60 * 60.0

LOOK_SECONDS = 2.0
"""Time between two looks."""

MOST_BETWEEN = 30.0
"""Longest time that counts between two looks: a machine that slept, with the workers, has not hung."""

END_SECONDS = 300.0
"""Time after which an attempt to end a worker is made again."""


class Watch:
    """Watches the steps of a run.

    Args:
        folder: the sweep's folder.
        stall_after: the time asked for, in seconds; None for the default.
        say: prints a line.
        node: Ray's id of the driver's node.
        names: gives system -> its name for people.
    """

    def __init__(
        self,
        folder: store.SweepDir,
        stall_after: float | None,
        say: Callable[[str], None],
        node: str = "",
        names: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._folder = folder
        self._stall_after = stall_after
        self._say = say
        self._node = node
        self._names = names
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._seen: dict[Path, tuple[int, float]] = {}
        """File -> number of signs, and the time on the watch's own clock when the number was new."""
        self._ending: dict[Path, tuple[Future[bool], float, str]] = {}
        """File -> the attempt to end the worker, its time on the clock, and the line that tells of it."""
        self._pool = ThreadPoolExecutor(4)
        self._clock, self._looked = 0.0, time.monotonic()
        folder.running.mkdir(parents=True, exist_ok=True)

    def end(self) -> None:
        """Removes the files of the run."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder.running, ignore_errors=True)

    def took(self, stage: str, seconds: float) -> None:
        """Notes the time of a finished step; of a training that of an epoch."""
        self._seconds[stage].append(seconds)

    def limit(self, stage: str) -> float:
        """Seconds without a sign of life after which a step counts as hung."""
        if self._stall_after is not None:
            return self._stall_after
        seconds = self._seconds.get(stage)
        return max(LEAST, TIMES * statistics.median(seconds)) if seconds else UNKNOWN

    def look(self) -> None:
        """Looks at all running steps, unless the last look was a moment ago, and has hung ones ended."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        elapsed, self._looked = now - self._looked, now
        for file, (future, at, line) in list(self._ending.items()):
            if future.done() or self._clock - at > END_SECONDS:
                del self._ending[file]
                if future.done() and not future.exception() and future.result():
                    self._say(line)
        found = signs.read(list(self._folder.running.glob("*.json")))
        for file, seconds in self.silent(found, elapsed).items():
            if file not in self._ending:
                self._end(file, found[file], seconds)

    def silent(self, found: Mapping[Path, Sign], elapsed: float) -> dict[Path, float]:
        """The files of hung steps, with the seconds since the last sign.

        Args:
            found: what a look has found.
            elapsed: seconds since the last look.
        """
        self._clock += min(elapsed, MOST_BETWEEN)
        self._seen = {
            file: before
            if (before := self._seen.get(file)) and before[0] == sign.signs
            else (sign.signs, self._clock)
            for file, sign in found.items()
            if not file.with_suffix(".hung").exists()
        }
        silence = {file: self._clock - since for file, (_, since) in self._seen.items()}
        return {file: s for file, s in silence.items() if s > self.limit(found[file].step["stage"])}

    def last_words(self, trial: Trial) -> str:
        """The memory of the newest lost attempt of a trial, as the end of a sentence; may be empty."""
        of = {"dcase": trial.dcase, "system": trial.system_name, "seed": trial.seed}
        found = signs.read(sorted(self._folder.running.glob("*.json"), key=os.path.getmtime))
        texts = [f"; {s.memory_text}" for s in found.values() if s.memory and of.items() <= s.step.items()]
        return texts[-1] if texts else ""

    def _end(self, file: Path, sign: Sign, seconds: float) -> None:
        """Has a worker ended, on its own node."""
        limit = self.limit(sign.step["stage"])
        name = sign.name.replace(" ", "-")
        stacks = self._folder.hangs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        text = (
            f"no sign of life for {duration(seconds)} (a step of this kind counts as hung after "
            f"{duration(limit)}, see stall_after): its worker on {sign.host} was ended; the stacks of its "
            f"threads are in {stacks}"
        )
        future: Future[bool]
        if sign.node == self._node:
            future = self._pool.submit(end_hung, file, sign, stacks, text)
        else:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            there = NodeAffinitySchedulingStrategy(sign.node, soft=False)
            remote = ray.remote(num_cpus=0, max_retries=0)(end_hung)
            remote = remote.options(name=f"end {sign.name}", scheduling_strategy=there)
            future = remote.remote(file, sign, stacks, text).future()
        self._ending[file] = future, self._clock, f"{sign.title(self._names())}: {text}"


# ------------------------------------------------------------------------------------------- on the node


def end_hung(file: Path, sign: Sign, stacks: Path, text: str) -> bool:
    """Writes the stacks of a hung worker to ``stacks``, notes ``text`` for the next attempt, and kills it.

    Returns:
        False for a worker that has given a sign meanwhile, or has ended: nothing is done.
    """
    if signs.process_start(sign.pid) != sign.started:
        return False
    about = f"{sign.name}\n{text}\nprocess {sign.pid}, state {_state(sign.pid)}, at {provenance.now()}\n\n"
    stack = stacks_of(sign)
    if signs.read([file]).get(file, sign).signs != sign.signs:
        return False
    with contextlib.suppress(OSError):  # a full disk
        store.write_text(stacks, about + stack)
    with contextlib.suppress(OSError):
        store.write_json(file.with_suffix(".hung"), text)
    with contextlib.suppress(ProcessLookupError):
        os.kill(sign.pid, signal.SIGKILL)
    return True


def stacks_of(sign: Sign, seconds: float = 20.0) -> str:
    """The stacks of all threads of a process: by py-spy where it is installed and may, else by itself."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if spy := shutil.which("py-spy", path=path):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [spy, "dump", "--pid", str(sign.pid)]
            dump = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            if not dump.returncode:
                return dump.stdout
    with contextlib.suppress(OSError):
        os.kill(sign.pid, signs.DUMP_SIGNAL)
        end = time.monotonic() + seconds / 4
        while time.monotonic() < end and not os.path.getsize(sign.stacks):
            time.sleep(0.1)
        time.sleep(0.5)  # all threads
        if text := Path(sign.stacks).read_text(errors="replace"):
            return text
    return "the process has written no stacks: it is stopped, or waits for a disk\n"


def _state(pid: int) -> str:
    """The state of a process, such as ``S (sleeping)``; unknown without ``/proc``."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/status").read_text().split("State:")[1].splitlines()[0].strip()
    return "unknown"
