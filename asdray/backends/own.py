"""A frontend's own score, such as its reconstruction error, as the anomaly score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def own_score(own: Mapping[str, NDArray[np.floating]], name: str) -> NDArray[np.float64]:
    """(N,) float64: the score called ``name`` among a frontend's own, as it is.

    Raises:
        ValueError: the frontend offers no such score.
    """
    if name not in own:
        raise ValueError(f"this frontend offers no score of its own called {name!r} (it offers: {list(own)})")
    return np.asarray(own[name], dtype=np.float64)
