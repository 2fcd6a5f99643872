"""Score: a machine's extracted clips -> anomaly scores of one backend. Sees no labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from asdray import store
from asdray.backends import Features, Scores, score_machine
from asdray.config.backend import Backend, OwnBackend, backend_id
from asdray.config.plugin_fault import PluginError
from asdray.dcase import manifest
from asdray.stages.extract import SPLITS, Extract, read_extract
from asdray.stages.steps import Outcome, TrialFiles, working


def score(
    files: TrialFiles, machine: str, ckpt: str, backend: Backend, *, overwrite: bool = False
) -> Outcome:
    """Writes ``scores/<backend id>.parquet``: clip, split, score; for training clips too.

    Every training clip is scored as if new, for thresholds and z-scores.

    Args:
        overwrite: score again even if the stage is complete.

    Raises:
        ValueError: not extracted yet, or the embeddings were pruned; the backend cannot score the frontend's
            outputs; a score is not finite.
    """
    where, folder = f"{files.trial.title}: {machine}", files.folder.machine(ckpt, machine)
    with working(files, folder, lambda now: now.score(machine, ckpt, backend), overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        names = () if isinstance(backend, OwnBackend) else backend.embeddings
        extracts = [read_extract(files.folder.extract(ckpt, machine, split), names) for split in SPLITS]
        known = sections_and_domains(files, machine, (clip for e in extracts for clip in e.clips))
        train, test = (Features(e.embeddings, e.own, [known[c][0] for c in e.clips]) for e in extracts)
        try:
            scores = score_machine(backend, train, [known[clip][1] for clip in extracts[0].clips], test)
        except PluginError:
            raise  # it begins with file and line
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        path = files.folder.scores(ckpt, machine, backend_id(backend))
        work.replace([path])
        _write(path, extracts, scores, f"{where}: {backend_id(backend)}")
        return work.finish([path], extra={"options": backend.model_dump(mode="json")})


def sections_and_domains(files: TrialFiles, machine: str, clips: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Clip -> section and domain. Scoring reads nothing else of the manifest, no test domain."""
    dcase = files.trial.dcase
    rows = manifest.rows(manifest.load_manifest(files.places.data, dcase), machine=machine)
    columns = (rows[name].to_pylist() for name in ("clip", "section", "domain"))
    known = {clip: (section, domain) for clip, section, domain in zip(*columns, strict=True)}
    if absent := [clip for clip in clips if clip not in known]:
        raise ValueError(
            f"{dcase} was formatted again while {machine} was scored: it has no clip {absent[0]} any more; "
            "run the command again"
        )
    return known


def _write(path: Path, extracts: Iterable[Extract], scores: tuple[Scores, Scores], what: str) -> None:
    clips = [clip for extract in extracts for clip in extract.clips]
    split = [name for name, own in zip(SPLITS, scores, strict=True) for _ in own]
    values = np.concatenate(scores)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{what} gives {bad.size} of {len(values)} clips a score that is not finite, first "
            f"{clips[bad[0]]}: look at the losses of the training"
        )
    table = pa.table({"clip": clips, "split": split, "score": pa.array(values, pa.float64())})
    store.write_parquet(path, table)
