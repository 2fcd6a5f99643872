"""Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection.

Example::

    import asdray

    frame = asdray.load_results("results/sweeps/dis_grid")  # every number, one row per metric value
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdray.results import load_results as load_results

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports ``asdray.load_results`` at the first use: `import asdray` alone stays light."""
    if name == "load_results":
        from asdray.results import load_results

        return load_results
    raise AttributeError(f"module 'asdray' has no attribute {name!r}")
