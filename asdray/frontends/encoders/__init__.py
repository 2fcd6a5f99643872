"""Pretrained encoders: networks that turn clips into tokens, and the reading of their published weights.

An encoder is a subclass of `asdray.frontends.encoders.base.EncoderNetwork` in a module of its own, and a case
in `_class`.

Example:
    The mean token of the last layer, for two clips of 10 s::

        network = build("beats")
        weights.load(network, Path("BEATs_iter3.pt"))
        spectrum = network.spectrum(torch.zeros(2, 160_000))
        network(spectrum, [12])[12].grid.mean(dim=(1, 2))  # (2, 768)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asdray.frontends.encoders.base import EncoderNetwork


def build(name: str, **options: int) -> EncoderNetwork:
    """A network without values, on the meta device, in evaluation mode.

    Args:
        name: ``beats``, ``eat``, ``eat_large``, ``aisfx``, ``ast`` or ``clap``; for synthetic data also
            ``beats_made_up`` or ``eat_made_up``.
        options: ``frame_multiple`` of EAT.

    Raises:
        ValueError: the network needs a package that is not installed.
    """
    import torch

    with torch.device("meta"):
        return _class(name)(**options).eval()


def _class(name: str) -> type[EncoderNetwork]:
    """The class of a network; only its own module is imported."""
    match name:
        case "beats":
            from asdray.frontends.encoders.beats import Beats

            return Beats
        case "eat" | "eat_large":
            from asdray.frontends.encoders.eat import Eat, EatLarge

            return Eat if name == "eat" else EatLarge
        case "aisfx":
            from asdray.frontends.encoders.aisfx import Aisfx

            return Aisfx
        case "ast" | "clap":
            from asdray.frontends.encoders.hub import Ast, Clap

            return Ast if name == "ast" else Clap
        case "beats_made_up" | "eat_made_up":
            from asdray.frontends.encoders.made_up import MadeUpBeats, MadeUpEat

            return MadeUpBeats if name == "beats_made_up" else MadeUpEat
    raise ValueError(f"no encoder is called {name!r}")
