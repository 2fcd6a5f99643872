"""What of a trial is kept or dropped as one, what is to be read of it, and which systems are the best."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asdray import store
from asdray.config.sweep import Keep, Sweep, Top
from asdray.config.trial import Trial
from asdray.stages.steps import Snapshot, Step
from asdray.store import Places
from asdray.sweep.jobs import Job


class Piece(NamedTuple):
    """What is kept or dropped as one: a unit's checkpoint, or a machine's embeddings by a checkpoint."""

    stage: str
    """``train`` or ``extract``."""
    of: str
    checkpoint: str


def pieces_of(trial: Trial, checkpoints: Iterable[str]) -> set[Piece]:
    """All pieces of a trial that a sweep names."""
    found = {Piece("train", u.name, c) for u in trial.units for c in (*checkpoints, "last")}
    return found | {Piece("extract", m, c) for m in trial.machines for c in checkpoints}


def unread(trial: Trial, steps: Sequence[Step], checkpoints: Iterable[str]) -> Iterator[tuple[Piece, str]]:
    """The pieces of a trial that are there, or were, and that nothing of a sweep is to read any more.

    Yields:
        The piece, and the signature of its stage.
    """
    lacking = {(s.checkpoint, s.machine) for s in steps if s.stage in ("score", "umap") and not s.complete}
    extracted = {(s.checkpoint, s.machine): s for s in steps if s.stage == "extract"}
    for (ckpt, machine), step in extracted.items():
        if step.complete and (ckpt, machine) not in lacking:
            assert machine is not None
            assert ckpt is not None
            yield Piece("extract", machine, ckpt), step.signature
    done = {key for key, step in extracted.items() if step.complete}
    for stage in steps:
        if stage.stage == "train" and stage.complete:
            unit = next(u for u in trial.units if u.name == stage.unit)
            for ckpt in dict.fromkeys((*checkpoints, "last")):
                if all((ckpt, m) in done for m in unit.machines if (ckpt, m) in extracted):
                    yield Piece("train", unit.name, ckpt), stage.signature


def made(job: Job, checkpoints: Iterable[str], places: Places) -> Iterator[tuple[Piece, str]]:
    """As `unread`: all that was made of a trial, read or not."""
    trial = job.trial
    snapshot = Snapshot(job.files(places))
    for piece in sorted(pieces_of(trial, checkpoints)):
        if piece.stage == "extract":
            step = snapshot.extract(piece.of, piece.checkpoint)
        else:
            unit = next(u for u in trial.units if u.name == piece.of)
            step = snapshot.train(unit)
        if step.complete:
            yield piece, step.signature


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


def has_top(keep: Keep) -> bool:
    """Whether it asks for the best of anything."""
    return isinstance(keep.checkpoints, Top) or isinstance(keep.embeddings, Top)


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
            path = store.SweepDir(store.sweep_dir(places.results, sweep.name)).leaderboard()
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
