"""A process that imports torch and Lightning once; Ray's workers on this machine are forks of it.

Ray starts each worker as a new Python, which takes five to nine seconds of a CPU until torch, Lightning and
UMAP are imported. A fork has all of it at once, and shares the memory. The server imports while Ray starts.

A fork is safe here since the server does nothing but import: it computes nothing, so that no thread of a
library runs in it, and never touches a GPU. It ends itself where an import has opened one.

`ForkServer` is the server as the driver sees it, `main` the process, and `asdray.sweep.launch_worker` the
script by which Ray asks it for a worker.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray.config.system import System
from asdray.sweep.launch_worker import OWN_SCRIPT, SERVER

EVERY = (
    "asdray.config.sweep", "asdray.stages.train", "pandas", "pyarrow.compute", "pyarrow.dataset",
    "pyarrow.fs", "pyarrow.parquet", "requests", "jsonschema", "google.protobuf.descriptor_pb2",
)  # fmt: skip
"""Modules that every worker imports: asdray's, and libraries that Ray imports. Not Ray itself, which reads
the settings of its worker from the environment when it is imported."""


@dataclass(frozen=True)
class Imports:
    """Modules that the fork server imports.

    Attributes:
        training: before the first worker.
        tasks: besides these, before the first worker for tasks.
    """

    training: tuple[str, ...]
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, systems: Iterable[System], umap: bool) -> Imports:
        """The modules for trials of some systems, with or without UMAP."""
        frontends = [system.frontend for system in systems]
        training = {name for frontend in frontends for name in frontend.modules}
        if any(frontend.learns for frontend in frontends):
            training |= {"asdray.stages.fit", "asdray.stages.rehearsal", "torch.utils.tensorboard"}
        tasks = ["asdray.stages.evaluate", "asdray.stages.score"]
        return cls(
            (*sorted(training), *EVERY),
            (*tasks, *(("asdray.stages.umap", "umap", "matplotlib.figure") if umap else ())),
        )


class ForkServer:
    """The server, in a process of its own from here to `close`.

    Args:
        path: its socket, in a folder of which nobody else can read.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, path: Path, imports: Imports) -> None:
        self._path = path
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))  # requests may come before the imports end
            listener.listen(64)
            arguments = [str(listener.fileno()), ",".join(imports.training), ",".join(imports.tasks)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "asdray.sweep.fork_server", *arguments],
                stdin=subprocess.PIPE,  # closes with the driver, however it ends
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                process_group=0,
            )

    def close(self) -> None:
        """Ends the server; its forks go on."""
        self._process.kill()
        self._process.communicate()
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def asked_by_ray(self) -> Iterator[None]:
        """Context in which a Ray that starts will ask the server for its workers."""
        import ray

        node: Any = ray._private.node.Node  # not public: Ray has no option for it
        original, ours = node.start_raylet, Path(__file__).with_name("launch_worker.py")
        theirs = Path(ray.__file__).parent / "_private" / "workers" / "setup_worker.py"
        variables = {SERVER: str(self._path), OWN_SCRIPT: str(theirs)}

        def start_raylet(node: Any, *args: Any, **kwargs: Any) -> Any:
            node._ray_params.setup_worker_path = str(ours)
            return original(node, *args, **kwargs)

        node.start_raylet = start_raylet
        os.environ.update(variables)
        try:
            yield
        finally:
            node.start_raylet = original
            for name in variables:
                del os.environ[name]


# --------------------------------------------------------------------------------------- in the server


def main(listener: str, training: str, tasks: str) -> None:
    """Imports, and forks a worker for every request, until the driver is gone.

    Args:
        listener: number of the open socket.
        training, tasks: see `Imports`, separated by commas.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets ended workers
    server = socket.socket(fileno=int(listener))
    _import(training)
    while not _has_gpu():
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = server.accept()
        with connection:
            request, files = _received(connection)
            if not request["trains"]:
                _import(tasks)
                tasks = ""
            is_worker = _fork() == 0
            if not is_worker:
                connection.sendall(b"1")
        if is_worker:
            server.close()
            _become_worker(request, files)
            return
        for file in files:
            os.close(file)


def _import(modules: str) -> None:
    for module in filter(None, modules.split(",")):
        with contextlib.suppress(Exception):  # the worker that needs the module tells why it has none
            importlib.import_module(module)


def _has_gpu() -> bool:
    """True if this process has opened an NVIDIA GPU: CUDA would fail in its forks."""
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/dev/nvidia"):
                    return True
    return False


def _received(connection: socket.socket) -> tuple[dict[str, Any], Sequence[int]]:
    """A request, and the numbers of the files that are the worker's input, output and error output."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    length, text = int.from_bytes(head, "big"), bytearray()
    while len(text) < length:
        text += connection.recv(length - len(text)) or b"\0" * length
    return json.loads(bytes(text)), files


def _fork() -> int:
    gc.freeze()  # no collection of the worker's writes to the memory that it shares
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a second thread: jemalloc's, made for forks
        return os.fork()


def _become_worker(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Runs the worker's script as if this process had been started for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray ends a worker with its whole group
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # found anew from the variables
    with contextlib.suppress(OSError):
        os.chdir(request["folder"])
    sys.argv[:] = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
