"""Synthesis of a whole dataset on disk, in the organisers' layout of its year.

``original/<dcase>`` gets wavs, attribute CSVs and ground truth. ``synthetic-unfinished.json`` marks a
synthesis under way; ``synthetic.json``, written last, marks a complete dataset and holds its specification
and counts. Data that asdray did not synthesise are never changed.

Conventions: lengths are seconds, wavs are 16-bit PCM at 16 kHz. Equal arguments give equal bytes, whatever
the number of processes.

>>> import pathlib, tempfile
>>> from asdray.dcase.synth import synthesise
>>> with tempfile.TemporaryDirectory() as folder:
...     report = synthesise(pathlib.Path(folder), "dcase2023", machines=["fan"], train=4, test=4, seconds=0.5)
>>> report.created, report.counts["dev/fan/00/train/target/normal"]
(True, 1)
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from asdray import limits, store
from asdray.dcase.manifest import UNKNOWN, synthetic_path, unfinished_path
from asdray.dcase.synth import hard, layout, sounds
from asdray.dcase.synth.clips import Clip
from asdray.dcase.synth.layout import Spec
from asdray.dcase.years import SAMPLE_RATE, check_machines, get_year
from asdray.regular import check_regular

CHUNK = 64
"""Clips that a process renders before it reports."""

MOST_CLIPS = 20_000
"""Most clips of a split, per machine and section: more than any released dataset has."""

LONGEST = 60
"""Longest clip in seconds, as in the configuration of systems."""

SECONDS_PER_WORKER = 400
"""Seconds of audio below which a further process costs more to start than it saves."""


@dataclass(frozen=True)
class SynthReport:
    """Result of `synthesise`.

    Attributes:
        folder: ``<data>/original/<dcase>``.
        created: False if the dataset was there already.
        clips: every clip with its true labels; besides the ground-truth folder the only place with both
            anonymous names and labels.
        counts: clips per ``<subset>/<machine>/<section>/<split>/<domain>/<label>``; supplemental clips have
            domain and label ``unknown``.
    """

    spec: Spec
    folder: Path
    created: bool
    clips: tuple[Clip, ...]
    counts: dict[str, int]


def synthesise(
    data: Path,
    dcase: str,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **size: Any,
) -> SynthReport:
    """Writes a synthetic dataset under ``<data>/original/<dcase>``, or finds it; a repeated call continues.

    Args:
        workers: processes; None = one per CPU, fewer for little audio.
        on_progress: called with (clips written, clips in all).
        size: ``machines``, ``train``, ``test``, ``seconds``, ``seed`` and ``hard``, see `spec_of`.

    Raises:
        ValueError: unknown year or machine, a size out of range, or a folder with other data.
    """
    spec = spec_of(dcase, **size)
    if workers is not None and workers < 1:
        raise ValueError(f"synth: workers is {workers!r}, must be at least 1")
    folder = synthetic_path(data, dcase).parent
    clips = layout.plan(spec)
    found = SynthReport(spec, folder, False, clips, _counts(clips))
    if _is_done(data, spec):
        return found
    _check_free(data, spec)
    with store.lease(folder):
        if _is_done(data, spec):  # by another process, meanwhile
            return found
        _claim(data, spec)
        for path, text in _lists(data, spec, clips).items():
            store.write_text(path, text)
        _write_audio(data, spec, clips, workers, on_progress)
        value = {**spec.as_json(), "clips": len(clips), "counts": found.counts}
        store.write_json(synthetic_path(data, dcase), value)
        unfinished_path(data, dcase).unlink()
    return replace(found, created=True)


def _counts(clips: tuple[Clip, ...]) -> dict[str, int]:
    places = Counter(
        f"{c.subset}/{c.machine}/{c.section:02d}/{c.split}/{c.domain or UNKNOWN}/{c.label or UNKNOWN}"
        for c in clips
    )
    return dict(sorted(places.items()))


def spec_of(
    dcase: str,
    machines: Sequence[str] | None = None,
    train: int | None = 100,
    test: int | None = 100,
    seconds: float = 6.0,
    seed: int = 0,
    hard: bool = False,
) -> Spec:
    """The specification of a dataset, checked.

    Args:
        machines: None = all machines of the year.
        train: normal training clips per machine and section, a few of them (at least 1 %) from the
            target domain; None = as many as the organisers' dataset.
        test: test clips per machine and section, equally many per domain and label; None = as many as the
            organisers' dataset (2020's dev set: 350 + 265, since most counts are not published).
        seconds: length of every clip.
        hard: sounds that mean spectra cannot tell apart, see `asdray.dcase.synth.hard`.

    Raises:
        ValueError: unknown year or machine, or a value out of range.
    """
    names = get_year(dcase).all_machines if machines is None else check_machines(dcase, tuple(machines))
    for name, value, least, most in (
        ("train", train, 4, MOST_CLIPS), ("test", test, 4, MOST_CLIPS), ("seconds", seconds, 0.5, LONGEST),
        ("seed", seed, 0, math.inf),
    ):  # fmt: skip
        if value is not None and not value >= least:
            raise ValueError(f"synth: {name} is {value!r}, must be at least {least}")
        if value is not None and value > most:
            raise ValueError(f"synth: {name} is {value!r}, must be at most {most}")
    return Spec(dcase, names, train, test, float(seconds), seed, hard=hard)


# ---------------------------------------------------------------------------------------------- the folder


def _is_done(data: Path, spec: Spec) -> bool:
    """True if exactly this dataset is complete; raises ValueError if another dataset is."""
    path = synthetic_path(data, spec.dcase)
    if not path.exists():
        return False
    found = store.read_json(path, dict[str, Any])
    asked = {"hard": False, **spec.as_json()}
    found = {"hard": False, **found}
    differing = [f"{k}: {found.get(k)!r}, now {v!r}" for k, v in asked.items() if found.get(k) != v]
    if differing:
        raise ValueError(
            f"{path.parent} holds another synthetic dataset ({'; '.join(differing)}): "
            "choose another --data or delete the folder"
        )
    return True


def _check_free(data: Path, spec: Spec) -> None:
    """Raises ValueError if the folder holds data other than an interrupted call's."""
    marker = unfinished_path(data, spec.dcase)
    if marker.exists() or not marker.parent.exists():
        return
    own = (".lease", ".tmp-")
    other = sorted(p.name for p in marker.parent.iterdir() if not p.name.startswith(own))
    if other:
        raise ValueError(
            f"{marker.parent} holds data that asdray did not synthesise ({', '.join(other[:4])}): "
            "choose another --data or delete the folder"
        )


