"""Gaussians fitted to the normal training clips: Mahalanobis distance, and mixtures."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import DOMAINS, Array, checked, unit
from asdray.config.backend import Gmm

DEFAULTS = Gmm()


def mahalanobis(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    covariance: Literal["pooled", "domain"] = "pooled",
    shrinkage: float | Literal["ledoit_wolf"] = "ledoit_wolf",
    normalize: bool = True,
) -> Array:
    """Scores queries by their Mahalanobis distance to the nearer mean of source and target.

    With u = x / max(|x|, 1e-12) under ``normalize``, else u = x, and m_d the mean of domain d's references,
    the score is min over d of sqrt((u - m_d)' C_d^-1 (u - m_d)), C_d = (1 - a) S_d + a tr(S_d) / D I. S_d is
    the mean of (u - m_d)(u - m_d)' over the domain's references, or for ``pooled`` over all references, each
    around its own domain's mean; a is ``shrinkage``, or Ledoit and Wolf's estimate from the same rows.

    A domain without references is left out; a domain of equal references takes the pooled covariance.
    Eigenvalues are at least 1e-10 times the largest; if all references of each domain are equal, C_d is I.

    Args:
        references: (N, D).
        domain: (N,), ``source`` or ``target``.
        queries: (M, D).

    Returns:
        (M,) float64.

    Raises:
        ValueError: no references, a value that is not finite, or an unknown domain.

    Source: the minimum over domains follows the official DCASE 2023-2026 baseline's selective Mahalanobis
    mode, which works on the autoencoder's residuals instead of embeddings. Ledoit and Wolf, 2004.
    """
    r, q = checked(references, domain, queries)
    if normalize:
        r, q = unit(r), unit(q)
    groups = [r[domain == name] for name in DOMAINS if (domain == name).any()]
    means = [group.mean(axis=0) for group in groups]
    rests = [group - mean for group, mean in zip(groups, means, strict=True)]
    pooled = _whitening(np.concatenate(rests), shrinkage)
    score = np.full(len(q), np.inf)
    for mean, rest in zip(means, rests, strict=True):
        white = _whitening(rest, shrinkage) if covariance == "domain" and rest.any() else pooled
        score = np.minimum(score, np.linalg.norm((q - mean) @ white, axis=1))
    return score


def _whitening(x: Array, shrinkage: float | Literal["ledoit_wolf"]) -> Array:
    """(D, D) matrix W with W W' = C^-1, where C is the shrunk covariance of the centred rows of x."""
    dim = x.shape[1]
    if not x.any():
        return np.eye(dim)
    if shrinkage == "ledoit_wolf":
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(x, assume_centered=True))
    spread = x.T @ x / len(x)
    spread = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(spread)
    return vectors / np.sqrt(np.maximum(values, 1e-10 * values[-1]))


def gmm(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], options: Gmm = DEFAULTS
) -> Array:
    """Scores queries by -log p(z), p a Gaussian mixture fitted to all references by EM (k-means start).

    z = V'(u - m) / s with u = x / max(|x|, 1e-12) under ``normalize``, else u = x; m is the mean of the
    references, V the ``pca`` directions of largest variance (all D axes for None) and s the root of the mean
    variance along the directions, which makes ``reg_covar``, added to every variance, independent of scale.
    At most N components and D directions are used; s = 1 if all references are equal.

    Args:
        references: (N, D).
        domain: (N,), ``source`` or ``target``; checked, but not used.
        queries: (M, D).

    Returns:
        (M,) float64.

    Raises:
        ValueError: no references, a value that is not finite, or an unknown domain.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    r, q = checked(references, domain, queries)
    if options.normalize:
        r, q = unit(r), unit(q)
    if not len(q):
        return np.empty(0)
    mean = r.mean(axis=0)
    r, q = r - mean, q - mean
    pca = options.pca
    if pca is not None and pca < r.shape[1]:
        directions = np.linalg.eigh(r.T @ r)[1][:, : -pca - 1 : -1]
        r, q = r @ directions, q @ directions
    scale = np.sqrt(np.mean(r**2)) or 1.0
    mixture = GaussianMixture(
        min(options.n_components, len(r)),
        covariance_type=options.covariance_type,
        reg_covar=options.reg_covar,
        random_state=options.seed,
    )
    if len(r) == 1:
        r = np.repeat(r, 2, axis=0)  # scikit-learn needs two; the fit is the same
    with warnings.catch_warnings():
        # The fit is used even with fewer distinct points than components, or if EM stops after 100 rounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(r / scale)
    return -mixture.score_samples(q / scale)
