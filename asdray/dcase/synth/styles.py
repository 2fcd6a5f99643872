"""Numbering, naming and listing of clips per year: every irregularity of the released datasets.

>>> from asdray.dcase.synth.styles import STYLES
>>> STYLES["dcase2020"].names, STYLES["dcase2023"].evaluator
('ids', 'pairs')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

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
        newline: of the evaluation list; None = the year has no list.
        evaluator: form of the evaluator's folders: none, ``labels`` (2021), ``tables`` (2022's form of
            attributes) or ``pairs`` (since 2023).
        correspondences: newline of the CSVs that reveal hidden attributes; None = no such CSVs.
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

STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "dcase2020": Style(
            names="ids", newline="\n", own_index=_set("fan pump slider valve ToyCar ToyConveyor")
        ),
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
            suffixes=MappingProxyType({"gearbox": ("_damage1", "_damage2"), "slider": ("_",)}),
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
            supplemental=MappingProxyType(
                {
                    "*": ("section_00_machine_{:04d}_.wav", 1),
                    "ToyCar": ("section_00_machine_source_{:04d}_noAttribute.wav", 0),
                    "ToyPet": ("section_00_machine_source_{:04d}_noAttribute.wav", 0),
                    "gearbox": ("section_00_source_supplemental_machine_{:04d}.wav", 0),
                    "Polisher": ("section_00_source_supplemental_machine_{:04d}.wav", 0),
                    "fan": ("section_00_noise_supplemental_normal_{:04d}.wav", 0),
                    "ScrewFeeder": ("section_00_noise_supplemental_normal_{:04d}.wav", 0),
                }
            ),
        ),
        "dcase2026": Style(
            newline=None, evaluator="pairs", hidden_word=MappingProxyType({"valveEmu": "noAttributes"})
        ),
    }
)
