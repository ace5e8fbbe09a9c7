"""Learn a whole distribution from another model's, beside the labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import Reduction, as_mask, positive, reduce
from nll.objectives._declare import objective


@objective(
    descent="the student's distribution near the teacher's, and the labels likelier",
    unit="nats",
    paper="2509.00973",
    range=(0, math.inf),
)
def distill_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    T: float = 2.0,
    alpha: float = 0.5,
    *,
    labels: Any = None,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """alpha T^2 KL(teacher^(1/T) || student^(1/T)) + (1 - alpha) CE(labels).

    Per token, in nats; minimised.
    student_logits, teacher_logits: (V,), (B, V) or (B, T, V); log-probs serve as well. The teacher
    gets no gradient; where it gives -inf (a token outside its top k), it adds 0.
    T: temperature of both.   alpha: share of the teacher; 1 needs no labels.   labels, mask: the
    shape without V; labels under the mask may be anything.   mean: over the valid tokens.
    All-masked: 0, gradient 0. Raises BadInput when shapes disagree, labels lack or lie outside the
    vocabulary, T <= 0 or alpha is outside [0, 1].
    References: Hinton et al. 2015, arXiv 1503.02531; arXiv 2509.00973.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() < 1:
        raise BadInput(
            f"student_logits have shape {tuple(student_logits.shape)}, teacher_logits "
            f"{tuple(teacher_logits.shape)}; expected (..., V) twice"
        )
    positive(T, "T")
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha must be from 0 to 1, not {alpha}")
    if labels is None and alpha < 1:
        raise BadInput("without labels alpha must be 1: only the teacher is there to learn from")
    keep = as_mask(mask, student_logits[..., 0])
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    own, other = student_logits[keep].to(dtype), teacher_logits.detach()[keep].to(dtype)
    each = torch.zeros(len(own), dtype=dtype, device=own.device)
    if alpha > 0:
        soft, target = torch.log_softmax(own / T, -1), torch.log_softmax(other / T, -1)
        possible = target > -math.inf
        # both logs are replaced, since 0 * inf is nan in the gradient too
        gap = torch.where(possible, target, 0.0) - torch.where(possible, soft, 0.0)
        each = each + alpha * T * T * (target.exp() * gap).sum(-1)
    if alpha < 1:
        right = torch.as_tensor(labels, device=own.device)
        if right.shape != keep.shape or right.is_floating_point():
            raise BadInput(f"labels must be integers of shape {tuple(keep.shape)}")
        right = right[keep].long()
        if right.numel() and not 0 <= int(right.min()) <= int(right.max()) < own.shape[-1]:
            raise BadInput(f"labels must be ids below {own.shape[-1]}")
        each = each - (1 - alpha) * torch.log_softmax(own, -1).gather(-1, right[:, None])[:, 0]
    values = torch.zeros(keep.shape, dtype=dtype, device=own.device)
    return reduce(values.masked_scatter(keep, each), keep, reduction)
