"""The text of ``asdray recipes``: what each recipe is, the paper it follows, and that paper's scores."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from asdray.config.base import UNIONS
from asdray.config.plugin import Plugin
from asdray.config.system import load_recipe, recipe_names
from asdray.evaluation.published import Published, load

INDENT = 4


def recipe_lines(width: int | None = None) -> list[str]:
    """Every recipe that ships with asdray with what it follows.

    Published are official scores in percent with the standard deviation over trainings, per year the dev and
    the eval subset (``–`` where there is none). They stand at the recipe that repeats how they were made,
    with its backend.

    Args:
        width: characters per line; that of the terminal if None, unlimited where there is none.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    lines = []
    names = recipe_names()
    recipes = {name: load_recipe(name) for name in names}
    told = [name for name in names if f"{name}_asdkit" in names or _published(name)]
    for name, recipe in recipes.items():
        lines += [name, *_wrapped(recipe.about, width)]
        if recipe.source:
            lines += _wrapped(f"follows {recipe.source}", width)
        for value in _published(name):
            lines += _wrapped(value, width)
        for other in told if name not in told else ():
            if recipes[other].system.id == recipe.system.id:
                lines += _wrapped(f"published: see {other}, which is the same system", width)
        if f"{name}_asdkit" in names:
            lines += _wrapped(
                f"published: see {name}_asdkit, which has the classes they were made with", width
            )
    return lines


def plugin_lines(plugins: Iterable[Plugin]) -> list[str]:
    """What plugins add: ``my_method.py adds: loss triplet, backend nearest``."""
    lines = []
    for plugin in plugins:
        names = [
            f"{union.noun} {name}"
            for union in UNIONS.values()
            for name, cls in union.added.items()
            if cls.plugin == plugin
        ]
        lines.append(f"{plugin.path} adds: {', '.join(names)}")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    indent = " " * INDENT
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _published(recipe: str) -> list[str]:
    """One text per published system and backend that the recipe follows."""
    groups: dict[tuple[str, str], list[Published]] = {}
    for value in load():
        if value.recipe == recipe and value.metric == "official":
            groups.setdefault((value.system, value.backend), []).append(value)
    return [
        f"published: {system}{f', {backend}' if backend else ''} (dev / eval): {_scores(values)} "
        f"({'; '.join(dict.fromkeys(value.source for value in values))})"
        for (system, backend), values in groups.items()
    ]


def _scores(values: Sequence[Published]) -> str:
    years = dict.fromkeys(value.dcase for value in values)
    by_place = {(value.dcase, value.subset): value for value in values}
    shown = [
        (year, _score(by_place.get((year, "dev"))), _score(by_place.get((year, "eval")))) for year in years
    ]
    return ", ".join(f"{year.removeprefix('dcase')} {dev} / {test}" for year, dev, test in shown)


def _score(value: Published | None) -> str:
    if value is None:
        return "–"
    spread = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{spread}"
