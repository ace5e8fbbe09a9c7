"""Which of two answers is better? DPO and its token-weighted, regularised and unpaired kin.

Arguments come in the order chosen, its reference, rejected, its reference. `cdpo_loss` is the
critical-token method; conservative DPO, also called cDPO elsewhere, is
`dpo_loss(label_smoothing=...)`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nll._errors import BadInput
from nll.objectives._common import (
    Reduction,
    Rows,
    Values,
    as_mask,
    as_tokens,
    log_ratios,
    masked_mean,
    positive,
    reduce,
    same_rows,
    same_tokens,
)
from nll.objectives._declare import objective


@objective(
    descent="chosen above rejected, relative to the reference",
    unit="nats",
    paper="2305.18290",
    range=(0, math.inf),
)
def dpo_loss(
    logp_c: Values,
    ref_c: Values,
    logp_r: Values,
    ref_r: Values,
    *,
    mask_c: Any = None,
    mask_r: Any = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Direct preference optimisation: `-log sigmoid(beta (r_chosen - r_rejected))`; minimised.

    r = logp - ref, nats, summed over the answer's tokens: (B,) sums, (B, T) with masks, or lists of
    1-D tensors. References get no gradient. At policy = reference the loss is log 2.
    label_smoothing: chance that a pair is the wrong way round (conservative DPO).   scale: factor
    of the loss; 1 as TRL has it, 2/beta in unlearning code (chosen = refusal, rejected = forget
    answer), 1/beta in its paper; the gradient of a row is then scale * beta * sigmoid(-margin).
    An empty answer has r = 0; pairs with two empty ones are left out; all-masked: 0, gradient 0.
    Raises BadInput unless beta > 0 and 0 <= label_smoothing < 0.5.
    References: Rafailov et al. 2023, arXiv 2305.18290; unlearning: arXiv 2404.05868.
    """
    positive(beta, "beta")
    if not 0 <= label_smoothing < 0.5:
        raise BadInput(f"label_smoothing must be in [0, 0.5), not {label_smoothing}")
    chosen = log_ratios(logp_c, ref_c, mask_c, "logp_c", "ref_c")
    rejected = log_ratios(logp_r, ref_r, mask_r, "logp_r", "ref_r")
    margin, keep = _margin(chosen, rejected)
    losses = -logsigmoid(beta * margin)
    if label_smoothing:
        turned = -logsigmoid(-beta * margin)
        losses = (1 - label_smoothing) * losses + label_smoothing * turned
    return reduce(scale * losses, keep, reduction)


def _margin(chosen: Rows, rejected: Rows) -> tuple[Tensor, Tensor]:
    same_rows(logp_c=chosen.values, logp_r=rejected.values)
    return chosen.values - rejected.values, chosen.keep | rejected.keep


