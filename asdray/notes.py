"""Sentences for the user about things that work mends by itself, such as a damaged file.

A process prints each sentence once, on stderr. A worker's stderr is not on the user's screen: the events of
the worker's stages take the sentences along, and the driver prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_told: dict[str, bool] = {}
"""Sentence -> True once an event has taken it along."""


def tell(text: str, say: Callable[[str], None] | None = None) -> None:
    """Says a sentence, by default on stderr, unless this process has said the sentence before."""
    if text not in _told:
        _told[text] = False
        if say:
            say(text)
        else:
            print(text, file=sys.stderr, flush=True)


def take() -> list[str]:
    """The sentences since the last call."""
    new = [text for text, taken in _told.items() if not taken]
    _told.update(dict.fromkeys(new, True))
    return new
