"""The manifest of a formatted year: one row per clip, and the summary that planning needs.

``asdray format`` writes two files into ``formatted/<dcase>``:

* ``clips.parquet``, the manifest: one row per clip, sorted by clip key; columns see `schema`;
* ``dataset.json``, its summary (`Dataset`): kind of data, and per machine one id (a hash) for each split and
  one for the labels of the test clips. Signatures of results are made from these ids.

Conventions: paths are relative to the data folder, lengths are samples per channel, times are nanoseconds.
Labels and domains that nobody published are null. pyarrow is imported only to read or write the manifest.

>>> from asdray.dcase.manifest import clip_key
>>> clip_key("eval", "bandsaw", "test", "section_00_0000.wav")
'eval/bandsaw/test/section_00_0000.wav'
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from asdray import damage, store
from asdray.dcase.names import SPLITS, is_clutter, may_be_supplemental
from asdray.dcase.places import machine_folders
from asdray.dcase.years import get_year, nearest
from asdray.home import expanded

if TYPE_CHECKING:
    import pyarrow

DATASET_FORMAT = 3

_ID = b"asdray.manifest"  # key of `Dataset.manifest` in the metadata of clips.parquet

SYNTHETIC_MARKS = ("synthetic.json", "synthetic-unfinished.json")
"""Files in a year's folder of synthetic originals: complete, or begun by ``asdray synth``."""

Kind = Literal["official", "synthetic"]

UNKNOWN = "unknown"
"""Stands for a null domain or label in the keys of `MachineData.counts`."""

DEFAULT_DATA = "data"
"""Data folder of commands without ``--data`` and ``ASDRAY_DATA``."""

_NULLABLE = ("domain", "is_anomaly", "label_source", "revealed_attributes")


@functools.cache
def schema() -> pyarrow.Schema:
    """Columns of ``clips.parquet``.

    clip: key, ``<subset>/<machine>/<split>/<original file name>``; path, original_path: relative to the
    data folder, with forward slashes; section: number; domain: ``source``, ``target`` or null;
    split: ``train``, ``test`` or ``supplemental`` (2025: clips outside training and test, without domain and
    label; attributes are the whole irregular name behind a section);
    is_anomaly: null if unknown; label_source: ``name`` (the original file name), the name of a ground-truth
    list, ``evaluator``, ``correspondence``, ``asdkit`` (labels that reproduce ASDKit's), or null without a
    label; attributes: as published, ``""`` if none; revealed_attributes: published later for names that hide
    their attributes (``noAttribute``), else null; read only by recipes that ask for these attributes;
    n_samples: per channel; size, mtime_ns: of the original file.
    """
    import pyarrow as pa

    text, int32, int64 = pa.string(), pa.int32(), pa.int64()
    columns = {
        **dict.fromkeys(("clip", "path", "original_path", "machine"), text),
        "section": int32,
        **dict.fromkeys(("domain", "split", "subset"), text),
        "is_anomaly": pa.bool_(),
        **dict.fromkeys(("label_source", "attributes", "revealed_attributes"), text),
        **dict.fromkeys(("sample_rate", "channels"), int32),
        **dict.fromkeys(("n_samples", "size", "mtime_ns"), int64),
    }
    return pa.schema([pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in columns.items()])


def unreadable(error: OSError) -> str:
    """The fault of a file or folder that cannot be read, the path first."""
    return f"{error.filename}: cannot be read ({error.strerror})"


def clip_key(subset: str, machine: str, split: str, original_name: str) -> str:
    """Identity of a clip in every file that asdray writes."""
    return f"{subset}/{machine}/{split}/{original_name}"


def label_of(is_anomaly: bool | None) -> str:
    """``normal``, ``anomaly`` or ``unknown``."""
    return {None: UNKNOWN, False: "normal", True: "anomaly"}[is_anomaly]


def hint(command: str, dcase: str, data: Path) -> str:
    """``asdray <command> <dcase>`` for a message, with ``--data`` unless ``data`` is the default folder.

    The folder is relative to the working directory if it lies below.
    """
    folder = expanded(data).absolute()
    try:
        here = Path.cwd()
    except FileNotFoundError:  # somebody has deleted the working directory
        here = folder / "elsewhere"
    line = f"asdray {command} {dcase}"
    if folder == here / expanded(os.environ.get("ASDRAY_DATA") or DEFAULT_DATA):
        return line
    named = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return f"{line} --data {shlex.quote(str(named))}"


# --------------------------------------------------------------------------------- the original folders

_SPLIT_TESTS = ("source_test", "target_test")


def clip_folders(data: Path, dcase: str, subset: str, machine: str) -> Iterator[tuple[str, Path]]:
    """(split, folder) of every folder that may hold clips of a machine, existing or not."""
    names = [("train", "train")]
    names += [("test", n) for n in _SPLIT_TESTS] if get_year(dcase).split_test_folders else [("test", "test")]
    if may_be_supplemental(dcase):
        names.append(("supplemental", "supplemental"))
    roots = machine_folders(data, dcase, subset, machine)
    for split, name in names:
        found = (root / name for root in roots if os.path.isdir(root / name))
        yield split, next(found, roots[0] / name)


