"""``asdray <command>``: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from asdray import benchmark_command, by_hand, data_commands, scoring_commands
from asdray.by_hand import DATA, RESULTS, Cache, Data, Metrics, Plugins, Results, Set
from asdray.sweep_output import print_board, print_lines, run_and_print, sweep_file

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
app.add_typer(benchmark_command.app)


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
    plugin: Plugins = None,
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
    plan, jobs = load(spec, parse_set(overrides or []), places, plugin or [])
    if dry_run:
        from asdray.sweep.progress import plan_lines

        print_lines(plan_lines(plan, jobs, places))
        return
    run_and_print(
        plan, jobs, places, address=address, dashboard=not no_dashboard, quiet=quiet, command=context.obj
    )


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its sweep file.")],
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


@app.command()
def recipes(plugin: Plugins = None) -> None:
    """List the recipes that ship with asdray, with the papers and published scores that they follow."""
    from asdray.config.plugin import load_plugins
    from asdray.evaluation.recipe_list import plugin_lines, recipe_lines

    loaded = load_plugins(plugin or [])
    print_lines(recipe_lines())
    print_lines(plugin_lines(loaded))
