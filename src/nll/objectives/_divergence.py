"""How far has the model moved from its reference on texts that it shall keep?"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import Reduction, as_mask, reduce
from nll.objectives._declare import objective


@objective(
    descent="the whole distribution near the reference's on retained tokens",
    unit="nats",
    paper="2404.05868",
    range=(0, math.inf),
)
def retain_kl(
    logits: Tensor,
    ref_logits: Tensor,
    mask: Any = None,
    *,
    direction: Literal["forward", "reverse"] = "forward",
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence between model and reference over the vocabulary, per token; nats, minimised.

    logits, ref_logits: (B, T, V); log-probs serve as well. The reference gets no gradient.
    mask: (B, T).   direction: `forward` is KL(ref || model) (public code), `reverse` is
    KL(model || ref) (the paper).   mean: over the valid tokens; `none` gives (B, T).
    A token of probability 0 on the first side adds 0, on the second side infinity.
    All-masked: 0, gradient 0. Raises BadInput when shapes disagree.
    References: arXiv 2404.05868, section 2.
    """
    if logits.shape != ref_logits.shape or logits.dim() < 2:
        raise BadInput(
            f"logits have shape {tuple(logits.shape)}, the reference's {tuple(ref_logits.shape)}; "
            "expected (B, T, V) twice"
        )
    if direction not in ("forward", "reverse"):
        raise BadInput(f"direction must be forward or reverse, not {direction!r}")
    keep = as_mask(mask, logits[..., 0])
    dtype = torch.promote_types(logits.dtype, torch.float32)
    own = torch.log_softmax(logits[keep].to(dtype), -1)
    ref = torch.log_softmax(ref_logits.detach()[keep].to(dtype), -1)
    first, second = (ref, own) if direction == "forward" else (own, ref)
    possible = first > -math.inf
    # both logs are replaced, since 0 * inf is nan in the gradient too
    gap = torch.where(possible, first, 0.0) - torch.where(possible, second, 0.0)
    each = (torch.where(possible, first, -math.inf).exp() * gap).sum(-1)
    values = torch.zeros(keep.shape, dtype=dtype, device=logits.device)
    return reduce(values.masked_scatter(keep, each), keep, reduction)
