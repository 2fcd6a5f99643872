"""The commands ``sweep``, ``status`` and ``report``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdray.cli.options import (
    DATA,
    RESULTS,
    Address,
    Cache,
    Data,
    Metrics,
    NoDashboard,
    Plugins,
    Quiet,
    Results,
    Set,
    TrustPlugins,
)
from asdray.cli.screen import print_line, print_lines, progress, told_if_slow
from asdray.home import expanded
from asdray.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from asdray.config.sweep import Sweep
    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.store import Places
    from asdray.sweep.jobs import Job
    from asdray.sweep.run import Result

app = typer.Typer()

SweepName = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep's name, or the path of a sweep file.")
]

Only = Annotated[
    list[str] | None,
    typer.Option(help="Conditions on the trials to run, such as 'dcase=dcase2023 seed=0,1'."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run stages again that failed and would fail again.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete all results of the trials first; the command asks before.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Answer the question of --fresh with yes.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show trials, missing work, time and disk, and run nothing.")
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="First compare every file with its record; what is damaged is made again."),
]
WallTime = Annotated[
    str | None, typer.Option(help="Stop cleanly within this time (exit code 75): 3h50m, 13800, 03:50:00.")
]


@app.command()
def sweep(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(help="A sweep file.")],
    overrides: Set = None,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    plugin: Plugins = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    fresh: Fresh = False,
    yes: Yes = False,
    verify: Verify = False,
    address: Address = None,
    dry_run: DryRun = False,
    wall_time: WallTime = None,
    no_dashboard: NoDashboard = False,
    quiet: Quiet = False,
) -> None:
    """Run or resume a sweep: only missing work is done.

    Example: asdray sweep sweeps/demo.yaml --only 'dcase=dcase2023 seed=0' --dry-run
    """
    from asdray.config.files import parse_set, seconds_of
    from asdray.stages.columns import require_classes
    from asdray.store import Places
    from asdray.sweep import stop
    from asdray.sweep.plan import chooser, load

    seconds = None if wall_time is None else seconds_of(wall_time, "--wall-time")
    places = Places.of(data, results, cache_dir)
    with told_if_slow("" if quiet or dry_run else f"reading {spec} and what its trials have done ..."):
        plan, jobs = load(spec, parse_set(overrides or []), places, plugin or [], fresh)
    if only is not None and plan.search.samples:
        raise ValueError(
            "--only chooses among the trials of a grid, and this sweep is a search: leave --only out"
        )
    asked = (lambda job: True) if only is None else chooser(only, jobs)
    require_classes(places.data, [(job.trial, job.dataset) for job in jobs if asked(job)])
    if fresh:
        _delete_results(plan, [job for job in jobs if asked(job)], places, yes, dry_run)
        if dry_run:
            return
        plan, jobs = load(spec, parse_set(overrides or []), places, plugin or [])
    if verify:
        _verify(plan, [job for job in jobs if asked(job)], places, dry_run)
    if dry_run:
        from asdray.sweep.status import plan_lines

        print_lines(plan_lines(plan, jobs, places, asked, retry_failed))
        return
    if seconds is None and not quiet and (hint := stop.slurm_hint(os.environ)):
        print_line(hint)
    if not quiet:
        print_line(f"sweep {plan.name}: {len(jobs)} trials; reading what is done ...", flush=True)
    from asdray.sweep.run import RunOptions, run_sweep

    options = RunOptions(
        address=address,
        dashboard=not no_dashboard,
        quiet=quiet,
        only=asked,
        retry_failed=retry_failed,
        stop_at=None if seconds is None else stop.stop_at(seconds),
    )
    result = run_sweep(plan, jobs, places, options)
    # The command that goes on after a stop must not delete the results again.
    again = [argument for argument in context.obj if argument not in ("--fresh", "--yes", "--verify")]
    print_result(result, plan, again, left_out=sum(not asked(job) for job in jobs))


def _verify(plan: Sweep, jobs: Sequence[Job], places: Places, dry_run: bool) -> None:
    """``--verify``: names every damaged file; without ``--dry-run`` these count as missing from now on."""
    from asdray.sweep.verify import verify

    with progress(f"verify {plan.name}", plain=True) as on_progress:
        damaged = verify(plan.name, jobs, places, forget=not dry_run, on_progress=on_progress)
    print_lines(damaged)
    after = "would be made again" if dry_run else "made again below"
    files = "1 damaged file" if len(damaged) == 1 else f"{len(damaged)} damaged files"
    print_line(f"--verify: {files}, {after}" if damaged else "--verify: nothing is damaged")


def _delete_results(plan: Sweep, jobs: Sequence[Job], places: Places, yes: bool, dry_run: bool) -> None:
    """``--fresh``: lists the results to delete, asks, and deletes them."""
    from asdray.sweep.keep import delete, results_of

    found = results_of(plan, jobs, places)
    if not found.folders and not plan.search.samples:
        print_line("--fresh: there are no results of these trials yet")
        return
    print_lines(found.lines())
    if plan.search.samples:
        print_line("and its study: the search starts over")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError(
                "--fresh deletes the results above: say --yes as well, or run the command on a terminal"
            )
        if not typer.confirm("Delete them?"):
            raise ValueError("--fresh: nothing was deleted and nothing was run")
    delete(found, plan, places)


def print_result(result: Result, plan: Sweep, command: Sequence[str], left_out: int = 0) -> None:
    """Prints the result of a run: leaderboard, counts, failures; exits unless the sweep is complete.

    Args:
        command: the arguments that continue the sweep after a stop, without ``asdray``.
        left_out: number of trials that ``--only`` leaves out.

    Raises:
        SystemExit: 75 for a stopped sweep, 1 if a stage failed or a trial is not complete, also with
            ``fail_fast``.
    """
    from asdray.store import SweepDir
    from asdray.sweep.progress import failure_line, summary_lines

    print_board(result.board, result.folder.name)
    asked = f", {result.trials - left_out} asked for" if left_out else ""
    print_line(f"sweep {plan.name}: {result.trials} trials{asked}")
    print_lines(summary_lines(result.counts, result.failures))
    print_line(f"everything is in {result.folder}")
    if (report := SweepDir(result.folder).report).is_file():
        print_line(f"the report: {report}")
    if result.stopped:
        print_line(f"stopped; to go on: asdray {shlex.join(command)}", to=sys.stderr)
        sys.exit(75)
    for events, title in (
        (result.failures, f"{len(result.failures)} stages failed:"),
        (result.failed_before, "failed before; --retry-failed tries again:"),
    ):
        if events:
            print_line(title, to=sys.stderr)
        for event in events:
            print_line(f"  {failure_line(event, result.names)}", to=sys.stderr)
    if result.failed_fast:
        text = "the run was ended by its first failure; to go on with the rest: asdray"
        print_line(f"{text} {shlex.join(command)}", to=sys.stderr)
    elif result.unfinished:
        print_line(f"not complete: {', '.join(result.unfinished)}", to=sys.stderr)
    if result.failures or result.unfinished:
        sys.exit(1)


def print_board(board: Leaderboard, title: str) -> None:
    """Prints a leaderboard with notes, then our rows beside the published rows of the same systems."""
    from asdray.evaluation import leaderboard as text
    from asdray.evaluation.published import beside

    width = console().width
    table, narrow = text.rich_table(board, title, width)
    _print_table(table, [*narrow, *text.notes(board)])
    frame = beside(board)
    if len(frame):
        table, left_out = text.beside_table(frame, width)
        narrow = [f"Left out at this width: {', '.join(left_out)}."] if left_out else []
        _print_table(table, [*narrow, text.BESIDE_NOTE])


def _print_table(table: Table, notes: Iterable[str]) -> None:
    screen = console()
    screen.print(table)
    for note in notes:
        screen.print(note, markup=False)


@app.command()
def status(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP]",
            help="A sweep's name, or the path of a sweep file; none: a line for every sweep.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 2.0,
    plugin: Plugins = None,
    trust_plugins: TrustPlugins = False,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Show the done, running, failed and missing work of a sweep, from any shell, during the run and after.

    Example: asdray status dis_grid --watch
    """
    from asdray.cli.screen import watched
    from asdray.sweep.status import status as status_of
    from asdray.sweep.status import sweeps

    places = places_of(context, name, data, results)

    def look() -> RenderableType:
        if name is None:
            return "\n".join(sweeps(places.results))
        with read_sweep(name, places, plugin, trust_plugins) as (plan, jobs):
            return status_of(plan, jobs, places, console().width)

    if watch:
        watched(look, interval)
    else:
        console().print(look(), soft_wrap=not sys.stdout.isatty())


