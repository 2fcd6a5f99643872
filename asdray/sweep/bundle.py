"""A sweep's results in one zip for other people, and other people's results beside a sweep's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import damage, provenance, store
from asdray.config.backend import backend_id
from asdray.config.base import canonical
from asdray.config.sweep import Sweep
from asdray.dcase import manifest
from asdray.stages.steps import Snapshot, Step
from asdray.store import Places, SweepDir
from asdray.sweep.jobs import Job
from asdray.sweep.outputs import table_context, write_results

if TYPE_CHECKING:
    from asdray.evaluation.bundle import LabelledClip
    from asdray.evaluation.tables import TableContext


def write_bundle(sweep: Sweep, jobs: Sequence[Job], places: Places, out: Path | None = None) -> Path:
    """Packs the finished results of a sweep, after its tables were written anew.

    Args:
        out: path of the zip; None: ``<name>.zip`` in the sweep's folder.

    Returns:
        The path of the zip.

    Raises:
        ValueError: no trial has ended; a damaged file.
    """
    from asdray.evaluation import bundle
    from asdray.evaluation.recomputed import recompute

    board = write_results(sweep, jobs, places)
    folder = SweepDir(store.sweep_dir(places.results, sweep.name))
    datasets = {job.trial.dcase: job.dataset for job in jobs}
    context = table_context(sweep, jobs, datasets)
    labels = {dcase: clips_of(places.data, dcase, sweep.machines_of(dcase)) for dcase in datasets}
    members = {path.relative_to(folder.root).as_posix(): path.read_bytes() for path in _as_written(folder)}
    for dcase, clips in labels.items():
        members[bundle.labels_name(dcase)] = _csv(bundle.LabelledClip._fields, clips)
    packed = 0
    for job in jobs:
        for ckpt, scores in _scores(job, sweep, places, labels[job.trial.dcase]).items():
            trial = job.trial
            members[bundle.scores_name(trial.dcase, trial.system_name, trial.seed, ckpt)] = scores
            packed += 1
    if not packed:
        raise ValueError(f"no trial of the sweep {sweep.name!r} has ended: there is nothing to pack")
    header = {
        "name": sweep.name,
        "dataset": board.dataset,
        "machines": {dcase: list(sweep.machines_of(dcase)) for dcase in datasets},
        "label_sources": {dcase: context.label_sources[dcase] for dcase in datasets},
        "checkpoints": list(sweep.checkpoints),
        "backends": {backend_id(b): b.model_dump(mode="json") for job in jobs for b in job.backends},
        "rank_by": board.rank_by,
        "trials": [_trial(job, sweep, places, context) for job in jobs],
        "provenance": provenance.everything(),
    }
    path = out or folder.root / f"{sweep.name}.zip"
    with store.atomic_path(path) as temporary:
        bundle.write(temporary, header, members)
        recompute(bundle.read(temporary))  # what is sent can be read
    return path


def clips_of(data: Path, dcase: str, machines: Iterable[str]) -> list[LabelledClip]:
    """The test clips of some machines with their labels, sorted by clip."""
    from asdray.evaluation.bundle import LabelledClip

    wanted = set(machines)
    table = manifest.rows(manifest.load_manifest(data, dcase), split="test").select([*LabelledClip._fields])
    return [LabelledClip(**row) for row in table.to_pylist() if row["machine"] in wanted]


def _as_written(folder: SweepDir) -> list[Path]:
    """The existing files of the sweep's folder that a bundle holds."""
    from asdray.evaluation.bundle import AS_WRITTEN

    paths = [folder.root / path for path in AS_WRITTEN] + sorted(folder.tables.glob("*.csv"))
    return [path for path in paths if path.is_file()]


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _scores(job: Job, sweep: Sweep, places: Places, labels: Sequence[LabelledClip]) -> dict[str, bytes]:
    """Checkpoint -> scores of every clip by every backend; none of a trial without its table."""
    files = job.files(places)
    snapshot = Snapshot(files)
    if not snapshot.table(sweep.checkpoints).complete:
        return {}
    found: dict[str, bytes] = {}
    for ckpt in sweep.checkpoints:
        columns: dict[str, dict[str, float]] = {}
        for machine in job.trial.machines:
            for backend in job.backends:
                if snapshot.score(machine, ckpt, backend).complete:
                    path = files.folder.scores(ckpt, machine, backend_id(backend))
                    table = damage.read_parquet(path, ["clip", "score"]).to_pydict()
                    scores = zip(table["clip"], table["score"], strict=True)
                    columns.setdefault(backend_id(backend), {}).update(scores)
        if columns:
            rows = ([of.get(clip.clip) for of in columns.values()] for clip in labels)
            found[ckpt] = _csv(columns, rows)
    return found


def _trial(job: Job, sweep: Sweep, places: Places, context: TableContext) -> dict[str, Any]:
    """The entry of a trial in the header."""
    trial = job.trial
    return {
        "dcase": trial.dcase,
        "recipe": trial.recipe,
        "system": trial.system_name,
        "seed": trial.seed,
        "part": job.part,
        "canonical": canonical(trial.system),
        "label": trial.label,
        "options": context.options.get(trial.system_name, ""),
        "backends": [backend_id(backend) for backend in job.backends],
        "best_by": context.best_by[trial.system_name],
        "classes_from": context.classes_from[trial.system_name],
        "made": _made(job.steps(sweep, places)),
    }


def _made(steps: Sequence[Step]) -> dict[str, Any]:
    """What made the complete steps of a trial."""
    complete = [step for step in steps if step.complete]
    seconds: dict[str, float] = {}
    for step in complete:
        seconds[step.stage] = round(seconds.get(step.stage, 0.0) + step.seconds, 3)
    versions: dict[str, list[str]] = {}
    for step in complete:
        for name, version in step.versions.items():
            if version and version not in versions.setdefault(name, []):
                versions[name].append(version)
    return {
        "finished": max((step.finished for step in complete), default=None),
        "devices": sorted({step.device for step in complete if step.device}),
        "seconds": seconds,
        "versions": versions,
    }


# ---------------------------------------------------------------------------------------- theirs beside ours


def rows_beside(
    paths: Iterable[Path], sweep: Sweep, jobs: Sequence[Job], places: Places
) -> tuple[list[Mapping[Any, Any]], list[str]]:
    """The rows of other people's bundles for the leaderboard of a sweep, and a line for all that is left out.

    Raises:
        ValueError: no bundle, a damaged or hostile one, or one of the other kind of data.
    """
    from asdray.evaluation import recomputed
    from asdray.evaluation.bundle import read

    context = table_context(sweep, jobs, {job.trial.dcase: job.dataset for job in jobs})
    clips: dict[str, list[LabelledClip]] = {}

    def labels_of(dcase: str) -> list[LabelledClip] | None:
        if dcase not in clips:
            clips[dcase] = clips_of(places.data, dcase, sweep.machines_of(dcase))
        return clips[dcase]

    rows: list[Mapping[Any, Any]] = []
    lines: list[str] = []
    for path in paths:
        theirs = recomputed.recompute(read(path))
        found, faults = recomputed.rows(theirs, context, labels_of)
        rows += found
        lines += [*(f"{path.name}: {line}" for line in theirs.refused), *faults]
    return rows, lines
