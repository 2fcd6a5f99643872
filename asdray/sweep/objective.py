"""What a search judges, and by what: a number per backend, from files that the stages wrote.

Nothing here can see the eval subset: of an evaluation only the rows of the dev subset are read, and the other
two objectives read no label at all.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asdray import store
from asdray.config.backend import Backend, backend_id
from asdray.config.base import digest
from asdray.config.expand import Base
from asdray.config.search import Objective
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.dcase.years import get_year
from asdray.stages import state
from asdray.store import Places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANY = ""
"""Stands for the backend where the objective scores no clip."""

COLLAPSED = 1e-6
"""Mean cosine distance below which embeddings count as one point: float32 tells nothing apart there."""


State = Literal["open", "done", "stopped", "failed"]


@dataclass
class Sample:
    """A suggested system and what came of it.

    Attributes:
        number: in its recipe's study.
        swept: option path -> value.
        system: None where these values make none.
        value: of the objective, the mean over years and seeds.
        backend: the id of the one that gave it, `ANY` where none did.
        reason: why it failed.
    """

    recipe: str
    number: int
    swept: dict[str, Any]
    system: System | None
    state: State = "open"
    value: float | None = None
    backend: str | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe} sample {self.number}"


def same_system(one: Sample, other: Sample) -> bool:
    """Whether two samples are one system; two spellings of it are."""
    if one.system is None or other.system is None:
        return False
    return one.recipe == other.recipe and one.system.id == other.system.id


def machines_needed(objective: Objective, trial: Trial) -> tuple[str, ...]:
    """The machines that must be extracted for it, and for ``official_dev`` scored and evaluated."""
    if objective.metric == "train_loss":
        return ()
    if objective.metric == "compactness":
        return trial.machines
    dev = get_year(trial.dcase).machines["dev"]
    return tuple(m for m in trial.machines if m in dev)


def values(
    objective: Objective, trial: Trial, backends: Sequence[Backend], places: Places
) -> dict[str, float | None]:
    """The objective of one trial: backend id (or `ANY`) -> value, None where it has none.

    Args:
        backends: those that the trial is scored by.

    Raises:
        ValueError: a stage that it reads is not done, embeddings that are all the same.
    """
    match objective.metric:
        case "train_loss":
            return {ANY: _train_loss(trial, places)}
        case "compactness":
            return {ANY: _compactness(trial, objective.checkpoint, places)}
        case "official_dev":
            wanted = [objective.backend] if objective.backend else backends
            return _official_dev(trial, objective.checkpoint, [backend_id(b) for b in wanted], places)


def _train_loss(trial: Trial, places: Places) -> float:
    """Mean over the units of the loss of their last epoch."""
    dataset = load_dataset(places.data, trial.dcase)
    losses = []
    for unit in trial.units:
        marker = state.train_step(trial, unit, places, dataset).marker
        if marker is None:
            raise ValueError(f"{trial.name}: unit {unit.name} is not trained")
        losses.append(marker.extra["loss"])
    return sum(losses) / len(losses)


def _official_dev(
    trial: Trial, ckpt: str, backends: Sequence[str], places: Places
) -> dict[str, float | None]:
    from asdray.evaluation import metrics

    year = get_year(trial.dcase)
    machines = machines_needed(Objective(metric="official_dev"), trial)
    directory = store.trial_dir(places.results, trial)
    found = [_dev_rows(directory.evaluate(ckpt, machine)) for machine in machines]
    n_sections = [len(year.sections["dev"][machine]) for machine in machines]
    return {
        name: metrics.official_total(year.score_rule, [rows.get(name) for rows in found], n_sections)
        for name in backends
    }


def _dev_rows(path: Path) -> dict[str, float | None]:
    """Backend id -> a machine's official score on the dev subset."""
    from asdray.evaluation.machine import ALL_SECTIONS

    with open(path, newline="", encoding="utf-8") as file:
        return {
            row["backend"]: float(row["value"]) if row["value"] else None
            for row in csv.DictReader(file)
            if row["subset"] == "dev" and row["metric"] == "official" and int(row["section"]) == ALL_SECTIONS
        }


