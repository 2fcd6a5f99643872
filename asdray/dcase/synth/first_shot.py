"""Attributes of the years with one section per machine: 2023 to 2026.

With 990 source and 10 target training clips per machine and 200 test clips, 2023 and 2024 have as many
distinct attribute strings per machine, domain and split as the released datasets, 2025 as many in the eval
test and 2026 as many in the dev training. Machines whose names hide them have attributes all the same.
"""

from __future__ import annotations

from asdray.dcase.synth.attributes import Attributes, grid, make, spread

Table = dict[tuple[str, int], Attributes]
"""By (machine, section)."""

_CARS = "car spd mic noise"
_TOYS = "car spd mic"
_ITEMS = "id spd mic"


def table_2023() -> Table:
    """Seven machines of the development set, seven others of the evaluation set."""
    made = {
        "bearing": make(
            "vel",
            grid(" ".join(str(v) for v in range(2, 28, 2))),
            grid("1 5 9 13 17 21 25 11 19 3 7 15 23 27 29 31"),
            unseen=7,
        ),
        "fan": make("m-n", grid("W X"), grid("Y Z")),
        "gearbox": make(
            "volt wt",
            grid("1.0 2.0 3.0", "0 50 100"),
            grid("0.6 1.3 1.6 2.3 2.6", "25 75") + grid("3.3 3.6", "25 75"),
            unseen=4,
        ),
        "slider": make(
            "vel ac",
            grid("200 400 600 800 1000", "0.10 0.30"),
            grid("300 500 700 900", "0.03 0.50") + grid("100 350 650 1100", "0.03 0.50"),
            unseen=8,
        ),
        "valve": make("v1pat v2pat", grid("A B", "none"), grid("A B", "C")),
        "ToyCar": make(
            _CARS,
            grid("A1 A2 B1 B2 C1 C2", "28V 34V 40V", "1", "1"),
            grid("D1 D2 E1 E2", "31V 37V", "1", "1"),
        ),
        "ToyTrain": make(
            _CARS, grid("A1 A2 B1 B2 C1 C2", "6 8 10", "1", "1"), grid("D1 D2 E1 E2", "7 9", "1", "1")
        ),
        "bandsaw": make("vel", grid("13 15"), grid("12 14")),
        "grinder": make(
            "grindstone plate", [("1", "1"), ("2", "2"), ("3", "3")], [("1", "2"), ("2", "3"), ("3", "1")]
        ),
        "shaker": make("speed", grid("600 900"), grid("1200")),
        "ToyDrone": make(_TOYS, grid("A1 A2", "3", "1") + grid("B1 B2", "2", "1"), grid("C1 C2", "1", "2")),
        "ToyNscale": make(
            _TOYS,
            grid("A1 A2 B1 B2", "2 3", "1"),
            [("C1", "1", "2"), ("C2", "1", "2"), ("C2", "5", "2"), ("C1", "5", "2")],
            unseen=1,
        ),
        "ToyTank": make(_TOYS, grid("A1 A2 B1 B2", "3 4", "1"), grid("C1 C2", "1 5", "1")),
        "Vacuum": make(_TOYS, grid("A1 A2 B1 B2", "Lb", "1"), grid("C1 C2", "Hb", "1")),
    }
    return {(machine, 0): attributes for machine, attributes in made.items()}


def _cars(speeds: str, others: str) -> Attributes:
    """18 source variants and 8 target ones."""
    return make(_CARS, grid("A1 A2 B1 B2 C1 C2", speeds, "1", "1"), grid("D1 D2 E1 E2", others, "1", "1"))


def table_2024() -> Table:
    """Anomalies of some machines have items, speeds and so on of their own: real, and a leak of the label."""
    made = {
        "bearing": make(
            "pro vel", grid("A B", "2 6 10 14 18 22 26 30"), grid("A B", "4 8 12 16 20 24 28 32"), unseen=6
        ),
        "fan": make("m-n", grid("W X"), grid("Y Z")),
        "gearbox": make("pro wt", grid("A", "0 30 50 100"), grid("B", "20 70")),
        "slider": make("ac", grid("0.03 0.10 0.30"), grid("0.05 0.13 0.20")),
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyTrain": _cars("6 8 10", "7 9"),
        "valve": make("v1pat v2pat", grid("A B D", "none"), grid("A B", "C")),
        "3DPrinter": make("mdl spd", grid("A", "1 2"), grid("B", "2 3")),
        "AirCompressor": make(
            "fl nos", [("1", "1"), ("2", "2"), ("3", "3")], [("1", "3"), ("2", "1"), ("3", "2")]
        ),
        "Scanner": make("mdl size", grid("A B", "A4"), grid("C D", "A5 B5")),
        "ToyCircuit": make(
            _ITEMS,
            grid("A1 A2 B1 B2", "1 2 3", "1"),
            grid("C1 C2", "4 5", "2"),
            anomalous=(grid("A1 A2 A3 B1 B2 B3", "1 2 3", "1"), []),
        ),
        "HoveringDrone": make(
            _ITEMS,
            grid("A1 A2 B1 B2", "1", "1"),
            grid("C1 C2", "3", "2"),
            anomalous=(grid("A1 A2 B1 B2", "2", "1"), []),
        ),
        "HairDryer": make(
            _ITEMS,
            grid("A1 A2 A3 A4 B1 B2 B3 B4", "2 3", "1"),
            grid("C1 C2 C3 C4", "1 4", "2"),
            unseen=2,
            anomalous=(
                grid("A1 A2 A3 A4 A5 A6 B1 B2 B3 B4 B5 B6", "2 3", "1"),
                grid("C1 C2 C3 C4 C5 C6", "1 4", "2"),
            ),
        ),
        "ToothBrush": make(
            _ITEMS,
            grid("A1 A2 B1 B2", "1 2", "1"),
            grid("C1 C2", "3", "2"),
            anomalous=(grid("A3 B3", "1 2", "1"), grid("C3", "3", "2")),
        ),
        "RoboticArm": make(
            "weight Bckg",
            grid("10 15 20 25", "A C D F"),
            grid("30 35 40", "B E G"),
            template="weight{0}_Bckg{1}",
        ),
        "BrushlessMotor": make(
            "spd Bckg",
            grid("1000 1200 1400 1600 1800 2000 2200 2400 2600", "A C D F"),
            grid("1100 1300 1500 1700 1900", "B E G"),
            template="spd{0}_Bckg{1}",
        ),
    }
    return {(machine, 0): attributes for machine, attributes in made.items()}


