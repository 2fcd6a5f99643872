"""Stand-ins: configurations of plugins, read from results without a line of the plugin's code.

A run describes every configuration of a plugin that it has checked: the options as they were given and as
they are, the canonical form, and the facts that planning asks of a frontend or network. Reading commands find
the same options in the description, and never import the plugin::

    with reading() as table:
        table.add(plugin, members)
        validate(System, {"frontend": {"loss": {"name": "mine"}}}, "trial.json")
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict

from asdray.config import base
from asdray.config.base import UNIONS, Config, canonical, key_of
from asdray.config.branch import NetworkConfig
from asdray.config.frontend_base import FrontendConfig, InputFile
from asdray.config.plugin import Plugin

Member = dict[str, Any]
"""The description of one configuration, plain JSON data."""

Asked = Iterable[tuple[str, str, int]]
"""Year, machine and seed, for which a frontend's input files are described."""

_FACTS: Mapping[type[Config], Sequence[str]] = {
    FrontendConfig: (
        "scope",
        "own_scores",
        "embeddings",
        "scored_embedding",
        "learns",
        "holds_out",
        "has_one_seed",
        "takes_any_length",
        "reads_audio",
        "test_classes",
        "classes_from",
        "reads_supplemental",
        "modules",
        "loss_kind",
        "label",
    ),
    NetworkConfig: ("takes_any_length",),
}

TRUST = "add --trust-plugins if you know its code, or --plugin with your own copy"


# ------------------------------------------------------------------------------------------ describing


def members_of(plugin: Plugin, values: Any, asked: Asked = ()) -> list[Member]:
    """The descriptions of all configurations of ``plugin`` inside ``values``."""
    inside = [config for config in base.configs_in(values) if config.plugin == plugin]
    return _described([(config, key) for config in inside for key in _keys(config)], asked)


def seen_members(plugin: Plugin, asked: Asked = ()) -> list[Member]:
    """The descriptions of all configurations of ``plugin`` that this process has checked so far."""
    found = [(c, key) for union in UNIONS.values() for key, c in union.seen.items() if c.plugin == plugin]
    return _described([*found, *((config, key) for config, _ in found for key in _keys(config))], asked)


def count_seen() -> int:
    """The number of configurations of plugins that this process has checked so far."""
    return sum(len(union.seen) for union in UNIONS.values())


def _keys(config: Config) -> tuple[str, str]:
    """The keys of all options, and of those that differ from the defaults."""
    short = {"name": config.model_dump()["name"], **config.model_dump(mode="json", exclude_defaults=True)}
    return key_of(config), key_of(short)


def _described(found: Iterable[tuple[Config, str]], asked: Asked) -> list[Member]:
    members: dict[tuple[type, str], Member] = {}
    asked = list(asked)
    for config, key in found:
        if getattr(config, "clustering", None) is not None:
            continue  # reading then needs the code
        entry = members.setdefault((type(config), config.canonical_json), {})
        if not entry:
            entry |= {
                "list": _list_of(config),
                "given": [],
                "options": config.model_dump(mode="json"),
                "canonical": canonical(config),
                "facts": _facts(config, asked),
            }
        if key not in entry["given"]:
            entry["given"].append(key)
    return list(members.values())


def _list_of(config: Config) -> str:
    """The name of the list in which the plugin has the configuration's class."""
    assert config.plugin is not None
    lists = vars(config.plugin.module())
    return next(n for n in UNIONS if any(cls is type(config) for cls, _ in lists.get(n, ())))


def _facts(config: Config, asked: Asked) -> dict[str, Any]:
    names = next((names for kind, names in _FACTS.items() if isinstance(config, kind)), ())
    facts = {name: getattr(config, name) for name in names}
    if isinstance(config, FrontendConfig):
        facts["files"] = _files(config, asked)
    return json.loads(json.dumps(facts))


