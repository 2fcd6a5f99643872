"""Sounds of synthetic clips: a machine's voice, the spread between clips, faults, and background noise.

A voice has the parts and surroundings of one machine under one set of attributes. It depends on (year,
machine, section, attribute values) alone: every clip, under every seed of the dataset, records the same
specimen.

Conventions: audio is float32 in [-1, 1] at 16 kHz, ``(n,)`` or ``(n, 2)`` samples; levels and curves are dB,
rates are Hz, spectra are described on `GRID`. A clip depends on its arguments alone, in any process: random
choices come from generators that depend on names alone (`generator`).

>>> from asdray.dcase.synth.sounds import apply_fault, render, voice_of
>>> audio = render(("dcase2023", "bandsaw", 0), ("13",), False, 8000, "a clip")
>>> audio.shape, bool(abs(audio).max() < 1)
((8000,), True)
>>> voice = voice_of("dcase2023", "bandsaw", 0, ("13",))
>>> round(apply_fault(voice, "detune", severity=1.0, where=0.0, sign=1.0).rate / voice.rate, 3)
1.045
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import fft

from asdray.dcase.synth.attributes import Role, attributes_of
from asdray.dcase.synth.machines import MACHINES, Fault, Hiss, Knocks, Tones
from asdray.dcase.years import SAMPLE_RATE

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
    """Everything that `play` needs.

    Attributes:
        rate: Hz.
        parts: tones, hiss and knocks.
        partials: gains of the partials in dB, ``(count,)``, per `Tones` of ``parts``, in order.
        stroke: seconds per back-and-forth movement, or None.
        equaliser: dB on `GRID`; path from the machine to the microphone.
        bed: dB on `GRID`; background noise (0 dB in total).
        ramp: share of a stroke spent in acceleration.
        unevenness: spread of the stroke lengths.
        rumble: low hum of the hall, loud and different in every clip; carries no information.
        snr: dB of machine over background.
        gain: dB of the whole.
    """

    rate: float
    parts: tuple[Part, ...]
    partials: tuple[np.ndarray, ...]
    stroke: float | None
    equaliser: np.ndarray
    bed: np.ndarray
    ramp: float = 0.15
    unevenness: float = 0.03
    rumble: Hiss = RUMBLE
    snr: float = SNR
    gain: float = 0.0

    def map(self, kind: type | tuple[type, ...], change: Callable) -> Voice:
        """The voice with ``change`` applied to every part of ``kind``."""
        return replace(self, parts=tuple(change(p) if isinstance(p, kind) else p for p in self.parts))

    def add(self, part: Part) -> Voice:
        """The voice with one more part (no tones, which need partials)."""
        assert not isinstance(part, Tones)
        return replace(self, parts=(*self.parts, part))


def curve(rng: np.random.Generator, spread: float) -> np.ndarray:
    """A smooth random curve on `GRID` in dB; standard deviation about ``spread``."""
    octaves, bumps = np.log2(GRID / GRID[0]), 4
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


@functools.lru_cache(maxsize=4096)
def voice_of(dcase: str, machine: str, section: int, values: tuple[str, ...]) -> Voice:
    """The voice of a machine under the attribute ``values`` (one per key of `attributes_of`)."""
    model, attributes = MACHINES[machine], attributes_of(dcase, machine, section)
    place = (dcase, machine, section)
    rng = generator("body", *place)
    voice = Voice(
        rate=model.rate,
        parts=model.parts,
        partials=tuple(p.tilt * np.log2(1 + np.arange(p.count)) for p in model.parts if isinstance(p, Tones)),
        stroke=model.stroke,
        equaliser=curve(rng, 2.0),
        bed=-3.0 * np.log2(GRID / 200.0) + curve(rng, 3.0),
    )
    voice = _vary(voice, rng, 1.0)
    phases: set[float] = set()
    for index, (key, value) in enumerate(zip(attributes.keys, values, strict=True)):
        if key.role == "pattern":
            phases |= _pattern(value, key.name)
            continue
        where = attributes.position(index, value) - 0.5
        rng = generator("attribute", *place, key.name, value)
        voice = _under_attribute(voice, key.role, where, attributes.steps(index), rng)
    return voice.map(Knocks, lambda k: replace(k, phases=tuple(sorted(phases)))) if phases else voice


def _pattern(value: str, key: str) -> set[float]:
    """Phases of a cycle at which a valve opens or closes under pattern ``value``."""
    if value == "none":
        return set()
    rng = generator("pattern", key, value)
    return set(rng.choice(16, int(rng.integers(2, 5)), replace=False) / 16)


def _under_attribute(voice: Voice, role: Role, where: float, steps: int, rng: np.random.Generator) -> Voice:
    """``voice`` under an attribute value, ``where`` in [-0.5, 0.5] of the range of ``steps`` + 1 values."""
    match role:
        case "speed":
            ratio = 2 ** (min(0.5, 0.06 * steps) * where)
            stroke, gain = voice.stroke and voice.stroke / ratio, voice.gain + 4 * where
            voice = replace(voice, rate=voice.rate * ratio, stroke=stroke, gain=gain)
            return voice.map(Hiss, lambda h: replace(h, level=h.level + 5 * where))
        case "load":
            ramp = float(np.clip(0.15 - 0.16 * where, 0.06, 0.3))
            partials = tuple(g + 3 * where * np.log2(1 + np.arange(len(g))) for g in voice.partials)
            voice = replace(voice, ramp=ramp, partials=partials)
            return voice.map(Hiss, lambda h: replace(h, level=h.level - 5 * where))
        case "unit":
            return _vary(voice, rng, 0.25)
        case "place":
            return replace(voice, equaliser=voice.equaliser + curve(rng, 2.0))
        case "noise":
            return replace(voice, bed=voice.bed + curve(rng, 6.0))
        case "level":
            return replace(voice, snr=voice.snr - 9 * where)
    raise AssertionError(role)


def apply_fault(voice: Voice, fault: Fault, severity: float, where: float, sign: float) -> Voice:
    """``voice`` with ``fault``, as heard in an anomalous clip.

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
            partials = tuple(g + (3 + 6 * s) * pattern.standard_normal(len(g)) for g in voice.partials)
            return replace(voice, partials=partials)
        case "colour":
            shift = 2 ** (sign * (0.15 + 0.35 * s))
            return voice.map((Hiss, Knocks), lambda part: shifted(part, 0.0, shift))
        case "ring":
            return voice.add(Hiss(500 * 2 ** (3.2 * where), 0.06, -11 + 12 * s))
        case "rub":
            return voice.add(Hiss(700 * 2 ** (2.5 * where), 0.4, -4 + 10 * s, (1.0, 1.0)))
        case "knock":
            ring = 600 * 2 ** (2.5 * where)
            return voice.add(Knocks(1.0 if voice.rate > 5 else 2.0, -11 + 13 * s, ring, 0.008, 0.02))
        case "falter":
            late = 0.08 + 0.16 * s
            voice = voice.map(Knocks, lambda k: replace(k, jitter=k.jitter + late))
            return replace(voice, unevenness=0.2 + 0.5 * s)


