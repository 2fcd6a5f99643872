"""``asdray run`` and the stage commands: one trial by hand, in this process, without Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asdray.config.backend import Backend
    from asdray.config.trial import Trial
    from asdray.stages.describe import Description
    from asdray.stages.state import Outcome
    from asdray.store import Places

app = typer.Typer()

Data = Annotated[Path, typer.Option(envvar="ASDRAY_DATA", help="Where datasets are.")]
Results = Annotated[Path, typer.Option(envvar="ASDRAY_RESULTS", help="Where results go.")]
Cache = Annotated[
    Path | None,
    typer.Option(envvar="ASDRAY_CACHE_DIR", help="Decoded audio, local to the node; default <data>/cache."),
]
Dcase = Annotated[str, typer.Argument(help="A year, such as dcase2023.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated.")]
Machines = Annotated[str, typer.Option(help="Comma-separated machines; default all.")]
TrialFolder = Annotated[Path, typer.Argument(help="A trial's folder, the one with trial.json.")]
Machine = Annotated[str | None, typer.Option("--machine", help="Only this machine.")]
Ckpt = Annotated[str | None, typer.Option(help="last, best or epoch_<k>; default those of the trial.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do it again even where it is done.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What computes.")]
Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", help="knn, or '{name: knn, n_neighbors: 4}'; may be repeated."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="official, s_auc, mix_pauc, ...; may be repeated."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file that adds losses, frontends or backends; may be repeated."),
]
DATA, RESULTS = Path("data"), Path("results")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    dcase: Dcase,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    machines: Machines = "all",
    overrides: Set = None,
    backend: Backends = None,
    ckpt: Annotated[str, typer.Option(help="last, best or epoch_<k>.")] = "last",
    umap: Annotated[bool, typer.Option(help="Whether to make the UMAP plots.")] = True,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    plugin: Plugins = None,
    device: Device = "auto",
) -> None:
    """One trial, all stages, in this process, without Ray."""
    from asdray.audio.cache import check_unchanged
    from asdray.config.load import load_recipe, parse_set, validate
    from asdray.config.plugin import load_plugins
    from asdray.config.sweep import Sweep, expand
    from asdray.stages.describe import write_trial
    from asdray.stages.walk import walk
    from asdray.store import Places
    from asdray.sweep.plan import plan

    _one_thread_for_blas()
    where = f"asdray run {recipe} {dcase}"
    load_plugins(plugin or [])
    load_recipe(recipe)  # what is wrong in the command is told before what is wrong with the data
    spec = validate(
        Sweep,
        {
            "name": "run",
            "recipes": {recipe: {"set": parse_set(overrides or [])}},
            "dcase": [dcase],
            "seeds": [seed],
            "machines": "all" if machines == "all" else {dcase: machines.split(",")},
            **({"backends": [_yaml_value(b) for b in backend]} if backend else {}),
            "checkpoints": [ckpt],
            "umap": {} if umap else False,
        },
        where,
    )
    ((trial, _),) = expand(spec, where)
    if backend:
        _must_apply(trial, spec.backends)
    places = Places.of(data, results, cache_dir)
    (job,) = plan(spec, places, where)
    check_unchanged(places.data, dcase, job.trial.machines)
    folder = write_trial(job.trial, spec.checkpoints, job.backends, spec.umap, places, job.dataset)
    steps = _Steps(job.trial, places, job.backends, device, overwrite=False)
    # What a sweep dropped of it is made again only where something is to read it.
    stages = walk(job.trial, spec.checkpoints, job.backends, spec.umap, places, job.dataset)
    again = {(one.stage, one.unit or one.machine) for one in stages if one.again}
    for unit in job.trial.units:
        steps.train(unit.name, spec.checkpoints, again=("train", unit.name) in again)
    for machine in job.trial.machines:
        steps.extract(machine, ckpt, again=("extract", machine) in again)
        for one in job.backends:
            steps.score(machine, ckpt, one)
        steps.evaluate(machine, ckpt)
        if spec.umap:
            steps.umap(machine, ckpt, spec.umap)
    steps.table(spec.checkpoints)
    _print_trial_tables(folder)


class _Steps:
    """The stages of one trial with a printed line each; what `run` and the stage commands share."""

    def __init__(
        self, trial: Trial, places: Places, backends: Sequence[Backend], device: str, overwrite: bool
    ) -> None:
        self.trial, self.places, self.backends = trial, places, backends
        self.more: dict[str, Any] = {"device": device, "overwrite": overwrite}
        self.overwrite = overwrite

    def _show(self, what: str, outcome: Outcome) -> None:
        seconds = "already done" if outcome.found else f"{outcome.marker.seconds:.1f} s"
        print(f"{what:<40} {seconds}", flush=True)

    def train(self, unit: str, checkpoints: Sequence[str], again: bool = True) -> None:
        from asdray.stages.train import TrainingDiverged, train

        def show(p: dict) -> None:
            print(
                f"  epoch {p['epoch']}/{p['epochs']}  loss {p['loss']:.4f}  {p['per_second']:.0f}/s",
                flush=True,
            )

        def wait() -> None:
            print(f"  waiting for another process that trains {unit}", flush=True)

        chosen = next(u for u in self.trial.units if u.name == unit)
        try:
            outcome = train(
                self.trial,
                chosen,
                self.places,
                checkpoints=checkpoints,
                on_epoch=show,
                on_wait=wait,
                again=again,
                **self.more,
            )
        except TrainingDiverged as error:
            # No fault of the input's form: the command was right, and its work failed.
            print(f"failed: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        self._show(f"train {unit}", outcome)

    def extract(self, machine: str, ckpt: str, again: bool = True) -> None:
        from asdray.stages.extract import extract

        outcome = extract(self.trial, machine, ckpt, self.places, again=again, **self.more)
        self._show(f"extract {machine}", outcome)

    def score(self, machine: str, ckpt: str, backend: Backend) -> None:
        from asdray.stages.score import score

        self._show(
            f"score {machine} {backend.name}",
            score(self.trial, machine, ckpt, backend, self.places, overwrite=self.overwrite),
        )

    def evaluate(self, machine: str, ckpt: str) -> None:
        from asdray.stages.evaluate import evaluate

        self._show(
            f"evaluate {machine}",
            evaluate(self.trial, machine, ckpt, self.backends, self.places, overwrite=self.overwrite),
        )

    def umap(self, machine: str, ckpt: str, options: Any) -> None:
        from asdray.stages.umap import umap

        self._show(
            f"umap {machine}",
            umap(self.trial, machine, ckpt, options, self.places, overwrite=self.overwrite),
        )

    def table(self, checkpoints: Sequence[str]) -> None:
        from asdray.stages.table import table

        self._show(
            "table", table(self.trial, checkpoints, self.backends, self.places, overwrite=self.overwrite)
        )


def _by_hand(
    folder: Path,
    data: Path,
    cache: Path | None,
    machine: str | None,
    ckpt: str | None,
    work: Callable[[_Steps, str, str, Description], None],
    *,
    overwrite: bool,
    device: str = "auto",
    backend: list[str] | None = None,
    plugin: list[Path] | None = None,
) -> tuple[_Steps, list[str]]:
    """Runs ``work(steps, machine, checkpoint, description)`` for the chosen machines of a trial."""
    from asdray.config.plugin import load_plugins
    from asdray.config.sweep import check_backends, check_checkpoint
    from asdray.dcase.years import nearest
    from asdray.stages.describe import read_trial
    from asdray.store import Places, sha256_file

    _one_thread_for_blas()
    trial, description, results = read_trial(folder)
    loaded = load_plugins(plugin or [])  # after the trial's own copies: of a name the newest counts
    for copy in description.plugins:
        file = Path(copy.path)
        if file.is_file() and sha256_file(file) != copy.sha256 and copy.path not in [p.path for p in loaded]:
            print(f"{file} has changed since: the trial goes on with its own copy", file=sys.stderr)
    if machine is not None and machine not in trial.machines:
        raise ValueError(
            f"the trial has no machine {machine!r}{nearest(machine, trial.machines)} "
            f"(it has: {', '.join(trial.machines)})"
        )
    checkpoints = [check_checkpoint(ckpt)] if ckpt else list(description.checkpoints)
    if backend:
        backends = check_backends([_yaml_value(b) for b in backend], "--backend")
        _must_apply(trial, backends)
    else:
        backends = trial.backends(description.backends)
    places = Places.of(data, results, cache)
    steps = _Steps(trial, places, backends, device, overwrite)
    for one in checkpoints:
        for name in [machine] if machine else trial.machines:
            work(steps, name, one, description)
    return steps, checkpoints


@app.command()
def train(
    trial: TrialFolder, machine: Machine = None, ckpt: Ckpt = None, data: Data = DATA,
    cache_dir: Cache = None, overwrite: Overwrite = False, device: Device = "auto",
) -> None:  # fmt: skip
    """Train a trial's units (with --machine: the one that serves this machine)."""
    trained: set[str] = set()

    def work(steps: _Steps, name: str, one: str, description: Description) -> None:
        unit = steps.trial.unit_of(name).name
        if unit not in trained:
            trained.add(unit)
            steps.train(unit, [ckpt] if ckpt else description.checkpoints)

    _by_hand(trial, data, cache_dir, machine, ckpt, work, overwrite=overwrite, device=device)


