"""Plugins of results: ``plugins.json`` of a trial or sweep describes them, so that reading runs no code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from asdray import store
from asdray.config.base import load_plugins, note_plugin
from asdray.config.plugin import Plugin, read_plugin
from asdray.config.stand_in import TRUST, Member, Table

Use = Callable[[Iterable[Path]], tuple[Plugin, ...]]
"""Makes the plugins at some paths known: `load_plugins`, or a function that runs no code."""


def write(root: Path, members: Mapping[str, list[Member]]) -> None:
    """Writes the descriptions of a trial's or sweep's plugins, by sha256; an equal file is left as it is."""
    path = store.plugin_facts(root)
    if _read(root) != members:
        store.write_json(path, members)


def hashes_of(paths: Iterable[Path]) -> set[str]:
    """The sha256 of the plugins in some files or folders."""
    return {read_plugin(path).sha256 for path in paths}


def describe(table: Table, plugin: Plugin, root: Path) -> None:
    """Adds a plugin to the table, as the results in ``root`` describe it.

    Raises:
        ValueError: no description, or a damaged one.
    """
    members = _read(root).get(plugin.sha256)
    if members is None:
        raise ValueError(
            f"the results in {root} do not describe the plugin {plugin.path} as it is, and reading runs no "
            f"plugin: {TRUST}"
        )
    table.add(plugin, members)
    note_plugin(plugin)


def reader(table: Table, root: Path, own: bool = False, vouched: Iterable[Path] = ()) -> Use:
    """A function like `load_plugins` that runs no code, with the descriptions in the results ``root``.

    Args:
        own: True if the user has named the plugins: one without a description runs.
        vouched: files of the user: a plugin of the same content runs.
    """
    trusted = hashes_of(vouched)

    def use(paths: Iterable[Path]) -> tuple[Plugin, ...]:
        found = []
        for path in paths:
            plugin = read_plugin(path)
            if plugin.sha256 in trusted or (own and plugin.sha256 not in _read(root)):
                load_plugins([path])
            else:
                describe(table, plugin, root)
            found.append(plugin)
        return tuple(found)

    return use


def _read(root: Path) -> Mapping[str, Any]:
    """The descriptions in ``root``; empty without a usable file."""
    try:
        return store.read_json(store.plugin_facts(root), dict[str, list[dict[str, Any]]])
    except ValueError:
        return {}
