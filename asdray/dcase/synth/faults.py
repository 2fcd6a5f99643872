"""What is wrong in an anomalous clip: a change of the voice, its size set by a severity in [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from asdray.dcase.synth.machines import Fault, Hiss, Knocks, Tones
from asdray.dcase.synth.voice import Voice, generator


def apply_fault(voice: Voice, fault: Fault, severity: float, where: float, sign: float) -> Voice:
    """``voice`` with ``fault``.

    * ``detune``: runs off its speed, beyond the normal spread.
    * ``sidebands``: the tones are modulated by a slower rotation.
    * ``wear``: another balance of partials.
    * ``colour``: the noise and the ringing lie higher or lower.
    * ``ring``: a narrow resonance in the noise.
    * ``rub``: broadband noise that comes and goes with the rotation.
    * ``knock``: an extra impulse per turn.
    * ``falter``: irregular rhythm: knocks are late, strokes are of uneven length.

    Args:
        severity: 0 (hardly there) to 1.
        where: 0 to 1, the place of the fault in the spectrum; the same for all clips of a section.
        sign: +1 or -1, the direction of a detuning; the same for all clips of a section.
    """
    s = severity
    match fault:
        case "detune":
            return replace(voice, rate=voice.rate * (1 + sign * (0.015 + 0.04 * s)))
        case "sidebands":
            order = 1.3 + 1.4 * where
            return voice.map(Tones, lambda t: replace(t, am=(order, 0.5 + 0.7 * s)))
        case "wear":
            pattern = generator("wear", where)
            partials = tuple(
                gains + (4 + 6 * s) * pattern.standard_normal(len(gains)) for gains in voice.partials
            )
            return replace(voice, partials=partials)
        case "colour":
            shift = 2 ** (sign * (0.2 + 0.4 * s))
            return voice.map(Hiss, lambda h: replace(h, centre=h.centre * shift)).map(
                Knocks, lambda k: replace(k, ring=k.ring * shift)
            )
        case "ring":
            centre = 500 * 2 ** (3.2 * where)
            return voice.add(Hiss(centre, 0.06, -9 + 11 * s))
        case "rub":
            centre = 700 * 2 ** (2.5 * where)
            return voice.add(Hiss(centre, 0.4, -4 + 10 * s, (1.0, 1.0)))
        case "knock":
            ring = 600 * 2 ** (2.5 * where)
            return voice.add(Knocks(1.0 if voice.rate > 5 else 2.0, -9 + 12 * s, ring, 0.008, 0.02))
        case "falter":
            late = 0.06 + 0.14 * s
            return replace(
                voice.map(Knocks, lambda k: replace(k, jitter=k.jitter + late)), unevenness=0.2 + 0.5 * s
            )
