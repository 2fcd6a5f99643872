"""Attributes of synthetic clips: keys, variants of a section, and the spelling of variants in file names.

Attributes are the operating conditions in a file name (``vel_5``, ``car_A1_spd_28V_mic_1``). Keys and values
follow the released file names of each year; `asdray.dcase.synth.tables` holds the values. A section has
``source`` variants, ``target`` variants (never among the source ones), sometimes ``unseen`` target variants
that occur in test clips only, and sometimes variants of its anomalies alone.

>>> from asdray.dcase.synth.attributes import make
>>> gearbox = make("volt wt", "1.0 2.0|0 50", "1.5|25")
>>> gearbox.text(("1.0", "50")), gearbox.position(1, "25")
('volt_1.0_wt_50', 0.5)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

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
