"""Labels and domains of the anonymous eval test clips, and attributes that published names hide.

What upstream files say is read by `asdray.dcase.truth_files`; here it is brought together. Nothing is
guessed: sources that contradict each other are an error, what no source tells is None.

The released labelled names of 2022's ToyCar and ToyTrain belong to other clips: the label and the domain
in them are independent of those that the official ranking was computed with. So for these machines

* ``official`` takes label and domain from the evaluator's ``ground_truth_data`` and
  ``ground_truth_domain``, and nothing from any name; the attributes of these clips are unknown.
* ``asdkit`` reproduces ASDKit's list: the right label, but the domain and the attributes of the wrong
  name, and the anonymous index. It is made from the released list and the evaluator, or taken from
  ASDKit's own list, which is known by every index being the anonymous one.

For all other machines and years the two are the same. ``official`` takes no label from ASDKit's list,
though its labels are right: without the domain they give no official score, and the organisers' files
give both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from asdray.dcase.names import build_name, parse_name
from asdray.dcase.truth_files import read_sources
from asdray.dcase.truth_rows import Claim, Key, Published, Source, agree
from asdray.dcase.years import get_year, nearest

Labels = Literal["official", "asdkit"]
"""How the labels of 2022's Toy machines are read."""

ASDKIT = "asdkit"
"""`Truth.source` of labels that reproduce ASDKit's."""

_WRONG_LABELLED_NAMES = {("dcase2022", "ToyCar"), ("dcase2022", "ToyTrain")}


@dataclass(frozen=True)
class Truth:
    """What is known of one anonymous clip; None = unknown.

    Attributes:
        is_anomaly: its label.
        domain: ``source`` or ``target``.
        labelled_name: its regular file name with domain, label and attributes.
        source: where the label came from: the list's file name, ``evaluator``, ``correspondence``, or
            ``asdkit``.
    """

    is_anomaly: bool | None
    domain: str | None
    labelled_name: str | None
    source: str | None


@dataclass(frozen=True)
class GroundTruth:
    """What the ground-truth files of a year tell.

    Attributes:
        clips: per (machine, anonymous name) of the eval test.
        revealed: the real attributes of clips whose published names hide them (``noAttribute``), per
            (subset, machine, split, file name); eval test clips stand under their anonymous and, where it
            is known, their labelled name. Recipes that follow the published names do not read it.
        notes: what is missing, a line per machine and kind with its count.
        sources: the files and folders that were read.
    """

    dcase: str
    clips: Mapping[Key, Truth]
    revealed: Mapping[Published, str]
    notes: tuple[str, ...] = ()
    sources: tuple[Path, ...] = field(default=(), compare=False)

    def get(self, machine: str, name: str) -> Truth | None:
        """What is known of the clip, or None."""
        return self.clips.get((machine, name))


def load_ground_truth(folder: Path, dcase: str, labels: Labels = "official") -> GroundTruth:
    """Reads every upstream file of the year below ``folder``, in any of the forms that are released.

    Args:
        labels: ``asdkit`` reproduces that toolkit's domains of 2022's Toy machines.

    Raises:
        ValueError: no such folder; nothing of the year in it; files or rows that do not fit the year or
            cannot be read, a clip that occurs twice in one source (all of them, with file and line:
            `WrongGroundTruthError`); sources that contradict each other (with counts per machine).
    """
    year = get_year(dcase)
    if labels not in get_args(Labels):
        known = get_args(Labels)
        raise ValueError(f"unknown labels {labels!r}{nearest(labels, known)} (known: {', '.join(known)})")
    check_folder(folder)
    sources = read_sources(folder, dcase)
    if not sources:
        raise ValueError(
            f"{folder} holds no ground truth of {dcase}: expected eval_data_list_{year.year}.csv, the "
            "evaluator's folders ground_truth_data, ground_truth_domain and ground_truth_attributes, or "
            "attributes_<SS>_<train|test>_correspondence.csv in folders named after machines"
        )
    said = _said(sources, dcase, labels)
    clips = {key: _merge(truths) for key, truths in said.items()}
    revealed = _revealed(sources, said, clips, dcase)
    _refuse_contradictions([*_about_clips(said), *_about_attributes(revealed)], folder)
    return GroundTruth(
        dcase,
        clips,
        _by_every_name({clip: next(iter(told.values())) for clip, told in revealed.items()}, clips),
        (*_missing(clips, dcase, labels), *_untied(revealed, dcase)),
        tuple(source.path for source in sources),
    )


