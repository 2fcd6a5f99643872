"""Files that frontends of a sweep read besides audio, and a look at weight files before Ray starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from asdray.config.expand import bases, expand
from asdray.config.frontend_base import InputFile
from asdray.config.search import corners
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.stages.input_files import input_id, input_path
from asdray.store import Places

_fitting: set[tuple[str, str, str]] = set()
"""Network, path and hash of the weight files that were found right in this process."""


def paths(sweep: Sweep, places: Places) -> list[Path]:
    """The files that a sweep reads besides audio, such as weights of encoders, each once and sorted."""
    return sorted(
        {
            input_path(file, places)
            for _, system in _systems(sweep)
            for dcase in sweep.years
            for machine in sweep.machines_of(dcase)
            for seed in ((0,) if system.frontend.has_one_seed else sweep.seeds)
            for file in system.frontend.input_files(dcase, machine, seed)
        }
    )


def packs(sweep: Sweep) -> set[tuple[str, str]]:
    """Split and channel of every pack of audio that a sweep reads, per machine."""
    found: set[tuple[str, str]] = set()
    for _, system in _systems(sweep):
        if system.frontend.reads_audio:
            more = ("supplemental",) if system.frontend.reads_supplemental else ()
            found |= {(split, system.audio.channel) for split in ("train", "test", *more)}
    return found


def check_weights(sweep: Sweep, trials: Iterable[Trial], places: Places) -> None:
    """Compares names and shapes in weight files with the networks that are to read them, before any work.

    The files of a search are those of its whole space. A file is looked at once per process. Torch takes
    500 MB and stays out of the driver: a process of its own reads the files, if there are any.

    Raises:
        ValueError: a weight file is truncated, of another network or of none; each message begins
            with the recipe.
    """
    wanted: dict[tuple[str, str, str], str] = {}
    for recipe, file in _weights(sweep, trials):
        where, path = f"recipe {recipe}", input_path(file, places)
        try:
            sha256 = input_id(file, path)
        except ValueError as error:  # planning looks at the files of a search only as it suggests systems
            raise ValueError(f"{where}: {error}") from None
        if (key := (str(file.network), str(path), sha256)) not in _fitting:
            wanted.setdefault(key, f"{where}: frontend.{file.option}")
    if not wanted:
        return
    arguments = [text for network, path, *_ in wanted for text in (network, path)]
    command = [sys.executable, "-m", "asdray.frontends.encoders.weights", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"weight files cannot be checked: {answer.stderr.strip()}")
    if faults := json.loads(answer.stdout.splitlines()[-1]):
        options = list(wanted.values())
        raise ValueError("\n".join(f"{options[number]}: {message}" for number, message in faults))
    _fitting.update(wanted)


def _weights(sweep: Sweep, trials: Iterable[Trial]) -> Iterator[tuple[str, InputFile]]:
    """Recipe and weight file of every system, of a search also of the systems to come."""
    of_trials = _with_clustered((trial.recipe, trial.system) for trial in trials)
    systems = {f"{recipe}-{system.id}": (recipe, system) for recipe, system in of_trials}
    if sweep.search.samples:
        systems |= {f"{recipe}-{system.id}": (recipe, system) for recipe, system in _systems(sweep)}
    dcase = sweep.years[0]
    machine = sweep.machines_of(dcase)[0]  # an encoder reads the same weights for every year and machine
    for recipe, system in systems.values():
        for file in system.frontend.input_files(dcase, machine, 0):
            if file.network is not None:
                yield recipe, file


def _systems(sweep: Sweep) -> list[tuple[str, System]]:
    """Recipe and system of a sweep, each system once; of a search, samples with every choice.

    Systems whose embeddings are clustered for classes are among them.
    """
    if sweep.search.samples:
        found = [
            (base.recipe, base.varied(swept))
            for base in bases(sweep, sweep.name)
            for swept in corners(base.axes)
        ]
    else:
        found = [(trial.recipe, trial.system) for trial, _ in expand(sweep, sweep.name)]
    return list({(recipe, system.id): (recipe, system) for recipe, system in _with_clustered(found)}.values())


def _with_clustered(found: Iterable[tuple[str, System]]) -> Iterator[tuple[str, System]]:
    """The recipes and systems, each followed by the system that is clustered for its classes, if any."""
    for recipe, system in found:
        yield recipe, system
        if source := system.clustered:
            yield recipe, source
