"""Files below ``--data`` and ``--results``: paths, atomic writes, leases, and records of finished stages.

This is the only module that builds paths. It does not know what the files hold, and imports neither torch,
ray nor pandas, so that planning a thousand trials costs no start-up time.

A stage counts as complete because of its `Record` in the ``done.json`` of its folder. The record is written
after the last output and removed before the first output is replaced, so that a killed process never leaves
a record beside content that the record does not describe.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from asdray import alive, provenance
from asdray.aside import move_aside
from asdray.file_locks import NO_LOCKS, check_locks
from asdray.full_disk import raise_storage_fault, storage_fault_named
from asdray.home import expanded
from asdray.links import refuse_planted
from asdray.notes import tell
from asdray.record import FORMAT, Done, Output, Record, Summary
from asdray.regular import open_regular

if TYPE_CHECKING:
    import pyarrow as pa

    from asdray.config.trial import Trial

# ---------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Places:
    """The three roots that a run reads and writes. ``cache`` may be local to a node."""

    data: Path
    results: Path
    cache: Path

    @classmethod
    def of(cls, data: str | Path, results: str | Path, cache: str | Path | None = None) -> Places:
        """Absolute roots (workers change their working directory); ``cache`` defaults to ``<data>/cache``."""
        roots = (data, results, cache or Path(data) / "cache")
        return cls(*(expanded(root).absolute() for root in roots))


def original_dir(data: Path, dcase: str, subset: str) -> Path:
    """``<data>/original/<dcase>/{dev,eval}_data/raw``: machines as the organisers ship them."""
    return data / "original" / dcase / f"{subset}_data" / "raw"


def ground_truth_dir(data: Path, dcase: str) -> Path:
    """Where ``synth`` and ``download`` put the ground truth and ``format`` looks for it."""
    return data / "original" / dcase / "ground_truth"


def formatted_dir(data: Path, dcase: str) -> Path:
    """``<data>/formatted/<dcase>``: the unified tree under ``raw/``, and the manifest."""
    return data / "formatted" / dcase


def manifest_path(data: Path, dcase: str) -> Path:
    """``clips.parquet`` of a year."""
    return formatted_dir(data, dcase) / "clips.parquet"


def dataset_path(data: Path, dcase: str) -> Path:
    """``dataset.json`` of a year: kind, ids, counts; all that planning needs."""
    return formatted_dir(data, dcase) / "dataset.json"


def pack_dir(cache: Path, dcase: str, machine: str, split: str, channel: str = "") -> Path:
    """The folder of one audio pack; ``channel``: of a channel that is computed, ``""`` for the recordings."""
    return cache / dcase / machine / (f"{split}-{channel}" if channel else split)


def checkpoint_name(ckpt: str) -> str:
    """A checkpoint's file, relative to the folder of its unit."""
    return f"checkpoints/{ckpt}.ckpt"


@dataclass(frozen=True)
class TrialDir:
    """Every path of one trial, ``<results>/trials/<dcase>/<recipe>-<system8>/seed<k>``."""

    root: Path

    @property
    def trial_json(self) -> Path:
        return self.root / "trial.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.parquet"

    @property
    def is_of_release_0_1(self) -> bool:
        """True if release 0.1 wrote the trial: it kept a folder of markers in place of ``done.json``."""
        return any(self.root.glob("model/*/.done"))

    def plugin(self, sha256: str, suffix: str = ".py") -> Path:
        """The trial's copy of a plugin: a file, or a folder without suffix."""
        return self.root / "plugins" / f"{sha256[:16]}{suffix}"

    def model(self, unit: str) -> Path:
        return self.root / "model" / unit

    def checkpoint(self, unit: str, ckpt: str) -> Path:
        return self.model(unit) / checkpoint_name(ckpt)

    @property
    def outputs(self) -> Path:
        return self.root / "output"

    def output(self, ckpt: str) -> Path:
        return self.root / f"output/{ckpt}"

    def machine(self, ckpt: str, machine: str) -> Path:
        return self.root / f"output/{ckpt}/{machine}"

    def extract(self, ckpt: str, machine: str, split: str) -> Path:
        return self.machine(ckpt, machine) / f"{split}_extract.parquet"

    def clusters(self, ckpt: str, machine: str, clustering: str) -> Path:
        return self.machine(ckpt, machine) / "clusters" / f"{clustering}.parquet"

    @property
    def clustering(self) -> Path:
        """Leased while the trial's embeddings are made and clustered for another trial; holds no outputs."""
        return self.root / "clustering"

    def scores(self, ckpt: str, machine: str, backend: str) -> Path:
        return self.machine(ckpt, machine) / "scores" / f"{backend}.parquet"

    def score_view(self, ckpt: str, machine: str, split: str) -> Path:
        return self.machine(ckpt, machine) / f"{split}_score.csv"

    def evaluate(self, ckpt: str, machine: str) -> Path:
        return self.machine(ckpt, machine) / "test_evaluate.csv"

    def umap(self, ckpt: str, machine: str) -> Path:
        return self.machine(ckpt, machine) / "umap"