def _files(config: FrontendConfig, asked: Asked) -> dict[str, Any]:
    """The input files by ``<dcase> <machine> <seed>``, or below an empty key if all are the same."""
    if type(config).input_files is FrontendConfig.input_files:
        return {"": []}
    found = {f"{dcase} {m} {seed}": config.input_files(dcase, m, seed) for dcase, m, seed in asked}
    return {"": first} if len({*found.values()}) == 1 and (first := next(iter(found.values()))) else found


# --------------------------------------------------------------------------------------------- reading


class _StandIn:
    """The methods that a stand-in of a frontend answers from its description."""

    files: Mapping[str, Any]

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The files that training reads for a machine besides its audio."""
        found = self.files.get("", self.files.get(f"{dcase} {machine} {seed}"))
        if found is None:
            name = getattr(self, "name", "")
            raise ValueError(
                f"the results do not describe the files of {name!r} for {dcase} {machine}: {TRUST}"
            )
        return tuple(InputFile(*file) for file in found)


class Table:
    """The descriptions of plugins whose results are read; argument as of `reading`."""

    def __init__(self, prefer_loaded: bool) -> None:
        self._prefer_loaded = prefer_loaded
        self._known: dict[tuple[str, str], tuple[Plugin, dict[str, Member]]] = {}
        self._classes: dict[tuple[str, str, str], type[Config]] = {}

    def add(self, plugin: Plugin, members: Any) -> None:
        """Adds the description of a plugin.

        Raises:
            ValueError: the description has another form.
        """
        try:
            for member in members:
                _, known = self._known.setdefault((member["list"], member["options"]["name"]), (plugin, {}))
                known |= dict.fromkeys(member["given"], member)
        except (TypeError, KeyError, AttributeError, ValueError):
            raise ValueError(f"the description of the plugin {plugin.path} is damaged: {TRUST}") from None

    def find(self, list_name: str, value: Any) -> Config | None:
        """The stand-in for a value of a union; None for a value of no plugin that is read.

        Raises:
            ValueError: options that the description does not have.
        """
        if isinstance(value, Config):
            return value if value.stored is not None else None
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or (list_name, name) not in self._known:
            return None
        loaded = name in UNIONS[list_name].added
        if loaded and self._prefer_loaded:
            return None
        plugin, known = self._known[list_name, name]
        if (member := known.get(key_of(value))) is not None:
            return self._made(plugin, list_name, member)
        if loaded:
            return None
        raise ValueError(
            f"the results do not describe {name!r} of the plugin {plugin.path} with these options, and "
            f"reading runs no plugin: {TRUST}"
        )

    def _made(self, plugin: Plugin, list_name: str, member: Member) -> Config:
        facts = json.dumps(member["facts"], sort_keys=True)
        key = list_name, plugin.sha256, facts
        if key not in self._classes:
            self._classes[key] = _class(plugin, list_name, member["facts"])
        made = self._classes[key].model_construct(**member["options"])
        made.__dict__["stored"] = member["canonical"]
        return made


def _class(plugin: Plugin, list_name: str, facts: Mapping[str, Any]) -> type[Config]:
    parent = UNIONS[list_name].base
    parents = (_StandIn, parent) if parent is FrontendConfig else (parent,)
    namespace = {"__module__": __name__, "model_config": ConfigDict(extra="allow")}
    made: Any = type("StandIn", parents, namespace)
    for name, value in facts.items():
        setattr(made, name, tuple(value) if isinstance(value, list) else value)
    made.plugin = plugin
    return made


@contextlib.contextmanager
def reading(prefer_loaded: bool = False) -> Iterator[Table]:
    """Within the context, configurations of the plugins in the table are stand-ins.

    Args:
        prefer_loaded: True if a name of a plugin that was loaded means that plugin's method.
    """
    table = Table(prefer_loaded)
    base.finders.append(table.find)
    try:
        yield table
    finally:
        base.finders.remove(table.find)
