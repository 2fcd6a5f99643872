"""Bundles: a sweep's results in one zip, for other people: layout, writing, and reading.

A bundle holds ``bundle.json`` (a `Header`), the sweep file with all defaults, the tables and the leaderboard
as its authors have them, the labels of the test clips of every year, and the scores of every trial, line by
line in the order of the labels. There is no audio, no model and no code in it.

A bundle may have any origin. Nothing of it is unpacked or run: the members are read into memory, within
limits, and are compared with the hashes in the header. Its tables are never shown:
`asdray.evaluation.recomputed` computes them from its scores and labels.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from asdray.config.base import digest
from asdray.dcase.years import get_year
from asdray.printable import printable
from asdray.regular import open_regular
from asdray.store import SweepDir

FORMAT = 1
HEADER = "bundle.json"

MOST_FILES, LARGEST_FILE, LARGEST = 50_000, 32 * 2**20, 512 * 2**20
"""Members of a bundle, bytes of one, and bytes of all together, unpacked."""

MOST_LINES = 200_000
"""Lines of a member; a year has at most a tenth as many test clips."""

_PART = r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}"
"""A part of a path."""

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(pattern=rf"^{_PART}$")]
Year = Annotated[str, Field(pattern=r"^dcase20[0-9]{2}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Member:
    """A file of the bundle as its authors packed it."""

    size: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class BundledTrial:
    """A trial of the sweep.

    Attributes:
        canonical: the canonical form of the system, whose hash is in the system's name.
        label: the system's name for people.
        options: the options in which the systems differ.
        backends: ids of the backends that the trial asks for.
        made: versions, devices, seconds per stage and time of the last stage.
    """

    dcase: Year
    recipe: Name
    system: Name
    seed: Seed
    part: Literal["grid", "search", "confirm"]
    canonical: dict[str, Any]
    label: Text
    options: Text
    backends: tuple[Name, ...]
    best_by: Text
    classes_from: Text
    made: dict[str, Any]

    @property
    def keys(self) -> tuple[str, str, int]:
        return self.dcase, self.system, self.seed


@dataclass(frozen=True)
class Header:
    """The content of ``bundle.json``.

    Attributes:
        name: name of the sweep.
        dataset: ``official`` or ``synthetic``.
        machines: year -> machines of the sweep, years in the order of the leaderboard.
        label_sources: year -> source of its test labels.
        checkpoints: those that the sweep scores.
        backends: id of a backend -> its options.
        rank_by: the column that ranks.
        provenance: time, commit, versions and kind of machine of the packing.
        files: every other member.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    format: Literal[1]  # FORMAT
    name: Name
    dataset: Literal["official", "synthetic"]
    machines: Annotated[dict[Year, tuple[Name, ...]], Field(min_length=1)]
    label_sources: dict[Year, Text]
    checkpoints: tuple[Annotated[str, Field(pattern=r"^(last|best|epoch_[0-9]{1,9})$")], ...]
    backends: dict[Name, dict[str, Any]]
    rank_by: Text
    trials: tuple[BundledTrial, ...]
    provenance: dict[str, Any]
    files: dict[str, Member] = field(default_factory=dict)


class LabelledClip(NamedTuple):
    """A test clip; domain and label are None if they are unknown."""

    clip: str
    machine: str
    subset: str
    section: int
    domain: str | None
    is_anomaly: bool | None


# ------------------------------------------------------------------------------------------------- layout


def labels_name(dcase: str) -> str:
    """The member with the test clips of a year."""
    return f"labels/{dcase}.csv"


def scores_name(dcase: str, system: str, seed: int, ckpt: str) -> str:
    """The member with the scores of a trial: a column per backend, lines in the order of the labels."""
    return f"scores/{dcase}/{system}/seed{seed}/{ckpt}.csv"


_FOLDER = SweepDir(Path())
LEADERBOARD = _FOLDER.leaderboard().name
"""The member with the leaderboard that the bundle's authors have."""

AS_WRITTEN = (
    _FOLDER.spec,
    _FOLDER.selection,
    *map(_FOLDER.leaderboard, ("csv", "md")),
    *map(_FOLDER.beside_published, ("csv", "md")),
)
"""Members that are files of the sweep's folder, if the sweep has them; its tables as well."""

_MEMBER = re.compile(
    rf"{'|'.join(re.escape(path.name) for path in AS_WRITTEN)}"
    rf"|tables/{_PART}\.csv|labels/dcase20[0-9]{{2}}\.csv"
    rf"|scores/dcase20[0-9]{{2}}/{_PART}/seed[0-9]{{1,19}}/(last|best|epoch_[0-9]{{1,9}})\.csv"
)


