"""Gaussians fitted to the normal training clips: Mahalanobis distance, and mixtures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
    fast: bool = False,
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
        fast: if true, a faster way to the same numbers, up to rounding (see `_distance`).

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
    pooled = _distance(np.concatenate(rests), shrinkage, fast)
    score = np.full(len(q), np.inf)
    for mean, rest in zip(means, rests, strict=True):
        distance = _distance(rest, shrinkage, fast) if covariance == "domain" and rest.any() else pooled
        score = np.minimum(score, distance(q - mean))
    return score


def _distance(x: Array, shrinkage: float | Literal["ledoit_wolf"], fast: bool) -> Callable[[Array], Array]:
    """The function (M, D) -> (M,) sqrt(v' C^-1 v), where C is the shrunk covariance of the centred rows of x.

    ``fast`` takes C^-1 from `_factor`, where possible, in a quarter of the time of eigenvectors.
    """
    from scipy.linalg import solve_triangular
    from sklearn.covariance import ledoit_wolf_shrinkage

    if not x.any():
        return lambda v: np.linalg.norm(v, axis=1)
    if fast and (factor := _factor(x, shrinkage)) is not None:
        return lambda v: np.linalg.norm(solve_triangular(factor, v.T, lower=True, check_finite=False), axis=0)
    if shrinkage == "ledoit_wolf":
        shrinkage = float(ledoit_wolf_shrinkage(x, assume_centered=True))
    dim, spread = x.shape[1], x.T @ x / len(x)
    spread = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(spread)
    white = vectors / np.sqrt(np.maximum(values, 1e-10 * values[-1]))
    return lambda v: np.linalg.norm(v @ white, axis=1)


def _factor(x: Array, shrinkage: float | Literal["ledoit_wolf"]) -> Array | None:
    """The lower Cholesky factor (D, D) of the shrunk covariance of the centred rows of x (N, D).

    None if the covariance may be so close to singular that distances by the factor and by eigenvectors would
    differ by more than about 1e-8 of their value.
    """
    from scipy.linalg import cholesky

    dim, spread = x.shape[1], x.T @ x / len(x)
    mean, diagonal = np.trace(spread) / dim, np.diag_indices(dim)
    spread[diagonal] -= mean  # the shrunk covariance is (1 - a) of this rest, plus the mean on the diagonal
    if shrinkage == "ledoit_wolf":
        # The mean of |x x' - S|^2 over the rows is the mean of |x|^4, less |S|^2.
        rest = np.vdot(spread, spread)
        error = (np.mean(np.einsum("nd,nd->n", x, x) ** 2) - rest - dim * mean**2) / len(x)
        shrinkage = float(np.clip(error / rest, 0, 1)) if rest else 0.0
    if shrinkage / dim <= 1e-8:  # the eigenvalues lie between shrinkage / dim and 1 times the trace
        return None
    spread *= 1 - shrinkage
    spread[diagonal] += mean
    return cholesky(spread.T, lower=True, overwrite_a=True, check_finite=False)


def gmm(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    options: Gmm = DEFAULTS,
    fast: bool = False,
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
        fast: if true, a faster way to the same numbers, up to rounding (see `_directions`).

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
        directions = _directions(r, pca, fast)
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


def _directions(x: Array, n: int, fast: bool) -> Array:
    """(D, n) directions of largest variance of the centred rows of x, largest first; n < D.

    Under ``fast``, the other directions are not computed, which takes half the time, unless fewer than n have
    a variance: which of the rest are taken is then up to the eigensolver.
    """
    from scipy.linalg import eigh

    square = x.T @ x
    if fast:
        last = len(square) - 1
        values, vectors = eigh(square, subset_by_index=[last - n, last], check_finite=False)
        if values[1] - values[0] > 1e-8 * values[-1]:
            return vectors[:, :0:-1]
    return np.linalg.eigh(square)[1][:, : -n - 1 : -1]
