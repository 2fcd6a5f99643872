"""Grammar of wav file names: every kind of name of every year, parsed and built from one table.

A file name tells up to six facts of a clip: section, domain, split, label, running index and attributes
(operating conditions such as speed or microphone), for example
``section_00_source_train_normal_0000_vel_5.wav``. Names of eval test clips are *anonymous* until the
organisers publish the labels: ``section_00_0000.wav``.

Conventions:

* ``attributes`` is one opaque string up to ``.wav``: underscores, dashes and dots are allowed (``m-n_W``,
  ``vel_1100_ac_0.30``), also at the end, and the string may be empty.
* ``index`` only completes the name. Indices are irregular across machines, and in several eval sets the
  index determines the label: no part of asdray may use an index as information.
* Supplemental clips (2025) have irregular names, ``section_00_machine_0001_.wav`` as well as
  ``section_00_source_supplemental_machine_0000.wav``: every wav is accepted, and only a leading section is
  parsed. The grammar of 2026 allows a supplemental folder, too.

>>> from asdray.dcase.names import parse_name
>>> clip = parse_name("dcase2023", "dev", "train", "section_00_target_train_normal_0007_vel_5.wav")
>>> clip.domain, clip.is_anomaly, clip.attributes
('target', False, 'vel_5')

Source: the organisers' dataset descriptions 2020-2026.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from asdray.dcase.years import NO_ATTRIBUTE, get_year

SPLITS = ("train", "test", "supplemental")

_HIDDEN = (NO_ATTRIBUTE, NO_ATTRIBUTE + "s")  # one report on 2026 has the plural

_CLUTTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx"})


@dataclass(frozen=True)
class ClipName:
    """Facts in a file name.

    Attributes:
        section: section number (2020: machine id).
        domain: ``source`` or ``target``; None if absent from the name.
        split: ``train``, ``test`` or ``supplemental``.
        is_anomaly: None if the name is anonymous.
        index: running number as written, leading zeros included; ``""`` for supplemental clips.
        attributes: opaque, ``""`` if none. For supplemental clips, the whole name behind the section.
        has_section: False for supplemental names without a section; ``section`` is 0 then.
    """

    section: int
    domain: str | None
    split: str
    is_anomaly: bool | None
    index: str
    attributes: str
    has_section: bool = True


@dataclass(frozen=True)
class _Grammar:
    """Name templates of a year. ``parse_only``: irregular labelled eval names, read but never built."""

    train: str
    labelled: str
    anonymous: str
    supplemental: tuple[str, ...] = ()
    parse_only: str | None = None
    index_digits: int = 4


_REGULAR = "section_{section}_{domain}_%s_{index}_{attributes}.wav"
_GRAMMAR_2020 = _Grammar(
    train="{label}_id_{section}_{index}.wav",
    labelled="{label}_id_{section}_{index}.wav",
    anonymous="id_{section}_{index}.wav",
    index_digits=8,
)
_GRAMMAR_2021 = _Grammar(
    train=_REGULAR % "train_{label}",
    labelled="section_{section}_{domain}_test_{label}_{index}.wav",
    anonymous="section_{section}_{domain}_test_{index}.wav",
)
_GRAMMAR_2022 = _Grammar(
    train=_REGULAR % "train_{label}",
    labelled=_REGULAR % "test_{label}",
    anonymous="section_{section}_{index}.wav",
)
_GRAMMAR_2025 = replace(
    _GRAMMAR_2022, supplemental=("section_{section}_{attributes}.wav", "{attributes}.wav")
)
_GRAMMARS: Mapping[int, _Grammar] = {
    2020: _GRAMMAR_2020,
    2021: _GRAMMAR_2021,
    2022: _GRAMMAR_2022,
    2023: _GRAMMAR_2022,
    # The released 2024 list spells the labelled names of RoboticArm without `_test_`.
    2024: replace(_GRAMMAR_2022, parse_only=_REGULAR % "{label}"),
    2025: _GRAMMAR_2025,
    2026: _GRAMMAR_2025,
}

_UNIFIED = "section_{section}_{domain}_{split}_{label}_{index}.wav"


def parse_name(dcase: str, subset: str, split: str, file_name: str) -> ClipName:
    """Reads a file name by the year's grammar.

    Train clips are always normal. Test names are labelled in dev, and anonymous or labelled in eval. In
    2020, without domains, every clip is ``source``.

    Args:
        file_name: without folder, with ``.wav``.

    Raises:
        ValueError: the name does not fit; the message holds the name, the year and the expected grammar.

    >>> parse_name("dcase2020", "eval", "test", "id_01_00000003.wav").section
    1
    """
    for _, pattern in _forms(dcase, subset, split):
        match = pattern.fullmatch(file_name)
        if match is None:
            continue
        found = match.groupdict()
        label = found.get("label")
        return ClipName(
            section=int(found.get("section", 0)),
            domain=found.get("domain", "source" if get_year(dcase).domains == ("source",) else None),
            split=split,
            is_anomaly=None if label is None else label == "anomaly",
            index=found.get("index", ""),
            attributes=found.get("attributes", ""),
            has_section="section" in found,
        )
    raise ValueError(
        f"{file_name!r} is not a name of a {dcase} {subset} {split} clip "
        f"(expected {expected(dcase, subset, split)})"
    )


def build_name(dcase: str, subset: str, clip: ClipName) -> str:
    """The file name of ``clip``, anonymous if ``clip`` has no label; inverse of `parse_name`.

    Raises:
        ValueError: the year has no name for such a clip.

    >>> build_name("dcase2023", "eval", ClipName(0, None, "test", None, "0042", ""))
    'section_00_0042.wav'
    """
    for template, pattern in _forms(dcase, subset, clip.split):
        if ("{label}" in template) != (clip.is_anomaly is not None):
            continue
        if ("{section}" in template) != clip.has_section:
            continue
        name = template.format(**_fields(clip))
        # Formatting drops facts that the template has no place for: only a name that reads back is right.
        if pattern.fullmatch(name) and parse_name(dcase, subset, clip.split, name) == clip:
            return name
    raise ValueError(
        f"{clip} has no {dcase} {subset} file name (expected {expected(dcase, subset, clip.split)})"
    )


def unified_name(dcase: str, subset: str, clip: ClipName) -> str:
    """The name of ``clip`` in the formatted tree: the year's own name; for 2020 the form of later years."""
    if get_year(dcase).year == 2020 and clip.is_anomaly is not None:
        return _UNIFIED.format(**_fields(clip))
    return build_name(dcase, subset, clip)