def clip_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Content of a folder of clips, sorted by name and without clutter; empty if the folder is missing.

    Raises:
        ValueError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_clutter(e.name)), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(unreadable(error)) from None


def synthetic_path(data: Path, dcase: str) -> Path:
    """``synthetic.json``: mark of a complete synthetic dataset, with its counts if asdray made the data."""
    return data / "original" / dcase / SYNTHETIC_MARKS[0]


def unfinished_path(data: Path, dcase: str) -> Path:
    """``synthetic-unfinished.json``: mark of a synthesis that is running or was interrupted."""
    return synthetic_path(data, dcase).with_name(SYNTHETIC_MARKS[1])


def dataset_kind(data: Path, dcase: str) -> Kind:
    """``synthetic`` if the originals are marked so, else ``official``; ValueError if unfinished."""
    path = synthetic_path(data, dcase)
    if os.path.exists(path):
        return "synthetic"
    if os.path.exists(unfinished_path(data, dcase)):
        raise ValueError(
            f"the synthetic dataset in {path.parent} is unfinished: run `{hint('synth', dcase, data)}` again"
        )
    return "official"


def mark_synthetic(data: Path, dcase: str) -> None:
    """Marks a year's originals as synthetic, unless they are marked; without counts to compare with.

    Raises:
        ValueError: the mark cannot be written, for example since the data are read-only.
    """
    path = synthetic_path(data, dcase)
    if path.exists():
        return
    try:
        store.write_json(path, {"made_by": "others", "counts": {}})
    except OSError as error:
        raise ValueError(
            f"cannot write {path}, the mark of synthetic data ({error.strerror or error}): ask the owner of "
            "the data for this file"
        ) from None


# ------------------------------------------------------------------------------------------- the summary


@dataclass(frozen=True)
class MachineData:
    """Ids and counts of one machine's clips.

    Attributes:
        train: id of the training split: names, lengths, sizes and times of the files. Formatting again with
            or without ground truth keeps the id.
        test: id of the test split.
        supplemental: id of the supplemental split; None without such clips.
        labels: id of the sections, domains and labels of the test clips.
        classes: id of the set of (section, attributes, domain) among the test clips.
        counts: clips per ``subset/split/domain/label``, with ``unknown`` for null.
        label_sources: sources of the test clips' labels; empty without a label.
    """

    train: str
    test: str
    supplemental: str | None
    labels: str
    classes: str
    counts: dict[Annotated[str, Field(pattern=r"^[^/]+(/[^/]+){3}$")], Annotated[int, Field(ge=0, lt=10**9)]]
    label_sources: tuple[str, ...]

    def count(
        self,
        *,
        subset: str | None = None,
        split: str | None = None,
        domain: str | None = None,
        label: str | None = None,
    ) -> int:
        """Number of clips with all the given properties (``label``: ``normal``, ``anomaly``, ``unknown``)."""
        asked = (subset, split, domain, label)
        if asked not in self._counted:
            self._counted[asked] = sum(
                n
                for key, n in self.counts.items()
                if all(a in (None, k) for a, k in zip(asked, key.split("/"), strict=True))
            )
        return self._counted[asked]

    @functools.cached_property
    def _counted(self) -> dict[tuple[str | None, ...], int]:
        """Known results of `count`, which a plan calls a hundred thousand times with few arguments."""
        return {}

    def split_id(self, split: str) -> str | None:
        """Id of ``train``, ``test`` or ``supplemental``; None if the split has no clips."""
        assert split in SPLITS, split
        return getattr(self, split) if self.count(split=split) else None


@dataclass(frozen=True)
class Dataset:
    """Summary of a formatted year.

    Attributes:
        kind: ``official`` or ``synthetic``; no table mixes the two.
        id: hash of the kind and every split id; independent of labels.
        machines: machines with clips, in the year's order.
        manifest: hash of all rows of ``clips.parquet``; stored in both files, so that a mismatch is noticed.
        sha256: of ``clips.parquet``; None in years that an older release has formatted.
    """

    dcase: str
    kind: Kind
    id: str
    machines: dict[str, MachineData]
    manifest: str
    sha256: str | None = None

    def require(self, machines: Iterable[str]) -> None:
        """Raises ValueError, with the missing names, unless all ``machines`` have clips."""
        missing = [m for m in machines if m not in self.machines]
        if missing:
            some = f"{next(iter(self.machines), '')}, ..."
            raise ValueError(
                f"{self.dcase} is formatted without {', '.join(missing)}{nearest(missing[0], self.machines)} "
                f"(there: {', '.join(self.machines)}): put the missing machines' folders beside the others "
                "and format the year again, or leave them out (in a sweep file "
                f"`machines: {{{self.dcase}: [{some}]}}`, by hand `--machines`)"
            )


@dataclass(frozen=True, kw_only=True)
class _File(Dataset):
    """The content of ``dataset.json``."""

    format: Literal[3]  # DATASET_FORMAT


