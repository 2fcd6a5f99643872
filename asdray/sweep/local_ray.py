"""A Ray for one run alone, on this machine, which no other user of the machine can enter.

Ray gives every folder that it makes to all users, keeps its token where all may read it, and listens on every
network. Here the folder of the Ray is inside a folder of mode 0700, the token is in the environment of the
processes alone, and all processes listen on the loopback address.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from asdray import limits, temporary
from asdray.sweep.fork_server import ForkServer, Imports

STARTS = 3
"""Number of attempts to start Ray on a busy machine."""

_LOCK = "ray.lock"
"""File in the folder with the driver's process number, locked as long as the driver lives. The number alone
would tell nothing: processes of another container that shares the folder have numbers of their own."""

_NAMING = 3600.0
"""Seconds for which a folder may have no name yet: a driver needs milliseconds, unless it is killed there."""

_STORE = 200_000_000
"""Bytes of Ray's store where addresses are limited: by default every process maps a store of a third of the
memory, and a sweep keeps a few kB there."""

_LONGEST_TMPDIR = 60
"""Longest TMPDIR below which Python's multiprocessing can open its sockets."""


@contextlib.contextmanager
def local_ray(dashboard: bool, imports: Imports | None = None) -> Iterator[tuple[Any, str | None]]:
    """Context with a new Ray: Ray's own context, and the reason if the dashboard did not start.

    Args:
        imports: modules of the fork server of which the workers are forks; None: Ray starts its workers.

    Raises:
        TimeoutError: no attempt succeeded.
        LimitError: too few threads or too little address space are left, see `asdray.limits`.
            Or no folder for temporary files can be written.
    """
    if short := limits.shortage():
        raise limits.LimitError(short)
    with private_folder() as folder:
        _leave_deleted_folder(folder)
        # Before Ray itself is imported, which takes half a second.
        with _fork_server(folder / "f", imports) as asked_by_ray, _environment(_private_environment(folder)):
            import ray

            try:
                with asked_by_ray():
                    context = _start(dashboard, folder / "r")
                yield context
            finally:
                ray.shutdown()


