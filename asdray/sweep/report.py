"""The files that a sweep keeps of itself as of now: ``trials.parquet``, tables and leaderboard."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asdray import allocator, store
from asdray.config.sweep import Sweep
from asdray.stages.steps import Step
from asdray.store import Places
from asdray.sweep import outputs
from asdray.sweep.events import Event
from asdray.sweep.jobs import Job

if TYPE_CHECKING:
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.sweep.search import Searching

REFRESH_SECONDS = 5.0
"""Shortest time between two writings of the sweep's tables while it runs."""


class Report:
    """The rows of ``trials.parquet`` in memory, and when all that is made from them is due.

    Args:
        jobs: the driver's, and it grows there.
        failures: the driver's, trial -> what failed of it.
    """

    def __init__(
        self,
        sweep: Sweep,
        jobs: Sequence[Job],
        places: Places,
        failures: Mapping[int, Sequence[Event]],
        search: Searching | None,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._sweep = sweep
        self._jobs = jobs
        self._places = places
        self._failures = failures
        self._search = search
        self._written = time.monotonic()
        self._cost = 0.0
        self._dirty = False

    def add(self, steps: Sequence[Step]) -> None:
        """The row of the first job that has none."""
        self.rows.append(self._made(len(self.rows), steps, running=False))

    def row(self, index: int, running: bool) -> None:
        """Makes a trial's row anew from the files as they are."""
        steps = self._jobs[index].steps(self._sweep, self._places)
        self.rows[index] = self._made(index, steps, running)

    def _made(self, index: int, steps: Sequence[Step], running: bool) -> dict[str, Any]:
        job = self._jobs[index]
        row = outputs.trial_row(job, steps, self._places, self._failures.get(index, []), running)
        # The one status that only a search knows of.
        if self._search and row["status"] == "waiting" and self._search.state_of(job) == "stopped":
            row["status"] = "stopped"
        return row

    def changed(self) -> None:
        """The tables are no longer as of now."""
        self._dirty = True

    def due(self) -> bool:
        """Whether to write: something changed, and no more than a twentieth of the time goes into writing."""
        return self._dirty and time.monotonic() - self._written > max(REFRESH_SECONDS, 20 * self._cost)

    def write(self, then: Callable[[], None] = lambda: None) -> Leaderboard:
        """Writes everything; ``then``: what is done with it, which costs the driver's loop time too."""
        from asdray.evaluation.tables import write_trials

        started = time.monotonic()
        _tidy()  # the driver's memory is largest while it writes
        write_trials(self.rows, store.sweep_dir(self._places.results, self._sweep.name))
        board = outputs.write_results(self._sweep, self._jobs, self._places)
        then()
        _tidy()
        self._written = time.monotonic()
        self._cost = self._written - started
        self._dirty = False
        return board


def _tidy() -> None:
    gc.collect()  # what was imported is frozen while Ray runs, so this looks at little
    allocator.give_back()
