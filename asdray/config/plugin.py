"""Methods from outside the package: a user's Python file adds losses, frontends and backends.

Such a file, a plugin, lists pairs of a configuration class, whose ``name`` is how YAML calls it, and of what
implements it:

* ``LOSSES``: a `Config`; ``Loss(config, embedding_dim, n_classes)`` is a torch module that takes embeddings
  ``(B, D) float32`` and targets ``(B, C) float32`` to the batch's mean loss ``()``;
* ``FRONTENDS``: an `asdray.config.frontend.FrontendConfig`; ``Frontend(config, n_samples, columns, saved)``
  is an `asdray.frontends.base.FrontendModule`; the arguments are those of `asdray.frontends.build`. It has
  ``extract(waves)``, and where it learns ``training_data(clips, columns, batch_size, rng)`` and
  ``loss(batch)``; with ``needs_training_clips = True`` also ``prepare(clips, columns, batch_size, rng)``,
  which is called with a machine's training clips before they and its test clips are extracted. What each
  takes and gives, `asdray.frontends` says;
* ``BACKENDS``: an `asdray.config.backend.BackendConfig`; ``score(config, references, domain, queries)`` takes
  embeddings ``(N, D)`` of the training clips, ``(N,)`` ``source`` or ``target``, and ``(M, D)`` embeddings to
  ``(M,)`` anomaly scores. It is called for each fifth of the training clips with the others as references.

The hash of the file is part of the canonical form of its configurations, and so of the ids and signatures
of all that uses them, and of nothing else. Of a file that adds several members all change with it: what
shall change on its own lies in a file of its own. What the file imports is not hashed.

A configuration from a plugin travels to other processes with the file's text, see `Config.__reduce_ex__`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import core_schema

from asdray.config.base import Config
from asdray.config.plugin_fault import MODULE_PREFIX, PluginFailed
from asdray.dcase.years import nearest


@dataclass(frozen=True)
class Plugin:
    """A plugin's file: where it was read, and what stood in it."""

    path: str
    text: str = field(repr=False)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file's content."""
        return hashlib.sha256(self.text.encode()).hexdigest()


UNIONS: dict[str, Open] = {}
"""The unions that plugins can add to, by the name of their list in a plugin."""

_implementations: dict[type[Config], Callable[..., Any]] = {}
_activated: dict[Plugin, None] = {}
"""Those of this process, the newest last."""


class Open:
    """Marks a union of configurations, told apart by their ``name``, that plugins may add members to.

    Args:
        list_name: what a plugin calls its list of members.
        what: one of them in words.
        base: the class that a member's configuration derives from.
        union: of the members that are built in.
    """

    def __init__(self, list_name: str, what: str, base: type[Config], union: Any) -> None:
        self.what, self.base = what, base
        self.built_in: tuple[type[Config], ...] = typing.get_args(union)
        self._added: dict[str, type[Config]] = {}
        self._adapter: TypeAdapter | None = None
        UNIONS[list_name] = self

    @property
    def added(self) -> Mapping[str, type[Config]]:
        """The members from plugins, by name."""
        return self._added

    @property
    def members(self) -> tuple[type[Config], ...]:
        """All configuration classes of the union as it is now."""
        return (*self.built_in, *self._added.values())

    def replace(self, path: str, members: Mapping[str, type[Config]]) -> None:
        """Makes ``members`` those that the plugin at ``path`` adds; a name means the newest that has it."""
        others = {n: c for n, c in self._added.items() if c.plugin is not None and c.plugin.path != path}
        self._added = {**others, **members}
        self._adapter = TypeAdapter(_told_apart(self.members)) if self._added else None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def check(value: Any, built_in: Callable[[Any], Any]) -> Any:
            return self._adapter.validate_python(value) if self._adapter else built_in(value)

        # "any": what is written is that of the value's own class, which pydantic does not know of here.
        return core_schema.no_info_wrap_validator_function(
            check,
            handler.generate_schema(_told_apart(self.built_in)),
            serialization=core_schema.simple_ser_schema("any"),
        )


def _told_apart(members: tuple[type[Config], ...]) -> Any:
    return Annotated[typing.Union[members], Field(discriminator="name")]  # noqa: UP007 - of any number


def implementation(config: Config) -> Callable[..., Any] | None:
    """What implements a configuration from a plugin; None for one that is built in."""
    return _implementations.get(type(config))


def plugins_of(*values: Any) -> tuple[Plugin, ...]:
    """The plugins that the configurations in ``values`` come from, each once."""
    return tuple(dict.fromkeys(_walk(values)))


