"""Facts of every DCASE Challenge Task 2 year, in one table; the module imports nothing else of asdray.

DCASE Task 2 asks for anomalous sound detection: a system is trained on normal recordings of machines and
scores unseen recordings by how anomalous they sound. Each year has two *subsets* of machines: ``dev``
(development, labels published) and ``eval`` (evaluation, labels published after the challenge). The clips
of a machine are grouped into *sections* (2020: machine ids), and since 2021 into two *domains*: ``source``
(many training clips) and ``target`` (a few, recorded under other conditions).

Conventions: a year is addressed by its name (``dcase2023``); machines stand in the organisers' order; counts
are clips; durations are seconds and the maximum per machine (the length that systems pad or crop to), not
the length of each clip.

>>> from asdray.dcase.years import get_year
>>> year = get_year("dcase2023")
>>> year.machines["eval"][:2], year.sections["eval"]["bandsaw"], year.durations["bandsaw"]
(('bandsaw', 'grinder'), (0,), 10.0)

Source: the organisers' dataset descriptions and baselines of 2020-2026; counts of 2021-2025 from the
released evaluation lists.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Subset = Literal["dev", "eval"]
SUBSETS: tuple[Subset, Subset] = ("dev", "eval")

SAMPLE_RATE = 16000
"""Hz; the same in all years and for all machines."""

NO_ATTRIBUTE = "noAttribute"
"""Spelling of a hidden attribute in file names since 2024."""

ScoreRule = Literal["machine_mean", "own_domain", "both_domains"]
"""Terms of the official score, and their mean.

* ``machine_mean`` (2020): arithmetic mean of AUC and pAUC over ids, then over machines.
* ``own_domain`` (2021): harmonic mean of AUC and pAUC of each domain against its own anomalies.
* ``both_domains`` (2022-): harmonic mean of the AUC of each domain's normals against the anomalies of
  both domains, and one pAUC over both domains.
"""


_ALL_COUNTS = frozenset((subset, split) for subset in SUBSETS for split in ("train", "test"))


@dataclass(frozen=True)
class Year:
    """One challenge year.

    Attributes:
        name: ``dcase2023``.
        year: 2023.
        machines: machine types of each subset, in the order of the organisers' evaluation list.
        sections: section numbers (2020: machine ids) per subset and machine.
        domains: ``("source",)`` in 2020, ``("source", "target")`` since.
        score_rule: terms and mean of the official score.
        durations: maximum clip length per machine in seconds.
        channels: 1, or 2 in 2026 (0 = near microphone, 1 = far).
        hidden_attributes: machines with ``noAttribute`` in the names of their training clips.
        train_per_section: nominal normal training clips per (machine, section) and domain.
        test_per_cell: nominal test clips per (machine, section, domain, label); None where counts vary.
        test_counts: (normal, anomaly) per (subset, machine, section, domain) that is not nominal.
        exact_counts: (subset, split) pairs with exact counts; of the others only the order of magnitude is
            published.
        test_totals_only: subsets whose test clips are counted per section only, not per domain and label.
        supplemental_per_section: supplemental clips per (machine, section).
        has_supplemental: machines come with a ``supplemental`` folder.
        split_test_folders: 2021 ships ``source_test`` and ``target_test`` in place of ``test``.
        attribute_csv: machines come with ``attributes_<SS>.csv``.
        has_decisions: submissions hold decisions beside the scores.
        evaluator_machines: column order of the eval machines in the official evaluator's tables; empty if
            equal to ``machines``.
        longest_only: machines of which ``durations`` is a bound alone, since their lengths are unpublished.
        score_provenance: a sentence that says where `score_rule` is known from, for a year whose evaluator
            was not read; else empty.
    """

    name: str
    year: int
    machines: Mapping[Subset, tuple[str, ...]]
    sections: Mapping[Subset, Mapping[str, tuple[int, ...]]]
    score_rule: ScoreRule
    durations: Mapping[str, float]
    domains: tuple[str, ...] = ("source", "target")
    channels: int = 1
    hidden_attributes: frozenset[str] = frozenset()
    train_per_section: Mapping[str, int] = field(default_factory=lambda: {"source": 990, "target": 10})
    test_per_cell: int | None = 50
    test_counts: Mapping[tuple[str, str, int, str], tuple[int, int]] = field(default_factory=dict)
    exact_counts: frozenset[tuple[str, str]] = _ALL_COUNTS
    test_totals_only: frozenset[str] = frozenset()
    supplemental_per_section: int | None = None
    has_supplemental: bool = False
    split_test_folders: bool = False
    attribute_csv: bool = True
    has_decisions: bool = True
    evaluator_machines: tuple[str, ...] = ()
    longest_only: frozenset[str] = frozenset()
    score_provenance: str = ""

    @property
    def all_machines(self) -> tuple[str, ...]:
        """Every machine type of the year once, dev machines first."""
        return tuple(dict.fromkeys(self.machines["dev"] + self.machines["eval"]))

    def subsets_of(self, machine: str) -> tuple[Subset, ...]:
        """Subsets in which ``machine`` has clips."""
        return tuple(s for s in SUBSETS if machine in self.machines[s])

    @property
    def duration_max(self) -> float:
        """Seconds of the year's longest clip: the value of ``duration: year_max``."""
        return max(self.durations.values())

    @property
    def score_name(self) -> str:
        """Stem of the year's table files: ``official23`` for dcase2023."""
        return f"official{self.year % 100:02d}"


