"""How fast is `asdray format`, and how much memory does it take? Part of `make perf`.

The script makes a tree of 2020's size and names (54,248 clips of a few samples each, with ground truth) in a
temporary folder, formats the tree with symlinks in a new process, and formats it again without work left.
Exit code 1 below 20,000 clips a minute or above 1 GiB.
"""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asdray.dcase.years import get_year

DCASE = "dcase2020"
DEV_TRAIN, DEV_TEST, EVAL_TRAIN = 875, 472, 898
"""Clips per machine and id, near the counts of 2020; the eval test split has the published counts."""

LEAST_PER_MINUTE = 20_000
MOST_MIB = 1024

_AUDIO = bytes(range(64))
WAV = b"RIFF%sWAVEfmt %s%sdata%s%s" % (
    struct.pack("<I", 36 + len(_AUDIO)),
    struct.pack("<I", 16),
    struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16),
    struct.pack("<I", len(_AUDIO)),
    _AUDIO,
)


def make_tree(data: Path) -> int:
    """Writes the tree below ``data``; returns the number of clips."""
    year = get_year(DCASE)
    root = data / "original" / DCASE
    n = 0
    truth = []
    for subset in ("dev", "eval"):
        for machine in year.machines[subset]:
            if subset == "eval":
                truth.append(machine)
            for split in ("train", "test"):
                folder = root / f"{subset}_data" / "raw" / machine / split
                folder.mkdir(parents=True)
                for section in year.sections[subset][machine]:
                    names = clip_names(subset, machine, section, split)
                    if (subset, split) == ("eval", "test"):
                        anonymous = [f"id_{section:02d}_{i:08d}.wav" for i in range(len(names))]
                        truth += [
                            f"{a},{n},{int(n.startswith('anomaly'))}"
                            for a, n in zip(anonymous, names, strict=True)
                        ]
                        names = anonymous
                    for name in names:
                        with open(folder / name, "wb") as file:
                            file.write(WAV)
                    n += len(names)
    (root / "ground_truth").mkdir()
    (root / "ground_truth" / "eval_data_list_2020.csv").write_text("\n".join(truth) + "\n")
    return n


def clip_names(subset: str, machine: str, section: int, split: str) -> list[str]:
    """Names of a section's clips, with labels."""
    if split == "train":
        counts = {"normal": DEV_TRAIN if subset == "dev" else EVAL_TRAIN}
    elif subset == "dev":
        counts = {"normal": DEV_TEST // 2, "anomaly": DEV_TEST // 2}
    else:
        published = get_year(DCASE).test_counts[subset, machine, section, "source"]
        counts = dict(zip(("normal", "anomaly"), published, strict=True))
    return [f"{label}_id_{section:02d}_{i:08d}.wav" for label, n in counts.items() for i in range(n)]


def timed_format(data: Path) -> float:
    """Wall seconds of one `asdray format`, including start-up."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "asdray", "format", DCASE, "--data", str(data)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - start


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="asdray-perf-") as folder:
        n = make_tree(Path(folder))
        first = timed_format(Path(folder))
        again = timed_format(Path(folder))
    mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # Linux: KiB
    per_minute = n / first * 60
    print(
        f"format, {n} clips, {os.cpu_count()} CPUs: {first:.1f} s = {per_minute:.0f} clips a minute; "
        f"again {again:.1f} s; peak {mib:.0f} MiB"
    )
    good = per_minute >= LEAST_PER_MINUTE and mib <= MOST_MIB
    if not good:
        print(f"too slow or too large: at least {LEAST_PER_MINUTE} a minute, at most {MOST_MIB} MiB")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
