"""A backend as a plugin: low density of training clips around a clip means an anomaly."""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import logsumexp

from asdray.config.backend import BackendConfig


class KernelConfig(BackendConfig):
    name: Literal["kernel"] = "kernel"
    width: float = Field(default=0.1, gt=0)


def kernel(config, references, domain, queries):
    """References ``(N, D)``, their domains ``(N,)``, queries ``(M, D)`` -> scores ``(M,)``.

    Each domain counts by its mean density: the few target clips weigh as much as the many source clips.
    """
    cosines = unit(queries) @ unit(references).T
    densities = [
        logsumexp(cosines[:, domain == name] / config.width, axis=1) - np.log(np.sum(domain == name))
        for name in np.unique(domain)
    ]
    return -np.max(densities, axis=0)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


BACKENDS = [(KernelConfig, kernel)]
