"""What the configuration classes say of their options: docstrings, reachable classes, and who sets an option.

Example::

    described(Train)["epochs"]    # "Passes over the training data; null if ``steps`` is given."
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from asdray.config.base import Config
from asdray.config.option_types import is_model, members_of, part_of, tag_of


@functools.cache
def described(cls: type[Config]) -> Mapping[str, str]:
    """Option -> the docstring below it, in one line; also of options that ``cls`` inherits."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if issubclass(one, Config) and one is not Config:
            found |= _docstrings(one.__module__).get(one.__qualname__, {})
    return {name: text for name, text in found.items() if name in cls.model_fields}


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class -> attribute -> docstring, of a module's source."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_of_class(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for at, text in zip(node.body, node.body[1:], strict=False):
        name = at.target if isinstance(at, ast.AnnAssign) else None
        value = text.value if isinstance(text, ast.Expr) else None
        if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield name.id, " ".join(value.value.split())


def summary(cls: type[Config]) -> str:
    """The first paragraph of a class's docstring, in one line."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split())


def classes_of(cls: type[Config]) -> list[type[Config]]:
    """``cls`` and every class of options that it may hold, without those of plugins; each once."""
    found: dict[type[Config], None] = {}

    def visit(one: type[Config]) -> None:
        if one in found or one.plugin is not None:
            return
        found[one] = None
        for name in one.model_fields:
            for inner in _classes_in(part_of(one, name)):
                visit(inner)

    visit(cls)
    return list(found)


def _classes_in(annotation: Any) -> Iterator[type[Config]]:
    for member in members_of(annotation):
        if is_model(member):
            yield member
        elif typing.get_origin(member) in (tuple, list, dict):
            for inner in typing.get_args(member):
                yield from _classes_in(inner)


def options_set(cls: type[Config], tree: Any) -> Iterator[tuple[type[Config], str]]:
    """(Class, option) of everything that a file sets, ``tree`` being its content."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key not in cls.model_fields:
            continue  # a short form
        yield cls, key
        for item in value if isinstance(value, list) else [value]:
            tag = item.get("name") if isinstance(item, Mapping) else item
            for inner in _classes_in(part_of(cls, key)):
                if tag_of(inner) == tag or tag_of(inner) is None:
                    yield from options_set(inner, item)
