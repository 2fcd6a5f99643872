"""Many small reads and writes in threads: they wait for the file system, not for a core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all), from the calling thread."""

T = TypeVar("T")
R = TypeVar("R")


class Steps:
    """Counts finished steps for a progress callback."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def add(self, n: int) -> None:
        self.done += n
        if self.report:
            self.report(self.done, self.total)


def in_threads(
    function: Callable[[T], R], items: Sequence[T], steps: Steps, *, threads: int = 8, chunk: int = 128
) -> Iterator[R]:
    """``map`` over a thread pool, in chunks: a task per item would cost more than reading a header.

    An exception of ``function`` is raised here, after what runs has ended; what has not begun never does.
    """

    def run(start: int) -> list[R]:
        return [function(item) for item in items[start : start + chunk]]

    pool = ThreadPoolExecutor(threads)
    try:
        for results in pool.map(run, range(0, len(items), chunk)):
            steps.add(len(results))
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
