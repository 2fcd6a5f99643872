"""Audio packs: all clips of a machine's split, decoded once into one memory-mapped file.

A pack belongs to a split's id in ``dataset.json`` and is built under a lock: processes that start together
build the pack once and share it through the page cache. The pack's folder holds

* ``samples-<id>.npy``: the clips one after another, native length, ``(frames, channels) int16``;
* ``pack.json``, written last: id, file, sample rate, clip keys, and frames and checksum per clip.

A channel that is computed from two microphones (`asdray.audio.microphones`) has packs of its own, in folders
beside the others: ``(frames, 1) float32``, and an id that depends on the channel and on its formula.

Conventions: int16 has full scale 32768, float32 full scale 1; lengths are frames (samples per channel).
Labels and domains of test clips are not part of a pack.

The checksum is CRC-32: a process compares the clips of every pack once, before the first clip is used, and
CRC-32 takes a seventh of the time of SHA-256 on a CPU without instructions for SHA (1.5 against 0.2 GB/s).

>>> import tempfile
>>> from asdray.audio.cache import ensure_pack
>>> from asdray.dcase.format import format_dataset
>>> from asdray.dcase.synth import synthesise
>>> from asdray.store import Places
>>> with tempfile.TemporaryDirectory() as folder:
...     places = Places.of(folder, folder)
...     made = synthesise(places.data, "dcase2023", machines=["fan"], train=4, test=4, seconds=0.5)
...     report = format_dataset(places.data, "dcase2023")
...     pack = ensure_pack(places, "dcase2023", "fan", "train")
>>> len(pack), pack.clip(0).shape
(4, (8000, 1))
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import tokenize
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from asdray import alive, notes, store
from asdray.config.audio import FORMULAS
from asdray.config.base import digest
from asdray.dcase import manifest
from asdray.dcase.manifest import hint
from asdray.dcase.names import SPLITS
from asdray.dcase.years import SAMPLE_RATE, SUBSETS, get_year
from asdray.full_disk import FULL, refusal_with
from asdray.regular import check_regular, open_regular

PACK_FORMAT = 1
_ELSEWHERE = "name another place for decoded audio by --cache-dir or ASDRAY_CACHE_DIR"
_THREADS = 4
_CHUNK = 16
_NAMED = 3  # files named in a message; more are only counted


@dataclass(frozen=True)
class Pack:
    """The decoded audio of one (dcase, machine, split); read-only.

    Attributes:
        clips: clip keys, sorted.
        samples: all clips end to end, ``(frames, channels) int16``; divide by 32768 for [-1, 1). Of a
            computed channel ``(frames, 1) float32``, full scale 1.
        offsets: ``(len(clips) + 1,) int64``; clip i is ``samples[offsets[i]:offsets[i + 1]]``.
        sample_rate: Hz.
    """

    dcase: str
    machine: str
    split: str
    id: str
    clips: tuple[str, ...]
    samples: np.ndarray
    offsets: np.ndarray
    sample_rate: int

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, i: int) -> np.ndarray:
        """Clip ``i``: a view, ``(n, channels)``."""
        return self.samples[self.offsets[i] : self.offsets[i + 1]]


@dataclass(frozen=True)
class TrainRows:
    """Facts of the clips of a train pack that training and scoring may use, in the pack's order.

    Attributes:
        section: ``(N,) int32``.
        domain: ``source`` or ``target`` per clip.
        attributes: opaque strings, ``""`` if none.
        subset: ``dev`` or ``eval`` per clip.
    """

    section: np.ndarray
    domain: tuple[str, ...]
    attributes: tuple[str, ...]
    subset: tuple[str, ...]


def train_rows(data: Path, pack: Pack) -> TrainRows:
    """Rows of the manifest for a train pack; test packs are refused, so that labels stay out of training.

    Raises:
        ValueError: the dataset was formatted again after the pack was opened.
    """
    assert pack.split == "train", pack.split
    table = manifest.rows(manifest.load_manifest(data, pack.dcase), machine=pack.machine, split="train")
    if tuple(table["clip"].to_pylist()) != pack.clips:
        raise ValueError(f"{pack.dcase} was formatted while its audio was in use: start again")
    return TrainRows(
        section=table["section"].to_numpy(),
        domain=tuple(table["domain"].to_pylist()),
        attributes=tuple(table["attributes"].to_pylist()),
        subset=tuple(table["subset"].to_pylist()),
    )


def ensure_pack(places: store.Places, dcase: str, machine: str, split: str, channel: str = "near") -> Pack:
    """Opens a pack; builds a pack that is missing or belongs to other audio.

    Args:
        channel: see `asdray.config.audio.Channel`; those that are not computed share a pack.

    Raises:
        ValueError: year not formatted; no clips of the machine or split; wavs changed, added or removed
            since; wavs that cannot be decoded (all listed); no space left.
    """
    dataset = manifest.load_dataset(places.data, dcase)
    dataset.require([machine])
    if dataset.machines[machine].split_id(split) is None:
        raise ValueError(f"{dcase} {machine} has no {split} clips under {places.data / 'original' / dcase}")
    content = _content(dataset, machine, split, channel)
    folder = content.folder(places.cache)
    pack = _open(folder, content)
    if pack is None:
        with refusal_with(_ELSEWHERE), store.lease(folder):
            pack = _open(folder, content)  # another process may have built the pack meanwhile
            if pack is None:
                store.sweep_leftovers(folder)
                check_unchanged(places.data, dcase, [machine])
                _build(places.data, folder, content)
                pack = _open(folder, content)
                assert pack is not None
    return pack


def pack_of(
    places: store.Places, dataset: manifest.Dataset, machine: str, split: str, channel: str = "near"
) -> Pack:
    """The pack of the audio in ``dataset``, from which a stage's signature was made.

    Raises:
        ValueError: as `ensure_pack`; or the year was formatted again since ``dataset`` was read.
    """
    pack = ensure_pack(places, dataset.dcase, machine, split, channel)
    if pack.id != _content(dataset, machine, split, channel).id:
        raise ValueError(
            f"{dataset.dcase} was formatted again while {machine} was waited for: run the command again"
        )
    return pack


@dataclass(frozen=True)
class _Content:
    """The identity of a pack's content.

    Attributes:
        split_id: id of the audio in ``dataset.json``.
        channel: the channel that is computed, ``""`` for the recordings themselves.
    """

    dcase: str
    machine: str
    split: str
    split_id: str | None
    channel: str

    @property
    def id(self) -> str | None:
        """The pack's id: that of the audio, and of a computed channel's formula."""
        if not self.channel or self.split_id is None:
            return self.split_id
        return digest({"split": self.split_id, "channel": self.channel, "formula": FORMULAS[self.channel]})

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame."""
        return 4 if self.channel else 2 * get_year(self.dcase).channels

    def folder(self, cache: Path) -> Path:
        return store.pack_dir(cache, self.dcase, self.machine, self.split, self.channel)


