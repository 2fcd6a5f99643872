"""The check of a search's journal: the hash of its lines, in a file beside it.

Optuna's format has no checksums: a changed digit would be another value of the objective, and another choice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from asdray import store

_SUGGESTION = (4, 5, 9)
"""Optuna's operations until a suggestion is whole: a new trial, its values, the sampler's own notes.

Optuna's names of the numbers (``JournalOperation``) are private."""


class JournalCheck:
    """Compares a journal with what this project wrote, and notes what is appended.

    A driver may be killed between a line and its hash, and other programs may append lines: only the bytes
    up to the noted size are compared. A journal without a note is of an earlier version: it is not compared.
    """

    def __init__(self, folder: store.SweepDir) -> None:
        self._journal, self._note = folder.study, folder.study_check
        self._hash, self._size = hashlib.sha256(), 0

    def compare(self) -> None:
        """Compares the journal with its note.

        Raises:
            ValueError: bytes are missing, or are not what was written.
        """
        content = self._journal.read_bytes()
        if found := _read(self._note):
            size, sha256 = found
            if hashlib.sha256(content[:size]).hexdigest() != sha256:
                raise ValueError(f"its first {size} bytes are not what was written")
        self._hash, self._size = hashlib.sha256(content), len(content)

    def cut_interrupted(self) -> None:
        """Cuts off the lines of a suggestion that was killed or failed half-way, never bytes that were noted.

        The next suggestion then is the same. Only the last line can be torn, and a torn line may end with a
        newline: on closing the file, Python writes the buffered line again.

        Raises:
            ValueError: another line is torn.
        """
        content, (noted, _) = self._journal.read_bytes(), _read(self._note) or (0, "")
        end = len(content)
        while end > noted:
            start = content.rfind(b"\n", 0, end - 1) + 1
            operation = _operation(content[start:end])
            if start < noted or operation not in (None, *_SUGGESTION):
                break
            if operation is None and end < len(content):
                raise ValueError("a line before the last one is not whole")
            end = start
        if end < len(content):
            os.truncate(self._journal, end)

    def note(self) -> None:
        """Notes the lines that were appended since the last call."""
        with open(self._journal, "rb") as file:
            file.seek(self._size)
            added = file.read()
        if added:
            self._hash.update(added)
            self._size += len(added)
            store.write_text(self._note, f"{self._size} {self._hash.hexdigest()}\n")


class LeaseAsLock:
    """Optuna's lock of the journal: none, since only the driver with the sweep's lease writes.

    Optuna's own locks are files: a killed driver leaves one behind, and the next driver waits half a minute.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing is to be released."""


def _operation(line: bytes) -> int | None:
    """The number of Optuna's operation in a line; None for a line that is not whole."""
    try:
        code = json.loads(line)["op_code"] if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError):
        return None
    return code if isinstance(code, int) else None


def _read(note: Path) -> tuple[int, str] | None:
    """Size and hash in a note; None for a missing or damaged one."""
    try:
        found = re.fullmatch(r"([0-9]{1,15}) ([0-9a-f]{64})\n", note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return (int(found[1]), found[2]) if found else None
