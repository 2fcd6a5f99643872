"""``asdray download``: a year's official zips and ground truth, fetched, verified, unpacked and marked.

Everything comes to ``<data>/original/<dcase>``; existing data are left alone, so that an interrupted call is
simply repeated. Each file is one job, several jobs run at a time, and a file that cannot be had does not hold
up the others. Zips are verified by size and md5, as far as published, and by their inner checksums.

Conventions: sizes are bytes. Recordings of another origin stay as they are, and nothing is written beside
them; ground truth is fetched for them all the same. A zip is removed only if asdray fetched it.

>>> from pathlib import Path
>>> from asdray.dcase.download import download_dataset
>>> download_dataset(Path("data"), "dcase2023", machines=["bandsaw"], subset="dev")
Traceback (most recent call last):
ValueError: dcase2023 has no dev data of bandsaw
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asdray import store
from asdray.dcase import records, unpack
from asdray.dcase.fetch import PATIENCE, FetchError, Patience, Session, UnreachableError, fetch
from asdray.dcase.manifest import dataset_kind, hint
from asdray.dcase.records import (
    PARTIAL,
    TruthFile,
    Zip,
    ground_truth_there,
    is_fetched,
    is_kept,
    is_there,
    mark,
    missing_folders,
    remove_empty_folders,
    remove_zip,
    year_folder,
    zips_folder,
)
from asdray.dcase.years import SUBSETS, Subset, check_machines, get_year

Note = Callable[[str], None]

UNPACKED = 1.5
"""Bytes of recordings per byte of their zip, rounded up."""

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class DownloadReport:
    """Result of `download_dataset`.

    Attributes:
        folder: ``<data>/original/<dcase>``.
        brought: zips and ground truth that this call fetched, copied or linked to.
        found: zips that were in place before.
        failed: reason per missing zip, folder or ground truth.
    """

    folder: Path
    brought: tuple[str, ...]
    found: tuple[str, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class FileProgress:
    """Progress of one file.

    Attributes:
        name: a zip, or ``ground truth of <repository>``.
        state: ``done`` and ``failed`` come last, once.
        done, total: bytes while a zip is fetched, else files.
        text: reason of a wait or failure.
    """

    name: str
    state: Literal["fetching", "waiting", "unpacking", "done", "failed"]
    done: int = 0
    total: int | None = None
    text: str = ""


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
    on_progress: Callable[[FileProgress], None] | None = None,
    on_note: Note | None = None,
) -> DownloadReport:
    """Brings a year's data to ``<data>/original/<dcase>``.

    Args:
        machines: None = all machines of the year.
        subset: None = both.
        ground_truth: fetch the labels of the eval test clips, too.
        base_url: replaces the public hosts of the audio and of the ground truth.
        source: fetch nothing; take the zips anywhere below this folder, which are verified and unpacked, or
            link to this unpacked tree (`asdray.dcase.unpack.find_tree`). The folder is not changed.
        keep_zips: keep fetched zips in ``<data>/original/<dcase>/zips``, also in later calls.
        jobs: number of files at a time.
        on_progress: called from several threads.
        on_note: called with notes for the user: licences, files without a known checksum.

    Raises:
        ValueError: unknown year, machine or subset; wrong address or ``source``; a folder with a synthetic
            dataset; a tree to link to beside existing data; too little space.
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
    if source is not None:  # before anything is made in the data folder
        tree = unpack.find_tree(source, dcase, [z for z in wanted if not is_there(data, z)])
        if tree is not None:
            unpack.plan_links(data, dcase, tree, _subsets(wanted))
    fix = f"`{_command(data, dcase, machines, subset)}` fetches it"
    with store.lease(year_folder(data, dcase), lambda: note("waiting for another process in this folder")):
        if tree is not None:
            return _link_tree(data, dcase, tree, wanted, truth, fix)
        found = [z for z in wanted if is_there(data, z)]
        missing = [z for z in wanted if z not in found]
        foreign = records.foreign(data, missing, records.zips(dcase))
        missing = [z for z in missing if z not in foreign]
        failed = _leave_alone(data, foreign, note)
        todo: list[ZipJob | TruthJob] = []
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
        brought = _Run(data, patience, on_progress or (lambda _: None), failed).run(todo, jobs)
        if source is None:
            _tidy(data, dcase, found, keep_zips)
        return DownloadReport(
            year_folder(data, dcase),
            tuple(sorted(brought)),
            tuple(z.name for z in found),
            dict(sorted(failed.items())),
        )


# ------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class ZipJob:
    """A zip to unpack.

    Attributes:
        path: the zip, fetched or to be fetched.
        url: None for a zip in a user's folder.
        size: bytes, None if unknown.
        checksum: ``md5:...``, None if unknown.
        keep: keep the zip after unpacking; a zip that asdray did not fetch stays in any case.
    """

    zip: Zip
    path: Path
    url: str | None
    size: int | None
    checksum: str | None
    keep: bool

    @property
    def name(self) -> str:
        return self.zip.name


