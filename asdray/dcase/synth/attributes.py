"""Which attributes the clips of a machine and section carry, and what each of them does to the sound.

The keys and the style of the values follow the released file names of each year. A section has `source`
variants, `target` variants (never among the source ones) and sometimes `unseen` target variants that
occur in test clips only. With 990 source and 10 target training clips per machine, 2023 has as many
distinct attribute strings per machine and domain as the released dataset.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Literal

from asdray.dcase.years import get_year, nearest

Role = Literal["speed", "load", "unit", "place", "noise", "level", "pattern"]
"""What an attribute does to the sound.

* ``speed``: how fast the machine runs: its rate, and with it the level of its broadband noise.
* ``load``: how hard it works: balance and brightness of its tones.
* ``unit``: which specimen it is: small offsets of rate, timbre and resonances.
* ``place``: microphone or position: an equaliser.
* ``noise``: which background noise is heard: its spectrum.
* ``level``: how loud the background noise is.
* ``pattern``: the rhythm of a valve.
"""

Values = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One attribute key: as it stands in file names, what it does, and its word in the attribute CSV."""

    name: str
    role: Role
    csv_word: str


@dataclass(frozen=True)
class Attributes:
    """The attribute variants of one (year, machine, section); each variant has one value per key.

    Attributes:
        keys: in file-name order.
        source, target: variants that occur in training.
        unseen: further target variants, in test clips only.
        csv_keys: positions of the keys that the section's attribute CSV lists.
    """

    keys: tuple[Key, ...]
    source: tuple[Values, ...]
    target: tuple[Values, ...]
    unseen: tuple[Values, ...]
    csv_keys: tuple[int, ...]

    def text(self, values: Values) -> str:
        """The attribute part of a file name, for example ``car_A1_spd_28V_mic_1``."""
        return "_".join(f"{key.name}_{value}" for key, value in zip(self.keys, values, strict=True))

    def _values(self, index: int) -> list[str]:
        return list(dict.fromkeys(v[index] for v in self.source + self.target + self.unseen))

    def steps(self, index: int) -> int:
        """Distinct values of key ``index``, less one."""
        return len(self._values(index)) - 1

    def position(self, index: int, value: str) -> float:
        """Where ``value`` stands among all values of key ``index``: 0 = the smallest, 1 = the largest.

        Numbers are placed by size, words by their order of appearance.
        """
        values = self._values(index)
        numbers = [_number(v) for v in values]
        if None in numbers:
            return values.index(value) / max(len(values) - 1, 1)
        low, high = min(numbers), max(numbers)  # type: ignore[type-var]
        return 0.5 if low == high else (_number(value) - low) / (high - low)  # type: ignore[operator]


def _number(value: str) -> float | None:
    try:
        return float(value.rstrip("V"))
    except ValueError:
        return None


def _grid(*axes: str) -> list[Values]:
    """Every combination of the blank-separated values of each axis."""
    return list(itertools.product(*(axis.split() for axis in axes)))


_ROLES: dict[str, Role] = {
    "vel": "speed", "spd": "speed", "speed": "speed", "volt": "speed", "ac": "load", "wt": "load",
    "car": "unit", "id": "unit", "grindstone": "unit", "plate": "place", "loc": "place", "mic": "place",
    "panel": "place", "noise": "noise", "f-n": "noise", "m-n": "noise", "n-lv": "level",
    "pat": "pattern", "v1pat": "pattern", "v2pat": "pattern",
}  # fmt: skip

_CSV_WORDS = {"spd": "speed"}
"""The organisers spell some keys differently in the attribute CSVs."""


