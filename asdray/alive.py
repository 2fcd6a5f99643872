"""Signs of life of the work in this process: whoever watches sees whether their number grows.

Loops over batches and clips give a sign per turn, and so does a wait for another process.
"""

from __future__ import annotations

_signs = 0


def sign() -> None:
    """Gives a sign of life; costs nothing."""
    global _signs
    _signs += 1


def signs() -> int:
    """Number of signs of this process so far."""
    return _signs
