"""The Ray tasks that follow a training: extract, score and evaluate a machine, and its UMAP."""

from __future__ import annotations

import importlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asdray.config.backend import Umap, backend_id
from asdray.config.sweep import Need
from asdray.config.trial import Trial
from asdray.stages.steps import Outcome, Request, TrialFiles, needs_pruned_embeddings
from asdray.store import Places
from asdray.sweep import signs
from asdray.sweep.events import Event, attempt, event_of, failed
from asdray.sweep.jobs import TrialRun

NODES_SECONDS = 10.0
"""Age at which the list of nodes, from which a task's node is chosen, is read again."""


# ---------------------------------------------------------------------------------------- in the worker


def extract_machine(
    trial: Trial,
    request: Request,
    checkpoint: str,
    machine: str,
    places: Places,
    device: str,
    read_embeddings: bool = False,
) -> Event:
    """Extracts one machine unless the extraction is complete; arguments as in `process_machine`."""
    from asdray.stages.extract import extract

    def extracted() -> Outcome:
        files = TrialFiles.load(trial, places, [machine])
        rebuild = read_embeddings or needs_pruned_embeddings(files, machine, checkpoint, request)
        return extract(files, machine, checkpoint, device=device, rebuild=rebuild)

    return attempt(event_of(trial, "extract", machine=machine, checkpoint=checkpoint), extracted)


def process_machine(
    trial: Trial,
    request: Request,
    checkpoint: str,
    machine: str,
    places: Places,
    device: str,
    read_embeddings: bool = False,
) -> list[Event]:
    """Extracts, scores and evaluates one machine; skips complete stages, ends after a failed extraction.

    Args:
        request: the backends to score with; pruned embeddings are rebuilt for a missing score or UMAP.
        read_embeddings: True to rebuild pruned embeddings in any case, for a caller that reads the file.
    """
    from asdray.stages.evaluate import evaluate
    from asdray.stages.score import score

    def run(stage: Callable[..., Outcome], argument: object) -> Outcome:
        return stage(TrialFiles.load(trial, places, [machine]), machine, checkpoint, argument)

    at: dict[str, Any] = {"machine": machine, "checkpoint": checkpoint}
    events = [extract_machine(trial, request, checkpoint, machine, places, device, read_embeddings)]
    if events[0]["status"] == "failed":
        return events
    for backend in request.backends:
        event = event_of(trial, "score", **at, backend=backend_id(backend))
        events.append(attempt(event, partial(run, score, backend)))
    scored = [b for b, e in zip(request.backends, events[1:], strict=True) if e["status"] == "done"]
    if scored:
        events.append(attempt(event_of(trial, "evaluate", **at), partial(run, evaluate, scored)))
    return events


def plot_machine(trial: Trial, checkpoint: str, machine: str, options: Umap, places: Places) -> list[Event]:
    """Plots the UMAP of one machine's embeddings."""
    from asdray.stages.umap import umap

    def plotted() -> Outcome:
        return umap(TrialFiles.load(trial, places, [machine]), machine, checkpoint, options)

    return [attempt(event_of(trial, "umap", machine=machine, checkpoint=checkpoint), plotted)]


def warm_up(umap: Umap | Literal[False], modules: Sequence[str], after: Sequence[Any] = ()) -> None:
    """Imports and compiles the code that this worker's tasks need, which takes many seconds.

    Args:
        modules: modules of the sweep's frontends.
        after: warm-ups of other workers that must end first.
    """
    if after:
        ray.wait(list(after), num_returns=len(after))
    import pandas  # noqa: F401 - pyarrow imports it as soon as it looks at an array

    import asdray.stages.evaluate
    import asdray.stages.score  # noqa: F401

    for module in modules:
        importlib.import_module(module)
    if umap:
        import matplotlib.figure  # noqa: F401
        import numpy as np

        from asdray.stages.umap import embed

        embed(np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32), umap)


def _alive(folder: Path, work: Callable[..., list[Event]], *arguments: Any) -> list[Event]:
    """The events of a task, whose steps give signs of life in ``folder``."""
    with signs.given_in(folder):
        return work(*arguments)


# ---------------------------------------------------------------------------------------- in the driver


