"""Outcomes of faults: each chaos test notes one per fault, and `make chaos` prints a table of them.

``python tests/chaos/outcomes.py FILE`` prints the table of a file of outcomes as Markdown.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """How a sweep took one fault.

    fault     kind of fault, a row of the table: ``kill -9 of the driver``
    place     where or when it happened: a path below the results, a stage, or seconds
    survived  the same command, given until it ends, ended with 0 and left nothing behind
    repeated  steps that had finished before the fault and ran once more (0: none)
    identical tables and scores have the bytes of a sweep without faults, and no table had a wrong number in between
    """

    fault: str
    place: str
    survived: bool
    repeated: int
    identical: bool


def note(outcome: Outcome) -> None:
    """Adds an outcome to the file that ``ASDRAY_CHAOS`` names; without it, does nothing."""
    if path := os.environ.get("ASDRAY_CHAOS"):
        with open(path, "a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table with a row per kind of fault, and a row of all."""
    kinds = list(dict.fromkeys(outcome.fault for outcome in outcomes))
    groups = [(kind, [o for o in outcomes if o.fault == kind]) for kind in kinds] + [("**all**", outcomes)]
    lines = ["| fault | times | survived | repeated | identical |", "|---|---|---|---|---|"]
    for kind, group in groups:
        counts = [
            len(group),
            *(sum(getattr(o, name) for o in group) for name in ("survived", "repeated", "identical")),
        ]
        lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([Outcome(**json.loads(line)) for line in Path(sys.argv[1]).read_text().splitlines()]))
