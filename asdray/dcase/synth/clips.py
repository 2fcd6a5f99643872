"""A clip of the plan, and how a year calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asdray.dcase.synth.attributes import Attributes, Values
from asdray.dcase.synth.styles import STYLES, Style
from asdray.dcase.years import NO_ATTRIBUTE, Subset, get_year


@dataclass(frozen=True)
class Clip:
    """One clip of the plan: what it is, and how it is called.

    Attributes:
        split: train, test or supplemental.
        folder: the folder in which it lies: the split, or 2021's ``source_test`` and ``target_test``.
        domain, label: ``source`` or ``target``, ``normal`` or ``anomaly``; None for supplemental clips.
        index: the number in its labelled name.
        anonymous: the number in its shipped name where the label is hidden (eval test), else None.
        values: attribute values, one per key.
        attributes: the same as names and lists publish them: ``noAttribute`` where they hide them, ``""``
            where no name has any, or the only name that has is wrong.
        revealed: the real ones, where they are hidden and a correspondence tells them.
        name: the file name as shipped.
        labelled_name: the regular name with domain, label and published attributes; None for supplemental
            clips, and where none is published that is right.
        listed_name: an eval test clip's labelled name as lists spell it, right or wrong.
        full_name: the name with the real attributes.
        content: what is heard: ``both`` machine and noise, or one of them.
    """

    subset: Subset
    machine: str
    section: int
    split: str
    folder: str
    domain: str | None
    label: str | None
    index: int
    anonymous: int | None
    values: Values
    attributes: str
    revealed: str | None
    name: str
    labelled_name: str | None
    listed_name: str | None
    full_name: str
    content: Literal["both", "machine", "noise"] = "both"

    @property
    def is_anomaly(self) -> bool | None:
        """None for supplemental clips."""
        return None if self.label is None else self.label == "anomaly"

    @property
    def key(self) -> str:
        """``<subset>/<machine>/<split>/<file name as shipped>``."""
        return f"{self.subset}/{self.machine}/{self.split}/{self.name}"


@dataclass(frozen=True)
class Namer:
    """Names the clips of a section."""

    dcase: str
    subset: Subset
    machine: str
    section: int
    attributes: Attributes

    def clip(
        self, split: str, domain: str, label: str, values: Values, index: int, real: int,
        anonymous: int | None = None,
    ) -> Clip:  # fmt: skip
        """The clip; ``real`` is the index that goes with the real attributes."""
        style, year = STYLES[self.dcase], get_year(self.dcase)
        published = full = self.attributes.text(values)
        if label == "anomaly" and (suffixes := style.suffixes.get(self.machine)):
            full += suffixes[real % len(suffixes)]
        revealed = None
        if self.machine in year.hidden_attributes:
            published = NO_ATTRIBUTE
            if split == "train":
                published = style.hidden_word.get(self.machine, published)
            elif anonymous is not None and self.machine in style.open_test:
                published = full
            told = split == "train" or self.machine not in style.untold_test
            revealed = full if style.correspondences and told else None
        elif style.names == "ids" or (style.names == "domains" and split == "test"):
            published = full = ""
        regular = self._name(style, split, domain, label, index, published)
        return Clip(
            self.subset,
            self.machine,
            self.section,
            split,
            f"{domain}_test" if year.split_test_folders and split == "test" else split,
            domain,
            label,
            index,
            anonymous,
            values,
            published,
            revealed,
            regular if anonymous is None else self._anonymous(style, domain, anonymous),
            regular,
            None if anonymous is None else _listed(style, self.machine, regular),
            self._name(style, split, domain, label, real, full),
        )

    def supplemental(self, number: int, values: Values) -> Clip:
        """The machine without noise, or noise alone."""
        spelled = STYLES[self.dcase].supplemental
        template, base = spelled.get(self.machine, spelled["*"])
        name = template.format(base + number)
        return Clip(
            subset=self.subset,
            machine=self.machine,
            section=self.section,
            split="supplemental",
            folder="supplemental",
            domain=None,
            label=None,
            index=base + number,
            anonymous=None,
            values=values,
            attributes=name.removeprefix("section_00_").removesuffix(".wav"),
            revealed=None,
            name=name,
            labelled_name=None,
            listed_name=None,
            full_name=name,
            content="noise" if "noise" in template else "machine",
        )

    def _name(self, style: Style, split: str, domain: str, label: str, index: int, attributes: str) -> str:
        if style.names == "ids":
            return f"{label}_id_{self.section:02d}_{index:08d}.wav"
        ending = "" if style.names == "domains" and split == "test" else f"_{attributes}"
        return f"section_{self.section:02d}_{domain}_{split}_{label}_{index:04d}{ending}.wav"

    def _anonymous(self, style: Style, domain: str, index: int) -> str:
        if style.names == "ids":
            return f"id_{self.section:02d}_{index:08d}.wav"
        told = f"_{domain}_test" if style.names == "domains" else ""
        return f"section_{self.section:02d}{told}_{index:04d}.wav"


def _listed(style: Style, machine: str, name: str) -> str:
    return name.replace("_test_", "_") if machine in style.without_test else name
