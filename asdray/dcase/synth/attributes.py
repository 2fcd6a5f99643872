"""Attributes of synthetic clips: their variants in every section of every year, and their spelling.

Attributes are the operating conditions in a file name (``vel_5``, ``car_A1_spd_28V_mic_1``). Keys and values
follow the released file names of each year. A section has ``source`` variants, ``target`` variants (never
among the source ones), sometimes ``unseen`` target variants that occur in test clips only, and sometimes
variants of its anomalies alone.

2020 has no attributes. In 2021 and 2022, with several sections per machine, each section shifts other
attributes between the domains. Since 2023 a machine has one section; at the size of the real data, 2023 and
2024 have as many distinct attribute strings per machine, domain and split as the released datasets, 2025 in
the eval test split and 2026 in the dev training split. Machines with hidden attributes have some, too.

>>> from asdray.dcase.synth.attributes import attributes_of
>>> bandsaw = attributes_of("dcase2023", "bandsaw", 0)
>>> bandsaw.source, bandsaw.target, bandsaw.text(("13",)), bandsaw.position(0, "15")
((('13',), ('15',)), (('12',), ('14',)), 'vel_13', 1.0)
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Literal

from asdray.dcase.years import get_year

Role = Literal["speed", "load", "unit", "place", "noise", "level", "pattern"]
"""Effect of an attribute on the sound.

* ``speed``: speed of the machine: its rate, and the level of its broadband noise.
* ``load``: effort of the machine: balance and brightness of its tones.
* ``unit``: specimen of the machine: small offsets of rate, timbre and resonances.
* ``place``: microphone or position: an equaliser.
* ``noise``: kind of background noise: its spectrum.
* ``level``: level of the background noise.
* ``pattern``: rhythm of a valve.
"""

Values = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One attribute key: its spelling in file names, its role, and its spelling in the attribute CSV."""

    name: str
    role: Role
    csv_word: str


@dataclass(frozen=True)
class Attributes:
    """Attribute variants of one (year, machine, section); a variant has one value per key.

    Attributes:
        keys: in file-name order.
        source, target: variants in training.
        unseen: further target variants, in test clips only.
        csv_keys: positions of the keys in the section's attribute CSV.
        anomalous: variants of the source and of the target anomalies, if other than the normal test clips'.
        template: attribute part of a file name, such as ``{0}Spd{1}Mic{2}``.
    """

    keys: tuple[Key, ...]
    source: tuple[Values, ...]
    target: tuple[Values, ...]
    unseen: tuple[Values, ...]
    csv_keys: tuple[int, ...]
    anomalous: tuple[tuple[Values, ...], tuple[Values, ...]]
    template: str

    def text(self, values: Values) -> str:
        """The attribute part of a file name, for example ``car_A1_spd_28V_mic_1``."""
        return self.template.format(*values)

    def _values(self, index: int) -> list[str]:
        variants = itertools.chain(self.source, self.target, self.unseen, *self.anomalous)
        return list(dict.fromkeys(v[index] for v in variants))

    def steps(self, index: int) -> int:
        """Number of distinct values of key ``index``, less one."""
        return len(self._values(index)) - 1

    def position(self, index: int, value: str) -> float:
        """Position of ``value`` among all values of key ``index``: 0 = smallest, 1 = largest.

        Numbers are placed by size, words by order of appearance.
        """
        values = self._values(index)
        try:
            numbers = {v: float(v.rstrip("V")) for v in values}
        except ValueError:
            return values.index(value) / max(len(values) - 1, 1)
        low, high = min(numbers.values()), max(numbers.values())
        return 0.5 if low == high else (numbers[value] - low) / (high - low)


def grid(*axes: str) -> list[Values]:
    """Every combination of the blank-separated values of each axis."""
    return list(itertools.product(*(axis.split() for axis in axes)))


def _variants(source: str | list[Values]) -> list[Values]:
    """Variants as text: axes of a grid stand between ``|``, grids between ``+``."""
    if isinstance(source, list):
        return source
    return [variant for part in source.split("+") if part.strip() for variant in grid(*part.split("|"))]


