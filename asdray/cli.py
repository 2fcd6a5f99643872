"""``asdray <command>``: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from asdray import by_hand, data_commands, scoring_commands
from asdray.by_hand import DATA, RESULTS, Cache, Data, Results, Set

if TYPE_CHECKING:
    from collections.abc import Sequence


app = typer.Typer(
    name="asdray",
    help="Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands.app)
app.add_typer(by_hand.app)
app.add_typer(scoring_commands.app)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 all done, 1 something failed and is listed, 2 the input was wrong."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            app(args=arguments, obj=arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is still buffered goes nowhere, without a complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
        print(f"error: {what}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


# ---------------------------------------------------------------------------------------------- sweeps


@app.command()
def sweep(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(help="A sweep file.")],
    overrides: Set = None,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray; default: start one here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and stop.")] = False,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Start no Ray dashboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print failures and the result only.")] = False,
) -> None:
    """Run or resume a sweep: only what is missing is done."""
    from asdray.config.load import parse_set
    from asdray.store import Places
    from asdray.sweep.plan import load

    places = Places.of(data, results, cache_dir)
    plan, jobs = load(spec, parse_set(overrides or []), places)
    if dry_run:
        from asdray.sweep.progress import plan_lines

        _print_lines(plan_lines(plan, jobs, places))
        return
    from asdray.sweep.progress import summary_lines
    from asdray.sweep.run import run_sweep

    result = run_sweep(plan, jobs, places, address=address, dashboard=not no_dashboard, quiet=quiet)
    _print_board(result.board, result.folder)
    _print_lines([f"sweep {plan.name}: {len(jobs)} trials"])
    _print_lines(summary_lines(result.expected, result.before, result.new, result.done, result.failures))
    _print_lines([f"everything is in {result.folder}"])
    if result.stopped:
        print(f"stopped; to go on: asdray {shlex.join(context.obj)}", file=sys.stderr)
        sys.exit(75)
    if result.failures:
        from asdray.sweep.progress import failure_line

        print(f"{len(result.failures)} stages failed:", file=sys.stderr)
        for event in result.failures:
            print(f"  {failure_line(event)}", file=sys.stderr)
    if result.unfinished:
        print(f"not complete: {', '.join(result.unfinished)}", file=sys.stderr)
    if result.failures or result.unfinished:
        sys.exit(1)


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its sweep file.")],
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Rebuild a sweep's tables and leaderboard from its trials, and print the leaderboard."""
    from asdray.store import Places, sweep_dir
    from asdray.sweep.outputs import write_results
    from asdray.sweep.plan import load

    places = Places.of(data, results)
    spec = Path(name) if name.endswith((".yaml", ".yml")) else sweep_dir(places.results, name) / "sweep.yaml"
    plan, jobs = load(spec, {}, places)
    _print_board(write_results(plan, jobs, places), sweep_dir(places.results, plan.name))


def _print_board(board: Any, folder: Path) -> None:
    from rich.console import Console

    from asdray.evaluation.leaderboard import rich_table

    # Piped output must not lose columns to a guessed terminal width.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(rich_table(board, title=folder.name))
    for note in board.notes:
        console.print(note, highlight=False)


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)


@app.command()
def recipes() -> None:
    """List the recipes that ship with asdray."""
    from asdray.config.load import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        print(f"{name:<20} {recipe.about}")
        if recipe.source:
            print(f"{'':<20} {recipe.source}")
