"""What is new in a sweep file since its last run, what is as before, and what is no longer asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asdray.config.sweep import Sweep
from asdray.sweep.jobs import Job
from asdray.sweep.outputs import resolved

SHOWN = 8
"""Changed options that are listed."""

SHOWN_LENGTH = 60
"""Letters of a value that is shown as a whole; of longer lists it is told what came and what went."""


def changes(sweep: Sweep, jobs: Sequence[Job], folder: Path) -> list[str]:
    """A few lines on what differs from the last run in ``folder``; none if nothing does, or there was none.

    Compares with the ``sweep.yaml`` and ``trials.parquet`` that it left.

    Args:
        jobs: of a search those that its study knows: none where what it asks is another question now.
    """
    lines = []
    if (before := _last_spec(folder)) is not None:
        now = resolved(sweep)
        different = list(_different(before, now, ""))
        lines = [f"changed since the last run: {text}" for text in different[:SHOWN]]
        if len(different) > SHOWN:
            lines.append(f"and {len(different) - SHOWN} more options")
    if there := last_trials(folder):
        asked = {(j.trial.dcase, j.trial.system_name, j.trial.seed) for j in jobs}
        new, same, gone = len(asked - there), len(asked & there), len(there - asked)
        if sweep.search.samples and not same:
            lines.append(
                f"the search begins anew, since it asks something else now: {gone} trials no longer count "
                "(their results stay, and are found done where it comes to the same systems)"
            )
        elif new or gone:
            text = f"trials: {new} new, {same} as before, {gone} no longer asked for"
            lines.append(text + (" (their results stay)" if gone else ""))
    return lines


def _last_spec(folder: Path) -> dict[str, Any] | None:
    try:
        value = yaml.safe_load((folder / "sweep.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return value if isinstance(value, dict) else None


def last_trials(folder: Path) -> set[tuple[str, str, int]] | None:
    """(dcase, system, seed) of the trials in ``trials.parquet``; None where it is not there."""
    path = folder / "trials.parquet"
    if not path.exists():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:  # not `read_table`, which imports pandas
        table = pq.ParquetFile(str(path)).read(columns=["dcase", "system", "seed"])
    except (OSError, pa.ArrowException):
        return None
    return set(zip(*(table[name].to_pylist() for name in ("dcase", "system", "seed")), strict=True))


def _different(before: Any, now: Any, path: str) -> Iterator[str]:
    """``path: old -> new`` of every option that differs, mappings taken apart."""
    if before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping) and (path.count(".") < 2 or not path):
        for key in dict.fromkeys((*before, *now)):
            yield from _different(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return
    old, new = _TEXT(before), _TEXT(now)
    if max(len(old), len(new)) <= SHOWN_LENGTH:
        yield f"{path}: {old} -> {new}"
    elif isinstance(before, list) and isinstance(now, list):
        gone = [_cut(_TEXT(item)) for item in before if item not in now]
        come = [_cut(_TEXT(item)) for item in now if item not in before]
        parts = [f"with {', '.join(come)}"] * bool(come) + [f"without {', '.join(gone)}"] * bool(gone)
        yield f"{path}: now {' and '.join(parts) or 'in another order'}"
    else:
        yield f"{path}: {_cut(old)} -> {_cut(new)}"


_TEXT = json.JSONEncoder().encode
"""In the order of the options, so that a name comes first."""


def _cut(text: str) -> str:
    return text if len(text) <= 3 * SHOWN_LENGTH else f"{text[: 3 * SHOWN_LENGTH - 3]}..."
