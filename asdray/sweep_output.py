"""What the commands around sweeps print: a run, the leaderboard, published results beside ours."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from asdray.config.sweep import Sweep
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.store import Places
    from asdray.sweep.jobs import Job


def run_and_print(
    plan: Sweep,
    jobs: tuple[Job, ...],
    places: Places,
    *,
    address: str | None,
    dashboard: bool,
    quiet: bool,
    command: Sequence[str],
    only: Callable[[Job], bool] | None = None,
    retry_failed: bool = False,
    stop_at: float | None = None,
) -> None:
    """Runs or resumes a sweep, prints how it ended, and exits where something is left to be told.

    Args:
        command: what to type to go on after a stop, without ``asdray``.
        only: the trials that are asked for; None: all.
        retry_failed: whether to try again what failed and would fail again.
        stop_at: by ``time.monotonic``: when to stop as by a signal.

    Raises:
        SystemExit: 75 where it was stopped, 1 where something failed or is not complete.
    """
    from asdray.sweep.progress import failure_line, summary_lines
    from asdray.sweep.run import run_sweep

    only = only or (lambda job: True)
    result = run_sweep(
        plan,
        jobs,
        places,
        address=address,
        dashboard=dashboard,
        quiet=quiet,
        only=only,
        retry_failed=retry_failed,
        stop_at=stop_at,
    )
    print_board(result.board, result.folder.name)
    left_out = len(jobs) - sum(map(only, jobs))
    asked = f", {result.trials - left_out} asked for" if left_out else ""
    print_lines([f"sweep {plan.name}: {result.trials} trials{asked}"])
    counts = (result.expected, result.before, result.new, result.done, result.failures, result.given_up)
    print_lines(summary_lines(*counts))
    print_lines([f"everything is in {result.folder}"])
    if result.stopped:
        print(f"stopped; to go on: asdray {shlex.join(command)}", file=sys.stderr)
        sys.exit(75)
    if result.failures:
        print(f"{len(result.failures)} stages failed:", file=sys.stderr)
        for event in result.failures:
            print(f"  {failure_line(event)}", file=sys.stderr)
    if result.failed_before:
        print("failed before; --retry-failed tries again:", file=sys.stderr)
        for event in result.failed_before:
            print(f"  {failure_line(event)}", file=sys.stderr)
    if result.unfinished:
        print(f"not complete: {', '.join(result.unfinished)}", file=sys.stderr)
    if result.failures or result.unfinished:
        sys.exit(1)


def print_board(board: Leaderboard, title: str) -> None:
    """The leaderboard, our rows beside the published ones that they follow, and what must be said of both."""
    from asdray.evaluation import leaderboard_text as text
    from asdray.evaluation.published import beside

    _print_table(text.rich_table(board, title=title), text.notes(board))
    frame = beside(board)
    if len(frame):
        _print_table(text.beside_table(frame), [text.BESIDE_NOTE])


def _print_table(table: Table, beside: Iterable[str]) -> None:
    from rich.console import Console

    # Piped output must not lose columns to a guessed terminal width.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    for note in beside:
        console.print(note, markup=False)


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines, for people and pipes."""
    for line in lines:
        print(line)


def sweep_file(name: str, results: Path) -> Path:
    """The sweep file that is meant: a file's path, or the resolved spec of a sweep of this name."""
    from asdray.store import sweep_dir

    return Path(name) if name.endswith((".yaml", ".yml")) else sweep_dir(results, name) / "sweep.yaml"