def study_names(sweep: Sweep, base: Base, datasets: Mapping[str, Dataset]) -> tuple[str, str, str]:
    """The name of a recipe's study; what it was called before; how names of the same by other backends begin.

    A name stands for what values speak of: another space, objective, year, seed or clip, another study.
    Backends are part of it only where the best of them judges: Optuna keeps a value for good, and values by
    two lists of backends cannot be compared. The systems go over to the study of the new list, which judges
    them anew; their trainings are found done.

    Ground truth of eval clips has no part in it: no value depends on it, and when it comes a search must
    neither begin anew nor choose otherwise. That is why `MachineData.classes`, the attributes and domains of
    all test clips, are left out: only ``frontend.labels: asdkit`` reads them, which `asdray.config.expand`
    refuses in a search. `MachineData.labels` is left out as well; the labels of dev clips, which
    ``official_dev`` reads, stand in their file names, hence in the id of the test clips.
    """
    machines = {dcase: sweep.machines_of(dcase) for dcase in sweep.dcase}
    objective = sweep.search.objective
    assert objective is not None
    judged = {
        dcase: [m for m in names if m in get_year(dcase).machines["dev"]]
        for dcase, names in machines.items()
        if objective.metric == "official_dev"
    }
    parts = {
        "system": base.system,
        "space": base.axes,
        "objective": objective,
        "seeds": sweep.seeds,
        "train": {d: {m: datasets[d].machines[m].train for m in names} for d, names in machines.items()},
        "test": {d: {m: datasets[d].machines[m].test for m in names} for d, names in judged.items()},
    }
    start = f"{base.recipe}-{digest(parts)[:8]}"
    by_best = objective.metric == "official_dev" and objective.backend is None
    name = f"{start}-{digest(sweep.backends)[:8]}" if by_best else start
    # Once every study was told apart by the backends: it is gone on with as long as they are the same.
    return name, f"{base.recipe}-{digest({**parts, 'backends': sweep.backends})[:8]}", start


# ------------------------------------------------------------------------------------------- compactness


def _compactness(trial: Trial, ckpt: str, places: Places) -> float:
    from asdray.stages.files import read_extract

    directory = store.trial_dir(places.results, trial)
    ratios: list[float] = []
    for unit in trial.units:
        embeddings = {}
        for machine in unit.machines:
            found = read_extract(directory.extract(ckpt, machine, "train")).embedding
            if found is None:
                raise ValueError(f"{trial.name}: {trial.system.frontend.name} has no embeddings to compare")
            embeddings[machine] = found
        ratios += compactness(embeddings).values()
    return sum(ratios) / len(ratios)


def compactness(embeddings: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """How tightly each machine's training clips lie, relative to how far apart all clips of the model lie.

    Per machine the mean cosine distance of a training clip to the nearest other one of its machine (what
    kNN would give a normal clip), divided by the mean cosine distance between all pairs of training clips
    that the model was trained on. A model that draws everything to one point makes both small, and gains
    nothing by it. The lower the better, about 0 to 1.

    It follows the idea of a compactness loss that only counts beside a descriptiveness loss (Perera and
    Patel, Learning Deep Features for One-Class Classification, IEEE TIP 2019), without a second dataset.
    That it ranks systems as the official score does is nowhere shown: ``selection.csv`` of a search says how
    well it did.

    Args:
        embeddings: machine -> (N, D), of one model.

    Raises:
        ValueError: fewer than two clips of a machine, or embeddings that are all the same.
    """
    import numpy as np

    unit = {}
    for machine, found in embeddings.items():
        if len(found) < 2:
            raise ValueError(f"{machine} has {len(found)} training clips: compactness needs two")
        wide = found.astype(np.float64)
        unit[machine] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    n = sum(len(u) for u in unit.values())
    total = sum(u.sum(axis=0) for u in unit.values())
    norms = sum(float((u * u).sum()) for u in unit.values())
    apart = 1 - float(np.dot(total, total) - norms) / (n * (n - 1))
    if apart < COLLAPSED:
        raise ValueError(
            f"the embeddings of all {n} training clips are the same (mean cosine distance {apart:.1e})"
        )
    return {machine: _nearest_other(u) / apart for machine, u in unit.items()}


def _nearest_other(unit: NDArray[np.float64], block: int = 1024) -> float:
    """Mean cosine distance of each of (N, D) vectors of length 1 to the nearest other; in blocks."""
    import numpy as np

    distances = []
    for start in range(0, len(unit), block):
        similar = unit[start : start + block] @ unit.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        distances.append(1 - similar.max(axis=1))
    return float(np.maximum(np.concatenate(distances), 0).mean())
