"""Every write of a trial and of a sweep's driver, failing half-way: with an error, or with the end of the process."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import FEW_MODULES, MODULES, Fault, Forks, forks
from outcomes import Outcome, note
from sweeping import SMALL_DIS, World, make_data

from asdray import store

MACHINE = "fan"
WAYS = {"kill": (0, False), "disk full": (errno.ENOSPC, True), "disk broken": (errno.EIO, False)}
"""How a write fails -> errno (0: SIGKILL), and True if later writes fail as well."""


@dataclass(frozen=True)
class Site:
    """A folder with data and the place of results, the process that runs commands, and a recipe."""

    root: Path
    forks: Forks
    recipe: str
    options: dict
    umap: bool

    @property
    def results(self) -> Path:
        return self.root / "results"

    def run(self, fault: Fault | None = None, **setting):
        """One trial with all stages."""
        pairs = [
            part for key, value in self.options.items() for part in ("--set", f"{key}={json.dumps(value)}")
        ]
        where = ["--data", self.root / "data", "--results", self.results, "--device", "cpu"]
        plots = [] if self.umap else ["--no-umap"]
        asked = [self.recipe, "dcase2023", "--machines", MACHINE, *pairs, *where, *plots]
        return self.forks.run("run", *asked, fault=fault, **setting)

    def sweep(self, fault: Fault | None = None, **setting):
        """The sweep of that trial, for which nothing is left to do but the tables."""
        changes = {"recipes": {self.recipe: {"set": self.options}}, "umap": {} if self.umap else False}
        command = World(self.root / "data", self.results).command(
            machines={"dcase2023": [MACHINE]}, **changes
        )
        return self.forks.run(*command, fault=fault, **setting)

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
        paths = (p for folder in ("results", "data/cache") for p in (self.root / folder).rglob("*"))
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


def plain(listed: str) -> str:
    """A listed write without process and time: ``fsync results/.../scores/knn.parquet``."""
    return re.sub(r"tfevents\..*", "tfevents", re.sub(r"\.tmp-\d+-\d+-", "", listed))


def chosen(listed: list[str]) -> list[int]:
    """The numbers of the writes to fail: of consecutive writes to one file the one in the middle."""
    found, at = [], 1
    for _, group in itertools.groupby(listed, plain):
        n = len(list(group))
        found.append(at + n // 2)
        at += n
    return found


class Whole:
    """What a command without faults leaves, and the writes that it makes."""

    def __init__(self, site: Site, command) -> None:
        end = command(Fault(str(site.root), listed=str(site.root.parent / "listed")))
        assert end.code == 0, end.error
        self.listed = (site.root.parent / "listed").read_text().splitlines()
        self.names, self.numbers = site.names(), site.numbers()


def meet(site: Site, whole: Whole, command, nth: int, way: str) -> list[str]:
    """Lets a write fail, and runs the command until it ends; returns what is wrong, and notes the outcome."""
    error, lasting = WAYS[way]
    end = command(Fault(str(site.root), nth, error, lasting))
    finished, wrong = site.records(), []
    if end.code == 0 and error:
        pass  # a file that no result needs, or the flush of a folder
    elif error and (end.code != 1 or len(end.error.splitlines()) != 1 or "Traceback" in end.error):
        wrong.append(f"ends with {end.code}: {end.error[-1500:]}")
    elif not error and end.code != -9:
        wrong.append(f"ends with {end.code}, not killed: {end.error[-1500:]}")
    numbers = site.numbers()
    between = [
        name for name, content in numbers.items() if whole.numbers.get(name) != content and "tables" in name
    ]
    if between:
        wrong.append(f"wrong in between: {between}")
    for _ in range(3):
        again = command()
        if again.code == 0:
            break
    survived = again.code == 0 and site.names() == whole.names
    if not survived:
        wrong.append(f"again {again.code} {again.error[-1500:]}: {site.names() ^ whole.names}")
    now = site.records()
    repeated = [key for key, record in finished.items() if now.get(key) != record]
    if repeated:
        wrong.append(f"repeated: {repeated}")
    identical = site.numbers() == whole.numbers and not between
    if not identical:
        other = [n for n in whole.numbers if site.numbers().get(n) != whole.numbers[n]]
        wrong.append(f"other content: {other}")
    place = plain(whole.listed[nth - 1])
    note(Outcome(f"a write fails half-way: {way}", place, survived, len(repeated), identical))
    return [f"{nth} {way}, {place}: {text}" for text in wrong]


def meet_some(site: Site, command, begin, faults: int | None = None) -> list[str]:
    """Lets writes fail, each of a command that begins anew; returns what is wrong.

    Args:
        begin: makes the state before the command.
        faults: number of writes, spread over all; None for all.
    """
    begin()
    whole, wrong = Whole(site, command), []
    places = chosen(whole.listed)
    places = places if faults is None else places[len(places) // faults // 2 :: len(places) // faults]
    for nth, way in zip(places, itertools.cycle(WAYS), strict=False):
        begin()
        wrong += meet(site, whole, command, nth, way)
    return wrong


@contextlib.contextmanager
def site_of(root: Path, modules, *recipe):
    make_data(root / "w" / "data")
    with forks(root / "forks", modules) as made:
        if made is None:
            pytest.skip("a C compiler is needed to let writes fail")
        yield Site(root / "w", made, *recipe)


def meet_all(site: Site, faults: int | None = None) -> list[str]:
    """The writes of a trial by hand, and those of the driver of a sweep over it."""
    wrong = meet_some(site, site.run, site.clear, faults)
    copy = site.root.parent / "finished"
    shutil.copytree(site.results, copy)

    def begin() -> None:
        site.clear()
        shutil.copytree(copy, site.results)

    return wrong + meet_some(site, site.sweep, begin, faults)


@pytest.mark.chaos
def test_every_write(tmp_path):
    options = {**SMALL_DIS, "train.epochs": 2}
    with site_of(tmp_path, MODULES, "dis_baseline", options, True) as site:
        wrong = meet_all(site)
    assert not wrong, "\n".join(wrong)


def test_some_writes(tmp_path):
    """Of a trial that learns nothing, which needs less time."""
    with site_of(tmp_path, FEW_MODULES, "raw_spec", {"audio.duration": 1.2}, False) as site:
        wrong = meet_all(site, 3)
    assert not wrong, "\n".join(wrong)
