"""The check of a search's journal: the hash of its lines, in a file beside it.

Optuna's format has no checksums: a changed digit would be another value of the objective, and another choice.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from asdray import store


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

    def note(self) -> None:
        """Notes the lines that were appended since the last call."""
        with open(self._journal, "rb") as file:
            file.seek(self._size)
            added = file.read()
        if added:
            self._hash.update(added)
            self._size += len(added)
            store.write_text(self._note, f"{self._size} {self._hash.hexdigest()}\n")


def _read(note: Path) -> tuple[int, str] | None:
    """Size and hash in a note; None for a missing or damaged one."""
    try:
        found = re.fullmatch(r"([0-9]{1,15}) ([0-9a-f]{64})\n", note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return (int(found[1]), found[2]) if found else None
