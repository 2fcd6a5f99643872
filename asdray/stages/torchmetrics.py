"""torchmetrics without matplotlib and SciPy, for Lightning, which imports torchmetrics with every training.

Only plots and a metric of sound need the two packages, and no training here uses either. The two imports take
three seconds of the CPU and 90 MB of every training's process.
"""

from __future__ import annotations

import sys
from typing import Any

from lightning_utilities.core import imports

LEFT_OUT = ("matplotlib", "scipy")


def import_without_plots() -> None:
    """Imports torchmetrics as where matplotlib and SciPy are not installed.

    A torchmetrics that is imported already, by a plugin, stays as it is.
    """
    if "torchmetrics" in sys.modules:
        return
    package_available, requirement = imports.package_available, imports.RequirementCache

    def asked(name: str, *args: Any) -> Any:
        return False if name.startswith(LEFT_OUT) else requirement(name, *args)

    imports.package_available = lambda name: name not in LEFT_OUT and package_available(name)  # type: ignore[assignment]
    imports.RequirementCache = asked  # type: ignore[assignment, misc]
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports.package_available, imports.RequirementCache = package_available, requirement  # type: ignore[misc]


import_without_plots()
