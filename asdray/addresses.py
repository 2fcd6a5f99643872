"""Addresses: the texts by which people name a system or a trial among results.

An address is a folder, the name of a folder, ``dis_baseline-1a2b3c4d``, or its beginning, or what a screen
shows: a recipe, options, and for a trial year and seed, in any order after the recipe::

    find_trial("dis_baseline loss=arcface lr=3e-4 dcase2023 seed0", Path("results"))

Of an option the last part of its path is enough, of an object its name. Where several options of a recipe
have the same last part, those are meant in which its systems differ, else the outermost. Whatever an address
leaves out may be anything; an address that several systems have is refused with their names.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asdray import store
from asdray.config.system_names import ABBREVIATIONS, as_number, parts_of, system_names
from asdray.dcase.years import nearest
from asdray.home import expanded
from asdray.store import TrialDir
from asdray.trial_folders import seeds_below, trial_dirs

MOST_LISTED = 12
"""Most candidates that an error lists."""


@dataclass(frozen=True)
class Address:
    """The parts of an address.

    Attributes:
        name: a recipe, the name of a folder, or its beginning; ``""``: any system.
        options: option and value, as texts.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()
    dcase: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """The parts of a text.

        Raises:
            ValueError: a word that is neither an option with a value, nor a year, nor a seed.
        """
        name, *words = text.split() or [""]
        found: dict[str, Any] = {"name": name}
        options = []
        for word in [name, *words] if "=" in name else words:
            option, is_option, value = word.partition("=")
            if re.fullmatch(r"(dcase=)?dcase\d{4}", word):
                found["dcase"] = word.removeprefix("dcase=")
            elif re.fullmatch(r"seed=?\d+", word):
                found["seed"] = int(word.removeprefix("seed").removeprefix("="))
            elif is_option:
                options.append((option, value))
            else:
                raise ValueError(
                    f"{text!r}: {word!r} is neither an option with a value, such as lr=3e-4, nor a year, nor "
                    "a seed, such as seed0"
                )
        return cls(**{**found, "name": "" if "=" in name else name, "options": tuple(options)})


@dataclass
class _Known:
    """A system with its trials' folders."""

    system: str
    folders: list[Path] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        return self.system.rpartition("-")[0]

    @property
    def options(self) -> dict[str, Any]:
        """The configuration of the system; empty if no ``trial.json`` can be read."""
        for folder in self.folders:
            try:
                return store.read_json(TrialDir(folder).trial_json, _About).system
            except ValueError:
                continue
        return {}


@dataclass(frozen=True)
class _About:
    """The part of a trial's ``trial.json`` that is read here."""

    system: dict[str, Any]


# ------------------------------------------------------------------------------------- among results


def find_trials(text: str, results: Path) -> list[Path]:
    """The trial folders of a system.

    Args:
        text: a trial's folder, a system's folder of one year, or an address of a system below ``results``.

    Raises:
        ValueError: no system, or several systems, of this address.
    """
    folder = expanded(text)
    if os.path.isfile(TrialDir(folder).trial_json):  # no error for an address longer than a name of a folder
        return [folder]
    if os.path.isdir(folder) and (trials := seeds_below(folder)):
        return trials
    address = Address.of(text)
    return [
        path
        for path in _folders_of(text, results)
        if address.dcase in (None, path.parent.parent.name)
        and (address.seed is None or path.name == f"seed{address.seed}")
    ]


def _folders_of(text: str, results: Path) -> list[Path]:
    """The folders of all trials of the system of an address, of whatever year and seed.

    Raises:
        ValueError: no system, or several systems, of this address.
    """
    known: dict[str, _Known] = {}
    for trial in trial_dirs(results):
        known.setdefault(trial.root.parent.name, _Known(trial.root.parent.name)).folders.append(trial.root)
    address = Address.of(text)
    found = _named(address.name, known, results)
    if address.options:
        found = _with_options(text, address, found)
    if len(found) > 1:
        raise ValueError(f"{text!r} names several systems: choose one of {_listed(_titles(found))}")
    return found[0].folders


def find_trial(text: str | Path, results: Path) -> Path:
    """The folder of one trial.

    Args:
        text: the folder, or an address of a trial below ``results``.

    Raises:
        ValueError: no trial, or several trials, of this address.
    """
    folder, results = expanded(text), expanded(results)
    if os.path.exists(folder) or (len(folder.parts) > 1 and "=" not in str(text)):
        return Path(text)  # a folder, and a wrong one is told by what reads there
    found = find_trials(str(text), results)
    if len(found) != 1:
        every = [
            f"{path.parent.parent.name} {path.name}" for path in found or _folders_of(str(text), results)
        ]
        what = f"names {len(found)} trials: add year and seed of one" if found else "names no trial"
        raise ValueError(f"{str(text)!r} {what} (there are: {_listed(every)})")
    return found[0]