def _content(dataset: manifest.Dataset, machine: str, split: str, channel: str) -> _Content:
    known = dataset.machines.get(machine)
    computed = channel if channel in FORMULAS else ""
    return _Content(dataset.dcase, machine, split, known.split_id(split) if known else None, computed)


@dataclass(frozen=True)
class _Index:
    """The content of ``pack.json``; packs of older releases have no checksums.

    Attributes:
        digest: of the other fields.
    """

    format: Literal[1]  # PACK_FORMAT
    id: str
    file: str
    size: int
    sample_rate: Annotated[int, Field(gt=0, lt=10**7)]
    clips: tuple[str, ...]
    n_samples: tuple[Annotated[int, Field(gt=0, lt=2**40)], ...]
    crc32: tuple[int, ...] | None = None
    digest: str | None = None

    def computed(self) -> str:
        """What ``digest`` is unless a byte has changed."""
        sound = [self.sample_rate, self.clips, self.n_samples, self.crc32]
        return hashlib.sha256(json.dumps([self.id, self.file, self.size, *sound]).encode()).hexdigest()


def _open(folder: Path, content: _Content, compare: bool = True) -> Pack | None:
    """The pack in ``folder``; None unless the pack is complete and has this content.

    Args:
        compare: compares the clips with their checksums, unless this process has done so before.
    """
    path = folder / "pack.json"
    if not path.exists():
        return None
    try:
        index = store.read_json(path, _Index)
        if index.digest not in (None, index.computed()):
            raise ValueError("its list of clips is not what was written")
        pack = _read(folder, index, content) if index.id == content.id else None
        if pack and compare and index.crc32 is not None:
            _compare(folder / index.file, index)
        return pack
    except FileNotFoundError:  # replaced between the two reads
        return None
    except (ValueError, OSError) as error:
        notes.tell(f"{path} or its samples are damaged ({error}): the clips are decoded again when needed")
        return None