@app.command()
def report(
    context: typer.Context,
    name: SweepName,
    rank_by: Annotated[
        str | None,
        typer.Option(
            help="Column that ranks: dcase2022-eval, eval_hmean, ...; default that of the sweep file."
        ),
    ] = None,
    metric: Metrics = None,
    theirs: Annotated[
        list[Path] | None,
        typer.Option("--with", help="Another group's bundle, whose rows stand beside; may be repeated."),
    ] = None,
    plugin: Plugins = None,
    trust_plugins: TrustPlugins = False,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Rebuild a sweep's tables and leaderboard from its trials, and print the leaderboard.

    Of another group's bundle, `asdray report THEIRS.zip` prints the leaderboard, recomputed from its scores.

    Example: asdray report dis_grid --rank-by dev_amean --metric s_auc
    """
    if name.endswith(".zip"):
        _print_bundle(Path(name))
        return
    from asdray.evaluation.tables import check_metric
    from asdray.stages.made_by import present_lines
    from asdray.sweep.bundle import rows_beside
    from asdray.sweep.outputs import write_metric, write_report_beside, write_results
    from asdray.sweep.summaries import made

    metrics = [check_metric(name) for name in metric or ["official"]]
    places = places_of(context, name, data, results)
    with read_sweep(name, places, plugin, trust_plugins) as (plan, jobs):
        print_lines(present_lines((made(job, plan, places) for job in jobs), places.results))
        board = write_results(plan, jobs, places, rank_by=rank_by, report=not theirs)
        if theirs:
            rows, left_out = rows_beside(theirs, plan, jobs, places)
            board = write_report_beside(plan, jobs, places, rows, rank_by=rank_by)
            print_lines(left_out)
        for one in dict.fromkeys(metrics):
            if one == "official":
                print_board(board, plan.name)
            else:
                print_board(write_metric(plan, jobs, places, one, rank_by=rank_by), f"{plan.name}, {one}")


def places_of(context: typer.Context, name: str | None, data: Path, results: Path) -> Places:
    """The folders of a command that reads a sweep: unless the user names the data, those of its last run."""
    from asdray.store import Places
    from asdray.sweep.progress import data_of

    places = Places.of(data, results)
    source = context.get_parameter_source("data")
    if name is None or source is None or source.name != "DEFAULT":
        return places
    path = _sweep_file(name, places.results)
    own = not expanded(path).absolute().is_relative_to(places.results / "sweeps")
    return Places.of(data_of(_folder_of(path, places) if own else path.parent) or data, results)


def _print_bundle(path: Path) -> None:
    """Prints the leaderboard of a bundle, recomputed from its scores, and what is refused."""
    from asdray.evaluation.bundle import read
    from asdray.evaluation.recomputed import board, recompute

    theirs = recompute(read(path))
    print_board(board(theirs), f"{theirs.bundle.header.name} of {path.name}")
    print_line(f"recomputed from the scores in {theirs.bundle.source}")
    print_lines(theirs.refused)


@contextlib.contextmanager
def read_sweep(
    name: str, places: Places, plugins: Sequence[Path] | None, trust: bool
) -> Iterator[tuple[Sweep, tuple[Job, ...]]]:
    """A sweep and its jobs; within the context, plugins that its results describe are stand-ins.

    Args:
        plugins: files of the user: plugins of the same content run.
        trust: True to run the code of all plugins.
    """
    from asdray.config.base import load_plugins
    from asdray.config.stand_in import reading
    from asdray.plugin_results import reader
    from asdray.sweep.plan import load

    path = _sweep_file(name, places.results)
    # A sweep file that the user names is the user's own, unless it lies among results.
    own = not expanded(path).absolute().is_relative_to(places.results / "sweeps")
    with reading() as table:
        use = reader(table, _folder_of(path, places) if own else path.parent, own, plugins or ())
        yield load(path, {}, places, use=load_plugins if trust else use)


def _folder_of(path: Path, places: Places) -> Path:
    """The folder of the results of a user's sweep file."""
    from asdray.config.files import read_yaml
    from asdray.store import sweep_dir

    value = read_yaml(path)
    name = value.get("name") if isinstance(value, dict) else None
    return sweep_dir(places.results, name) if isinstance(name, str) else path.parent


def _sweep_file(name: str, results: Path) -> Path:
    """The path of a sweep file: ``name`` itself, or the resolved spec of the sweep of this name.

    Raises:
        ValueError: the sweep's folder is a copy of another sweep's.
    """
    from asdray.store import SweepDir, sweep_dir
    from asdray.sweep.outputs import name_in

    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = sweep_dir(results, name)
    if (named := name_in(folder)) not in (None, folder.name):
        raise ValueError(
            f"{folder} is a copy of the sweep {named!r}, as its sweep.yaml says, or has been renamed: give "
            f"{named!r}, or rename the folder back; its tables can be read as they are (asdray.load_results)"
        )
    return SweepDir(folder).spec
