"""A recipe in a sweep file: a shipped one, a file, or its whole content; with fixed and varied options.

Below a sweep file::

    recipes:
      dis_baseline:
        set: {train.batch_size: 64}
      wide:    # the same recipe again, under another name
        recipe: dis_baseline
        set: {train.batch_size: 128}
      small_ae:
        recipe: {frontend: {name: autoencoder, bottleneck: 4}, train: {epochs: 8}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from asdray.config.base import Config
from asdray.config.system import Recipe, load_recipe

Pairs = dict[str, Any] | tuple[dict[str, Any], ...]
"""Options that vary together: one group, dotted option path -> values, or several groups."""


def groups_of(pairs: Pairs) -> tuple[Mapping[str, Any], ...]:
    """The groups of options that vary together; none for an empty mapping."""
    return tuple(group for group in ((pairs,) if isinstance(pairs, Mapping) else pairs) if group)


class OwnRecipe(Recipe):
    """The whole content of a recipe inside of a sweep file. Example: ``{frontend: {name: raw_spec}}``"""

    about: str = ""
    """One line on the system."""


class RecipeUse(Config):
    """A recipe in a sweep.

    Example: ``dis_baseline: {set: {train.batch_size: 64}, space: {train.epochs: [8, 16]}}``
    """

    recipe: str | OwnRecipe | None = None
    """The recipe by name or path, or its whole content; null: the key is the recipe's name or path."""
    set: dict[str, Any] = Field(default={})
    """Fixed values: dotted option path -> value."""
    space: dict[str, Any] = Field(default={})
    """Axes: dotted option path -> values. They replace axes of the sweep's ``space`` with the same path."""
    zip: Pairs = Field(default={})
    """Paired axes, beside those of the sweep's ``zip``."""

    def content(self, name: str) -> Recipe:
        """The recipe below the key ``name``.

        Raises:
            ValueError: an unknown name, or a fault in the recipe's file.
        """
        recipe = self.recipe or name
        return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
