"""`synthesise`: a whole synthetic dataset on disk, in the organisers' layout of its year."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from asdray import store
from asdray.dcase.manifest import UNKNOWN
from asdray.dcase.synth import layout, lists, sounds
from asdray.dcase.synth.clips import Clip
from asdray.dcase.synth.layout import Spec
from asdray.dcase.years import SAMPLE_RATE, check_machines, get_year

CHUNK = 64
"""Clips that a process renders before it reports."""

LONGEST = 60
"""Seconds of a clip; what systems can be configured to take."""

SECONDS_PER_WORKER = 400
"""Audio below which a further process costs more to start than it saves."""


@dataclass(frozen=True)
class SynthReport:
    """What `synthesise` made or found.

    Attributes:
        spec: the specification.
        folder: ``<data>/original/<dcase>``.
        created: False where the dataset was there already.
        clips: every clip with its true labels; the only place where an anonymous name meets its label
            besides the ground-truth folder.
        counts: clips per ``<subset>/<machine>/<section>/<split>/<domain>/<label>``; supplemental clips have
            domain and label ``unknown``.
        channels: of every clip.
        n_samples: of every clip, per channel.
    """

    spec: Spec
    folder: Path
    created: bool
    clips: tuple[Clip, ...]
    counts: dict[str, int]

    @property
    def channels(self) -> int:
        return get_year(self.spec.dcase).channels

    @property
    def n_samples(self) -> int:
        return _samples(self.spec)


def _samples(spec: Spec) -> int:
    return round(spec.seconds * SAMPLE_RATE)


def done_path(data: Path, dcase: str) -> Path:
    """``synthetic.json``, written last: the dataset is complete and synthetic."""
    return store.original_dir(data, dcase, "dev").parents[1] / "synthetic.json"


def unfinished_path(data: Path, dcase: str) -> Path:
    """Exists while a dataset is being synthesised, and after an interruption."""
    return done_path(data, dcase).with_name("synthetic-unfinished.json")


def synthesise(
    data: Path,
    dcase: str,
    *,
    machines: tuple[str, ...] | None = None,
    train: int | None = 100,
    test: int | None = 100,
    seconds: float = 6.0,
    seed: int = 0,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SynthReport:
    """Writes a synthetic dataset under ``<data>/original/<dcase>``, or finds it there.

    The same arguments give the same bytes, whatever the number of ``workers``. An interrupted call is
    simply repeated.

    Args:
        machines: None = all of the year.
        train: normal training clips per machine and section, a few of them (at least 1 %) from the
            target domain; None = as many as the organisers' dataset has.
        test: test clips per machine and section, the same number in each of domain x label; None = as many
            as the organisers' dataset has in each (2020's dev set: 350 + 265, for most are not published).
        seconds: length of every clip.
        workers: processes; None = one per CPU, fewer where there is little to do.
        on_progress: called with (clips written, clips in all).

    Raises:
        ValueError: a year that does not exist, a machine that it does not have, a size that makes no dataset,
            or a folder that holds something else already. Nothing of the latter is ever changed.
    """
    names = get_year(dcase).all_machines if machines is None else check_machines(dcase, machines)
    for name, value, least, most in (
        ("train", train, 4, None),
        ("test", test, 4, None),
        ("seconds", seconds, 0.5, LONGEST),
        ("seed", seed, 0, None),
    ):
        if value is not None and not value >= least:
            raise ValueError(f"synth: {name} is {value!r}, must be at least {least}")
        if value is not None and most is not None and value > most:
            raise ValueError(f"synth: {name} is {value!r}, must be at most {most}")
    if workers is not None and workers < 1:
        raise ValueError(f"synth: workers is {workers!r}, must be at least 1")
    spec = Spec(dcase, names, train, test, float(seconds), seed)
    folder = done_path(data, dcase).parent
    clips = layout.plan(spec)
    counts = collections.Counter(
        f"{c.subset}/{c.machine}/{c.section:02d}/{c.split}/{c.domain or UNKNOWN}/{c.label or UNKNOWN}"
        for c in clips
    )
    report = SynthReport(spec, folder, True, clips, dict(sorted(counts.items())))
    if _is_done(data, spec):
        return SynthReport(spec, folder, False, clips, report.counts)
    _check_free(data, spec)
    with store.lease(folder):
        if _is_done(data, spec):
            return SynthReport(spec, folder, False, clips, report.counts)
        _claim(data, spec)
        _write_lists(data, spec, clips)
        _write_audio(data, spec, clips, workers, on_progress)
        store.write_json(
            done_path(data, dcase), {**spec.as_json(), "clips": len(clips), "counts": report.counts}
        )
        unfinished_path(data, dcase).unlink()
    return report


def _is_done(data: Path, spec: Spec) -> bool:
    """Whether exactly this dataset is complete.

    Raises:
        ValueError: another one is.
    """
    path = done_path(data, spec.dcase)
    if not path.exists():
        return False
    found = store.read_json(path)
    differing = [f"{k}: {found.get(k)!r}, now {v!r}" for k, v in spec.as_json().items() if found.get(k) != v]
    if differing:
        raise ValueError(
            f"{path.parent} holds another synthetic dataset ({'; '.join(differing)}): "
            "choose another --data or delete the folder"
        )
    return True


def _check_free(data: Path, spec: Spec) -> None:
    """Raises ValueError where the folder holds something that no interrupted call has left."""
    marker = unfinished_path(data, spec.dcase)
    if marker.exists() or not marker.parent.exists():
        return
    ours = (".lease", ".tmp-")
    other = sorted(p.name for p in marker.parent.iterdir() if not p.name.startswith(ours))
    if other:
        raise ValueError(
            f"{marker.parent} holds data that asdray did not synthesise ({', '.join(other[:4])}): "
            "choose another --data or delete the folder"
        )


def _claim(data: Path, spec: Spec) -> None:
    """Makes the folder ours; removes what an interrupted call with another specification has left."""
    _check_free(data, spec)
    marker = unfinished_path(data, spec.dcase)
    if marker.exists() and (old := _spec_from(store.read_json(marker))) != spec:
        for path in _all_paths(data, old):
            path.unlink(missing_ok=True)
    store.write_json(marker, spec.as_json())


def _spec_from(value: dict[str, Any]) -> Spec:
    return Spec(**{**value, "machines": tuple(value["machines"])})


def _path(data: Path, spec: Spec, clip: Clip) -> Path:
    return store.original_dir(data, spec.dcase, clip.subset) / clip.machine / clip.folder / clip.name


def _lists(data: Path, spec: Spec, clips: tuple[Clip, ...]) -> dict[Path, str]:
    files = {
        store.original_dir(data, spec.dcase, subset) / machine / name: text
        for (subset, machine, name), text in lists.attribute_csvs(spec, clips).items()
    }
    truth = store.ground_truth_dir(data, spec.dcase)
    return files | {truth / name: text for name, text in lists.ground_truth(spec, clips).items()}


def _all_paths(data: Path, spec: Spec) -> Iterator[Path]:
    clips = layout.plan(spec)
    return itertools.chain((_path(data, spec, c) for c in clips), _lists(data, spec, clips))


def _write_lists(data: Path, spec: Spec, clips: tuple[Clip, ...]) -> None:
    for path, text in _lists(data, spec, clips).items():
        with store.atomic_path(path) as temporary:
            temporary.write_bytes(text.encode())


def _write_chunk(data: Path, spec: Spec, clips: tuple[Clip, ...]) -> int:
    """Renders and writes ``clips``; runs in a worker process.

    The files are not renamed into place one by one: `done_path` says that all of them are whole.
    """
    channels = get_year(spec.dcase).channels
    for clip in clips:
        identity = (
            f"{spec.seed}/{spec.dcase}/{clip.machine}/{clip.section}/{clip.subset}/{clip.split}/"
            f"{clip.domain}/{clip.label}/{clip.index}"
        )
        audio = sounds.render(
            spec.dcase,
            clip.machine,
            clip.section,
            clip.values,
            clip.label == "anomaly",
            _samples(spec),
            identity,
            channels=channels,
            content=clip.content,
        )
        soundfile.write(_path(data, spec, clip), audio, SAMPLE_RATE, subtype="PCM_16")
    return len(clips)


def _write_audio(
    data: Path,
    spec: Spec,
    clips: tuple[Clip, ...],
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    for folder in {_path(data, spec, clip).parent for clip in clips}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + int(len(clips) * spec.seconds / SECONDS_PER_WORKER))
    chunks = [clips[i : i + CHUNK] for i in range(0, len(clips), CHUNK)]
    written = 0

    def advance(count: int) -> None:
        nonlocal written
        written += count
        if on_progress:
            on_progress(written, len(clips))

    if workers == 1:
        for chunk in chunks:
            advance(_write_chunk(data, spec, chunk))
        return
    # Spawned, not forked: the caller may have threads (Ray, torch) that a fork would freeze.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        futures = [pool.submit(_write_chunk, data, spec, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
