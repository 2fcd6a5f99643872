"""``asdray benchmark``: the recipes of a year over their seeds, then ours beside the published results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asdray.by_hand import DATA, RESULTS, Data, Dcase, Results, Set
from asdray.sweep_output import print_lines, run_and_print

if TYPE_CHECKING:
    from asdray.config.sweep import Sweep
    from asdray.store import Places
    from asdray.sweep.jobs import Job

app = typer.Typer()

FOLDER = Path(__file__).parent.parent / "benchmarks"
SYNTHETIC = Path("benchmark-synthetic")
"""Where a synthetic benchmark has its data and results: apart from official ones."""

SMALL: Mapping[str, Any] = {"seeds": [0, 1], "train.epochs": 2, "audio.duration": 4.8}
"""What a synthetic benchmark changes: it shows that everything runs. The window of the four-branch network
needs 4.5 s."""
TRAIN, TEST, SECONDS = 24, 16, 2.4
"""Clips per machine and section, and their length."""


@app.command()
def benchmark(
    context: typer.Context,
    dcase: Dcase,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help=f"On small synthetic data, all in {SYNTHETIC}.")
    ] = False,
    overrides: Set = None,
    data: Data = DATA,
    results: Results = RESULTS,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray; default: start one here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Start no Ray dashboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print failures and the result only.")] = False,
) -> None:
    """Run or resume benchmarks/<DCASE>.yaml; print our scores beside the published ones.

    --set takes the options of a sweep file, and train.*, audio.* and frontend.* for all of its recipes.
    """
    from asdray.config.load import parse_set
    from asdray.config.sweep import load_sweep
    from asdray.dcase.years import get_year
    from asdray.stages.columns import require_classes
    from asdray.store import Places
    from asdray.sweep.dry_run import plan_lines
    from asdray.sweep.plan import plan

    get_year(dcase)
    path = FOLDER / f"{dcase}.yaml"
    if not path.exists():
        raise ValueError(
            f"there is no {path}: benchmarks come with a clone of the repository, not with the package"
        )
    asked = parse_set(overrides or [])
    if synthetic:
        data, results = SYNTHETIC / "data", SYNTHETIC / "results"
        asked = {**SMALL, "machines": {dcase: _few_machines(dcase)}, **asked}
    sweep = load_sweep(path, _for_all_recipes(load_sweep(path, _of_sweep(asked)), asked))
    places = Places.of(data, results)
    if synthetic:
        _synthesise(sweep, dcase, places)
    else:
        _check_data(sweep, dcase, places)
    jobs = plan(sweep, places, str(path))
    require_classes(places.data, [(job.trial, job.dataset) for job in jobs])
    print_lines(plan_lines(sweep, jobs, places))
    if not synthetic and _stands_alone(sweep, jobs, dcase):
        print(
            f"no result published for {dcase} will stand beside ours: none of these systems is, with its "
            "options, backends, last checkpoint and all machines, exactly one that was published"
        )
    if dry_run:
        return
    run_and_print(
        sweep, jobs, places, address=address, dashboard=not no_dashboard, quiet=quiet, command=context.obj
    )


def _few_machines(dcase: str) -> list[str]:
    """Three machines, or two of dev and two of eval where these have machines of their own."""
    from asdray.dcase.years import get_year

    dev, evaluated = get_year(dcase).machines["dev"], get_year(dcase).machines["eval"]
    return [*dev[:3]] if dev == evaluated else [*dev[:2], *evaluated[:2]]


def _is_of_system(key: str) -> bool:
    from asdray.config.system import System

    return key.split(".")[0] in System.model_fields


def _of_sweep(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if not _is_of_system(key)}


def _for_all_recipes(sweep: Sweep, asked: Mapping[str, Any]) -> dict[str, Any]:
    """``asked`` with options of a system as fixed overrides of every recipe that says nothing else."""
    shared = {key: value for key, value in asked.items() if _is_of_system(key)}
    recipes = {
        name: {"set": {**shared, **use.set}, "space": use.space} for name, use in sweep.recipes.items()
    }
    return {**_of_sweep(asked), **({"recipes": recipes} if shared else {})}


def _stands_alone(sweep: Sweep, jobs: Sequence[Job], dcase: str) -> bool:
    """Whether the year has published results, but none that `published.beside` would put beside ours."""
    from asdray.config.backend import backend_id
    from asdray.config.load import load_recipe
    from asdray.dcase.years import get_year
    from asdray.evaluation import published

    theirs = [v for v in published.load() if v.dcase == dcase and v.metric == "official" and v.recipe]
    asked = set(sweep.machines_of(dcase))
    whole = {subset for subset, machines in get_year(dcase).machines.items() if asked.issuperset(machines)}
    ours = {(job.trial.system_name, backend_id(backend)) for job in jobs for backend in job.backends}
    return bool(theirs) and not any(
        "last" in sweep.checkpoints
        and value.subset in whole
        and (f"{value.recipe}-{load_recipe(value.recipe).system.id}", value.backend_id) in ours
        for value in theirs
    )


def _check_data(sweep: Sweep, dcase: str, places: Places) -> None:
    """Raises ValueError where the year's official data are not there, with the commands that get them."""
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
    """Makes and formats the synthetic data of the sweep's machines, unless they are there."""
    from asdray.dcase.format import format_dataset
    from asdray.dcase.synth import synthesise

    machines = sweep.machines_of(dcase)
    made = synthesise(places.data, dcase, machines=machines, train=TRAIN, test=TEST, seconds=SECONDS, seed=0)
    # The recipes of a benchmark may ask for the attributes of all test clips.
    format_dataset(places.data, dcase, labels="asdkit")
    print(f"synthetic data of {dcase}, {len(machines)} machines: {made.folder}")
