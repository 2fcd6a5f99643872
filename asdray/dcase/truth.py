"""Ground truth of a year: labels and domains of anonymous eval test clips, and hidden attributes.

`asdray.dcase.truth_files` reads the upstream files, and this module merges the sources. No fact is guessed:
contradictions between sources are an error, and a fact in no source is None.

The released labelled names of 2022's ToyCar and ToyTrain belong to other clips: label and domain in these
names are independent of those behind the official ranking. For these two machines

* ``official`` labels take label and domain from the evaluator's ``ground_truth_data`` and
  ``ground_truth_domain`` and ignore the released names, so that the attributes are unknown;
* ``asdkit`` labels reproduce the list of the toolkit ASDKit: right label, domain and attributes of the wrong
  name, anonymous index. The list is rebuilt from the released list and the evaluator, or read from ASDKit's
  own list, recognised by labelled names that all repeat the anonymous index.

For all other machines and years both are equal. ``official`` takes no label from ASDKit's list, although its
labels are right: an official score also needs the domain, and the organisers' files give both.

>>> import pathlib, tempfile
>>> from asdray.dcase.truth import load_ground_truth
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder, "eval_data_list_2023.csv")
...     name = "section_00_target_test_anomaly_0007_vel_12.wav"
...     _ = path.write_text(f"bandsaw\\nsection_00_0000.wav,{name}\\n")
...     truth = load_ground_truth(path.parent, "dcase2023")
>>> clip = truth.get("bandsaw", "section_00_0000.wav")
>>> clip.is_anomaly, clip.domain, clip.source
(True, 'target', 'eval_data_list_2023.csv')
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from asdray.dcase.names import build_name, parse_name
from asdray.dcase.truth_files import Claim, Key, Published, Source, agree, read_sources
from asdray.dcase.years import check_choice, get_year

Labels = Literal["official", "asdkit"]
"""Reading of the labels of 2022's Toy machines."""

ASDKIT = "asdkit"
"""`Truth.source` of labels that reproduce ASDKit's."""

_WRONG_LABELLED_NAMES = {("dcase2022", "ToyCar"), ("dcase2022", "ToyTrain")}


@dataclass(frozen=True)
class Truth:
    """Known facts of one anonymous clip; None = unknown.

    Attributes:
        is_anomaly: the label.
        domain: ``source`` or ``target``.
        labelled_name: regular file name with domain, label and attributes.
        source: source of the label: the list's file name, ``evaluator``, ``correspondence``, or ``asdkit``.
    """

    is_anomaly: bool | None
    domain: str | None
    labelled_name: str | None
    source: str | None


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a year.

    Attributes:
        clips: per (machine, anonymous name) of the eval test split.
        revealed: real attributes of clips whose published names hide them (``noAttribute``), per (subset,
            machine, split, file name); eval test clips under the anonymous name and, if known, the labelled
            name. Recipes that follow the published names do not read these attributes.
        notes: missing facts, one line per machine and kind with the number of clips.
        sources: files and folders read.
    """

    dcase: str
    clips: Mapping[Key, Truth]
    revealed: Mapping[Published, str]
    notes: tuple[str, ...] = ()
    sources: tuple[Path, ...] = field(default=(), compare=False)

    def get(self, machine: str, name: str) -> Truth | None:
        """Known facts of the clip with this anonymous name, or None."""
        return self.clips.get((machine, name))


def load_ground_truth(folder: Path, dcase: str, labels: Labels = "official") -> GroundTruth:
    """Reads every upstream file of the year below ``folder``, in every released form.

    Args:
        labels: ``asdkit`` reproduces the toolkit's labels and domains of 2022's Toy machines.

    Raises:
        ValueError: no such folder; no file of the year below; sources that contradict each other (with
            counts per machine). `WrongGroundTruthError`: files or rows that do not fit the year or cannot be
            read, or a clip that occurs twice in one source; all faults are listed, with file and line.
    """
    year = get_year(dcase)
    check_choice("labels", labels, get_args(Labels))
    check_folder(folder)
    sources = read_sources(folder, dcase)
    if not sources:
        raise ValueError(
            f"{folder} holds no ground truth of {dcase}: expected eval_data_list_{year.year}.csv, the "
            "evaluator's folders ground_truth_data, ground_truth_domain and ground_truth_attributes, or "
            "attributes_<SS>_<train|test>_correspondence.csv in folders named after machines"
        )
    statements = _statements(sources, dcase, labels)
    clips = {key: _merge(truths) for key, truths in statements.items()}
    revealed = _revealed(sources, statements, clips, dcase)
    _refuse_contradictions([*_about_clips(statements), *_about_attributes(revealed)], folder)
    return GroundTruth(
        dcase,
        clips,
        _by_every_name({clip: next(iter(texts.values())) for clip, texts in revealed.items()}, clips),
        (*_missing(clips, dcase, labels), *_unassigned(revealed, dcase)),
        tuple(source.path for source in sources),
    )


def check_folder(folder: Path) -> None:
    """Raises ValueError unless ``folder`` is a folder."""
    if os.path.isdir(folder):
        return
    if os.path.exists(folder):
        raise ValueError(
            f"{folder} is a file, and ground truth is a folder: give the one that holds it, {folder.parent}"
        )
    raise ValueError(f"there is no ground-truth folder {folder}")


# ------------------------------------------------------------------------------------ labels and domains

Statements = dict[Key, dict[Path, Truth]]
"""Per clip the statement of each source, the best source first."""


def _statements(sources: list[Source], dcase: str, labels: Labels) -> Statements:
    """Every source's statement on every clip, without names that are known to be wrong."""
    claims: dict[Key, list[tuple[Source, Claim]]] = {}
    for source in sources:
        for key, claim in source.clips.items():
            claims.setdefault(key, []).append((source, claim))
    asdkit_lists = {(s.path, machine) for s in sources for machine in _with_anonymous_indices(s, dcase)}
    statements: Statements = {}
    for key, pairs in claims.items():
        if (dcase, key[0]) in _WRONG_LABELLED_NAMES:
            if labels == "asdkit":
                lists = {s.path for s, _ in pairs if (s.path, key[0]) in asdkit_lists}
                statements[key] = _as_asdkit(pairs, lists, key, dcase)
                continue
            pairs = [(s, c) for s, c in pairs if c.labelled is None]
        statements[key] = {
            s.path: Truth(
                c.is_anomaly, c.domain, build_name(dcase, "eval", c.labelled) if c.labelled else None, s.kind
            )
            for s, c in pairs
        }
    return statements