def _attributes(keys: str, source: list[Values], target: list[Values], unseen: int = 0) -> Attributes:
    """``target``'s last ``unseen`` variants occur in test clips only."""
    assert not set(source) & set(target)
    names = keys.split()
    # The CSV lists what varies within the section, at most three parameters.
    varying = [i for i in range(len(names)) if len({v[i] for v in source + target}) > 1]
    return Attributes(
        keys=tuple(Key(name, _ROLES[name], _CSV_WORDS.get(name, name)) for name in names),
        source=tuple(source),
        target=tuple(target[: len(target) - unseen]),
        unseen=tuple(target[len(target) - unseen :]),
        csv_keys=tuple(varying[:3]),
    )


def _shift_only(made: Attributes) -> Attributes:
    """2022 lists only the parameters whose values differ between the domains."""
    shifted = [
        i for i in range(len(made.keys)) if not {v[i] for v in made.source} & {v[i] for v in made.target}
    ]
    return Attributes(made.keys, made.source, made.target, made.unseen, tuple(shifted[:3]))


def _cars_2022(speeds: dict[str, tuple[str, str]]) -> dict[tuple[str, int], Attributes]:
    """Toy machines of 2022: the first section of a subset shifts the car, the second the speed, the
    third microphone and noise."""
    keys = "car spd mic noise"
    made = {}
    for machine, (usual, other) in speeds.items():
        for first, cars, others in ((0, "A1 A2 B1 B2", "E1 E2"), (3, "F1 F2 H1 H2", "G1 G2")):
            made[machine, first] = _attributes(
                keys, _grid(cars, usual, "1", "1"), _grid(others, usual, "1", "1")
            )
            made[machine, first + 1] = _attributes(
                keys, _grid(cars, usual, "1", "1"), _grid(cars, other, "1", "1")
            )
            made[machine, first + 2] = _attributes(
                keys, _grid(cars, usual, "1", "1"), _grid(cars, usual, "2", "2 3")
            )
    return made


def _table_2022() -> dict[tuple[str, int], Attributes]:
    made = _cars_2022({"ToyCar": ("28V 34V", "31V 40V"), "ToyTrain": ("6 9", "7 10")})
    for first, second in ((0, False), (3, True)):
        made["bearing", first] = _attributes(
            "vel",
            _grid("5 9 13 17 21" if second else "6 10 14 18 22"),
            _grid("1 3 7 11 15 19 23 25" if second else "2 4 8 12 16 20 24 26"),
        )
        made["bearing", first + 1] = _attributes(
            "vel loc", _grid("8 16", "A B C D"), _grid("8 16", "E F G H")
        )
        made["bearing", first + 2] = _attributes("vel f-n", _grid("8 16", "A B"), _grid("8 16", "C D"))
        made["fan", first] = _attributes("m-n", _grid("W X"), _grid("Y Z"))
        made["fan", first + 1] = _attributes("f-n", _grid("A B"), _grid("C D"))
        made["fan", first + 2] = _attributes("n-lv", _grid("L1 L2"), _grid("L3 L4"))
        made["gearbox", first] = _attributes(
            "volt", _grid("1.0 1.5 2.0 2.5 3.0"), _grid("0.5 0.7 1.2 1.7 2.2 2.7 3.2 3.7")
        )
        made["gearbox", first + 1] = _attributes("wt", _grid("0 50 100 150"), _grid("25 75 125 175"))
        made["gearbox", first + 2] = _attributes(
            "id", _grid("03 06 07" if second else "00 02 11"), _grid("01 04 12" if second else "05 08 13")
        )
        made["slider", first] = _attributes(
            "vel", _grid("100 175 250 325 400"), _grid("25 50 140 210 290 360 440 490")
        )
        made["slider", first + 1] = _attributes(
            "vel ac", _grid("300 1100", "0.10 0.30"), _grid("300 1100", "0.03 0.50")
        )
        made["slider", first + 2] = _attributes("vel f-n", _grid("300 700", "A B"), _grid("300 700", "C D"))
        made["valve", first] = _attributes(
            "pat", _grid("00 01" if second else "02 03"), _grid("06 07" if second else "04 05")
        )
        made["valve", first + 1] = _attributes(
            "pat panel", _grid("04 05", "open bs-c"), _grid("04 05", "b-c s-c")
        )
        made["valve", first + 2] = _attributes(
            "v1pat v2pat", _grid("04 06", "05 07"), _grid("02 03", "00 01")
        )
    return {place: _shift_only(attributes) for place, attributes in made.items()}


