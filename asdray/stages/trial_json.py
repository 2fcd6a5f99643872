"""``trial.json``, the description of a trial, written before all its other files."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic_core import from_json

from asdray import plugin_results, provenance, store
from asdray.config import plugin_trust
from asdray.config.backend import Backend, Umap
from asdray.config.base import Config, Seed, activate, canonical, plugins_of
from asdray.config.files import validate
from asdray.config.plugin import Plugin, read_plugin
from asdray.config.search import Checkpoint
from asdray.config.stand_in import TRUST, members_of, reading
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.config.weights import name_of_weights
from asdray.dcase.years import check_machines
from asdray.home import expanded
from asdray.regular import read_bytes
from asdray.stages.input_files import input_ids
from asdray.stages.steps import Request, TrialFiles, refuse_old_results, train_signature


class PluginCopy(Config):
    """A plugin of the trial: original path, and hash of the copy in the trial's folder."""

    path: str
    sha256: str


class Description(Config):
    """The part of ``trial.json`` that stage commands read; further entries are for people."""

    model_config = ConfigDict(extra="ignore")

    dcase: str
    recipe: str
    system: System
    seed: Seed
    machines: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...] = Field(min_length=1)
    backends: tuple[Backend, ...] = Field(min_length=1)
    umap: Umap | Literal[False]
    plugins: tuple[PluginCopy, ...] = ()


def write_trial(files: TrialFiles, request: Request) -> Path:
    """Writes ``trial.json`` and copies of the trial's plugins; an equal description is left as it is.

    The description suffices to run the trial's stages by hand. The provenance in the file describes the first
    writing; every stage records a provenance of its own.

    Returns:
        The trial's folder.
    """
    trial, directory = files.trial, files.folder
    description: dict[str, Any] = {
        "dcase": trial.dcase,
        "recipe": trial.recipe,
        "system": trial.system.model_dump(mode="json"),
        "system_id": trial.system.id,
        "canonical": canonical(trial.system),
        "seed": trial.seed,
        "threads": trial.system.train.threads,
        "machines": list(trial.machines),
        "checkpoints": list(request.checkpoints),
        "backends": [b.model_dump(mode="json") for b in request.backends],
        "umap": request.umap and request.umap.model_dump(mode="json"),
        "dataset": {"kind": files.dataset.kind, "id": files.dataset.id},
        "signatures": {u.name: train_signature(files, u) for u in trial.units},
    }
    if inputs := _inputs(files):
        description["inputs"] = inputs
    if plugins := plugins_of(trial.system, list(request.backends)):
        description["plugins"] = [{"path": p.path, "sha256": p.sha256} for p in plugins]
    try:
        old = store.read_json(directory.trial_json, dict[str, Any])
    except ValueError:
        old = {}
    is_other = {k: v for k, v in old.items() if k != "provenance"} != description
    if plugins or is_other:
        with store.lease(directory.root):
            store.sweep_leftovers(directory.root)
            if plugins:
                _write_plugins(files, request, plugins)
            if is_other:
                store.write_json(directory.trial_json, {**description, "provenance": provenance.everything()})
    return directory.root


def _write_plugins(files: TrialFiles, request: Request, plugins: Iterable[Plugin]) -> None:
    """Writes copies of the trial's plugins and their description, under the lease of the trial's folder."""
    trial, directory = files.trial, files.folder
    for plugin in plugins:
        copy = directory.plugin(plugin.sha256, plugin.suffix)
        for path, content in plugin.files_at(copy).items():
            store.sweep_leftovers(path.parent, path.name)
            store.write_bytes(path, content)
    asked = [(trial.dcase, machine, trial.seed) for machine in trial.machines]
    values = (trial.system, list(request.backends))
    plugin_results.write(directory.root, {p.sha256: members_of(p, values, asked) for p in plugins})


def _inputs(files: TrialFiles) -> dict[str, list[dict[str, str | None]]]:
    """The frontend's input files, each once: kind -> sha256, and the name of published weights or None."""
    found: dict[str, dict[str, None]] = {}
    for unit in files.trial.units:
        for kind, ids in input_ids(files.trial, unit, files.places).items():
            found.setdefault(kind, {}).update(dict.fromkeys(ids.values()))
    return {
        kind: [{"sha256": sha256, "name": name_of_weights(sha256)} for sha256 in hashes]
        for kind, hashes in found.items()
    }


@dataclass(frozen=True)
class _Inputs:
    """The input files in ``trial.json``."""

    inputs: dict[str, list[dict[str, str | None]]] = field(default_factory=dict)


