"""People's names of systems: the recipe, and the options in which the systems of a recipe differ.

A name such as ``dis_baseline loss=arcface lr=3e-4`` stands wherever a person reads of a system; the folder's
name, ``dis_baseline-1a2b3c4d``, stands where a folder is addressed. Example::

    system_names({"ae-1a": ("ae", {"train.epochs": 2}), "ae-2b": ("ae", {"train.epochs": 4})})
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

ABBREVIATIONS = {"learning_rate": "lr", "weight_decay": "wd"}
"""Names of options that everybody writes shorter."""

DIGITS = 3
"""Significant digits of a fraction in a name; more where these do not tell two values apart."""

Options = Mapping[str, Any]
"""Option path -> value; an object among the values has options of its own."""

_EXACT = 17
"""Significant digits that tell all floats apart."""


def system_names(systems: Mapping[str, tuple[str, Options]]) -> dict[str, str]:
    """System -> its name for people, in the order of ``systems``; the names are distinct.

    Args:
        systems: system -> recipe and options. Values that all systems of a recipe share are left out; a
            system that no option distinguishes keeps its own name in the place of the recipe's.

    >>> system_names({"a-1": ("a", {"train.epochs": 2}), "a-2": ("a", {"train.epochs": 4}), "b-3": ("b", {})})
    {'a-1': 'a epochs=2', 'a-2': 'a epochs=4', 'b-3': 'b'}
    """
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for recipe in dict.fromkeys(recipe for recipe, _ in systems.values()):
        own = {system: options for system, (name, options) in systems.items() if name == recipe}
        found[recipe] = list(_differing(own, "", len(own)))
    short = short_paths(path for leaves in found.values() for path, _ in leaves)
    parts: dict[str, list[str]] = {system: [] for system in systems}
    for leaves in found.values():
        for path, values in leaves:
            for system, text in zip(values, short_values(list(values.values())), strict=True):
                parts[system].append(f"{short[path]}={text}")
    names = {system: " ".join([recipe, *parts[system]]) for system, (recipe, _) in systems.items()}
    count = Counter(names.values())
    return {
        system: name if count[name] == 1 else " ".join([system, *parts[system]])
        for system, name in names.items()
    }


def sampled_name(recipe: str, swept: Options, spaces: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """The name of a system of a search, whatever else is known: the recipe and all options that vary.

    Args:
        swept: the options of the system.
        spaces: recipe -> option path -> the listed values; none for a range of numbers.

    >>> sampled_name("ae", {"train.learning_rate": 0.00031416}, {"ae": {"train.learning_rate": []}})
    'ae lr=3.14e-4'
    """
    short = short_paths(path for axes in spaces.values() for path, listed in axes.items() if len(listed) != 1)
    texts = {path: short_values([value, *spaces[recipe][path]])[0] for path, value in swept.items()}
    return " ".join([recipe, *(f"{short[path]}={text}" for path, text in texts.items() if path in short)])


def _differing(values: Mapping[str, Any], path: str, n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options in which systems differ: (path, system -> value).

    Objects of one name, and lists of such objects, are taken apart.

    Args:
        values: system -> value at ``path``, of the systems that have the option.
        n: number of all systems.
    """
    given = list(values.values())
    if len(given) == n and all(value == given[0] for value in given):
        return
    inside: Iterable[Any] = ()
    if all(isinstance(value, Mapping) for value in given) and len({v.get("name") for v in given}) == 1:
        inside = dict.fromkeys(key for value in given for key in value)
    elif all(_names(value) for value in given) and len({_names(value) for value in given}) == 1:
        inside = range(len(given[0]))
    if not inside:
        yield path, dict(values)
    for key in inside:
        having = {s: v[key] for s, v in values.items() if not isinstance(v, Mapping) or key in v}
        yield from _differing(having, f"{path}.{key}" if path else str(key), n)