def _claim(data: Path, spec: Spec) -> None:
    """Marks the folder; removes the files of an interrupted call with another specification."""
    _check_free(data, spec)
    marker = unfinished_path(data, spec.dcase)
    if marker.exists():
        old = store.read_json(marker, Spec)
        try:
            spec_of(old.dcase, old.machines, old.train, old.test, old.seconds, old.seed, old.hard)
        except ValueError as error:
            raise ValueError(f"{marker} is damaged ({error}): delete {marker.parent}") from None
        if old != spec:
            for path in _all_paths(data, old):
                path.unlink(missing_ok=True)
    store.write_json(marker, spec.as_json())


def _path(data: Path, spec: Spec, clip: Clip) -> Path:
    return store.original_dir(data, spec.dcase, clip.subset) / clip.machine / clip.folder / clip.name


def _lists(data: Path, spec: Spec, clips: tuple[Clip, ...]) -> dict[Path, str]:
    files = {
        store.original_dir(data, spec.dcase, subset) / machine / name: text
        for (subset, machine, name), text in layout.attribute_csvs(spec, clips).items()
    }
    truth = store.ground_truth_dir(data, spec.dcase)
    return files | {truth / name: text for name, text in layout.ground_truth(spec, clips).items()}


def _all_paths(data: Path, spec: Spec) -> Iterator[Path]:
    clips = layout.plan(spec)
    return itertools.chain((_path(data, spec, c) for c in clips), _lists(data, spec, clips))


# ----------------------------------------------------------------------------------------------- the files


def _write_chunk(data: Path, spec: Spec, clips: tuple[Clip, ...]) -> int:
    """Renders and writes ``clips``; runs in a worker process.

    Files are not renamed into place one by one: ``synthetic.json`` tells that all of them are whole.
    """
    dcase, channels = spec.dcase, get_year(spec.dcase).channels
    for c in clips:
        place = (dcase, c.machine, c.section)
        identity = (
            f"{spec.seed}/{dcase}/{c.machine}/{c.section}/{c.subset}/{c.split}/{c.domain}/{c.label}/{c.index}"
        )
        is_anomaly, n = c.label == "anomaly", round(spec.seconds * SAMPLE_RATE)
        render = partial(hard.render, shift=c.split == "test") if spec.hard else sounds.render
        audio = render(place, c.values, is_anomaly, n, identity, channels=channels, content=c.content)
        path = _path(data, spec, c)
        if path.exists():  # of an interrupted call
            check_regular(path)
        soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")
    return len(clips)


def _write_audio(
    data: Path,
    spec: Spec,
    clips: tuple[Clip, ...],
    workers: int | None,
    on_progress: Callable[[int, int], None],
) -> None:
    for folder in {_path(data, spec, clip).parent for clip in clips}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = min(limits.cpus(), 1 + int(len(clips) * spec.seconds / SECONDS_PER_WORKER))
    chunks = [clips[i : i + CHUNK] for i in range(0, len(clips), CHUNK)]
    written = 0
    if workers == 1:
        for chunk in chunks:
            written += _write_chunk(data, spec, chunk)
            on_progress(written, len(clips))
        return
    # Spawned, not forked: the caller may have threads (Ray, torch) that a fork would freeze.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        futures = [pool.submit(_write_chunk, data, spec, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                written += future.result()
                on_progress(written, len(clips))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
