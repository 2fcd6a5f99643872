"""JSON schemas of sweep files and recipes, for editors: names, types, ranges, defaults and descriptions.

A schema accepts at least every file that `asdray` accepts; only reading a file finds faults such as clips
that are too short. A line in a sweep file tells an editor where the schema is::

    # yaml-language-server: $schema=asdray.schema.json

The schema of sweep files lies in the package, as ``asdray.schema.json``.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from asdray.config.backend import BackendConfig
from asdray.config.base import UNIONS, Config
from asdray.config.described import classes_of, described, summary
from asdray.config.option_types import is_model, members_of, part_of, tag_of
from asdray.config.pooling import PoolingConfig
from asdray.config.recipe_files import recipe_names
from asdray.config.recipe_use import OwnRecipe
from asdray.config.search import AXIS_KINDS, Objective, Search
from asdray.config.sweep import Sweep
from asdray.config.system import Recipe, System
from asdray.dcase.years import YEARS

Schema = dict[str, Any]
Change = Callable[[Schema], Schema]

TEXT: Schema = {"type": "string"}


def schema_of(model: type[Sweep | Recipe]) -> Schema:
    """The JSON schema (draft 7) of sweep files or of recipes, short forms included."""
    schema = _loosened(plain_schema(model))
    definitions = schema["$defs"]
    if model is Sweep:
        definitions |= _by_path()
    for cls in classes_of(model):
        properties = (schema if cls is model else definitions[cls.__name__])["properties"]
        for name, change in _SHORT_FORMS.get(cls.__name__, {}).items():
            properties[name] = change(properties[name])
        if issubclass(cls, BackendConfig | PoolingConfig):
            others = {name: own for name, own in properties.items() if name != "name"}
            properties |= {name: _or(_list_of(_bare(own)))(own) for name, own in others.items()}
    clustering = definitions["Clustering"]
    source = clustering["properties"].pop("source")
    clustering["properties"]["from"] = {**_kept(source), "type": ["string", "object"]}
    clustering["required"] = ["from"]
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def json_text(model: type[Sweep | Recipe]) -> str:
    """`schema_of` as the text of a file."""
    return json.dumps(schema_of(model), indent=1, ensure_ascii=False) + "\n"


def plain_schema(model: type[Config]) -> Schema:
    """pydantic's schema of a configuration class, with the docstrings of classes and options."""
    schema = model.model_json_schema(schema_generator=_Generator)
    for cls in classes_of(model):
        own = schema if cls is model else schema["$defs"][cls.__name__]
        own["description"] = summary(cls)
        for name, text in described(cls).items():
            own["properties"][name]["description"] = text
    return schema


class _Generator(GenerateJsonSchema):
    """pydantic's generator with options in the order of the classes, and `asdray.config.base.Member`."""

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> Schema:
        return {"type": "object"}

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value


# -------------------------------------------------------------------------------- what pydantic does not know


def _loosened(schema: Any) -> Any:
    """A schema with names in place of objects, in the words of draft 7, without titles."""
    if isinstance(schema, list):
        return [_loosened(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {k: _loosened(part) for k, part in schema.items() if k != "title" or not isinstance(part, str)}
    if schema.get("type") == "array":
        for theirs, ours in (("minLength", "minItems"), ("prefixItems", "items")):
            if theirs in schema:
                schema[ours] = schema.pop(theirs)
    if discriminator := schema.pop("discriminator", None):
        schema["anyOf"] = _alternatives(list(discriminator["mapping"]), schema.pop("oneOf"))
    return schema


def _alternatives(names: list[str], members: list[Schema]) -> list[Schema]:
    """A union's members, by name or as objects; and any other member of a union that plugins extend."""
    known: Schema = {"enum": names}
    built_in = [{tag_of(cls) for cls in union.built_in} for union in UNIONS.values()]
    if {*names} not in built_in:
        return [known, *members]
    other = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "not": known}}}
    return [known, *members, {"type": "string", "not": known}, other]