def _with_anonymous_indices(source: Source, dcase: str) -> set[str]:
    """Machines whose labelled names all repeat the anonymous index: the mark of ASDKit's list."""
    machines: set[str] = set()
    others: set[str] = set()
    for (machine, name), claim in source.clips.items():
        if (dcase, machine) in _WRONG_LABELLED_NAMES and claim.labelled:
            same = claim.labelled.index == parse_name(dcase, "eval", "test", name).index
            (machines if same else others).add(machine)
    return machines - others


def _as_asdkit(
    pairs: list[tuple[Source, Claim]], lists: set[Path], key: Key, dcase: str
) -> dict[Path, Truth]:
    """Statements of ASDKit's list on a clip; ``lists`` are the sources that are copies of that list."""
    index = parse_name(dcase, "eval", "test", key[1]).index
    labels = {s.path: c.is_anomaly for s, c in pairs if c.labelled is None or s.path in lists}
    label = next((value for value in labels.values() if value is not None), None)
    is_named = any(c.labelled for _, c in pairs)
    statements = {}
    for source, claim in pairs:
        domain = name = None
        if claim.labelled and label is not None:
            domain = claim.labelled.domain
            name = build_name(dcase, "eval", replace(claim.labelled, is_anomaly=label, index=index))
        kind = ASDKIT if is_named else source.kind
        statements[source.path] = Truth(labels.get(source.path), domain, name, kind)
    return statements


def _merge(truths: Mapping[Path, Truth]) -> Truth:
    """One record of sources that agree."""

    def first(attribute: str) -> Any:
        return next((v for t in truths.values() if (v := getattr(t, attribute)) is not None), None)

    source = next((t.source for t in truths.values() if t.is_anomaly is not None), None)
    return Truth(first("is_anomaly"), first("domain"), first("labelled_name"), source)


# ------------------------------------------------------------------------------------- hidden attributes

Revealed = dict[Published, dict[Path, str]]
"""Per clip the attributes in each source."""


