"""Text of others, made safe: for the terminal, for tables, and for spreadsheets.

Names of folders and files may hold line feeds, codes that a terminal obeys, characters that turn the order of
a line, and bytes that are no text. All of them are shown as Python writes them, ``\\x1b``.

>>> printable("a\\x1b[2Jb\\n")
'a\\\\x1b[2Jb\\\\n'
>>> cell("=1+1"), cell("-0.5"), cell("knn")
("'=1+1", '-0.5', 'knn')
"""

from __future__ import annotations

import re
from typing import TypeVar

T = TypeVar("T")

# Control characters, separators of lines, marks of the direction of writing, halves of characters.
_UNSAFE = r"\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINE = re.compile(rf"[\x00-\x0a{_UNSAFE}]")
_IN_LINES = re.compile(rf"[\x00-\x08{_UNSAFE}]")


def printable(text: str) -> str:
    """``text`` in one line, without a character that a terminal obeys or that cannot be written as UTF-8."""
    return text if text.isascii() and text.isprintable() else _IN_LINE.sub(_written, text)


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds and tabs stay."""
    return text if text.isascii() and text.isprintable() else _IN_LINES.sub(_written, text)


def quoted(text: str, longest: int = 60) -> str:
    """``text`` in quotation marks for a message, cut to ``longest`` characters; see `printable`."""
    return printable(repr(text if len(text) <= longest else f"{text[:longest]}..."))


def _written(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def cell(value: T) -> T | str:
    """A cell of a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Source: OWASP, CSV injection. Numbers keep their form, as texts too.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    if not text.startswith(tuple("=+-@＝＋－＠")) or _is_number(text):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
