"""The grammar of wav file names: every kind of name of every year, parsed and built from one table.

A name is a template such as ``section_{section}_{domain}_train_normal_{index}_{attributes}.wav``.
``attributes`` is one opaque string, everything up to ``.wav``: it may hold underscores, dashes and dots
(``m-n_W``, ``vel_1100_ac_0.30``), end in an underscore, or be empty.

The index is part of a name and nothing else: it is irregular across machines, and in several eval sets
it determines the label. Nothing may use it as information.

Names of supplemental clips are irregular: ``section_00_machine_0001_.wav``, but also
``section_00_source_supplemental_machine_0000.wav``. Any wav will do; only a section at its beginning is
read, and `supplemental_kind` finds what else they tell. 2026's grammar has them too, should a machine come
with such a folder.

Source: the organisers' dataset descriptions 2020-2026.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asdray.dcase.years import NO_ATTRIBUTE, get_year

SPLITS = ("train", "test", "supplemental")

_HIDDEN = (NO_ATTRIBUTE, NO_ATTRIBUTE + "s")  # one report on 2026 has the plural

_CLUTTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx"})


@dataclass(frozen=True)
class ClipName:
    """What a file name says.

    Attributes:
        section: section number (2020: machine id).
        domain: ``source`` or ``target``; None where the name does not tell.
        split: ``train``, ``test`` or ``supplemental``.
        is_anomaly: None where the name does not tell.
        index: the running number as written, leading zeros included; ``""`` for supplemental clips.
        attributes: opaque, ``""`` if none. Supplemental clips have irregular names: theirs is everything
            behind the section.
        has_section: whether the name tells the section; those of supplemental clips need not, and theirs
            is 0 then.
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
# The released 2024 list spells the labelled names of RoboticArm without `_test_`.
_GRAMMAR_2024 = _Grammar(
    train=_GRAMMAR_2022.train,
    labelled=_GRAMMAR_2022.labelled,
    anonymous=_GRAMMAR_2022.anonymous,
    parse_only=_REGULAR % "{label}",
)
_GRAMMAR_2025 = _Grammar(
    train=_GRAMMAR_2022.train,
    labelled=_GRAMMAR_2022.labelled,
    anonymous=_GRAMMAR_2022.anonymous,
    supplemental=("section_{section}_{attributes}.wav", "{attributes}.wav"),
)
_GRAMMARS: Mapping[int, _Grammar] = {
    2020: _GRAMMAR_2020,
    2021: _GRAMMAR_2021,
    2022: _GRAMMAR_2022,
    2023: _GRAMMAR_2022,
    2024: _GRAMMAR_2024,
    2025: _GRAMMAR_2025,
    2026: _GRAMMAR_2025,
}

_UNIFIED = "section_{section}_{domain}_{split}_{label}_{index}.wav"


def parse_name(dcase: str, subset: str, split: str, file_name: str) -> ClipName:
    """Reads a file name by the year's grammar.

    Train clips are always normal. Test names of the eval subset may be anonymous or labelled; those of
    dev are labelled. 2020 has no domains: every clip is ``source``.

    Args:
        file_name: without folder, with ``.wav``.

    Raises:
        ValueError: the name does not fit; the message names it, the year and the expected grammar.
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
    """The file name of ``clip``, anonymous where it has no label; inverse of `parse_name`.

    Raises:
        ValueError: the year has no name for such a clip.
    """
    forms = _forms(dcase, subset, clip.split)
    labelled = clip.is_anomaly is not None
    for template, pattern in forms:
        if ("{label}" in template) != labelled or ("{section}" in template) != clip.has_section:
            continue
        name = template.format(**_fields(clip))
        # Formatting drops what the template has no place for: only a name that reads back is right.
        if pattern.fullmatch(name) and parse_name(dcase, subset, clip.split, name) == clip:
            return name
    raise ValueError(
        f"{clip} has no {dcase} {subset} file name (expected {expected(dcase, subset, clip.split)})"
    )


def unified_name(dcase: str, subset: str, clip: ClipName) -> str:
    """The name of ``clip`` in the formatted tree: the year's own, but 2020's in the form of later years."""
    if get_year(dcase).year == 2020 and clip.is_anomaly is not None:
        return _UNIFIED.format(**_fields(clip))
    return build_name(dcase, subset, clip)


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems leave where people look (``Thumbs.db``)."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def may_be_supplemental(dcase: str) -> bool:
    """Whether the year has names for supplemental clips, and so a folder of them wherever there is one."""
    return bool(_GRAMMARS[get_year(dcase).year].supplemental)


def is_hidden(attributes: str) -> bool:
    """Whether the organisers hid the attributes of a name, whichever way it spells that."""
    return attributes in _HIDDEN


def supplemental_kind(clip: ClipName) -> str | None:
    """``machine`` (the machine without noise), ``noise`` (noise alone), or None where the name does not tell.

    The first of the two words counts: attributes, which may hold them too, come last in every name.
    """
    assert clip.split == "supplemental", clip
    return next((word for word in clip.attributes.split("_") if word in ("machine", "noise")), None)


def expected(dcase: str, subset: str, split: str) -> str:
    """The grammar of such names for a message: ``section_<SS>_<4 digits>.wav``."""
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
    """The templates of such names, the one to build first, each with its pattern."""
    assert subset in ("dev", "eval"), subset
    assert split in SPLITS, split
    grammar = _GRAMMARS[get_year(dcase).year]
    templates: Sequence[str | None]
    if split == "train":
        templates = [grammar.train]
    elif split == "supplemental":
        templates = grammar.supplemental
    else:
        templates = [grammar.labelled]
        if subset == "eval":
            templates = [grammar.labelled, grammar.parse_only, grammar.anonymous]
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
