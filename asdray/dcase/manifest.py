"""The formatted dataset as the rest of asdray sees it: the manifest of clips, and its summary.

``clips.parquet`` has one row per clip, sorted by clip key. ``dataset.json`` has what planning needs: the
kind of data, and per machine one id for each split and one for the test labels. pyarrow is imported only
where the manifest itself is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.dcase.hints import hint
from asdray.dcase.names import SPLITS, is_clutter, may_be_supplemental
from asdray.dcase.years import get_year, nearest

if TYPE_CHECKING:
    import pyarrow

DATASET_FORMAT = 3

_ID = b"asdray.manifest"  # where clips.parquet holds `Dataset.manifest`

SYNTHETIC_MARKS = ("synthetic.json", "synthetic-unfinished.json")
"""What lies in the folder of a year whose originals, ground truth included, ``asdray synth`` made."""

UNKNOWN = "unknown"
"""Stands for a null domain or label in the keys of `MachineData.counts`."""


@functools.cache
def schema() -> pyarrow.Schema:
    """Columns of ``clips.parquet``.

    clip: key, ``<subset>/<machine>/<split>/<original file name>``; path, original_path: relative to the
    data folder, with forward slashes; section: number; domain: ``source``, ``target`` or null;
    split: ``train``, ``test``, or ``supplemental``, whose clips (2025) belong to neither, have neither
    domain nor label, and whose attributes are all of their irregular name behind a section
    (`asdray.dcase.names.supplemental_kind` tells machine from noise);
    is_anomaly: null if unknown; label_source: ``name`` (told by the original file name), the name of a
    ground-truth list, ``evaluator``, ``correspondence``, ``asdkit`` (labels that reproduce that
    toolkit's), or null without a label; attributes: as published, ``""`` if none;
    revealed_attributes: what was published later for names that hide them (``noAttribute``), else null;
    nothing reads it unless asked to; n_samples: per channel; size, mtime_ns: of the original file.
    """
    import pyarrow as pa

    def required(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    return pa.schema(
        [
            required("clip", pa.string()),
            required("path", pa.string()),
            required("original_path", pa.string()),
            required("machine", pa.string()),
            required("section", pa.int32()),
            pa.field("domain", pa.string()),
            required("split", pa.string()),
            required("subset", pa.string()),
            pa.field("is_anomaly", pa.bool_()),
            pa.field("label_source", pa.string()),
            required("attributes", pa.string()),
            pa.field("revealed_attributes", pa.string()),
            required("sample_rate", pa.int32()),
            required("channels", pa.int32()),
            required("n_samples", pa.int64()),
            required("size", pa.int64()),
            required("mtime_ns", pa.int64()),
        ]
    )


def clip_key(subset: str, machine: str, split: str, original_name: str) -> str:
    """The identity of a clip in every file that asdray writes."""
    return f"{subset}/{machine}/{split}/{original_name}"


# --------------------------------------------------------------------------------- the original folders


def clip_folders(data: Path, dcase: str, subset: str, machine: str) -> Iterator[tuple[str, Path]]:
    """(split, folder) of every folder in which a machine's clips of the year may lie, existing or not."""
    year = get_year(dcase)
    root = store.original_dir(data, dcase, subset) / machine
    yield "train", root / "train"
    for name in ("source_test", "target_test") if year.split_test_folders else ("test",):
        yield "test", root / name
    if may_be_supplemental(dcase):
        yield "supplemental", root / "supplemental"


def clip_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder of clips, sorted by name; what `is_clutter` is left out. Without one, nothing.

    Raises:
        ValueError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_clutter(e.name)), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror})") from None


def dataset_kind(data: Path, dcase: str) -> str:
    """``synthetic`` where ``asdray synth`` made the originals, else ``official``.

    Raises:
        ValueError: the synthesis was interrupted.
    """
    path = synthetic_path(data, dcase)
    if os.path.exists(path):
        return "synthetic"
    if os.path.exists(path.with_name(SYNTHETIC_MARKS[1])):
        raise ValueError(
            f"the synthetic dataset in {path.parent} is unfinished: run `{hint('synth', dcase, data)}` again"
        )
    return "official"