def trial_dir(results: Path, trial: Trial) -> TrialDir:
    """The folder of a trial."""
    return named_trial_dir(results, trial.dcase, trial.system_name, trial.seed)


@functools.lru_cache(maxsize=16)  # planning asks dozens of times for one trial before it comes to the next
def named_trial_dir(results: Path, dcase: str, system: str, seed: int) -> TrialDir:
    """The folder of the trial of a system, ``<recipe>-<hash>``."""
    return TrialDir(results / f"trials/{dcase}/{system}/seed{seed}")


def results_of_year(results: Path, dcase: str) -> Path:
    """The folder of all trials of a year."""
    return results / "trials" / dcase


def sweep_dir(results: Path, name: str) -> Path:
    """The folder of a sweep: its spec, trials, events, tables and leaderboard."""
    return results / "sweeps" / name


def sweep_dirs(results: Path) -> list[Path]:
    """The folders of all sweeps that were run, by name."""
    return sorted(path.parent for path in (results / "sweeps").glob("*/sweep.yaml"))


def source_archive(results: Path, source_id: str) -> Path:
    """The source of asdray that made results, as a zip file; see `asdray.source`."""
    return results / "sources" / f"{source_id}.zip"


def plugin_facts(root: Path) -> Path:
    """Descriptions of the configurations of a trial's or sweep's plugins, for reading without their code."""
    return root / "plugins.json"


@dataclass(frozen=True)
class SweepDir:
    """Every file in the folder of a sweep, ``<results>/sweeps/<name>``."""

    root: Path

    @property
    def spec(self) -> Path:
        """The sweep file with every default written out."""
        return self.root / "sweep.yaml"

    @property
    def trials(self) -> Path:
        """One row per trial: swept options, status, seconds, folder."""
        return self.root / "trials.parquet"

    @property
    def events(self) -> Path:
        """One line per finished or failed stage."""
        return self.root / "events.jsonl"

    @property
    def study(self) -> Path:
        """The samples of a search, in Optuna's journal format."""
        return self.root / "study.journal"

    @property
    def study_check(self) -> Path:
        """Size and sha256 of the samples as they were written."""
        return self.root / "study.journal.sha256"

    @property
    def status(self) -> Path:
        """Progress of the run, for ``asdray status``."""
        return self.root / "status.json"

    @property
    def running(self) -> Path:
        """The folder of the signs of life of running steps; absent after a run."""
        return self.root / "running"

    @property
    def hangs(self) -> Path:
        """The folder of the stacks of workers that gave no sign of life."""
        return self.root / "hangs"

    @property
    def tune_logs(self) -> Path:
        """The folder of Ray Tune's own logs, one subfolder per run."""
        return self.root / "tune"

    def tensorboard(self, title: str) -> Path:
        """The link to a model of a trial, by the trial's name for people, which TensorBoard shows."""
        return self.root / "tensorboard" / title.replace("/", "-")

    @property
    def selection(self) -> Path:
        """One row per system, backend and checkpoint of a search."""
        return self.root / "selection.csv"

    @property
    def tables(self) -> Path:
        """The folder of the tables of every year and subset."""
        return self.root / "tables"

    def leaderboard(self, suffix: str = "csv", metric: str = "official") -> Path:
        """The leaderboard as ``csv``, ``parquet``, ``md`` or ``tex``, by default of the official score."""
        return self.root / f"leaderboard{'' if metric == 'official' else f'-{metric}'}.{suffix}"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def picture(self, kind: str, suffix: str) -> Path:
        return self.root / f"{kind}.{suffix}"

    def beside_published(self, suffix: str) -> Path:
        """The sweep's scores beside published scores, as ``csv`` or ``md``."""
        return self.root / f"beside_published.{suffix}"

    def replaceable(self) -> list[Path]:
        """Existing tables, leaderboards of other metrics and `beside_published`: all may be out of date."""
        patterns = ("tables/*.csv", "leaderboard-*", "beside_published.*")
        return [path for pattern in patterns for path in self.root.glob(pattern)]

    def ensemble_metrics(self) -> list[Path]:
        """The evaluation rows of every ensemble of the sweep."""
        return sorted(self.root.glob("ensembles/*/*/*/*/metrics.parquet"))


