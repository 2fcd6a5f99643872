"""The voice of one machine under one set of attributes: its parts with all offsets, and its surroundings.

A voice is a function of (year, machine, section, attribute values) alone: the same specimen is recorded
anew in every clip and under every seed of the dataset.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from asdray.dcase.synth.machines import MACHINES
from asdray.dcase.synth.parts import Hiss, Knocks, Tones
from asdray.dcase.synth.tables import attributes_of

GRID = np.geomspace(40.0, 8000.0, 192)
"""Frequencies in Hz at which spectra are described (log-spaced)."""

SNR = 14.0
"""dB of machine over background noise at the ``level`` attribute's middle."""

RUMBLE = Hiss(75.0, 0.5, 0.0)
"""The hall's rumble, its level in dB relative to the machine."""

Part = Tones | Hiss | Knocks


def generator(*identity: object) -> np.random.Generator:
    """A random generator that depends on ``identity`` alone (not on order, process or hash seed)."""
    digest = hashlib.sha256("/".join(map(str, identity)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "big")))


@dataclass(frozen=True)
class Voice:
    """What `sounds.render` plays.

    Attributes:
        rate: Hz.
        parts: tones, hiss and knocks.
        partials: per `Tones` of ``parts``, in order, the gains of its partials in dB, ``(count,)``.
        stroke: seconds per back-and-forth movement, or None.
        ramp: share of a stroke spent in acceleration.
        unevenness: spread of the stroke lengths.
        equaliser: dB on `GRID`, the way from the machine to the microphone.
        rumble: the low hum of the hall, loud and different in every clip; tells nothing.
        bed: dB on `GRID`, the background noise (at 0 dB in total).
        snr: dB of machine over background.
        gain: dB of the whole.
    """

    rate: float
    parts: tuple[Part, ...]
    partials: tuple[np.ndarray, ...]
    stroke: float | None
    ramp: float
    unevenness: float
    equaliser: np.ndarray
    bed: np.ndarray
    rumble: Hiss
    snr: float
    gain: float

    def map(self, kind: type | tuple[type, ...], change: Callable) -> Voice:
        """With ``change`` applied to every part of ``kind``."""
        return replace(self, parts=tuple(change(p) if isinstance(p, kind) else p for p in self.parts))

    def add(self, part: Part) -> Voice:
        """With one more part (no tones: those have partials)."""
        assert not isinstance(part, Tones)
        return replace(self, parts=(*self.parts, part))


def curve(rng: np.random.Generator, spread: float, bumps: int = 4) -> np.ndarray:
    """A smooth random curve on `GRID` in dB, its standard deviation about ``spread``."""
    octaves = np.log2(GRID / GRID[0])
    centres = rng.uniform(0, octaves[-1], bumps)
    heights = rng.normal(0, 1.6 * spread, bumps)
    widths = rng.uniform(0.4, 1.2, bumps)
    return (heights * np.exp(-0.5 * ((octaves[:, None] - centres) / widths) ** 2)).sum(axis=1)


def _vary(voice: Voice, rng: np.random.Generator, size: float) -> Voice:
    """Another specimen, its offsets drawn from ``rng``; ``size`` 1 = another model, 0.2 = the same model."""

    def part(p: Part) -> Part:
        level, shift = rng.normal(0, 2 * size), 2 ** rng.normal(0, 0.3 * size)
        if isinstance(p, Hiss):
            return replace(p, level=p.level + level, centre=p.centre * shift)
        if isinstance(p, Knocks):
            return replace(p, level=p.level + level, ring=p.ring * shift)
        return replace(p, level=p.level + level)

    return replace(
        voice,
        rate=voice.rate * 2 ** rng.normal(0, 0.25 * size),
        parts=tuple(part(p) for p in voice.parts),
        partials=tuple(g + rng.normal(0, 4 * min(size, 0.6), len(g)) for g in voice.partials),
        stroke=voice.stroke and voice.stroke * 2 ** rng.normal(0, 0.2 * size),
    )


def _pattern(value: str, key: str) -> tuple[float, ...]:
    """The moments within a cycle at which a valve opens and closes under pattern ``value``."""
    if value == "none":
        return ()
    rng = generator("pattern", key, value)
    return tuple(sorted(rng.choice(16, int(rng.integers(2, 5)), replace=False) / 16))


@functools.lru_cache(maxsize=4096)
def voice_of(dcase: str, machine: str, section: int, values: tuple[str, ...]) -> Voice:
    """The voice of a machine under the attribute ``values`` (one per key of `attributes_of`)."""
    model = MACHINES[machine]
    attributes = attributes_of(dcase, machine, section)
    place = (dcase, machine, section)
    rng = generator("body", *place)
    voice = Voice(
        rate=model.rate,
        parts=model.parts,
        partials=tuple(p.tilt * np.log2(1 + np.arange(p.count)) for p in model.parts if isinstance(p, Tones)),
        stroke=model.stroke,
        ramp=0.15,
        unevenness=0.03,
        equaliser=curve(rng, 2.0),
        bed=-3.0 * np.log2(GRID / 200.0) + curve(rng, 3.0),
        rumble=RUMBLE,
        snr=SNR,
        gain=0.0,
    )
    voice = _vary(voice, rng, 1.0)
    patterns: list[float] = []
    for index, (key, value) in enumerate(zip(attributes.keys, values, strict=True)):
        where = attributes.position(index, value) - 0.5
        own = generator("attribute", *place, key.name, value)
        match key.role:
            case "speed":
                ratio = 2 ** (min(0.5, 0.06 * attributes.steps(index)) * where)
                voice = replace(
                    voice, rate=voice.rate * ratio, stroke=voice.stroke and voice.stroke / ratio,
                    gain=voice.gain + 4 * where,
                ).map(Hiss, lambda h, d=5 * where: replace(h, level=h.level + d))  # fmt: skip
            case "load":
                voice = replace(
                    voice,
                    ramp=float(np.clip(0.15 - 0.16 * where, 0.06, 0.3)),
                    partials=tuple(g + 3 * where * np.log2(1 + np.arange(len(g))) for g in voice.partials),
                ).map(Hiss, lambda h, d=5 * where: replace(h, level=h.level - d))
            case "unit":
                voice = _vary(voice, own, 0.25)
            case "place":
                voice = replace(voice, equaliser=voice.equaliser + curve(own, 2.0))
            case "noise":
                voice = replace(voice, bed=voice.bed + curve(own, 6.0))
            case "level":
                voice = replace(voice, snr=voice.snr - 9 * where)
            case "pattern":
                patterns.extend(_pattern(value, key.name))
    if patterns:
        voice = voice.map(Knocks, lambda k: replace(k, phases=tuple(sorted(set(patterns)))))
    return voice
