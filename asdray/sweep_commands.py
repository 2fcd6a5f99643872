"""``asdray sweep``, ``asdray status`` and ``asdray report``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdray.by_hand import DATA, RESULTS, Cache, Data, Metrics, Plugins, Results, Set
from asdray.sweep_output import print_board, print_lines, run_and_print, sweep_file

if TYPE_CHECKING:
    from asdray.config.sweep import Sweep
    from asdray.store import Places
    from asdray.sweep.jobs import Job

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its sweep file.")]


@app.command()
def sweep(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(help="A sweep file.")],
    overrides: Set = None,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    plugin: Plugins = None,
    only: Annotated[
        str | None, typer.Option(help="Some of its trials, such as 'dcase=dcase2023 seed=0,1'.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed and would fail again.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete all results of its trials first; asks before.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer --fresh's question with yes.")] = False,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray; default: start one here.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials, what is left, time and disk; and stop.")
    ] = False,
    wall_time: Annotated[
        str | None,
        typer.Option(
            help="Stop cleanly before so much time is over (exit code 75): 3h50m, 13800, 1-12:00:00."
        ),
    ] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Start no Ray dashboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print failures and the result only.")] = False,
) -> None:
    """Run or resume a sweep: only what is missing is done."""
    from asdray.config.load import parse_set
    from asdray.stages.columns import require_classes
    from asdray.store import Places
    from asdray.sweep import walltime
    from asdray.sweep.only import chooser
    from asdray.sweep.plan import load

    seconds = None if wall_time is None else walltime.parse(wall_time)
    places = Places.of(data, results, cache_dir)
    plan, jobs = load(spec, parse_set(overrides or []), places, plugin or [])
    if only is not None and plan.search.samples:
        raise ValueError(
            "--only chooses among the trials of a grid; which ones a search needs it says itself"
        )
    chosen = None if only is None else chooser(only, jobs)
    require_classes(places.data, [(j.trial, j.dataset) for j in jobs if chosen is None or chosen(j)])
    if fresh:
        _forget(plan, [job for job in jobs if chosen is None or chosen(job)], places, yes, dry_run)
        if dry_run:
            return
        plan, jobs = load(spec, parse_set(overrides or []), places, plugin or [])
    if dry_run:
        from asdray.sweep.dry_run import plan_lines

        print_lines(plan_lines(plan, jobs, places, chosen or (lambda job: True), retry_failed))
        return
    if seconds is None and not quiet and (hint := walltime.slurm_hint(os.environ)):
        print(hint)
    run_and_print(
        plan,
        jobs,
        places,
        address=address,
        dashboard=not no_dashboard,
        quiet=quiet,
        command=[
            part for part in context.obj if part not in ("--fresh", "--yes")
        ],  # to go on, not to restart
        only=chosen,
        retry_failed=retry_failed,
        stop_at=None if seconds is None else walltime.stop_at(seconds),
    )


def _forget(plan: Sweep, jobs: Sequence[Job], places: Places, yes: bool, dry_run: bool) -> None:
    """``--fresh``: says what it deletes, asks, and deletes it."""
    from asdray.sweep.fresh import delete, results_of

    found = results_of(plan, jobs, places)
    if not found.folders and not plan.search.samples:
        print("--fresh: there are no results of these trials yet")
        return
    print_lines(found.lines())
    if plan.search.samples:
        print("and its study: the search starts anew")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("--fresh deletes the results above: say --yes as well")
        if not typer.confirm("Delete them?"):
            raise ValueError("--fresh: nothing was deleted and nothing was run")
    delete(found, plan, places)


@app.command()
def status(name: Name, data: Data = DATA, results: Results = RESULTS) -> None:
    """Tell what is done, running, failed and left of a sweep: from any shell, while it runs and after."""
    from rich.console import Console

    from asdray.store import Places
    from asdray.sweep.plan import load
    from asdray.sweep.status import status as told

    places = Places.of(data, results)
    plan, jobs = load(sweep_file(name, places.results), {}, places)
    # Piped output must not lose columns to a guessed terminal width.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(told(plan, jobs, places), soft_wrap=True)


@app.command()
def report(
    name: Name,
    rank_by: Annotated[
        str | None, typer.Option(help="dcase2022-eval, eval_hmean, ...; default that of the sweep file.")
    ] = None,
    metric: Metrics = None,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Rebuild a sweep's tables and leaderboard from its trials, and print the leaderboard."""
    from asdray.evaluation.tables import check_metric
    from asdray.store import Places
    from asdray.sweep.outputs import write_metric, write_results
    from asdray.sweep.plan import load

    asked = [check_metric(name) for name in metric or ["official"]]
    places = Places.of(data, results)
    plan, jobs = load(sweep_file(name, places.results), {}, places)
    board = write_results(plan, jobs, places, rank_by=rank_by)
    for one in dict.fromkeys(asked):
        if one == "official":
            print_board(board, plan.name)
        else:
            print_board(write_metric(plan, jobs, places, one, rank_by=rank_by), f"{plan.name}, {one}")
