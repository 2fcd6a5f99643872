"""What a synthetic machine is made of: tones, hiss and knocks locked to one rate of rotation.

Levels are in dB relative to each other, orders are multiples of the machine's rate, rates are in Hz at
medium speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fault = Literal["detune", "slip", "sidebands", "wear", "colour", "ring", "rub", "knock", "falter"]
"""What can be wrong with a machine (see `faults.apply_fault`)."""


@dataclass(frozen=True)
class Tones:
    """A harmonic series on ``order`` x rate: ``count`` partials that fall by ``tilt`` dB per octave.

    ``am`` = (order, depth): amplitude modulation in step with the rotation, so sidebands.
    """

    order: float
    level: float
    count: int
    tilt: float
    am: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Hiss:
    """Noise around ``centre`` Hz, ``width`` octaves (standard deviation), perhaps beating with the rotation.

    ``beat`` = (order, depth): 0 = steady, 1 = falls silent once per period.
    """

    centre: float
    width: float
    level: float
    beat: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Knocks:
    """``order`` impulses per turn that ring at ``ring`` Hz for ``decay`` seconds.

    ``jitter`` is the spread of their times, in periods; ``phases`` are several knocks within one period.
    In a machine that strokes, a turn is a stroke.
    """

    order: float
    level: float
    ring: float
    decay: float
    jitter: float = 0.01
    phases: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Machine:
    """A machine type: its rate, its parts and the faults that it can have.

    ``stroke``: seconds of one back-and-forth movement of a machine that does not rotate steadily.
    """

    rate: float
    parts: tuple[Tones | Hiss | Knocks, ...]
    faults: tuple[Fault, ...]
    stroke: float | None = None
