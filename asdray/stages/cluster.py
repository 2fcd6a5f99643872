"""Clusters of a machine's training clips: pseudo-labels for the training of another system.

The stage belongs to the trial whose embeddings are clustered, and writes into that trial's folder. Only
training clips are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asdray import damage, store
from asdray.dcase import manifest
from asdray.dcase.names import is_hidden
from asdray.stages.extract import read_extract
from asdray.stages.steps import Outcome, Snapshot, TrialFiles, working

if TYPE_CHECKING:
    from asdray.audio.cache import Pack
    from asdray.config.clustering import Clustering


def cluster(files: TrialFiles, machine: str, clustering: Clustering, *, overwrite: bool = False) -> Outcome:
    """Writes ``clusters/<id>.parquet``, a row per training clip: ``clip``, and ``cluster``, a number or null.

    Args:
        files: of the trial whose embeddings are clustered.
        overwrite: clusters again even if the stage is complete.

    Raises:
        ValueError: not extracted yet, or the embeddings were pruned.
    """
    folder = files.folder.machine("last", machine)
    with working(files, folder, lambda now: now.cluster(machine, clustering), overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        import pyarrow as pa

        names = [clustering.embedding] if clustering.embedding else []
        extract = read_extract(files.folder.extract("last", machine, "train"), names)
        groups = _groups(files, machine, extract.clips, clustering)
        found = clusters(extract.embedding, groups, clustering)
        path = files.folder.clusters("last", machine, clustering.id)
        work.replace([path])
        store.write_parquet(path, pa.table({"clip": extract.clips, "cluster": pa.array(found, pa.int32())}))
        n_clusters = len({number for number in found if number is not None})
        facts = {"n_clusters": n_clusters, "options": clustering.model_dump(mode="json")}
        return work.finish([path], extra=facts)


def _groups(
    files: TrialFiles, machine: str, clips: Sequence[str], clustering: Clustering
) -> list[tuple[int, str] | None]:
    """The group of every clip, as section and domain (0 and ``""`` if not in ``per``); None for no group.

    Raises:
        ValueError: the year was formatted again after the extraction.
    """
    dcase = files.trial.dcase
    rows = manifest.rows(manifest.load_manifest(files.places.data, dcase), machine=machine, split="train")
    if rows["clip"].to_pylist() != list(clips):
        raise ValueError(f"{dcase} was formatted again while {machine} was clustered: run the command again")
    per, columns = clustering.per, (rows[name].to_pylist() for name in ("section", "domain", "attributes"))
    return [
        (section if "section" in per else 0, domain if "domain" in per else "")
        if clustering.only == "all" or is_hidden(attributes)
        else None
        for section, domain, attributes in zip(*columns, strict=True)
    ]


def clusters(
    embedding: NDArray[np.float32], groups: Sequence[tuple[int, str] | None], clustering: Clustering
) -> list[int | None]:
    """The cluster of every clip, numbered through all groups: those of the source domain come first.

    Args:
        embedding: ``(N, D)``.
        groups: section and domain of each clip's group; None for a clip without cluster.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found: list[int | None] = [None] * len(groups)
    first = 0
    for group in sorted({group for group in groups if group is not None}):
        members = [i for i, other in enumerate(groups) if other == group]
        n = clustering.count(len(members), group[1])
        with warnings.catch_warnings():
            # With fewer distinct clips than clusters, some clusters are empty, which does no harm.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = KMeans(n, random_state=clustering.seed).fit_predict(embedding[members])
        for i, label in zip(members, labels.tolist(), strict=True):
            found[i] = first + label
        first += n
    return found


def cluster_column(files: TrialFiles, packs: Sequence[Pack]) -> dict[str, list[Any]]:
    """The column ``cluster`` of the packs' clips, a number or None; no column without a clustering.

    Args:
        files: of the trial whose classes have a clustering.

    Raises:
        ValueError: the clusters are missing or out of date.
    """
    source = files.clustered(tuple(dict.fromkeys(pack.machine for pack in packs)))
    clustering = files.trial.system.frontend.clustering
    if source is None or clustering is None:
        return {}
    column: list[Any] = []
    snapshot = Snapshot(source)
    for pack in packs:
        if pack.split != "train":  # supplemental clips
            column += [None] * len(pack)
            continue
        if not snapshot.cluster(pack.machine, clustering).complete:
            raise ValueError(
                f"{files.trial.name} needs clusters of {pack.machine} by {source.trial.system_name}, which "
                "are missing or out of date: run `asdray train` or the sweep again"
            )
        table = damage.read_parquet(source.folder.clusters("last", pack.machine, clustering.id))
        found = dict(zip(table["clip"].to_pylist(), table["cluster"].to_pylist(), strict=True))
        column += [found[clip] for clip in pack.clips]
    return {"cluster": column}
