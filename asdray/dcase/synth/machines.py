"""Synthetic machine types: tones, hiss and knocks, locked to one rate of rotation, and their faults.

Conventions: levels are dB relative to the other parts, orders are multiples of the machine's rate, rates are
Hz at medium speed, decays are seconds. The figures are chosen from spectrograms to resemble a kind of
machine; no figure is measured from a dataset.

>>> from asdray.dcase.synth.machines import MACHINES
>>> MACHINES["bandsaw"].rate, len(MACHINES["bandsaw"].parts), MACHINES["bandsaw"].faults[0]
(27.0, 4, 'detune')
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Fault = Literal["detune", "slip", "sidebands", "wear", "colour", "ring", "rub", "knock", "falter"]
"""Faults of machines, see `asdray.dcase.synth.sounds.apply_fault`.

* ``detune``: another speed, beyond the normal spread.
* ``slip``: one series of tones at another speed than the others.
* ``sidebands``: the tones are modulated by a slower rotation.
* ``wear``: another balance of partials.
* ``colour``: higher or lower noise and ringing.
* ``ring``: a narrow resonance in the noise.
* ``rub``: broadband noise in step with the rotation.
* ``knock``: an extra impulse per turn.
* ``falter``: irregular rhythm: knocks are late, strokes are of uneven length.
"""


@dataclass(frozen=True)
class Tones:
    """A harmonic series on ``order`` x rate: ``count`` partials that fall by ``tilt`` dB per octave.

    ``am`` = (order, depth): amplitude modulation in step with the rotation, hence sidebands.
    """

    order: float
    level: float
    count: int
    tilt: float
    am: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Hiss:
    """Noise around ``centre`` Hz, ``width`` octaves (standard deviation) wide.

    ``beat`` = (order, depth): level in step with the rotation; depth 0 = steady, 1 = silent once per period.
    """

    centre: float
    width: float
    level: float
    beat: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Knocks:
    """``order`` impulses per turn that ring at ``ring`` Hz for ``decay`` seconds.

    ``jitter`` is the spread of impulse times, in periods; ``phases`` are several knocks within one period.
    In a machine with strokes, a turn is a stroke.
    """

    order: float
    level: float
    ring: float
    decay: float
    jitter: float = 0.01
    phases: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Machine:
    """A machine type: rate, parts and possible faults.

    ``stroke``: seconds of one back-and-forth movement; None for a machine that rotates steadily.
    """

    rate: float
    parts: tuple[Tones | Hiss | Knocks, ...]
    faults: tuple[Fault, ...]
    stroke: float | None = None


def _machine(rate: float, faults: str, *parts: Tones | Hiss | Knocks, stroke: float | None = None) -> Machine:
    return Machine(rate, parts, tuple(faults.split()), stroke)  # type: ignore[arg-type]


_RUNNING = "detune slip sidebands wear rub"
_MOVING = "detune rub wear falter colour"

MACHINES: dict[str, Machine] = {
    # 2022, 2023
    "fan": _machine(
        22.0, "detune slip sidebands wear knock",
        Tones(5, 0, 14, -4), Tones(1, -12, 6, -5), Hiss(420, 1.6, -1), Hiss(2600, 0.9, -11, (5, 0.4)),
    ),
    "bearing": _machine(
        25.0, "knock detune sidebands wear rub",
        Tones(1, -3, 36, -3), Hiss(3000, 1.1, -6), Knocks(3.6, -12, 3200, 0.004, 0.03),
    ),
    "gearbox": _machine(
        17.0, "sidebands detune slip wear knock",
        Tones(23, 0, 9, -4, (1, 0.3)), Tones(1, -9, 10, -4), Hiss(1300, 1.5, -8),
    ),
    "slider": _machine(
        36.0, _MOVING,
        Tones(12, 0, 10, -4), Hiss(2300, 0.9, -5), Hiss(700, 0.6, -11), Knocks(1, -3, 420, 0.02),
        stroke=0.9,
    ),
    "valve": _machine(
        2.6, "falter colour knock rub",
        Knocks(1, 4, 1700, 0.012, 0.004), Hiss(4200, 0.7, -14, (1, 1.0)), Tones(40, -16, 8, -5),
    ),
    "ToyCar": _machine(
        58.0, _RUNNING,
        Tones(1, -4, 40, -3), Tones(13, -1, 6, -5, (1, 0.2)), Hiss(1900, 1.2, -5),
        Knocks(0.31, -10, 900, 0.008, 0.02),
    ),
    "ToyTrain": _machine(
        34.0, "detune slip sidebands wear falter",
        Tones(1, -6, 30, -3), Tones(11, -2, 8, -4), Hiss(1200, 1.3, -4),
        Knocks(0.09, 0, 1300, 0.01, 0.01, (0.0, 0.3)),
    ),
    "bandsaw": _machine(
        27.0, "detune slip ring rub wear",
        Tones(2, -2, 24, -3), Tones(19, -6, 6, -3), Hiss(3600, 0.8, -3, (0.5, 0.4)),
        Hiss(800, 1.3, -7),
    ),
    "grinder": _machine(
        49.0, "detune slip ring rub colour",
        Tones(2, -3, 16, -4), Tones(1, -9, 12, -3), Hiss(4300, 0.8, 0), Hiss(1500, 0.9, -6, (1, 0.3)),
    ),
    "shaker": _machine(
        14.0, "detune knock falter wear rub",
        Tones(1, 0, 40, -3), Hiss(900, 1.4, -7, (1, 0.7)), Knocks(2, -3, 850, 0.012, 0.01),
    ),
    "ToyDrone": _machine(
        88.0, _RUNNING,
        Tones(2, 0, 16, -4), Tones(2.07, -2, 16, -4), Tones(2.13, -3, 16, -4), Hiss(3000, 1.1, -3),
        Tones(1, -12, 8, -4),
    ),
    "ToyNscale": _machine(
        52.0, _RUNNING,
        Tones(9, -2, 8, -4), Tones(1, -7, 24, -3), Hiss(2400, 1.1, -3), Knocks(0.08, -3, 2100, 0.006),
    ),
    "ToyTank": _machine(
        44.0, "detune slip knock wear falter",
        Tones(1, -4, 36, -3), Tones(7, -4, 8, -4), Knocks(0.42, -3, 1500, 0.009, 0.03),
        Hiss(1600, 1.3, -5),
    ),
    "Vacuum": _machine(
        290.0, _RUNNING,
        Tones(1, -3, 18, -4), Tones(0.5, -14, 6, -4), Hiss(1400, 1.5, 0), Hiss(4800, 0.6, -7),
    ),
    # 2020, 2021
    "pump": _machine(
        24.0, _RUNNING,
        Tones(1, -4, 20, -4), Tones(6, -2, 8, -5, (1, 0.25)), Hiss(700, 1.4, -4, (1, 0.4)),
        Hiss(2600, 0.8, -9),
    ),
    "ToyConveyor": _machine(
        18.0, "detune slip knock wear rub",
        Tones(1, -6, 30, -3), Tones(14, -3, 7, -4), Hiss(1800, 1.3, -4),
        Knocks(0.5, -5, 1600, 0.008, 0.02),
    ),
    # 2024
    "3DPrinter": _machine(
        210.0, _MOVING,
        Tones(1, -1, 12, -4), Tones(2.3, -6, 8, -4), Hiss(2800, 1.0, -4), Hiss(900, 0.7, -10),
        Knocks(1, -8, 600, 0.015), stroke=0.7,
    ),
    "AirCompressor": _machine(
        16.0, "detune slip knock wear rub",
        Tones(1, 0, 40, -3), Tones(24, -9, 5, -4), Hiss(900, 1.5, -3, (1, 0.6)),
        Knocks(1, -4, 500, 0.015, 0.02),
    ),
    "BrushlessMotor": _machine(
        18.0, _RUNNING,
        Tones(7, 0, 12, -4, (1, 0.15)), Tones(1, -10, 12, -3), Hiss(3500, 1.0, -6), Hiss(800, 1.2, -8),
    ),
    "HairDryer": _machine(
        180.0, "detune slip ring rub wear",
        Tones(1, -4, 16, -4), Tones(7, -8, 4, -4), Hiss(1800, 1.5, 0), Hiss(5200, 0.6, -6),
    ),
    "HoveringDrone": _machine(
        105.0, _RUNNING,
        Tones(2, 0, 16, -4), Tones(2.04, -1, 16, -4), Tones(2.11, -3, 16, -4), Tones(1, -11, 8, -4),
        Hiss(2600, 1.2, -2),
    ),
    "RoboticArm": _machine(
        90.0, _MOVING,
        Tones(4, 0, 10, -4), Tones(1, -8, 16, -3), Hiss(1900, 1.0, -6), Knocks(1, -4, 350, 0.03),
        stroke=1.1,
    ),
    "Scanner": _machine(
        140.0, _MOVING,
        Tones(2, 0, 9, -4), Tones(5, -5, 6, -4), Hiss(3400, 0.8, -6), Knocks(1, -6, 800, 0.015),
        stroke=1.4,
    ),
    "ToothBrush": _machine(
        130.0, "detune slip sidebands wear ring",
        Tones(2, 0, 20, -3), Tones(1, -12, 12, -3), Hiss(4500, 0.8, -5), Hiss(1200, 1.0, -9),
    ),
    "ToyCircuit": _machine(
        40.0, _RUNNING,
        Tones(1, -4, 30, -3), Tones(17, -3, 6, -4), Hiss(2200, 1.2, -4),
        Knocks(0.2, -2, 1700, 0.007, 0.02, (0.0, 0.45)),
    ),
    # 2025
    "AutoTrash": _machine(
        75.0, _MOVING,
        Tones(5, 0, 10, -4), Tones(1, -9, 14, -3), Hiss(1500, 1.1, -6), Knocks(1, 0, 450, 0.025),
        stroke=1.0,
    ),
    "BandSealer": _machine(
        21.0, "detune slip knock wear rub",
        Tones(3, -2, 16, -3), Tones(26, -5, 6, -4), Hiss(2700, 1.0, -4, (1, 0.35)), Hiss(600, 1.1, -9),
    ),
    "CoffeeGrinder": _machine(
        95.0, "detune slip ring wear rub",
        Tones(1, -2, 30, -3), Tones(6, -6, 5, -4), Hiss(2300, 1.4, -1),
        Knocks(0.33, -7, 2700, 0.003, 0.3),
    ),
    "HomeCamera": _machine(
        160.0, _MOVING,
        Tones(3, 0, 8, -4), Tones(1, -8, 12, -3), Hiss(3800, 0.7, -6), Knocks(1, -7, 1200, 0.01),
        stroke=0.8,
    ),
    "Polisher": _machine(
        65.0, _RUNNING,
        Tones(2, -1, 20, -4), Tones(1, -8, 14, -3), Hiss(3200, 1.0, -2, (1, 0.3)), Hiss(900, 1.2, -8),
    ),
    "ScrewFeeder": _machine(
        50.0, _RUNNING,
        Tones(2, 0, 30, -3), Tones(11, -8, 5, -4), Hiss(4200, 0.9, -5, (2, 0.6)),
        Knocks(0.37, -5, 3500, 0.004, 0.25),
    ),
    "ToyPet": _machine(
        70.0, _MOVING,
        Tones(6, 0, 8, -4), Tones(1, -7, 20, -3), Hiss(1700, 1.0, -7), Knocks(1, -1, 1000, 0.012),
        stroke=0.6,
    ),
    "ToyRCCar": _machine(
        70.0, _RUNNING,
        Tones(1, -3, 40, -3), Tones(9, -3, 8, -4, (1, 0.25)), Hiss(2100, 1.2, -5),
        Knocks(0.4, -8, 1300, 0.007, 0.02),
    ),
    # 2026
    "BlowerDustCollector": _machine(
        48.0, _RUNNING,
        Tones(1, -6, 14, -4), Tones(12, 0, 8, -5), Hiss(500, 1.5, 0), Hiss(2900, 0.9, -6),
    ),
    "Sander": _machine(
        170.0, "detune slip ring wear rub",
        Tones(1, 0, 20, -4), Tones(0.5, -9, 8, -4), Hiss(3900, 0.9, 0, (0.5, 0.3)),
        Hiss(1100, 1.0, -8),
    ),
    "SewingMachine": _machine(
        13.0, "detune slip falter wear rub",
        Knocks(1, -4, 1400, 0.008, 0.01, (0.0, 0.3, 0.55)), Tones(9, 0, 10, -4), Tones(1, -9, 16, -3),
        Hiss(1600, 1.3, -7, (1, 0.5)),
    ),
}  # fmt: skip

_EMULATED = {
    "ToyCarEmu": ("ToyCar", 54.0),
    "bearingEmu": ("bearing", 28.0),
    "gearboxEmu": ("gearbox", 19.0),
    "sliderEmu": ("slider", 40.0),
    "valveEmu": ("valve", 3.1),
}
"""Machine and rate behind each of 2026's emulated machines."""

MACHINES |= {name: replace(MACHINES[model], rate=rate) for name, (model, rate) in _EMULATED.items()}
