"""The Ray tasks that follow a training: per machine extract -> score -> evaluate, and UMAP."""

from __future__ import annotations

import importlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asdray.config.backend import Backend, Umap, backend_id
from asdray.config.sweep import Need
from asdray.config.trial import Trial
from asdray.store import Places
from asdray.sweep.events import Event, attempt, event_of, failed
from asdray.sweep.jobs import Job

COLD_SECONDS = 10.0
"""About what a worker needs before its first task: it starts, and imports torch, scikit-learn and UMAP."""

LOOK_SECONDS = 10.0
"""How old the list of nodes may be that a task's node is chosen from."""


@dataclass(frozen=True)
class Item:
    """One task: a machine of a job at a checkpoint."""

    kind: Literal["extract", "umap"]
    job: int
    checkpoint: str
    machine: str


def extract_machine(
    trial: Trial,
    backends: Sequence[Backend],
    checkpoint: str,
    machine: str,
    places: Places,
    device: str,
    umap_options: Umap | Literal[False] = False,
    embeddings: bool = False,
) -> Event:
    """Extracts one machine unless that is done; see `process_machine`."""
    from asdray.stages.extract import extract
    from asdray.stages.steps import Outcome, Request, TrialFiles, needs_pruned_embeddings

    def extracted() -> Outcome:
        request = Request((checkpoint,), tuple(backends), umap_options)
        files = TrialFiles.load(trial, places, [machine])
        rebuild = embeddings or needs_pruned_embeddings(files, machine, checkpoint, request)
        return extract(trial, machine, checkpoint, places, device=device, rebuild=rebuild)

    return attempt(event_of(trial, "extract", machine=machine, checkpoint=checkpoint), extracted)


def process_machine(
    trial: Trial,
    backends: Sequence[Backend],
    checkpoint: str,
    machine: str,
    places: Places,
    device: str,
    umap_options: Umap | Literal[False] = False,
    embeddings: bool = False,
) -> list[Event]:
    """Extract, score and evaluate one machine, each skipped where it is done; stops at a failure.

    Args:
        umap_options: of the UMAP that follows: embeddings that were dropped are made again for it too.
        embeddings: whether somebody is to read them in any case.
    """
    from asdray.stages.evaluate import evaluate
    from asdray.stages.score import score

    at: dict[str, Any] = {"machine": machine, "checkpoint": checkpoint}
    events = [extract_machine(trial, backends, checkpoint, machine, places, device, umap_options, embeddings)]
    if events[0]["status"] == "failed":
        return events
    for backend in backends:
        events.append(
            attempt(
                event_of(trial, "score", **at, backend=backend_id(backend)),
                partial(score, trial, machine, checkpoint, backend, places),
            )
        )
    scored = [b for b, e in zip(backends, events[1:], strict=True) if e["status"] == "done"]
    if scored:
        events.append(
            attempt(
                event_of(trial, "evaluate", **at),
                partial(evaluate, trial, machine, checkpoint, scored, places),
            )
        )
    return events


def plot_machine(
    trial: Trial, checkpoint: str, machine: str, umap_options: Umap, places: Places
) -> list[Event]:
    """UMAP of one machine's embeddings."""
    from asdray.stages.umap import umap

    return [
        attempt(
            event_of(trial, "umap", machine=machine, checkpoint=checkpoint),
            partial(umap, trial, machine, checkpoint, umap_options, places),
        )
    ]


def warm_up(umap_options: Umap | Literal[False], modules: Sequence[str], after: Sequence[Any] = ()) -> None:
    """Imports, and compiles, what this worker's tasks will need: many seconds, while others still train.

    Args:
        modules: of the frontends.
        after: likewise of other workers, that are to be ready first.
    """
    if after:
        ray.wait(list(after), num_returns=len(after))
    import pandas  # noqa: F401 - by pyarrow, as soon as it looks at an array

    import asdray.stages.evaluate
    import asdray.stages.score  # noqa: F401

    for module in modules:
        importlib.import_module(module)
    if umap_options:
        import matplotlib.figure  # noqa: F401
        import numpy as np

        from asdray.stages.umap import embed

        embed(np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32), umap_options)


def slots_of(kind: Literal["extract", "umap"], trial: Trial, device: str) -> int:
    """How many tasks of one thread a task stands for."""
    return trial.system.train.threads if kind == "extract" and device == "cpu" else 1


def _options(need: Need) -> dict[str, Any]:
    return {
        "num_cpus": need.cpu,
        "num_gpus": need.gpu,
        "max_retries": 3,  # a lost worker or node; what a stage itself dies of comes back as an event
        "scheduling_strategy": "SPREAD",
    }


class Nodes:
    """The nodes for tasks that reserve nothing: those with CPUs, each as busy as it has of them.

    To Ray a task without a reservation fits anywhere, also on a head that is kept free (``--num-cpus=0``);
    and with one, however small, trainings that hold all CPUs of a node would starve it.
    """

    def __init__(self) -> None:
        self._cpus: dict[str, float] = {}
        self._looked = -LOOK_SECONDS

    def least_busy(self, there: Iterable[str | None]) -> str | None:
        """The node for one more task; None: Ray may choose, there is one node or none with CPUs.

        Of equals it is always the same, whose worker is warm.

        Args:
            there: the nodes of those that run.
        """
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            alive = [node for node in ray.nodes() if node["Alive"]]
            cpus = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in alive}
            self._cpus = {node: n for node, n in sorted(cpus.items()) if n > 0} if len(alive) > 1 else {}
            self._looked = time.monotonic()
        busy = Counter(there)
        return min(self._cpus, key=lambda node: (busy[node] + 1) / self._cpus[node], default=None)


