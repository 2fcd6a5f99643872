"""What a sweep keeps on disk of its finished trials: ``keep`` of its sweep file.

A file is dropped once nothing of this sweep is to read it any more, unless another sweep in these results
wants it kept or is still to read it, or a process is at work beside it. First its marker says that it is
dropped, then it is deleted: killed in between, the next look deletes it. What is dropped counts as done;
`asdray.stages.walk` finds what of it is to be made again.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from asdray import store
from asdray.config.sweep import Keep, Sweep, Top
from asdray.config.trial import Trial
from asdray.stages import state
from asdray.store import Places
from asdray.sweep import changes
from asdray.sweep.plan import Job, load, standing
from asdray.sweep.standing import Standing

if TYPE_CHECKING:
    from asdray.sweep.search import Searching

SPLITS = ("train", "test")

TrialKey = tuple[str, str, int]
"""dcase, system, seed."""


class Piece(NamedTuple):
    """What is kept or dropped as one: a unit's checkpoint, or a machine's embeddings by a checkpoint."""

    stage: str
    """``train`` or ``extract``."""
    of: str
    checkpoint: str


class Retention:
    """What is dropped of a sweep's trials; used by its driver alone, under the sweep's lease.

    Attributes:
        freed: bytes that were deleted.
    """

    def __init__(self, sweep: Sweep, places: Places) -> None:
        self.freed = 0
        self._sweep = sweep
        self._keep = sweep.keep
        self._places = places
        self._others = Others(sweep.name, places)
        self._settled: set[str] = set()
        """Trials beyond the best of which nothing is left that could go."""

    def look(self, job: Job, stands: Standing | None = None, ranking: Ranking | None = None) -> bool:
        """Drops what may go of a trial; without a ranking what goes whatever the ranking.

        Args:
            stands: how it stands; looked up where it is not given.

        Returns:
            Whether all went that this sweep does not want.
        """
        if self._keep.everything:
            return True
        stands = stands or standing(job, self._sweep, self._places)
        found = unread(stands, self._sweep.checkpoints)
        return self._let_go(job, (one for one in found if not wants(self._keep, one[0], job, ranking)))

    def _let_go(self, job: Job, unwanted: Iterable[tuple[Piece, str, tuple[str, ...]]]) -> bool:
        """Drops what nobody else wants of these pieces of a trial; whether all went."""
        directory = store.trial_dir(self._places.results, job.trial)
        needed: set[Piece] | None = set()
        asked = False
        all_went = True
        for piece, signature, dropped in unwanted:
            folder, names, beside = _files(directory, piece, job.trial)
            if set(names) <= set(dropped) and not any((folder / name).exists() for name in names):
                continue
            if not asked:
                needed, asked = self._others.needed(job.trial), True
            if needed is None or piece in needed:
                all_went = False
                continue
            freed = _drop(folder, piece.stage, signature, names, beside)
            self.freed += freed or 0
            all_went &= freed is not None
        return all_went

    def look_at_all(
        self,
        jobs: Sequence[Job],
        stands: Sequence[Standing],
        search: Searching | None,
        best: bool = False,
    ) -> None:
        """The same for all trials of the sweep, but those that a search is still to judge.

        Args:
            best: whether the leaderboard in the sweep's folder is of now, to tell the best by.
        """
        ranking = self._ranking(jobs) if best else None
        for job, stand in zip(jobs, stands, strict=True):
            outcome = search.state_of(job) if search else None
            if outcome == "stopped":
                self.forget_stopped(job)
            elif outcome != "open":
                self.look(job, stand, ranking)

    def look_beyond_the_best(self, jobs: Sequence[Job]) -> None:
        """Drops what goes of trials whose system is none of the best; call it with a new leaderboard."""
        ranking = self._ranking(jobs)
        if ranking is None:
            return
        rules = (self._keep.checkpoints, self._keep.embeddings)
        least = min(rule.top for rule in rules if isinstance(rule, Top))
        for job in jobs:
            name = job.trial.name
            if name in self._settled or not ranking.beyond(job, least):
                continue
            if self.look(job, ranking=ranking) and ranking.beyond(job, self._most):
                self._settled.add(name)

    def forget_stopped(self, job: Job) -> None:
        """Drops what need not be kept of a trial whose sample a scheduler stopped, and which has ended.

        Nobody is to read on there, whatever is lacking, and such a system is none of the best. Trainings
        that were cut short lose their checkpoints: going on would start anew.
        """
        if self._keep.everything:
            return
        found = _made(job, self._sweep.checkpoints, self._places)
        self._let_go(job, (one for one in found if not wants(self._keep, one[0], job, None, stopped=True)))
        trial = job.trial
        if self._keep.checkpoints in ("all", "last") or self._others.cover(trial):
            return
        directory = store.trial_dir(self._places.results, trial)
        for unit in trial.units:
            folder = directory.model(unit.name)
            if (folder / "checkpoints").is_dir() and store.read_marker(folder, "train") is None:
                with contextlib.suppress(_Busy), store.lease(folder, _busy):
                    self.freed += sum(path.stat().st_size for path in folder.glob("checkpoints/*"))
                    shutil.rmtree(folder / "checkpoints")

    @property
    def _most(self) -> int:
        """A place beyond which every rule of the best has let go."""
        rules = (self._keep.checkpoints, self._keep.embeddings)
        return max(rule.top for rule in rules if isinstance(rule, Top))

    def _ranking(self, jobs: Sequence[Job]) -> Ranking | None:
        return Ranking.of(self._sweep, jobs, self._places) if _has_top(self._keep) else None


def unread(stands: Standing, checkpoints: Iterable[str]) -> Iterator[tuple[Piece, str, tuple[str, ...]]]:
    """The pieces of a trial that are there, or were, and that nothing of a sweep is to read any more.

    Yields:
        The piece, the signature of its stage, and what was dropped of the stage's outputs.
    """
    lacking = {
        (s.checkpoint, s.machine) for s in stands.all if s.stage in ("score", "umap") and s.done is None
    }
    extracted = {(s.checkpoint, s.machine): s.done for s in stands.all if s.stage == "extract"}
    for (ckpt, machine), done in extracted.items():
        if done is not None and (ckpt, machine) not in lacking:
            assert machine is not None
            assert ckpt is not None
            yield Piece("extract", machine, ckpt), done.signature, done.dropped
    for stage in stands.all:
        if stage.stage == "train" and stage.done is not None:
            unit = next(u for u in stands.trial.units if u.name == stage.unit)
            for ckpt in dict.fromkeys((*checkpoints, "last")):
                if all(extracted.get((ckpt, m), True) is not None for m in unit.machines):
                    yield Piece("train", unit.name, ckpt), stage.done.signature, stage.done.dropped


def _made(
    job: Job, checkpoints: Iterable[str], places: Places
) -> Iterator[tuple[Piece, str, tuple[str, ...]]]:
    """As `unread`: all that was made of a trial, read or not."""
    trial, dataset = job.trial, job.dataset
    for piece in sorted(_pieces(trial, checkpoints)):
        if piece.stage == "extract":
            step = state.extract_step(trial, piece.of, piece.checkpoint, places, dataset)
        else:
            unit = next(u for u in trial.units if u.name == piece.of)
            step = state.train_step(trial, unit, places, dataset)
        if (marker := step.marker) is not None:
            yield piece, marker.signature, marker.dropped


def wants(keep: Keep, piece: Piece, job: Job, ranking: Ranking | None, stopped: bool = False) -> bool:
    """Whether a sweep wants a piece of a trial kept; ``stopped``: by a scheduler, thus none of the best."""
    rule = keep.embeddings if piece.stage == "extract" else keep.checkpoints
    if isinstance(rule, Top):
        return not stopped and (ranking is None or not ranking.beyond(job, rule.top))
    return rule in ("all", piece.checkpoint)


def kept_shares(sweep: Sweep, jobs: Iterable[Job]) -> dict[str, float]:
    """Stage -> about which part of its bytes stays in the end, over all trials of a sweep."""
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


def _has_top(keep: Keep) -> bool:
    return isinstance(keep.checkpoints, Top) or isinstance(keep.embeddings, Top)


# -------------------------------------------------------------------------------------------- the best


@dataclass(frozen=True)
class Ranking:
    """Systems by how good they are: place from 0, in the leaderboard, and in a search by its objective.

    A system that is in neither is not complete yet.
    """

    board: Mapping[str, int]
    search: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: Sweep, jobs: Iterable[Job], places: Places) -> Ranking:
        """The ranking in a sweep's files as they are."""
        systems = {job.trial.system_name for job in jobs}
        rows: list[tuple[int, str]] = []
        with contextlib.suppress(FileNotFoundError):
            path = store.sweep_dir(places.results, sweep.name) / "leaderboard.csv"
            with open(path, newline="", encoding="utf-8") as file:
                rows = [(int(r["rank"]), r["system"]) for r in csv.DictReader(file) if r.get("rank")]
        ranked = dict.fromkeys(name for _, name in sorted(rows) if name in systems)  # no ensembles
        search: dict[str, int] = {}
        if sweep.search.samples:
            from asdray.sweep.search import read_studies

            studies, _ = read_studies(sweep, places)
            for recipe in studies.recipes:
                for i, sample in enumerate(studies.ranked(recipe)):
                    assert sample.system is not None
                    search[f"{recipe}-{sample.system.id}"] = i
        return cls({name: i for i, name in enumerate(ranked)}, search)

    def beyond(self, job: Job, k: int) -> bool:
        """Whether a trial's system is known to be none of the best ``k``."""
        name = job.trial.system_name
        found = [self.board[name]] if name in self.board else []
        found += [self.search[name]] if job.part == "search" and name in self.search else []
        return bool(found) and min(found) >= k


