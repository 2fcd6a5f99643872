"""The base class of all configurations, their canonical form and hash, and unions that plugins extend.

The hash of a configuration names folders of results and enters signatures. Input of the hash is the
canonical form, JSON with sorted keys and every default written out. Configurations with equal values have
equal hashes, however the YAML was written::

    digest(Knn()) == digest(Knn(n_neighbors=1))    # 1 is the default
    load_plugins([Path("my_method.py")])    # the methods of the file are now valid in every recipe and sweep
"""

from __future__ import annotations

import functools
import hashlib
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import core_schema

from asdray.config import plugin_trust
from asdray.config.plugin import Plugin, plugin_of, read_plugin, unpickled
from asdray.config.plugin_fault import PluginError, place_of
from asdray.config.plugin_members import Interface
from asdray.dcase.years import get_year, nearest


def refuse_repeats(values: Iterable[Any], where: str) -> None:
    """Raises ValueError, which begins with ``where``, if two of ``values`` are equal."""
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{where} names {value!r} twice")
        seen.append(value)


def in_order(values: tuple, known: tuple) -> tuple:
    """``values`` in the order of ``known``, so that equal sets of values have equal hashes.

    Raises:
        ValueError: a repeated value.
    """
    refuse_repeats(values, "the list")
    return tuple(value for value in known if value in values)


def by_name(value: Any) -> Any:
    """An object's name alone stands for the object with the default options."""
    return {"name": value} if isinstance(value, str) else value


def _each_once(values: tuple) -> tuple:
    refuse_repeats(values, "the list")
    return values


Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_each_once), Field(min_length=1)]
Year = Annotated[str, AfterValidator(lambda name: get_year(name) and name)]
Years = Annotated[tuple[Year, ...], AfterValidator(_each_once), Field(min_length=1)]
Metric = Literal["cosine", "euclidean"]


class Config(BaseModel):
    """A frozen configuration; an unknown key is an error.

    Class variables decide which parts of a configuration enter the hash:

    Attributes:
        numerics: version of the code behind the class. A developer raises the number when the same options
            begin to give other results; results of the older code are then rebuilt.
        later: fields added after the first release, each with the value that reproduces the older
            behaviour. The canonical form omits a field at this value, so that a new option keeps the
            results of earlier releases.
        hashed_as: fields of which the canonical form holds a function of the value, such as a path's last
            part.
        later_of_all: as ``later``, for the class and all classes derived from it, whatever their ``later``.
        plugin: the user's plugin that defines the class; None for a built-in class.
        stored: the canonical form of a stand-in, see `asdray.config.stand_in`; None for all others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    numerics: ClassVar[int] = 1
    later: ClassVar[Mapping[str, Any]] = {}
    hashed_as: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    later_of_all: ClassVar[Mapping[str, Any]] = {}
    plugin: ClassVar[Plugin | None] = None
    stored: ClassVar[dict[str, Any] | None] = None
    omitted: ClassVar[Mapping[str, Any]] = {}
    """Fields and the values at which the canonical form omits them, from ``later`` and ``later_of_all``."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        cls.plugin = plugin_of(cls.__module__)
        cls.omitted = {**cls.later_of_all, **cls.later}

    @classmethod
    def check_class(cls) -> None:
        """Raises PluginError for a plugin's class whose own attributes have another form."""

    @property
    def effective_numerics(self) -> int:
        """The number in the canonical form: ``numerics``, or what a class makes of it for some values."""
        return type(self).numerics

    @functools.cached_property
    def canonical_json(self) -> str:
        """The canonical form as text: a part of `digest_of`."""
        return _JSON.encode(canonical(self))

    def model_copy(self, **options: Any) -> Self:
        """A copy, as pydantic makes it, without the cached texts and hashes of the original."""
        copied = super().model_copy(**options)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A class from a plugin is pickled with the plugin's source, as no other process can import it."""
        reduced = super().__reduce_ex__(protocol)
        if self.plugin is None:
            return reduced
        cls = type(self)
        return unpickled, (self.plugin, cls.__module__, cls.__qualname__), *reduced[2:]


# --------------------------------------------------------------------------------- canonical form and hash


