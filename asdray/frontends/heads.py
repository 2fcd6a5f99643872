"""What the discriminative frontend learns with: its loss, and further heads beside it.

Legend for shapes: B clips, M sub-embeddings (one per branch) of D_m dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asdray.config.base import implementation
from asdray.frontends.augment import Exchange
from asdray.frontends.losses import AdaCosLoss, AdaProjLoss, AngularLoss, ArcFaceLoss

if TYPE_CHECKING:
    from asdray.config import losses as config


def build_loss(options: config.Loss, embedding_dim: int, n_classes: int) -> AngularLoss:
    """The loss of a configuration with fresh centres.

    Raises:
        ValueError: too few classes for it.
    """
    if from_plugin := implementation(options):
        return from_plugin(options, embedding_dim, n_classes)
    match options.name:
        case "adacos":
            return AdaCosLoss(embedding_dim, n_classes, trainable=options.trainable, dynamic=options.dynamic)
        case "subcluster_adacos":
            return AdaCosLoss(
                embedding_dim,
                n_classes,
                options.n_subclusters,
                trainable=options.trainable,
                dynamic=options.dynamic,
            )
        case "arcface":
            return ArcFaceLoss(
                embedding_dim,
                n_classes,
                scale=options.scale,
                margin=options.margin,
                margin_on=options.margin_on,
                trainable=options.trainable,
            )
        case "adaproj":
            return AdaProjLoss(embedding_dim, n_classes, options.subspace_dim, trainable=options.trainable)


class SubspaceHead(nn.Module):
    """The weighted sum of a loss per sub-embedding.

    Source: ASDKit's subspace loss, arXiv 2507.10264.
    """

    def __init__(self, options: config.SubspaceLoss, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.weight = options.weight
        self.losses = nn.ModuleList(build_loss(options.loss, dim, n_classes) for dim in dims)

    def forward(self, parts: Sequence[Tensor], targets: Tensor, exchange: Exchange | None) -> Tensor:
        """The loss of sub-embeddings ``M x (B, D_m)`` with targets ``(B, C)``, ``()``."""
        losses = [loss(part, targets) for loss, part in zip(self.losses, parts, strict=True)]
        return self.weight * torch.stack(losses).sum()


class FeatExHead(nn.Module):
    """The weighted loss of embeddings in which some clips hold sub-embeddings of others, see `exchanged`.

    Source: Wilkinghoff, ICASSP 2024, as configured in ASDKit, arXiv 2507.10264.
    """

    def __init__(self, options: config.FeatEx, dims: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.weight = options.weight
        self.loss = build_loss(options.loss, sum(dims), n_classes * (len(dims) + 1))

    def forward(self, parts: Sequence[Tensor], targets: Tensor, exchange: Exchange | None) -> Tensor:
        """The loss of sub-embeddings ``M x (B, D_m)`` with targets ``(B, C)``, ``()``."""
        assert exchange is not None
        return self.weight * self.loss(*exchanged(parts, targets, exchange))


def exchanged(parts: Sequence[Tensor], targets: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor]:
    """Embeddings with exchanged sub-embeddings, and what they are to be told apart as.

    There are M + 1 blocks of C classes: the first for clips as they are; the others, one per sub-embedding,
    for clips of which sub-embedding m is that of clip ``exchange.source[:, m]``, whose target then counts
    1/M there.

    Returns:
        ``(B, D_1 + ... + D_M)`` and ``(B, C (M + 1))``, whose rows sum to those of ``targets``.
    """
    swapped = exchange.swapped[:, None]
    sources = exchange.source.unbind(dim=1)
    embeddings = torch.cat([part[source] for part, source in zip(parts, sources, strict=True)], dim=1)
    blocks = [targets * ~swapped]
    blocks += [targets[source] * swapped / len(sources) for source in sources]
    return embeddings, torch.cat(blocks, dim=1)


def build_head(options: config.Head, dims: Sequence[int], n_classes: int) -> SubspaceHead | FeatExHead:
    """The head of a configuration with fresh centres; ``dims`` are those of the sub-embeddings."""
    match options.name:
        case "subspace":
            return SubspaceHead(options, dims, n_classes)
        case "featex":
            return FeatExHead(options, dims, n_classes)
