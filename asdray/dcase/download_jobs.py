"""The work of a download: every zip fetched or taken, verified, unpacked and marked; several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asdray import store
from asdray.dcase.fetch import FetchError, Patience, UnreachableError, fetch, new_session
from asdray.dcase.local import check_zip
from asdray.dcase.placed import PARTIAL, is_fetched, is_kept, mark, remove_zip
from asdray.dcase.records import Zip
from asdray.dcase.unpack import unpack


@dataclass(frozen=True)
class Step:
    """News of one file.

    Attributes:
        name: a zip, or ``ground truth of <repository>``.
        state: ``done`` and ``failed`` come last, once.
        done, total: bytes while a zip is fetched, else files.
        text: why it waits or has failed.
    """

    name: str
    state: Literal["fetching", "waiting", "unpacking", "done", "failed"]
    done: int = 0
    total: int | None = None
    text: str = ""


Tell = Callable[[Step], None]


@dataclass(frozen=True)
class ZipJob:
    """A zip to unpack.

    Attributes:
        path: where it lies, or comes to lie.
        url: None if it lies in a folder of the user's.
        size: bytes, None if unknown.
        checksum: ``md5:...``, None if unknown.
        keep: whether it stays when it is unpacked. One that asdray did not fetch stays in any case.
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
    """The ground truth from one repository: address, place and checksum of every file."""

    name: str
    files: tuple[tuple[str, Path, str | None], ...]


Job = ZipJob | TruthJob


def run(
    todo: Sequence[Job],
    data: Path,
    at_once: int,
    patience: Patience,
    tell: Tell,
    brought: list[str],
    failed: dict[str, str],
) -> None:
    """Does the jobs, ``at_once`` at a time; on Ctrl-C they stop where they are."""
    stop = threading.Event()

    def do(job: Job) -> None:
        try:
            if isinstance(job, ZipJob):
                _do_zip(job, data, patience, stop, tell)
            else:
                _do_truth(job, patience, stop, tell)
        except (FetchError, ValueError, OSError) as error:
            failed[job.name] = str(error)
            tell(Step(job.name, "failed", text=str(error)))
        else:
            brought.append(job.name)
            tell(Step(job.name, "done"))

    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(do, job) for job in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _do_zip(job: ZipJob, data: Path, patience: Patience, stop: threading.Event, tell: Tell) -> None:
    name, z = job.name, job.zip
    if job.url is None:
        check_zip(job.path, z)
    else:
        tell(Step(name, "fetching", 0, job.size))
        if not job.path.exists():
            mark(data, z, fetched=True, keep=job.keep)
        fetch(
            new_session(),
            job.url,
            job.path,
            size=job.size,
            checksum=job.checksum,
            patience=patience,
            stop=stop,
            on_bytes=lambda done, total: tell(Step(name, "fetching", done, total or job.size)),
            on_wait=lambda why: tell(Step(name, "waiting", text=why)),
        )
    facts = {"url": job.url, "size": job.path.stat().st_size, "checksum": job.checksum}
    if job.keep:
        facts["keep"] = True
    try:
        unpacked = unpack(
            job.path,
            z.machine,
            store.original_dir(data, z.dcase, z.subset),
            stop=stop,
            on_ready=lambda: mark(data, z, files=None, **facts),
            on_files=lambda done, total: tell(Step(name, "unpacking", done, total)),
        )
    except ValueError:
        if job.url is not None and job.checksum is None and is_fetched(data, z):
            remove_zip(data, z)  # nothing says that this is the right file: the next call fetches it again
        raise
    mark(data, z, files=unpacked.files, **facts, kept=unpacked.kept)
    if is_fetched(data, z) and not is_kept(data, z):
        remove_zip(data, z)


def _do_truth(job: TruthJob, patience: Patience, stop: threading.Event, tell: Tell) -> None:
    session = new_session()
    missing = []
    for done, (url, path, checksum) in enumerate(job.files):
        tell(Step(job.name, "fetching", done, len(job.files)))
        try:
            fetch(
                session,
                url,
                path,
                checksum=checksum,
                patience=patience,
                stop=stop,
                on_wait=lambda why: tell(Step(job.name, "waiting", text=why)),
            )
        except UnreachableError:
            raise  # the next file would fare no better
        except FetchError as error:
            missing.append(str(error))
        finally:
            for ending in PARTIAL:  # small files, and half a one would pass for ground truth
                path.with_name(path.name + ending).unlink(missing_ok=True)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FetchError(missing[0] + more)
