"""How long do the tables and the leaderboard of 1,000 trials take? Part of `make perf`.

The script writes 1,000 random ``metrics.parquet`` files: 250 systems, 4 seeds, the 16 machines of 2024, 4
backends, every metric. Timed is the work of a sweep, from reading these files to the written leaderboard with
published rows, in a new process. Exit code 1 above 20 seconds or 2 GiB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DCASE, SYSTEMS, SEEDS, BACKENDS = "dcase2024", 250, 4, ("knn-1", "kmeans-1", "knn-2", "knn_rescale-1")
MOST_SECONDS, MOST_GIB = 20.0, 2.0


def build(root: Path) -> None:
    """Writes one ``metrics.parquet`` per trial."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from asdray.dcase.years import get_year
    from asdray.evaluation.metrics import METRICS
    from asdray.evaluation.tables import SCHEMA

    rng = np.random.default_rng(0)
    year = get_year(DCASE)
    rows = [
        (machine, subset, section, backend, metric)
        for machine in year.all_machines
        for subset in year.subsets_of(machine)
        for backend in BACKENDS
        for section, names in ((0, METRICS), (-1, (*METRICS, "official")))
        for metric in names
    ]
    frame = pd.DataFrame(rows, columns=["machine", "subset", "section", "backend", "metric"])
    for system in range(SYSTEMS):
        for seed in range(SEEDS):
            trial = frame.assign(
                dcase=DCASE, recipe="dis", system=f"dis-{system:08d}", seed=seed, checkpoint="last",
                value=rng.uniform(0.4, 0.9, len(frame)), dataset="official",
            )  # fmt: skip
            table = pa.Table.from_pandas(trial[SCHEMA.names], schema=SCHEMA, preserve_index=False)
            pq.write_table(table, root / f"{system}-{seed}.parquet")


def tabulate(root: Path) -> None:
    """Writes tables and leaderboard of all trials in ``root``; exits with 1 if a limit is broken."""
    import pandas as pd

    from asdray.dcase.years import SUBSETS, get_year
    from asdray.evaluation import leaderboard, published, tables

    start = time.monotonic()
    rows = tables.load_rows(sorted(root.glob("*.parquet")))
    planned = pd.DataFrame(
        [
            (DCASE, "dis", f"dis-{system:08d}", seed, "last", backend)
            for system in range(SYSTEMS)
            for seed in range(SEEDS)
            for backend in BACKENDS
        ],
        columns=["dcase", *tables.TRIAL_KEYS],
    )
    context = tables.TableContext(
        {DCASE: get_year(DCASE).all_machines}, "official", {DCASE: "evaluator"}, {b: b for b in BACKENDS}
    )
    made = tables.sweep_tables(rows, planned, context)
    tables.write_tables(made, root / "out" / "tables", "official")
    theirs = published.leaderboard_rows([f"{DCASE}-{subset}" for subset in SUBSETS])
    board = leaderboard.build(made, context, extra=theirs)
    assert board.frame["rank"].notna().sum() == SYSTEMS * len(BACKENDS)
    leaderboard.write(board, root / "out")
    seconds = time.monotonic() - start
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"tables of {SYSTEMS * SEEDS} trials: {seconds:.1f} s (at most {MOST_SECONDS:.0f}), "
        f"{gib:.2f} GiB (at most {MOST_GIB:.0f})"
    )
    sys.exit(seconds > MOST_SECONDS or gib > MOST_GIB)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="asdray-perf-") as folder:
        build(Path(folder))
        return subprocess.run([sys.executable, __file__, folder]).returncode


if __name__ == "__main__":
    if len(sys.argv) > 1:
        tabulate(Path(sys.argv[1]))
    sys.exit(main())
