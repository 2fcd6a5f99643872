"""Synthetic clips of a section, and their names in the style of a year.

A clip has up to four names: the shipped file name (anonymous in the eval test split), the regular labelled
name with the published attributes, the labelled name in lists (sometimes irregular or another clip's), and
the full name with the real attributes.

>>> from asdray.dcase.synth.clips import Namer
>>> from asdray.dcase.synth.tables import attributes_of
>>> namer = Namer("dcase2023", "eval", "bandsaw", 0, attributes_of("dcase2023", "bandsaw", 0))
>>> clip = namer.clip("test", "source", "anomaly", ("13",), index=7, real=7, anonymous=42)
>>> clip.name, clip.labelled_name
('section_00_0042.wav', 'section_00_source_test_anomaly_0007_vel_13.wav')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asdray.dcase.synth.attributes import Attributes, Values
from asdray.dcase.synth.styles import STYLES, Style
from asdray.dcase.years import NO_ATTRIBUTE, Subset, get_year


@dataclass(frozen=True)
class Clip:
    """One clip of a synthetic dataset.

    Attributes:
        split: train, test or supplemental.
        folder: the split, or 2021's ``source_test`` and ``target_test``.
        domain, label: ``source`` or ``target``, ``normal`` or ``anomaly``; None for supplemental clips.
        index: number in the labelled name.
        anonymous: number in the shipped name if the label is hidden (eval test), else None.
        values: attribute values, one per key.
        attributes: attributes in names and lists: ``noAttribute`` if hidden, ``""`` if no name has
            attributes or the only name with attributes is wrong.
        revealed: real attributes, if hidden and revealed by a correspondence.
        name: the file name as shipped.
        labelled_name: regular name with domain, label and published attributes; None for supplemental clips
            and for clips without a published right name.
        listed_name: labelled name of an eval test clip in lists, right or wrong.
        full_name: name with the real attributes.
        content: audible content: ``both`` machine and noise, or one alone.
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
        """A training or test clip; ``real`` is the index beside the real attributes."""
        style, year = STYLES[self.dcase], get_year(self.dcase)
        published, full, revealed = self._attributes(split, label, values, real, anonymous is not None)
        regular = self._name(split, domain, label, index, published)
        listed = regular.replace("_test_", "_") if self.machine in style.without_test else regular
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
            None if anonymous is None else listed,
            self._name(split, domain, label, real, full),
        )

    def _attributes(
        self, split: str, label: str, values: Values, real: int, is_anonymous: bool
    ) -> tuple[str, str, str | None]:
        """(published, real, revealed) attributes."""
        style = STYLES[self.dcase]
        published = full = self.attributes.text(values)
        if label == "anomaly" and (suffixes := style.suffixes.get(self.machine)):
            full += suffixes[real % len(suffixes)]
        if self.machine in get_year(self.dcase).hidden_attributes:
            published = NO_ATTRIBUTE
            if split == "train":
                published = style.hidden_word.get(self.machine, published)
            elif is_anonymous and self.machine in style.open_test:
                published = full
            is_told = split == "train" or self.machine not in style.unrevealed_test
            return published, full, full if style.correspondences and is_told else None
        if style.names == "ids" or (style.names == "domains" and split == "test"):
            return "", "", None
        return published, full, None

    def supplemental(self, number: int, values: Values) -> Clip:
        """A supplemental clip: the machine without noise, or noise alone."""
        names = STYLES[self.dcase].supplemental
        template, base = names.get(self.machine, names["*"])
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

    def _name(self, split: str, domain: str, label: str, index: int, attributes: str) -> str:
        style = STYLES[self.dcase]
        if style.names == "ids":
            return f"{label}_id_{self.section:02d}_{index:08d}.wav"
        ending = "" if style.names == "domains" and split == "test" else f"_{attributes}"
        return f"section_{self.section:02d}_{domain}_{split}_{label}_{index:04d}{ending}.wav"

    def _anonymous(self, style: Style, domain: str, index: int) -> str:
        if style.names == "ids":
            return f"id_{self.section:02d}_{index:08d}.wav"
        in_name = f"_{domain}_test" if style.names == "domains" else ""
        return f"section_{self.section:02d}{in_name}_{index:04d}.wav"