def ensembles_dir(results: Path, sweep: str) -> Path:
    """Everything of a sweep's ensembles."""
    return sweep_dir(results, sweep) / "ensembles"


def ensemble_dir(
    results: Path, sweep: str, system: str, ckpt: str, backend: str, dcase: str, seed: int | None
) -> Path:
    """The folder of one ensemble: of one seed's trials, or (None) of trials of all seeds."""
    name = "seeds" if seed is None else f"seed{seed}"
    return ensembles_dir(results, sweep) / system / f"{ckpt}-{backend}" / dcase / name


def ensemble_metrics(folder: Path) -> Path:
    """The evaluation rows of one ensemble."""
    return folder / "metrics.parquet"


# ------------------------------------------------------------------------------------- atomic writing


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an exception.

    The temporary name keeps the suffix, by which libraries choose the format. The content is flushed to disk
    before the rename, and the rename before the block ends: a crash leaves the old file or the new one, never
    half, and a later file never without an earlier one. A folder in the file's place is moved aside.
    """
    refuse_planted(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{os.getpid()}-{time.monotonic_ns()}-{path.name}"
    try:
        with storage_fault_named(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            try:
                os.replace(temporary, path)
            except IsADirectoryError:
                move_aside(path)
                os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` atomically as indented JSON (NaN is an error: missing is null)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, kind: Any = Any) -> Any:
    """The JSON value at ``path``.

    Args:
        kind: the type of the value, which is checked: a dataclass, or a type such as ``dict[str, int]``.

    Raises:
        ValueError: missing or damaged file, or a value of another kind; with the file's name.
    """
    try:
        with open_regular(path, buffered=False) as file:
            return _checked_by(kind).validate_json(file.read(), strict=True)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): move it away") from None
    except ValueError as error:
        again = "delete it and run the command again"
        raise ValueError(f"{path} is damaged ({_fault(error)}): {again}") from None


@functools.cache
def _checked_by(kind: Any) -> TypeAdapter[Any]:
    """The check of a JSON value; slow to make."""
    return TypeAdapter(kind)


def _fault(error: ValueError) -> str:
    """The first fault of a JSON value, with its place."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Writes ``table`` atomically; ``options`` are those of `pyarrow.parquet.write_table`."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, **options)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_leftovers(folder: Path, name: str = "*") -> None:
    """Removes temporary files of ``name`` (all) that a killed process left; call it under their lease."""
    for path in folder.glob(f".tmp-*-{name}"):
        path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- leases


