"""Other sweeps in the same results: what they want kept of a trial, or are still to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from asdray import store
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.store import Places, SweepDir
from asdray.sweep import changes
from asdray.sweep.jobs import Job
from asdray.sweep.pieces import Piece, Ranking, has_top, pieces_of, unread, wants
from asdray.sweep.plan import load

TrialKey = tuple[str, str, int]
"""dcase, system, seed."""


@dataclass
class _Other:
    """Another sweep in the same results; without ``sweep`` it cannot be read, and may want anything."""

    changed: Sequence[int | None]
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

    def version(self) -> object:
        """Changes where what they protect may have changed.

        That is with their files, and when one ends. What only a finished stage lets go is told by the next
        leaderboard of the sweep that ran it.
        """
        others = [SweepDir(f) for f in store.sweep_dirs(self._places.results) if f.name != self._name]
        return [(s.root, store.is_leased(s.root), _changed(s.spec, s.study, s.leaderboard())) for s in others]

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
            free = {
                piece for piece, _ in unread(job.trial, job.steps(sweep, self._places), sweep.checkpoints)
            }
            jobs = other.jobs.values()
            ranking = Ranking.of(sweep, jobs, self._places) if has_top(sweep.keep) else None
            pieces |= {
                piece
                for piece in pieces_of(job.trial, sweep.checkpoints)
                if piece not in free or wants(sweep.keep, piece, job, ranking)
            }
        return pieces

    def _all(self) -> Iterator[tuple[Path, _Other]]:
        for folder in store.sweep_dirs(self._places.results):
            if folder.name != self._name:
                changed = _changed(SweepDir(folder).spec, SweepDir(folder).study)
                if folder not in self._known or self._known[folder].changed != changed:
                    self._known[folder] = self._read(folder, changed)
                yield folder, self._known[folder]

    def _read(self, folder: Path, changed: Sequence[int | None]) -> _Other:
        try:
            path = SweepDir(folder).spec
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not spec.get("plugins"):  # to load those here could change what our own names mean
                sweep, jobs = load(path, {}, self._places)
                return _Other(changed, sweep, {_key(job.trial): job for job in jobs})
        except (ValueError, OSError, AttributeError, yaml.YAMLError):
            pass  # of another version, or its data are gone
        return _Other(changed, trials=changes.last_trials(folder))


def _changed(*files: Path) -> list[int | None]:
    """Time of change of every file in ns, None for a missing file."""
    return [file.stat().st_mtime_ns if file.exists() else None for file in files]


def _covers(other: _Other, folder: Path, trial: Trial) -> bool:
    key = _key(trial)
    if other.sweep is None:
        return other.trials is None or key in other.trials
    # A search that runs comes to more trials than its study tells now.
    comes = other.sweep.search.samples and trial.dcase in other.sweep.years and store.is_leased(folder)
    return key in other.jobs or bool(comes)


def _key(trial: Trial) -> TrialKey:
    return trial.dcase, trial.system_name, trial.seed
