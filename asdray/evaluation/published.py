"""Published results: ``published/*.csv`` of the package, one line per score, beside a sweep's own rows.

Scores are fractions. ``recipe`` and ``recipe_backend`` name the recipe and the backend of asdray that follow
the published system, if any. A mean over fewer machines than the year has is another number, so published
rows are only in leaderboards over all machines.

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
from asdray.config.files import parse_yaml
from asdray.config.sweep import check_backends
from asdray.config.system import load_recipe, recipe_names
from asdray.dcase.years import SUBSETS, get_year
from asdray.evaluation import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from asdray.evaluation.leaderboard import Leaderboard

FOLDER = Path(__file__).parent.parent / "published"
COLUMNS = (
    "dcase", "subset", "system", "backend", "metric", "mean", "std", "n", "label_source", "recipe",
    "recipe_backend", "source",
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
        recipe: the recipe that follows the system, ``""`` if none does.
        backend_id: the backend that follows the system's, ``""`` if none does.
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
    recipe: str
    backend_id: str
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
    if line["recipe"] and line["recipe"] not in recipe_names():
        raise ValueError(f"there is no recipe {line['recipe']!r}")
    backend = ""
    if text := line.pop("recipe_backend"):
        backend = backend_id(check_backends([parse_yaml(text, "recipe_backend")], "recipe_backend")[0])
    numbers: dict[str, Any] = {"mean": mean, "std": std, "n": int(line["n"]) if line["n"] else None}
    return Published(**{**line, **numbers}, backend_id=backend)


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
    rows = []
    for (system, backend), scores in systems.items():
        recipe = scores[0].recipe
        sources = dict.fromkeys(v.label_source for v in scores)
        by_column = dict.fromkeys(f"{v.column} {v.label_source}" for v in scores)
        row: dict[str, Any] = {
            "system": system,
            "recipe": recipe,
            "backend": backend,
            "backend_id": scores[0].backend_id,
            **dict.fromkeys(("options", "checkpoint", "selected_by"), ""),
            "origin": "published",
            "source": "; ".join(dict.fromkeys(v.source for v in scores)),
            "label_source": ", ".join(sources if len(sources) == 1 else by_column),
            "dataset": "official",
            "machines": "all",
            "classes_from": load_recipe(recipe).system.frontend.classes_from if recipe else "",
        }
        for v in scores:
            row |= {f"{v.column}_mean": v.mean, f"{v.column}_std": v.std}
            row |= {f"{v.column}_n": v.n, f"{v.column}_n_expected": v.n}
        rows.append(row)
    return rows


BESIDE_COLUMNS = (
    "column", "system", "recipe", "backend", "n", "n_expected", "mean", "std", "published", "published_mean",
    "published_std", "published_n", "difference", "spread", "within_spread", "label_source",
    "published_label_source", "source",
)  # fmt: skip


def beside(board: Leaderboard) -> pd.DataFrame:
    """Rows of unchanged recipes at the last epoch, each beside the published score that the recipe follows.

    ``difference`` is the sweep's mean less the published mean. ``spread`` is the standard deviation of the
    difference of one training each, ``sqrt(std^2 + published_std^2)``; an unknown standard deviation is
    assumed equal to the known one. ``within_spread`` is true if the difference is at most the spread. All
    three are null for incomplete rows; ``spread`` and ``within_spread`` also if both standard deviations are
    unknown or the labels differ.

    Returns:
        `BESIDE_COLUMNS`, one row per column of the leaderboard, own row and published row.
    """
    import pandas as pd

    records = board.frame.to_dict("records")
    published = [r for r in records if r["origin"] == "published" and r["recipe"]]
    lines = []
    for name in board.names:
        for other in published:
            if math.isnan(other[f"{name}_mean"]):
                continue
            unchanged = f"{other['recipe']}-{load_recipe(other['recipe']).system.id}"
            for mine in records:
                same = (mine["system"], mine["backend_id"]) == (unchanged, other["backend_id"])
                if same and mine["origin"] == "ours" and mine["checkpoint"] == "last":
                    lines.append(_beside_line(name, mine, other))
    return pd.DataFrame(lines, columns=list(BESIDE_COLUMNS)).astype({"within_spread": "boolean"})


def _beside_line(name: str, mine: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[str, Any]:
    mean, std, n, n_expected = (mine[f"{name}_{part}"] for part in ("mean", "std", "n", "n_expected"))
    complete = 0 < n_expected == n and not math.isnan(mean)
    difference = mean - other[f"{name}_mean"] if complete else None
    known = [s for s in (std, other[f"{name}_std"]) if not math.isnan(s)]
    comparable = complete and known and _same_labels(name, mine, other)
    spread = math.hypot(known[0], known[-1]) if comparable else None
    return {
        "column": name,
        **{key: mine[key] for key in ("system", "recipe", "backend", "label_source")},
        "n": n,
        "n_expected": n_expected,
        "mean": mean,
        "std": std,
        "published": other["system"],
        **{f"published_{part}": other[f"{name}_{part}"] for part in ("mean", "std", "n")},
        "difference": difference,
        "spread": spread,
        "within_spread": abs(difference) <= spread if difference is not None and spread is not None else None,
        "published_label_source": other["label_source"],
        "source": other["source"],
    }


def _same_labels(name: str, mine: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """True if the test clips of a column have the same labels in both rows, see `ASDKIT_LABELS`."""
    sources = _label_source(mine["label_source"], "dcase2022"), _label_source(other["label_source"], name)
    return name != "dcase2022-eval" or ("asdkit" in sources[0]) == ("asdkit" in sources[1])


def _label_source(text: str, place: str) -> str:
    """The label source of a year or column in a text such as ``dcase2022 name, dcase2023 evaluator``."""
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
    groups: dict[tuple[str, str], list[Published]] = {}
    for value in load():
        if value.recipe == recipe and value.metric == "official":
            groups.setdefault((value.system, value.backend), []).append(value)
    lines = []
    for (system, backend), values in groups.items():
        by_column = {value.column: value for value in values}
        scores = ", ".join(
            f"{year.removeprefix('dcase')} "
            f"{_score(by_column.get(f'{year}-dev'))} / {_score(by_column.get(f'{year}-eval'))}"
            for year in dict.fromkeys(value.dcase for value in values)
        )
        name = f"{system}, {backend}" if backend else system
        sources = "; ".join(dict.fromkeys(value.source for value in values))
        lines.append(f"published: {name} (dev / eval): {scores} ({sources})")
    return lines


def _score(value: Published | None) -> str:
    if value is None:
        return "–"
    spread = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{spread}"
