"""Starting or joining Ray: session, resources of the nodes, dashboard, metrics."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asdray.config.sweep import Need, Resources
from asdray.sweep.fork_server import Imports
from asdray.sweep.local_ray import keep_sigterm_handler, local_ray
from asdray.sweep.nodes import why_refused

# One BLAS and OpenMP thread per worker: the sweep fills the cores with workers, and torch's threads are an
# option of the system. `asdray run` sets the same, so that both give the same digits.
WORKER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # Tune trains in a thread, for which glibc would make an arena of its own. Such an arena returns large
    # blocks to the system and asks for them again in every step, whatever `asdray.allocator` sets for the
    # main arena.
    "MALLOC_ARENA_MAX": "1",
    # glibc cuts small chunks off every block to align it as torch asks. In the thread's cache they leave a
    # freed block too small for the next block of its size, and the heap grows by half a gigabyte.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}

RAY_ENV = {
    # Ray's default for a local start; if it is not set, every start prints a warning.
    "RAY_AUTH_MODE": "token",
    # A call after the end of Ray would start another one, open to all.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Stages take absolute paths, so a working directory per trial would only confuse.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Each training writes its own logs: nothing reads Tune's csv, json and TensorBoard files.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Nothing reads Tune's snapshots of all trials: the store tells which stages are done.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A lost worker is told in a line of the driver's.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing",
    # Without a limit a task that does not fit into memory is killed and started again without end.
    "RAY_task_oom_retries": "3",
    # Trainings take all CPUs, and with them all places for idle workers: Ray would kill a worker that has
    # imported and compiled everything after a second without a task.
    "RAY_idle_worker_killing_time_threshold_ms": "300000",
    # A worker that waits for no task in particular would have neither the modules for training nor for tasks.
    "RAY_prestart_worker_first_driver": "0",
    # Below Ray's default of 15, which trainings on the CPU keep: tasks go before trainings.
    "RAY_worker_niceness": "10",
    # A job's own runtime_env (`ray job submit --runtime-env-json ...`) is kept, except for the threads.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets for the command of a job."""

FORK_SECONDS = 2.0
"""`Cluster.worker_seconds` of forks: Ray's part of the start, and UMAP's code from Numba's cache."""

MOST_READY = 8
"""Largest number of workers per node that get ready for tasks during trainings; each takes a gigabyte."""


