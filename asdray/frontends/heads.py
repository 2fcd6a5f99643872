"""Losses of the discriminative frontend by their configuration, and heads: losses beside the main one.

Legend for shapes: B clips, C classes, M branches, D dimensions of the embedding, D_m of the sub-embedding of
branch m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asdray.config.base import UNIONS, implementation
from asdray.frontends.augment import Exchange
from asdray.frontends.losses import (
    AdaCosLoss,
    AdaProjLoss,
    AngularLoss,
    ArcFaceLoss,
    SupConLoss,
    loss_of,
)

if TYPE_CHECKING:
    from asdray.config import losses


def build_loss(options: losses.Loss, embedding_dim: int, n_classes: int) -> AngularLoss | SupConLoss:
    """The loss of a configuration, with fresh class centres.

    Raises:
        ValueError: the loss needs more classes.
    """
    if from_plugin := implementation(options):
        made = from_plugin(options, embedding_dim, n_classes)
        UNIONS["LOSSES"].interface.check_instance(options, made)
        return made
    # Every option of a loss is an argument of its module, under the same name.
    arguments = options.model_dump(exclude={"name"})
    match options.name:
        case "adacos" | "subcluster_adacos":
            return AdaCosLoss(embedding_dim, n_classes, **arguments)
        case "arcface":
            return ArcFaceLoss(embedding_dim, n_classes, **arguments)
        case "adaproj":
            return AdaProjLoss(embedding_dim, n_classes, **arguments)
        case "supcon":
            return SupConLoss(embedding_dim, n_classes, **arguments)


class SubspaceHead(nn.Module):
    """A separate loss for each sub-embedding; the head's loss is their weighted sum.

    Every branch thereby learns to tell classes apart even without the other branches.

    Source: ASDKit's subspace loss, arXiv 2507.10264.
    """

    def __init__(self, options: losses.SubspaceLoss, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.weight = options.weight
        self.losses = nn.ModuleList(build_loss(options.loss, dim, n_classes) for dim in dims)

    def forward(
        self, parts: Sequence[Tensor], targets: Tensor, own: Tensor, exchange: Exchange | None
    ) -> Tensor:
        """The loss, ``()``, of sub-embeddings ``M x (B, D_m)`` with targets ``(B, C)``, see `loss_of`."""
        losses = [loss_of(loss, part, targets, own) for loss, part in zip(self.losses, parts, strict=True)]
        return self.weight * torch.stack(losses).sum()


class FeatExHead(nn.Module):
    """Feature exchange: a loss that tells whether all sub-embeddings of an embedding belong to one clip.

    Some clips take sub-embeddings from others, see `exchanged`; the loss classifies the result.

    Source: Wilkinghoff, ICASSP 2024, as configured in ASDKit, arXiv 2507.10264.
    """

    def __init__(self, options: losses.FeatEx, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.weight = options.weight
        self.loss = build_loss(options.loss, sum(dims), n_classes * (len(dims) + 1))

    def forward(
        self, parts: Sequence[Tensor], targets: Tensor, own: Tensor, exchange: Exchange | None
    ) -> Tensor:
        """The loss, ``()``, of sub-embeddings ``M x (B, D_m)`` with targets ``(B, C)``, see `loss_of`."""
        assert exchange is not None
        embeddings, after = exchanged(parts, targets, exchange)
        return self.weight * loss_of(self.loss, embeddings, after, exchanged_targets(own, exchange))


def exchanged(parts: Sequence[Tensor], targets: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor]:
    """Embeddings with exchanged sub-embeddings, and their targets.

    The targets have M + 1 blocks of C classes. The first block is for unchanged clips. Block m of the others
    is for swapped clips: the target of the clip that sub-embedding m was taken from, divided by M.

    Returns:
        embeddings ``(B, D_1 + ... + D_M)``; targets ``(B, C (M + 1))``, with the row sums of ``targets``.
    """
    sources = exchange.source.unbind(dim=1)
    embeddings = torch.cat([part[source] for part, source in zip(parts, sources, strict=True)], dim=1)
    return embeddings, exchanged_targets(targets, exchange)


def exchanged_targets(targets: Tensor, exchange: Exchange) -> Tensor:
    """The targets of `exchanged` alone."""
    swapped = exchange.swapped[:, None]
    sources = exchange.source.unbind(dim=1)
    blocks = [targets * ~swapped]
    blocks += [targets[source] * swapped / len(sources) for source in sources]
    return torch.cat(blocks, dim=1)


class ClassesHead(nn.Module):
    """A further loss of the whole embedding, for classes of its own or for those of the main loss."""

    def __init__(self, options: losses.ClassHead, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.weight = options.weight
        self.loss = build_loss(options.loss, sum(dims), n_classes)

    def forward(
        self, parts: Sequence[Tensor], targets: Tensor, own: Tensor, exchange: Exchange | None
    ) -> Tensor:
        """The loss, ``()``, of embeddings in parts ``(B, D_m)`` with the head's targets ``(B, C)``."""
        return self.weight * loss_of(self.loss, torch.cat(list(parts), dim=1), targets, own)


class Projector(nn.Sequential):
    """Embeddings ``(B, D)`` -> ``(B, D)`` through a bottleneck.

    Source: the feature perturbation head of OS-SCL, arXiv 2509.13853; order of the layers as in its code.
    """

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__(
            nn.Linear(dim, bottleneck),
            nn.ReLU(),
            nn.BatchNorm1d(bottleneck),
            nn.Linear(bottleneck, dim),
            nn.ReLU(),
            nn.BatchNorm1d(dim),
        )


def build_head(
    options: losses.Head, dims: Sequence[int], n_classes: int
) -> SubspaceHead | FeatExHead | ClassesHead:
    """The head of a configuration, with fresh class centres.

    Args:
        dims: D_m of every sub-embedding.
        n_classes: of the head.
    """
    match options.name:
        case "subspace":
            return SubspaceHead(options, dims, n_classes)
        case "featex":
            return FeatExHead(options, dims, n_classes)
        case "classes":
            return ClassesHead(options, dims, n_classes)
