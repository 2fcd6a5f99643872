"""``trial.json``: what a trial is, written before anything else of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asdray import store
from asdray.config.backend import Backend, Umap
from asdray.config.base import canonical
from asdray.config.trial import Trial, trial_of_json
from asdray.dcase.manifest import Dataset
from asdray.stages.state import train_step
from asdray.store import Places


def write_trial(
    trial: Trial,
    checkpoints: Iterable[str],
    backends: Iterable[Backend],
    umap: Umap | bool,
    places: Places,
    dataset: Dataset,
) -> Path:
    """Writes ``trial.json`` unless it already says the same, and returns the trial's folder.

    It holds all that the stage commands need to go on by hand, and the provenance of its first writing;
    each stage's marker holds that of the stage.
    """
    description: dict[str, Any] = {
        "dcase": trial.dcase,
        "recipe": trial.recipe,
        "system": trial.system.model_dump(mode="json"),
        "system_id": trial.system.id,
        "canonical": canonical(trial.system),
        "seed": trial.seed,
        "threads": trial.system.train.threads,
        "machines": list(trial.machines),
        "checkpoints": list(checkpoints),
        "backends": [b.model_dump(mode="json") for b in backends],
        "umap": umap.model_dump(mode="json") if isinstance(umap, Umap) else False,
        "dataset": {"kind": dataset.kind, "id": dataset.id},
        "signatures": {u.name: train_step(trial, u, places, dataset).signature for u in trial.units},
    }
    directory = store.trial_dir(places.results, trial)
    try:
        old = store.read_json(directory.trial_json)
    except ValueError:
        old = {}
    if {k: v for k, v in old.items() if k != "provenance"} != description:
        store.write_json(directory.trial_json, {**description, "provenance": store.provenance()})
    return directory.root


def read_trial(folder: Path) -> tuple[Trial, dict[str, Any], Path]:
    """The trial in ``folder``, its whole ``trial.json``, and the results root that holds it.

    Raises:
        ValueError: not a trial's folder, or one that was moved out of its place.
    """
    folder = folder.expanduser().absolute()
    if not (folder / "trial.json").is_file():
        raise ValueError(f"{folder} is not a trial's folder: it has no trial.json")
    description = store.read_json(folder / "trial.json")
    trial = trial_of_json(description)
    if len(folder.parents) < 4:
        raise ValueError(f"{folder} is not a trial's folder below a results folder")
    results = folder.parents[3]
    expected = store.trial_dir(results, trial).root
    if expected != folder:
        raise ValueError(f"the trial in {folder} belongs to {expected}: move it back")
    return trial, description, results
