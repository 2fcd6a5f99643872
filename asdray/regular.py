"""Regular files: the only ones that are read, so that no read waits for ever.

A pipe, a device or a socket in place of a file would make a command wait, or read without an end. All files
that somebody else may have put in place are opened here.

>>> import os, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     os.mkfifo(f"{folder}/a.csv")
...     try:
...         read_bytes(f"{folder}/a.csv")
...     except OSError as error:
...         error.strerror
'is a pipe, not a regular file'
"""

from __future__ import annotations

import csv
import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import cast

LARGEST = 64 * 2**20
"""Bytes of the largest file that is read as a whole; a year's lists and submissions have less than 1 MiB."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: str | Path) -> None:
    """Raises OSError unless ``path`` is, or links to, a regular file; libraries may then open it by name."""
    _check(os.stat(path).st_mode, path)


def _check(mode: int, path: str | Path) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))


def open_regular(path: str | Path, *, buffered: bool = True) -> BufferedReader:
    """The regular file at ``path``, opened to be read as bytes; never waits for a writer.

    Raises:
        OSError: no such file, no permission, or no regular file (``strerror`` says so).
    """
    check_regular(path)  # before the opening, which is an action for some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return cast("BufferedReader", open(descriptor, "rb", buffering=-1 if buffered else 0))


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """The content of the regular file at ``path``.

    Raises:
        OSError: see `open_regular`; or the file has more than ``largest`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"has more than {largest} bytes", str(path))
    return content


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The text of the regular file at ``path``, in UTF-8 with or without a byte order mark.

    Raises:
        OSError: see `read_bytes`.
        UnicodeDecodeError: no text in UTF-8.
    """
    return read_bytes(path, largest).decode("utf-8-sig")


def read_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every row of the CSV file at ``path``; blank rows are left out.

    Raises:
        OSError, UnicodeDecodeError: see `read_text`.
        ValueError: a field that is longer than any in a file of this kind, with its line.
    """
    reader = csv.reader(read_text(path).splitlines())
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
