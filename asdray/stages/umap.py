"""UMAP: a machine's embeddings in two dimensions, for the eye only."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asdray import drawing, store
from asdray.config.backend import Umap
from asdray.dcase import manifest
from asdray.points import POINTS, Point, in_words, picture
from asdray.stages.extract import SPLITS, read_extract
from asdray.stages.steps import Outcome, TrialFiles, working

SEED = 0


def umap(files: TrialFiles, machine: str, ckpt: str, options: Umap, *, overwrite: bool = False) -> Outcome:
    """Writes ``umap/umap.parquet`` (clip, x, y) and ``umap/umap.png`` of training and test clips together.

    Labels, where known, choose the marks in the plot and nothing else.

    Args:
        overwrite: plot again even if the stage is complete.

    Raises:
        ValueError: not extracted yet, or the embeddings were pruned.
    """
    # A folder of its own, hence a lease of its own: scores and evaluations do not wait for a plot.
    folder = files.folder.umap(ckpt, machine)
    with working(files, folder, lambda now: now.umap(machine, ckpt, options), overwrite=overwrite) as work:
        if work.reused:
            return work.reused
        paths = [folder / POINTS, folder / "umap.png"]
        work.replace(paths)
        extracts = [read_extract(files.folder.extract(ckpt, machine, split)) for split in SPLITS]
        points = embed(np.concatenate([e.embedding for e in extracts]), options)
        clips = [clip for extract in extracts for clip in extract.clips]
        store.write_parquet(paths[0], pa.table({"clip": clips, "x": points[:, 0], "y": points[:, 1]}))
        trial = files.trial
        rows = manifest.rows(manifest.load_manifest(files.places.data, trial.dcase), machine=machine)
        facts = {row["clip"]: row for row in rows.to_pylist()}
        names = ("split", "section", "domain", "is_anomaly")
        placed = [
            Point(clip, x, y, *(facts[clip][name] for name in names))
            for clip, (x, y) in zip(clips, points.tolist(), strict=True)
        ]
        mark = " (synthetic data)" if files.dataset.kind == "synthetic" else ""
        title = f"{trial.dcase} {machine}, seed {trial.seed}{mark}\n{in_words(trial)}"
        drawing.save(picture(placed, title), paths[1], f"{trial.name} {machine}{mark}")
        return work.finish(paths)


def embed(x: NDArray[np.float32], options: Umap) -> NDArray[np.float32]:
    """(N, D) -> (N, 2) float32, the same for the same input; with few clips, fewer neighbours.

    Source: McInnes et al. 2018, as in umap-learn.
    """
    if len(x) < 3:  # nothing to lay out
        return np.column_stack([np.arange(len(x)), np.zeros(len(x))]).astype(np.float32)
    reducer = _umap_learn().UMAP(
        n_neighbors=min(options.n_neighbors, len(x) - 1),
        min_dist=options.min_dist,
        metric=options.metric,
        random_state=SEED,
        n_jobs=1,  # what a seed implies; said here, umap-learn does not warn
        # A handful of points has too few eigenvectors to start from.
        init="spectral" if len(x) > 10 else "random",
    )
    return reducer.fit_transform(x).astype(np.float32)


@functools.cache
def _umap_learn() -> Any:
    """umap-learn, whose functions compile for ten seconds: once per machine here, not once per process.

    Unlike the neighbour search it builds on (pynndescent), it leaves Numba's cache on disk unused. The same
    machine code runs either way.
    """
    import umap
    from numba.core.dispatcher import Dispatcher

    for module in (umap.distances, umap.layouts, umap.spectral, umap.umap_, umap.utils):
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                with contextlib.suppress(RuntimeError):  # nowhere to write: compiles as ever
                    function.enable_caching()
    return umap
