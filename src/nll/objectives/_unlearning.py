"""Which loss makes a model forget a text? Gradient ascent and its bounded replacements.

A trainer minimises `gamma * forget + alpha * retain`: the forget term is one of these, the retain
term `retain_nll` (RT) or `retain_kl` (KL). GA+RT is `grad_diff_loss`; GA+KL, NPO+RT and NPO+KL are
the sums of their terms. DPO and KTO with refusals as chosen answers are in the preference family.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nll._errors import BadInput
from nll.objectives._common import (
    Reduction,
    TokenReduction,
    Values,
    as_tensor,
    as_tokens,
    is_ragged,
    log_ratios,
    positive,
    reduce,
    reduce_tokens,
    sequence_sums,
)
from nll.objectives._declare import objective
from nll.objectives._likelihood import nll_loss


@objective(
    descent="forget answers less likely, without bound",
    unit="nats",
    paper="2404.05868",
    range=(-math.inf, 0),
)
def ga_loss(
    logp: Values,
    mask: Any = None,
    *,
    token_reduction: TokenReduction = "token",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """Gradient ascent on the nll: the mean `logp` of the forget answers; nats, minimised.

    logp: (B, T) with mask (B, T), or a list of 1-D tensors.   token_reduction: `token` (public
    code: mean over all valid tokens of the batch), `sequence`, or `sum` (the paper's theory: sum
    over each sequence, then the mean; what NPO tends to as its beta goes to 0).
    Unbounded below: it collapses a model that is not stopped. All-masked: 0, gradient 0.
    References: Zhang et al. 2024, arXiv 2404.05868, section 2.
    """
    return reduce_tokens(as_tokens(logp, mask), token_reduction, reduction)


@objective(
    descent="forget answers less likely than under the reference",
    unit="nats",
    paper="2404.05868",
    range=(0, math.inf),
)
def npo_loss(
    seq_logp: Values,
    ref_seq_logp: Values,
    *,
    beta: float = 0.1,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative preference optimisation: `-(2/beta) log sigmoid(-beta r)`; nats, minimised.

    r = seq_logp - ref_seq_logp of the forget answers, each (B,) sums over the answer's tokens, or
    (B, T) with mask (B, T), or lists of 1-D tensors. The reference gets no gradient.
    d loss / d seq_logp = `npo_weight` / B: 1 at r = 0, 0 for what is forgotten, 2 at most; for
    beta -> 0 it is that of `ga_loss(token_reduction="sum")`. Never negative; seq_logp = -inf gives
    0 with gradient 0. Rows without a valid token are left out; all-masked: 0, gradient 0.
    Raises BadInput unless beta > 0. References: arXiv 2404.05868, eq. 3.

    >>> s, ref = torch.tensor([-4.0, -12.5, -0.75]), torch.tensor([-5.0, -3.0, -0.75])
    >>> round(npo_loss(s, ref, beta=1).item(), 5)
    1.33766
    """
    _npo_beta(beta)
    ratio = log_ratios(seq_logp, ref_seq_logp, mask)
    return reduce(-(2 / beta) * logsigmoid(-beta * ratio.values), ratio.keep, reduction)


def npo_weight(
    seq_logp: Values, ref_seq_logp: Values, *, beta: float = 0.1, mask: Any = None
) -> Tensor:
    """(B,) factor of NPO's gradient beside gradient ascent's: `2 sigmoid(beta r)`, in [0, 2].

    2 p^beta / (p^beta + p_ref^beta); arguments as in `npo_loss`. No gradient; 0 for left-out rows.
    """
    _npo_beta(beta)
    ratio = log_ratios(seq_logp, ref_seq_logp, mask)
    return torch.where(ratio.keep, 2 * torch.sigmoid(beta * ratio.values), 0.0).detach()


def _npo_beta(beta: float) -> None:
    if beta == 0:
        raise BadInput(
            "beta = 0 makes NPO infinite; its gradient's limit is that of "
            'ga_loss(token_reduction="sum")'
        )
    positive(beta, "beta")


