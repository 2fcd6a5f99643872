"""Frontends that learn nothing and read no weights: a mean spectrum, and embeddings from files."""

from __future__ import annotations

import string
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from asdray.config.base import Positive
from asdray.config.frontend_base import FrontendConfig, InputFile
from asdray.dcase.years import nearest


class RawSpec(FrontendConfig):
    """The mean over time of a mel spectrogram, without a logarithm; nothing is trained.

    Source: ASDKit ``raw_spec``, arXiv 2507.10264. Example: ``frontend: {name: raw_spec, n_mels: 128}``
    """

    name: Literal["raw_spec"] = "raw_spec"
    n_mels: Positive = 128
    """Number of mel filters; dimensions of the embedding."""
    n_fft: Annotated[int, Field(ge=16)] = 1024
    """Window length, in samples."""
    hop_length: Positive = 512
    """Distance between windows, in samples."""

    learns: ClassVar[bool] = False
    has_one_seed: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = (*FrontendConfig.modules, "asdray.frontends.raw")


class Precomputed(FrontendConfig):
    """Embeddings of any model, read from files; nothing is trained and no sound is read.

    Example: ``frontend: {name: precomputed, path: "beats/{dcase}/{machine}.parquet"}``
    """

    name: Literal["precomputed"] = "precomputed"
    path: Annotated[str, Field(min_length=1)]
    """A ``.parquet`` file with the columns ``clip`` (keys as in ``clips.parquet``) and ``embedding``, or a
    ``.npz`` file with arrays of these names. ``{dcase}``, ``{machine}`` and ``{seed}`` are filled in. A
    relative path starts at the data folder."""

    learns: ClassVar[bool] = False
    reads_audio: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = ()

    @field_validator("path")
    @classmethod
    def _known_placeholders(cls, path: str) -> str:
        known = ("dcase", "machine", "seed")
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(path) if name is not None]
        except ValueError as error:
            raise ValueError(f"{path!r} is no path with placeholders ({error})") from None
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{path!r} has the unknown placeholder {{{name}}}{nearest(name, known)} "
                    "(known: {dcase}, {machine}, {seed})"
                )
        if not path.endswith((".parquet", ".npz")):
            raise ValueError(f"{path!r} must end in .parquet or .npz")
        return path

    @property
    def has_one_seed(self) -> bool:  # type: ignore[override]
        """True if all seeds read the same files."""
        return "{seed}" not in self.path

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The file of embeddings, its path with all placeholders replaced."""
        return (InputFile("embeddings", "path", self.path.format(dcase=dcase, machine=machine, seed=seed)),)
