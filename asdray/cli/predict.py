"""The command ``predict``: scores and decisions of new wavs by a finished trial, as CSV."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asdray.cli.options import (
    DATA,
    RESULTS,
    Cache,
    Checkpoint,
    Data,
    Device,
    Results,
    TrialFolder,
    TrustPlugins,
)
from asdray.cli.screen import print_line, print_lines
from asdray.cli.trial import one_thread_for_blas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asdray.stages.predict import Prediction

app = typer.Typer()

_COLUMNS = ("file", "machine", "backend", "score", "threshold", "decision")


@app.command()
def predict(
    trial: TrialFolder,
    files: Annotated[list[Path], typer.Argument(help="Wavs, or folders with wavs.")],
    machine: Annotated[
        str | None,
        typer.Option(help="The machine that the clips were recorded at; default the trial's only one."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="A backend: knn, or '{name: knn, n_neighbors: 4}'; default all of the trial."),
    ] = None,
    ckpt: Checkpoint = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Score the wavs that come into a folder, until Ctrl-C.")
    ] = False,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    device: Device = "auto",
    trust_plugins: TrustPlugins = False,
) -> None:
    """Score new wavs with a finished trial: CSV with anomaly scores and decisions (1 = anomaly).

    Example: asdray predict results/trials/dcase2023/dis_baseline-5ce49aea/seed0 new/*.wav --machine fan
    """
    one_thread_for_blas()
    from asdray.addresses import find_trial
    from asdray.stages.predict import predictor, wavs

    if follow and (len(files) != 1 or not files[0].is_dir()):
        raise ValueError(f"--follow takes one folder, not {' '.join(map(str, files))}")
    options: dict[str, Any] = {
        "machine": machine,
        "backend": backend,
        "checkpoint": ckpt,
        "data": data,
        "cache_dir": cache_dir,
        "device": device,
        "trust_plugins": trust_plugins,
    }
    model = predictor(find_trial(trial, results), **options)
    _print_rows([_COLUMNS])
    if follow:
        scored: set[str] = set()
        failed: set[str] = set()
        with contextlib.suppress(KeyboardInterrupt):
            for found in model.follow(files[0]):
                good, bad = _print(found)
                scored |= good
                failed = (failed | bad) - scored  # a file with an error may have become complete
        print_line(f"{len(scored)} files scored, {len(failed)} not usable", sys.stderr)
        print_lines((f"not complete: {name}" for name in sorted(model.incomplete)), sys.stderr)
        return
    names = [name for file in files for name in (wavs(file) if file.is_dir() else [str(file)])]
    if not names:
        raise ValueError(f"there is no wav in {' '.join(map(str, files))}")
    if _print(model.predict(names))[1]:
        raise typer.Exit(1)


def _print(found: Iterable[Prediction]) -> tuple[set[str], set[str]]:
    """Prints rows to standard output and errors to standard error; returns the files of both."""
    failed = {one.file: one.error for one in found if one.error is not None}
    _print_rows([getattr(one, name) for name in _COLUMNS] for one in found if one.error is None)
    print_lines((f"error: {error}" for error in failed.values()), sys.stderr)
    return {one.file for one in found} - failed.keys(), set(failed)


def _print_rows(rows: Iterable[Iterable[object]]) -> None:
    from asdray.evaluation.submission import csv_text

    sys.stdout.write(csv_text(list(row) for row in rows))
    sys.stdout.flush()