@objective(
    descent="forget answers less likely per token, down to a margin",
    unit="nats",
    paper="2410.07163",
    range=(0, math.inf),
)
def simnpo_loss(
    seq_logp: Values,
    length: Any = None,
    *,
    beta: float = 4.5,
    gamma: float = 0.0,
    mask: Any = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """SimNPO, no reference: `-(2/beta) log sigmoid(-(beta/|y|) s - gamma)`; nats, minimised.

    seq_logp: (B,) sums s with length (B,) the |y| tokens summed; or (B, T) with mask (B, T), or a
    list of 1-D tensors, whose lengths are counted. d loss / d s = (2/|y|) sigmoid(beta s/|y| +
    gamma) / B. Published settings: beta 2.5 or 4.5. Both public codes write the margin inside:
    gamma here is beta times theirs.
    Rows of length 0 are left out; all-masked: 0, gradient 0.
    Raises BadInput when beta is not positive, or sums come without lengths.
    References: Fan et al. 2024, arXiv 2410.07163.
    """
    positive(beta, "beta")
    rows = sequence_sums(seq_logp, mask)
    if length is None:
        if not is_ragged(seq_logp) and as_tensor(seq_logp, "seq_logp").dim() == 1:
            raise BadInput("simnpo_loss needs length (B,) beside sums; or give tokens and a mask")
        counted: Tensor = as_tokens(seq_logp, mask).length
    else:
        counted = torch.as_tensor(length, device=rows.values.device)
        if counted.shape != rows.values.shape:
            raise BadInput(
                f"length has shape {tuple(counted.shape)}, seq_logp {tuple(rows.values.shape)}"
            )
    keep = rows.keep & (counted > 0)
    mean = torch.where(keep, rows.values, 0.0) / torch.where(keep, counted, 1).to(rows.values)
    return reduce(-(2 / beta) * logsigmoid(-beta * mean - gamma), keep, reduction)


@objective(
    descent="forget tokens less likely, the likely ones first",
    unit="nats",
    paper="2502.19301",
    range=(-math.inf, 0),
)
def wga_loss(
    logp: Values, mask: Any = None, *, beta: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Weighted gradient ascent: the mean of `p^beta logp` over all tokens; nats, minimised.

    The weight p^beta is a constant. logp: (B, T) with mask (B, T), or a list of 1-D tensors.
    beta = 0 is `ga_loss`; a token of p = 0 adds 0 unless beta = 0. All-masked: 0, gradient 0.
    Raises BadInput when beta is negative. References: arXiv 2502.19301 (G-effect).
    """
    positive(beta, "beta", zero=True)
    tokens = as_tokens(logp, mask)
    weight = torch.exp(beta * tokens.values.detach()) if beta else torch.ones_like(tokens.values)
    weighted = torch.where(weight > 0, weight * tokens.values, 0.0)
    return reduce(weighted, tokens.mask, reduction)


@objective(
    descent="forget answers less likely, retain answers more likely",
    unit="nats",
    paper="2404.05868",
    range=(-math.inf, math.inf),
)
def grad_diff_loss(
    forget_logp: Values,
    retain_logp: Values,
    *,
    forget_mask: Any = None,
    retain_mask: Any = None,
    gamma: float = 1.0,
    alpha: float = 1.0,
    token_reduction: TokenReduction = "token",  # noqa: S107
) -> Tensor:
    """Gradient difference (GA+RT): `gamma * ga_loss + alpha * retain_nll`; nats, minimised.

    forget_logp, retain_logp: (B, T) with masks, or lists of 1-D tensors; the two batches may differ
    in size. token_reduction as in `ga_loss`, for both. A side without valid tokens adds 0.
    References: arXiv 2404.05868, section 2.
    """
    forget = ga_loss(forget_logp, forget_mask, token_reduction=token_reduction)
    retain = retain_nll(retain_logp, retain_mask, token_reduction=token_reduction)
    return gamma * forget + alpha * retain


@objective(
    descent="retain answers more likely",
    unit="nats",
    paper="2404.05868",
    range=(0, math.inf),
)
def retain_nll(
    logp: Values,
    mask: Any = None,
    *,
    token_reduction: TokenReduction = "token",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """The RT term: mean nll of the retain answers; nats, minimised.

    As `nll_loss`. A batch without retain rows gives 0 with gradient 0.
    """
    return nll_loss(logp, mask, token_reduction=token_reduction, reduction=reduction)


@objective(
    descent="refusals and retain answers more likely",
    unit="nats",
    paper="2401.06121",
    range=(0, math.inf),
)
def idk_loss(
    idk_logp: Values,
    retain_logp: Values | None = None,
    *,
    idk_mask: Any = None,
    retain_mask: Any = None,
    gamma: float = 1.0,
    alpha: float = 1.0,
    joint: bool = False,
) -> Tensor:
    """Learn to answer `I don't know`: `gamma * nll(idk) + alpha * nll(retain)`; nats, minimised.

    idk_logp: tokens of refusals after the forget questions; retain_logp: tokens of retain answers;
    (B, T) with masks, or lists of 1-D tensors. Each nll is a mean over the tokens of its batch.
    joint: one mean over the tokens of both, as public code has it (gamma and alpha then weigh
    tokens). A side without valid tokens adds 0. References: arXiv 2401.06121 (TOFU).
    """
    retained: Values = [] if retain_logp is None else retain_logp
    idk, retain = as_tokens(idk_logp, idk_mask), as_tokens(retained, retain_mask)
    if not joint:
        first, second = (reduce(-t.values, t.mask) for t in (idk, retain))
    else:
        count = (idk.mask.sum() + retain.mask.sum()).clamp(min=1)
        first, second = (reduce(-t.values, t.mask, "sum") / count for t in (idk, retain))
    return gamma * first + alpha * second.to(first)


@objective(
    descent="false answers more likely in place of the true ones",
    unit="nats",
    paper="2409.11844",
    range=(0, math.inf),
)
def meow_loss(
    logp: Values,
    mask: Any = None,
    *,
    token_reduction: TokenReduction = "token",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """MEOW: mean nll of selected inverted facts after the forget questions; nats, minimised.

    logp: tokens of the false answers, (B, T) with mask, or a list of 1-D tensors; the prompt is
    masked. Variants of the released code: `0.9 * meow_loss + 0.1 * retain_nll`, and
    `meow_loss + retain_kl` on the same rows. A model tuned so states falsehoods: say so.
    All-masked: 0, gradient 0. References: arXiv 2409.11844.
    """
    return nll_loss(logp, mask, token_reduction=token_reduction, reduction=reduction)
