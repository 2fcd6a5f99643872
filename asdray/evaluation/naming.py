"""Short readable names: only the options in which the things named differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALWAYS_SHOWN = {"own": ("score",), "pyod": ("detector",)}
"""Options without which a backend's name says nothing."""


def differences(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each key, those of its options that do not have one and the same value for all keys."""
    names = dict.fromkeys(name for own in options.values() for name in own)
    missing = object()
    varied = []
    for name in names:
        values = [own.get(name, missing) for own in options.values()]
        if any(value != values[0] for value in values):
            varied.append(name)
    return {key: {n: own[n] for n in varied if n in own} for key, own in options.items()}


def show(value: Any) -> str:
    """An option's value on one line; an object with a name as ``adacos`` or ``knn(n_neighbors=4)``."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={show(v)}" for k, v in value.items() if k != "name")
        if "name" not in value:
            return f"({inner})"
        return f"{value['name']}({inner})" if inner else str(value["name"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(v) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def option_labels(swept: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """System -> ``train.batch_size=32, train.epochs=4``: the swept values in which these systems differ.

    Of objects only their name and what differs inside them: ``frontend.loss=arcface(margin=0.5)``.
    Pass the systems of one recipe: options of another recipe are told apart by the recipe's name.
    """
    varied = differences(swept)
    for name in dict.fromkeys(name for own in varied.values() for name in own):
        having = [own for own in varied.values() if name in own]
        for own, value in zip(having, _pruned([own[name] for own in having]), strict=True):
            own[name] = value
    return {
        system: ", ".join(f"{name}={show(value)}" for name, value in own.items())
        for system, own in varied.items()
    }


def _pruned(values: Sequence[Any]) -> list[Any]:
    """The values of one option; of objects, and of lists of equally many, without what is the same in all."""
    if all(isinstance(value, Mapping) for value in values):
        inner = differences({str(i): value for i, value in enumerate(values)})
        for name in set.intersection(*(set(own) for own in inner.values())):
            for own, value in zip(inner.values(), _pruned([v[name] for v in values]), strict=True):
                own[name] = value
        return [
            {**({"name": value["name"]} if "name" in value else {}), **own}
            for value, own in zip(values, inner.values(), strict=True)
        ]
    lists = all(isinstance(value, list | tuple) for value in values)
    if lists and len({len(value) for value in values}) == 1 and _of_objects(values):
        places = [_pruned(place) for place in zip(*values, strict=True)]
        return [list(value) for value in zip(*places, strict=True)]
    return list(values)


def _of_objects(values: Sequence[Any]) -> bool:
    return all(isinstance(item, Mapping) and "name" in item for value in values for item in value)


def system_labels(rows: Sequence[Mapping[Any, str]]) -> list[str]:
    """The system of every row as its recipe's name, where that and its options name no other system.

    Args:
        rows: with system, recipe and options; rows without a system of ours (``recipe`` is no part of the
            system's name) keep their name.
    """
    named: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        named.setdefault((row["recipe"], row["options"]), set()).add(row["system"])
    labels = []
    for row in rows:
        mine = row["system"].startswith(f"{row['recipe']}-")
        others = {s for s in named[row["recipe"], row["options"]] if s.startswith(f"{row['recipe']}-")}
        labels.append(row["recipe"] if mine and others == {row["system"]} else row["system"])
    return labels


def backend_labels(options: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Backend id -> ``knn``, or ``knn(n_neighbors=4)`` where several kNN backends differ in that option.

    Args:
        options: backend id -> its configuration, of which ``name`` is one key; None where it is not
            known, such a backend is shown by its id.

    Returns:
        Labels, each different from the others: where options cannot tell two apart, ids do.
    """
    labels = {key: key for key in options}
    known = {key: own for key, own in options.items() if own is not None}
    for name in {own["name"] for own in known.values()}:
        same = {key: own for key, own in known.items() if own["name"] == name}
        for key, own in differences(same).items():
            always = {n: same[key][n] for n in ALWAYS_SHOWN.get(name, ())}
            labels[key] = show({"name": name, **always, **own})
    taken = list(labels.values())
    return {key: label if taken.count(label) == 1 else key for key, label in labels.items()}