def _read(folder: Path, index: _Index, content: _Content) -> Pack | None:
    """The pack that an index describes; None if the samples have another size.

    Raises:
        ValueError: the samples have another form.
        OSError: the samples cannot be read.
    """
    file = folder / index.file
    if os.stat(file).st_size != index.size:
        return None
    samples, offsets = _mapped(file), _offsets(index.n_samples)
    dtype, channels = (np.float32, 1) if content.channel else (np.int16, get_year(content.dcase).channels)
    form = dtype, (offsets[-1], channels)
    if (samples.dtype, samples.shape) != form or len(index.clips) != len(index.n_samples):
        raise ValueError(f"{file.name} has {samples.dtype} samples of shape {samples.shape}")
    return Pack(
        dcase=content.dcase,
        machine=content.machine,
        split=content.split,
        id=index.id,
        clips=index.clips,
        samples=samples,
        offsets=offsets,
        sample_rate=index.sample_rate,
    )


def _compare(file: Path, index: _Index) -> None:
    """Compares the clips with their checksums; ValueError if some differ."""
    found = os.stat(file)
    state = found.st_size, found.st_mtime_ns, found.st_ino
    if differing := _other_clips(file, state, index.n_samples, index.crc32 or ()):
        raise ValueError(f"{differing} of {len(index.clips)} clips are not what was decoded")


@functools.lru_cache(maxsize=1024)
def _other_clips(
    file: Path, state: tuple[int, ...], n_samples: tuple[int, ...], checksums: tuple[int, ...]
) -> int:
    """The number of clips whose checksum is another one; computed once per ``state`` of the file."""
    samples, offsets = _mapped(file), _offsets(n_samples)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda i: _crc32(samples[offsets[i] : offsets[i + 1]]), range(len(n_samples)))
        return sum(a != b for a, b in itertools.zip_longest(found, checksums))


def _mapped(file: Path) -> np.ndarray:
    """The samples in a NumPy file, mapped into memory; ValueError for a damaged file."""
    with open_regular(file) as begun:
        if not begun.read(16).startswith(np.lib.format.MAGIC_PREFIX):  # NumPy would advise to unpickle it
            raise ValueError(f"{file.name} does not begin as a file of NumPy's")
    try:
        return np.load(file, mmap_mode="r")
    except (SyntaxError, tokenize.TokenError) as error:  # of NumPy's parser of the header
        raise ValueError(f"its header cannot be read: {error}") from None


def _crc32(samples: np.ndarray) -> int:
    """The checksum of a clip."""
    return zlib.crc32(np.ascontiguousarray(samples).data)


def _offsets(n_samples: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(n_samples, dtype=np.int64)]).astype(np.int64)


def _build(data: Path, folder: Path, content: _Content) -> None:
    """Decodes the split's wavs into a new pack and removes the old pack."""
    dcase, machine, split = content.dcase, content.machine, content.split
    table = manifest.rows(manifest.load_manifest(data, dcase), machine=machine, split=split)
    clips = table.select(["clip", "original_path", "n_samples"]).to_pylist()
    rates, channels = set(table["sample_rate"].to_pylist()), set(table["channels"].to_pylist())
    assert (len(rates), channels) == (1, {get_year(dcase).channels})  # format accepts nothing else
    if manifest.load_dataset(data, dcase).machines[machine].split_id(split) != content.split_id:
        raise ValueError(f"{dcase} was formatted while its audio was read: start again")
    assert content.id is not None
    path = folder / f"samples-{content.id[:16]}.npy"
    with store.atomic_path(path) as temporary:
        checksums = _decode(data, clips, temporary, content)
    value: dict[str, Any] = {
        "format": PACK_FORMAT,
        "id": content.id,
        "file": path.name,
        "size": path.stat().st_size,
        "sample_rate": rates.pop(),
        "clips": [c["clip"] for c in clips],
        "n_samples": [c["n_samples"] for c in clips],
        "crc32": checksums,
    }
    store.write_json(folder / "pack.json", {**value, "digest": _Index(**value).computed()})
    # A process that still reads an old pack keeps its mapping; the disk space is freed afterwards.
    for old in folder.glob("samples-*.npy"):
        if old.name != path.name:
            old.unlink(missing_ok=True)