@contextlib.contextmanager
def lease(folder: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds ``folder`` for this process, and waits while another process (of any sweep) holds it.

    A lease is a kernel file lock: the kernel frees the lock of a killed process at once. Leases work on local
    disks and on network file systems with POSIX locks.

    Args:
        on_wait: called once if another process holds the lease at first.

    Raises:
        ValueError: the file system has no locks, or another user has planted a link (see `asdray.links`).
    """
    refuse_planted(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ".lease").is_dir():
        move_aside(folder / ".lease")
    lock = FileLock(folder / ".lease")
    try:
        check_locks(folder / ".lease")
        try:
            # `is_leased` holds the lock for a moment: a short wait is not worth an `on_wait`.
            lock.acquire(timeout=0.1, poll_interval=0.02)
        except Timeout:
            if on_wait:
                on_wait()
            while not lock.is_locked:
                alive.sign()
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=1.0)
    except (NotImplementedError, OSError) as error:
        raise_storage_fault(error, folder)
        fix = "mount it with file locks (Lustre: -o flock), or choose another folder"
        text = f"cannot lock {folder} ({error}): {fix}"
        raise ValueError(text) from error
    try:
        yield
    finally:
        lock.release()


def is_leased(folder: Path) -> bool:
    """True while a process holds the lease of ``folder``; creates and changes nothing."""
    try:
        with open(folder / ".lease", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return False


# -------------------------------------------------------------------------------------------- records

EPOCHS_FILE, LOG_FILE = "metrics.csv", "train.log"
"""Files in the folder of a unit's model: one line per epoch; messages of the training."""

RECORDS = "done.json"


def record_name(stage: str, backend: str | None = None) -> str:
    """The key of a stage in ``done.json``: ``extract``, ``score-knn-1a2b3c4d``."""
    return f"{stage}-{backend}" if backend else stage


def read_records(folder: Path) -> dict[str, Record]:
    """The records in a folder by `record_name`; empty if there is no readable ``done.json``.

    A damaged file, or a file of another version, proves nothing: its stages count as missing and run again.
    """
    done = _read_done(folder)
    return done.records if done else {}


def read_record(folder: Path, name: str) -> Record | None:
    """The record under a `record_name`, or None."""
    return read_records(folder).get(name)


def _read_done(folder: Path) -> Done | None:
    """The content of ``done.json``; None if the file is missing, damaged or of another format."""
    try:
        return check_records(folder)
    except ValueError as error:
        tell(f"{folder}/{RECORDS} is damaged ({error}): its stages count as missing")
        return None


def check_records(folder: Path) -> Done | None:
    """The content of ``done.json``; None without the file.

    Raises:
        ValueError: the file is damaged or of another format; without its name.
    """
    try:
        with open_regular(f"{folder}/{RECORDS}", buffered=False) as file:
            return _checked_by(Done).validate_json(file.read(), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(_fault(error)) from None


def write_record(folder: Path, name: str, record: Record | None) -> None:
    """Replaces the record of one stage (None: removes the record); call it under the folder's lease."""
    records = read_records(folder)
    if record is None and name not in records:
        return
    records.pop(name, None)
    if record is not None:
        records[name] = record
    sweep_leftovers(folder, RECORDS)
    content = {name: asdict(one) for name, one in sorted(records.items())}
    write_json(folder / RECORDS, {"format": FORMAT, "records": content})


def read_summary(folder: Path) -> Summary | None:
    """The summary of a complete trial beside the record of its table, or None."""
    done = _read_done(folder)
    return done.summary if done and isinstance(done.summary, Summary) else None


def write_summary(folder: Path, summary: Summary) -> None:
    """Adds a summary to the records of a trial's folder, under its lease; any new record removes it."""
    sweep_leftovers(folder, RECORDS)
    records = {name: asdict(one) for name, one in read_records(folder).items()}
    write_json(folder / RECORDS, {"format": FORMAT, "records": records, "summary": asdict(summary)})


def forget(folder: Path, name: str, outputs: Iterable[Path]) -> None:
    """Removes the record of a stage before the first of its ``outputs`` is replaced; under its lease.

    Otherwise a process that is killed between two outputs would leave an old record beside new content of
    equal size. A record whose outputs were all pruned promises no content, and stays: results that were
    computed from these outputs remain valid while the outputs are rebuilt.
    """
    record = read_record(folder, name)
    if record is not None and (not record.pruned or set(record.outputs) - set(record.pruned)):
        write_record(folder, name, None)
    for path in outputs:
        sweep_leftovers(path.parent, path.name)


def finish(
    folder: Path,
    name: str,
    signature: str,
    *,
    outputs: Iterable[Path],
    started: float,
    inputs: Mapping[str, str] | None = None,
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
) -> Record:
    """Writes the record of a stage after its outputs were renamed into place; under its lease.

    Args:
        name: `record_name` of the stage.
        outputs: files below ``folder``.
        started: ``time.time()`` at the beginning of the stage.
    """
    written = {
        str(path.relative_to(folder)): Output(path.stat().st_size, sha256_file(path))
        for path in sorted(outputs)
    }
    content = json.dumps({name: output.sha256 for name, output in written.items()}, sort_keys=True)
    record = Record(
        signature=signature,
        inputs=dict(inputs or {}),
        outputs=written,
        digest=hashlib.sha256(content.encode()).hexdigest(),
        seconds=round(max(0.0, time.time() - started), 3),  # a clock may be set back
        finished=provenance.now(),
        device=device,
        versions=dict(provenance.versions()),
        extra=dict(extra or {}),
    )
    write_record(folder, name, record)
    return record
