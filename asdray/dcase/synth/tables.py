"""Looks up which attributes the clips of a machine and section carry."""

from __future__ import annotations

import functools

from asdray.dcase.synth import first_shot, sections
from asdray.dcase.synth.attributes import Attributes

_TABLES = {
    "dcase2020": sections.table_2020,
    "dcase2021": sections.table_2021,
    "dcase2022": sections.table_2022,
    "dcase2023": first_shot.table_2023,
    "dcase2024": first_shot.table_2024,
    "dcase2025": first_shot.table_2025,
    "dcase2026": first_shot.table_2026,
}


@functools.cache
def _table(dcase: str) -> dict[tuple[str, int], Attributes]:
    return _TABLES[dcase]()


def attributes_of(dcase: str, machine: str, section: int) -> Attributes:
    """The attribute variants of one section of a year."""
    return _table(dcase)[machine, section]
