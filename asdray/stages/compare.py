"""Compare: the scores of two systems' trials and the current labels -> `asdray.evaluation.compare`.

Both systems are evaluated with the labels of the manifest as it is now, whatever their own tables say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asdray import store
from asdray.addresses import find_trials
from asdray.config.backend import backend_id
from asdray.config.files import parse_yaml
from asdray.config.sweep import check_backends, check_checkpoint
from asdray.config.system_names import system_names
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.years import SUBSETS, Subset, get_year
from asdray.evaluation.compare import Column, Comparison
from asdray.evaluation.compare import compare as compare_columns
from asdray.evaluation.interval import SectionScores, clips_of_cell, half_width, on_small_cells
from asdray.evaluation.tables import backend_labels, one_dataset
from asdray.stages.evaluate import read_scores
from asdray.stages.steps import Snapshot, TrialFiles
from asdray.stages.trial_json import Code, known_plugins, read_trial
from asdray.store import Places

SIDES = ("A", "B")


@dataclass(frozen=True)
class _Scored:
    """A trial on disk.

    Attributes:
        backends: id -> options of the backends that have scored all machines of the trial.
        stale: True if there are none, and the trial was made with another dataset than the current one.
    """

    files: TrialFiles
    backends: Mapping[str, Mapping[str, Any]]
    stale: bool

    @property
    def trial(self) -> Trial:
        return self.files.trial


Trials = dict[tuple[str, int], _Scored]
"""(dcase, seed) -> trial, of one system."""


def _addressed(text: str, backend: str | None, results: Path) -> tuple[list[Path], str | None]:
    """The trial folders of a system and its backend; ``dis_baseline/knn`` names both."""
    try:
        return find_trials(text, results), backend
    except ValueError:
        system, slash, named = text.rpartition("/")
        if not slash or backend is not None:
            raise
        try:
            return find_trials(system, results), named
        except ValueError as error:
            raise error from None


def compare(
    names: tuple[str, str],
    results: Path,
    data: Path,
    *,
    backends: tuple[str | None, str | None] = (None, None),
    ckpt: str = "last",
    code: Code = "none",
) -> Comparison:
    """Compares two systems over their common years, machines and seeds.

    ::

        found = compare(("dis_baseline", "ae_baseline"), Path("results"), Path("data"))
        print(asdray.evaluation.compare.frame(found))

    A trial counts if the backend has scored all its machines. In a year without common seeds, or if a
    system does not depend on the seed, all seeds of both systems count, unpaired.

    Args:
        names: A and B, see `asdray.addresses.find_trials`; ``dis_baseline/knn`` names the backend too.
        backends: name, configuration or id of the backends of A and B. Default of A: its only backend;
            of B: that of A if it has scored B, else its only backend.
        code: the plugins of the trials that may run, see `asdray.stages.trial_json.read_trial`.

    Raises:
        ValueError: an unknown system or backend; nothing in common; missing data or labels; synthetic
            beside official data.
    """
    check_checkpoint(ckpt)
    folders, asked = zip(*map(_addressed, names, backends, (results, results)), strict=True)
    found = [_load(of_one, data, ckpt, code) for of_one in folders]
    chosen = _choose_both(found, names, asked, ckpt)
    parts = _Comparable()
    sides = [parts.scored_by(backend, trials) for backend, trials in zip(chosen, found, strict=True)]
    for dcase in _common_years(sides, names):
        of_year = [{seed: one for (year, seed), one in side.items() if year == dcase} for side in sides]
        parts.add_year(of_year, chosen, ckpt)
    if not parts.columns:
        raise ValueError(f"{names[0]} and {names[1]} cannot be compared. {' '.join(parts.notes)}")
    return _comparison(parts, sides, chosen, ckpt)


def _comparison(parts: _Comparable, sides: Sequence[Trials], chosen: Sequence[str], ckpt: str) -> Comparison:
    """The comparison of A and B by their common parts."""
    columns = sorted(parts.columns, key=lambda c: (SUBSETS.index(c.subset), c.dcase))
    first = [next(iter(side.values())) for side in sides]
    labels = backend_labels({b: one.backends[b] for b, one in zip(chosen, first, strict=True)})
    return Comparison(
        systems=(_name(sides[0]), _name(sides[1])),
        titles=_titles(sides),
        backends=(labels[chosen[0]], labels[chosen[1]]),
        checkpoint=ckpt,
        dataset=one_dataset(parts.kinds),
        label_source="+".join(sorted(parts.label_sources)),
        rows=tuple(compare_columns(columns)),
        notes=(*parts.notes, *_limits(columns, first)),
    )


def _choose_both(
    found: Sequence[Trials], names: Sequence[str], backends: Sequence[str | None], ckpt: str
) -> tuple[str, str]:
    """The ids of the backends of A and B, see `compare`."""
    backend_a = _choose(found[0], "A", names[0], backends[0], ckpt)
    ask_b = backends[1]
    if ask_b is None and any(backend_a in one.backends for one in found[1].values()):
        ask_b = backend_a
    return backend_a, _choose(found[1], "B", names[1], ask_b, ckpt)


def _name(trials: Trials) -> str:
    """The system's name; of a single trial with year and seed."""
    trial = next(iter(trials.values())).trial
    return trial.name if len(trials) == 1 else trial.system_name


