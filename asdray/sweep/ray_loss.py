"""The loss of the Ray that a run works on, which Ray itself tells a driver late, or never."""

from __future__ import annotations

import time
from typing import Any

import ray

NODES_SECONDS = 10.0
"""Time between two looks at the state of the driver's node in a joined Ray."""

NO_CPUS = "no node of this Ray has a CPU any more: the sweep waits for nodes that join"
"""What the user is told once all nodes that could work are lost."""

_NEEDED = ("gcs_server", "raylet")
"""Processes without which no task starts; a raylet ends with its agents, and after it was taken for dead."""


class RayWatch:
    """Looks whether the Ray of this process still works.

    A driver whose raylet is lost waits for ever; one whose GCS is lost waits for a minute, and is then ended
    by Ray.
    """

    def __init__(self) -> None:
        node: Any = ray._private.worker._global_node  # not public: Ray has no other list of its processes
        own = getattr(node, "all_processes", {})
        self._processes = {name: info.process for name in _NEEDED for info in own.get(name, ())}
        """Processes of a Ray that this process has started; empty for a joined Ray."""
        self._node = ray.get_runtime_context().get_node_id()
        self._looked_at = time.monotonic()
        self._has_cpus, self._news = True, ""

    def loss(self) -> str | None:
        """The reason for which no work can go on, or None."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                return f"Ray's process {name} has ended"
        if self._processes or time.monotonic() - self._looked_at < NODES_SECONDS:
            return None
        self._looked_at = time.monotonic()
        alive = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
        if any(alive.values()) != self._has_cpus:
            self._has_cpus = not self._has_cpus
            self._news = "Ray has nodes with CPUs again" if self._has_cpus else NO_CPUS
        return None if self._node in alive else "Ray has lost the node of this process"

    def news(self) -> str:
        """A line that was not told yet, or an empty one."""
        text, self._news = self._news, ""
        return text
