"""Decisions of a trial: a machine's scores of one backend -> thresholds, and how often they are wrong on dev.

The thresholds depend on no label; labels of dev clips are read for the rates alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from asdray import damage
from asdray.config.backend import Backend, backend_id
from asdray.config.system import System
from asdray.dcase import manifest
from asdray.dcase.years import get_year
from asdray.evaluation.decisions import (
    Limits,
    Measured,
    Normals,
    expected_rates,
    limit,
    limits_of,
    mean_of,
    measured,
)
from asdray.stages.held_out import new_to
from asdray.stages.steps import Snapshot, TrialFiles


@dataclass(frozen=True)
class Decided:
    """The decisions on a machine's clips.

    Attributes:
        machine: its name.
        scores: clip -> score, of its test clips.
        domains: clip -> domain, of the test clips whose names tell it.
        normals: what the thresholds are made of.
        limits: the thresholds.
    """

    machine: str
    scores: dict[str, float]
    domains: dict[str, str]
    normals: Normals
    limits: Limits

    def is_anomaly(self, clip: str) -> bool:
        """The decision on a test clip: its score is above the threshold."""
        return self.scores[clip] > limit(self.limits, self.domains.get(clip))

    @cached_property
    def expected(self) -> dict[str, float]:
        """Domain -> the false-alarm rate that `normals` promise."""
        return expected_rates(self.limits, self.normals)


def normals(
    system: System, clips: Sequence[str], section: Sequence[int], domain: Sequence[str], scores: ArrayLike
) -> Normals:
    """What the thresholds of a machine are made of: its held-out clips, or all training clips if none are.

    Args:
        clips: keys of the machine's N training clips.
        section, domain, scores: of the same clips.
    """
    out = new_to(system, clips, section, domain)
    chosen = [i for i, clip in enumerate(clips) if clip in out or not out]
    values = np.asarray(scores, dtype=np.float64)[chosen]
    return Normals(values, [domain[i] for i in chosen], held_out=bool(out))


def read_scores(files: TrialFiles, machine: str, ckpt: str, backend: Backend) -> list[dict[str, Any]]:
    """The rows clip, split and score of a machine.

    Raises:
        ValueError: not scored yet.
    """
    name = backend_id(backend)
    if not Snapshot(files).score(machine, ckpt, backend).complete:
        raise ValueError(
            f"{files.trial.name}: {machine} is not scored by {name} with checkpoint {ckpt}: "
            "run `asdray score` first"
        )
    return damage.read_parquet(files.folder.scores(ckpt, machine, name)).to_pylist()


def decide(files: TrialFiles, machine: str, rows: Sequence[dict[str, Any]], quantile: float) -> Decided:
    """The thresholds of a machine, and what its decisions need.

    A domain has a threshold of its own if clips are held out and the year tells the domain of every test clip
    (`asdray.evaluation.decisions.limits_of`).

    Args:
        rows: see `read_scores`.

    Raises:
        ValueError: too few scores, or a quantile out of range.
    """
    year, trial = get_year(files.trial.dcase), files.trial
    known = facts(files, machine)
    train = [row for row in rows if row["split"] == "train"]
    clips = [row["clip"] for row in train]
    section, domain = ([known[clip][name] for clip in clips] for name in ("section", "domain"))
    of = normals(trial.system, clips, section, domain, [row["score"] for row in train])
    test = {row["clip"]: row["score"] for row in rows if row["split"] == "test"}
    told = {clip: known[clip]["domain"] for clip in test} if year.split_test_folders else {}
    try:
        limits = limits_of(of, quantile, per_domain=year.split_test_folders)
    except ValueError as error:
        raise ValueError(f"{trial.name}: {machine}: {error}") from None
    return Decided(machine, test, told, of, limits)


def facts(files: TrialFiles, machine: str) -> dict[str, dict[str, Any]]:
    """Clip -> its row of the manifest, of the machine's training and test clips."""
    table = manifest.rows(manifest.load_manifest(files.places.data, files.trial.dcase), machine=machine)
    return {row["clip"]: row for row in table.to_pylist()}


def on_dev(files: TrialFiles, decided: Iterable[Decided]) -> dict[str, Measured]:
    """Domain -> mean over the machines of `measured` on their dev clips; empty without labels."""
    found = []
    for one in decided:
        known = facts(files, one.machine)
        clips = [clip for clip in one.scores if clip.startswith("dev/")]
        if clips:
            label, domain = ([known[clip][name] for clip in clips] for name in ("is_anomaly", "domain"))
            found.append(measured([one.is_anomaly(clip) for clip in clips], label, domain))
    return mean_of(found)
