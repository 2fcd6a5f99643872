"""The plan of a synthetic dataset: every clip's names and folder, and the text files beside the clips.

The plan knows no sounds. The running index of an anonymous name is a random permutation per machine and
section, and carries no information. Text files are attribute CSVs, and the ground truth in every form of the
year.

>>> from asdray.dcase.synth.layout import Spec, ground_truth, plan
>>> spec = Spec("dcase2023", ("bandsaw",), train=4, test=4, seconds=1.0, seed=0)
>>> clips = plan(spec)
>>> len(clips), clips[-1].key, clips[-1].label
(8, 'eval/bandsaw/train/section_00_target_train_normal_0000_vel_12.wav', 'normal')
>>> sorted(ground_truth(spec, clips))[0]
'eval_data_list_2023.csv'
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from asdray.dcase.synth.attributes import Attributes, Values, attributes_of
from asdray.dcase.synth.clips import STYLES, TOYS, Clip, Namer
from asdray.dcase.synth.sounds import generator
from asdray.dcase.years import Subset, get_year

GENERATOR = 3
"""Version of all names and sounds: raise it with any change of either."""

CELLS = (("source", "normal"), ("target", "normal"), ("source", "anomaly"), ("target", "anomaly"))

UNPUBLISHED = (350, 265)
"""Normal and anomalous test clips per section of 2020's dev set; only its ToyCar has published counts."""


@dataclass(frozen=True)
class Spec:
    """Everything that determines a synthetic dataset.

    Attributes:
        train, test: clips per machine and section; None = as many as the organisers' dataset.
        seconds: length of every clip.
        generator: `GENERATOR` of the asdray that made the dataset.
        hard: sounds of `asdray.dcase.synth.hard`.
    """

    dcase: str
    machines: tuple[str, ...]
    train: int | None
    test: int | None
    seconds: float
    seed: int
    generator: int = GENERATOR
    hard: bool = False

    def as_json(self) -> dict[str, Any]:
        """The specification in ``synthetic.json``; without ``hard`` if that is false."""
        value = {**asdict(self), "machines": list(self.machines)}
        return value if self.hard else {k: v for k, v in value.items() if k != "hard"}


def plan(spec: Spec) -> tuple[Clip, ...]:
    """Every clip of the dataset, ordered by key, so that the order of writing tells nothing about a clip."""
    year = get_year(spec.dcase)
    clips = [
        clip
        for machine in spec.machines
        for subset in year.subsets_of(machine)
        for section in year.sections[subset][machine]
        for clip in _Section(spec, subset, machine, section).clips()
    ]
    return tuple(sorted(clips, key=lambda clip: clip.key))


