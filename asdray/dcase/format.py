"""``asdray format``: one unified tree of links, the manifest, and its summary from the organisers' tree.

``original/<dcase>`` becomes ``formatted/<dcase>/raw/<machine>/<split>/<name>.wav``: dev and eval clips of a
machine lie together, and eval test clips get the labelled names of the ground truth. Only headers, sizes and
names are read. All input is checked before the first write; correct links stay, so that formatting again
costs little and an interrupted call can be repeated.

Conventions: links are relative symlinks unless asked otherwise, so that the data folder may move. Files in
the formatted tree that are neither links nor wavs are left alone. ``asdray.dcase.manifest`` describes the
two files ``clips.parquet`` and ``dataset.json``.

>>> import tempfile
>>> from pathlib import Path
>>> from asdray.dcase.format import format_dataset
>>> from asdray.dcase.synth import synthesise
>>> with tempfile.TemporaryDirectory() as folder:
...     made = synthesise(Path(folder), "dcase2023", machines=("fan",), train=4, test=4, seconds=0.5)
...     report = format_dataset(Path(folder), "dcase2023")
>>> report.n_clips, report.dataset.machines["fan"].count(split="test", label="anomaly")
(8, 2)
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from asdray import store
from asdray.dcase import manifest
from asdray.dcase.audit import Audit, audit, expected_counts
from asdray.dcase.names import SPLITS
from asdray.dcase.scan import Originals, Progress, in_threads, read_originals
from asdray.dcase.truth import Labels
from asdray.dcase.years import check_choice
from asdray.links import has_no_links

Link = Literal["symlink", "hardlink", "copy"]


@dataclass(frozen=True)
class FormatReport:
    """Result of `format_dataset`.

    Attributes:
        dataset: counts, ids and label sources per machine.
        audit: comparison with the expected number of clips.
        unlabelled: test clips without a label, per machine with such clips.
        notes: wavs left out on purpose; labels and domains that the ground truth lacks.
        made: links or copies made by this call.
        kept: links or copies that were correct already.
        removed: stale links or copies.
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
    synthetic: bool = False,
    on_progress: Progress | None = None,
) -> FormatReport:
    """Formats all machines of a year that are present; `FormatReport.audit` tells if the year is complete.

    Args:
        ground_truth: folder of official ground truth; default ``original/<dcase>/ground_truth``. Without
            ground truth, eval test clips have null labels.
        labels: ``asdkit`` reproduces the labels that the toolkit ASDKit gives 2022's Toy machines.
        synthetic: marks the originals as synthetic, for good; for data that others made up.

    Raises:
        ValueError: no dataset, or an unfinished one; wrong ground truth; bad files, all of them listed.
            Nothing is written in these cases. Or the tree cannot be written: the old manifest is unchanged.
    """
    check_choice("link", link, get_args(Link))
    check_choice("labels", labels, get_args(Labels))
    data = Path(data).absolute()
    _refuse_others(data, dcase)

    def half(first: int) -> Progress | None:
        return on_progress and (lambda done, total: on_progress(done + first * total, 2 * total))

    truth: dict[str, Any] = {"ground_truth": ground_truth, "labels": labels}
    originals = read_originals(data, dcase, **truth, synthetic=synthetic, on_progress=half(0))
    if faults := _faults(originals, data):
        raise ValueError(faults)
    if synthetic:
        manifest.mark_synthetic(data, dcase)
    clips = originals.clips
    audited = audit(dcase, clips, expected_counts(data, dcase, originals.kind), has_truth=originals.has_truth)
    with store.lease(store.formatted_dir(data, dcase)):
        store.sweep_leftovers(store.formatted_dir(data, dcase))
        made = sum(in_threads(_Linker(data, clips, link), clips, half(1)))
        dataset = manifest.write(data, dcase, originals.kind, clips)
        # Last: until here every path of the old manifest still leads to its clip.
        removed = _remove_stale(data, dcase, {c["path"] for c in clips})
    unlabelled = Counter(c["machine"] for c in clips if c["split"] == "test" and c["is_anomaly"] is None)
    return FormatReport(dataset, audited, unlabelled, originals.notes, made, len(clips) - made, removed)


def _refuse_others(data: Path, dcase: str) -> None:
    """Raises ValueError for a year that somebody else has formatted where this user may only read."""
    folder = store.formatted_dir(data, dcase)
    if os.path.isfile(store.dataset_path(data, dcase)) and not os.access(folder, os.W_OK):
        raise ValueError(
            f"{dcase} is formatted already, and {folder} cannot be written: use the data as they are, with "
            "--cache-dir for decoded audio where that folder cannot be written either"
        )


