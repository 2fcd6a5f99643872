"""A year's official zips and ground truth: fetched, verified, unpacked; what is there is left alone."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asdray import store
from asdray.dcase import local, records
from asdray.dcase.download_jobs import Job, Tell, TruthJob, ZipJob, run
from asdray.dcase.fetch import PATIENCE, FetchError, Patience, get_json, new_session
from asdray.dcase.hints import hint
from asdray.dcase.manifest import dataset_kind
from asdray.dcase.placed import (
    ground_truth_there,
    is_fetched,
    is_kept,
    is_there,
    lacking,
    mark,
    protected,
    prune,
    remove_zip,
    year_folder,
    zips_folder,
)
from asdray.dcase.records import TruthFile, Zip
from asdray.dcase.years import SUBSETS, Subset, check_machines, get_year

Note = Callable[[str], None]

UNPACKED = 1.5
"""Bytes that recordings take per byte of their zip, rounded up."""

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class DownloadReport:
    """What `download_dataset` did.

    Attributes:
        folder: ``<data>/original/<dcase>``.
        brought: zips and ground truth that were fetched, taken or linked to in this call.
        found: zips that were there before.
        failed: what is missing, and why.
    """

    folder: Path
    brought: tuple[str, ...]
    found: tuple[str, ...]
    failed: Mapping[str, str]


def download_dataset(
    data: Path,
    dcase: str,
    *,
    machines: Sequence[str] | None = None,
    subset: Subset | None = None,
    ground_truth: bool = True,
    base_url: str | None = None,
    source: Path | None = None,
    keep_zips: bool = False,
    jobs: int = 4,
    patience: Patience = PATIENCE,
    on_progress: Tell | None = None,
    on_note: Note | None = None,
) -> DownloadReport:
    """Brings a year's data to ``<data>/original/<dcase>``; an interrupted call is simply repeated.

    What cannot be had is reported and does not hold up the rest. Recordings that somebody else put there are
    left as they are, and nothing is written beside them; ground truth is fetched for them all the same.

    Args:
        machines: None = all of the year.
        subset: None = both.
        ground_truth: whether to bring the labels of the eval test clips.
        base_url: stands in for the public hosts of the audio and of the ground truth.
        source: a folder with the zips anywhere below it, which are verified and unpacked; or an unpacked tree
            with ``dev_data`` or ``eval_data``, which is linked to (`asdray.dcase.local.find_tree`). Nothing
            is fetched then, and nothing in ``source`` is changed.
        keep_zips: whether zips that are fetched stay in ``<data>/original/<dcase>/zips``; for good.
        jobs: how many files at a time.
        on_progress: called from several threads.
        on_note: called with what a person should read: licences, what could not be checked.

    Raises:
        ValueError: a year, machine, subset, address or ``source`` that makes no sense; a folder with a
            synthetic dataset; a tree where there are data already; too little space.
    """
    wanted = _wanted(dcase, machines, subset)
    truth = ground_truth and any(z.part == "eval_test" for z in wanted)
    if jobs < 1:
        raise ValueError(f"download: jobs is {jobs}, must be at least 1")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ValueError(f"download: the base URL {base_url!r} must begin with http:// or https://")
    if base_url is not None and source is not None:
        raise ValueError("download: --base-url says where to fetch from, --from fetches nothing: drop one")
    if dataset_kind(data, dcase) == "synthetic":
        raise ValueError(f"{year_folder(data, dcase)} holds a synthetic dataset: choose another --data")
    note = on_note or (lambda _: None)
    tree = None
    if source is not None:  # looked at before anything is made in the data folder
        tree = local.find_tree(source, dcase, [z for z in wanted if not is_there(data, z)])
        if tree is not None:
            local.plan_links(data, dcase, tree, _subsets(wanted))
    fix = f"`{_command(data, dcase, machines, subset)}` fetches it"
    with store.lease(year_folder(data, dcase), lambda: note("waiting for another process in this folder")):
        if tree is not None:
            return _link_tree(data, dcase, tree, wanted, truth, fix)
        found = [z for z in wanted if is_there(data, z)]
        missing = [z for z in wanted if z not in found]
        alone = protected(data, missing, records.zips(dcase))
        missing = [z for z in missing if z not in alone]
        brought: list[str] = []
        failed = _leave_alone(data, alone, note)
        todo: list[Job] = []
        if source is not None:
            todo += _from_folder(source, missing, failed, note)
            if truth:
                _take_ground_truth(data, dcase, source, failed, fix)
        else:
            if truth:
                todo += _truth_jobs(data, dcase, wanted, base_url, failed)
            todo += _zip_jobs(data, missing, base_url, keep_zips, patience, note)
            _name_licences(dcase, todo, note)
        _check_space(data, dcase, [j for j in todo if isinstance(j, ZipJob)], jobs)
        run(todo, data, jobs, patience, on_progress or (lambda _: None), brought, failed)
        if source is None:
            _tidy(data, dcase, found, keep_zips)
        return DownloadReport(
            year_folder(data, dcase),
            tuple(sorted(brought)),
            tuple(z.name for z in found),
            dict(sorted(failed.items())),
        )


# ------------------------------------------------------------------------------------------------- plan


def _wanted(dcase: str, machines: Sequence[str] | None, subset: Subset | None) -> list[Zip]:
    names = get_year(dcase).all_machines if machines is None else check_machines(dcase, tuple(machines))
    if subset not in (None, *SUBSETS):
        raise ValueError(f"download: the subset is {subset!r}, must be {' or '.join(SUBSETS)}")
    wanted = [z for z in records.zips(dcase) if z.machine in names and subset in (None, z.subset)]
    if not wanted:
        raise ValueError(f"{dcase} has no {subset} data of {', '.join(names)}")
    return wanted


def _subsets(wanted: Sequence[Zip]) -> tuple[Subset, ...]:
    return tuple(dict.fromkeys(z.subset for z in wanted))


def _command(data: Path, dcase: str, machines: Sequence[str] | None, subset: Subset | None) -> str:
    """The command that fetches what is wanted."""
    line = hint("download", dcase, data)
    if machines is not None:
        line += f" --machines {','.join(machines)}"
    return line if subset is None else f"{line} --subset {subset}"


def _leave_alone(data: Path, alone: Sequence[Zip], note: Note) -> dict[str, str]:
    """Tells which recordings of somebody else's stay as they are; returns what they lack."""
    failed: dict[str, str] = {}
    for subset in _subsets(alone):
        zips = [z for z in alone if z.subset == subset]
        raw = store.original_dir(data, zips[0].dcase, subset)
        link = next((f"; {p} is a link to {p.resolve()}" for p in (raw.parent, raw) if p.is_symlink()), "")
        lacks = {name for z in zips for name in lacking(data, z)}
        there = dict.fromkeys(z.machine for z in zips if f"{subset} {z.machine}" not in lacks)
        if there:
            note(f"left as they are, as somebody else put them into {raw}: {', '.join(there)}{link}")
        why = f"not in {raw}, where somebody else's data are left as they are{link}: "
        failed |= dict.fromkeys(sorted(lacks), f"{why}put it there, or choose another --data")
    return failed