def _walk(value: Any) -> Iterator[Plugin]:
    if isinstance(value, Config):
        if value.plugin is not None:
            yield value.plugin
        yield from _walk([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping):
        yield from _walk(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _walk(one)


# --------------------------------------------------------------------------------------------- loading


def load_plugins(paths: Iterable[Path]) -> tuple[Plugin, ...]:
    """Reads plugins and adds their members to the unions.

    Raises:
        ValueError: a file that cannot be read, does not run, or adds nothing of use, with its line; two
            that add the same name.
    """
    loaded: list[Plugin] = []
    for path in paths:
        path = path.expanduser().absolute()
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise ValueError(f"there is no plugin {path}") from None
        except OSError as error:
            raise ValueError(f"cannot read the plugin {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"cannot read the plugin {path}: not a text file ({error})") from None
        plugin = Plugin(str(path), text)
        activate(plugin, beside=loaded)
        loaded.append(plugin)
    return tuple(loaded)


def activate(plugin: Plugin, beside: Sequence[Plugin] = ()) -> None:
    """Adds a plugin's members to the unions, in place of those of an earlier version of the file.

    Args:
        beside: other plugins, whose names it must leave alone.

    Raises:
        ValueError: it does not run, or adds nothing of use; with its line.
    """
    from asdray.config import backend, frontend  # noqa: F401 - with them the unions are there

    module = _module(plugin)
    lines = _lines(plugin)
    found = {name: _members(name, module, plugin, lines, beside) for name in UNIONS}
    if not any(found.values()):
        close = next((f" ({n}{hint})" for n in lines if (hint := nearest(n, UNIONS))), "")
        raise ValueError(
            f"{plugin.path} adds nothing{close}: it needs a list {', '.join(UNIONS)} of pairs of a "
            "configuration class and its implementation"
        )
    for name, union in UNIONS.items():
        union.replace(plugin.path, {cls.model_fields["name"].default: cls for cls in found[name]})
        _implementations.update(found[name])
    _activated.pop(plugin, None)
    _activated[plugin] = None


def active(path: str) -> Plugin:
    """The plugin at ``path`` as it was loaded last."""
    return next(plugin for plugin in reversed(_activated) if plugin.path == path)


def revived(plugin: Plugin, class_name: str) -> Config:
    """An instance without values of a plugin's class, in whatever process: for unpickling."""
    if plugin not in _activated:
        activate(plugin)
    cls: Any = functools.reduce(getattr, class_name.split("."), _module(plugin))
    return cls.__new__(cls)


def _module(plugin: Plugin) -> ModuleType:
    """The module that the plugin's text makes; run once per process."""
    name = f"{MODULE_PREFIX}{plugin.sha256[:16]}_{hashlib.sha256(plugin.path.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = plugin.path
    sys.modules[name] = module  # annotations are looked up there
    # So that tracebacks show these lines, also where the file has changed or lies on another machine.
    linecache.cache[plugin.path] = (
        len(plugin.text),
        None,
        plugin.text.splitlines(keepends=True),
        plugin.path,
    )
    try:
        exec(compile(plugin.text, plugin.path, "exec"), module.__dict__)
    except SyntaxError as error:
        del sys.modules[name]
        raise PluginFailed(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # a stranger's code may raise anything, and each is told in the same way
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == plugin.path), None)
        reason = " ".join(str(error).split())
        raise PluginFailed(f"{plugin.path}, line {line}: {type(error).__name__}: {reason}") from None
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Config) and value.__module__ == name:
            value.plugin = plugin
    return module


def _lines(plugin: Plugin) -> dict[str, int]:
    """Where the names of a plugin's top level are defined."""
    lines = {}
    for node in ast.parse(plugin.text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            lines[node.name] = node.lineno
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name):
                lines[target.id] = node.lineno
    return lines


def _members(
    list_name: str, module: ModuleType, plugin: Plugin, lines: Mapping[str, int], beside: Sequence[Plugin]
) -> dict[type[Config], Callable[..., Any]]:
    """Configuration class -> implementation of one of a plugin's lists.

    Raises:
        ValueError: no list of such pairs, or a name that is taken.
    """
    union = UNIONS[list_name]
    at = f"{plugin.path}, line {lines.get(list_name, 1)}: {list_name}"
    entries = vars(module).get(list_name, [])
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{at} is {entries!r}, not a list")
    taken: dict[str | None, str] = {_name_of(cls): "built in" for cls in union.built_in}
    for added, cls in union.added.items():
        if cls.plugin is not None and cls.plugin in beside and cls.plugin.path != plugin.path:
            taken[added] = f"added by {cls.plugin.path}"
    found: dict[type[Config], Callable[..., Any]] = {}
    for entry in entries:
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and callable(entry[1])):
            raise ValueError(
                f"{at} holds {entry!r}, not a pair of a configuration class and what implements it"
            )
        cls, implementing = entry
        if not (isinstance(cls, type) and issubclass(cls, union.base)) or cls in (union.base, Config):
            base = f"{union.base.__module__}.{union.base.__name__}"
            raise ValueError(f"{at} holds {cls!r}, not a class that derives from {base}")
        at_class = f"{plugin.path}, line {lines.get(cls.__name__, lines.get(list_name, 1))}: {cls.__name__}"
        if cls.__module__ != module.__name__:
            raise ValueError(
                f"{at_class} is defined elsewhere: define it in this file, whose hash stands for it"
            )
        if issubclass(cls, union.built_in):
            raise ValueError(
                f"{at_class} derives from a {union.what} that is built in: derive from {union.base.__name__}"
            )
        name = _name_of(cls)
        if name is None:
            raise ValueError(f"{at_class} needs a name such as  name: Literal['mine'] = 'mine'")
        if name in taken:
            raise ValueError(
                f"{at_class}: a {union.what} named {name!r} is {taken[name]}: choose another name"
            )
        taken[name] = "there twice"
        found[cls] = implementing
    return found


def _name_of(cls: type[Config]) -> str | None:
    """The name of a union's member, if it has one that can tell it apart."""
    option = cls.model_fields.get("name")
    if option is None or typing.get_args(option.annotation) != (option.default,):
        return None
    return option.default if isinstance(option.default, str) else None
