"""How strongly shall each negative be unlearned? The inner objective of a bi-level problem."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import Values, positive, reduce, same_rows, sequence_sums
from nll.objectives._declare import objective


@objective(
    descent="chosen negatives forgotten by their weight, near the start model",
    unit="nats",
    paper="2504.06659",
    range=(-math.inf, math.inf),
)
def weighted_unlearning_loss(
    loss_i: Values,
    weights: Values,
    *,
    params: Any = None,
    params0: Any = None,
    lam: float = 0.0,
    mask: Any = None,
) -> Tensor:
    """U2A's inner objective: `mean_i(w_i l_i) + lam ||theta - theta0||^2`; nats, minimised.

    loss_i: (n,) an unlearning loss of each negative, reduction `none` (ga_loss with
    token_reduction `sequence`, npo_loss).   weights: (n,), 0 or positive.   params, params0: a
    tensor, or as many tensors each (model.parameters(), a state dict's values); params0 is
    constant.   mask: (n,) which examples count.   No examples: only the penalty. An example of
    weight 0 adds 0 whatever its loss.
    Raises BadInput on negative weights, on sizes that disagree, or lam > 0 without both params.
    References: arXiv 2504.06659, eq. of the inner problem.
    """
    positive(lam, "lam", zero=True)
    losses = sequence_sums(loss_i, mask, "loss_i")
    weight = sequence_sums(weights, mask, "weights").values.to(losses.values)
    same_rows(loss_i=losses.values, weights=weight)
    if (weight < 0).any():
        raise BadInput(f"weights must be 0 or positive, not {float(weight.min())}")
    # Only what is not finite is replaced, so that a weight of 0 keeps its own gradient.
    usable = (weight > 0) | losses.values.isfinite()
    total = reduce(weight * torch.where(usable, losses.values, 0.0), losses.keep)
    return total + lam * _distance(params, params0).to(total) if lam else total


def _distance(params: Any, params0: Any) -> Tensor:
    if params is None or params0 is None:
        raise BadInput("a penalty (lam > 0) needs params and params0")
    now, start = ([p] if isinstance(p, Tensor) else list(p) for p in (params, params0))
    if [p.shape for p in now] != [p.shape for p in start]:
        raise BadInput("params and params0 must hold tensors of the same shapes in the same order")
    return torch.stack(
        [(a - b.detach()).square().sum() for a, b in zip(now, start, strict=True)]
    ).sum()