# ----------------------------------------------------------------------------------------- other sweeps


@dataclass
class _Other:
    """Another sweep in the same results; without ``sweep`` it cannot be read, and may want anything."""

    changed: Sequence[int]
    sweep: Sweep | None = None
    jobs: Mapping[TrialKey, Job] = field(default_factory=dict)
    trials: set[TrialKey] | None = None
    """Without ``sweep``; None: any."""


class Others:
    """The other sweeps in the same results: what they want kept, or are still to read, stays."""

    def __init__(self, name: str, places: Places) -> None:
        self._name = name
        self._places = places
        self._known: dict[Path, _Other] = {}

    def cover(self, trial: Trial) -> bool:
        """Whether a trial is, or may be, one of another sweep too."""
        return any(_covers(other, folder, trial) for folder, other in self._all())

    def needed(self, trial: Trial) -> set[Piece] | None:
        """The pieces of a trial that another sweep wants kept or is still to read; None: all."""
        pieces: set[Piece] = set()
        for folder, other in self._all():
            if not _covers(other, folder, trial):
                continue
            if other.sweep is None or (job := other.jobs.get(_key(trial))) is None:
                return None
            sweep = other.sweep
            free = {piece for piece, _, _ in unread(standing(job, sweep, self._places), sweep.checkpoints)}
            jobs = other.jobs.values()
            ranking = Ranking.of(sweep, jobs, self._places) if _has_top(sweep.keep) else None
            pieces |= {
                piece
                for piece in _pieces(job.trial, sweep.checkpoints)
                if piece not in free or wants(sweep.keep, piece, job, ranking)
            }
        return pieces

    def _all(self) -> Iterator[tuple[Path, _Other]]:
        for folder in store.sweep_dirs(self._places.results):
            if folder.name != self._name:
                files = [folder / name for name in ("sweep.yaml", "study.journal")]
                changed = [file.stat().st_mtime_ns for file in files if file.exists()]
                if folder not in self._known or self._known[folder].changed != changed:
                    self._known[folder] = self._read(folder, changed)
                yield folder, self._known[folder]

    def _read(self, folder: Path, changed: Sequence[int]) -> _Other:
        try:
            spec = yaml.safe_load((folder / "sweep.yaml").read_text(encoding="utf-8"))
            if not spec.get("plugins"):  # to load those here could change what our own names mean
                sweep, jobs = load(folder / "sweep.yaml", {}, self._places)
                return _Other(changed, sweep, {_key(job.trial): job for job in jobs})
        except (ValueError, OSError, AttributeError, yaml.YAMLError):
            pass  # of another version, or its data are gone
        return _Other(changed, trials=changes.last_trials(folder))


