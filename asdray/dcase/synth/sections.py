"""Attributes of the years with several sections per machine: 2020 to 2022."""

from __future__ import annotations

from dataclasses import replace

from asdray.dcase.synth.attributes import Attributes, grid, make
from asdray.dcase.years import get_year

Table = dict[tuple[str, int], Attributes]
"""By (machine, section)."""


def table_2020() -> Table:
    """No attributes: the machines of an id differ from those of others, and are all alike."""
    year = get_year("dcase2020")
    none = make("", [()], [])
    return {(m, s): none for subset in year.sections.values() for m, those in subset.items() for s in those}


def table_2021() -> Table:
    """Each section of a subset shifts another attribute."""
    weight = "{0}_g_{1}_mm_{2}_mV_{3}"
    toys = "{0}Spd{1}Mic{2}"
    machines = {
        "fan": ("strength n n-lv", "1 2|ambient|0", "3 4|factory office|1 2", "strength_{0}_{1}_lv_{2}"),
        "gearbox": ("g mm mV n", "0 50|25 30|2000|none", "100 150|25 30|1500 2500|A B", weight),
        "pump": ("spd loc n", "2 3|A B|none", "1 4|C D|A B", None),
        "slider": ("g mm mV n", "60 120|20 30|2000|none", "90 150|20 30|1600 2400|A B", weight),
        "ToyCar": ("car Spd mic", "A1 A2 B1 B2|6 8|1", "C1 C2|7 9|2 3", toys),
        "ToyTrain": ("car Spd mic", "A1 A2 B1 B2|6 8|1", "C1 C2|7 9|2 3", toys),
        "valve": ("pat panel n", "04 05|open b-c|none", "06 07|bs-c s-c|A B", None),
    }
    made: Table = {}
    for machine, (keys, usual, shifted, template) in machines.items():
        here, there = usual.split("|"), shifted.split("|")
        shifts = [i for i in range(len(here)) if here[i] != there[i]]
        for section in range(6):
            i = shifts[section % 3]
            axes = [*here[:i], there[i], *here[i + 1 :]]
            made[machine, section] = make(keys, grid(*here), grid(*axes)[:4], template=template)
    return made


def _shift_only(made: Attributes) -> Attributes:
    """2022 lists only the parameters whose values differ between the domains."""
    shifted = [
        i for i in range(len(made.keys)) if not {v[i] for v in made.source} & {v[i] for v in made.target}
    ]
    return replace(made, csv_keys=tuple(shifted[:3]))


def _cars_2022(speeds: dict[str, tuple[str, str]]) -> Table:
    """Toy machines of 2022: the first section of a subset shifts the car, the second the speed, the
    third microphone and noise."""
    keys = "car spd mic noise"
    made = {}
    for machine, (usual, other) in speeds.items():
        for first, cars, others in ((0, "A1 A2 B1 B2", "E1 E2"), (3, "F1 F2 H1 H2", "G1 G2")):
            made[machine, first] = make(keys, grid(cars, usual, "1", "1"), grid(others, usual, "1", "1"))
            made[machine, first + 1] = make(keys, grid(cars, usual, "1", "1"), grid(cars, other, "1", "1"))
            made[machine, first + 2] = make(keys, grid(cars, usual, "1", "1"), grid(cars, usual, "2", "2 3"))
    return made


def table_2022() -> Table:
    """The first section of a subset shifts one thing, the second another, the third a third."""
    made = _cars_2022({"ToyCar": ("28V 34V", "31V 40V"), "ToyTrain": ("6 9", "7 10")})
    for first, second in ((0, False), (3, True)):
        made["bearing", first] = make(
            "vel",
            grid("5 9 13 17 21" if second else "6 10 14 18 22"),
            grid("1 3 7 11 15 19 23 25" if second else "2 4 8 12 16 20 24 26"),
        )
        made["bearing", first + 1] = make("vel loc", grid("8 16", "A B C D"), grid("8 16", "E F G H"))
        made["bearing", first + 2] = make("vel f-n", grid("8 16", "A B"), grid("8 16", "C D"))
        made["fan", first] = make("m-n", grid("W X"), grid("Y Z"))
        made["fan", first + 1] = make("f-n", grid("A B"), grid("C D"))
        made["fan", first + 2] = make("n-lv", grid("L1 L2"), grid("L3 L4"))
        made["gearbox", first] = make(
            "volt", grid("1.0 1.5 2.0 2.5 3.0"), grid("0.5 0.7 1.2 1.7 2.2 2.7 3.2 3.7")
        )
        made["gearbox", first + 1] = make("wt", grid("0 50 100 150"), grid("25 75 125 175"))
        made["gearbox", first + 2] = make(
            "id", grid("03 06 07" if second else "00 02 11"), grid("01 04 12" if second else "05 08 13")
        )
        made["slider", first] = make(
            "vel", grid("100 175 250 325 400"), grid("25 50 140 210 290 360 440 490")
        )
        made["slider", first + 1] = make(
            "vel ac", grid("300 1100", "0.10 0.30"), grid("300 1100", "0.03 0.50")
        )
        made["slider", first + 2] = make("vel f-n", grid("300 700", "A B"), grid("300 700", "C D"))
        made["valve", first] = make(
            "pat", grid("00 01" if second else "02 03"), grid("06 07" if second else "04 05")
        )
        made["valve", first + 1] = make("pat panel", grid("04 05", "open bs-c"), grid("04 05", "b-c s-c"))
        made["valve", first + 2] = make("v1pat v2pat", grid("04 06", "05 07"), grid("02 03", "00 01"))
    return {place: _shift_only(attributes) for place, attributes in made.items()}