def canonical(value: Any) -> Any:
    """``value`` as plain JSON data: defaults written out, plugins replaced by their hash."""
    kind = type(value)
    # The usual types first: a large sweep makes 100,000 calls, and `isinstance` of a model is slow.
    if value is None or kind in (str, int, float, bool):
        return value
    if kind is dict:
        return {str(k): v if type(v) is str else canonical(v) for k, v in value.items()}
    if kind in (list, tuple):
        return [canonical(v) for v in value]
    if isinstance(value, Config):
        if value.stored is not None:
            return value.stored
        omitted = kind.omitted
        fields = {
            name: canonical(getattr(value, name))
            for name in kind.model_fields
            if not (name in omitted and getattr(value, name) == omitted[name])
        }
        for name, form in kind.hashed_as.items():
            fields[name] = form(getattr(value, name))
        if value.plugin is not None:
            fields["plugin"] = value.plugin.sha256
        return {"numerics": value.effective_numerics, **fields}
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    return value


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical form of ``value``."""
    text = value.canonical_json if isinstance(value, Config) else _JSON.encode(canonical(value))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(**parts: str) -> str:
    """`digest` of a mapping whose values are already JSON texts of canonical forms."""
    template, values_of = _template(tuple(parts))
    return hashlib.sha256((template % values_of(parts)).encode()).hexdigest()


@functools.cache  # few sets of names, but 100,000 calls in a large sweep
def _template(names: tuple[str, ...]) -> tuple[str, itemgetter]:
    """JSON of a mapping with a ``%s`` per value, names sorted; and a getter of the values in this order."""
    ordered = sorted(names)
    return "{" + ",".join([f'"{name}":%s' for name in ordered]) + "}", itemgetter(*ordered)


text_of = json.encoder.encode_basestring_ascii
"""JSON of a string, as a part of `digest_of`."""


def texts_of(values: Mapping[str, str]) -> str:
    """JSON of a mapping of strings, as a part of `digest_of`."""
    return f"{{{','.join([f'{text_of(k)}:{text_of(v)}' for k, v in sorted(values.items())])}}}"


# --------------------------------------------------------------------------------- unions that plugins extend

UNIONS: dict[str, Extensible] = {}
"""The unions that plugins extend, by list: ``LOSSES``, ``NETWORKS``, ``FRONTENDS``, ``BACKENDS``."""


finders: list[Callable[[str, Any], Config | None]] = []
"""Functions of a list's name and a value; the last one may know the configuration without a plugin's code."""


def key_of(value: Any) -> str:
    """Options as text: of a mapping as it was given, or of a configuration with all its options."""
    plain = value.model_dump(mode="json") if isinstance(value, Config) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)


class Extensible:
    """Annotation of a union of configurations, distinguished by ``name``, to which plugins add members.

    A name alone stands for the member with its default options.

    Args:
        list_name: name of the list of members in a plugin, such as ``LOSSES``.
        noun: one member in words, such as ``loss``.
        base: class from which a plugin's configuration class must derive.
        union: union of the built-in members.
        interface: the form of whatever implements a plugin's configuration.
    """

    def __init__(
        self, list_name: str, noun: str, base: type[Config], union: Any, interface: Interface
    ) -> None:
        self.list_name, self.noun, self.base, self.interface = list_name, noun, base, interface
        self.seen: dict[str, Config] = {}
        """`key_of` what was given -> configuration of a plugin, of all that this process has checked."""
        self.built_in: tuple[type[Config], ...] = typing.get_args(union)
        self.added: Mapping[str, type[Config]] = {}
        self._adapter: TypeAdapter | None = None
        self._all: TypeAdapter | None = None
        UNIONS[list_name] = self

    @property
    def members(self) -> tuple[type[Config], ...]:
        """All configuration classes of the union: the built-in ones, then those of loaded plugins."""
        return (*self.built_in, *self.added.values())

    def replace(self, path: str, members: Mapping[str, type[Config]]) -> None:
        """Replaces all members of the plugin at ``path``; a name used by two plugins means the newest."""
        others = {n: c for n, c in self.added.items() if c.plugin is not None and c.plugin.path != path}
        self.added = {**others, **members}
        self._adapter = TypeAdapter(_distinguished(self.members)) if self.added else None
        self._all = self._adapter

    def validate(self, value: Any) -> Config:
        """The member of the union that ``value`` describes, or is; pydantic's error if none fits."""
        if self._all is None:
            self._all = TypeAdapter(_distinguished(self.members))
        return self._all.validate_python(by_name(value))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def validate(value: Any, built_in: Callable[[Any], Any]) -> Any:
            value = by_name(value)
            if finders and (known := finders[-1](self.list_name, value)) is not None:
                return known
            found = self._adapter.validate_python(value) if self._adapter else built_in(value)
            if found.plugin is not None:
                self.seen[key_of(value)] = found
            return found

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(_distinguished(self.built_in)),
            # "any": each value is written by its own class, since this schema knows no class of a plugin.
            serialization=core_schema.simple_ser_schema("any"),
        )


