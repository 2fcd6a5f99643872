"""The trained part of a pretrained encoder: nothing, low-rank additions, everything, or the last blocks.

``tune`` of a branch ``encoder`` is a name, ``{last: k}``, or an object with options::

    tune: none | lora | full | {last: 4}
    tune: {name: lora, rank: 64, alpha: 8, targets: [q, v]}
    tune: {name: full, layer_decay: 0.9}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from asdray.config.base import Config, Positive, by_name, refuse_repeats
from asdray.config.weights import Network
from asdray.dcase.years import nearest

_TRANSFORMER = ("q", "k", "v", "out", "fc1", "fc2")
TARGETS: Mapping[str, tuple[str, ...]] = {
    "beats": _TRANSFORMER,
    "eat": ("qkv", "proj", "fc1", "fc2"),
    "eat_large": ("qkv", "proj", "fc1", "fc2"),
    "ast": _TRANSFORMER,
    "clap": _TRANSFORMER,
    "beats_made_up": _TRANSFORMER,
    "eat_made_up": ("qkv", "proj", "fc1", "fc2"),
}
"""The linear layers of a network's blocks that LoRA can extend; a network without an entry has none."""


class NoTuning(Config):
    """The encoder stays as published; only the head learns."""

    name: Literal["none"] = "none"


class Lora(Config):
    """The encoder stays as published, and its linear layers get low-rank additions that learn.

    A layer W x becomes W x + (alpha / rank) B A x, B starting at zero. Source: Hu et al., LoRA, ICLR 2022;
    defaults as in ASDKit.

    Example: ``tune: {name: lora, rank: 64, alpha: 8, targets: [q, v]}``
    """

    name: Literal["lora"] = "lora"
    rank: Positive = 64
    """Rows of A."""
    alpha: Annotated[float, Field(gt=0)] = 8.0
    """Numerator of the factor alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of A, in training."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The extended layers of every block: of ``q``, ``k``, ``v``, ``out``, ``fc1``, ``fc2`` (EAT: ``qkv``,
    ``proj``, ``fc1``, ``fc2``), in any order. Null for ``q`` and ``v``, or ``qkv``."""

    def of_network(self, network: Network) -> Lora:
        """The same with the targets written out, in the network's order.

        Raises:
            ValueError: a target that the network does not have, or a network without linear layers.
        """
        known = TARGETS.get(network)
        if known is None:
            raise ValueError(
                f"network {network!r} has no linear layers that lora could extend: choose none or full"
            )
        targets = self.targets or tuple(name for name in known if name in ("q", "v", "qkv"))
        refuse_repeats(targets, "targets")
        for target in targets:
            if target not in known:
                raise ValueError(
                    f"targets: network {network!r} has no layer {target!r}{nearest(target, known)} "
                    f"(known: {', '.join(known)})"
                )
        return self.model_copy(update={"targets": tuple(name for name in known if name in targets)})


class Full(Config):
    """All weights of the encoder learn, up to the layer that is used.

    Example: ``tune: {name: full, layer_decay: 0.9}``
    """

    name: Literal["full"] = "full"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate per block below the last one that is used; what lies before the first block
    counts as one more. 1 for equal rates. Source: Bao et al., BEiT, ICLR 2022."""


class Last(Config):
    """The last blocks up to the layer that is used learn; in YAML ``{last: 4}``."""

    name: Literal["last"] = "last"
    blocks: Positive
    """Number of blocks."""


def _spelled_out(value: Any) -> Any:
    """A name alone stands for the defaults, and ``{last: 4}`` for the last four blocks."""
    if isinstance(value, Mapping) and "last" in value and "name" not in value:
        rest = {key: entry for key, entry in value.items() if key != "last"}
        return {"name": "last", "blocks": value["last"], **rest}
    return by_name(value)


Tuning = Annotated[
    Annotated[NoTuning | Lora | Full | Last, Field(discriminator="name")], BeforeValidator(_spelled_out)
]
