"""The results of a bundle, computed from its scores and labels, and its rows for another leaderboard.

A row of the bundle's own leaderboard that the scores do not give is refused; a column over other machines or
other labels than ours is not shown. Conventions: metrics are fractions in [0, 1], anomaly scores have any
scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd

from asdray.config.sweep import check_rank_by
from asdray.dcase.years import Subset, get_year
from asdray.evaluation import leaderboard, metrics, published, tables
from asdray.evaluation.bundle import (
    LEADERBOARD,
    Bundle,
    BundledTrial,
    LabelledClip,
    labels_name,
    read_csv,
    scores_name,
)
from asdray.evaluation.leaderboard import Leaderboard, score_columns
from asdray.evaluation.tables import COLUMNS, TRIAL_KEYS, TableContext, Tables, machines_in
from asdray.printable import printable

TOLERANCE = 1e-9
"""Largest difference of a recomputed mean that counts as equal: another order of a sum rounds differently."""

_LONGEST = 200
"""Characters of another group's words in a table."""

_KEYS = ("system", "backend_id", "checkpoint")
"""Columns that identify a row of a leaderboard."""


@dataclass(frozen=True)
class Theirs:
    """The results of a bundle, computed from its scores.

    Attributes:
        tables: (dcase, subset) -> table, of the rows that agree with the bundle's own leaderboard.
        context: see `asdray.evaluation.tables`.
        selected_by: (system, backend id, checkpoint) -> how the row was chosen, in its authors' words.
        refused: a line for everything that is not shown.
    """

    bundle: Bundle
    tables: Tables
    context: TableContext
    labels: Mapping[str, Sequence[LabelledClip]]
    selected_by: Mapping[tuple[str, str, str], str]
    refused: tuple[str, ...]


def recompute(bundle: Bundle) -> Theirs:
    """The tables of a bundle, from its scores and labels.

    Raises:
        ValueError: labels or scores of another form; the message begins with the file's name.
    """
    try:
        return _recompute(bundle)
    except (ValueError, KeyError) as error:
        raise ValueError(printable(f"{bundle.name}: {error}")) from None


def _recompute(bundle: Bundle) -> Theirs:
    header = bundle.header
    labels = {dcase: _labels(bundle, dcase) for dcase in header.machines}
    shown = [trial for trial in header.trials if trial.part != "search"]  # only confirmed rows are ranked
    rows = [row for trial in shown for row in _rows_of_trial(bundle, trial, labels[trial.dcase])]
    planned = [
        (trial.dcase, trial.recipe, trial.system, trial.seed, ckpt, backend)
        for trial in shown
        for ckpt in header.checkpoints
        for backend in trial.backends
    ]
    systems = {trial.system: trial for trial in shown}
    context = TableContext(
        machines=header.machines,
        dataset=header.dataset,
        label_sources=header.label_sources,
        labels=tables.backend_labels(header.backends),
        options={name: trial.options for name, trial in systems.items()},
        best_by={name: trial.best_by for name, trial in systems.items()},
        classes_from={name: trial.classes_from for name, trial in systems.items()},
    )
    frame = pd.DataFrame(rows, columns=[*COLUMNS])
    found = tables.sweep_tables(frame, pd.DataFrame(planned, columns=["dcase", *TRIAL_KEYS]), context)
    check_rank_by(header.rank_by or None, [f"{dcase}-{subset}" for dcase, subset in found])
    return _agreeing(bundle, found, context, labels)


def _labels(bundle: Bundle, dcase: str) -> list[LabelledClip]:
    name = labels_name(dcase)
    machines, sections = bundle.header.machines[dcase], get_year(dcase).sections
    found: list[LabelledClip] = []
    for number, row in read_csv(bundle, name, LabelledClip._fields):
        clip, machine, subset, section, domain, label = row
        try:
            if machine not in machines or not clip.startswith(f"{subset}/{machine}/"):
                raise ValueError
            if int(section) not in sections[cast("Subset", subset)][machine] or domain not in (
                "source",
                "target",
                "",
            ):
                raise ValueError
            known = {"True": True, "False": False, "": None}[label]
        except (ValueError, KeyError):
            raise ValueError(f"{name}, line {number}: no test clip of {dcase}") from None
        found.append(LabelledClip(clip, machine, subset, int(section), domain or None, known))
    if len({clip.clip for clip in found}) < len(found):
        raise ValueError(f"{name} names a clip twice")
    return found


