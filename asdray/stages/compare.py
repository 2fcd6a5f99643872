"""Compare: the scores of two systems' trials, and the labels of now -> `asdray.evaluation.compare`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asdray import store
from asdray.config.backend import backend_id
from asdray.config.files import parse_yaml
from asdray.config.sweep import check_backends, check_checkpoint
from asdray.config.trial import Trial
from asdray.dcase import manifest
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import SUBSETS, Subset, get_year, nearest
from asdray.evaluation import naming
from asdray.evaluation.bootstrap import DRAWS, SectionScores, check_draws
from asdray.evaluation.compare import Column, Comparison
from asdray.evaluation.compare import compare as compare_columns
from asdray.evaluation.leaderboard import one_kind
from asdray.stages.describe import read_trial
from asdray.stages.files import read_table
from asdray.stages.state import evaluate_step
from asdray.store import Places

SIDES = ("A", "B")


@dataclass(frozen=True)
class _Scored:
    """A trial on disk.

    ``backends``: options of those by which all its machines are scored; ``stale``: there is none, and
    ``trial.json`` speaks of another dataset than that of now.
    """

    trial: Trial
    root: Path
    backends: Mapping[str, Mapping[str, Any]]
    stale: bool


Trials = dict[tuple[str, int], _Scored]
"""(dcase, seed) -> trial."""


def find_trials(what: str, results: Path) -> list[Path]:
    """The trial folders that ``what`` names.

    Args:
        what: a trial's folder, a system's folder of one year, or the name (or its beginning) of a system
            below ``results``, of all years.

    Raises:
        ValueError: nothing, or several systems, of that name.
    """
    folder = Path(what).expanduser()
    if (folder / "trial.json").is_file():
        return [folder]
    if below := sorted(path.parent for path in folder.glob("seed*/trial.json")):
        return below
    everything = sorted((results / "trials").glob("*/*/seed*/trial.json"))
    systems = sorted({path.parent.parent.name for path in everything})
    found = [what] if what in systems else [name for name in systems if name.startswith(what)]
    if not found:
        known = f"known in {results}: {', '.join(systems)}" if systems else f"{results} has no trials"
        raise ValueError(
            f"no trial's folder and no system is called {what!r}{nearest(what, systems)} ({known})"
        )
    if len(found) > 1:
        raise ValueError(f"{what!r} is the beginning of several systems: choose one of {', '.join(found)}")
    return [path.parent for path in everything if path.parent.parent.name == found[0]]


def compare(
    what: tuple[str, str],
    results: Path,
    data: Path,
    *,
    backends: tuple[str | None, str | None] = (None, None),
    ckpt: str = "last",
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compares two systems over the years, machines and seeds that they have in common.

    A trial counts if all its machines are scored by the backend. Both systems are evaluated anew with the
    labels of the manifest as it is, so that they cannot differ in these. Where they have no seed in common
    in a year, or one of them is the same for all seeds, all of each are taken, unpaired.

    Args:
        what: A and B, see `find_trials`.
        backends: of A and of B, a name, an object or an id. None: the only one there is; of B, that of A
            where it has scored B too.

    Raises:
        ValueError: too few or too many draws; no such system, no such backend, nothing in common, data or
            labels that are not there, synthetic beside official data.
    """
    check_checkpoint(ckpt)
    check_draws(draws, seed)
    datasets: dict[str, Dataset] = {}
    found = tuple(_load(find_trials(one, results), data, ckpt, datasets) for one in what)
    chosen_a = _choose(found[0], "A", what[0], backends[0], ckpt)
    offered_b = set().union(*(t.backends for t in found[1].values()))
    default_b = chosen_a if backends[1] is None and chosen_a in offered_b else backends[1]
    chosen = (chosen_a, _choose(found[1], "B", what[1], default_b, ckpt))
    sides: list[Trials] = []
    notes: list[str] = []
    for trials, backend in zip(found, chosen, strict=True):
        sides.append({key: t for key, t in trials.items() if backend in t.backends})
        left_out = [t.trial.name for key, t in trials.items() if backend not in t.backends]
        if left_out:
            notes.append(f"Not all machines scored by {backend}, left out: {', '.join(left_out)}.")
    a, b = sides
    years = sorted({dcase for dcase, _ in a} & {dcase for dcase, _ in b})
    if not years:
        have = (", ".join(sorted({dcase for dcase, _ in side})) for side in sides)
        listed = "; ".join(f"{s} has {h}" for s, h in zip(SIDES, have, strict=True))
        raise ValueError(f"{what[0]} and {what[1]} have no year in common ({listed})")
    kind = one_kind({dcase: datasets[dcase].kind for dcase in years})
    columns: list[Column] = []
    sources: set[str] = set()
    for dcase in years:
        more, why, labels = _columns(dcase, datasets[dcase], a, b, chosen, ckpt, data)
        columns += more
        notes += why
        sources |= labels
    if not columns:
        raise ValueError(f"{what[0]} and {what[1]} cannot be compared. {' '.join(notes)}")
    columns.sort(key=lambda c: (SUBSETS.index(c.subset), c.dcase))
    counts = [
        len(of_side)
        for side, name in zip(sides, "ab", strict=True)
        for of_side in (getattr(column, name) for column in columns)
        if not next(iter(side.values())).trial.system.frontend.has_one_seed
    ]
    notes += _about_seeds(min(counts)) if counts else []
    for side, trials in zip(SIDES, sides, strict=True):
        if next(iter(trials.values())).trial.system.frontend.classes_from == "train+test":
            notes.append(
                f"{side}: attributes and domains of test clips were classes, too (frontend.labels: asdkit)."
            )
    labels_of = naming.backend_labels(
        {name: side[next(iter(side))].backends[name] for name, side in zip(chosen, sides, strict=True)}
    )
    return Comparison(
        systems=(_name(a), _name(b)),
        backends=(labels_of[chosen[0]], labels_of[chosen[1]]),
        checkpoint=ckpt,
        dataset=kind,
        label_source="+".join(sorted(sources)),
        rows=tuple(compare_columns(columns, draws, seed)),
        draws=draws,
        seed=seed,
        notes=tuple(notes),
    )


