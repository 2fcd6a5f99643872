"""Score: a machine's extracted clips -> anomaly scores of one backend. Sees no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asdray import store
from asdray.backends import Features, Scores, score_machine
from asdray.config.backend import Backend, OwnBackend, backend_id
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.stages.files import Extract, read_extract
from asdray.stages.steps import Outcome, TrialFiles, working
from asdray.store import Places


def score(
    trial: Trial,
    machine: str,
    ckpt: str,
    backend: Backend,
    places: Places,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Writes ``scores/<backend id>.parquet``: clip, split, score; for training clips too.

    A training clip's score is what it would get were it new: thresholds and z-scores need that.

    Args:
        overwrite: score again even if the stage is complete.

    Raises:
        ValueError: not extracted yet, or the embeddings were pruned; the backend cannot score this
            frontend; a score that is not finite.
    """
    files = TrialFiles.load(trial, places, [machine])
    name = backend_id(backend)
    with working(
        files,
        files.folder.machine(ckpt, machine),
        lambda now: now.score(machine, ckpt, backend),
        overwrite=overwrite,
    ) as work:
        if work.reused:
            return work.reused
        train, test = (read_extract(files.folder.extract(ckpt, machine, s)) for s in ("train", "test"))
        known = _sections_and_domains(places.data, trial.dcase, machine, (*train.clips, *test.clips))
        try:
            if not isinstance(backend, OwnBackend):
                _check_finite(train, "training")
                _check_finite(test, "test")
            scores = score_machine(
                backend,
                _features(train, known),
                [known[clip][1] for clip in train.clips],
                _features(test, known),
            )
        except ValueError as error:
            raise ValueError(f"{trial.name}: {machine}: {error}") from None
        path = files.folder.scores(ckpt, machine, name)
        work.replace([path])
        _write(path, (train, test), scores, f"{trial.name}: {machine}: {name}")
        return work.finish([path], extra={"options": backend.model_dump(mode="json")})


def _features(extract: Extract, known: Mapping[str, tuple[int, str]]) -> Features:
    return Features(extract.embedding, extract.own, [known[clip][0] for clip in extract.clips])


def _sections_and_domains(
    data: Path, dcase: str, machine: str, clips: Iterable[str]
) -> dict[str, tuple[int, str]]:
    """Clip -> section and domain: all that scoring reads of the manifest; of test clips the section alone."""
    rows = manifest.rows(manifest.load_manifest(data, dcase), machine=machine)
    columns = (rows[name].to_pylist() for name in ("clip", "section", "domain"))
    known = {clip: (section, domain) for clip, section, domain in zip(*columns, strict=True)}
    if absent := [clip for clip in clips if clip not in known]:
        raise ValueError(
            f"{dcase} was formatted anew while {machine} was scored: it has no clip {absent[0]} any more; "
            "run the command again"
        )
    return known


def _check_finite(extract: Extract, what: str) -> None:
    if extract.embedding is not None:
        bad = np.flatnonzero(~np.isfinite(extract.embedding).all(axis=1))
        if bad.size:
            raise ValueError(
                f"the embeddings of {bad.size} of {len(extract.clips)} {what} clips are not finite, first "
                f"{extract.clips[bad[0]]}: look at the losses of the training"
            )


def _write(path: Path, extracts: tuple[Extract, Extract], scores: tuple[Scores, Scores], what: str) -> None:
    clips = [clip for extract in extracts for clip in extract.clips]
    split = [name for name, e in zip(("train", "test"), extracts, strict=True) for _ in e.clips]
    values = np.concatenate(scores)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{what} gives {bad.size} of {len(values)} clips a score that is not finite, first "
            f"{clips[bad[0]]}: look at the losses of the training"
        )
    table = pa.table({"clip": clips, "split": split, "score": pa.array(values, pa.float64())})
    with store.atomic_path(path) as temporary:
        pq.write_table(table, temporary)
