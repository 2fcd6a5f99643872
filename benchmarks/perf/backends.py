"""How long do the four default backends take for one machine? Part of `make perf`.

1,000 references (990 source, 10 target) and 200 queries of 512 dimensions, one thread. The first scoring of a
process also imports scikit-learn; its time is printed separately. Exit code 1 above 2 seconds.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from asdray.backends import Features, score_machine
from asdray.config.backend import KMeans, Knn, KnnRescale

REFERENCES, TARGETS, QUERIES, DIMENSIONS = 1000, 10, 200, 512
MOST_SECONDS = 2.0
DEFAULTS = (Knn(), KMeans(), Knn(smote_ratio=0.2), KnnRescale())


def score() -> float:
    """Wall seconds for all four backends."""
    rng = np.random.default_rng(0)
    train, test = (
        Features(rng.normal(size=(n, DIMENSIONS)).astype(np.float32), {}, [0] * n)
        for n in (REFERENCES, QUERIES)
    )
    domain = ["source"] * (REFERENCES - TARGETS) + ["target"] * TARGETS
    start = time.monotonic()
    for backend in DEFAULTS:
        score_machine(backend, train, domain, test)
    return time.monotonic() - start


def main() -> int:
    with threadpool_limits(1):
        first = score()
        seconds = statistics.median(score() for _ in range(5))
    print(
        f"{len(DEFAULTS)} backends, {REFERENCES} references, {QUERIES} queries, {DIMENSIONS} dimensions: "
        f"{seconds:.2f} s (median of 5; with imports {first:.1f} s)"
    )
    return int(seconds > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