# ------------------------------------------------------------------------------------------------------ clips

TABLE = 8192
"""Samples of a wavetable, which holds one period of a harmonic series."""

LEVEL = 0.05
"""RMS of a clip of medium speed (full scale = 1)."""

FAR_DELAY = 70
"""Delay of the machine at the far microphone in samples: 1.5 m."""

FAR_NOISE = 4.0
"""dB of the far microphone's background over the near microphone's."""

_FAR_CURVE = -7.0 - 3.0 * np.log2(1 + GRID / 1500.0)

Content = Literal["both", "machine", "noise"]
"""Content of a clip: recordings hold both, some supplemental clips one alone."""


@functools.lru_cache(maxsize=4)
def _axes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Fractional index on `GRID` per rfft bin of ``n`` samples, and time per sample in seconds."""
    bins = fft.rfftfreq(n, 1 / SAMPLE_RATE)
    return np.interp(np.log(np.maximum(bins, GRID[0])), np.log(GRID), np.arange(len(GRID))), (
        np.arange(n) / SAMPLE_RATE
    )


def on_bins(decibels: np.ndarray, n: int) -> np.ndarray:
    """Amplitude per rfft bin from dB on `GRID`."""
    return np.interp(_axes(n)[0], np.arange(len(GRID)), 10 ** (decibels / 20)).astype(np.float32)


def _noise(decibels: np.ndarray, level: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Spectrum, ``(n // 2 + 1,) complex64``, of noise shaped by ``decibels`` on `GRID`; RMS ``level`` dB."""
    amplitude = on_bins(decibels, n)
    # Each bin gets E|X|^2 = 2 amplitude^2, and the mean square of the signal is sum 2 |X|^2 / n^2.
    amplitude *= 10 ** (level / 20) * n / (2 * np.sqrt(np.sum(amplitude**2)))
    random = rng.standard_normal(2 * len(amplitude), dtype=np.float32).view(np.complex64)
    return random * amplitude


