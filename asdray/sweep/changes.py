"""Changes of a sweep file since its last run: the names of its options, the numbers of its trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from asdray.config.sweep import Keep, Sweep
from asdray.store import SweepDir, read_parquet
from asdray.sweep.jobs import Job
from asdray.sweep.outputs import resolved


def changes(sweep: Sweep, jobs: Sequence[Job], folder: Path) -> list[str]:
    """Lines on the differences from the last run; none without a difference, or without a last run.

    Args:
        jobs: trials of the sweep; of a search the trials of the study, so none if another study begins.
        folder: the sweep's folder, with ``sweep.yaml`` and ``trials.parquet`` of the last run.
    """
    lines = []
    if (before := _last_spec(folder)) is not None and (keys := list(_changed_keys(before, resolved(sweep)))):
        lines.append(f"changed since the last run: {', '.join(keys)}")
    if last := last_trials(folder):
        now = {(job.trial.dcase, job.trial.system_name, job.trial.seed) for job in jobs}
        new, same, removed = len(now - last.keys()), len(now & last.keys()), len(last.keys() - now)
        if sweep.search.samples and not same:
            lines.append(
                f"the search starts over, since its question has changed: {removed} trials no longer count "
                "(their results stay, and are reused for systems that it samples again)"
            )
        elif new or removed:
            stay = " (their results stay)" if removed else ""
            lines.append(f"trials: {new} new, {same} as before, {removed} no longer asked for{stay}")
    return lines


def _last_spec(folder: Path) -> Mapping[str, Any] | None:
    """The content of ``sweep.yaml`` of the last run; None without a readable file."""
    try:
        value = yaml.safe_load(SweepDir(folder).spec.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return value if isinstance(value, dict) else None


def last_keep(folder: Path) -> Keep:
    """``keep`` of the last run."""
    return Keep(**(_last_spec(folder) or {}).get("keep", {}))


def last_trials(folder: Path) -> dict[tuple[str, str, int], str] | None:
    """(dcase, system, seed) -> status of a trial in the last run; None without ``trials.parquet``."""
    try:
        table = read_parquet(SweepDir(folder).trials, ("dcase", "system", "seed", "status"))
    except ValueError:
        return None
    *key, status = (column.to_pylist() for column in table.columns)
    return dict(zip(zip(*key, strict=True), status, strict=True))


def _changed_keys(before: Any, now: Any, path: str = "", depth: int = 3) -> Iterator[str]:
    """Dotted paths, of at most ``depth`` keys, of the options that differ: ``search.num_samples``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and depth:
        for key in dict.fromkeys((*before, *now)):
            yield from _changed_keys(
                before.get(key), now.get(key), f"{path}.{key}".removeprefix("."), depth - 1
            )
    elif before != now:
        yield path
