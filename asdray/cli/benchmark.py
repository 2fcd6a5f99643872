"""``asdray benchmark``: a year's recipes over their seeds, and our scores beside the published scores."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asdray.cli.options import DATA, RESULTS, Address, Data, Dcase, NoDashboard, Quiet, Results, Set
from asdray.cli.screen import print_line, print_lines
from asdray.cli.sweep import print_result

if TYPE_CHECKING:
    from asdray.config.sweep import Sweep
    from asdray.config.system import System
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

    Recipes of encoders whose weights are missing are left out, and told. --synthetic has made-up weights for
    all of them, and adds the other recipes that reproduce a published score.

    --set takes the options of a sweep file, and train.*, audio.* and frontend.* for all of its recipes.

    Example: asdray benchmark dcase2022 --synthetic --set 'seeds=[0]'
    """
    from asdray.config.files import parse_set
    from asdray.stages.columns import require_classes
    from asdray.store import Places
    from asdray.sweep.plan import plan
    from asdray.sweep.status import plan_lines

    asked = parse_set(overrides or [])
    path = FOLDER / f"{dcase}.yaml"
    if synthetic:
        data, results = SYNTHETIC / "data", SYNTHETIC / "results"
    places = Places.of(data, results)
    if synthetic:
        sweep = _synthetic_sweep(path, dcase, asked)
        _synthesise(sweep, dcase, places)
    else:
        sweep = _benchmark_sweep(path, dcase, asked)
        _check_data(sweep, dcase, places)
        sweep = _with_weights_that_are_here(sweep, path, dcase, asked, places)
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
    from asdray.cli.bundle import print_packed
    from asdray.sweep.bundle import write_bundle
    from asdray.sweep.run import RunOptions, run_sweep

    options = RunOptions(address=address, dashboard=not no_dashboard, quiet=quiet)
    result = run_sweep(sweep, jobs, places, options)
    try:
        print_result(result, sweep, context.obj)
    finally:
        if result.counts["table"].complete and not result.stopped:
            print_packed(write_bundle(sweep, jobs, places), sweep)


# -------------------------------------------------------------------------------------------- the sweep


def _benchmark_sweep(
    path: Path,
    dcase: str,
    asked: Mapping[str, Any],
    more: Sequence[str] = (),
    made_up: bool = False,
) -> Sweep:
    """The sweep of ``benchmarks/<dcase>.yaml``; options of a system apply to all of its recipes.

    Backends by which its recipes reproduce a published score of the year follow those of the file, unless
    ``asked`` names the backends.

    Args:
        more: further recipes, whose backends follow whatever the year of the published score.
        made_up: True for made-up weights in place of all published ones.
    """
    from asdray.config.expand import load_sweep
    from asdray.config.recipe_use import RecipeUse
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
    uses = {**{name: RecipeUse() for name in more}, **sweep.recipes}
    recipes: dict[str, Any] = {}
    for name in dict.fromkeys([*sweep.recipes, *more]):
        use = uses[name]
        options = _made_up_options(use.content(name).system) if made_up else {}
        recipes[name] = {**use.model_dump(mode="json"), "set": {**options, **of_systems, **use.set}}
    if "backends" not in asked:
        backends = [b.model_dump(mode="json") for b in sweep.backends]
        of_sweep["backends"] = backends + _further_backends(sweep, dcase, more)
    return load_sweep(path, {**of_sweep, "recipes": recipes})


def _further_backends(sweep: Sweep, dcase: str, more: Iterable[str]) -> list[dict[str, Any]]:
    """Backends by which recipes reproduce a published score, and which the sweep lacks; not own scores."""
    from asdray.config.backend import OwnBackend
    from asdray.config.recipe_use import RecipeUse
    from asdray.evaluation import published

    of_year = {link.recipe for link in published.links(sweep.recipes) if link.value.dcase == dcase}
    names = [*(name for name in sweep.recipes if name in of_year), *more]
    found = [sweep.recipes.get(name, RecipeUse()).content(name) for name in names]
    wanted = dict.fromkeys(target.backend for recipe in found for target in recipe.reproduces)
    lacking = [b for b in wanted if b not in sweep.backends and not isinstance(b, OwnBackend)]
    return [backend.model_dump(mode="json") for backend in lacking]


