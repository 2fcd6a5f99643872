"""Every file that a finished sweep leaves, damaged one at a time in five ways; then the same commands again."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import MODULES
from outcomes import Outcome, note
from small_site import MACHINE, Site, site_of
from sweeping import SMALL_DIS

from asdray import damage, store
from asdray.audio import cache
from asdray.store import Places


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    rng = random.Random(path.name)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def deleted(path: Path) -> None:
    path.unlink()


WAYS: tuple[Callable[[Path], None], ...] = (emptied, truncated, flipped, replaced_by_a_folder, deleted)


class Kept:
    """The results of a finished sweep, to be put back."""

    def __init__(self, site: Site) -> None:
        end = site.forks.run(site.of_trial(), site.of_sweep())
        assert end.code == 0, end.error
        self.site = site
        self.names, self.numbers, self.records = site.names(), site.numbers(), site.records()
        self._copy = site.root.parent / "kept"
        for name in ("results", "data/cache"):
            shutil.copytree(site.root / name, self._copy / name, symlinks=True)

    def put_back(self) -> None:
        self.site.clear()
        for name in ("results", "data/cache"):
            shutil.copytree(self._copy / name, self.site.root / name, symlinks=True)

    def files(self) -> list[str]:
        # TensorBoard's events are a log, which no stage reads and only a new training would write again.
        paths = (p for p in self._copy.rglob("*") if p.is_file() and "tfevents" not in p.name)
        return sorted(str(path.relative_to(self._copy)) for path in paths)


def naming(path: Path, way: Callable[[Path], None], said: str, owner: damage.Owner | None) -> list[str]:
    """What the commands should have named, and have not."""
    of_pack = is_of_pack(path) and way is not deleted
    named = f"decoded audio in {path.parent}" in said if of_pack else not owner or path.name in said
    return [] if named else [f"not named: {said[-500:]}"]


def is_of_pack(path: Path) -> bool:
    return path.name == "pack.json" or path.name.startswith("samples-")


def repeated_steps(kept: Kept, path: Path, owner: damage.Owner | None) -> list[tuple[str, str]]:
    """The finished steps that ran once more, without those whose file or record was damaged."""
    of_it = {(str(owner.folder), owner.name)} if owner else set()
    if path.name == store.RECORDS:
        of_it = {key for key in kept.records if key[0] == str(path.parent)}
    now = kept.site.records()
    return [key for key, record in kept.records.items() if now.get(key) != record and key not in of_it]


def meet(kept: Kept, name: str, way: Callable[[Path], None]) -> list[str]:
    """Damages a file, and gives the commands again; returns what is wrong, and notes the outcome."""
    kept.put_back()
    site, path = kept.site, kept.site.root / name
    if way in (truncated, flipped) and not path.stat().st_size:
        return []
    owner = damage.owner_of(path)
    way(path)
    end = site.forks.run(["verify", *site.of_sweep()[1:]], site.of_trial(), site.of_sweep())
    said = end.out + end.error
    if is_of_pack(path):  # made again when it is needed
        cache._other_clips.cache_clear()
        cache.ensure_pack(Places.of(site.root / "data", site.results), "dcase2023", MACHINE, path.parent.name)
    names = {re.sub(r"(\.folder-\d+).*", "", found) for found in site.names()}
    survived = end.code == 0 and names - {name} == kept.names - {name} and "Traceback" not in said
    repeated = repeated_steps(kept, path, owner) if survived else []
    found = site.numbers()
    other = [n for n, content in kept.numbers.items() if found.get(n) != content]
    wrong = naming(path, way, said, owner) + [f"repeated: {repeated}"] * bool(repeated)
    wrong += [f"other content: {other}"] * bool(other)
    wrong += [] if survived else [f"ends with {end.code}: {said[-1000:]}, {names ^ kept.names}"]
    fault = f"a file {way.__name__.replace('_', ' ')}"
    note(Outcome(fault, name, survived, len(repeated), not other))
    return [f"{name} {way.__name__}: {text}" for text in wrong]


@pytest.mark.chaos
def test_every_file_damaged(tmp_path):
    options = {**SMALL_DIS, "train.epochs": 2}
    with site_of(tmp_path, MODULES, "dis_baseline", options, True) as site:
        kept = Kept(site)
        wrong = [text for name in kept.files() for way in WAYS for text in meet(kept, name, way)]
    assert not wrong, "\n".join(wrong)
