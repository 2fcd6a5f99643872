"""Recipe files by name or path: the shipped recipes, and a user's own. Reads, checks nothing."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from asdray.config.files import parse_yaml, read_yaml
from asdray.dcase.years import nearest


def recipe_names() -> list[str]:
    """Names of the recipes that ship with asdray."""
    folder = resources.files("asdray.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(name: str) -> tuple[Any, str]:
    """The content of a recipe file, not yet validated, and its name for an error message.

    Args:
        name: of a shipped recipe, or the path of a YAML file.

    Raises:
        ValueError: an unknown name, a file that cannot be read, or invalid YAML.
    """
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name)), name
    known = recipe_names()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    text = resources.files("asdray.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, name), f"recipe {name}"


def result_name(recipe: str) -> str:
    """The recipe's name in paths of results; for a recipe file the file name without suffix."""
    stem = re.sub(r"\.ya?ml$", "", recipe).rsplit("/", 1)[-1]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", stem):
        raise ValueError(f"recipe {recipe!r}: use letters, digits, '.', '_' and '-' in its file name")
    return stem