def target_clips(dcase: str, train: int) -> int:
    """Number of target clips among ``train`` clips: 10 of 1000 as in the real data, 10 of 100, 3 of 12."""
    year = get_year(dcase)
    if "target" not in year.domains:
        return 0
    few = 3 if train >= 12 else 1
    if year.train_per_section["target"] < 10:
        return few
    return max(train // 100, min(10, max(few, train // 10)))


def _train_counts(spec: Spec) -> tuple[int, int]:
    """Source and target training clips of a section."""
    if spec.train is None:
        counts = get_year(spec.dcase).train_per_section
        return counts["source"], counts.get("target", 0)
    target = target_clips(spec.dcase, spec.train)
    return spec.train - target, target


def _test_counts(spec: Spec, place: tuple[Subset, str, int]) -> dict[tuple[str, str], int]:
    """Test clips of a section per domain and label."""
    year = get_year(spec.dcase)
    cells = [cell for cell in CELLS if cell[0] in year.domains]
    if spec.test is not None:
        return {cell: (spec.test + len(cells) - 1 - i) // len(cells) for i, cell in enumerate(cells)}
    usual = UNPUBLISHED if year.test_per_cell is None else (year.test_per_cell, year.test_per_cell)
    return {
        (domain, label): year.test_counts.get((*place, domain), usual)[label == "anomaly"]
        for domain, label in cells
    }


def _variants(attributes: Attributes, source: int, target: int) -> dict[tuple[str, ...], tuple[Values, ...]]:
    """Variants in use per (split, domain, label): all at the size of the real data, fewer for few clips.

    A handful of clips spread over 18 variants would be too few to learn a variant from.
    """
    n_source = min(len(attributes.source), max(2, source // 8))
    n_target = len(attributes.target) if source >= 900 else min(len(attributes.target), max(1, target // 3))
    step = len(attributes.source) / n_source
    some = tuple(attributes.source[int(i * step)] for i in range(n_source))
    seen = attributes.target[:n_target]
    everything = n_source == len(attributes.source) and n_target == len(attributes.target)
    test = seen + attributes.unseen if everything else seen
    own = attributes.anomalous if everything else ((), ())
    return {
        ("train", "source", "normal"): some,
        ("train", "target", "normal"): seen,
        ("test", "source", "normal"): some,
        ("test", "target", "normal"): test,
        ("test", "source", "anomaly"): own[0] or some,
        ("test", "target", "anomaly"): own[1] or test,
    }


_Test = tuple[str, str, int, Values]
"""(domain, label, index within the cell, attribute values) of a test clip"""


class _Section:
    """The clips of one section."""

    def __init__(self, spec: Spec, subset: Subset, machine: str, section: int) -> None:
        self.spec, self.subset, self.machine = spec, subset, machine
        self.style = STYLES[spec.dcase]
        attributes = attributes_of(spec.dcase, machine, section)
        self.rng = generator("plan", spec.seed, spec.dcase, machine, section)
        self.train = _train_counts(spec)
        self.cells = _test_counts(spec, (subset, machine, section))
        self.variants = _variants(attributes, *self.train)
        self.namer = Namer(spec.dcase, subset, machine, section, attributes)

    def clips(self) -> Iterator[Clip]:
        """Training, test and supplemental clips; the order of random draws is part of the dataset."""
        yield from self._training()
        tests = [
            (domain, label, i, values)
            for (domain, label), count in self.cells.items()
            for i, values in self._pick("test", domain, label, count)
        ]
        yield from self._dev_test(tests) if self.subset == "dev" else self._eval_test(tests)
        if usual := get_year(self.spec.dcase).supplemental_per_section:
            pool = self.variants["train", "source", "normal"]
            for i in range(usual if self.spec.train is None else max(4, self.spec.train // 10)):
                yield self.namer.supplemental(i, pool[i % len(pool)])

    def _pick(self, split: str, domain: str, label: str, count: int) -> Iterator[tuple[int, Values]]:
        """``count`` indices and variants: every variant equally often, in random order."""
        pool = self.variants[split, domain, label]
        order = (self.rng.permutation(count) % max(len(pool), 1)).tolist()
        return ((i, pool[k]) for i, k in enumerate(order))

    def _training(self) -> Iterator[Clip]:
        style, machine = self.style, self.machine
        for domain, count in zip(("source", "target"), self.train, strict=True):
            before = self.train[0] if domain == "target" and machine in style.target_continues else 0
            for i, values in self._pick("train", domain, "normal", count):
                real = before + i + (machine in style.one_based or machine in style.shifted)
                index = real % count if machine in style.shifted else real
                yield self.namer.clip("train", domain, "normal", values, index, real)

    def _dev_test(self, tests: list[_Test]) -> Iterator[Clip]:
        for domain, label, i, values in tests:
            index = real = i + (self.machine in self.style.one_based)
            if self.machine in self.style.renumbered:
                index = self.cells[domain, label] - 1 - i
            yield self.namer.clip("test", domain, label, values, index, real)

    def _eval_test(self, tests: list[_Test]) -> list[Clip]:
        """Test clips under anonymous names."""
        style, machine, seed = self.style, self.machine, self.spec.seed
        if style.names == "domains":
            in_domain = Counter(test[0] for test in tests)
            anonymous = [n for d in ("source", "target") for n in self.rng.permutation(in_domain[d])]
            tests.sort(key=lambda test: test[0])
        else:
            anonymous = list(self.rng.permutation(len(tests)))
        recorded = generator("recordings", seed, machine).permutation(min(10 * len(tests), 10_000))
        clips = []
        for n, (domain, label, i, values) in enumerate(tests):
            index = shown = int(anonymous[n]) + (machine in style.anonymous_one_based)
            if machine in style.recordings:
                index = int(recorded[n])
            elif machine in style.own_index:
                before = self.cells["source", label] if domain == "target" else 0
                index = i + (machine in style.own_one_based) + before * (machine in style.target_continues)
            clips.append(self.namer.clip("test", domain, label, values, index, index, shown))
        return _with_wrong_names(clips, seed) if machine in style.wrong_names else clips


def _with_wrong_names(clips: list[Clip], seed: int) -> list[Clip]:
    """2022's Toy machines: each clip is listed under the name of another clip, drawn at random."""
    rng = generator("wrong names", seed, clips[0].machine, clips[0].section)
    return [
        replace(clip, attributes="", labelled_name=None, listed_name=clips[other].listed_name)
        for clip, other in zip(clips, rng.permutation(len(clips)), strict=True)
    ]


# ------------------------------------------------------------------------------------------------- text files


def attribute_csvs(spec: Spec, clips: Iterable[Clip]) -> dict[tuple[Subset, str, str], str]:
    """Content of ``attributes_<SS>.csv`` per (subset, machine, file name).

    A CSV lists all clips except anonymous and supplemental ones; names alone if names hide the attributes.
    """
    year = get_year(spec.dcase)
    if not year.attribute_csv:
        return {}
    rows: dict[tuple[Subset, str, str], list[str]] = {}
    for clip in clips:
        if clip.anonymous is not None or clip.split == "supplemental":
            continue
        attributes = attributes_of(spec.dcase, clip.machine, clip.section)
        hidden = clip.machine in year.hidden_attributes
        place = (clip.subset, clip.machine, f"attributes_{clip.section:02d}.csv")
        head = ["file_name", *([] if hidden else _parameter_head(attributes))]
        stem = clip.name.removesuffix(".wav")
        name = stem if clip.machine in TOYS else f"{clip.machine}/{clip.split}/{clip.name}"
        cells = [] if hidden else _parameters(attributes, clip)
        rows.setdefault(place, [",".join(head)]).append(",".join([name, *cells]))
    return {place: "\n".join(lines) + "\n" for place, lines in rows.items()}


def _parameter_head(attributes: Attributes) -> list[str]:
    return [f"d{i}{w}" for i in range(1, len(attributes.csv_keys) + 1) for w in "pv"]


def _parameters(attributes: Attributes, clip: Clip) -> list[str]:
    return [c for i in attributes.csv_keys for c in (attributes.keys[i].csv_word, clip.values[i])]


def ground_truth(spec: Spec, clips: Iterable[Clip]) -> dict[str, str]:
    """Content of every file of the ground-truth folder, per relative path.

    The list, the evaluator's folders, and the correspondences, as far as the year has them.
    """
    year, style = get_year(spec.dcase), STYLES[spec.dcase]
    clips = tuple(clips)
    files: dict[str, str] = {}
    lines = []
    for machine in year.machines["eval"]:
        block = [c for c in clips if c.machine == machine and c.anonymous is not None]
        if not block:
            continue
        if machine in style.grouped:
            block = sorted(block, key=lambda c: (c.domain, c.label, c.name))
        if machine in style.zero_last:
            block = sorted(block, key=lambda c: (c.anonymous == 0, c.name))
        lines += [machine, *(_list_row(spec, c) for c in block)]
        for section, members in itertools.groupby(
            sorted(block, key=lambda c: c.key), key=lambda c: c.section
        ):
            files |= _evaluator_files(spec, machine, section, list(members))
    if lines and style.newline:
        files[f"eval_data_list_{year.year}.csv"] = "".join(line + style.newline for line in lines)
    return files | _correspondences(spec, clips)


def _list_row(spec: Spec, clip: Clip) -> str:
    row = f"{clip.name},{clip.listed_name}"
    return f"{row},{int(bool(clip.is_anomaly))}" if STYLES[spec.dcase].names == "ids" else row


def _evaluator_files(spec: Spec, machine: str, section: int, clips: list[Clip]) -> dict[str, str]:
    match STYLES[spec.dcase].evaluator:
        case None:
            return {}
        case "labels":
            return _labels_per_domain(machine, section, clips)
        case "tables":
            path = f"ground_truth_attributes/{machine}/attributes_{section:02d}.csv"
            extra = {path: _table(spec, machine, section, clips)}
        case "pairs":
            path = f"ground_truth_attributes/ground_truth_{machine}_section_{section:02d}_test.csv"
            extra = {path: _pairs(spec, machine, clips)}
    name = f"ground_truth_{machine}_section_{section:02d}_test.csv"
    labels = "".join(f"{c.name},{int(bool(c.is_anomaly))}\n" for c in clips)
    domains = "".join(f"{c.name},{int(c.domain == 'target')}\n" for c in clips)
    return {f"ground_truth_data/{name}": labels, f"ground_truth_domain/{name}": domains, **extra}


def _labels_per_domain(machine: str, section: int, clips: list[Clip]) -> dict[str, str]:
    """2021: a file per domain; one file has other line ends."""
    files = {}
    for domain in ("source", "target"):
        newline = "\r\n" if (machine, section, domain) == ("fan", 5, "target") else "\n"
        rows = [f"{c.name},{int(bool(c.is_anomaly))}" for c in clips if c.domain == domain]
        path = f"ground_truth_data/ground_truth_{machine}_section_{section:02d}_{domain}_test.csv"
        files[path] = "".join(row + newline for row in rows)
    return files


def _table(spec: Spec, machine: str, section: int, clips: list[Clip]) -> str:
    """2022: rows with the parameters of the labelled name's clip, which may be another clip."""
    attributes = attributes_of(spec.dcase, machine, section)
    full = "file_name_with_attributes" if machine in TOYS else "file_name_with_full_attributes"
    owners = {c.full_name: c for c in clips}
    rows = [",".join(["file_name", *_parameter_head(attributes), full])]
    for c in clips:
        cells = _parameters(attributes, owners[c.listed_name or ""])
        rows.append(",".join([f"{machine}/test/{c.name}", *cells, f"{machine}/test/{c.listed_name}"]))
    return "\n".join(rows) + "\n"


def _pairs(spec: Spec, machine: str, clips: list[Clip]) -> str:
    rows = [[c.name, (c.listed_name or "").removesuffix(".wav")] for c in clips]
    if machine not in STYLES[spec.dcase].third_column:
        return "".join(",".join(row) + "\n" for row in rows)
    return "".join(f"{','.join(row)},{c.full_name}\r\n" for row, c in zip(rows, clips, strict=True))


def _correspondences(spec: Spec, clips: tuple[Clip, ...]) -> dict[str, str]:
    """Full and published names of clips with hidden attributes, as far as these are revealed."""
    year, newline = get_year(spec.dcase), STYLES[spec.dcase].correspondences
    rows: dict[str, list[str]] = {}
    for clip in sorted(clips, key=lambda c: c.full_name):
        if newline is None or clip.revealed is None:
            continue
        # Attributes shown in the 2025 list correspond to the anonymous name, not to a labelled name.
        shown = clip.name if clip.attributes == clip.revealed else clip.labelled_name
        path = (
            f"ground_truth_attributes/{year.name}t2/{clip.subset}_data/{clip.machine}/"
            f"attributes_{clip.section:02d}_{clip.split}_correspondence.csv"
        )
        head = ["source_file_name,target_file_name"]
        rows.setdefault(path, head).append(f"{clip.full_name},{shown}")
    return {path: "".join(row + (newline or "") for row in lines) for path, lines in rows.items()}
