"""Published results: ``published/*.csv`` of the package, one line per score, beside a sweep's own rows.

Scores are fractions. The files alone hold the scores and their sources; the recipes say which of them they
follow, and how closely (``reproduces``). A mean over fewer machines than the year has is another number, so
published rows are only in leaderboards over all machines.

>>> [value.mean for value in load() if (value.column, value.system) == ("dcase2020-dev", "ASDKit ae")]
[0.6533]
"""

from __future__ import annotations

import csv
import functools
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray.config.backend import backend_id
from asdray.config.recipe_files import recipe_names, result_name
from asdray.config.recipe_use import RecipeUse
from asdray.config.system import Recipe, Target, load_recipe
from asdray.dcase.years import SUBSETS, get_year, nearest
from asdray.evaluation import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from asdray.evaluation.leaderboard import Leaderboard

FOLDER = Path(__file__).parent.parent / "published"
COLUMNS = (
    "dcase", "subset", "system", "backend", "metric", "mean", "std", "n", "label_source", "caveat", "source",
)  # fmt: skip
ASDKIT_LABELS = (
    "dcase2022-eval of the ASDKit rows was evaluated with wrong domains of 592 of the 1,200 ToyCar and "
    "ToyTrain clips (label_source asdkit); `asdray format dcase2022 --labels asdkit` evaluates ours so too. "
    "Of scores with other labels it is not said whether they lie within the spread."
)


@dataclass(frozen=True)
class Published:
    """One published score.

    Attributes:
        mean, std: fractions; ``std`` over ``n`` trainings, None if unpublished.
        n: number of trainings, None if unpublished.
        label_source: ``official``, ``evaluator`` (of the challenge), ``asdkit`` for labels of that toolkit
            that differ from the others, or ``unstated``.
        caveat: what is transductive, chosen by test labels, tuned on dev or taught the classes of test clips;
            ``""`` if nothing is known to be.
        source: the publication, or the place of the record.
    """

    dcase: str
    subset: str
    system: str
    backend: str
    metric: str
    mean: float
    std: float | None
    n: int | None
    label_source: str
    caveat: str
    source: str

    @property
    def column(self) -> str:
        """The leaderboard's column, such as ``dcase2023-eval``."""
        return f"{self.dcase}-{self.subset}"


@functools.cache
def load(folder: Path = FOLDER) -> tuple[Published, ...]:
    """All published scores; raises ValueError for an invalid line, with file and line number."""
    found: dict[tuple[str, ...], Published] = {}
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{path}: the columns must be {', '.join(COLUMNS)}")
            for line in reader:
                try:
                    value = _value(line)
                    key = (value.column, value.system, value.backend, value.metric)
                    if key in found:
                        raise ValueError(f"{' '.join(key)} stands there twice")
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
                found[key] = value
    return tuple(found.values())


def _value(line: dict[str, str]) -> Published:
    for name in ("system", "label_source", "source"):
        if not line[name]:
            raise ValueError(f"{name} is empty")
    get_year(line["dcase"])
    if line["subset"] not in SUBSETS or line["metric"] not in ("official", *METRICS):
        raise ValueError(f"no subset and metric: {line['subset']!r}, {line['metric']!r}")
    mean, std = float(line["mean"]), float(line["std"]) if line["std"] else None
    if not 0 < mean < 1 or not 0 <= (std or 0) < 0.5:
        raise ValueError(f"mean and std are fractions, not {mean} and {std}")
    numbers: dict[str, Any] = {"mean": mean, "std": std, "n": int(line["n"]) if line["n"] else None}
    return Published(**{**line, **numbers})


# --------------------------------------------------------------------------------- what recipes reproduce


@dataclass(frozen=True)
class Link:
    """A recipe, and one published score that the recipe reproduces.

    Attributes:
        recipe: the recipe's name in results.
        system: ``<recipe>-<hash>`` of the unchanged recipe.
        classes_from: see `asdray.config.frontend_base`.
        backend_id: our backend.
        tolerance: largest difference, a fraction, that counts as reproduced.
        value: the published score.
    """

    recipe: str
    system: str
    classes_from: str
    backend_id: str
    tolerance: float
    value: Published


def links(recipes: Mapping[str, RecipeUse] | None = None) -> tuple[Link, ...]:
    """What the shipped recipes reproduce, and the other recipes of a sweep.

    Raises:
        ValueError: see `links_of_others`.
    """
    return (*_links_of_shipped(), *links_of_others(recipes or {}))


def links_of_others(recipes: Mapping[str, RecipeUse]) -> tuple[Link, ...]:
    """What the recipes of a sweep reproduce that are no shipped recipes below their own names.

    Raises:
        ValueError: a ``reproduces`` names no published score.
    """
    others = {name: use for name, use in recipes.items() if use.recipe or name.endswith((".yaml", ".yml"))}
    return tuple(link for name, use in others.items() for link in _links_of(name, use.content(name)))


@functools.cache
def _links_of_shipped() -> tuple[Link, ...]:
    return tuple(link for name in recipe_names() for link in _links_of(name, load_recipe(name)))


