"""Which clips a synthetic dataset has, and every name, folder and list of them, as its year ships them.

Nothing here knows how a clip sounds. The running index of an anonymous name is a random permutation per
machine and section and carries no information.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from asdray.dcase.synth.attributes import Attributes, Values, attributes_of
from asdray.dcase.synth.voice import generator
from asdray.dcase.years import Subset, get_year

GENERATOR = 2
"""Version of everything that decides names and sounds: raise it with any change of either."""

CELLS = (("source", "normal"), ("target", "normal"), ("source", "anomaly"), ("target", "anomaly"))


@dataclass(frozen=True)
class Spec:
    """All that a synthetic dataset depends on."""

    dcase: str
    machines: tuple[str, ...]
    train: int
    test: int
    seconds: float
    seed: int
    generator: int = GENERATOR

    def as_json(self) -> dict[str, Any]:
        """The specification as it stands in ``synthetic.json``."""
        return {**asdict(self), "machines": list(self.machines)}


@dataclass(frozen=True)
class Clip:
    """One clip of the plan: what it is, and how it is called.

    Attributes:
        index: the number in its labelled name.
        anonymous: the number in its shipped name where the label is hidden (eval test), else None.
        values: attribute values, one per key.
        attributes: the same as they stand in names.
    """

    subset: Subset
    machine: str
    section: int
    split: str
    domain: str
    label: str
    index: int
    anonymous: int | None
    values: Values
    attributes: str

    @property
    def labelled_name(self) -> str:
        """``section_00_source_test_anomaly_0005_vel_15.wav``."""
        return (
            f"section_{self.section:02d}_{self.domain}_{self.split}_{self.label}_{self.index:04d}"
            f"_{self.attributes}.wav"
        )

    @property
    def name(self) -> str:
        """The file name as shipped: anonymous for the eval test clips."""
        if self.anonymous is None:
            return self.labelled_name
        return f"section_{self.section:02d}_{self.anonymous:04d}.wav"

    @property
    def key(self) -> str:
        """``<subset>/<machine>/<split>/<file name as shipped>``."""
        return f"{self.subset}/{self.machine}/{self.split}/{self.name}"


@dataclass(frozen=True)
class Style:
    """How a year numbers and lists its clips.

    Attributes:
        one_based: machines whose dev and training clips are counted from 1.
        own_index: machines whose labelled eval test clips have an index per cell (from ``eval_base``);
            the others repeat the anonymous index.
        grouped: machines whose block of the evaluation list is ordered by domain and label.
        newline: of the evaluation list.
        attribute_tables: 2022's form of the evaluator's attributes (a CSV with parameters), not 2023's pairs.
    """

    one_based: frozenset[str]
    own_index: frozenset[str]
    eval_base: int
    grouped: frozenset[str]
    newline: str
    attribute_tables: bool


_TOYS = frozenset({"ToyCar", "ToyTrain", "ToyDrone", "ToyNscale", "ToyTank", "Vacuum"})
"""Machines with the naming habits of the ToyADMOS recordings; the others have those of MIMII."""

STYLES = {
    "dcase2022": Style(frozenset(), _TOYS, 0, frozenset(), "\n", True),
    "dcase2023": Style(
        frozenset({"ToyCar", "ToyTrain"}),
        _TOYS,
        1,
        frozenset({"bandsaw", "grinder", "shaker"}),
        "\r\n",
        False,
    ),
}


def target_clips(train: int) -> int:
    """How many of ``train`` clips are target ones: 10 of 1000 as in the real data, 10 of 100, 3 of 12."""
    return max(train // 100, min(10, max(3 if train >= 12 else 1, train // 10)))


def _variants(attributes: Attributes, source: int, target: int) -> dict[tuple[str, str], tuple[Values, ...]]:
    """The variants in use per (split, domain): all at the size of the real data, fewer where clips are few.

    A handful of clips spread over 18 variants would leave nothing to learn a variant from.
    """
    n_source = min(len(attributes.source), max(2, source // 8))
    n_target = len(attributes.target) if source >= 900 else min(len(attributes.target), max(1, target // 3))
    step = len(attributes.source) / n_source
    some = tuple(attributes.source[int(i * step)] for i in range(n_source))
    seen = attributes.target[:n_target]
    everything = n_source == len(attributes.source) and n_target == len(attributes.target)
    return {
        ("train", "source"): some,
        ("test", "source"): some,
        ("train", "target"): seen,
        ("test", "target"): seen + attributes.unseen if everything else seen,
    }


def _section(spec: Spec, subset: Subset, machine: str, section: int) -> Iterator[Clip]:
    """The clips of one section: training, then test."""
    style = STYLES[spec.dcase]
    attributes = attributes_of(spec.dcase, machine, section)
    rng = generator("plan", spec.seed, spec.dcase, machine, section)
    target = target_clips(spec.train)
    variants = _variants(attributes, spec.train - target, target)
    base = int(machine in style.one_based)

    def clips(split: str, domain: str, label: str, count: int) -> Iterator[Clip]:
        pool = variants[split, domain]
        # Every variant equally often, in random order.
        for index, pick in enumerate(rng.permutation(count) % len(pool)):
            values = pool[pick]
            yield Clip(
                subset, machine, section, split, domain, label, base + index, None, values,
                attributes.text(values),
            )  # fmt: skip

    yield from clips("train", "source", "normal", spec.train - target)
    yield from clips("train", "target", "normal", target)
    tests = [
        clip
        for cell, (domain, label) in enumerate(CELLS)
        for clip in clips("test", domain, label, (spec.test + len(CELLS) - 1 - cell) // len(CELLS))
    ]
    if subset == "dev":
        yield from tests
        return
    for clip, anonymous in zip(tests, rng.permutation(len(tests)).tolist(), strict=True):
        index = clip.index - base + style.eval_base if machine in style.own_index else anonymous
        yield Clip(**{**clip.__dict__, "anonymous": anonymous, "index": index})


def plan(spec: Spec) -> tuple[Clip, ...]:
    """Every clip of the dataset, ordered by key, so that the order of writing tells nothing about a clip."""
    year = get_year(spec.dcase)
    clips = [
        clip
        for machine in spec.machines
        for subset in year.subsets_of(machine)
        for section in year.sections[subset][machine]
        for clip in _section(spec, subset, machine, section)
    ]
    return tuple(sorted(clips, key=lambda clip: clip.key))


def attribute_csvs(spec: Spec, clips: Iterable[Clip]) -> dict[tuple[Subset, str, str], str]:
    """Content of ``attributes_<SS>.csv`` per (subset, machine, file name): all clips whose names are open."""
    rows: dict[tuple[Subset, str, str], list[str]] = {}
    for clip in clips:
        if clip.anonymous is not None:
            continue
        attributes = attributes_of(spec.dcase, clip.machine, clip.section)
        place = (clip.subset, clip.machine, f"attributes_{clip.section:02d}.csv")
        head = ["file_name", *(f"d{i}{w}" for i in range(1, len(attributes.csv_keys) + 1) for w in "pv")]
        name = (
            clip.name.removesuffix(".wav")
            if clip.machine in _TOYS
            else f"{clip.machine}/{clip.split}/{clip.name}"
        )
        cells = [c for i in attributes.csv_keys for c in (attributes.keys[i].csv_word, clip.values[i])]
        rows.setdefault(place, [",".join(head)]).append(",".join([name, *cells]))
    return {place: "\n".join(lines) + "\n" for place, lines in rows.items()}


def ground_truth(spec: Spec, clips: Iterable[Clip]) -> dict[str, str]:
    """Every file of the ground-truth folder by its path there: the list and the evaluator's folders."""
    year, style = get_year(spec.dcase), STYLES[spec.dcase]
    hidden: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.anonymous is not None:
            hidden.setdefault(clip.machine, []).append(clip)
    if not hidden:
        return {}
    lines = []
    files: dict[str, str] = {}
    for machine in (m for m in year.machines["eval"] if m in hidden):
        block = hidden[machine]
        if machine in style.grouped:
            block = sorted(block, key=lambda c: (c.domain, c.label, c.name))
        lines += [machine, *(f"{clip.name},{clip.labelled_name}" for clip in block)]
        for section in sorted({clip.section for clip in block}):
            files |= _evaluator_files(
                spec, machine, section, [c for c in hidden[machine] if c.section == section]
            )
    files[f"eval_data_list_{year.year}.csv"] = "".join(line + style.newline for line in lines)
    return files


