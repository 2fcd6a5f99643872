"""``asdray run`` and a command per stage: one trial in this process, without Ray, with a sweep's files."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from asdray.cli.options import (
    DATA,
    RESULTS,
    Backends,
    Cache,
    Checkpoint,
    Data,
    Dcase,
    Device,
    Last,
    Machine,
    Machines,
    Metrics,
    Overwrite,
    Plugins,
    Results,
    Set,
    TrialFolder,
    TrustPlugins,
)
from asdray.cli.screen import print_line
from asdray.home import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from asdray.config.backend import Backend, Umap
    from asdray.config.sweep import Sweep
    from asdray.config.trial import Trial, Unit
    from asdray.stages.steps import Outcome, TrialFiles
    from asdray.stages.trial_json import Description
    from asdray.store import Places

app = typer.Typer()


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of its YAML file.")],
    dcase: Dcase,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    machines: Machines = "all",
    overrides: Set = None,
    backend: Backends = None,
    ckpt: Last = "last",
    umap: Annotated[bool, typer.Option(help="Make the UMAP plots, or leave them out.")] = True,
    data: Data = DATA,
    results: Results = RESULTS,
    cache_dir: Cache = None,
    plugin: Plugins = None,
    device: Device = "auto",
) -> None:
    """Run all stages of one trial, in this process, without Ray.

    Example: asdray run dis_baseline dcase2023 --seed 0 --machines fan --set train.epochs=2
    """
    from asdray.audio.cache import check_unchanged
    from asdray.config.base import load_plugins
    from asdray.stages.trial_json import write_trial
    from asdray.store import Places
    from asdray.sweep.plan import plan

    one_thread_for_blas()
    where = f"asdray run {recipe} {dcase}"
    load_plugins(plugin or [])
    chosen = "all" if machines == "all" else {dcase: machines.split(",")}
    asked = {"dcase": [dcase], "seeds": [seed], "checkpoints": [ckpt], "machines": chosen}
    asked |= {"umap": {} if umap else False} | ({"backends": _parse_backends(backend)} if backend else {})
    spec = _sweep_of_one(recipe, overrides or [], asked, where)
    places = Places.of(data, results, cache_dir)
    (job,) = plan(spec, places, where)
    check_unchanged(places.data, dcase, job.trial.machines)
    if any(one.plugin for one in job.backends):
        from asdray.backends import rehearse

        rehearse(job.backends)
    folder = write_trial(job.files(places), job.request(spec))
    # An output that a sweep has pruned is rebuilt only if a later stage is about to read the output.
    rebuild = {(step.stage, step.unit or step.machine) for step in job.steps(spec, places) if step.rebuild}
    work = (job.trial.machines, spec.checkpoints, job.backends, spec.umap)
    _Stages(job.trial, places, *work, device=device).all(rebuild)
    _print_trial_tables(folder)


def _sweep_of_one(recipe: str, overrides: Sequence[str], asked: Mapping[str, Any], where: str) -> Sweep:
    """The sweep with the only trial of ``asdray run``, after a check of its backends.

    Args:
        overrides: options of the recipe, as key=value.
        asked: further keys of a sweep file.
    """
    from asdray.config.expand import expand
    from asdray.config.files import parse_set, validate
    from asdray.config.sweep import Sweep
    from asdray.config.system import load_recipe
    from asdray.config.trial import check_apply

    load_recipe(recipe)  # an error in the command is reported before an error in the data
    recipes = {recipe: {"set": parse_set(overrides)}}
    spec = validate(Sweep, {"name": "run", "recipes": recipes, **asked}, where)
    ((trial, _),) = expand(spec, where)
    if "backends" in asked:
        check_apply(trial, spec.backends, "--backend")
    return spec


@dataclass(frozen=True)
class _Stages:
    """The stages of one trial for the chosen machines and checkpoints; prints a line per finished stage."""

    trial: Trial
    places: Places
    machines: Sequence[str]
    checkpoints: Sequence[str]
    backends: Sequence[Backend]
    umap_options: Umap | Literal[False]
    overwrite: bool = False
    device: str = "auto"

    def all(self, rebuild: Collection[tuple[str, str | None]]) -> None:
        """Runs every stage of every machine; ``rebuild`` names outputs that are made again if pruned.

        Args:
            rebuild: stage, and unit or machine.
        """
        for unit in self.trial.units:
            self.train(unit, rebuild=("train", unit.name) in rebuild)
        for machine in self.machines:
            for ckpt in self.checkpoints:
                self.extract(machine, ckpt, rebuild=("extract", machine) in rebuild)
                self.score(machine, ckpt)
                self.evaluate(machine, ckpt)
                if self.umap_options:
                    self.umap(machine, ckpt)
        self.table()

    def each(self, stage: Callable[[str, str], None]) -> None:
        """Calls ``stage`` with every machine, for every checkpoint."""
        for ckpt in self.checkpoints:
            for machine in self.machines:
                stage(machine, ckpt)

    def files(self, machines: Sequence[str] | None = None) -> TrialFiles:
        """The trial's files, with the dataset as it is now."""
        from asdray.stages.steps import TrialFiles

        return TrialFiles.load(self.trial, self.places, machines)

    def train(self, unit: Unit, rebuild: bool = True) -> None:
        """Trains a unit; ``rebuild``: also if the checkpoints were pruned.

        Raises:
            typer.Exit: 1 for a training that diverged; the command itself was right.
        """
        from asdray.stages.clustered import complete_clusters
        from asdray.stages.train import TrainingDiverged, train

        def wait() -> None:
            print_line(f"  waiting for another process that trains {unit.name}", flush=True)

        options = {"checkpoints": self.checkpoints, "rebuild": rebuild, "device": self.device}
        calls = {"on_epoch": _print_epoch, "on_wait": wait}
        files, again = self.files(unit.machines), rebuild or self.overwrite
        try:
            for made in complete_clusters(
                files, unit, self.checkpoints, device=self.device, again=again,
                on_epoch=lambda _, facts: _print_epoch(facts),
            ):  # fmt: skip
                self._print(f"{made.stage} {made.of} {made.trial.system_name}", made.outcome)
            self._run(f"train {unit.name}", train, unit.machines, unit, **options, **calls)
        except TrainingDiverged as error:
            print_line(f"failed: {error}", to=sys.stderr)
            raise typer.Exit(1) from None

    def extract(self, machine: str, ckpt: str, rebuild: bool = True) -> None:
        """Extracts a machine's embeddings; ``rebuild``: also if the embeddings were pruned."""
        from asdray.stages.extract import extract

        options = {"rebuild": rebuild, "device": self.device}
        self._run(f"extract {machine}", extract, [machine], machine, ckpt, **options)

    def score(self, machine: str, ckpt: str) -> None:
        """Scores a machine's clips with every backend."""
        from asdray.stages.score import score

        for backend in self.backends:
            self._run(f"score {machine} {backend.name}", score, [machine], machine, ckpt, backend)

    def evaluate(self, machine: str, ckpt: str) -> None:
        """Evaluates a machine's scores against the labels."""
        from asdray.stages.evaluate import evaluate

        self._run(f"evaluate {machine}", evaluate, [machine], machine, ckpt, self.backends)

    def umap(self, machine: str, ckpt: str) -> None:
        """Draws the UMAP of a machine's embeddings."""
        from asdray.config.backend import Umap
        from asdray.stages.umap import umap

        self._run(f"umap {machine}", umap, [machine], machine, ckpt, self.umap_options or Umap())

    def table(self) -> None:
        """Writes the tables of the official score."""
        from asdray.stages.table import table

        self._run("table", table, None, self.checkpoints, self.backends)

    def _run(
        self,
        label: str,
        stage: Callable[..., Outcome],
        machines: Sequence[str] | None,
        *arguments: Any,
        **options: Any,
    ) -> None:
        outcome = stage(self.files(machines), *arguments, overwrite=self.overwrite, **options)
        self._print(label, outcome)

    def _print(self, label: str, outcome: Outcome) -> None:
        from asdray.stages.made_by import reused_by

        duration = f"{outcome.record.seconds:.1f} s"
        if outcome.reused:
            by = reused_by(label.partition(" ")[0], outcome.record.versions, self.places.results)
            duration = f"already done{by}"
        print_line(f"{label:<40} {duration}", flush=True)