def _titles(sides: Sequence[Trials]) -> tuple[str, str]:
    """The two systems by the options in which they differ, each with its `_name`."""
    first = [next(iter(trials.values())).trial for trials in sides]
    trees = {t.system_name: (t.recipe, t.system.model_dump(mode="json")) for t in first}
    a, b = (
        f"{system_names(trees)[trial.system_name]} ({_name(side)})"
        for trial, side in zip(first, sides, strict=True)
    )
    return a, b


def _common_years(sides: Sequence[Trials], names: Sequence[str]) -> list[str]:
    years = [{dcase for dcase, _ in side} for side in sides]
    if common := sorted(years[0] & years[1]):
        return common
    listed = "; ".join(f"{side} has {', '.join(sorted(own))}" for side, own in zip(SIDES, years, strict=True))
    raise ValueError(f"{names[0]} and {names[1]} have no year in common ({listed})")


def _limits(columns: Sequence[Column], first: Sequence[_Scored]) -> list[str]:
    """Sentences on the limits of a comparison.

    Args:
        first: one trial of each system.
    """
    notes = []
    counts = [
        len(side)
        for one, name in zip(first, "ab", strict=True)
        if not one.trial.system.frontend.has_one_seed
        for side in (getattr(column, name) for column in columns)
    ]
    if counts and min(counts) == 1:
        notes.append("One seed: the interval covers the choice of test clips alone, not that of the seed.")
    elif counts and min(counts) < 5:
        notes.append(_few_seeds(min(counts), all(column.paired for column in columns)))
    cells = min(int(clips_of_cell(trial).min()) for c in columns for trial in c.a.values())
    notes += on_small_cells(cells)
    return notes + [
        f"{side}: attributes and domains of test clips were classes, too (frontend.labels: asdkit)."
        for side, one in zip(SIDES, first, strict=True)
        if one.trial.system.frontend.classes_from == "train+test"
    ]


def _few_seeds(n: int, paired: bool) -> str:
    """A sentence on how little n seeds tell."""
    errors = half_width([(n - 1, 1.0)])
    upto = "" if paired else "up to "
    little = ": only differences far beyond the spread over seeds can be told from chance" if n == 2 else ""
    return (
        f"{n} seeds: the interval takes {upto}{errors:.1f} standard errors of the mean over seeds, many "
        f"seeds take 2.0{little}. More seeds shorten the interval."
    )


@dataclass(frozen=True)
class _MadeOf:
    """The data of a trial, in ``trial.json``."""

    dataset: dict[str, str | None] = field(default_factory=dict)


def _load(folders: Iterable[Path], data: Path, ckpt: str, code: Code) -> Trials:
    """The trials in ``folders``."""
    trials: Trials = {}
    for folder in folders:
        trial, _, results = read_trial(folder, code)
        files = TrialFiles.load(trial, Places.of(data, results), ())
        dataset, made_of = files.dataset, store.read_json(files.folder.trial_json, _MadeOf).dataset
        if made_of.get("kind", dataset.kind) != dataset.kind:
            raise ValueError(
                f"{trial.name} was made of {made_of['kind']} data, but {trial.dcase} under {data} is "
                f"{dataset.kind}: the two never stand in one table; name its own data folder with --data"
            )
        dataset.require(trial.machines)
        snapshot = Snapshot(files)
        scored = [snapshot.scored(machine, ckpt) for machine in trial.machines]
        common = set.intersection(*(set(records) for records in scored))
        options = {name: scored[0][name].extra["options"] for name in sorted(common)}
        trials[trial.dcase, trial.seed] = _Scored(
            files, options, not options and made_of.get("id") != dataset.id
        )
    return trials