@dataclass(frozen=True)
class TruthJob:
    """The ground truth of one repository: address, path and checksum of every file."""

    name: str
    files: tuple[tuple[str, Path, str | None], ...]


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
    """The command that fetches the wanted data."""
    line = hint("download", dcase, data)
    if machines is not None:
        line += f" --machines {','.join(machines)}"
    return line if subset is None else f"{line} --subset {subset}"


def _leave_alone(data: Path, foreign: Sequence[Zip], note: Note) -> dict[str, str]:
    """Notes the recordings of another origin, which stay; returns the reason per folder without files."""
    failed: dict[str, str] = {}
    for subset in _subsets(foreign):
        zips = [z for z in foreign if z.subset == subset]
        raw = store.original_dir(data, zips[0].dcase, subset)
        link = next((f"; {p} is a link to {p.resolve()}" for p in (raw.parent, raw) if p.is_symlink()), "")
        missing = {name for z in zips for name in missing_folders(data, z)}
        there = dict.fromkeys(z.machine for z in zips if f"{subset} {z.machine}" not in missing)
        if there:
            note(f"left as they are, as somebody else put them into {raw}: {', '.join(there)}{link}")
        why = f"not in {raw}, where somebody else's data are left as they are{link}: "
        failed |= dict.fromkeys(sorted(missing), f"{why}put it there, or choose another --data")
    return failed


def _zip_jobs(
    data: Path, missing: Sequence[Zip], base_url: str | None, keep: bool, patience: Patience, note: Note
) -> list[ZipJob]:
    """Jobs with the sizes and checksums of the records' descriptions."""
    host = (base_url or records.AUDIO_HOST).rstrip("/")
    session = Session(dataclasses.replace(patience, tries=3))  # few: the description is not indispensable
    stated: dict[int, Mapping[str, tuple[int, str]]] = {}
    for record in dict.fromkeys(z.record for z in missing):
        url = f"{host}/{records.api_path(record)}"
        try:
            files = session.json_at(url)["files"]
            stated[record] = {f["key"]: (int(f["size"]), f["checksum"]) for f in files}
        except FetchError as error:
            note(f"the record does not tell its files' sizes and checksums: {error}")
        except (KeyError, TypeError, ValueError):
            note(f"the record does not tell its files' sizes and checksums: {url} has another form")
    jobs = []
    for z in missing:
        size, checksum = stated.get(z.record, {}).get(z.name, (None, None))
        if z.md5 is not None:
            checksum = f"md5:{z.md5}"
        if checksum is not None and not checksum.startswith("md5:"):
            checksum = None
        jobs.append(ZipJob(z, zips_folder(data, z.dcase) / z.name, f"{host}/{z.path}", size, checksum, keep))
    _note_unchecked(jobs, note)
    return jobs


def _from_folder(source: Path, missing: Sequence[Zip], failed: dict[str, str], note: Note) -> list[ZipJob]:
    """Jobs for the zips in ``source``; other zips are added to ``failed``."""
    paths = unpack.find_zips(source, missing)
    failed |= {z.name: f"not in {source}" for z in missing if z not in paths}
    jobs = [
        ZipJob(z, path, None, path.stat().st_size, f"md5:{z.md5}" if z.md5 else None, keep=True)
        for z, path in paths.items()
    ]
    _note_unchecked(jobs, note)
    return jobs


def _note_unchecked(jobs: Sequence[ZipJob], note: Note) -> None:
    names = [job.name for job in jobs if job.checksum is None]
    if names:
        note(
            f"no md5 is known of {', '.join(names)}: checked by length and by the zip's inner checksums only"
        )


def _take_ground_truth(data: Path, dcase: str, source: Path, failed: dict[str, str], fix: str) -> None:
    if not unpack.take_ground_truth(data, dcase, source):
        folder = store.ground_truth_dir(data, dcase)
        failed[GROUND_TRUTH] = f"neither {folder} nor {source} holds any; {fix}"


def _truth_jobs(
    data: Path, dcase: str, wanted: Sequence[Zip], base_url: str | None, failed: dict[str, str]
) -> list[TruthJob]:
    """A job per repository with missing files; none if the folder holds ground truth of another origin."""
    host = (base_url or records.TRUTH_HOST).rstrip("/")
    folder = store.ground_truth_dir(data, dcase)
    machines = {z.machine for z in wanted if z.part == "eval_test"}
    files = [f for f in records.ground_truth(dcase) if f.machine is None or f.machine in machines]
    is_own = any((folder / f.folder).exists() for f in files)
    if ground_truth_there(data, dcase) and (folder.is_symlink() or not is_own):
        return []
    if folder.is_symlink():
        failed[GROUND_TRUTH] = f"{folder} is a link to {folder.resolve()}, which holds none: delete the link"
        return []
    missing: dict[str, list[TruthFile]] = {}
    for f in files:
        if not (folder / f.folder / f.path).exists():
            missing.setdefault(f.repository, []).append(f)

    def row(f: TruthFile) -> tuple[str, Path, str | None]:
        url = f"{host}/{f.repository}/{f.commit}/{f.path}"
        return url, folder / f.folder / f.path, f"sha256:{f.sha256}" if f.sha256 else None

    return [
        TruthJob(f"{GROUND_TRUTH} of {repository}", tuple(map(row, those)))
        for repository, those in missing.items()
    ]


