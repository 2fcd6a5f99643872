"""Losses of the discriminative frontend, and auxiliary losses (``heads``).

Below ``frontend:`` of a recipe::

    loss: {name: subcluster_adacos, n_subclusters: 16}
    heads: [{name: featex, probability: 0.5}]

In the formulas s is the scale, C the number of classes, K the number of sub-clusters per class, and cos the
cosine of the angle between an embedding and the centre of a class. The classes of a clip are targets between
0 and 1, since mixup mixes them.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from asdray.config.base import Config, Extensible, Interface, Positive, Probability, by_name, in_order
from asdray.config.frontend_base import CLASS_PARTS, ClassPart


class AdaCos(Config):
    """Cross entropy of ``s cos``, ``s = sqrt(2) ln(C - 1)``. Source: Zhang et al., AdaCos, CVPR 2019.

    Example: ``loss: {name: adacos, dynamic: true}``
    """

    name: Literal["adacos"] = "adacos"
    trainable: bool = False
    """If true, the class centres are learnt; fixed centres keep their random start (Xavier uniform)."""
    dynamic: bool = False
    """If true, the scale is adapted in every training step; formulas in `asdray.frontends.losses`."""

    later: ClassVar = {"dynamic": False}


class SubclusterAdaCos(Config):
    """AdaCos with K centres per class, whose probabilities are summed before the logarithm.

    ``s = sqrt(2) ln(C K - 1)``. Source: Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021.

    Example: ``loss: {name: subcluster_adacos, n_subclusters: 16, trainable: true}``
    """

    name: Literal["subcluster_adacos"] = "subcluster_adacos"
    n_subclusters: Positive = 16
    """Centres per class (K)."""
    trainable: bool = False
    """If true, the centres are learnt."""
    dynamic: bool = False
    """If true, the scale is adapted in every training step."""

    later: ClassVar = {"dynamic": False}


class ArcFace(Config):
    """Cross entropy of ``s cos(angle + margin)``. Source: Deng et al., ArcFace, CVPR 2019.

    Example: ``loss: {name: arcface, scale: 64, margin: 0.5}``
    """

    name: Literal["arcface"] = "arcface"
    scale: Annotated[float, Field(gt=0)] = 64.0
    """Factor of the cosines (s)."""
    margin: Annotated[float, Field(ge=0, lt=math.pi)] = 0.5
    """Added to the angle, in radians."""
    margin_on: Literal["target", "all", "own", "each"] = "target"
    """``target``, as published: the margin is added for the right class, which becomes harder to reach; a
    class of a mixed clip gets the margin times its share. ``own``: the class of the clip itself gets the
    whole margin, the class that is mixed in gets none (Noisy-ArcMix: Choi and Choi, ICASSP 2024). ``each``:
    the cross entropy of each class has the whole margin at this class (ArcMix, ibid.). ``all``, as ASDKit
    computes: the margin is added for every class, shifts all alike and separates none."""
    trainable: bool = True
    """If true, the class centres are learnt."""


class AdaProj(Config):
    """AdaCos with a subspace per class: the cosine between an embedding and its projection onto the subspace.

    ``s = sqrt(2) ln(C - 1)``. Source: Wilkinghoff, AdaProj, DCASE workshop 2024.

    Example: ``loss: {name: adaproj, subspace_dim: 32}``
    """

    name: Literal["adaproj"] = "adaproj"
    subspace_dim: Positive = 32
    """Dimensions of the subspace of a class."""
    trainable: bool = False
    """If true, the vectors that span the subspaces are learnt."""


class SupCon(Config):
    """Supervised contrastive loss: embeddings of a class attract each other, without class centres.

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020. Clips have one view each: the
    positives of a clip are the other clips of its class in the batch.

    Example: ``loss: {name: supcon, temperature: 0.02}``
    """

    name: Literal["supcon"] = "supcon"
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Divisor of the cosines."""
    positives: Literal["own", "mixed"] = "own"
    """``own``, as in OS-SCL: clips are alike if their classes before mixup are equal. ``mixed``: a pair
    counts with the probability of equal classes after mixup. Formula in `asdray.frontends.losses`."""


_BuiltIn = AdaCos | SubclusterAdaCos | ArcFace | AdaProj | SupCon
_MODULE = Interface(
    ("config", "embedding_dim", "n_classes"),
    "torch.nn.modules.module.Module",
    {"forward": ("embeddings", "targets")},
)
Loss = Annotated[_BuiltIn, Extensible("LOSSES", "loss", Config, _BuiltIn, _MODULE)]


class SubspaceLoss(Config):
    """A loss of each branch's part of the embedding; their sum is added to the main loss.

    Source: ASDKit ``dis_spec_subspaceloss``, arXiv 2507.10264.

    Example: ``heads: [{name: subspace, weight: 1.0, loss: {name: adacos}}]``
    """

    name: Literal["subspace"] = "subspace"
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the sum."""
    loss: Loss = SubclusterAdaCos(trainable=True)
    """Loss of each branch."""


class FeatEx(Config):
    """Feature exchange: an auxiliary loss recognises whether the branches' embeddings come from one clip.

    Source: Wilkinghoff, Self-supervised learning for anomalous sound detection, ICASSP 2024; as configured
    in ASDKit ``dis_spec_featex``, arXiv 2507.10264.

    Example: ``heads: [{name: featex, probability: 0.5}]``
    """

    name: Literal["featex"] = "featex"
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the auxiliary loss."""
    probability: Probability = 0.5
    """Share of the clips whose branch embeddings are exchanged with another clip's."""
    loss: Loss = SubclusterAdaCos(trainable=True)
    """Loss of the classes "own" and "exchanged" parts of the embedding."""


class ClassHead(Config):
    """A further loss of the whole embedding, for classes of its own or for those of the main loss.

    Source: several ArcFace heads (attributes, domain) on one embedding: Wang et al., DCASE2025 Task 2.

    Example: ``heads: [{name: classes, classes: [domain], loss: {name: arcface}, weight: 0.5}]``
    """

    name: Literal["classes"] = "classes"
    classes: Annotated[tuple[ClassPart, ...], Field(min_length=1)] | None = None
    """Properties that make up a class of this head, as ``frontend.classes``; null: the classes of the main
    loss."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the loss."""
    loss: Loss = SubclusterAdaCos(trainable=True)
    """Loss of the head."""

    @field_validator("classes")
    @classmethod
    def _in_one_order(cls, parts: tuple[ClassPart, ...] | None) -> tuple[ClassPart, ...] | None:
        return parts if parts is None else in_order(parts, CLASS_PARTS)


class Projector(Config):
    """A bottleneck between embedding and losses: two linear layers, each with ReLU and batch normalisation.

    The main loss and the heads ``classes`` see its output; ``subspace`` and ``featex`` see the branches.
    Source: the feature perturbation head of OS-SCL, arXiv 2509.13853 (64 of 128 dimensions).

    Example: ``projector: {dim: 64}``
    """

    dim: Positive = 64
    """Dimensions between the two layers; the output has as many as the embedding."""
    embedding: Literal["after", "before"] = "after"
    """The vector that backends score: the projector's output (``after``, as published) or its input."""


Head = Annotated[SubspaceLoss | FeatEx | ClassHead, Field(discriminator="name"), BeforeValidator(by_name)]
