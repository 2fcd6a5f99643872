"""The record of a finished stage, as the ``done.json`` of the stage's folder holds it.

`asdray.store` reads and writes records; the types here are checked on reading.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic_core import PydanticCustomError

FORMAT = 2

FACTS: dict[str, dict[str, tuple[type, ...]]] = {
    "score": {"options": (dict,)},
    "evaluate": {"backends": (dict,)},
}
"""Stage -> facts in ``extra`` that other stages read, and their types."""

Bytes = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of bytes."""

Amount = Annotated[float, Field(ge=0, le=1e30)]
"""A number that seconds or bytes grow with."""

Seconds = Annotated[float, Field(ge=0, le=1e10)]
"""A duration."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""A hash of asdray's source."""

Name = Annotated[str, Field(pattern=r"^[^/\x00.][^/\x00]*(/[^/\x00.][^/\x00]*)*$")]
"""A path below a folder; never out of the folder, whoever wrote the record."""


@dataclass(frozen=True)
class Output:
    """A file as its stage wrote it."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    size: Bytes
    sha256: str


@dataclass(frozen=True)
class Record:
    """One finished stage, as the ``done.json`` of its folder describes the stage.

    Attributes:
        signature: hash of everything that the stage depends on besides its inputs.
        inputs: name of each input -> hash of the content that was read (`digest` of an upstream stage).
        outputs: file name relative to the folder -> size in bytes and sha256.
        digest: hash of the outputs' content: readers of outputs with equal digests read the same bytes.
        seconds: time that the stage took.
        finished: UTC time, ISO 8601.
        device: ``cpu``, or for example ``cuda:NVIDIA H200``.
        versions: of the packages that the numbers depend on.
        extra: facts for later readers, such as losses, counts and label sources.
        pruned: outputs that were deleted on purpose (``keep:``). The stage stays complete without these.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    signature: str
    inputs: dict[str, str]
    outputs: dict[Name, Output]
    digest: str
    seconds: Seconds
    finished: str
    device: str
    versions: dict[str, str | None]
    extra: dict[str, Any]
    pruned: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all outputs, pruned ones included."""
        return sum(output.size for output in self.outputs.values())

    def lacks(self, name: str) -> str | None:
        """The first of the stage's `FACTS` that is absent or of another type; None if none is.

        Args:
            name: of the record: a stage, or a stage and its backend: ``score-knn-1a2b3c4d``.
        """
        facts = FACTS.get(name.partition("-")[0], {})
        return next(
            (fact for fact, types in facts.items() if not isinstance(self.extra.get(fact), types)), None
        )

    def describes(self, folder: Path) -> bool:
        """True if every output that was not pruned is in ``folder`` with its recorded size."""
        try:
            return all(
                name in self.pruned or os.stat(f"{folder}/{name}").st_size == output.size
                for name, output in self.outputs.items()
            )
        except OSError:
            return False


@dataclass(frozen=True)
class Summary:
    """The short form of all records of a complete trial.

    Attributes:
        request: hash of everything besides the trial's own files that decides whether the trial is complete.
        files: record files, and folders in which others may appear: name, size, time of change in ns, inode.
        sums: stage, and the fields of `asdray.sweep.estimate.StageSum`.
        made: what made the steps, as the fields of `asdray.stages.made_by.Made`.
    """

    request: str
    files: tuple[tuple[Name, int, int, int], ...]
    sums: tuple[tuple[str, Bytes, Amount, Amount, Seconds, Bytes], ...]
    made: tuple[tuple[str, str, Hash], ...] = ()


@dataclass(frozen=True)
class Done:
    """The content of ``done.json``; a summary may be damaged alone."""

    format: Literal[2]  # FORMAT
    records: dict[str, Record]
    summary: Annotated[Summary | Any, Field(union_mode="left_to_right")] = None

    def __post_init__(self) -> None:
        for name, record in self.records.items():
            if fact := record.lacks(name):
                raise PydanticCustomError("facts", f"{name} has no {fact}, or one of another type")