def _on(node: str | None) -> Any:
    """Where a task is to run, as Ray takes it; elsewhere once the node is lost."""
    return "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)


class TaskPool:
    """Submits tasks, at once no more than fill ``slots``, and gathers their events.

    A task takes a slot, an extraction on the CPU one for each thread of its system. The limit stands in for
    CPU reservations, which would let trainings that wait in Tune's queue starve the tasks, or the tasks
    starve them. While trainings run, half of all CPUs are slots; then all are. A worker more starts only
    where the others would be busy for longer than it needs to.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        needs: Mapping[str, Need],
        places: Places,
        umap: Umap | Literal[False],
    ) -> None:
        self._jobs = jobs
        self._places = places
        self._umap = umap
        self._device = "cuda" if needs["extract"].gpu else "cpu"
        self._waiting: deque[Item] = deque()
        self._running: dict[Any, tuple[Item, float, str | None]] = {}
        """With the time of submission, and the node where that was chosen here."""
        self._nodes = Nodes()
        self._free = {kind for kind, need in needs.items() if not need.cpu and not need.gpu}
        """Kinds of task that reserve nothing."""
        self._workers = 0
        """How many got ready, or had a task."""
        self._ended, self._seconds = 0, 0.0
        """Tasks, and how long their stages took in all."""
        self._warming: list[Any] = []
        """Held, so that Ray does not cancel them; never asked for their result."""
        self._process: Any = ray.remote(**_options(needs["extract"]))(process_machine)
        self._plot = ray.remote(**_options(needs["umap"]))(plot_machine)

    def warm_up(self, workers: int, later: int = 0) -> None:
        """Readies some workers beside the trainings; tasks that come sooner do not wait for it.

        Args:
            workers: at most as many, of a gigabyte each.
            later: as many more, one after the other, once those are ready.
        """
        modules = sorted({m for job in self._jobs for m in job.trial.system.frontend.modules})
        remote = ray.remote(num_cpus=0, max_retries=0)(warm_up)
        self._workers = workers + later
        nodes: list[str | None] = []
        for number in range(workers + later):  # one after the other as the tasks will be: on the same nodes
            nodes.append(node := self._nodes.least_busy(nodes))
            options = {"name": "warm up", "scheduling_strategy": _on(node)}
            after = self._warming[:] if number >= workers else []
            self._warming.append(remote.options(**options).remote(self._umap, modules, after))

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def put(self, item: Item) -> None:
        """Queues a task; UMAPs go behind what the tables need."""
        if item.kind == "extract":
            plots = (i for i, waiting in enumerate(self._waiting) if waiting.kind == "umap")
            self._waiting.insert(next(plots, len(self._waiting)), item)
        else:
            self._waiting.append(item)

    def step(self, slots: int, timeout: float) -> list[tuple[Item, list[Event]]]:
        """Submits what fits, waits up to ``timeout`` seconds, and returns the tasks that ended."""
        while self._waiting and self._fits(self._waiting[0], slots):
            if len(self._running) == self._workers and not self._pays():
                break
            self._submit(self._waiting.popleft())
            self._workers = max(self._workers, len(self._running))
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout)
        ended = []
        for ref in ready:
            item, *_ = self._running.pop(ref)
            events = self._gather(ref, item)
            self._ended += 1
            self._seconds += sum(e["seconds"] or 0.0 for e in events if not e["found"])
            ended.append((item, events))
        return ended

    def _fits(self, item: Item, slots: int) -> bool:
        """Whether one more task finds its slots free; the first does in any case."""
        items = [item, *(other for other, *_ in self._running.values())]
        taken = [slots_of(one.kind, self._jobs[one.job].trial, self._device) for one in items]
        return len(items) == 1 or sum(taken) <= slots

    def _pays(self) -> bool:
        """Whether the workers there are would take longer for what waits than one more takes to start."""
        if not self._workers:
            return True
        oldest = max((time.monotonic() - begun for _, begun, _ in self._running.values()), default=0.0)
        usual = max(oldest, self._seconds / self._ended if self._ended else 0.0)
        return len(self._waiting) * usual / self._workers > COLD_SECONDS

    def _submit(self, item: Item) -> None:
        job = self._jobs[item.job]
        options: dict[str, Any] = {"name": f"{item.kind} {item.machine} {job.trial.name}"}
        node = None
        if item.kind in self._free:
            node = self._nodes.least_busy(node for *_, node in self._running.values())
            options["scheduling_strategy"] = _on(node)
        if item.kind == "umap":
            assert isinstance(self._umap, Umap)
            ref = self._plot.options(**options).remote(
                job.trial, item.checkpoint, item.machine, self._umap, self._places
            )
        else:
            ref = self._process.options(**options).remote(
                job.trial, job.backends, item.checkpoint, item.machine, self._places, self._device, self._umap
            )
        self._running[ref] = item, time.monotonic(), node

    def _gather(self, ref: Any, item: Item) -> list[Event]:
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            # The worker or its node was lost more often than Ray retries.
            trial = self._jobs[item.job].trial
            event = event_of(trial, item.kind, machine=item.machine, checkpoint=item.checkpoint)
            return [failed(event, f"the task was lost: {' '.join(str(error).split())[:400]}")]