def _revealed(
    sources: list[Source], statements: Statements, clips: Mapping[Key, Truth], dcase: str
) -> Revealed:
    """Attributes that sources reveal, and other attributes of the same clips in lists.

    Eval test clips stand under the anonymous name, if known.
    """
    anonymous = {(machine, t.labelled_name): name for (machine, name), t in clips.items() if t.labelled_name}
    revealed: Revealed = {}
    for source in sources:
        for (subset, machine, split, name), attributes in source.revealed.items():
            if (subset, split) == ("eval", "test"):
                name = anonymous.get((machine, name), name)
            revealed.setdefault((subset, machine, split, name), {})[source.path] = attributes
    for (subset, machine, split, name), texts in revealed.items():
        if (subset, split) != ("eval", "test"):
            continue
        for path, truth in statements.get((machine, name), {}).items():
            if truth.labelled_name:
                attributes = parse_name(dcase, subset, split, truth.labelled_name).attributes
                if not any(agree(attributes, real) for real in texts.values()):
                    texts[path] = attributes
    return revealed


def _by_every_name(revealed: Mapping[Published, str], clips: Mapping[Key, Truth]) -> dict[Published, str]:
    """``revealed`` with eval test clips also under the labelled name."""
    found = dict(revealed)
    for (subset, machine, split, name), attributes in revealed.items():
        truth = clips.get((machine, name)) if (subset, split) == ("eval", "test") else None
        if truth and truth.labelled_name:
            found[subset, machine, split, truth.labelled_name] = attributes
    return found


# -------------------------------------------------------------------------------------------- reporting

Contradiction = tuple[str, str, tuple[Path, ...], str]
"""(machine, contradictory fact, sources, clip)"""

_FACTS = {"is_anomaly": "label", "domain": "domain", "labelled_name": "labelled name"}


def _about_clips(statements: Statements) -> Iterator[Contradiction]:
    owners: dict[tuple[str, str], dict[str, Path]] = {}
    for (machine, name), truths in statements.items():
        for attribute, fact in _FACTS.items():
            values = {path: v for path, t in truths.items() if (v := getattr(t, attribute)) is not None}
            if len(set(values.values())) > 1:
                yield machine, fact, tuple(values), name
        for path, truth in truths.items():
            if truth.labelled_name:
                owners.setdefault((machine, truth.labelled_name), {}).setdefault(name, path)
    for (machine, labelled), names in owners.items():
        if len(names) > 1:
            yield machine, "labelled name of several clips", tuple(dict.fromkeys(names.values())), labelled


def _about_attributes(revealed: Revealed) -> Iterator[Contradiction]:
    for (_, machine, _, name), texts in revealed.items():
        if len(set(texts.values())) > 1:
            yield machine, "attributes", tuple(texts), name


def _refuse_contradictions(contradictions: Iterable[Contradiction], folder: Path) -> None:
    """Raises one message with the number of clips per machine, fact and sources."""
    clips: dict[tuple[str, str, str], list[str]] = {}
    for machine, fact, paths, name in contradictions:
        files = " against ".join(str(path.relative_to(folder)) for path in paths)
        clips.setdefault((machine, fact, files), []).append(name)
    if clips:
        lines = [
            f"  {machine}: {len(names)} x {fact} ({files}), for example {names[0]}"
            for (machine, fact, files), names in sorted(clips.items())
        ]
        head = f"the ground truth in {folder} contradicts itself:"
        raise ValueError("\n".join([head, *lines, "take the wrong file away"]))


def _missing(clips: Mapping[Key, Truth], dcase: str, labels: Labels) -> Iterator[str]:
    """Missing labels and domains of the clips in the sources, per machine."""
    for machine in get_year(dcase).machines["eval"]:
        truths = [t for (m, _), t in clips.items() if m == machine]
        for attribute in ("is_anomaly", "domain"):
            n = sum(getattr(t, attribute) is None for t in truths)
            if not n:
                continue
            why = ""
            if (dcase, machine) in _WRONG_LABELLED_NAMES:
                needed = "the evaluator's ground_truth_data and ground_truth_domain"
                if labels == "asdkit":
                    needed = "both eval_data_list_2022.csv and the evaluator's ground_truth_data"
                why = f" (the released names of this machine are other clips': {labels} labels need {needed})"
            yield f"{machine}: {n} of {len(truths)} clips have no {_FACTS[attribute]}{why}"


def _unassigned(revealed: Revealed, dcase: str) -> Iterator[str]:
    """Attributes of eval test clips whose anonymous names are in no source."""
    counts = Counter(
        machine
        for subset, machine, split, name in revealed
        if (subset, split) == ("eval", "test")
        and parse_name(dcase, subset, split, name).is_anomaly is not None
    )
    for machine, n in counts.items():
        yield f"{machine}: no list tells which {n} test clips the attributes of the correspondence belong to"
