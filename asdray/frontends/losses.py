"""Classification losses on the angle between embeddings and class centres, and a contrastive loss.

All take soft targets. The logit of a class is a scale s times the cosine between the embedding and the
class's centre; the losses differ in the scale, in a margin on the angle and in the number of centres. All
compute in float32 (float64 for float64 input) even under autocast: at scales near 10, half precision would
lose the differences to learn.

Legend for shapes: B clips, D embedding dimensions, C classes, K centres per class.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.config.plugin_fault import in_words, wrong

MIN_SCALE = 1.0
"""Lower bound of a dynamic scale: for few classes AdaCos's rule can give 0 or less, which learns nothing."""

_MAX_COSINE = 1 - 1e-7
"""Upper bound of a cosine before arccos, whose derivative is infinite at 1."""


def require_classes(n_classes: int) -> None:
    """Raises ValueError if the training clips make too few classes to learn from."""
    if n_classes < 2:
        raise ValueError(
            f"the training clips make {n_classes} class of sound, but a discriminative frontend learns "
            "by telling classes apart: train on more machines, or add parts to frontend.classes"
        )


class AngularLoss(nn.Module):
    """The base of the losses: K centres per class; class c has the centres cK to cK + K - 1.

    Attributes:
        uses_own: True if `forward` needs the classes before mixup, see `loss_of`.

    Args:
        embedding_dim: D.
        n_classes: C, at least 2.
        per_class: K.
        trainable: True if the centres are learnt; otherwise they keep their Xavier-uniform initial values.

    Raises:
        ValueError: too few classes to learn from.
    """

    centres: Tensor
    uses_own: bool = False

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

    def forward(self, embeddings: Tensor, targets: Tensor, own: Tensor | None = None) -> Tensor:
        """The mean cross entropy of a batch.

        Args:
            embeddings: ``(B, D)``; only their direction matters.
            targets: ``(B, C) float32``, class probabilities.
            own: ``(B, C) float32``, class probabilities before mixup; None if no clip is mixed.

        Returns:
            ``() float32``.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(_wide(embeddings), dim=1)
            directions = F.normalize(_wide(self.centres), dim=1)
            targets = _wide(targets)
            margins = _wide(own) if self.uses_own and own is not None else targets
            return -(targets * self.log_probabilities(unit, directions, margins)).sum(dim=1).mean()

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        """Log probabilities ``(B, C)`` of the classes.

        Args:
            unit: embeddings ``(B, D)`` of length 1.
            directions: centres ``(C K, D)`` of length 1.
            targets: ``(B, C)``, for margins: the classes before mixup if ``uses_own``.
        """
        raise NotImplementedError


def loss_of(loss: nn.Module, embeddings: Tensor, targets: Tensor, own: Tensor) -> Tensor:
    """The loss of a batch; only a loss with a true attribute ``uses_own`` gets the classes before mixup.

    Args:
        embeddings: ``(B, D)``.
        targets: ``(B, C) float32``, class probabilities after mixup.
        own: ``(B, C) float32``, class probabilities before mixup.

    Raises:
        PluginError: a plugin's loss returns anything else than a tensor of real numbers of shape ``()``.
    """
    more = (own,) if getattr(loss, "uses_own", False) else ()
    found: Any = loss(embeddings, targets, *more)
    if not isinstance(found, Tensor) or found.shape or not found.is_floating_point():
        raise wrong(
            loss.forward,
            type(loss),
            in_words(found),
            "a tensor of real numbers of shape ()",
            "return the mean over the clips of the batch, as torch computes it",
        )
    return found


def _wide(values: Tensor) -> Tensor:
    """``values`` in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def adacos_scale(n_centres: int) -> float:
    """``sqrt(2) ln(n - 1)``: about the scale at which the loss tells small angles best from large ones.

    Raises:
        ValueError: fewer than three centres, for which the scale is 0 or undefined.

    Source: Zhang et al., AdaCos, CVPR 2019, eq. 8.
    """
    if n_centres < 3:
        raise ValueError(
            "the training clips make 2 classes of sound, for which the loss has the scale "
            "sqrt(2) ln(2 - 1) = 0 and learns nothing: train on more machines, add parts to "
            "frontend.classes, or choose the loss {name: subcluster_adacos, n_subclusters: 16}"
        )
    return math.sqrt(2) * math.log(n_centres - 1)


