"""How long does `asdray official` take for one system of 2022's size? Part of `make perf`.

The system has 4,200 clips with random scores. The whole command runs on one core, including the start of
Python and the confidence interval of the official score. Exit code 1 above 5 seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from asdray.dcase.years import get_year

DCASE, PER_CELL = "dcase2022", 50
MOST_SECONDS = 5.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def build(root: Path) -> int:
    """Writes a submission and its ground truth below ``root``; returns the number of clips."""
    rng = np.random.default_rng(0)
    for folder in ("ground_truth/ground_truth_data", "ground_truth/ground_truth_domain", "system"):
        (root / folder).mkdir(parents=True)
    clips = 0
    for machine, sections in get_year(DCASE).sections["eval"].items():
        for section in sections:
            anomaly, target = np.array([(a, t) for a in (0, 1) for t in (0, 1)] * PER_CELL).T
            score = rng.normal(size=anomaly.size) + anomaly
            names = [f"section_{section:02d}_{i:04d}.wav" for i in range(anomaly.size)]
            stem = f"{machine}_section_{section:02d}_test.csv"
            for path, values in (
                (f"ground_truth/ground_truth_data/ground_truth_{stem}", anomaly),
                (f"ground_truth/ground_truth_domain/ground_truth_{stem}", target),
                (f"system/anomaly_score_{stem}", score),
                (f"system/decision_result_{stem}", (score > 0.5).astype(int)),
            ):
                text = "".join(f"{n},{v}\n" for n, v in zip(names, values.tolist(), strict=True))
                (root / path).write_text(text)
            clips += len(names)
    return clips


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="asdray-perf-") as folder:
        clips = build(Path(folder))
        command = [
            sys.executable, "-m", "asdray", "official", f"{folder}/system", "--dcase", DCASE,
            "--ground-truth", f"{folder}/ground_truth",
        ]  # fmt: skip
        core = str(min(os.sched_getaffinity(0)))
        start = time.monotonic()
        subprocess.run(
            ["taskset", "-c", core, *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
        )
        seconds = time.monotonic() - start
    print(f"official, {clips} clips with interval on one core: {seconds:.1f} s (at most {MOST_SECONDS:.0f})")
    return 0 if seconds <= MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
