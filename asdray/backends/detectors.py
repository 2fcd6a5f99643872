"""Detectors of PyOD, an optional package that is imported only for the backend ``pyod``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdray.backends.embeddings import Array, checked, unit
from asdray.dcase.years import nearest

_REFUSALS = (
    AssertionError, AttributeError, ImportError, IndexError, KeyError, RuntimeError, TypeError,
    ValueError, ZeroDivisionError,
)  # fmt: skip
"""Exceptions that detectors raise for unsuitable options or data."""


def pyod(
    references: NDArray[np.floating],
    domain: NDArray,
    queries: NDArray[np.floating],
    detector: str,
    options: Mapping[str, Any],
    normalize: bool = True,
    seed: int = 0,
) -> Array:
    """Scores queries by the decision function of a PyOD detector fitted to all references.

    Some detectors (COF, SOD, SOS) keep nothing of the references and compare the queries only with each
    other.

    Args:
        references: (N, D); scaled to length 1 under ``normalize``, like the queries.
        domain: (N,), ``source`` or ``target``; checked, but not used.
        queries: (M, D).
        detector: the name of the detector's class.
        options: arguments of the class.
        seed: the class's ``random_state``, unless ``options`` has one; also seeds the global generators of
            Python, numpy and torch, from which some detectors draw.

    Returns:
        (M,) float64.

    Raises:
        ValueError: PyOD is not installed or has no such detector, an option is unknown, the detector refuses
            options or data, there are too few references, a value is not finite, or a domain is unknown.
    """
    r, q = checked(references, domain, queries, least=2)
    if normalize:
        r, q = unit(r), unit(q)
    if not len(q):
        return np.empty(0)
    kind = _detector(detector)
    known = inspect.signature(kind).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"PyOD's {detector} has no option {unknown[0]!r}{nearest(unknown[0], known)} "
            f"(known: {', '.join(known)})"
        )
    arguments = {"random_state": seed, **options} if "random_state" in known else dict(options)
    try:
        with seeded(seed):
            fitted = kind(**arguments)
            fitted.fit(r)
            scores = np.asarray(fitted.decision_function(q), dtype=np.float64)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"PyOD's {detector} fails with the options {dict(options)}: {type(error).__name__}: {reason}"
        ) from error
    if bad := int((~np.isfinite(scores)).sum()):
        raise ValueError(f"PyOD's {detector} gives {bad} of {len(scores)} clips a score that is not finite")
    return scores


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global random generators, and restores their former state at the end."""
    plain, arrays = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")  # imported if the detector's module needs it
    try:
        with torch.random.fork_rng(devices=[]) if torch else contextlib.nullcontext():
            if torch:
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


def _detector(name: str) -> type:
    """The detector's class, from the module of ``pyod.models`` that is named after the class."""
    try:
        models = importlib.import_module("pyod.models")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"backend 'pyod' needs PyOD, which is not installed ({error}): pip install 'asdray[pyod]'"
        ) from None
    modules = {m.name.replace("_", ""): m.name for m in pkgutil.iter_modules(models.__path__)}
    module = modules.get(name.lower().replace("_", ""))
    if module is None:
        raise ValueError(
            f"PyOD has no detector {name!r}{nearest(name.lower(), modules)} "
            f"(its modules: {', '.join(modules)})"
        )
    try:
        loaded = importlib.import_module(f"pyod.models.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(f"PyOD's {name} needs another package: {error}") from None
    found = getattr(loaded, name, None)
    if not isinstance(found, type):
        classes = [
            n for n, v in vars(loaded).items() if isinstance(v, type) and v.__module__ == loaded.__name__
        ]
        raise ValueError(f"PyOD's module {module!r} has no detector {name!r} (it has: {', '.join(classes)})")
    return found
