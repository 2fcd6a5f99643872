"""Classification losses on the angle between embeddings and class centres, with soft targets.

They compute in float32 (or float64, if that is what comes in) whatever the precision around them: with
scales near 10, half precision would lose the differences that are learnt. They import nothing of asdray.

Legend for shapes: B clips, D embedding dimensions, C classes, K centres per class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SCALE = 1.0
"""No dynamic scale falls below this: for few classes the rule can ask for 0 or less, which learns nothing."""

_MAX_COSINE = 1 - 1e-7
"""The derivative of an angle is infinite where its cosine is 1."""


def require_classes(n_classes: int) -> None:
    """Raises ValueError for too few classes of training clips to learn from."""
    if n_classes < 2:
        raise ValueError(
            f"the training clips make {n_classes} class of sound, but a discriminative frontend learns "
            "by telling classes apart: train on more machines, or add parts to frontend.classes"
        )


class AngularLoss(nn.Module):
    """What all losses share: class centres, of which each class c owns those from cK to cK + K - 1.

    Args:
        embedding_dim: D.
        n_classes: C, at least 2.
        per_class: K.
        trainable: whether the centres are learnt; if not they keep their Xavier-uniform start.

    Raises:
        ValueError: too few classes to learn from.
    """

    centres: Tensor

    def __init__(self, embedding_dim: int, n_classes: int, per_class: int, trainable: bool) -> None:
        super().__init__()
        require_classes(n_classes)
        self.per_class = per_class
        centres = torch.empty(n_classes * per_class, embedding_dim)
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
            unit = F.normalize(_wide(embeddings), dim=1)
            directions = F.normalize(_wide(self.centres), dim=1)
            targets = _wide(targets)
            return -(targets * self.log_probabilities(unit, directions, targets)).sum(dim=1).mean()

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        """``(B, C)``, from embeddings ``(B, D)`` and centres ``(C K, D)`` of length 1."""
        raise NotImplementedError


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def adacos_scale(n_centres: int) -> float:
    """``sqrt(2) ln(n - 1)``: about where the loss tells small angles best from large ones.

    Raises:
        ValueError: it is 0 or not defined, for fewer than three centres.

    Source: Zhang et al., AdaCos, CVPR 2019, eq. 8.
    """
    if n_centres < 3:
        raise ValueError(
            "the training clips make 2 classes of sound, for which the loss has the scale "
            "sqrt(2) ln(2 - 1) = 0 and learns nothing: train on more machines, add parts to "
            "frontend.classes, or choose {name: subcluster_adacos, n_subclusters: 16} as frontend.loss"
        )
    return math.sqrt(2) * math.log(n_centres - 1)


class AdaCosLoss(AngularLoss):
    """Cross entropy of ``s cos(embedding, centre)``, with K centres per class.

    For K = 1 this is AdaCos, for more the sub-cluster AdaCos: probabilities of a class's centres are summed
    before the logarithm. ``s = sqrt(2) ln(C K - 1)``; with ``dynamic`` only at first, and in training then
    before every batch

        s <- ln B / cos(min(pi / 4, median angle)),

    where B is the mean over the batch's clips of the sum of ``exp(s cos)`` over the centres of other classes,
    and the median is that of the angles between a clip and the centres of its class. Of a mixed clip the
    other classes are those of probability 0, and it has no angle; without any clip of a single class the
    scale stays. It never falls below `MIN_SCALE`.

    Source: Zhang et al., AdaCos, CVPR 2019; Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021. ASDKit's dynamic
    sub-clusters take the angles of other centres than those of the class: not so here.
    """

    scale: float | Tensor

    def __init__(
        self,
        embedding_dim: int,
        n_classes: int,
        per_class: int = 1,
        *,
        trainable: bool,
        dynamic: bool = False,
    ) -> None:
        super().__init__(embedding_dim, n_classes, per_class, trainable)
        scale = adacos_scale(n_classes * per_class)
        self.dynamic = dynamic
        if dynamic:  # part of the checkpoint: a resumed training goes on with it
            self.register_buffer("scale", torch.tensor(max(scale, MIN_SCALE)))
        else:
            self.scale = scale

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        cosine = unit @ directions.T
        if self.dynamic and self.training:
            self._adapt(cosine.detach(), targets.repeat_interleave(self.per_class, dim=1))
        # Dynamic, it is changed in place: the gradient of this batch needs the scale of this batch.
        scale = self.scale.clone() if isinstance(self.scale, Tensor) else self.scale
        log_p = F.log_softmax(scale * cosine, dim=1)
        if self.per_class > 1:
            log_p = log_p.unflatten(1, (-1, self.per_class)).logsumexp(dim=2)
        return log_p

    def _adapt(self, cosine: Tensor, targets: Tensor) -> None:
        """The next scale, from ``(B, C K)`` cosines and the probabilities of the centres' classes."""
        assert isinstance(self.scale, Tensor)
        others = (self.scale * cosine).masked_fill(targets > 0, -math.inf)
        log_mean = others.logsumexp(dim=(0, 1)) - math.log(len(cosine))
        angles = cosine.clamp(-1, 1).arccos().masked_fill(targets < 1, math.nan)
        angle = angles.nanquantile(0.5).clamp(max=math.pi / 4)
        scale = (log_mean / angle.cos()).clamp(min=MIN_SCALE)
        self.scale.copy_(torch.where(angle.isnan(), self.scale, scale))


class ArcFaceLoss(AngularLoss):
    """Cross entropy of ``s cos(angle + m)``.

    The margin m lies on the angle to the clip's own class; of a mixed clip each class has its probability's
    share of it. With ``margin_on`` ``all`` it lies on the angle to every class.

    This is eq. 3 at all angles: of a clip more than pi - m away from its class the logit rises again, and
    beyond pi - m / 2 it is above the one without a margin. Some implementations take cos(angle) - m sin(m)
    there. For m = 0.5 that is beyond 151 degrees, while random directions lie near 90 degrees apart.

    Source: Deng et al., ArcFace, CVPR 2019, eq. 3.
    """

    def __init__(
        self,
        embedding_dim: int,
        n_classes: int,
        *,
        scale: float,
        margin: float,
        margin_on: str,
        trainable: bool,
    ) -> None:
        super().__init__(embedding_dim, n_classes, 1, trainable)
        self.scale = scale
        self.margin = margin
        self.margin_on = margin_on

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        angle = (unit @ directions.T).clamp(-_MAX_COSINE, _MAX_COSINE).arccos()
        margin = self.margin * targets if self.margin_on == "target" else self.margin
        return F.log_softmax(self.scale * (angle + margin).cos(), dim=1)


class AdaProjLoss(AngularLoss):
    """Cross entropy of ``s cos(embedding, its projection onto the class's subspace)``.

    The subspace of a class is spanned by its K centres w, of length 1 but not orthogonal; the projection is
    ``sum_k <x, w_k> w_k``. ``s = sqrt(2) ln(C - 1)``.

    Source: Wilkinghoff, AdaProj, DCASE workshop 2024, as in ASDKit.
    """

    def __init__(self, embedding_dim: int, n_classes: int, per_class: int, *, trainable: bool) -> None:
        super().__init__(embedding_dim, n_classes, per_class, trainable)
        self.scale = adacos_scale(n_classes)

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        spans = directions.unflatten(0, (-1, self.per_class))
        shares = torch.einsum("bd,ckd->bck", unit, spans)
        projections = F.normalize(torch.einsum("bck,ckd->bcd", shares, spans), dim=2)
        return F.log_softmax(self.scale * torch.einsum("bd,bcd->bc", unit, projections), dim=1)
