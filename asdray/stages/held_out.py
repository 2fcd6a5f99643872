"""The normal clips that ``train.hold_out`` keeps from training, for decision thresholds of new clips.

The clips follow from their names alone: every seed, system and stage finds the same ones, and no file lists
them.

>>> clips = [f"dev/fan/train/{i:03d}.wav" for i in range(30)]
>>> groups = [(0, "source")] * 20 + [(0, "target")] * 10
>>> out = held_out({"source": 0.1, "target": 0.5}, clips, groups)
>>> sum(clip in out for clip in clips[:20]), sum(clip in out for clip in clips[20:])
(2, 5)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asdray.config.system import System

if TYPE_CHECKING:
    from asdray.audio.batches import Clips

Group = tuple[Any, ...]
"""What clips have in common, ending with the domain."""


def held_out(shares: Mapping[str, float], clips: Sequence[str], groups: Sequence[Group]) -> frozenset[str]:
    """The clips of each group with the lowest hashes of their keys.

    Args:
        shares: domain -> share of a group, rounded to whole clips: at least one, but never all.
        clips: N keys, in any order.
        groups: N groups, with the domain last: of one machine, section and domain.
    """
    of: dict[Group, list[str]] = {}
    for clip, group in zip(clips, groups, strict=True):
        of.setdefault(group, []).append(clip)
    found: list[str] = []
    for group, members in of.items():
        n = min(max(1, round(shares[group[-1]] * len(members))), len(members) - 1)
        found += sorted(members, key=lambda clip: hashlib.sha256(clip.encode()).digest())[:n]
    return frozenset(found)


def new_to(
    system: System, clips: Sequence[str], section: Sequence[int], domain: Sequence[str]
) -> frozenset[str]:
    """The held-out clips of a machine: all of its clips for a system that learns nothing."""
    shares = system.train.held_out_shares
    if not shares or not system.frontend.learns:
        return frozenset(clips if shares else ())
    return held_out(shares, clips, list(zip(section, domain, strict=True)))


def trained(
    system: System, clips: Clips, columns: Mapping[str, list[Any]]
) -> tuple[Clips, dict[str, list[Any]]]:
    """The clips that a system is trained on, and their columns; supplemental clips are never held out.

    Args:
        clips: training clips, and supplemental ones if the system reads some.
        columns: their ``machine``, ``section`` and ``domain``, and whatever else is known of them.
    """
    columns, shares = dict(columns), system.train.held_out_shares
    if not shares:
        return clips, columns
    kinds = columns.get("supplemental", [""] * len(clips))
    own = [i for i, kind in enumerate(kinds) if not kind]
    groups = [(columns["machine"][i], columns["section"][i], columns["domain"][i]) for i in own]
    out = held_out(shares, [clips.keys[i] for i in own], groups)
    index = [i for i, clip in enumerate(clips.keys) if clip not in out]
    return clips.only(index), {name: [values[i] for i in index] for name, values in columns.items()}