def check_folder(folder: Path) -> None:
    """Raises ValueError where ``folder`` is none."""
    if os.path.isdir(folder):
        return
    if os.path.exists(folder):
        raise ValueError(
            f"{folder} is a file, and ground truth is a folder: give the one that holds it, {folder.parent}"
        )
    raise ValueError(f"there is no ground-truth folder {folder}")


# ------------------------------------------------------------------------------------ labels and domains

Said = dict[Key, dict[Path, Truth]]
"""Per clip, what each source says of it, the best source first."""


def _said(sources: list[Source], dcase: str, labels: Labels) -> Said:
    """Every source's word on every clip, without what is known to be wrong."""
    claims: dict[Key, list[tuple[Source, Claim]]] = {}
    for source in sources:
        for key, claim in source.clips.items():
            claims.setdefault(key, []).append((source, claim))
    asdkits = {(s.path, machine) for s in sources for machine in _with_anonymous_indices(s, dcase)}
    said: Said = {}
    for key, those in claims.items():
        if (dcase, key[0]) in _WRONG_LABELLED_NAMES:
            if labels == "asdkit":
                own = {s.path for s, _ in those if (s.path, key[0]) in asdkits}
                said[key] = _as_asdkit(those, own, key, dcase)
                continue
            those = [(s, c) for s, c in those if c.labelled is None]
        said[key] = {
            s.path: Truth(
                c.is_anomaly, c.domain, build_name(dcase, "eval", c.labelled) if c.labelled else None, s.kind
            )
            for s, c in those
        }
    return said


def _with_anonymous_indices(source: Source, dcase: str) -> set[str]:
    """The machines whose labelled names all have the index of the anonymous one."""
    machines: set[str] = set()
    others: set[str] = set()
    for (machine, name), claim in source.clips.items():
        if (dcase, machine) in _WRONG_LABELLED_NAMES and claim.labelled:
            same = claim.labelled.index == parse_name(dcase, "eval", "test", name).index
            (machines if same else others).add(machine)
    return machines - others


def _as_asdkit(those: list[tuple[Source, Claim]], own: set[Path], key: Key, dcase: str) -> dict[Path, Truth]:
    """What ASDKit's list says of a clip; ``own`` are the sources that are that list."""
    index = parse_name(dcase, "eval", "test", key[1]).index
    right = {s.path: c.is_anomaly for s, c in those if c.labelled is None or s.path in own}
    label = next((value for value in right.values() if value is not None), None)
    named = any(c.labelled for _, c in those)
    said = {}
    for source, claim in those:
        domain = name = None
        if claim.labelled and label is not None:
            domain = claim.labelled.domain
            name = build_name(dcase, "eval", replace(claim.labelled, is_anomaly=label, index=index))
        kind = ASDKIT if named else source.kind
        said[source.path] = Truth(right.get(source.path), domain, name, kind)
    return said


def _merge(truths: Mapping[Path, Truth]) -> Truth:
    """One record of sources that agree."""

    def first(what: str):
        return next((v for t in truths.values() if (v := getattr(t, what)) is not None), None)

    source = next((t.source for t in truths.values() if t.is_anomaly is not None), None)
    return Truth(first("is_anomaly"), first("domain"), first("labelled_name"), source)


# ------------------------------------------------------------------------------------- hidden attributes

Revealed = dict[Published, dict[Path, str]]
"""Per clip the attributes by every source that tells them."""


def _revealed(sources: list[Source], said: Said, clips: Mapping[Key, Truth], dcase: str) -> Revealed:
    """What sources reveal, and beside it what lists say openly of the same clips.

    Eval test clips stand under their anonymous name, where it is known.
    """
    anonymous = {(machine, t.labelled_name): name for (machine, name), t in clips.items() if t.labelled_name}
    revealed: Revealed = {}
    for source in sources:
        for (subset, machine, split, name), attributes in source.revealed.items():
            if (subset, split) == ("eval", "test"):
                name = anonymous.get((machine, name), name)
            revealed.setdefault((subset, machine, split, name), {})[source.path] = attributes
    for (subset, machine, split, name), told in revealed.items():
        if (subset, split) != ("eval", "test"):
            continue
        for path, truth in said.get((machine, name), {}).items():
            if truth.labelled_name:
                attributes = parse_name(dcase, subset, split, truth.labelled_name).attributes
                if not any(agree(attributes, real) for real in told.values()):
                    told[path] = attributes
    return revealed


