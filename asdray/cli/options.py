"""Arguments and options of several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA, RESULTS = Path("data"), Path("results")
"""Default folders, relative to the working directory."""

Data = Annotated[Path, typer.Option(envvar="ASDRAY_DATA", help="Folder of the datasets.")]
Results = Annotated[Path, typer.Option(envvar="ASDRAY_RESULTS", help="Folder of the results.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="ASDRAY_CACHE_DIR",
        help="Folder of the decoded audio, on a disk of the node; default <data>/cache.",
    ),
]
Dcase = Annotated[str, typer.Argument(help="A year, such as dcase2023.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="An option's value, as key=value; may be repeated.")
]
Machines = Annotated[str, typer.Option(help="Machines, separated by commas; default all.")]
TrialFolder = Annotated[
    Path,
    typer.Argument(help="A trial: its folder, or its name, such as 'dis_baseline lr=3e-4 dcase2023 seed0'."),
]
Machine = Annotated[str | None, typer.Option("--machine", help="A single machine; default all of the trial.")]
Checkpoint = Annotated[
    str | None,
    typer.Option("--ckpt", help="A checkpoint: last, best or epoch_<k>; default those of the trial."),
]
Last = Annotated[str, typer.Option("--ckpt", help="A checkpoint: last, best or epoch_<k>.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Run the stage again although it is done.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="The device that computes.")]
Backend = Annotated[str, typer.Option("--backend", help="A backend: knn, or '{name: knn, n_neighbors: 4}'.")]
Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", help="A backend: knn, or '{name: knn, n_neighbors: 4}'; may be repeated."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="A metric: official, s_auc, mix_pauc, ...; may be repeated."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="A Python file that adds losses, networks, frontends or backends; may be repeated.",
    ),
]
TrustPlugins = Annotated[
    bool,
    typer.Option("--trust-plugins", help="Run the code of the plugins in these results, whoever wrote it."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a running Ray to join, or auto; by default the command starts one."),
]
NoDashboard = Annotated[bool, typer.Option("--no-dashboard", help="Start no Ray dashboard.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print failures and the result only.")]


def check_no_folder(out: Path | None) -> None:
    """Raises ValueError if ``--out`` names a folder, which a file in its place would move aside."""
    if out is not None and out.is_dir():
        raise ValueError(f"--out {out} is a folder: name the file to write")
