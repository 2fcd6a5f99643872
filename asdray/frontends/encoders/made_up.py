"""Made-up weights: two narrow encoders with random values, where synthetic data need no published file.

They stand for BEATs and EAT in ``asdray benchmark --synthetic``: the same code and layers run, in a
thousandth of the time, and the embeddings know nothing of sound. Official data refuse them, see
`asdray.config.system.System.check_data`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from asdray import store
from asdray.frontends.encoders.beats import Beats
from asdray.frontends.encoders.eat import Eat

SPREAD = 0.1
"""Standard deviation of the values; vectors, such as biases and the gains of norms, keep their usual values
besides."""


class MadeUpBeats(Beats):
    """BEATs of width 48."""

    name: ClassVar[str] = "beats_made_up"
    shape: ClassVar[tuple[int, int, int]] = (12, 48, 3)


class MadeUpEat(Eat):
    """EAT of width 48."""

    name: ClassVar[str] = "eat_made_up"
    shape: ClassVar[tuple[int, int, int]] = (12, 48, 3)


def write(name: str, path: Path) -> None:
    """Writes the weight file of a network, the same values every time; a file that exists stays.

    Args:
        name: ``beats_made_up`` or ``eat_made_up``.
    """
    if path.exists():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MadeUpBeats() if name == MadeUpBeats.name else MadeUpEat()
        state = {n: torch.randn_like(v) * SPREAD + (v.ndim == 1) * v for n, v in network.state_dict().items()}
    # Not straight into the file, whose temporary name would be a part of its content.
    content = io.BytesIO()
    torch.save(state, content)
    store.write_bytes(path, content.getvalue())


def main(arguments: Sequence[str]) -> int:
    """Writes files, as a process of its own: torch stays out of a sweep's driver.

    Args:
        arguments: network, path, network, path, and so on.
    """
    for name, path in zip(arguments[::2], arguments[1::2], strict=True):
        write(name, Path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
