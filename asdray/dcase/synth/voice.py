"""Voices: the parts and surroundings of one machine under one set of attributes, and faults of a voice.

A voice depends on (year, machine, section, attribute values) alone: every clip, under every seed of the
dataset, records the same specimen.

Conventions: levels and curves are dB, rates are Hz, spectra are described on `GRID`. Offsets are drawn from
generators that depend on names alone (`generator`).

>>> from asdray.dcase.synth.voice import apply_fault, voice_of
>>> voice = voice_of("dcase2023", "bandsaw", 0, ("13",))
>>> faster = apply_fault(voice, "detune", severity=1.0, where=0.0, sign=1.0)
>>> round(faster.rate / voice.rate, 3)
1.045
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from asdray.dcase.synth.machines import MACHINES, Fault, Hiss, Knocks, Tones
from asdray.dcase.synth.tables import attributes_of

GRID = np.geomspace(40.0, 8000.0, 192)
"""Frequencies in Hz of spectra (log-spaced)."""

SNR = 14.0
"""dB of machine over background noise at the middle of the ``level`` attribute."""

RUMBLE = Hiss(75.0, 0.5, 0.0)
"""Rumble of the hall; level in dB relative to the machine."""

Part = Tones | Hiss | Knocks


def generator(*identity: object) -> np.random.Generator:
    """A random generator that depends on ``identity`` alone, not on order, process or hash seed."""
    digest = hashlib.sha256("/".join(map(str, identity)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "big")))


@dataclass(frozen=True)
class Voice:
    """Everything that `asdray.dcase.synth.sounds.play` needs.

    Attributes:
        rate: Hz.
        parts: tones, hiss and knocks.
        partials: gains of the partials in dB, ``(count,)``, per `Tones` of ``parts``, in order.
        stroke: seconds per back-and-forth movement, or None.
        ramp: share of a stroke spent in acceleration.
        unevenness: spread of the stroke lengths.
        equaliser: dB on `GRID`; path from the machine to the microphone.
        rumble: low hum of the hall, loud and different in every clip; carries no information.
        bed: dB on `GRID`; background noise (0 dB in total).
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
        """The voice with ``change`` applied to every part of ``kind``."""
        return replace(self, parts=tuple(change(p) if isinstance(p, kind) else p for p in self.parts))

    def add(self, part: Part) -> Voice:
        """The voice with one more part (no tones, which need partials)."""
        assert not isinstance(part, Tones)
        return replace(self, parts=(*self.parts, part))


def curve(rng: np.random.Generator, spread: float, bumps: int = 4) -> np.ndarray:
    """A smooth random curve on `GRID` in dB; standard deviation about ``spread``."""
    octaves = np.log2(GRID / GRID[0])
    centres = rng.uniform(0, octaves[-1], bumps)
    heights = rng.normal(0, 1.6 * spread, bumps)
    widths = rng.uniform(0.4, 1.2, bumps)
    return (heights * np.exp(-0.5 * ((octaves[:, None] - centres) / widths) ** 2)).sum(axis=1)


def shifted(part: Part, level: float, ratio: float) -> Part:
    """``part`` with ``level`` dB added, and frequencies of hiss and knocks times ``ratio``."""
    part = replace(part, level=part.level + level)
    if isinstance(part, Hiss):
        return replace(part, centre=part.centre * ratio)
    return replace(part, ring=part.ring * ratio) if isinstance(part, Knocks) else part


def _vary(voice: Voice, rng: np.random.Generator, size: float) -> Voice:
    """Another specimen with offsets from ``rng``; ``size`` 1 = another model, 0.2 = the same model."""

    def part(p: Part) -> Part:
        return shifted(p, rng.normal(0, 2 * size), 2 ** rng.normal(0, 0.3 * size))

    return replace(
        voice,
        rate=voice.rate * 2 ** rng.normal(0, 0.25 * size),
        parts=tuple(part(p) for p in voice.parts),
        partials=tuple(g + rng.normal(0, 4 * min(size, 0.6), len(g)) for g in voice.partials),
        stroke=voice.stroke and voice.stroke * 2 ** rng.normal(0, 0.2 * size),
    )


def _pattern(value: str, key: str) -> tuple[float, ...]:
    """Phases of a cycle at which a valve opens or closes under pattern ``value``."""
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


def apply_fault(voice: Voice, fault: Fault, severity: float, where: float, sign: float) -> Voice:
    """``voice`` with ``fault``, as heard in an anomalous clip.

    * ``detune``: another speed, beyond the normal spread.
    * ``slip``: one series of tones at another speed than the others.
    * ``sidebands``: the tones are modulated by a slower rotation.
    * ``wear``: another balance of partials.
    * ``colour``: higher or lower noise and ringing.
    * ``ring``: a narrow resonance in the noise.
    * ``rub``: broadband noise in step with the rotation.
    * ``knock``: an extra impulse per turn.
    * ``falter``: irregular rhythm: knocks are late, strokes are of uneven length.

    Args:
        severity: 0 (hardly there) to 1.
        where: place of the fault in the spectrum, 0 to 1; equal for all clips of a section.
        sign: direction of a detuning, +1 or -1; equal for all clips of a section.
    """
    s = severity
    match fault:
        case "detune":
            return replace(voice, rate=voice.rate * (1 + sign * (0.012 + 0.033 * s)))
        case "slip":
            series = [p for p in voice.parts if isinstance(p, Tones)]
            loose = series[int(where * len(series))]
            ratio = 1 + sign * (0.02 + 0.045 * s)
            return voice.map(Tones, lambda t: replace(t, order=t.order * ratio) if t is loose else t)
        case "sidebands":
            order = 1.3 + 1.4 * where
            return voice.map(Tones, lambda t: replace(t, am=(order, 0.5 + 0.7 * s)))
        case "wear":
            pattern = generator("wear", where)
            partials = tuple(
                gains + (3 + 6 * s) * pattern.standard_normal(len(gains)) for gains in voice.partials
            )
            return replace(voice, partials=partials)
        case "colour":
            shift = 2 ** (sign * (0.15 + 0.35 * s))
            return voice.map(Hiss, lambda h: replace(h, centre=h.centre * shift)).map(
                Knocks, lambda k: replace(k, ring=k.ring * shift)
            )
        case "ring":
            centre = 500 * 2 ** (3.2 * where)
            return voice.add(Hiss(centre, 0.06, -11 + 12 * s))
        case "rub":
            centre = 700 * 2 ** (2.5 * where)
            return voice.add(Hiss(centre, 0.4, -4 + 10 * s, (1.0, 1.0)))
        case "knock":
            ring = 600 * 2 ** (2.5 * where)
            return voice.add(Knocks(1.0 if voice.rate > 5 else 2.0, -11 + 13 * s, ring, 0.008, 0.02))
        case "falter":
            late = 0.08 + 0.16 * s
            return replace(
                voice.map(Knocks, lambda k: replace(k, jitter=k.jitter + late)), unevenness=0.2 + 0.5 * s
            )