@dataclass(frozen=True)
class Task:
    """A Ray task: one machine of a trial at a checkpoint.

    Attributes:
        losses: number of workers that the task has lost.
        avoided: the node where the last one was lost; another node is chosen if there is one.
    """

    kind: Literal["extract", "umap"]
    run: TrialRun
    checkpoint: str
    machine: str
    losses: int = 0
    avoided: str | None = None

    def slots(self, device: str) -> int:
        """Number of CPUs that the task keeps busy."""
        return self.run.trial.system.train.threads if self.kind == "extract" and device == "cpu" else 1


class NodeChooser:
    """Chooses the node of a task that reserves nothing: the node with the fewest tasks per CPU.

    Ray would run such a task anywhere, also on a head node that is kept free (``--num-cpus=0``). A task with
    a reservation, however small, would be starved by trainings that hold all CPUs of a node.
    """

    def __init__(self) -> None:
        self._cpus: dict[str, float] = {}
        self._read_at = -NODES_SECONDS

    def least_busy(self, busy_nodes: Iterable[str | None], avoided: str | None = None) -> str | None:
        """The id of the node for one more task; None: Ray chooses, since at most one node has CPUs.

        Equally busy nodes are chosen in a fixed order, so that tasks run in workers that are warm.

        Args:
            busy_nodes: the node of every running task.
            avoided: a node that is chosen only if there is no other.
        """
        if time.monotonic() - self._read_at >= NODES_SECONDS:
            alive = [node for node in ray.nodes() if node["Alive"]]
            cpus = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in alive}
            self._cpus = {node: n for node, n in sorted(cpus.items()) if n > 0} if len(alive) > 1 else {}
            self._read_at = time.monotonic()
        busy = Counter(busy_nodes)
        nodes = [node for node in self._cpus if node != avoided] or self._cpus
        return min(nodes, key=lambda node: (busy[node] + 1) / self._cpus[node], default=None)


def _strategy(node: str | None) -> Any:
    """Ray's scheduling strategy for a task on ``node``; another node takes the task if this one is lost."""
    return "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)


