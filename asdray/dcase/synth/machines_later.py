"""Machine types that 2022 and 2023 do not have; see `machines`."""

from __future__ import annotations

from asdray.dcase.synth.parts import Fault, Hiss, Knocks, Machine, Tones

_RUNNING: tuple[Fault, ...] = ("detune", "slip", "sidebands", "wear", "rub")
_MOVING: tuple[Fault, ...] = ("detune", "rub", "wear", "falter", "colour")

MACHINES_LATER: dict[str, Machine] = {
    # 2020, 2021
    "pump": Machine(
        24.0,
        (
            Tones(1, -4, 20, -4), Tones(6, -2, 8, -5, (1, 0.25)), Hiss(700, 1.4, -4, (1, 0.4)),
            Hiss(2600, 0.8, -9),
        ),
        _RUNNING,
    ),
    "ToyConveyor": Machine(
        18.0,
        (Tones(1, -6, 30, -3), Tones(14, -3, 7, -4), Hiss(1800, 1.3, -4), Knocks(0.5, -5, 1600, 0.008, 0.02)),
        ("detune", "slip", "knock", "wear", "rub"),
    ),
    # 2024
    "3DPrinter": Machine(
        210.0,
        (
            Tones(1, -1, 12, -4), Tones(2.3, -6, 8, -4), Hiss(2800, 1.0, -4), Hiss(900, 0.7, -10),
            Knocks(1, -8, 600, 0.015),
        ),
        _MOVING,
        stroke=0.7,
    ),
    "AirCompressor": Machine(
        16.0,
        (
            Tones(1, 0, 40, -3), Tones(24, -9, 5, -4), Hiss(900, 1.5, -3, (1, 0.6)),
            Knocks(1, -4, 500, 0.015, 0.02),
        ),
        ("detune", "slip", "knock", "wear", "rub"),
    ),
    "BrushlessMotor": Machine(
        18.0,
        (Tones(7, 0, 12, -4, (1, 0.15)), Tones(1, -10, 12, -3), Hiss(3500, 1.0, -6), Hiss(800, 1.2, -8)),
        _RUNNING,
    ),
    "HairDryer": Machine(
        180.0,
        (Tones(1, -4, 16, -4), Tones(7, -8, 4, -4), Hiss(1800, 1.5, 0), Hiss(5200, 0.6, -6)),
        ("detune", "slip", "ring", "rub", "wear"),
    ),
    "HoveringDrone": Machine(
        105.0,
        (
            Tones(2, 0, 16, -4), Tones(2.04, -1, 16, -4), Tones(2.11, -3, 16, -4), Tones(1, -11, 8, -4),
            Hiss(2600, 1.2, -2),
        ),
        _RUNNING,
    ),
    "RoboticArm": Machine(
        90.0,
        (Tones(4, 0, 10, -4), Tones(1, -8, 16, -3), Hiss(1900, 1.0, -6), Knocks(1, -4, 350, 0.03)),
        _MOVING,
        stroke=1.1,
    ),
    "Scanner": Machine(
        140.0,
        (Tones(2, 0, 9, -4), Tones(5, -5, 6, -4), Hiss(3400, 0.8, -6), Knocks(1, -6, 800, 0.015)),
        _MOVING,
        stroke=1.4,
    ),
    "ToothBrush": Machine(
        130.0,
        (Tones(2, 0, 20, -3), Tones(1, -12, 12, -3), Hiss(4500, 0.8, -5), Hiss(1200, 1.0, -9)),
        ("detune", "slip", "sidebands", "wear", "ring"),
    ),
    "ToyCircuit": Machine(
        40.0,
        (
            Tones(1, -4, 30, -3), Tones(17, -3, 6, -4), Hiss(2200, 1.2, -4),
            Knocks(0.2, -2, 1700, 0.007, 0.02, (0.0, 0.45)),
        ),
        ("detune", "slip", "sidebands", "wear", "rub"),
    ),
    # 2025
    "AutoTrash": Machine(
        75.0,
        (Tones(5, 0, 10, -4), Tones(1, -9, 14, -3), Hiss(1500, 1.1, -6), Knocks(1, 0, 450, 0.025)),
        _MOVING,
        stroke=1.0,
    ),
    "BandSealer": Machine(
        21.0,
        (Tones(3, -2, 16, -3), Tones(26, -5, 6, -4), Hiss(2700, 1.0, -4, (1, 0.35)), Hiss(600, 1.1, -9)),
        ("detune", "slip", "knock", "wear", "rub"),
    ),
    "CoffeeGrinder": Machine(
        95.0,
        (Tones(1, -2, 30, -3), Tones(6, -6, 5, -4), Hiss(2300, 1.4, -1), Knocks(0.33, -7, 2700, 0.003, 0.3)),
        ("detune", "slip", "ring", "wear", "rub"),
    ),
    "HomeCamera": Machine(
        160.0,
        (Tones(3, 0, 8, -4), Tones(1, -8, 12, -3), Hiss(3800, 0.7, -6), Knocks(1, -7, 1200, 0.01)),
        _MOVING,
        stroke=0.8,
    ),
    "Polisher": Machine(
        65.0,
        (Tones(2, -1, 20, -4), Tones(1, -8, 14, -3), Hiss(3200, 1.0, -2, (1, 0.3)), Hiss(900, 1.2, -8)),
        _RUNNING,
    ),
    "ScrewFeeder": Machine(
        50.0,
        (
            Tones(2, 0, 30, -3), Tones(11, -8, 5, -4), Hiss(4200, 0.9, -5, (2, 0.6)),
            Knocks(0.37, -5, 3500, 0.004, 0.25),
        ),
        ("detune", "slip", "sidebands", "wear", "rub"),
    ),
    "ToyPet": Machine(
        70.0,
        (Tones(6, 0, 8, -4), Tones(1, -7, 20, -3), Hiss(1700, 1.0, -7), Knocks(1, -1, 1000, 0.012)),
        _MOVING,
        stroke=0.6,
    ),
    "ToyRCCar": Machine(
        70.0,
        (
            Tones(1, -3, 40, -3), Tones(9, -3, 8, -4, (1, 0.25)), Hiss(2100, 1.2, -5),
            Knocks(0.4, -8, 1300, 0.007, 0.02),
        ),
        _RUNNING,
    ),
    # 2026
    "BlowerDustCollector": Machine(
        48.0,
        (Tones(1, -6, 14, -4), Tones(12, 0, 8, -5), Hiss(500, 1.5, 0), Hiss(2900, 0.9, -6)),
        ("detune", "slip", "sidebands", "wear", "rub"),
    ),
    "Sander": Machine(
        170.0,
        (Tones(1, 0, 20, -4), Tones(0.5, -9, 8, -4), Hiss(3900, 0.9, 0, (0.5, 0.3)), Hiss(1100, 1.0, -8)),
        ("detune", "slip", "ring", "wear", "rub"),
    ),
    "SewingMachine": Machine(
        13.0,
        (
            Knocks(1, -4, 1400, 0.008, 0.01, (0.0, 0.3, 0.55)), Tones(9, 0, 10, -4), Tones(1, -9, 16, -3),
            Hiss(1600, 1.3, -7, (1, 0.5)),
        ),
        ("detune", "slip", "falter", "wear", "rub"),
    ),
}  # fmt: skip

EMULATED = {
    "ToyCarEmu": ("ToyCar", 54.0),
    "bearingEmu": ("bearing", 28.0),
    "gearboxEmu": ("gearbox", 19.0),
    "sliderEmu": ("slider", 40.0),
    "valveEmu": ("valve", 3.1),
}
"""2026's emulated machines: the machine that each one is modelled on, and its rate."""
