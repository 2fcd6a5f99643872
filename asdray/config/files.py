"""YAML files and ``key=value`` options, checked against a configuration class, with faults in a user's words.

Numbers may be written as ``1e-3``; a repeated key is an error. Example::

    validate(Sweep, read_yaml(Path("sweep.yaml")), "sweep.yaml")

A fault is a line with the path of the option in the user's file: ``sweep.yaml: unknown option
'train.batchsize'; did you mean 'train.batch_size'? (known here: train.epochs, ...)``.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from asdray.config.base import Config
from asdray.config.option_types import is_model, members_of, part_of, tag_of
from asdray.config.plugin import read_errors
from asdray.config.words import nearest_option
from asdray.dcase.years import nearest
from asdray.printable import quoted
from asdray.regular import read_text

C = TypeVar("C", bound=Config)


LARGEST, DEEPEST, MOST_ALIASES, MOST_VALUES = 2**20, 50, 1000, 100_000
"""Limits of a YAML text: characters, levels, aliases (``*name``), and values with every alias written out."""

LONGEST_NUMBER = 400
"""Characters of a number in YAML; the longest double has 309 digits before the point."""

_TAGS = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAGS}int", f"{_TAGS}float")


class _Loader(yaml.SafeLoader):
    """YAML with limits, and errors for keys that are repeated or are not plain values.

    ``1e-3`` is a number. As in YAML 1.2 ``1:30``, dates, ``on``, ``off``, ``yes`` and ``no`` are text, while
    ``010``, 8 in YAML 1.1 and 10 in 1.2, is an error.

    Every error names the line: without limits, 600 characters of aliases of aliases become 10^9 values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._aliases = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MOST_ALIASES:
                raise _error(f"more than {MOST_ALIASES} aliases", event)
            named = super().compose_node(parent, index)
            if id(named) not in self._sizes:  # the node is not complete
                raise _error(f"*{event.anchor} stands inside of the value that it names", event)
            return named
        if self._depth == DEEPEST:
            raise _error(f"more than {DEEPEST} levels of lists and mappings", event)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if size > MOST_VALUES:
            raise _error(f"more than {MOST_VALUES} values, with every alias written out", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before merge keys (`<<: *base`) add keys, which may well repeat others.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be a plain value, not a list or a mapping", key)
            if (key.tag, key.value) in seen:
                raise _error(f"the key {quoted(key.value)} stands twice", key)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:  # takes quadratic time
                raise ValueError
            value = super().construct_object(node, deep)
        # PyYAML's functions raise these for a value that its tag does not fit, such as the date 2001-99-99.
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            value = quoted(node.value) if isinstance(node, yaml.ScalarNode) else "the value"
            raise _error(f"{value} is no {node.tag.removeprefix(_TAGS)}", node) from None
        if node.tag == f"{_TAGS}int" and re.fullmatch("[-+]?0[0-7_]+", node.value):
            meant = " or ".join(dict.fromkeys((str(value), str(int(node.value.replace("_", ""))))))
            raise _error(
                f"{node.value} would be read as {value}: write {meant}, or '{node.value}' for text,", node
            )
        return value


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """The error of a node or event."""
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


_OF_ITS_OWN = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Tag -> what a plain value of it looks like, and its first characters."""
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].removeprefix(_TAGS) not in (*_OF_ITS_OWN, "timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_form, _first) in _OF_ITS_OWN.items():
    _Loader.add_implicit_resolver(f"{_TAGS}{_tag}", re.compile(f"(?:{_form})$"), list(_first))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: invalid YAML, or a text beyond the limits; with ``where`` and the line.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{where} is too long: {len(text)} characters, at most {LARGEST} are read")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    # PyYAML's scanner raises OverflowError for the character "\UFFFFFFFF".
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = "" if loader is None or isinstance(error, yaml.YAMLError) else f"line {loader.line + 1}: "
        raise ValueError(f"{where} is not valid YAML: {line}{' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file; raises ValueError for a missing or unreadable file, or invalid YAML."""
    with read_errors(path):
        text = read_text(path, LARGEST)
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


def seconds_of(text: str, option: str) -> float:
    """Seconds of a time such as ``3h50m``, ``230m``, ``13800`` (seconds) or ``03:50:00``.

    >>> seconds_of("3h50m", "--wall-time") == seconds_of("03:50:00", "--wall-time") == 13800
    True

    Args:
        option: what holds the time, for the message.

    Raises:
        ValueError: another form, or no time at all; also ``3:50``, which Slurm takes for minutes.
    """
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,9})m)?|(\d{1,6}):([0-5]\d):([0-5]\d)", text.strip())
    hours, minutes, *clock = (int(n or 0) for n in found.groups()) if found else (0, 0, 0, 0, 0)
    seconds = 3600 * (hours + clock[0]) + 60 * (minutes + clock[1]) + clock[2]
    if re.fullmatch(r"\d{1,9}", text.strip()):
        seconds = int(text)
    if not seconds:
        raise ValueError(f"{option} is {text!r}: must be a time such as 3h50m, 13800 (seconds) or 03:50:00")
    return float(seconds)


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


# ------------------------------------------------------------------------ pydantic's errors in a user's words