def _covers(other: _Other, folder: Path, trial: Trial) -> bool:
    key = _key(trial)
    if other.sweep is None:
        return other.trials is None or key in other.trials
    # A search that runs comes to more trials than its study tells now.
    comes = other.sweep.search.samples and trial.dcase in other.sweep.years and store.is_leased(folder)
    return key in other.jobs or bool(comes)


def _key(trial: Trial) -> TrialKey:
    return trial.dcase, trial.system_name, trial.seed


def _pieces(trial: Trial, checkpoints: Iterable[str]) -> set[Piece]:
    """All pieces of a trial that a sweep names."""
    found = {Piece("train", u.name, c) for u in trial.units for c in (*checkpoints, "last")}
    return found | {Piece("extract", m, c) for m in trial.machines for c in checkpoints}


# -------------------------------------------------------------------------------------------- deleting


class _Busy(Exception):  # noqa: N818 - it names what happened
    """Another process is at work in a folder."""


def _busy() -> None:
    raise _Busy


def _files(directory: store.TrialDir, piece: Piece, trial: Trial) -> tuple[Path, tuple[str, ...], list[Path]]:
    """A piece's folder, its files there, and the other folders whose lease those hold who read them."""
    if piece.stage == "extract":
        folder = directory.machine(piece.checkpoint, piece.of)
        names = [directory.extract(piece.checkpoint, piece.of, split).name for split in SPLITS]
        return folder, tuple(names), [directory.umap(piece.checkpoint, piece.of)]
    unit = next(u for u in trial.units if u.name == piece.of)
    readers = [directory.machine(piece.checkpoint, machine) for machine in unit.machines]
    return directory.model(piece.of), (store.checkpoint_name(piece.checkpoint),), readers


def _drop(
    folder: Path, stage: str, signature: str, names: Iterable[str], beside: Iterable[Path]
) -> int | None:
    """Drops outputs of a stage; the bytes that were freed, None where a process is at work there."""
    with contextlib.ExitStack() as leases:
        try:
            for place in (folder, *(path for path in beside if path.is_dir())):
                leases.enter_context(store.lease(place, _busy))
        except _Busy:
            return None
        marker = store.read_marker(folder, stage)
        if marker is None or marker.signature != signature:
            return None
        there = [name for name in names if name in marker.outputs]
        if not set(there) <= set(marker.dropped):
            dropped = tuple(sorted({*marker.dropped, *there}))
            store.write_marker(folder, replace(marker, dropped=dropped))
        freed = 0
        for name in there:
            with contextlib.suppress(FileNotFoundError):
                freed += (folder / name).stat().st_size
                (folder / name).unlink()
        return freed