def _about_seeds(few: int) -> list[str]:
    if few == 1:
        return ["One seed: the interval covers the choice of test clips alone, not that of the seed."]
    if few < 5:
        return [f"{few} seeds: what the interval says of the spread over seeds is rough."]
    return []


def _name(trials: Trials) -> str:
    """The system's name; with year and seed where it is a single trial."""
    one = next(iter(trials.values())).trial
    return one.name if len(trials) == 1 else one.system_name


def _load(folders: Iterable[Path], data: Path, ckpt: str, datasets: dict[str, Dataset]) -> Trials:
    """The trials in ``folders``; reads each year's dataset once into ``datasets``."""
    trials: Trials = {}
    for folder in folders:
        trial, _, results = read_trial(folder)
        if trial.dcase not in datasets:
            datasets[trial.dcase] = manifest.load_dataset(data, trial.dcase)
        dataset = datasets[trial.dcase]
        made_of = store.read_json(folder / "trial.json").get("dataset", {})
        if made_of.get("kind", dataset.kind) != dataset.kind:
            raise ValueError(
                f"{trial.name} was made of {made_of['kind']} data, but {trial.dcase} under {data} is "
                f"{dataset.kind}: the two never stand in one table; name its own data folder with --data"
            )
        dataset.require(trial.machines)
        places = Places.of(data, results)
        directory = store.trial_dir(results, trial)
        scored: list[set[str]] = []
        for machine in trial.machines:
            step = evaluate_step(trial, machine, ckpt, (), places, dataset)
            scored.append(set(step.inputs or ()))
        options: dict[str, Mapping[str, Any]] = {}
        for name in sorted(set.intersection(*scored)):
            marker = store.read_marker(directory.machine(ckpt, trial.machines[0]), "score", name)
            if marker is not None:
                options[name] = marker.extra["options"]
        stale = not options and made_of.get("id") != dataset.id
        trials[trial.dcase, trial.seed] = _Scored(trial, directory.root, options, stale)
    return trials