def _table_2023() -> dict[tuple[str, int], Attributes]:
    cars = "car spd mic noise"
    toys = "car spd mic"
    made = {
        "bearing": _attributes(
            "vel",
            _grid(" ".join(str(v) for v in range(2, 28, 2))),
            _grid("1 5 9 13 17 21 25 11 19 3 7 15 23 27 29 31"),
            unseen=7,
        ),
        "fan": _attributes("m-n", _grid("W X"), _grid("Y Z")),
        "gearbox": _attributes(
            "volt wt",
            _grid("1.0 2.0 3.0", "0 50 100"),
            _grid("0.6 1.3 1.6 2.3 2.6", "25 75") + _grid("3.3 3.6", "25 75"),
            unseen=4,
        ),
        "slider": _attributes(
            "vel ac",
            _grid("200 400 600 800 1000", "0.10 0.30"),
            _grid("300 500 700 900", "0.03 0.50") + _grid("100 350 650 1100", "0.03 0.50"),
            unseen=8,
        ),
        "valve": _attributes("v1pat v2pat", _grid("A B", "none"), _grid("A B", "C")),
        "ToyCar": _attributes(
            cars,
            _grid("A1 A2 B1 B2 C1 C2", "28V 34V 40V", "1", "1"),
            _grid("D1 D2 E1 E2", "31V 37V", "1", "1"),
        ),
        "ToyTrain": _attributes(
            cars, _grid("A1 A2 B1 B2 C1 C2", "6 8 10", "1", "1"), _grid("D1 D2 E1 E2", "7 9", "1", "1")
        ),
        "bandsaw": _attributes("vel", _grid("13 15"), _grid("12 14")),
        "grinder": _attributes(
            "grindstone plate", [("1", "1"), ("2", "2"), ("3", "3")], [("1", "2"), ("2", "3"), ("3", "1")]
        ),
        "shaker": _attributes("speed", _grid("600 900"), _grid("1200")),
        "ToyDrone": _attributes(
            toys, _grid("A1 A2", "3", "1") + _grid("B1 B2", "2", "1"), _grid("C1 C2", "1", "2")
        ),
        "ToyNscale": _attributes(
            toys,
            _grid("A1 A2 B1 B2", "2 3", "1"),
            [("C1", "1", "2"), ("C2", "1", "2"), ("C2", "5", "2"), ("C1", "5", "2")],
            unseen=1,
        ),
        "ToyTank": _attributes(toys, _grid("A1 A2 B1 B2", "3 4", "1"), _grid("C1 C2", "1 5", "1")),
        "Vacuum": _attributes(toys, _grid("A1 A2 B1 B2", "Lb", "1"), _grid("C1 C2", "Hb", "1")),
    }
    return {(machine, 0): attributes for machine, attributes in made.items()}


_TABLES = {"dcase2022": _table_2022, "dcase2023": _table_2023}


@functools.cache
def _table(dcase: str) -> dict[tuple[str, int], Attributes]:
    return _TABLES[dcase]()


def check_year(dcase: str) -> None:
    """Raises ValueError for a year that does not exist or cannot be synthesised."""
    get_year(dcase)
    if dcase not in _TABLES:
        raise ValueError(
            f"asdray can synthesise {', '.join(_TABLES)} so far, not {dcase!r}{nearest(dcase, _TABLES)}"
        )


def attributes_of(dcase: str, machine: str, section: int) -> Attributes:
    """The attribute variants of one section of a year that `check_year` accepts."""
    return _table(dcase)[machine, section]