def _rows_of_trial(
    bundle: Bundle, trial: BundledTrial, labels: Sequence[LabelledClip]
) -> Iterable[dict[str, Any]]:
    """The evaluation rows of a trial, with the columns `COLUMNS`."""
    for ckpt in bundle.header.checkpoints:
        name = scores_name(trial.dcase, trial.system, trial.seed, ckpt)
        if name not in bundle.members:
            continue  # the trial has not ended
        scores = _scores(bundle, name, len(labels))
        at = {"dcase": trial.dcase, "recipe": trial.recipe, "system": trial.system, "seed": trial.seed}
        for machine in bundle.header.machines[trial.dcase]:
            index = [i for i, clip in enumerate(labels) if clip.machine == machine]
            found = metrics.evaluate_machine(
                get_year(trial.dcase),
                machine,
                _of_machine(scores, index, f"{name}: {machine}"),
                subset=[labels[i].subset for i in index],
                section=[labels[i].section for i in index],
                domain=[labels[i].domain for i in index],
                is_anomaly=[labels[i].is_anomaly for i in index],
            )
            for row in found:
                yield {**at, "checkpoint": ckpt, "machine": machine, **row._asdict()}


def _scores(bundle: Bundle, name: str, n_clips: int) -> dict[str, list[float | None]]:
    """Backend id -> score of every clip, None without one."""
    (_, backends), *rows = list(read_csv(bundle, name))
    if len(set(backends)) < len(backends) or {*backends} - bundle.header.backends.keys():
        raise ValueError(f"{name}: its columns are no backends of the sweep")
    if len(rows) != n_clips:
        raise ValueError(f"{name} has the scores of {len(rows)} clips, its year has {n_clips}")
    found: dict[str, list[float | None]] = {backend: [] for backend in backends}
    for number, row in rows:
        for backend, text in zip(backends, row, strict=True):
            try:
                value = float(text) if text else None
            except ValueError:
                value = math.nan
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}, line {number}: {text[:60]!r} is no score")
            found[backend].append(value)
    return found


def _of_machine(
    scores: Mapping[str, Sequence[float | None]], index: Sequence[int], where: str
) -> dict[str, list[float]]:
    """The scores of some clips, by the backends that have scored them."""
    found: dict[str, list[float]] = {}
    for backend, of in scores.items():
        values = [value for i in index if (value := of[i]) is not None]
        if len(values) not in (0, len(index)):
            raise ValueError(f"{where}: {backend} has scored {len(values)} of {len(index)} clips")
        if values:
            found[backend] = values
    return found


# ---------------------------------------------------------------------------------------------- comparing


def _agreeing(
    bundle: Bundle, found: Tables, context: TableContext, labels: Mapping[str, Sequence[LabelledClip]]
) -> Theirs:
    """The recomputed tables without the rows that differ from the bundle's own leaderboard."""
    claimed, refused = _claims(bundle), []
    wrong: set[tuple[str, ...]] = set()
    for (dcase, subset), table in found.items():
        name = f"{dcase}-{subset}"
        for row in table.to_dict("records"):
            key = tuple(row[name] for name in _KEYS)
            fault = _difference(row, claimed.get(key), name)
            if fault and key not in wrong:
                wrong.add(key)
                refused.append(f"refused: {row['recipe']} {row['backend']} {row['checkpoint']}: {fault}")
    keys = {at: list(map(tuple, table[[*_KEYS]].to_numpy())) for at, table in found.items()}
    kept = {at: table[np.array([key not in wrong for key in keys[at]], bool)] for at, table in found.items()}
    if others := len(claimed.keys() - {key for of in keys.values() for key in of}):
        refused.append(
            f"not shown: {others} rows of its leaderboard that its scores do not give (ensembles, and "
            "systems that a search did not choose)"
        )
    selected = {key: row.get("selected_by", "")[:_LONGEST] for key, row in claimed.items()}
    return Theirs(bundle, kept, context, labels, selected, tuple(map(printable, refused)))


def _claims(bundle: Bundle) -> dict[tuple[str, str, str], dict[str, str]]:
    """(system, backend id, checkpoint) -> the row in the bundle's own leaderboard."""
    (_, header), *rows = list(read_csv(bundle, LEADERBOARD))
    if {*_KEYS, "origin"} - {*header}:
        raise ValueError(f"{LEADERBOARD} lacks columns of a leaderboard")
    found = [dict(zip(header, row, strict=True)) for _, row in rows]
    return {
        (row["system"], row["backend_id"], row["checkpoint"]): row for row in found if row["origin"] == "ours"
    }