def write(path: Path, header: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Writes a bundle; equal contents give equal bytes.

    Args:
        header: the fields of `Header`, without ``files`` and ``format``.
        members: name -> content.
    """
    import json

    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(members.items())
    }
    text = json.dumps({"format": FORMAT, **header, "files": files}, indent=1, allow_nan=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in [(HEADER, text.encode()), *sorted(members.items())]:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Bundle:
    """A bundle whose members have the hashes of its header.

    Attributes:
        name: the file's name.
        sha256: of the file.
        members: name -> content.
    """

    name: str
    sha256: str
    header: Header
    members: Mapping[str, bytes]

    @property
    def source(self) -> str:
        """The file's name and hash, for a note below a leaderboard."""
        return f"{printable(self.name)} (sha256 {self.sha256[:16]})"


def read(path: Path) -> Bundle:
    """Reads a bundle into memory.

    Raises:
        ValueError: no bundle, a damaged or a hostile one: members outside of the layout, more bytes than
            a bundle has, links, encryption, hashes that differ. The message begins with the path.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST:
                raise ValueError(f"has {size:,} bytes, at most {LARGEST:,} are read")
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            members = _members(zipfile.ZipFile(file))
        content = members.pop(HEADER, None)
        if content is None:
            raise ValueError(f"has no {HEADER}: it is no bundle of asdray")
        header = _header(content)
        _compare(header, members)
        _check_trials(header)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except _FAULTS as error:
        raise ValueError(f"{path}: {printable(str(error)) or type(error).__name__}") from None
    return Bundle(path.name, sha256, header, members)


_FAULTS = (
    *(ValueError, RuntimeError, NotImplementedError, EOFError, KeyError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, RecursionError),
)
"""What a damaged or hostile zip raises."""


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Name -> content of a zip, within the limits."""
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise ValueError(f"has {len(infos)} members, at most {MOST_FILES} are read")
    if (size := sum(info.file_size for info in infos)) > LARGEST:
        raise ValueError(f"would have {size:,} bytes unpacked, at most {LARGEST:,} are read")
    found: dict[str, bytes] = {}
    for info in infos:
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name != HEADER and not _MEMBER.fullmatch(name):
            raise ValueError(f"has the member {name[:200]!r}, which no bundle has")
        if name in found:
            raise ValueError(f"has the member {name!r} twice")
        if info.flag_bits & 1 or kind not in (0, stat.S_IFREG) or info.file_size > LARGEST_FILE:
            raise ValueError(f"the member {name!r} is encrypted, a link, or has too many bytes")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the member {name!r} is compressed in another way than bundles are")
        with archive.open(info) as file:
            found[name] = file.read(LARGEST_FILE + 1)  # a header may lie about the size
        if len(found[name]) != info.file_size:
            raise ValueError(f"the member {name!r} has another size than the zip says")
    return found


def _header(content: bytes) -> Header:
    try:
        header = TypeAdapter(Header).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"its {HEADER} is of another form ({where}: {first['msg']})") from None
    for dcase, machines in header.machines.items():
        known = get_year(dcase).all_machines
        if unknown := [machine for machine in machines if machine not in known]:
            raise ValueError(f"{dcase} has no machine {unknown[0]!r}")
    for several in (header.checkpoints, *header.machines.values(), *(t.backends for t in header.trials)):
        if len(set(several)) < len(several):
            raise ValueError(f"its {HEADER} names a machine, checkpoint or backend twice")
    if nameless := [name for name, own in header.backends.items() if not isinstance(own.get("name"), str)]:
        raise ValueError(f"the backend {nameless[0]} has no name")
    return header


def _compare(header: Header, members: Mapping[str, bytes]) -> None:
    """Compares the members with the list in the header."""
    if differing := sorted(header.files.keys() ^ members.keys()):
        raise ValueError(f"its list of members and the members differ, first in {differing[0]!r}")
    for name, content in members.items():
        if hashlib.sha256(content).hexdigest() != header.files[name].sha256:
            raise ValueError(f"{name} is not what was packed: its hash is another one")


def _check_trials(header: Header) -> None:
    """Checks that every system's name has the hash of its options, and that each trial is there once."""
    seen = set()
    for trial in header.trials:
        if trial.system != f"{trial.recipe}-{digest(trial.canonical)[:8]}":
            raise ValueError(f"the options of {trial.system} are those of another system: their hash differs")
        if trial.keys in seen:
            raise ValueError(f"{trial.system} {trial.dcase} seed{trial.seed} is there twice")
        seen.add(trial.keys)
        if trial.dcase not in header.machines or {*trial.backends} - header.backends.keys():
            raise ValueError(f"{trial.system} has a year or a backend that the sweep does not have")


def read_csv(
    bundle: Bundle, name: str, header: Sequence[str] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a member; without ``header`` the first line is one of the results.

    Raises:
        ValueError: no such member, or no table of text with ``header``.
    """
    if name not in bundle.members:
        raise ValueError(f"has no {name}")
    try:
        text = bundle.members[name].decode("utf-8")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        first = next(rows, None)
        if first is None or (header is not None and first != list(header)):
            raise ValueError("its first line is not the names of its columns")
        if header is None:
            yield 1, first
        for row in rows:
            if len(row) != len(first):
                raise ValueError(f"line {rows.line_num} has {len(row)} fields, the first line {len(first)}")
            if rows.line_num > MOST_LINES:
                raise ValueError(f"has more than {MOST_LINES:,} lines")
            yield rows.line_num, row
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