def hiss(part: Hiss, n: int, rng: np.random.Generator) -> np.ndarray:
    """Spectrum of steady hiss, see `_noise`."""
    return _noise(_hiss_curve(part), part.level, n, rng)


def _hiss_curve(hiss: Hiss) -> np.ndarray:
    return np.maximum(-4.34 * (np.log2(GRID / hiss.centre) / hiss.width) ** 2, -80.0)


def _progress(
    voice: Voice, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Turns completed per sample, ``(n,) float64``; with strokes also strokes, and speed in [0, 1]."""
    seconds = _axes(n)[1]
    wander = 1 + 0.0008 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.2) * seconds + rng.uniform()))
    speed = strokes = None
    if voice.stroke:
        count = int(n / SAMPLE_RATE / voice.stroke * 2) + 4
        lengths = voice.stroke * np.maximum(1 + voice.unevenness * rng.standard_normal(count), 0.3)
        starts = np.concatenate([[0.0], np.cumsum(lengths)]) - rng.uniform(0, voice.stroke)
        strokes = np.interp(seconds, starts, np.arange(count + 1.0))
        speed = np.clip(np.minimum(strokes % 1, 1 - strokes % 1) / voice.ramp, 0, 1)
        wander = wander * speed
    return rng.uniform() + np.cumsum(wander) * (voice.rate / SAMPLE_RATE), strokes, speed


def _wave(table: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return table[(turns * TABLE).astype(np.int64) & (TABLE - 1)]


_COSINE = np.cos(2 * np.pi * np.arange(TABLE) / TABLE).astype(np.float32)


def _tones(
    tones: Tones, gains: np.ndarray, rate: float, turns: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    count = min(len(gains), int(7600 / (tones.order * rate)))
    amplitudes = 10 ** ((gains + rng.normal(0, 1.2, len(gains))) / 20)
    # Normalised over all partials: partials above the Nyquist frequency are lost, not folded.
    amplitudes *= 10 ** (tones.level / 20) / np.sqrt(np.sum(amplitudes**2) / 2)
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    phases = rng.uniform(0, 2 * np.pi, len(gains))
    spectrum[1 : count + 1] = (amplitudes * np.exp(1j * phases))[:count] * (TABLE / 2)
    wave = _wave(fft.irfft(spectrum), tones.order * turns + rng.uniform())
    order, depth = tones.am
    return wave * (1 + depth * _wave(_COSINE, order * turns + rng.uniform())) if depth else wave


def _knocks(knocks: Knocks, turns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spectrum of the knocks of a clip."""
    n = len(turns)
    impulses = np.zeros(n, np.float32)
    for phase in knocks.phases:
        at = np.flatnonzero(np.diff(np.floor(knocks.order * turns + phase)))
        if len(at) == 0:
            continue
        period = n / (knocks.order * (turns[-1] - turns[0]) + 1e-9)
        at = at + rng.normal(0, knocks.jitter * period, len(at)).astype(np.int64)
        np.add.at(impulses, at % n, np.maximum(1 + 0.15 * rng.standard_normal(len(at)), 0).astype(np.float32))
    length = min(n, int(8 * knocks.decay * SAMPLE_RATE))
    seconds = _axes(n)[1][:length]
    ring = min(knocks.ring, 7000.0)
    kernel = np.exp(-seconds / knocks.decay) * (
        np.sin(2 * np.pi * ring * seconds) + 0.5 * np.sin(2 * np.pi * min(1.63 * ring, 7600.0) * seconds)
    )
    return fft.rfft(impulses) * fft.rfft((kernel * 4 * 10 ** (knocks.level / 20)).astype(np.float32), n)


def spread(voice: Voice, rng: np.random.Generator) -> Voice:
    """The normal spread between clips of one voice: levels in dB, rates and frequencies as ratios.

    Background and room differ a lot between clips and carry no information; the machine itself differs
    little, so that the class of a clip shows in the fine structure of the spectrum. With these spreads and
    the severities of faults, small versions of both baselines score between 0.6 and 0.8 (official score).
    """

    def vary(part: Hiss | Knocks) -> Hiss | Knocks:
        return shifted(part, rng.normal(0, 0.8), 2 ** rng.normal(0, 0.02))  # type: ignore[return-value]

    return replace(
        voice.map((Hiss, Knocks), vary).map(Tones, lambda t: replace(t, level=t.level + rng.normal(0, 0.8))),
        rate=voice.rate * (1 + 0.0015 * rng.standard_normal()),
        stroke=voice.stroke and voice.stroke * (1 + 0.02 * rng.standard_normal()),
        equaliser=voice.equaliser + curve(rng, 1.0),
        bed=voice.bed + curve(rng, 4.0),
        rumble=replace(
            voice.rumble,
            centre=voice.rumble.centre * 2 ** rng.normal(0, 0.3),
            level=voice.rumble.level + rng.normal(0, 5.0),
        ),
        snr=voice.snr + rng.normal(0, 2.0),
        gain=voice.gain + rng.normal(0, 1.5),
    )


def _machine(voice: Voice, n: int, rng: np.random.Generator) -> np.ndarray:
    """``(n,)``: the machine alone, RMS 1."""
    turns, strokes, speed = _progress(voice, n, rng)
    moving = np.zeros(n, np.float32)
    spectrum = np.zeros(n // 2 + 1, np.complex64)
    partials = iter(voice.partials)
    for part in voice.parts:
        match part:
            case Tones():
                moving += _tones(part, next(partials), voice.rate, turns, rng)
            case Knocks():
                spectrum += _knocks(part, turns if strokes is None else strokes, rng)
            case Hiss(beat=(order, depth)) if depth:
                envelope = 1 - depth * (0.5 + 0.5 * _wave(_COSINE, order * turns + rng.uniform()))
                moving += envelope * fft.irfft(hiss(part, n, rng), n)
            case Hiss() if speed is not None:
                moving += fft.irfft(hiss(part, n, rng), n)
            case Hiss():
                spectrum += hiss(part, n, rng)
    if speed is not None:
        moving *= (speed**0.7).astype(np.float32)
    machine = fft.irfft((spectrum + fft.rfft(moving)) * on_bins(voice.equaliser, n), n)
    return machine / (np.sqrt(np.mean(machine**2)) + 1e-9)


def play(
    voice: Voice, n: int, rng: np.random.Generator, channels: int = 1, content: Content = "both"
) -> np.ndarray:
    """The voice in its background noise.

    Args:
        channels: 1, or 2 = a near and a far microphone. The far microphone hears the machine late, muffled
            and quieter, more noise of the room, and the same rumble.
        content: machine, noise, or both.

    Returns:
        ``(n,) float32`` or ``(n, 2) float32`` in [-1, 1].
    """
    return mix(_machine(voice, n, rng), voice, rng, channels, content)


def mix(
    machine: np.ndarray, voice: Voice, rng: np.random.Generator, channels: int, content: Content
) -> np.ndarray:
    """A machine, ``(n,)`` of RMS 1, in the background noise of a voice; see `play`."""
    n = len(machine)
    bed = _noise(voice.bed, -voice.snr, n, rng)
    rumble = hiss(voice.rumble, n, rng)
    background = fft.irfft(bed + rumble, n)
    heard = {"both": machine + background, "machine": machine, "noise": background}
    scale = LEVEL * 10 ** (voice.gain / 20)
    near = np.clip(heard[content] * scale, -1, 1).astype(np.float32)
    if channels == 1:
        return near
    delay = np.exp(-2j * np.pi * fft.rfftfreq(n) * FAR_DELAY).astype(np.complex64)
    muffled = fft.rfft(machine) * delay * on_bins(_FAR_CURVE, n)
    room = _noise(voice.bed, FAR_NOISE - voice.snr, n, rng) + rumble
    far = fft.irfft(muffled + room, n)
    return np.stack([near, np.clip(far * scale, -1, 1).astype(np.float32)], axis=1)


def render(
    place: tuple[str, str, int],
    values: tuple[str, ...],
    anomalous: bool,
    n: int,
    identity: str,
    *,
    channels: int = 1,
    content: Content = "both",
) -> np.ndarray:
    """One clip, ``(n,) float32`` or ``(n, 2) float32`` in [-1, 1] at 16 kHz.

    Args:
        place: (year, machine, section).
        values: one value per key of `asdray.dcase.synth.attributes.attributes_of`.
        identity: seed of all random choices, unique among the clips of all datasets.
        channels, content: see `play`.
    """
    rng = generator("clip", identity)
    voice = spread(voice_of(*place, values), rng)
    if anomalous:
        fault = str(rng.choice(MACHINES[place[1]].faults))
        fixed = generator("fault", *place, fault)
        where, sign = fixed.uniform(), fixed.choice([-1.0, 1.0])
        voice = apply_fault(voice, fault, rng.beta(1.5, 1.5), where, sign)  # type: ignore[arg-type]
    return play(voice, n, rng, channels, content)
