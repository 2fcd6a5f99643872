"""``asdray format``: the organisers' tree -> one unified tree of links, the manifest, and its summary.

Dev and eval of a machine come together; eval test clips get their labelled name where the ground truth
knows it. Only headers, sizes and names are read. All input is checked before anything is written; what
is already right stays, so that formatting again costs little and formatting can be interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from asdray import store
from asdray.dcase import manifest
from asdray.dcase.audit import Audit, audit, expected_counts
from asdray.dcase.ground_truth import Labels
from asdray.dcase.links import Link, Linker, remove_stale
from asdray.dcase.originals import Originals, read_originals
from asdray.dcase.threads import Progress, Steps, in_threads
from asdray.dcase.years import nearest


@dataclass(frozen=True)
class FormatReport:
    """What a format did.

    Attributes:
        dataset: counts, ids and label sources per machine.
        audit: what is there against what should be.
        unlabelled: test clips without a label per machine; only machines that have some.
        notes: wavs that are rightly left out; what the ground truth does not tell, with counts per machine.
        made: links or copies written now.
        kept: those that were right already.
        removed: stale ones.
    """

    dataset: manifest.Dataset
    audit: Audit
    unlabelled: Mapping[str, int]
    notes: tuple[str, ...]
    made: int
    kept: int
    removed: int

    @property
    def n_clips(self) -> int:
        return self.made + self.kept


def format_dataset(
    data: Path,
    dcase: str,
    *,
    ground_truth: Path | None = None,
    link: Link = "symlink",
    labels: Labels = "official",
    on_progress: Progress | None = None,
) -> FormatReport:
    """Formats the machines that are there of a year, complete or not: `FormatReport.audit` tells.

    Args:
        data: the data folder; reads ``original/<dcase>``, writes ``formatted/<dcase>``.
        ground_truth: folder of official ground truth; by default ``original/<dcase>/ground_truth``, and
            without that the eval test clips have null labels.
        link: symlinks are relative, so that the data folder may move.
        labels: ``asdkit`` takes 2022's Toy machines from where that toolkit does, for those who must
            reproduce its numbers; other labels are a matter of evaluation alone.

    Raises:
        ValueError: no dataset, or an unfinished synthetic one; wrong ground truth; or bad files, all of
            them listed: unreadable, empty, truncated, no wav, wrong format, rate or channels, a name that
            does not fit, two clips with one formatted name. Nothing is written then. Or the tree cannot be
            written; the manifest before is unchanged then, and the same call goes on.
    """
    for name, value, known in (("link", link, get_args(Link)), ("labels", labels, get_args(Labels))):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}{nearest(value, known)} (known: {', '.join(known)})")
    data = Path(data).absolute()

    def half(first: int) -> Progress | None:
        return on_progress and (lambda done, total: on_progress(done + first * total, 2 * total))

    originals = read_originals(data, dcase, ground_truth=ground_truth, labels=labels, on_progress=half(0))
    if told := _all_that_is_wrong(originals, data):
        raise ValueError(told)
    clips = originals.clips
    audited = audit(dcase, clips, expected_counts(data, dcase, originals.kind), has_truth=originals.has_truth)
    with store.lease(store.formatted_dir(data, dcase)):
        store.sweep_leftovers(store.formatted_dir(data, dcase))
        made = sum(in_threads(Linker(data, clips, link), clips, Steps(len(clips), half(1))))
        dataset = manifest.write(data, dcase, originals.kind, clips)
        # Last: until here every path of the manifest before still leads to its clip.
        removed = remove_stale(data, dcase, {c["path"] for c in clips})
    missing = Counter(c["machine"] for c in clips if c["split"] == "test" and c["is_anomaly"] is None)
    return FormatReport(dataset, audited, dict(missing), originals.notes, made, len(clips) - made, removed)


def _all_that_is_wrong(originals: Originals, data: Path) -> str:
    """One message, ``""`` if nothing is."""
    parts = []
    if n := len(originals.problems):
        what = "bad files or folders" if n > 1 else "bad file or folder"
        parts.append((f"{n} {what} in {data / 'original' / originals.dcase}", originals.problems))
    if originals.truth_problems:
        parts.append((f"wrong ground truth in {originals.truth_folder}", originals.truth_problems))
    return "\n".join(
        "\n".join(
            [f"{head} (nothing was written):", *(f"  {line}" for p in those for line in p.splitlines())]
        )
        for head, those in parts
    )
