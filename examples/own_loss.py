"""A loss as a plugin: CosFace (Wang et al., CVPR 2018): the right class's cosine less a margin."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from asdray.config.base import Config


class CosFaceConfig(Config):
    name: Literal["cosface"] = "cosface"
    scale: float = Field(default=30.0, gt=0)
    margin: float = Field(default=0.35, ge=0)


class CosFace(nn.Module):
    """With mixup the targets are shares of classes, and each class gets its share of the margin."""

    def __init__(self, config, embedding_dim, n_classes):
        super().__init__()
        self.scale, self.margin = config.scale, config.margin
        self.centres = nn.Parameter(torch.empty(n_classes, embedding_dim))
        nn.init.xavier_uniform_(self.centres)

    def forward(self, embeddings, targets):
        cosines = F.normalize(embeddings) @ F.normalize(self.centres).T
        return F.cross_entropy(self.scale * (cosines - self.margin * targets), targets)


LOSSES = [(CosFaceConfig, CosFace)]