@contextlib.contextmanager
def _fork_server(path: Path, imports: Imports | None) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Context with a fork server at ``path``: the context in which a Ray that starts will ask it."""
    if imports is None or sys.platform != "linux":  # elsewhere the system's libraries do not bear a fork
        yield contextlib.nullcontext
        return
    server = ForkServer(path, imports)
    try:
        yield server.asked_by_ray
    finally:
        server.close()


# -------------------------------------------------------------------------------------------- folders


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Context with a new folder that no other user can read, enter, or plant links in.

    Folders of killed drivers are removed first.

    Raises:
        LimitError: no place can be written, or all are too long.
    """
    place = temporary.place()
    _remove_dead_folders(place)
    unnamed = Path(tempfile.mkdtemp(prefix=".asdray-", dir=place))
    with open(unnamed / _LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        folder = _renamed(unnamed)  # locked before others look at it
        try:
            yield folder
        finally:
            _remove(folder)
            _remove_dead_folders(place)  # their processes may have been dying at the beginning


def remove_dead_folders() -> None:
    """Removes the folders of Rays whose driver was killed; for a run that starts no Ray."""
    with contextlib.suppress(OSError):  # no place for folders
        _remove_dead_folders(temporary.place())


def _renamed(folder: Path) -> Path:
    """Renames a folder to ``asdray-`` and four digits, since longer names would leave no room for sockets."""
    while True:
        named = folder.with_name(f"asdray-{secrets.token_hex(2)}")
        try:
            return folder.rename(named)
        except OSError:
            if not named.exists():
                raise


def _remove_dead_folders(place: Path) -> None:
    """Removes the folders of killed drivers, of the same user."""
    for folder in place.glob("asdray-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]"):
        # Empty only where a driver was killed while it removed the folder: a living one holds the lock there.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                folder.rmdir()
    named = [lock.parent for lock in place.glob(f"asdray-????/{_LOCK}")]
    for folder in [*named, *place.glob(".asdray-*")]:
        with contextlib.suppress(OSError):
            facts = folder.lstat()
            is_new = folder not in named and time.time() - facts.st_mtime < _NAMING
            if facts.st_uid != os.getuid() or is_new:
                continue
            with open(folder / _LOCK, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _end_processes(folder: Path) -> None:
    """Kills what is left of an ended Ray: a worker that still starts would make the removed folder anew."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes()
            if os.fsencode(f"{folder}/") in line and b"/ray/" in line:  # no reader of logs
                os.kill(int(file.parent.name), signal.SIGKILL)


def _remove(folder: Path, seconds: float = 30.0) -> None:
    """Removes a folder, into which dying processes may write yet: for some seconds on a busy machine.

    The lock goes last, and stays where something else stays: by the lock a later run finds the folder.
    """
    _end_processes(folder)
    end = time.monotonic() + seconds
    while True:
        for path in folder.iterdir():
            if path.name != _LOCK:
                if path.is_symlink() or not path.is_dir():  # a TMPDIR too long for sockets; a socket
                    path.unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
        if {path.name for path in folder.iterdir()} <= {_LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
            return
        if time.monotonic() >= end:
            return
        time.sleep(0.1)


# ---------------------------------------------------------------------------------------- environment


def _private_environment(folder: Path) -> dict[str, str]:
    """Variables of Ray's processes: the token, and a TMPDIR that is short enough for sockets.

    Without a TMPDIR of the user's, files that a killed process leaves behind go with the folder.
    """
    variables = {"RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)}
    asked, place = os.environ.get("TMPDIR"), folder / "t"
    if not asked:
        place.mkdir()
    elif len(asked) > _LONGEST_TMPDIR:
        place.symlink_to(Path(asked).absolute())
    else:
        return variables
    return {**variables, "TMPDIR": str(place)}


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Context with some environment variables, of which Ray remembers the token."""
    import ray

    raylet: Any = ray._raylet
    loader = raylet.AuthenticationTokenLoader.instance()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    loader.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        loader.reset_cache()


def _leave_deleted_folder(folder: Path) -> None:
    """Goes to ``folder`` if somebody has deleted the working directory, in which no process could start."""
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir(folder)


# ---------------------------------------------------------------------------------------------- start


def _start(dashboard: bool, folder: Path) -> tuple[Any, str | None]:
    """Starts Ray, again if a busy machine exceeds Ray's limit of 30 seconds.

    Returns:
        Ray's context, and the reason if the dashboard did not start.

    Raises:
        TimeoutError: no attempt succeeded.
    """
    import ray

    for _ in range(STARTS):
        try:
            with (
                keep_sigterm_handler(),
                _on_loopback(),
                _on_a_free_port(),
                _without_idlers(dashboard),
                _told_by_services() as told,
            ):
                context = ray.init(
                    address="local",
                    num_cpus=limits.cpus(),
                    object_store_memory=_STORE if limits.address_space() else None,
                    include_dashboard=None if dashboard else False,  # None: wanted; True: or no Ray at all
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder),
                    _node_ip_address="127.0.0.1",
                )
            return context, dashboard_fault(told) if dashboard and not context.dashboard_url else None
        except Exception as error:  # Ray has no class of its own for a timeout
            if "timed out during startup" not in str(error):
                if near := limits.in_words():
                    reason = str(error).partition("\n")[0]
                    raise limits.LimitError(f"Ray did not start ({reason}); {', '.join(near)}") from error
                raise
            ray.shutdown()
    facts = ", ".join([f"load {os.getloadavg()[0]:.0f} on {limits.cpus()} CPUs", *limits.in_words()])
    raise TimeoutError(
        f"Ray did not start within 30 seconds, {STARTS} times ({facts}): run the command again when this "
        "machine is less busy, or join a Ray that runs with --address"
    )


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Context in which Ray starts its processes on the loopback address, and in groups of their own.

    On Linux Ray replaces 127.0.0.1 by an address that other machines reach. A signal to the group of the
    driver (Slurm, ``timeout``) would end Ray's processes before the driver could stop cleanly.
    """
    import ray

    constants, utils = ray._private.ray_constants, ray._private.utils  # not public: Ray has no options
    clusters, die_with_parent = constants.ENABLE_RAY_CLUSTER, utils.set_kill_on_parent_death_linux

    def begin() -> None:
        os.setpgrp()
        die_with_parent()

    constants.ENABLE_RAY_CLUSTER, utils.set_kill_on_parent_death_linux = False, begin
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER, utils.set_kill_on_parent_death_linux = clusters, die_with_parent


@contextlib.contextmanager
def _on_a_free_port() -> Iterator[None]:
    """Context in which the agent of Ray's node listens on a free port.

    By default all agents take one port. The agent of a second Ray on a machine then serves nothing, and the
    dashboard of this Ray shows no logs.
    """
    import ray

    services: Any = ray._private.services  # not public: `ray start` has an option, `ray.init` has none
    original = services.start_raylet
    services.start_raylet = lambda *args, **kwargs: original(
        *args, **{**kwargs, "dashboard_agent_listen_port": 0}
    )
    try:
        yield
    finally:
        services.start_raylet = original


@contextlib.contextmanager
def _without_idlers(dashboard: bool) -> Iterator[None]:
    """Context in which Ray starts no process whose work nobody here reads.

    These are the monitor of an autoscaler, the monitor of logs for the driver (``log_to_driver`` is False),
    and without dashboard its server, which then would only send statistics of use. They take a tenth of the
    CPU seconds of a short sweep.
    """
    import ray

    node: Any = ray._private.node.Node  # not public: Ray has no options
    services: Any = ray._private.services
    originals = node.start_monitor, node.start_log_monitor, services.start_api_server
    node.start_monitor = node.start_log_monitor = lambda self: None
    if not dashboard:
        services.start_api_server = lambda *args, **kwargs: ("", None)  # no address, no process
    try:
        yield
    finally:
        node.start_monitor, node.start_log_monitor, services.start_api_server = originals


@contextlib.contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Context in which Ray starts without taking over SIGTERM.

    Ray has two handlers. The Python handler ends the process with code 15 and no message; an interrupted
    start leaves half a Ray behind. The handler of the C++ core runs before Python's: a stack trace, and an
    alarm to abort the process after 3 seconds, while a clean stop may take longer.
    """
    import ray

    utils: Any = ray._private.utils  # not public: Ray has no option for it
    original = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = original
        if threading.current_thread() is threading.main_thread():
            # Setting Python's handler again puts it first in the process.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            signal.alarm(0)  # of a SIGTERM that came during the start


@contextlib.contextmanager
def _told_by_services() -> Iterator[list[str]]:
    """Context with the messages that Ray's start would print, among them 20 lines of a dashboard's log."""
    told: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    logger = logging.getLogger("ray._private.services")
    logger.addFilter(keep)
    try:
        yield told
    finally:
        logger.removeFilter(keep)


def dashboard_fault(told: list[str]) -> str:
    """The reason for which a dashboard did not start, in a line.

    >>> dashboard_fault(["Failed to start the dashboard , return code -9"])
    'return code -9'
    """
    text = "\n".join(told)
    errors = re.findall(r"^\s*([\w.]*(?:Error|Exception): .+)$", text, re.MULTILINE)
    code = re.search(r"return code -?\d+", text)
    return errors[-1].strip()[:200] if errors else code[0] if code else "no answer in time"