def _choose(trials: Trials, side: str, what: str, asked: str | None, ckpt: str) -> str:
    """The id of the backend that is meant."""
    offered: dict[str, Mapping[str, Any]] = {}
    for one in trials.values():
        offered |= one.backends
    option = "--backend" if side == "A" else "--backend-b"
    if not offered:
        why = "it was made of another dataset" if all(t.stale for t in trials.values()) else "no backend has"
        raise ValueError(
            f"{what}: not all machines are scored with checkpoint {ckpt} on the data of now ({why}): "
            "run `asdray score` or its sweep again"
        )
    listed = ", ".join(f"{label} ({name})" for name, label in naming.backend_labels(offered).items())
    if asked is None:
        if len(offered) > 1:
            raise ValueError(f"{what} is scored by several backends: choose one with {option} ({listed})")
        return next(iter(offered))
    if asked in offered:
        return asked
    configs = check_backends([parse_yaml(asked, option)], option)
    if len(configs) != 1:
        raise ValueError(f"{option} {asked} names {len(configs)} backends: one is compared at a time")
    if (name := backend_id(configs[0])) not in offered:
        raise ValueError(f"{what} is not scored by {asked} with checkpoint {ckpt} (it is by: {listed})")
    return name


def _columns(
    dcase: str,
    dataset: Dataset,
    a: Trials,
    b: Trials,
    chosen: tuple[str, str],
    ckpt: str,
    data: Path,
) -> tuple[list[Column], list[str], set[str]]:
    """The year's columns, sentences on what is not in them, and where the labels come from."""
    year = get_year(dcase)
    of_a, of_b = ({seed: t for (d, seed), t in side.items() if d == dcase} for side in (a, b))
    notes = []
    fixed = any(t.trial.system.frontend.has_one_seed for t in (*of_a.values(), *of_b.values()))
    paired = not fixed and bool(set(of_a) & set(of_b))
    if paired:
        if dropped := sorted(set(of_a) ^ set(of_b)):
            notes.append(f"{dcase}: seeds of one system alone, left out: {', '.join(map(str, dropped))}.")
        of_a, of_b = ({s: side[s] for s in sorted(set(of_a) & set(of_b))} for side in (of_a, of_b))
    everything = [*of_a.values(), *of_b.values()]
    common = set.intersection(*(set(t.trial.machines) for t in everything))
    table = manifest.load_manifest(data, dcase)
    columns, sources = [], set()
    for subset in SUBSETS:
        machines = [m for m in year.machines[subset] if m in common]
        if len(machines) < len(year.machines[subset]):
            notes.append(f"{dcase}-{subset}: {len(machines)} of {len(year.machines[subset])} machines.")
        clips = {m: _labelled(table, dcase, m, subset) for m in machines}
        if faulty := [m for m, those in clips.items() if those is None]:
            notes.append(f"{dcase}-{subset}: left out, no labels or not all sections of {', '.join(faulty)}.")
        if not machines or faulty:
            continue
        sources |= {s for m in machines for s in dataset.machines[m].label_sources}
        scored = [
            {
                seed: [s for m in machines for s in _sections(t.root, ckpt, m, name, clips[m] or [])]
                for seed, t in side.items()
            }
            for side, name in zip((of_a, of_b), chosen, strict=True)
        ]
        columns.append(Column(dcase, subset, scored[0], scored[1], paired))
    return columns, notes, sources


def _labelled(table: Any, dcase: str, machine: str, subset: Subset) -> list[dict[str, Any]] | None:
    """The machine's test clips, sorted by clip; None where a label, a domain or a section is missing."""
    names = ["clip", "section", "domain", "is_anomaly"]
    clips = manifest.rows(table, machine=machine, split="test", subset=subset).select(names).to_pylist()
    if {c["section"] for c in clips} != set(get_year(dcase).sections[subset][machine]):
        return None
    return None if any(c["domain"] is None or c["is_anomaly"] is None for c in clips) else clips


def _sections(
    root: Path, ckpt: str, machine: str, backend: str, clips: Sequence[Mapping[str, Any]]
) -> list[SectionScores]:
    """The sections of a machine, with the scores that a trial gave."""
    table = read_table(store.TrialDir(root).scores(ckpt, machine, backend))
    by_clip = dict(zip(table["clip"].to_pylist(), table["score"].to_pylist(), strict=True))
    sections: dict[int, list[Mapping[str, Any]]] = {}
    for clip in clips:
        sections.setdefault(clip["section"], []).append(clip)
    return [
        SectionScores(
            machine,
            number,
            np.array([by_clip[c["clip"]] for c in those], dtype=np.float64),
            np.array([c["is_anomaly"] for c in those], dtype=bool),
            np.array([c["domain"] == "target" for c in those], dtype=bool),
        )
        for number, those in sorted(sections.items())
    ]