class Member:
    """Annotation of a field that holds a member of a union, for a class inside of the union itself.

    Args:
        list_name: name of the union in `UNIONS`, which need not exist yet.
    """

    def __init__(self, list_name: str) -> None:
        self._list_name = list_name

    @property
    def members(self) -> tuple[type[Config], ...]:
        """See `Extensible.members`."""
        return UNIONS[self._list_name].members

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: UNIONS[self._list_name].validate(value),
            serialization=core_schema.simple_ser_schema("any"),
        )


def _distinguished(members: tuple[type[Config], ...]) -> Any:
    return Annotated[typing.Union[members], Field(discriminator="name")]  # noqa: UP007 - any number of members


def implementation(config: Config) -> Callable[..., Any] | None:
    """The class or function that implements a plugin's configuration; None for a built-in one."""
    if config.plugin is None:
        return None
    if config.stored is not None:
        raise ValueError(f"the plugin {config.plugin.path} is needed, and reading runs no plugin")
    pairs = [pair for name in UNIONS for pair in vars(config.plugin.module()).get(name, ())]
    return next(implementing for cls, implementing in pairs if cls is type(config))


def plugins_of(*values: Any) -> tuple[Plugin, ...]:
    """The plugins of all configurations inside ``values``, each once."""
    return tuple(dict.fromkeys(one.plugin for one in configs_in(values) if one.plugin is not None))


def configs_in(value: Any) -> Iterator[Config]:
    """All configurations inside ``value``, however deep."""
    if isinstance(value, Config):
        yield value
        yield from configs_in([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping):
        yield from configs_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from configs_in(item)


# --------------------------------------------------------------------------------------- loading of plugins

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
        plugin_trust.note(plugin)
        activate(plugin, beside=loaded)
        loaded.append(plugin)
    return tuple(loaded)


def activate(plugin: Plugin, beside: Sequence[Plugin] = ()) -> None:
    """Adds a plugin's methods to the unions, in place of the methods of an earlier version of the file.

    Args:
        beside: other plugins, whose names the plugin must not use.
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


def note_plugin(plugin: Plugin) -> None:
    """Remembers the source of a plugin whose results are read; its code is not run."""
    _loaded[plugin.path] = plugin


def loaded_plugin(path: str) -> Plugin:
    """The version of the plugin at ``path`` that this process loaded last."""
    return _loaded[path]


def _added_by(plugin: Plugin, list_name: str, beside: Sequence[Plugin]) -> dict[str, type[Config]]:
    """Name -> configuration class, of a plugin's list; ValueError for a wrong entry or a used name."""
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
            place = place_of(cls) or at
            raise PluginError(
                f"{place}: found {cls!r} as a configuration class in {list_name}, expected a class that "
                f"derives from {base}: derive from it"
            )
        at_class = f"{plugin.path}, line {plugin.lines.get(cls.__name__, line)}: {cls.__name__}"
        name = _checked_name(cls, union, plugin, at_class)
        if name in taken:
            raise ValueError(
                f"{at_class}: a {union.noun} named {name!r} is {taken[name]}: choose another name"
            )
        taken[name] = "there twice"
        added[name] = cls
        cls.check_class()
        union.interface.check(cls, entry[1])
    return added


def _checked_name(cls: type[Config], union: Extensible, plugin: Plugin, at: str) -> str:
    """The name of a plugin's configuration class in YAML; ValueError for a class that does not fit."""
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
