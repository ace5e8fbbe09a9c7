"""Which given answers to imitate, and how much? Rewards, advantages and importance weights.

The whole answer is one action: its nll, summed over tokens, times a constant weight made of its
reward R, the value V of its prompt, and the ratio rho = pi / pi_ref of the policies.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import (
    Reduction,
    Values,
    as_tensor,
    as_tokens,
    is_ragged,
    masked_sum,
    positive,
    reduce,
    same_rows,
    same_tokens,
    sequence_sums,
)
from nll.objectives._declare import objective

PAPER = "2305.14718"
Variant: TypeAlias = Literal["a_lol", "ref_free", "seq", "kl"]
VARIANTS = ("a_lol", "ref_free", "seq", "kl")


class _Answers(NamedTuple):
    """Token log-probs (B, T), their reference, the constant (B,) weight, and the rows kept."""

    logp: Tensor
    mask: Tensor
    ref: Tensor
    weight: Tensor
    keep: Tensor


@objective(
    descent="answers more likely in proportion to their reward",
    unit="nats",
    paper=PAPER,
    range=(-math.inf, math.inf),
)
def weighted_bc_loss(
    logp: Values, reward: Values, *, mask: Any = None, reduction: Reduction = "mean"
) -> Tensor:
    """Weighted behaviour cloning: `R * NLL`, NLL summed over the answer; nats, minimised.

    logp: (B, T) with mask (B, T), a list of 1-D tensors, or (B,) sums.   reward: (B,), a constant;
    rows whose reward is nan are left out with a warning. An empty answer adds 0.
    References: Baheti et al. 2023, arXiv 2305.14718.
    """
    rows = sequence_sums(logp, mask, "logp")
    weight, keep = _constant(reward, rows.values, "reward")
    if not is_ragged(logp) and as_tensor(logp, "logp").dim() == 1:
        keep = keep & rows.keep
    return reduce(_times(weight, -rows.values), keep, reduction)


@objective(
    descent="answers more likely by reward, their likely tokens first",
    unit="nats",
    paper=PAPER,
    range=(-math.inf, math.inf),
)
def reward_gold_loss(
    logp: Values,
    reward: Values,
    *,
    floor: float = 0.1,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """R-GOLD: `R * sum_t max(p_t, floor) nll_t`, with p_t and R constants; nats, minimised.

    logp: (B, T) with mask (B, T), or a list of 1-D tensors.   reward: (B,), as in
    `weighted_bc_loss`.   floor: the least weight of a token, in [0, 1] (0.1 to 0.2 published).
    References: arXiv 2305.14718, section 3 (GOLD: arXiv 2009.07839).
    """
    if not 0 <= floor <= 1:
        raise BadInput(f"floor is a probability, from 0 to 1, not {floor}")
    tokens = as_tokens(logp, mask)
    weight, keep = _constant(reward, tokens.values, "reward")
    share = tokens.values.detach().exp().clamp(min=floor)
    nll = -masked_sum(share * tokens.values, tokens.mask, -1)
    return reduce(_times(weight, nll), keep, reduction)


@objective(
    descent="answers more likely by reward, off-policy steps bounded",
    unit="nats",
    paper=PAPER,
    range=(-math.inf, math.inf),
)
def r_lol_loss(
    logp: Values,
    ref_logp: Values,
    reward: Values,
    *,
    mask: Any = None,
    clip: float | None = 0.9,
    reduction: Reduction = "mean",
) -> Tensor:
    """R-LoL: `R * clip(rho, 1 - clip, 1 + clip) * NLL`, R and rho constants; nats, minimised.

    As `a_lol_loss`, with the reward in the place of the advantage.
    References: arXiv 2305.14718.
    """
    answers = _answers(logp, ref_logp, mask, reward)
    return reduce(_times(answers.weight, _clipped_nll(answers, clip)), answers.keep, reduction)


@objective(
    descent="answers better than the reference's more likely",
    unit="nats",
    paper=PAPER,
    range=(-math.inf, math.inf),
)
def a_lol_loss(
    logp: Values,
    ref_logp: Values,
    reward: Values,
    value: Values,
    *,
    mask: Any = None,
    variant: Variant = "a_lol",
    clip: float | None = 0.9,
    kl_beta: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Advantage-leftover-lunch RL: nll weighted by A = max(R - V, 0); nats, minimised.

    logp, ref_logp: (B, T) with mask (B, T), or lists of 1-D tensors; the reference, reward (B,),
    value (B,), A and rho carry no gradient. NLL is the sum over the answer.
    variant: `a_lol` A clip(rho) NLL with rho = pi / pi_ref of the answer; `ref_free` A NLL (rho
    taken as 1); `seq` A sum_t clip(rho_t) nll_t; `kl` A NLL + kl_beta (NLL_ref - NLL), which
    pushes an answer down where A < kl_beta and uses no clip.
    clip: rho is kept in [1 - clip, 1 + clip]; None leaves it.
    Rows with A = 0 add nothing (but for `kl`); those with a nan reward or value are left out with a
    warning; an empty answer adds 0. Raises BadInput for an unknown variant, or kl_beta with another
    variant than `kl`. References: Baheti et al. 2023, arXiv 2305.14718.
    """
    if variant not in VARIANTS:
        raise BadInput(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    if kl_beta and variant != "kl":
        raise BadInput(f"kl_beta goes with variant='kl', not {variant!r}")
    answers = _answers(logp, ref_logp, mask, advantage(reward, value), "reward or value")
    nll = -answers.logp.sum(-1)
    match variant:
        case "a_lol":
            loss = _times(answers.weight, _clipped_nll(answers, clip))
        case "ref_free":
            loss = _times(answers.weight, nll)
        case "seq":
            ratio = _ratio(answers.logp - answers.ref, clip)
            nll = -masked_sum(ratio * answers.logp, answers.mask, -1)
            loss = _times(answers.weight, nll)
        case "kl":
            # One factor of the nll, since an impossible answer would give inf - inf.
            loss = _times(answers.weight - kl_beta, nll) - kl_beta * answers.ref.sum(-1)
    return reduce(loss, answers.keep, reduction)


def importance_ratio(
    logp: Values,
    ref_logp: Values,
    *,
    mask: Any = None,
    clip: float | None = None,
    level: Literal["sequence", "token"] = "sequence",
) -> Tensor:
    """pi / pi_ref of answers (B,) or of their tokens (B, T), in [1 - clip, 1 + clip]; constant.

    The log ratio is clipped before exp, so that nothing overflows; a clip of 1 or more leaves the
    low side free. Masked tokens get 1. Arguments as in `a_lol_loss`.
    """
    tokens = as_tokens(logp, mask)
    ref = as_tokens(ref_logp, mask, "ref_logp")
    same_tokens("logp", tokens, ref_logp=ref)
    difference = tokens.values - ref.values.to(tokens.values)
    if level == "token":
        return _ratio(difference, clip)
    if level != "sequence":
        raise BadInput(f"level must be sequence or token, not {level!r}")
    return _ratio(difference.sum(-1), clip)


def advantage(reward: Values, value: Values) -> Tensor:
    """(B,) A = max(R - V, 0): how much better than the reference policy does on that prompt.

    reward: (B,) of the answers.   value: (B,), expected of the reference's own answers, on the
    same scale. nan where either is nan. Constant. References: arXiv 2305.14718, section 3.
    """
    gained = as_tensor(reward, "reward").detach()
    expected = as_tensor(value, "value").detach()
    same_rows(reward=gained, value=expected)
    return (gained - expected).clamp(min=0)


def advantage_priority_weights(advantage: Values) -> Tensor:
    """(N,) probabilities, A+ / sum A+, by which rows are drawn for training.

    Rows without a positive advantage are never drawn. Raises BadInput when no row has one, or one
    is nan. References: arXiv 2305.14718, section 3.
    """
    gain = as_tensor(advantage, "advantage").detach()
    if gain.isnan().any():
        raise BadInput("an advantage is nan; leave out rows without a reward or a value")
    kept = gain.clamp(min=0)
    if not kept.sum() > 0:
        raise BadInput(
            "no row has a positive advantage, so there is nothing to train on: every reward is at "
            "or below the value of its prompt"
        )
    return kept / kept.sum()


def _answers(
    logp: Values, ref_logp: Values, mask: Any, weight: Values, name: str = "reward"
) -> _Answers:
    if not is_ragged(logp) and as_tensor(logp, "logp").dim() == 1:
        raise BadInput("logp must hold tokens, (B, T) or a list of 1-D sequences, not sums")
    tokens = as_tokens(logp, mask)
    ref = as_tokens(ref_logp, mask, "ref_logp")
    same_tokens("logp", tokens, ref_logp=ref)
    factor, keep = _constant(weight, tokens.values, name)
    base = ref.values.detach().to(tokens.values)
    return _Answers(tokens.values, tokens.mask, base, factor, keep)


def _constant(weight: Values, like: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(B,) weights without gradient, 0 where nan, and which rows are kept."""
    found = as_tensor(weight, name).detach().to(like)
    if found.dim() != 1:
        raise BadInput(f"{name} must be (sequences,), not {tuple(found.shape)}")
    same_rows(logp=like, **{name: found})
    keep = ~found.isnan()
    if not keep.all():
        warnings.warn(
            f"{int((~keep).sum())} of {len(keep)} rows have no {name} (nan) and are left out",
            stacklevel=3,
        )
    return torch.where(keep, found, 0.0), keep


def _ratio(difference: Tensor, clip: float | None) -> Tensor:
    difference = difference.detach()
    if clip is not None:
        positive(clip, "clip", zero=True)
        lowest = math.log1p(-clip) if clip < 1 else -math.inf
        difference = difference.clamp(lowest, math.log1p(clip))
    return difference.exp()


def _times(weight: Tensor, nll: Tensor) -> Tensor:
    """Their product, 0 where the weight is 0 even if the nll is inf."""
    return torch.where(weight != 0, weight * torch.where(weight != 0, nll, 0.0), 0.0)


def _clipped_nll(answers: _Answers, clip: float | None) -> Tensor:
    rho = _ratio((answers.logp - answers.ref).sum(-1), clip)
    return -rho * answers.logp.sum(-1)
