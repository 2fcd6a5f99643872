"""Sweeps and benchmarks for DCASE Challenge Task 2, anomalous sound detection.

Example::

    import asdray

    results = asdray.sweep("sweeps/dis_grid.yaml")  # or a dictionary with the content of such a file
    results.leaderboard()
    results.scores()  # a row per seed's official score of a year and subset
    asdray.predict(results.best()["folders"][0], ["new.wav"], machine="fan")
    frame = asdray.load_results("results/sweeps/dis_grid")  # every number, one row per metric value
    asdray.plot(frame, "leaderboard").savefig("leaderboard.pdf")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asdray.home import settle

if TYPE_CHECKING:
    from asdray.report.plots import plot as plot
    from asdray.results import Results as Results
    from asdray.results import load_results as load_results
    from asdray.stages.predict import predict as predict
    from asdray.stages.predict import predictor as predictor

__version__ = "0.2.0"

_PUBLIC = {
    "Results": "asdray.results",
    "load_results": "asdray.results",
    "plot": "asdray.report.plots",
    "predict": "asdray.stages.predict",
    "predictor": "asdray.stages.predict",
}
"""Name -> the module that has it. ``asdray.sweep`` is a package that can be called, see there."""


settle()  # before any library looks for its cache


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use: `import asdray` alone stays light."""
    if name == "sweep":
        return import_module("asdray.sweep")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'asdray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, "sweep"])
