"""What pydantic finds wrong, in a user's words: one line per fault, with its path in the user's file."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from asdray.config.base import Config, Extensible
from asdray.dcase.years import nearest

_KINDS = {
    "model_type": "a mapping of options",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
}
"""What a value of the wrong kind must be."""


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per fault of a value that was refused as a ``model``.

    pydantic reports a value that fits no member of a union once per member: here that is one fault.
    """
    items = error.errors(include_url=False)
    faults = [_fault(model, item) for item in items if not _follows(item, items)]
    lines: list[str] = []
    for fault in faults:
        alike = [f for f in faults if f.union is not None and f.union == fault.union]
        if inside := [f for f in alike if f.inside]:
            # A member whose inner options were refused is the one that was meant.
            lines += [f.line() for f in inside]
        else:
            lines.append(_one_of(alike) if alike else fault.line())
    return list(dict.fromkeys(lines))


def _follows(item: Any, items: list) -> bool:
    """Whether ``item`` only says that a list is too short because its items were refused."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in items
    )


@dataclass(frozen=True)
class _Fault:
    """One error of pydantic with its place.

    ``union`` is the path of the plain union that it lies in, if any, and ``inside`` says that it concerns
    a part of that union's member, not the member as a whole. ``owner`` is the class that an unknown
    option was written in.
    """

    item: Any
    names: tuple[str, ...]
    union: tuple[str, ...] | None
    inside: bool
    owner: type[BaseModel] | None

    @property
    def path(self) -> str:
        return ".".join(self.names) or "the file"

    def line(self) -> str:
        item, kind, path = self.item, self.item["type"], self.path
        context = item.get("ctx") or {}
        value = item["input"]
        if item["loc"][-1:] == ("[key]",) or kind == "invalid_key":
            return f"{path}: the key {value!r} must be text"
        if kind == "extra_forbidden":
            known = list(self.owner.model_fields) if self.owner else []
            return f"unknown option {path!r}{nearest(self.names[-1], known)} (known here: {', '.join(known)})"
        if kind == "missing":
            return f"{path} is missing"
        if kind == "union_tag_not_found":
            return f"{path} needs a 'name'"
        if kind == "model_attributes_type":
            return f"{path} is {_shown(value)}, but must be an object with a 'name'"
        if kind == "union_tag_invalid":
            tag, expected = context["tag"], _words(context["expected_tags"])
            return f"{path}.name is {tag!r}{nearest(tag, expected)} (known: {', '.join(expected)})"
        if kind == "literal_error":
            return _choice(path, value, _words(context["expected"]))
        if kind in _KINDS:
            return f"{path} is {_shown(value)}: must be {_KINDS[kind]}"
        message = item["msg"].removeprefix("Value error, ")
        if kind == "value_error":
            return f"{path}: {message}" if self.names else message
        return f"{path} is {_shown(value)}: {message[0].lower()}{message[1:]}"


def _one_of(faults: list[_Fault]) -> str:
    """One line for a value that is none of a union's members."""
    choices: list[str] = []
    for fault in faults:
        kind = fault.item["type"]
        if kind == "literal_error":
            choices = [*_words(fault.item["ctx"]["expected"]), *choices]
        elif kind in _KINDS:
            choices.append(_KINDS[kind])
    # A fault of another kind is that of a value of the right kind, such as a number out of its range.
    wrong = next((f for f in faults if f.item["type"] not in ("literal_error", *_KINDS)), None)
    if wrong is not None:
        return f"{wrong.line()} (or: {', '.join(choices)})" if choices else wrong.line()
    return _choice(faults[0].path, faults[0].item["input"], choices)


def _choice(path: str, value: Any, choices: list[str]) -> str:
    close = nearest(value, choices) if isinstance(value, str) else ""
    return f"{path} is {_shown(value)}{close} (one of: {', '.join(choices)})"


def _words(expected: str) -> list[str]:
    """The words in pydantic's ``'a', 'b' or False``, as YAML writes them."""
    words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    return [{"False": "false", "True": "true", "None": "null"}.get(word, word) for word in words]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


# ----------------------------------------------------------------------------------------------- places


def _fault(model: type[BaseModel], item: Any) -> _Fault:
    """The place of an error: which parts of pydantic's location a user wrote.

    pydantic puts the tag of a union member (``adacos``) and the kind of a plain union's member
    (``dict[...]``, ``constrained-float``) into the location; neither stands in the user's file.
    """
    names: list[str] = []
    union: tuple[str, ...] | None = None
    inside = False
    current: Any = model
    owner: type[BaseModel] | None = None
    for part in item["loc"]:
        members = _members(current)
        if part == "[key]":
            continue
        if len(members) > 1:
            current = next((m for m in members if _label_is(m, part)), None)
            if union is None and not all(_tag(m) for m in members):
                union = tuple(names)
            continue
        names.append(str(part))
        inside = union is not None
        member = members[0] if members else None
        owner = member if isinstance(member, type) and issubclass(member, BaseModel) else None
        current = _inner(member, part)
    return _Fault(item, tuple(names), union, inside, owner)


def _members(annotation: Any) -> list[Any]:
    """What an annotation allows besides null."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *marks = typing.get_args(annotation)
        for mark in marks:
            if isinstance(mark, Extensible):
                return list(mark.members)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(annotation) for m in _members(arg) if m is not type(None)]
    return [annotation]


def _label_is(member: Any, part: Any) -> bool:
    """Whether pydantic calls this member of a union ``part``."""
    if tag := _tag(member):
        return tag == part
    name = getattr(typing.get_origin(member) or member, "__name__", None)
    return name is not None and str(part).split("[")[0] == name


def _tag(member: Any) -> str | None:
    if isinstance(member, type) and issubclass(member, Config):
        name = member.model_fields.get("name")
        return name.default if name else None
    return None


def _inner(member: Any, part: Any) -> Any:
    """The annotation of a field, a mapping's value or a sequence's item."""
    if isinstance(member, type) and issubclass(member, BaseModel):
        option = member.model_fields.get(part)
        if option is None:
            return None
        return Annotated[option.annotation, *option.metadata] if option.metadata else option.annotation
    arguments = typing.get_args(member)
    if typing.get_origin(member) in (dict, Mapping):
        return arguments[1]
    if typing.get_origin(member) in (list, tuple):
        return arguments[0]
    return None
