"""From YAML to validated configuration, with errors that a person can act on."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from asdray.config.base import Config
from asdray.config.faults import explain
from asdray.config.system import Recipe, System
from asdray.dcase.years import nearest

C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number and a key that stands twice, or is no plain value, is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked as it is written, before merge keys (`<<: *base`) bring in keys that may stand twice.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a key must be a plain value, not a list or a mapping", key)
            if (key.tag, key.value) in seen:
                raise _fault(f"the key {key.value!r} stands twice", key)
            seen.add((key.tag, key.value))
        return node


def _fault(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


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
    # The latter two come from values that look like a date or carry a tag, but are not: 2001-99-99.
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ValueError: missing or unreadable file, not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: not a text file ({error})") from None
    return parse_yaml(text, str(path))


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
        raise ValueError("\n".join(f"{where}: {line}" for line in explain(model, error))) from None


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
