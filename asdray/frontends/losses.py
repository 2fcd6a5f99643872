"""Classification losses on the angle between embeddings and class centres, with soft targets.

They compute in float32 whatever the precision around them: with scales near 10, half precision would lose
the differences that are learnt. They import nothing of asdray.

Legend for shapes: B clips, D embedding dimensions, C classes, K sub-clusters per class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AngularLoss(nn.Module):
    """Cross entropy of ``s cos(embedding, centre)``, with K centres per class.

    For K = 1 this is AdaCos with its fixed scale, for more the sub-cluster AdaCos: probabilities of a
    class's centres are summed before the logarithm. ``s = sqrt(2) ln(C K - 1)``.

    Source: Zhang et al., AdaCos, CVPR 2019, eq. 8; Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021.

    Args:
        embedding_dim: D.
        n_classes: C, at least 2.
        n_subclusters: K. ``C K`` must be at least 3: for two centres the scale is ln(1) = 0.
        trainable: whether the centres are learnt; if not they keep their Xavier-uniform start.

    Raises:
        ValueError: too few classes to learn from.
    """

    centres: Tensor

    def __init__(self, embedding_dim: int, n_classes: int, n_subclusters: int, trainable: bool) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(
                f"the training clips make {n_classes} class of sound, but a discriminative frontend learns "
                "by telling classes apart: train on more machines, or add parts to frontend.classes"
            )
        n_centres = n_classes * n_subclusters
        if n_centres < 3:
            raise ValueError(
                "the training clips make 2 classes of sound, for which the loss has the scale "
                "sqrt(2) ln(2 - 1) = 0 and learns nothing: train on more machines, add parts to "
                "frontend.classes, or choose {name: subcluster_adacos, n_subclusters: 16} as frontend.loss"
            )
        self.n_subclusters = n_subclusters
        self.scale = math.sqrt(2) * math.log(n_centres - 1)
        centres = torch.empty(n_centres, embedding_dim)
        nn.init.xavier_uniform_(centres)
        if trainable:
            self.centres = nn.Parameter(centres)
        else:
            self.register_buffer("centres", centres)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The batch's mean loss.

        Args:
            embeddings: ``(B, D)``, of any length.
            targets: ``(B, C) float32`` class probabilities.

        Returns:
            ``() float32``.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=1)
            cosine = unit @ F.normalize(self.centres.float(), dim=1).T
            log_p = F.log_softmax(self.scale * cosine, dim=1)
            if self.n_subclusters > 1:
                # Class c owns the centres cK to cK + K - 1.
                log_p = log_p.unflatten(1, (-1, self.n_subclusters)).logsumexp(dim=2)
            return -(targets.float() * log_p).sum(dim=1).mean()
