"""Backends: embeddings, or a frontend's own scores -> anomaly scores, higher = more anomalous.

A backend is a configuration class in `asdray.config.backend`, a function, and a case in `_function`, or in
`_neighbours` where one pass over the distances scores training clips as well. Other training clips are scored
by five-fold cross-fitting, unless the function leaves one out itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdray.backends.density import domain_density, local_density
from asdray.backends.detectors import pyod
from asdray.backends.embeddings import checked, held_out, unit
from asdray.backends.gaussian import gmm, mahalanobis
from asdray.backends.kmeans import kmeans
from asdray.backends.knn import knn
from asdray.backends.mem_mixup import mem_mixup
from asdray.backends.own import own_score
from asdray.backends.varmin import nearest, varmin
from asdray.config.backend import (
    Backend,
    BackendConfig,
    Beam,
    EmbeddingBackend,
    Gmm,
    KMeans,
    Knn,
    KnnRescale,
    Ldn,
    LdnDomain,
    Mahalanobis,
    MemMixup,
    Own,
    Pyod,
    Recon,
    VarMin,
)
from asdray.config.base import implementation
from asdray.config.plugin_fault import in_words, wrong
from asdray.notes import tell

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """The output of extraction for N clips of one machine.

    Attributes:
        embedding: float32 or float64, (N, D), or (N, F, D) for F bands; several by name; None if the frontend
            has none.
        own: the frontend's own anomaly scores by name, each (N,).
        section: (N,), read by backends with ``sep_section``.
    """

    embedding: NDArray[np.floating] | Mapping[str, NDArray[np.floating]] | None
    own: Mapping[str, NDArray[np.floating]]
    section: Sequence[int]


def score_machine(
    backend: Backend, train: Features, train_domain: Sequence[str], test: Features
) -> tuple[Scores, Scores]:
    """Anomaly scores of a machine's training and test clips, higher = more anomalous.

    No labels are read. Training clips are scored as if each were new: a clip is never its own reference, and
    no fit that scores a clip includes the clip.

    Args:
        train: the normal training clips of all sections.
        train_domain: (N_train,), ``source`` or ``target``.

    Returns:
        (N_train,) and (N_test,) float64, finite.

    Raises:
        ValueError: the frontend lacks the embeddings or score that the backend needs, there are too few
            clips, or a value is not finite.
    """
    match backend:
        case Recon():
            return own_score(train.own, "recon"), own_score(test.own, "recon")
        case Own():
            return own_score(train.own, backend.score), own_score(test.own, backend.score)
    references, queries = _parts(backend, train), _parts(backend, test)
    domain = np.asarray(train_domain)
    if not backend.sep_section:
        return _score(backend, references, domain, queries)
    scores = np.empty(len(references[0])), np.empty(len(queries[0]))
    train_section, test_section = np.asarray(train.section), np.asarray(test.section)
    for section in np.unique(np.concatenate([train_section, test_section])):
        old, new = train_section == section, test_section == section
        try:
            parts = _score(backend, [r[old] for r in references], domain[old], [q[new] for q in queries])
        except ValueError as error:
            raise ValueError(f"section {section}: {error}") from None
        scores[0][old], scores[1][new] = parts
    return scores


def _parts(backend: EmbeddingBackend, features: Features) -> list[NDArray[np.floating]]:
    """The (N, D) arrays that the backend scores one by one: each band of each embedding that it names.

    Raises:
        ValueError: there are no embeddings, or none of a name.
    """
    found, parts = features.embedding, []
    if found is None or (isinstance(found, Mapping) and not found):
        raise ValueError(f"backend {backend.name!r} scores embeddings, but this frontend offers none")
    named = found if isinstance(found, Mapping) else {"embedding": found}
    for name in backend.embeddings or [*named][:1]:
        if name not in named:
            raise ValueError(f"backend {backend.name!r}: no embedding {name!r} (known: {', '.join(named)})")
        x = named[name]
        parts += [x] if x.ndim == 2 else [x[:, band] for band in range(x.shape[1])]
    if isinstance(backend, Beam) and backend.combine == "join":
        # The mean of the bands' cosine distances is the cosine distance of joined bands of equal length.
        parts = [unit(np.asarray(part, dtype=np.float64)) for part in parts]
    return [np.concatenate(parts, axis=1)] if backend.combine == "join" and len(parts) > 1 else parts


def _score(
    backend: EmbeddingBackend,
    references: Sequence[NDArray[np.floating]],
    domain: NDArray,
    queries: Sequence[NDArray[np.floating]],
) -> tuple[Scores, Scores]:
    """Scores of the references, each as if it were new, and of the queries; the mean or minimum over parts.

    Args:
        references, queries: one array per part.
    """
    several = len(references) > 1
    scores = [_score_part(backend, r, domain, q, several) for r, q in zip(references, queries, strict=True)]
    if len(scores) == 1:
        return scores[0]
    combine = np.min if backend.combine == "min" else np.mean
    own, new = (combine(np.stack(found), axis=0) for found in zip(*scores, strict=True))
    return own, new


def _score_part(
    backend: EmbeddingBackend,
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    several: bool,
) -> tuple[Scores, Scores]:
    """`_score` of one part, (N, D) and (M, D); ``several``: true if the embedding has other parts too."""
    if (both := _neighbours(backend)) is not None:
        return both(references, domain, queries)
    score = _function(backend, several)
    if isinstance(backend, Knn):
        own = score(references, domain, references, leave_one_out=True)
    else:
        own = held_out(score, references, domain)
    return own, score(references, domain, queries)


def _options(backend: EmbeddingBackend) -> dict[str, Any]:
    """The options that most backends' functions have as arguments, under the same names."""
    return backend.model_dump(exclude=set(BackendConfig.model_fields))