def _faults(originals: Originals, data: Path) -> str:
    """All faults in one message; ``""`` if there are none."""
    lines = []
    if n := len(originals.problems):
        what = "bad files or folders" if n > 1 else "bad file or folder"
        lines.append(f"{n} {what} in {data / 'original' / originals.dcase} (nothing was written):")
        lines += [f"  {line}" for problem in originals.problems for line in problem.splitlines()]
    if originals.truth_problems:
        lines.append(f"wrong ground truth in {originals.truth_folder} (nothing was written):")
        lines += [f"  {line}" for problem in originals.truth_problems for line in problem.splitlines()]
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------- the tree of links


def _remove_stale(data: Path, dcase: str, wanted: set[str]) -> int:
    """Removes links and wavs of the formatted tree that belong to no clip; keeps all other files."""
    removed = 0
    raw = store.formatted_dir(data, dcase) / "raw"
    for folder in (p / split for p in (raw.iterdir() if raw.is_dir() else ()) for split in SPLITS):
        if not folder.is_dir():
            continue
        prefix = folder.relative_to(data).as_posix()
        with os.scandir(folder) as entries:
            stale = [
                e.path
                for e in entries
                if f"{prefix}/{e.name}" not in wanted
                and (e.is_symlink() or e.name.endswith(".wav") or e.name.startswith(".tmp-"))
            ]
        for path in stale:
            os.unlink(path)
        removed += len(stale)
        for parent in (folder, folder.parent):
            if not any(parent.iterdir()):
                parent.rmdir()
    return removed


class _Linker:
    """Links or copies one clip into the formatted tree; returns False if the link was correct already."""

    def __init__(self, data: Path, clips: Iterable[Mapping[str, Any]], link: Link) -> None:
        self.data, self.link = data, link
        # Relative path from each folder of links to each folder of originals. Real paths: `..` in a link
        # starts from the link's real folder.
        self.relative: dict[tuple[str, str], str] = {}
        root = data.resolve()
        for clip in clips:
            folders = os.path.dirname(clip["path"]), os.path.dirname(clip["original_path"])
            if folders not in self.relative:
                links, originals = data / folders[0], root / folders[1]
                try:
                    os.makedirs(links, exist_ok=True)
                except OSError as error:
                    raise ValueError(f"cannot make the folder {links}: {error.strerror}") from None
                self.relative[folders] = os.path.relpath(originals, os.path.realpath(links))

    def __call__(self, clip: Mapping[str, Any]) -> bool:
        target, source = self.data / clip["path"], self.data / clip["original_path"]
        folders = os.path.dirname(clip["path"]), os.path.dirname(clip["original_path"])
        destination = f"{self.relative[folders]}/{source.name}"
        try:
            if self._is_valid_link(target, source, destination):
                return False
            if self.link == "copy":
                with store.atomic_path(target) as temporary:
                    shutil.copy2(source, temporary)
            else:
                try:
                    self._make(destination, source, target)
                except FileExistsError:
                    self._replace(destination, source, target)
        except OSError as error:
            fix = ""
            if self.link != "copy" and has_no_links(error, target.parent):
                fix = f": choose --link {'symlink or ' if self.link == 'hardlink' else ''}copy"
            raise ValueError(f"cannot make the {self.link} {target}: {error.strerror}{fix}") from None
        return True

    def _make(self, destination: str, source: Path, target: Path) -> None:
        if self.link == "symlink":
            os.symlink(destination, target)
        else:
            os.link(source.resolve(), target)

    def _replace(self, destination: str, source: Path, target: Path) -> None:
        """Replaces the file at ``target`` by a link; the file stays if the link cannot be made."""
        temporary = target.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}-{target.name}")
        temporary.unlink(missing_ok=True)
        self._make(destination, source, temporary)
        try:
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _is_valid_link(self, target: Path, source: Path, destination: str) -> bool:
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(found.st_mode):
            return self.link == "symlink" and os.readlink(target) == destination
        if self.link == "symlink":
            return False
        original = os.stat(source)
        if self.link == "hardlink":
            return os.path.samestat(found, original)
        same = (found.st_size, found.st_mtime_ns) == (original.st_size, original.st_mtime_ns)
        return same and not os.path.samestat(found, original)
