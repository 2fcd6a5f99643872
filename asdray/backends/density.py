"""Local density normalisation: distance to the nearest training clips, relative to their own distances.

Three methods of this name differ in published code: `local_density` with ``chord`` (ASDKit) and with
``cosine`` (its authors), and `domain_density`, by domain (GenRep).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import DOMAINS, Array, checked
from asdray.backends.neighbours import Density, Measure, RankedDensity, References
from asdray.config.backend import LdnDomain


def local_density(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    metric: Measure,
    form: Literal["ratio", "difference"] = "ratio",
    n_neighbors: int = 1,
    n_reference_neighbors: int = 1,
    r: float | None = None,
) -> tuple[Array, Array]:
    """Scores references and queries by their distance to references, each normalised by its own distances.

    c_j is the mean d of reference j to its K nearest other references; with ``r``, the mean of its d to all
    others, nearest first, with weights r^rank. `asdray.backends.neighbours.References` defines d. The score
    is the mean over the k smallest of d(q, r_j) / c_j for ``ratio``, of d(q, r_j) - c_j for ``difference``.
    References of both domains count together: an isolated target reference has a large c_j, which
    compensates for the larger distances around it.

    Under ``ratio``, c_j is at least a millionth of the mean c, since several identical recordings have
    c_j = 0. If all references are identical, the score is d itself. With at most K other references, all
    others count.

    Args:
        references: (N, D), N >= 3.
        domain: (N,), ``source`` or ``target``; checked, but not used.
        queries: (M, D).
        n_neighbors: k.
        n_reference_neighbors: K.
        r: from 0 to 1.

    Returns:
        (N,) float64, the references' scores, each as if it were new: it is not its own reference and does not
        count in any c_j; and (M,) of the queries.

    Raises:
        ValueError: too few references, a value that is not finite, or an unknown domain.

    Source: ``chord`` and ``ratio``: ASDKit's ``KnnRescale-1-4-cosine``, arXiv 2507.10264, which has no guard
    against c_j = 0. ``cosine``: Wilkinghoff et al., Keeping the Balance, ICASSP 2025 (ratio), and arXiv
    2509.10951 (both forms, and ``r``), with k = 1.
    """
    x, q = checked(references, domain, queries, least=3)
    among = References(x, metric)
    density = Density(among, n_reference_neighbors) if r is None else RankedDensity(among, r)

    def smallest(d: Array, c: Array, others: int) -> Array:
        k = min(n_neighbors, others)
        normalised = d / np.maximum(c, density.floor) if form == "ratio" else d - c
        return np.partition(normalised, k - 1, axis=1)[:, :k].mean(axis=1)

    own, new = np.empty(len(x)), np.empty(len(q))
    for rows, d in among.among():
        own[rows] = smallest(d, density.without(rows), len(x) - 1)
    for rows, d in among.to(q):
        new[rows] = smallest(d, density.own, len(x))
    return own, new


def domain_density(
    references: NDArray[np.floating], domain: NDArray, queries: NDArray[np.floating], options: LdnDomain
) -> tuple[Array, Array]:
    """Scores references and queries by the smaller one of two normalised distances, one per domain.

    In each domain, b_j is the sum or mean (``reduce``) of the distances of reference j to its K nearest other
    references of the domain, K being ``n_source`` or ``n_target``. The score is min d(q, r_j) / b_j over all
    references of both domains. Distances are |x - y|, 1 - cos for ``cosine``. Sums of different K put the
    domains on different scales, on purpose or not.

    b_j is at least a millionth of the domain's mean b. With at most K other references, all others count. A
    domain needs two references, besides the one that is scored; else it does not count.

    Returns:
        (N,) float64, the references' scores, each as if it were new, and (M,) of the queries.

    Raises:
        ValueError: fewer than three references in each domain, a value that is not finite, or an unknown
            domain.

    Source: GenRep's entry to DCASE 2025, where b_j is at least 1e-12.
    """
    r, q = checked(references, domain, queries, least=3)
    count = {name: int((domain == name).sum()) for name in DOMAINS}
    if max(count.values()) < 3:
        raise ValueError(
            f"{count['source']} source and {count['target']} target training clips are too few: ldn_domain "
            "needs 3 of one domain"
        )
    own, new = np.full(len(r), np.inf), np.full(len(q), np.inf)
    for name, k in zip(DOMAINS, (options.n_source, options.n_target), strict=True):
        mine = np.flatnonzero(domain == name)
        if len(mine) < 2:
            continue
        bank = References(r[mine], options.metric)
        density = Density(bank, k)

        def smallest(d: Array, b: Array, others: int, k: int = k, floor: float = density.floor) -> Array:
            times = min(k, others) if options.reduce == "sum" else 1
            # 1 - cos and (1 - cos) / 2 have the same ratios.
            return (d / (np.maximum(b, floor) * times)).min(axis=1)

        theirs = np.flatnonzero(domain != name)
        for rows, d in bank.to(r[theirs]):
            own[theirs[rows]] = np.minimum(own[theirs[rows]], smallest(d, density.own, len(mine) - 1))
        if len(mine) > 2:
            for rows, d in bank.among():
                found = smallest(d, density.without(rows), len(mine) - 2)
                own[mine[rows]] = np.minimum(own[mine[rows]], found)
        for rows, d in bank.to(q):
            new[rows] = np.minimum(new[rows], smallest(d, density.own, len(mine) - 1))
    return own, new