def _zip_jobs(
    data: Path, missing: Sequence[Zip], base_url: str | None, keep: bool, patience: Patience, note: Note
) -> list[ZipJob]:
    """Jobs with the sizes and checksums that the records state."""
    host = (base_url or records.AUDIO_HOST).rstrip("/")
    stated: dict[int, Mapping[str, tuple[int, str]]] = {}
    for record in dict.fromkeys(z.record for z in missing):
        url = f"{host}/{records.api_path(record)}"
        try:
            # Few attempts: what it says can be done without.
            answer = get_json(new_session(), url, patience=dataclasses.replace(patience, tries=3))
            stated[record] = {f["key"]: (int(f["size"]), f["checksum"]) for f in answer["files"]}
        except FetchError as error:
            note(f"the record does not tell its files' sizes and checksums: {error}")
        except (KeyError, TypeError, ValueError):
            note(f"the record does not tell its files' sizes and checksums: {url} has another form")
    found = []
    for z in missing:
        size, checksum = stated.get(z.record, {}).get(z.name, (None, None))
        if z.md5 is not None:
            checksum = f"md5:{z.md5}"
        if checksum is not None and not checksum.startswith("md5:"):
            checksum = None
        path = zips_folder(data, z.dcase) / z.name
        found.append(ZipJob(z, path, f"{host}/{z.path}", size, checksum, keep))
    _note_unchecked(found, note)
    return found


def _from_folder(source: Path, missing: Sequence[Zip], failed: dict[str, str], note: Note) -> list[ZipJob]:
    """Jobs for the zips that lie in ``source``; the others enter ``failed``."""
    lying = local.find_zips(source, missing)
    failed |= {z.name: f"not in {source}" for z in missing if z not in lying}
    found = [
        ZipJob(z, path, None, path.stat().st_size, f"md5:{z.md5}" if z.md5 else None, keep=True)
        for z, path in lying.items()
    ]
    _note_unchecked(found, note)
    return found