class AdaCosLoss(AngularLoss):
    """Cross entropy of ``s cos(embedding, centre)``, with K centres per class.

    K = 1 is AdaCos. K > 1 is the sub-cluster AdaCos: the probabilities of a class's centres are summed
    before the logarithm. The scale is ``s = sqrt(2) ln(C K - 1)``. With ``dynamic`` that is the initial
    scale, and every training batch starts with

        s <- ln E / cos(min(pi / 4, median angle)),

    where E is the mean over the batch's clips of the sum of ``exp(s cos)`` over the centres of other
    classes, and the median is over the angles between a clip and the centres of its class. For a mixed clip,
    other classes are the classes of probability 0, and the clip has no angle; a batch of mixed clips alone
    leaves the scale unchanged. The scale never falls below `MIN_SCALE`.

    Source: Zhang et al., AdaCos, CVPR 2019; Wilkinghoff, Sub-cluster AdaCos, IJCNN 2021. Difference: ASDKit's
    dynamic sub-cluster AdaCos takes angles to centres other than those of the clip's class.
    """

    scale: float | Tensor

    def __init__(
        self,
        embedding_dim: int,
        n_classes: int,
        n_subclusters: int = 1,
        *,
        trainable: bool,
        dynamic: bool = False,
    ) -> None:
        super().__init__(embedding_dim, n_classes, n_subclusters, trainable)
        scale = adacos_scale(n_classes * n_subclusters)
        self.dynamic = dynamic
        if dynamic:  # a buffer is part of checkpoints, so that a resumed training has the same scale
            self.register_buffer("scale", torch.tensor(max(scale, MIN_SCALE)))
        else:
            self.scale = scale

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        cosine = unit @ directions.T
        if self.dynamic and self.training:
            self._adapt(cosine.detach(), targets.repeat_interleave(self.per_class, dim=1))
        # The next batch changes a dynamic scale in place; the gradient of this batch needs its own value.
        scale = self.scale.clone() if isinstance(self.scale, Tensor) else self.scale
        log_p = F.log_softmax(scale * cosine, dim=1)
        if self.per_class > 1:
            log_p = log_p.unflatten(1, (-1, self.per_class)).logsumexp(dim=2)
        return log_p

    def _adapt(self, cosine: Tensor, targets: Tensor) -> None:
        """Sets the dynamic scale from a batch's cosines and targets, both per centre, ``(B, C K)``."""
        assert isinstance(self.scale, Tensor)
        others = (self.scale * cosine).masked_fill(targets > 0, -math.inf)
        log_mean = others.logsumexp(dim=(0, 1)) - math.log(len(cosine))
        angles = cosine.clamp(-1, 1).arccos().masked_fill(targets < 1, math.nan)
        angle = angles.nanquantile(0.5).clamp(max=math.pi / 4)
        scale = (log_mean / angle.cos()).clamp(min=MIN_SCALE)
        self.scale.copy_(torch.where(angle.isnan(), self.scale, scale))


