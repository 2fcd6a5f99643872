"""What is wrong in an anomalous clip: a change of the voice, its size set by a severity in [0, 1]."""

from __future__ import annotations

from dataclasses import replace

from asdray.dcase.synth.parts import Fault, Hiss, Knocks, Tones
from asdray.dcase.synth.voice import Voice, generator


def apply_fault(voice: Voice, fault: Fault, severity: float, where: float, sign: float) -> Voice:
    """``voice`` with ``fault``.

    * ``detune``: runs off its speed, beyond the normal spread.
    * ``slip``: one series of tones runs off the others.
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