def load_dataset(data: Path, dcase: str) -> Dataset:
    """Reads ``dataset.json``.

    Raises:
        ValueError: unknown year; year not formatted, or formatted by another version; unreadable file.
    """
    get_year(dcase)
    path = store.dataset_path(data, dcase)
    try:
        if not path.exists():
            raise ValueError(f"{dcase} is not formatted under {data}: run `{hint('format', dcase, data)}`")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        found = store.read_json(path, _File)
        if found.dcase != dcase or not {*get_year(dcase).all_machines} >= found.machines.keys():
            raise ValueError("it is of another year")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, or was not written by this version ({error}): "
            f"run `{hint('format', dcase, data)}` again"
        ) from None
    return Dataset(**{field.name: getattr(found, field.name) for field in fields(Dataset)})


def describe(dcase: str, kind: Kind, clips: list[dict[str, Any]]) -> Dataset:
    """Summary of the manifest's rows ``clips``, sorted by clip."""
    of_machine: dict[str, list[dict[str, Any]]] = {}
    for clip in clips:
        of_machine.setdefault(clip["machine"], []).append(clip)
    machines = {m: _describe_machine(of_machine[m]) for m in get_year(dcase).all_machines if m in of_machine}
    ids = [[name, m.train, m.test, m.supplemental] for name, m in sorted(machines.items())]
    return Dataset(dcase, kind, _hash([[kind], *ids]), machines, _hash(list(c.values()) for c in clips))


def _describe_machine(clips: list[dict[str, Any]]) -> MachineData:
    def id_of(split: str) -> str:
        columns = ("clip", "n_samples", "channels", "sample_rate", "size", "mtime_ns")
        return _hash([c[k] for k in columns] for c in clips if c["split"] == split)

    counts = Counter(
        f"{c['subset']}/{c['split']}/{c['domain'] or UNKNOWN}/{label_of(c['is_anomaly'])}" for c in clips
    )
    test = [c for c in clips if c["split"] == "test"]
    classes = {(c["section"], c["attributes"], c["domain"] or UNKNOWN) for c in test}
    return MachineData(
        train=id_of("train"),
        test=id_of("test"),
        supplemental=id_of("supplemental") if any(c["split"] == "supplemental" for c in clips) else None,
        labels=_hash([c[k] for k in ("clip", "section", "domain", "is_anomaly")] for c in test),
        classes=_hash(sorted(map(list, classes))),
        counts=dict(sorted(counts.items())),
        label_sources=tuple(sorted({c["label_source"] for c in test if c["label_source"]})),
    )


def _hash(rows: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------ the manifest


def write(data: Path, dcase: str, kind: Kind, clips: list[dict[str, Any]]) -> Dataset:
    """Writes ``clips.parquet`` and ``dataset.json``; equal rows give equal bytes.

    Args:
        clips: rows with the columns of `schema` in the same order, sorted by clip.

    Raises:
        ValueError: the files cannot be written, for example on a full disk; the old files are unchanged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = describe(dcase, kind, clips)
    columns = [_column([c[field.name] for c in clips], field.type) for field in schema()]
    table = pa.Table.from_arrays(columns, schema=schema().with_metadata({_ID: dataset.manifest}))
    path = store.manifest_path(data, dcase)
    try:
        # Both files are written before the first one is renamed: a full disk leaves the old pair.
        with store.atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
            dataset = replace(dataset, sha256=store.sha256_file(temporary))
            store.write_json(store.dataset_path(data, dcase), {"format": DATASET_FORMAT, **asdict(dataset)})
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from None
    return dataset


def _column(values: list[Any], kind: pyarrow.DataType) -> pyarrow.Array:
    """``values`` as an array, built from text: `pyarrow.array` would import pandas, which takes a second."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    for value in values:
        builder.append(None if value is None else str(value))
    return builder.finish().cast(kind)


def load_manifest(data: Path, dcase: str) -> pyarrow.Table:
    """Reads ``clips.parquet``: the columns of `schema`, sorted by clip.

    Raises:
        ValueError: year not formatted; damaged file; file of another run than ``dataset.json``.
    """
    dataset = load_dataset(data, dcase)
    path = store.manifest_path(data, dcase)
    again = f"run `{hint('format', dcase, data)}` again"
    if not path.is_file():
        raise ValueError(f"there is no file {path}: {again}")
    try:
        if dataset.sha256 not in (None, store.sha256_file(path)):
            # Damaged, or `asdray format` was interrupted between the two files, or is running.
            raise ValueError(f"{path} does not match its dataset.json: {again}")
        table = damage.read_parquet(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {again}") from None
    except damage.DamagedError as error:
        raise ValueError(f"{path} is damaged ({error.reason}): {again}") from None
    if (table.schema.metadata or {}).get(_ID) != dataset.manifest.encode():
        raise ValueError(f"{path} does not match its dataset.json: {again}")
    return table


def rows(table: pyarrow.Table, **properties: str | int | None) -> pyarrow.Table:
    """Rows of the manifest with all ``properties`` (column = value, None = any), sorted by clip.

    For example ``rows(table, machine="fan", split="train", subset=None)``.
    """
    import pyarrow.compute as pc

    for column, value in properties.items():
        if value is not None:
            table = table.filter(pc.equal(table[column], value))
    return table.sort_by("clip")