def _note_unchecked(jobs: Sequence[ZipJob], note: Note) -> None:
    names = [job.name for job in jobs if job.checksum is None]
    if names:
        note(
            f"no md5 is known of {', '.join(names)}: checked by length and by the zip's inner checksums only"
        )


def _take_ground_truth(data: Path, dcase: str, source: Path, failed: dict[str, str], fix: str) -> None:
    if not local.take_ground_truth(data, dcase, source):
        folder = store.ground_truth_dir(data, dcase)
        failed[GROUND_TRUTH] = f"neither {folder} nor {source} holds any; {fix}"


def _truth_jobs(
    data: Path, dcase: str, wanted: Sequence[Zip], base_url: str | None, failed: dict[str, str]
) -> list[TruthJob]:
    """A job per repository from which files are missing; none if somebody put ground truth there."""
    host = (base_url or records.TRUTH_HOST).rstrip("/")
    folder = store.ground_truth_dir(data, dcase)
    machines = {z.machine for z in wanted if z.part == "eval_test"}
    files = [f for f in records.ground_truth(dcase) if f.machine is None or f.machine in machines]
    ours = any((folder / f.folder).exists() for f in files)
    if ground_truth_there(data, dcase) and (folder.is_symlink() or not ours):
        return []
    if folder.is_symlink():
        failed[GROUND_TRUTH] = f"{folder} is a link to {folder.resolve()}, which holds none: delete the link"
        return []
    missing: dict[str, list[TruthFile]] = {}
    for f in files:
        if not (folder / f.folder / f.path).exists():
            missing.setdefault(f.repository, []).append(f)
    return [
        TruthJob(
            f"{GROUND_TRUTH} of {repository}",
            tuple(
                (
                    f"{host}/{f.repository}/{f.commit}/{f.path}",
                    folder / f.folder / f.path,
                    f"sha256:{f.sha256}" if f.sha256 else None,
                )
                for f in those
            ),
        )
        for repository, those in missing.items()
    ]


def _name_licences(dcase: str, todo: Sequence[Job], note: Note) -> None:
    if any(isinstance(job, ZipJob) for job in todo):
        note(f"licence of the audio: {records.AUDIO_LICENCE}")
    asked = {job.name for job in todo}
    for repository, licence in {f.repository: f.licence for f in records.ground_truth(dcase)}.items():
        if f"{GROUND_TRUTH} of {repository}" in asked:
            note(f"licence of the {GROUND_TRUTH} of {repository}: {licence}")


def _check_space(data: Path, dcase: str, todo: Sequence[ZipJob], at_once: int) -> None:
    """Raises ValueError if the disk cannot hold what comes, as far as sizes are known."""
    zips = sorted((j.size or 0 for j in todo if j.url is not None), reverse=True)
    kept = any(j.keep for j in todo if j.url is not None)
    needed = UNPACKED * sum(j.size or 0 for j in todo) + sum(zips if kept else zips[:at_once])
    free = shutil.disk_usage(year_folder(data, dcase)).free
    if needed > free:
        raise ValueError(
            f"{dcase} needs about {needed / 1e9:.1f} GB more in {year_folder(data, dcase)}, where "
            f"{free / 1e9:.1f} GB are free: make space, choose another --data, or take less with --machines "
            "or --subset"
        )


def _tidy(data: Path, dcase: str, found: Sequence[Zip], keep: bool) -> None:
    """Removes what an interrupted call left of zips that it fetched and whose content is there."""
    for z in found:
        if is_fetched(data, z) and not is_kept(data, z):
            if keep:
                mark(data, z, keep=True)
            else:
                remove_zip(data, z)
    prune(zips_folder(data, dcase))
    if not ground_truth_there(data, dcase):
        prune(store.ground_truth_dir(data, dcase))


def _link_tree(
    data: Path, dcase: str, tree: Path, wanted: Sequence[Zip], truth: bool, fix: str
) -> DownloadReport:
    links = local.plan_links(data, dcase, tree, _subsets(wanted))
    local.make_links(links)
    failed = {
        name: f"not in {store.original_dir(data, dcase, z.subset)}"
        for z in wanted
        for name in lacking(data, z)
    }
    if truth:
        _take_ground_truth(data, dcase, tree, failed, fix)
    return DownloadReport(year_folder(data, dcase), tuple(map(str, links)), (), failed)