def read_inputs(trial: store.TrialDir) -> dict[str, list[dict[str, str | None]]]:
    """The input files in a trial's ``trial.json``; empty without the file, or for a frontend without any."""
    try:
        return store.read_json(trial.trial_json, _Inputs).inputs
    except ValueError:
        return {}


Code = Literal["none", "own", "all"]
"""The plugins that may run: ``none``; those that the user has named before (``own``); or ``all``."""


def read_trial(
    folder: Path, code: Code = "none", vouched: Iterable[Path] = ()
) -> tuple[Trial, Description, Path]:
    """The trial in ``folder``, the description, and the results root above.

    Args:
        code: with ``none``, configurations of plugins are stand-ins, see `asdray.config.stand_in`.
        vouched: files of the user: plugins of the same content run in any case.

    Raises:
        ValueError: not a trial's folder, a folder that was moved, results of release 0.1, or a damaged file.
    """
    folder = expanded(folder).absolute()
    path = store.TrialDir(folder).trial_json
    if not path.is_file():
        raise ValueError(f"{folder} is not a trial's folder: it has no trial.json")
    refuse_old_results([store.TrialDir(folder)])
    try:
        value = from_json(read_bytes(path))
        plugins = _plugins(value, folder)
    except ValueError as error:
        raise _damaged(path, error) from None
    with _known(plugins, folder, code, plugin_results.hashes_of(vouched)):
        return _checked(value, folder)


def _checked(value: Any, folder: Path) -> tuple[Trial, Description, Path]:
    """`read_trial` of the content of ``trial.json``."""
    path = store.TrialDir(folder).trial_json
    try:
        description = validate(Description, value, path.name)
        machines = check_machines(description.dcase, description.machines)
    except ValueError as error:
        raise _damaged(path, error) from None
    trial = Trial(description.dcase, description.recipe, description.system, description.seed, machines)
    if len(folder.parents) < 4:
        raise ValueError(f"{folder} is not a trial's folder below a results folder")
    results = folder.parents[3]
    expected = store.trial_dir(results, trial).root
    if expected != folder:
        raise ValueError(f"the trial in {folder} belongs to {expected}: move it back")
    return trial, description, results


def _damaged(path: Path, error: ValueError) -> ValueError:
    reason = "; ".join(str(error).splitlines())
    return ValueError(
        f"{path} is damaged, or of another version of asdray ({reason}): `asdray run` or `asdray sweep` "
        "with the same recipe writes it again"
    )


@contextlib.contextmanager
def known_plugins(folder: Path) -> Iterator[None]:
    """Within the context, options of the trial's plugins are stand-ins; loaded plugins come first."""
    folder = expanded(folder).absolute()
    value = store.read_json(store.TrialDir(folder).trial_json)
    with reading(prefer_loaded=True) as table:
        for plugin in _plugins(value, folder):
            with contextlib.suppress(ValueError):  # without a description its options are unknown
                plugin_results.describe(table, plugin, folder)
        yield


@contextlib.contextmanager
def _known(plugins: Sequence[Plugin], folder: Path, code: Code, vouched: Container[str]) -> Iterator[None]:
    """Within the context, the plugins' configurations can be checked.

    Raises:
        ValueError: a plugin without a description, or one whose code the user has not named.
    """
    with reading() as table:
        for plugin in plugins:
            if plugin.sha256 in vouched or code == "all" or (code == "own" and plugin_trust.is_known(plugin)):
                activate(plugin)
            elif code == "own":
                raise ValueError(
                    f"this command runs the code of the plugin {plugin.path} (a copy is in "
                    f"{folder / 'plugins'}), which you have not run before: {TRUST}"
                )
            else:
                plugin_results.describe(table, plugin, folder)
        yield


def _plugins(value: Any, folder: Path) -> list[Plugin]:
    """The trial's copies of its plugins; their code is not run.

    Raises:
        ValueError: a missing or damaged copy.
    """
    found = []
    entries = value.get("plugins") if isinstance(value, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        known = validate(PluginCopy, entry, "plugins")
        path = store.TrialDir(folder).plugin(known.sha256)
        if not path.is_file():
            path = path.with_suffix("")  # the plugin is a folder
        try:
            plugin = replace(read_plugin(path), path=known.path)
        except ValueError as error:
            raise ValueError(f"the copy of the plugin {known.path} cannot be read: {error}") from None
        if plugin.sha256 != known.sha256:
            raise ValueError(f"{path} is not the plugin {known.path} that the trial was made with")
        found.append(plugin)
    return found
