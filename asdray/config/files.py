"""YAML files and ``key=value`` options, checked against a configuration class.

Numbers may be written as ``1e-3``; a repeated key is an error. Example::

    validate(Sweep, read_yaml(Path("sweep.yaml")), "sweep.yaml")
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from asdray.config.base import Config
from asdray.config.faults import explain
from asdray.config.plugin import read_errors

C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML with ``1e-3`` as a number, and errors for keys that are repeated or are not plain values."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before merge keys (`<<: *base`) add keys, which may well repeat others.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be a plain value, not a list or a mapping", key)
            if (key.tag, key.value) in seen:
                raise _error(f"the key {key.value!r} stands twice", key)
            seen.add((key.tag, key.value))
        return node


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: invalid YAML, with ``where`` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    # PyYAML raises ValueError or LookupError for an impossible date (2001-99-99) and a wrong tag.
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ValueError: a missing or unreadable file, or invalid YAML.
    """
    with read_errors(path):
        text = path.read_text(encoding="utf-8")
    return parse_yaml(text, str(path))


def validate(model: type[C], value: Any, where: str) -> C:
    """``value`` as an instance of ``model``.

    Raises:
        ValueError: a line per fault: ``where``, the full dotted path of the option and, for a wrong key or
            choice, the nearest valid name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError("\n".join(f"{where}: {line}" for line in explain(model, error))) from None


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """Values, read as YAML, by key: ``["seeds=[0, 1]"]`` gives ``{"seeds": [0, 1]}``.

    Raises:
        ValueError: a pair without ``=``, or invalid YAML.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {pair!r} must have the form key=value")
        values[key] = parse_yaml(value, f"--set {pair}")
    return values