def _by_every_name(revealed: Mapping[Published, str], clips: Mapping[Key, Truth]) -> dict[Published, str]:
    """Eval test clips under their labelled name, too."""
    found = dict(revealed)
    for (subset, machine, split, name), attributes in revealed.items():
        truth = clips.get((machine, name)) if (subset, split) == ("eval", "test") else None
        if truth and truth.labelled_name:
            found[subset, machine, split, truth.labelled_name] = attributes
    return found


# -------------------------------------------------------------------------------------------- reporting

Contradiction = tuple[str, str, tuple[Path, ...], str]
"""Machine, what is contradictory, the sources, and the clip."""


_WORDS = {"is_anomaly": "label", "domain": "domain", "labelled_name": "labelled name"}


def _about_clips(said: Said) -> Iterator[Contradiction]:
    for (machine, name), truths in said.items():
        for what in _WORDS:
            values = {path: value for path, t in truths.items() if (value := getattr(t, what)) is not None}
            if len(set(values.values())) > 1:
                yield machine, _WORDS[what], tuple(values), name
    owners: dict[tuple[str, str], dict[str, Path]] = {}
    for (machine, name), truths in said.items():
        for path, truth in truths.items():
            if truth.labelled_name:
                owners.setdefault((machine, truth.labelled_name), {}).setdefault(name, path)
    for (machine, labelled), names in owners.items():
        if len(names) > 1:
            yield machine, "labelled name of several clips", tuple(dict.fromkeys(names.values())), labelled


def _about_attributes(revealed: Revealed) -> Iterator[Contradiction]:
    for (_, machine, _, name), told in revealed.items():
        if len(set(told.values())) > 1:
            yield machine, "attributes", tuple(told), name


def _refuse_contradictions(contradictions: Iterable[Contradiction], folder: Path) -> None:
    """Raises one message that counts the clips per machine, kind of fact and sources."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], str] = {}
    for machine, what, paths, name in contradictions:
        place = machine, what, " against ".join(str(path.relative_to(folder)) for path in paths)
        counts[place] += 1
        example.setdefault(place, name)
    if counts:
        lines = [
            f"  {machine}: {n} x {what} ({files}), for example {example[machine, what, files]}"
            for (machine, what, files), n in sorted(counts.items())
        ]
        raise ValueError(
            "\n".join(
                [f"the ground truth in {folder} contradicts itself:", *lines, "take the wrong file away"]
            )
        )


def _missing(clips: Mapping[Key, Truth], dcase: str, labels: Labels) -> Iterator[str]:
    """What the named clips lack, per machine."""
    for machine in get_year(dcase).machines["eval"]:
        those = [t for (m, _), t in clips.items() if m == machine]
        for what in ("is_anomaly", "domain"):
            n = sum(getattr(t, what) is None for t in those)
            if not n:
                continue
            why = ""
            if (dcase, machine) in _WRONG_LABELLED_NAMES:
                needed = "the evaluator's ground_truth_data and ground_truth_domain"
                if labels == "asdkit":
                    needed = "both eval_data_list_2022.csv and the evaluator's ground_truth_data"
                why = f" (the released names of this machine are other clips': {labels} labels need {needed})"
            yield f"{machine}: {n} of {len(those)} clips have no {_WORDS[what]}{why}"


def _untied(revealed: Revealed, dcase: str) -> Iterator[str]:
    """Attributes of eval test clips whose anonymous names no source tells."""
    counts = Counter(
        machine
        for subset, machine, split, name in revealed
        if (subset, split) == ("eval", "test")
        and parse_name(dcase, subset, split, name).is_anomaly is not None
    )
    for machine, n in counts.items():
        yield f"{machine}: no list tells which {n} test clips the attributes of the correspondence belong to"
