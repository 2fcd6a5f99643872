"""Every write of a trial and of a sweep's driver, failing half-way: with an error, or with the end of the process."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
from pathlib import Path

import pytest
import yaml
from forked import FEW_MODULES, MODULES, End, Fault, forks
from outcomes import Outcome, note
from small_site import Site, site_of
from sweeping import SMALL_DIS
from tiny import build_year

from asdray import store

WAYS = {"kill": (0, False), "disk full": (errno.ENOSPC, True), "disk broken": (errno.EIO, False)}
"""How a write fails -> errno (0: SIGKILL), and True if later writes fail as well."""


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


def meet_some(site: Site, command, begin, faults: int | None = None, of: str = "") -> list[str]:
    """Lets writes fail, each of a command that begins anew; returns what is wrong.

    Args:
        begin: makes the state before the command.
        faults: number of writes, spread over all; None for all.
        of: a part of the names of the files whose writes fail.
    """
    begin()
    whole, wrong = Whole(site, command), []
    places = [nth for nth in chosen(whole.listed) if of in whole.listed[nth - 1]]
    assert places
    places = places if faults is None else places[len(places) // faults // 2 :: len(places) // faults]
    for nth, way in zip(places, itertools.cycle(WAYS), strict=False):
        begin()
        wrong += meet(site, whole, command, nth, way)
    return wrong


def meet_all(site: Site, faults: int | None = None, of: str = "") -> list[str]:
    """The writes of a trial by hand, and those of the driver of a sweep over it."""
    wrong = meet_some(site, site.run, site.clear, faults, of)
    copy = site.root.parent / "finished"
    shutil.copytree(site.results, copy)

    def begin() -> None:
        site.clear()
        shutil.copytree(copy, site.results)

    return wrong + meet_some(site, site.sweep, begin, faults, of)


@pytest.mark.chaos
def test_every_write(tmp_path):
    options = {**SMALL_DIS, "train.epochs": 2}
    with site_of(tmp_path, MODULES, "dis_baseline", options, True) as site:
        wrong = meet_all(site)
    assert not wrong, "\n".join(wrong)


@pytest.mark.chaos
def test_every_write_of_the_description_of_plugins(tmp_path):
    plugin = (str(Path(__file__).parents[1] / "plugin_example.py"),)
    bands = {"frontend": {"name": "bands"}, "train": {"epochs": 1}, "audio": {"duration": 1.2}}
    recipe = tmp_path / "bands.yaml"  # a trial describes the plugins that it uses
    recipe.write_text(yaml.safe_dump({"about": "a frontend of the plugin", **bands}))
    with site_of(tmp_path, FEW_MODULES, str(recipe), {}, False, plugin) as site:
        wrong = meet_all(site, of=store.plugin_facts(Path()).name)
    assert not wrong, "\n".join(wrong)


@pytest.mark.chaos
def test_every_write_of_a_study(tmp_path):
    """Of a search's driver: the journal and its hash, while systems are asked for and told."""
    build_year(tmp_path / "data")
    study = store.SweepDir(store.sweep_dir(tmp_path / "results", "hunt"))
    wrong = []

    def systems(end: End) -> list[str]:
        """The systems with their values: a suggestion that was interrupted has a number, and counts no more."""
        return re.sub(r"np\.float64\((.*?)\)|, \d+, ", r"\1", end.out).splitlines()

    def names() -> list[str]:
        return sorted(path.name for path in study.root.iterdir())

    with forks(tmp_path / "forks", (*FEW_MODULES, "test_search")) as made:
        if made is None:
            pytest.skip("a C compiler is needed to let writes fail")

        def play(fault: Fault | None = None) -> End:
            return made.run(["study", tmp_path], fault=fault)

        listed = tmp_path / "listed"
        whole = play(Fault(str(study.root), listed=str(listed)))
        assert whole.code == 0, whole.error
        left = names()
        for nth, line in enumerate(listed.read_text().splitlines(), 1):
            way = list(WAYS)[nth % len(WAYS)]
            shutil.rmtree(study.root)
            first = play(Fault(str(study.root), nth, *WAYS[way]))
            again = play()
            survived = again.code == 0 and "damaged" not in again.error
            same = systems(again) == systems(whole) and names() == left
            note(Outcome(f"a write fails half-way: {way}", plain(line), survived, 0, same))
            if not (survived and same):
                wrong.append(f"{nth} {way} {plain(line)}: {first.code} {again.code} {again.error[-800:]}")
    assert not wrong, "\n".join(wrong)


def test_some_writes(tmp_path):
    """Of a trial that learns nothing, which needs less time."""
    with site_of(tmp_path, FEW_MODULES, "raw_spec", {"audio.duration": 1.2}, False) as site:
        wrong = meet_all(site, 3)
    assert not wrong, "\n".join(wrong)
