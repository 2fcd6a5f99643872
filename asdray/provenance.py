"""Origin of a result: time, commit, versions, machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from asdray import source


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def versions() -> dict[str, str | None]:
    """Versions of asdray (with commit and hash) and of what its numbers depend on; None = not known."""
    git = git_state()
    commit = f"{git['commit']}+dirty" if git["dirty"] else git["commit"]
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": commit}
    found["source"] = source.present_id()
    for name in (
        "asdray",
        "torch",
        "torchaudio",
        "lightning",
        "ray",
        "numpy",
        "scipy",
        "scikit-learn",
        "umap-learn",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of the source tree that asdray runs from, and whether it has uncommitted changes.

    Both None when it is an installed package without a repository.
    """
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    # An installed copy may lie below somebody else's repository: then the commit would not be ours.
    if git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", str(here)))}


def everything() -> dict[str, Any]:
    """The facts to write beside every result: time, commit, versions, machine."""
    return {
        "written": now(),
        "git": git_state(),
        "versions": versions(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }
