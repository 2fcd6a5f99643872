"""Sweep files with overrides, and plugins.

Example::

    load_plugins([Path("my_method.py")])    # the methods of the file are now valid in every recipe and sweep
    sweep = load_sweep(Path("sweeps/dis_grid.yaml"), {"seeds": [0, 1]})
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdray.config.base import UNIONS, Config, Extensible, refuse_repeats
from asdray.config.expand import check_scheduler, expand
from asdray.config.files import read_yaml, validate
from asdray.config.plugin import Plugin, read_plugin
from asdray.config.sweep import Sweep, spelled_out
from asdray.dcase.years import nearest


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None, plugins: Iterable[Path] = ()) -> Sweep:
    """The sweep in a YAML file.

    Relative paths of recipe files and plugins start at the folder of the sweep file; the result has absolute
    ones.

    Args:
        overrides: key -> new value, as in ``--set``: ``{"recipes.ae_baseline.set.train.epochs": 3}``.
        plugins: plugins besides those of the sweep file.

    Raises:
        ValueError: all faults of the file, a line each.
    """
    value, folder = read_yaml(path), path.expanduser().absolute().parent
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: a sweep file is a mapping of options, not {type(value).__name__}")
    try:
        value = spelled_out(value)
        for key, new in (overrides or {}).items():
            value = _replaced(value, _split(key, value), new, key)
        value = spelled_out(value)
        if isinstance(value.get("recipes"), dict):
            names = {name: _absolute(name, folder) for name in value["recipes"]}
            refuse_repeats(names.values(), "recipes")
            value["recipes"] = {names[name]: use for name, use in value["recipes"].items()}
        paths = [*_plugin_paths(value.get("plugins", []), folder), *plugins]
        value["plugins"] = list(dict.fromkeys(plugin.path for plugin in load_plugins(paths)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    sweep = validate(Sweep, value, str(path))
    expand(sweep, str(path))
    check_scheduler(sweep, str(path))
    return sweep


def _split(key: str, value: Mapping) -> list[str]:
    """The parts of an override's key. Dots do not split a recipe's name, nor an option path after ``set`` or
    ``space``: ``recipes.my.yaml.set.train.epochs`` has the parts recipes, my.yaml, set, train.epochs.

    Raises:
        ValueError: the key begins with the names of two recipes, such as ``my`` and ``my.yaml``.
    """
    parts = key.split(".")
    if parts[0] == "recipes" and isinstance(value.get("recipes"), dict):
        names = [name for name in value["recipes"] if f"{key}.".startswith(f"recipes.{name}.")]
        if len(names) > 1:
            raise ValueError(
                f"--set {key} may mean each of the recipes {' and '.join(names)}: rename the recipe file"
            )
        for name in names:
            rest = key.removeprefix(f"recipes.{name}").removeprefix(".")
            parts = ["recipes", name, *(rest.split(".") if rest else [])]
    for i, part in enumerate(parts):
        if i in (0, 2) and part in ("set", "space") and i + 1 < len(parts):
            return [*parts[: i + 1], ".".join(parts[i + 1 :])]
    return parts


def _replaced(value: Any, parts: list[str], new: Any, key: str) -> Any:
    """A copy of ``value`` with ``new`` at ``parts``; unchanged branches are shared with the original."""
    if not parts:
        return new
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        outer = key.removesuffix("." + ".".join(parts))
        raise ValueError(
            f"--set {key}: {outer} is {value!r}, which has no options of its own: set {outer} as a whole"
        )
    return {**value, parts[0]: _replaced(value.get(parts[0]), parts[1:], new, key)}


def _absolute(recipe: Any, folder: Path) -> Any:
    """A recipe file's absolute path, below ``folder`` or the working directory; a name unchanged."""
    if not (isinstance(recipe, str) and recipe.endswith((".yaml", ".yml"))):
        return recipe
    file = Path(recipe).expanduser()
    places = dict.fromkeys((folder / file, Path.cwd() / file))
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise ValueError(f"recipes: there is no file {' and no '.join(map(str, places))}")
    return str(found)


def _plugin_paths(named: Any, folder: Path) -> list[Path]:
    """The paths of a sweep file's ``plugins``, a string or a list of strings."""
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"plugins is {named!r}: must be a list of paths")
    return [folder / Path(name).expanduser() for name in named]