def _name_licences(dcase: str, todo: Sequence[ZipJob | TruthJob], note: Note) -> None:
    if any(isinstance(job, ZipJob) for job in todo):
        note(f"licence of the audio: {records.AUDIO_LICENCE}")
    names = {job.name for job in todo}
    for repository, licence in {f.repository: f.licence for f in records.ground_truth(dcase)}.items():
        if f"{GROUND_TRUTH} of {repository}" in names:
            note(f"licence of the {GROUND_TRUTH} of {repository}: {licence}")


def _check_space(data: Path, dcase: str, todo: Sequence[ZipJob], at_once: int) -> None:
    """Raises ValueError if the disk cannot hold the data, as far as sizes are known."""
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
    """Removes fetched zips whose content is in place, as left by an interrupted call."""
    for z in found:
        if is_fetched(data, z) and not is_kept(data, z):
            if keep:
                mark(data, z, keep=True)
            else:
                remove_zip(data, z)
    remove_empty_folders(zips_folder(data, dcase))
    if not ground_truth_there(data, dcase):
        remove_empty_folders(store.ground_truth_dir(data, dcase))


def _link_tree(
    data: Path, dcase: str, tree: Path, wanted: Sequence[Zip], truth: bool, fix: str
) -> DownloadReport:
    links = unpack.plan_links(data, dcase, tree, _subsets(wanted))
    unpack.make_links(links)
    failed = {
        name: f"not in {store.original_dir(data, dcase, z.subset)}"
        for z in wanted
        for name in missing_folders(data, z)
    }
    if truth:
        _take_ground_truth(data, dcase, tree, failed, fix)
    return DownloadReport(year_folder(data, dcase), tuple(map(str, links)), (), failed)


# ------------------------------------------------------------------------------------------------- jobs


class _Run:
    """Runs jobs in threads; ``failed`` gets the reason of each failure."""

    def __init__(
        self, data: Path, patience: Patience, tell: Callable[[FileProgress], None], failed: dict[str, str]
    ) -> None:
        self.data, self.patience, self.tell, self.failed = data, patience, tell, failed
        self.stop = threading.Event()

    def run(self, todo: Sequence[ZipJob | TruthJob], at_once: int) -> list[str]:
        """Names of the jobs that succeeded; on Ctrl-C, running jobs stop and keep received bytes."""
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(self._run_job, job) for job in todo]
            try:
                return [name for future in as_completed(futures) if (name := future.result())]
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run_job(self, job: ZipJob | TruthJob) -> str | None:
        try:
            self._run_zip(job) if isinstance(job, ZipJob) else self._run_truth(job)
        except (FetchError, ValueError, OSError) as error:
            self.failed[job.name] = str(error)
            self.tell(FileProgress(job.name, "failed", text=str(error)))
            return None
        self.tell(FileProgress(job.name, "done"))
        return job.name

    def _session(self, name: str) -> Session:
        waiting = lambda why: self.tell(FileProgress(name, "waiting", text=why))  # noqa: E731
        return Session(self.patience, self.stop, waiting)

    def _run_zip(self, job: ZipJob) -> None:
        name, z, data, tell = job.name, job.zip, self.data, self.tell
        if job.url is None:
            unpack.check_zip(job.path, z)
        else:
            tell(FileProgress(name, "fetching", 0, job.size))
            if not job.path.exists():
                mark(data, z, fetched=True, keep=job.keep)
            fetch(
                self._session(name),
                job.url,
                job.path,
                size=job.size,
                checksum=job.checksum,
                on_bytes=lambda done, total: tell(FileProgress(name, "fetching", done, total or job.size)),
            )
        facts = {"url": job.url, "size": job.path.stat().st_size, "checksum": job.checksum}
        if job.keep:
            facts["keep"] = True
        try:
            unpacked = unpack.unpack(
                job.path,
                z.machine,
                store.original_dir(data, z.dcase, z.subset),
                stop=self.stop,
                on_ready=lambda: mark(data, z, files=None, **facts),
                on_files=lambda done, total: tell(FileProgress(name, "unpacking", done, total)),
            )
        except ValueError:
            if job.url is not None and job.checksum is None and is_fetched(data, z):
                remove_zip(data, z)  # perhaps the wrong file: the next call fetches again
            raise
        mark(data, z, files=unpacked.files, **facts, kept=unpacked.kept)
        if is_fetched(data, z) and not is_kept(data, z):
            remove_zip(data, z)

    def _run_truth(self, job: TruthJob) -> None:
        session = self._session(job.name)
        missing = []
        for done, (url, path, checksum) in enumerate(job.files):
            self.tell(FileProgress(job.name, "fetching", done, len(job.files)))
            try:
                fetch(session, url, path, checksum=checksum)
            except UnreachableError:
                raise  # the next file would fail, too
            except FetchError as error:
                missing.append(str(error))
            finally:
                for ending in PARTIAL:  # small files, and an incomplete one would pass for ground truth
                    path.with_name(path.name + ending).unlink(missing_ok=True)
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise FetchError(missing[0] + more)