def is_clutter(name: str) -> bool:
    """True for hidden files and folders, and for files of desktop systems (``Thumbs.db``)."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def may_be_supplemental(dcase: str) -> bool:
    """True if the year's grammar has supplemental names, so that machines may have such a folder."""
    return bool(_GRAMMARS[get_year(dcase).year].supplemental)


def is_hidden(attributes: str) -> bool:
    """True if the organisers hid the attributes of a name, in either spelling."""
    return attributes in _HIDDEN


def expected(dcase: str, subset: str, split: str) -> str:
    """Grammar of a split's names for a message: ``section_<SS>_<4 digits>.wav``."""
    places = {
        "section": "<SS>",
        "domain": "<source|target>",
        "label": "normal" if split == "train" else "<normal|anomaly>",
        "index": f"<{_GRAMMARS[get_year(dcase).year].index_digits} digits>",
        "attributes": "<attributes>",
    }
    forms = _forms(dcase, subset, split)
    if not forms:
        return f"none: {dcase} has no {split} clips"
    return " or ".join(template.format(**places) for template, _ in forms)


def _fields(clip: ClipName) -> dict[str, str | None]:
    return {
        "section": f"{clip.section:02d}",
        "domain": clip.domain,
        "split": clip.split,
        "label": "anomaly" if clip.is_anomaly else "normal",
        "index": clip.index,
        "attributes": clip.attributes,
    }


@functools.cache
def _forms(dcase: str, subset: str, split: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Templates of a split's names with their patterns; names are built from the first that fits."""
    assert subset in ("dev", "eval"), subset
    assert split in SPLITS, split
    grammar = _GRAMMARS[get_year(dcase).year]
    test = (
        [grammar.labelled] if subset == "dev" else [grammar.labelled, grammar.parse_only, grammar.anonymous]
    )
    templates = {"train": [grammar.train], "supplemental": grammar.supplemental, "test": test}[split]
    fields = {
        "section": "[0-9]{2}",
        "domain": "source|target",
        "label": "normal" if split == "train" else "normal|anomaly",
        "index": f"[0-9]{{{grammar.index_digits}}}",
        "attributes": r"[^/\x00-\x1f]*",
    }
    return tuple((t, _compile(t, fields)) for t in templates if t is not None)


def _compile(template: str, fields: Mapping[str, str]) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{part}>{fields[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )
