"""Several answers to one prompt, some right: advantages within the group, and the clipped loss."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import (
    Reduction,
    TokenReduction,
    Tokens,
    Values,
    as_tensor,
    as_tokens,
    is_ragged,
    positive,
    reduce_tokens,
    same_rows,
    same_tokens,
)
from nll.objectives._declare import objective


def grpo_advantages(reward: Values, group: Any = None, *, eps: float = 1e-6) -> Tensor:
    """(B,) advantages (r - mean) / (std + eps) within each group; constants.

    reward: (B,).   group: (B,) ids of the prompts, of any sizes; None for one group. std divides by
    G - 1; a group of one keeps its reward (mean 0, std 1). A nan reward (not scorable) gets 0 and
    does not count in its group. Equal rewards give exactly 0.
    References: arXiv 2402.03300, as verl computes it.
    """
    gained = as_tensor(reward, "reward").detach()
    if gained.dim() != 1:
        raise BadInput(f"reward must be (sequences,), not {tuple(gained.shape)}")
    ids = _ids(group, gained)
    out = torch.zeros_like(gained)
    for name in torch.unique(ids):
        here = (ids == name) & ~gained.isnan()
        r = gained[here]
        if len(r) == 1:
            out[here] = r / (1 + eps)
        # Of equal rewards the mean is rounded, and in float32 that is no small part of eps.
        elif len(r) and r.min() < r.max():
            out[here] = (r - r.mean()) / (r.std() + eps)
    return out


def nsr_advantages(
    reward: Values,
    *,
    mode: Literal["psr", "nsr", "w_reinforce"] = "nsr",
    positive_weight: float = 0.1,
) -> Tensor:
    """(B,) advantages of verified answers, not normalised; constants.

    reward: (B,), above 0 for a right answer.   mode: `psr` 1 for right answers and 0 for wrong
    ones; `nsr` 0 and -1; `w_reinforce` positive_weight and -1. A nan reward (not scorable) gets 0.
    With `psr` and `nsr` rows of advantage 0 are no part of the mean: leave them out of the mask.
    Raises BadInput for another mode. References: arXiv 2506.01347.
    """
    gained = as_tensor(reward, "reward").detach()
    values = {"psr": (1.0, 0.0), "nsr": (0.0, -1.0), "w_reinforce": (positive_weight, -1.0)}
    if mode not in values:
        raise BadInput(f"mode must be one of {', '.join(values)}, not {mode!r}")
    right, wrong = values[mode]
    out = torch.where(gained > 0, gained.new_tensor(right), gained.new_tensor(wrong))
    return torch.where(gained.isnan(), 0.0, out)


def length_scaled_reward(
    reward: Values, length: Any, *, start: int = 3500, end: int = 4096, floor: float = 0.7
) -> Tensor:
    """(B,) rewards, the positive ones times a factor that falls with the answer's length.

    The factor is 1 up to `start` tokens, falls linearly to `floor` at `end`, and stays there.
    References: arXiv 2605.00380.
    """
    if not start < end:
        raise BadInput(f"start must be below end, not {start} and {end}")
    gained = as_tensor(reward, "reward").detach()
    tokens = torch.as_tensor(length, device=gained.device).to(gained)
    share = ((tokens - start) / (end - start)).clamp(0, 1)
    return torch.where(gained > 0, gained * (1 - (1 - floor) * share), gained)


@objective(
    descent="tokens of advantage above 0 more likely, of below 0 less likely",
    unit="1",
    paper="1707.06347",
    range=(-math.inf, math.inf),
)
def clipped_policy_loss(
    logp: Values,
    old_logp: Values,
    adv: Values,
    mask: Any = None,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    token_reduction: TokenReduction = "sequence",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """PPO's clipped surrogate `max(-A r, -A clip(r, 1 - clip, 1 + clip_high))`; minimised.

    logp, old_logp: (B, T) with mask (B, T), lists of 1-D tensors, or (B,) for one action each;
    r = exp(logp - old_logp).   adv: (B,) or (B, T), constants as old_logp is.
    clip_high: of the upper side, `clip` unless given.   dual_clip: c > 1; where A < 0 a term is at
    most c |A|.   token_reduction: `sequence` (mean over each answer's tokens, then over answers),
    `token` (mean over all tokens, verl's default) or `sum`.
    All-masked: 0, gradient 0. Raises BadInput when shapes disagree or c is not above 1.
    References: arXiv 1707.06347; dual clip: arXiv 1912.09729.
    """
    if dual_clip is not None and not dual_clip > 1:
        raise BadInput(f"dual_clip must be above 1, not {dual_clip}")
    positive(clip, "clip", zero=True)
    high = clip if clip_high is None else clip_high
    positive(high, "clip_high", zero=True)
    flat = not is_ragged(logp) and as_tensor(logp, "logp").dim() == 1
    if flat:
        logp, old_logp, adv = (
            as_tensor(v, n)[:, None]
            for v, n in ((logp, "logp"), (old_logp, "old_logp"), (adv, "adv"))
        )
        mask = None if mask is None else torch.as_tensor(mask)[:, None]
    tokens = as_tokens(logp, mask)
    before = as_tokens(old_logp, mask, "old_logp")
    same_tokens("logp", tokens, old_logp=before)
    old = before.values.detach().to(tokens.values)
    weight = _spread(adv, tokens, mask)
    # The log ratio is clipped: a ratio that overflows has a gradient of 0 * inf once it is cut off.
    log_ratio = tokens.values - old
    lowest = math.log1p(-clip) if clip < 1 else -math.inf
    above = log_ratio.clamp(max=math.log1p(high))
    below = log_ratio.clamp(min=lowest)
    if dual_clip is not None:
        below = below.clamp(max=math.log(dual_clip))
    # Ratios of tokens without an advantage are left out before exp, where inf * 0 would be nan.
    held = torch.where(weight > 0, above, torch.where(weight < 0, below, 0.0))
    terms = torch.where(tokens.mask, -weight * held.exp(), 0.0)
    loss = reduce_tokens(Tokens(terms, tokens.mask), token_reduction, reduction)
    return loss[:, 0] if flat and loss.dim() == 2 else loss


def _spread(adv: Values, tokens: Tokens, mask: Any) -> Tensor:
    """(B, T) advantages, 0 where masked, of (B,) or (B, T)."""
    if is_ragged(adv):
        found = as_tokens(adv, mask, "adv").values
    else:
        found = as_tensor(adv, "adv")
        found = found[:, None].expand_as(tokens.values) if found.dim() == 1 else found
    found = found.detach().to(tokens.values)
    if found.shape != tokens.values.shape:
        raise BadInput(f"adv has shape {tuple(found.shape)}, logp {tuple(tokens.values.shape)}")
    return torch.where(tokens.mask, found, 0.0)


def _ids(group: Any, like: Tensor) -> Tensor:
    if group is None:
        return torch.zeros(len(like), dtype=torch.long, device=like.device)
    ids = torch.as_tensor(group, device=like.device)
    same_rows(reward=like, group=ids)
    return ids