def _evaluator_files(spec: Spec, machine: str, section: int, clips: list[Clip]) -> dict[str, str]:
    name = f"ground_truth_{machine}_section_{section:02d}_test.csv"
    files = {
        f"ground_truth_data/{name}": [f"{c.name},{int(c.label == 'anomaly')}" for c in clips],
        f"ground_truth_domain/{name}": [f"{c.name},{int(c.domain == 'target')}" for c in clips],
    }
    if STYLES[spec.dcase].attribute_tables:
        attributes = attributes_of(spec.dcase, machine, section)
        pairs = [f"d{i}{w}" for i in range(1, len(attributes.csv_keys) + 1) for w in "pv"]
        full = "file_name_with_attributes" if machine in _TOYS else "file_name_with_full_attributes"
        rows = [",".join(["file_name", *pairs, full])]
        for c in clips:
            cells = [x for i in attributes.csv_keys for x in (attributes.keys[i].csv_word, c.values[i])]
            rows.append(",".join([f"{machine}/test/{c.name}", *cells, f"{machine}/test/{c.labelled_name}"]))
        files[f"ground_truth_attributes/{machine}/attributes_{section:02d}.csv"] = rows
    else:
        files[f"ground_truth_attributes/{name}"] = [
            f"{c.name},{c.labelled_name.removesuffix('.wav')}" for c in clips
        ]
    return {path: "\n".join(rows) + "\n" for path, rows in files.items()}
