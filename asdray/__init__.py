"""Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdray.results import load_results as load_results

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``asdray.load_results``, imported when it is asked for: `import asdray` alone stays light."""
    if name == "load_results":
        from asdray.results import load_results

        return load_results
    raise AttributeError(f"module 'asdray' has no attribute {name!r}")
