"""The commands that get, make, check and format datasets: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asdray.by_hand import DATA, Data, Dcase, Machines

if TYPE_CHECKING:
    from asdray.dcase.manifest import Dataset

Link = Literal["symlink", "hardlink", "copy"]

app = typer.Typer()


def _machine_list(machines: str) -> tuple[str, ...] | None:
    return None if machines == "all" else tuple(machines.split(","))


@app.command()
def synth(
    dcase: Dcase,
    machines: Machines = "all",
    train: Annotated[int, typer.Option(help="Training clips per machine and section.")] = 100,
    test: Annotated[int, typer.Option(help="Test clips per machine and section.")] = 100,
    seconds: Annotated[float, typer.Option(help="Seconds per clip.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    data: Data = DATA,
) -> None:
    """Make a synthetic dataset in the original layout of a year, with its ground truth."""
    from asdray.dcase.synth import synthesise

    made = synthesise(
        data.expanduser().absolute(),
        dcase,
        machines=_machine_list(machines),
        train=train,
        test=test,
        seconds=seconds,
        seed=seed,
    )
    verb = "made" if made.created else "found"
    print(f"{verb} {sum(made.counts.values())} synthetic clips of {dcase} in {made.folder}")


@app.command(name="format")
def format_(
    dcase: Dcase,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Default: where synth and download put it.")
    ] = None,
    link: Annotated[Link, typer.Option(help="How the unified tree holds the files.")] = "symlink",
    data: Data = DATA,
) -> None:
    """Unify names and labels of a year's dataset and write its manifest."""
    from asdray.dcase.format import format_dataset
    from asdray.store import formatted_dir

    report = format_dataset(data.expanduser().absolute(), dcase, ground_truth=ground_truth, link=link)
    _print_counts(report.dataset)
    print(
        f"{report.n_clips} clips in {formatted_dir(data, dcase)}: {report.made} links made, "
        f"{report.kept} kept, {report.removed} stale ones removed"
    )
    for machine, n in report.unlabelled.items():
        print(f"{machine}: {n} test clips without a label; they are scored but not evaluated")


def _print_counts(dataset: Dataset) -> None:
    """Clips per machine, subset, split, domain and label: a row per machine and subset."""
    from rich.console import Console
    from rich.table import Table

    cells = list(dict.fromkeys(k.split("/", 1)[1] for m in dataset.machines.values() for k in m.counts))
    grid = Table(title=f"{dataset.dcase} ({dataset.kind})", box=None, padding=(0, 2, 0, 0))
    grid.add_column("machine")
    grid.add_column("subset")
    for cell in cells:
        grid.add_column(cell.replace("/", " "), justify="right")
    grid.add_column("labels")
    for name, machine in dataset.machines.items():
        for subset in dict.fromkeys(key.split("/")[0] for key in machine.counts):
            counts = [str(machine.counts.get(f"{subset}/{cell}", 0)) for cell in cells]
            grid.add_row(name, subset, *counts, " + ".join(machine.label_sources))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(grid)
