"""``asdray doctor``: faults of this machine or of a dataset, before hours are spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ok", "note", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        kind: ``ok`` and ``note`` do not prevent work; ``missing`` and ``wrong`` do.
        text: finding, place and fix.
    """

    kind: Kind
    text: str

    @property
    def is_bad(self) -> bool:
        return self.kind in ("missing", "wrong")
