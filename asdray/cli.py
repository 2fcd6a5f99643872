"""``asdray <command>``: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from asdray import benchmark_command, by_hand, data_commands, scoring_commands, sweep_commands
from asdray.by_hand import Plugins
from asdray.config import plugin_fault
from asdray.sweep.signals import sigterm_as_ctrl_c
from asdray.sweep_output import print_lines

if TYPE_CHECKING:
    from collections.abc import Sequence


_CTRL_C = 130
"""How typer ends a command that is interrupted."""

app = typer.Typer(
    name="asdray",
    help="Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sweep_commands.app)
app.add_typer(data_commands.app)
app.add_typer(by_hand.app)
app.add_typer(scoring_commands.app)
app.add_typer(benchmark_command.app)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    0: all done; 1: something failed and is listed; 2: the input was wrong; 75: stopped, to be run again.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            with sigterm_as_ctrl_c(), plugin_fault.told():
                app(args=arguments, obj=arguments)
        finally:
            sys.stdout.flush()
    except SystemExit as error:
        if error.code != _CTRL_C:
            raise
        print(f"stopped; to go on: asdray {shlex.join(arguments)}", file=sys.stderr)
        sys.exit(75)
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


@app.command()
def recipes(plugin: Plugins = None) -> None:
    """List the recipes that ship with asdray, with the papers and published scores that they follow."""
    from asdray.config.plugin import load_plugins
    from asdray.evaluation.recipe_list import plugin_lines, recipe_lines

    loaded = load_plugins(plugin or [])
    print_lines(recipe_lines())
    print_lines(plugin_lines(loaded))
