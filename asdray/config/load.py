"""From YAML to validated configuration, with errors that a person can act on."""

from __future__ import annotations

import copy
import itertools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from asdray.config.base import Config
from asdray.config.system import Recipe, System
from asdray.dcase.years import nearest

C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, typing.Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML, with ``where`` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ValueError: missing or unreadable file, not YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


# ------------------------------------------------------------------------------------------ validation


def validate(model: type[C], value: Any, where: str) -> C:
    """``value`` as a ``model``.

    Raises:
        ValueError: one line per fault, each with its full dotted path behind ``where`` and, for a wrong
            key or choice, the nearest valid one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        items = error.errors(include_url=False)
        items = [item for item in items if not _follows(item, items)]
        lines = [_explain(model, item) for item in items]
        raise ValueError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def _follows(item: Any, items: list) -> bool:
    """Whether another fault is the cause of this one: then that one alone is told.

    A sequence whose items were refused is also "too short"; an object with a wrong option is also not
    the plain word (``false``, ``all``) that could stand in its place.
    """
    outer = item["loc"]
    if item["type"] == "literal_error" and isinstance(item["input"], Mapping | list):
        outer = outer[:-1]
    elif item["type"] != "too_short":
        return False
    return any(
        len(o["loc"]) > len(outer) and o["loc"][: len(outer)] == outer and o is not item for o in items
    )


def _explain(model: type[BaseModel], item: Any) -> str:
    loc, kind = item["loc"], item["type"]
    names, owner = _walk(model, loc[:-1] if kind == "extra_forbidden" else loc)
    path = ".".join(names) or "the file"
    context = item.get("ctx") or {}
    if kind == "extra_forbidden":
        full = ".".join([*names, str(loc[-1])])
        known = list(owner.model_fields) if owner else []
        return f"unknown option {full!r}{nearest(loc[-1], known)} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"{path} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = [tag.strip().strip("'") for tag in str(context.get("expected_tags", "")).split(",")]
        if kind == "union_tag_not_found":
            if isinstance(item["input"], Mapping):
                return f"{path} needs a 'name'"
            return f"{path} is {item['input']!r}, but must be an object with a 'name'"
        tag = context["tag"]
        return f"{path}.name is {tag!r}{nearest(tag, expected)} (known: {', '.join(expected)})"
    if kind == "literal_error":
        expected = [e.strip("' ") for e in str(context["expected"]).replace(" or ", ",").split(",")]
        return (
            f"{path} is {item['input']!r}{nearest(item['input'], expected)} (one of: {', '.join(expected)})"
        )
    message = item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if names else message
    return f"{path} is {item['input']!r}: {message[0].lower()}{message[1:]}"


def _walk(model: type[BaseModel], loc: Iterable[Any]) -> tuple[list[str], type[BaseModel] | None]:
    """The names a user wrote along a pydantic location, and the class it ends in (None: not a class).

    pydantic puts the tag of a union member (``adacos``) and the kind of a plain union's member
    (``float``) into the location; neither stands in the user's file.
    """
    names: list[str] = []
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if part in current.model_fields:
                names.append(str(part))
                current = current.model_fields[part].annotation
                continue
            if part == _tag(current):
                continue
            names.append(str(part))
            current = None
            continue
        inner = _members(current)
        tagged = next((m for m in inner if _tag(m) == part), None)
        if tagged is not None:
            current = tagged
        elif isinstance(part, int):
            names.append(str(part))
            current = _item(current)
        elif typing.get_origin(_plain(current)) in (dict, Mapping):
            names.append(str(part))
            current = typing.get_args(_plain(current))[1]
        else:
            # The kind of a plain union's member, such as 'float' or 'literal[...]'.
            current = next((m for m in inner if getattr(m, "__name__", None) == part), None)
    members = [m for m in _members(current) if isinstance(m, type) and issubclass(m, BaseModel)]
    return names, members[0] if len(members) == 1 else None


def _plain(annotation: Any) -> Any:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> list[Any]:
    annotation = _plain(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(annotation) for m in _members(arg)]
    return [annotation]


def _item(annotation: Any) -> Any:
    """The class of a sequence's items."""
    for member in _members(annotation):
        if typing.get_origin(member) in (list, tuple):
            return typing.get_args(member)[0]
    return None


def _tag(member: Any) -> str | None:
    if isinstance(member, type) and issubclass(member, Config):
        name = member.model_fields.get("name")
        return name.default if name else None
    return None


# --------------------------------------------------------------------------------------------- recipes


def recipe_names() -> list[str]:
    """The recipes that ship with asdray."""
    folder = resources.files("asdray.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``, or the one in the YAML file at the path ``name``.

    Raises:
        ValueError: unknown name, or a fault in the file.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(Recipe, read_yaml(Path(name)), name)
    known = recipe_names()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    text = resources.files("asdray.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return validate(Recipe, parse_yaml(text, name), f"recipe {name}")


def with_overrides(system: System, overrides: Mapping[str, Any], where: str) -> System:
    """``system`` with options at dotted paths replaced, shorter paths first.

    An object replaces a union member whole: what it leaves out takes that member's defaults.

    Raises:
        ValueError: a path that does not exist (with the nearest that does) or a value that does not fit.
    """
    for _, paths in itertools.groupby(sorted(overrides, key=_depth), key=_depth):
        tree = system.model_dump(mode="json")
        for path in paths:
            _set(tree, path, copy.deepcopy(overrides[path]), where)
        # Validated level by level: a member replaced here has its options in place for deeper paths.
        system = validate(System, tree, where)
    return system


def _depth(path: str) -> int:
    return path.count(".")


def _set(tree: dict, path: str, value: Any, where: str) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    walked: list[str] = []
    for key in parents:
        node = _child(node, key, walked, path, where)
        walked.append(key)
    _child(node, last, walked, path, where)
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value


def _child(node: Any, key: str, walked: list[str], path: str, where: str) -> Any:
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, dict) and key in node:
        return node[key]
    if isinstance(node, dict):
        known = [".".join([*walked, k]) for k in node]
    elif isinstance(node, list):
        known = [".".join([*walked, str(i)]) for i in range(len(node))]
    else:
        raise ValueError(f"{where}: unknown option {path!r} ({'.'.join(walked)} is a plain value)")
    full = ".".join([*walked, key])
    raise ValueError(
        f"{where}: unknown option {path!r}{nearest(full, known)} (known here: {', '.join(known)})"
    )


def parse_set(pairs: Iterable[str], where: str = "--set") -> dict[str, Any]:
    """``key=value`` pairs of a command line; values are YAML.

    Raises:
        ValueError: a pair without ``=``.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{where} {pair!r} must have the form key=value")
        values[key] = parse_yaml(value, f"{where} {pair}")
    return values