def _durations(machines: tuple[str, ...], default: float, **special: float) -> Mapping[str, float]:
    return {m: special.get(m, default) for m in machines}


_M2020 = ("fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor")
_M2021 = ("fan", "gearbox", "pump", "slider", "ToyCar", "ToyTrain", "valve")
_M2022 = ("bearing", "fan", "gearbox", "slider", "ToyCar", "ToyTrain", "valve")
_E2023 = ("bandsaw", "grinder", "shaker", "ToyDrone", "ToyNscale", "ToyTank", "Vacuum")
_E2024 = (
    "3DPrinter", "AirCompressor", "Scanner", "ToyCircuit", "HoveringDrone",
    "HairDryer", "ToothBrush", "RoboticArm", "BrushlessMotor",
)  # fmt: skip
_E2025 = (
    "AutoTrash", "HomeCamera", "ToyPet", "ToyRCCar",
    "BandSealer", "CoffeeGrinder", "Polisher", "ScrewFeeder",
)  # fmt: skip
_D2026 = ("ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu")
_E2026 = ("BlowerDustCollector", "Sander", "SewingMachine", "ToothBrush", "ToyDrone")


_UNREAD = (
    "the evaluator of {} was not read: the formula is that of 2024, which gives both baselines' totals in "
    "its README to 1e-14"
)


def _counts_2020() -> dict[tuple[str, str, int, str], tuple[int, int]]:
    table = {
        "fan": {1: (100, 326), 3: (100, 358), 5: (109, 349)},
        "pump": {1: (100, 116), 3: (100, 113), 5: (100, 248)},
        "slider": {1: (100, 178), 3: (100, 178), 5: (100, 178)},
        "valve": {1: (100, 120), 3: (100, 120), 5: (100, 400)},
        "ToyCar": dict.fromkeys((5, 6, 7), (250, 265)),
        "ToyConveyor": dict.fromkeys((4, 5, 6), (200, 355)),
    }
    return {("eval", m, i, "source"): n for m, rows in table.items() for i, n in rows.items()}


_COUNTS_2021 = {
    ("eval", "gearbox", 3, "source"): (130, 104),
    ("eval", "gearbox", 3, "target"): (104, 182),
    ("eval", "gearbox", 4, "source"): (144, 108),
    ("eval", "gearbox", 4, "target"): (104, 130),
    ("eval", "gearbox", 5, "source"): (108, 102),
    ("eval", "gearbox", 5, "target"): (110, 102),
    ("eval", "slider", 5, "source"): (103, 101),
    ("eval", "slider", 5, "target"): (103, 100),
}

_COUNTS_2023 = {
    ("eval", "bandsaw", 0, "source"): (67, 40),
    ("eval", "bandsaw", 0, "target"): (60, 33),
    ("eval", "grinder", 0, "source"): (107, 27),
    ("eval", "grinder", 0, "target"): (36, 30),
    ("eval", "shaker", 0, "source"): (49, 53),
    ("eval", "shaker", 0, "target"): (52, 46),
}


def _first_shot(
    year: int,
    dev: tuple[str, ...],
    eval_: tuple[str, ...],
    durations: Mapping[str, float],
    hidden: tuple[str, ...] = (),
    **more,
) -> Year:
    """A year since 2023 (first-shot): one section, disjoint dev and eval machines."""
    return Year(
        name=f"dcase{year}",
        year=year,
        machines={"dev": dev, "eval": eval_},
        sections={"dev": dict.fromkeys(dev, (0,)), "eval": dict.fromkeys(eval_, (0,))},
        score_rule="both_domains",
        durations=durations,
        hidden_attributes=frozenset(hidden),
        **more,
    )