def _links_of(path: str, recipe: Recipe) -> list[Link]:
    name, frontend = result_name(path), recipe.system.frontend
    found: list[Link] = []
    for i, target in enumerate(recipe.reproduces):
        common = (name, f"{name}-{recipe.system.id}", frontend.classes_from, backend_id(target.backend))
        values = _values_of(target, f"recipe {path}: reproduces[{i}]")
        found += [Link(*common, target.tolerance, value) for value in values]
    return found


def _values_of(target: Target, where: str) -> list[Published]:
    """The published official scores of a target; ValueError unless all of them are known."""
    official = [value for value in load() if value.metric == "official"]
    values = [value for value in official if value.system == target.system]
    if not values:
        hint = nearest(target.system, [value.system for value in official])
        raise ValueError(f"{where}: benchmarks/published has no system {target.system!r}{hint}")
    backends = list(dict.fromkeys(value.backend for value in values))
    asked = target.published_backend
    if (asked is None and len(backends) > 1) or (asked is not None and asked not in backends):
        raise ValueError(f"{where}: published_backend is {asked!r}, must be one of: {'; '.join(backends)}")
    values = [value for value in values if asked in (None, value.backend)]
    if target.columns is None:
        return values
    if unknown := {*target.columns} - {value.column for value in values}:
        known = ", ".join(value.column for value in values)
        raise ValueError(f"{where}: columns has {min(unknown)!r}, of which no score is published ({known})")
    return [value for value in values if value.column in target.columns]


# ----------------------------------------------------------------------------------- beside a sweep's rows


def leaderboard_rows(
    names: Iterable[str], metric: str = "official", values: Sequence[Published] | None = None
) -> list[dict[str, Any]]:
    """One row per published system and backend, see ``extra`` of `asdray.evaluation.leaderboard.build`.

    Args:
        names: columns ``<dcase>-<subset>`` of official data over all machines.
        values: published scores; default: all of `load`.
    """
    wanted = list(names)
    systems: dict[tuple[str, str], list[Published]] = {}
    for value in load() if values is None else values:
        if value.column in wanted and value.metric == metric:
            systems.setdefault((value.system, value.backend), []).append(value)
    followed = {
        (link.value.system, link.value.backend): link
        for link in reversed(links())
        if link.value.column in wanted  # a recipe may follow a system of one year, such as a year's winner
    }
    rows = []
    for (system, backend), scores in systems.items():
        link = followed.get((system, backend))
        sources = dict.fromkeys(v.label_source for v in scores)
        by_column = dict.fromkeys(f"{v.column} {v.label_source}" for v in scores)
        row: dict[str, Any] = {
            "system": system,
            "recipe": link.recipe if link else "",
            "backend": backend,
            "backend_id": link.backend_id if link else "",
            **dict.fromkeys(("options", "checkpoint", "selected_by"), ""),
            "origin": "published",
            "source": "; ".join(dict.fromkeys(v.source for v in scores)),
            "caveat": _caveat(scores),
            "label_source": ", ".join(sources if len(sources) == 1 else by_column),
            "dataset": "official",
            "machines": "all",
            "classes_from": link.classes_from if link else "",
        }
        if KNOWS_CLASSES in row["caveat"]:  # whatever the recipe that follows the system does
            row["classes_from"] = "train+test"
        for v in scores:
            row |= {f"{v.column}_mean": v.mean, f"{v.column}_std": v.std}
            row |= {f"{v.column}_n": v.n, f"{v.column}_n_expected": v.n}
        rows.append(row)
    return rows


KNOWS_CLASSES = "knows the classes of test clips"
"""The caveat of a published system whose training classes come from test clips, too."""


def _caveat(scores: Sequence[Published]) -> str:
    """The caveats of a row's scores; with their columns where these differ."""
    if len({v.caveat for v in scores}) == 1:
        return scores[0].caveat
    return "; ".join(f"{v.column}: {v.caveat}" for v in scores if v.caveat)


BESIDE_COLUMNS = (
    "column", "system", "recipe", "backend", "n", "n_expected", "mean", "std", "published",
    "published_backend", "published_mean", "published_std", "published_n", "difference", "spread",
    "within_spread", "tolerance", "within_tolerance", "label_source", "published_label_source", "caveat",
    "source",
)  # fmt: skip


