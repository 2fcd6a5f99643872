"""What attributes are: their keys, the variants of a section, and how variants stand in file names.

The keys and the style of the values follow the released file names of each year. A section has `source`
variants, `target` variants (never among the source ones), sometimes `unseen` target variants that occur in
test clips only, and sometimes variants that only its anomalies have. The tables are in `sections` and
`first_shot`; `tables` looks them up.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

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
        anomalous: variants of the source and of the target anomalies, where they are not those of the
            normal test clips.
        template: of the file name's attribute part, such as ``{0}Spd{1}Mic{2}``.
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


def grid(*axes: str) -> list[Values]:
    """Every combination of the blank-separated values of each axis."""
    return list(itertools.product(*(axis.split() for axis in axes)))


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
"""The organisers spell some keys differently in the attribute CSVs."""


def make(
    keys: str,
    source: list[Values],
    target: list[Values],
    unseen: int = 0,
    anomalous: tuple[list[Values], list[Values]] = ([], []),
    template: str | None = None,
) -> Attributes:
    """``target``'s last ``unseen`` variants occur in test clips only."""
    assert not set(source) & set(target)
    names = keys.split()
    # The CSV lists what varies within the section, at most three parameters.
    varying = [i for i in range(len(names)) if len({v[i] for v in source + target}) > 1]
    return Attributes(
        keys=tuple(Key(name, _ROLE_OF[name], _CSV_WORDS.get(name, name)) for name in names),
        source=tuple(source),
        target=tuple(target[: len(target) - unseen]),
        unseen=tuple(target[len(target) - unseen :]),
        csv_keys=tuple(varying[:3]),
        anomalous=(tuple(anomalous[0]), tuple(anomalous[1])),
        template=template or "_".join(f"{name}_{{{i}}}" for i, name in enumerate(names)),
    )
