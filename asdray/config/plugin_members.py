"""The form of a plugin's members, checked when a plugin is loaded: classes, functions and their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asdray.config.plugin_fault import MissingKey, wrong
from asdray.dcase.years import nearest

_TORCH_MODULE = "torch.nn.modules.module.Module"

Calls = Mapping[str, Sequence[str]]
"""The name of a method -> names of the arguments that asdray gives, without ``self``."""


@dataclass(frozen=True)
class Interface:
    """The form of whatever implements a configuration of a plugin.

    Attributes:
        arguments: of the class's constructor, or of the function.
        base: full name of the class that it derives from; None if it is a function. No class is imported.
        required: methods of the class, each with its arguments.
        optional: further methods, each with its arguments.
        of_training: methods of a class whose configuration ``learns``.
    """

    arguments: Sequence[str]
    base: str | None = None
    required: Calls = field(default_factory=dict)
    optional: Calls = field(default_factory=dict)
    of_training: Calls = field(default_factory=dict)

    def check(self, config: type, implementing: Any) -> None:
        """Checks what a plugin's list pairs with the configuration class.

        A function that makes an instance stands for a class; then `check_instance` finds more.

        Raises:
            PluginError: another base class, a missing method, other arguments.
        """
        if not isinstance(implementing, type):
            _check_call(implementing, self.arguments, config)
            return
        if self.base is None:
            raise wrong(
                implementing,
                config,
                "a class",
                f"a function of ({', '.join(self.arguments)}) that returns scores",
                "write a function that makes the object and calls it",
            )
        self._check_base(implementing, config)
        if _definer(implementing, "__init__") in (_TORCH_MODULE, self.base):
            call = f"__init__(self, {', '.join(self.arguments)})"
            raise wrong(implementing, config, "no __init__", call, "define it")
        _check_call(implementing, self.arguments, config)
        learns = getattr(config, "learns", None) is True  # a property says it for an instance only
        self._check_methods(implementing, config, learns)

    def check_instance(self, config: Any, instance: Any, learns: bool = False) -> None:
        """Checks what the class or function returned, before its methods are called.

        Raises:
            PluginError: as `check`.
        """
        self._check_base(type(instance), type(config))
        self._check_methods(instance, type(config), learns)

    def _check_base(self, cls: type, config: type) -> None:
        bases = [_full_name(one) for one in cls.__mro__]
        if self.base not in bases:
            found = f"a class that derives from {', '.join(map(_full_name, cls.__bases__))}"
            raise wrong(cls, config, found, _shown(self.base), "derive from it")

    def _check_methods(self, owner: Any, config: type, learns: bool) -> None:
        """Checks the methods of a class or an instance."""
        required = {**self.required, **(self.of_training if learns else {})}
        cls = owner if isinstance(owner, type) else type(owner)
        for name, arguments in {**self.optional, **self.of_training, **required}.items():
            definer = _definer(cls, name)
            own = definer not in (None, _TORCH_MODULE, self.base) or name in getattr(owner, "__dict__", {})
            call = f"{name}({', '.join(['self', *arguments])})"
            if own:
                _check_method(owner, name, arguments, config)
            elif name in required:
                raise wrong(cls, config, f"no method {name}", call, "define it")


def _shown(name: str | None) -> str:
    return "torch.nn.Module" if name == _TORCH_MODULE else str(name)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _definer(cls: type, name: str) -> str | None:
    """The full name of the class that defines an attribute of ``cls``."""
    return next((_full_name(one) for one in cls.__mro__ if name in vars(one)), None)


def _check_method(owner: Any, name: str, arguments: Sequence[str], config: type) -> None:
    """Checks a method of a class, which gets ``self`` besides, or of an instance."""
    member = getattr(owner, name)
    if not callable(member):
        what = f"{name} = {member!r}"
        raise wrong(owner, config, what, f"a method {name}({', '.join(arguments)})", "define a method")
    if isinstance(owner, type):
        if not isinstance(inspect.getattr_static(owner, name), staticmethod | classmethod):
            arguments = ["self", *arguments]
        # A loss may set `uses_own` in its constructor: its instance shows which of the two holds.
        if name == "forward" and _fits(member, [*arguments, "own"]):
            return
    elif name == "forward" and getattr(owner, "uses_own", False):
        arguments = [*arguments, "own"]
    _check_call(member, arguments, config)


def _fits(function: Any, arguments: Sequence[str]) -> bool:
    """True if the function can be called with so many positional arguments, or if nobody knows."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # code in C may have no signature
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _check_call(function: Any, arguments: Sequence[str], config: type) -> None:
    if _fits(function, arguments):
        return
    name = getattr(function, "__name__", repr(function))
    member = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009
    expected = f"the arguments ({', '.join(arguments)})"
    raise wrong(member, config, f"{name}{inspect.signature(function)}", expected, "give it these arguments")


def check_lists_of_names(cls: type, names: Sequence[str]) -> None:
    """Checks attributes of a configuration class that list names, such as ``own_scores``.

    Raises:
        PluginError: anything but a tuple or list of texts; a single text would be taken for its letters.
    """
    for name in names:
        value = inspect.getattr_static(cls, name)
        if isinstance(value, property):
            continue
        if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
            fix = f'write {name}: ClassVar = ("...",)'
            raise wrong(cls, cls, f"{name} = {value!r}", "a tuple of names", fix)


class Known(dict[str, Any]):
    """A mapping for a plugin's code, whose missing keys are told with the keys that there are."""

    def __init__(self, values: Mapping[str, Any], noun: str) -> None:
        super().__init__(values)
        self._noun = noun

    @classmethod
    def of(cls, values: Mapping[str, Any] | None, noun: str) -> Known | None:
        """``values`` under the name that the plugin's code has for them; None for None."""
        return None if values is None else cls(values, noun)

    def __missing__(self, key: Any) -> Any:
        there = ", ".join(map(repr, self)) or "nothing"
        close = nearest(str(key), [str(one) for one in self])
        raise MissingKey(
            f"found {self._noun}[{key!r}], expected a key of {self._noun} ({there}): use one of them{close}"
        )
