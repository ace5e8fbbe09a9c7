"""ResRL: a failed answer's token is penalised by how far its state lies from the right answers'.

Hidden states here are those that predict the token, of the penultimate layer, as constants.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import Values, as_mask, as_tensor, same_rows
from nll.objectives._group_rl import _ids, grpo_advantages

FLAT = 1e-5
FEWEST = 4  # positive tokens; below that there is no subspace to speak of


class Subspace(NamedTuple):
    """mean: (d,) centre.   basis: (d, k) orthonormal directions.   singular: (k,) their values."""

    mean: Tensor
    basis: Tensor
    singular: Tensor


def normalised(states: Tensor) -> Tensor:
    """(N, d) states each with mean 0 and population variance 1 (layer norm without weights)."""
    return torch.nn.functional.layer_norm(states, states.shape[-1:])


def positive_subspace(
    pos: Any, *, rank: int = 64, max_pos: int = 4096, generator: torch.Generator | None = None
) -> Subspace:
    """The first principal directions of the right answers' states, min(rank, M - 1, d) of them.

    pos: (M, d), normalised or not; of more than max_pos a random subset without replacement.
    The decomposition is exact. Raises BadInput for fewer than two states or a rank below 1.
    References: arXiv 2605.00380.
    """
    states = _states(pos, "pos")
    if rank < 1:
        raise BadInput(f"rank must be 1 or more, not {rank}")
    if len(states) < 2:
        raise BadInput(f"a subspace needs two states or more, not {len(states)}")
    if len(states) > max_pos:
        drawn = torch.randperm(len(states), generator=generator)[:max_pos]
        states = states[drawn.to(states.device)]
    mean = states.mean(0)
    _, singular, rows = torch.linalg.svd(states - mean, full_matrices=False)
    k = min(rank, len(states) - 1, states.shape[1])
    return Subspace(mean, rows[:k].T, singular[:k])


def projection_residual(states: Any, subspace: Subspace) -> Tensor:
    """(N,) squared distance of states (N, d) from the subspace, over d."""
    centred = _states(states, "states").to(subspace.mean) - subspace.mean
    outside = centred - (centred @ subspace.basis) @ subspace.basis.T
    return outside.square().sum(-1) / centred.shape[-1]


def residual_token_weights(
    pos: Any,
    neg: Any,
    *,
    rank: int = 64,
    q: tuple[float, float] = (0.2, 0.8),
    floor: float = 0.1,
    layer_norm: bool = True,
    max_pos: int = 4096,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(N,) weights in [floor, 1] of a group's negative tokens; constants.

    pos: (M, d) states of all tokens of the group's right answers.   neg: (N, d) of its wrong ones.
    The residual is mapped linearly between its two quantiles q of the negative tokens and clipped:
    the nearest fifth gets the floor, the farthest fifth 1. Where the quantiles coincide all get
    (floor + 1) / 2. Fewer than four positive tokens: all 1.
    Raises BadInput when widths disagree or q, floor are no shares. References: arXiv 2605.00380.
    """
    if not (0 <= q[0] < q[1] <= 1 and 0 <= floor <= 1):
        raise BadInput(f"q must rise within [0, 1] and floor be in it, not {q} and {floor}")
    right, wrong = _states(pos, "pos"), _states(neg, "neg")
    if not len(wrong) or len(right) < FEWEST:
        return torch.ones(len(wrong), dtype=wrong.dtype, device=wrong.device)
    if right.shape[1] != wrong.shape[1]:
        raise BadInput(f"pos has width {right.shape[1]}, neg {wrong.shape[1]}")
    if layer_norm:
        right, wrong = normalised(right), normalised(wrong)
    space = positive_subspace(right, rank=rank, max_pos=max_pos, generator=generator)
    residual = projection_residual(wrong, space)
    low, high = residual.quantile(q[0]), residual.quantile(q[1])
    if high - low < FLAT:
        return torch.full_like(residual, (floor + 1) / 2)
    share = ((residual - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return floor + (1 - floor) * share


def resrl_advantages(
    reward: Values,
    group: Any,
    hidden: Tensor,
    mask: Any,
    *,
    positive_weight: float = 0.1,
    positive: Literal["score", "advantage"] = "score",
    rank: int = 64,
    q: tuple[float, float] = (0.2, 0.8),
    floor: float = 0.1,
    layer_norm: bool = True,
    max_pos: int = 4096,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, T) token advantages: GRPO's, times positive_weight on right answers and the residual
    weight on the tokens of wrong ones; 0 where masked. Constants.

    reward, group: (B,), as in `grpo_advantages`.   hidden: (B, T, d) states that predict the
    tokens.   mask: (B, T) answer tokens.   positive: an answer is right when its reward is above 0
    (`score`, the public code) or its advantage is (`advantage`, the paper).
    Groups with only right or only wrong answers, or fewer than four right tokens, have weights 1
    on wrong answers. An answer whose reward is nan (not scorable) is neither, and gets 0.
    Other options as in `residual_token_weights`.
    Raises BadInput when shapes disagree. References: arXiv 2605.00380.
    """
    states = hidden.detach()
    if states.dim() != 3:
        raise BadInput(f"hidden must be (sequences, tokens, width), not {tuple(states.shape)}")
    keep = as_mask(mask, states[..., 0])
    adv = grpo_advantages(reward, group)
    same_rows(reward=adv, hidden=states)
    ids = _ids(group, adv)
    if positive not in ("score", "advantage"):
        raise BadInput(f"positive must be score or advantage, not {positive!r}")
    score = as_tensor(reward, "reward").detach()
    right = (score if positive == "score" else adv) > 0
    wrong = ~right & ~score.isnan()
    weight = torch.where(right, positive_weight, 1.0)[:, None].expand(keep.shape).to(adv).clone()
    for name in torch.unique(ids):
        here = ids == name
        wrong_tokens = keep & (here & wrong)[:, None]
        if not (here & right).any() or not wrong_tokens.any():
            continue
        weight[wrong_tokens] = residual_token_weights(
            states[keep & (here & right)[:, None]], states[wrong_tokens], rank=rank, q=q,
            floor=floor, layer_norm=layer_norm, max_pos=max_pos, generator=generator,
        ).to(weight)  # fmt: skip
    return torch.where(keep, weight * adv[:, None], 0.0)


def head_gradient_inner(delta1: Values, delta2: Values, x1: Values, x2: Values) -> Tensor:
    """Inner product of two tokens' gradients on the unembedding W: <delta1, delta2> <x1, x2>.

    delta: (..., V) gradient on the logits z = W x.   x: (..., d) the states. Exact.
    References: arXiv 2605.00380.
    """
    d1, d2 = as_tensor(delta1, "delta1"), as_tensor(delta2, "delta2")
    h1, h2 = as_tensor(x1, "x1"), as_tensor(x2, "x2")
    return (d1 * d2).sum(-1) * (h1 * h2).sum(-1)


def likelihood_displacement(
    pos_delta: Values, pos_x: Values, neg_delta: Values, neg_x: Values, adv: Values, *, lr: float
) -> Tensor:
    """First-order change of ln p(right answer) by a step on the unembedding from wrong tokens.

    lr * sum over right tokens s and wrong tokens t of adv_t <grad ln p_s, grad ln p_t>; nats. Below
    0 when the gradients align, since adv is negative.
    pos_delta: (S, V), pos_x: (S, d), neg_delta: (N, V), neg_x: (N, d); delta is the gradient of
    ln p on the logits (one-hot minus probabilities) for both.   adv: (N,).
    References: arXiv 2505.18830.
    """
    d_pos, h_pos = as_tensor(pos_delta, "pos_delta"), as_tensor(pos_x, "pos_x")
    d_neg, h_neg = as_tensor(neg_delta, "neg_delta"), as_tensor(neg_x, "neg_x")
    weight = as_tensor(adv, "adv")
    same_rows(neg_delta=d_neg, neg_x=h_neg, adv=weight)
    same_rows(pos_delta=d_pos, pos_x=h_pos)
    return lr * (((d_pos @ d_neg.T) * (h_pos @ h_neg.T)) @ weight).sum()


def _states(values: Any, name: str) -> Tensor:
    """(N, d) constants, float32 at least."""
    found = as_tensor(values, name).detach()
    if found.dim() != 2:
        raise BadInput(f"{name} must be (tokens, width), not {tuple(found.shape)}")
    return found if found.dtype == torch.float64 else found.float()
