"""The command ``bundle``: a sweep's results in one zip for other people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdray.cli.options import DATA, RESULTS, Data, Plugins, Results, TrustPlugins, check_no_folder
from asdray.cli.screen import print_line
from asdray.cli.sweep import SweepName, places_of, read_sweep

if TYPE_CHECKING:
    from asdray.config.sweep import Sweep

app = typer.Typer()


@app.command()
def bundle(
    context: typer.Context,
    name: SweepName,
    out: Annotated[
        Path | None, typer.Option(help="The zip to write; default <name>.zip in the sweep's folder.")
    ] = None,
    plugin: Plugins = None,
    trust_plugins: TrustPlugins = False,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Pack a sweep's results into one zip for other people: tables, scores, labels, configuration, hashes.

    There is no audio, no model and no code in it. `asdray report MINE --with THEIRS.zip` reads it.

    Example: asdray bundle dis_grid
    """
    from asdray.sweep.bundle import write_bundle

    check_no_folder(out)
    places = places_of(context, name, data, results)
    with read_sweep(name, places, plugin, trust_plugins) as (plan, jobs):
        print_packed(write_bundle(plan, jobs, places, out), plan)


def print_packed(path: Path, plan: Sweep) -> None:
    """Prints the place of a bundle, its size, and its use."""
    from asdray.sweep.progress import size

    print_line(
        f"the results of {plan.name} in one file ({size(path.stat().st_size)}, no audio, no models): {path}"
    )
    print_line(f"whoever gets it reads it with `asdray report {path.name}`, or beside their own with --with")