def _difference(row: Mapping[Any, Any], claimed: Mapping[str, str] | None, name: str) -> str | None:
    """Why a recomputed row is not the claimed one; None if it is."""
    if claimed is None:
        return "its leaderboard has no such row"
    for column, mine in zip(score_columns(name), ("total_mean", "total_std", "n", "n_expected"), strict=True):
        try:
            theirs = float(claimed[column] or "nan")
        except (KeyError, ValueError):
            return f"its leaderboard has no number in {column}"
        value = float(row[mine])
        if not (math.isnan(theirs) and math.isnan(value)) and not abs(theirs - value) <= TOLERANCE:
            return f"its leaderboard says {column} = {theirs:.6g}, its scores give {value:.6g}"
    return None


# ------------------------------------------------------------------------------------------------- showing


def board(theirs: Theirs) -> Leaderboard:
    """The leaderboard of a bundle alone, beside published rows."""
    header, context = theirs.bundle.header, theirs.context
    extra: list[dict[str, Any]] = []
    if header.dataset == "official":
        whole = [f"{d}-{s}" for d, s in theirs.tables if tables.coverage(d, s, context.machines[d]) == "all"]
        extra = published.leaderboard_rows(whole)
    unlabelled = [
        f"{dcase}-{subset}"
        for dcase, subset in theirs.tables
        if any(c.is_anomaly is None for c in theirs.labels[dcase] if c.subset == subset)
    ]
    found = leaderboard.build(
        theirs.tables, context, rank_by=header.rank_by or None, unlabelled=unlabelled, extra=extra
    )
    return replace(found, labels={trial.system: trial.label for trial in header.trials})


def rows(
    theirs: Theirs, context: TableContext, labels_of: Callable[[str], Sequence[LabelledClip] | None]
) -> tuple[list[dict[Any, Any]], list[str]]:
    """The rows of a bundle for another leaderboard, and a line for each column that cannot be compared.

    Args:
        context: of the other leaderboard.
        labels_of: year -> our test clips; None where we have none.

    Raises:
        ValueError: the bundle is of the other kind of data.
    """
    bundle = theirs.bundle
    if bundle.header.dataset != context.dataset:
        raise ValueError(
            f"{bundle.name} is of {bundle.header.dataset} data, and no row of it stands beside those of "
            f"{context.dataset} data"
        )
    shown: Tables = {}
    lines: list[str] = []
    for (dcase, subset), table in theirs.tables.items():
        fault = _not_comparable(theirs, context, dcase, subset, labels_of)
        if fault:
            lines.append(printable(f"{bundle.name}: {dcase}-{subset} is not shown: {fault}"))
        else:
            shown[dcase, subset] = table
    if not shown:
        return [], lines
    found = leaderboard.rows_of(shown, theirs.context)
    for row in found:
        key = tuple(row[name] for name in _KEYS)
        row |= {"origin": "theirs", "source": bundle.source, "selected_by": theirs.selected_by.get(key, "")}
        row["classes_from"] = theirs.context.classes_from.get(row["system"], "")
    return found, lines


def _not_comparable(
    theirs: Theirs,
    context: TableContext,
    dcase: str,
    subset: Subset,
    labels_of: Callable[[str], Sequence[LabelledClip] | None],
) -> str | None:
    """Why a column of a bundle is another number than ours; None if the two can be compared."""
    if dcase not in context.machines:
        return "this sweep does not have the year"
    ours, them = (machines_in(dcase, subset, c.machines[dcase]) for c in (context, theirs.context))
    if ours != them:
        return f"it is over {', '.join(them) or 'no machine'}, ours over {', '.join(ours) or 'none'}"
    if (mine := labels_of(dcase)) is None:
        return None
    known = {clip.clip: clip for clip in mine if clip.subset == subset and clip.machine in ours}
    others = [clip for clip in theirs.labels[dcase] if clip.subset == subset]
    if known.keys() != {clip.clip for clip in others}:
        return "its test clips have other names than ours"
    differing = [clip.clip for clip in others if _conflict(clip, known[clip.clip])]
    if differing:
        sources = f"{theirs.context.label_sources.get(dcase)} and {context.label_sources.get(dcase)}"
        return f"{len(differing)} of its labels differ from ours ({sources}), first of {differing[0]}"
    return None


def _conflict(one: LabelledClip, other: LabelledClip) -> bool:
    """True if two facts of a clip that both sides know differ."""
    pairs = ((one.section, other.section), (one.domain, other.domain), (one.is_anomaly, other.is_anomaly))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)
