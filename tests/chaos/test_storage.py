"""A disk that fills up, a used-up quota, results that turn read-only, and a wall clock that is wrong."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from forked import MODULES, Fault
from outcomes import Outcome, note
from ray_nodes import own_mounts
from small_site import Site, site_of
from sweeping import SMALL_DIS

pytestmark = pytest.mark.chaos

HOUR, YEAR = 3600, 365 * 86400


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if own_mounts() is None:
        pytest.skip("a small disk needs a mount of its own")
    root = tmp_path_factory.mktemp("storage")
    options = {**SMALL_DIS, "train.epochs": 2}
    with site_of(root, MODULES, "dis_baseline", options, True, within=own_mounts()) as made:
        yield made


@pytest.fixture(scope="module")
def whole(site):
    """Names and contents of the results without a fault, and the seconds that they take."""
    ends = [site.forks.run(site.of_trial(), site.of_sweep())]
    assert ends[0].code == 0, ends[0].error
    found = site.names(), site.numbers()
    site.clear()
    ends.append(site.forks.run(site.of_trial(), site.of_sweep()))
    return *found, ends[1].seconds


def seen(site: Site) -> Site:
    """The site with the mounts that its commands have."""
    return replace(site, root=site.forks.mounts / str(site.root).lstrip("/"))


def meet(site: Site, whole, kind: str, place: str, *before, after=(), message=None, **setting) -> list[str]:
    """Gives the commands with a fault, ends the fault, and gives the commands again; returns what is wrong.

    Args:
        before, after: shell commands.
        message: a part of the only line on stderr, if the command ends with 1.
    """
    names, numbers, _ = whole
    commands = site.of_trial(), site.of_sweep()
    end = site.forks.run(*(("sh", one) for one in before), *commands, **setting)
    at = seen(site)
    steps, wrong = at.records(), []
    if end.code not in (0, 1, *([-9] if setting.get("fault") else [])) or "Traceback" in end.error:
        wrong.append(f"ends with {end.code}: {end.error[-1000:]}")
    if end.code == 1 and (len(end.error.splitlines()) != 1 or (message or "") not in end.error):
        wrong.append(f"says {end.error[-1000:]}")
    again = site.forks.run(*(("sh", one) for one in after), *commands)
    survived = again.code == 0 and at.names() == names
    if not survived:
        wrong.append(f"again {again.code}: {again.error[-1000:]} {at.names() ^ names}")
    now = at.records()
    repeated = [key for key, record in steps.items() if now.get(key) != record]
    found = at.numbers()
    other = [name for name, content in numbers.items() if found.get(name) != content]
    wrong += [f"repeated: {repeated}"] * bool(repeated) + [f"other content: {other}"] * bool(other)
    note(Outcome(kind, place, survived, len(repeated), not other))
    return [f"{kind}, {place} (code {end.code}): {text}" for text in wrong]


@pytest.mark.parametrize("folder", ["results", "data/cache"])
def test_a_disk_fills_up(site, whole, folder):
    path, wrong = site.root / folder, []
    sizes = [number for name, number in ((n, len(c)) for n, c in whole[1].items()) if name.startswith(folder)]
    full = sum(-(-size // 4096) for size in sizes)
    for pages in sorted({1, *range(2, full, max(1, full // 8))}):
        site.clear()
        mount = f"mkdir -p {path} && mount -t tmpfs -o size={4 * pages}k none {path}"
        wrong += meet(
            site, whole, "a full disk", f"{folder} of {4 * pages} KiB", mount, after=[f"mount -o remount,size=64m {path}"],
            message="space",
        )  # fmt: skip
        site.forks.run(("sh", f"umount {path}"))
    assert not wrong, "\n".join(wrong)


def test_a_limit_on_the_size_of_files(site, whole):
    largest, wrong = max(map(len, whole[1].values())), []
    for limit in sorted({100, *range(1000, largest, max(1, largest // 8))}):
        site.clear()
        wrong += meet(site, whole, "a used-up quota", f"files of {limit} bytes", limit=limit)
    assert not wrong, "\n".join(wrong)


def test_results_turn_read_only(site, whole):
    path, wrong = site.results, []
    remount = f"mount -o remount,bind,%s {path}"
    until = f"until {remount % 'ro'} 2>/dev/null; do sleep 0.01; done"  # while a file is open for writing, it cannot
    for part in range(8):
        site.clear()
        seconds = whole[2] * part / 8
        wrong += meet(
            site, whole, "results turn read-only", f"after {part}/8", f"mkdir -p {path} && mount --bind {path} {path}",
            after=[remount % "rw"], later=(seconds, until), message="Read-only file system",
        )  # fmt: skip
        site.forks.run(("sh", f"umount {path}"))
    assert not wrong, "\n".join(wrong)


def test_the_wall_clock_moves(site, whole):
    """During a run, and between two of which the first is killed; files of the first may be of the future."""
    wrong = []
    for seconds, part in itertools.product((-YEAR, -HOUR, HOUR, YEAR), (1, 4, 7)):
        site.clear()
        later = (whole[2] * part / 8, seconds)
        wrong += meet(site, whole, "the clock moves", f"by {seconds} s after {part}/8", later=later)
    for seconds, nth in itertools.product((-YEAR, -HOUR, HOUR, YEAR), (60, 150)):
        site.clear()
        place = f"{seconds} s off, killed at write {nth}"
        wrong += meet(
            site, whole, "the clock was wrong", place, ahead=seconds, fault=Fault(str(site.root), nth)
        )
    assert not wrong, "\n".join(wrong)
