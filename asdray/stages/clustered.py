"""All that must be done for the clusters of a training: the stages of the system that is clustered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from asdray import store
from asdray.config.backend import Knn
from asdray.config.trial import Trial, Unit
from asdray.stages.cluster import cluster
from asdray.stages.extract import extract
from asdray.stages.steps import Outcome, Request, Snapshot, TrialFiles
from asdray.stages.train import TrainingDiverged, train
from asdray.stages.trial_json import write_trial


class Made(NamedTuple):
    """A finished stage of the system that is clustered, the source.

    Attributes:
        trial: the source's trial.
        stage: ``train``, ``extract`` or ``cluster``.
        of: the unit of a training, the machine of another stage.
        clustering: id of the clustering; None for another stage.
    """

    trial: Trial
    stage: str
    of: str
    clustering: str | None
    outcome: Outcome


def complete_clusters(
    files: TrialFiles,
    unit: Unit,
    checkpoints: Iterable[str] = ("last",),
    *,
    device: str = "auto",
    again: bool = False,
    on_epoch: Callable[[Trial, Mapping[str, Any]], None] | None = None,
) -> Iterator[Made]:
    """Completes the clusters that a training needs, machine after machine, unless the training is complete.

    Several trainings may need the same clusters at once: a lease on the source lets one of them work, and
    the others wait and find the clusters. No sweep prunes files of the source meanwhile.

    Args:
        files: of the trial that is to be trained.
        checkpoints: of the training.
        again: True for a training that runs even if it is complete.
        on_epoch: called with the source's trial and, as by `train`, the facts of an epoch of its training.

    Yields:
        Every stage that was done, and every clustering, also one that was complete.

    Raises:
        ValueError: a stage of the source fails.
    """
    clustering, source = files.trial.system.frontend.clustering, files.clustered(unit.machines)
    if clustering is None or source is None:
        return
    if not again and Snapshot(files).train(unit, ("last", *checkpoints)).complete:
        return
    if not source.folder.trial_json.is_file():
        write_trial(source, Request(("last",), source.trial.backends((Knn(),))))
    with store.lease(source.folder.clustering), _named(source.trial):
        for machine in unit.machines:
            if not Snapshot(source).cluster(machine, clustering).complete:
                yield from _complete_embeddings(source, machine, device, on_epoch)
            outcome = cluster(source, machine, clustering)
            yield Made(source.trial, "cluster", machine, clustering.id, outcome)


def _complete_embeddings(
    source: TrialFiles,
    machine: str,
    device: str,
    on_epoch: Callable[[Trial, Mapping[str, Any]], None] | None,
) -> Iterator[Made]:
    """Trains and extracts until the embeddings of a machine lie on the disk; yields what was done."""
    trial = source.trial
    if Snapshot(source).extract(machine, "last").status == "done":
        return  # A checkpoint that was pruned is not needed.
    unit = trial.unit_of(machine)
    call = None if on_epoch is None else lambda facts: on_epoch(trial, facts)
    trained = train(source, unit, device=device, rebuild=True, on_epoch=call)
    if trial.system.frontend.learns and not trained.reused:
        yield Made(trial, "train", unit.name, None, trained)
    extracted = extract(source, machine, "last", device=device, rebuild=True)
    if not extracted.reused:
        yield Made(trial, "extract", machine, None, extracted)


@contextlib.contextmanager
def _named(source: Trial) -> Iterator[None]:
    """Names the source in an error of one of its stages."""
    where = f"{source.name}, whose embeddings are clustered"
    try:
        yield
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
