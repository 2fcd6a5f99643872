"""Deletion of results: pruning of checkpoints and embeddings by ``keep`` of the sweep file, and ``--fresh``.

The files of a trial are pruned when the trial has ended; ``top: k`` waits for the final leaderboard of the
run. A file stays while a missing stage of the sweep is to read it, pseudo-labels of another of its trials
included, and while another process works beside it.
It also stays if another sweep in the same results names the trial, and keeps the file by its own ``keep`` or
has not finished the trial. The record of the stage lists a file as pruned before the file is deleted: if the
process is killed in between, the next run deletes the file.

Pruned stages count as complete; `asdray.stages.steps` finds out which of them must be rebuilt.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asdray import store
from asdray.config.sweep import Keep, Sweep, Top
from asdray.config.trial import Trial
from asdray.stages.steps import Snapshot, Step
from asdray.store import Places, SweepDir, TrialDir
from asdray.sweep.events import forget
from asdray.sweep.jobs import Job
from asdray.sweep.outputs import last_keep, last_trials
from asdray.sweep.progress import size

if TYPE_CHECKING:
    from asdray.sweep.search import SearchRun


def kept_shares(sweep: Sweep, jobs: Iterable[Job]) -> dict[str, float]:
    """Stage -> share of its bytes that stays in the end, over all trials of a sweep; an estimate."""
    systems = len({job.trial.system_name for job in jobs})
    best_of = 1
    if sweep.search.samples:
        systems = max(systems, (sweep.search.num_samples or 0) * len(sweep.recipes))
        best_of = len(sweep.recipes)

    def share(rule: str | Top) -> float:
        if isinstance(rule, Top):
            return min(1.0, rule.top * best_of / max(1, systems))
        return {"all": 1.0, "none": 0.0, "last": 1 / len({*sweep.checkpoints, "last"})}[rule]

    return {"train": share(sweep.keep.checkpoints), "extract": share(sweep.keep.embeddings)}


# --------------------------------------------------------------------------------------------- ranking


@dataclass(frozen=True)
class Ranking:
    """Ranks of systems, from 0: in the leaderboard, and by the objective of a search within their recipe.

    A system without a rank is not complete yet.
    """

    board: Mapping[str, int]
    search: Mapping[str | None, int] = field(default_factory=dict)

    @classmethod
    def read(cls, sweep: Sweep, jobs: Iterable[Job], places: Places) -> Ranking:
        """The ranking in the present leaderboard and studies of a sweep."""
        systems = {job.trial.system_name for job in jobs}
        rows: list[tuple[int, str]] = []
        # Of a damaged leaderboard nothing is known, and systems without a rank keep their files.
        with contextlib.suppress(OSError, ValueError, KeyError, csv.Error):
            path = SweepDir(store.sweep_dir(places.results, sweep.name)).leaderboard()
            with open(path, newline="", encoding="utf-8") as file:
                rows = [(int(r["rank"]), r["system"]) for r in csv.DictReader(file) if r.get("rank")]
        ranked = dict.fromkeys(name for _, name in sorted(rows) if name in systems)  # without ensembles
        search: dict[str | None, int] = {}
        if sweep.search.samples:
            from asdray.sweep.search import read_studies

            studies = read_studies(sweep, places)
            for recipe in studies.recipes:
                search |= {s.system_name: rank for rank, s in enumerate(studies.ranked(recipe))}
        return cls({name: rank for rank, name in enumerate(ranked)}, search)

    def is_outside_top(self, job: Job, k: int) -> bool:
        """True if a trial's system has a rank and is not among the best ``k``."""
        name = job.trial.system_name
        ranks = [self.board[name]] if name in self.board else []
        ranks += [self.search[name]] if job.part == "search" and name in self.search else []
        return bool(ranks) and min(ranks) >= k


# --------------------------------------------------------------------------------------------- pruning


@dataclass(frozen=True)
class _Output:
    """Files that are pruned together: a unit's checkpoint, or a machine's embeddings with one checkpoint.

    Attributes:
        of: the unit or the machine.
        machines: machines of the unit, or the machine.
        names: the files, relative to ``folder``.
        readers: folders of the stages that read the files.
    """

    stage: Literal["train", "extract"]
    of: str
    checkpoint: str
    machines: tuple[str, ...]
    folder: Path
    names: tuple[str, ...]
    readers: tuple[Path, ...]


def _outputs(trial: Trial, checkpoints: Sequence[str], folder: TrialDir) -> Iterator[_Output]:
    """All outputs of a trial that can be pruned."""
    for ckpt in checkpoints:
        for machine in trial.machines:
            names = tuple(folder.extract(ckpt, machine, split).name for split in ("train", "test"))
            here, readers = folder.machine(ckpt, machine), (folder.umap(ckpt, machine), folder.clustering)
            yield _Output("extract", machine, ckpt, (machine,), here, names, readers)
    for unit in trial.units:
        for ckpt in dict.fromkeys((*checkpoints, "last")):
            here, names = folder.model(unit.name), (store.checkpoint_name(ckpt),)
            extracted = tuple(folder.machine(ckpt, machine) for machine in unit.machines)
            yield _Output(
                "train", unit.name, ckpt, unit.machines, here, names, (*extracted, folder.clustering)
            )