def _decode(data: Path, clips: list[dict[str, Any]], path: Path, content: _Content) -> list[int]:
    """Writes all clips end to end into a new ``.npy`` file; ValueError lists the unusable clips.

    Returns:
        The checksum of each clip.
    """
    offsets = _offsets([c["n_samples"] for c in clips])
    channels = 1 if content.channel else get_year(content.dcase).channels
    samples = _allocate(path, (int(offsets[-1]), channels), np.float32 if content.channel else np.int16)
    read_one = functools.partial(_read_computed, content.channel) if content.channel else read_clip

    checksums = [0] * len(clips)

    def read(start: int) -> list[str]:
        problems = []
        for i in range(start, min(start + _CHUNK, len(clips))):
            own = samples[offsets[i] : offsets[i + 1]]
            problems.append(read_one(data / clips[i]["original_path"], own))
            checksums[i] = _crc32(own)
            alive.sign()
        return [p for p in problems if p]

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = [p for some in pool.map(read, range(0, len(clips), _CHUNK)) for p in some]
    if problems:
        lines = "\n".join(f"  {p}" for p in problems)
        what = f"{content.split} clips of {content.dcase} {content.machine}"
        raise ValueError(
            f"{len(problems)} of {len(clips)} {what} cannot be used: get them again, or take them away and "
            f"format again\n{lines}"
        )
    samples.flush()
    return checksums


def _read_computed(channel: str, path: Path, out: np.ndarray) -> str | None:
    """As `read_clip`; ``out``, ``(n, 1) float32``, gets a channel that is computed from both microphones."""
    from asdray.audio.microphones import combine

    both = np.empty((len(out), 2), np.int16)
    fault = read_clip(path, both)
    if fault is None:
        out[:, 0] = combine(channel, both)
    return fault


def decode_clip(path: Path, n_samples: int, dcase: str, channel: str) -> np.ndarray:
    """The samples of one wav, in the form in which a pack of the year and channel holds them.

    Args:
        n_samples: frames that the wav's header tells.

    Raises:
        ValueError: the wav cannot be decoded; the message begins with the path.
    """
    if channel in FORMULAS:
        samples = np.empty((n_samples, 1), np.float32)
        fault = _read_computed(channel, path, samples)
    else:
        samples = np.empty((n_samples, get_year(dcase).channels), np.int16)
        fault = read_clip(path, samples)
    if fault:
        raise ValueError(fault)
    return samples


def pack_in_memory(dcase: str, machine: str, clips: Mapping[str, np.ndarray]) -> Pack:
    """A pack of decoded clips that no file holds: name -> samples, see `decode_clip`."""
    return Pack(
        dcase=dcase,
        machine=machine,
        split="test",
        id="",
        clips=tuple(clips),
        samples=np.concatenate([*clips.values()]),
        offsets=_offsets([len(samples) for samples in clips.values()]),
        sample_rate=SAMPLE_RATE,
    )


def _allocate(path: Path, shape: tuple[int, int], dtype: type[np.generic]) -> np.memmap:
    """A writable ``.npy`` file with allocated blocks.

    Without allocation a full disk would kill the process with SIGBUS while it writes to the map.

    Raises:
        OSError: no space left.
    """
    try:
        samples = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        if error.errno in FULL:
            gigabytes = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
            text = (
                f"no space for {gigabytes:.1f} GB of audio on {platform.node()}: free some, or choose "
                "another place with --cache-dir"
            )
            raise OSError(error.errno, text, str(path.parent)) from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system without allocation
            raise
    return samples


def read_clip(path: Path, out: np.ndarray) -> str | None:
    """Decodes a wav into ``out``, ``(n, channels) int16``; returns a fault, or None.

    A channel with one value alone, zero or not, is a fault: such a channel holds no sound.
    """
    import soundfile

    try:
        check_regular(path)
        with soundfile.SoundFile(path) as file:
            if file.channels != out.shape[1]:
                return f"{path}: has {file.channels} channels, {out.shape[1]} when it was formatted"
            got = len(file.read(out=out, dtype="int16", always_2d=True))
    except (soundfile.SoundFileError, OSError) as error:
        return f"{path}: {error}"
    if got != len(out):
        return f"{path}: holds {got} samples, its header says {len(out)}"
    fault = _constant(out)
    return f"{path}: {fault}" if fault else None


