"""One thread per test process: tests run side by side, and tiny fits lose far more to threads than they win."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
