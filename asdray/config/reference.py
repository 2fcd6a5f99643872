"""The reference of all options in Markdown: type, range, default, meaning, and recipes that set an option."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from asdray.config.base import Config
from asdray.config.described import classes_of, described, options_set, summary
from asdray.config.option_types import tag_of
from asdray.config.recipe_files import read_recipe, recipe_names
from asdray.config.recipe_use import OwnRecipe
from asdray.config.schema import Schema, plain_schema
from asdray.config.sweep import Sweep
from asdray.config.system import Recipe

MOST_RECIPES = 3
"""Recipes that a row names; of more, the row has the number."""

_CHAPTERS = {
    "sweep": "Sweep file",
    "recipe_use": "Recipes in a sweep file",
    "search": "Searches",
    "system": "Recipe files",
    "frontend": "Frontends",
    "untrained": "Frontends that learn nothing",
    "encoder": "Pretrained encoders",
    "pooling": "Poolings",
    "branch": "Branches of the discriminative frontend",
    "tuning": "Tuning of an encoder",
    "losses": "Losses and heads",
    "clustering": "Pseudo-labels",
    "train": "Training",
    "audio": "Clips",
    "backend": "Backends and UMAP",
}
"""Module of configuration classes -> title of their chapter."""

_HEAD = """# Option reference

Every option of sweep files and recipes, made from the configuration classes by `asdray schema options`. An
object with a `name` may be written as the name alone, if its default options are wanted. *Set by* are the
shipped recipes whose files name the option; in the others the default applies. `asdray schema` prints the
same as a JSON schema, with which an editor completes and checks sweep files; plugins may add further losses,
networks, frontends and backends."""


def reference() -> str:
    """The text of ``docs/options.md``."""
    set_by = _recipes_by_option()
    chapters: dict[str, list[str]] = {name: [] for name in _CHAPTERS}
    schemas = _schemas()
    for cls in [c for c in dict.fromkeys([*classes_of(Sweep), *classes_of(Recipe)]) if c is not OwnRecipe]:
        chapters[cls.__module__.rpartition(".")[2]].append(_section(cls, schemas[cls.__name__], set_by))
    parts = [_HEAD, "\n".join(f"* [{title}](#{_anchor(title)})" for title in _CHAPTERS.values())]
    for name, title in _CHAPTERS.items():
        parts += [f"## {title}", *chapters[name]]
    return "\n\n".join(parts) + "\n"


def _schemas() -> dict[str, Schema]:
    """Class -> its schema, with that of all others that it may hold."""
    sweep, recipe = plain_schema(Sweep), plain_schema(Recipe)
    return {**recipe.pop("$defs"), **sweep.pop("$defs"), "Sweep": sweep, "Recipe": recipe}


def _recipes_by_option() -> dict[tuple[str, str], list[str]]:
    """(Class, option) -> the shipped recipes that set the option."""
    found: dict[tuple[str, str], list[str]] = {}
    for recipe in recipe_names():
        tree, _ = read_recipe(recipe)
        for option in dict.fromkeys((cls.__name__, name) for cls, name in options_set(Recipe, tree)):
            found.setdefault(option, []).append(recipe)
    return found


def _section(cls: type[Config], schema: Schema, set_by: Mapping[tuple[str, str], list[str]]) -> str:
    """A class's heading, its first paragraph and a row per option."""
    tag = tag_of(cls)
    named = f"`name: {tag}`. " if tag else ""
    rows = [
        _row(cls, name, schema["properties"][name], set_by.get((cls.__name__, name), []))
        for name in cls.model_fields
        if not (name == "name" and tag)
    ]
    head = ["| option | type | default | meaning | set by |", "|---|---|---|---|---|"]
    table = [*head, *rows] if rows else ["No options."]
    return f"### {cls.__name__}\n\n{named}{_markdown(summary(cls))}\n\n" + "\n".join(table)


def _row(cls: type[Config], name: str, schema: Schema, recipes: list[str]) -> str:
    option = cls.model_fields[name]
    default = "required" if option.is_required() else _default(option.get_default(call_default_factory=True))
    of = ", ".join(recipes) if len(recipes) <= MOST_RECIPES else f"{len(recipes)} recipes"
    cells = (f"`{name}`", "; ".join(_types(schema)), default, _markdown(described(cls).get(name, "")), of)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(value: Any) -> str:
    """A default as YAML writes it; an object without the options that have their own defaults."""
    text = yaml.safe_dump(_short(value), default_flow_style=True, width=10_000).strip()
    return f"`{text.removesuffix('...').strip()}`"


def _short(value: Any) -> Any:
    if isinstance(value, Config):
        options = {name: _short(getattr(value, name)) for name in value.model_dump(exclude_defaults=True)}
        tag = tag_of(type(value))
        return tag if tag and not options else {**({"name": tag} if tag else {}), **options}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value


def _types(schema: Schema) -> Iterator[str]:
    """The alternatives of a schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2].removeprefix("Own") or "Own"
        yield f"[{name}](#{_anchor(name)})"
    elif "discriminator" in schema:
        members = schema["discriminator"]["mapping"].items()
        yield ", ".join(f"[`{name}`](#{_anchor(ref.rpartition('/')[2])})" for name, ref in members)
    elif "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _types(part)
    elif "const" in schema or "enum" in schema:
        yield ", ".join(f"`{_json(value)}`" for value in schema.get("enum", [schema.get("const")]))
    elif schema.get("type") == "array":
        yield _list_in_words(schema)
    else:
        kinds = {"integer": "whole number", "number": "number", "string": "text", "object": "mapping"}
        kind = schema.get("type", "")
        words = {"boolean": "`true`, `false`", "null": "`null`"}.get(kind) or kinds.get(kind, "any value")
        yield f"{words}{_range(schema)}"


def _list_in_words(schema: Schema) -> str:
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {'; '.join(_types(schema['prefixItems'][0]))}"
    return f"list of: {'; '.join(_types(schema.get('items', {})))}"


def _range(schema: Schema) -> str:
    """The limits of a number: ``, from 0, below 1``."""
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f", {word} {schema[key]:.10g}" for key, word in words.items() if key in schema)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _markdown(text: str) -> str:
    """A docstring's text as Markdown."""
    return text.replace("``", "`")
