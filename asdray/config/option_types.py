"""The types of options as the configuration classes annotate them: alternatives, members of unions, parts.

Example::

    members_of(part_of(System, "frontend"))    # the class of every frontend, a plugin's own included
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel

from asdray.config.base import Config, Extensible, Member


def members_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows besides null."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *marks = typing.get_args(annotation)
        for mark in marks:
            if isinstance(mark, Extensible | Member):
                return list(mark.members)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(annotation) for m in members_of(arg) if m is not type(None)]
    return [annotation]


def is_model(member: Any) -> bool:
    """True if a type is a class of options."""
    return isinstance(member, type) and issubclass(member, BaseModel)


def tag_of(member: Any) -> str | None:
    """The ``name`` of a configuration class in YAML; None if the class has none of its own."""
    name = member.model_fields.get("name") if is_model(member) and issubclass(member, Config) else None
    return name.default if name and typing.get_args(name.annotation) == (name.default,) else None


def part_of(member: Any, part: Any) -> Any:
    """The annotation of a model's field, a mapping's values or a list's items; None for an unknown field."""
    if is_model(member):
        option = member.model_fields.get(part)
        if option is None:
            return None
        return Annotated[option.annotation, *option.metadata] if option.metadata else option.annotation
    arguments, origin = typing.get_args(member), typing.get_origin(member)
    if origin in (dict, Mapping):
        return arguments[1]
    return arguments[0] if origin in (list, tuple) else None
