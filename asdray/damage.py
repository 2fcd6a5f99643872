"""Damaged files: content that is not what a stage wrote, found before another stage or a table uses it.

The record of a stage holds a hash of every output. All files of finished stages are read here, and compared
with that hash first: a disk that changes a bit keeps size and time, and no format notices every bit. A stage
that finds a damaged input takes the record of the input away (`forget`), so that the input counts as missing
and is made again from what is intact.

>>> import tempfile, time
>>> from pathlib import Path
>>> from asdray import damage, store
>>> with tempfile.TemporaryDirectory() as name:
...     folder = Path(name)
...     store.write_text(folder / "scores.csv", "0.25")
...     record = store.finish(folder, "extract", "s", outputs=[folder / "scores.csv"], started=time.time())
...     intact = list(damage.below(folder))
...     done = (folder / "scores.csv").write_text("0.35")
...     found = list(damage.below(folder))
>>> intact, [fault.path.name for fault in found]
([], ['scores.csv'])
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asdray import limits, store
from asdray.record import Record
from asdray.regular import check_regular

if TYPE_CHECKING:
    import pyarrow as pa

_LEVELS = 3
"""Folders between an output and the folder of its record, at most."""

_NOT_THERE = "is not there"


class Owner(NamedTuple):
    """The record that describes a file."""

    folder: Path
    name: str
    record: Record

    @property
    def stage(self) -> str:
        return self.name.partition("-")[0]


class DamagedError(ValueError):
    """A file that does not hold what was written, or cannot be read.

    Args:
        owner: the record that describes the file, if one does.
    """

    def __init__(self, path: Path, reason: str, owner: Owner | None = None) -> None:
        super().__init__(path, reason, owner)
        self.path = path
        self.reason = reason
        self.owner = owner

    def __str__(self) -> str:
        command = f"`asdray {self.owner.stage}`" if self.owner else "the command that wrote it"
        return (
            f"{self.path} is damaged ({self.reason}): run {command} again, or its sweep with --verify, which "
            "makes again what is damaged"
        )


def owner_of(path: Path) -> Owner | None:
    """The record that describes a file; None without one, or for a pruned file."""
    for folder in list(path.parents)[:_LEVELS]:
        name = path.relative_to(folder).as_posix()
        for stage, record in store.read_records(folder).items():
            if name in record.outputs and name not in record.pruned:
                return Owner(folder, stage, record)
    return None


def check(path: Path) -> None:
    """Compares a file with the hash in the record that describes the file; without a record, does nothing.

    Raises:
        DamagedError: another content, or a file that cannot be read.
        ValueError: there is no such file.
    """
    try:
        check_regular(path)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except OSError as error:
        raise DamagedError(path, f"cannot be read: {error.strerror}", owner_of(path)) from None
    while (owner := owner_of(path)) and (reason := _fault(path, owner)):
        if owner_of(path) == owner:  # else a process makes the file anew
            raise DamagedError(path, reason, owner)


def _fault(path: Path, owner: Owner) -> str | None:
    output = owner.record.outputs[path.relative_to(owner.folder).as_posix()]
    try:
        if os.stat(path).st_size != output.size:
            return "its size is not what was written"
        if store.sha256_file(path) != output.sha256:
            return "its content is not what was written"
    except FileNotFoundError:
        return _NOT_THERE
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def read_parquet(
    path: Path, columns: Iterable[str] | Callable[[pa.Schema], Iterable[str]] | None = None
) -> pa.Table:
    """The Parquet table at ``path``, compared with its record.

    Args:
        columns: the columns to read, or a function that chooses them; all by default.

    Raises:
        DamagedError: the content is not what was written, is no table, or lacks a column.
        ValueError: there is no such file.
    """
    check(path)  # before pyarrow is imported, which takes long
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not `pq.read_table`: it imports pandas, and reads a folder `seed=0` in the path as a column. By the
    # path: pyarrow's threads may outlive the read and release a Python file object only after the interpreter
    # has ended, which aborts the process (apache/arrow#34314, #33975).
    try:
        file = pq.ParquetFile(str(path), page_checksum_verification=True)
        chosen = list(columns(file.schema_arrow) if callable(columns) else columns or file.schema_arrow.names)
        table = file.read(chosen)
    except (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise DamagedError(path, str(error) or type(error).__name__, owner_of(path)) from None
    if absent := [name for name in chosen if name not in table.column_names]:
        raise DamagedError(path, f"it has no column {absent[0]}", owner_of(path))
    return table


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table that a stage wrote, compared with its record.

    Raises:
        DamagedError: the content is not what was written, or no text.
        ValueError: there is no such file.
    """
    check(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DamagedError(path, str(error), owner_of(path)) from None


def forget(fault: DamagedError) -> None:
    """Deletes a damaged file and its record, so that its stage counts as missing; call it under no lease."""
    if fault.owner is None:
        return
    folder, name, record = fault.owner
    with store.lease(folder):
        if store.read_record(folder, name) in (record, None) and _fault(fault.path, fault.owner):
            store.write_record(folder, name, None)
            with contextlib.suppress(OSError):  # a folder in its place is moved aside by the stage
                fault.path.unlink(missing_ok=True)


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Forgets the damaged file that ends the block; the error goes on."""
    try:
        yield
    except DamagedError as fault:
        with contextlib.suppress(OSError, ValueError):  # results that may only be read
            forget(fault)
        raise


def below(root: Path, on_progress: Callable[[int, int], None] | None = None) -> Iterator[DamagedError]:
    """Every damaged record file, and every damaged or lost output, below a folder; reads everything.

    Args:
        on_progress: called with the numbers of files that were read, and of all.
    """
    outputs = []
    for path in sorted(root.rglob(store.RECORDS)):
        folder = path.parent
        try:
            found = store.check_records(folder)
        except ValueError as error:
            yield DamagedError(path, str(error))
            continue
        owners = [Owner(folder, stage, record) for stage, record in (found.records if found else {}).items()]
        outputs += [
            (folder / name, owner)
            for owner in owners
            for name in owner.record.outputs
            if name not in owner.record.pruned
        ]
    with ThreadPoolExecutor(limits.cpus()) as pool:  # hashing releases Python's lock
        faults = pool.map(lambda output: _fault(*output), outputs)
        for done, ((path, owner), reason) in enumerate(zip(outputs, faults, strict=True), 1):
            if on_progress:
                on_progress(done, len(outputs))
            if reason and store.read_record(owner.folder, owner.name) == owner.record:
                yield DamagedError(path, reason, owner)