class ArcFaceLoss(AngularLoss):
    """Cross entropy of ``s cos(angle + m)``.

    The margin m (radians) is added to the angle between a clip and its class; for a mixed clip, each class
    gets m times its probability. Other values of ``margin_on``, for the mixture of a share a of a clip of
    class i and a share 1 - a of a clip of class j, where CE(k; M) is the cross entropy of class k with the
    margin at the classes M:

    * ``own``: a CE(i; {i}) + (1 - a) CE(j; {i}), Noisy-ArcMix.
    * ``each``: a CE(i; {i}) + (1 - a) CE(j; {j}), ArcMix.
    * ``all``: the margin at all classes.

    The formula is eq. 3 at all angles: beyond an angle of pi - m the logit rises again, and beyond pi - m / 2
    it exceeds the logit without a margin. Some implementations use cos(angle) - m sin(m) beyond pi - m. For
    m = 0.5, pi - m is 151 degrees, while random directions are about 90 degrees apart.

    Source: Deng et al., ArcFace, CVPR 2019, eq. 3; Choi and Choi, Noisy-ArcMix, ICASSP 2024. Difference:
    their code uses cos(angle) - m sin(m) beyond pi - m, and mixes all clips of a batch with one share.
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
        self.uses_own = margin_on == "own"

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        angle = (unit @ directions.T).clamp(-_MAX_COSINE, _MAX_COSINE).arccos()
        if self.margin_on == "each":
            return _each_alone(self.scale * angle.cos(), self.scale * (angle + self.margin).cos())
        margin = self.margin if self.margin_on == "all" else self.margin * targets
        return F.log_softmax(self.scale * (angle + margin).cos(), dim=1)


def _each_alone(logits: Tensor, replaced: Tensor) -> Tensor:
    """For every class c the log probability of c if the logit of c alone is replaced.

    Args:
        logits: ``(B, C)``.
        replaced: ``(B, C)``.

    Returns:
        ``(B, C)``: replaced_c - log(exp(replaced_c) + sum of exp(logit) over the classes other than c).
    """
    # The sum over other classes is the sum over all classes less that of c. For the class of the largest
    # logit the difference would cancel, so that the sum over the other classes is taken directly.
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(dim=1, keepdim=True), True)
    direct = logits.masked_fill(top, -math.inf).logsumexp(dim=1, keepdim=True)
    share = logits.softmax(dim=1).masked_fill(top, 0)
    others = torch.where(top, direct, logits.logsumexp(dim=1, keepdim=True) + torch.log1p(-share))
    return F.logsigmoid(replaced - others)


class AdaProjLoss(AngularLoss):
    """Cross entropy of ``s cos(embedding, projection of the embedding onto the class's subspace)``.

    The subspace of a class is spanned by its K centres w, which have length 1 but are not orthogonal; the
    projection is ``sum_k <x, w_k> w_k``. The scale is ``s = sqrt(2) ln(C - 1)``.

    Source: Wilkinghoff, AdaProj, DCASE workshop 2024, as in ASDKit.
    """

    def __init__(self, embedding_dim: int, n_classes: int, subspace_dim: int, *, trainable: bool) -> None:
        super().__init__(embedding_dim, n_classes, subspace_dim, trainable)
        self.scale = adacos_scale(n_classes)

    def log_probabilities(self, unit: Tensor, directions: Tensor, targets: Tensor) -> Tensor:
        spans = directions.unflatten(0, (-1, self.per_class))
        shares = torch.einsum("bd,ckd->bck", unit, spans)
        projections = F.normalize(torch.einsum("bck,ckd->bcd", shares, spans), dim=2)
        return F.log_softmax(self.scale * torch.einsum("bd,bcd->bc", unit, projections), dim=1)


class SupConLoss(nn.Module):
    """Supervised contrastive loss of the clips of a batch, without class centres.

    With unit embeddings z, temperature T, classes y (probabilities) and w_ij = <y_i, y_j>, the loss is the
    mean over the clips i of

        - (sum over j != i of w_ij log p_ij) / (sum over j != i of w_ij),
        p_ij = exp(<z_i, z_j> / T) / sum over k != i of exp(<z_i, z_k> / T).

    A clip without another one of its class adds 0. For unmixed classes, w_ij is 1 or 0, and the formula is
    L_out of the paper with one view per clip.

    Args:
        embedding_dim: D; any, as the loss has no weights.
        n_classes: C, at least 2.
        temperature: T.
        positives: ``own``, y before mixup; ``mixed``, y after mixup.

    Source: Khosla et al., NeurIPS 2020, eq. 2. ``own``: Huang et al., OS-SCL, arXiv 2509.13853. Difference:
    OS-SCL's code multiplies the loss by T / 0.07, which here is part of the weight of a head.
    """

    def __init__(self, embedding_dim: int, n_classes: int, *, temperature: float, positives: str) -> None:
        super().__init__()
        require_classes(n_classes)
        self.temperature = temperature
        self.uses_own = positives == "own"

    def forward(self, embeddings: Tensor, targets: Tensor, own: Tensor | None = None) -> Tensor:
        """The mean loss of a batch, ``() float32``; arguments as of `AngularLoss.forward`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(_wide(embeddings), dim=1)
            classes = _wide(own if self.uses_own and own is not None else targets)
            itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
            logits = (unit @ unit.T / self.temperature).masked_fill(itself, -math.inf)
            log_p = F.log_softmax(logits, dim=1).masked_fill(itself, 0)
            alike = (classes @ classes.T).masked_fill(itself, 0)
            total = alike.sum(dim=1)
            return -((alike * log_p).sum(dim=1) / total.where(total > 0, 1)).mean()
