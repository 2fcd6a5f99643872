"""The base of every configuration class, its canonical form and its hash."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from asdray.config.plugin import Plugin


class Config(BaseModel):
    """Frozen, and an unknown key is an error.

    Three class variables decide what a configuration's hash sees:

    Attributes:
        numerics: bumped by hand when the code behind the class starts to compute something else from
            the same options; old results then no longer answer for the new code.
        later: fields added after the first release, each with the value that reproduces the behaviour
            from before it existed. At that value the field is left out of the canonical form, so that
            a new option keeps old results.
        plugin: the user's file that defines the class; set where that is loaded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    numerics: ClassVar[int] = 1
    later: ClassVar[Mapping[str, Any]] = {}
    plugin: ClassVar[Plugin | None] = None

    @functools.cached_property
    def canonical_json(self) -> str:
        """Its part of a text that `digest_of` hashes."""
        return _TEXT.encode(canonical(self))

    def model_copy(self, **options: Any) -> Self:
        """As pydantic's, whose copy of one that was changed would keep the text of the original."""
        copied = super().model_copy(**options)
        copied.__dict__.pop("canonical_json", None)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is defined in a plugin is pickled with its source: no other process could import it."""
        reduced = super().__reduce_ex__(protocol)
        if self.plugin is None:
            return reduced
        from asdray.config.plugin import revived

        return revived, (self.plugin, type(self).__qualname__), *reduced[2:]


def canonical(value: Any) -> Any:
    """``value`` as plain JSON data in which equal configurations are equal, whatever was left to defaults."""
    kind = type(value)
    # The usual kinds first: a large sweep asks a hundred thousand times, and `isinstance` of a model is slow.
    if value is None or kind in (str, int, float, bool):
        return value
    if kind is dict:
        return {str(k): v if type(v) is str else canonical(v) for k, v in value.items()}
    if kind in (list, tuple):
        return [canonical(v) for v in value]
    if isinstance(value, Config):
        later = kind.later
        fields = {
            name: canonical(getattr(value, name))
            for name in kind.model_fields
            if not (name in later and getattr(value, name) == later[name])
        }
        if value.plugin is not None:
            fields["plugin"] = value.plugin.sha256
        return {"numerics": kind.numerics, **fields}
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    return value


_TEXT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hex sha256 of the canonical form."""
    return hashlib.sha256(_TEXT.encode(canonical(value)).encode()).hexdigest()


def digest_of(**parts: str) -> str:
    """`digest` of a mapping whose values are JSON of canonical forms already."""
    template, values_of = _layout(tuple(parts))
    return hashlib.sha256((template % values_of(parts)).encode()).hexdigest()


@functools.cache  # there are few, and a large sweep asks a hundred thousand times
def _layout(names: tuple[str, ...]) -> tuple[str, itemgetter]:
    """JSON of a mapping with these names, sorted, but for the values; and what gets the values in order."""
    ordered = sorted(names)
    return "{" + ",".join([f'"{name}":%s' for name in ordered]) + "}", itemgetter(*ordered)


text_of = json.encoder.encode_basestring_ascii
"""JSON of a string, as a part of `digest_of`."""


def texts_of(values: Mapping[str, str]) -> str:
    """JSON of a mapping of strings, as a part of `digest_of`."""
    return f"{{{','.join([f'{text_of(k)}:{text_of(v)}' for k, v in sorted(values.items())])}}}"