def _neighbours(backend: EmbeddingBackend) -> Callable[..., tuple[Scores, Scores]] | None:
    """The function of (references, domain, queries) -> scores of both, if the backend has such a one."""
    match backend:
        case KnnRescale():
            chord = {"metric": "chord"} if backend.metric == "cosine" else {}
            return partial(local_density, **{**_options(backend), **chord})
        case Ldn():
            return partial(local_density, **_options(backend))
        case LdnDomain():
            return partial(domain_density, options=backend)
        case VarMin():
            return partial(varmin, **_options(backend))
        case Beam(varmin=int(k)):
            return partial(varmin, n_neighbors=k)
        case Beam():
            return partial(nearest, metric="cosine")
        case MemMixup():
            return partial(mem_mixup, options=backend)
    return None


def _function(backend: EmbeddingBackend, fast: bool) -> Callable[..., Scores]:
    """The function of (references, domain, queries) that implements a backend, with the backend's options.

    Args:
        fast: if true, `mahalanobis` and `gmm` take faster ways to the same numbers, up to rounding. A single
            part takes the slower ones, which keeps the digits of published results.
    """
    if from_plugin := implementation(backend):
        return partial(_from_plugin, from_plugin, backend)
    options = _options(backend)
    match backend:
        case Knn():
            return partial(knn, options=backend)
        case KMeans():
            return partial(kmeans, **options)
        case Mahalanobis():
            return partial(mahalanobis, **options, fast=fast)
        case Gmm():
            return partial(gmm, options=backend, fast=fast)
        case Pyod():
            return partial(pyod, **options)
    raise TypeError(f"backend {backend.name!r} has no function")


def _from_plugin(
    score: Callable[..., Any],
    backend: EmbeddingBackend,
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
) -> Scores:
    """The scores of a plugin's backend, after checks of its inputs and outputs.

    Raises:
        PluginError: anything else than a finite number per query.
    """
    references, queries = checked(references, domain, queries)
    scores = _in_form(score(backend, references, domain, queries), len(queries), score, backend)
    if bad := int((~np.isfinite(scores)).sum()):
        what = f"{bad} of {len(scores)} scores that are NaN or infinite"
        raise wrong(score, type(backend), what, "finite scores", "look at divisions and logarithms of zero")
    return scores


def _in_form(found: Any, n_queries: int, score: Callable[..., Any], backend: Backend) -> Scores:
    """What a plugin's backend returned, as float64; PluginError for anything else than a number per query."""
    expected = f"an array of real numbers of shape ({n_queries},), a score per query"
    try:
        scores = np.asarray(found)
        real = scores.astype(np.float64) if not np.iscomplexobj(scores) else None
    except (TypeError, ValueError, RuntimeError):  # text, rows of several lengths, a tensor with a gradient
        raise wrong(score, type(backend), in_words(found), expected, "return one") from None
    if real is None or real.shape != (n_queries,):
        fix = "return one number per row of queries"
        what = in_words(found if scores.dtype == object else scores)
        raise wrong(score, type(backend), what, expected, fix)
    return real


SLOW_REHEARSAL = 60.0
"""Seconds after which a rehearsal is told: 60 vectors are scored in far less."""


def _slow(backend: Backend) -> str:
    return (
        f"the backend {backend.name} has not scored 7 random vectors within {SLOW_REHEARSAL:g} s, and the "
        "run waits: if the plugin hangs, end the run with Ctrl-C"
    )


def rehearse(backends: Iterable[Backend]) -> None:
    """Calls the backends of plugins once with random embeddings, before hours of training.

    An exception is no fault here: a backend may need more clips, or other dimensions. Nor are scores that are
    not finite.

    Raises:
        PluginError: something else than a number per query.
    """
    rng = np.random.default_rng(0)
    references, queries = rng.normal(size=(60, 32)), rng.normal(size=(7, 32))
    domain = np.array(["source"] * 50 + ["target"] * 10)
    for backend in backends:
        if from_plugin := implementation(backend):
            slow = threading.Timer(SLOW_REHEARSAL, tell, [_slow(backend)])
            slow.start()
            try:
                with np.errstate(all="ignore"):
                    found = from_plugin(backend, references, domain, queries)
            except Exception:
                continue
            finally:
                slow.cancel()
            _in_form(found, len(queries), from_plugin, backend)
