"""``asdray sweep --verify``: every file of a sweep against the hash in its record. Starts no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asdray import damage, store
from asdray.dcase.manifest import load_manifest
from asdray.store import Places
from asdray.sweep.jobs import Job


def verify(
    name: str,
    jobs: Sequence[Job],
    places: Places,
    *,
    forget: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Reads everything that belongs to a sweep: results of trials and ensembles, manifests, decoded audio.

    Args:
        name: of the sweep.
        forget: True to let damaged files count as missing, so that the sweep makes these again. Damaged audio
            is decoded again in any case, when a stage needs the audio.
        on_progress: called with the numbers of folders that were read, and of all.

    Returns:
        A line per damaged or lost file.

    Raises:
        ValueError: a manifest is damaged; `asdray format` makes it.
    """
    from asdray.audio.cache import stale_packs

    lines = []
    roots = list(_folders(name, jobs, places))
    for done, root in enumerate(roots, 1):
        for fault in damage.below(root):
            if forget:
                damage.forget(fault)
            lines.append(f"damaged: {fault.path} ({fault.reason})")
        if on_progress:
            on_progress(done, len(roots))
    for dcase, dataset in {job.trial.dcase: job.dataset for job in jobs}.items():
        load_manifest(places.data, dcase)
        lines += [
            f"damaged: decoded audio in {folder}" for folder in stale_packs(places.cache, dataset, True)
        ]
    return lines


def _folders(name: str, jobs: Sequence[Job], places: Places) -> Iterator[Path]:
    """The folders of all trials, of trials whose clusters these need, and of the ensembles."""
    trials: dict[Path, None] = {}
    for job in jobs:
        files = job.files(places)
        sources = (files.clustered(unit.machines) for unit in job.trial.units)
        for one in (files, *(source for source in sources if source)):
            trials[one.folder.root] = None
    yield from trials
    yield store.ensembles_dir(places.results, name)
