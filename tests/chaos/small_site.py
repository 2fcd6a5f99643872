"""A trial, and a sweep over it, whose commands run in forked processes: their results, names of files, and records."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import Fault, Forks, forks
from sweeping import World, make_data

from asdray import store

MACHINE = "fan"


@dataclass(frozen=True)
class Site:
    """A folder with data and the place of results, the process that runs commands, and a recipe."""

    root: Path
    forks: Forks
    recipe: str
    options: dict
    umap: bool
    plugins: tuple[str, ...] = ()

    @property
    def results(self) -> Path:
        return self.root / "results"

    def of_trial(self) -> list:
        """The command for one trial with all stages."""
        pairs = [
            part for key, value in self.options.items() for part in ("--set", f"{key}={json.dumps(value)}")
        ]
        where = ["--data", self.root / "data", "--results", self.results, "--device", "cpu"]
        plots = [] if self.umap else ["--no-umap"]
        plugins = [part for path in self.plugins for part in ("--plugin", path)]
        return ["run", self.recipe, "dcase2023", "--machines", MACHINE, *pairs, *where, *plots, *plugins]

    def of_sweep(self) -> list:
        """The command for a sweep of that trial."""
        changes = {"recipes": {self.recipe: {"set": self.options}}, "umap": {} if self.umap else False}
        changes |= {"plugins": list(self.plugins)} if self.plugins else {}
        world = World(self.root / "data", self.results)
        return world.command(machines={"dcase2023": [MACHINE]}, **changes)

    def run(self, fault: Fault | None = None, **setting):
        return self.forks.run(self.of_trial(), fault=fault, **setting)

    def sweep(self, fault: Fault | None = None, **setting):
        """After `run`: nothing is left to do but the tables."""
        return self.forks.run(self.of_sweep(), fault=fault, **setting)

    def clear(self) -> None:
        for folder in (self.results, self.root / "data" / "cache"):
            shutil.rmtree(folder, ignore_errors=True)

    def names(self) -> set[str]:
        """Names of all files; of Tensorboard's without time and process."""
        paths = [*self.results.rglob("*"), *(self.root / "data/cache").rglob("*")]
        names = {str(path.relative_to(self.root)) for path in paths if not path.is_dir()}
        return {re.sub(r"tfevents\..*", "tfevents", name) for name in names}

    def numbers(self) -> dict[str, bytes]:
        """Everything that holds no time: checkpoints, embeddings, scores, plots, tables, audio."""
        kinds = (".parquet", ".csv", ".ckpt", ".png", ".npy", ".md", ".tex")
        paths = (
            p for folder in ("results", "data/cache") for p in (self.root / folder).rglob("*") if p.is_file()
        )
        left_out = (store.EPOCHS_FILE, "trials.parquet")
        kept = (p for p in paths if p.suffix in kinds and p.name not in left_out and ".tmp-" not in p.name)
        return {str(path.relative_to(self.root)): path.read_bytes() for path in kept}

    def records(self) -> dict[tuple[str, str], str]:
        """Folder and stage -> the record of every finished step."""
        return {
            (str(path.parent), name): json.dumps(record)
            for path in self.results.rglob(store.RECORDS)
            for name, record in json.loads(path.read_text())["records"].items()
        }


@contextlib.contextmanager
def site_of(root: Path, modules, *recipe, within=()):
    make_data(root / "w" / "data")
    with forks(root / "forks", modules, within) as made:
        if made is None:
            pytest.skip("a C compiler is needed to let writes fail")
        yield Site(root / "w", made, *recipe)