def synthetic_path(data: Path, dcase: str) -> Path:
    """``synthetic.json``: the mark of a complete synthetic dataset, with its counts."""
    return data / "original" / dcase / SYNTHETIC_MARKS[0]


# ------------------------------------------------------------------------------------------- the summary


@dataclass(frozen=True)
class MachineData:
    """What is there of one machine.

    Attributes:
        train: id of the split: names, lengths, sizes and times of its files. Formatting again with or
            without ground truth does not change it.
        test: likewise.
        supplemental: likewise; None if there are no such clips.
        labels: id of the test clips' sections, domains and labels.
        classes: id of the set of sections, attributes and domains among the test clips.
        counts: clips per ``subset/split/domain/label``, with ``unknown`` for null.
        label_sources: where the labels of the test clips came from; empty if none is labelled.
    """

    train: str
    test: str
    supplemental: str | None
    labels: str
    classes: str
    counts: Mapping[str, int]
    label_sources: tuple[str, ...]

    def count(
        self,
        *,
        subset: str | None = None,
        split: str | None = None,
        domain: str | None = None,
        label: str | None = None,
    ) -> int:
        """Clips that are what is named (``label``: ``normal``, ``anomaly`` or ``unknown``)."""
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
        """What `count` was asked already: a plan asks the same a hundred thousand times."""
        return {}

    def split_id(self, split: str) -> str | None:
        """The id of ``train``, ``test`` or ``supplemental``; None without a clip in it."""
        assert split in SPLITS, split
        return getattr(self, split) if self.count(split=split) else None


@dataclass(frozen=True)
class Dataset:
    """A formatted year.

    Attributes:
        kind: ``official`` or ``synthetic``; the two never meet in one table.
        id: hash of the kind and every split id; labels do not enter.
        machines: those that are there, in the year's order.
        manifest: hash of all rows of the ``clips.parquet`` that this describes, which holds it too.
    """

    dcase: str
    kind: str
    id: str
    machines: Mapping[str, MachineData]
    manifest: str

    def require(self, machines: Iterable[str]) -> None:
        """Checks that all ``machines`` are there.

        Raises:
            ValueError: some are not; the message names them.
        """
        missing = [m for m in machines if m not in self.machines]
        if missing:
            raise ValueError(
                f"{self.dcase} is formatted without {', '.join(missing)}{nearest(missing[0], self.machines)} "
                f"(there: {', '.join(self.machines)}): put the missing machines' folders beside the others "
                "and format the year again, or leave them out (`machines:` of a sweep, `--machines` by hand)"
            )


def load_dataset(data: Path, dcase: str) -> Dataset:
    """Reads ``dataset.json``.

    Raises:
        ValueError: unknown year; not formatted yet, or by another version; the file cannot be read.
    """
    get_year(dcase)
    path = store.dataset_path(data, dcase)
    try:
        if not path.exists():
            raise ValueError(f"{dcase} is not formatted under {data}: run `{hint('format', dcase, data)}`")
        raw = store.read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if raw.pop("format") != DATASET_FORMAT:
            raise KeyError
        machines = {
            name: MachineData(**{**m, "label_sources": tuple(m["label_sources"])})
            for name, m in raw.pop("machines").items()
        }
        return Dataset(**raw, machines=machines)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} was not written by this version: run `{hint('format', dcase, data)}` again"
        ) from None


