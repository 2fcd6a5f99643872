"""From files to configuration: sweep files with overrides, and plugins.

The two functions of most use::

    sweep = load_sweep(Path("sweeps/dis_grid.yaml"), {"seeds": [0, 1]})
    load_plugins([Path("my_method.py")])    # `{name: my_method}` is now known in every sweep and recipe
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdray.config.base import UNIONS, Config, Extensible
from asdray.config.expand import bases, expand, trials_of
from asdray.config.files import read_yaml, validate
from asdray.config.plugin import Plugin, read_plugin
from asdray.config.search import Scheduler, corners
from asdray.config.sweep import Sweep, spelled_out
from asdray.dcase.years import nearest


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None, plugins: Iterable[Path] = ()) -> Sweep:
    """The sweep in a YAML file, with options replaced (``seeds``, ``recipes.ae_baseline.set.train.epochs``).

    Recipe files and plugins are named relative to the sweep file; the sweep holds their absolute paths.

    Args:
        plugins: more of them than the sweep file names.

    Raises:
        ValueError: every fault of the file, one line each.
    """
    value = read_yaml(path)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: a sweep file is a mapping of options, not {type(value).__name__}")
    try:
        value = spelled_out(value)
        for key, new in (overrides or {}).items():
            value = _replaced(value, _split(key, value), new, key)
        value = spelled_out(value)
        if isinstance(value.get("recipes"), dict):
            value["recipes"] = _located(value["recipes"], path.expanduser().absolute().parent)
        value["plugins"] = _with_plugins(
            value.get("plugins", []), path.expanduser().absolute().parent, plugins
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    sweep = validate(Sweep, value, str(path))
    expand(sweep, str(path))
    if sweep.scheduler is not None:
        _check_scheduler(sweep, sweep.scheduler, str(path))
    return sweep


def _check_scheduler(sweep: Sweep, scheduler: Scheduler, where: str) -> None:
    """Raises ValueError where a scheduler could stop nothing, or would compare losses of different kinds."""
    longest = 0
    for base in bases(sweep, where):
        systems = [s for swept in corners(base.axes) if (s := base.varied(swept)).frontend.learns]
        if len(losses := sorted({s.frontend.loss_kind for s in systems})) > 1:
            raise ValueError(
                f"{base.where}: {scheduler.name} stops by training losses, and those of {', '.join(losses)} "
                "cannot be compared: search each in a recipe file of its own, or leave the scheduler out"
            )
        for system in systems:
            trials = trials_of(sweep, base.recipe, system, sweep.dcase, sweep.seeds[:1], where)
            longest = max(longest, *(system.train.epochs * len(trial.units) for trial in trials))
    if (n := scheduler.grace_period) > longest:
        why = f"no trial has over {longest} epochs: choose fewer or" if longest else "nothing is trained:"
        raise ValueError(f"{where}: scheduler: with grace_period {n} it stops nothing, {why} leave it out")


def _split(key: str, value: Mapping) -> list[str]:
    """Splits an override's key; a recipe's name is one part, and what follows ``set`` and ``space``."""
    parts = key.split(".")
    if parts[0] == "recipes" and isinstance(value.get("recipes"), dict):
        for name in value["recipes"]:
            if f"{key}.".startswith(f"recipes.{name}."):
                rest = key.removeprefix(f"recipes.{name}").removeprefix(".")
                parts = ["recipes", name, *(rest.split(".") if rest else [])]
    for i, part in enumerate(parts):
        if i in (0, 2) and part in ("set", "space") and i + 1 < len(parts):
            return [*parts[: i + 1], ".".join(parts[i + 1 :])]
    return parts


def _replaced(value: Any, parts: list[str], new: Any, key: str) -> Any:
    """``value`` with what stands at ``parts`` replaced; the mappings on the way are copied."""
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


def _located(recipes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``recipes`` with absolute paths of recipe files, looked for in ``folder``, then where we are."""
    located: dict[str, Any] = {}
    for name, use in recipes.items():
        place = name
        if isinstance(name, str) and name.endswith((".yaml", ".yml")):
            file = Path(name).expanduser()
            places = dict.fromkeys((folder / file, Path.cwd() / file))
            found = next((p for p in places if p.is_file()), None)
            if found is None:
                raise ValueError(f"recipes: there is no file {' and no '.join(map(str, places))}")
            place = str(found)
        if place in located:
            raise ValueError(f"recipes names {place!r} twice")
        located[place] = use
    return located


def _with_plugins(named: Any, folder: Path, more: Iterable[Path]) -> list[str]:
    """Loads the plugins that a sweep file in ``folder`` names, and ``more``; returns their absolute paths."""
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise ValueError(f"plugins is {named!r}: must be a list of paths")
    paths = [folder / Path(one).expanduser() for one in named]
    return list(dict.fromkeys(plugin.path for plugin in load_plugins([*paths, *more])))


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
    plugin.module()  # first of all: whatever is wrong with the code itself is reported as such
    added = {name: _added_by(plugin, name, beside) for name in UNIONS}
    if not any(added.values()):
        close = next((f" ({n}{hint})" for n in plugin.lines if (hint := nearest(n, UNIONS))), "")
        raise ValueError(
            f"{plugin.path} adds nothing{close}: it needs a list {', '.join(UNIONS)} of pairs of a "
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
