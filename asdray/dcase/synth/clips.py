"""Synthetic clips of a section, named in the style of a year with the irregularities of the released data.

A clip has up to four names: the shipped file name (anonymous in the eval test split), the regular labelled
name with the published attributes, the labelled name in lists (sometimes irregular or another clip's), and
the full name with the real attributes.

>>> from asdray.dcase.synth.attributes import attributes_of
>>> from asdray.dcase.synth.clips import Namer
>>> namer = Namer("dcase2023", "eval", "bandsaw", 0, attributes_of("dcase2023", "bandsaw", 0))
>>> clip = namer.clip("test", "source", "anomaly", ("13",), index=7, real=7, anonymous=42)
>>> clip.name, clip.labelled_name
('section_00_0042.wav', 'section_00_source_test_anomaly_0007_vel_13.wav')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from asdray.dcase.synth.attributes import Attributes, Values
from asdray.dcase.years import NO_ATTRIBUTE, Subset, get_year

Machines = frozenset[str]

_NO_MACHINE: Machines = frozenset()


def _set(names: str) -> Machines:
    return frozenset(names.split())


TOYS = _set(
    "ToyCar ToyTrain ToyDrone ToyNscale ToyTank Vacuum ToyCircuit HoveringDrone HairDryer ToothBrush "
    "AutoTrash HomeCamera ToyPet ToyRCCar ToyCarEmu"
)
"""Machines with the naming habits of the ToyADMOS recordings; all others have the habits of MIMII."""


@dataclass(frozen=True)
class Style:
    """Naming habits of a year; fields with a set of machines apply to these machines.

    Attributes:
        names: ``ids`` (2020), ``domains`` (2021: anonymous names have the domain, test names have no
            attributes) or ``attributes``.
        newline: line end of the evaluation list; None = the year has no list.
        evaluator: form of the evaluator's folders: none, ``labels`` (2021), ``tables`` (2022's form of
            attributes) or ``pairs`` (since 2023).
        correspondences: line end of the CSVs that reveal hidden attributes; None = no such CSVs.
        one_based: dev and training clips are counted from 1.
        target_continues: target clips are counted on from the source clips.
        shifted: hidden names of training clips count modulo their number: 0990 becomes 0000.
        renumbered: hidden names of dev test clips have another index.
        anonymous_one_based: anonymous names are counted from 1.
        own_index: labelled eval test clips have an index per cell; others repeat the anonymous index.
        own_one_based: this index is counted from 1.
        recordings: labelled eval test clips have the number of some long recording session.
        grouped: the machine's block of the evaluation list is ordered by domain and label.
        zero_last: the block ends with clip 0000.
        without_test: labelled names in lists lack ``_test_``.
        wrong_names: labelled names in lists belong to other clips.
        open_test: labelled test names show attributes that training names hide.
        third_column: the evaluator's files also give the hidden attributes.
        unrevealed_test: correspondences leave out the test clips.
        suffixes: endings of the anomalies' real attributes, in turn.
        hidden_word: other spelling of ``noAttribute`` in training names.
        supplemental: name template of the supplemental clips and first index, per machine; ``*`` = others.
    """

    names: Literal["ids", "domains", "attributes"] = "attributes"
    newline: str | None = "\r\n"
    evaluator: Literal["labels", "tables", "pairs"] | None = None
    correspondences: str | None = None
    one_based: Machines = _NO_MACHINE
    target_continues: Machines = _NO_MACHINE
    shifted: Machines = _NO_MACHINE
    renumbered: Machines = _NO_MACHINE
    anonymous_one_based: Machines = _NO_MACHINE
    own_index: Machines = _NO_MACHINE
    own_one_based: Machines = _NO_MACHINE
    recordings: Machines = _NO_MACHINE
    grouped: Machines = _NO_MACHINE
    zero_last: Machines = _NO_MACHINE
    without_test: Machines = _NO_MACHINE
    wrong_names: Machines = _NO_MACHINE
    open_test: Machines = _NO_MACHINE
    third_column: Machines = _NO_MACHINE
    unrevealed_test: Machines = _NO_MACHINE
    suffixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hidden_word: Mapping[str, str] = field(default_factory=dict)
    supplemental: Mapping[str, tuple[str, int]] = field(default_factory=dict)


_DEV = "bearing fan gearbox slider ToyCar ToyTrain valve"

STYLES: Mapping[str, Style] = {
    "dcase2020": Style(names="ids", newline="\n", own_index=_set("fan pump slider valve ToyCar ToyConveyor")),
    "dcase2021": Style(names="domains", evaluator="labels"),
    "dcase2022": Style(
        newline="\n",
        evaluator="tables",
        own_index=_set("ToyCar ToyTrain"),
        wrong_names=_set("ToyCar ToyTrain"),
    ),
    "dcase2023": Style(
        evaluator="pairs",
        one_based=_set("ToyCar ToyTrain"),
        own_index=_set("ToyDrone ToyNscale ToyTank Vacuum"),
        own_one_based=_set("ToyDrone ToyNscale ToyTank Vacuum"),
        grouped=_set("bandsaw grinder shaker"),
    ),
    "dcase2024": Style(
        evaluator="pairs",
        correspondences="\r\n",
        one_based=_set(f"{_DEV} 3DPrinter AirCompressor Scanner"),
        target_continues=_set("BrushlessMotor RoboticArm"),
        shifted=_set("HoveringDrone ToothBrush"),
        anonymous_one_based=_set("3DPrinter AirCompressor Scanner"),
        own_index=_set("ToyCircuit HoveringDrone HairDryer ToothBrush RoboticArm BrushlessMotor"),
        own_one_based=_set("ToyCircuit HoveringDrone HairDryer ToothBrush"),
        without_test=_set("RoboticArm"),
        open_test=_set("BrushlessMotor"),
        third_column=_set("AirCompressor HoveringDrone ToothBrush"),
        unrevealed_test=_set("BrushlessMotor"),
        suffixes={"gearbox": ("_damage1", "_damage2"), "slider": ("_",)},
    ),
    "dcase2025": Style(
        correspondences="\n",
        shifted=_set("ToyTrain AutoTrash ToyPet"),
        renumbered=_set("ToyTrain"),
        own_index=_set("AutoTrash HomeCamera ToyPet ToyRCCar CoffeeGrinder"),
        own_one_based=_set("AutoTrash HomeCamera ToyPet ToyRCCar"),
        recordings=_set("CoffeeGrinder"),
        zero_last=_set("BandSealer Polisher ScrewFeeder"),
        open_test=_set("AutoTrash Polisher ScrewFeeder ToyPet"),
        # The machines with noise alone are not published.
        supplemental={
            "*": ("section_00_machine_{:04d}_.wav", 1),
            "ToyCar": ("section_00_machine_source_{:04d}_noAttribute.wav", 0),
            "ToyPet": ("section_00_machine_source_{:04d}_noAttribute.wav", 0),
            "gearbox": ("section_00_source_supplemental_machine_{:04d}.wav", 0),
            "Polisher": ("section_00_source_supplemental_machine_{:04d}.wav", 0),
            "fan": ("section_00_noise_supplemental_normal_{:04d}.wav", 0),
            "ScrewFeeder": ("section_00_noise_supplemental_normal_{:04d}.wav", 0),
        },
    ),
    "dcase2026": Style(newline=None, evaluator="pairs", hidden_word={"valveEmu": "noAttributes"}),
}


# ------------------------------------------------------------------------------------------------------ clips


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
