"""Sweeps on Ray: Ray Tune trains, and Ray tasks extract, score and plot. No other package imports ray.

The package can be called: ``asdray.sweep("sweeps/dis_grid.yaml")`` runs a sweep, see `asdray.sweep.notebook`.
``asdray.sweep`` is the package's name already, for ``python -m asdray.sweep`` and for imports. A function of
the same name in ``asdray`` would hide the package, or be hidden by it, depending on which was imported first.
Therefore the module object has a class with ``__call__``, as Python's data model allows.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdray.results import Results


class _Sweep(ModuleType):
    """The package as a function."""

    def __call__(self, spec: Any, **options: Any) -> "Results":
        """Runs or resumes a sweep, see `asdray.sweep.notebook.sweep`."""
        from asdray.sweep.notebook import sweep

        return sweep(spec, **options)


sys.modules[__name__].__class__ = _Sweep