def table_2025() -> Table:
    """The names of seven machines hide their attributes, but for the test clips of four in the list."""
    grinding = spread(grid("imp23absu imp34dt05", "A B C", "0 100 200", "A B C D F"), 62)
    made = {
        "bearing": make("pro vel loc", grid("A B", "4 8 12 16", "A B"), grid("A B", "4 12", "G H")),
        "fan": make("m-n", grid("W X"), grid("Y Z")),
        "gearbox": make("volt wt", grid("1.0 2.0 3.0", "0 50 100"), grid("1.5 2.5", "25 75 125")),
        "slider": make("vel ac", grid("200 600 1000", "0.10 0.30"), grid("400 800", "0.03 0.50")),
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyTrain": _cars("6 8 10", "7 9"),
        "valve": make("v1pat v2pat", grid("A B", "none"), grid("A B", "C")),
        "AutoTrash": make(_ITEMS, grid("A1 A2 B1 B2", "1", "2"), grid("C1 C2", "2", "2")),
        "HomeCamera": make(_ITEMS, grid("A1 A2 B1 B2", "2 3", "3"), grid("C1 C2", "1 4", "3")),
        "ToyPet": make(_ITEMS, grid("A1 A2 A3 A4 B1 B2 B3 B4", "1", "2"), grid("C1 C2 C3 C4", "2", "2")),
        "ToyRCCar": make(_ITEMS, grid("A1 A2 B1 B2", "3", "1"), grid("C1 C2", "2", "1")),
        "BandSealer": make("vel", grid("2 4 6"), grid("1 3 5")),
        "CoffeeGrinder": make(
            "mic mic_pos grind bkg",
            grinding,
            grid("imp23absu imp34dt05", "A B C", "300", "E Z"),
            # 50 clips cannot show 62 variants: normal ones show the first 50, anomalies the last.
            anomalous=(grinding[12:], []),
        ),
        "Polisher": make("pow n", grid("1 3 5", "A B C"), grid("2 4", "A B C")),
        "ScrewFeeder": make("vol", grid("12000 13500 15000"), grid("12750 14250")),
    }
    return {(machine, 0): attributes for machine, attributes in made.items()}


def table_2026() -> Table:
    """Emulated machines beside real ones."""
    made = {
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyCarEmu": make(
            _CARS, grid("A1 A2 B1 B2", "28V 31V 34V 37V", "1", "1"), grid("C1 C2", "25V 29V 40V", "1", "1")
        ),
        "bearingEmu": make("vel", grid("4 8 12 16 20 24"), grid("6 10 14 18")),
        "fan": make("m-n", grid("W X"), grid("Y")),
        "gearboxEmu": make("volt wt", grid("1.0 2.0 3.0", "0 50"), grid("1.5 2.5", "25 75"), unseen=1),
        "sliderEmu": make("vel ac", grid("200 600 1000", "0.10 0.30"), grid("400 800", "0.03 0.50")),
        "valveEmu": make("v1pat v2pat", grid("A B", "none"), grid("A B", "C")),
        "BlowerDustCollector": make("pow n", grid("1 2 3", "A B"), grid("1 2", "C D")),
        "Sander": make("grit spd", grid("80 120 240", "1 2"), grid("180 400", "3")),
        "SewingMachine": make("cut spd", grid("1 2 3", "1 2"), grid("4 5", "3")),
        "ToothBrush": make(_ITEMS, grid("A1 A2 B1 B2", "1 2", "1"), grid("C1 C2", "3", "2")),
        "ToyDrone": make(_TOYS, grid("A1 A2", "3", "1") + grid("B1 B2", "2", "1"), grid("C1 C2", "1", "2")),
    }
    return {(machine, 0): attributes for machine, attributes in made.items()}
