"""``asdray doctor``: what is wrong with this machine or with a dataset, before hours are spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ok", "note", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of what the doctor has to say.

    Attributes:
        kind: ``note`` is worth knowing and no hindrance; ``missing`` and ``wrong`` are.
        text: names the place, and the fix where there is one.
    """

    kind: Kind
    text: str

    @property
    def is_bad(self) -> bool:
        return self.kind in ("missing", "wrong")