@objective(
    descent="chosen above rejected, and chosen more likely",
    unit="nats",
    paper="2404.19733",
    range=(0, math.inf),
)
def rpo_loss(
    logp_c: Values,
    ref_c: Values,
    logp_r: Values,
    ref_r: Values,
    *,
    mask_c: Any = None,
    mask_r: Any = None,
    beta: float = 0.1,
    alpha: float = 1.0,
    token_reduction: Literal["sequence", "token"] = "sequence",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """DPO plus `alpha` times the mean-token nll of the chosen answer; nats, minimised.

    logp_c: (B, T) with mask_c, or a list of 1-D tensors; the rest as in `dpo_loss`.
    token_reduction: `sequence` (the paper: mean over each answer's tokens) or `token` (TRL: one
    mean over the chosen tokens of the batch, the same for every pair).
    All-masked: 0, gradient 0. References: Pang et al. 2024, arXiv 2404.19733, eq. 2.
    """
    tokens = as_tokens(logp_c, mask_c, "logp_c")
    chosen = log_ratios(logp_c, ref_c, mask_c, "logp_c", "ref_c")
    rejected = log_ratios(logp_r, ref_r, mask_r, "logp_r", "ref_r")
    margin, keep = _margin(chosen, rejected)
    positive(beta, "beta")
    match token_reduction:
        case "sequence":
            nll = -masked_mean(tokens.values, tokens.mask, -1)
        case "token":
            nll = -masked_mean(tokens.values, tokens.mask)
        case _:
            raise BadInput(f"token_reduction must be sequence or token, not {token_reduction!r}")
    return reduce(-logsigmoid(beta * margin) + alpha * nll, keep, reduction)


@objective(
    descent="chosen above rejected, whose critical tokens weigh most",
    unit="nats",
    paper="2411.19943",
    range=(0, math.inf),
)
def cdpo_loss(
    logp_c: Values,
    ref_c: Values,
    logp_r: Values,
    ref_r: Values,
    scores_r: Values,
    *,
    mask_c: Any = None,
    mask_r: Any = None,
    gamma: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Critical-token DPO: `-log sigmoid(gamma (sum_c r_t - sum_r (1 - s_t) r_t))`; minimised.

    r_t = logp_t - ref_t, nats.   logp_r, ref_r, scores_r: (B, T) with mask_r, or lists of 1-D
    tensors; logp_c, ref_c: the same with mask_c, or (B,) sums.   scores_r: s_t in [0, 1] of
    `contrastive_estimation`, low = critical, a constant. References get no gradient.
    s = 0 is DPO with beta = gamma; s = 1 removes the rejected side. gamma: 1 in the paper, 0.1 in
    its code, whose released trainer also pairs tokens by position, which this does not.
    An empty answer counts as 0; all-masked: 0, gradient 0.
    References: Lin et al. 2024, arXiv 2411.19943. Conservative DPO is another method: `dpo_loss`.
    """
    positive(gamma, "gamma")
    chosen = log_ratios(logp_c, ref_c, mask_c, "logp_c", "ref_c")
    own = as_tokens(logp_r, mask_r, "logp_r")
    ref, scores = as_tokens(ref_r, mask_r, "ref_r"), as_tokens(scores_r, mask_r, "scores_r")
    same_tokens("logp_r", own, ref_r=ref, scores_r=scores)
    weight, base = 1 - scores.values.detach(), ref.values.detach().to(own.values)
    never = (own.values == -math.inf) & (base == -math.inf)
    ratio = torch.where(never, -math.inf, own.values - base)
    # s = 1 removes a token, also one that has become impossible
    weighted = torch.where(weight != 0, weight * ratio, 0.0)
    margin, keep = _margin(chosen, Rows(weighted.sum(-1), own.mask.any(-1)))
    return reduce(-logsigmoid(gamma * margin), keep, reduction)


@objective(
    descent="forget answers less likely than refusals have become",
    unit="nats",
    paper="2404.05868",
    range=(0, math.inf),
)
def kto_loss(
    seq_logp: Values,
    ref_seq_logp: Values,
    *,
    z: float | Tensor = 0.0,
    beta: float = 0.1,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """KTO for unlearning: `-(2/beta) log sigmoid(z - beta r)`; nats, minimised.

    r = seq_logp - ref_seq_logp of the forget answers: (B,) sums, (B, T) with mask, or lists of 1-D
    tensors.   z: a constant, see `kto_baseline`; 0 makes it NPO. The reference gets no gradient.
    All-masked: 0, gradient 0. Raises BadInput unless beta > 0.
    References: arXiv 2404.05868, appendix; the full method: arXiv 2402.01306, `kto_unpaired_loss`.
    """
    positive(beta, "beta")
    ratio = log_ratios(seq_logp, ref_seq_logp, mask)
    return reduce(
        -(2 / beta) * logsigmoid(_constant(z) - beta * ratio.values), ratio.keep, reduction
    )


def kto_baseline(
    seq_logp: Values, ref_seq_logp: Values, *, beta: float = 0.1, mask: Any = None
) -> Tensor:
    """KTO's reference point z: the mean of `beta r` over other answers (refusals); no gradient."""
    ratio = log_ratios(seq_logp, ref_seq_logp, mask)
    return beta * masked_mean(ratio.values, ratio.keep).detach()


@objective(
    descent="good answers more likely, bad ones less, relative to the reference",
    unit="1",
    paper="2402.01306",
    range=(0, math.inf),
)
def kto_unpaired_loss(
    seq_logp: Values,
    ref_seq_logp: Values,
    label: Any,
    *,
    z: float | Tensor = 0.0,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """KTO on single judged answers: `w (1 - sigmoid(+-(beta r - z)))`; dimensionless, minimised.

    r = seq_logp - ref_seq_logp, nats: (B,) sums, (B, T) with mask, or lists of 1-D tensors.
    label: (B,), true for a good answer (sign +), false for a bad one (sign -).   z: a constant,
    beta times an estimate of the KL divergence to the reference (`kto_baseline` on mismatched
    pairs, 0 or more).   All-masked: 0, gradient 0. Raises BadInput unless beta > 0.
    References: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8.
    """
    positive(beta, "beta")
    ratio = log_ratios(seq_logp, ref_seq_logp, mask)
    good = as_mask(label, ratio.values, "label")
    gain = beta * ratio.values - _constant(z)
    losses = torch.where(
        good,
        desirable_weight * torch.sigmoid(-gain),
        undesirable_weight * torch.sigmoid(gain),
    )
    return reduce(losses, ratio.keep, reduction)


def _constant(z: float | Tensor) -> float | Tensor:
    return z.detach() if isinstance(z, Tensor) else z