def _names(value: Any) -> tuple[str, ...]:
    """The names of the objects in a list; none if the value is anything else."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(one, Mapping) and "name" in one for one in value
    ):
        return ()
    return tuple(one["name"] for one in value)


# ------------------------------------------------------------------------------------------------- options


def short_paths(paths: Iterable[str]) -> dict[str, str]:
    """Option path -> its last part, or as many parts as tell the paths apart; see `ABBREVIATIONS`.

    >>> short_paths(["train.learning_rate", "frontend.loss", "frontend.branches.0.n_fft"])
    {'train.learning_rate': 'lr', 'frontend.loss': 'loss', 'frontend.branches.0.n_fft': 'n_fft'}
    >>> short_paths(["a.learning_rate", "b.learning_rate"])
    {'a.learning_rate': 'a.learning_rate', 'b.learning_rate': 'b.learning_rate'}
    """
    paths = list(dict.fromkeys(paths))
    short = {path: _last(path, 1) for path in paths}
    short = {path: ABBREVIATIONS.get(name, name) for path, name in short.items()}
    for n in range(2, 1 + max((len(path.split(".")) for path in paths), default=0)):
        count = Counter(short.values())
        short = {path: name if count[name] == 1 else _last(path, n) for path, name in short.items()}
    return short


def _last(path: str, n: int) -> str:
    """The last ``n`` parts of a path, and more until the first is no number of a list."""
    parts = path.split(".")
    while n < len(parts) and parts[-n].isdecimal():
        n += 1
    return ".".join(parts[-n:])


# -------------------------------------------------------------------------------------------------- values


def short_values(values: Sequence[Any]) -> list[str]:
    """Short texts of the values of one option, distinct for distinct values.

    >>> short_values([0.0003, 0.001, 64, None, {"name": "arcface", "margin": 0.5}])
    ['3e-4', '1e-3', '64', 'null', 'arcface']
    >>> short_values([{"name": "arcface", "margin": 0.5}, {"name": "arcface", "margin": 0.3}])
    ['arcface(margin=0.5)', 'arcface(margin=0.3)']
    """
    return _distinct(values, [_text(value, values) for value in values])


def _distinct(values: Sequence[Any], texts: list[str]) -> list[str]:
    """``texts``, with more digits of numbers where different values have one text."""
    for digits in range(DIGITS + 1, _EXACT + 1):
        of_text: dict[str, list[Any]] = {}
        for value, text in zip(values, texts, strict=True):
            if value not in (known := of_text.setdefault(text, [])):
                known.append(value)
        texts = [
            as_number(value, digits) if len(of_text[text]) > 1 and isinstance(value, float) else text
            for value, text in zip(values, texts, strict=True)
        ]
    return texts


def _text(value: Any, others: Sequence[Any]) -> str:
    """One value on one line; of an object the name, and options in which others of its name differ."""
    if isinstance(value, Mapping):
        same = [o for o in others if isinstance(o, Mapping) and o.get("name") == value.get("name")]
        varied = [key for key in value if any(key not in o or o[key] != value[key] for o in same)]
        varied = varied if varied or "name" in value else list(value)  # nothing else names the object
        inner = ",".join(f"{key}={_text(value[key], [o.get(key) for o in same])}" for key in varied)
        return f"{value.get('name', '')}({inner})" if inner else str(value.get("name", "{}"))
    if isinstance(value, list | tuple):
        aligned = [o for o in others if isinstance(o, list | tuple) and len(o) == len(value)]
        return "+".join(_text(one, [o[i] for o in aligned]) for i, one in enumerate(value)) or "[]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return as_number(value, DIGITS)
    last = str(value).rpartition("/")[2]  # of a path the file
    return (
        last if last and all(o == value or str(o).rpartition("/")[2] != last for o in others) else str(value)
    )


def as_number(value: float, digits: int) -> str:
    """A number as people write it: ``64``, ``0.05``, ``3e-4``, ``1.5e6``.

    >>> [as_number(v, 3) for v in (64, 16000, 2_000_000, 0.05, 0.00031416, 2.0, 0)]
    ['64', '16000', '2e6', '0.05', '3.14e-4', '2', '0']
    """
    text = str(value) if isinstance(value, int) else f"{value:.{digits}g}"
    mantissa, _, exponent = f"{value:.{_EXACT if isinstance(value, int) else digits - 1}e}".partition("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    usual = 0.01 <= abs(value) < 1e5 or value == 0
    return text if "e" not in text and (usual or len(text) < len(scientific)) else scientific


def value_at(config: Any, path: str) -> Any:
    """The value at an option path of a configuration, objects as mappings with all defaults."""
    for part in path.split("."):
        if isinstance(config, Mapping):
            config = config[part]
        else:
            config = config[int(part)] if isinstance(config, list | tuple) else getattr(config, part)
    return _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def parts_of(text: str, separator: str) -> list[str]:
    """The parts of a text between separators outside of brackets; none of an empty text.

    >>> parts_of("fft+stft(n_fft=512)", "+")
    ['fft', 'stft(n_fft=512)']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text else []
