"""A system: frontend, training and audio options. What a trial computes, without year and seed."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from asdray.config.base import Config, Positive, digest
from asdray.config.files import parse_yaml, read_yaml, validate
from asdray.config.frontend import Frontend
from asdray.dcase.years import SAMPLE_RATE, YEARS, get_year, nearest

Channel = Literal["near", "far", "mean", "difference"]


class Train(Config):
    """How a unit is trained: AdamW with library defaults apart from what is said here."""

    epochs: Positive = 16
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Clips (discriminative) or stacked frames (autoencoder) per step; the last, smaller batch is kept."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    threads: Positive = 1
    """CPU threads of the process; they change the order of sums, so they belong to the system."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the steps' products; ``bf16`` rounds to 8 bits and is faster where a CPU does not emulate it. Sums,
    weights and all that follows training stay in 32 bits."""

    later: ClassVar[Mapping[str, Any]] = {"precision": "fp32"}


class Audio(Config):
    """Clip length and channel. Shorter clips are repeated end to end, then all are cropped.

    The crop starts at random in training and at 0 elsewhere.
    """

    duration: Annotated[float, Field(gt=0, le=60)] | Literal["year_max", "native"] = "year_max"
    """Seconds; ``year_max``: those of the longest machine of the year; or ``native``: every clip's own.
    Autoencoders train on whole clips whatever it says: it is for what follows."""
    channel: Channel = "near"
    """Of a year with two microphones: one of them, the mean of both, or near minus far."""

    later: ClassVar[Mapping[str, Any]] = {"channel": "near"}

    def n_samples(self, dcase: str) -> int:
        """Samples per clip in ``dcase``, the most that there are if every clip has its own."""
        longest = get_year(dcase).duration_max
        seconds = longest if self.duration in ("year_max", "native") else self.duration
        return round(float(seconds) * SAMPLE_RATE)


class System(Config):
    """A recipe with all hyperparameters fixed, without the seed."""

    frontend: Frontend
    train: Train = Train()
    audio: Audio = Audio()

    @functools.cached_property
    def id(self) -> str:
        """Eight hex digits: the same for all years and seeds."""
        return digest(self)[:8]

    def check(self, dcase: str) -> None:
        """Raises ValueError where the frontend cannot take the clips of ``dcase``."""
        if self.audio.channel != "near" and get_year(dcase).channels == 1:
            stereo = ", ".join(name for name, year in YEARS.items() if year.channels > 1)
            raise ValueError(
                f"{dcase}: audio.channel is {self.audio.channel!r}, but its clips have one channel: "
                f"choose near (two channels: {stereo})"
            )
        if self.audio.duration == "native" and not self.frontend.takes_any_length:
            raise ValueError(
                f"{dcase}: audio.duration is 'native', but the {self.frontend.name} frontend takes clips of "
                "one length only: choose year_max, or seconds"
            )
        try:
            self.frontend.check(self.audio.n_samples(dcase))
        except ValueError as error:
            raise ValueError(f"{dcase}: {error}") from None


class Recipe(System):
    """A named full configuration, as shipped in ``asdray/recipes/<name>.yaml``."""

    about: str
    """One line for ``asdray recipes``."""
    source: str = ""
    """The paper or code that the recipe follows."""

    @model_validator(mode="after")
    def _one_line(self) -> Recipe:
        if "\n" in self.about.strip():
            raise ValueError("about must be one line")
        return self

    @property
    def system(self) -> System:
        """The recipe without its description: what is hashed."""
        return System(frontend=self.frontend, train=self.train, audio=self.audio)


# --------------------------------------------------------------------------------------------- recipes


def recipe_names() -> list[str]:
    """The recipes that ship with asdray."""
    folder = resources.files("asdray.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``, or the one in the YAML file at the path ``name``.

    Raises:
        ValueError: unknown name, or a fault in the file.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(Recipe, read_yaml(Path(name)), name)
    known = recipe_names()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    text = resources.files("asdray.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return validate(Recipe, parse_yaml(text, name), f"recipe {name}")


def with_overrides(system: System, overrides: Mapping[str, Any], where: str) -> System:
    """``system`` with options at dotted paths replaced, shorter paths first.

    An object replaces a union member whole: what it leaves out takes that member's defaults.

    Raises:
        ValueError: a path that does not exist (with the nearest that does) or a value that does not fit.
    """
    for _, paths in itertools.groupby(sorted(overrides, key=_depth), key=_depth):
        tree = system.model_dump(mode="json")
        for path in paths:
            _set(tree, path, copy.deepcopy(overrides[path]), where)
        # Validated level by level: a member replaced here has its options in place for deeper paths.
        system = validate(System, tree, where)
    return system


def _depth(path: str) -> int:
    return path.count(".")


def _set(tree: dict, path: str, value: Any, where: str) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    walked: list[str] = []
    for key in parents:
        node = _child(node, key, walked, path, where)
        walked.append(key)
    _child(node, last, walked, path, where)
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value


def _child(node: Any, key: str, walked: list[str], path: str, where: str) -> Any:
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, dict) and key in node:
        return node[key]
    if isinstance(node, dict):
        known = [".".join([*walked, k]) for k in node]
    elif isinstance(node, list):
        known = [".".join([*walked, str(i)]) for i in range(len(node))]
    else:
        raise ValueError(f"{where}: unknown option {path!r} ({'.'.join(walked)} is a plain value)")
    full = ".".join([*walked, key])
    raise ValueError(
        f"{where}: unknown option {path!r}{nearest(full, known)} (known here: {', '.join(known)})"
    )
