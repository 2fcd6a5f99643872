"""Builds tiny datasets in the organisers' layout, with their ground truth in both official forms.

Every clip's audio is seeded by its own name, so that a test can tell which clip it reads.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from asdray.dcase.names import ClipName, build_name
from asdray.dcase.years import get_year

RATE = 16000


def samples(key: str, n: int, channels: int = 1) -> np.ndarray:
    """(n, channels) int16 noise that belongs to a clip key."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    return rng.integers(-3000, 3000, size=(n, channels), dtype=np.int16)


def write_wav(path: Path, key: str, n: int = 800, channels: int = 1, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples(key, n, channels), rate, subtype="PCM_16")


@dataclass
class Tree:
    """A tree of clips on disk.

    Attributes:
        truth: (machine, anonymous name) -> the labelled clip.
        clips: clip key -> the clip, labelled also where its name is not.
    """

    data: Path
    dcase: str
    truth: dict[tuple[str, str], ClipName] = field(default_factory=dict)
    clips: dict[str, ClipName] = field(default_factory=dict)

    def folder(self, subset: str, machine: str, split: str = "") -> Path:
        return self.data / "original" / self.dcase / f"{subset}_data" / "raw" / machine / split

    @property
    def ground_truth(self) -> Path:
        return self.data / "original" / self.dcase / "ground_truth"

    def labelled(self, machine: str, name: str) -> str:
        return build_name(self.dcase, "eval", self.truth[machine, name])


def build_tree(
    data: Path,
    dcase: str,
    machines: list[str],
    train: dict[str, int] | None = None,
    per_cell: int = 1,
    n_samples: int = 800,
) -> Tree:
    """Writes the wavs of ``machines``: ``train`` clips per section and domain, ``per_cell`` test clips.

    Eval test clips are anonymous, their order a permutation of domain and label. The length of a
    machine's clips differs by the machine's place in the list.
    """
    year = get_year(dcase)
    tree = Tree(data, dcase)
    digits = 8 if year.year == 2020 else 4
    for place, machine in enumerate(machines):
        n = n_samples + 16 * place
        hidden = "noAttribute" if machine in year.hidden_attributes else None
        in_train = "" if year.year == 2020 else hidden or "vel_{}_m-n_W"
        in_test = "" if year.year <= 2021 else hidden or "vel_1_ac_0.30"
        for subset in year.subsets_of(machine):
            for section in year.sections[subset][machine]:
                for domain, count in (train or {"source": 3, "target": 1}).items():
                    for i in range(count if domain in year.domains else 0):
                        name = f"{i:0{digits}d}"
                        clip = ClipName(section, domain, "train", False, name, in_train.format(i % 2))
                        _write(tree, subset, machine, clip, clip, n)
                cells = [(d, a) for d in year.domains for a in (False, True) for _ in range(per_cell)]
                order = np.random.default_rng(section).permutation(len(cells))
                for index, cell in enumerate(order):
                    domain, is_anomaly = cells[cell]
                    clip = ClipName(section, domain, "test", is_anomaly, f"{cell:0{digits}d}", in_test)
                    named = clip
                    if subset == "eval":
                        seen = domain if year.year <= 2021 else None
                        named = ClipName(section, seen, "test", None, f"{index:0{digits}d}", "")
                        tree.truth[machine, build_name(dcase, "eval", named)] = clip
                    _write(tree, subset, machine, named, clip, n)
                if year.has_supplemental:
                    extra = ClipName(section, None, "supplemental", None, "", f"machine_{section:04d}_")
                    _write(tree, subset, machine, extra, extra, n)
            if year.attribute_csv:
                (tree.folder(subset, machine) / "attributes_00.csv").write_text("file_name,d1p,d1v\n")
    return tree


def _write(tree: Tree, subset: str, machine: str, named: ClipName, clip: ClipName, n: int) -> None:
    """Writes ``clip`` under the name of ``named``."""
    name = build_name(tree.dcase, subset, named)
    year = get_year(tree.dcase)
    folder = clip.split
    if year.split_test_folders and clip.split == "test":
        folder = f"{clip.domain}_test"
    key = f"{subset}/{machine}/{clip.split}/{name}"
    write_wav(tree.folder(subset, machine, folder) / name, key, n, year.channels)
    tree.clips[key] = clip


def write_list(tree: Tree, newline: str = "\r\n", folder: Path | None = None) -> Path:
    """``eval_data_list_<year>.csv``, rows in reverse order: nothing may depend on the order."""
    lines = []
    for machine in dict.fromkeys(m for m, _ in tree.truth):
        lines.append(machine)
        for (m, name), clip in reversed(tree.truth.items()):
            if m == machine:
                label = f",{int(bool(clip.is_anomaly))}" if tree.dcase == "dcase2020" else ""
                lines.append(f"{name},{tree.labelled(m, name)}{label}")
    path = (folder or tree.ground_truth) / f"eval_data_list_{get_year(tree.dcase).year}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


def write_evaluator(tree: Tree, newline: str = "\n", attributes: bool = True) -> None:
    """The evaluator's folders, in the form of the tree's year."""
    files: dict[Path, list[str]] = {}
    year = get_year(tree.dcase).year
    for (machine, name), clip in tree.truth.items():
        stem = f"ground_truth_{machine}_section_{clip.section:02d}_test.csv"
        data = files.setdefault(tree.ground_truth / "ground_truth_data" / stem, [])
        data.append(f"{name},{int(bool(clip.is_anomaly))}")
        domain = files.setdefault(tree.ground_truth / "ground_truth_domain" / stem, [])
        domain.append(f"{name},{int(clip.domain == 'target')}")
        if not attributes:
            continue
        labelled = tree.labelled(machine, name)
        if year == 2022:
            path = (
                tree.ground_truth / "ground_truth_attributes" / machine / f"attributes_{clip.section:02d}.csv"
            )
            rows = files.setdefault(path, ["file_name,d1p,d1v,file_name_with_full_attributes"])
            rows.append(f"{machine}/test/{name},vel,1,{machine}/test/{labelled}")
        else:
            rows = files.setdefault(tree.ground_truth / "ground_truth_attributes" / stem, [])
            rows.append(f"{name},{labelled.removesuffix('.wav')}")
    for path, rows in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((newline.join(rows) + newline).encode())


def write_counts(tree: Tree) -> None:
    """``synthetic.json``: the tree is synthetic, and complete as it is."""
    counts = Counter(
        f"{key.split('/')[0]}/{key.split('/')[1]}/{c.section:02d}/{c.split}/{c.domain or 'unknown'}/"
        + {None: "unknown", False: "normal", True: "anomaly"}[c.is_anomaly]
        for key, c in tree.clips.items()
    )
    path = tree.data / "original" / tree.dcase / "synthetic.json"
    path.write_text(json.dumps({"counts": counts}))
