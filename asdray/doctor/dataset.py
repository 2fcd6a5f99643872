"""Check of a year's dataset: interrupted downloads, originals, ground truth, formatted tree, audio packs.

The check changes nothing. It reads names, wav headers and text files; with ``deep`` it also decodes every
clip. Findings come in the order of the work: download, originals, counts, labels, formatted tree, audio.

>>> import tempfile
>>> from asdray.doctor.dataset import check_dataset
>>> from asdray.store import Places
>>> with tempfile.TemporaryDirectory() as folder:
...     report = check_dataset(Places.of(folder, folder), "dcase2023")
>>> [finding.kind for finding in report.findings], report.audit
(['missing'], None)
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdray import damage, limits, store
from asdray.audio.cache import check_unchanged, read_clip, stale_packs
from asdray.dcase import manifest
from asdray.dcase.audit import Audit, Section, audit, differences_of, expected_counts
from asdray.dcase.manifest import hint
from asdray.dcase.records import remedy
from asdray.dcase.scan import Originals, Progress, in_threads, read_originals
from asdray.dcase.years import SUBSETS, get_year
from asdray.doctor import Finding


@dataclass(frozen=True)
class DatasetReport:
    """Result of `check_dataset`.

    Attributes:
        findings: in reading order.
        audit: clips per section; None without a dataset.
    """

    findings: tuple[Finding, ...]
    audit: Audit | None


def check_dataset(
    places: store.Places, dcase: str, *, deep: bool = False, on_progress: Progress | None = None
) -> DatasetReport:
    """Checks a year's original files, formatted tree and audio packs.

    Args:
        deep: also decode every clip, and compare packs and results with their checksums.

    Raises:
        ValueError: unknown year.
    """
    get_year(dcase)
    data = places.data
    findings = list(_downloads(data, dcase))
    try:
        originals = read_originals(data, dcase, on_progress=None if deep else on_progress)
    except ValueError as error:
        return DatasetReport((*findings, Finding("missing", str(error))), None)
    findings += [Finding("wrong", fault) for fault in (*originals.problems, *originals.truth_problems)]
    expected = expected_counts(data, dcase, originals.kind)
    audited = audit(dcase, originals.clips, expected, has_truth=originals.has_truth)
    findings += _counts(data, originals, audited)
    findings += _labels(data, originals)
    findings += [Finding("note", note) for note in originals.notes]
    findings += _formatted(places, originals, deep)
    if deep:
        findings += _results(places, dcase)
        findings += _audio(data, originals.clips, on_progress)
    return DatasetReport(tuple(findings), audited)


# ---------------------------------------------------------------------------------------- original files


def _downloads(data: Path, dcase: str) -> Iterator[Finding]:
    """Incomplete files and zips of a download."""
    root = data / "original" / dcase
    raw = [store.original_dir(data, dcase, subset) for subset in SUBSETS]
    entries = []
    for folder in (root, root / "zips", *(p.parent for p in raw), *raw):
        with contextlib.suppress(ValueError):  # `read_originals` reports unreadable folders
            entries += manifest.clip_entries(folder)
    for e in entries:
        if e.name.endswith(".part"):
            yield Finding(
                "missing",
                f"{e.path}: a download that was interrupted; run `{hint('download', dcase, data)}` again, "
                "or delete the file",
            )
    if zips := [e for e in entries if e.name.endswith(".zip")]:
        size = sum(os.path.getsize(e.path) for e in zips if os.path.exists(e.path)) / 1e9
        yield Finding(
            "note", f"zips: {len(zips)} ({size:.1f} GB), such as {zips[0].path}; not needed once unpacked"
        )


def _counts(data: Path, originals: Originals, audited: Audit) -> Iterator[Finding]:
    """Machines and clips found, and differences from the expected counts with their remedies."""
    dcase, kind = originals.dcase, originals.kind
    machines = {subset: len({m for s, m, _ in audited.found if s == subset}) for subset in SUBSETS}
    parts = [f"{n} of {len(get_year(dcase).machines[s])} {s} machines" for s, n in machines.items()]
    yield Finding("ok", f"{kind} data: {audited.n_clips} clips, {', '.join(parts)}")
    for subset, names in audited.missing_machines().items():
        by_remedy: dict[str, list[str]] = {}
        for name in names:  # followed by its missing sections, if other sections are there
            by_remedy.setdefault(remedy(data, dcase, kind, subset, name.partition(" ")[0]), []).append(name)
        for fix, missing in by_remedy.items():
            yield Finding("missing", f"{subset} machines: {', '.join(missing)}; {fix}")
    for place in audited.found:
        if differences := differences_of(audited, place):
            yield _section(data, originals, audited, place, differences)


def _section(data: Path, originals: Originals, audited: Audit, place: Section, differences: str) -> Finding:
    subset, machine, section = place
    parts = [f"{subset} {machine} section {section:02d}: {differences.removeprefix('missing: ')}"]
    missing = [d for d in audited.missing if d.section == place]
    if any(not d.of_truth for d in missing):
        parts.append(remedy(data, originals.dcase, originals.kind, subset, machine))
    if any(d.of_truth for d in missing):
        parts.append(f"add what says so to {originals.truth_folder}")
    return Finding("missing" if missing else "note", "; ".join(parts))


def _labels(data: Path, originals: Originals) -> Iterator[Finding]:
    test = [c for c in originals.clips if (c["subset"], c["split"]) == ("eval", "test")]
    unlabelled = sum(c["is_anomaly"] is None for c in test)
    if test and not unlabelled:
        yield Finding("ok", "every eval test clip has its label")
    elif unlabelled and not originals.has_truth:
        yield Finding(
            "note",
            f"no ground truth: {unlabelled} eval test clips are scored but not evaluated; "
            f"`{hint('download', originals.dcase, data)}` gets it where it is published",
        )


# ------------------------------------------------------------------------------------- formatted and cached


def _formatted(places: store.Places, originals: Originals, deep: bool) -> Iterator[Finding]:
    """The formatted tree against the originals, and stale audio packs.

    Args:
        deep: also compare the packs with their checksums.
    """
    dcase, data = originals.dcase, places.data
    try:
        dataset = manifest.load_dataset(data, dcase)
        rows = manifest.load_manifest(data, dcase).to_pylist()
    except ValueError as error:
        is_there = os.path.lexists(store.dataset_path(data, dcase))
        yield Finding("wrong" if is_there else "missing", str(error))
        return
    faults = []
    again = f"; run `{hint('format', dcase, data)}` again"
    try:
        check_unchanged(data, dcase, get_year(dcase).all_machines)
    except ValueError as error:
        faults.append(str(error))
    paths = [data / row["path"] for row in rows]
    broken = [p for p, exists in zip(paths, in_threads(os.path.exists, paths), strict=True) if not exists]
    if broken:
        faults.append(
            f"links of the formatted tree that are missing or lead nowhere: {len(broken)}, "
            f"such as {broken[0]}{again}"
        )
    if changes := _changed_labels(rows, originals):
        faults.append(f"the ground truth has {changes} since it was formatted{again}")
    if dataset.kind != originals.kind:
        faults.append(f"formatted when the data were {dataset.kind}{again}")
    yield from (Finding("wrong", fault) for fault in faults)
    if not faults:
        yield Finding("ok", f"formatted: {len(rows)} clips in {store.formatted_dir(data, dcase)}")
    if stale := stale_packs(places.cache, dataset, compare=deep):
        yield Finding(
            "note",
            f"folders with decoded audio that is damaged or of other clips: {len(stale)}, "
            f"such as {stale[0]}; rebuilt when needed",
        )


def _results(places: store.Places, dcase: str) -> Iterator[Finding]:
    """The results of the year against their records."""
    for fault in damage.below(store.results_of_year(places.results, dcase)):
        yield Finding("wrong", str(fault))


def _changed_labels(rows: list[dict[str, Any]], originals: Originals) -> str:
    """Number of labels that the ground truth gained or changed since the year was formatted; ``""`` if none.

    Labels of another source are left out: these were asked for by ``--labels`` or ``--ground-truth``.
    """
    current = {c["clip"]: c for c in originals.clips if c["is_anomaly"] is not None}
    counts: Counter[str] = Counter()
    for row in rows if originals.has_truth else ():
        if (clip := current.get(row["clip"])) is None:
            continue
        if row["is_anomaly"] is None:
            counts["new labels"] += 1
        elif row["label_source"] == clip["label_source"] and (
            (row["is_anomaly"], row["domain"]) != (clip["is_anomaly"], clip["domain"])
        ):
            counts["changed labels"] += 1
    return " and ".join(f"{n} {what}" for what, n in sorted(counts.items(), reverse=True))


def _audio(data: Path, clips: list[dict[str, Any]], on_progress: Progress | None) -> Iterator[Finding]:
    """Decodes every clip; a finding for each clip without sound or with a decoding error."""
    import numpy as np

    def fault(clip: Mapping[str, Any]) -> str | None:
        samples: np.ndarray = np.empty((clip["n_samples"], clip["channels"]), np.int16)
        return read_clip(data / clip["original_path"], samples)

    threads = 1 + limits.cpus()  # libsndfile works outside Python's lock
    faults = [f for f in in_threads(fault, clips, on_progress, threads=threads, chunk=16) if f]
    yield from (Finding("wrong", f) for f in faults)
    if not faults:
        yield Finding("ok", f"all {len(clips)} clips were decoded and hold sound")
