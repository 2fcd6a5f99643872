"""All that must be done for the clusters of a training: the stages of the system that is clustered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from asdray.config.backend import Knn
from asdray.config.trial import Trial, Unit
from asdray.stages.cluster import cluster
from asdray.stages.extract import extract
from asdray.stages.steps import Outcome, Request, Snapshot, TrialFiles
from asdray.stages.train import train
from asdray.stages.trial_json import write_trial


class Clustered(NamedTuple):
    """The clusters of one machine; ``clustering`` is the id, ``trial`` the one whose embeddings it has."""

    trial: Trial
    machine: str
    clustering: str
    outcome: Outcome


def complete_clusters(
    files: TrialFiles,
    unit: Unit,
    checkpoints: Iterable[str] = ("last",),
    *,
    device: str = "auto",
    again: bool = False,
) -> Iterator[Clustered]:
    """Completes the clusters that a training needs, machine after machine, unless the training is complete.

    Several trainings may need the same clusters at once: the leases of the stages let one of them work, and
    the others wait and find the clusters.

    Args:
        files: of the trial that is to be trained.
        checkpoints: of the training.
        again: True for a training that runs even if it is complete.

    Raises:
        ValueError: a stage of the other system fails.
    """
    clustering, source = files.trial.system.frontend.clustering, files.clustered(unit.machines)
    if clustering is None or source is None:
        return
    if not again and Snapshot(files).train(unit, ("last", *checkpoints)).complete:
        return
    if not source.folder.trial_json.is_file():
        write_trial(source, Request(("last",), source.trial.backends((Knn(),))))
    for machine in unit.machines:
        if not Snapshot(source).cluster(machine, clustering).complete:
            train(source, source.trial.unit_of(machine), device=device, rebuild=True)
            extract(source, machine, "last", device=device, rebuild=True)
        yield Clustered(source.trial, machine, clustering.id, cluster(source, machine, clustering))