@app.command()
def extract(
    trial: TrialFolder, machine: Machine = None, ckpt: Ckpt = None, data: Data = DATA,
    cache_dir: Cache = None, overwrite: Overwrite = False, device: Device = "auto",
) -> None:  # fmt: skip
    """Extract embeddings and a frontend's own scores."""
    _by_hand(
        trial, data, cache_dir, machine, ckpt, lambda steps, name, one, _: steps.extract(name, one),
        overwrite=overwrite, device=device,
    )  # fmt: skip


@app.command()
def score(
    trial: TrialFolder, machine: Machine = None, ckpt: Ckpt = None,
    backend: Backends = None, plugin: Plugins = None, data: Data = DATA, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Score a trial's clips with its backends, or with others."""

    def work(steps: _Steps, name: str, one: str, description: Description) -> None:
        for chosen in steps.backends:
            steps.score(name, one, chosen)

    _by_hand(trial, data, None, machine, ckpt, work, overwrite=overwrite, backend=backend, plugin=plugin)


@app.command()
def evaluate(
    trial: TrialFolder, machine: Machine = None, ckpt: Ckpt = None, backend: Backends = None,
    plugin: Plugins = None, data: Data = DATA, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Evaluate a trial's scores against the labels."""
    _by_hand(
        trial, data, None, machine, ckpt, lambda steps, name, one, _: steps.evaluate(name, one),
        overwrite=overwrite, backend=backend, plugin=plugin,
    )  # fmt: skip


@app.command()
def umap(
    trial: TrialFolder, machine: Machine = None, ckpt: Ckpt = None, data: Data = DATA,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Draw the UMAP of a trial's embeddings."""

    def work(steps: _Steps, name: str, one: str, description: Description) -> None:
        from asdray.config.backend import Umap

        steps.umap(name, one, description.umap or Umap())

    _by_hand(trial, data, None, machine, ckpt, work, overwrite=overwrite)


@app.command()
def table(
    trial: TrialFolder, ckpt: Ckpt = None, backend: Backends = None, metric: Metrics = None,
    plugin: Plugins = None, data: Data = DATA, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Write a trial's tables: of the official score, and of other metrics on request."""
    _one_thread_for_blas()
    from asdray.evaluation.tables import check_metric

    for name in metric or []:
        check_metric(name)
    steps, checkpoints = _by_hand(
        trial, data, None, None, ckpt, lambda *_: None, overwrite=overwrite, backend=backend, plugin=plugin
    )
    steps.table(checkpoints)
    if metric:
        from asdray.stages.table import metric_tables

        for name in metric:
            paths = metric_tables(steps.trial, checkpoints, steps.backends, steps.places, name)
            _print_tables(trial.expanduser().absolute(), paths)
    else:
        _print_trial_tables(trial)


def _must_apply(trial: Trial, backends: Sequence[Backend]) -> None:
    """Raises ValueError for a backend asked for by name that the trial's frontend has nothing for."""
    frontend = trial.system.frontend
    for one in backends:
        if one not in trial.backends((one,)):
            offers = [*(["embeddings"] if frontend.scored_embedding else []), *frontend.own_scores]
            raise ValueError(
                f"--backend {one.name} does not apply to {trial.system_name}: "
                f"its frontend {frontend.name!r} offers {' and '.join(offers)}"
            )


def _print_trial_tables(folder: Path) -> None:
    _print_tables(folder, sorted((folder / "output").glob("*/official*.csv")))


def _print_tables(folder: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"\n{path.relative_to(folder)}")
        print(path.read_text(encoding="utf-8").rstrip())


def _one_thread_for_blas() -> None:
    """As in the sweep's workers, so that both give the same digits. Before numpy is imported."""
    from asdray.sweep.cluster import WORKER_ENV

    os.environ.update(WORKER_ENV)


def _yaml_value(text: str) -> Any:
    from asdray.config.load import parse_yaml

    return parse_yaml(text, "--backend")
