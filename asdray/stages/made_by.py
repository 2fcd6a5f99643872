"""The source of asdray that made a step, compared with the present one, or with that of other results."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asdray import source, store

_COMMIT = re.compile(r"([0-9a-f]{8})[0-9a-f]{4,56}(\+dirty)?")
_VERSION = re.compile(r"\w[\w.+-]{0,30}")


class Made(NamedTuple):
    """What made a step of a trial.

    Attributes:
        by: the commit or version, in words.
        source: hash of the source, see `asdray.source`.
    """

    stage: str
    by: str
    source: str

    @classmethod
    def of(cls, stage: str, versions: Mapping[str, str | None]) -> Made | None:
        """From the versions in a record; None of a record without the hash, which older releases wrote."""
        return _made(stage, versions.get("source"), versions.get("commit"), versions.get("asdray"))


@functools.lru_cache(maxsize=1024)
def _made(stage: str, made: str | None, commit: str | None, version: str | None) -> Made | None:
    if not made or not source.is_id(made):
        return None
    if found := _COMMIT.fullmatch(commit or ""):
        return Made(stage, f"commit {found[1]}{' with edits' if found[2] else ''}", made)
    known = version if version and _VERSION.fullmatch(version) else "of another version"
    return Made(stage, f"asdray {known}", made)


def keep_source(results: Path) -> None:
    """Writes the present source below the results, unless it is there."""
    made = source.present_id()
    path = store.source_archive(results, made) if made else None
    if path and not path.exists():
        with store.lease(path.parent):
            store.sweep_leftovers(path.parent)
            if not path.exists():
                store.write_bytes(path, source.present().archive())


UNKNOWN = ("modules that nobody can name: its source is no longer below the results",)


@functools.lru_cache(maxsize=1024)
def _differing(results: Path, stage: str, one: str, other: str) -> tuple[str, ...]:
    """The modules in which two sources differ for a stage; `UNKNOWN` without the archive of one."""
    found = [
        source.present() if made == source.present_id() else _archived(results, made)
        for made in sorted((one, other))
    ]
    if found[0] is None or found[1] is None:
        return UNKNOWN
    return source.differing(found[0], found[1], stage)


@functools.lru_cache(maxsize=16)
def _archived(results: Path, made: str) -> source.Source | None:
    return source.read_archive(store.source_archive(results, made), made)


def differing(results: Path, stage: str, one: str | None, other: str | None) -> tuple[str, ...]:
    """The modules in which two sources differ for a stage, () for none, or where a hash is unknown."""
    return () if one == other or not one or not other else _differing(results, stage, one, other)


def present_lines(trials: Iterable[Iterable[Made]], results: Path) -> list[str]:
    """A line per commit and set of modules in which what made complete steps differs from the present source.

    Args:
        trials: what made the steps of each trial.
    """
    alike = Counter(map(frozenset, trials))
    here = source.present_id() if any(alike) else None
    stages: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for trial, n in alike.items():
        groups = set()
        for made in trial:
            if modules := differing(results, made.stage, made.source, here):
                groups.add(group := (made.by, modules))
                stages.setdefault(group, {})[made.stage] = None
        counts.update(dict.fromkeys(groups, n))
    return [
        _present_line(counts[group], *group, sorted(of, key=source.STAGES.index))
        for group, of in stages.items()
    ]


def _present_line(n: int, by: str, modules: Sequence[str], stages: Sequence[str]) -> str:
    trials = "1 trial was" if n == 1 else f"{n} trials were"
    return (
        f"{trials} made by {by}, which differs in {', '.join(modules)} ({', '.join(stages)}): what is "
        "finished is reused; --fresh makes all again, as does a higher `numerics` of what was edited"
    )


def reused_by(stage: str, versions: Mapping[str, str | None], results: Path) -> str:
    """The words behind "already done" of a step that another source made; ``versions``: of its record."""
    made = Made.of(stage, versions)
    modules = differing(results, stage, made.source, source.present_id()) if made else ()
    if not made or not modules:
        return ""
    again = f"`asdray {stage} ... --overwrite` makes it again"
    return f" by {made.by}, which differs in {', '.join(modules)}: {again}"


def mixed_notes(systems: Mapping[str, Sequence[Made]], results: Path) -> list[str]:
    """A sentence per commit and set of modules in which what made some results differs from the usual.

    Args:
        systems: what made the steps of each trial, one after the other, by the system of the row.
    """
    usual = {
        stage: _usual([made for of in systems.values() for made in of], stage) for stage in source.STAGES
    }
    odd: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for system, of in systems.items():
        for made in dict.fromkeys(of):
            if modules := differing(results, made.stage, made.source, usual.get(made.stage)):
                odd.setdefault((made.by, modules), {})[system] = None
    return [
        f"Mixed sources of asdray: {', '.join(names)}: results by {by}, which differs from that of the other "
        f"results in {', '.join(modules)}."
        for (by, modules), names in odd.items()
    ]


def _usual(everything: Iterable[Made], stage: str) -> str | None:
    """The source that made most trials; of several the present one."""
    counts = Counter(made.source for made in everything if made.stage == stage)
    here = source.present_id()
    return min(counts, key=lambda one: (-counts[one], one != here, one)) if counts else None
