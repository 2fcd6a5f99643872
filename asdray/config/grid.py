"""The rows of a grid: axes with all values, lists inside of objects, and paired axes.

Below a sweep file::

    space:
      train.epochs: [8, 16]
      frontend.loss: [adacos, {name: arcface, margin: [0.1, 0.2]}]    # three losses
    zip:                                                             # two pairs
      train.learning_rate: [1.0e-3, 3.0e-4]
      train.batch_size: [64, 128]

are 2 x 3 x 2 rows.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from asdray.config.option_types import is_model, members_of, part_of, tag_of
from asdray.config.search import axis_kind

Axes = Mapping[str, Any]
"""Dotted option path -> values."""


def check_grid_axis(values: Any, where: str) -> None:
    """Raises ValueError unless ``values`` is a list of at least one value."""
    if kind := axis_kind(values):
        raise ValueError(
            f"{where} is {values!r}: {kind} is sampled; a grid knows only lists of values: choose search: "
            "{algorithm: random} or {algorithm: optuna}, or write a list"
        )
    if not isinstance(values, list):
        raise ValueError(
            f"{where} is {values!r}: an axis of a grid is a list of values (a fixed value goes to 'set')"
        )
    if not values:
        raise ValueError(f"{where} is an empty list: an axis needs at least one value")


def check_pairs(pairs: Axes, where: str) -> None:
    """Raises ValueError unless paired axes are lists of one length."""
    for path, values in pairs.items():
        check_grid_axis(values, f"{where}.{path}")
    lengths = {path: len(values) for path, values in pairs.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{path} has {n}" for path, n in lengths.items())
        raise ValueError(f"{where}: paired axes need one value each per row, but {listed}")


def rows(axes: Axes, pairs: Sequence[Axes] = ()) -> list[dict[str, Any]]:
    """All combinations of the values of ``axes`` and of the rows of each group of paired axes.

    >>> rows({"a": [1, 2]}, [{"b": [3, 4], "c": [5, 6]}])[1]
    {'a': 1, 'b': 4, 'c': 6}
    """
    groups = [*({path: values} for path, values in axes.items()), *pairs]
    rows_of = [
        [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)] for group in groups
    ]
    return [{path: v for part in row for path, v in part.items()} for row in itertools.product(*rows_of)]


# ---------------------------------------------------------------------------------- lists inside of objects


def spread(options: BaseModel, path: str, values: Sequence[Any]) -> list[Any]:
    """The values of an axis, an object per combination in place of an object with lists of values.

    A list is the value itself where the option takes lists, such as ``kernels`` of a branch; a list of such
    lists stands for a value each.

    Args:
        options: what ``path`` starts at. Of a path that does not exist, the values stay as they are.
    """
    annotation = _annotation_at(options, path.split("."))
    return [one for value in values for one in _variants(annotation, value)]


def _annotation_at(options: Any, parts: Sequence[str]) -> Any:
    """The annotation of the option at a path that starts at a configuration; None for an unknown path."""
    annotation: Any = None
    for part in parts:
        if isinstance(options, tuple) and part.isdecimal() and int(part) < len(options):
            annotation, options = _item_of(annotation), options[int(part)]
        elif is_model(type(options)):
            annotation, options = part_of(type(options), part), getattr(options, part, None)
        else:
            return None
    return annotation


def _item_of(annotation: Any) -> Any:
    """The annotation of the items, of an option that takes lists; else None."""
    lists = (m for m in members_of(annotation) if typing.get_origin(m) in (list, tuple))
    return next((part_of(member, 0) for member in lists), None)


def _variants(annotation: Any, value: Any) -> list[Any]:
    """A value, or the values in its place where an object inside has lists of values."""
    if isinstance(value, Mapping):
        return _of_object(annotation, value)
    if isinstance(value, list) and not _short_forms(annotation):
        item_type = _item_of(annotation)
        return [list(row) for row in itertools.product(*(_variants(item_type, item) for item in value))]
    return [value]


def _of_object(annotation: Any, value: Mapping) -> list[Any]:
    spelled = next((s for form in _short_forms(annotation) if isinstance(s := form(value), Mapping)), value)
    models = [m for m in members_of(annotation) if is_model(m)]
    model = next((m for m in models if tag_of(m) == spelled.get("name")), None)
    if model is None:
        return [value]
    options = [_of_option(part_of(model, str(key)), option) for key, option in spelled.items()]
    found = [dict(zip(spelled, row, strict=True)) for row in itertools.product(*options)]
    return found if len(found) != 1 else [value]


def _of_option(annotation: Any, value: Any) -> list[Any]:
    """The values of an option inside of an object: a list's items where the option takes no such list."""
    if not value and isinstance(value, list):
        return [value]  # no values at all would leave the object out: the option refuses the list
    if annotation is None or not isinstance(value, list):
        return _variants(annotation, value)
    item_type = _item_of(annotation)
    if item_type is not None and _short_forms(annotation):
        return [value]
    takes = item_type is not None or Any in members_of(annotation)
    if takes and not (any(isinstance(item, list) for item in value) and _takes_no_list(item_type)):
        return _variants(annotation, value)
    return [one for item in value for one in _variants(annotation, item)]


def _takes_no_list(annotation: Any) -> bool:
    return annotation is not None and _item_of(annotation) is None and Any not in members_of(annotation)


def _short_forms(annotation: Any) -> list[Any]:
    """The functions that spell out the short forms of an option."""
    marks = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()
    return [mark.func for mark in marks if isinstance(mark, BeforeValidator)]