@dataclass(frozen=True)
class Cluster:
    """The resources of a running Ray.

    Attributes:
        nodes: CPUs and GPUs of each node; a training or task runs on a single node.
        dashboard: address of Ray's dashboard.
        metrics: address of the metrics of the driver's node.
        dashboard_fault: the reason if the dashboard was asked for and did not start.
        node: Ray's id of the driver's node.
        worker_seconds: time that a new worker needs before its first task: a start of Python, and imports of
            torch, scikit-learn and UMAP, or a fork that has these.
    """

    nodes: tuple[tuple[float, float], ...]
    dashboard: str | None = None
    metrics: str | None = None
    dashboard_fault: str | None = None
    node: str = ""
    worker_seconds: float = 10.0

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    def workers(self, tasks: int | None, queued: bool) -> tuple[int, int]:
        """Number of workers to prepare for tasks during the trainings, and number of further workers.

        Further workers are for the time after the trainings, when tasks have all CPUs. None are prepared
        while trainings are queued: the time is far off.

        Args:
            tasks: number of tasks; None if unknown.
            queued: True if trainings wait for others to end.
        """
        working = sum(cpus > 0 for cpus, _ in self.nodes)
        most = min(max(1, int(self.cpus)), MOST_READY * max(1, working))
        most = most if tasks is None else min(most, tasks)
        first = min(most, max(1, int(self.cpus) // 2))
        return first, 0 if queued else most - first

    def needs(self, asked: Resources, threads: int) -> dict[str, Need]:
        """Reservation of a training (``train``) and of the two kinds of task (``extract``, ``umap``).

        Every option has a default. A training takes a CPU per thread, and a GPU if the cluster has any; the
        training also extracts on the GPU, so no task waits for a GPU. If extraction asks for (a part of) a
        separate GPU, a training takes three quarters. Tasks reserve no CPU, since the driver limits the
        number of tasks: see `asdray.sweep.tasks`. ``gpu: 0`` asks for none.

        Raises:
            ValueError: a request beyond every node, or a cluster without CPUs.
        """
        gpu = 0.0
        if any(gpus > 0 for _, gpus in self.nodes):
            gpu = 0.75 if asked.extract and asked.extract.gpu else 1.0
        needs = {
            "train": self._training(asked.train or Need(), threads, gpu),
            "extract": larger(asked.extract or Need(), asked.score or Need()),
            "umap": asked.umap or Need(),
        }
        if not needs["train"].cpu and not needs["train"].gpu:
            raise ValueError(
                f"none of this Ray's {len(self.nodes)} nodes has a CPU to train on: add nodes that have some "
                "(--num-cpus of `ray start`), and run the command again once they have joined"
            )
        for kind, need in needs.items():
            self._require(kind, need)
        return needs

    def _require(self, kind: str, need: Need) -> None:
        """Raises ValueError for a reservation beyond every node."""
        largest = [max(of_nodes) for of_nodes in zip(*self.nodes, strict=True)]
        for name, wanted, most in zip(("cpu", "gpu"), (need.cpu, need.gpu), largest, strict=True):
            if wanted > most:
                raise ValueError(
                    f"resources.{kind}.{name} asks for {wanted:g}, but the largest node of this Ray has "
                    f"{most:g}: it would wait for ever; ask for less or use larger nodes "
                    f"(in all there are {self.cpus:g} CPUs and {sum(gpus for _, gpus in self.nodes):g} GPUs)"
                )
        if not any(need.cpu <= cpus and need.gpu <= gpus for cpus, gpus in self.nodes):
            nodes = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in sorted(set(self.nodes)))
            raise ValueError(
                f"resources.{kind} asks for {need.cpu:g} CPUs and {need.gpu:g} GPUs, but no node of this "
                f"Ray has "
                f"both ({nodes}): it would wait for ever; ask for less of one (gpu: 0 for none)"
            )

    def _training(self, asked: Need, threads: int, gpu: float) -> Need:
        """Reservation of a training: ``asked``, completed by ``threads`` and ``gpu``.

        With ``per_node`` exactly so many trainings fit on the largest node, and no more on any other. Ray
        has no limit per node for Tune's trials, so each training reserves the least CPUs, in Ray's steps of
        0.0001, to fill the largest node. Trainings share the GPUs of a node with fewer GPUs.
        """
        given = asked.model_dump()
        most_gpus = max(gpus for _, gpus in self.nodes)
        if asked.per_node and most_gpus:
            gpu = math.floor(gpu / math.ceil(asked.per_node / most_gpus) * 10_000) / 10_000
        gpu = given.get("gpu", gpu)
        # Nodes with many CPUs often have no GPU: at most the CPUs beside a GPU are reserved.
        beside = max((cpus for cpus, gpus in self.nodes if gpu <= gpus), default=max(self.nodes)[0])
        need = Need(**{"cpu": min(threads, beside), "gpu": gpu, **given})
        if not need.per_node:
            return need
        fitting = [cpus for cpus, gpus in self.nodes if need.cpu <= cpus and need.gpu <= gpus]
        full = math.floor(max(fitting, default=0.0) / (need.per_node + 1) * 10_000 + 1) / 10_000
        return need.model_copy(update={"cpu": max(need.cpu, full)})

    def notes(self, train: Need) -> list[str]:
        """Lines on nodes too small to train, because ``per_node`` limits a larger node."""
        small = sum(0 < cpus < train.cpu and train.gpu <= gpus for cpus, gpus in self.nodes)
        if not (train.per_node and small):
            return []
        return [
            f"resources.train.per_node is {train.per_node}: a training reserves {train.cpu:g} CPUs, that no "
            f"more fit on the largest node; {small} of this Ray's {len(self.nodes)} nodes have less: they "
            "train nothing"
        ]


def larger(one: Need, other: Need) -> Need:
    """The smallest reservation large enough for both."""
    return Need(cpu=max(one.cpu, other.cpu), gpu=max(one.gpu, other.gpu))


def which_ray(asked: str | None, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The address of the Ray to join, None to start one, and a line that says so.

    A Ray that runs already may be somebody else's: the address in ``RAY_ADDRESS`` is joined only in a job of
    that Ray (``ray job submit``).

    >>> which_ray(None, {"RAY_ADDRESS": "auto"})[1]
    'starting Ray (RAY_ADDRESS is auto: --address auto would join that Ray) ...'

    Args:
        asked: ``--address``.
    """
    named = environment.get("RAY_ADDRESS")
    if asked:
        return asked, f"joining Ray at {asked} ..."
    if named and RAY_JOB in environment:
        return named, f"joining Ray at {named}, whose job this is (RAY_ADDRESS) ..."
    other = f" (RAY_ADDRESS is {named}: --address {named} would join that Ray)" if named else ""
    return None, f"starting Ray{other} ..."


@contextlib.contextmanager
def ray_session(address: str | None, dashboard: bool, imports: Imports | None = None) -> Iterator[Cluster]:
    """Context with a new Ray, or with the Ray at ``address``, left running afterwards.

    Without an address the session never joins another Ray on the same machine.

    Args:
        imports: modules that the workers of a new Ray are to have, see `asdray.sweep.fork_server`.

    Raises:
        TimeoutError: Ray does not start in time, or has lost its nodes meanwhile.
    """
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    if not address:
        os.environ.update(WORKER_ENV)  # inherited by the workers, which costs less than a runtime_env
    # Ray starts other processes for seconds: meanwhile this process imports what the driver needs next.
    preloading = threading.Thread(target=_preload, daemon=True)
    preloading.start()
    with _joined(address) if address else local_ray(dashboard, imports) as (context, fault):
        import ray

        preloading.join()
        gc.collect()
        gc.freeze()  # imported modules stay: no later collection looks at them
        url = context.dashboard_url
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not nodes:
            raise TimeoutError("Ray has lost all its nodes while it started: run the command again")
        try:
            yield Cluster(
                nodes=tuple((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes),
                dashboard=f"http://{url}" if url else None,
                metrics=_metrics_address(),
                dashboard_fault=fault,
                node=ray.get_runtime_context().get_node_id(),
                **({} if address or imports is None else {"worker_seconds": FORK_SECONDS}),
            )
        finally:
            gc.unfreeze()


@contextlib.contextmanager
def _joined(address: str) -> Iterator[tuple[Any, None]]:
    """Context with the Ray at ``address``: Ray's own context, and None.

    Raises:
        ValueError: no answer, or a refusal.
    """
    import ray

    _require_listener(address)
    try:
        with keep_sigterm_handler():
            context = ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": WORKER_ENV},
            )
    except (ray.exceptions.AuthenticationError, ConnectionError) as error:
        raise ValueError(why_refused(address, error)) from None
    try:
        yield context, None
    finally:
        ray.shutdown()


def _preload() -> None:
    import pandas  # noqa: F401
    import ray.tune  # noqa: F401


def _require_listener(address: str) -> None:
    """Raises ValueError if nobody listens at ``address``: Ray itself would try for many minutes.

    An address of Ray's client or dashboard is refused: Tune runs where the driver is a part of the Ray.
    """
    if "://" in address:
        raise ValueError(
            f"--address {address!r} is an address of Ray's client or dashboard: a sweep runs on a machine of "
            "the Ray and joins it by --address HOST:PORT, the address that `ray start --head` prints, or as "
            "a job (`ray job submit`)"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto" and the like, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"no Ray answers at {address!r} ({error}): check --address, or leave it out to start one here"
        ) from None


# ----------------------------------------------------------------------------------------- metrics


class Metrics:
    """The gauges of a sweep for Prometheus, served by Ray.

    ``ray_asdray_trials{sweep,state}``, ``..._clips_per_second{sweep}``, ``..._best_score{sweep,column}``,
    ``..._failures{sweep}`` and ``..._seconds_left{sweep}``; unknown numbers are left out.
    """

    def __init__(self, sweep: str) -> None:
        from ray.util.metrics import Gauge

        self._tags = {"sweep": sweep}
        self._trials = Gauge("asdray_trials", "Trials of the sweep by state", ("sweep", "state"))
        self._clips = Gauge("asdray_clips_per_second", "Clips per second of all trainings", ("sweep",))
        self._best = Gauge("asdray_best_score", "Best score so far, in [0, 1]", ("sweep", "column"))
        self._failures = Gauge("asdray_failures", "Stages that failed in this run", ("sweep",))
        self._left = Gauge("asdray_seconds_left", "Estimated seconds to the end of the sweep", ("sweep",))

    def set(self, snapshot: Mapping[str, Any]) -> None:
        """Sets the gauges to a snapshot of `asdray.sweep.progress.Progress`."""
        for state, n in snapshot["trials"].items():
            self._trials.set(n, {**self._tags, "state": state})
        self._clips.set(snapshot["clips_per_second"], self._tags)
        self._failures.set(snapshot["failures"], self._tags)
        if snapshot["seconds_left"] is not None:
            self._left.set(snapshot["seconds_left"], self._tags)
        if snapshot["leaderboard"]:
            best = snapshot["leaderboard"][0]
            self._best.set(best["score"], {**self._tags, "column": best["column"]})


def _metrics_address() -> str | None:
    import ray

    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None
