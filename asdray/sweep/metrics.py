"""A sweep's figures for Prometheus, through Ray's own metrics endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge


class Metrics:
    """``ray_asdray_trials{sweep,state}``, ``..._clips_per_second{sweep}``, ``..._best_score{sweep,column}``,
    ``..._failures{sweep}`` and ``..._seconds_left{sweep}``; what is not known yet is not there."""

    def __init__(self, sweep: str) -> None:
        self._tags = {"sweep": sweep}
        self._trials = Gauge("asdray_trials", "Trials of the sweep by state", ("sweep", "state"))
        self._clips = Gauge("asdray_clips_per_second", "Clips per second of all trainings", ("sweep",))
        self._best = Gauge("asdray_best_score", "Best score so far, in [0, 1]", ("sweep", "column"))
        self._failures = Gauge("asdray_failures", "Stages that failed in this run", ("sweep",))
        self._left = Gauge("asdray_seconds_left", "Estimated seconds to the end of the sweep", ("sweep",))

    def set(self, snapshot: Mapping[str, Any]) -> None:
        """Exports what a snapshot holds."""
        for state, n in snapshot["trials"].items():
            self._trials.set(n, {**self._tags, "state": state})
        self._clips.set(snapshot["clips_per_second"], self._tags)
        self._failures.set(snapshot["failures"], self._tags)
        if snapshot["seconds_left"] is not None:
            self._left.set(snapshot["seconds_left"], self._tags)
        if snapshot["leaderboard"]:
            best = snapshot["leaderboard"][0]
            self._best.set(best["score"], {**self._tags, "column": best["column"]})


def address() -> str | None:
    """Where this node's metrics are served."""
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None