# ---------------------------------------------------------------------------------------------------- plugins

_loaded: dict[str, Plugin] = {}
"""The newest version of every plugin that this process has loaded, by path."""


def load_plugins(paths: Iterable[Path]) -> tuple[Plugin, ...]:
    """Reads and runs plugins, and adds their methods to the unions of configurations.

    Raises:
        ValueError: a plugin that cannot be read, does not run or adds nothing, with file and line; two
            plugins that add the same name.
    """
    loaded: list[Plugin] = []
    for path in paths:
        plugin = read_plugin(path)
        activate(plugin, beside=loaded)
        loaded.append(plugin)
    return tuple(loaded)


def activate(plugin: Plugin, beside: Sequence[Plugin] = ()) -> None:
    """Adds a plugin's methods to the unions, in place of the methods of an earlier version of the file.

    Args:
        beside: other plugins, whose names the plugin must not use.

    Raises:
        ValueError: the plugin does not run or adds nothing, with file and line.
    """
    plugin.module()  # first, so that an error of the code itself is reported before an error of its lists
    added = {name: _added_by(plugin, name, beside) for name in UNIONS}
    if not any(added.values()):
        close = next((f" ({n}{hint})" for n in plugin.lines if (hint := nearest(n, UNIONS))), "")
        raise ValueError(
            f"{plugin.path} adds nothing{close}: it needs a list {', '.join(sorted(UNIONS))} of pairs of a "
            "configuration class and its implementation"
        )
    for name, union in UNIONS.items():
        union.replace(plugin.path, added[name])
    _loaded[plugin.path] = plugin


def loaded_plugin(path: str) -> Plugin:
    """The version of the plugin at ``path`` that this process loaded last."""
    return _loaded[path]


def _added_by(plugin: Plugin, list_name: str, beside: Sequence[Plugin]) -> dict[str, type[Config]]:
    """Name -> configuration class, of one of a plugin's lists.

    Raises:
        ValueError: an entry that is not a pair of the right kind, or a name already in use.
    """
    union = UNIONS[list_name]
    line = plugin.lines.get(list_name, 1)
    at = f"{plugin.path}, line {line}: {list_name}"
    entries = vars(plugin.module()).get(list_name, [])
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{at} is {entries!r}, not a list")
    taken = {_name_of(cls): "built in" for cls in union.built_in}
    for name, cls in union.added.items():
        if cls.plugin in beside and cls.plugin is not None and cls.plugin.path != plugin.path:
            taken[name] = f"added by {cls.plugin.path}"
    added: dict[str, type[Config]] = {}
    for entry in entries:
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and callable(entry[1])):
            raise ValueError(
                f"{at} holds {entry!r}, not a pair of a configuration class and what implements it"
            )
        cls = entry[0]
        if not (isinstance(cls, type) and issubclass(cls, union.base)) or cls in (union.base, Config):
            base = f"{union.base.__module__}.{union.base.__name__}"
            raise ValueError(f"{at} holds {cls!r}, not a class that derives from {base}")
        at_class = f"{plugin.path}, line {plugin.lines.get(cls.__name__, line)}: {cls.__name__}"
        name = _checked_name(cls, union, plugin, at_class)
        if name in taken:
            raise ValueError(
                f"{at_class}: a {union.noun} named {name!r} is {taken[name]}: choose another name"
            )
        taken[name] = "there twice"
        added[name] = cls
    return added


def _checked_name(cls: type[Config], union: Extensible, plugin: Plugin, at: str) -> str:
    """The name of a plugin's configuration class in YAML.

    Raises:
        ValueError: a class from another file, derived from a built-in one, or without a name.
    """
    if cls.plugin != plugin:
        raise ValueError(f"{at} is defined elsewhere: define it in this file, whose hash stands for it")
    if issubclass(cls, union.built_in):
        raise ValueError(
            f"{at} derives from a {union.noun} that is built in: derive from {union.base.__name__}"
        )
    name = _name_of(cls)
    if name is None:
        raise ValueError(f"{at} needs a name such as  name: Literal['mine'] = 'mine'")
    return name


def _name_of(cls: type[Config]) -> str | None:
    """The value of the field ``name`` if the field allows one string only, which is its default."""
    option = cls.model_fields.get("name")
    if option is None or typing.get_args(option.annotation) != (option.default,):
        return None
    return option.default if isinstance(option.default, str) else None
