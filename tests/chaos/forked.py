"""Commands of asdray in forked children of one process that has imported everything: 1 s instead of 6 s each.

The process has `failing_writes.c` preloaded, so that a child can be told which of its writes fails.

Run as a program it is that process: it reads a line of JSON per command and answers with one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asdray import store

HERE = Path(__file__).parent

FEW_MODULES = (
    "asdray.cli.main", "asdray.sweep.run", "asdray.sweep.plan", "asdray.stages.train", "asdray.stages.extract",
    "asdray.stages.score", "asdray.stages.evaluate", "asdray.stages.table", "asdray.evaluation.published",
    "asdray.evaluation.compare", "asdray.evaluation.leaderboard", "asdray.audio.batches", "asdray.frontends.raw",
    "asdray.frontends.precomputed", "asdray.stages.clustered", "asdray.sweep.local_ray", "pandas", "soundfile",
    "pyarrow.parquet", "torchaudio",
)  # fmt: skip
"""Enough for a trial without training and plots."""

MODULES = (
    *FEW_MODULES, "asdray.stages.fit", "asdray.stages.rehearsal", "asdray.stages.umap", "asdray.stages.submit",
    "asdray.frontends.autoencoder", "asdray.frontends.discriminative", "asdray.sweep.verify", "lightning",
    "matplotlib.figure", "umap", "optuna",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A write that fails.

    Attributes:
        folder: only writes below are counted.
        nth: number of the write, from 1; 0 for none.
        error: errno, or 0 for SIGKILL half-way.
        lasting: True if later writes fail as well, as on a full disk.
        listed: file that lists the writes as ``what path``, or "".
    """

    folder: str
    nth: int = 0
    error: int = 0
    lasting: bool = False
    listed: str = ""


@dataclass(frozen=True)
class End:
    """How a command ended: exit code (negative: the signal), stdout, stderr and seconds."""

    code: int
    out: str
    error: str
    seconds: float


class Forks:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self.mounts = Path(f"/proc/{process.pid}/root")
        self._folder = folder

    def run(self, *commands: Sequence[Any], fault: Fault | None = None, **setting: Any) -> End:
        """Runs commands until one fails; ``setting`` are the arguments of `_prepare`.

        ``sh`` is a shell command in the same mounts. ``verify`` with the arguments of ``sweep`` is what ``sweep --verify`` does before anything runs.
        ``study`` with a folder plays the study of a search there, without trainings.
        """
        begun = time.monotonic()
        texts = [list(map(str, command)) for command in commands]
        asked = {"commands": texts, "fault": asdict(fault) if fault else None, "setting": setting}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({**asked, "folder": str(self._folder)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        out, error = ((self._folder / name).read_text() for name in ("out", "err"))
        return End(json.loads(line), out, error, time.monotonic() - begun)


@contextlib.contextmanager
def forks(folder: Path, modules: tuple[str, ...], within: Sequence[str] = ()) -> Iterator[Forks | None]:
    """The process that forks; None without a C compiler.

    Args:
        folder: one of its own, for its files.
        within: a command that begins another, such as ``unshare --mount``.
    """
    if not (compiler := shutil.which("cc")):
        yield None
        return
    folder.mkdir()
    preloaded = folder / "failing_writes.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", preloaded, HERE / "failing_writes.c", "-ldl"], check=True
    )
    path = os.pathsep.join(
        [str(HERE.parents[1]), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    process = subprocess.Popen(
        [*within, sys.executable, __file__, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(preloaded), "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        yield Forks(process, folder)
    finally:
        process.stdin.close()
        process.wait(timeout=60)


# ------------------------------------------------------------------------------------------- in that process


def _prepare(setting: Mapping[str, Any]) -> None:
    """Settings of a child.

    ``limit``: bytes of the largest file (``ulimit -f``); ``ahead``: seconds that the wall clock is wrong from the
    beginning; ``later``: (seconds from now, shell command or seconds that the wall clock is wrong from then on).
    """
    import resource
    import threading

    if limit := setting.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    clock = ctypes.CDLL(None).move_clock
    clock(ctypes.c_long(setting.get("ahead", 0)))
    if later := setting.get("later"):
        seconds, change = later
        act = (
            (lambda: clock(ctypes.c_long(change))) if isinstance(change, int) else (lambda: os.system(change))
        )
        threading.Timer(seconds, act).start()


def _child(asked: Mapping[str, Any]) -> None:
    """Runs commands and never returns."""
    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{asked['folder']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    code = 99
    try:
        _prepare(asked["setting"])
        if fault := asked["fault"]:
            at = fault["folder"].encode(), ctypes.c_long(fault["nth"]), fault["error"], int(fault["lasting"])
            ctypes.CDLL(None).fail_at(*at, fault["listed"].encode())
        for command in asked["commands"]:
            if code := _code(command):
                break
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(command: list[str]) -> int:
    """Runs a command; returns its exit code."""
    from asdray.cli import main

    if command[0] == "sh":
        return subprocess.run(["sh", "-c", command[1]], check=False).returncode
    if command[0] == "study":
        from test_search import landscape, play, studies_of

        folder = Path(command[1])
        store.sweep_leftovers(store.sweep_dir(folder / "results", "hunt"))  # as the driver does
        studies = studies_of(folder, store.Places.of(folder / "data", folder / "results"))
        for sample in studies.samples:
            if sample.state == "open":
                studies.tell(sample, "done", landscape(sample), "knn-1")
        print(play(studies), flush=True)
        return 0
    if command[0] == "verify":
        from asdray.sweep.plan import load
        from asdray.sweep.verify import verify

        options = dict(zip(command[2::2], command[3::2], strict=False))
        places = store.Places.of(options["--data"], options["--results"])
        plan, jobs = load(Path(command[1]), {}, places)
        print("\n".join(verify(plan.name, jobs, places, forget=True)), flush=True)
        return 0
    try:
        main(command)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 98


def _serve(modules: list[str]) -> None:
    import importlib

    from asdray.sweep.cluster import WORKER_ENV

    os.environ.update(WORKER_ENV)
    for name in modules:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _child(asked)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1:])
