"""The commands for datasets: make, download, format and check them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from asdray.cli.options import DATA, RESULTS, Cache, Data, Dcase, Machines, Results
from asdray.cli.screen import DownloadView, print_line, print_lines, progress
from asdray.home import expanded
from asdray.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asdray.dcase.download import DownloadReport
    from asdray.dcase.format import FormatReport
    from asdray.doctor import Finding
    from asdray.store import Places

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


def _number_of(split: str) -> Any:
    """The option for a number of clips."""
    what = f"Number of {split} clips per machine and section."
    return typer.Option(parser=_clips, metavar="N|official", help=what)


@app.command()
def synth(
    dcase: Dcase,
    machines: Machines = "all",
    train: Annotated[Any, _number_of("training")] = 100,
    test: Annotated[Any, _number_of("test")] = 100,
    seconds: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sounds.")] = 0,
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Faults that mean spectra do not show, and another microphone."),
    ] = False,
    data: Data = DATA,
) -> None:
    """Make a synthetic dataset in the original layout of a year, with its ground truth.

    Example: asdray synth dcase2023 --machines fan,bandsaw --train 24 --test 24 --seconds 2
    """
    from asdray.dcase.synth import synthesise

    made = synthesise(
        expanded(data).absolute(),
        dcase,
        machines=_machine_list(machines),
        train=None if train == "official" else train,
        test=None if test == "official" else test,
        seconds=seconds,
        seed=seed,
        hard=hard,
    )
    verb = "made" if made.created else "found"
    print_line(f"{verb} {sum(made.counts.values())} synthetic clips of {dcase} in {made.folder}")


@app.command()
def download(
    dcase: Dcase,
    machines: Machines = "all",
    subset: Annotated[Literal["dev", "eval"] | None, typer.Option(help="A subset; default both.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A mirror in place of the public hosts.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="A folder of zips or an unpacked tree, in place of the network."
        ),
    ] = None,
    keep_zips: Annotated[bool, typer.Option("--keep-zips", help="Leave the zips beside the data.")] = False,
    jobs: Annotated[int, typer.Option(help="Number of files to fetch at a time.")] = 4,
    no_ground_truth: Annotated[
        bool, typer.Option("--no-ground-truth", help="Leave out the labels of the eval test clips.")
    ] = False,
    data: Data = DATA,
) -> None:
    """Get a year's official data and ground truth; files on disk are left alone.

    Example: asdray download dcase2023 --machines fan,bandsaw
    """
    from asdray.dcase.download import Download

    data = expanded(data).absolute()
    view = DownloadView(console())
    with view.bars:
        report = Download(
            data,
            dcase,
            machines=_machine_list(machines),
            subset=subset,
            ground_truth=not no_ground_truth,
            base_url=base_url,
            source=None if source is None else expanded(source).absolute(),
            keep_zips=keep_zips,
            jobs=jobs,
            on_progress=view.show,
            on_note=view.note,
        ).run()
    print_lines(download_lines(report, data))
    if report.failed:
        reasons = (f"  {name}: {reason}" for name, reason in report.failed.items())
        print_lines([f"{len(report.failed)} missing:", *reasons], sys.stderr)
        sys.exit(1)


def download_lines(report: DownloadReport, data: Path) -> list[str]:
    """The result of a download: the machines on disk, per subset, and the next command."""
    from asdray.dcase.manifest import hint
    from asdray.dcase.records import has_ground_truth, machines_present

    dcase = report.folder.name
    lines = [f"{report.folder}: {len(report.brought)} brought, {len(report.found)} found there"]
    for subset, machines in machines_present(data, dcase).items():
        lines.append(f"  {subset}: {', '.join(machines) or 'nothing'}")
    lines.append(f"  ground truth: {'yes' if has_ground_truth(data, dcase) else 'none'}")
    again = "get what is missing with the same command, or go on without it" if report.failed else "next"
    return [*lines, f"{again}: {hint('format', dcase, data)}"]


@app.command(name="format")
def format_(
    dcase: Dcase,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="Folder of the ground truth; default where `synth` and `download` put it."),
    ] = None,
    link: Annotated[
        Literal["symlink", "hardlink", "copy"], typer.Option(help="Kind of the files in the unified tree.")
    ] = "symlink",
    labels: Annotated[
        Literal["official", "asdkit"],
        typer.Option(help="Source of the labels of 2022's Toy machines: the evaluator, or ASDKit's lists."),
    ] = "official",
    partial: Annotated[bool, typer.Option("--partial", help="Accept missing clips and labels.")] = False,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Mark recordings that others made up as synthetic data.")
    ] = False,
    data: Data = DATA,
) -> None:
    """Unify names and labels of a year's dataset, write its manifest, and list missing files.

    Example: asdray format dcase2023
    """
    from asdray.dcase.format import format_dataset
    from asdray.store import formatted_dir

    with progress(f"format {dcase}") as on_progress:
        report = format_dataset(
            expanded(data).absolute(),
            dcase,
            ground_truth=ground_truth,
            link=link,
            labels=labels,
            synthetic=synthetic,
            on_progress=on_progress,
        )
    _print_format(report, dcase, formatted_dir(data, dcase))
    if report.audit.missing and not partial:
        ways = _remedies(data, dcase, report)
        print_lines([*ways, "then format again; or accept what is missing with --partial"], sys.stderr)
        sys.exit(1)


def _print_format(report: FormatReport, dcase: str, folder: Path) -> None:
    """Prints clips found and expected per machine, counts of links, notes, and a summary of missing files."""
    from asdray.dcase import audit

    grid = audit.table(report.audit)
    grid.title = f"{dcase} ({report.dataset.kind})"
    console().print(grid)
    print_line(
        f"{report.n_clips} clips in {folder}: {report.made} links made, "
        f"{report.kept} kept, {report.removed} stale ones removed"
    )
    print_lines(report.notes)
    for machine, n in report.unlabelled.items():
        print_line(f"{machine}: {n} test clips without a label; they are scored but not evaluated")
    for line in audit.summary(report.audit):
        console().print(line, style="red" if report.audit.missing else None, soft_wrap=True, markup=False)


def _remedies(data: Path, dcase: str, report: FormatReport) -> list[str]:
    """The ways to get the missing files, each once."""
    from asdray.dcase.records import remedy

    data = expanded(data).absolute()
    missing = report.audit.missing
    machines = dict.fromkeys(d.section[:2] for d in missing if not d.of_truth)
    ways = [remedy(data, dcase, report.dataset.kind, subset, machine) for subset, machine in machines]
    if any(d.of_truth for d in missing):
        ways.append("add ground truth with the labels and domains that are missing")
    return list(dict.fromkeys(ways))


@app.command()
def doctor(
    dcase: Annotated[
        str | None, typer.Argument(help="A year, whose dataset is checked; default: check this machine.")
    ] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Decode every clip; compare decoded audio and results with records."),
    ] = False,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
) -> None:
    """Check this machine, or a year's dataset, before a long run.

    Example: asdray doctor dcase2023 --deep
    """
    from asdray.store import Places

    places = Places.of(data, results, cache_dir)
    if dcase is not None:
        findings = _check_year(places, dcase, deep)
    elif deep:
        raise ValueError(
            "--deep decodes a year's clips: name the year, as in `asdray doctor dcase2023 --deep`"
        )
    else:
        from asdray.doctor.machine import check_machine

        findings = check_machine(places)
    bad = 0
    for finding in findings:
        _print_finding(finding)
        bad += finding.is_bad
    print_line(f"{bad} thing{'s' * (bad != 1)} wrong or missing" if bad else "nothing is wrong")
    if bad:
        sys.exit(1)


def _check_year(places: Places, dcase: str, deep: bool) -> Iterable[Finding]:
    from asdray.dcase import audit
    from asdray.doctor.dataset import check_dataset

    with progress(f"doctor {dcase}", plain=deep) as on_progress:
        report = check_dataset(places, dcase, deep=deep, on_progress=on_progress)
    if report.audit and report.audit.found:
        console().print(audit.table(report.audit))
    return report.findings


def _print_finding(finding: Finding) -> None:
    from rich.text import Text

    style = {"ok": "green", "note": "yellow"}.get(finding.kind, "bold red")
    console().print(Text.assemble((f"{finding.kind:<8}", style), finding.text), soft_wrap=True)
