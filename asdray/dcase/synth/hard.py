"""Sounds of ``asdray synth --hard``, which mean spectra cannot tell apart: only systems that learn can.

A machine sounds `BANDS` bands of noise one after another, again and again. An operating condition (the
attributes) is an order of the bands and the length of a round; a fault disturbs orders or lengths. Every band
sounds for the same share of the time under all conditions and faults, so that the distribution of levels in a
band tells nothing. Test clips were recorded through another microphone than training clips, in other noise.

Conventions are those of `asdray.dcase.synth.sounds`.

>>> from asdray.dcase.synth.hard import render
>>> audio = render(("dcase2023", "bandsaw", 0), ("13",), False, 8000, "a clip", shift=True)
>>> audio.shape, bool(abs(audio).max() < 1)
((8000,), True)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from asdray.dcase.synth.machines import Hiss
from asdray.dcase.synth.sounds import (
    GRID,
    Content,
    Voice,
    curve,
    generator,
    hiss,
    mix,
    on_bins,
    spread,
)
from asdray.dcase.years import SAMPLE_RATE

BANDS = 5
"""Bands of a machine; each sounds once per round."""

FAULTS = ("swapped", "backwards", "limping")
"""Two bands exchanged in some rounds; some rounds backwards; bands of uneven length."""

EDGE = 0.008
"""Seconds in which a band comes and goes."""


@dataclass(frozen=True)
class Pattern:
    """A machine under one operating condition.

    Attributes:
        centres: Hz of the bands, rising, ``(BANDS,)``.
        order: the bands in the order of a round, ``(BANDS,)``.
        seconds: length of a round.
    """

    centres: np.ndarray
    order: np.ndarray
    seconds: float


@functools.lru_cache(maxsize=4096)
def pattern_of(dcase: str, machine: str, section: int, values: tuple[str, ...]) -> Pattern:
    """The pattern of a machine under the attribute ``values``."""
    place = (dcase, machine, section)
    centres = np.geomspace(450.0, 5200.0, BANDS) * 2 ** generator("bands", *place).uniform(-0.15, 0.15, BANDS)
    rng = generator("pattern", *place, *values)
    return Pattern(centres, rng.permutation(BANDS), rng.uniform(0.35, 0.6))


def _surroundings(place: tuple[str, str, int], shift: bool) -> Voice:
    """Microphone and noise of a machine: those of training clips, or with a ``shift`` those of test clips."""
    rng = generator("surroundings", *place)
    equaliser, bed = curve(rng, 2.0), -3.0 * np.log2(GRID / 200.0) + curve(rng, 3.0)
    voice = Voice(rate=1.0, parts=(), partials=(), stroke=None, equaliser=equaliser, bed=bed)
    if not shift:
        return voice
    return replace(voice, equaliser=equaliser + curve(rng, 3.0), bed=bed + curve(rng, 5.0), snr=voice.snr - 2)


def rounds(
    pattern: Pattern, n: int, fault: str, severity: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Band and length in seconds of all slots of a clip, ``(S,)`` each, from a random point of a round."""
    count = int(n / SAMPLE_RATE / pattern.seconds * 1.5) + 3
    bands = np.tile(pattern.order, (count, 1))
    lengths = pattern.seconds / BANDS * (1 + 0.04 * rng.standard_normal((count, BANDS)))
    hit = rng.random(count) < 0.3 + 0.6 * severity
    match fault:
        case "swapped":
            bands[hit] = bands[hit][:, [1, 0, *range(2, BANDS)]]
        case "backwards":
            bands[hit] = bands[hit][:, ::-1]
        case "limping":
            lengths *= np.exp((0.25 + 0.35 * severity) * rng.standard_normal(lengths.shape))
    first = int(rng.integers(BANDS))
    return bands.ravel()[first:], np.maximum(lengths.ravel()[first:], 2 * EDGE)


def _machine(pattern: Pattern, voice: Voice, n: int, fault: str, rng: np.random.Generator) -> np.ndarray:
    """``(n,)``: the machine alone, RMS 1; ``fault`` is ``""`` for a normal clip."""
    bands, lengths = rounds(pattern, n, fault, rng.beta(1.5, 1.5), rng)
    ends = np.cumsum(lengths) - rng.uniform(0, lengths[0])
    slot = np.searchsorted(ends, np.arange(n) / SAMPLE_RATE, side="right")
    levels = 10 ** (rng.normal(0, 1.0, len(bands)) / 20)
    smooth = np.hanning(int(EDGE * SAMPLE_RATE) + 2)[1:-1]
    heard = np.zeros(n, np.float32)
    for band, centre in enumerate(pattern.centres):
        gate = np.where(bands == band, levels, 0.0)[slot]
        gate = np.convolve(gate, smooth / smooth.sum(), mode="same").astype(np.float32)
        part = Hiss(centre * 2 ** rng.normal(0, 0.01), 0.14, rng.normal(0, 0.8))
        heard += gate * fft.irfft(hiss(part, n, rng), n)
    heard = fft.irfft(fft.rfft(heard) * on_bins(voice.equaliser, n), n)
    return heard / (np.sqrt(np.mean(heard**2)) + 1e-9)


def render(
    place: tuple[str, str, int],
    values: tuple[str, ...],
    anomalous: bool,
    n: int,
    identity: str,
    *,
    shift: bool,
    channels: int = 1,
    content: Content = "both",
) -> np.ndarray:
    """One clip, as of `asdray.dcase.synth.sounds.render`.

    Args:
        shift: if true, with the microphone and the noise of test clips.
    """
    rng = generator("hard", identity)
    voice = spread(_surroundings(place, shift), rng)
    fault = str(rng.choice(FAULTS)) if anomalous else ""
    return mix(_machine(pattern_of(*place, values), voice, n, fault, rng), voice, rng, channels, content)