_KINDS = {
    "model_type": "a mapping of options",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "none_required": "null",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
}
"""pydantic's errors about a value of the wrong kind, with the right kind in words."""


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per fault of a value that ``model`` refused.

    pydantic reports a value that fits no member of a union once per member: here one fault and one line.
    """
    items = error.errors(include_url=False)
    faults = [_located(model, item) for item in items if not _is_consequence(item, items)]
    lines: list[str] = []
    for fault in faults:
        same_union = [f for f in faults if f.union is not None and f.union == fault.union]
        if inside := [f for f in same_union if f.inside]:
            # The user meant the member in which pydantic refused an inner option.
            lines += [f.line() for f in inside]
        else:
            lines.append(_fits_no_member(same_union) if same_union else fault.line())
    return list(dict.fromkeys(lines))


def _is_consequence(item: Any, items: list) -> bool:
    """True if ``item`` calls a list too short only because items of the list were refused."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in items
    )


@dataclass(frozen=True)
class _Fault:
    """One error of pydantic with its place in the user's file.

    Attributes:
        item: pydantic's description of the error.
        names: path of the option.
        union: path of the union without a ``name`` (a number or a word, say) around the error; None if none.
        inside: True if the error concerns an option of such a union's member, not the member as a whole.
        owner: class in which an unknown option was written.
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
        """The fault in words."""
        item, kind, path, value = self.item, self.item["type"], self.path, self.item["input"]
        context = item.get("ctx") or {}
        if item["loc"][-1:] == ("[key]",) or kind == "invalid_key":
            return f"{path}: the key {value!r} must be text"
        if kind == "extra_forbidden":
            known = list(self.owner.model_fields) if self.owner else []
            hint = nearest_option(self.names[-1], known)
            return f"unknown option {path!r}{hint} (known here: {', '.join(known)})"
        if kind == "missing":
            return f"{path} is missing"
        if kind == "union_tag_not_found":
            return f"{path} needs a 'name'"
        if kind == "model_attributes_type":
            return f"{path} is {_yaml(value)}, but must be an object with a 'name'"
        if kind == "union_tag_invalid":
            tag, expected = context["tag"], _words(context["expected_tags"])
            return f"{path}.name is {tag!r}{nearest(tag, expected)} (known: {', '.join(expected)})"
        if kind == "literal_error":
            return _not_one_of(path, value, _words(context["expected"]))
        if kind in _KINDS:
            return f"{path} is {_yaml(value)}: must be {_KINDS[kind]}"
        message = item["msg"].removeprefix("Value error, ")
        if kind == "value_error":
            return f"{path}: {message}" if self.names else message
        return f"{path} is {_yaml(value)}: {message[0].lower()}{message[1:]}"


def _fits_no_member(faults: list[_Fault]) -> str:
    """One line for a value that fits no member of a union; one fault per member."""
    choices: list[str] = []
    for fault in faults:
        kind = fault.item["type"]
        if kind == "literal_error":
            choices = [*_words(fault.item["ctx"]["expected"]), *choices]
        elif kind in _KINDS:
            choices.append(_KINDS[kind])
    # Any other error concerns a value of the right kind, such as a number out of range.
    wrong = next((f for f in faults if f.item["type"] not in ("literal_error", *_KINDS)), None)
    if wrong is not None:
        return f"{wrong.line()} (or: {', '.join(choices)})" if choices else wrong.line()
    return _not_one_of(faults[0].path, faults[0].item["input"], choices)


def _not_one_of(path: str, value: Any, choices: list[str]) -> str:
    close = nearest(value, choices) if isinstance(value, str) else ""
    return f"{path} is {_yaml(value)}{close} (one of: {', '.join(choices)})"


_IN_YAML = {"False": "false", "True": "true", "None": "null"}


def _words(expected: str) -> list[str]:
    """The words in pydantic's ``'a', 'b' or False``, as YAML writes them."""
    words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    return [_IN_YAML.get(word, word) for word in words]


def _yaml(value: Any) -> str:
    return _IN_YAML.get(repr(value), repr(value))


# ---------------------------------------------------------------------------------------------------- places


def _located(model: type[BaseModel], item: Any) -> _Fault:
    """An error with its place: the parts of pydantic's location that stand in the user's file.

    The location also has the name of a union's member (``adacos``) or the member's type (``dict[...]``,
    ``constrained-float``), which are no keys of the file.
    """
    names: list[str] = []
    union: tuple[str, ...] | None = None
    inside = False
    current: Any = model
    owner: type[BaseModel] | None = None
    for part in item["loc"]:
        members = members_of(current)
        if part == "[key]":
            continue
        if len(members) > 1:
            current = next((m for m in members if _is_called(m, part)), None)
            if union is None and not all(tag_of(m) for m in members):
                union = tuple(names)
            continue
        names.append(str(part))
        inside = union is not None
        member = members[0] if members else None
        owner = member if is_model(member) else None
        current = part_of(member, part)
    return _Fault(item, tuple(names), union, inside, owner)


def _is_called(member: Any, part: Any) -> bool:
    """True if ``part`` is pydantic's name for this member of a union."""
    if tag := tag_of(member):
        return tag == part
    name = getattr(typing.get_origin(member) or member, "__name__", None)
    # A class with validators of its own is called ``function-before[..., Clustering]``.
    return name is not None and (str(part).split("[")[0] == name or str(part).endswith(f" {name}]"))