def _named(name: str, known: Mapping[str, _Known], results: Path) -> list[_Known]:
    """The systems of a name: of the folder's name, else of the recipe, else of the folder's beginning."""
    for fits in (
        lambda one: name in (one.system, one.system.rpartition("-")[2]),
        lambda one: one.recipe == name,
        lambda one: one.system.startswith(name),
    ):
        if found := [one for one in known.values() if fits(one)]:
            return found
    listed = f"known in {results}: {_listed(sorted(known))}" if known else f"{results} has no trials"
    raise ValueError(
        f"no trial's folder and no system is called {name!r}{nearest(name, sorted(known))} ({listed})"
    )


def _with_options(text: str, address: Address, among: Sequence[_Known]) -> list[_Known]:
    """The systems with all options of an address."""
    found: list[_Known] = []
    for recipe in dict.fromkeys(one.recipe for one in among):
        nodes = {one.system: dict(nodes_of(one.options)) for one in among if one.recipe == recipe}
        meant = {option: _meant(option, list(nodes.values())) for option, _ in address.options}
        found += [
            one
            for one in among
            if one.recipe == recipe
            and all(
                any(fulfils(of[path], value) for path in meant[option] if path in of)
                for of in (nodes[one.system],)
                for option, value in address.options
            )
        ]
    if not found:
        raise ValueError(f"no system is {text!r} (there are: {_listed(_titles(among))})")
    return found


def _meant(option: str, systems: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paths that an option of an address means among systems of a recipe, see the module.

    Args:
        systems: option path -> value, of every system.
    """
    paths = [path for path in dict.fromkeys(itertools.chain(*systems)) if is_short_for(option, path)]
    if option in paths:
        return [option]
    first = systems[0]
    differing = [
        p for p in paths if any(p not in of or p not in first or of[p] != first[p] for of in systems)
    ]
    outermost = min((path.count(".") for path in paths), default=0)
    return differing or [path for path in paths if path.count(".") == outermost]


def _titles(systems: Sequence[_Known]) -> list[str]:
    """Systems by the options in which they differ, with the names of their folders, sorted."""
    names = system_names({one.system: (one.recipe, one.options) for one in systems})
    return sorted(n if n.startswith(system) else f"{n} ({system})" for system, n in names.items())


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


# --------------------------------------------------------------------------------------------- options


def nodes_of(options: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a configuration, those inside of objects and lists too: path, value.

    >>> list(nodes_of({"loss": {"name": "arcface"}}))
    [('loss', {'name': 'arcface'}), ('loss.name', 'arcface')]
    """
    for name, value in options.items():
        yield f"{above}{name}", value
        inside = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inside, Mapping):
            yield from nodes_of({str(key): one for key, one in inside.items()}, f"{above}{name}.")


def is_short_for(option: str, path: str) -> bool:
    """True if an option as people write it means a path: ``lr`` and ``train.learning_rate``."""
    last = path.rpartition(".")[2]
    return path == option or path.endswith(f".{option}") or ABBREVIATIONS.get(last) == option


def has_option(nodes: Iterable[tuple[str, Any]], option: str, text: str) -> bool:
    """True if one of the options that ``option`` may mean has the value."""
    return any(is_short_for(option, path) and fulfils(value, text) for path, value in nodes)


def fulfils(value: Any, text: str) -> bool:
    """True if a text is a value as a name shows it, see `asdray.config.system_names.short_values`.

    >>> fulfils(0.00031416, "3.14e-4"), fulfils(0.0003, "0.0003"), fulfils(64, "6")
    (True, True, False)
    >>> fulfils({"name": "arcface", "margin": 0.5, "scale": 30}, "arcface(margin=0.5)")
    True
    """
    if isinstance(value, Mapping):
        name, bracket, inside = text.partition("(")
        if name != value.get("name", "") or (bracket and not inside.endswith(")")):
            return False
        pairs = [pair.partition("=") for pair in parts_of(inside[:-1], ",")]
        return all(key in value and fulfils(value[key], wanted) for key, _, wanted in pairs)
    if isinstance(value, list | tuple):
        items = [] if text == "[]" else parts_of(text, "+")
        return len(items) == len(value) and all(map(fulfils, value, items))
    if isinstance(value, bool) or value is None:
        return text == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return _is_number(value, text)
    return text in (value, str(value).rpartition("/")[2])


def _is_number(value: float, text: str) -> bool:
    """True for the number itself, and for what a name makes of its first digits."""
    try:
        number = float(text)
    except ValueError:
        return False
    return number == value or any(as_number(value, digits) == text for digits in range(3, 17))
