"""The synthetic machine types: each is a sum of tones, hiss and knocks (see `parts`).

The figures are chosen by ear of the eye (spectrograms) to resemble the kind of machine, not measured from
any dataset.
"""

from __future__ import annotations

from dataclasses import replace

from asdray.dcase.synth.machines_later import EMULATED, MACHINES_LATER
from asdray.dcase.synth.parts import Fault, Hiss, Knocks, Machine, Tones

_RUNNING: tuple[Fault, ...] = ("detune", "slip", "sidebands", "wear", "rub")

MACHINES: dict[str, Machine] = {
    "fan": Machine(
        22.0,
        (Tones(5, 0, 14, -4), Tones(1, -12, 6, -5), Hiss(420, 1.6, -1), Hiss(2600, 0.9, -11, (5, 0.4))),
        ("detune", "slip", "sidebands", "wear", "knock"),
    ),
    "bearing": Machine(
        25.0,
        (Tones(1, -3, 36, -3), Hiss(3000, 1.1, -6), Knocks(3.6, -12, 3200, 0.004, 0.03)),
        ("knock", "detune", "sidebands", "wear", "rub"),
    ),
    "gearbox": Machine(
        17.0,
        (Tones(23, 0, 9, -4, (1, 0.3)), Tones(1, -9, 10, -4), Hiss(1300, 1.5, -8)),
        ("sidebands", "detune", "slip", "wear", "knock"),
    ),
    "slider": Machine(
        36.0,
        (Tones(12, 0, 10, -4), Hiss(2300, 0.9, -5), Hiss(700, 0.6, -11), Knocks(1, -3, 420, 0.02)),
        ("detune", "rub", "wear", "falter", "colour"),
        stroke=0.9,
    ),
    "valve": Machine(
        2.6,
        (Knocks(1, 4, 1700, 0.012, 0.004), Hiss(4200, 0.7, -14, (1, 1.0)), Tones(40, -16, 8, -5)),
        ("falter", "colour", "knock", "rub"),
    ),
    "ToyCar": Machine(
        58.0,
        (
            Tones(1, -4, 40, -3), Tones(13, -1, 6, -5, (1, 0.2)), Hiss(1900, 1.2, -5),
            Knocks(0.31, -10, 900, 0.008, 0.02),
        ),
        _RUNNING,
    ),
    "ToyTrain": Machine(
        34.0,
        (
            Tones(1, -6, 30, -3), Tones(11, -2, 8, -4), Hiss(1200, 1.3, -4),
            Knocks(0.09, 0, 1300, 0.01, 0.01, (0.0, 0.3)),
        ),
        ("detune", "slip", "sidebands", "wear", "falter"),
    ),
    "bandsaw": Machine(
        27.0,
        (Tones(2, -2, 24, -3), Tones(19, -6, 6, -3), Hiss(3600, 0.8, -3, (0.5, 0.4)), Hiss(800, 1.3, -7)),
        ("detune", "slip", "ring", "rub", "wear"),
    ),
    "grinder": Machine(
        49.0,
        (Tones(2, -3, 16, -4), Tones(1, -9, 12, -3), Hiss(4300, 0.8, 0), Hiss(1500, 0.9, -6, (1, 0.3))),
        ("detune", "slip", "ring", "rub", "colour"),
    ),
    "shaker": Machine(
        14.0,
        (Tones(1, 0, 40, -3), Hiss(900, 1.4, -7, (1, 0.7)), Knocks(2, -3, 850, 0.012, 0.01)),
        ("detune", "knock", "falter", "wear", "rub"),
    ),
    "ToyDrone": Machine(
        88.0,
        (
            Tones(2, 0, 16, -4), Tones(2.07, -2, 16, -4), Tones(2.13, -3, 16, -4), Hiss(3000, 1.1, -3),
            Tones(1, -12, 8, -4),
        ),
        _RUNNING,
    ),
    "ToyNscale": Machine(
        52.0,
        (Tones(9, -2, 8, -4), Tones(1, -7, 24, -3), Hiss(2400, 1.1, -3), Knocks(0.08, -3, 2100, 0.006)),
        ("detune", "slip", "sidebands", "wear", "rub"),
    ),
    "ToyTank": Machine(
        44.0,
        (Tones(1, -4, 36, -3), Tones(7, -4, 8, -4), Knocks(0.42, -3, 1500, 0.009, 0.03), Hiss(1600, 1.3, -5)),
        ("detune", "slip", "knock", "wear", "falter"),
    ),
    "Vacuum": Machine(
        290.0,
        (Tones(1, -3, 18, -4), Tones(0.5, -14, 6, -4), Hiss(1400, 1.5, 0), Hiss(4800, 0.6, -7)),
        _RUNNING,
    ),
}  # fmt: skip

MACHINES |= MACHINES_LATER
MACHINES |= {name: replace(MACHINES[model], rate=rate) for name, (model, rate) in EMULATED.items()}