class Pruner:
    """Prunes the trials of a sweep; the driver alone uses it, under the lease of the sweep's folder.

    Attributes:
        freed: bytes that were deleted.
    """

    def __init__(self, sweep: Sweep, places: Places) -> None:
        self.freed = 0
        self._sweep = sweep
        self._places = places
        self._clustered_for: dict[tuple[str, str, int], list[Job]] = {}
        """Trial (dcase, system, seed) -> trials of the sweep with clusters of its embeddings as classes."""

    def admit(self, job: Job) -> None:
        """Notes a trial of the sweep: the embeddings of its source stay until they are clustered."""
        if source := job.trial.clustered(job.trial.machines):
            self._clustered_for.setdefault(_key(source), []).append(job)

    def prune_all(self, jobs: Sequence[Job], search: SearchRun | None) -> None:
        """Prunes every trial after a run, when the leaderboard is final.

        Trials of a search that are not judged yet stay: their objective may be computed again.
        """
        if self._sweep.keep.everything:
            return
        ranking = Ranking.read(self._sweep, jobs, self._places)
        for job in jobs:
            state = search.sample_state(job) if search else None
            if state != "open":
                self.prune(job, ranking, stopped=state == "stopped")

    def prune(self, job: Job, ranking: Ranking | None = None, *, stopped: bool = False) -> bool:
        """Prunes a trial that has ended.

        Args:
            ranking: the final ranking; without it, outputs under a rule ``top`` stay.
            stopped: True if a scheduler stopped the trial's system: no stage is to read the outputs any more,
                the system is not among the best, and checkpoints of unfinished trainings are deleted too.

        Returns:
            True if every output went that may go, False if another sweep or a process still needs one.
        """
        keep = self._sweep.keep
        if keep.everything:
            return True
        others = self._keeps_of_others(job.trial)
        if others is None or self._is_to_be_clustered(job.trial):
            return False
        steps = job.steps(self._sweep, self._places)
        stages = {(s.stage, s.unit or s.machine, s.checkpoint): s for s in steps}
        files = job.files(self._places)
        all_gone = True
        for output in _outputs(job.trial, self._sweep.checkpoints, files.folder):
            ckpt = None if output.stage == "train" else output.checkpoint
            step = stages[output.stage, output.of, ckpt]
            if stopped:  # no stage reads its outputs, nor has them rebuilt
                free = step.complete or step.rebuild
            else:
                free = step.complete and not _is_needed(output, steps)
            kept = _keeps(keep, output, job, ranking, stopped) or any(_keeps(o, output, job) for o in others)
            if free and not kept:
                all_gone &= self._prune_output(output, step.signature)
        if stopped and keep.checkpoints not in ("all", "last"):
            self._delete_unfinished_trainings(job.trial, files.folder)
        return all_gone

    def _keeps_of_others(self, trial: Trial) -> list[Keep] | None:
        """``keep`` of the other sweeps that name the trial; None if one has not finished the trial."""
        key = _key(trial)
        found = []
        for folder in store.sweep_dirs(self._places.results):
            if folder.name == self._sweep.name:
                continue
            trials = last_trials(folder)
            if trials is None and (store.is_leased(folder) or SweepDir(folder).trials.exists()):
                return None  # its first run begins, or its list of trials is damaged
            if trials and key in trials:
                if trials[key] not in ("done", "stopped"):
                    return None
                keep = last_keep(folder)
                if keep is None:
                    return None
                found.append(keep)
        return found

    def _is_to_be_clustered(self, trial: Trial) -> bool:
        """True if a trial of the sweep lacks clusters of this trial's embeddings."""
        for job in self._clustered_for.get(_key(trial), ()):
            files, clustering = job.files(self._places), job.trial.system.frontend.clustering
            for unit in job.trial.units:
                source = files.clustered(unit.machines)
                if source is None or clustering is None:
                    continue
                snapshot = Snapshot(source)
                if not all(snapshot.cluster(machine, clustering).complete for machine in unit.machines):
                    return True
        return False

    def _prune_output(self, output: _Output, signature: str) -> bool:
        """Lists an output as pruned and deletes its files; False while a process works beside it."""
        paths = [output.folder / name for name in output.names]
        record = store.read_record(output.folder, output.stage)
        if record and set(output.names) <= set(record.pruned) and not any(path.exists() for path in paths):
            return True
        with contextlib.ExitStack() as leases:
            try:
                for folder in (output.folder, *(path for path in output.readers if path.is_dir())):
                    leases.enter_context(store.lease(folder, _refuse))
            except _LeasedError:
                return False
            record = store.read_record(output.folder, output.stage)
            if record is None or record.signature != signature:
                return False
            pruned = {*record.pruned, *(name for name in output.names if name in record.outputs)}
            if pruned != set(record.pruned):
                record = replace(record, pruned=tuple(sorted(pruned)))
                store.write_record(output.folder, output.stage, record)
            for path in paths:
                self._delete(path)
        return True

    def _delete_unfinished_trainings(self, trial: Trial, folder: TrialDir) -> None:
        """Deletes the checkpoints of trainings that were cut short: these would start again."""
        for unit in trial.units:
            model = folder.model(unit.name)
            if (model / "checkpoints").is_dir() and store.read_record(model, "train") is None:
                with contextlib.suppress(_LeasedError), store.lease(model, _refuse):
                    for path in (model / "checkpoints").iterdir():
                        self._delete(path)
                    shutil.rmtree(model / "checkpoints")

    def _delete(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.freed += path.stat().st_size
            path.unlink()


def _key(trial: Trial) -> tuple[str, str, int]:
    return (trial.dcase, trial.system_name, trial.seed)


def _keeps(
    keep: Keep, output: _Output, job: Job, ranking: Ranking | None = None, stopped: bool = False
) -> bool:
    """True if ``keep`` keeps an output of a trial."""
    rule = keep.embeddings if output.stage == "extract" else keep.checkpoints
    if isinstance(rule, Top):
        return not stopped and (ranking is None or not ranking.is_outside_top(job, rule.top))
    return rule in ("all", output.checkpoint)


def _is_needed(output: _Output, steps: Iterable[Step]) -> bool:
    """True if a missing stage of the sweep is to read an output."""
    readers = ("score", "umap") if output.stage == "extract" else ("extract",)
    return any(
        step.stage in readers
        and step.checkpoint == output.checkpoint
        and step.machine in output.machines
        and not step.complete
        for step in steps
    )


class _LeasedError(Exception):
    """Another process holds the lease of a folder."""


def _refuse() -> None:
    raise _LeasedError


# ------------------------------------------------------------------------------------------------- --fresh


@dataclass(frozen=True)
class Results:
    """Existing results of some trials.

    Attributes:
        folders: (dcase, system, seed) of a trial with results -> folder.
        others: name of another sweep -> number of shared trials.
    """

    folders: Mapping[tuple[str, str, int], Path]
    others: Mapping[str, int]

    def lines(self) -> list[str]:
        """The announcement of the deletion: folders, size, other sweeps over the same trials."""
        files = (file for folder in self.folders.values() for file in folder.rglob("*") if not file.is_dir())
        total = size(sum(file.lstat().st_size for file in files))
        lines = [f"--fresh deletes all results of {len(self.folders)} trials ({total}):"]
        lines += [f"  {folder}" for folder in list(self.folders.values())[:10]]
        if len(self.folders) > 10:
            lines.append(f"  and {len(self.folders) - 10} more")
        return lines + [f"{n} of them belong to the sweep {name!r} too" for name, n in self.others.items()]


def results_of(sweep: Sweep, jobs: Sequence[Job], places: Places) -> Results:
    """The existing results of the trials of ``jobs``."""
    folders = {}
    for job in jobs:
        folder = store.trial_dir(places.results, job.trial).root
        if folder.is_dir():
            folders[job.trial.dcase, job.trial.system_name, job.trial.seed] = folder
    others = {}
    for other in store.sweep_dirs(places.results):
        shared = folders.keys() & (last_trials(other) or {}).keys()
        if other.name != sweep.name and shared:
            others[other.name] = len(shared)
    return Results(folders, others)


def delete(results: Results, sweep: Sweep, places: Places) -> None:
    """Deletes the folders and the events of the trials, and the study of a search.

    Raises:
        ValueError: the sweep, or another sweep over the trials, runs.
    """
    for name in results.others:
        if store.is_leased(store.sweep_dir(places.results, name)):
            raise ValueError(f"--fresh: the sweep {name!r} runs and has some of these trials: stop it first")

    def refuse() -> None:
        raise ValueError(f"--fresh: the sweep {sweep.name!r} runs: stop it first")

    files = SweepDir(store.sweep_dir(places.results, sweep.name))
    with store.lease(files.root, on_wait=refuse):
        for folder in results.folders.values():
            # Renamed first: a folder that is half deleted when this process is killed must not pass for a
            # trial.
            folder.rename(folder.parents[2] / f".deleted-{os.getpid()}-{'-'.join(folder.parts[-3:])}")
            remove_deleted(places)
            for parent in (folder.parent, folder.parent.parent):
                if not any(parent.iterdir()):
                    parent.rmdir()
        forget(files.events, results.folders)
        if sweep.search.samples:
            files.study.unlink(missing_ok=True)


def remove_deleted(places: Places) -> None:
    """Removes the rest of trials that a killed process was deleting."""
    for folder in places.results.glob("trials/.deleted-*"):
        shutil.rmtree(folder, ignore_errors=True)
