"""The frontend's own reconstruction error as the anomaly score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def recon(own: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """(N,) float64: the score called ``recon`` among a frontend's own, as it is.

    Raises:
        ValueError: the frontend offers no such score.
    """
    if "recon" not in own:
        raise ValueError(f"this frontend offers no score of its own called 'recon' (it offers: {list(own)})")
    return np.asarray(own["recon"], dtype=np.float64)