def _kept(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("description", "default") if key in schema}


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _or(*more: Schema) -> Change:
    """A change to: as before, or as one of ``more``."""
    return lambda schema: {**_kept(schema), "anyOf": [_bare(schema), *more]}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one_or_many(schema: Schema) -> Schema:
    return _or(schema["items"])(schema)


def _ref(name: str) -> Change:
    return lambda schema: {**_kept(schema), "anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}


def _years(schema: Schema) -> Schema:
    return _one_or_many({**schema, "items": {"enum": list(YEARS)}})


def _recipes(schema: Schema) -> Schema:
    use = {"anyOf": [schema["additionalProperties"], {"type": "null"}]}
    named = dict.fromkeys(recipe_names(), use)
    of_files = {**_bare(schema), "properties": named, "additionalProperties": use}
    return {**_kept(schema), "anyOf": [of_files, _list_of({"anyOf": [{"enum": recipe_names()}, TEXT]})]}


_SHORT_FORMS: Mapping[str, Mapping[str, Change]] = {
    "Sweep": {
        "recipes": _recipes,
        "space": _ref("Space"),
        "zip": _ref("Pairs"),
        "dcase": _years,
        "machines": _or(_list_of(TEXT)),
        "search": _or({"enum": list(typing.get_args(Search.model_fields["algorithm"].annotation))}),
        "resources": _or({"const": "auto"}),
        "stall_after": _or(TEXT),
        **dict.fromkeys(("seeds", "backends", "checkpoints", "plugins", "loggers"), _one_or_many),
    },
    "RecipeUse": {"set": _ref("Values"), "space": _ref("Space"), "zip": _ref("Pairs")},
    "Search": {
        "objective": _or({"enum": list(typing.get_args(Objective.model_fields["metric"].annotation))}),
        "sampler": _or(TEXT),
    },
    "Confirm": {"dcase": _or(TEXT), "seeds": _one_or_many},
    "Encoder": {"layers": _or({"type": "integer", "minimum": 1}), "poolings": _one_or_many},
    "EncoderBranch": {"tune": _or({"type": "object", "required": ["last"]}), "poolings": _one_or_many},
}
"""Class -> option -> the change of its schema by a short form."""


# ------------------------------------------------------------------------------------- dotted option paths


def _by_path() -> Schema:
    """Definitions of ``set``, ``space`` and ``zip``, whose keys are dotted paths of a system's options."""
    values: dict[str, list[Schema]] = {}
    for path, cls, name in _paths(OwnRecipe):
        values.setdefault(path, []).append({"$ref": f"#/$defs/{cls.__name__}/properties/{name}"})
    texts = {path: _description(path) for path in values}
    pairs = {
        "type": "object",
        "additionalProperties": {"type": "array", "minItems": 1},
        "properties": {path: {"type": "array", "minItems": 1} for path in texts},
    }
    drawn = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {kind: {"type": "array", "minItems": 1} for kind in AXIS_KINDS},
    }
    axis = {"$ref": "#/$defs/Axis"}
    return {
        "Axis": {"anyOf": [{"type": "array", "minItems": 1}, drawn]},
        "Values": {"type": "object", "properties": {path: {"anyOf": refs} for path, refs in values.items()}},
        "Space": {
            "type": "object",
            "additionalProperties": axis,
            "properties": {path: {"description": text, "allOf": [axis]} for path, text in texts.items()},
        },
        "Pairs": {"anyOf": [pairs, _list_of(pairs)]},
    }


def _description(path: str) -> str:
    owners = [(cls, name) for at, cls, name in _paths(OwnRecipe) if at == path]
    texts = [described(cls)[name] for cls, name in owners if name in described(cls)]
    return texts[0] if texts else ""


def _paths(cls: type[Config], prefix: str = "") -> Iterator[tuple[str, type[Config], str]]:
    """(Dotted path, class, option) of every option of a system that no list holds."""
    for name in cls.model_fields:
        if not prefix and name not in System.model_fields:
            continue
        yield f"{prefix}{name}", cls, name
        for member in members_of(part_of(cls, name)):
            if is_model(member) and member.plugin is None:
                yield from _paths(member, f"{prefix}{name}.")
