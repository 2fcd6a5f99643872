"""A year's dataset: what is there, what is missing, what is wrong. Reads headers, and audio only if asked."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.audio.cache import check_unchanged, read_clip, stale_packs
from asdray.dcase import manifest
from asdray.dcase.audit import Audit, audit, differences_of, expected_counts
from asdray.dcase.hints import hint
from asdray.dcase.originals import Originals, read_originals, remedy
from asdray.dcase.threads import Progress, Steps, in_threads
from asdray.dcase.years import SUBSETS, get_year
from asdray.doctor import Finding

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DatasetReport:
    """What the doctor found.

    Attributes:
        findings: in the order to be read.
        audit: clips per section; None where there is no dataset at all.
    """

    findings: tuple[Finding, ...]
    audit: Audit | None


def check_dataset(
    places: store.Places, dcase: str, *, deep: bool = False, on_progress: Progress | None = None
) -> DatasetReport:
    """Looks at a year's original files, formatted tree and audio packs; changes nothing.

    Args:
        deep: decodes every clip, too.

    Raises:
        ValueError: unknown year.
    """
    get_year(dcase)
    findings = list(_zips(places.data, dcase))
    try:
        originals = read_originals(places.data, dcase, on_progress=None if deep else on_progress)
    except ValueError as error:
        return DatasetReport((*findings, Finding("missing", str(error))), None)
    findings += [Finding("wrong", says) for says in (*originals.problems, *originals.truth_problems)]
    audited = audit(
        dcase,
        originals.clips,
        expected_counts(places.data, dcase, originals.kind),
        has_truth=originals.has_truth,
    )
    findings += _contents(places.data, originals, audited)
    findings += [Finding("note", note) for note in originals.notes]
    findings += _formatted(places, originals)
    if deep:
        findings += _deep(places.data, originals.clips, on_progress)
    return DatasetReport(tuple(findings), audited)


# ---------------------------------------------------------------------------------------- original files


def _zips(data: Path, dcase: str) -> Iterator[Finding]:
    """What a download left."""
    root = data / "original" / dcase
    raw = [store.original_dir(data, dcase, subset) for subset in SUBSETS]
    folders = [root, root / "zips", *(p.parent for p in raw), *raw]
    entries = []
    for folder in folders:
        with contextlib.suppress(ValueError):  # `read_originals` tells what cannot be read
            entries += manifest.clip_entries(folder)
    for e in entries:
        if e.name.endswith(".part"):
            yield Finding(
                "missing",
                f"{e.path}: a download that was interrupted; run `{hint('download', dcase, data)}` again, "
                "or delete the file",
            )
    zips = [e for e in entries if e.name.endswith(".zip")]
    if zips:
        size = sum(os.path.getsize(e.path) for e in zips if os.path.exists(e.path)) / 1e9
        yield Finding(
            "note", f"zips: {len(zips)} ({size:.1f} GB), such as {zips[0].path}; not needed once unpacked"
        )


def _contents(data: Path, originals: Originals, audited: Audit) -> Iterator[Finding]:
    """Kind, machines, what is missing against what should be there, and ground truth."""
    dcase, kind = originals.dcase, originals.kind
    machines = {subset: len({m for s, m, _ in audited.found if s == subset}) for subset in SUBSETS}
    told = ", ".join(f"{n} of {len(get_year(dcase).machines[s])} {s} machines" for s, n in machines.items())
    yield Finding("ok", f"{kind} data: {audited.n_clips} clips, {told}")
    for subset, names in audited.missing_machines().items():
        by_remedy: dict[str, list[str]] = {}
        for name in names:  # with its sections behind it where only some are missing
            how = remedy(data, dcase, kind, subset, name.partition(" ")[0])
            by_remedy.setdefault(how, []).append(name)
        for how, those in by_remedy.items():
            yield Finding("missing", f"{subset} machines: {', '.join(those)}; {how}")
    for place in audited.found:
        subset, machine, section = place
        if told := differences_of(audited, place):
            text = f"{subset} {machine} section {section:02d}: {told.removeprefix('missing: ')}"
            missing = [d for d in audited.missing if d.section == place]
            hows = []
            if any(not d.of_truth for d in missing):
                hows.append(remedy(data, dcase, kind, subset, machine))
            if any(d.of_truth for d in missing):
                hows.append(f"add what says so to {originals.truth_folder}")
            yield Finding("missing" if missing else "note", "; ".join([text, *hows]))
    anonymous = [c for c in originals.clips if (c["subset"], c["split"]) == ("eval", "test")]
    unlabelled = Counter(c["machine"] for c in anonymous if c["is_anomaly"] is None)
    if not anonymous:
        return
    if not unlabelled:
        yield Finding("ok", "every eval test clip has its label")
    elif not originals.has_truth:
        yield Finding(
            "note",
            f"no ground truth: {sum(unlabelled.values())} eval test clips are scored but not evaluated; "
            f"`{hint('download', dcase, data)}` gets it where it is published",
        )


# ----------------------------------------------------------------------------------------- what was made


def _formatted(places: store.Places, originals: Originals) -> Iterator[Finding]:
    dcase, data = originals.dcase, places.data
    again = f"run `{hint('format', dcase, data)}` again"
    try:
        dataset = manifest.load_dataset(data, dcase)
        rows = manifest.load_manifest(data, dcase).to_pylist()
    except ValueError as error:
        is_there = os.path.lexists(store.dataset_path(data, dcase))
        yield Finding("wrong" if is_there else "missing", str(error))
        return
    good = True
    try:
        check_unchanged(data, dcase, get_year(dcase).all_machines)
    except ValueError as error:
        good = False
        yield Finding("wrong", str(error))
    paths = [data / row["path"] for row in rows]
    broken = [
        p
        for p, there in zip(paths, in_threads(os.path.exists, paths, Steps(len(paths), None)), strict=True)
        if not there
    ]
    if broken:
        good = False
        yield Finding(
            "wrong",
            f"links of the formatted tree that are missing or lead nowhere: {len(broken)}, "
            f"such as {broken[0]}; {again}",
        )
    if news := _news(rows, originals):
        good = False
        yield Finding("wrong", f"{news}; {again}")
    if dataset.kind != originals.kind:
        good = False
        yield Finding("wrong", f"formatted when the data were {dataset.kind}; {again}")
    if good:
        yield Finding("ok", f"formatted: {len(rows)} clips in {store.formatted_dir(data, dcase)}")
    if stale := stale_packs(places.cache, dataset):
        yield Finding(
            "note",
            f"folders with decoded audio that is damaged or of other clips: {len(stale)}, "
            f"such as {stale[0]}; made anew when needed",
        )


def _news(rows: list[dict[str, Any]], originals: Originals) -> str | None:
    """What the ground truth says now and did not when the year was formatted.

    Labels of another source are left out: they were asked for with ``--labels`` or ``--ground-truth``.
    """
    if not originals.has_truth:
        return None
    now = {c["clip"]: c for c in originals.clips}
    new = other = 0
    for row in rows:
        clip = now.get(row["clip"])
        if clip is None or clip["is_anomaly"] is None:
            continue
        if row["is_anomaly"] is None:
            new += 1
        elif row["label_source"] == clip["label_source"]:
            other += (row["is_anomaly"], row["domain"]) != (clip["is_anomaly"], clip["domain"])
    told = [f"{n} {what}" for n, what in ((new, "new labels"), (other, "changed labels")) if n]
    return f"the ground truth has {' and '.join(told)} since it was formatted" if told else None


# ------------------------------------------------------------------------------------------------ content


def _deep(data: Path, clips: list[dict[str, Any]], on_progress: Progress | None) -> Iterator[Finding]:
    """Decodes every clip; a finding for each that cannot be, or holds no sound."""
    steps = Steps(len(clips), on_progress)
    threads = 1 + (os.cpu_count() or 1)  # libsndfile works outside Python's lock
    bad = 0
    for says in in_threads(lambda c: _content(data, c), clips, steps, threads=threads, chunk=16):
        if says:
            bad += 1
            yield Finding("wrong", says)
    if not bad:
        yield Finding("ok", f"all {len(clips)} clips were decoded and hold sound")


def _content(data: Path, clip: Mapping[str, Any]) -> str | None:
    import numpy as np

    samples: np.ndarray = np.empty((clip["n_samples"], clip["channels"]), np.int16)
    return read_clip(data / clip["original_path"], samples)