def _constant(samples: np.ndarray) -> str | None:
    """The fault of ``(n, channels) int16`` samples with a channel that never changes, or None."""
    # Channel by channel: with axis=0 NumPy takes thirty times as long for two channels.
    lowest = np.array([channel.min() for channel in samples.T])
    dead = np.flatnonzero(lowest == [channel.max() for channel in samples.T])
    faults = []
    for channel in dead:
        value = "zeros" if lowest[channel] == 0 else f"the value {lowest[channel]}"
        of = "" if samples.shape[1] == 1 else f"channel {channel} "
        faults.append(f"{of}holds nothing but {value}")
    return ", ".join(faults) or None


def pack_sizes(
    places: store.Places,
    dataset: manifest.Dataset,
    machines: Iterable[str],
    wanted: Iterable[tuple[str, str]],
) -> list[tuple[Path, str, int]]:
    """Complete packs of some machines: path of ``pack.json``, id, bytes.

    Args:
        wanted: splits and channels.
    """
    columns = ["machine", "split", "n_samples"]
    table = manifest.load_manifest(places.data, dataset.dcase).select(columns).to_pydict()
    frames: dict[tuple[str, str], int] = {}
    for machine, split, n_samples in zip(*table.values(), strict=True):
        frames[machine, split] = frames.get((machine, split), 0) + n_samples
    contents = dict.fromkeys(
        _content(dataset, machine, split, channel)
        for machine in machines
        for split, channel in sorted(wanted)
    )
    return [
        (
            content.folder(places.cache) / "pack.json",
            content.id,
            frames[content.machine, content.split] * content.frame_bytes,
        )
        for content in contents
        if content.id is not None
    ]


def stale_packs(cache: Path, dataset: manifest.Dataset, compare: bool = False) -> list[Path]:
    """Folders with packs that are damaged, of other audio than ``dataset``, or of an older formula.

    Args:
        compare: True to read the packs and to compare all clips with their checksums.
    """
    stale = []
    year = get_year(dataset.dcase)
    channels = ["near", *FORMULAS] if year.channels == 2 else ["near"]
    for machine, split, channel in itertools.product(year.all_machines, SPLITS, channels):
        content = _content(dataset, machine, split, channel)
        folder = content.folder(cache)
        if not os.path.exists(folder / "pack.json"):
            continue
        if not content.id or _open(folder, content, compare) is None:
            stale.append(folder)
    return stale


# ---------------------------------------------------------------------------------------------- changes


def check_unchanged(data: Path, dcase: str, machines: Iterable[str]) -> None:
    """Checks that the original wavs of ``machines`` have the names, sizes and times of the manifest.

    Raises:
        ValueError: wavs were changed, added or removed (a few are named, all are counted), or a folder
            cannot be read.
    """
    machines = list(machines)
    columns = ["clip", "size", "mtime_ns", "machine"]
    table = manifest.load_manifest(data, dcase).select(columns).to_pydict()
    known: dict[str, Any] = {
        clip: (size, time)
        for clip, size, time, machine in zip(*table.values(), strict=True)
        if machine in machines
    }
    found = {}
    for machine in machines:
        for subset in SUBSETS:
            for split, folder in manifest.clip_folders(data, dcase, subset, machine):
                for entry in manifest.clip_entries(folder):
                    found[manifest.clip_key(subset, machine, split, entry.name)] = _size_and_time(entry)
    changes = {
        "changed": [k for k, facts in found.items() if k in known and facts != known[k]],
        "added": [k for k in found if k not in known],
        "removed": [k for k in known if k not in found],
    }
    if any(changes.values()):
        counts = "; ".join(
            f"{len(keys)} {what} ({_first_names(keys)})" for what, keys in changes.items() if keys
        )
        raise ValueError(
            f"the wavs of {dcase} are not those that were formatted: {counts}; "
            f"run `{hint('format', dcase, data)}` again"
        )


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        found = entry.stat()
    except OSError:  # a dangling link
        return None
    return found.st_size, found.st_mtime_ns


def _first_names(keys: list[str]) -> str:
    return ", ".join(sorted(keys)[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
