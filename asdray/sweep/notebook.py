"""``asdray.sweep(...)``: a sweep from Python, such as a notebook, with its progress and its results."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray.dcase.manifest import DEFAULT_DATA
from asdray.results import DEFAULT_RESULTS, Results
from asdray.store import Places
from asdray.sweep.cluster import RAY_ENV
from asdray.terminal import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from asdray.sweep.progress import LiveView


def sweep(
    spec: str | Path | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    results: str | Path | None = None,
    cache_dir: str | Path | None = None,
    plugins: str | Path | Iterable[str | Path] = (),
    only: str | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    quiet: bool = False,
) -> Results:
    """Runs or resumes a sweep: only missing work is done, as by ``asdray sweep``.

    ::

        results = asdray.sweep({
            "name": "rates",
            "recipes": ["dis_baseline"],
            "space": {"train.learning_rate": [1e-3, 3e-4]},
            "dcase": ["dcase2023"],
            "seeds": [0, 1],
        })
        results.leaderboard()

    The progress is shown. Ctrl-C, or a notebook's interrupt, stops the sweep cleanly, which takes seconds,
    and raises KeyboardInterrupt at the end. Finished work is kept: the same call goes on, and
    ``asdray.Results(name)`` has the results so far.

    Args:
        spec: the path of a sweep file, or the content of one. Relative paths in a dictionary start at the
            working directory.
        overrides: option -> value, as ``--set``: ``{"seeds": [0]}``.
        data: folder of the datasets; None: ``ASDRAY_DATA``, or ``data``.
        results: folder of the results; None: ``ASDRAY_RESULTS``, or ``results``.
        cache_dir: folder of the decoded audio; None: ``ASDRAY_CACHE_DIR``, or ``<data>/cache``.
        plugins: a file, or several, besides those that the sweep file names.
        only: conditions on the trials to run: ``"dcase=dcase2023 seed=0,1"``.
        retry_failed: runs stages again that failed and would fail again.
        address: of a running Ray; None: the sweep starts one of its own, and ends it.
        quiet: shows failures only.

    Returns:
        The results. Failed stages are printed, and listed in ``failures``.

    Raises:
        ValueError: an error in the sweep or its data; this process is connected to a Ray already.
        KeyboardInterrupt: the sweep was stopped.
    """
    from asdray.stages.columns import require_classes
    from asdray.sweep.plan import chooser, load
    from asdray.sweep.progress import failure_line, summary_lines
    from asdray.sweep.run import RunOptions, run_sweep

    if not isinstance(spec, str | Path | Mapping):
        raise ValueError(
            f"a sweep is the path of a file or a dictionary, not {type(spec).__name__}: {spec!r}"
        )
    _check_options(overrides, only)
    _refuse_connected()
    places = Places.of(
        data or os.environ.get("ASDRAY_DATA") or DEFAULT_DATA,
        results or os.environ.get("ASDRAY_RESULTS") or DEFAULT_RESULTS,
        cache_dir or os.environ.get("ASDRAY_CACHE_DIR"),
    )
    path = spec if isinstance(spec, Mapping) else Path(spec)
    more = [plugins] if isinstance(plugins, str | Path) else plugins
    plan, jobs = load(path, overrides or {}, places, [Path(plugin) for plugin in more])
    asked = (lambda job: True) if only is None else chooser([only], jobs)
    require_classes(places.data, [(job.trial, job.dataset) for job in jobs if asked(job)])
    options = RunOptions(
        address=address,
        dashboard=False,
        quiet=quiet,
        only=asked,
        retry_failed=retry_failed,
        ends_process=False,
        live=_live() if not quiet else None,
    )
    with _same_environment():
        found = run_sweep(plan, jobs, places, options)
    if found.stopped:
        raise KeyboardInterrupt(f"the sweep {plan.name} was stopped: the same call goes on")
    if not quiet:
        print(
            "\n".join(
                [f"sweep {plan.name}: {found.trials} trials", *summary_lines(found.counts, found.failures)]
            )
        )
    failures = tuple(failure_line(event, found.names) for event in (*found.failures, *found.failed_before))
    print("".join(f"FAILED {line}\n" for line in failures), end="")
    return Results(found.folder, unfinished=tuple(found.unfinished), failures=failures)


def _check_options(overrides: Any, only: Any) -> None:
    """Raises ValueError unless these are arguments of `sweep`, which mypy does not check in a notebook."""
    if overrides is not None and not (
        isinstance(overrides, Mapping) and all(isinstance(path, str) for path in overrides)
    ):
        raise ValueError(f"overrides is {overrides!r}: it is option -> value, such as {{'seeds': [0]}}")
    if only is not None and not isinstance(only, str):
        raise ValueError(f"only is {only!r}: it is a text, such as 'dcase=dcase2023 seed=0,1'")


def _refuse_connected() -> None:
    """Raises ValueError if this process is connected to a Ray: a sweep connects to its own."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise ValueError(
            "this process is connected to a Ray already: call ray.shutdown() first; asdray.sweep(..., "
            "address='auto') then joins that Ray, if it goes on without this process"
        )


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Restores the variables that a run sets for the workers: a notebook goes on. Those of Ray stay.

    Without these, a late call into Ray would start another Ray, open to all.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys() - RAY_ENV.keys():
            del os.environ[name]
        os.environ.update(before)


# -------------------------------------------------------------------------------------------- the live view


def _live() -> Callable[[], LiveView] | None:
    """Makes the live view of a notebook; None elsewhere: a terminal has its own."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return _InCell if hasattr(shell, "kernel") else None


class _InCell:
    """The live view in the output of a notebook's cell, as text that is replaced once a second."""

    def __init__(self) -> None:
        self._drawn = 0.0
        self._handle: Any = None

    def start(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": "starting"}, raw=True, display_id=True)

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        if time.monotonic() - self._drawn < 1:
            return
        self._drawn = time.monotonic()
        text = io.StringIO()
        console(text, width=100, force_jupyter=False, force_terminal=False).print(renderable)
        self._handle.update({"text/plain": text.getvalue()}, raw=True)

    def stop(self) -> None:
        self._handle.update({"text/plain": ""}, raw=True)