def _synthetic_sweep(path: Path, dcase: str, asked: Mapping[str, Any]) -> Sweep:
    """A small sweep of all recipes that reproduce a published score, with made-up weights.

    Prints the recipes that cannot process the clips of the year.
    """
    from asdray.config.recipe_files import recipe_names
    from asdray.config.system import load_recipe

    asked = {**SMALL, "machines": {dcase: _few_machines(dcase)}, **asked}
    more = []
    for name in recipe_names() if "recipes" not in asked else ():
        recipe = load_recipe(name)
        if recipe.reproduces:
            try:
                recipe.system.check(dcase)
                more.append(name)
            except ValueError as error:
                print_line(f"left out: {name}: {error}")
    return _benchmark_sweep(path, dcase, asked, more, made_up=True)


def _made_up_options(system: System) -> dict[str, Any]:
    """Options that put a narrow network with made-up weights in the place of every pretrained one."""
    from asdray.config.weights import MADE_UP

    options: dict[str, Any] = {}
    for path, network in _networks(system):
        if network in MADE_UP:
            options[f"{path}.network"] = MADE_UP[network]
            options[f"{path}.weights"] = f"encoders/{MADE_UP[network]}.pt"
    return options


def _networks(system: System, at: str = "frontend") -> Iterator[tuple[str, str]]:
    """The path of every option that names a pretrained network, without ``.network``, and the network."""
    frontend = system.frontend
    if frontend.name == "encoder":
        yield at, frontend.network
    elif frontend.name == "discriminative":
        for i, branch in frontend.encoder_branches.items():
            yield f"{at}.branches.{i}", branch.network
        if system.clustered and frontend.clustering:
            place = frontend.classes.index(frontend.clustering)
            yield from _networks(system.clustered, f"{at}.classes.{place}.source.frontend")


def _with_weights_that_are_here(
    sweep: Sweep, path: Path, dcase: str, asked: Mapping[str, Any], places: Places
) -> Sweep:
    """The sweep without recipes whose weight files are missing, unless the user asks for recipes by name.

    Prints a line per recipe that is left out, and notes them below the leaderboard.
    """
    missing = {} if "recipes" in asked else dict(_missing_weights(sweep, dcase, places))
    if not missing:
        return sweep
    for recipe, reason in missing.items():
        print_line(f"left out: {recipe}: {reason}")
    recipes = {name: use.model_dump() for name, use in sweep.recipes.items() if name not in missing}
    if not recipes:
        raise ValueError(f"{path}: no recipe is left: the weights of all of them are missing")
    notes = [*(sweep.notes or ()), f"Left out, since their weights are missing: {', '.join(missing)}."]
    return _benchmark_sweep(path, dcase, {**asked, "recipes": recipes, "notes": notes})


def _missing_weights(sweep: Sweep, dcase: str, places: Places) -> Iterator[tuple[str, str]]:
    """Recipes that read a weight file which does not exist, and how to get the file."""
    from asdray.config.expand import bases
    from asdray.stages.input_files import input_path

    machine = sweep.machines_of(dcase)[0]  # an encoder reads the same weights for every machine
    for recipe, base in zip(sweep.recipes, bases(sweep, sweep.name), strict=True):
        systems = (base.system, base.system.clustered)
        files = [f for s in systems if s for f in s.frontend.input_files(dcase, machine, 0) if f.network]
        missing = {input_path(file, places): file.hint for file in files}
        for path, hint in missing.items():
            if not path.is_file():
                yield recipe, f"there are no weights {path}; {hint}"
                break


def _few_machines(dcase: str) -> list[str]:
    """Three machines, or two of dev and two of eval if eval has machines of its own."""
    from asdray.dcase.years import get_year

    dev, evaluated = get_year(dcase).machines["dev"], get_year(dcase).machines["eval"]
    return [*dev[:3]] if dev == evaluated else [*dev[:2], *evaluated[:2]]


# ---------------------------------------------------------------------------------------------- the data


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
    _make_up_weights(sweep, places)


def _make_up_weights(sweep: Sweep, places: Places) -> None:
    """Makes the files of made-up weights that a sweep reads; torch stays out of this process."""
    from asdray.config.weights import MADE_UP

    paths = {network: places.data / "encoders" / f"{network}.pt" for network in MADE_UP.values()}
    read = [network for use in sweep.recipes.values() for network in use.set.values() if network in paths]
    wanted = [network for network in dict.fromkeys(read) if not paths[network].exists()]
    if wanted:
        arguments = [text for network in wanted for text in (network, str(paths[network]))]
        subprocess.run([sys.executable, "-m", "asdray.frontends.encoders.made_up", *arguments], check=True)
        print_line(f"made-up weights, which know nothing of sound: {', '.join(wanted)}")
