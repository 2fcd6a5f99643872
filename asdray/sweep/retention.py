"""What a sweep keeps on disk of its finished trials: ``keep`` of its sweep file.

A file is dropped once nothing of this sweep is to read it any more, unless another sweep in these results
wants it kept or is still to read it, or a process is at work beside it. First its marker says that it is
dropped, then it is deleted: killed in between, the next look deletes it. What is dropped counts as done;
`asdray.stages.steps` finds what of it must be rebuilt.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asdray import store
from asdray.config.sweep import Sweep, Top
from asdray.config.trial import Trial
from asdray.stages.steps import Step
from asdray.store import Places
from asdray.sweep.jobs import Job
from asdray.sweep.others import Others
from asdray.sweep.pieces import Piece, Ranking, has_top, made, unread, wants

if TYPE_CHECKING:
    from asdray.sweep.search import Searching

SPLITS = ("train", "test")

_Reason = Literal["protected", "busy"]
"""Why something stays: another sweep wants it or is to read it; a process is at work there."""


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
        self._settled: set[tuple[str, bool]] = set()
        """Trials of which nothing is left that could go, with whether they are beyond every rule's best."""
        self._protected: set[tuple[str, bool]] = set()
        """Those of which the rest stays for other sweeps, as long as these are as they were."""
        self._version: object = None

    def look(self, job: Job, stands: Sequence[Step] | None = None, ranking: Ranking | None = None) -> bool:
        """Drops what may go of a trial; without a ranking what goes whatever the ranking.

        Args:
            stands: how it stands; looked up where it is not given.

        Returns:
            Whether all went that this sweep does not want.
        """
        if ranking is None:  # it has ended, and more may go than when it was looked at before
            self._settled -= {(job.trial.name, True), (job.trial.name, False)}
        return not self._look(job, stands, ranking)

    def _look(self, job: Job, stands: Sequence[Step] | None, ranking: Ranking | None) -> set[_Reason]:
        if self._keep.everything:
            return set()
        stands = stands or job.steps(self._sweep, self._places)
        found = unread(job.trial, stands, self._sweep.checkpoints)
        return self._let_go(job, (one for one in found if not wants(self._keep, one[0], job, ranking)))

    def _let_go(self, job: Job, unwanted: Iterable[tuple[Piece, str]]) -> set[_Reason]:
        """Drops what nobody else wants of these pieces of a trial; why not all of them went."""
        directory = store.trial_dir(self._places.results, job.trial)
        needed: set[Piece] | None = set()
        asked = False
        reasons: set[_Reason] = set()
        for piece, signature in unwanted:
            folder, names, beside = _files(directory, piece, job.trial)
            record = store.read_record(folder, piece.stage)
            pruned = record.pruned if record else ()
            if set(names) <= set(pruned) and not any((folder / name).exists() for name in names):
                continue
            if not asked:
                needed, asked = self._others.needed(job.trial), True
            if needed is None or piece in needed:
                reasons.add("protected")
                continue
            freed = _drop(folder, piece.stage, signature, names, beside)
            self.freed += freed or 0
            reasons |= {"busy"} if freed is None else set()
        return reasons

    def look_at_all(
        self,
        jobs: Sequence[Job],
        stands: Sequence[Sequence[Step]],
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
        places = [rule.top for rule in rules if isinstance(rule, Top)]
        # This runs in the driver's loop again and again: a trial costs milliseconds for each sweep.
        if (version := self._others.version()) != self._version:
            self._version = version
            self._protected.clear()
        for job in jobs:
            if not ranking.beyond(job, min(places)):
                continue
            key = job.trial.name, ranking.beyond(job, max(places))
            if key not in self._settled and key not in self._protected:
                reasons = self._look(job, None, ranking)
                if not reasons:
                    self._settled.add(key)
                elif reasons == {"protected"}:
                    self._protected.add(key)

    def forget_stopped(self, job: Job) -> None:
        """Drops what need not be kept of a trial whose sample a scheduler stopped, and which has ended.

        Nobody is to read on there, whatever is lacking, and such a system is none of the best. Trainings
        that were cut short lose their checkpoints: going on would start anew.
        """
        if self._keep.everything:
            return
        found = made(job, self._sweep.checkpoints, self._places)
        self._let_go(job, (one for one in found if not wants(self._keep, one[0], job, None, stopped=True)))
        trial = job.trial
        if self._keep.checkpoints in ("all", "last") or self._others.cover(trial):
            return
        directory = store.trial_dir(self._places.results, trial)
        for unit in trial.units:
            folder = directory.model(unit.name)
            if (folder / "checkpoints").is_dir() and store.read_record(folder, "train") is None:
                with contextlib.suppress(_Busy), store.lease(folder, _busy):
                    self.freed += sum(path.stat().st_size for path in folder.glob("checkpoints/*"))
                    shutil.rmtree(folder / "checkpoints")

    def _ranking(self, jobs: Sequence[Job]) -> Ranking | None:
        return Ranking.of(self._sweep, jobs, self._places) if has_top(self._keep) else None


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
        record = store.read_record(folder, stage)
        if record is None or record.signature != signature:
            return None
        there = [name for name in names if name in record.outputs]
        if not set(there) <= set(record.pruned):
            pruned = tuple(sorted({*record.pruned, *there}))
            store.write_record(folder, stage, replace(record, pruned=pruned))
        freed = 0
        for name in there:
            with contextlib.suppress(FileNotFoundError):
                freed += (folder / name).stat().st_size
                (folder / name).unlink()
        return freed
