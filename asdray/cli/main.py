"""The entry point: collects the commands, runs one, and turns errors into messages and exit codes.

A command imports other packages only when it runs: ``--help`` and ``recipes`` stay fast.
"""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from asdray import limits
from asdray.cli import benchmark, bundle, data, encoders, plot, predict, scoring, sweep, trial
from asdray.cli.options import Plugins
from asdray.cli.screen import print_line, print_lines
from asdray.full_disk import FULL, STORAGE
from asdray.sweep.stop import sigterm_as_ctrl_c
from asdray.terminal import outliving_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

_CTRL_C = 130
"""Exit code with which typer ends an interrupted command."""

app = typer.Typer(
    name="asdray",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _module in (sweep, plot, data, encoders, trial, predict, scoring, benchmark, bundle):
    app.add_typer(_module.app)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        argv: the command's name and options; None: the arguments of the process.

    Raises:
        SystemExit: always; the codes are listed in `asdray.cli`.

    Example::

        main(["recipes"])  # the same as `asdray recipes` in a shell
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    with outliving_streams() as lost:
        code = _exit_code(arguments)
    with outliving_streams():
        print_lines((f"error: {line}" for line in lost), sys.stderr)
    sys.exit(code or (1 if lost else 0))


def _exit_code(arguments: list[str]) -> int | str:
    """Runs a command; prints its error, if any."""
    try:
        _run(arguments)
    except (SystemExit, KeyboardInterrupt) as error:  # the latter before typer has the command
        if isinstance(error, SystemExit) and error.code != _CTRL_C:
            return error.code or 0
        print_line(f"stopped; to go on: asdray {shlex.join(arguments)}", sys.stderr)
        return 75
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        told = limits.told_by(error)
        if told is None and not isinstance(error, OSError | ValueError):
            raise
        print_line(f"error: {told or _fault(error)}", sys.stderr)
        of_machine = isinstance(error, TimeoutError | limits.LimitError)
        of_storage = isinstance(error, OSError) and error.errno in STORAGE
        return 1 if told or of_machine or of_storage else 2
    return 0


def _fault(error: BaseException) -> str:
    """The message of an error; that of the system comes with the place."""
    if isinstance(error, OSError) and error.filename is not None:
        copied = error.errno in FULL and error.filename2  # the copy is what has no space
        return f"{copied or error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # Python's own words
        return "no folder for temporary files can be written: name one by TMPDIR"
    if isinstance(error, FileNotFoundError):  # no file is asked for without a name, but the working directory
        return "the working directory was deleted: go to another one, and run the command again"
    return str(error)


def _run(arguments: list[str]) -> None:
    """Runs a command; an exception from a plugin's code, ``sys.exit(0)`` too, becomes a `PluginError`."""
    try:
        with sigterm_as_ctrl_c():
            app(args=arguments, obj=arguments)
    except BaseException as error:  # a plugin's code may raise any exception; typer ends by SystemExit
        from asdray.config.plugin_fault import ended_by_plugin

        if found := ended_by_plugin(error):
            raise found from error
        raise


def _print_version(asked: bool) -> None:
    if asked:
        from asdray import __version__

        print_line(f"asdray {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection."""


class SchemaKind(StrEnum):
    """The output of the command `schema`."""

    SWEEP = "sweep"
    RECIPE = "recipe"
    OPTIONS = "options"


@app.command()
def schema(
    kind: Annotated[
        SchemaKind,
        typer.Argument(help="JSON schema of sweep files, of recipes; or all options in Markdown."),
    ] = SchemaKind.SWEEP,
) -> None:
    """Print the JSON schema of sweep files, with which an editor completes and checks them.

    Example: asdray schema > asdray.schema.json
    """
    from asdray.config.reference import reference
    from asdray.config.schema import json_text
    from asdray.config.sweep import Sweep
    from asdray.config.system import Recipe

    models: dict[str, type[Sweep | Recipe]] = {"sweep": Sweep, "recipe": Recipe}
    sys.stdout.write(reference() if kind is SchemaKind.OPTIONS else json_text(models[kind]))


@app.command()
def recipes(plugin: Plugins = None) -> None:
    """List the recipes of asdray, with papers and published scores.

    Example: asdray recipes --plugin my_method.py
    """
    from asdray.config.base import UNIONS, load_plugins
    from asdray.evaluation.published import recipe_lines

    plugins = load_plugins(plugin or [])
    print_lines(recipe_lines())
    for own in plugins:
        added = [
            f"{union.noun} {name}"
            for _, union in sorted(UNIONS.items())
            for name, cls in union.added.items()
            if cls.plugin == own
        ]
        print_line(f"{own.path} adds: {', '.join(added)}")
