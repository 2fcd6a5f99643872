"""Losses of the discriminative frontend, and what it may learn besides: further heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from asdray.config.base import Config, Extensible, Positive, Probability


class AdaCos(Config):
    """Cross entropy of ``s * cos``, ``s = sqrt(2) ln(C - 1)``.

    Source: Zhang et al., AdaCos, CVPR 2019.
    """

    name: Literal["adacos"] = "adacos"
    trainable: bool = False
    """Whether the class centres are learnt; fixed centres keep their Xavier-uniform start."""
    dynamic: bool = False
    """Whether the scale follows the training; facts in `asdray.frontends.losses`."""

    later: ClassVar[Mapping[str, Any]] = {"dynamic": False}


class SubclusterAdaCos(Config):
    """AdaCos with several centres per class, whose probabilities are summed before the logarithm.

    ``s = sqrt(2) ln(C K - 1)``. Source: Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021.
    """

    name: Literal["subcluster_adacos"] = "subcluster_adacos"
    n_subclusters: Positive = 16
    trainable: bool = False
    dynamic: bool = False

    later: ClassVar[Mapping[str, Any]] = {"dynamic": False}


class ArcFace(Config):
    """Cross entropy of ``s cos(angle + margin)``. Source: Deng et al., ArcFace, CVPR 2019."""

    name: Literal["arcface"] = "arcface"
    scale: Annotated[float, Field(gt=0)] = 64.0
    margin: Annotated[float, Field(ge=0, lt=math.pi)] = 0.5
    """Radians."""
    margin_on: Literal["target", "all"] = "target"
    """``target``: as published, the margin makes the right class harder to reach. ``all``: on the angle of
    every class, which is what ASDKit computes; it shifts all classes alike and separates none."""
    trainable: bool = True


class AdaProj(Config):
    """AdaCos with a subspace per class: the cosine is that of an embedding with its projection onto it.

    ``s = sqrt(2) ln(C - 1)``. Source: Wilkinghoff, AdaProj, DCASE workshop 2024.
    """

    name: Literal["adaproj"] = "adaproj"
    subspace_dim: Positive = 32
    """Vectors that span the subspace of a class."""
    trainable: bool = False


_BuiltIn = AdaCos | SubclusterAdaCos | ArcFace | AdaProj
Loss = Annotated[_BuiltIn, Extensible("LOSSES", "loss", Config, _BuiltIn)]


class SubspaceLoss(Config):
    """A loss of its own for the sub-embedding of each branch; their sum is added to the main loss.

    Source: ASDKit ``dis_spec_subspaceloss``, arXiv 2507.10264.
    """

    name: Literal["subspace"] = "subspace"
    weight: Annotated[float, Field(gt=0)] = 1.0
    loss: Loss = SubclusterAdaCos(trainable=True)


class FeatEx(Config):
    """Feature exchange: a further loss must tell whether sub-embeddings belong to one clip.

    Source: Wilkinghoff, Self-supervised learning for anomalous sound detection, ICASSP 2024; as configured
    in ASDKit ``dis_spec_featex``, arXiv 2507.10264.
    """

    name: Literal["featex"] = "featex"
    weight: Annotated[float, Field(gt=0)] = 1.0
    probability: Probability = 0.5
    """Share of the clips whose sub-embeddings are exchanged."""
    loss: Loss = SubclusterAdaCos(trainable=True)


Head = Annotated[SubspaceLoss | FeatEx, Field(discriminator="name")]
