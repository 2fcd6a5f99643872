"""The objective of a search: one number per backend and trial, from the files of its stages.

No objective sees the eval subset: ``official_dev`` reads only the dev rows of an evaluation, ``train_loss``
and ``compactness`` read no label at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asdray import damage, store
from asdray.config.backend import Backend, backend_id
from asdray.config.search import Objective
from asdray.config.trial import Trial
from asdray.dcase.years import get_year
from asdray.stages.steps import Snapshot, TrialFiles
from asdray.store import Places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANY = ""
"""Key in place of a backend id for an objective that scores no clip."""

COLLAPSED = 1e-6
"""Mean cosine distance below which embeddings count as a single point, since float32 is no more precise."""


def machines_needed(objective: Objective, trial: Trial) -> tuple[str, ...]:
    """The machines that the objective needs extracted, for ``official_dev`` also scored and evaluated."""
    if objective.metric == "train_loss":
        return ()
    if objective.metric == "compactness":
        return trial.machines
    dev = get_year(trial.dcase).machines["dev"]
    return tuple(m for m in trial.machines if m in dev)


def values(
    objective: Objective, trial: Trial, backends: Sequence[Backend], places: Places
) -> dict[str, float | None]:
    """The objective of one trial: backend id (or `ANY`) -> value, None for an undefined score.

    Args:
        backends: all backends that score the trial.

    Raises:
        ValueError: a missing stage output, embeddings that are all the same.
    """
    match objective.metric:
        case "train_loss":
            return {ANY: _train_loss(trial, places)}
        case "compactness":
            return {ANY: _compactness(trial, objective.checkpoint, places)}
        case "official_dev":
            wanted = [objective.backend] if objective.backend else backends
            return _official_dev(objective, trial, [backend_id(b) for b in wanted], places)


def _train_loss(trial: Trial, places: Places) -> float:
    """Mean over the units of the loss in their last epoch."""
    snapshot = Snapshot(TrialFiles.load(trial, places))
    losses = []
    for unit in trial.units:
        record = snapshot.record(snapshot.train(unit))
        if record is None:
            raise ValueError(f"{trial.title}: unit {unit.name} is not trained")
        if not isinstance(loss := record.extra.get("loss"), int | float):
            raise ValueError(
                f"{trial.name}: the record of unit {unit.name} has no loss; train it with --overwrite"
            )
        losses.append(loss)
    return sum(losses) / len(losses)


def _official_dev(
    objective: Objective, trial: Trial, backends: Sequence[str], places: Places
) -> dict[str, float | None]:
    from asdray.evaluation import metrics

    year = get_year(trial.dcase)
    machines = machines_needed(objective, trial)
    directory = store.trial_dir(places.results, trial)
    found = [_dev_rows(directory.evaluate(objective.checkpoint, machine)) for machine in machines]
    n_sections = [len(year.sections["dev"][machine]) for machine in machines]
    return {
        name: metrics.official_total(year.score_rule, [rows.get(name) for rows in found], n_sections)
        for name in backends
    }


def _dev_rows(path: Path) -> dict[str, float | None]:
    """Backend id -> official score of one machine on the dev subset."""
    from asdray.evaluation.metrics import ALL_SECTIONS

    return {
        row["backend"]: float(row["value"]) if row["value"] else None
        for row in damage.read_csv(path)
        if row["subset"] == "dev" and row["metric"] == "official" and int(row["section"]) == ALL_SECTIONS
    }


# ------------------------------------------------------------------------------------------- compactness


def _compactness(trial: Trial, ckpt: str, places: Places) -> float:
    from asdray.stages.extract import read_extract

    directory = store.trial_dir(places.results, trial)
    ratios: list[float] = []
    for unit in trial.units:
        embeddings = {}
        for machine in unit.machines:
            embeddings[machine] = read_extract(directory.extract(ckpt, machine, "train")).embedding
        ratios += compactness(embeddings).values()
    return sum(ratios) / len(ratios)


def compactness(embeddings: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Density of each machine's training clips, relative to the spread of all training clips of the model.

    The numerator is the mean cosine distance of a training clip to the nearest other clip of its machine
    (the kNN score of a normal clip), the denominator the mean cosine distance between all pairs of training
    clips of the model. A model that maps all clips to one point makes both small and gains nothing. Lower is
    better; values lie at about 0 to 1.

    Source: a compactness loss beside a descriptiveness loss, from Perera and Patel, Learning Deep Features
        for One-Class Classification, IEEE TIP 2019; here without a second dataset. Agreement with the
        official score is not shown anywhere: ``selection.csv`` tells how well the objective did in a search.

    >>> import numpy as np
    >>> two_groups = np.float32([[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> compactness({"fan": two_groups})
    {'fan': 0.0}

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


def _nearest_other(unit: NDArray[np.float64]) -> float:
    """Mean cosine distance of (N, D) vectors of length 1 to their nearest other vector; in blocks."""
    import numpy as np

    block, distances = 1024, []
    for start in range(0, len(unit), block):
        similar = unit[start : start + block] @ unit.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        distances.append(1 - similar.max(axis=1))
    return float(np.maximum(np.concatenate(distances), 0).mean())
