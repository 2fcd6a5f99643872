"""``asdray download``: a year's official zips and ground truth, fetched, verified, unpacked and marked.

Everything comes to ``<data>/original/<dcase>``; existing data are left alone, so that an interrupted call is
simply repeated. Each file is one job, several jobs run at a time, and a file that cannot be had does not hold
up the others. Zips are verified by size and md5, as far as published, and by their inner checksums.

Conventions: sizes are bytes. Recordings of another origin stay as they are, and nothing is written beside
them; ground truth is fetched for them all the same. A zip is removed only if asdray fetched it.

>>> from pathlib import Path
>>> from asdray.dcase.download import Download
>>> Download(Path("data"), "dcase2023", machines=["bandsaw"], subset="dev").run()
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
    Zip,
    has_ground_truth,
    is_fetched,
    is_in_place,
    is_kept,
    mark,
    missing_folders,
    remove_empty_folders,
    remove_zip,
    year_folder,
    zips_folder,
)
from asdray.dcase.years import SUBSETS, Subset, check_machines, get_year

UNPACKED = 1.5
"""Bytes of recordings per byte of their zip, rounded up."""

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class DownloadReport:
    """Result of `Download.run`.

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


Job = ZipJob | TruthJob


@dataclass
class Download:
    """One download of a year's data to ``<data>/original/<dcase>``: ``Download(data, dcase).run()``.

    Attributes:
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
    """

    data: Path
    dcase: str
    machines: Sequence[str] | None = None
    subset: Subset | None = None
    ground_truth: bool = True
    base_url: str | None = None
    source: Path | None = None
    keep_zips: bool = False
    jobs: int = 4
    patience: Patience = PATIENCE
    on_progress: Callable[[FileProgress], None] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.folder = year_folder(self.data, self.dcase)
        self.brought: list[str] = []
        self.failed: dict[str, str] = {}
        self.stop = threading.Event()

    def run(self) -> DownloadReport:
        """Brings the data; repeat an interrupted call to continue.

        Raises:
            ValueError: unknown year, machine or subset; wrong address or ``source``; a folder with a
                synthetic dataset; a tree to link to beside existing data; too little space.
        """
        wanted = self._wanted()
        self._check_options()
        tree = None
        if self.source is not None:  # before anything is made in the data folder
            missing = [z for z in wanted if not is_in_place(self.data, z)]
            tree = unpack.find_tree(self.source, self.dcase, missing)
            if tree is not None:
                unpack.plan_links(self.data, self.dcase, tree, _subsets(wanted))
        with store.lease(self.folder, lambda: self.on_note("waiting for another process in this folder")):
            found = []
            if tree is not None:
                self._link(tree, wanted)
            else:
                found = [z for z in wanted if is_in_place(self.data, z)]
                self._bring(wanted, found)
        return DownloadReport(
            self.folder, tuple(self.brought), tuple(z.name for z in found), dict(sorted(self.failed.items()))
        )

    # -------------------------------------------------------------------------------------------- plan

    def _wanted(self) -> list[Zip]:
        dcase, subset = self.dcase, self.subset
        names = get_year(dcase).all_machines
        if self.machines is not None:
            names = check_machines(dcase, tuple(self.machines))
        if subset not in (None, *SUBSETS):
            raise ValueError(f"download: the subset is {subset!r}, must be {' or '.join(SUBSETS)}")
        wanted = [z for z in records.zips(dcase) if z.machine in names and subset in (None, z.subset)]
        if not wanted:
            raise ValueError(f"{dcase} has no {subset} data of {', '.join(names)}")
        return wanted

    def _check_options(self) -> None:
        url = self.base_url
        if self.jobs < 1:
            raise ValueError(f"download: jobs is {self.jobs}, must be at least 1")
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"download: the base URL {url!r} must begin with http:// or https://")
        if url is not None and self.source is not None:
            raise ValueError(
                "download: --base-url says where to fetch from, --from fetches nothing: drop one"
            )
        if dataset_kind(self.data, self.dcase) == "synthetic":
            raise ValueError(f"{self.folder} holds a synthetic dataset: choose another --data")

    def _link(self, tree: Path, wanted: Sequence[Zip]) -> None:
        """Links to a tree."""
        links = unpack.plan_links(self.data, self.dcase, tree, _subsets(wanted))
        unpack.make_links(links)
        self.brought += map(str, links)
        for z in wanted:
            for name in missing_folders(self.data, z):
                self.failed[name] = f"not in {store.original_dir(self.data, self.dcase, z.subset)}"
        self._take_ground_truth(tree, wanted)

    def _bring(self, wanted: Sequence[Zip], found: Sequence[Zip]) -> None:
        """Unpacks the missing zips of ``source``, or fetches and unpacks them."""
        missing = [z for z in wanted if z not in found]
        foreign = records.foreign(self.data, missing, records.zips(self.dcase))
        self._leave_alone(foreign)
        missing = [z for z in missing if z not in foreign]
        todo: list[Job] = []
        if self.source is not None:
            zips = self._zips_in(self.source, missing)
            self._take_ground_truth(self.source, wanted)
        else:
            todo += self._truth_jobs(wanted)
            zips = self._published_zips(missing)
        if unchecked := [job.name for job in zips if job.checksum is None]:
            self.on_note(
                f"no md5 is known of {', '.join(unchecked)}: checked by length and by the zip's inner "
                "checksums only"
            )
        todo += zips
        if self.source is None:
            self._note_licences(todo)
        self._check_space(zips)
        self._run_jobs(todo)
        self.brought.sort()
        if self.source is None:
            self._tidy(found)

    def _leave_alone(self, foreign: Sequence[Zip]) -> None:
        """Notes recordings of another origin, which stay; folders without files count as failed."""
        for subset in _subsets(foreign):
            zips = [z for z in foreign if z.subset == subset]
            raw = store.original_dir(self.data, self.dcase, subset)
            link = next(
                (f"; {p} is a link to {p.resolve()}" for p in (raw.parent, raw) if p.is_symlink()), ""
            )
            missing = {name for z in zips for name in missing_folders(self.data, z)}
            present = dict.fromkeys(z.machine for z in zips if f"{subset} {z.machine}" not in missing)
            if present:
                names = ", ".join(present)
                self.on_note(f"left as they are, as somebody else put them into {raw}: {names}{link}")
            why = f"not in {raw}, where somebody else's data are left as they are{link}: "
            self.failed |= dict.fromkeys(missing, f"{why}put it there, or choose another --data")

    def _zips_in(self, source: Path, missing: Sequence[Zip]) -> list[ZipJob]:
        """Jobs for the zips in ``source``; other zips count as failed."""
        paths = unpack.find_zips(source, missing)
        self.failed |= {z.name: f"not in {source}" for z in missing if z not in paths}
        if renamed := [str(path) for z, path in paths.items() if path.name != z.name]:
            self.on_note(f"taken for zips in spite of the ends of their names: {', '.join(renamed)}")
        return [
            ZipJob(z, path, None, path.stat().st_size, f"md5:{z.md5}" if z.md5 else None, keep=True)
            for z, path in paths.items()
        ]

    def _published_zips(self, missing: Sequence[Zip]) -> list[ZipJob]:
        """Jobs with the sizes and checksums of the records' descriptions."""
        host = (self.base_url or records.AUDIO_HOST).rstrip("/")
        stated: dict[str, tuple[int, str]] = {}  # names are unique within a year
        session = Session(dataclasses.replace(self.patience, tries=3))  # few: sizes are not indispensable
        for record in dict.fromkeys(z.record for z in missing):
            url = f"{host}/{records.api_path(record)}"
            unknown = "the record does not tell its files' sizes and checksums"
            try:
                files = session.json_at(url)["files"]
                stated |= {f["key"]: (int(f["size"]), f["checksum"]) for f in files}
            except FetchError as error:
                self.on_note(f"{unknown}: {error}")
            except (KeyError, TypeError, ValueError):
                self.on_note(f"{unknown}: {url} has another form")
        jobs = []
        for z in missing:
            size, checksum = stated.get(z.name, (None, None))
            checksum = f"md5:{z.md5}" if z.md5 is not None else checksum
            if checksum is not None and not checksum.startswith("md5:"):
                checksum = None
            path = zips_folder(self.data, z.dcase) / z.name
            jobs.append(ZipJob(z, path, f"{host}/{z.path}", size, checksum, self.keep_zips))
        return jobs

    def _take_ground_truth(self, source: Path, wanted: Sequence[Zip]) -> None:
        if not self._wants_truth(wanted) or unpack.take_ground_truth(self.data, self.dcase, source):
            return
        command = hint("download", self.dcase, self.data)
        if self.machines is not None:
            command += f" --machines {','.join(self.machines)}"
        if self.subset is not None:
            command += f" --subset {self.subset}"
        folder = store.ground_truth_dir(self.data, self.dcase)
        self.failed[GROUND_TRUTH] = f"neither {folder} nor {source} holds any; `{command}` fetches it"

    def _wants_truth(self, wanted: Sequence[Zip]) -> bool:
        return self.ground_truth and any(z.part == "eval_test" for z in wanted)

    def _truth_jobs(self, wanted: Sequence[Zip]) -> list[TruthJob]:
        """A job per repository with missing files; none beside ground truth of another origin."""
        host = (self.base_url or records.TRUTH_HOST).rstrip("/")
        folder = store.ground_truth_dir(self.data, self.dcase)
        machines = {z.machine for z in wanted if z.part == "eval_test"}
        files = [f for f in records.ground_truth(self.dcase) if f.machine is None or f.machine in machines]
        is_own = any((folder / f.folder).exists() for f in files)
        if not self._wants_truth(wanted):
            return []
        if has_ground_truth(self.data, self.dcase) and (folder.is_symlink() or not is_own):
            return []
        if folder.is_symlink():
            why = f"{folder} is a link to {folder.resolve()}, which holds none: delete the link"
            self.failed[GROUND_TRUTH] = why
            return []
        missing: dict[str, list[tuple[str, Path, str | None]]] = {}
        for f in files:
            path = folder / f.folder / f.path
            if not path.exists():
                url = f"{host}/{f.repository}/{f.commit}/{f.path}"
                row = (url, path, f"sha256:{f.sha256}" if f.sha256 else None)
                missing.setdefault(f.repository, []).append(row)
        return [TruthJob(f"{GROUND_TRUTH} of {name}", tuple(rows)) for name, rows in missing.items()]

    def _note_licences(self, todo: Sequence[Job]) -> None:
        if any(isinstance(job, ZipJob) for job in todo):
            self.on_note(f"licence of the audio: {records.AUDIO_LICENCE}")
        names = {job.name for job in todo}
        for repository, licence in {
            f.repository: f.licence for f in records.ground_truth(self.dcase)
        }.items():
            if f"{GROUND_TRUTH} of {repository}" in names:
                self.on_note(f"licence of the {GROUND_TRUTH} of {repository}: {licence}")

    def _check_space(self, zips: Sequence[ZipJob]) -> None:
        """Raises ValueError if the disk cannot hold the data, as far as sizes are known."""
        fetched = sorted((j.size or 0 for j in zips if j.url is not None), reverse=True)
        at_once = len(fetched) if self.keep_zips else self.jobs
        needed = UNPACKED * sum(j.size or 0 for j in zips) + sum(fetched[:at_once])
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"{self.dcase} needs about {needed / 1e9:.1f} GB more in {self.folder}, where "
                f"{free / 1e9:.1f} GB are free: make space, choose another --data, or take less with "
                "--machines or --subset"
            )

    def _tidy(self, found: Sequence[Zip]) -> None:
        """Removes fetched zips whose content is in place, as left by an interrupted call."""
        for z in found:
            if is_fetched(self.data, z) and not is_kept(self.data, z):
                if self.keep_zips:
                    mark(self.data, z, keep=True)
                else:
                    remove_zip(self.data, z)
        remove_empty_folders(zips_folder(self.data, self.dcase))
        if not has_ground_truth(self.data, self.dcase):
            remove_empty_folders(store.ground_truth_dir(self.data, self.dcase))

    # -------------------------------------------------------------------------------------------- jobs

    def _run_jobs(self, todo: Sequence[Job]) -> None:
        """Runs jobs in threads; on Ctrl-C, running jobs stop and keep received bytes."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run_job, job) for job in todo]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run_job(self, job: Job) -> None:
        try:
            if isinstance(job, ZipJob):
                self._run_zip(job)
            else:
                self._run_truth(job)
        except (FetchError, ValueError, OSError) as error:
            self.failed[job.name] = str(error)
            self.on_progress(FileProgress(job.name, "failed", text=str(error)))
        else:
            self.brought.append(job.name)
            self.on_progress(FileProgress(job.name, "done"))

    def _session(self, job: Job) -> Session:
        def waiting(why: str) -> None:
            self.on_progress(FileProgress(job.name, "waiting", text=why))

        return Session(self.patience, self.stop, waiting)

    def _run_zip(self, job: ZipJob) -> None:
        z, data = job.zip, self.data
        if job.url is None:
            unpack.check_zip(job.path, z)
        else:
            self._fetch_zip(job, job.url)
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
                on_files=lambda done, total: self.on_progress(FileProgress(z.name, "unpacking", done, total)),
            )
        except ValueError:
            if job.url is not None and job.checksum is None and is_fetched(data, z):
                remove_zip(data, z)  # perhaps the wrong file: the next call fetches again
            raise
        mark(data, z, files=unpacked.files, **facts, kept=unpacked.kept)
        if is_fetched(data, z) and not is_kept(data, z):
            remove_zip(data, z)

    def _fetch_zip(self, job: ZipJob, url: str) -> None:
        def receiving(done: int, total: int | None) -> None:
            self.on_progress(FileProgress(job.name, "fetching", done, total or job.size))

        receiving(0, job.size)
        if not job.path.exists():
            mark(self.data, job.zip, fetched=True, keep=job.keep)
        session = self._session(job)
        fetch(session, url, job.path, size=job.size, checksum=job.checksum, on_bytes=receiving)

    def _run_truth(self, job: TruthJob) -> None:
        session = self._session(job)
        missing = []
        for done, (url, path, checksum) in enumerate(job.files):
            self.on_progress(FileProgress(job.name, "fetching", done, len(job.files)))
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


def _subsets(zips: Sequence[Zip]) -> tuple[Subset, ...]:
    return tuple(dict.fromkeys(z.subset for z in zips))