class TaskPool:
    """Submits tasks as long as slots are free, and gathers their events.

    A task takes one slot; an extraction on the CPU takes a slot per thread of the system. Slots replace CPU
    reservations: with reservations, trainings that wait in Tune's queue would starve the tasks, or tasks the
    trainings. Half of all CPUs are slots while trainings run, and all CPUs afterwards. A further worker
    starts only if the present workers would be busy for longer than a worker needs to start.

    Args:
        running: folder for signs of life, see `asdray.sweep.signs`.
        worker_seconds: see `asdray.sweep.cluster.Cluster`.
        on_loss: called with a task that lost its worker and is queued again, and the reason.
    """

    def __init__(
        self,
        needs: Mapping[str, Need],
        places: Places,
        umap: Umap | Literal[False],
        running: Path,
        worker_seconds: float,
        on_loss: Callable[[Task, str], None],
    ) -> None:
        self._places = places
        self._running_folder = running
        self._worker_seconds = worker_seconds
        self._on_loss = on_loss
        self._umap = umap
        self._device = "cuda" if needs["extract"].gpu else "cpu"
        self._waiting: deque[Task] = deque()
        self._running: dict[Any, tuple[Task, float, str | None]] = {}
        """Ray's reference -> task, time of submission, and the chosen node (None: Ray chooses)."""
        self._nodes = NodeChooser()
        self._unreserved = {kind for kind, need in needs.items() if not need.cpu and not need.gpu}
        """Kinds of task that reserve nothing."""
        self._workers = 0
        """Workers that were warmed up or had a task."""
        self._ended, self._seconds = 0, 0.0
        """Number of ended tasks, and the seconds of all their stages."""
        self._warming: list[Any] = []
        """References of the warm-ups: Ray would cancel a task without a reference. No result is read."""
        self._remote = {kind: ray.remote(**_options(needs[kind]))(_alive) for kind in ("extract", "umap")}

    def warm_up(self, workers: int, later: int, modules: Sequence[str]) -> None:
        """Warms up workers beside the trainings; tasks do not wait for the warm-up.

        Args:
            workers: number of workers, of a gigabyte each.
            later: number of further workers, warmed up one by one after the first ones.
            modules: modules of the sweep's frontends.
        """
        remote = ray.remote(num_cpus=0, max_retries=0)(warm_up)
        self._workers = workers + later
        nodes: list[str | None] = []
        for number in range(workers + later):  # on the nodes that will later be chosen for tasks
            nodes.append(node := self._nodes.least_busy(nodes))
            options = {"name": "warm up", "scheduling_strategy": _strategy(node)}
            after = self._warming[:] if number >= workers else []
            self._warming.append(remote.options(**options).remote(self._umap, modules, after))

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def put(self, task: Task) -> None:
        """Queues a task; UMAPs wait behind extractions, whose scores the tables need."""
        if task.kind == "extract":
            plots = (i for i, waiting in enumerate(self._waiting) if waiting.kind == "umap")
            self._waiting.insert(next(plots, len(self._waiting)), task)
        else:
            self._waiting.append(task)

    def step(self, slots: int, timeout: float) -> list[tuple[Task, list[Event]]]:
        """Submits tasks for the free slots, waits up to ``timeout`` seconds, and returns the ended tasks."""
        while self._waiting and self._fits(self._waiting[0], slots):
            if len(self._running) == self._workers and not self._worker_pays():
                break
            self._submit(self._waiting.popleft())
            self._workers = max(self._workers, len(self._running))
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout)
        ended = []
        for reference in ready:
            task, _, node = self._running.pop(reference)
            events = self._gather(reference, task, node)
            if events is None:
                continue
            self._ended += 1
            self._seconds += sum(e["seconds"] or 0.0 for e in events if not e["found"])
            ended.append((task, events))
        return ended

    def _fits(self, task: Task, slots: int) -> bool:
        """True if enough slots are free for one more task; the first task always fits."""
        tasks = [task, *(other for other, *_ in self._running.values())]
        return len(tasks) == 1 or sum(one.slots(self._device) for one in tasks) <= slots

    def _worker_pays(self) -> bool:
        """True if the waiting tasks take the present workers longer than a new worker needs to start."""
        if not self._workers:
            return True
        oldest = max((time.monotonic() - begun for _, begun, _ in self._running.values()), default=0.0)
        usual = max(oldest, self._seconds / self._ended if self._ended else 0.0)
        return len(self._waiting) * usual / self._workers > self._worker_seconds

    def _submit(self, task: Task) -> None:
        job = task.run.job
        options: dict[str, Any] = {"name": f"{task.kind} {task.machine} {job.trial.title}"}
        node = None
        if task.kind in self._unreserved:
            node = self._nodes.least_busy((node for *_, node in self._running.values()), task.avoided)
            options["scheduling_strategy"] = _strategy(node)
        work: Callable[..., list[Event]] = plot_machine
        arguments: tuple = (job.trial, task.checkpoint, task.machine, self._umap, self._places)
        if task.kind == "extract":
            request = Request((task.checkpoint,), job.backends, self._umap)
            work = process_machine
            arguments = (job.trial, request, task.checkpoint, task.machine, self._places, self._device)
        remote = self._remote[task.kind].options(**options)
        reference = remote.remote(self._running_folder, work, *arguments)
        self._running[reference] = task, time.monotonic(), node

    def _gather(self, reference: Any, task: Task, node: str | None) -> list[Event] | None:
        """The events of an ended task; None for a task that lost its worker or node, and is queued again."""
        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            reason = why_lost(str(error))
            if task.losses < signs.MOST_IN_ALL and not isinstance(error, ray.exceptions.RayTaskError):
                self._waiting.appendleft(replace(task, losses=task.losses + 1, avoided=node))
                self._on_loss(task, reason)
                return None
            event = event_of(task.run.trial, task.kind, machine=task.machine, checkpoint=task.checkpoint)
            return [failed(event, f"the task was lost: {reason}")]


def why_lost(text: str) -> str:
    """The reason for which a worker was lost, in a line, from Ray's many.

    >>> why_lost("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR ...")
    'its worker process has died'
    """
    line = " ".join(text.split()).partition(" Check python-core-worker")[0]
    if "running low on memory" in line:
        return "killed by Ray, since its node was running low on memory"
    # Ray names the reason last: a traceback, and notes on the actor, come before.
    found = re.findall(r"\b(?:is dead|died) because (.+?)\.(?: |$)", line)
    return found[-1] if found else line[-400:]


def _options(need: Need) -> dict[str, Any]:
    return {
        "num_cpus": need.cpu,
        "num_gpus": need.gpu,
        "max_retries": 0,  # the pool queues a lost task again, for another node; Ray would choose the same
        "scheduling_strategy": "SPREAD",
    }