def _choose(trials: Trials, side: str, name: str, asked: str | None, ckpt: str) -> str:
    """The id of the backend to compare."""
    offered: dict[str, Mapping[str, Any]] = {}
    for one in trials.values():
        offered |= one.backends
    option = "--backend" if side == "A" else "--backend-b"
    if not offered:
        why = "it was made of another dataset" if all(t.stale for t in trials.values()) else "no backend has"
        raise ValueError(
            f"{name}: not all machines are scored with checkpoint {ckpt} on the data of now ({why}): "
            "run `asdray score` or its sweep again"
        )
    listed = ", ".join(f"{label} ({key})" for key, label in backend_labels(offered).items())
    if asked is None:
        if len(offered) > 1:
            raise ValueError(f"{name} is scored by several backends: choose one with {option} ({listed})")
        return next(iter(offered))
    named = [key for key, label in backend_labels(offered).items() if asked in (key, label)]
    if named:
        return named[0]
    with known_plugins(next(iter(trials.values())).files.folder.root):
        configs = check_backends([parse_yaml(asked, option)], option)
    if len(configs) != 1:
        raise ValueError(f"{option} {asked} names {len(configs)} backends: one is compared at a time")
    if (key := backend_id(configs[0])) not in offered:
        raise ValueError(f"{name} is not scored by {asked} with checkpoint {ckpt} (it is by: {listed})")
    return key


@dataclass
class _Comparable:
    """The parts of two systems that can be compared.

    Attributes:
        notes: sentences on the parts that are left out.
        kinds: dcase -> kind of data.
    """

    columns: list[Column] = field(default_factory=list)
    label_sources: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)

    def scored_by(self, backend: str, trials: Trials) -> Trials:
        """The trials all of whose machines are scored by a backend."""
        if left_out := [one.trial.name for one in trials.values() if backend not in one.backends]:
            self.notes.append(f"Not all machines scored by {backend}, left out: {', '.join(left_out)}.")
        return {key: one for key, one in trials.items() if backend in one.backends}

    def add_year(self, trials: Sequence[Mapping[int, _Scored]], chosen: Sequence[str], ckpt: str) -> None:
        """Adds the columns of one year.

        Args:
            trials: seed -> trial of the year, of both systems.
        """
        files = next(iter(trials[0].values())).files
        dcase, dataset, year = files.trial.dcase, files.dataset, get_year(files.trial.dcase)
        self.kinds[dcase] = dataset.kind
        seeds = sorted(set(trials[0]) & set(trials[1]))
        one_seed = any(one.trial.system.frontend.has_one_seed for side in trials for one in side.values())
        if paired := bool(seeds) and not one_seed:
            if dropped := sorted(set(trials[0]) ^ set(trials[1])):
                listed = ", ".join(map(str, dropped))
                self.notes.append(f"{dcase}: seeds of one system alone, left out: {listed}.")
            trials = [{seed: side[seed] for seed in seeds} for side in trials]
        common = set.intersection(*(set(one.trial.machines) for side in trials for one in side.values()))
        table = manifest.load_manifest(files.places.data, dcase)
        for subset, expected in ((subset, year.machines[subset]) for subset in SUBSETS):
            machines = [m for m in expected if m in common]
            if len(machines) < len(expected):
                self.notes.append(f"{dcase}-{subset}: {len(machines)} of {len(expected)} machines.")
            clips = {m: _labelled(table, dcase, m, subset) for m in machines}
            if faulty := ", ".join(m for m, sections in clips.items() if not sections):
                self.notes.append(f"{dcase}-{subset}: left out, no labels or not all sections of {faulty}.")
            elif machines:
                self.label_sources.update(*(dataset.machines[m].label_sources for m in machines))
                a, b = (
                    {seed: _sections(one, ckpt, backend, clips) for seed, one in side.items()}
                    for side, backend in zip(trials, chosen, strict=True)
                )
                self.columns.append(Column(dcase, subset, a, b, paired))


def _labelled(table: Any, dcase: str, machine: str, subset: Subset) -> dict[int, list[dict[str, Any]]]:
    """Section -> test clips by key, of a machine; empty if a label, domain or section is missing."""
    names = ["clip", "section", "domain", "is_anomaly"]
    clips = manifest.rows(table, machine=machine, split="test", subset=subset).select(names).to_pylist()
    sections: dict[int, list[dict[str, Any]]] = {}
    for clip in clips:
        if clip["domain"] is None or clip["is_anomaly"] is None:
            return {}
        sections.setdefault(clip["section"], []).append(clip)
    whole = sections.keys() == set(get_year(dcase).sections[subset][machine])
    return dict(sorted(sections.items())) if whole else {}


def _sections(
    one: _Scored, ckpt: str, backend: str, clips: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
) -> list[SectionScores]:
    """A trial's scores of the test clips of every section.

    Args:
        clips: machine -> section -> clips.
    """
    found = []
    for machine, sections in clips.items():
        scores = read_scores(one.files.folder.scores(ckpt, machine, backend))
        for number, own in sections.items():
            values = np.array([scores[clip["clip"]] for clip in own], dtype=np.float64)
            is_anomaly = np.array([clip["is_anomaly"] for clip in own], dtype=bool)
            is_target = np.array([clip["domain"] == "target" for clip in own], dtype=bool)
            found.append(SectionScores(machine, number, values, is_anomaly, is_target))
    return found