def spread(variants: list[Values], count: int) -> list[Values]:
    """``count`` of the variants, evenly spaced."""
    return [variants[i * len(variants) // count] for i in range(count)]


_ROLES: dict[Role, str] = {
    "speed": "vel spd speed volt Spd mV strength pow vol rpm",
    "load": "ac wt weight g fl grind grit cut",
    "unit": "car id grindstone mdl pro mm",
    "place": "plate loc mic panel mic_pos size",
    "noise": "noise f-n m-n n nos Bckg bkg",
    "level": "n-lv",
    "pattern": "pat v1pat v2pat",
}
_ROLE_OF = {key: role for role, keys in _ROLES.items() for key in keys.split()}

_CSV_WORDS = {"spd": "speed"}
"""Keys with another spelling in the organisers' attribute CSVs."""


def make(
    keys: str,
    source: str | list[Values],
    target: str | list[Values],
    unseen: int = 0,
    anomalous: tuple[str | list[Values], str | list[Values]] = ("", ""),
    template: str | None = None,
) -> Attributes:
    """Attributes with blank-separated ``keys``.

    Args:
        source, target, anomalous: variants, as a list or as text (``A1 A2|28V 34V`` = four variants).
        unseen: number of targets, at the end, that occur in test clips only.
    """
    source, target = _variants(source), _variants(target)
    assert not set(source) & set(target)
    names = keys.split()
    # The CSV lists keys that vary within the section, at most three.
    varying = [i for i in range(len(names)) if len({v[i] for v in source + target}) > 1]
    return Attributes(
        keys=tuple(Key(name, _ROLE_OF[name], _CSV_WORDS.get(name, name)) for name in names),
        source=tuple(source),
        target=tuple(target[: len(target) - unseen]),
        unseen=tuple(target[len(target) - unseen :]),
        csv_keys=tuple(varying[:3]),
        anomalous=(tuple(_variants(anomalous[0])), tuple(_variants(anomalous[1]))),
        template=template or "_".join(f"{name}_{{{i}}}" for i, name in enumerate(names)),
    )


# ------------------------------------------------------------------------------ the variants of every section

Table = dict[tuple[str, int], Attributes]
"""Attributes per (machine, section)."""


def attributes_of(dcase: str, machine: str, section: int) -> Attributes:
    """The attribute variants of one section of a year."""
    return _table(dcase)[machine, section]


@functools.cache
def _table(dcase: str) -> Table:
    several = {"dcase2020": _table_2020, "dcase2021": _table_2021, "dcase2022": _table_2022}
    if dcase in several:
        return several[dcase]()
    first_shot = {2023: _table_2023, 2024: _table_2024, 2025: _table_2025, 2026: _table_2026}
    return {(machine, 0): made for machine, made in first_shot[get_year(dcase).year]().items()}


def _table_2020() -> Table:
    """No attributes: all clips of an id stem from the same machine."""
    year = get_year("dcase2020")
    none = make("", [()], "")
    return {(m, s): none for of_machine in year.sections.values() for m in of_machine for s in of_machine[m]}


def _table_2021() -> Table:
    """Each section of a subset shifts another attribute between the domains."""
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
        source, target = usual.split("|"), shifted.split("|")
        shifts = [i for i in range(len(source)) if source[i] != target[i]]
        for section in range(6):
            i = shifts[section % 3]
            axes = [*source[:i], target[i], *source[i + 1 :]]
            made[machine, section] = make(keys, usual, grid(*axes)[:4], template=template)
    return made


def _shift_only(made: Attributes) -> Attributes:
    """``made`` with the CSV keys of 2022: only keys whose values differ between the domains."""
    shifted = [
        i for i in range(len(made.keys)) if not {v[i] for v in made.source} & {v[i] for v in made.target}
    ]
    return replace(made, csv_keys=tuple(shifted[:3]))


def _cars_2022(speeds: dict[str, tuple[str, str]]) -> Table:
    """Toy machines of 2022: a subset's sections shift the car, the speed, and microphone with noise."""
    keys = "car spd mic noise"
    made = {}
    for machine, (usual, other) in speeds.items():
        for first, cars, others in ((0, "A1 A2 B1 B2", "E1 E2"), (3, "F1 F2 H1 H2", "G1 G2")):
            source = f"{cars}|{usual}|1|1"
            made[machine, first] = make(keys, source, f"{others}|{usual}|1|1")
            made[machine, first + 1] = make(keys, source, f"{cars}|{other}|1|1")
            made[machine, first + 2] = make(keys, source, f"{cars}|{usual}|2|2 3")
    return made


def _table_2022() -> Table:
    """The three sections of a subset shift different attributes between the domains."""
    made = _cars_2022({"ToyCar": ("28V 34V", "31V 40V"), "ToyTrain": ("6 9", "7 10")})
    for first, second in ((0, False), (3, True)):
        made["bearing", first] = make(
            "vel",
            "5 9 13 17 21" if second else "6 10 14 18 22",
            "1 3 7 11 15 19 23 25" if second else "2 4 8 12 16 20 24 26",
        )
        made["bearing", first + 1] = make("vel loc", "8 16|A B C D", "8 16|E F G H")
        made["bearing", first + 2] = make("vel f-n", "8 16|A B", "8 16|C D")
        made["fan", first] = make("m-n", "W X", "Y Z")
        made["fan", first + 1] = make("f-n", "A B", "C D")
        made["fan", first + 2] = make("n-lv", "L1 L2", "L3 L4")
        made["gearbox", first] = make("volt", "1.0 1.5 2.0 2.5 3.0", "0.5 0.7 1.2 1.7 2.2 2.7 3.2 3.7")
        made["gearbox", first + 1] = make("wt", "0 50 100 150", "25 75 125 175")
        made["gearbox", first + 2] = make(
            "id", "03 06 07" if second else "00 02 11", "01 04 12" if second else "05 08 13"
        )
        made["slider", first] = make("vel", "100 175 250 325 400", "25 50 140 210 290 360 440 490")
        made["slider", first + 1] = make("vel ac", "300 1100|0.10 0.30", "300 1100|0.03 0.50")
        made["slider", first + 2] = make("vel f-n", "300 700|A B", "300 700|C D")
        made["valve", first] = make("pat", "00 01" if second else "02 03", "06 07" if second else "04 05")
        made["valve", first + 1] = make("pat panel", "04 05|open bs-c", "04 05|b-c s-c")
        made["valve", first + 2] = make("v1pat v2pat", "04 06|05 07", "02 03|00 01")
    return {place: _shift_only(attributes) for place, attributes in made.items()}


# ---------------------------------------------------------------------------- one section per machine (2023-)

_CARS = "car spd mic noise"
_TOYS = "car spd mic"
_ITEMS = "id spd mic"


def _cars(speeds: str, others: str) -> Attributes:
    """18 source variants and 8 target ones."""
    return make(_CARS, f"A1 A2 B1 B2 C1 C2|{speeds}|1|1", f"D1 D2 E1 E2|{others}|1|1")


def _table_2023() -> dict[str, Attributes]:
    """Seven machines of the development set, seven others of the evaluation set."""
    return {
        "bearing": make(
            "vel",
            "2 4 6 8 10 12 14 16 18 20 22 24 26",
            "1 5 9 13 17 21 25 11 19 3 7 15 23 27 29 31",
            unseen=7,
        ),
        "fan": make("m-n", "W X", "Y Z"),
        "gearbox": make(
            "volt wt", "1.0 2.0 3.0|0 50 100", "0.6 1.3 1.6 2.3 2.6|25 75 + 3.3 3.6|25 75", unseen=4
        ),
        "slider": make(
            "vel ac",
            "200 400 600 800 1000|0.10 0.30",
            "300 500 700 900|0.03 0.50 + 100 350 650 1100|0.03 0.50",
            unseen=8,
        ),
        "valve": make("v1pat v2pat", "A B|none", "A B|C"),
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyTrain": _cars("6 8 10", "7 9"),
        "bandsaw": make("vel", "13 15", "12 14"),
        "grinder": make("grindstone plate", "1|1 + 2|2 + 3|3", "1|2 + 2|3 + 3|1"),
        "shaker": make("speed", "600 900", "1200"),
        "ToyDrone": make(_TOYS, "A1 A2|3|1 + B1 B2|2|1", "C1 C2|1|2"),
        "ToyNscale": make(_TOYS, "A1 A2 B1 B2|2 3|1", "C1|1|2 + C2|1|2 + C2|5|2 + C1|5|2", unseen=1),
        "ToyTank": make(_TOYS, "A1 A2 B1 B2|3 4|1", "C1 C2|1 5|1"),
        "Vacuum": make(_TOYS, "A1 A2 B1 B2|Lb|1", "C1 C2|Hb|1"),
    }


def _table_2024() -> dict[str, Attributes]:
    """Anomalies of some machines have own items or speeds: as in the real data, a leak of the label."""
    return {
        "bearing": make("pro vel", "A B|2 6 10 14 18 22 26 30", "A B|4 8 12 16 20 24 28 32", unseen=6),
        "fan": make("m-n", "W X", "Y Z"),
        "gearbox": make("pro wt", "A|0 30 50 100", "B|20 70"),
        "slider": make("ac", "0.03 0.10 0.30", "0.05 0.13 0.20"),
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyTrain": _cars("6 8 10", "7 9"),
        "valve": make("v1pat v2pat", "A B D|none", "A B|C"),
        "3DPrinter": make("mdl spd", "A|1 2", "B|2 3"),
        "AirCompressor": make("fl nos", "1|1 + 2|2 + 3|3", "1|3 + 2|1 + 3|2"),
        "Scanner": make("mdl size", "A B|A4", "C D|A5 B5"),
        "ToyCircuit": make(
            _ITEMS, "A1 A2 B1 B2|1 2 3|1", "C1 C2|4 5|2", anomalous=("A1 A2 A3 B1 B2 B3|1 2 3|1", "")
        ),
        "HoveringDrone": make(_ITEMS, "A1 A2 B1 B2|1|1", "C1 C2|3|2", anomalous=("A1 A2 B1 B2|2|1", "")),
        "HairDryer": make(
            _ITEMS,
            "A1 A2 A3 A4 B1 B2 B3 B4|2 3|1",
            "C1 C2 C3 C4|1 4|2",
            unseen=2,
            anomalous=("A1 A2 A3 A4 A5 A6 B1 B2 B3 B4 B5 B6|2 3|1", "C1 C2 C3 C4 C5 C6|1 4|2"),
        ),
        "ToothBrush": make(_ITEMS, "A1 A2 B1 B2|1 2|1", "C1 C2|3|2", anomalous=("A3 B3|1 2|1", "C3|3|2")),
        "RoboticArm": make(
            "weight Bckg", "10 15 20 25|A C D F", "30 35 40|B E G", template="weight{0}_Bckg{1}"
        ),
        "BrushlessMotor": make(
            "spd Bckg",
            "1000 1200 1400 1600 1800 2000 2200 2400 2600|A C D F",
            "1100 1300 1500 1700 1900|B E G",
            template="spd{0}_Bckg{1}",
        ),
    }


def _table_2025() -> dict[str, Attributes]:
    """Names of seven machines hide the attributes, except the list's names of four machines' test clips."""
    grinding = spread(grid("imp23absu imp34dt05", "A B C", "0 100 200", "A B C D F"), 62)
    return {
        "bearing": make("pro vel loc", "A B|4 8 12 16|A B", "A B|4 12|G H"),
        "fan": make("m-n", "W X", "Y Z"),
        "gearbox": make("volt wt", "1.0 2.0 3.0|0 50 100", "1.5 2.5|25 75 125"),
        "slider": make("vel ac", "200 600 1000|0.10 0.30", "400 800|0.03 0.50"),
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyTrain": _cars("6 8 10", "7 9"),
        "valve": make("v1pat v2pat", "A B|none", "A B|C"),
        "AutoTrash": make(_ITEMS, "A1 A2 B1 B2|1|2", "C1 C2|2|2"),
        "HomeCamera": make(_ITEMS, "A1 A2 B1 B2|2 3|3", "C1 C2|1 4|3"),
        "ToyPet": make(_ITEMS, "A1 A2 A3 A4 B1 B2 B3 B4|1|2", "C1 C2 C3 C4|2|2"),
        "ToyRCCar": make(_ITEMS, "A1 A2 B1 B2|3|1", "C1 C2|2|1"),
        "BandSealer": make("vel", "2 4 6", "1 3 5"),
        "CoffeeGrinder": make(
            "mic mic_pos grind bkg",
            grinding,
            "imp23absu imp34dt05|A B C|300|E Z",
            # 50 clips cannot show 62 variants: normal ones show the first 50, anomalies the last.
            anomalous=(grinding[12:], ""),
        ),
        "Polisher": make("pow n", "1 3 5|A B C", "2 4|A B C"),
        "ScrewFeeder": make("vol", "12000 13500 15000", "12750 14250"),
    }


def _table_2026() -> dict[str, Attributes]:
    """Emulated machines beside real ones."""
    return {
        "ToyCar": _cars("28V 34V 40V", "31V 37V"),
        "ToyCarEmu": make(_CARS, "A1 A2 B1 B2|28V 31V 34V 37V|1|1", "C1 C2|25V 29V 40V|1|1"),
        "bearingEmu": make("vel", "4 8 12 16 20 24", "6 10 14 18"),
        "fan": make("m-n", "W X", "Y"),
        "gearboxEmu": make("volt wt", "1.0 2.0 3.0|0 50", "1.5 2.5|25 75", unseen=1),
        "sliderEmu": make("vel ac", "200 600 1000|0.10 0.30", "400 800|0.03 0.50"),
        "valveEmu": make("v1pat v2pat", "A B|none", "A B|C"),
        "BlowerDustCollector": make("pow n", "1 2 3|A B", "1 2|C D"),
        "Sander": make("grit spd", "80 120 240|1 2", "180 400|3"),
        "SewingMachine": make("cut spd", "1 2 3|1 2", "4 5|3"),
        "ToothBrush": make(_ITEMS, "A1 A2 B1 B2|1 2|1", "C1 C2|3|2"),
        "ToyDrone": make(_TOYS, "A1 A2|3|1 + B1 B2|2|1", "C1 C2|1|2"),
    }