def beside(board: Leaderboard) -> pd.DataFrame:
    """Rows of unchanged recipes at the last epoch, each beside a published score that the recipe reproduces.

    ``difference`` is the sweep's mean less the published mean. ``spread`` is the standard deviation of the
    difference of one training each, ``sqrt(std^2 + published_std^2)``; an unknown standard deviation is
    assumed equal to the known one. ``within_spread`` is true if the difference is at most the spread, and
    ``within_tolerance`` if the difference is at most the recipe's ``tolerance``. All four are null for
    incomplete rows; all but the difference also if the labels differ; spread and ``within_spread`` also if
    both standard deviations are unknown.

    Returns:
        `BESIDE_COLUMNS`, one row per column of the leaderboard, own row and published score.
    """
    import pandas as pd

    records = board.frame.to_dict("records")
    shown = {
        (name, row["system"], row["backend"])
        for row in records
        for name in board.names
        if row["origin"] == "published" and not math.isnan(row[f"{name}_mean"])
    }
    known = links(board.recipes) if shown else ()
    lines = [
        _beside_line(name, mine, link)
        for name in board.names
        for link in known
        if (name, link.value.system, link.value.backend) in shown and link.value.column == name
        for mine in records
        if (mine["system"], mine["backend_id"]) == (link.system, link.backend_id)
        and (mine["origin"], mine["checkpoint"]) == ("ours", "last")
    ]
    kinds = {"within_spread": "boolean", "within_tolerance": "boolean"}
    return pd.DataFrame(lines, columns=list(BESIDE_COLUMNS)).astype(kinds)


def _beside_line(name: str, mine: Mapping[Any, Any], link: Link) -> dict[str, Any]:
    mean, std, n, n_expected = (mine[f"{name}_{part}"] for part in ("mean", "std", "n", "n_expected"))
    value = link.value
    complete = 0 < n_expected == n and not math.isnan(mean)
    difference = mean - value.mean if complete else None
    comparable = complete and _same_labels(mine, value)
    known = [s for s in (std, value.std) if s is not None and not math.isnan(s)]
    spread = math.hypot(known[0], known[-1]) if comparable and known else None

    def within(limit: float | None) -> bool | None:
        return None if difference is None or limit is None else abs(difference) <= limit

    return {
        "column": name,
        **{key: mine[key] for key in ("system", "recipe", "backend", "label_source")},
        "n": n,
        "n_expected": n_expected,
        "mean": mean,
        "std": std,
        "published": value.system,
        "published_backend": value.backend,
        "published_mean": value.mean,
        "published_std": math.nan if value.std is None else value.std,
        "published_n": value.n,
        "difference": difference,
        "spread": spread,
        "within_spread": within(spread),
        "tolerance": link.tolerance,
        "within_tolerance": within(link.tolerance if comparable else None),
        "published_label_source": value.label_source,
        "caveat": value.caveat,
        "source": value.source,
    }


def _same_labels(mine: Mapping[Any, Any], value: Published) -> bool:
    """True if the test clips of a column have the same labels in both rows, see `ASDKIT_LABELS`."""
    if value.column != "dcase2022-eval":
        return True
    return ("asdkit" in _label_source(mine["label_source"], "dcase2022")) == (value.label_source == "asdkit")


def _label_source(text: str, place: str) -> str:
    """The label source of a year in a text such as ``dcase2022 name, dcase2023 evaluator``."""
    parts = dict(part.split(" ", 1) for part in text.split(", ") if " " in part)
    return parts.get(place, text)


# ------------------------------------------------------------------------------------- `asdray recipes`


def recipe_lines() -> list[str]:
    """The text of ``asdray recipes``: every recipe with its source and the published scores of that source.

    Scores are percent with the standard deviation over trainings, dev and eval of each year, ``–`` if
    unpublished. Lines have the terminal's width, and any length in a pipe.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    recipes = {name: load_recipe(name) for name in recipe_names()}
    scores = {name: _score_lines(name) for name in recipes}
    described = [name for name in recipes if f"{name}_asdkit" in recipes or scores[name]]
    lines = []
    for name, recipe in recipes.items():
        texts = [recipe.about, *([f"follows {recipe.source}"] if recipe.source else []), *scores[name]]
        if name not in described:
            texts += [
                f"published: see {other}, which is the same system"
                for other in described
                if recipes[other].system.id == recipe.system.id
            ]
        if f"{name}_asdkit" in recipes:
            texts.append(f"published: see {name}_asdkit, which has the classes they were made with")
        lines.append(name)
        for text in texts:
            lines += textwrap.wrap(
                text,
                max(width, 40),
                initial_indent=4 * " ",
                subsequent_indent=8 * " ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _score_lines(recipe: str) -> list[str]:
    """One text per published system and backend that the recipe follows."""
    groups: dict[tuple[str, str, float], list[Published]] = {}
    for link in _links_of_shipped():
        if link.recipe == recipe:
            key = link.value.system, link.value.backend, link.tolerance
            groups.setdefault(key, []).append(link.value)
    lines = []
    for (system, backend, tolerance), values in groups.items():
        by_column = {value.column: value for value in values}
        scores = ", ".join(
            f"{year.removeprefix('dcase')} "
            f"{_score(by_column.get(f'{year}-dev'))} / {_score(by_column.get(f'{year}-eval'))}"
            for year in dict.fromkeys(value.dcase for value in values)
        )
        name = f"{system}, {backend}" if backend else system
        sources = "; ".join(dict.fromkeys(value.source for value in values))
        caveat = f"; {_caveat(values)}" if _caveat(values) else ""
        lines.append(
            f"published: {name} (dev / eval): {scores} ({sources}{caveat}); tolerance ± {100 * tolerance:g}"
        )
    return lines


def _score(value: Published | None) -> str:
    if value is None:
        return "–"
    spread = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{spread}"
