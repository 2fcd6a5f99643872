"""Which clips a synthetic dataset has, and every name and folder of them, as its year ships them.

Nothing here knows how a clip sounds. The running index of an anonymous name is a random permutation per
machine and section and carries no information.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from asdray.dcase.synth.attributes import Attributes, Values
from asdray.dcase.synth.clips import Clip, Namer
from asdray.dcase.synth.styles import STYLES
from asdray.dcase.synth.tables import attributes_of
from asdray.dcase.synth.voice import generator
from asdray.dcase.years import Subset, get_year

GENERATOR = 3
"""Version of everything that decides names and sounds: raise it with any change of either."""

CELLS = (("source", "normal"), ("target", "normal"), ("source", "anomaly"), ("target", "anomaly"))

UNPUBLISHED = (350, 265)
"""Normal and anomalous test clips per section of 2020's dev set; only those of its ToyCar are published."""


@dataclass(frozen=True)
class Spec:
    """All that a synthetic dataset depends on; ``train``, ``test`` None = as many clips as the real one."""

    dcase: str
    machines: tuple[str, ...]
    train: int | None
    test: int | None
    seconds: float
    seed: int
    generator: int = GENERATOR

    def as_json(self) -> dict[str, Any]:
        """The specification as it stands in ``synthetic.json``."""
        return {**asdict(self), "machines": list(self.machines)}


def target_clips(dcase: str, train: int) -> int:
    """How many of ``train`` clips are target ones: 10 of 1000 as in the real data, 10 of 100, 3 of 12."""
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
    """The variants in use per (split, domain, label): all at the size of the real data, fewer where clips
    are few.

    A handful of clips spread over 18 variants would leave nothing to learn a variant from.
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


def _section(spec: Spec, subset: Subset, machine: str, section: int) -> Iterator[Clip]:
    """The clips of one section: training, test, supplemental."""
    style = STYLES[spec.dcase]
    attributes = attributes_of(spec.dcase, machine, section)
    rng = generator("plan", spec.seed, spec.dcase, machine, section)
    n_source, n_target = _train_counts(spec)
    variants = _variants(attributes, n_source, n_target)
    namer = Namer(spec.dcase, subset, machine, section, attributes)

    def pick(split: str, domain: str, label: str, count: int) -> Iterator[tuple[int, Values]]:
        pool = variants[split, domain, label]
        # Every variant equally often, in random order.
        return ((i, pool[k]) for i, k in enumerate((rng.permutation(count) % max(len(pool), 1)).tolist()))

    for domain, count in (("source", n_source), ("target", n_target)):
        before = n_source if domain == "target" and machine in style.target_continues else 0
        for i, values in pick("train", domain, "normal", count):
            real = before + i + (machine in style.one_based or machine in style.shifted)
            index = real % count if machine in style.shifted else real
            yield namer.clip("train", domain, "normal", values, index, real)
    cells = _test_counts(spec, (subset, machine, section))
    tests = [
        (domain, label, i, cells["source", label] if domain == "target" else 0, values)
        for (domain, label), count in cells.items()
        for i, values in pick("test", domain, label, count)
    ]
    if subset == "dev":
        for domain, label, i, _, values in tests:
            index = real = i + (machine in style.one_based)
            if machine in style.renumbered:
                index = cells[domain, label] - 1 - i
            yield namer.clip("test", domain, label, values, index, real)
    else:
        if style.names == "domains":
            anonymous = [
                n for d in ("source", "target") for n in rng.permutation(sum(t[0] == d for t in tests))
            ]
            tests.sort(key=lambda test: test[0])
        else:
            anonymous = list(rng.permutation(len(tests)))
        recorded = generator("recordings", spec.seed, machine).permutation(min(10 * len(tests), 10_000))
        hidden = []
        for n, (domain, label, i, before, values) in enumerate(tests):
            shown = int(anonymous[n]) + (machine in style.anonymous_one_based)
            index = shown
            if machine in style.recordings:
                index = int(recorded[n])
            elif machine in style.own_index:
                index = i + (machine in style.own_one_based) + before * (machine in style.target_continues)
            hidden.append(namer.clip("test", domain, label, values, index, index, shown))
        yield from _with_wrong_names(hidden, spec.seed) if machine in style.wrong_names else hidden
    if usual := get_year(spec.dcase).supplemental_per_section:
        pool = variants["train", "source", "normal"]
        for i in range(usual if spec.train is None else max(4, spec.train // 10)):
            yield namer.supplemental(i, pool[i % len(pool)])


def _with_wrong_names(clips: list[Clip], seed: int) -> list[Clip]:
    """2022's Toy machines: each clip is listed under the name of another one, drawn at random."""
    rng = generator("wrong names", seed, clips[0].machine, clips[0].section)
    return [
        replace(clip, attributes="", labelled_name=None, listed_name=clips[other].listed_name)
        for clip, other in zip(clips, rng.permutation(len(clips)), strict=True)
    ]


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
