"""Settings and fixtures of all tests.

One thread per test process: tests run side by side, and tiny fits lose far more to threads than they win. No
time limit on a single example: a busy machine says nothing about the code.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("asdray", deadline=None)
settings.load_profile("asdray")

# A shell that starts the tests in its background has them ignore Ctrl-C, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Numba's too: the commands set it for their process, and it must not change once Numba's threads run (PyOD
# starts them).
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Variables that the user has set for commands must not change a test.
for name in (
    "ASDRAY_CACHE_DIR", "ASDRAY_DATA", "ASDRAY_RESULTS", "FORCE_COLOR", "NO_COLOR", "RAY_ADDRESS",
    "SLURM_JOB_END_TIME",
):  # fmt: skip
    os.environ.pop(name, None)


# Child processes keep the bytecode of asdray's modules: without it each of them compiles every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items):
    """Files with a Ray of their own first: they take longest, and one that began last would end alone."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory):
    """The plugins that tests name are none of the user's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def sessions() -> set[int]:
    """Child processes that lead a session of their own: programs that a test has started."""
    text = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    found = set()
    for pid in map(int, text.split()):
        with contextlib.suppress(ProcessLookupError):
            found |= {pid} & {os.getsid(pid)}
    return found


@pytest.fixture(autouse=True)
def _alone():
    """Restores the environment after each test, and ends the programs that it has left running.

    Commands set variables for the whole process.
    """
    environment, folder, before = dict(os.environ), os.getcwd(), sessions()
    yield
    from asdray import notes  # after the threads above are set

    notes.take()  # else an event of a later test has them
    # A sweep of a test that failed would take the CPUs of all tests that follow.
    for process in sessions() - before:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    assert os.getcwd() == folder
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
    if os.environ != environment:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@pytest.fixture
def asdray(capsys):
    """Runs a command; returns its exit code, stdout and stderr."""

    def run(*args):
        from asdray.cli import main  # the threads above are set before anything of ours is imported

        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture
def asdray_as_user():
    """Runs a command that cannot use folders and files without permissions, even as root."""
    prefix = []
    if os.geteuid() == 0:
        caps = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
        if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("root reads everything here")

    def run(*args):
        command = [*prefix, sys.executable, "-m", "asdray", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
