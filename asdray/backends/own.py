"""Own scores: a frontend's score, such as the reconstruction error, is the anomaly score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def own_score(own: Mapping[str, NDArray[np.floating]], name: str) -> NDArray[np.float64]:
    """The frontend's score called ``name``, unchanged, (N,) float64.

    Raises:
        ValueError: the frontend has no score of this name.
    """
    if name not in own:
        raise ValueError(f"this frontend offers no score of its own called {name!r} (it offers: {list(own)})")
    return np.asarray(own[name], dtype=np.float64)
