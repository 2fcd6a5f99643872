"""The commands that get, make, check and format datasets: parse, call, print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from asdray.by_hand import DATA, RESULTS, Cache, Data, Dcase, Machines, Results

if TYPE_CHECKING:
    from rich.console import Console

    from asdray.dcase.format import FormatReport
    from asdray.dcase.threads import Progress
    from asdray.doctor import Finding

Link = Literal["symlink", "hardlink", "copy"]
Labels = Literal["official", "asdkit"]

app = typer.Typer()


def _machine_list(machines: str) -> tuple[str, ...] | None:
    return None if machines == "all" else tuple(machines.split(","))


def _clips(text: str | int) -> int | str:
    if text == "official":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor 'official'") from None


@app.command()
def synth(
    dcase: Dcase,
    machines: Machines = "all",
    train: Annotated[
        Any,
        typer.Option(parser=_clips, metavar="N|official", help="Training clips per machine and section."),
    ] = 100,
    test: Annotated[
        Any, typer.Option(parser=_clips, metavar="N|official", help="Test clips per machine and section.")
    ] = 100,
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
        train=None if train == "official" else train,
        test=None if test == "official" else test,
        seconds=seconds,
        seed=seed,
    )
    verb = "made" if made.created else "found"
    print(f"{verb} {sum(made.counts.values())} synthetic clips of {dcase} in {made.folder}")


@app.command()
def download(
    dcase: Dcase,
    machines: Machines = "all",
    subset: Annotated[Literal["dev", "eval"] | None, typer.Option(help="Default: both.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A mirror in place of the public hosts.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Take the zips or the unpacked tree in DIR, fetch nothing."
        ),
    ] = None,
    keep_zips: Annotated[bool, typer.Option("--keep-zips", help="Leave the zips beside the data.")] = False,
    jobs: Annotated[int, typer.Option(help="Files at a time.")] = 4,
    no_ground_truth: Annotated[
        bool, typer.Option("--no-ground-truth", help="Leave out the labels of the eval test clips.")
    ] = False,
    data: Data = DATA,
) -> None:
    """Get a year's official data and ground truth; what is there already is left alone."""
    from rich.console import Console

    from asdray.dcase.download import download_dataset
    from asdray.dcase.download_view import View, report_lines

    data = data.expanduser().absolute()
    with View(Console(highlight=False)) as view:
        report = download_dataset(
            data,
            dcase,
            machines=_machine_list(machines),
            subset=subset,
            ground_truth=not no_ground_truth,
            base_url=base_url,
            source=None if source is None else source.expanduser().absolute(),
            keep_zips=keep_zips,
            jobs=jobs,
            on_progress=view.step,
            on_note=view.note,
        )
    for line in report_lines(report, data):
        print(line)
    if report.failed:
        print(f"{len(report.failed)} missing:", file=sys.stderr)
        for name, why in report.failed.items():
            print(f"  {name}: {why}", file=sys.stderr)
        sys.exit(1)


@app.command(name="format")
def format_(
    dcase: Dcase,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Default: where synth and download put it.")
    ] = None,
    link: Annotated[Link, typer.Option(help="How the unified tree holds the files.")] = "symlink",
    labels: Annotated[
        Labels, typer.Option(help="asdkit: reproduce that toolkit's labels of 2022's Toy machines.")
    ] = "official",
    partial: Annotated[bool, typer.Option("--partial", help="Accept that something is missing.")] = False,
    data: Data = DATA,
) -> None:
    """Unify names and labels of a year's dataset; write its manifest; say what is missing."""
    from asdray.dcase import audit
    from asdray.dcase.format import format_dataset
    from asdray.store import formatted_dir

    with progress(f"format {dcase}") as on_progress:
        report = format_dataset(
            data.expanduser().absolute(),
            dcase,
            ground_truth=ground_truth,
            link=link,
            labels=labels,
            on_progress=on_progress,
        )
    grid = audit.table(report.audit)
    grid.title = f"{dcase} ({report.dataset.kind})"
    console().print(grid)
    print(
        f"{report.n_clips} clips in {formatted_dir(data, dcase)}: {report.made} links made, "
        f"{report.kept} kept, {report.removed} stale ones removed"
    )
    for note in report.notes:
        print(note)
    for machine, n in report.unlabelled.items():
        print(f"{machine}: {n} test clips without a label; they are scored but not evaluated")
    for line in audit.summary(report.audit):
        console().print(line, style="red" if report.audit.missing else None, soft_wrap=True, markup=False)
    if report.audit.missing and not partial:
        for how in _remedies(data, dcase, report):
            print(how, file=sys.stderr)
        print("then format again; or accept what is missing with --partial", file=sys.stderr)
        sys.exit(1)


def _remedies(data: Path, dcase: str, report: FormatReport) -> list[str]:
    """What to do about what is missing, each way once."""
    from asdray.dcase.originals import remedy

    data = data.expanduser().absolute()
    missing = report.audit.missing
    ours = dict.fromkeys(d.section[:2] for d in missing if not d.of_truth)
    ways = [remedy(data, dcase, report.dataset.kind, subset, machine) for subset, machine in ours]
    if any(d.of_truth for d in missing):
        ways.append("add ground truth with the labels and domains that are missing")
    return list(dict.fromkeys(ways))


@app.command()
def doctor(
    dcase: Annotated[
        str | None, typer.Argument(help="A year; without one, this machine is looked at.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every clip.")] = False,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
) -> None:
    """Say what is wrong with this machine, or with a year's dataset, before hours are spent."""
    from asdray.store import Places

    places = Places.of(data, results, cache_dir)
    bad = 0
    if dcase is None:
        from asdray.doctor.machine import check_machine

        if deep:
            raise ValueError(
                "--deep decodes a year's clips: name the year, as in `asdray doctor dcase2023 --deep`"
            )
        for finding in check_machine(places):
            _print_finding(finding)
            bad += finding.is_bad
    else:
        from asdray.dcase import audit
        from asdray.doctor.dataset import check_dataset

        with progress(f"doctor {dcase}", plain=deep) as on_progress:
            report = check_dataset(places, dcase, deep=deep, on_progress=on_progress)
        if report.audit and report.audit.found:
            console().print(audit.table(report.audit))
        for finding in report.findings:
            _print_finding(finding)
            bad += finding.is_bad
    print(f"{bad} thing{'s' * (bad != 1)} wrong or missing" if bad else "nothing is wrong")
    if bad:
        sys.exit(1)


def _print_finding(finding: Finding) -> None:
    from rich.text import Text

    style = {"ok": "green", "note": "yellow"}.get(finding.kind, "bold red")
    console().print(Text.assemble((f"{finding.kind:<8}", style), finding.text), soft_wrap=True)


def console() -> Console:
    """Where tables and coloured lines go; piped output does not lose columns to a guessed width."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


@contextlib.contextmanager
def progress(what: str, plain: bool = False) -> Iterator[Progress | None]:
    """A bar on the terminal while the block runs.

    Args:
        plain: whether there is a line for every tenth where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            if 10 * done // total > told:
                told = 10 * done // total
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

        yield tell if plain else None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
