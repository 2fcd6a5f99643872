"""Results that others published, beside ours: ``benchmarks/published/*.csv``, which ship with the package.

One line per value: what was measured, on which year and subset, with which labels, and where it is printed.
``recipe`` and ``recipe_backend`` name what of ours follows the system, where something does.
"""

from __future__ import annotations

import csv
import functools
import math
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
    """One published value.

    Attributes:
        mean, std: fractions; std over ``n`` trainings, None where it is not published.
        n: None where it is not said.
        label_source: ``official``, ``evaluator`` (the challenge's own), ``asdkit`` where that toolkit's
            labels are others, or ``unstated``.
        recipe: ours that follows the system, ``""`` if there is none.
        backend_id: of our backend that follows the system's, ``""`` if there is none.
        source: where the number is printed, or who recorded it.
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
        """``dcase2023-eval``."""
        return f"{self.dcase}-{self.subset}"


@functools.cache
def load(folder: Path = FOLDER) -> tuple[Published, ...]:
    """Every published value.

    Raises:
        ValueError: a line that cannot be right, with its file and number.
    """
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
    text = line.pop("recipe_backend")
    backend = (
        backend_id(check_backends([parse_yaml(text, "recipe_backend")], "recipe_backend")[0]) if text else ""
    )
    numbers: dict[str, Any] = {"mean": mean, "std": std, "n": int(line["n"]) if line["n"] else None}
    return Published(**{**line, **numbers}, backend_id=backend)


# ------------------------------------------------------------------------------- beside our own rows


def leaderboard_rows(
    names: Iterable[str], metric: str = "official", values: Sequence[Published] | None = None
) -> list[dict[str, Any]]:
    """Rows for `asdray.evaluation.leaderboard.build`, one per published system and backend.

    Args:
        names: the ``<dcase>-<subset>`` in which they may stand: of official data, over all machines. A mean
            over fewer machines is another number.
        values: all of `load` when None.
    """
    wanted = list(names)
    systems: dict[tuple[str, str], list[Published]] = {}
    for value in load() if values is None else values:
        if value.column in wanted and value.metric == metric:
            systems.setdefault((value.system, value.backend), []).append(value)
    rows = []
    for (system, backend), mine in systems.items():
        row: dict[str, Any] = {
            "system": system,
            "recipe": mine[0].recipe,
            "options": "",
            "backend": backend,
            "backend_id": mine[0].backend_id,
            "checkpoint": "",
            "origin": "published",
            "source": "; ".join(dict.fromkeys(v.source for v in mine)),
            "selected_by": "",
            "label_source": ", ".join(dict.fromkeys(f"{v.column} {v.label_source}" for v in mine)),
            "dataset": "official",
            "machines": "all",
            "classes_from": load_recipe(mine[0].recipe).system.frontend.classes_from
            if mine[0].recipe
            else "",
        }
        sources = {v.label_source for v in mine}
        if len(sources) == 1:
            row["label_source"] = sources.pop()
        for v in mine:
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
    """Our rows of shipped recipes, as they are and at the last epoch, beside the results that they follow.

    ``difference`` is ours less the published; ``spread`` the standard deviation of the difference of one
    training of ours and one of theirs, ``sqrt(std^2 + published_std^2)``; where one of the two is unknown, as
    of a single training, it is taken to be the other, hence ``sqrt(2)`` times that. ``within_spread``:
    whether the difference is no larger. All three are null unless ours is complete, the latter two where
    neither std is known, or the labels of both are known to differ: then the difference is none of the
    systems alone.

    Returns:
        `BESIDE_COLUMNS`, a line per column of the leaderboard, row of ours and published row.
    """
    import pandas as pd

    records = board.frame.to_dict("records")
    theirs = [r for r in records if r["origin"] == "published" and r["recipe"]]
    lines = []
    for name in board.names:
        for other in theirs:
            if math.isnan(other[f"{name}_mean"]):
                continue
            as_shipped = f"{other['recipe']}-{load_recipe(other['recipe']).system.id}"
            for mine in records:
                same = (mine["system"], mine["backend_id"]) == (as_shipped, other["backend_id"])
                if same and mine["origin"] == "ours" and mine["checkpoint"] == "last":
                    lines.append(_line(name, mine, other))
    return pd.DataFrame(lines, columns=list(BESIDE_COLUMNS)).astype({"within_spread": "boolean"})


def _line(name: str, mine: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[str, Any]:
    mean, std, n, n_expected = (mine[f"{name}_{part}"] for part in ("mean", "std", "n", "n_expected"))
    complete = 0 < n_expected == n and not math.isnan(mean)
    difference = mean - other[f"{name}_mean"] if complete else None
    known = [s for s in (std, other[f"{name}_std"]) if not math.isnan(s)]
    comparable = complete and known and _labels_agree(name, mine, other)
    spread = math.hypot(known[0], known[-1]) if comparable else None
    return {
        "column": name,
        "system": mine["system"],
        "recipe": mine["recipe"],
        "backend": mine["backend"],
        "n": n,
        "n_expected": n_expected,
        "mean": mean,
        "std": std,
        "published": other["system"],
        "published_mean": other[f"{name}_mean"],
        "published_std": other[f"{name}_std"],
        "published_n": other[f"{name}_n"],
        "difference": difference,
        "spread": spread,
        "within_spread": abs(difference) <= spread if difference is not None and spread is not None else None,
        "label_source": mine["label_source"],
        "published_label_source": other["label_source"],
        "source": other["source"],
    }


def _labels_agree(name: str, mine: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Whether a column's test clips have the same labels in both rows: see `ASDKIT_LABELS`."""
    if name != "dcase2022-eval":
        return True
    ours = _source_of(mine["label_source"], "dcase2022")
    return ("asdkit" in ours) == ("asdkit" in _source_of(other["label_source"], name))


def _source_of(label_source: str, place: str) -> str:
    """The part of a row's label source that speaks of a year or column: all of it where it is not divided."""
    parts = dict(part.split(" ", 1) for part in label_source.split(", ") if " " in part)
    return parts.get(place, label_source)