def _print_epoch(news: Mapping[str, Any]) -> None:
    print_line(
        f"  epoch {news['epoch']}/{news['epochs']}  loss {news['loss']:.4f}  {news['per_second']:.0f}/s",
        flush=True,
    )


def _open(
    folder: Path,
    data: Path,
    ckpt: str | None,
    *,
    machine: str | None = None,
    cache_dir: Path | None = None,
    backend: list[str] | None = None,
    plugin: list[Path] | None = None,
    trust: bool = False,
    runs: bool = True,
    **options: Any,
) -> _Stages:
    """Opens a trial's folder for a stage command; None: all machines, the described checkpoints and backends.

    Args:
        plugin: files of the user, whose methods ``backend`` may name.
        trust: True to run the code of the trial's plugins, whoever wrote it.
        runs: True for a stage that runs the code of plugins.

    Raises:
        ValueError: no trial in ``folder``, or an option that does not fit the trial.
    """
    from asdray.config.base import load_plugins
    from asdray.config.sweep import check_backends, check_checkpoint
    from asdray.config.trial import check_apply
    from asdray.dcase.years import nearest
    from asdray.stages.trial_json import Code, known_plugins, read_trial
    from asdray.store import Places

    one_thread_for_blas()
    code: Code = "all" if trust else "own" if runs else "none"
    trial, description, results = read_trial(folder, code, plugin or ())
    # Loaded after the trial's own copies: of two plugins with the same name, the one loaded last counts.
    _warn_of_changed_plugins(description, [p.path for p in load_plugins(plugin or [])])
    if machine is not None and machine not in trial.machines:
        raise ValueError(
            f"the trial has no machine {machine!r}{nearest(machine, trial.machines)} "
            f"(it has: {', '.join(trial.machines)})"
        )
    backends = trial.backends(description.backends)
    if backend:
        with known_plugins(folder) if code == "none" else nullcontext():
            backends = check_backends(_parse_backends(backend), "--backend")
        check_apply(trial, backends, "--backend")
    machines = [machine] if machine else trial.machines
    checkpoints = [check_checkpoint(ckpt)] if ckpt else description.checkpoints
    places = Places.of(data, results, cache_dir)
    return _Stages(trial, places, machines, checkpoints, backends, description.umap, **options)


