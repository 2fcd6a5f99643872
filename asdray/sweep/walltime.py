"""``--wall-time``: a run that ends by itself before somebody else ends it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

RESERVE = 60.0
"""Seconds that a clean stop may take: trainings leave their epoch, tables are written, Ray ends."""

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SUM = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_CLOCK = re.compile(r"(?:(?P<d>\d{1,6})-)?(?P<h>\d{1,6}):(?P<m>[0-5]\d):(?P<s>[0-5]\d)")
_DAYS = re.compile(r"(?P<d>\d{1,6})-(?P<h>\d{1,6})(?::(?P<m>[0-5]\d))?")


def parse(text: str) -> float:
    """Seconds of ``3h50m``, ``230m``, ``13800``, ``HH:MM:SS``, or Slurm's ``D-HH[:MM[:SS]]``.

    Raises:
        ValueError: anything else, or no time at all; ``3:50`` too, which Slurm takes for minutes.
    """
    value = text.strip()
    seconds = 0
    if re.fullmatch(r"\d{1,9}", value):
        seconds = int(value)
    elif found := _SUM.fullmatch(value):
        seconds = sum(int(n or 0) * size for n, size in zip(found.groups(), _UNITS.values(), strict=True))
    elif found := _CLOCK.fullmatch(value) or _DAYS.fullmatch(value):
        seconds = sum(int(n or 0) * _UNITS[unit] for unit, n in found.groupdict().items())
    if seconds <= 0:
        raise ValueError(
            f"--wall-time is {text!r}: must be a time such as 3h50m, 230m, 13800 (seconds), 03:50:00 or "
            "1-12:00:00 (days-hours:minutes:seconds)"
        )
    return float(seconds)


def stop_at(seconds: float) -> float:
    """When, by ``time.monotonic``, to stop so that the process ends within ``seconds`` of its start."""
    return time.monotonic() - process_age() + seconds - min(RESERVE, seconds / 4)


def process_age() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def slurm_hint(environment: Mapping[str, str]) -> str | None:
    """One line for a run without the option inside a Slurm job that says when it ends.

    It changes nothing by itself: a job may have asked for a signal before its end, which stops the run as
    well, and a shell on a lent machine hands its end to every command that is typed there.
    """
    try:
        left = int(environment.get("SLURM_JOB_END_TIME", "")) - time.time()
    except ValueError:
        return None
    minutes = int(left // 60)
    if minutes < 1:
        return None
    return (
        f"Slurm ends this job in {minutes // 60} h {minutes % 60} min: without a signal before its end "
        f"(sbatch --signal) nothing stops this run cleanly but --wall-time {minutes}m"
    )
