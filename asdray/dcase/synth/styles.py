"""How each year numbers, names and lists its clips: every irregularity of the released datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Machines = frozenset[str]

_NO_MACHINE: Machines = frozenset()


def _those(names: str) -> Machines:
    return frozenset(names.split())


TOYS = _those(
    "ToyCar ToyTrain ToyDrone ToyNscale ToyTank Vacuum ToyCircuit HoveringDrone HairDryer ToothBrush "
    "AutoTrash HomeCamera ToyPet ToyRCCar ToyCarEmu"
)
"""Machines with the naming habits of the ToyADMOS recordings; the others have those of MIMII."""


@dataclass(frozen=True)
class Style:
    """The habits of a year. What is said of machines holds for those that are named.

    Attributes:
        names: ``ids`` (2020), ``domains`` (2021: anonymous names tell the domain, test names have no
            attributes) or ``attributes``.
        newline: of the evaluation list; None = the year has no list.
        evaluator: form of the evaluator's folders: none, ``labels`` (2021), ``tables`` (with 2022's form of
            attributes) or ``pairs`` (2023 on).
        correspondences: newline of the CSVs that reveal hidden attributes; None = there are none.
        one_based: dev and training clips are counted from 1.
        target_continues: the target clips are counted on from the source ones.
        shifted: hidden names whose training clips count modulo their number: 0990 becomes 0000.
        renumbered: hidden names of dev test clips have another index.
        anonymous_one_based: anonymous names are counted from 1.
        own_index: labelled eval test clips have an index per cell; the others repeat the anonymous one.
        own_one_based: that index is counted from 1.
        recordings: labelled eval test clips have the number of some long recording session.
        grouped: the block of the evaluation list is ordered by domain and label.
        zero_last: the block of the evaluation list ends with clip 0000.
        without_test: labelled names in lists lack ``_test_``.
        wrong_names: labelled names in lists belong to other clips.
        open_test: labelled test names show the attributes that the training names hide.
        third_column: the evaluator's files give the hidden attributes, too.
        untold_test: the correspondences leave the test clips out.
        suffixes: what the real attributes of anomalies end in, in turn.
        hidden_word: training names spell ``noAttribute`` differently.
        supplemental: name of the supplemental clips per machine, and the first index; ``*`` stands for all
            others.
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
    untold_test: Machines = _NO_MACHINE
    suffixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hidden_word: Mapping[str, str] = field(default_factory=dict)
    supplemental: Mapping[str, tuple[str, int]] = field(default_factory=dict)


_DEV = "bearing fan gearbox slider ToyCar ToyTrain valve"

STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "dcase2020": Style(
            names="ids",
            newline="\n",
            own_index=_those("fan pump slider valve ToyCar ToyConveyor"),
        ),
        "dcase2021": Style(names="domains", evaluator="labels"),
        "dcase2022": Style(
            newline="\n",
            evaluator="tables",
            own_index=_those("ToyCar ToyTrain"),
            wrong_names=_those("ToyCar ToyTrain"),
        ),
        "dcase2023": Style(
            evaluator="pairs",
            one_based=_those("ToyCar ToyTrain"),
            own_index=_those("ToyDrone ToyNscale ToyTank Vacuum"),
            own_one_based=_those("ToyDrone ToyNscale ToyTank Vacuum"),
            grouped=_those("bandsaw grinder shaker"),
        ),
        "dcase2024": Style(
            evaluator="pairs",
            correspondences="\r\n",
            one_based=_those(f"{_DEV} 3DPrinter AirCompressor Scanner"),
            target_continues=_those("BrushlessMotor RoboticArm"),
            shifted=_those("HoveringDrone ToothBrush"),
            anonymous_one_based=_those("3DPrinter AirCompressor Scanner"),
            own_index=_those("ToyCircuit HoveringDrone HairDryer ToothBrush RoboticArm BrushlessMotor"),
            own_one_based=_those("ToyCircuit HoveringDrone HairDryer ToothBrush"),
            without_test=_those("RoboticArm"),
            open_test=_those("BrushlessMotor"),
            third_column=_those("AirCompressor HoveringDrone ToothBrush"),
            untold_test=_those("BrushlessMotor"),
            suffixes=MappingProxyType({"gearbox": ("_damage1", "_damage2"), "slider": ("_",)}),
        ),
        "dcase2025": Style(
            correspondences="\n",
            shifted=_those("ToyTrain AutoTrash ToyPet"),
            renumbered=_those("ToyTrain"),
            own_index=_those("AutoTrash HomeCamera ToyPet ToyRCCar CoffeeGrinder"),
            own_one_based=_those("AutoTrash HomeCamera ToyPet ToyRCCar"),
            recordings=_those("CoffeeGrinder"),
            zero_last=_those("BandSealer Polisher ScrewFeeder"),
            open_test=_those("AutoTrash Polisher ScrewFeeder ToyPet"),
            # Which machines have noise alone is not published.
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
            newline=None,
            evaluator="pairs",
            hidden_word=MappingProxyType({"valveEmu": "noAttributes"}),
        ),
    }
)
