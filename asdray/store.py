"""Where everything is, and whether it is done: identity -> path, markers, atomic writes, leases.

The only module that builds paths under ``--data`` and ``--results``. It knows nothing of what the files
hold. Imports neither torch, ray nor pandas, so that planning a thousand trials costs no start-up time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from asdray import provenance
from asdray.config.base import text_of
from asdray.leases import is_leased as is_leased
from asdray.leases import lease as lease

if TYPE_CHECKING:
    import pyarrow as pa

    from asdray.config.trial import Trial

MARKER_FORMAT = 1

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
        data = Path(data).expanduser().absolute()
        return cls(
            data,
            Path(results).expanduser().absolute(),
            Path(cache).expanduser().absolute() if cache else data / "cache",
        )


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


def pack_dir(cache: Path, dcase: str, machine: str, split: str) -> Path:
    """The folder of one audio pack."""
    return cache / dcase / machine / split


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
    return _trial_dir(results, trial.dcase, trial.system_name, trial.seed)


@functools.lru_cache(maxsize=16)  # planning asks dozens of times for one trial before it comes to the next
def _trial_dir(results: Path, dcase: str, system: str, seed: int) -> TrialDir:
    return TrialDir(results / f"trials/{dcase}/{system}/seed{seed}")


def sweep_dir(results: Path, name: str) -> Path:
    """The folder of a sweep: its spec, trials, events, tables and leaderboard."""
    return results / "sweeps" / name


def sweep_dirs(results: Path) -> list[Path]:
    """The folders of all sweeps that were run, by name."""
    return sorted(path.parent for path in (results / "sweeps").glob("*/sweep.yaml"))


def trial_dirs(results: Path) -> list[TrialDir]:
    """The folders of all trials below ``results``, sorted."""
    return [TrialDir(path.parent) for path in sorted(results.glob("trials/*/*/seed*/trial.json"))]


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
    def status(self) -> Path:
        """Progress of the run, for ``asdray status``."""
        return self.root / "status.json"

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

    The temporary name keeps the suffix, since several libraries choose the format by it. The content
    is flushed to disk before the rename, so a crash leaves the old file or the new one, never half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{os.getpid()}-{time.monotonic_ns()}-{path.name}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` atomically as indented JSON (NaN is an error: missing is null)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value at ``path``.

    Raises:
        ValueError: missing or damaged file, with its name.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run the command again") from None


def read_parquet(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """The Parquet table at ``path``.

    Args:
        columns: the columns to read; all by default.

    Raises:
        ValueError: missing or damaged file, with its name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:  # not `pq.read_table`: it imports pandas, and reads a folder `seed=0` in the path as a column
        return pq.ParquetFile(str(path)).read(None if columns is None else list(columns))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it and run the command that wrote it again"
        ) from None


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Writes ``table`` atomically; ``options`` are those of `pyarrow.parquet.write_table`."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, **options)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_leftovers(folder: Path, name: str = "*") -> None:
    """Removes temporary files of ``name`` (all) that a killed process left in ``folder``.

    Call it under the lease of whatever writes files of that name there.
    """
    for path in folder.glob(f".tmp-*-{name}"):
        path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- markers


@dataclass(frozen=True)
class Marker:
    """The record of one finished stage, ``.done/<stage>[-<backend id>].json``.

    ``inputs`` maps each stage that was read to the `digest` of its marker; ``outputs`` maps file names
    relative to the marker's folder to size and sha256. Those in ``dropped`` may be gone, or half there:
    the stage counts as done all the same, as long as nothing is to read them (`asdray.stages.kept`).
    """

    stage: str
    signature: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, Any]]
    seconds: float
    finished: str
    device: str
    versions: Mapping[str, str | None]
    extra: Mapping[str, Any]
    dropped: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the outputs' content: equal digests mean that a reader would read the same bytes.

        That of ``{name: sha256}`` as ``json.dumps`` writes it with sorted keys, at a third of its time.
        """
        content = [f'{text_of(name)}: "{entry["sha256"]}"' for name, entry in sorted(self.outputs.items())]
        return hashlib.sha256(f"{{{', '.join(content)}}}".encode()).hexdigest()


_FIELDS = {field.name for field in fields(Marker)}


def marker_name(stage: str, backend: str | None = None) -> str:
    """A stage's marker, relative to the folder in which its outputs lie."""
    return f".done/{stage}-{backend}.json" if backend else f".done/{stage}.json"


