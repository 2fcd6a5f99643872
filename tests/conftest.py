"""What holds for all tests.

One thread per test process: tests run side by side, and tiny fits lose far more to threads than they win. No
time limit on a single example: a busy machine says nothing about the code.
"""

import os

from hypothesis import settings

settings.register_profile("asdray", deadline=None)
settings.load_profile("asdray")

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