YEARS: Mapping[str, Year] = {
    y.name: y
    for y in (
        Year(
            name="dcase2020",
            year=2020,
            machines={"dev": _M2020, "eval": _M2020},
            sections={
                "dev": dict.fromkeys(_M2020[:4], (0, 2, 4, 6))
                | {"ToyCar": (1, 2, 3, 4), "ToyConveyor": (1, 2, 3)},
                "eval": dict.fromkeys(_M2020[:4], (1, 3, 5))
                | {"ToyCar": (5, 6, 7), "ToyConveyor": (4, 5, 6)},
            },
            score_rule="machine_mean",
            durations=_durations(_M2020, 10.0, ToyCar=11.0, ToyConveyor=11.0),
            domains=("source",),
            train_per_section={"source": 1000},
            test_per_cell=None,
            test_counts=_counts_2020(),
            exact_counts=frozenset({("eval", "test")}),
            attribute_csv=False,
            has_decisions=False,
        ),
        Year(
            name="dcase2021",
            year=2021,
            machines={"dev": _M2021, "eval": _M2021},
            sections={"dev": dict.fromkeys(_M2021, (0, 1, 2)), "eval": dict.fromkeys(_M2021, (3, 4, 5))},
            score_rule="own_domain",
            durations=_durations(_M2021, 10.0),
            train_per_section={"source": 1000, "target": 3},
            test_per_cell=100,
            test_counts=_COUNTS_2021,
            exact_counts=frozenset({("eval", "test")}),
            split_test_folders=True,
            attribute_csv=False,
        ),
        Year(
            name="dcase2022",
            year=2022,
            machines={"dev": _M2022, "eval": _M2022},
            sections={"dev": dict.fromkeys(_M2022, (0, 1, 2)), "eval": dict.fromkeys(_M2022, (3, 4, 5))},
            score_rule="both_domains",
            durations=_durations(_M2022, 10.0),
        ),
        _first_shot(
            2023,
            _M2022,
            _E2023,
            _durations(
                _M2022 + _E2023, 10.0, ToyCar=12.0, ToyTrain=12.0, ToyDrone=18.0, ToyNscale=6.0,
                ToyTank=8.0, Vacuum=15.0,
            ),
            test_counts=_COUNTS_2023,
            evaluator_machines=(*_E2023[3:], *_E2023[:3]),
        ),
        _first_shot(
            2024,
            _M2022,
            _E2024,
            _durations(
                _M2022 + _E2024, 10.0, ToyCar=12.0, ToyTrain=12.0, BrushlessMotor=6.5, HairDryer=7.0,
                HoveringDrone=8.0, RoboticArm=7.90225, ToothBrush=6.0, ToyCircuit=8.0,
            ),
            hidden=(
                "gearbox", "slider", "ToyTrain", "AirCompressor", "BrushlessMotor", "HoveringDrone",
                "ToothBrush",
            ),
        ),
        _first_shot(
            2025,
            _M2022,
            _E2025,
            _durations(
                _M2022 + _E2025, 10.0, ToyCar=12.0, ToyTrain=12.0, AutoTrash=6.0, CoffeeGrinder=5.0,
                HomeCamera=6.0, ToyRCCar=7.0,
            ),
            hidden=("bearing", "slider", "ToyTrain", "AutoTrash", "Polisher", "ScrewFeeder", "ToyPet"),
            has_supplemental=True,
            supplemental_per_section=100,
            score_provenance=_UNREAD.format(2025),
        ),
        _first_shot(
            2026,
            _D2026,
            _E2026,
            # Eval clips have 6 s or 16 s; the organisers do not publish the machines: 16 s bounds all.
            _durations(
                _D2026 + _E2026, 10.0, ToyCar=11.0, ToyCarEmu=12.0, **dict.fromkeys(_E2026, 16.0)
            ),
            hidden=("ToyCar", "bearingEmu", "sliderEmu", "valveEmu", "SewingMachine", "ToothBrush"),
            channels=2,
            test_totals_only=frozenset({"eval"}),
            evaluator_machines=("ToyDrone", "ToothBrush", "SewingMachine", "BlowerDustCollector", "Sander"),
            longest_only=frozenset(_E2026),
            score_provenance=_UNREAD.format(2026),
        ),
    )
}  # fmt: skip


def nearest(name: object, known: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the known name closest to ``name`` in any case of letters; ``""`` if none
    is close.

    >>> nearest("Fam", ["fan", "valve"])
    "; did you mean 'fan'?"
    """
    by_lower: dict[str, str] = {}
    for one in known:
        by_lower.setdefault(str(one).lower(), str(one))
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def check_choice(noun: str, name: object, known: Collection[str]) -> None:
    """Raises ValueError, with the nearest known name, unless ``name`` is one of ``known``."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"unknown {noun} {name!r}{nearest(name, known)} (known: {', '.join(known)})")


def get_year(name: str) -> Year:
    """The year called ``name``; raises ValueError, with the nearest known name, for an unknown one."""
    check_choice("DCASE year", name, YEARS)
    return YEARS[name]


def check_machines(dcase: str, machines: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """``machines`` without repetition, in the year's own order.

    Raises:
        ValueError: no machine, or a machine that the year does not have.
    """
    year = get_year(dcase)
    for machine in machines:
        if machine not in year.all_machines:
            raise ValueError(
                f"{dcase} has no machine {machine!r}{nearest(machine, year.all_machines)} "
                f"(it has: {', '.join(year.all_machines)})"
            )
    if not machines:
        raise ValueError(f"no machine of {dcase} was named (it has: {', '.join(year.all_machines)})")
    return tuple(m for m in year.all_machines if m in set(machines))
