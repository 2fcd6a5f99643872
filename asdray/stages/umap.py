"""UMAP: a machine's embeddings in two dimensions, for the eye only."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asdray import store
from asdray.config.backend import Umap
from asdray.dcase import manifest
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
        paths = [folder / "umap.parquet", folder / "umap.png"]
        work.replace(paths)
        extracts = [read_extract(files.folder.extract(ckpt, machine, split)) for split in SPLITS]
        points = embed(np.concatenate([e.embedding for e in extracts]), options)
        clips = [clip for extract in extracts for clip in extract.clips]
        store.write_parquet(paths[0], pa.table({"clip": clips, "x": points[:, 0], "y": points[:, 1]}))
        trial = files.trial
        rows = manifest.rows(manifest.load_manifest(files.places.data, trial.dcase), machine=machine)
        facts = {row["clip"]: row for row in rows.to_pylist()}
        mark = " (synthetic data)" if files.dataset.kind == "synthetic" else ""
        _plot(paths[1], [facts[clip] for clip in clips], points, f"{trial.name} {machine}{mark}")
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


# split, label -> colour, size in points^2, and what the legend calls it; later ones lie on top.
_GROUPS: dict[tuple[str, bool | None], tuple[str, float, str]] = {
    ("train", False): ("0.75", 8, "train"),
    ("test", None): ("tab:purple", 14, "test, unknown"),
    ("test", False): ("tab:blue", 14, "test, normal"),
    ("test", True): ("tab:red", 14, "test, anomaly"),
}
_MARKERS = {"source": "o", "target": "^", None: "s"}


def _plot(path: Path, rows: list[dict[str, Any]], points: NDArray[np.float32], title: str) -> None:
    # Figure itself, not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for (split, label), (colour, size, name) in _GROUPS.items():
        of_split = [i for i, r in enumerate(rows) if r["split"] == split]
        group = [i for i in of_split if split == "train" or rows[i]["is_anomaly"] is label]
        for domain, mark in _MARKERS.items():
            if at := [i for i in group if rows[i]["domain"] == domain]:
                text = f"{name}, {domain or 'domain unknown'} ({len(at)})"
                x, y = points[at].T
                axes.scatter(x, y, s=size, c=colour, marker=mark, linewidths=0, label=text)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=7)
    with store.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Title": title})