def marker_path(folder: Path, stage: str, backend: str | None = None) -> Path:
    """The marker of a stage whose outputs lie in ``folder``."""
    return folder / marker_name(stage, backend)


def marked_backends(folder: Path, stage: str) -> list[str]:
    """The backends of which there is a marker of ``stage``, read or not."""
    try:
        names = sorted(os.listdir(f"{folder}/.done"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    start, end = f"{stage}-", ".json"
    return [n[len(start) : -len(end)] for n in names if n.startswith(start) and n.endswith(end)]


def read_marker(folder: Path, stage: str, backend: str | None = None) -> Marker | None:
    """The marker of a stage, or None where there is none that this version can read."""
    try:
        raw = from_json(_read(f"{folder}/{marker_name(stage, backend)}"))
        if raw.pop("format") != MARKER_FORMAT:
            return None
        raw["dropped"] = tuple(raw.get("dropped", ()))
        if raw.keys() != _FIELDS:
            return None
        marker = object.__new__(Marker)
        marker.__dict__.update(raw)  # a frozen dataclass's own way takes five times as long
        return marker
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        # A damaged marker proves nothing: the stage simply counts as not done and runs again.
        return None


def _read(path: str) -> bytes:
    """A small file; in half the time that ``open`` takes, which counts for a hundred thousand markers."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = more = os.read(descriptor, 1 << 16)
        while len(more) == 1 << 16:  # else that was all of it
            more = os.read(descriptor, 1 << 16)
            data += more
    finally:
        os.close(descriptor)
    return data


def done(
    folder: Path,
    stage: str,
    signature: str,
    inputs: Mapping[str, str] | None = None,
    backend: str | None = None,
) -> Marker | None:
    """The stage's marker if it is done, else None.

    Done = the marker holds the signature asked for now and was made from the same input bytes, and its
    outputs exist with the sizes it names, but for those that it says were dropped.
    """
    marker = read_marker(folder, stage, backend)
    if marker is None or marker.signature != signature or marker.inputs != (inputs or {}):
        return None
    for name, entry in marker.outputs.items():
        try:
            if name not in marker.dropped and os.stat(f"{folder}/{name}").st_size != entry["size"]:
                return None
        except OSError:
            return None
    return marker


def begin(folder: Path, stage: str, outputs: Iterable[Path], backend: str | None = None) -> None:
    """Forgets that a stage was done, before the first of its ``outputs`` is replaced; under its lease.

    Without this a process killed between two outputs would leave an old marker beside new content, which
    could pass for done: files of equal shape have equal sizes. A marker whose outputs were all dropped
    promises no content, and stays: what was made of them is valid while they are made again.
    """
    marker = read_marker(folder, stage, backend)
    if marker is None or not marker.dropped or set(marker.outputs) - set(marker.dropped):
        marker_path(folder, stage, backend).unlink(missing_ok=True)
    for path in outputs:
        sweep_leftovers(path.parent, path.name)


def mark_done(
    folder: Path,
    stage: str,
    signature: str,
    *,
    outputs: Iterable[Path],
    started: float,
    inputs: Mapping[str, str] | None = None,
    backend: str | None = None,
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
) -> Marker:
    """Writes the stage's marker, after its outputs were renamed into place.

    Args:
        outputs: files below ``folder``.
        started: ``time.time()`` when the stage's work began (used for ``seconds``).
        device: what computed it, ``cpu`` or for example ``cuda:NVIDIA H200``.
        extra: anything that a later reader wants to know (losses, counts, label sources).
    """
    marker = Marker(
        stage=stage,
        signature=signature,
        inputs=dict(inputs or {}),
        outputs={
            str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(outputs)
        },
        seconds=round(time.time() - started, 3),
        finished=provenance.now(),
        device=device,
        versions=provenance.versions(),
        extra=dict(extra or {}),
    )
    write_marker(folder, marker, backend)
    return marker


def write_marker(folder: Path, marker: Marker, backend: str | None = None) -> None:
    """Replaces the marker of a stage; under its lease."""
    content = {field.name: getattr(marker, field.name) for field in fields(marker)}
    write_json(marker_path(folder, marker.stage, backend), {"format": MARKER_FORMAT, **content})
