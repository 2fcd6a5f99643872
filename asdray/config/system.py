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
from typing import Annotated, Any

from pydantic import Field, model_validator

from asdray.config.audio import Audio
from asdray.config.backend import Backend
from asdray.config.base import Config, digest
from asdray.config.branch import EncoderBranch
from asdray.config.files import validate
from asdray.config.frontend import Frontend
from asdray.config.recipe_files import read_recipe
from asdray.config.train import Train
from asdray.config.weights import MADE_UP
from asdray.config.words import nearest_option
from asdray.dcase.years import YEARS, get_year


class System(Config):
    """A recipe with all hyperparameters fixed, without the seed."""

    frontend: Frontend
    """The part that turns clips into embeddings or into scores of its own."""
    train: Train = Train()
    """Training, for every frontend that learns."""
    audio: Audio = Audio()
    """Length and channel of clips."""

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
        if self.train.cuda_graphs:
            self._check_recording()
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
        if source := self.clustered:
            try:
                source.check(dcase)
            except ValueError as error:
                raise ValueError(f"the source of the clustering: {error}") from None

    def _check_recording(self) -> None:
        """Raises ValueError if a pass of the frontend cannot be recorded, or would freeze random choices."""
        branches = getattr(self.frontend, "branches", ())
        if any(isinstance(branch, EncoderBranch) and branch.drops_blocks for branch in branches):
            raise ValueError(
                "train.cuda_graphs would leave out the same blocks of the encoder in every step: set "
                "dropout: none in its branch, or leave cuda_graphs out"
            )
        if getattr(self.frontend, "spec_augment", None) is not None:
            raise ValueError(
                "train.cuda_graphs cannot record frontend.spec_augment, which reads a value back from the "
                "GPU in every step: leave one of them out"
            )

    def check_data(self, kind: str) -> None:
        """Raises ValueError if weights are made up, and the data are of another kind than ``synthetic``."""
        if kind == "synthetic":
            return
        if any(system and system.frontend.has_made_up_weights for system in (self, self.clustered)):
            raise ValueError(
                f"the weights of {' and '.join(MADE_UP.values())} are drawn at random, for synthetic data "
                f"only: choose {' or '.join(MADE_UP)} with published weights (`asdray encoders` lists them)"
            )

    @functools.cached_property
    def clustered(self) -> System | None:
        """The system whose embeddings are clustered for the classes of this one, or None."""
        if (clustering := self.frontend.clustering) is None:
            return None
        source = clustering.source
        return System(frontend=source.frontend, train=source.train, audio=source.audio)


# --------------------------------------------------------------------------------------------------- recipes


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
    backend: Backend
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


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``, or in the YAML file at the path ``name``.

    Raises:
        ValueError: an unknown name, or a fault in the file.
    """
    tree, where = read_recipe(name)
    return validate(Recipe, tree, where)


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
            hint = nearest_option(".".join(keys[: i + 1]), known, _paths(tree))
            raise ValueError(f"{where}: unknown option {path!r}{hint} (known here: {', '.join(known)})")
        if i == len(keys) - 1:
            node[names[key]] = value
        else:
            node = node[names[key]]


def _paths(tree: Any, path: str = "") -> list[str]:
    """The dotted paths of all options in nested mappings."""
    if not isinstance(tree, dict):
        return [path]
    inner = [one for key, value in tree.items() for one in _paths(value, f"{path}.{key}".strip("."))]
    return [path, *inner] if path else inner
