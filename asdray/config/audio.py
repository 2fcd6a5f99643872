"""Length and channel of clips: the options below ``audio:`` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from asdray.config.base import Config
from asdray.dcase.years import SAMPLE_RATE, get_year

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
