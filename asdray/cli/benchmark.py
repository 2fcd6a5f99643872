"""``asdray benchmark``: a year's recipes over their seeds, and our scores beside the published scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asdray.cli.options import DATA, RESULTS, Address, Data, Dcase, NoDashboard, Quiet, Results, Set
from asdray.cli.screen import print_line, print_lines
from asdray.cli.sweep import print_result

if TYPE_CHECKING:
    from asdray.config.sweep import Sweep
    from asdray.store import Places
    from asdray.sweep.jobs import Job

app = typer.Typer()

FOLDER = Path(__file__).parents[2] / "benchmarks"
SYNTHETIC = Path("benchmark-synthetic")
"""Folder of a synthetic benchmark's data and results, apart from official ones."""

SMALL: Mapping[str, Any] = {"seeds": [0, 1], "train.epochs": 2, "train.steps": None, "audio.duration": 4.8}
"""Options of a synthetic benchmark, which only shows that everything runs.

A duration above 4.5 s is needed by the window of the four-branch network.
"""
TRAIN, TEST, SECONDS = 24, 16, 2.4
"""Synthetic clips per machine and section, and the length of a clip."""


@app.command()
def benchmark(
    context: typer.Context,
    dcase: Dcase,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help=f"Run on small synthetic data, all in {SYNTHETIC}.")
    ] = False,
    overrides: Set = None,
    data: Data = DATA,
    results: Results = RESULTS,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and run nothing.")] = False,
    no_dashboard: NoDashboard = False,
    quiet: Quiet = False,
) -> None:
    """Run or resume benchmarks/<DCASE>.yaml; print our scores beside the published ones.

    --set takes the options of a sweep file, and train.*, audio.* and frontend.* for all of its recipes.

    Example: asdray benchmark dcase2022 --synthetic --set 'seeds=[0]'
    """
    from asdray.config.files import parse_set
    from asdray.stages.columns import require_classes
    from asdray.store import Places
    from asdray.sweep.plan import plan
    from asdray.sweep.status import plan_lines

    asked = parse_set(overrides or [])
    if synthetic:
        data, results = SYNTHETIC / "data", SYNTHETIC / "results"
        asked = {**SMALL, "machines": {dcase: _few_machines(dcase)}, **asked}
    path = FOLDER / f"{dcase}.yaml"
    sweep = _benchmark_sweep(path, dcase, asked)
    places = Places.of(data, results)
    (_synthesise if synthetic else _check_data)(sweep, dcase, places)
    jobs = plan(sweep, places, str(path))
    require_classes(places.data, [(job.trial, job.dataset) for job in jobs])
    print_lines(plan_lines(sweep, jobs, places))
    if not synthetic and _lacks_published(sweep, jobs, dcase):
        print_line(
            f"no result published for {dcase} will stand beside ours: none of these systems is, with its "
            "options, backends, last checkpoint and all machines, exactly one that was published"
        )
    if dry_run:
        return
    from asdray.sweep.run import RunOptions, run_sweep

    options = RunOptions(address=address, dashboard=not no_dashboard, quiet=quiet)
    result = run_sweep(sweep, jobs, places, options)
    print_result(result, sweep, context.obj)


def _benchmark_sweep(path: Path, dcase: str, asked: Mapping[str, Any]) -> Sweep:
    """The sweep of ``benchmarks/<dcase>.yaml``; options of a system apply to all of its recipes."""
    from asdray.config.expand import load_sweep
    from asdray.config.system import System
    from asdray.dcase.years import get_year

    get_year(dcase)
    if not path.exists():
        raise ValueError(
            f"there is no {path}: benchmarks come with a clone of the repository, not with the package"
        )
    of_sweep = {key: value for key, value in asked.items() if key.split(".")[0] not in System.model_fields}
    of_systems = {key: value for key, value in asked.items() if key not in of_sweep}
    sweep = load_sweep(path, of_sweep)
    if not of_systems:
        return sweep
    recipes = {
        name: {"set": {**of_systems, **use.set}, "space": use.space} for name, use in sweep.recipes.items()
    }
    return load_sweep(path, {**of_sweep, "recipes": recipes})


def _few_machines(dcase: str) -> list[str]:
    """Three machines, or two of dev and two of eval if eval has machines of its own."""
    from asdray.dcase.years import get_year

    dev, evaluated = get_year(dcase).machines["dev"], get_year(dcase).machines["eval"]
    return [*dev[:3]] if dev == evaluated else [*dev[:2], *evaluated[:2]]


def _lacks_published(sweep: Sweep, jobs: Sequence[Job], dcase: str) -> bool:
    """True if the year has published results, but `published.beside` would put none beside ours."""
    from asdray.config.backend import backend_id
    from asdray.dcase.years import get_year
    from asdray.evaluation import published

    theirs = [link for link in published.links(sweep.recipes) if link.value.dcase == dcase]
    asked = set(sweep.machines_of(dcase))
    whole = {subset for subset, machines in get_year(dcase).machines.items() if asked.issuperset(machines)}
    ours = {(job.trial.system_name, backend_id(backend)) for job in jobs for backend in job.backends}
    return bool(theirs) and not any(
        "last" in sweep.checkpoints and link.value.subset in whole and (link.system, link.backend_id) in ours
        for link in theirs
    )


def _check_data(sweep: Sweep, dcase: str, places: Places) -> None:
    """Raises ValueError if the year's official data are missing, with the commands that get the data."""
    from asdray.dcase.manifest import dataset_kind, load_dataset

    if dataset_kind(places.data, dcase) != "official":
        raise ValueError(
            f"{places.data} holds a synthetic {dcase}: a benchmark is of official data, in another folder "
            f"(--data), or of synthetic data of its own (--synthetic)"
        )
    try:
        load_dataset(places.data, dcase).require(sweep.machines_of(dcase))
    except ValueError as error:
        where = f"--data {shlex.quote(str(places.data))}"
        labels = " --labels asdkit" if dcase == "dcase2022" else ""
        raise ValueError(
            f"{error}\nThese two commands get the data and prepare them:\n"
            f"  asdray download {dcase} {where}\n  asdray format {dcase}{labels} {where}"
        ) from None


def _synthesise(sweep: Sweep, dcase: str, places: Places) -> None:
    """Makes and formats the synthetic data of the sweep's machines, unless the data exist."""
    from asdray.dcase.format import format_dataset
    from asdray.dcase.synth import synthesise

    machines = sweep.machines_of(dcase)
    made = synthesise(places.data, dcase, machines=machines, train=TRAIN, test=TEST, seconds=SECONDS, seed=0)
    # The recipes of a benchmark may ask for the attributes of all test clips.
    format_dataset(places.data, dcase, labels="asdkit")
    print_line(f"synthetic data of {dcase}, {len(machines)} machines: {made.folder}")
