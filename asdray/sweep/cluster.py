"""Starting or joining Ray, and what it has to offer."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray.config.sweep import Need, Resources
from asdray.sweep.nodes import why_refused

# One BLAS and OpenMP thread per worker: the sweep fills the cores with workers, and torch's threads are
# set from the system's own option. By hand (`asdray run`) the same is set, so that both give the same digits.
WORKER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # Tune trains in a thread, which glibc would give an arena of its own: that returns large blocks to the
    # system and asks for them again in every step, whatever `asdray.frontends.compute` sets for the main one.
    "MALLOC_ARENA_MAX": "1",
    # Of every block glibc cuts off crumbs, so that it is aligned as torch asks. Kept in the thread's cache
    # they leave a freed block too small for the next of its size, and the heap grows by half a gigabyte.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}

_RAY_ENV = {
    # Ray's own default for a local start, said aloud: without it every start prints a warning.
    "RAY_AUTH_MODE": "token",
    # Stages take absolute paths; a worker's own folder per trial would only confuse.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Nothing of ours depends on Tune's csv, json and TensorBoard loggers: each training writes its own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Nor does anything read Tune's snapshots of all trials: the markers tell what is done.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A task that never fits into memory is killed and started again without end otherwise.
    "RAY_task_oom_retries": "3",
    # Trainings take all CPUs and with them all places of idle workers: after a second without a task the one
    # that has imported and compiled everything would be killed.
    "RAY_idle_worker_killing_time_threshold_ms": "300000",
    # Ray's own is 15, which trainings on the CPU still get: tasks come before them.
    "RAY_worker_niceness": "10",
    # Of a job (`ray job submit --runtime-env-json ...`) all but the threads is kept.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}


@dataclass(frozen=True)
class Cluster:
    """What a running Ray offers."""

    cpus: float
    gpus: float
    node_cpus: float
    """Of the largest node; one training or task runs on one node."""
    node_gpus: float
    dashboard: str | None
    nodes: tuple[tuple[float, float], ...] = ()
    """CPUs and GPUs of each."""

    def workers(self, tasks: int | None, queued: bool) -> tuple[int, int]:
        """How many workers to ready beside the trainings, and how many more after those.

        The former run tasks meanwhile. The others are for the time when all CPUs are the tasks': they get
        ready where that comes soon, since all trainings run at once.

        Args:
            tasks: how many there are; None: unknown.
            queued: whether trainings wait for others to end.
        """
        working = sum(cpus > 0 for cpus, _ in self.nodes)
        most = min(max(1, int(self.cpus)), MOST_READY * max(1, working))
        most = most if tasks is None else min(most, tasks)
        first = min(most, max(1, int(self.cpus) // 2))
        return first, 0 if queued else most - first

    def needs(self, asked: Resources, threads: int) -> dict[str, Need]:
        """What a training and the two kinds of task reserve; each option asked for, or else chosen.

        Chosen: a training takes its threads, and a GPU where there are some, on which it also extracts, so
        that no task waits for one. Tasks reserve no CPU, since the driver limits how many run at once (see
        `asdray.sweep.tasks`): trainings that wait in the queue never starve them. Where an extraction is to
        have (a part of) a GPU of its own, a training takes three quarters. Who asks for CPUs alone still gets
        the GPU, and who asks for (a part of) a GPU alone still gets the threads: ``gpu: 0`` wants none.

        Raises:
            ValueError: more than the largest thing this Ray could ever give, or nothing.
        """
        gpu = 0.0
        if self.node_gpus > 0:
            gpu = 0.75 if asked.extract and asked.extract.gpu else 1.0
        needs = {
            "train": self._training(asked.train or Need(), threads, gpu),
            "extract": larger(asked.extract or Need(), asked.score or Need()),
            "umap": asked.umap or Need(),
        }
        if not needs["train"].cpu and not needs["train"].gpu:
            raise ValueError(
                f"none of this Ray's {len(self._each)} nodes has a CPU to train on: add nodes that have some "
                "(--num-cpus of `ray start`), and run the command again once they have joined"
            )
        for kind, need in needs.items():
            limits = (("cpu", need.cpu, self.node_cpus), ("gpu", need.gpu, self.node_gpus))
            for what, wanted, there in limits:
                if wanted > there:
                    raise ValueError(
                        f"resources.{kind}.{what} asks for {wanted:g}, but the largest node of this Ray has "
                        f"{there:g}: it would wait for ever; ask for less or use larger nodes "
                        f"(in all there are {self.cpus:g} CPUs and {self.gpus:g} GPUs)"
                    )
            if self.nodes and not any(need.cpu <= cpus and need.gpu <= gpus for cpus, gpus in self.nodes):
                nodes = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in sorted(set(self.nodes)))
                raise ValueError(
                    f"resources.{kind} asks for {need.cpu:g} CPUs and {need.gpu:g} GPUs, but no node of this "
                    f"Ray has both ({nodes}): it would wait for ever; ask for less of one "
                    "(gpu: 0 for none)"
                )
        return needs

    def _training(self, asked: Need, threads: int, gpu: float) -> Need:
        """What a training reserves: what was asked for, the rest as chosen.

        With ``per_node`` so many may run on a node, and no more then fit on any. Ray has no limit per node
        that holds for Tune's trials: they reserve the least CPUs, in Ray's steps of 0.0001, that make the
        largest node full. So many share the GPUs of a node that has fewer.
        """
        given = asked.model_dump()
        if asked.per_node and self.node_gpus:
            gpu = math.floor(gpu / math.ceil(asked.per_node / self.node_gpus) * 10_000) / 10_000
        gpu = given.get("gpu", gpu)
        # Not more than there are beside the GPU: nodes with most CPUs are often those without one.
        beside = max((cpus for cpus, gpus in self._each if gpu <= gpus), default=self.node_cpus)
        need = Need(**{"cpu": min(threads, beside), "gpu": gpu, **given})
        if not need.per_node:
            return need
        full = math.floor(self._largest(need) / (need.per_node + 1) * 10_000 + 1) / 10_000
        return need.model_copy(update={"cpu": max(need.cpu, full)})

    def _largest(self, need: Need) -> float:
        """CPUs of the largest node that could train; 0: none could."""
        fit = (cpus for cpus, gpus in self._each if need.cpu <= cpus and need.gpu <= gpus)
        return max(fit, default=0.0)

    @property
    def _each(self) -> tuple[tuple[float, float], ...]:
        return self.nodes or ((self.node_cpus, self.node_gpus),)

    def notes(self, train: Need) -> list[str]:
        """What is said at the start of nodes that train nothing since a larger one is limited."""
        small = sum(0 < cpus < train.cpu and train.gpu <= gpus for cpus, gpus in self.nodes)
        if not (train.per_node and small):
            return []
        return [
            f"resources.train.per_node is {train.per_node}: a training reserves {train.cpu:g} CPUs, that no "
            f"more fit on the largest node; {small} of this Ray's {len(self.nodes)} nodes have less: they "
            "train nothing"
        ]


STARTS = 3
"""How often a start of Ray is tried on a machine that is too busy for it."""

MOST_READY = 8
"""Workers per node that get ready for tasks while others train; each is a gigabyte."""


def larger(one: Need, other: Need) -> Need:
    """What both fit into."""
    return Need(cpu=max(one.cpu, other.cpu), gpu=max(one.gpu, other.gpu))


@contextlib.contextmanager
def ray_session(address: str | None, dashboard: bool) -> Iterator[Cluster]:
    """Starts a Ray of our own, or joins the one at ``address``; leaves it at the end.

    Never joins a Ray that merely happens to run on this machine.
    """
    for name, value in _RAY_ENV.items():
        os.environ.setdefault(name, value)
    import ray

    # Ray starts in processes of its own, for seconds: meanwhile this one imports what it needs next.
    preloading = threading.Thread(target=_preload, daemon=True)
    preloading.start()
    temporary: Path | None = None
    if address:
        _knock(address)
        try:
            with _sigterm_stays_ours():
                context = ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": WORKER_ENV},
                )
        except (ray.exceptions.AuthenticationError, ConnectionError) as error:
            raise ValueError(why_refused(address, error)) from None
    else:
        _remove_dead_folders()
        os.environ.update(WORKER_ENV)  # inherited by the workers, which costs less than a runtime_env
        # Short: the paths of Unix sockets below it may have 107 characters.
        temporary = Path(tempfile.mkdtemp(prefix=f"asdray-{os.getpid()}-", dir=_short_temp()))
        with _sigterm_stays_ours():
            context = _start(dashboard, temporary)
    try:
        preloading.join()
        gc.collect()
        gc.freeze()  # what was imported stays: from now on no collection looks at it
        url = context.dashboard_url
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield Cluster(
            cpus=ray.cluster_resources().get("CPU", 0),
            gpus=ray.cluster_resources().get("GPU", 0),
            node_cpus=max(node["Resources"].get("CPU", 0) for node in nodes),
            node_gpus=max(node["Resources"].get("GPU", 0) for node in nodes),
            dashboard=f"http://{url}" if url else None,
            nodes=tuple((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes),
        )
    finally:
        gc.unfreeze()
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_stays_ours() -> Iterator[None]:
    """Keeps Ray from taking SIGTERM over as it starts.

    It would do so twice. Its handler in Python ends the process with code 15 and without a word, wherever the
    start has come to: half a Ray would be left to be cleaned up. And its C++ core puts a handler before
    Python's that writes a stack trace, sets an alarm of 3 seconds which aborts the process, and only then
    calls ours: a clean stop may take longer. Ours notes the wish to stop, and the sweep's loop follows it.
    """
    import ray

    # Not public: Ray has no option for it.
    utils: Any = ray._private.utils
    take = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = take
        if threading.current_thread() is threading.main_thread():
            # As Python knows it; set again, it is first in the process as well.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            signal.alarm(0)  # of a SIGTERM that came meanwhile


def _start(dashboard: bool, temporary: Path) -> Any:
    """Starts a Ray of our own; again where a busy machine did not come up within Ray's 30 seconds.

    Raises:
        ValueError: it never did.
    """
    import ray

    for _ in range(STARTS):
        try:
            return ray.init(
                address="local",
                num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(temporary),
            )
        except Exception as error:  # Ray has no class of its own for this
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise ValueError(
        f"Ray did not start within 30 seconds, {STARTS} times (load {os.getloadavg()[0]:.0f} on "
        f"{os.cpu_count()} CPUs): run the command again when this machine is less busy, or join a Ray that "
        "runs with --address"
    )


def _preload() -> None:
    import pandas  # noqa: F401
    import ray.tune  # noqa: F401


def _knock(address: str) -> None:
    """Raises ValueError where nobody listens at ``address``: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto" and the like: Ray knows where to look
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"no Ray answers at {address!r} ({error}): check --address and RAY_ADDRESS, or leave both out to "
            "start one here"
        ) from None


def _short_temp() -> str:
    return "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()


def _remove_dead_folders() -> None:
    """Removes what killed drivers of this user left of their Ray's logs and sockets."""
    for folder in Path(_short_temp()).glob("asdray-*-*"):
        pid = folder.name.split("-")[1]
        try:
            if not pid.isdecimal() or folder.stat().st_uid != os.getuid():
                continue
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
