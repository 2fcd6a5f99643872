"""How long do backends take for one machine? Part of `make perf`.

1,000 references (990 source, 10 target) and 200 queries, one thread: the four default backends on 512
dimensions, where the first scoring of a process also imports scikit-learn, whose time is printed separately;
and those of frozen encoders on 8 bands of 768 dimensions. Exit code 1 above 2 seconds for the four, or above
3.75 seconds for one with bands: 16 machines, a year, then take 30 s on two cores. `gmm` has no limit: two
thirds of its time are scikit-learn's EM, which needs many rounds on noise.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from asdray.backends import Features, score_machine
from asdray.config.backend import (
    Beam,
    EmbeddingBackend,
    Gmm,
    KMeans,
    Knn,
    KnnRescale,
    Ldn,
    LdnDomain,
    Mahalanobis,
    MemMixup,
    VarMin,
    backend_id,
)
from asdray.evaluation.tables import backend_labels

REFERENCES, TARGETS, QUERIES, DIMENSIONS = 1000, 10, 200, 512
MOST_SECONDS = 2.0
DEFAULTS = (Knn(), KMeans(), Knn(smote_ratio=0.2), KnnRescale())

BANDS, WIDTH = 8, 768
MOST_SECONDS_OF_BANDS = 30 * 2 / 16
OF_BANDS = (
    *(Knn(), Ldn(), LdnDomain(), VarMin(), Beam(), Beam(varmin=4), MemMixup(), MemMixup(combine="join")),
    *(KMeans(), Mahalanobis()),
)
UNLIMITED = (Gmm(),)


def score(backends: tuple[EmbeddingBackend, ...], *shape: int) -> float:
    """Wall seconds for all ``backends``; ``shape``: of a clip's embedding."""
    rng = np.random.default_rng(0)
    train, test = (
        Features(rng.normal(size=(n, *shape)).astype(np.float32), {}, [0] * n) for n in (REFERENCES, QUERIES)
    )
    domain = ["source"] * (REFERENCES - TARGETS) + ["target"] * TARGETS
    start = time.monotonic()
    for backend in backends:
        score_machine(backend, train, domain, test)
    return time.monotonic() - start


def main() -> int:
    with threadpool_limits(1):
        first = score(DEFAULTS, DIMENSIONS)
        seconds = statistics.median(score(DEFAULTS, DIMENSIONS) for _ in range(5))
        of_bands = {
            backend_id(b): min(score((b,), BANDS, WIDTH) for _ in range(2)) for b in OF_BANDS + UNLIMITED
        }
    labels = backend_labels({backend_id(b): b.model_dump() for b in OF_BANDS + UNLIMITED})
    print(
        f"{len(DEFAULTS)} backends, {REFERENCES} references, {QUERIES} queries, {DIMENSIONS} dimensions: "
        f"{seconds:.2f} s (median of 5; with imports {first:.1f} s)"
    )
    print(f"{BANDS} bands of {WIDTH} dimensions, the better of 2:")
    for name, found in of_bands.items():
        print(f"  {found:.2f} s  {labels[name]}")
    most = max(of_bands[backend_id(b)] for b in OF_BANDS)
    return int(seconds > MOST_SECONDS or most > MOST_SECONDS_OF_BANDS)


if __name__ == "__main__":
    sys.exit(main())
