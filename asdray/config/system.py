"""A system: frontend, training and audio options with fixed values, without year and seed; and recipe files.

A recipe is a system with a description, ``asdray/recipes/<name>.yaml`` or a user's file::

    about: Two-branch network with AdaCos
    frontend: {name: discriminative, loss: {name: adacos}}
    train: {epochs: 16, batch_size: 64, learning_rate: 1.0e-3}
    audio: {duration: year_max}
    reproduces: [{system: ASDKit dis_spec_adacos_fixed, backend: knn, tolerance: 0.02}]
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from asdray.config.backend import Backend
from asdray.config.base import Config, digest
from asdray.config.files import parse_yaml, read_yaml, validate
from asdray.config.frontend import Frontend
from asdray.config.train import Train
from asdray.dcase.years import SAMPLE_RATE, YEARS, get_year, nearest

Channel = Literal["near", "far", "mean", "difference", "cancel", "subtract"]
FORMULAS: Mapping[str, int] = {"cancel": 1, "subtract": 1}
"""Channels that `asdray.audio.microphones` computes when audio is packed -> version of the formula.

A developer raises the version when a formula begins to give other samples: packs and results are rebuilt.
"""


class Audio(Config):
    """Length and channel of clips. Shorter clips are lengthened, then all are cropped to the length.

    The crop starts at random in training and at 0 elsewhere. Example: ``audio: {duration: 10, channel:
    near}``
    """

    duration: Annotated[float, Field(gt=0, le=60)] | Literal["year_max", "native"] = "year_max"
    """Seconds; ``year_max``: the longest clips of the year; ``native``: every clip's own length. Autoencoders
    train on whole clips in any case: the option is for the later stages."""
    channel: Channel = "near"
    """In a year with two microphones: one of them, the mean of both, near minus far (``difference``), or near
    less what far predicts: by least squares over the whole clip (``cancel``), or by spectral subtraction
    with a floor (``subtract``). Details of the last two in `asdray.audio.microphones`."""
    padding: Literal["repeat", "zero"] = "repeat"
    """How a clip that is too short is lengthened: repeated end to end, or with zeros on its right."""

    later: ClassVar = {"channel": "near", "padding": "repeat"}

    @property
    def effective_numerics(self) -> int:
        """Another number for each version of the channel's formula."""
        return type(self).numerics + FORMULAS.get(self.channel, 1) - 1

    def n_samples(self, dcase: str) -> int:
        """Samples per clip in the year ``dcase``; with ``native`` the largest number."""
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
        """Hash of all options, eight hex digits; the same for all years and seeds."""
        return digest(self)[:8]

    def check(self, dcase: str) -> None:
        """Raises ValueError if the frontend cannot process the clips of the year ``dcase``, or learn so."""
        if self.train.early_stopping and self.frontend.learns and not self.frontend.holds_out:
            raise ValueError(
                f"train.early_stopping needs held-out data, but {self.frontend.label} holds none out: set "
                "frontend.validation, such as 0.1 (autoencoder and discriminative have the option)"
            )
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
        if self.frontend.reads_supplemental and not get_year(dcase).has_supplemental:
            having = ", ".join(name for name, year in YEARS.items() if year.has_supplemental)
            raise ValueError(
                f"{dcase}: frontend.supplemental is set, but the year has no supplemental clips: choose null "
                f"(years with such clips: {having})"
            )
        try:
            self.frontend.check(self.audio.n_samples(dcase))
        except ValueError as error:
            raise ValueError(f"{dcase}: {error}") from None


# --------------------------------------------------------------------------------------------------- recipes


def _spelled_out(value: Any) -> Any:
    """A backend's name alone stands for the backend with the default options."""
    return {"name": value} if isinstance(value, str) else value


class Target(Config):
    """Published scores that a recipe is to reproduce.

    The scores and their sources are in ``benchmarks/published`` alone; a target names them by their system.

    Example: ``{system: ASDKit raw_spec, backend: {name: knn, smote_ratio: 0.2}, tolerance: 0.005}``
    """

    system: str
    """Column ``system`` of the published scores."""
    published_backend: str | None = None
    """Column ``backend`` of the published scores, in their words; null if the system has one alone."""
    columns: tuple[str, ...] | None = None
    """Columns of the leaderboard, such as ``dcase2026-dev``; null for every year and subset of the system."""
    backend: Annotated[Backend, BeforeValidator(_spelled_out)]
    """Our backend."""
    tolerance: Annotated[float, Field(gt=0, lt=0.5)]
    """Largest difference of our mean from theirs, a fraction, that still counts as reproduced."""


class Recipe(System):
    """A system with a description: the content of a recipe file."""

    about: str
    """One line for ``asdray recipes``."""
    source: str = ""
    """The paper or code that the recipe follows."""
    reproduces: tuple[Target, ...] = ()
    """Published scores that our scores are compared with. They are no part of the system or its hash."""

    @model_validator(mode="after")
    def _one_line(self) -> Recipe:
        if "\n" in self.about.strip():
            raise ValueError("about must be one line")
        return self

    @property
    def system(self) -> System:
        """The recipe without its description, hence with the same hash under any name."""
        return System(frontend=self.frontend, train=self.train, audio=self.audio)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with asdray."""
    folder = resources.files("asdray.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``, or in the YAML file at the path ``name``.

    Raises:
        ValueError: an unknown name, or a fault in the file.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(Recipe, read_yaml(Path(name)), name)
    known = recipe_names()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    text = resources.files("asdray.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return validate(Recipe, parse_yaml(text, name), f"recipe {name}")


# ------------------------------------------------------------------------------------------------- overrides


def with_overrides(system: System, overrides: Mapping[str, Any], where: str) -> System:
    """``system`` with new values of options at dotted paths, shorter paths first.

    An object replaces a union member as a whole; options that the object leaves out take their defaults::

        with_overrides(system, {"train.epochs": 3, "frontend.loss": {"name": "arcface"}}, "--set")

    Raises:
        ValueError: a path that does not exist, with the nearest existing one; or a value that does not fit.
    """
    for _, paths in itertools.groupby(sorted(overrides, key=_depth), key=_depth):
        tree = system.model_dump(mode="json")
        for path in paths:
            _set(tree, path, copy.deepcopy(overrides[path]), where)
        # Each depth is validated before the next: deeper paths need the options of a replaced member.
        system = validate(System, tree, where)
    return system


def _depth(path: str) -> int:
    return path.count(".")


def _set(tree: dict, path: str, value: Any, where: str) -> None:
    """Replaces the value at ``path`` inside nested mappings and lists."""
    keys = path.split(".")
    node: Any = tree
    for i, key in enumerate(keys):
        options = dict(enumerate(node)) if isinstance(node, list) else node
        if not isinstance(options, dict):
            raise ValueError(f"{where}: unknown option {path!r} ({'.'.join(keys[:i])} is a plain value)")
        names = {str(option): option for option in options}
        if key not in names:
            known = [".".join([*keys[:i], name]) for name in names]
            raise ValueError(
                f"{where}: unknown option {path!r}{nearest('.'.join(keys[: i + 1]), known)} "
                f"(known here: {', '.join(known)})"
            )
        if i == len(keys) - 1:
            node[names[key]] = value
        else:
            node = node[names[key]]