def _found(trial: Path, results: Path) -> Path:
    """The folder of the trial that a command is asked for."""
    from asdray.addresses import find_trial

    return find_trial(trial, results)


def _warn_of_changed_plugins(description: Description, loaded: Sequence[str]) -> None:
    """Prints a line for every plugin that differs from the trial's copy and was not loaded again."""
    from asdray.config.plugin import has_changed

    for copy in description.plugins:
        if copy.path not in loaded and has_changed(copy.path, copy.sha256):
            print_line(f"{copy.path} has changed since: the trial goes on with its own copy", to=sys.stderr)


@app.command()
def train(
    trial: TrialFolder, machine: Machine = None, ckpt: Checkpoint = None, data: Data = DATA,
    results: Results = RESULTS, cache_dir: Cache = None, overwrite: Overwrite = False,
    device: Device = "auto", trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Train a trial's units; with --machine, the unit of this machine.

    Example: asdray train results/trials/dcase2023/dis_baseline-5ce49aea/seed0
    """
    options: dict[str, Any] = {
        "machine": machine,
        "cache_dir": cache_dir,
        "overwrite": overwrite,
        "device": device,
        "trust": trust_plugins,
    }
    stages = _open(_found(trial, results), data, ckpt, **options)
    for unit in dict.fromkeys(stages.trial.unit_of(name) for name in stages.machines):
        stages.train(unit)


@app.command()
def extract(
    trial: TrialFolder, machine: Machine = None, ckpt: Checkpoint = None, data: Data = DATA,
    results: Results = RESULTS, cache_dir: Cache = None, overwrite: Overwrite = False,
    device: Device = "auto", trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Extract embeddings and a frontend's own scores.

    Example: asdray extract results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --machine fan
    """
    options: dict[str, Any] = {
        "machine": machine,
        "cache_dir": cache_dir,
        "overwrite": overwrite,
        "device": device,
        "trust": trust_plugins,
    }
    stages = _open(_found(trial, results), data, ckpt, **options)
    stages.each(stages.extract)


@app.command()
def score(
    trial: TrialFolder, machine: Machine = None, ckpt: Checkpoint = None,
    backend: Backends = None, plugin: Plugins = None, data: Data = DATA, results: Results = RESULTS,
    overwrite: Overwrite = False, trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Score a trial's clips with its backends, or with others.

    Example: asdray score results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --backend knn
    """
    options: dict[str, Any] = {"machine": machine, "backend": backend, "plugin": plugin}
    stages = _open(_found(trial, results), data, ckpt, trust=trust_plugins, overwrite=overwrite, **options)
    stages.each(stages.score)


@app.command()
def evaluate(
    trial: TrialFolder, machine: Machine = None, ckpt: Checkpoint = None, backend: Backends = None,
    plugin: Plugins = None, data: Data = DATA, results: Results = RESULTS,
    overwrite: Overwrite = False, trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Evaluate a trial's scores against the labels.

    Example: asdray evaluate results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --machine fan
    """
    options: dict[str, Any] = {"machine": machine, "backend": backend, "plugin": plugin}
    stages = _open(
        _found(trial, results), data, ckpt, trust=trust_plugins, runs=False, overwrite=overwrite, **options
    )
    stages.each(stages.evaluate)


@app.command()
def umap(
    trial: TrialFolder, machine: Machine = None, ckpt: Checkpoint = None, data: Data = DATA,
    results: Results = RESULTS, overwrite: Overwrite = False, trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Draw the UMAP of a trial's embeddings.

    Example: asdray umap results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --machine fan
    """
    options: dict[str, Any] = {"machine": machine, "trust": trust_plugins, "runs": False}
    stages = _open(_found(trial, results), data, ckpt, overwrite=overwrite, **options)
    stages.each(stages.umap)


@app.command()
def table(
    trial: TrialFolder, ckpt: Checkpoint = None, backend: Backends = None, metric: Metrics = None,
    plugin: Plugins = None, data: Data = DATA, results: Results = RESULTS,
    overwrite: Overwrite = False, trust_plugins: TrustPlugins = False,
) -> None:  # fmt: skip
    """Write a trial's tables: of the official score, and of other metrics on request.

    Example: asdray table results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --metric mix_pauc
    """
    one_thread_for_blas()
    from asdray.evaluation.tables import check_metric
    from asdray.stages.table import metric_tables

    metrics = [check_metric(name) for name in metric or []]
    options: dict[str, Any] = {"backend": backend, "plugin": plugin, "trust": trust_plugins, "runs": False}
    trial = _found(trial, results)
    stages = _open(trial, data, ckpt, overwrite=overwrite, **options)
    stages.table()
    if not metrics:
        _print_trial_tables(trial)
    for name in metrics:
        paths = metric_tables(stages.files(), stages.checkpoints, stages.backends, name)
        _print_tables(expanded(trial).absolute(), paths)


def _print_trial_tables(folder: Path) -> None:
    from asdray.stages.steps import checkpoint_folders
    from asdray.store import TrialDir

    outputs = checkpoint_folders(TrialDir(folder))
    _print_tables(folder, [path for output in outputs for path in sorted(output.glob("official*.csv"))])


def _print_tables(folder: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        print_line(f"\n{path.relative_to(folder)}")
        print_line(path.read_text(encoding="utf-8").rstrip())


def one_thread_for_blas() -> None:
    """Sets the threads of a sweep's workers, for the same digits; to be called before numpy is imported."""
    from asdray.sweep.cluster import WORKER_ENV

    os.environ.update(WORKER_ENV)


def _parse_backends(texts: Sequence[str]) -> list[Any]:
    from asdray.config.files import parse_yaml

    return [parse_yaml(text, "--backend") for text in texts]
