"""The folders of trials below a results folder, each where its ``trial.json`` says that it belongs.

`is_in_place` tells copies of other folders, of sweeps and ensembles.

People copy folders before they try something (``cp -r seed0 seed0_old``, "seed0 copy"). A copy that counted
would enter means and spreads as another trial, so a folder of another name than its trial's is left out, with
a note.

>>> import json, tempfile
>>> with tempfile.TemporaryDirectory() as name:
...     for seed in ("seed0", "seed0 copy"):
...         folder = Path(name, "trials", "dcase2023", "raw_spec-12345678", seed)
...         folder.mkdir(parents=True)
...         about = {"dcase": "dcase2023", "recipe": "raw_spec", "system_id": "12345678", "seed": 0}
...         _ = TrialDir(folder).trial_json.write_text(json.dumps(about))
...     [trial.root.name for trial in trial_dirs(Path(name))]
['seed0']
"""

from __future__ import annotations

from pathlib import Path

from pydantic_core import from_json

from asdray import notes
from asdray.regular import read_bytes
from asdray.store import TrialDir

_PARTS = 3
"""Folders that a trial's identity names: year, system, seed."""


def trial_dirs(results: Path) -> list[TrialDir]:
    """The folders of all trials below ``results``, sorted, without copies."""
    found = sorted(results.glob("trials/*/*/*/"))
    shown = [path for path in found if not any(part.startswith(".") for part in path.parts[-_PARTS:])]
    return [TrialDir(path) for path in shown if _is_trial(path) and _is_in_place(path, _PARTS)]


def seeds_below(system: Path) -> list[Path]:
    """The folders of the trials of a system in its folder, sorted, without copies."""
    return [path for path in sorted(system.glob("*/")) if _is_trial(path) and _is_in_place(path, 1)]


def _is_trial(folder: Path) -> bool:
    return TrialDir(folder).trial_json.is_file()


def _is_in_place(folder: Path, parts: int) -> bool:
    """True if a trial's folder has the name that its ``trial.json`` gives it.

    Args:
        parts: how many parts of the path are compared, from its end.
    """
    try:
        about = from_json(read_bytes(TrialDir(folder).trial_json))
        names = (about["dcase"], f"{about['recipe']}-{about['system_id']}", f"seed{about['seed']}")
    except (OSError, ValueError, KeyError, TypeError):
        return True  # whoever reads the file says what is wrong with it
    return is_in_place(folder, names[-parts:], TrialDir(folder).trial_json.name)


def is_in_place(folder: Path, names: tuple[str, ...], file: str) -> bool:
    """True if a folder's path ends with the names that a file in it gives; a note tells of any other."""
    if folder.absolute().parts[-len(names) :] == names:
        return True
    notes.tell(f"{folder} is left out: its name is not {'/'.join(names)}, as its {file} says")
    return False