def describe(dcase: str, kind: str, clips: list[dict[str, Any]]) -> Dataset:
    """The summary of a manifest's rows, sorted by clip."""
    machines = {}
    for machine in get_year(dcase).all_machines:
        mine = [c for c in clips if c["machine"] == machine]
        if not mine:
            continue
        splits = {split: [c for c in mine if c["split"] == split] for split in SPLITS}
        ids = {
            split: _hash(
                [c[k] for k in ("clip", "n_samples", "channels", "sample_rate", "size", "mtime_ns")]
                for c in those
            )
            for split, those in splits.items()
        }
        counts = Counter(
            f"{c['subset']}/{c['split']}/{c['domain'] or UNKNOWN}/{label_of(c['is_anomaly'])}" for c in mine
        )
        test = splits["test"]
        machines[machine] = MachineData(
            train=ids["train"],
            test=ids["test"],
            supplemental=ids["supplemental"] if splits["supplemental"] else None,
            labels=_hash([c[k] for k in ("clip", "section", "domain", "is_anomaly")] for c in test),
            classes=_hash(sorted(map(list, {_class(c) for c in test}))),
            counts=dict(sorted(counts.items())),
            label_sources=tuple(sorted({c["label_source"] for c in test if c["label_source"]})),
        )
    ids_of_all = [[name, m.train, m.test, m.supplemental] for name, m in sorted(machines.items())]
    return Dataset(
        dcase, kind, _hash([[kind], *ids_of_all]), machines, _hash(list(c.values()) for c in clips)
    )


def label_of(is_anomaly: bool | None) -> str:
    """``normal``, ``anomaly`` or ``unknown``."""
    return {None: UNKNOWN, False: "normal", True: "anomaly"}[is_anomaly]


def _class(clip: Mapping[str, Any]) -> tuple[int, str, str]:
    return clip["section"], clip["attributes"], clip["domain"] or UNKNOWN


def _hash(rows: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------ the manifest


def write(data: Path, dcase: str, kind: str, clips: list[dict[str, Any]]) -> Dataset:
    """Writes ``clips.parquet`` and ``dataset.json``; equal rows give equal bytes.

    Args:
        clips: rows with the columns of `schema` in its order, sorted by clip.

    Raises:
        ValueError: they cannot be written, for want of space for example; the old ones are unchanged then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = describe(dcase, kind, clips)
    columns = [_column([c[field.name] for c in clips], field.type) for field in schema()]
    table = pa.Table.from_arrays(columns, schema=schema())
    path = store.manifest_path(data, dcase)
    try:
        # Both files are whole on disk before the first of them is renamed: a full disk changes neither.
        with store.atomic_path(path) as temporary:
            pq.write_table(
                table.replace_schema_metadata({_ID: dataset.manifest}), temporary, compression="zstd"
            )
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
    """Reads ``clips.parquet``, with the columns of `schema`, sorted by clip.

    Raises:
        ValueError: not formatted; or the file is not the one that ``dataset.json`` describes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = load_dataset(data, dcase)
    path = store.manifest_path(data, dcase)
    # By its path: pyarrow's threads may outlive the read, and let go of a Python file object only after
    # the interpreter has ended, which aborts the process (apache/arrow#34314, #33975). Not `read_table`: that
    # imports pandas.
    try:
        table = pq.ParquetFile(str(path)).read()
    except FileNotFoundError:
        table = schema().empty_table()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged ({error}): run `{hint('format', dcase, data)}` again") from None
    if (table.schema.metadata or {}).get(_ID) != dataset.manifest.encode():
        # A format that was interrupted between its two files, or is under way.
        raise ValueError(f"{path} does not match its dataset.json: run `{hint('format', dcase, data)}` again")
    return table


def rows(
    table: pyarrow.Table,
    *,
    machine: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    section: int | None = None,
    domain: str | None = None,
) -> pyarrow.Table:
    """The rows of the manifest that are all that is named, sorted by clip."""
    import pyarrow.compute as pc

    wanted = {"machine": machine, "split": split, "subset": subset, "section": section, "domain": domain}
    for column, value in wanted.items():
        if value is not None:
            table = table.filter(pc.equal(table[column], value))
    return table.sort_by("clip")
